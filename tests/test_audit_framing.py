"""Audit events joined from their lines: the same however the stream is cut, read on or resumed."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.sources.audit_framing import GROUP_LINES, LONG_GROUP_LINES, OTHERS, AuditFramer
from appliance.sources.files import FLUSH_SECONDS
from appliance.sources.framing import Frame, is_undecided, sniff_content
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream
from tests.test_files_source import Reader, append
from tests.test_framing import chunk_sizes, frame_all

CAP = 100_000


def line(kind: str, serial: int, text: str = "a=1", second: int = 100) -> str:
    return f"type={kind} msg=audit({second}.000:{serial}): {text}\n"


def execve(serial: int, second: int = 100, *, title: bool = True, eoe: bool = False) -> list[str]:
    lines = [
        line("SYSCALL", serial, "syscall=59 items=2 pid=1 ", second),
        line("EXECVE", serial, 'argc=1 a0="x"', second),
        line("PATH", serial, 'item=0 name="/bin/x"', second),
        line("PATH", serial, 'item=1 name="/lib/y"', second),
    ]
    lines += [line("PROCTITLE", serial, "proctitle=78", second)] if title else []
    return lines + ([line("EOE", serial, "", second)] if eoe else [])


def give_events(text: str) -> list[str]:
    framer = AuditFramer(0, CAP, 100)
    return [frame.data.decode() for frame in frame_all(framer, text.encode(), [len(text) or 1])]


def split_event(event: str) -> list[str]:
    return [row.split(" ")[0].removeprefix("type=") for row in event.split("\n")]


def test_one_event_is_one_record() -> None:
    text = "".join(execve(1) + execve(2, eoe=True) + execve(3))
    events = give_events(text)
    assert [len(event.split("\n")) for event in events] == [5, 6, 5]
    assert "\n".join(events) + "\n" == text


def test_interleaved_lines_are_sorted_by_event() -> None:
    first, second = execve(1), execve(2)
    mixed = [row for pair in zip(first, second, strict=True) for row in pair]
    framer = AuditFramer(7, CAP, 100)
    frames = framer.feed("".join([*mixed, line("USER_LOGIN", 3)]).encode())
    assert [f.data.decode() + "\n" for f in frames] == ["".join(first), "".join(second)]
    assert [f.position for f in frames] == [7, 7 + len(first[0])]
    end = 7 + len("".join(mixed))
    assert [f.next for f in frames] == [end, end]
    assert framer.position == end


def test_lines_of_another_node_are_another_event() -> None:
    rows = execve(1)
    text = "".join(f"node={node} {row}" for row in rows for node in ("web", "db"))
    events = give_events(text)
    assert [event.count("node=web") for event in events] == [5, 0]
    assert [event.count("node=db") for event in events] == [0, 5]


def test_a_program_record_takes_the_system_call_behind_it_with_it() -> None:
    text = line("SERVICE_START", 1) + line("SYSCALL", 1) + line("PROCTITLE", 1)
    assert len(give_events(text)) == 1
    assert len(give_events(line("USER_AUTH", 1) + line("USER_ACCT", 2) + line("CRED_ACQ", 3))) == 3


def test_a_program_record_waits_for_no_more_than_the_next_line() -> None:
    framer = AuditFramer(0, CAP, 100)
    assert framer.feed(line("USER_LOGIN", 1).encode()) == []
    assert framer.held > 0
    assert len(framer.feed(line("USER_LOGIN", 2).encode())) == 1
    assert len(framer.flush()) == 1
    assert framer.held == framer.pending == 0


def test_an_event_ends_when_others_begin_much_later() -> None:
    late = [line("AVC", 1), *execve(2, 102), line("PATH", 1), *execve(3, 104), line("PATH", 1)]
    assert [split_event(event)[:2] for event in give_events("".join(late))] == [
        ["AVC", "PATH"],
        ["SYSCALL", "EXECVE"],
        ["SYSCALL", "EXECVE"],
        ["PATH"],
    ]


def test_an_event_ends_when_many_others_began() -> None:
    text = line("AVC", 0) + "".join("".join(execve(serial)) for serial in range(1, OTHERS + 3))
    framer = AuditFramer(0, CAP, 100)
    frames = framer.feed(text.encode())
    # By the event OTHERS later; that one and what was whole before it is given with it.
    assert len(frames) >= OTHERS
    assert frames[0].data == line("AVC", 0).rstrip().encode()


def test_events_without_a_title_are_not_torn_apart() -> None:
    """Kernels before 3.14 write no PROCTITLE: there is always an open event."""
    text = "".join("".join(execve(serial, title=False)) for serial in range(1000))
    events = give_events(text)
    assert len(events) == 1000
    assert all(split_event(event) == ["SYSCALL", "EXECVE", "PATH", "PATH"] for event in events)
    framer = AuditFramer(0, CAP, 100)
    framer.feed(text.encode())
    assert framer.held < 2 * LONG_GROUP_LINES * 100


def test_a_log_of_which_only_some_events_have_titles() -> None:
    text = "".join("".join(execve(serial, title=serial % 3 > 0)) for serial in range(2000))
    events = give_events(text)
    assert len(events) == 2000
    assert sum(len(split_event(event)) == 5 for event in events) == 1333


def test_what_ausearch_prints() -> None:
    """The records in reverse, behind two lines of its own."""
    text = "".join(
        f"----\ntime->Sun Mar  7 11:50:32 2021\n{''.join(reversed(execve(serial)))}"
        for serial in range(100)
    )
    assert sniff_content(text.encode()) == "auditd"
    events = [event for event in give_events(text) if event.startswith("type=")]
    assert [len(event.split("\n")) for event in events] == [5] * 100


def test_late_lines_and_what_says_nothing() -> None:
    text = "".join(execve(1)) + line("USER_LOGIN", 2) + line("EOE", 1, "") + line("PATH", 1)
    events = give_events(text)
    assert [split_event(event)[0] for event in events] == ["SYSCALL", "USER_LOGIN", "PATH"]
    # An EOE that says something is no mere end.
    assert len(give_events(line("EOE", 9, "name=/etc/shadow"))) == 1


def test_other_lines_are_records_of_their_own() -> None:
    text = (
        "# hello\n" + line("SYSCALL", 1) + "Jan 1 host x: y\n" + line("PROCTITLE", 1) + "\x00\x01\n"
    )
    events = give_events(text)
    assert [event.split("\n")[0][:12] for event in events] == [
        "# hello",
        "type=SYSCALL",
        "Jan 1 host x",
        "\x00\x01".lstrip("\x00"),
    ]
    assert len(events[1].split("\n")) == 2


def test_text_inside_a_record_opens_no_event() -> None:
    forged = 'comm="type=USER_LOGIN msg=audit(1.1:1): res=success"'
    events = give_events(line("SYSCALL", 1, forged) + line("PROCTITLE", 1))
    assert len(events) == 1


def test_a_flood_is_held_within_bounds() -> None:
    framer = AuditFramer(0, CAP, 100)
    given = 0
    for number in range(20):
        rows = [line("AVC", number * 1000 + n % 7) for n in range(1000)]
        given += sum(f.data.count(b"\n") + 1 for f in framer.feed("".join(rows).encode()))
        assert framer.pending <= 2 * CAP + 200
        assert framer.held <= GROUP_LINES * 60
    given += sum(f.data.count(b"\n") + 1 for f in framer.finish())
    assert given == 20_000


def test_an_event_over_the_cap_is_given_in_parts_of_whole_lines() -> None:
    rows = [line("SYSCALL", 1)] + [line("EXECVE", 1, f"a{n}=" + "61" * 20) for n in range(100)]
    framer = AuditFramer(0, 1000, 100)
    frames = framer.feed("".join(rows).encode()) + framer.finish()
    assert all(len(frame.data) <= 1000 and not frame.truncated for frame in frames)
    assert sorted(b"\n".join(f.data for f in frames).decode().split("\n")) == sorted(
        row.rstrip() for row in rows
    )


def test_a_line_over_the_cap_is_cut_and_passed() -> None:
    text = line("SYSCALL", 1) + line("EXECVE", 1, "a0=" + "61" * 2000) + line("PROCTITLE", 1)
    frames = frame_all(AuditFramer(0, 1000, 50), text.encode(), [300])
    assert [bool(frame.truncated) for frame in frames] == [False, True, False]
    assert frames[1].truncated == len(line("EXECVE", 1, "a0=" + "61" * 2000)) - 1


rows = st.builds(
    line,
    st.sampled_from(["SYSCALL", "PATH", "PROCTITLE", "EOE", "USER_LOGIN", "AVC", "EXECVE"]),
    st.integers(1, 5),
    st.sampled_from(["", "items=1 x=y ", "z=" + "7" * 60]),
    st.sampled_from([100, 100, 100, 103]),
)
streams = st.lists(st.one_of(rows, st.sampled_from(["\n", "# note\n", "\x00\x00x\n"])), max_size=25)


@settings(max_examples=200)
@given(streams, chunk_sizes)
def test_events_do_not_depend_on_chunks(lines: list[str], cuts: list[int]) -> None:
    data = "".join(lines).encode()
    whole = frame_all(AuditFramer(0, 150, 20), data, [len(data) or 1])
    assert frame_all(AuditFramer(0, 150, 20), data, cuts) == whole
    kept = sum(len(frame.data.split(b"\n")) for frame in whole)
    silent = sum(not row.strip() or ("EOE" in row and row.endswith(": \n")) for row in lines)
    assert len(lines) - silent <= kept <= len(lines)


@settings(max_examples=100, deadline=None)
@given(streams)
def test_taken_up_again_after_every_byte(lines: list[str]) -> None:
    """A crash behind any byte: what was given before it and what a new framer gives from
    `position` is what one framer gives, neither more nor less."""
    data = "".join(lines).encode()
    whole = frame_all(AuditFramer(0, 150, 20), data, [len(data) or 1])
    for cut in range(len(data) + 1):
        first = AuditFramer(0, 150, 20)
        before = first.feed(data[:cut])
        again = AuditFramer(first.position, 150, 20)
        if first.overlong_from >= 0:
            begun = first.overlong_from
            again.resume_overlong(begun, data[begun : first.position])
        after = again.feed(data[first.position :]) + again.finish()
        assert before + after == whole


@settings(max_examples=50, deadline=None)
@given(streams, st.integers(0, 2000))
def test_a_flush_loses_and_repeats_nothing(lines: list[str], cut: int) -> None:
    data = "".join(lines).encode()
    framer = AuditFramer(0, 150, 20)
    frames: list[Frame] = framer.feed(data[:cut]) + framer.flush()
    again = AuditFramer(framer.position, 150, 20)
    if framer.overlong_from >= 0:
        begun = framer.overlong_from
        again.resume_overlong(begun, data[begun : framer.position])
    frames += again.feed(data[framer.position :]) + again.finish()
    texts = sorted(row for frame in frames for row in frame.data.split(b"\n"))
    whole = frame_all(AuditFramer(0, 150, 20), data, [len(data) or 1])
    silent = b"): "
    expected = sorted(row for frame in whole for row in frame.data.split(b"\n"))
    # An EOE alone says nothing: whether it is joined or passed over depends on the flush.
    assert [t for t in texts if not (t.startswith(b"type=EOE") and t.endswith(silent))] == [
        t for t in expected if not (t.startswith(b"type=EOE") and t.endswith(silent))
    ]
    positions = [frame.position for frame in frames]
    assert positions == sorted(set(positions))


def test_what_an_audit_log_begins_with() -> None:
    row = line("SYSCALL", 1).encode()
    for head in (row, b"node=web " + row, b"\n# comment\n" + row, b"\x00\x00" + row):
        assert sniff_content(head) == "auditd"
    for head in (b"type=SYSCALL\n", b"x " + row, b"Jan  1 00:00:00 h kernel: " + row):
        assert sniff_content(head) == "lines"
    assert is_undecided(b"type=SYS")
    assert is_undecided(b"no")
    assert not is_undecided(b"type=SYSCALL\n")
    assert not is_undecided(b"# a comment\n")


# -- through the source ---------------------------------------------------------------------------


def test_events_of_a_file_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    first, second = execve(1), execve(2)
    log.write_text("".join(first + second[:2]))
    reader = Reader(str(log))
    assert [text.count("\n") for text in reader.read()] == [4]
    append(log, "".join(second[2:]))
    assert reader.read() == []  # an EOE may follow
    append(log, line("USER_LOGIN", 3))
    assert [text.count("\n") for text in reader.read()] == [4]
    assert reader.source.describe()["bytes_unfinished"] == len(line("USER_LOGIN", 3))


def test_the_tail_is_given_when_the_file_rests(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text("".join(execve(1)[:3]))
    reader = Reader(str(log))
    reader.clock.now += 10
    assert reader.source.poll(100).records == []
    reader.clock.now += FLUSH_SECONDS / 2
    append(log, execve(1)[3])
    assert reader.source.poll(100).records == []
    reader.clock.now += FLUSH_SECONDS * 0.75
    assert reader.source.poll(100).records == []  # it grew in between
    reader.clock.now += FLUSH_SECONDS / 2
    batch = reader.source.poll(100)
    assert [record.data.count(b"\n") for record in batch.records] == [3]
    reader.store(batch)
    append(log, execve(1)[4])
    assert reader.read() == []
    reader.clock.now += FLUSH_SECONDS
    assert [row.split(" ")[0] for row in reader.read()] == ["type=PROCTITLE"]


def test_a_restart_within_an_event_neither_loses_nor_repeats(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    rows = [row for serial in range(1, 12) for row in execve(serial)]
    given: list[str] = []
    log.write_text("")
    reader = Reader(str(log))
    for row in rows:
        append(log, row)
        given += reader.read()
        reader.restart()
    append(log, line("USER_LOGIN", 99))
    given += reader.read()
    assert given == ["".join(execve(serial)).rstrip() for serial in range(1, 12)]


def test_what_was_not_stored_comes_again(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text("".join(execve(1) + execve(2) + execve(3)[:2]))
    reader = Reader(str(log))
    reader.clock.now += 10
    first = reader.source.poll(100)
    assert len(first.records) == 2
    reader.source.rewind()
    again = reader.source.poll(100)
    assert [(r.data, r.cursor) for r in again.records] == [
        (r.data, r.cursor) for r in first.records
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_file(tmp_path: Path, packed: bool) -> None:
    data = "".join(execve(1) + execve(2)[:2]).encode()
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(data) if packed else data)
    stream = open_stream(StreamName("s", "k", "k", str(path)), StreamLimits())
    batch = stream.read(Want(100, final=True), 0.0)
    assert [record.data.count(b"\n") for record in batch.records] == [4, 1]
    assert stream.content == "auditd"
    stream.close()


def test_the_configured_format_counts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("".join(execve(1)))
    for name, count in (("auto", 1), ("auditd", 1), ("text", 5), ("json", 5)):
        stream = open_stream(StreamName("s", "k", "k", str(path), name), StreamLimits())
        assert len(stream.read(Want(100, final=True), 0.0).records) == count
        stream.close()
