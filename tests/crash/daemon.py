"""The real daemon, which kills itself at a named step.

Called as `python -m tests.crash.daemon CONFIG STEP N`. STEP is a name that the daemon tells its
OnStep, N says at which time it is told. With STEP "never" it runs until it is killed or told to
stop.
"""

import os
import signal
import sys
from pathlib import Path

from appliance.config import load_config
from appliance.daemon import run_daemon
from appliance.schema import OnStep


def kill_at(name: str, times: int) -> OnStep:
    """An OnStep that ends this process by SIGKILL when it is told `name` for the n-th time."""
    left = times

    def on_step(step: str) -> None:
        nonlocal left
        if step == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return on_step


if __name__ == "__main__":
    config, step, count = sys.argv[1:]
    run_daemon(load_config(Path(config)), on_step=kill_at(step, int(count)))
