"""The end of the daemon: no signal is lost or hangs, and nothing that hangs adds up."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import appliance.delivery
from appliance.alarm import Alarm
from appliance.daemon import Daemon
from appliance.delivery import Delivery, close_deliveries
from appliance.emit.sink import ALL_KINDS, SinkState
from appliance.errors import ApplianceError
from appliance.schema import Message, SinkPosition
from appliance.store import Store
from tests.builders import make_batch, make_messages
from tests.test_daemon import ROOT_LOGIN, Box, wait_for

#: The line's pauses and a signal every 0.2 ms that rings the alarm, as `Daemon.stop` does.
RINGING = """
import signal, sys, time
from threading import Event
from appliance.alarm import Alarm
alarm = {"alarm": Alarm, "event": Event}[sys.argv[1]]()
signal.signal(signal.SIGALRM, lambda *_: alarm.set())
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    alarm.clear()
    alarm.wait(0.00001)
signal.setitimer(signal.ITIMER_REAL, 0.0)
"""


def ring(kind: str, seconds: float) -> int | None:
    """Exit code of RINGING; None when it hangs."""
    ringing = subprocess.Popen([sys.executable, "-c", RINGING, kind, str(seconds)])
    try:
        return ringing.wait(seconds + 10)
    except subprocess.TimeoutExpired:
        return None
    finally:
        ringing.kill()
        ringing.wait()


def test_an_alarm_may_be_rung_anywhere() -> None:
    assert ring("alarm", 4.0) == 0


def test_an_alarm_that_was_rung_is_heard() -> None:
    alarm = Alarm()
    assert not alarm.wait(0.0)
    alarm.set()
    alarm.set()
    assert alarm.is_set()
    assert alarm.wait(100.0)
    assert alarm.wait(100.0)
    alarm.clear()
    began = time.monotonic()
    assert not alarm.wait(0.05)
    assert time.monotonic() - began >= 0.05
    timer = threading.Timer(0.05, alarm.set)
    timer.start()
    assert alarm.wait(100.0)
    assert time.monotonic() - began < 10.0


class HangingSink:
    """Takes what it gets and does not come back."""

    kinds = ALL_KINDS

    def __init__(self, name: str) -> None:
        self.name = name
        self.entered = threading.Event()
        self.gate = threading.Event()

    def deliver(self, messages: Sequence[Message], position: SinkPosition) -> SinkPosition:
        self.entered.set()
        self.gate.wait(60)
        return position

    def state(self) -> SinkState:
        return SinkState(self.name, "fake", "nowhere", True, True, 0, 0, 0, "", {})

    def close(self) -> None:
        """Nothing is open."""


def test_many_sinks_that_hang_take_no_longer_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance.delivery, "STOP_SECONDS", 0.3)
    store = Store(tmp_path / "store.db", durable=False)
    sinks = [HangingSink(f"s{number}") for number in range(6)]
    store.open_sinks([sink.name for sink in sinks])
    store.write_batch(make_batch(messages=make_messages(3)))
    deliveries = [Delivery(sink, store) for sink in sinks]
    for delivery in deliveries:
        delivery.start()
    try:
        assert all(sink.entered.wait(10) for sink in sinks)
        began = time.monotonic()
        close_deliveries(deliveries, 0.3)
        assert time.monotonic() - began < 1.5
    finally:
        for sink in sinks:
            sink.gate.set()
        for delivery in deliveries:
            delivery._thread.join(10)
        store.close()


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        yield box
        box.stop()


def test_a_stopped_model_does_not_hold_up_the_end(box: Box) -> None:
    from tests.fixtures_models import ensure_models

    data = ensure_models()
    box.config = replace(
        box.config,
        model=True,
        models_dir=str(data / "models"),
        knowledge_dir=str(data / "knowledge"),
    )
    box.start()
    pid = wait_for(lambda: box.ask()["models"]["encoder"]["pid"])
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)
    began = time.monotonic()
    box.stop()
    assert time.monotonic() - began < 4.0
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        raise AssertionError("the model's process outlived the daemon")


def test_a_daemon_that_cannot_start_closes_what_it_opened(box: Box) -> None:
    """Its store and its lock: another may start at once in the same process."""
    box.append(ROOT_LOGIN)
    daemon = Daemon(box.config)
    box.config.control_path.mkdir()
    with pytest.raises(ApplianceError, match="something else is there"):
        daemon.run()
    box.config.control_path.rmdir()
    box.start()
    wait_for(lambda: len(box.findings()) == 1)


#: A daemon that gets a signal while it opens, and says how often it loaded its configuration.
SIGNALLED = """
import os, signal, sys
from pathlib import Path
import appliance.daemon as daemon
from appliance.config import load_config
bind, load, loads = daemon.ControlServer, daemon.load_config, []
def signalled(*words, **more):
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return bind(*words, **more)
def loading(path):
    loads.append(path)
    os.kill(os.getpid(), signal.SIGTERM)
    return load(path)
daemon.ControlServer, daemon.load_config = signalled, loading
path = Path(sys.argv[1])
daemon.run_daemon(load_config(path), path)
print(len(loads))
"""


@pytest.mark.parametrize(("name", "loads"), [("SIGTERM", 0), ("SIGINT", 0), ("SIGHUP", 1)])
def test_a_signal_while_it_opens_is_not_lost(box: Box, name: str, loads: int) -> None:
    config = box.folder / "c.yaml"
    config.write_text(
        f"state_dir: {box.folder}/state\nmodel: false\nsources: [{{name: a, paths: [{box.log}]}}]\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(config), name],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, f"{loads}\n"), ended.stderr


def test_sigterm_ends_the_command(box: Box) -> None:
    config = box.folder / "c.yaml"
    config.write_text(
        f"state_dir: {box.folder}/state\nmodel: false\nsources: [{{name: a, paths: [{box.log}]}}]\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "appliance", "run", "--config", str(config)],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(box.config.control_path.exists)
        running.send_signal(signal.SIGTERM)
        assert running.wait(15) == 0
    finally:
        running.kill()
