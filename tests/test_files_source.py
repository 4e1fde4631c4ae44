"""The file source: growth, rotation, restarts, odd files. Every record once, in order."""

import gzip
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import appliance.sources.files
from appliance.errors import SourceError
from appliance.schema import Checkpoint, SourceBatch
from appliance.sources.files import GRACE_SECONDS, FilesSource
from appliance.sources.streams import open_stream


class Clock:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """A source and the checkpoints a store would hold for it."""

    def __init__(self, *patterns: str, start_at: str = "beginning") -> None:
        self.patterns = patterns
        self.start_at = start_at
        self.clock = Clock()
        self.rows: dict[str, Checkpoint] = {}
        self.source = self.make()

    def make(self) -> FilesSource:
        return FilesSource(
            "test",
            self.patterns,
            clock=self.clock,
            checkpoints=list(self.rows.values()),
            start_at=self.start_at,
        )

    def restart(self) -> None:
        self.source.close()
        self.source = self.make()

    def store(self, batch: SourceBatch) -> None:
        for checkpoint in batch.checkpoints:
            if checkpoint.state:
                self.rows[checkpoint.key] = checkpoint
            else:
                self.rows.pop(checkpoint.key)
        self.source.commit()

    def read(self, limit: int = 1000) -> list[str]:
        self.clock.now += 10  # a rescan is due
        lines: list[str] = []
        for _ in range(50):
            batch = self.source.poll(limit)
            self.store(batch)
            lines += [record.data.decode() for record in batch.records]
            if not self.source.has_more:
                break
        return lines


def append(path: Path, text: str) -> None:
    with path.open("a") as handle:
        handle.write(text)


