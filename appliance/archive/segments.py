"""A segment: records as they came, in compressed blocks, appended to until it is full.

A file begins with MAGIC. A block is a head (its mark, length packed, length unpacked, records, CRC
of the packed bytes; big-endian) and a zlib stream (RFC 1950, level 1) of MessagePack: the streams
that the records come from, then the records. What is good of a segment is what the store recorded;
the bytes behind that are a batch that was never stored.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from appliance.errors import ArchiveError
from appliance.schema import Cursor, RawRecord

MAGIC: Final = b"ARCHIVE1"
_HEAD: Final = struct.Struct(">4sIIII")
_MARK: Final = b"BLK1"
#: Bytes of records in one block, about: what a reader holds unpacked.
BLOCK_BYTES: Final = 1 << 20
#: Largest block that is read, unpacked: one record may be as long as the record cap.
MAX_BLOCK_BYTES: Final = 1 << 30
LEVEL: Final = 1

#: source, path, logical, the cursor's key, format, header; names as bytes (see `pack_name`).
Stream = tuple[bytes, bytes, bytes, bytes, str, bytes]
#: The stream's place, position, next, received, truncated, data.
Row = tuple[int, int, int, float, int, bytes]


class Block(msgspec.Struct, array_like=True):
    """What one block holds."""

    streams: list[Stream]
    rows: list[Row]


_decoder: Final = msgspec.msgpack.Decoder(Block)
_encoder: Final = msgspec.msgpack.Encoder()


def pack_name(text: str) -> bytes:
    """A name as bytes: a file's may be no UTF-8, and is kept all the same."""
    return text.encode("utf-8", "surrogatepass")


def unpack_name(raw: bytes) -> str:
    """The name again. Raises ArchiveError for bytes that `pack_name` never wrote."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeError as error:
        raise ArchiveError(f"a name in the archive can't be read: {error}") from error


class BlockBuilder:
    """Gathers records until they are packed."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, str, str, str, bytes], int] = {}
        self._rows: list[Row] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, record: RawRecord) -> None:
        """Take a record in."""
        cursor = record.cursor
        stream = (
            record.source, record.path, record.logical, cursor.key, record.format, record.header,
        )  # fmt: skip
        place = self._places.get(stream)
        if place is None:
            place = self._places[stream] = len(self._places)
        data = record.data
        self._rows.append(
            (place, cursor.position, cursor.next, record.received, record.truncated, data)
        )
        self.bytes += len(data)

    def pack(self) -> bytes:
        """The block, head and all; the builder is empty again."""
        streams = [
            (pack_name(source), pack_name(path), pack_name(logical), pack_name(key), form, header)
            for source, path, logical, key, form, header in self._places
        ]
        body = _encoder.encode(Block(streams, self._rows))
        packed = zlib.compress(body, LEVEL)
        head = _HEAD.pack(_MARK, len(packed), len(body), len(self._rows), zlib.crc32(packed))
        self._places, self._rows, self.bytes = {}, [], 0
        return head + packed


def read_segment(path: Path, length: int | None = None) -> Iterator[RawRecord]:
    """The records of a segment's first `length` bytes (None: of all blocks that are whole), in
    order. Raises FileNotFoundError, ArchiveError for anything else that keeps it from being
    read."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                if length is None:
                    return
                raise ArchiveError(f"{path}: is no segment")
            while (block := _read_block(file, path, length)) is not None:
                yield from _list_records(block)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from error


def _read_block(file: BinaryIO, path: Path, length: int | None) -> Block | None:
    at = file.tell()
    if length is not None and at >= length:
        return None
    block = _try_block(file)
    if block is None and length is not None:
        raise ArchiveError(f"{path}: damaged at byte {at}")
    return block


def _try_block(file: BinaryIO) -> Block | None:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    mark, packed_bytes, bytes_, events, check = _HEAD.unpack(head)
    if mark != _MARK or bytes_ > MAX_BLOCK_BYTES or packed_bytes > MAX_BLOCK_BYTES:
        return None
    packed = file.read(packed_bytes)
    if len(packed) < packed_bytes or zlib.crc32(packed) != check:
        return None
    try:
        body = zlib.decompress(packed, bufsize=bytes_ or 1)
        block = _decoder.decode(body)
    except (zlib.error, msgspec.DecodeError, ValueError):
        return None
    return block if len(block.rows) == events else None


def _list_records(block: Block) -> Iterator[RawRecord]:
    streams = [
        (unpack_name(a), unpack_name(b), unpack_name(c), unpack_name(d), form, header)
        for a, b, c, d, form, header in block.streams
    ]
    for place, position, following, received, truncated, data in block.rows:
        source, path, logical, key, form, header = streams[place]
        cursor = Cursor(source, key, position, following)
        yield RawRecord(data, source, path, logical, cursor, received, form, truncated, header)
