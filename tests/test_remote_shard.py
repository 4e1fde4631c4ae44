"""A worker process that hangs, can't be started, is asked too much or says odd things."""

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.config import (
    Config,
    FilesSource,
    Format,
    FormatSource,
    dump_config,
    parse_config,
)
from appliance.config import Health as HealthLimits
from appliance.errors import StoreError
from appliance.health import Health
from appliance.pipeline import Work
from appliance.schema import Checkpoint, Cursor, Rejected
from appliance.shards import HUNG_SECONDS, RemoteShard
from appliance.sources.journal import Own
from appliance.worker_frames import (
    MAX_FRAME_BYTES,
    Did,
    Facts,
    Failed,
    FromWorker,
    pack_work,
    read_frame,
    write_frame,
)
from tests.builders import make_detection, make_event, make_record
from tests.test_daemon import wait_for
from tests.test_workers import login

OWN = Own(unit="", pid=os.getpid(), boot="", since=0.0)
DECODER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class Bed:
    """A shard over one file, with a clock of its own and a store that may fail."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "a.log"
        self.log.touch()
        source = FilesSource("a", (str(self.log),))
        self.config = Config(state_dir=str(folder), model=False, sources=(source,))
        self.ahead = 0.0
        self.failing = False
        self.shard = RemoteShard(
            1, ["a"], self.config, checkpoints=self.read, clock=self.clock, own=OWN
        )

    def read(self, source: str) -> list[Checkpoint]:
        if self.failing:
            raise StoreError("disk I/O error")
        return []

    def clock(self) -> float:
        return time.time() + self.ahead

    @property
    def error(self) -> str:
        return str(self.shard.describe()["worker"]["error"])

    @property
    def pid(self) -> int | None:
        pid: int | None = self.shard.describe()["worker"]["pid"]
        return pid

    def settle(self) -> int:
        """Have what is there stored, until the worker tells how it is; its process id."""

        def turn() -> object:
            if self.shard.take() is not None:
                self.shard.commit()
            return self.shard.describe()["sources"]

        wait_for(turn)
        assert self.pid is not None
        return self.pid

    def take(self) -> Work:
        work: Work = wait_for(self.shard.take)
        return work


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path)
    yield bed
    bed.shard.close()


def test_a_store_that_cannot_be_read_when_a_worker_starts_is_said_and_tried_again(bed: Bed) -> None:
    bed.failing = True
    bed.shard.start(lambda: None)
    assert "disk I/O error" in bed.error
    assert bed.shard.take() is None
    bed.failing = False
    bed.log.write_bytes(login(1))
    assert len(bed.take().detections) == 1
    assert bed.error == ""


def test_a_process_that_cannot_be_started_is_said_and_tried_again(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.shard.start(lambda: None)
    pid = bed.pid
    assert pid is not None

    def refuse(*args: object, **settings: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr("appliance.shards.subprocess.Popen", refuse)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: bed.shard.take() is None and "Cannot allocate memory" in bed.error)
    bed.log.write_bytes(login(1))
    assert len(bed.take().detections) == 1


def test_a_worker_that_hangs_is_said_and_clears(bed: Bed) -> None:
    bed.shard.start(lambda: None)
    pid = bed.settle()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    assert bed.error == ""
    bed.ahead = HUNG_SECONDS + 1
    assert "it hangs" in bed.error
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: bed.error == "")


def test_a_worker_whose_work_waits_does_not_hang(bed: Bed) -> None:
    bed.log.write_bytes(login(1))
    bed.shard.start(lambda: None)
    bed.take()
    bed.ahead = 10 * HUNG_SECONDS
    assert bed.error == ""
    bed.shard.commit()
    bed.settle()
    assert bed.error == ""


def test_a_dead_workers_sources_do_not_look_read(bed: Bed) -> None:
    bed.shard.start(lambda: None)
    pid = bed.settle()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: bed.pid is None)
    facts = bed.shard.describe()
    assert facts["sources"] == {}
    health = Health(bed.config, {}, 0.0)
    health.look(1.0, {**facts, "workers": [facts["worker"]]})
    said = [t.part for t in health.look(7.0, {**facts, "workers": [facts["worker"]]})]
    assert "source a" in said


def test_a_quiet_workers_rare_deaths_put_its_return_off_no_longer_each_time(bed: Bed) -> None:
    for _ in range(4):
        bed.shard.start(lambda: None) if bed.pid is None else None
        pid = wait_for(lambda: bed.shard.take() is None and bed.pid)
        bed.ahead += 3600
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: bed.pid is None)
    began = time.monotonic()
    wait_for(lambda: bed.shard.take() is None and bed.pid)
    assert time.monotonic() - began < 3


def test_several_shards_end_side_by_side(tmp_path: Path) -> None:
    beds = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        beds.append(Bed(folder))
    for bed in beds:
        bed.shard.start(lambda: None)
    for bed in beds:
        os.kill(bed.settle(), signal.SIGSTOP)
    for bed in beds:
        bed.shard.begin_close()
    for bed in beds:
        pid = bed.pid
        assert pid is not None
        os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    for bed in beds:
        bed.shard.close()
    assert time.monotonic() - began < 4


def through_a_pipe(message: msgspec.Struct) -> FromWorker | None:
    stream = io.BytesIO()
    write_frame(stream, message)
    stream.seek(0)
    return read_frame(stream, DECODER)


def test_a_record_that_meets_many_rules_crosses_the_pipe_once() -> None:
    event = make_event(1)
    record = msgspec.structs.replace(event.record, data=b"x" * 100_000)
    event = msgspec.structs.replace(event, record=record)
    other = make_event(2)
    found = [make_detection(event, rule=f"r{n}") for n in range(200)]
    work = Work([*found, make_detection(other)], [], [], {"a": {"b": 1}}, {})
    stream = io.BytesIO()
    write_frame(stream, pack_work(work))
    assert len(stream.getvalue()) < 250_000
    assert len(stream.getvalue()) < MAX_FRAME_BYTES
    stream.seek(0)
    did = read_frame(stream, DECODER)
    assert isinstance(did, Did)
    assert did.unpack() == work


def test_a_detection_of_no_event_is_nonsense() -> None:
    did = pack_work(Work([make_detection(make_event(1))], [], [], {}, {}))
    with pytest.raises(ValueError, match="no event"):
        Did(did.work, did.events, [1]).unpack()
    with pytest.raises(ValueError, match="argument"):
        Did(did.work, did.events, []).unpack()


def test_names_that_are_no_utf8_are_shown_whatever_tells_them() -> None:
    odd = "/var/log/\udcff"
    assert through_a_pipe(Failed(odd)) == Failed("/var/log/\\udcff")
    facts = through_a_pipe(Facts({"a": {"error": odd, "missing": [odd]}}, {}))
    assert facts == Facts({"a": {"error": "/var/log/\\udcff", "missing": ["/var/log/\\udcff"]}}, {})
    record = msgspec.structs.replace(make_record(), path=odd, cursor=Cursor("logs", "k", 1, 2))
    did = through_a_pipe(pack_work(Work([], [Rejected(record, "source", odd)], [], {}, {})))
    assert isinstance(did, Did)
    assert did.work.rejected[0].reason == "/var/log/\\udcff"


@pytest.mark.parametrize(
    "pattern", ["(?P<a>\u2028+)", "(?P<a>\ufeff|\ufffe)", "(?P<a>\U0001f600é)", "(?P<a>\\d: #)"]
)
def test_a_worker_gets_the_configuration_that_the_daemon_runs_with(pattern: str) -> None:
    config = Config(
        hostname="yes",
        health=HealthLimits(free_share=1e-7, rejected_share=1e-5),
        formats=(Format("own", FormatSource(product="p"), pattern, {"a": "1e3"}),),
        sources=(FilesSource("0x10", ("/x: y #",), flood_per_second=1e7),),
    )
    assert parse_config(dump_config(config), "the daemon's", checked=True) == config
