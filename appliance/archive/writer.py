"""In the line: whoever reads the records appends them here, before the batch is stored.

`add` every record of a batch, then `flush`: the bytes are on disk when it returns, and what it says
goes into the store's transaction. `commit` or `rewind` follows. A segment is written by one writer
in one hour; a new batch begins another when it is full or the hour is over. An archive that can't
be written stops nothing: its records are counted as lost, and it is tried again later.
"""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from appliance.archive.rows import Flushed, Growth
from appliance.archive.segments import BLOCK_BYTES, MAGIC, BlockBuilder
from appliance.schema import OnStep, RawRecord, ignore_step

#: Folders of an archive.
SEGMENTS: Final = "segments"
PARQUET: Final = "parquet"
SEGMENT_SUFFIX: Final = ".seg"
PARQUET_SUFFIX: Final = ".parquet"
HOUR: Final = 3600
#: A segment's name: hour, the writer's number, when it was begun (ms).
_NAME: Final = re.compile(r"\d{7,}-(\d{3,9})-(\d{14,18})\.", re.ASCII)
#: Seconds before a folder that could not be written is tried again.
RETRY_SECONDS: Final = 5.0


class SegmentLimits(msgspec.Struct, frozen=True):
    """When a segment is full: bytes of its records, unpacked, or events; and the bytes that must
    stay free on the disk."""

    bytes: int = 128 << 20
    events: int = 250_000
    min_free: int = 0


class _Open(msgspec.Struct):
    """The segment at hand. `good` is the last growth that was stored."""

    file: int
    growth: Growth
    raw: int = 0
    good: Growth | None = None
    good_raw: int = 0


