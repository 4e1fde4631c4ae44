"""The archive: exactly the committed events, byte for byte, whatever ends the daemon when."""

import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.archive.columns import SEPARATOR, make_row
from appliance.archive.convert import convert_segment
from appliance.archive.database import SCRATCH, Database
from appliance.archive.filters import EVERYTHING, has_entity, has_text
from appliance.archive.reader import Archive
from appliance.archive.rows import Growth, SegmentRow
from appliance.archive.segments import MAGIC, read_segment
from appliance.archive.upkeep import choose_expired, list_sealed, recover_folder
from appliance.archive.writer import (
    HOUR,
    PARQUET,
    RETRY_SECONDS,
    SEGMENT_SUFFIX,
    SEGMENTS,
    ArchiveWriter,
    SegmentLimits,
)
from appliance.archiving import ArchiveKeeper, convert_rest, fold_texts, open_archive, open_writer
from appliance.cli import main
from appliance.config import ArchiveSettings, Config, FilesSource, load_config
from appliance.converter import lower_priority
from appliance.daemon import Daemon
from appliance.errors import ArchiveError
from appliance.schema import (
    Cursor,
    Entity,
    Event,
    LogSource,
    RawRecord,
    View,
    event_id,
)
from appliance.store import Store
from tests.archives import NOW, READ, build_archive, convert, make_raw, write_archive
from tests.builders import make_batch
from tests.crash.scene import Scene
from tests.test_daemon import wait_for


def log_line(number: int, **fields: object) -> str:
    """A Sysmon event as a forwarder writes it."""
    return json.dumps({
        "EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational",
        "SourceName": "Microsoft-Windows-Sysmon", "Hostname": f"ws{number % 5}.example.test",
        "UtcTime": f"2026-11-22 09:{number // 60 % 60:02}:{number % 60:02}.000",
        "Image": "C:\\Windows\\System32\\cmd.exe", "CommandLine": f"cmd /c echo {number}", **fields,
    })  # fmt: skip


def log_rows(count: int, first: int = 0) -> list[RawRecord]:
    return [make_raw(log_line(first + n), first + n, form="json") for n in range(count)]


def segment(folder: Path, growth: Growth) -> Path:
    return folder / SEGMENTS / (growth.name + SEGMENT_SUFFIX)


def make_writer(folder: Path, clock: Any = lambda: NOW, **limits: int) -> ArchiveWriter:
    return ArchiveWriter(folder, 0, clock=clock, limits=SegmentLimits(**limits))


def put(writer: ArchiveWriter, rows: list[RawRecord]) -> Growth:
    for row in rows:
        writer.add(row, row.received)
    flushed = writer.flush()
    assert flushed.archived == len(rows), writer.error
    return flushed.growths[-1]


HOSTILE = [
    b"", b"\0", b"\xff\xfe\x00", b"\r\n\r\n", b"'; DROP TABLE segments; --", b"\x1b[2J\x1b]0;x\x07",
    SEPARATOR.encode() * 3, b"{" * 500, b"\\" * 99, "\u202e\ud7ff\U0010ffff".encode(), b"a" * 2**21,
]  # fmt: skip


# -- segments --------------------------------------------------------------------------------------


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    rows = []
    for n, data in enumerate(HOSTILE):
        source, header = f"s{n % 2}", b"#fields\ta\n" * (n % 3)
        cursor = Cursor(source, f"k\udc80{n % 3}", n, 2**62)
        path = f"/x\udcff{n}"
        rows.append(
            RawRecord(data, source, path, "l\ud800", cursor, NOW + n, "auto", n * 7, header)
        )
    writer = make_writer(tmp_path)
    growth = put(writer, rows)
    assert list(read_segment(segment(tmp_path, growth), growth.bytes)) == rows
    assert list(read_segment(segment(tmp_path, growth))) == rows


def test_a_segment_ends_when_it_is_full_or_the_hour_is_over(tmp_path: Path) -> None:
    now = [NOW]
    writer = make_writer(tmp_path, lambda: now[0], events=10)
    names = []
    for number in range(4):
        names.append(put(writer, log_rows(6, number * 6)).name)
        writer.commit()
    now[0] += HOUR
    names.append(put(writer, log_rows(1)).name)
    assert names[0] == names[1]
    assert names[2] == names[3]
    assert len(set(names)) == 3


