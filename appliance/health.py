"""Beside the line: whether the appliance sees what it should, in words that a night shift reads.

"No alert" and "no data" must never look the same. From what every part says of itself and from what
the sources gave lately this works out the troubles: what `status` shows first, what the heartbeat
carries, and, for a source that is silent, floods, can't be read or has a wrong clock, a finding of
its own. A trouble is there while its cause is, and goes by itself.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from appliance.config import Config, Source
from appliance.schema import (
    OWN_SOURCE,
    Cursor,
    Detection,
    Entity,
    Event,
    Level,
    LogSource,
    Match,
    RawRecord,
    RuleInfo,
    View,
    digest,
    event_id,
)

Kind = Literal["silent", "flooding", "rejecting", "skewed"]

#: Seconds of one slice of a source's window at the least, and slices of one at the most.
SLICE_SECONDS: Final = 10.0
MOST_SLICES: Final = 60
#: Seconds over which a flood is measured.
FLOOD_SECONDS: Final = 60.0
#: Events of a window below which nothing is said of a source's clock.
CLOCK_EVENTS: Final = 5
#: Seconds for which a part that is being started again is no trouble yet.
PATIENCE_SECONDS: Final = 5.0
#: Two looks are a few seconds apart: when the clock says more than this, it was set, or the machine
#: slept.
JUMP_SECONDS: Final = 60.0

DETECTOR: Final = "health"
#: What is no trouble: the sentinel has no model, and the rules do what they did without one.
NO_MODEL: Final = "no model"
LOGSOURCE: Final = LogSource(product="appliance", service="health")


class Trouble(msgspec.Struct, frozen=True):
    """Something that is not as it should be. `part` says what ("source auth", "disk"), `words`
    what is wrong, on one line; `since` is when that was first seen (epoch seconds). `kind` is set
    for a source's trouble that is a finding. A `notice` leaves the appliance healthy."""

    part: str
    words: str
    since: float
    kind: Kind | None = None
    notice: bool = False


class _Counts(msgspec.Struct):
    """What a source gave in one slice of time."""

    begun: float
    seen: int = 0
    rejected: int = 0
    timed: int = 0
    ahead: int = 0
    late: int = 0


class _Window:
    """Counts over the last `seconds`, in at most MOST_SLICES slices or so."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._slice = max(SLICE_SECONDS, seconds / MOST_SLICES)
        self._slices: deque[_Counts] = deque()

    def note(self, counts: Mapping[str, int], now: float) -> None:
        """Add what one batch counted."""
        if not self._slices or not 0 <= now - self._slices[-1].begun < self._slice:
            self._slices.append(_Counts(now))
        part = self._slices[-1]
        part.seen += counts.get("seen", 0)
        part.rejected += counts.get("rejected", 0)
        part.timed += counts.get("decoded", 0) - counts.get("untimed", 0)
        part.ahead += counts.get("ahead", 0)
        part.late += counts.get("late", 0)

    def sum_up(self, now: float) -> _Counts:
        """All of the window."""
        while self._slices and self._slices[0].begun < now - self.seconds:
            self._slices.popleft()
        total = _Counts(now)
        for part in self._slices:
            total.begun = min(total.begun, part.begun)
            total.seen += part.seen
            total.rejected += part.rejected
            total.timed += part.timed
            total.ahead += part.ahead
            total.late += part.late
        return total

    def set_clock(self, now: float) -> None:
        """What came in a time that is still to come is no part of any window."""
        self._slices = deque(part for part in self._slices if part.begun <= now)


class SourceWatch:
    """What one source gave over the last `window` seconds and the last minute, and when it gave
    something last. `since` is from when on it is waited for (epoch seconds)."""

    def __init__(
        self, spec: Source, window: float, last_received: float | None, since: float
    ) -> None:
        self.spec = spec
        # What was stored may be ahead of a clock that was set back since.
        self.last_received = None if last_received is None else min(last_received, since)
        self.since = since
        self.lately = _Window(window)
        self.last_minute = _Window(FLOOD_SECONDS)

    def note(self, counts: Mapping[str, int], received: float | None, now: float) -> None:
        """Add what one batch counted of the source."""
        if received is not None:
            self.last_received = max(received, self.last_received or received)
        self.lately.note(counts, now)
        self.last_minute.note(counts, now)

    def take_over(self, old: "SourceWatch") -> None:
        """Go on with what another saw of the same source."""
        self.last_received, self.since = old.last_received, old.since
        self.last_minute = old.last_minute
        if self.lately.seconds == old.lately.seconds:
            self.lately = old.lately

    def set_clock(self, now: float) -> None:
        """The clock jumped to `now`: nobody knows for how long the source has been quiet."""
        self.since = now
        if self.last_received is not None:
            self.last_received = min(self.last_received, now)
        self.lately.set_clock(now)
        self.last_minute.set_clock(now)


class _Sightings:
    """The troubles seen at one look, by part and a key that stays the same while they last."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Trouble] = {}
        self.patience: dict[tuple[str, str], float] = {}

    def say(
        self,
        part: str,
        key: str,
        words: str,
        kind: Kind | None = None,
        *,
        notice: bool = False,
        patience: float = 0.0,
    ) -> None:
        """Note one; it counts when it has lasted for `patience` seconds."""
        self.found[part, key] = Trouble(part, words, 0.0, kind, notice)
        self.patience[part, key] = patience


