"""`appliance run`: builds everything once, turns the line, and stops cleanly.

One thread turns the line: it polls the sources, puts what they give through the pipeline, and
writes what comes of it in one transaction. Beside it: watchdog's thread wakes it, one thread a sink
carries the outbox out, one asks the knowledge expert, one answers `status`.
"""

import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

from appliance import __version__
from appliance.alarm import Alarm
from appliance.assembly import (
    Experts,
    build_detectors,
    build_judge,
    index_rules,
    load_rule_set,
    open_correlator,
    open_experts,
    read_known_verdicts,
    store_limits,
)
from appliance.config import Config, FileSink, FilesSource, SyslogSink, describe_sink
from appliance.control import ControlServer
from appliance.delivery import Delivery, close_deliveries
from appliance.emit.sinks import Sink, build_sink
from appliance.errors import ApplianceError, StoreError
from appliance.judge.bench import Answer, Bench
from appliance.pipeline import Line, Reader, apply_answers, process
from appliance.schema import OnStep, SourceBatch, ignore_step
from appliance.sources.files import FilesSource as FilesReader
from appliance.sources.streams import StreamLimits
from appliance.status import build_status
from appliance.store import Store

log = logging.getLogger("appliance")

IDLE_SECONDS = 0.25
STORE_RETRY_SECONDS = 1.0
DRAIN_SECONDS = 3.0


def open_source(
    spec: FilesSource, store: Store, config: Config, clock: Callable[[], float]
) -> FilesReader:
    """A file source where the store left it."""
    limits = config.limits
    return FilesReader(
        spec.name,
        spec.paths,
        clock=clock,
        checkpoints=store.checkpoints(spec.name),
        format=spec.format,
        start_at=spec.start_at,
        limits=StreamLimits(limits.record_bytes, limits.rejected_bytes),
        files_cap=limits.files_per_source,
        rescan_seconds=config.rescan_seconds,
    )


def open_sink(spec: SyslogSink | FileSink, config: Config, on_step: OnStep) -> Sink:
    """A sink as configured. Raises ApplianceError when its settings make no sense."""
    hostname = config.hostname or socket.gethostname()
    try:
        return build_sink(
            spec.name,
            describe_sink(spec),
            hostname=hostname,
            procid=str(os.getpid()),
            on_step=on_step,
        )
    except ValueError as error:
        raise ApplianceError(f"sink {spec.name}: {error}") from error


