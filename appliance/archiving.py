"""Puts the archive together for `run`, `scan` and the commands: writer, keeper, reader.

The keeper is a thread of the daemon that the line never waits for: it has a child process convert
what is sealed (`appliance/converter.py`, at the lowest priority), and lets go what is too old or
too much. Every step is recorded in the store; what a crash interrupts is begun anew.
"""

import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import IO, Any, Final
from zoneinfo import ZoneInfo

import msgspec

from appliance import child_environment
from appliance.archive.convert import Converted, ReadRecord, convert_segment
from appliance.archive.reader import Archive
from appliance.archive.rows import SegmentRow
from appliance.archive.upkeep import (
    choose_expired,
    delete_part,
    list_sealed,
    recover_folder,
)
from appliance.archive.writer import (
    SEGMENT_SUFFIX,
    SEGMENTS,
    ArchiveWriter,
    SegmentLimits,
)
from appliance.assembly import build_formats
from appliance.config import Config, dump_config
from appliance.detect.sigma.values import Value, flatten, fold, write_text
from appliance.errors import ApplianceError, ArchiveError, StoreError
from appliance.pipeline import read_event
from appliance.schema import Event, OnStep, RawRecord, Rejected, ignore_step
from appliance.store import Store
from appliance.worker_frames import read_frame, write_frame

log = logging.getLogger("appliance")

#: Seconds between two looks of the keeper, and before it tries again what failed.
LOOK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 60.0
#: A segment takes a minute or two at the lowest priority; a child that says nothing for so long
#: hangs.
HUNG_SECONDS: Final = 3600.0


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """To the converter, first: the whole configuration."""

    config: str


class Convert(msgspec.Struct, frozen=True, tag="convert"):
    """To the converter: a segment, and how much of it is good."""

    name: str
    length: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """From the converter: what came of it, or why nothing did."""

    converted: Converted | None
    reason: str = ""


def fold_texts(raw: Any) -> Sequence[str]:
    """The texts of a field's value as the matcher compares them, without case."""
    if type(raw) is str:
        return (fold(raw),)
    if type(raw) is int:
        return (write_text(raw),)
    if raw is None:
        return ()
    return [Value(scalar).folded for scalar in flatten(raw)]


def build_read(config: Config) -> ReadRecord:
    """Reads an archived record as the line would under this configuration; None where it would be
    rejected."""
    zones = {spec.name: ZoneInfo(spec.timezone) for spec in config.sources}
    formats = build_formats(config)

    def read(record: RawRecord) -> Event | None:
        result = read_event(record, zones.get(record.source, UTC), formats)
        return None if isinstance(result, Rejected) else result[0].event

    return read


def open_writer(
    config: Config,
    number: int,
    clock: Callable[[], float],
    on_step: OnStep = ignore_step,
) -> ArchiveWriter | None:
    """What writes the archive in the line; None where it is switched off. Of writers of one daemon
    each has a number of its own."""
    settings = config.archive
    if not settings.enabled:
        return None
    limits = SegmentLimits(settings.segment_bytes, settings.segment_events, settings.min_free)
    return ArchiveWriter(config.archive_path, number, clock=clock, limits=limits, on_step=on_step)


def open_archive(config: Config, store: Store) -> Archive | None:
    """The archive to read from, as far as the store knows of it; None where there is none."""
    if not config.archive_path.is_dir():
        return None
    return Archive(config.archive_path, build_read(config), segments=store.segments)


def open_folder(folder: Path, config: Config) -> Archive:
    """An archive's folder without its store: what it holds is taken as it is."""
    if not folder.is_dir():
        raise ArchiveError(f"{folder}: no such folder")
    return Archive(folder, build_read(config))


def convert_rest(config: Config, store: Store) -> int:
    """Convert every segment, here and now: for who has just closed the only writer. Gives their
    number. Raises ArchiveError, StoreError, OSError."""
    read = build_read(config)
    rows = [row for row in store.segments() if row.state == "open"]
    for row in rows:
        done = convert_segment(
            config.archive_path, row.name, row.bytes, read=read, texts=fold_texts
        )
        settle(store, config.archive_path, row, done)
    return len(rows)


def settle(store: Store, folder: Path, row: SegmentRow, done: Converted) -> None:
    """Record that a segment is a Parquet file now, then delete it. Raises StoreError, OSError."""
    changed = msgspec.structs.replace(
        row, state="parquet", stored=done.bytes, first=done.first, last=done.last
    )
    store.settle_segment(changed, done.unread)
    (folder / SEGMENTS / (row.name + SEGMENT_SUFFIX)).unlink(missing_ok=True)


