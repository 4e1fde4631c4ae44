"""First step of the line, between a listener and the source that reads it: what came from the
network, on disk before anybody acts on it.

A spool is a folder of segments, `<number>-<marker>.spool`, each a row of blocks. One process
writes (SpoolWriter), another reads (SpoolReader); nothing but the files is between them. All
numbers are little-endian:

    block   marker 8 bytes | length of body uint32 | CRC-32 of length and body uint32 | body
    body    received float64 | records uint32 | cut uint32 | length of peer uint16 | peer (UTF-8)
            | length of each record uint32 | (index uint32, full length uint64) of each cut record
            | the records' bytes behind one another

The marker is random and in the segment's name: reading goes on at the next one behind a damaged
block, and no sender can put a forged block into a message, since it does not know it.

A writer never appends to a segment that was there before it, and never uses a number again: a place
in the spool names one record for ever, also when the end of a segment was lost in a crash.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from appliance.errors import SourceError

_NAME: Final = re.compile(r"([0-9]{10})-([0-9a-f]{16})\.spool")
_HEAD: Final = struct.Struct("<8sII")
_BODY: Final = struct.Struct("<dIIH")
_CUT: Final = struct.Struct("<IQ")
_LENGTH: Final = struct.Struct("<I")

#: A body is one read of a socket and one unfinished record before it; more is no length.
MAX_BODY_BYTES: Final = 1 << 28
#: Bytes read from a segment at a time.
_WINDOW: Final = 1 << 20
#: A segment is deleted whole: the smaller, the sooner there is room again.
MAX_SEGMENT_BYTES: Final = 32 << 20
MIN_SEGMENT_BYTES: Final = 1 << 16
_SEGMENTS_PER_SPOOL: Final = 16
#: Bytes of a damaged place that go into its Rejected.
DAMAGED_KEPT: Final = 256

#: os.write, os.fdatasync and os.urandom, as tests may replace them.
Write = Callable[[int, bytes], int]
Sync = Callable[[int], None]
MakeToken = Callable[[int], bytes]


class SpoolFull(SourceError):
    """There is no room within the cap until the reader has deleted a segment."""


class SpoolUnsynced(SourceError):
    """The disk did not take what was appended since the last sync: it may or may not be there."""


class Place(msgspec.Struct, frozen=True, order=True):
    """A place between two records: segment number, offset of a block in it (bytes), and the index
    of the next record in that block."""

    segment: int = 0
    offset: int = 0
    index: int = 0


class Segment(NamedTuple):
    """A segment file: its number, its marker and where it lies."""

    number: int
    marker: bytes
    path: Path


class Block(NamedTuple):
    """What one block holds. `offset` is where it begins, `begin` where its records' bytes begin
    and `end` where the next block begins, all in the segment. `cut` gives the full length of each
    record of which only the beginning was kept, by index."""

    offset: int
    begin: int
    end: int
    received: float
    peer: str
    records: list[bytes]
    cut: dict[int, int]


class Damage(NamedTuple):
    """Bytes of a segment that are no block: passed over from `offset` to `end`."""

    offset: int
    end: int
    head: bytes


class Piece(NamedTuple):
    """What a reader gives: a block, of which the records from `start` on and before `until` are
    meant, or a damage, with the segment's number."""

    segment: int
    found: Block | Damage
    start: int = 0
    until: int = 0


def encode_block(
    marker: bytes,
    received: float,
    peer: str,
    records: Sequence[bytes],
    cut: Mapping[int, int] | None = None,
) -> bytes:
    """One block. `received` in epoch seconds; `cut` as in Block. Raises ValueError when the body
    would be longer than MAX_BODY_BYTES."""
    cut = cut or {}
    name = peer.encode("utf-8", "backslashreplace")[:1000]
    body = b"".join(
        (
            _BODY.pack(received, len(records), len(cut), len(name)),
            name,
            struct.pack(f"<{len(records)}I", *map(len, records)),
            *(_CUT.pack(index, length) for index, length in cut.items()),
            *records,
        )
    )
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a block of {len(body)} bytes")
    crc = zlib.crc32(body, zlib.crc32(_LENGTH.pack(len(body))))
    return _HEAD.pack(marker, len(body), crc) + body