class ArchiveWriter:
    """Writes segments below `folder`; `number` tells several writers apart. One thread calls it;
    `error` may be read by another."""

    def __init__(
        self,
        folder: Path,
        number: int,
        *,
        clock: Callable[[], float],
        limits: SegmentLimits | None = None,
        on_step: OnStep = ignore_step,
    ) -> None:
        self._folder = folder / SEGMENTS
        self._number = number
        self._clock = clock
        self._limits = limits or SegmentLimits()
        self._on_step = on_step
        self._builder = BlockBuilder()
        self._packed: list[bytes] = []
        self._events = 0
        self._raw = 0
        self._first, self._last = math.inf, -math.inf
        self._open: _Open | None = None
        self._retry_at = -math.inf
        self._error = ""
        self._stamp: int | None = None  # of this number's newest segment

    @property
    def error(self) -> str:
        """Why it can't be written now; empty where it can."""
        return self._error

    def add(self, record: RawRecord, time: float) -> None:
        """Take in a record of the batch at hand and its event's time."""
        builder = self._builder
        builder.add(record)
        self._events += 1
        if time < self._first and time > -math.inf:
            self._first = time
        if self._last < time < math.inf:
            self._last = time
        if builder.bytes >= BLOCK_BYTES:
            self._pack()

    def flush(self) -> Flushed:
        """Put the batch's records on disk. Raises nothing."""
        self._pack()
        packed, self._packed = self._packed, []
        events, self._events = self._events, 0
        raw, self._raw = self._raw, 0
        first, last = self._first, self._last
        self._first, self._last = math.inf, -math.inf
        if not events:
            return Flushed([])
        now = self._clock()
        if self._retry_at - RETRY_SECONDS <= now < self._retry_at:
            return Flushed([], lost=events)
        try:
            opened = self._append(b"".join(packed), events, raw, now)
        except OSError as error:
            self._error = f"{error.filename or self._folder}: {error.strerror or error}"
            self._retry_at = now + RETRY_SECONDS
            self._abandon()
            return Flushed([], lost=events)
        self._error = ""
        if first > last:  # no time among them is a number
            first = last = now
        growth = opened.growth
        before = growth.events > events
        opened.growth = growth = msgspec.structs.replace(
            growth,
            first=min(growth.first, first) if before else first,
            last=max(growth.last, last) if before else last,
        )
        return Flushed([growth], events)

    def commit(self) -> None:
        """What was flushed is stored."""
        if self._open is not None:
            self._open.good, self._open.good_raw = self._open.growth, self._open.raw

    def rewind(self) -> None:
        """What was flushed is not stored: it comes again."""
        self._builder, self._packed = BlockBuilder(), []
        self._events = self._raw = 0
        self._first, self._last = math.inf, -math.inf
        opened = self._open
        if opened is None or opened.good == opened.growth:
            return
        if opened.good is None:
            self._abandon()
            return
        try:
            os.ftruncate(opened.file, opened.good.bytes)
            os.lseek(opened.file, opened.good.bytes, os.SEEK_SET)
        except OSError:
            self._abandon()
        else:
            opened.growth, opened.raw = opened.good, opened.good_raw

    def close(self) -> None:
        """Let go of the segment. What of it was never stored is cut off."""
        self.rewind()
        if self._open is not None:
            os.close(self._open.file)
            self._open = None

    def _pack(self) -> None:
        if len(self._builder):
            self._raw += self._builder.bytes
            self._packed.append(self._builder.pack())

    def _append(self, data: bytes, events: int, raw: int, now: float) -> _Open:
        """Raises OSError."""
        self._check_room(len(data))
        opened = self._find_open(int(now // HOUR), now)
        _write_all(opened.file, data)
        self._on_step("archive.written")
        os.fsync(opened.file)
        self._on_step("archive.synced")
        opened.raw += raw
        old = opened.growth
        opened.growth = msgspec.structs.replace(
            old, bytes=old.bytes + len(data), events=old.events + events
        )
        return opened

    def _check_room(self, wanted: int) -> None:
        if not self._limits.min_free:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        room = os.statvfs(self._folder)
        if room.f_bavail * room.f_frsize < self._limits.min_free + wanted:
            raise OSError(0, "too little is free on the disk (archive.min_free)", str(self._folder))

    def _find_open(self, hour: int, now: float) -> _Open:
        """The segment for the next batch. Raises OSError."""
        opened, limits = self._open, self._limits
        if opened is not None:
            growth = opened.growth
            if growth.hour == hour and growth.events < limits.events and opened.raw < limits.bytes:
                return opened
            os.close(opened.file)
            self._open = None
        self._open = opened = self._create(hour, now)
        return opened

    def _create(self, hour: int, now: float) -> _Open:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        # Segments follow one another by name, wherever somebody sets the clock.
        if self._stamp is None:
            self._stamp = self._find_newest()
        stamp = max(int(now * 1000), self._stamp + 1)
        while True:
            name = f"{hour:07d}-{self._number:03d}-{stamp:014d}"
            taken = self._folder.parent / PARQUET / (name + PARQUET_SUFFIX)
            try:
                if taken.exists():
                    raise FileExistsError
                path = self._folder / (name + SEGMENT_SUFFIX)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                file = os.open(path, flags, 0o640)
                break
            except FileExistsError:
                stamp += 1
        try:
            _write_all(file, MAGIC)
            sync_folder(self._folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._stamp = stamp
        return _Open(file, Growth(name, hour, len(MAGIC), 0, 0.0, 0.0))

    def _find_newest(self) -> int:
        """The stamp of the newest segment of this number, from any run; 0 for none. Raises
        OSError."""
        newest = 0
        for folder in (self._folder, self._folder.parent / PARQUET):
            if folder.is_dir():
                for path in folder.iterdir():
                    found = _NAME.match(path.name)
                    if found is not None and int(found[1]) == self._number:
                        newest = max(newest, int(found[2]))
        return newest

    def _abandon(self) -> None:
        """Go on with another segment; what of this one was never stored is cut off, or ignored by
        readers where that fails."""
        opened, self._open = self._open, None
        if opened is None:
            return
        try:
            if opened.good is None:
                (self._folder / (opened.growth.name + SEGMENT_SUFFIX)).unlink(missing_ok=True)
            else:
                os.ftruncate(opened.file, opened.good.bytes)
        except OSError as error:
            self._error = self._error or str(error)
        finally:
            os.close(opened.file)


def sync_folder(folder: Path) -> None:
    """Make a folder's new names survive a power cut. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