class ArchiveKeeper:
    """Converts and expires, in a thread of its own. `recover` comes before anybody writes."""

    def __init__(self, config: Config, store: Store, clock: Callable[[], float]) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        #: Names of segments that the last run has left.
        self._left: frozenset[str] = frozenset()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._retry_at = -math.inf
        self._error = ""
        self._foreign = 0

    def recover(self) -> None:
        """Bring folder and store together after whatever ended the last run. Raises nothing."""
        folder = self._config.archive_path
        if not folder.is_dir():
            return
        try:
            rows = self._store.segments()
            self._left = frozenset(row.name for row in rows)
            found = recover_folder(folder, rows)
            for row in rows:
                if row.name in found.found:
                    done = msgspec.structs.replace(
                        row, state="parquet", stored=found.found[row.name]
                    )
                    self._store.settle_segment(done)
            if found.missing:
                self._store.drop_segments(found.missing, "missing")
        except (OSError, StoreError) as error:
            self._note(error)
            return
        self._foreign = found.foreign
        if found.cut or found.dropped:
            log.info(
                "archive: %d segments cut by %d bytes, %d dropped, of batches that were never"
                " stored", found.cut, found.cut_bytes, found.dropped,
            )  # fmt: skip
        if found.missing:
            log.warning("archive: %d parts are not there any more", len(found.missing))

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def set_config(self, config: Config) -> None:
        """Go on under another configuration (of the same folder)."""
        self._config = config
        self._retry_at = -math.inf
        self._wake.set()

    def close(self) -> None:
        """End; a conversion that is under way is begun anew by the next run."""
        self._ended.set()
        self._wake.set()
        child = self._child
        if child is not None:
            with suppress(OSError):
                child.kill()
        if self._thread is not None:
            self._thread.join()

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        return {
            "enabled": self._config.archive.enabled,
            "path": str(self._config.archive_path),
            "error": self._error,
            "foreign": self._foreign,
        }

    def tend(self) -> None:
        """One look: convert what is sealed, let go what must go. Raises nothing."""
        try:
            self._expire()
            self._convert()
        except (OSError, ApplianceError) as error:
            if not self._ended.is_set():
                self._note(error)
                self._retry_at = self._clock() + RETRY_SECONDS

    def _run(self) -> None:
        while not self._ended.is_set():
            now = self._clock()
            if not self._retry_at - RETRY_SECONDS <= now < self._retry_at:
                self.tend()
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()

    def _note(self, error: Exception) -> None:
        text = str(error)
        if text != self._error:
            log.error("archive: %s", text)
        self._error = text

    def _expire(self) -> None:
        settings = self._config.archive
        rows = self._store.segments()
        old, over = choose_expired(
            rows, self._clock(), keep=settings.keep, max_bytes=settings.max_bytes
        )
        for gone, why in ((old, "expired"), (over, "over_bytes")):
            for row in gone:
                delete_part(self._config.archive_path, row)
            if gone:
                self._store.drop_segments(gone, why)

    def _convert(self) -> None:
        sealed = list_sealed(self._store.segments(), self._clock(), self._left)
        if not sealed:
            self._error = ""
            return
        self._child = child = self._spawn()
        failed: Exception | None = None
        try:
            for row in sealed:
                if self._ended.is_set():
                    return
                try:
                    done = self._ask(child, row)
                    settle(self._store, self._config.archive_path, row, done)
                except ArchiveError as error:  # the others need not wait for a damaged one
                    failed = error
                    if child.poll() is not None:
                        break
        finally:
            self._child = None
            _end(child)
        if failed is not None:
            raise failed
        self._error = ""

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-m", "appliance.converter", "--parent", str(os.getpid())]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=child_environment(),
        )
        try:
            write_frame(_pipe(child.stdin), Begin(dump_config(self._config)))
        except OSError:
            _end(child)
            raise
        return child

    def _ask(self, child: "subprocess.Popen[bytes]", row: SegmentRow) -> Converted:
        watch = threading.Timer(HUNG_SECONDS, child.kill)
        watch.daemon = True
        watch.start()
        try:
            write_frame(_pipe(child.stdin), Convert(row.name, row.bytes))
            answer = read_frame(_pipe(child.stdout), msgspec.msgpack.Decoder(Done))
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise ArchiveError(f"the converter ended: {error}") from error
        finally:
            watch.cancel()
        if answer is None:
            raise ArchiveError("the converter ended")
        if answer.converted is None:
            raise ArchiveError(answer.reason)
        return answer.converted


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """Raises OSError where there is none."""
    if pipe is None:
        raise OSError("no pipe")
    return pipe


def _end(child: "subprocess.Popen[bytes]") -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