def decode_block(marker: bytes, data: bytes, at: int, base: int) -> Block | int:
    """The block at `data[at:]`, `base` being the place of `data` in its segment; or how many bytes
    from `at` on are needed to tell; or -1 when there is none."""
    if len(data) - at < _HEAD.size:
        return _HEAD.size
    length: int
    found, length, crc = _HEAD.unpack_from(data, at)
    if found != marker or not _BODY.size <= length <= MAX_BODY_BYTES:
        return -1
    begin = at + _HEAD.size
    end = begin + length
    if end > len(data):
        return end - at
    body = memoryview(data)[begin:end]
    if zlib.crc32(body, zlib.crc32(_LENGTH.pack(length))) != crc:
        return -1
    try:
        return _decode_body(data, begin, end, base, at)
    except (struct.error, ValueError):  # written by something else that knows the marker
        return -1


def _decode_body(data: bytes, begin: int, end: int, base: int, at: int) -> Block:
    received, count, cuts, named = _BODY.unpack_from(data, begin)
    place = begin + _BODY.size
    peer = data[place : place + named].decode("utf-8", "backslashreplace")
    place += named
    if count * _LENGTH.size + cuts * _CUT.size > end - place:
        raise ValueError("more records than bytes")
    lengths = struct.unpack_from(f"<{count}I", data, place)
    place += count * _LENGTH.size
    cut = dict(_CUT.unpack_from(data, place + i * _CUT.size) for i in range(cuts))
    place += cuts * _CUT.size
    if place + sum(lengths) != end:
        raise ValueError("lengths do not add up")
    first = base + place
    records: list[bytes] = []
    for length in lengths:
        records.append(data[place : place + length])
        place += length
    return Block(base + at, first, base + end, received, peer, records, cut)


