"""The file of indicators that every process of the line opens (detect stage, indicators).

Version 1. Numbers are little-endian and unsigned.

    first line   `appliance indicators 1 ` and the SHA-256, in hexadecimal, of all behind this line
    second line  JSON: `Layout`, the counts from which all lengths follow
    starts       (2^bits + 1) x 4 bytes: place of the first key of each bucket, and of the end
    sums         keys x 4 bytes: CRC-32 (as in RFC 1952, section 8) of each key. The bucket is its
                 first `bits` bits; in a bucket, keys stand in the order of their sums, then of
                 their bytes
    places       (keys + 1) x 8 bytes: where in the heap each key's entry begins, and the end
    v4           intervals x 4: first address of each; intervals x 4: its innermost network + 1,
                 0 for none; the intervals go from 0.0.0.0 to the end without a gap
    v6           the same for IPv6, the address as two columns of 8 bytes, upper and lower half
    networks     networks x 4: place of each network's key; networks x 4: the network around it + 1
    heap         the entries, MessagePack of `Entry`

Every CIDR network lies within another or beside it, so the innermost one with its parents is all
that hold an address: what a radix tree would give, in two flat tables.

A lookup takes `starts` and `sums`, which are held in memory (12 bytes a key), and asks the file
only where a sum agrees; what it says then is compared whole. The file is read by `pread`, not
mapped: a mapping of a file that is cut short, or on a disk that fails, ends the process by a
signal. The digest tells a damaged file; who can write a file with another digest could as well
write other indicators, but no content makes a lookup read elsewhere or take long.
"""

import hashlib
import os
import secrets
import stat
import sys
import tempfile
import weakref
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final, Protocol, Self

import msgspec
import numpy as np

from appliance.detect.indicators.values import (
    Network,
    key_indicator,
    parse_network,
    split_key,
)
from appliance.errors import ModelError

MAGIC: Final = b"appliance indicators 1 "
_HEAD_BYTES: Final = len(MAGIC) + 64 + 1
#: Longest second line, in bytes.
_MAX_LAYOUT: Final = 4096
#: Largest counts and sizes that are read: some hundred million indicators.
_MAX_KEYS: Final = 1 << 27
_MAX_BITS: Final = 27
_MAX_HEAP: Final = 1 << 36
#: Longest entry, in bytes: far over what MAX_ORIGINS make.
_MAX_ENTRY: Final = 1 << 18
_CHUNK: Final = 1 << 20

#: Origins kept of one value: the most confident ones.
MAX_ORIGINS: Final = 16
#: Longest texts of an origin, in characters, and most links.
MAX_TEXT: Final = 200
MAX_LINK: Final = 128
MAX_LINKS: Final = 32
#: Refusals that are told of a writing, of all that are counted.
MAX_REFUSED: Final = 20


#: A network as it is laid out: version, first and last address, place of its key.
_Range = tuple[int, int, int, int]


