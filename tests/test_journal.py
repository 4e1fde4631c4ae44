"""The journal as a source: reading, going on, rotation, gaps, damage, circles; and what the decoder
and the normaliser make of its entries. Journals are written by systemd's own tool."""

import json
import lzma
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decode import INNER, decode
from appliance.decode.journal import GUARDED, is_guarded
from appliance.normalise import normalise
from appliance.normalise.programs import HOST_PROGRAMS
from appliance.schema import Checkpoint, Cursor, RawRecord, SourceBatch, event_id
from appliance.sources.journal import JournalSource, Own, split_cursor, write_entry
from appliance.sources.streams import StreamLimits

SAMPLE = Path(__file__).parent / "samples" / "journal" / "sample.journal.xz"
#: Debian: package systemd-journal-remote.
WRITERS = ("/lib/systemd/systemd-journal-remote", "/usr/lib/systemd/systemd-journal-remote")
T0 = 1_772_355_600_000_000
BOOT = "0123456789abcdef0123456789abcdef"

Entry = dict[str, str | bytes]
#: Appends entries to a journal file.
WriteJournal = Callable[[Path, list[Entry]], None]


def export(entries: list[Entry]) -> bytes:
    """Entries in the Journal Export Format (https://systemd.io/JOURNAL_EXPORT_FORMATS/)."""
    text = bytearray()
    for entry in entries:
        for name, value in entry.items():
            raw = value if isinstance(value, bytes) else value.encode()
            if name.startswith("__") or name == "_BOOT_ID":
                text += name.encode() + b"=" + raw + b"\n"
                continue
            for part in raw.split(b"\0\0next\0\0"):
                text += name.encode() + b"\n" + len(part).to_bytes(8, "little") + part + b"\n"
        text += b"\n"
    return bytes(text)


def entry(number: int, message: str | bytes = b"", **fields: str | bytes) -> Entry:
    """One entry of sshd's, `number` seconds behind T0."""
    return {
        "__REALTIME_TIMESTAMP": str(T0 + number * 1_000_000),
        "__MONOTONIC_TIMESTAMP": str(number * 1_000_000 + 5),
        "_BOOT_ID": BOOT,
        "_HOSTNAME": "bastion",
        "_TRANSPORT": "syslog",
        "_UID": "0",
        "_PID": str(100 + number),
        "_COMM": "sshd",
        "_EXE": "/usr/sbin/sshd",
        "_SYSTEMD_UNIT": "ssh.service",
        "SYSLOG_IDENTIFIER": "sshd",
        "SYSLOG_FACILITY": "4",
        "PRIORITY": "6",
        "MESSAGE": message or f"Failed password for root from 203.0.113.9 port {number} ssh2",
        **fields,
    }


@pytest.fixture
def write_journal() -> WriteJournal:
    """Appends to a journal file by systemd-journal-remote; skips where that is not installed."""
    writer = next((path for path in WRITERS if Path(path).exists()), None)
    if writer is None:
        reason = "systemd-journal-remote is not installed (apt-get install systemd-journal-remote)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    def write(path: Path, entries: list[Entry]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [writer, f"--output={path}", "--split-mode=none", "-"]
        subprocess.run(command, input=export(entries), check=True, capture_output=True, timeout=30)

    return write


