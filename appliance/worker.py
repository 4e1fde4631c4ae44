"""One worker process: the stateless half of the line over some of the sources, for the daemon.

It is told over standard input what to read and whether its work is stored, and gives its work and
how it is over standard output (appliance/worker_frames.py). It ends when its input does.
"""

import argparse
import ctypes
import os
import queue
import signal
import sys
import threading
import time
from typing import IO, Final

import msgspec

from appliance.alarm import Alarm
from appliance.archiving import open_writer
from appliance.assembly import (
    build_detectors,
    build_mappings,
    build_reader,
    load_configured_rules,
    open_cache,
    open_indicators,
    open_sources,
    prepare_detectors,
    read_ledger,
    settle_memory,
)
from appliance.config import parse_config
from appliance.detect.sentinel.cache import QuietTexts
from appliance.errors import ApplianceError
from appliance.shards import LocalShard
from appliance.worker_frames import (
    Begin,
    Committed,
    Facts,
    Failed,
    ToWorker,
    pack_work,
    read_frame,
    write_frame,
)

IDLE_SECONDS: Final = 0.25
FACTS_SECONDS: Final = 0.5
#: Ordinary texts that a worker remembers, each at some 150 bytes.
MOST_QUIET: Final = 100_000
#: prctl(2): have the kernel end this process when the thread that started it ends.
_PR_SET_PDEATHSIG: Final = 1


class _Worker:
    """The shard, and the two pipes."""

    def __init__(self, begin: Begin, inward: IO[bytes], outward: IO[bytes]) -> None:
        config = parse_config(begin.config, "the daemon's configuration", checked=True)
        cache = open_cache(config)
        rules = load_configured_rules(config, cache=cache)
        detectors = build_detectors(rules, cache, open_indicators(config), build_mappings(config))
        prepare_detectors(detectors, config, read_ledger(config), begin.names)
        settle_memory()
        mine = [spec for spec in config.sources if spec.name in begin.names]
        points = begin.checkpoints
        sources = open_sources(
            mine,
            config,
            lambda name: [point for point in points if point.source == name],
            time.time,
            begin.own,
        )
        self._quiet = QuietTexts(min(config.sentinel.cache, MOST_QUIET)) if begin.sentinel else None
        reader = build_reader(config, detectors, rules, quiet=self._quiet)
        reader.archive = open_writer(config, begin.number, time.time)
        self._shard = LocalShard(sources, reader, config.limits)
        self._outward = outward
        self._inward = inward
        self._wake = Alarm()
        self._ended = threading.Event()
        self._answers: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._told = 0.0

    def run(self) -> None:
        """Turn until the input ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._shard.start(self._wake.set)
        try:
            while not self._ended.is_set():
                self._wake.clear()
                more = self._turn()
                self._tell()
                if not more:
                    self._wake.wait(IDLE_SECONDS)
        finally:
            self._shard.close()

    def _turn(self) -> bool:
        """One batch; True when there may be more at once."""
        work = self._shard.take()
        if work is None:
            return False
        write_frame(self._outward, pack_work(work))
        answer = self._answers.get()
        if isinstance(answer, Committed):
            if self._quiet is not None:
                self._quiet.learn(answer.quiet)
            self._shard.commit()
            return self._shard.has_more
        self._shard.rewind()
        return False

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= FACTS_SECONDS:
            self._told = now
            facts = self._shard.describe()
            write_frame(
                self._outward, Facts(facts["sources"], facts["rule_errors"], facts["archive_error"])
            )

    def _listen(self) -> None:
        decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
        while (message := read_frame(self._inward, decoder)) is not None:
            self._answers.put(message)
        self._ended.set()
        self._answers.put(None)
        self._wake.set()


def main() -> int:
    """Run as `python -m appliance.worker --parent PID`."""
    parser = argparse.ArgumentParser(prog="appliance.worker")
    parser.add_argument("--parent", type=int, required=True)
    parent = parser.parse_args().parent
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 0  # it died before the line above
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The daemon says when to end. Not SIG_IGN, which receivers would inherit: SIGTERM is how
        # one is told to end.
        signal.signal(number, lambda *_: None)
    # Nothing that a library prints may get between the frames.
    outward = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inward = sys.stdin.buffer
    try:
        begin = read_frame(inward, msgspec.msgpack.Decoder(Begin))
        if begin is not None:
            _Worker(begin, inward, outward).run()
    except ApplianceError as error:
        write_frame(outward, Failed(str(error)))
        return 1
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
