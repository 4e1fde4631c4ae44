"""Carrying the outbox out: in order, nothing lost, a fault in one sink harms no thread."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import appliance.delivery
from appliance.delivery import BATCH_MESSAGES, Delivery, close_deliveries
from appliance.emit.sink import ALL_KINDS, DeliveryFailed, SinkState
from appliance.errors import StoreError
from appliance.schema import Message, MessageKind, SinkPosition
from appliance.store import Store, StoreLimits
from tests.builders import make_batch, make_messages

WAIT = 10.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance.delivery, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(appliance.delivery, "LONGEST_PAUSE_SECONDS", 0.02)


class FakeSink:
    """Keeps what it gets. `faults` are raised by the next calls, one each; None is no fault, a
    number lets that many messages through before it fails."""

    def __init__(self, kinds: frozenset[MessageKind] = ALL_KINDS) -> None:
        self.name = "out"
        self.kinds = kinds
        self.got: list[int] = []
        self.faults: list[Exception | int | None] = []
        self.broken: Exception | None = None
        self.calls = 0
        self.closed = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()

    def deliver(self, messages: Sequence[Message], position: SinkPosition) -> SinkPosition:
        self.calls += 1
        self.at_gate.set()
        assert self.gate.wait(WAIT)
        assert all(message.seq > position.seq for message in messages)
        fault = self.faults.pop(0) if self.faults else self.broken
        if isinstance(fault, Exception):
            raise fault
        through = messages if fault is None else messages[:fault]
        self.got.extend(m.body["n"] for m in through if m.kind in self.kinds)
        reached = SinkPosition(through[-1].seq if through else position.seq)
        if fault is not None:
            raise DeliveryFailed("cut off", reached)
        return reached

    def state(self) -> SinkState:
        return SinkState(self.name, "fake", "nowhere", True, True, 0, 0, 0, "", {})

    def close(self) -> None:
        self.closed.set()


class RestingDelivery(Delivery):
    """Notes the pauses that it was told to make."""

    def __init__(self, sink: FakeSink, store: "Store | FaultyStore") -> None:
        super().__init__(sink, store)
        self.pauses: list[float] = []

    def _rest(self, seconds: float) -> None:
        self.pauses.append(seconds)
        super()._rest(seconds)


class FaultyStore:
    """A store whose next calls fail."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.reading: list[Exception] = []
        self.writing: list[Exception] = []

    def messages(self, name: str, limit: int) -> tuple[SinkPosition, list[Message], int]:
        if self.reading:
            raise self.reading.pop(0)
        return self.store.messages(name, limit)

    def commit_sink(self, name: str, position: SinkPosition, delivered: int, lost: int) -> None:
        if self.writing:
            raise self.writing.pop(0)
        self.store.commit_sink(name, position, delivered, lost)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


class Scene:
    """One sink behind a real store."""

    def __init__(self, folder: Path, cap: int = 100_000, **changes: frozenset[MessageKind]) -> None:
        self.store = Store(folder / "store.db", durable=False, limits=StoreLimits(outbox=cap))
        self.outbox = FaultyStore(self.store)
        self.sink = FakeSink(**changes)
        self.store.open_sinks(["out"])
        self.delivery = RestingDelivery(self.sink, self.outbox)
        self.sent = 0

    def send(self, count: int) -> None:
        messages = make_messages(count, start=self.sent + 1)
        self.store.write_batch(make_batch(messages=messages))
        self.sent += count
        self.delivery.wake()

    def row(self) -> dict[str, object]:
        return self.store.sinks()[0]

    def await_delivered(self, count: int) -> None:
        until(lambda: self.row()["delivered"] == count)

    def close(self) -> None:
        self.sink.gate.set()
        close_deliveries([self.delivery], 0.05)
        assert not self.delivery._thread.is_alive()
        self.store.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_messages_go_out_in_order_and_what_comes_later_too(scene: Scene) -> None:
    scene.send(BATCH_MESSAGES * 2 + 1)
    scene.delivery.start()
    scene.await_delivered(BATCH_MESSAGES * 2 + 1)
    scene.send(3)
    scene.await_delivered(BATCH_MESSAGES * 2 + 4)
    assert scene.sink.got == list(range(1, BATCH_MESSAGES * 2 + 5))
    assert scene.row() == {"name": "out", "delivered": len(scene.sink.got), "waiting": 0, "lost": 0}
    assert scene.store.sizes()["outbox"] == 0