def test_growth_partial_lines_and_restart(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("one\ntwo\nthr")
    reader = Reader(str(tmp_path / "*.log"))
    assert reader.read() == ["one", "two"]
    assert reader.source.describe()["bytes_unfinished"] == 3
    append(log, "ee\nfour\n")
    assert reader.read() == ["three", "four"]
    reader.restart()
    assert reader.read() == []
    append(log, "five\n")
    assert reader.read() == ["five"]


def test_rename_and_create_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n2\n")
    reader = Reader(str(log))
    assert reader.read() == ["1", "2"]
    append(log, "3\n")
    log.rename(tmp_path / "a.log.1")
    append(tmp_path / "a.log.1", "4\n")
    log.write_text("1\n2\n")  # the same text again: another file, other records
    assert sorted(reader.read()) == ["1", "2", "3", "4"]
    append(tmp_path / "a.log.1", "5 without newline")
    assert reader.read() == []
    reader.clock.now += GRACE_SECONDS
    assert reader.read() == ["5 without newline"]
    append(log, "6\n")
    assert reader.read() == ["6"]


def test_rotation_while_stopped(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    reader = Reader(str(log))
    assert reader.read() == ["1"]
    reader.source.close()
    append(log, "2\n")
    log.rename(tmp_path / "a.log.1")
    log.write_text("3\n")
    reader.source = reader.make()
    assert sorted(reader.read()) == ["2", "3"]


def test_ids_of_equal_records_differ_over_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    reader = Reader(str(log))
    log.write_text("same\n")
    reader.clock.now += 10
    first = reader.source.poll(10)
    reader.store(first)
    log.rename(tmp_path / "a.log.1")
    log.write_text("same\n")
    reader.clock.now += 10
    second = reader.source.poll(10)
    assert first.records[0].data == second.records[0].data
    assert first.records[0].logical != second.records[0].logical


def test_rewind_gives_the_same_records_again(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"{i}\n" for i in range(100)))
    reader = Reader(str(log))
    reader.clock.now += 10
    first = reader.source.poll(10)
    assert len(first.records) >= 10
    reader.source.rewind()
    again = reader.source.poll(10)
    assert [r.cursor for r in again.records] == [r.cursor for r in first.records]
    reader.store(again)
    rest = reader.read()
    assert len(first.records) + len(rest) == 100


def test_start_at_end_skips_only_what_was_there(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\nold\nhalf of a l")
    reader = Reader(str(tmp_path / "*.log"), start_at="end")
    assert reader.read() == []
    append(log, "ine\nnew\n")
    (tmp_path / "b.log").write_text("whole\n")
    assert sorted(reader.read()) == ["half of a line", "new", "whole"]
    reader.restart()
    (tmp_path / "c.log").write_text("later\n")
    assert reader.read() == ["later"]


def test_start_at_end_reads_what_came_while_it_was_down(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path / "*.log"), start_at="end")
    assert reader.read() == []  # nothing there yet, but the source has begun
    (tmp_path / "a.log").write_text("came while down\n")
    reader.restart()
    assert reader.read() == ["came while down"]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.log"))
    literal = tmp_path / "a\\xff.log"
    odd.write_text("1\n")
    literal.write_text("2\n")
    reader = Reader(str(tmp_path / "*.log"))
    assert sorted(reader.read()) == ["1", "2"]
    assert all(key.isascii() for key in reader.rows)
    reader.restart()
    append(odd, "3\n")
    append(literal, "4\n")
    assert sorted(reader.read()) == ["3", "4"]


def test_an_unreadable_file_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_text("1\n")
    reader = Reader(str(tmp_path / "*.log"))

    def refuse(*_: object) -> None:
        raise SourceError("a.log: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("appliance.sources.files.open_stream", refuse)
        batches = []
        for _ in range(4):
            reader.clock.now += 10
            batches.append(reader.source.poll(10))
            reader.store(batches[-1])
        assert [len(batch.rejected) for batch in batches] == [1, 0, 0, 0]
        assert reader.source.describe()["unreadable_files"] == 1
    assert reader.read() == ["1"]
    assert reader.source.describe()["unreadable_files"] == 0


def test_deleted_while_open_is_read_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    reader = Reader(str(log))
    assert reader.read() == ["1"]
    append(log, "2\nlast")
    log.unlink()
    assert reader.read() == ["2"]  # its writer may still have it open
    log.write_text("1\n")
    assert reader.read() == ["1"]
    reader.clock.now += GRACE_SECONDS
    assert reader.read() == ["last"]
    assert any(key.endswith("#1") for key in reader.rows)


def test_cut_in_place_starts_again_and_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n2\n3\n")
    reader = Reader(str(log))
    assert reader.read() == ["1", "2", "3"]
    log.write_text("4\n")
    assert reader.read() == ["4"]
    assert reader.source.describe()["truncated_files"] == 1


def test_inode_reused_by_another_file(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("first file\n")
    reader = Reader(str(log))
    assert reader.read() == ["first file"]
    reader.source.close()
    inode = log.stat().st_ino
    with log.open("r+") as handle:  # same inode, other first bytes: what reuse looks like
        handle.truncate(0)
        handle.write("other file, longer\n")
    assert log.stat().st_ino == inode
    reader.source = reader.make()
    assert reader.read() == ["other file, longer"]


def test_gzip_binary_and_utf16(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"1\n2\n"))
    (tmp_path / "b.bin").write_bytes(b"\x00\x01" * 5000)
    (tmp_path / "c.txt").write_bytes("wide\n".encode("utf-16"))
    (tmp_path / "d.gz").write_bytes(gzip.compress(b"3\n" * 1000)[:-20])
    for path in tmp_path.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    reader = Reader(str(tmp_path / "*"))
    reader.clock.now += 10
    batch = reader.source.poll(10_000)
    reader.store(batch)
    assert [r.data for r in batch.records if r.path.endswith("a.gz")] == [b"1", b"2"]
    reasons = {Path(r.record.path).name: r.reason for r in batch.rejected}
    assert set(reasons) == {"b.bin", "c.txt", "d.gz"}
    assert "binary" in reasons["b.bin"]
    assert "UTF-16" in reasons["c.txt"]
    assert "cannot be read further" in reasons["d.gz"] or "gzip" in reasons["d.gz"]
    reader.restart()
    reader.clock.now += 10
    assert reader.source.poll(10).rejected == []  # said once, not once a start


def test_packed_file_waits_until_nobody_writes(tmp_path: Path) -> None:
    pack = tmp_path / "a.gz"
    pack.write_bytes(gzip.compress(b"1\n"))
    reader = Reader(str(pack))
    reader.clock.now = pack.stat().st_mtime + 0.2
    assert reader.source.poll(10).records == []
    reader.clock.now += 5
    assert [r.data for r in reader.source.poll(10).records] == [b"1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_said(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    log.chmod(0)
    reader = Reader(str(log))
    reader.clock.now += 10
    assert "Permission" in reader.source.poll(10).rejected[0].reason


def poll_soon(source: FilesSource) -> list[bytes]:
    """What it gives within 5 s: the kernel tells of a new file before anything is in it."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if records := source.poll(10).records:
            return [record.data for record in records]
        time.sleep(0.02)
    return []


def test_watchdog_wakes_on_growth_and_new_files(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    reader = Reader(str(tmp_path / "*.log"))
    woken = threading.Event()
    reader.source.start(woken.set)
    try:
        assert reader.read() == ["1"]
        woken.clear()
        append(log, "2\n")
        assert woken.wait(5)
        assert poll_soon(reader.source) == [b"2"]  # no rescan was due
        woken.clear()
        (tmp_path / "b.log").write_text("3\n")
        assert woken.wait(5)
        assert poll_soon(reader.source) == [b"3"]
    finally:
        reader.source.close()


def test_a_rotation_between_look_and_open_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there when the folder is listed, and elsewhere when it is opened."""
    log = tmp_path / "a.log"
    append(log, "one\n")
    reader = Reader(str(log))
    real = open_stream

    def rotate_first(*args: Any) -> Any:
        if log.exists():
            log.rename(tmp_path / "a.log.1")
        return real(*args)

    monkeypatch.setattr(appliance.sources.files, "open_stream", rotate_first)
    batch = reader.source.poll(10)
    assert (batch.records, batch.rejected) == ([], [])
    assert reader.read() == ["one"]
    assert reader.source.describe()["unreadable_files"] == 0
    append(log, "two\n")
    monkeypatch.setattr(appliance.sources.files, "open_stream", real)
    assert reader.read() == ["two"]