def list_segments(folder: Path) -> list[Segment]:
    """Segments of a spool, oldest first; none when there is no such folder. Raises OSError."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - called often: no Path for each
    except FileNotFoundError:
        return []
    found = [match for match in map(_NAME.fullmatch, names) if match is not None]
    segments = [Segment(int(m[1]), bytes.fromhex(m[2]), folder / m[0]) for m in found]
    return sorted(segments, key=lambda segment: (segment.number, segment.marker))


def measure_segments(segments: Sequence[Segment]) -> dict[int, int]:
    """Sizes in bytes by number; one deleted meanwhile is left out."""
    sizes: dict[int, int] = {}
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):
            sizes[segment.number] = segment.path.stat().st_size
    return sizes


def find_damage(descriptor: int, marker: bytes, offset: int, size: int) -> int:
    """Offset of the next whole block behind `offset`, where there is none; `size` (the segment's)
    when none follows. Raises OSError."""
    at = offset + 1
    while at < size:
        data = os.pread(descriptor, _WINDOW, at)
        if not data:
            break
        place = data.find(marker)
        while place >= 0:
            if read_block(descriptor, marker, at + place) is not None:
                return at + place
            place = data.find(marker, place + 1)
        if len(data) < len(marker):
            break
        at += len(data) - len(marker) + 1
    return size


def read_block(descriptor: int, marker: bytes, offset: int) -> Block | None:
    """The block at an offset, or None when there is no whole one. Raises OSError."""
    needed = 4096
    while True:
        data = _read_fully(descriptor, needed, offset)
        found = decode_block(marker, data, 0, offset)
        if isinstance(found, Block):
            return found
        if found <= len(data):  # none, or the file ends before it does
            return None
        if len(data) < needed:
            return None
        needed = found


def _read_fully(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while data and len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class SpoolWriter:
    """Appends blocks. Not thread-safe; one writer a folder, held by a lock.

    `cap` bytes may lie in the folder; `first` is the least number of a new segment. Raises
    SourceError when the folder can't be used now: making a writer may be tried again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cap: int,
        first: int = 1,
        write: Write = os.write,
        sync: Sync = os.fdatasync,
        token: MakeToken = os.urandom,
    ) -> None:
        self._folder = folder
        self._cap = cap
        self._segment_bytes = min(
            MAX_SEGMENT_BYTES, max(MIN_SEGMENT_BYTES, cap // _SEGMENTS_PER_SPOOL)
        )
        self._write = write
        self._sync = sync
        self._token = token
        self._descriptor = -1
        self._size = 0  # of the segment that is written
        self._unsynced = False
        self.torn = 0
        self._lock = self._hold_folder()
        try:
            segments = list_segments(folder)
            self._next = max([first, *(segment.number + 1 for segment in segments)])
            if segments:
                self._mend(segments[-1])
            self._others = sum(measure_segments(segments).values())
        except OSError as error:
            os.close(self._lock)
            raise _explain(error) from error
        self._marker = b""

    @property
    def used(self) -> int:
        """Bytes in the folder, as far as is known: what the reader deletes is noticed late."""
        return self._others + self._size

    @property
    def unsynced(self) -> bool:
        """Whether anything was appended since the last sync."""
        return self._unsynced

    def append(
        self, blocks: Sequence[tuple[float, str, Sequence[bytes], Mapping[int, int]]]
    ) -> int:
        """Append blocks of (received, peer, records, cut) with one write, all or none of them; give
        the bytes written. Raises SpoolFull, or SourceError when the disk does not take them, and
        SpoolUnsynced when it did not take what was appended before."""
        try:
            if self._descriptor < 0 or self._size >= self._segment_bytes:
                self._begin_segment()
            marker = self._marker
            data = b"".join([encode_block(marker, *block) for block in blocks])
            if not self._has_room(len(data)):
                self._turn_over()
                raise SpoolFull(f"spool full: {self.used:,} of {self._cap:,} bytes are taken")
            try:
                self._put(data)
            except OSError:
                self._turn_over()
                raise
        except OSError as error:
            raise _explain(error) from error
        return len(data)

    def sync(self) -> None:
        """Have the disk hold what was appended. Raises SpoolUnsynced; the next block
        then goes into a new segment."""
        if not self._unsynced:
            return
        try:
            self._sync(self._descriptor)
            if not os.fstat(self._descriptor).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "its files were deleted")
        except OSError as error:
            # The kernel may call lost pages clean from now on: this file can't be trusted again.
            self._leave_segment()
            raise SpoolUnsynced(str(_explain(error))) from error
        self._unsynced = False

    def close(self) -> None:
        """Sync and close. Raises SpoolUnsynced."""
        try:
            self.sync()
        finally:
            self._leave_segment()
            os.close(self._lock)

    def _hold_folder(self) -> int:
        """Two writers would take the same numbers."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise _explain(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise SourceError("the spool is held by another receiver") from error
        return lock

    def _mend(self, last: Segment) -> None:
        """Cut off a block that a crash left unfinished at the end of the last segment."""
        descriptor = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            at = 0
            while at < size:
                block = read_block(descriptor, last.marker, at)
                if block is not None:
                    at = block.end
                    continue
                following = find_damage(descriptor, last.marker, at, size)
                if following >= size:
                    os.ftruncate(descriptor, at)
                    os.fsync(descriptor)
                    self.torn += 1
                    break
                at = following  # damaged in the middle: the reader will say so
        finally:
            os.close(descriptor)

    def _has_room(self, length: int) -> bool:
        """Whether so many bytes fit; into an empty spool anything does, or it would wait for
        ever."""
        if self.used + length <= self._cap:
            return True
        sizes = measure_segments(list_segments(self._folder))
        self._others = max(0, sum(sizes.values()) - self._size)
        return self.used == 0 or self.used + length <= self._cap

    def _turn_over(self) -> None:
        """Begin a new segment, so that the reader can delete this one: it deletes none that is the
        last, and may have nothing else to make room with."""
        if self._size:
            with contextlib.suppress(OSError):
                self._begin_segment()

    def _begin_segment(self) -> None:
        self.sync()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        number, marker = self._next, self._token(8)
        self._next += 1  # also when this one can't be made: what is left of it may stay
        path = self._folder / f"{number:010d}-{marker.hex()}.spool"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o640)
        try:
            # Its name must outlast a power cut before anything is read from it: else its number,
            # and with it the names of its records, would be given again.
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._leave_segment()
        self._descriptor, self._marker = descriptor, marker

    def _leave_segment(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._others += self._size
        self._descriptor, self._size, self._unsynced = -1, 0, False

    def _put(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                count = self._write(self._descriptor, data[done:] if done else data)
                if count <= 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                done += count
        except OSError:
            self._take_back()
            raise
        self._size += len(data)
        self._unsynced = True

    def _take_back(self) -> None:
        """Cut off what a failed write left behind; a segment that can't be cut is left. Raises
        SpoolUnsynced."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self.sync()
            self._leave_segment()