def test_a_sink_that_fails_and_recovers_gets_all_in_order_once(scene: Scene) -> None:
    down = DeliveryFailed("refused", SinkPosition(0))
    scene.sink.faults = [down, down, 3, 0, 2]
    scene.send(10)
    scene.delivery.start()
    scene.await_delivered(10)
    assert scene.sink.got == list(range(1, 11))
    assert scene.sink.calls == 6
    assert scene.row()["lost"] == 0
    until(lambda: scene.delivery.describe()["error"] == "")


def test_position_is_committed_only_for_what_is_delivered(scene: Scene) -> None:
    scene.sink.faults = [4]
    scene.sink.broken = DeliveryFailed("refused", SinkPosition(4))
    scene.send(10)
    scene.delivery.start()
    until(lambda: scene.sink.calls >= 3)
    assert scene.row() == {"name": "out", "delivered": 4, "waiting": 6, "lost": 0}
    assert scene.delivery.describe()["error"] == "refused"
    assert scene.store.messages("out", 1)[0].seq == 4


def test_pauses_grow_to_the_longest_and_begin_anew_after_a_success(scene: Scene) -> None:
    down = DeliveryFailed("refused", SinkPosition(0))
    scene.sink.faults = [down] * 6
    scene.send(1)
    scene.delivery.start()
    scene.await_delivered(1)
    assert scene.delivery.pauses == [0.002, 0.004, 0.008, 0.016, 0.02, 0.02]
    scene.sink.faults = [DeliveryFailed("refused", SinkPosition(1))]
    scene.send(1)
    scene.await_delivered(2)
    assert scene.delivery.pauses[6:] == [0.002]


def test_waking_does_not_shorten_a_pause(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance.delivery, "FIRST_PAUSE_SECONDS", 1000.0)
    scene.sink.broken = DeliveryFailed("refused", SinkPosition(0))
    scene.send(1)
    scene.delivery.start()
    until(lambda: scene.delivery.pauses == [1000.0])
    for _ in range(20):
        scene.send(1)
    time.sleep(0.05)
    assert scene.sink.calls == 1


def test_kinds_that_a_sink_does_not_want_are_passed_and_not_counted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, kinds=frozenset({"incident"}))
    scene.send(3)
    scene.delivery.start()
    until(lambda: scene.row()["waiting"] == 0)
    assert (scene.row()["delivered"], scene.sink.got) == (0, [])
    scene.close()


@pytest.mark.parametrize("fault", [0, 1, 3])
def test_what_the_cap_took_is_counted_once(tmp_path: Path, fault: int) -> None:
    scene = Scene(tmp_path, cap=4)
    scene.sink.faults = [fault, fault]
    scene.send(2)
    scene.send(5)  # 4 to 7 are left
    scene.delivery.start()
    until(lambda: scene.row()["waiting"] == 0)
    assert scene.sink.got == [4, 5, 6, 7]
    assert scene.row() == {"name": "out", "delivered": 4, "waiting": 0, "lost": 3}
    scene.close()


def test_what_the_cap_takes_between_two_tries_is_counted_too(tmp_path: Path) -> None:
    scene = Scene(tmp_path, cap=4)
    scene.sink.gate.clear()
    scene.sink.faults = [2]
    scene.send(4)
    scene.delivery.start()
    assert scene.sink.at_gate.wait(WAIT)
    scene.send(6)  # 7 to 10 are left; 1 and 2 are on their way
    scene.sink.gate.set()
    until(lambda: scene.row()["waiting"] == 0)
    assert scene.sink.got == [1, 2, 7, 8, 9, 10]
    assert scene.row() == {"name": "out", "delivered": 6, "waiting": 0, "lost": 4}
    scene.close()


def test_a_gap_with_nothing_behind_it_is_counted_and_passed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, cap=0)
    scene.send(3)
    scene.delivery.start()
    until(lambda: scene.store.messages("out", 1)[0].seq == 3)
    assert scene.row() == {"name": "out", "delivered": 0, "waiting": 0, "lost": 3}
    scene.close()


def test_a_gap_in_front_of_which_a_sink_stands_still_is_counted_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, cap=4)
    # The position changes, but not its place in the outbox.
    scene.sink.faults = [DeliveryFailed("cut", SinkPosition(0, length)) for length in (5, 9)]
    scene.send(2)
    scene.send(5)
    scene.delivery.start()
    until(lambda: scene.row()["waiting"] == 0)
    assert scene.row() == {"name": "out", "delivered": 4, "waiting": 0, "lost": 3}
    scene.close()


def test_a_store_that_fails_is_said_as_it_says_it(scene: Scene) -> None:
    scene.outbox.reading = [StoreError("disk full")] * 100_000
    scene.delivery.start()
    until(lambda: scene.delivery.describe()["error"] == "disk full")
    scene.outbox.reading = []
    until(lambda: scene.delivery.describe()["error"] == "")


