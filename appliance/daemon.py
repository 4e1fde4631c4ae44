"""`appliance run`: builds everything once, turns the line, and stops cleanly.

One thread turns the line: it takes what the shards made of their sources' records, judges and joins
it, and writes what comes of it in one transaction. Beside it: one thread a sink carries the outbox
out, one asks the knowledge expert, one answers `status`. SIGHUP has a new engine built whole from
the configuration file; it takes the old one's place, or the old one goes on and says why.
"""

import fcntl
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import msgspec

from appliance import __version__
from appliance.alarm import Alarm
from appliance.archiving import ArchiveKeeper
from appliance.assembly import correlation_limits, store_limits
from appliance.audit import Head, describe_action
from appliance.casework import Outcome, describe_outcome, perform, read_request
from appliance.config import Config, load_config
from appliance.control import ControlServer, name_user
from appliance.emit.render import render_time
from appliance.engine import Draft, Engine, Surroundings, check_reload, list_disks
from appliance.errors import ApplianceError, StoreError
from appliance.handover import Handover
from appliance.health import Health, Kind, Trouble, detect_trouble, sum_up_heartbeat
from appliance.judge.bench import Answer, Bench
from appliance.pipeline import Work, apply_answers, join_work, read_records
from appliance.schema import (
    OWN_SOURCE,
    Cursor,
    OnStep,
    RawRecord,
    SourceBatch,
    digest,
    event_id,
    finding_id,
    ignore_step,
)
from appliance.service import Service, find_own_entries
from appliance.status import build_status
from appliance.store import Outgoing, Store

log = logging.getLogger("appliance")

IDLE_SECONDS = 0.25
STORE_RETRY_SECONDS = 1.0
#: How often the troubles are looked for.
LOOK_SECONDS = 2.0
#: Seconds that a clean stop waits for the sentinel to judge what waits.
JUDGE_SECONDS = 10.0
#: Canaries, and test messages, that may wait for the store.
MOST_ASKED = 100
#: Characters of the name under which root says that somebody works.
MOST_CLAIMED = 128
#: The canary's rule (own_rules/canary.yml).
CANARY_RULE = "5a1f0f1e-6d0f-4a6b-9d7e-0c0a4a3e0001"


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


class _Own(msgspec.Struct):
    """What the appliance itself adds to a batch, and how much of what was asked that is."""

    works: list[Work]
    messages: list[Outgoing]
    canaries: int
    tests: int
    beats: int = 0


