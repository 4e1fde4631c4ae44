"""The file sink: exactly once over every crash, and never a byte of somebody else's lost."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.emit.file import FileSink
from appliance.emit.sink import DeliveryFailed
from appliance.errors import EmitError
from appliance.schema import Message, SinkPosition
from tests.test_emit_render import HOSTILE

STEPS = ("file.note.after", "file.append.before", "file.append.after", "file.fsync.after")


class StoppedError(BaseException):
    """The process ends here."""


def stop_at(wanted: str, nth: int = 1) -> Callable[[str], None]:
    seen = 0

    def on_step(step: str) -> None:
        nonlocal seen
        seen += step == wanted
        if step == wanted and seen == nth:
            raise StoppedError(step)

    return on_step


def make_messages(first: int, last: int, **changes: Any) -> list[Message]:
    return [
        Message(seq, "finding", f"{seq:032x}", 0.0, {"id": f"{seq:032x}", "seq": seq, **changes})
        for seq in range(first, last + 1)
    ]


def read_seqs(path: Path) -> list[int]:
    raw = path.read_bytes()
    assert raw.endswith(b"\n")
    return [json.loads(line)["seq"] for line in raw.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "findings.jsonl"


def test_appends_one_line_a_message_and_returns_the_position(path: Path) -> None:
    sink = FileSink("file", str(path))
    position = sink.deliver(make_messages(1, 3, text=HOSTILE), SinkPosition())
    assert position.seq == 3
    assert position.length == path.stat().st_size
    assert position.identity == f"{path.stat().st_dev}:{path.stat().st_ino}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    position = sink.deliver(make_messages(2, 5), position)  # 2 and 3 are known already
    assert position.seq == 5
    assert read_seqs(path) == [1, 2, 3, 4, 5]
    assert list(path.parent.iterdir()) == [path]  # the note is gone
    state = sink.state()
    assert (state.sent, state.acknowledged, state.connected) == (5, True, True)
    sink.close()
    assert not sink.state().connected


def test_mode_does_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0o077)
    try:
        FileSink("file", str(path)).deliver(make_messages(1, 1), SinkPosition())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_other_kinds_move_the_position_only(path: Path) -> None:
    sink = FileSink("file", str(path), frozenset({"incident"}))
    assert sink.deliver(make_messages(1, 4), SinkPosition()) == SinkPosition(seq=4)
    assert not path.exists()
    assert sink.state().skipped == 4
    assert sink.deliver([], SinkPosition(seq=4)) == SinkPosition(seq=4)


@pytest.mark.parametrize(
    ("committed", "step"),
    [*((0, step) for step in STEPS), *((3, step) for step in STEPS[1:])],  # known: no note
)
@pytest.mark.parametrize("again", [1, 4, 7], ids=["smaller batch", "same batch", "larger batch"])
def test_crash_between_append_and_commit(path: Path, step: str, committed: int, again: int) -> None:
    position = SinkPosition()
    if committed:
        position = FileSink("file", str(path)).deliver(make_messages(1, 3), position)
    first = committed + 1
    stopped = FileSink("file", str(path), on_step=stop_at(step))
    with pytest.raises(StoppedError):
        stopped.deliver(make_messages(first, first + 3), position)
    sink = FileSink("file", str(path))
    position = sink.deliver(make_messages(first, first + again - 1), position)
    sink.deliver(make_messages(position.seq + 1, 20), position)
    assert read_seqs(path) == list(range(1, 21))


def test_crash_in_the_middle_of_a_line_of_a_new_file(path: Path) -> None:
    with pytest.raises(StoppedError):
        FileSink("file", str(path), on_step=stop_at("file.append.after")).deliver(
            make_messages(1, 3), SinkPosition()
        )
    os.truncate(path, path.stat().st_size - 7)
    sink = FileSink("file", str(path))
    sink.deliver(make_messages(1, 3), SinkPosition())
    assert read_seqs(path) == [1, 2, 3]
    assert sink.state().counters["recovered"] == 1


def test_messages_of_other_kinds_do_not_hide_the_note(path: Path) -> None:
    kinds = frozenset({"finding"})
    skipped = [Message(1, "incident", "c" * 32, 0.0, {})]
    stopped = FileSink("file", str(path), kinds, stop_at("file.append.after"))  # type: ignore[arg-type]
    with pytest.raises(StoppedError):
        stopped.deliver(skipped + make_messages(2, 3), SinkPosition())
    sink = FileSink("file", str(path), kinds)  # type: ignore[arg-type]
    position = sink.deliver(skipped, SinkPosition())
    sink.deliver(make_messages(2, 3), position)
    assert read_seqs(path) == [2, 3]


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([None, *STEPS]), st.integers(0, 200)),
        min_size=1,
        max_size=8,
    ),
    foreign=st.sampled_from([None, b"", b"theirs\n", b"theirs"]),
)
def test_any_sequence_of_crashes_gives_each_message_once(
    tmp_path_factory: pytest.TempPathFactory,
    plan: list[tuple[int, str | None, int]],
    foreign: bytes | None,
) -> None:
    path = tmp_path_factory.mktemp("crash") / "f.jsonl"
    if foreign is not None:
        path.write_bytes(foreign)
    position = SinkPosition()
    for size, step, lost in plan:
        sink = FileSink("file", str(path), on_step=stop_at(step) if step else lambda _: None)
        batch = make_messages(position.seq + 1, position.seq + size)
        floor = max(position.length, len(foreign or b""))
        try:
            position = sink.deliver(batch, position)
        except StoppedError:
            if step == "file.append.after":  # what was not fsynced may be partly lost
                os.truncate(path, max(floor, path.stat().st_size - lost))
        sink.close()
    FileSink("file", str(path)).deliver(make_messages(position.seq + 1, position.seq + 1), position)
    raw = path.read_bytes()
    ours = raw.removeprefix(foreign or b"").removeprefix(b"\n")
    assert raw.startswith(foreign or b"")
    seqs = [json.loads(line)["seq"] for line in ours.splitlines()]
    assert seqs == list(range(1, position.seq + 2))


@pytest.mark.parametrize("foreign", [b"theirs\n", b"theirs", b""])
def test_foreign_file_is_appended_to_and_never_cut(path: Path, foreign: bytes) -> None:
    position = FileSink("file", str(path)).deliver(make_messages(1, 1), SinkPosition())
    path.rename(path.with_suffix(".1"))  # kept, so that its inode is not given out again
    path.write_bytes(foreign * 50)
    sink = FileSink("file", str(path))
    after = sink.deliver(make_messages(2, 3), position)
    lines = path.read_bytes().splitlines()
    expected = foreign * 50
    assert path.read_bytes().startswith(expected)
    assert [json.loads(line)["seq"] for line in lines[-2:]] == [2, 3]
    assert after.identity != position.identity
    assert after.length == path.stat().st_size
    assert sink.state().counters["replaced"] == 1


def test_rotation_while_open(path: Path) -> None:
    sink = FileSink("file", str(path))
    position = sink.deliver(make_messages(1, 2), SinkPosition())
    old = path.with_suffix(".1")
    path.rename(old)
    position = sink.deliver(make_messages(3, 4), position)
    sink.deliver(make_messages(5, 5), position)
    assert read_seqs(old) == [1, 2]
    assert read_seqs(path) == [3, 4, 5]


@pytest.mark.parametrize("length", [0, 10])
def test_file_shortened_by_others_goes_on_at_its_end(path: Path, length: int) -> None:
    sink = FileSink("file", str(path))
    position = sink.deliver(make_messages(1, 2), SinkPosition())
    os.truncate(path, length)
    position = sink.deliver(make_messages(3, 3), position)
    assert sink.state().counters["shortened"] == 1
    assert position.length == path.stat().st_size
    assert json.loads(path.read_bytes().splitlines()[-1])["seq"] == 3
    assert len(path.read_bytes().splitlines()) == (2 if length else 1)


def test_file_that_took_over_the_inode_is_not_cut(path: Path) -> None:
    position = FileSink("file", str(path)).deliver(make_messages(1, 1), SinkPosition())
    theirs = b"x" * (position.length + 50) + b"\n"
    path.write_bytes(theirs)  # same inode, other content, longer
    FileSink("file", str(path)).deliver(make_messages(2, 2), position)
    assert path.read_bytes().startswith(theirs)


def test_failed_write_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FileSink("file", str(path))
    position = sink.deliver(make_messages(1, 2), SinkPosition())
    before = path.read_bytes()
    real = os.pwrite
    calls = 0

    def write_little(file: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        return real(file, bytes(data)[:5], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_little)
        with pytest.raises(DeliveryFailed, match="No space left") as caught:
            sink.deliver(make_messages(3, 4), position)
    assert calls == 3
    assert caught.value.position == position
    assert path.read_bytes() == before
    assert sink.state().failures == 1
    assert "No space left" in sink.state().last_error
    sink.deliver(make_messages(3, 4), position)
    assert read_seqs(path) == [1, 2, 3, 4]
    assert sink.state().last_error == ""


def test_short_writes_are_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, bytes(data)[:3], at))
    FileSink("file", str(path)).deliver(make_messages(1, 3), SinkPosition())
    assert read_seqs(path) == [1, 2, 3]


def test_failed_fsync_is_delivered_again_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FileSink("file", str(path))
    position = sink.deliver(make_messages(1, 1), SinkPosition())

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(EmitError):
            sink.deliver(make_messages(2, 3), position)
    sink.deliver(make_messages(2, 3), position)
    assert read_seqs(path) == [1, 2, 3]


def test_places_that_can_not_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing/f.jsonl", "pipe", "loop", "", "x" * 300):
        sink = FileSink("file", str(tmp_path / name))
        with pytest.raises(DeliveryFailed) as caught:
            sink.deliver(make_messages(1, 1), SinkPosition())
        assert caught.value.position == SinkPosition()
        assert not sink.state().connected
    (tmp_path / "missing").mkdir()
    sink = FileSink("file", str(tmp_path / "missing/f.jsonl"))
    assert sink.deliver(make_messages(1, 1), SinkPosition()).seq == 1
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError, match="no path"):
            FileSink("file", wrong)


@pytest.mark.parametrize(
    "note", [b"", b"{", b'{"x":' + b"[" * 4000, b"\xff", b'{"identity":"1:1","length":-5,"seq":1}']
)
def test_damaged_note_is_ignored(path: Path, note: bytes) -> None:
    path.write_bytes(b"theirs\n")
    identity = f"{path.stat().st_dev}:{path.stat().st_ino}".encode()
    (path.parent / f".{path.name}.pending").write_bytes(note.replace(b"1:1", identity))
    FileSink("file", str(path)).deliver(make_messages(1, 1), SinkPosition())
    assert path.read_bytes().startswith(b'theirs\n{"id"')