@pytest.mark.parametrize("fault", [StoreError("disk full"), ValueError("bad row")])
def test_a_fault_in_the_store_does_not_end_the_thread(scene: Scene, fault: Exception) -> None:
    scene.outbox.reading = [fault, fault]
    scene.send(2)
    scene.delivery.start()
    scene.await_delivered(2)
    assert scene.sink.got == [1, 2]
    assert len(scene.delivery.pauses) == 2


def test_what_could_not_be_committed_is_delivered_again(scene: Scene) -> None:
    scene.outbox.writing = [StoreError("disk full")]
    scene.send(2)
    scene.delivery.start()
    scene.await_delivered(2)
    assert scene.sink.got == [1, 2, 1, 2]
    scene.outbox.writing = [StoreError("disk full")]
    scene.sink.faults = [1]
    scene.send(2)
    scene.await_delivered(4)
    assert scene.sink.got[4:] == [3, 3, 4]


def test_a_fault_in_the_sink_is_said_and_does_not_end_the_thread(scene: Scene) -> None:
    scene.sink.broken = ZeroDivisionError("oops")
    scene.send(2)
    scene.delivery.start()
    until(
        lambda: scene.delivery.describe()["error"] == "fault in the sink: ZeroDivisionError: oops"
    )
    until(lambda: scene.sink.calls >= 3)
    assert scene.row()["waiting"] == 2
    scene.sink.broken = None
    scene.await_delivered(2)
    until(lambda: scene.delivery.describe()["error"] == "")


def test_describe_names_what_the_sink_is(scene: Scene) -> None:
    assert scene.delivery.describe() == {
        "type": "fake", "target": "nowhere", "acknowledged": True, "connected": True, "error": "",
        "refused": 0,
    }  # fmt: skip


def test_close_delivers_what_waits(scene: Scene) -> None:
    scene.sink.gate.clear()
    scene.send(1)
    scene.delivery.start()
    assert scene.sink.at_gate.wait(WAIT)
    scene.send(BATCH_MESSAGES + 5)
    closer = threading.Thread(target=close_deliveries, args=([scene.delivery], WAIT))
    closer.start()
    scene.sink.gate.set()
    closer.join(WAIT)
    assert scene.row() == {
        "name": "out", "delivered": BATCH_MESSAGES + 6, "waiting": 0, "lost": 0,
    }  # fmt: skip
    assert scene.sink.closed.is_set()


def test_message_that_comes_while_the_outbox_is_looked_at_is_drained(scene: Scene) -> None:
    looked = threading.Event()
    read = scene.outbox.messages

    def read_slowly(name: str, limit: int) -> tuple[SinkPosition, list[Message], int]:
        result = read(name, limit)
        if not looked.is_set():
            looked.set()
            scene.send(1)  # after the look, before the thread says that it is idle
        return result

    scene.outbox.messages = read_slowly  # type: ignore[method-assign]
    scene.delivery.start()
    assert looked.wait(WAIT)
    until(lambda: scene.sent == 1)
    scene.delivery._idle.wait(WAIT)
    assert scene.row()["delivered"] == 1


def test_close_tries_a_resting_sink_once_more_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance.delivery, "FIRST_PAUSE_SECONDS", 1000.0)
    scene.sink.faults = [DeliveryFailed("refused", SinkPosition(0))]
    scene.send(3)
    scene.delivery.start()
    until(lambda: scene.delivery.pauses == [1000.0])
    close_deliveries([scene.delivery], WAIT)
    assert scene.sink.got == [1, 2, 3]


def test_close_gives_up_on_a_sink_that_stays_down(scene: Scene) -> None:
    scene.sink.broken = DeliveryFailed("refused", SinkPosition(0))
    scene.send(3)
    scene.delivery.start()
    until(lambda: scene.sink.calls >= 2)
    began = time.monotonic()
    close_deliveries([scene.delivery], 0.1)
    assert time.monotonic() - began < WAIT / 2
    assert not scene.delivery._thread.is_alive()
    assert scene.row()["waiting"] == 3


def test_close_leaves_a_sink_open_in_which_the_thread_still_hangs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance.delivery, "STOP_SECONDS", 0.05)
    scene.sink.gate.clear()
    scene.send(1)
    scene.delivery.start()
    assert scene.sink.at_gate.wait(WAIT)
    close_deliveries([scene.delivery], 0.01)
    assert not scene.sink.closed.is_set()


def test_close_before_start(scene: Scene) -> None:
    close_deliveries([scene.delivery], WAIT)
    assert scene.sink.closed.is_set()