class Daemon:
    """The running appliance. `run` returns when it is told to stop.

    Raises ApplianceError when it can't start. `path` is the configuration's file, to load it from
    again; `on_step` is told the steps around commit and send.
    """

    def __init__(
        self,
        config: Config,
        *,
        path: Path | None = None,
        clock: Callable[[], float] = time.time,
        on_step: OnStep = ignore_step,
        service: Service | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._service = service or Service()
        self._wake = Alarm()
        self._stopping = Alarm()
        self._reloading = Alarm()
        self._store_errors: dict[str, str] = {}  # by what was tried last
        self._reload_error = ""
        self._answers: list[Answer] = []
        self._canaries: deque[RawRecord] = deque()  # as the tests, from the control's thread
        self._tests: deque[Outgoing] = deque()
        self._raised: set[tuple[str, Kind]] = set()
        self._look_at = 0.0
        self._beat_at = 0.0
        self._beats = 0
        self.started = clock()
        self._loaded = self.started
        self._lock = lock_state(Path(config.state_dir))
        self.store = Store(config.store_path, limits=store_limits(config), on_step=on_step)
        self._around = Surroundings(
            self.store, clock, self._wake.set, on_step, find_own_entries(self.started)
        )
        self._on_step = on_step
        #: The newest entry of the audit log, as far as this daemon knows.
        self._audit = self.store.audit_head() or Head()
        self._archive = ArchiveKeeper(config, self.store, clock)
        self._archive.recover()  # before anybody writes to it
        self.engine = Engine(Draft(config, self._around), self._around)
        self._health = self._open_health(config)
        self._errands = Handover(self._wake.set)
        self._behind = False  # operators changed what the line has not looked at yet
        self.control = ControlServer(config.control_path, self._reply, act=self._errands.ask)

    @property
    def config(self) -> Config:
        """The configuration that runs."""
        return self.engine.config

    def stop(self) -> None:
        """Have `run` end after the batch at hand. Safe to call from a signal handler: an Alarm
        may be set while this very thread is inside its `wait` or `clear`."""
        self._stopping.set()
        self._wake.set()

    def reload(self) -> None:
        """Have `run` load the configuration again. Safe to call from a signal handler."""
        self._reloading.set()
        self._wake.set()

    def run(self) -> None:
        """Turn the line until `stop`; then deliver what can be delivered at once, and close."""
        try:
            self._start()
            while not self._stopping.is_set():
                self._wake.clear()
                if self._reloading.is_set():
                    self._reload()
                if self._behind and not self._catch_up():
                    self._stopping.wait(STORE_RETRY_SECONDS)
                    continue
                moved = self._turn()
                self._errands.carry_out(self._perform)
                self._apply_answers()
                self._service.beat(self._clock())
                if not moved:
                    self._wake.wait(IDLE_SECONDS)
        finally:
            self._close()

    # -- starting, reloading, closing ----------------------------------------------------------

    def _start(self) -> None:
        self.engine.start()
        self._archive.start()
        self.control.start()
        # No source could be heard before: a slow start is nobody's silence.
        self._health = self._open_health(self.config)
        self._tell_engine("started")
        self._service.ready()

    def _tell_engine(self, what: str) -> None:
        engine = self.engine
        log.info(
            "%s: %d rules, %d refused, %d sources, %d sinks",
            what, len(engine.rules.infos), len(engine.rules.refused),
            len(engine.config.sources), len(engine.deliveries),
        )  # fmt: skip
        log.info("audit log: %d entries, head %s", self._audit.number, self._audit.hash)
        for refused in engine.rules.refused:
            log.warning("rule refused: %s:%d: %s", refused.path, refused.line, refused.reason)
        if engine.experts.why_not:
            log.warning("knowledge: %s", engine.experts.why_not)

    def _reload(self) -> None:
        """Build the new engine whole, then swap; whatever is wrong with it, the old one runs on."""
        self._reloading.clear()
        self._service.reloading()
        try:
            if self._path is None:
                raise ApplianceError("this daemon was not started from a file")
            config = load_config(self._path)
            check_reload(config, self.config)
            draft = Draft(config, self._around, self.engine)
            health = self._open_health(config).take_over(self._health)
            engine = Engine(draft, self._around, self.engine)
        except ApplianceError as error:
            if self.engine.retired:
                raise  # there is no old one to go on with
            self._reload_error = str(error)
            for line in str(error).splitlines():
                log.error("not reloaded, the old configuration runs: %s", line)
        else:
            self._put_engine(engine, health)
        self._look_at = 0.0
        self._service.ready()

    def _put_engine(self, engine: Engine, health: Health) -> None:
        self.engine = engine
        engine.start()
        self._archive.set_config(engine.config)
        self.store.set_limits(store_limits(engine.config))
        self._health = health
        self._answers.clear()  # of another base, perhaps: the new bench is asked again
        self._reload_error = ""
        self._loaded = self._clock()
        self._tell_engine("reloaded")

    def _open_health(self, config: Config) -> Health:
        last = {
            scope.removeprefix("source:"): values["last_received"]
            for scope, values in self.store.counts().items()
            if scope.startswith("source:") and "last_received" in values
        }
        return Health(config, last, self._clock())

    def _close(self) -> None:
        self._service.stopping()
        self._errands.close()
        self._settle_sentinel()
        self.engine.close()
        self._archive.close()
        self.control.close()
        self.store.close()
        self._lock.close()
        log.info("stopped")

    def _settle_sentinel(self) -> None:
        """What waits for the sentinel is judged and stored, as far as that can be done soon; the
        rest is what `status` calls not judged."""
        engine = self.engine
        if engine.sentinel is None or self._behind:
            return
        engine.sentinel.wait_idle(JUDGE_SECONDS)
        try:
            batch = join_work([], engine.line)
            if batch.counts:
                self.store.write_batch(batch)
        except StoreError as error:
            self._note_store_error("write", error)
            engine.line.rollback()
        else:
            engine.line.commit()

    # -- the line ------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """One turn of the line; True when there may be more to do at once."""
        now = self._clock()
        engine = self.engine
        self._look(now)
        given = [(shard, work) for shard in engine.shards if (work := shard.take()) is not None]
        try:
            own = self._gather_own(now)
            answered = engine.sentinel is not None and engine.sentinel.ready
            if not (given or own.works or own.messages or answered):
                return False
            batch = join_work([*(work for _, work in given), *own.works], engine.line)
            batch.messages.extend(own.messages)
            self._on_step("line.processed")
            self.store.write_batch(batch)
        except StoreError as error:
            self._note_store_error("write", error)
            engine.line.rollback()
            for shard, _ in given:
                shard.rewind()
            self._stopping.wait(STORE_RETRY_SECONDS)
            return False
        self._store_errors.pop("write", None)
        engine.line.commit()
        for shard, work in given:
            shard.commit()
            self._health.note(work.counts, work.latest, now)
        self._settle_own(own, now)
        if batch.messages:
            self._wake_deliveries()
        return any(shard.has_more for shard in engine.shards)

    def _gather_own(self, now: float) -> "_Own":
        """What the appliance itself has to say: canaries and tests that were asked for, troubles
        of sources that were not told yet, and the heartbeat when it is due."""
        records, tests = list(self._canaries), list(self._tests)
        own = _Own([], tests, len(records), len(tests))
        if records:
            own.works.append(read_records([SourceBatch(records, [], [])], self.engine.own_reader))
        found = []
        for trouble in self._health.troubles:
            if trouble.kind is not None and (trouble.part, trouble.kind) not in self._raised:
                name = trouble.part.removeprefix("source ")
                last = self._health.last_received(name)
                found.append(detect_trouble(trouble, name, last, now))
        if found:
            own.works.append(Work(found, [], [], {}, {}))
        every = self.config.heartbeat
        # A clock that was set back must not stop the heart.
        due = now >= self._beat_at or now < self._beat_at - 2 * every
        if every and due and self.engine.deliveries:
            body = sum_up_heartbeat(self._beats, now, self._health.troubles, self.status())
            body["time"] = render_time(now)
            own.messages.append(Outgoing("heartbeat", body["id"], now, body))
            own.beats = 1
        return own

    def _settle_own(self, own: "_Own", now: float) -> None:
        """What was gathered is stored."""
        for _ in range(own.canaries):
            self._canaries.popleft()
        for _ in range(own.tests):
            self._tests.popleft()
        self._raised = {(t.part, t.kind) for t in self._health.troubles if t.kind is not None}
        if own.beats:
            self._beats += 1
            self._beat_at = now + self.config.heartbeat

    def _look(self, now: float) -> None:
        """Look for troubles, now and then; log those that came and went."""
        if self._look_at - 2 * LOOK_SECONDS <= now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        before = {(t.part, t.words) for t in self._health.troubles}
        parts = {t.part for t in self._health.troubles}
        after = self._health.look(now, self._list_facts())
        # What has gone is told anew when it comes again.
        self._raised &= {(t.part, t.kind) for t in after if t.kind is not None}
        try:
            self.engine.tend()
            self.store.expire(now)
        except StoreError as error:
            self._note_store_error("expire", error)
        else:
            self._store_errors.pop("expire", None)
        for trouble in after:
            if (trouble.part, trouble.words) not in before and trouble.part not in parts:
                log.warning("%s: %s", trouble.part, trouble.words, extra=_log_fields(trouble.part))
        for part in parts - {t.part for t in after}:
            log.info("%s: well again", part, extra=_log_fields(part))
        self._service.status(_describe_state(after))

    def _note_store_error(self, tried: str, error: StoreError) -> None:
        log.error("%s", error)
        self._store_errors[tried] = str(error)

    def _wake_deliveries(self) -> None:
        for delivery in self.engine.deliveries:
            delivery.wake()

    def _apply_answers(self) -> None:
        judge = self.engine.judge
        if not isinstance(judge, Bench):
            return
        self._answers.extend(judge.take_answers())
        if not self._answers:
            return
        base = self.engine.experts.base
        try:
            updated = apply_answers(
                self._answers,
                base.hash if base else None,
                self.store,
                self._clock(),
                sinks=bool(self.engine.deliveries),
            )
        except StoreError as error:  # they stay, and are put in once the store takes them
            self._note_store_error("answer", error)
            return
        self._store_errors.pop("answer", None)
        self._answers.clear()
        if updated:
            self._wake_deliveries()

    # -- what is asked ---------------------------------------------------------------------------

    def _reply(self, question: dict[str, Any]) -> dict[str, Any]:
        """In the control socket's thread. Raises ApplianceError."""
        asked = question.get("ask")
        if asked == "canary":
            return self._send_canary()
        if asked == "sink_test":
            return self._test_sinks(question.get("sinks"))
        if asked == "delivered":
            return {"sinks": self.store.delivered(str(question.get("id")))}
        return self.status()

    def _perform(self, question: dict[str, Any], user: int) -> dict[str, Any]:
        """What an operator does with an incident, between two turns. Raises ApplianceError."""
        request = read_request(question["act"])
        claimed = str(question.get("claimed") or "")[:MOST_CLAIMED] if user == 0 else ""
        now, sinks = self._clock(), bool(self.engine.deliveries)
        with self.store.working(
            actor=name_user(user), now=now, claimed=claimed, sinks=sinks, seen=self._audit
        ) as desk:
            done = perform(request, desk, now, correlation_limits(self.config).assets)
        self._heed(done)
        return describe_outcome(done)

    def _heed(self, done: Outcome) -> None:
        """It is stored: logged, told, and the line goes by it from now on."""
        for action in done.actions:
            log.info("%s", describe_action(action))
            self._audit = Head(action.number, action.hash)
        if done.moved or done.suppressed:
            self._behind = True
            self._catch_up()
        self._wake_deliveries()

    def _catch_up(self) -> bool:
        """Have the line look at what operators changed; whether it could."""
        try:
            self.engine.look_again()
        except StoreError as error:  # it must not go on with what is no longer so
            self._note_store_error("casework", error)
            return False
        self._store_errors.pop("casework", None)
        self._behind = False
        return True

    def _send_canary(self) -> dict[str, Any]:
        """Put the canary into the line; the id of the finding that it will be."""
        now = self._clock()
        nonce = digest("canary", str(now), os.urandom(16))
        record = RawRecord(
            data=f'{{"canary": "{nonce}"}}'.encode(),
            source=OWN_SOURCE,
            path="",
            logical="canary",
            cursor=Cursor(OWN_SOURCE, "canary", 0, 0),
            received=now,
            format="json",
        )
        if len(self._canaries) >= MOST_ASKED:
            raise ApplianceError(f"{MOST_ASKED} canaries wait for the store already")
        self._canaries.append(record)
        self._wake.set()
        return {"finding": finding_id("sigma", CANARY_RULE, event_id(record))}

    def _test_sinks(self, names: Any) -> dict[str, Any]:
        """Put a test message into the outbox; its id."""
        now = self._clock()
        known = [delivery.sink.name for delivery in self.engine.deliveries]
        wanted = names or known
        if not isinstance(wanted, list) or not set(wanted) <= set(known):
            raise ApplianceError(f"no such sink; there are: {', '.join(known) or 'none'}")
        key = digest("test", str(now), os.urandom(16))
        body = {"kind": "test", "id": key, "time": render_time(now), "text": "a test, no finding"}
        if len(self._tests) >= MOST_ASKED:
            raise ApplianceError(f"{MOST_ASKED} test messages wait for the store already")
        self._tests.append(Outgoing("test", key, now, body))
        self._wake.set()
        return {"id": key}

    def status(self) -> dict[str, Any]:
        """Everything `status` shows, as JSON values."""
        return build_status(self.store, self.config, self._list_facts())

    def _list_facts(self) -> dict[str, Any]:
        try:
            waiting = {row["name"]: row["waiting"] for row in self.store.sinks()}
            self._store_errors.pop("read", None)
        except StoreError as error:  # it must not end the daemon, which says so
            self._note_store_error("read", error)
            waiting = {}
        facts = self.engine.describe()
        kept = self._archive.describe()
        facts["archive"] = {**kept, "error": facts.pop("archive_error") or kept["error"]}
        for name, sink in facts["sinks"].items():
            sink["waiting"] = waiting.get(name, 0)
        return {
            "running": True,
            "version": __version__,
            "pid": os.getpid(),
            "started": self.started,
            "loaded": self._loaded,
            "store_error": next(iter(dict(self._store_errors).values()), ""),
            "reload_error": self._reload_error,
            "audit": {"number": self._audit.number, "hash": self._audit.hash},
            "disks": list_disks(self.config),
            "troubles": [
                {
                    "part": t.part,
                    "kind": t.kind,
                    "words": t.words,
                    "since": t.since,
                    "notice": t.notice,
                }
                for t in self._health.troubles
            ],
            **facts,
        }


def _describe_state(troubles: list[Trouble]) -> str:
    """One line for the service manager."""
    real = [trouble for trouble in troubles if not trouble.notice]
    if not real:
        return "healthy"
    more = f" (and {len(real) - 1} more)" if len(real) > 1 else ""
    return f"NOT HEALTHY: {real[0].part}: {real[0].words}{more}"


def _log_fields(part: str) -> dict[str, str]:
    """What `service.set_up_logging` makes fields of the journal of."""
    kind, _, name = part.partition(" ")
    return {kind: name} if name and kind in ("source", "sink") else {}


def run_daemon(config: Config, path: Path | None = None, on_step: OnStep = ignore_step) -> None:
    """`appliance run`: until SIGTERM or SIGINT. Raises ApplianceError when it can't start."""
    early: set[int] = set()  # opening takes seconds, and a signal may come meanwhile
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: early.add(number))
    daemon = Daemon(config, path=path, on_step=on_step)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    signal.signal(signal.SIGHUP, lambda *_: daemon.reload())
    if signal.SIGHUP in early:
        daemon.reload()
    if early & {signal.SIGTERM, signal.SIGINT}:
        daemon.stop()
    daemon.run()
