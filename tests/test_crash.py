"""kill -9 at random moments and at every named step: nothing lost, nothing twice."""

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scene import Scene

#: How often the scripted run is killed. `make crash` kills 300 times.
KILLS = int(os.environ.get("CRASH_KILLS", "25"))

STEPS = [
    "line.processed",
    "store.checkpoints.after",
    "store.findings.after",
    "store.commit.before",
    "store.commit.after",
    "file.note.after",
    "file.append.before",
    "file.append.after",
    "file.fsync.after",
    "syslog.send.before",
    "syslog.send.after",
]


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A scene in a folder with a short name: a Unix socket's path has a limit."""
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        scene = Scene(Path(folder))
        yield scene
        scene.close()


@pytest.mark.timeout(1800)
def test_random_kills_lose_nothing_and_repeat_nothing(scene: Scene) -> None:
    rng = random.Random(20261122)
    assert KILLS > 0
    for number in range(KILLS):
        scene.start()
        # From the first moments of the start to well into the running: about half before the
        # first commit of this life, half after it.
        until = time.monotonic() + rng.uniform(0.0, 1.6)
        while time.monotonic() < until:
            scene.write(rng.randrange(1, 30))
            time.sleep(rng.uniform(0.005, 0.06))
        if number % 5 == 0:
            scene.rotate(number)
        scene.kill()
        scene.write(rng.randrange(0, 10))
    assert scene.finish() == []
    assert scene.marked > KILLS


#: Each step on its first and on a later time; a note is written only for a file new to the sink.
#: The first commits are those of the start: later ones are in the middle of groups.
STOPS = [
    *((step, n) for step in STEPS for n in (1, 2) if (step, n) != ("file.note.after", 2)),
    *((step, n) for step in STEPS if step.startswith("store.") for n in (6, 9)),
]


@pytest.mark.parametrize(("step", "times"), STOPS)
def test_kill_at_a_named_step(scene: Scene, step: str, times: int) -> None:
    scene.write(200)
    scene.start(step, times)
    for _ in range(100):
        scene.write(9)
        if scene.wait_end(0.1) is not None:
            break
    assert scene.wait_end(5) == -9, f"the step {step} was not reached"
    scene.write(20)
    assert scene.finish() == []