class Health:
    """Works out the troubles. `started` is from when on sources are waited for (epoch seconds)."""

    def __init__(self, config: Config, last_received: Mapping[str, float], started: float) -> None:
        self._config = config
        window = max(config.health.window, FLOOD_SECONDS)
        self._watches = {
            spec.name: SourceWatch(spec, window, last_received.get(spec.name), started)
            for spec in config.sources
        }
        self._looked: float | None = None
        self._since: dict[tuple[str, str], float] = {}
        self.troubles: list[Trouble] = []

    def note(
        self,
        counts: Mapping[str, Mapping[str, int]],
        latest: Mapping[str, Mapping[str, float]],
        now: float,
    ) -> None:
        """Take in what one batch counted, by scope ("source:NAME") and name."""
        for scope, values in counts.items():
            watch = self._watches.get(scope.removeprefix("source:"))
            if scope.startswith("source:") and watch is not None:
                watch.note(values, latest.get(scope, {}).get("last_received"), now)

    def take_over(self, old: "Health") -> "Health":
        """Go on where another left off that watched the sources of an older configuration."""
        self._since, self.troubles, self._looked = old._since, old.troubles, old._looked
        for name, watch in self._watches.items():
            if name in old._watches:
                watch.take_over(old._watches[name])
        return self

    def last_received(self, name: str) -> float | None:
        """When the source gave something last."""
        watch = self._watches.get(name)
        return None if watch is None else watch.last_received

    def look(self, now: float, facts: Mapping[str, Any]) -> list[Trouble]:
        """The troubles there are now, worst first; `facts` is what `status` knows."""
        if self._looked is not None and abs(now - self._looked) > JUMP_SECONDS:
            self._set_clock(now)
        self._looked = now
        seen = _Sightings()
        _look_at_parts(facts, self._config, seen)
        for name, watch in self._watches.items():
            self._look_at_source(watch, now, facts.get("sources", {}).get(name, {}), seen)
        self._since = {key: self._since.get(key, now) for key in seen.found}
        self.troubles = sorted(
            (
                msgspec.structs.replace(trouble, since=self._since[key])
                for key, trouble in seen.found.items()
                if max(now - self._since[key], 0.0) >= seen.patience.get(key, 0.0)
            ),
            key=lambda trouble: trouble.notice,
        )
        return self.troubles

    def _set_clock(self, now: float) -> None:
        for watch in self._watches.values():
            watch.set_clock(now)
        self._since = {key: min(since, now) for key, since in self._since.items()}

    def _look_at_source(
        self, watch: SourceWatch, now: float, facts: Mapping[str, Any], seen: _Sightings
    ) -> None:
        spec, part = watch.spec, f"source {watch.spec.name}"
        for path in facts.get("missing", []):
            words = f"{path} is not there any more"
            # A rotation takes a moment.
            seen.say(part, f"missing {path}", words, patience=PATIENCE_SECONDS)
        for path in facts.get("absent", []):
            seen.say(part, f"absent {path}", f"{path} is not there", notice=True)
        if error := facts.get("error"):
            seen.say(part, "error", str(error))
        if count := facts.get("unreadable_files"):
            seen.say(part, "unreadable", f"{count} files or folders can't be read, see `rejected`")
        if count := facts.get("files_over_cap"):
            seen.say(part, "cap", f"{count} files are over the cap and not followed")
        if not facts:
            seen.say(part, "closed", "is not read", patience=PATIENCE_SECONDS)
        quiet = now - max(watch.last_received or 0.0, watch.since)
        if spec.expect_every and quiet > spec.expect_every:
            never = "it has never spoken" if watch.last_received is None else ""
            seen.say(
                part,
                "silent",
                f"silent for {show_span(quiet)}, it should speak every "
                f"{show_span(spec.expect_every)}" + (f"; {never}" if never else ""),
                "silent",
            )
        rate = watch.last_minute.sum_up(now).seen / FLOOD_SECONDS
        if spec.flood_per_second and rate > spec.flood_per_second:
            seen.say(
                part,
                "flooding",
                f"floods: {rate:,.0f} records a second over the last minute, "
                f"{spec.flood_per_second:,.0f} is the limit",
                "flooding",
            )
        self._look_at_window(watch.lately.sum_up(now), part, seen)

    def _look_at_window(self, total: _Counts, part: str, seen: _Sightings) -> None:
        limits = self._config.health
        if total.seen >= limits.rejected_records:
            share = total.rejected / total.seen
            if share > limits.rejected_share:
                seen.say(
                    part,
                    "rejecting",
                    f"{total.rejected:,} of its last {total.seen:,} records can't be read, see "
                    "`appliance rejected`",
                    "rejecting",
                )
        if total.timed >= CLOCK_EVENTS and total.ahead * 2 > total.timed:
            seen.say(
                part,
                "skewed",
                f"its clock is wrong: {total.ahead:,} of its last {total.timed:,} events say that "
                "they are still to come",
                "skewed",
            )