def lock_state(folder: Path) -> TextIO:
    """Hold the state directory: two daemons must not write one store. Raises ApplianceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        held = (folder / "lock").open("w")
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ApplianceError(f"{folder}: another daemon is running on this state") from error
    except OSError as error:
        raise ApplianceError(f"{folder}: {error.strerror or error}") from error
    return held


class Daemon:
    """The running appliance. `run` returns when it is told to stop.

    Raises ApplianceError when it can't start. `on_step` is told the steps around commit and send.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.time,
        on_step: OnStep = ignore_step,
    ) -> None:
        self.config = config
        self._clock = clock
        self._on_step = on_step
        self._wake = Alarm()
        self._stopping = Alarm()
        self._store_error = ""
        self._answers: list[Answer] = []
        self._first = 0  # the source that is asked first
        self.started = clock()
        self._lock = lock_state(Path(config.state_dir))
        self.rules = load_rule_set(config.rules)
        self.store = Store(config.store_path, limits=store_limits(config), on_step=on_step)
        self.experts: Experts = open_experts(config)
        self.detectors = build_detectors(self.rules)
        self.judge = build_judge(
            self.experts,
            read_known_verdicts(self.store, self.experts.base),
            config,
            wake=self._wake.set,
        )
        self.sources = [open_source(s, self.store, config, clock) for s in config.sources]
        sinks = [open_sink(s, config, on_step) for s in config.sinks]
        self.store.open_sinks([sink.name for sink in sinks])
        self.deliveries = [Delivery(sink, self.store) for sink in sinks]
        self.reader = Reader(
            detectors=self.detectors,
            zones={s.name: ZoneInfo(s.timezone) for s in config.sources},
        )
        self.line = Line(
            rules=index_rules(self.detectors),
            judge=self.judge,
            correlator=open_correlator(self.store, config),
            known=self.store.known_findings,
            sinks=bool(sinks),
        )
        self.control = ControlServer(config.control_path, lambda _: self.status())

    def stop(self) -> None:
        """Have `run` end after the batch at hand. Safe to call from a signal handler: an Alarm
        may be set while this very thread is inside its `wait` or `clear`."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Turn the line until `stop`; then deliver what can be delivered at once, and close."""
        try:
            self._start()
            while not self._stopping.is_set():
                self._wake.clear()
                moved = self._turn()
                self._apply_answers()
                if not moved:
                    self._wake.wait(IDLE_SECONDS)
        finally:
            self._close()

    def status(self) -> dict[str, Any]:
        """Everything `status` shows, as JSON values."""
        rules = self.rules
        ledger = self.detectors["sigma"].counts().values()
        judge = self.judge.describe() if isinstance(self.judge, Bench) else {}
        live: dict[str, Any] = {
            "running": True,
            "version": __version__,
            "pid": os.getpid(),
            "started": self.started,
            "store_error": self._store_error,
            "sources": {source.name: source.describe() for source in self.sources},
            "sinks": {d.sink.name: d.describe() for d in self.deliveries},
            "rules": {
                "loaded": len(rules.rules),
                "refused": len(rules.refused),
                "met": sum(1 for row in ledger if row["evaluated"]),
                "fired": sum(1 for row in ledger if row["fired"]),
            },
            "rule_errors": {
                key: {"count": fault.count, "reason": fault.reason}
                for key, fault in list(self.detectors["sigma"].errors.items())
            },
            "models": self.experts.describe(),
            "queues": self._queues(judge),
            "judge": judge,
        }
        return build_status(self.store, self.config, live)

    def _queues(self, judge: dict[str, Any]) -> dict[str, dict[str, int]]:
        limits = self.config.limits
        correlator = self.line.correlator
        return {
            "judge": {"depth": judge.get("queue", 0), "cap": limits.judge_queue},
            "correlation_keys": {
                "depth": correlator.keys,
                "cap": limits.correlation_keys,
                "dropped": correlator.evicted,
            },
        }

    def _start(self) -> None:
        if self.experts.encoder is not None:
            self.experts.encoder.start()
        if isinstance(self.judge, Bench):
            self.judge.start(self.line.rules)
            self._ask_again(self.judge)
        for source in self.sources:
            source.start(self._wake.set)
        for delivery in self.deliveries:
            delivery.start()
        self.control.start()
        log.info(
            "started: %d rules, %d refused, %d sources, %d sinks",
            len(self.rules.rules), len(self.rules.refused), len(self.sources), len(self.deliveries),
        )  # fmt: skip
        for refused in self.rules.refused:
            log.warning("rule refused: %s:%d: %s", refused.path, refused.line, refused.reason)
        if self.experts.why_not:
            log.warning("knowledge: %s", self.experts.why_not)

    def _close(self) -> None:
        for delivery in self.deliveries:  # all at once, while the rest is closed
            delivery.begin_close()
        for source in self.sources:
            source.close()
        # First the model: the bench's thread may be waiting for its answer.
        self.experts.close()
        if isinstance(self.judge, Bench):
            self.judge.close()
        close_deliveries(self.deliveries, DRAIN_SECONDS)
        self.control.close()
        self.store.close()
        self._lock.close()
        log.info("stopped")

    def _turn(self) -> bool:
        """One turn of the line; True when there may be more to do at once."""
        batches = self._poll_sources()
        if not any(b.records or b.rejected or b.checkpoints for b in batches):
            return False
        try:
            batch = process(batches, self.reader, self.line)
            self._on_step("line.processed")
            self.store.write_batch(batch)
        except StoreError as error:
            self._undo(error)
            return False
        self._store_error = ""
        self.line.correlator.commit()
        for source in self.sources:
            source.commit()
        if batch.messages:
            self._wake_deliveries()
        return any(source.has_more for source in self.sources)

    def _poll_sources(self) -> list[SourceBatch]:
        """What the sources have, within one batch's bytes for all of them; the next turn begins
        with another source."""
        limits = self.config.limits
        left = limits.batch_bytes
        batches: list[SourceBatch] = []
        for source in self.sources[self._first :] + self.sources[: self._first]:
            batch = source.poll(limits.batch_records, max(left, 0))
            left -= sum(len(record.data) for record in batch.records)
            batches.append(batch)
        self._first = (self._first + 1) % max(len(self.sources), 1)
        return batches

    def _undo(self, error: StoreError) -> None:
        """Nothing of the batch is stored: take it again after a pause."""
        self._note_store_error(error)
        self.line.correlator.rollback()
        for source in self.sources:
            source.rewind()
        self._stopping.wait(STORE_RETRY_SECONDS)

    def _note_store_error(self, error: StoreError) -> None:
        log.error("%s", error)
        self._store_error = str(error)

    def _wake_deliveries(self) -> None:
        for delivery in self.deliveries:
            delivery.wake()

    def _ask_again(self, bench: Bench) -> None:
        """Findings of an earlier run on which the expert had not answered when it ended."""
        waiting = self.store.pending_rules()
        known = self.line.rules
        self.store.settle_findings([rule for rule in waiting if rule not in known])
        for rule in waiting:
            if rule in known:
                bench.ask(known[rule])

    def _apply_answers(self) -> None:
        if not isinstance(self.judge, Bench):
            return
        self._answers.extend(self.judge.take_answers())
        if not self._answers:
            return
        base = self.experts.base
        try:
            updated = apply_answers(
                self._answers,
                base.hash if base else None,
                self.store,
                self._clock(),
                sinks=bool(self.deliveries),
            )
        except StoreError as error:  # they stay, and are put in once the store takes them
            self._note_store_error(error)
            return
        self._answers.clear()
        if updated:
            self._wake_deliveries()


def run_daemon(config: Config, on_step: OnStep = ignore_step) -> None:
    """`appliance run`: until SIGTERM or SIGINT. Raises ApplianceError when it can't start."""
    daemon = Daemon(config, on_step=on_step)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    daemon.run()