def test_what_is_not_stored_is_not_kept(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    first = put(writer, log_rows(5))
    writer.commit()
    put(writer, log_rows(5, 5))
    writer.rewind()
    assert segment(tmp_path, first).stat().st_size == first.bytes
    again = put(writer, log_rows(3, 5))
    writer.commit()
    assert again.name == first.name
    assert list(read_segment(segment(tmp_path, again), again.bytes)) == log_rows(8)
    fresh = make_writer(tmp_path / "other")
    lost = put(fresh, log_rows(2))
    fresh.rewind()
    assert not segment(tmp_path / "other", lost).exists()


def test_a_segment_that_is_damaged_says_so(tmp_path: Path) -> None:
    (growth,) = write_archive(tmp_path, log_rows(50), batch=10)
    path = segment(tmp_path, growth)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="damaged"):
        list(read_segment(path, growth.bytes))
    assert 0 < len(list(read_segment(path))) < 50
    rows = [as_row(growth)]
    found = Archive(tmp_path, READ, segments=lambda: rows).hunt(EVERYTHING, lambda _: (), limit=100)
    assert found.hits
    assert "damaged" in found.gone[0]


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_a_reader_fall(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.seg"
        path.write_bytes(MAGIC + data)
        assert list(read_segment(path)) == []


def test_a_disk_that_is_full_loses_and_counts_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [NOW]
    writer = make_writer(tmp_path, lambda: now[0])
    first = put(writer, log_rows(5))
    writer.commit()
    whole, real = os.write, []

    def write_some(file: int, data: Any) -> int:
        real.append(len(data))
        if len(real) > 1:
            raise OSError(28, "No space left on device")
        return whole(file, bytes(data)[:7])

    monkeypatch.setattr(os, "write", write_some)
    for row in log_rows(4, 5):
        writer.add(row, NOW)
    flushed = writer.flush()
    assert (flushed.growths, flushed.archived, flushed.lost) == ([], 0, 4)
    assert "No space left" in writer.error
    writer.commit()
    monkeypatch.undo()
    writer.add(log_rows(1)[0], NOW)
    assert writer.flush().lost == 1  # not tried again at once
    now[0] += RETRY_SECONDS
    again = put(writer, log_rows(2, 20))
    assert writer.error == ""
    assert list(read_segment(segment(tmp_path, first), first.bytes)) == log_rows(5)
    assert list(read_segment(segment(tmp_path, again), again.bytes)) == log_rows(2, 20)


def test_room_on_the_disk_is_left(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, min_free=1 << 60)
    writer.add(log_rows(1)[0], NOW)
    assert writer.flush().lost == 1
    assert "min_free" in writer.error


# -- conversion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("converted", ["none", "all"])
def test_every_event_is_there_byte_for_byte(tmp_path: Path, converted: str) -> None:
    rows = log_rows(200) + [make_raw(data, 1000 + n) for n, data in enumerate(HOSTILE) if data]
    rows += [
        make_raw(log_line(n, CommandLine=data.decode("utf-8", "replace")), 2000 + n, form="json")
        for n, data in enumerate(HOSTILE[:-1])
    ]
    rows.append(
        RawRecord(
            log_line(1).encode(), "s", "/\udcff", "l\udcff", Cursor("s", "k\ud800", 1, 2), NOW,
            "json", 9_000,
        )
    )  # fmt: skip
    archive = build_archive(tmp_path, rows, converted=converted)
    there = archive.records([event_id(row) for row in rows])
    assert {key: there[key] for key in there} == {event_id(row): row for row in rows}


def test_hostile_text_in_every_column(tmp_path: Path) -> None:
    """Events whose every field, name and entity is hostile: converted, found, read again."""
    texts = [
        "'; DROP TABLE x; --", '"', "\\", "\x00", "\x1e", "\n", "\ud800", "\u202e", "%_!", "a\x1eb",
        '","x":"', "]}", "ß", "İ", "\u212a", "*", "x" * 100_000,
    ]  # fmt: skip
    rows = [make_raw(json.dumps({"n": n}), n, form="json") for n in range(len(texts))]
    by_id = {event_id(row): text for row, text in zip(rows, texts, strict=True)}

    def read(record: RawRecord) -> Event:
        text = by_id[event_id(record)]
        fields = {"Image": text, "CommandLine": [text, "second"], text: text, "nested": {"a": text}}
        view = View(LogSource(text, "process_creation", text), fields)
        entities = (Entity("file", text), Entity("domain", f"{text}\nhash:md5:forged"))
        return Event(
            event_id(record), NOW, NOW, text, (view,), entities, record, "json", mapped=True
        )

    (growth,) = write_archive(tmp_path, rows)
    convert(tmp_path, [growth], read)
    archive = Archive(tmp_path, read)
    for row, text in zip(rows, texts, strict=True):
        (folded,) = fold_texts(text)
        for condition in (
            has_text("Image", folded, starts=True, ends=True),
            has_text("CommandLine", folded, starts=True, ends=True),
            has_text(text, folded, starts=True, ends=True),
            has_text(text, folded, starts=True, ends=True, anycase=True),
            has_text("nested", folded, ends=True),
            has_text(None, folded),
            has_text("host", folded, starts=True, ends=True, anycase=True),
            has_entity(f"\nfile:{folded}\n"),
        ):
            found = archive.hunt(
                condition,
                lambda event, text=text: () if event.host == text else None,  # type: ignore[misc]
                limit=10,
            )
            assert [hit.event.record for hit in found.hits] == [row], (text[:20], condition)


def test_a_record_that_cannot_be_read_any_more_is_kept(tmp_path: Path) -> None:
    rows = log_rows(3)
    (growth,) = write_archive(tmp_path, rows)
    done = convert_segment(
        tmp_path, growth.name, growth.bytes, read=lambda _: None, texts=fold_texts
    )
    assert (done.events, done.unread) == (3, 3)
    segment(tmp_path, growth).unlink()
    assert len(Archive(tmp_path, READ).records([event_id(row) for row in rows])) == 3


@pytest.mark.parametrize("step", ["archive.parquet.written", "archive.parquet.renamed"])
def test_a_conversion_that_is_stopped_is_done_anew(tmp_path: Path, step: str) -> None:
    (growth,) = write_archive(tmp_path, log_rows(20))

    def stop(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_segment(
            tmp_path, growth.name, growth.bytes, read=READ, texts=fold_texts, on_step=stop
        )
    row = as_row(growth)
    (tmp_path / SCRATCH / "left.jsonl").write_text("from a crash")
    recovered = recover_folder(tmp_path, [row])
    assert not recovered.found
    assert not list((tmp_path / SCRATCH).iterdir())
    assert not list((tmp_path / PARQUET).iterdir())
    convert(tmp_path, [growth])
    assert len(Archive(tmp_path, READ).hunt(EVERYTHING, lambda _: (), limit=99).hits) == 20


def test_duckdb_reaches_nothing_but_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    inside = tmp_path / "in"
    inside.mkdir()
    database = Database(inside)
    for statement in (
        f"SELECT * FROM read_csv('{outside}')",
        f"COPY (SELECT 1) TO '{tmp_path}/new.csv'",
        f"ATTACH '{tmp_path}/new.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 8",
        "SET enable_external_access = true",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
    ):
        with pytest.raises((ArchiveError, FileNotFoundError)):
            database.run(statement)
    database.close()


def test_rows_hold_what_the_documents_say() -> None:
    record = log_rows(1)[0]
    row = make_row(record, READ(record), fold_texts)
    assert row["f.CommandLine"] == "cmd /c echo 0"
    assert row["f.Image"] == "c:\\windows\\system32\\cmd.exe"
    assert "windows/process_creation/-" in row["logsources"]
    assert "\nhost:ws0\n" in row["entities"]
    assert json.loads(row["about"])["category"] == "process_creation"
    assert row["record"] == record.data


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("converted", ["none", "some", "all"])
def test_events_of_a_time_in_order(tmp_path: Path, converted: str) -> None:
    archive = build_archive(tmp_path, log_rows(500)[::-1], converted=converted, events=150)
    every = [event for row in log_rows(500) if (event := READ(row)) is not None]
    since, until = every[100].time, every[300].time
    wanted = [e for e in every if since <= e.time < until and e.host in ("ws1", "ws2")]
    found = list(archive.events(hosts=["ws1", "ws2"], since=since, until=until, limit=1000))
    assert [e.time for e in found] == [e.time for e in wanted]
    assert {e.id for e in found} == {e.id for e in wanted}
    some = archive.events(hosts=None, since=since, until=until, limit=7)
    assert [e.time for e in some] == [e.time for e in every[100:107]]
    for kinds, count in ((["process_creation"], 200), (["sysmon"], 200), (["dns"], 0)):
        got = archive.events(hosts=None, since=since, until=until, kinds=kinds, limit=1000)
        assert len(list(got)) == count


def test_several_looks_at_a_segment_read_each_record_once(tmp_path: Path) -> None:
    reads = 0

    def read(record: RawRecord) -> Event | None:
        nonlocal reads
        reads += 1
        return READ(record)

    rows = build_archive(tmp_path, log_rows(40), converted="none").parts()
    plain = sorted((event for row in log_rows(40) if (event := READ(row))), key=lambda e: e.time)
    archive = Archive(tmp_path, read, segments=lambda: rows)
    assert len(list(archive.events(hosts=None, since=0, until=math.inf, limit=99))) == 40
    assert reads == 40
    chosen = plain[7]
    found = archive.events(hosts={chosen.host}, since=chosen.time, until=math.inf, limit=99)
    wanted = [e.id for e in plain if e.time >= chosen.time and e.host == chosen.host]
    assert [event.id for event in found] == wanted
    assert reads == 40 + len(wanted) < 60
    for path in (tmp_path / SEGMENTS).iterdir():  # converted between two looks: no order there
        convert_segment(tmp_path, path.stem, None, read=READ, texts=fold_texts)
        path.unlink()
    found = archive.events(hosts={chosen.host}, since=chosen.time, until=math.inf, limit=99)
    assert sorted(event.id for event in found) == sorted(wanted)


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_part_is_named_and_the_rest_searched(
    tmp_path: Path, whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = build_archive(tmp_path, log_rows(300), events=100).parts()
    assert [row.events for row in rows] == [100, 100, 100]
    path = tmp_path / PARQUET / (rows[1].name + ".parquet")
    data = path.read_bytes()
    kept = (
        8 if whole else len(data) // 4
    )  # in part: the file's end, which says what is where, is good
    path.write_bytes(data[:kept] + b"\x55" * (len(data) - 2 * kept) + data[-kept:])
    archive = Archive(tmp_path, READ, segments=lambda: rows)
    found = archive.hunt(EVERYTHING, lambda _: (), limit=999)
    ids = [hit.event.id for hit in found.hits]
    assert len(ids) == len(set(ids)) >= 200
    assert len(found.gone) == 1
    assert rows[1].name in found.gone[0]
    assert main(["hunt", "echo", "--archive", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"NOT SEARCHED: {path.name}" in said


def test_a_damaged_segment_is_noted_by_those_who_tell(tmp_path: Path) -> None:
    (part,) = build_archive(tmp_path, log_rows(40), converted="none").parts()
    path = tmp_path / SEGMENTS / (part.name + SEGMENT_SUFFIX)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    known = msgspec.structs.replace(part, bytes=len(data))
    archive = Archive(tmp_path, READ, segments=lambda: [known])
    for _ in range(2):
        list(archive.events(hosts=None, since=0, until=math.inf, limit=99))
    (said,) = archive.damaged
    assert "damaged at byte" in said


def test_what_retention_takes_during_a_question_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = build_archive(tmp_path, log_rows(300), events=100).parts()
    archive = Archive(tmp_path, READ, segments=lambda: rows)
    gone = tmp_path / PARQUET / (rows[0].name + ".parquet")
    ask = Database.rows

    def take_first(self: Database, *asked: Any) -> Any:
        gone.unlink(missing_ok=True)
        return ask(self, *asked)

    monkeypatch.setattr(Database, "rows", take_first)
    assert len(list(archive.events(hosts=None, since=0, until=math.inf, limit=999))) == 200
    found = archive.hunt(EVERYTHING, lambda _: (), limit=999)
    assert len(found.hits) == 200
    assert found.gone == [f"{gone.name}: is not there"]


@pytest.mark.parametrize("converted", ["none", "some", "all"])
def test_presence_counts_every_event(tmp_path: Path, converted: str) -> None:
    archive = build_archive(tmp_path, log_rows(300), converted=converted, events=100)
    rows = archive.presence(["ws3"], -math.inf, math.inf, 60.0)
    assert sum(row[3] for row in rows) == 60
    assert {row[:2] for row in rows} == {("test", "ws3")}
    assert [row[2] for row in rows] == sorted({row[2] for row in rows})
    assert all(row[2] % 60 == 0 and row[3] == 12 for row in rows)


def test_parts_that_went_meanwhile_are_passed_over(tmp_path: Path) -> None:
    growths = write_archive(tmp_path, log_rows(30), events=10, batch=10)
    convert(tmp_path, growths[:2])
    rows = [
        *(as_row(growth, state="parquet", stored=1) for growth in growths[:2]), as_row(growths[2]),
    ]  # fmt: skip
    archive = Archive(tmp_path, READ, segments=lambda: rows)
    (tmp_path / PARQUET / (growths[0].name + ".parquet")).unlink()
    convert(tmp_path, growths[2:])  # while the store's word of it is on its way
    found = archive.hunt(EVERYTHING, lambda _: (), limit=100)
    assert len(found.hits) == 20
    assert growths[0].name in found.gone[0]


# -- upkeep ----------------------------------------------------------------------------------------


def as_row(growth: Growth, **changed: Any) -> SegmentRow:
    values = {**msgspec.structs.asdict(growth), "state": "open", **changed}
    return msgspec.convert(values, SegmentRow)


def row_of(hour: int, size: int = 100, *, state: str = "parquet", number: int = 0) -> SegmentRow:
    stamp = hour * HOUR * 1000 + number
    return msgspec.convert(
        {
            "name": f"{hour:07d}-000-{stamp:014d}", "hour": hour, "bytes": size, "events": 10,
            "first": 0.0, "last": 1.0, "state": state, "stored": size,
        },
        SegmentRow,
    )  # fmt: skip


def test_recovery_cuts_to_what_was_stored(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    good = put(writer, log_rows(5))
    writer.commit()
    put(writer, log_rows(5, 5))  # fsynced, never stored
    never = put(make_writer(tmp_path), log_rows(3))
    found = recover_folder(tmp_path, [as_row(good), row_of(1)])
    assert (found.cut, found.dropped, [r.hour for r in found.missing]) == (1, 1, [1])
    assert segment(tmp_path, good).stat().st_size == good.bytes
    assert not segment(tmp_path, never).exists()


def test_recovery_finds_what_was_converted_and_not_recorded(tmp_path: Path) -> None:
    (growth,) = write_archive(tmp_path, log_rows(5))
    convert(tmp_path, [growth])
    found = recover_folder(tmp_path, [as_row(growth)])
    assert list(found.found) == [growth.name]
    assert recover_folder(tmp_path, []).foreign == 1


def test_segments_that_nobody_writes_to_are_sealed() -> None:
    hour = int(NOW // HOUR)
    old = row_of(hour - 5, state="open")
    before = row_of(hour, state="open", number=1)
    newest = row_of(hour, state="open", number=2)
    assert list_sealed([old, before, newest], NOW, ()) == [old, before]
    assert list_sealed([newest], NOW, ()) == []
    assert list_sealed([newest], NOW, {newest.name}) == [newest]
    assert list_sealed([row_of(hour - 1, state="open")], NOW, ()) == []


def test_a_segment_at_hand_is_not_sealed_when_the_clock_is_set_back(tmp_path: Path) -> None:
    now = [NOW]
    known: dict[str, SegmentRow] = {}
    for _ in range(2):  # a second run knows nothing of the first one's writer
        writer = ArchiveWriter(tmp_path, 0, clock=lambda: now[0])
        for _ in range(2):
            for record in log_rows(3):
                writer.add(record, NOW)
            (growth,) = writer.flush().growths
            known[growth.name] = as_row(growth)
            writer.commit()
            sealed = list_sealed(list(known.values()), now[0], ())
            assert growth.name not in [row.name for row in sealed]
            assert len(sealed) == len(known) - 1
            now[0] -= 1.5 * HOUR
        writer.close()
    assert len(known) == 4


def test_the_oldest_go_for_age_and_size() -> None:
    hour = int(NOW // HOUR)
    rows = [row_of(hour - age) for age in (100, 50, 40, 30, 20, 0)]
    old, over = choose_expired(rows, NOW, keep=60 * HOUR, max_bytes=350)
    assert [hour - row.hour for row in old] == [100]
    assert [hour - row.hour for row in over] == [50, 40]
    assert choose_expired(rows, NOW, keep=0, max_bytes=0) == ([], [])
    writing = [row_of(hour, 10**9, state="open")]
    assert choose_expired(writing, NOW, keep=1, max_bytes=1) == ([], [])


# -- with store and daemon -------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        state_dir=str(tmp_path / "state"),
        sources=(FilesSource("test", ("/x.log",)),),
        archive=ArchiveSettings(min_free=0, keep=3600.0 * 48),
    )


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    Path(config.state_dir).mkdir()
    store = Store(config.store_path)
    yield store
    store.close()


def keep(config: Config, store: Store, rows: list[RawRecord], now: float = NOW) -> None:
    """Through writer and transaction."""
    writer = open_writer(config, 0, lambda: now)
    assert writer is not None
    for row in rows:
        writer.add(row, row.received)
    batch = make_batch([])
    batch.segments = writer.flush().growths
    store.write_batch(batch)
    writer.commit()
    writer.close()


def test_the_keeper_converts_and_lets_go(config: Config, store: Store) -> None:
    now = [NOW]
    keep(config, store, log_rows(10))
    keeper = ArchiveKeeper(config, store, lambda: now[0])
    keeper.recover()
    keeper.tend()
    (row,) = store.segments()
    assert (row.state, row.events) == ("parquet", 10)
    assert row.stored > 0
    assert not list((config.archive_path / SEGMENTS).iterdir())
    archive = open_archive(config, store)
    assert archive is not None
    assert len(archive.hunt(EVERYTHING, lambda _: (), limit=99).hits) == 10
    now[0] += 50 * HOUR
    keeper.tend()
    assert store.segments() == []
    assert not list((config.archive_path / PARQUET).iterdir())
    assert store.counts()["archive"]["expired_events"] == 10
    assert keeper.describe()["error"] == ""


def test_what_is_written_after_the_clock_was_set_back_is_not_converted(
    config: Config, store: Store
) -> None:
    config.archive_path.mkdir()
    now = [NOW]
    keeper = ArchiveKeeper(config, store, lambda: now[0])
    keeper.recover()
    now[0] -= 10
    writer = open_writer(config, 0, lambda: now[0])
    assert writer is not None
    for _ in range(2):
        for row in log_rows(5):
            writer.add(row, row.received)
        batch = make_batch([])
        batch.segments = writer.flush().growths
        store.write_batch(batch)
        writer.commit()
        keeper.tend()
    writer.close()
    assert [row.state for row in store.segments()] == ["open"]
    archive = open_archive(config, store)
    assert archive is not None
    assert len(archive.hunt(EVERYTHING, lambda _: (), limit=99).hits) == 10


def test_a_damaged_segment_is_told_and_holds_up_no_other(config: Config, store: Store) -> None:
    keep(config, store, log_rows(10))
    (bad,) = store.segments()
    path = config.archive_path / SEGMENTS / (bad.name + SEGMENT_SUFFIX)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    keep(config, store, log_rows(10), NOW + 1)
    keeper = ArchiveKeeper(config, store, lambda: NOW + 2)
    keeper.recover()
    keeper.tend()
    assert "damaged" in keeper.describe()["error"]
    assert [row.state for row in store.segments()] == ["open", "parquet"]


def test_a_scan_converts_what_it_wrote(config: Config, store: Store) -> None:
    keep(config, store, log_rows(10))
    assert convert_rest(config, store) == 1
    assert convert_rest(config, store) == 0
    assert [row.state for row in store.segments()] == ["parquet"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_daemon_archives_and_hunt_finds(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="archive-") as short:
        log = tmp_path / "a.jsonl"
        log.write_text("".join(log_line(n) + "\n" for n in range(300)))
        config = Config(
            state_dir=short, heartbeat=0.0, model=False, models_dir=short, knowledge_dir=short,
            rescan_seconds=0.3, workers=workers, archive=ArchiveSettings(min_free=0),
            sources=(
                FilesSource("a", (str(log),)), FilesSource("b", (str(tmp_path / "none"),)),
            ),
        )  # fmt: skip
        for text in ("cmd /c echo 77", "cmd /c echo 299"):
            daemon = Daemon(config)
            thread = _run(daemon)
            _wait_for_events(daemon, 300)
            facts = daemon.status()["archive"]
            assert (facts["archived"], facts["lost"], facts["error"]) == (300, 0, "")
            daemon.stop()
            thread.join(60)
            assert main(["hunt", f'CommandLine="{text}"', "--state", short, "--json"]) == 0
            (hit,) = json.loads(capsys.readouterr().out)["hits"]
            assert json.loads(hit["record"])["CommandLine"] == text
        assert main(["hunt", "nothing-like-it", "--state", short]) == 1
        assert "0 found" in capsys.readouterr().out


def _wait_for_events(daemon: Daemon, count: int) -> None:
    wait_for(lambda: daemon.status()["archive"]["events"] == count, 60)


def _run(daemon: Daemon) -> threading.Thread:
    thread = threading.Thread(target=daemon.run)
    thread.start()
    return thread


def test_hostile_records_are_shown_clean(
    config: Config, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e\nws9 forged line"
    keep(config, store, [make_raw(log_line(1, CommandLine=hostile), 1, form="json")])
    assert main(["hunt", "forged", "--state", config.state_dir]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert sum("forged" in line for line in out.splitlines()) == 1


def test_a_record_that_is_cut_says_how_long_it_is(
    config: Config, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = log_line(1, CommandLine="é" * 2000), '{"EventID": 1, "CommandLine": "é"}'
    keep(config, store, [make_raw(long, 1, form="json"), make_raw(short, 2, form="json")])
    assert main(["hunt", "CommandLine=é*", "--state", config.state_dir]) == 0
    found = capsys.readouterr().out
    assert f"... ({len(long.encode()):,} bytes)" in found
    assert f"  {short}\n" in found


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["hunt", "--state", "{state}"], 2),
        (["hunt", "a=", "b=\"", "--state", "{state}"], 2),
        (["hunt", "x", "--since", "1h", "--until", "2h", "--state", "{state}"], 2),
        (["hunt", "x", "--archive", "/nowhere/at/all"], 1),
        (["hunt", "--sigma", "/nowhere.yml", "--state", "{state}"], 1),
    ],
)  # fmt: skip
def test_exit_codes_of_what_cannot_be_asked(
    arguments: list[str], code: int, config: Config, store: Store
) -> None:
    keep(config, store, log_rows(1))
    assert main([argument.format(state=config.state_dir) for argument in arguments]) == code


def test_a_folder_without_its_store_can_be_hunted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_archive(tmp_path, log_rows(40), converted="some", events=20)
    assert main(["hunt", "CommandLine=*echo*", "--archive", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["hits"]) == 40


@pytest.mark.parametrize(
    ("step", "times"),
    [
        ("archive.written", 1), ("archive.written", 3), ("archive.synced", 1),
        ("archive.synced", 3), ("line.processed", 3), ("store.commit.before", 6),
        ("store.commit.after", 6),
    ],
)  # fmt: skip
@pytest.mark.timeout(300)
def test_kill_9_keeps_exactly_the_committed_events(step: str, times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        scene = Scene(Path(folder))
        try:
            scene.write(120)
            scene.start(step, times)
            until = time.monotonic() + 60
            while scene.wait_end(0.1) is None and time.monotonic() < until:
                scene.write(9)
            assert scene.wait_end(5) == -9, f"the step {step} was not reached"
            scene.write(20)
            assert scene.finish() == []
            check_scene(scene)
        finally:
            scene.close()


def check_scene(scene: Scene) -> None:
    """Every line that was written is in the archive once."""
    config = load_config(scene.config)
    store = Store(config.store_path, read_only=True)
    archive = open_archive(config, store)
    assert archive is not None
    found = archive.hunt(EVERYTHING, lambda _: (), limit=1_000_000)
    numbers = sorted(json.loads(hit.event.record.data)["n"] for hit in found.hits)
    assert numbers == list(range(1, scene.lines + 1))
    assert sum(row.events for row in store.segments()) == scene.lines
    assert int(store.counts()["archive"]["archived"]) == scene.lines
    archive.close()
    store.close()


def test_a_sandbox_that_refuses_a_lower_priority_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service's system call filter has no setpriority."""
    asked = []

    def refuse(by: int) -> int:
        asked.append(by)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", refuse)
    lower_priority()
    assert asked == [19]