def _look_at_parts(facts: Mapping[str, Any], config: Config, seen: _Sightings) -> None:
    """Everything but the sources."""
    if error := facts.get("store_error"):
        seen.say("store", "error", f"does not take what is found: {error}")
    if error := facts.get("reload_error"):
        seen.say("configuration", "reload", f"the change was refused, the old one runs: {error}")
    if error := facts.get("archive", {}).get("error"):
        seen.say("archive", "error", f"events are not archived, or not converted: {error}")
    for place in facts.get("disks", []):
        if place["free_share"] < config.health.free_share:
            seen.say(
                "disk",
                place["path"],
                f"{place['path']} has {place['free_share']:.1%} free "
                f"({place['free_bytes'] / 1e9:,.1f} GB)",
            )
    for name, sink in facts.get("sinks", {}).items():
        if sink["error"]:
            seen.say(f"sink {name}", "error", f"{sink['error']}; {sink['waiting']:,} messages wait")
    encoder = facts.get("models", {}).get("encoder")
    if encoder and encoder["phase"] == "backing_off":
        words = f"its process is down: {encoder['last_error']}"
        seen.say("model", "encoder", f"{words}; findings go out without its word and get it later")
    if facts.get("models", {}).get("missing") and config.model:
        seen.say("model", "missing", str(facts["models"]["missing"]), notice=True)
    _look_at_sentinel(facts.get("sentinel", {}), config, seen)
    if facts.get("indicators", {}).get("missing"):
        seen.say("indicators", "missing", str(facts["indicators"]["missing"]))
    for worker in facts.get("workers", []):
        if worker["error"] or worker["pid"] is None:
            seen.say(f"worker {worker['number']}", "dead",
                f"{worker['error'] or 'is being started'}; it is started again",
                patience=0.0 if worker["error"] else PATIENCE_SECONDS)  # fmt: skip
    _look_at_rules(facts, seen)


def _look_at_sentinel(facts: Mapping[str, Any], config: Config, seen: _Sightings) -> None:
    """Whether the model judges what it should."""
    wanted = config.model and config.sentinel.enabled
    if wanted and facts.get("missing", "") not in ("", NO_MODEL):  # a damaged one
        seen.say("sentinel", "missing", str(facts["missing"]))
    for number, process in enumerate(facts.get("processes", []), 1):
        if process["phase"] != "up" and process["last_error"]:  # also while it is tried again
            words = f"its process {number} is down: {process['last_error']}"
            seen.say("sentinel", f"process {number}", f"{words}; {facts.get('waiting', 0):,} events"
                " wait for it", patience=PATIENCE_SECONDS)  # fmt: skip
    if facts.get("full"):
        seen.say(
            "sentinel", "full", f"its queue of {facts['queue_cap']:,} events, or its bytes, is "
            "full: events are skipped, only the rules see them",
        )  # fmt: skip


def _look_at_rules(facts: Mapping[str, Any], seen: _Sightings) -> None:
    """What of the rules, and of the operator's word on them, does not do what it should."""
    refused = facts.get("rules", {}).get("refused", 0)
    if refused:
        seen.say(
            "rules", "refused", f"{refused} are refused, see `appliance rules check`", notice=True
        )
    for gone in facts.get("overrides", {}).get("expired", []):
        seen.say(
            "overrides", f"expired {gone['line']}",
            f"the suppression of {gone['rule']} on line {gone['line']} has expired, its findings "
            f"go out again: {gone['reason']}",
            notice=True,
        )  # fmt: skip
    for rule, fault in facts.get("rule_errors", {}).items():
        seen.say("rules", f"fault {rule}", f"{rule} failed on {fault['count']} events: "
            f"{fault['reason']}", notice=True)  # fmt: skip