class IndicatorLike(Protocol):
    """What is needed of an indicator: see the knowledge base's."""

    @property
    def kind(self) -> str:
        """md5, sha1, sha256, address, network, domain, url or file."""

    @property
    def value(self) -> str:
        """What is looked for."""

    @property
    def source(self) -> str:
        """Who says so."""

    @property
    def name(self) -> str:
        """What it belongs to, as the source calls it."""

    @property
    def valid_from(self) -> float | None:
        """Epoch seconds, None for always."""

    @property
    def valid_until(self) -> float | None:
        """Epoch seconds, None for ever."""

    @property
    def confidence(self) -> int | None:
        """0..100, None where it is not said."""

    @property
    def links(self) -> tuple[str, ...]:
        """Ids of knowledge entries."""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """What one source says of a value."""

    source: str
    name: str
    valid_from: float | None
    valid_until: float | None
    confidence: int | None
    links: tuple[str, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A value (its key, see `values`) and who says what of it, the most confident first."""

    key: bytes
    origins: tuple[Origin, ...]


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counts of a file: buckets are 2^bits, `v4` and `v6` intervals, `heap` is in bytes,
    `indicators` those that were written, by kind."""

    bits: int
    keys: int
    v4: int
    v6: int
    networks: int
    heap: int
    indicators: dict[str, int]


class Written(msgspec.Struct, frozen=True):
    """What came of writing: the file, its digest, the values in it, the indicators by kind, how
    many were left out for there being MAX_ORIGINS better ones of the same value, and how many were
    refused, of which the first are told (kind and value, and why)."""

    path: Path
    sha256: str
    values: int
    indicators: dict[str, int]
    left_out: int
    refused: int
    reasons: tuple[tuple[str, str], ...]


# --- writing


def write_indicators(folder: Path, indicators: Iterable[IndicatorLike], name: str = "") -> Written:
    """Write a file of the indicators into the folder, whole or not at all. Without a `name` it is
    named by its content, `indicators-<first 16 digits of its digest>.bin`; the same indicators in
    any order make the same file. Takes 16 bytes of memory an indicator, and what the networks are;
    the rest is put on disk beside the file. Raises OSError, and what the iterable raises."""
    with tempfile.TemporaryFile(dir=folder) as spool, tempfile.TemporaryFile(dir=folder) as heap:
        gathered = _Gathered(spool)
        for indicator in indicators:
            gathered.add(indicator)
        sums, places, networks, left_out = _write_heap(gathered, heap)
        sections = _lay_out(sums, places, networks)
        layout = Layout(
            bits=sections.bits,
            keys=len(sums),
            v4=len(sections.v4),
            v6=len(sections.v6),
            networks=len(networks),
            heap=places[-1],
            indicators=dict(sorted(gathered.counts.items())),
        )
        path, found = _write_file(folder, name, layout, sections.parts, heap=heap)
    return Written(
        path=path,
        sha256=found,
        values=layout.keys,
        indicators=layout.indicators,
        left_out=left_out,
        refused=gathered.refused,
        reasons=tuple(gathered.reasons),
    )


class _Gathered:
    """The indicators as rows on disk, in the order in which they came."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self.sums = array("I")
        self.places = array("Q", [0])
        self.counts: dict[str, int] = {}
        self.refused = 0
        self.reasons: list[tuple[str, str]] = []
        self._encoder = msgspec.msgpack.Encoder()

    def add(self, indicator: IndicatorLike) -> None:
        """Put it on disk, or note why not."""
        try:
            key = key_indicator(indicator.kind, indicator.value)
        except ValueError as error:
            self._refuse(indicator, str(error))
            return
        row = self._encoder.encode(Entry(key, (_read_origin(indicator),)))
        self._spool.write(row)
        self.sums.append(zlib.crc32(key))
        self.places.append(self.places[-1] + len(row))
        kind, _ = split_key(key)
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def _refuse(self, indicator: IndicatorLike, reason: str) -> None:
        self.refused += 1
        if len(self.reasons) < MAX_REFUSED:
            self.reasons.append((f"{indicator.kind} {_clean(indicator.value)}", reason))

    def list_groups(self) -> Iterator[tuple[int, list[Entry]]]:
        """Rows with the same sum, with it, in its order."""
        self._spool.flush()
        file = self._spool.fileno()
        decoder = msgspec.msgpack.Decoder(Entry)
        sums = np.frombuffer(self.sums, np.uint32)
        order = np.argsort(sums, kind="stable")
        begin = 0
        for end in [*(np.flatnonzero(np.diff(sums[order])) + 1).tolist(), len(order)]:
            rows = order[begin:end].tolist()
            if rows:
                yield self.sums[rows[0]], [self._read(file, row, decoder) for row in rows]
            begin = end

    def _read(self, file: int, row: int, decoder: "msgspec.msgpack.Decoder[Entry]") -> Entry:
        place = self.places[row]
        return decoder.decode(os.pread(file, self.places[row + 1] - place, place))


def _clean(text: Any, limit: int = MAX_TEXT) -> str:
    """A text as one line of printable characters, cut."""
    shown = str(text)[: limit + 1]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else " " for char in shown)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _read_origin(indicator: IndicatorLike) -> Origin:
    return Origin(
        source=_clean(indicator.source),
        name=_clean(indicator.name),
        valid_from=indicator.valid_from,
        valid_until=indicator.valid_until,
        confidence=indicator.confidence,
        links=tuple(_clean(link, MAX_LINK) for link in indicator.links[:MAX_LINKS]),
    )


def _rank_origin(origin: Origin) -> tuple[Any, ...]:
    """The most confident first; the rest makes the order the same whatever came first."""
    known = origin.confidence if origin.confidence is not None else 50
    return (-known, origin.source, origin.name, repr(msgspec.structs.astuple(origin)))


def _write_heap(
    gathered: _Gathered, heap: IO[bytes]
) -> tuple["array[int]", "array[int]", list[_Range], int]:
    """One entry a key into the heap; gives the sums and the places of the keys, the networks with
    the place of their key, and how many origins were left out."""
    sums, places = array("I"), array("Q", [0])
    networks: list[_Range] = []
    left_out = 0
    encoder = msgspec.msgpack.Encoder()
    for number, rows in gathered.list_groups():
        by_key: dict[bytes, set[Origin]] = {}
        for row in rows:
            by_key.setdefault(row.key, set()).update(row.origins)
        for key in sorted(by_key):
            origins = sorted(by_key[key], key=_rank_origin)
            left_out += max(0, len(origins) - MAX_ORIGINS)
            body = encoder.encode(Entry(key, tuple(origins[:MAX_ORIGINS])))
            if key[:1] == b"n":
                networks.append(_measure_network(parse_network(key[1:].decode()), len(sums)))
            heap.write(body)
            sums.append(number)
            places.append(places[-1] + len(body))
    heap.flush()
    return sums, places, networks, left_out


class _Sections(msgspec.Struct):
    """All between the second line and the heap, in the file's order."""

    bits: int
    parts: list[bytes]
    v4: list[tuple[int, int]]
    v6: list[tuple[int, int]]


def _lay_out(sums: "array[int]", places: "array[int]", networks: list[_Range]) -> _Sections:
    bits = min((2 * len(sums) - 1).bit_length(), _MAX_BITS) if len(sums) else 0
    buckets = np.frombuffer(sums, np.uint32).astype(np.uint64) >> np.uint64(32 - bits)
    starts = np.searchsorted(buckets, np.arange((1 << bits) + 1, dtype=np.uint64))
    networks.sort(key=_order_range)
    parents: list[int] = []
    v4 = _list_intervals(networks, 4, parents)
    v6 = _list_intervals(networks, 6, parents)
    low = (1 << 64) - 1
    parts = [
        starts.astype("<u4").tobytes(),
        _pack("I", sums),
        _pack("Q", places),
        _pack("I", (start for start, _ in v4)),
        _pack("I", (owner for _, owner in v4)),
        _pack("Q", (start >> 64 for start, _ in v6)),
        _pack("Q", (start & low for start, _ in v6)),
        _pack("I", (owner for _, owner in v6)),
        _pack("I", (place for _, _, _, place in networks)),
        _pack("I", parents),
    ]
    return _Sections(bits, parts, v4, v6)


def _pack(code: str, numbers: Iterable[int]) -> bytes:
    packed = array(code, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _measure_network(network: Network, place: int) -> _Range:
    first, last = network.network_address, network.broadcast_address
    return network.version, int(first), int(last), place


def _order_range(one: _Range) -> tuple[int, int, int]:
    """A network before those inside it."""
    version, first, last, _ = one
    return version, first, -last


def _list_intervals(
    networks: list[_Range], version: int, parents: list[int]
) -> list[tuple[int, int]]:
    """(first address, innermost network + 1) of each interval of the version's addresses, in order
    from 0 on. The networks are in order, a network before those inside it; the one around each,
    + 1, is added to `parents`."""
    found: list[tuple[int, int]] = []
    open_ones: list[tuple[int, int]] = []  # (last address, number + 1), outermost first
    end = 0  # all before it are in intervals

    def begin(start: int, owner: int) -> None:
        if found and found[-1][0] == start:
            found.pop()
        if not found or found[-1][1] != owner:
            found.append((start, owner))

    begin(end, 0)
    for number, (its_version, first, final, _) in enumerate(networks):
        if its_version != version:
            continue
        while open_ones and open_ones[-1][0] < first:
            last, _ = open_ones.pop()
            begin(last + 1, open_ones[-1][1] if open_ones else 0)
        parents.append(open_ones[-1][1] if open_ones else 0)
        begin(first, number + 1)
        open_ones.append((final, number + 1))
    most = (1 << (32 if version == 4 else 128)) - 1
    while open_ones:
        last, _ = open_ones.pop()
        if last < most:
            begin(last + 1, open_ones[-1][1] if open_ones else 0)
    return found


def _write_file(
    folder: Path, name: str, layout: Layout, parts: list[bytes], *, heap: IO[bytes]
) -> tuple[Path, str]:
    """The file, and its digest."""
    part = folder / f".indicators-{secrets.token_hex(8)}.part"
    summed = hashlib.sha256()
    try:
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(opened, "wb") as file:
            file.write(MAGIC + b"0" * 64 + b"\n")
            for piece in (msgspec.json.encode(layout) + b"\n", *parts, *_read_through(heap)):
                summed.update(piece)
                file.write(piece)
            file.seek(len(MAGIC))
            file.write(summed.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        path = folder / (name or f"indicators-{summed.hexdigest()[:16]}.bin")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path, summed.hexdigest()


def _read_through(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_CHUNK):
        yield piece


# --- reading


def is_indicator_file(path: Path) -> bool:
    """Whether the file begins as one of these does, of any version. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)).startswith(MAGIC[:-2])


class IndicatorFile:
    """A file of indicators, opened. Use `open`. Safe to share between threads."""

    def __init__(self, path: Path, file: int, sha256: str, layout: Layout, offset: int) -> None:
        """Takes the open file over. `offset` is where the sections begin."""
        self.path: Final = path
        self.sha256: Final = sha256
        self.layout: Final = layout
        self._file = file
        self._finish = weakref.finalize(self, os.close, file)
        self._shift = 32 - layout.bits
        keys = layout.keys
        self._next = offset
        self._starts = self._read_column("I", (1 << layout.bits) + 1)
        self._sums = self._read_column("I", keys)
        self._places = self._next
        self._next += 8 * (keys + 1)
        self._v4 = self._read_column("I", layout.v4)
        self._v4_owners = self._read_column("I", layout.v4)
        self._v6 = self._read_column("Q", layout.v6)
        self._v6_low = self._read_column("Q", layout.v6)
        self._v6_owners = self._read_column("I", layout.v6)
        self._networks = self._read_column("I", layout.networks)
        self._parents = self._read_column("I", layout.networks)
        self._heap = self._next
        self._check()
        self._decoder = msgspec.msgpack.Decoder(Entry)
        kinds = layout.indicators.keys()
        #: Letters of the keys that it holds (see `values`).
        self.letters: Final = "".join(
            letter
            for letter, names in (
                ("h", {"md5", "sha1", "sha256"}), ("a", {"address"}), ("n", {"network"}),
                ("d", {"domain"}), ("u", {"url"}), ("f", {"file"}),
            )
            if names & kinds
        )  # fmt: skip

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open and verify a file. Raises ModelError when it can't be read or is damaged."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            found, layout, offset = _verify(path, file)
        except BaseException:
            os.close(file)
            raise
        return cls(path, file, found, layout, offset)

    def close(self) -> None:
        """Let go of the file."""
        self._finish()

    def find(self, key: bytes) -> Entry | None:
        """The entry of the key. Raises ModelError when the file can't be read any more."""
        number = zlib.crc32(key)
        bucket = number >> self._shift
        place, end = self._starts[bucket], self._starts[bucket + 1]
        if place == end:
            return None
        sums = self._sums
        if end - place == 1:
            if sums[place] != number:
                return None
            entry = self.read(place)
            return entry if entry.key == key else None
        place = bisect_left(sums, number, place, end)
        end = bisect_right(sums, number, place, end)
        while place < end:
            middle = (place + end) // 2
            entry = self.read(middle)
            if entry.key == key:
                return entry
            if entry.key < key:
                place = middle + 1
            else:
                end = middle
        return None

    def find_networks(self, version: int, number: int) -> tuple[Entry, ...]:
        """The entries of all networks that hold the address of version 4 or 6 with this number, the
        innermost first. Raises ModelError when the file can't be read any more."""
        if version == 4:
            owner = self._v4_owners[bisect_right(self._v4, number) - 1]
        else:
            owner = self._find_v6(number >> 64, number & ((1 << 64) - 1))
        found: list[Entry] = []
        while owner:
            entry = self.read(self._networks[owner - 1])
            if not _holds(entry.key, version, number):
                raise ModelError(f"{self.path}: is damaged: a network is not where it should be")
            found.append(entry)
            owner = self._parents[owner - 1]
        return tuple(found)

    def _find_v6(self, high: int, low: int) -> int:
        first, last = bisect_left(self._v6, high), bisect_right(self._v6, high)
        return self._v6_owners[bisect_right(self._v6_low, low, first, last) - 1]

    def read(self, place: int) -> Entry:
        """The entry at a place. Raises ModelError when it can't be read any more."""
        edges = array("Q", self._pread(self._places + 8 * place, 16))
        if sys.byteorder == "big":
            edges.byteswap()
        begin, end = edges
        if not begin <= end <= self.layout.heap or end - begin > _MAX_ENTRY:
            raise ModelError(f"{self.path}: is damaged")
        try:
            return self._decoder.decode(self._pread(self._heap + begin, end - begin))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{self.path}: is damaged: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "values": self.layout.keys,
            "kinds": dict(self.layout.indicators),
        }

    def _pread(self, offset: int, size: int) -> bytes:
        try:
            found = os.pread(self._file, size, offset)
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror}") from error
        if len(found) != size:
            raise ModelError(f"{self.path}: has become shorter")
        return found

    def _read_column(self, code: str, count: int) -> "array[int]":
        column = array(code)
        left = count * column.itemsize
        while left:
            piece = self._pread(self._next, min(left, _CHUNK))
            column.frombytes(piece)
            self._next += len(piece)
            left -= len(piece)
        if sys.byteorder == "big":
            column.byteswap()
        return column

    def _check(self) -> None:
        """Every place that a lookup goes to is inside. Raises ModelError."""
        starts, v4 = np.frombuffer(self._starts, "u4"), np.frombuffer(self._v4, "u4")
        v6 = list(zip(self._v6, self._v6_low, strict=True))
        count, keys = self.layout.networks, self.layout.keys
        fits = (
            starts[0] == 0
            and starts[-1] == keys
            and bool(np.all(starts[:-1] <= starts[1:]))
            and v4[0] == 0
            and bool(np.all(v4[:-1] < v4[1:]))
            and v6[0] == (0, 0)
            and all(one < other for one, other in pairwise(v6))
            and max(self._v4_owners) <= count
            and max(self._v6_owners) <= count
            and all(place < keys for place in self._networks)
            # A parent stands before its child: no chain of them has a ring.
            and all(parent <= number for number, parent in enumerate(self._parents))
        )
        if not fits:
            raise ModelError(f"{self.path}: is damaged: places do not fit together")


def _holds(key: bytes, version: int, number: int) -> bool:
    """Whether the key is that of a network that holds the address: a table says where to look, the
    value itself decides."""
    try:
        kind, text = split_key(key)
        network = parse_network(text) if kind == "network" else None
    except ValueError:
        return False
    if network is None or network.version != version:
        return False
    return int(network.network_address) <= number <= int(network.broadcast_address)


def _verify(path: Path, file: int) -> tuple[str, Layout, int]:
    """Digest, layout, and where the sections begin, of a file that is what it says. Raises
    ModelError."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: is no file")
    try:
        head = os.pread(file, _HEAD_BYTES + _MAX_LAYOUT, 0)
        if not head.startswith(MAGIC) or head[_HEAD_BYTES - 1 : _HEAD_BYTES] != b"\n":
            raise ModelError(f"{path}: is no file of indicators")
        stated = head[len(MAGIC) : _HEAD_BYTES - 1]
        summed = hashlib.sha256()
        offset = _HEAD_BYTES
        while piece := os.pread(file, _CHUNK, offset):
            summed.update(piece)
            offset += len(piece)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if summed.hexdigest().encode() != stated:
        raise ModelError(f"{path}: is damaged: its digest is {summed.hexdigest()}")
    line, end, _ = head[_HEAD_BYTES:].partition(b"\n")
    layout = _read_layout(path, line if end else b"")
    begin = _HEAD_BYTES + len(line) + 1
    if begin + _count_bytes(layout) != offset:
        raise ModelError(f"{path}: is damaged: {offset} bytes do not fit its counts")
    return summed.hexdigest(), layout, begin


def _read_layout(path: Path, line: bytes) -> Layout:
    try:
        layout = msgspec.json.decode(line, type=Layout)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: is damaged: {error}") from error
    fits = (
        0 <= layout.bits <= _MAX_BITS
        and 0 <= layout.keys <= _MAX_KEYS
        and 1 <= layout.v4 <= 2 * _MAX_KEYS + 1
        and 1 <= layout.v6 <= 2 * _MAX_KEYS + 1
        and 0 <= layout.networks <= layout.keys
        and 0 <= layout.heap <= _MAX_HEAP
        and all(0 <= count <= _MAX_HEAP for count in layout.indicators.values())
    )
    if not fits:
        raise ModelError(f"{path}: is damaged: its counts make no sense")
    return layout


def _count_bytes(layout: Layout) -> int:
    """Bytes of all sections."""
    return (
        4 * ((1 << layout.bits) + 1)
        + 4 * layout.keys
        + 8 * (layout.keys + 1)
        + 8 * layout.v4
        + 20 * layout.v6
        + 8 * layout.networks
        + layout.heap
    )
