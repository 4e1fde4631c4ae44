"""The keeper's child process: sealed segments of the archive become Parquet, while nobody waits.

It is told over standard input what to convert and answers over standard output (the frames of
`worker_frames`). It runs at the lowest priority and ends when its input does.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

import msgspec

from appliance.archive.convert import convert_segment
from appliance.archiving import Begin, Convert, Done, build_read, fold_texts
from appliance.config import parse_config
from appliance.errors import ApplianceError
from appliance.worker_frames import read_frame, write_frame

_PR_SET_PDEATHSIG: Final = 1
NICE: Final = 19


def lower_priority() -> None:
    """Let everybody else go first; a service's sandbox may refuse it, which is no reason to end."""
    with contextlib.suppress(PermissionError):
        os.nice(NICE)


def main() -> int:
    """Run as `python -m appliance.converter --parent PID`."""
    parser = argparse.ArgumentParser(prog="appliance.converter")
    parser.add_argument("--parent", type=int, required=True)
    parent = parser.parse_args().parent
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 0
    os.nice(NICE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    outward = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inward = sys.stdin.buffer
    begin = read_frame(inward, msgspec.msgpack.Decoder(Begin))
    if begin is None:
        return 0
    config = parse_config(begin.config, "the daemon's configuration", checked=True)
    read = build_read(config)
    decoder = msgspec.msgpack.Decoder(Convert)
    while (asked := read_frame(inward, decoder)) is not None:
        try:
            answer = Done(
                convert_segment(
                    config.archive_path, asked.name, asked.length, read=read, texts=fold_texts
                )
            )
        except (ApplianceError, OSError) as error:
            answer = Done(None, str(error))
        try:
            write_frame(outward, answer)
        except BrokenPipeError:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