def show_span(seconds: float) -> str:
    """A duration in the words of a clock: "45 s", "7 min", "3 h", "2 d"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and seconds % size < 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _rule(kind: Kind, title: str, level: Level, text: str, *techniques: str) -> RuleInfo:
    key = f"appliance-source-{kind}"
    return RuleInfo(
        id=key,
        title=title,
        description=text,
        level=level,
        techniques=techniques,
        tactics=("defense-evasion",) if techniques else (),
        logsource=LOGSOURCE,
        path="built in",
        line=0,
        hash=digest(key, title, text),
    )


#: What a source's troubles are as findings, by kind.
RULES: Final[dict[Kind, RuleInfo]] = {
    "silent": _rule(
        "silent",
        "Log Source Fell Silent",
        "high",
        "A log source that speaks regularly gives nothing any more: the sensor is broken, cut off, "
        "or was switched off by an intruder to hide what comes next.",
        "T1562",
    ),
    "flooding": _rule(
        "flooding",
        "Log Source Floods",
        "medium",
        "A log source gives far more records than it should: something is failing there, or an "
        "intruder hides among the noise or wants the records' caps to be reached.",
    ),
    "rejecting": _rule(
        "rejecting",
        "Log Source Can No Longer Be Read",
        "medium",
        "Many records of a log source can't be read: its format changed, it is damaged, or it is "
        "being tampered with.",
        "T1562",
    ),
    "skewed": _rule(
        "skewed",
        "Log Source Has a Wrong Clock",
        "medium",
        "Most events of a log source say that they are still to come: its clock or time zone is "
        "wrong, and what it tells is put at the wrong time.",
    ),
}


def detect_trouble(trouble: Trouble, source: str, last: float | None, now: float) -> Detection:
    """A source's trouble as a detection. Its id comes from the last record before it (of a
    silence) or its first sight, so that it is told once."""
    if trouble.kind is None:
        raise ValueError(f"{trouble.part}: no finding")
    rule = RULES[trouble.kind]
    begun = (last or 0.0) if trouble.kind == "silent" else trouble.since
    record = RawRecord(
        data=f"{rule.id} {source} {begun:.3f}".encode(),
        source=OWN_SOURCE,
        path="",
        logical="health",
        cursor=Cursor(OWN_SOURCE, "health", 0, 0),
        received=now,
    )
    fields = {"Source": source, "Trouble": trouble.kind, "Words": trouble.words}
    event = Event(
        id=event_id(record),
        time=now,
        received=now,
        host="",
        views=(View(LOGSOURCE, fields),),
        entities=(Entity("service", f"log source {source}"),),
        record=record,
        format="appliance",
    )
    return Detection(
        detector=DETECTOR,
        rule_id=rule.id,
        title=rule.title,
        level=rule.level,
        techniques=rule.techniques,
        tactics=rule.tactics,
        event=event,
        logsource=LOGSOURCE,
        matched=(
            Match("Source", source, rule.id),
            Match("Words", trouble.words, trouble.kind),
        ),
    )


def sum_up_heartbeat(
    number: int, now: float, troubles: Sequence[Trouble], status: Mapping[str, Any]
) -> dict[str, Any]:
    """The flat body of one heartbeat: the ledger's totals and whether the appliance is healthy."""
    real = [trouble for trouble in troubles if not trouble.notice]
    sources = status["sources"]
    sinks = status["sinks"]
    return {
        "kind": "heartbeat",
        "id": digest("heartbeat", str(status["started"]), str(number)),
        "healthy": not real,
        "troubles": len(real),
        "trouble": f"{real[0].part}: {real[0].words}" if real else "",
        "version": status["version"],
        "uptime": int(now - status["started"]),
        **{
            name: sum(row[name] for row in sources)
            for name in ("seen", "decoded", "rejected", "evaluated", "unmapped", "dropped")
        },
        "findings": sum(status["levels"].values()),
        "sources": len(sources),
        "sources_silent": sum(trouble.kind == "silent" for trouble in troubles),
        "rules": status["rules"]["loaded"],
        "sinks": len(sinks),
        "sinks_failing": sum(bool(row.get("error")) for row in sinks),
        "waiting": max((row["waiting"] for row in sinks), default=0),
        "lost": sum(row["lost"] for row in sinks),
        "audit": status["audit"]["number"],
        "audit_head": status["audit"]["hash"],
    }