class Line:
    """Stands for the line: keeps what it commits."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = 1_790_000_000.0
        self.stored: dict[str, Checkpoint] = {}
        self.records: list[RawRecord] = []
        self.reasons: list[str] = []
        self.folder = folder
        self.options = options
        self.source = self.open()

    def open(self) -> JournalSource:
        return JournalSource(
            "j",
            directory=str(self.folder),
            clock=lambda: self.now,
            checkpoints=list(self.stored.values()),
            **self.options,
        )

    def restart(self) -> None:
        self.source.close()
        self.source = self.open()

    def poll(self, limit: int = 1000) -> SourceBatch:
        self.now += 10
        return self.source.poll(limit)

    def turn(self, limit: int = 1000) -> list[str]:
        """One poll and commit; the messages that came."""
        batch = self.poll(limit)
        self.records.extend(batch.records)
        self.reasons.extend(rejected.reason for rejected in batch.rejected)
        self.stored.update({c.key: c for c in batch.checkpoints})
        self.source.commit()
        return messages(batch)


def messages(batch: SourceBatch) -> list[str]:
    return [read(record)["MESSAGE"] for record in batch.records]


def read(record: RawRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.data.decode("utf-8", "surrogateescape"))
    return found


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(**options: Any) -> Line:
        lines.append(Line(tmp_path / "journal", **options))
        return lines[-1]

    yield make
    for made in lines:
        made.source.close()


def numbered(*numbers: int) -> list[str]:
    return [f"Failed password for root from 203.0.113.9 port {n} ssh2" for n in numbers]


def test_the_sample_is_read_decoded_and_normalised(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "system.journal").write_bytes(lzma.decompress(SAMPLE.read_bytes()))
    line = Line(folder)
    assert len(line.turn()) == 6
    line.source.close()
    assert line.reasons == []
    assert {record.format for record in line.records} == {"journal"}
    events = [normalise(r, decode(r), zone=UTC).event for r in line.records]
    assert len({event.id for event in events}) == 6
    assert {event.host for event in events} == {"bastion"}
    assert [event.time for event in events] == [T0 / 1e6 + n for n in range(6)]
    seen = [
        (event.views[0].logsource.service, event.views[0].fields.get("program")) for event in events
    ]
    assert seen == [
        ("sshd", "sshd"),
        ("sudo", "sudo"),
        ("syslog", "logger"),
        ("syslog", "kernel"),
        ("syslog", "worker"),
        ("syslog", "worker"),
    ]
    assert events[0].views[0].fields["src_ip"] == "203.0.113.9"
    assert events[2].views[0].fields["claimed_appname"] == "sshd"
    assert "src_ip" not in events[2].views[0].fields
    assert events[4].views[0].fields["message"] == "caf\\xe9\x1b[31m\n<34>forged"


def test_a_cursor_is_taken_up_and_ids_stay(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    one, other = line(), line()
    write_journal(one.folder / "system.journal", [entry(n) for n in range(20)])
    assert one.turn(7) == numbered(*range(7))
    assert one.source.has_more
    one.restart()
    assert one.turn(7) == numbered(*range(7, 14))
    one.restart()
    assert one.turn() == numbered(*range(14, 20))
    assert one.source.describe()["gaps"] == 0
    assert one.turn() == []
    other.turn()
    assert not other.source.has_more
    assert [event_id(r) for r in one.records] == [event_id(r) for r in other.records]
    positions = [record.cursor.position for record in one.records]
    assert positions == sorted(set(positions))
    assert one.source.describe()["gaps"] == 0


def test_what_was_not_stored_comes_again(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    write_journal(here.folder / "system.journal", [entry(n) for n in range(6)])
    here.turn(2)
    first = here.poll()
    here.source.rewind()
    again = here.poll()
    assert messages(first) == messages(again) == numbered(2, 3, 4, 5)
    assert first.records[0].data == again.records[0].data
    here.restart()  # killed between poll and commit
    assert here.turn() == numbered(2, 3, 4, 5)


def test_entries_that_come_wake_the_line(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    path = here.folder / "system.journal"
    write_journal(path, [entry(0)])
    here.turn()
    woken = threading.Event()
    here.source.start(woken.set)
    assert here.source.describe()["watching"]
    for number in (1, 2):
        woken.clear()
        write_journal(path, [entry(number)])
        assert woken.wait(10)
        until = time.monotonic() + 10
        got: list[str] = []
        while not got and time.monotonic() < until:
            got = here.turn()
        assert got == numbered(number)
    here.source.close()
    assert not [t for t in threading.enumerate() if t.name == "journal"]


def test_rotation_loses_nothing(line: Callable[..., Line], write_journal: WriteJournal) -> None:
    here = line()
    path = here.folder / "system.journal"
    write_journal(path, [entry(n) for n in range(3)])
    assert here.turn(2) == numbered(0, 1)
    for generation in range(1, 4):
        path.rename(here.folder / f"system@{generation}.journal")
        write_journal(path, [entry(3 * generation + n) for n in range(3)])
        here.turn(2)
    while here.turn():
        pass
    texts = [read(record)["MESSAGE"] for record in here.records]
    assert texts == numbered(*range(12))
    assert here.source.describe()["gaps"] == 0
    assert here.reasons == []


@pytest.mark.parametrize("restarted", [True, False])
def test_a_vanished_cursor_is_a_gap(
    line: Callable[..., Line], write_journal: WriteJournal, restarted: bool
) -> None:
    here = line()
    path = here.folder / "system.journal"
    write_journal(path, [entry(n) for n in range(10)])
    here.turn(3)
    path.unlink()  # vacuumed while entries 3 to 9 were not read
    write_journal(path, [entry(n) for n in range(20, 23)])
    if restarted:
        here.restart()
    assert here.turn() == numbered(20, 21, 22)
    assert here.source.describe()["gaps"] == 1
    assert len(here.reasons) == 1
    assert "no longer in the journal" in here.reasons[0]
    here.restart()
    assert here.turn() == []
    assert here.source.describe()["gaps"] == 0


def test_a_gap_that_was_not_stored_is_said_once(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    path = here.folder / "system.journal"
    write_journal(path, [entry(n) for n in range(3)])
    here.turn(1)
    path.unlink()
    write_journal(path, [entry(n) for n in range(20, 22)])
    assert len(here.poll().rejected) == 1
    here.source.rewind()
    assert here.turn() == numbered(20, 21)
    assert len(here.reasons) == 1
    assert here.source.describe()["gaps"] == 1


def test_a_new_journal_of_an_earlier_time_is_read_whole(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    path = here.folder / "system.journal"
    write_journal(path, [entry(n) for n in range(100, 103)])
    here.turn()
    path.unlink()
    write_journal(path, [entry(n) for n in range(2)])  # its clock lost its battery
    here.restart()
    assert here.turn() == numbered(0, 1)
    assert here.source.describe()["gaps"] == 1


def test_a_checkpoint_that_is_no_cursor_falls_back_to_its_time(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    write_journal(here.folder / "system.journal", [entry(n) for n in range(10)])
    key = f"journal:{here.folder}"
    state = json.dumps({"cursor": "rubbish", "realtime": T0 + 7_000_000}).encode()
    here.stored[key] = Checkpoint("j", key, state)
    here.restart()
    assert here.turn() == numbered(7, 8, 9)
    assert here.source.describe()["gaps"] == 1


def test_it_may_begin_at_the_end(line: Callable[..., Line], write_journal: WriteJournal) -> None:
    here = line(start_at="end")
    path = here.folder / "system.journal"
    write_journal(path, [entry(n) for n in range(3)])
    here.poll()
    here.source.rewind()
    assert here.turn() == []
    write_journal(path, [entry(3)])
    here.restart()
    assert here.turn() == numbered(3)


def test_a_journal_that_comes_later_is_found(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    assert here.turn() == []
    assert "cannot be opened" in here.source.describe()["error"]
    assert here.turn() == []
    assert len(here.reasons) == 1  # said once
    here.folder.mkdir()
    here.turn()
    assert "no journal files" in here.source.describe()["error"]
    write_journal(here.folder / BOOT / "system.journal", [entry(0)])
    assert here.turn() == numbered(0)
    assert here.source.describe()["error"] == ""
    shutil.rmtree(here.folder)
    here.turn()
    assert here.source.describe()["error"] != ""
    write_journal(here.folder / BOOT / "system.journal", [entry(1)])
    here.turn()
    assert here.turn() == [] and here.source.describe()["error"] == ""
    assert messages(SourceBatch(here.records, [], [])) == numbered(0, 1)


def test_files_that_may_not_be_read_are_said(
    line: Callable[..., Line], write_journal: WriteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = line(start_at="end")
    write_journal(here.folder / "system.journal", [entry(0)])
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        here.turn()
        assert "1 of 1 journal files may not be read" in here.source.describe()["error"]
        assert here.stored == {}
    here.turn()
    assert here.source.describe()["error"] == ""
    assert len(here.stored) == 1


def test_a_damaged_file_is_said(line: Callable[..., Line], write_journal: WriteJournal) -> None:
    here = line()
    write_journal(here.folder / "system.journal", [entry(n) for n in range(5)])
    write_journal(here.folder / "other.journal", [entry(n) for n in range(5, 8)])
    with (here.folder / "system.journal").open("r+b") as file:
        file.write(b"\0" * 300)  # its header
    assert here.turn() == numbered(5, 6, 7)
    here.turn()
    here.turn()
    facts = here.source.describe()
    assert facts["unread_bytes"] > 0
    assert "damaged" in facts["error"]
    assert len(here.reasons) == 1


@pytest.mark.parametrize("start", [0.1, 0.4, 0.6, 0.8])
def test_damage_within_a_file_hides_no_other_file(
    line: Callable[..., Line], write_journal: WriteJournal, start: float
) -> None:
    here = line()
    write_journal(here.folder / "a.journal", [entry(n, os.urandom(400).hex()) for n in range(500)])
    write_journal(here.folder / "b.journal", [entry(n) for n in range(600, 603)])
    path = here.folder / "a.journal"
    used = path.read_bytes().rstrip(b"\0")
    with path.open("r+b") as file:
        file.seek(int(len(used) * start))
        file.write(os.urandom(20_000))
    for _ in range(4):
        here.turn()
    texts = messages(SourceBatch(here.records, [], []))
    assert texts[-3:] == numbered(600, 601, 602)
    whole = [r for r in here.records[:-3] if "MESSAGE" in read(r)]
    facts = here.source.describe()
    # What is missing is said.
    assert len(whole) == 500 or facts["damaged_entries"] or facts["error"], (len(whole), facts)


def test_own_entries_are_no_circle(line: Callable[..., Line], write_journal: WriteJournal) -> None:
    own = Own(unit="appliance.service", pid=4242, boot=BOOT, since=T0 / 1e6 + 2)
    here = line(own=own)
    entries = [
        entry(0, "mine by unit", _SYSTEMD_UNIT="appliance.service"),
        entry(1, "before it was mine", _PID="4242"),
        entry(2, "mine by process", _PID="4242"),
        entry(3, "another boot", _PID="4242", _BOOT_ID="f" * 32),
        entry(4, "claimed", SYSLOG_IDENTIFIER="appliance", UNIT="appliance.service"),
    ]
    write_journal(here.folder / "system.journal", entries)
    assert here.turn() == ["before it was mine", "another boot", "claimed"]
    assert here.source.describe()["own_entries"] == 2
    here.restart()
    assert here.turn() == []


def test_units_and_identifiers_choose(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line(units=["ssh"], identifiers=["cron"])
    entries = [
        entry(0, "of the unit"),
        entry(1, "of another", _SYSTEMD_UNIT="x.service"),
        entry(2, "of the identifier", _SYSTEMD_UNIT="y.service", SYSLOG_IDENTIFIER="cron"),
        entry(3, "about the unit", _SYSTEMD_UNIT="init.scope", _PID="1", UNIT="ssh.service"),
        entry(4, "claims to be about it", _SYSTEMD_UNIT="init.scope", UNIT="ssh.service"),
    ]
    write_journal(here.folder / "system.journal", entries)
    assert here.turn() == ["of the unit", "of the identifier", "about the unit"]
    # Another choice is no gap, though the last entry given is none of it.
    here.options = {"units": ["x.service"]}
    write_journal(here.folder / "system.journal", [entry(5, "new", _SYSTEMD_UNIT="x.service")])
    here.restart()
    assert here.turn() == ["new"]
    assert here.source.describe()["gaps"] == 0


def test_hostile_fields_stay_one_record(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line(limits=StreamLimits(record_bytes=50_000, rejected_bytes=100))
    entries = [
        entry(0, b'\xff\xfe"}\n{"MESSAGE":"forged"}\x1b]0;x\x07\0'),
        entry(1, "a\0\0next\0\0b\0\0next\0\0c"),
        entry(2, "x" * 200_000),
        entry(3, "", **{f"F{n}": "v" * 10 for n in range(900)}),
        entry(4, os.urandom(60_000).hex()),
        entry(5),
    ]
    write_journal(here.folder / "system.journal", entries)
    here.turn()
    assert [record.cursor.position for record in here.records] == [1, 2, 4, 6]
    assert not any(b"\n" in record.data for record in here.records)
    first = decode(here.records[0])
    assert first.repaired
    assert first.fields["message"] == '\\xff\\xfe"}\n{"MESSAGE":"forged"}\x1b]0;x\x07\0'
    assert sorted(decode(here.records[1]).fields["message"].split()) == ["a", "b", "c"]
    assert len(decode(here.records[2]).fields["journal"]) == 900
    assert len(here.reasons) == 2
    assert all("longer than the cap of 50000" in reason for reason in here.reasons)
    assert here.source.describe()["overlong_entries"] == 2


def test_overlong_entries_keep_their_beginning(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line(limits=StreamLimits(record_bytes=5000, rejected_bytes=100))
    write_journal(here.folder / "system.journal", [entry(0, "y" * 20_000)])
    (rejected,) = here.poll().rejected
    assert rejected.length > 5000
    assert len(rejected.record.data) == 100
    assert rejected.record.cursor.position == 1


def test_a_batch_ends_with_its_bytes(
    line: Callable[..., Line], write_journal: WriteJournal
) -> None:
    here = line()
    write_journal(here.folder / "system.journal", [entry(n, "z" * 1000) for n in range(20)])
    batch = here.source.poll(1000, 5000)
    assert 3 <= len(batch.records) <= 6
    assert here.source.has_more


@given(
    st.dictionaries(
        st.from_regex("_{0,2}[A-Z]{1,12}", fullmatch=True),
        st.binary(max_size=60) | st.lists(st.binary(max_size=20), min_size=2, max_size=4),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=200)
def test_any_bytes_become_one_line_that_decodes(fields: dict[str, Any]) -> None:
    data = write_entry(fields)
    assert b"\n" not in data
    record = RawRecord(
        data, "j", "journal", "j", Cursor("j", "j", 1, 2), 1_790_000_000.0, format="journal"
    )
    decoded = decode(record)
    json.dumps(decoded.fields, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert normalise(record, decoded, zone=UTC).event.views


def test_a_long_message_is_read_quickly() -> None:
    fields = {
        "MESSAGE": b"Failed password for " * 50_000,
        "SYSLOG_IDENTIFIER": b"s" * 100_000,
        "_EXE": b"/" * 100_000,
        "_UID": b"1" * 100_000,
    }
    began = time.perf_counter()
    data = write_entry(fields)
    record = RawRecord(
        data, "j", "journal", "j", Cursor("j", "j", 1, 2), 1_790_000_000.0, format="journal"
    )
    assert normalise(record, decode(record), zone=UTC).event
    assert time.perf_counter() - began < 1.0


def test_every_program_that_is_believed_is_guarded() -> None:
    assert HOST_PROGRAMS <= GUARDED
    for inner in INNER:
        for program in inner.programs or ():
            assert is_guarded(program), program


def test_a_forged_cursor_names_no_place() -> None:
    assert split_cursor("") == ("", 0)
    assert split_cursor("s=a;i=zz") == ("a", 0)
    assert split_cursor("s=a;i=" + "f" * 40)[1] < 1 << 63