def _explain(error: OSError) -> SourceError:
    return SourceError(f"spool can't be written: {error.strerror or error}")


class SpoolReader:
    """Reads a spool from a place on, in order. One thread reads and commits; `measure` may be
    asked from another."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self._committed = place
        self._segments: list[Segment] = []
        self._open: Segment | None = None
        self._descriptor = -1
        #: A segment's end that holds no block: number, offset, its size and change time then.
        self._looked = (0, 0, 0, 0)
        self._changed = 0  # nanoseconds: when the open segment was
        self._split: tuple[int, Block] | None = None  # the block at the place, by segment
        self._tidied = -1  # the segment before which all were deleted
        self.place = place
        self.more = False

    def read(self, records: int, data: int) -> list[Piece]:
        """About so many records of about so many bytes at the most. Raises SourceError when a
        segment can't be read."""
        pieces: list[Piece] = []
        self.more = False
        try:
            self._read(pieces, records, data)
        except OSError as error:
            self._segments = []  # look anew: it may be gone
            self.close()
            if not pieces:
                raise SourceError(f"spool can't be read: {error.strerror or error}") from error
        return pieces

    def commit(self) -> None:
        """What was read is stored: delete the segments before this place."""
        if self.place.segment != self._tidied:
            self._delete_before(self.place.segment)
            self._tidied = self.place.segment
        self._committed = self.place

    def rewind(self) -> None:
        """Back to what was committed."""
        self.place = self._committed
        self._looked = (0, 0, 0, 0)

    def measure(self) -> tuple[int, int]:
        """Bytes in the folder, and how many of them are not read. Raises OSError."""
        place = self.place
        sizes = measure_segments(list_segments(self._folder))
        behind = sum(size for number, size in sizes.items() if number > place.segment)
        behind += max(0, sizes.get(place.segment, 0) - place.offset)
        return sum(sizes.values()), behind

    def close(self) -> None:
        """Close the open segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._open = -1, None

    def _read(self, pieces: list[Piece], records: int, data: int) -> None:
        while records > 0 and data > 0:
            # What comes after the last one is only known when it is seen to be there before the
            # end of this one is looked at: a torn end is cut off before a new segment begins.
            last = self._turn_to_segment()
            if self._open is None:
                return
            status = os.fstat(self._descriptor)
            size, self._changed = status.st_size, status.st_mtime_ns
            while records > 0 and data > 0 and self.place.offset < size:
                got = self._read_window(pieces, records, data, size, last=last)
                if got is None:
                    return
                records -= got[0]
                data -= got[1]
            if self.place.offset < size:
                break
            if last:
                return
            following = next(s for s in self._segments if s.number > self.place.segment)
            self.place = Place(following.number, 0, 0)
        self.more = True

    def _turn_to_segment(self) -> bool:
        """Open the segment at the place, or the first behind it; whether it is the last."""
        held = self._segments
        if not held or held[-1].number <= self.place.segment:
            held = self._segments = list_segments(self._folder)
        found = next((s for s in held if s.number >= self.place.segment), None)
        if found is None:
            self.close()
            return True
        if self._open is None or self._open.path != found.path:
            self.close()
            self._descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
            self._open = found
        if found.number != self.place.segment:
            self.place = Place(found.number, 0, 0)
        return found is held[-1]

    def _read_window(
        self, pieces: list[Piece], records: int, data: int, size: int, *, last: bool
    ) -> tuple[int, int] | None:
        """Give blocks of one window, as (records, bytes); None when what is there is not whole
        yet."""
        if self._open is None:
            return None
        marker, number = self._open.marker, self._open.number
        base = self.place.offset
        if self._is_split():
            return self._go_on(pieces, records)
        window = os.pread(self._descriptor, _WINDOW, base)
        at = taken = weight = 0
        while taken < records and weight < data:
            found: Block | int | None = decode_block(marker, window, at, base)
            if isinstance(found, int):
                if at and (found > 0):
                    break  # the window ends inside it
                found = read_block(self._descriptor, marker, base + at) if found > 0 else None
            if found is None:
                if self._skip_damage(pieces, base + at, size, last=last):
                    return taken + 1, weight
                return (taken, weight) if taken else None
            index = self.place.index
            until = min(len(found.records), index + records - taken)
            pieces.append(Piece(number, found, index, until))
            taken += until - index
            weight += sum(map(len, found.records[index:until])) + 1
            if until < len(found.records):
                self.place = Place(number, found.offset, until)
                self._split = number, found
                break
            self.place = Place(number, found.end, 0)
            at = found.end - base
            if at >= len(window):
                break
        return taken, weight

    def _is_split(self) -> bool:
        """Whether the block at the place is at hand: one of many records is taken in many parts,
        and read once."""
        if self._split is None or not self.place.index:
            return False
        number, block = self._split
        return (number, block.offset) == (self.place.segment, self.place.offset)

    def _go_on(self, pieces: list[Piece], records: int) -> tuple[int, int]:
        """The next records of the block at hand."""
        if self._split is None:
            return 0, 0
        number, block = self._split
        index = self.place.index
        until = min(len(block.records), index + records)
        pieces.append(Piece(number, block, index, until))
        if until < len(block.records):
            self.place = Place(number, block.offset, until)
        else:
            self.place, self._split = Place(number, block.end, 0), None
        return until - index, sum(map(len, block.records[index:until])) + 1

    def _skip_damage(self, pieces: list[Piece], offset: int, size: int, *, last: bool) -> bool:
        """Pass over what is no block; False when it may still become one."""
        if self._open is None:
            return False
        seen = (self._open.number, offset, size, self._changed)
        if last and self._looked == seen:
            return False
        end = find_damage(self._descriptor, self._open.marker, offset, size)
        if end >= size and last:
            self._looked = seen
            return False
        head = os.pread(self._descriptor, min(DAMAGED_KEPT, end - offset), offset)
        pieces.append(Piece(self._open.number, Damage(offset, end, head)))
        self.place = Place(self._open.number, end, 0)
        return True

    def _delete_before(self, number: int) -> None:
        """Segments that are read and stored. One that can't be deleted is tried again with the
        next; what is read twice is stored once."""
        with contextlib.suppress(OSError):
            for segment in list_segments(self._folder):
                if segment.number < number:
                    segment.path.unlink(missing_ok=True)
