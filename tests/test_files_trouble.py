"""The file source in trouble: links, copies, holes, hostile files, failing stores. Every record
once, none lost without a word, and no file that stops the others."""

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from appliance.sources.files import GRACE_SECONDS, FilesSource
from appliance.sources.streams import _record_number
from appliance.sources.tracking import list_files, translate_pattern
from tests.conftest import FindData
from tests.test_files_source import Reader, append


def numbered(first: int, last: int) -> str:
    """Lines long enough that a few make a file known by its beginning and end."""
    return "".join(f"line {n:06} {'x' * 40}\n" for n in range(first, last + 1))


def numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines]


def read_all(reader: Reader, times: int = 3) -> list[int]:
    found: list[int] = []
    for _ in range(times):
        found += numbers(reader.read())
    return found


def test_links_to_one_file_are_one_file(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    (tmp_path / "b.log").symlink_to(log)
    (tmp_path / "c.log").hardlink_to(log)
    reader = Reader(str(tmp_path / "*.log"))
    assert reader.read() == ["1"]
    (tmp_path / "0.log").hardlink_to(log)
    append(log, "written in ")
    assert reader.read() == []
    reader.clock.now += GRACE_SECONDS * 2
    assert reader.read() == []  # not renamed: the line is not at its end
    append(log, "two pieces\n")
    assert reader.read() == ["written in two pieces"]


def test_folders_that_link_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.log").write_text("2\n")
    for name in ("x", "y", "z"):
        (tmp_path / name).symlink_to(".")
    for pattern in (str(tmp_path), f"{tmp_path}/**/*.log", f"{tmp_path}/**"):
        assert sorted(Reader(pattern).read()) == ["1", "2"], pattern


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/l/**/*.log", "/l/a.log", True),
        ("/l/**/*.log", "/l/x/y/a.log", True),
        ("/l/**/*.log", "/l/a.txt", False),
        ("/l/**/[ab]?.log", "/l/q/b7.log", True),
        ("/l/**/[!ab]?.log", "/l/q/b7.log", False),
        ("/l/**", "/l/x/y", True),
        ("/l/**/x.log", "/lx.log", False),
    ],
)
def test_patterns_over_folders(pattern: str, path: str, matches: bool) -> None:
    assert bool(translate_pattern(pattern).fullmatch(path)) is matches


@pytest.mark.parametrize("pattern", ["/no/such/*.log", "/" + "n" * 300 + "/*.log", "/tmp/a\0b"])
def test_patterns_that_lead_nowhere(pattern: str) -> None:
    assert Reader(pattern).read() == []


def test_a_folder_that_may_not_be_looked_into_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    listing = list_files([f"{tmp_path}/*.log"], 10)
    assert "Permission" in listing.problems[str(tmp_path)]
    reader = Reader(f"{tmp_path}/*.log")
    reader.clock.now += 10
    assert "Permission" in reader.source.poll(10).rejected[0].reason


def test_cut_and_grown_again_between_two_looks(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(numbered(1, 40))
    reader = Reader(str(log))
    assert read_all(reader) == list(range(1, 41))
    append(log, "half a li")
    reader.read()
    log.write_text(numbered(101, 200))  # the same inode, longer than before
    assert read_all(reader) == list(range(101, 201))
    assert reader.source.describe()["truncated_files"] == 1


def test_cut_and_grown_again_with_the_same_beginning(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    header = "#Fields: " + "f " * 200 + "\n"
    log.write_text(header + numbered(1, 40))
    reader = Reader(str(log))
    assert len(reader.read()) == 40  # the header is no record
    log.write_text(header + numbered(101, 200))
    assert len(reader.read()) == 100


def test_copytruncate_under_a_pattern_that_takes_the_copy(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(numbered(1, 40))
    reader = Reader(str(tmp_path / "a.log*"))
    assert read_all(reader) == list(range(1, 41))
    append(log, numbered(41, 50))
    shutil.copy(log, tmp_path / "a.log.1")
    log.write_text(numbered(51, 55))
    assert sorted(read_all(reader)) == list(range(41, 56))
    assert reader.source.describe()["copies_followed"] == 1


def test_a_rotated_file_that_is_compressed(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(numbered(1, 60))
    reader = Reader(str(tmp_path / "a.log*"))
    assert read_all(reader) == list(range(1, 61))
    log.rename(tmp_path / "a.log.1")
    append(tmp_path / "a.log.1", numbered(61, 70))
    log.write_text(numbered(71, 75))
    assert sorted(read_all(reader)) == list(range(61, 76))
    packed = tmp_path / "a.log.2.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.log.1").read_bytes()))
    os.utime(packed, (1_700_000_000, 1_700_000_000))
    (tmp_path / "a.log.1").unlink()
    assert read_all(reader) == []
    reader.restart()
    assert read_all(reader) == []


def test_files_that_only_begin_alike_are_read_whole(tmp_path: Path) -> None:
    header = "#Fields: " + "f " * 400 + "\n"
    (tmp_path / "a.log").write_text(header + numbered(1, 30))
    reader = Reader(str(tmp_path / "*.log"))
    assert len(reader.read()) == 30
    (tmp_path / "b.log").write_text(header + numbered(101, 160))
    assert len(reader.read()) == 60


def test_moved_to_a_folder_that_no_pattern_names(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    reader = Reader(str(tmp_path / "*.log"))
    assert reader.read() == ["1"]
    (tmp_path / "old").mkdir()
    log.rename(tmp_path / "old" / "a.log")
    reader.read()
    append(tmp_path / "old" / "a.log", "2\n")
    assert reader.read() == ["2"]


def test_moved_to_another_folder_of_the_pattern(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    log = tmp_path / "new" / "a.log"
    log.write_text("1\n")
    reader = Reader(str(tmp_path))
    assert reader.read() == ["1"]
    log.rename(tmp_path / "old" / "b.log")
    append(tmp_path / "old" / "b.log", "2\n")
    assert reader.read() == ["2"]


def test_a_store_that_fails_while_the_file_is_deleted(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n")
    reader = Reader(str(log))
    assert reader.read() == ["1"]
    append(log, "2\n3")
    log.unlink()
    for _ in range(3):
        reader.clock.now += GRACE_SECONDS + 10
        reader.source.poll(10)
        reader.source.rewind()
    log.write_text("4\n")
    found = reader.read()
    reader.clock.now += GRACE_SECONDS
    assert sorted(found + reader.read()) == ["2", "3", "4"]


def test_markers_of_deleted_files_do_not_fill_the_cap(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path / "*.log"))
    reader.source = FilesSource("test", reader.patterns, clock=reader.clock, files_cap=5)
    found = []
    for number in range(30):
        log = tmp_path / f"{number}.log"
        log.write_text(f"{number}\n")
        found += reader.read()
        log.unlink()
        reader.clock.now += GRACE_SECONDS + 1
        found += reader.read()
    assert found == [str(number) for number in range(30)]
    assert len(reader.rows) < 12


def test_files_over_the_cap_are_counted_and_read_later(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path / "*.log"))
    reader.source = FilesSource("test", reader.patterns, clock=reader.clock, files_cap=3)
    for number in range(5):
        (tmp_path / f"{number}.log").write_text(f"{number}\n")
    assert sorted(reader.read()) == ["0", "1", "2"]
    assert reader.source.describe()["files_over_cap"] == 2
    (tmp_path / "0.log").unlink()
    assert reader.read() == ["3"]


def test_a_hole_in_front_and_text_that_looks_like_a_picture(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n" * 100)
    reader = Reader(str(tmp_path / "*.log"))
    assert len(reader.read()) == 100
    with log.open("r+b") as writer:  # copytruncate under a writer that does not append
        writer.seek(0, os.SEEK_END)
        os.truncate(log, 0)
        writer.write(b"first behind the hole\n")
    assert reader.read() == ["first behind the hole"]
    (tmp_path / "gif.log").write_text("GIF8 begins this log\nsecond\n")
    assert reader.read() == ["GIF8 begins this log", "second"]


def test_an_endless_file_does_not_stop_the_others(tmp_path: Path) -> None:
    endless = tmp_path / "0-endless.log"
    with endless.open("wb") as out:
        out.write(b"text " * 500 + b"\n")
        out.truncate(1 << 42)
    blank = tmp_path / "1-blank.log"
    blank.write_bytes(b"\n" * (20 << 20))
    (tmp_path / "2.log").write_text("found\n")
    reader = Reader(str(tmp_path / "*.log"))
    began = time.monotonic()
    found: list[bytes] = []
    for _ in range(6):
        reader.clock.now += 10
        batch = reader.source.poll(1000)
        reader.store(batch)
        found += [record.data for record in batch.records]
    assert b"found" in found
    assert time.monotonic() - began < 20
    before = reader.source._tracked[f"{blank}#0"].state.position
    assert before > 0  # it goes on behind what it has passed, also after a restart
    reader.restart()
    reader.clock.now += 10
    reader.source.poll(1000)
    assert reader.source._tracked[f"{blank}#0"].state.position >= before


def test_an_overlong_line_is_taken_up_after_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("wb") as out:
        for _ in range(30):
            out.write(b"x" * (1 << 20))
    reader = Reader(str(log))
    positions = []
    for _ in range(5):
        reader.clock.now += 10
        batch = reader.source.poll(1000)
        assert not batch.records
        reader.store(batch)
        positions.append(reader.source._tracked[f"{log}#0"].state.position)
        reader.restart()
    assert positions[0] > 0
    assert positions == sorted(positions)
    append(log, "\nafter\n")
    rejected = []
    records: list[bytes] = []
    for _ in range(6):
        reader.clock.now += 10
        batch = reader.source.poll(1000)
        reader.store(batch)
        rejected += batch.rejected
        records += [record.data for record in batch.records]
    assert [r.record.truncated for r in rejected] == [30 << 20]
    assert records == [b"after"]


def test_one_broken_first_line_hides_nothing(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    good = json.dumps({"EventID": 1, "CommandLine": "vssadmin"})
    log.write_text('{"EventID":1,"CommandLine":"cut off by a crash\n' + f"{good}\n" * 20)
    assert Reader(str(log)).read().count(good) == 20
    log.write_text("{ hello\n" + f"{good}\n" * 20)
    assert Reader(str(log)).read().count(good) >= 19


def test_a_fixed_format_of_lines_is_framed_by_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("{ hello\nNov 22 09:00:00 h sshd[1]: x\n")
    reader = Reader(str(log))
    reader.source = FilesSource("test", reader.patterns, clock=reader.clock, format="syslog3164")
    assert len(reader.read()) == 2


def test_an_array_that_is_written_live(tmp_path: Path) -> None:
    log = tmp_path / "a.json"
    log.write_text("[")
    reader = Reader(str(log))
    assert reader.read() == []
    append(log, '\n{"a": 1},')
    assert reader.read() == ['{"a": 1}']
    append(log, '\n{"a":\n 2}\n]')
    assert reader.read() == ['{"a":\n 2}']


def test_gzip_that_pauses_while_it_is_copied(tmp_path: Path) -> None:
    whole = gzip.compress(numbered(1, 3000).encode())
    packed = tmp_path / "a.gz"
    packed.write_bytes(whole[: len(whole) // 2])
    reader = Reader(str(packed))
    reader.clock.now = packed.stat().st_mtime + 3
    found = numbers(reader.read(limit=10_000))
    packed.write_bytes(whole)
    os.utime(packed, (reader.clock.now - 5, reader.clock.now - 5))
    found += numbers(reader.read(limit=10_000))
    assert found == list(range(1, 3001))


def test_gzip_that_stays_damaged_is_rejected_in_the_end(tmp_path: Path) -> None:
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(numbered(1, 3000).encode())[:-200])
    reader = Reader(str(packed))
    reader.clock.now = packed.stat().st_mtime + 3
    rejected = []
    for _ in range(12):
        batch = reader.source.poll(10_000)
        reader.store(batch)
        rejected += batch.rejected
        reader.clock.now += 10
    assert [r.reason.split(":")[0] for r in rejected] == ["cannot be read further"]


def test_an_evtx_whose_header_changes_is_not_read_again(
    shared_data: FindData, tmp_path: Path
) -> None:
    original = shared_data("windows") / "evtx-attack-samples" / "UACME_59_Sysmon.evtx"
    log = tmp_path / "a.evtx"
    shutil.copy(original, log)
    os.utime(log, (1_700_000_000, 1_700_000_000))
    reader = Reader(str(log))
    count = len(reader.read(limit=10_000))
    assert count == 7
    with log.open("r+b") as file:  # the flag of a log that was not closed properly
        file.seek(120)
        file.write(b"\x01")
    assert reader.read(limit=10_000) == []
    reader.restart()
    assert reader.read(limit=10_000) == []


def test_an_evtx_that_is_still_being_copied(shared_data: FindData, tmp_path: Path) -> None:
    whole = (shared_data("windows") / "evtx-attack-samples" / "UACME_59_Sysmon.evtx").read_bytes()
    full, log = tmp_path / "full.evtx", tmp_path / "a.evtx"
    full.write_bytes(whole)
    os.utime(full, (1_700_000_000, 1_700_000_000))
    expected = Reader(str(full)).read(limit=10_000)
    log.write_bytes(whole[: 4096 + 30_000])
    reader = Reader(str(log))
    reader.clock.now = log.stat().st_mtime + 3
    found = reader.read(limit=10_000)
    log.write_bytes(whole)
    os.utime(log, (reader.clock.now - 5, reader.clock.now - 5))
    found += reader.read(limit=10_000)
    assert found == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(7, 7), (0, 0), (-1, 3), (1 << 63, 3), (None, 3), ("7", 3)]
)
def test_record_numbers_that_no_database_takes(number: object, expected: int) -> None:
    assert _record_number({"event_record_id": number}, 3) == expected


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path / "*.log"))
    reader.read()
    reader.clock.now -= 86_400
    (tmp_path / "a.log").write_text("1\n")
    assert reader.read() == ["1"]


def test_a_watched_folder_that_is_made_anew(tmp_path: Path) -> None:
    import threading

    folder = tmp_path / "logs"
    folder.mkdir()
    reader = Reader(str(folder / "*.log"))
    woken = threading.Event()
    reader.source.start(woken.set)
    try:
        reader.read()
        folder.rmdir()
        reader.read()
        folder.mkdir()
        reader.read()
        woken.clear()
        (folder / "a.log").write_text("1\n")
        assert woken.wait(5)
    finally:
        reader.source.close()


def test_without_an_inotify_instance_the_rescan_finds_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr("appliance.sources.files.Observer", refuse)
    source = FilesSource("test", [str(tmp_path / "a.log")], clock=time.time)
    source.start(lambda: None)
    append(tmp_path / "a.log", "one\n")
    assert [record.data for record in source.poll(10).records] == [b"one"]
    assert source.describe()["watching"] is False
    source.close()
