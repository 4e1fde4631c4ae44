"""All of the running appliance that comes from its configuration, so that a new one can be built
whole beside the old and then take its place: sources, rules, experts, the line, sinks.

The store, the lock and the control socket are the daemon's and outlive every engine.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from appliance.archiving import open_writer
from appliance.assembly import (
    Experts,
    SentinelParts,
    build_detectors,
    build_judge,
    build_mappings,
    build_queue,
    build_reader,
    index_rules,
    load_configured_rules,
    open_cache,
    open_correlations,
    open_correlator,
    open_experts,
    open_indicators,
    open_inventory,
    open_overrides,
    open_sentinel,
    open_sources,
    prepare_detectors,
    read_known_verdicts,
    settle_memory,
)
from appliance.config import Config, FileSink, SyslogSink, describe_sink
from appliance.delivery import Delivery, close_deliveries
from appliance.detect.indicators.detector import IndicatorDetector
from appliance.detect.sentinel.watch import QueuedSentinel
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.emit.sinks import Sink, build_sink
from appliance.errors import ApplianceError, ConfigError, ModelError, RuleError, StoreError
from appliance.health import RULES as HEALTH_RULES
from appliance.inference.manifest import SENTINEL_MANIFEST
from appliance.judge.bench import Bench
from appliance.pipeline import Line
from appliance.places import find_knowledge, find_models, find_sentinel, own_rules
from appliance.schema import Checkpoint, OnStep, RuleInfo
from appliance.shards import LocalShard, RemoteShard, Shard
from appliance.sources.journal import Own
from appliance.store import Store
from appliance.suppression import Suppressions

log = logging.getLogger("appliance")

DRAIN_SECONDS = 3.0


class Surroundings(msgspec.Struct, frozen=True):
    """What every engine of a daemon works with."""

    store: Store
    clock: Callable[[], float]
    wake: Callable[[], None]
    on_step: OnStep
    own: Own


class Draft:
    """A new engine's expensive parts, built while another engine runs. Raises ApplianceError when
    they can't be built: nothing was touched then."""

    def __init__(self, config: Config, around: Surroundings, old: "Engine | None" = None) -> None:
        self.config = config
        self.rules = load_configured_rules(config, cache=open_cache(config))
        self.overrides = open_overrides(config)
        self.indicators: IndicatorDetector | None = open_indicators(config)
        if old is not None:
            _refuse_broken_rules(self.rules, old.rules)
            _refuse_broken_base(self.indicators, old.indicators)
        self.sinks = [open_sink(spec, config, around.on_step) for spec in config.sinks]
        self.experts_mark: tuple[object, ...] = _mark_experts(config)
        keep = old is not None and old.experts_mark == self.experts_mark
        self.experts = old.experts if old is not None and keep else open_experts(config)
        self.sentinel_mark: tuple[object, ...] = (self.experts_mark, *_mark_sentinel(config))
        self.keeps_sentinel = old is not None and old.sentinel_mark == self.sentinel_mark
        self.sentinel_parts: SentinelParts
        self.sentinel: QueuedSentinel | None
        if old is not None and self.keeps_sentinel:
            self.sentinel_parts, self.sentinel = old.sentinel_parts, old.sentinel
        else:
            self.sentinel_parts = open_sentinel(config, self.experts.base)
            self.sentinel = build_queue(self.sentinel_parts, config, around.wake)


def _refuse_broken_rules(new: RuleSet, old: RuleSet) -> None:
    """A rule that loaded before and is now refused was broken by a change: the old set stays."""
    before = {(r.path, r.reason) for r in old.refused}
    loaded = {rule.info.path for rule in old.rules}
    broken = [r for r in new.refused if r.path in loaded and (r.path, r.reason) not in before]
    if broken:
        told = "; ".join(f"{r.path}:{r.line}: {r.reason}" for r in broken[:3])
        raise RuleError(f"{len(broken)} rules are broken: {told}")


def _refuse_broken_base(new: IndicatorDetector | None, old: IndicatorDetector | None) -> None:
    """A knowledge base that could be read before and can't be now was broken by a change."""
    if new is not None and new.missing and (old is None or not old.missing):
        raise ModelError(new.missing)


def _mark_experts(config: Config) -> tuple[object, ...]:
    """What the experts come from: changes when another model or base is there."""
    folders = (find_models(config.models_dir), find_knowledge(config.knowledge_dir))
    manifests = [
        folder / name
        for folder, name in zip(folders, ("encoder/manifest.json", "manifest.json"), strict=True)
        if folder is not None
    ]
    return (config.model, *folders, *map(_read_mark, manifests))


def _mark_sentinel(config: Config) -> tuple[object, ...]:
    """What the sentinel comes from."""
    path = find_sentinel(config.sentinel.model)
    manifest = _read_mark(path.parent / SENTINEL_MANIFEST) if path is not None else b""
    return (config.sentinel, path, manifest)


def _read_mark(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # not there, or closed to us: who opens it says so
        return str(error).encode()


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


class Engine:
    """The parts, put together and ready to `start`. With `old`, what did not change is taken over
    from it, and the rest of it is closed: there is one engine at a time. Raises ApplianceError;
    `old` goes on then, unless it says that it is `retired`."""

    def __init__(self, draft: Draft, around: Surroundings, old: "Engine | None" = None) -> None:
        self.config = config = draft.config
        self.rules = draft.rules
        self.overrides = draft.overrides
        self.experts: Experts = draft.experts
        self.experts_mark: tuple[object, ...] = draft.experts_mark
        self.sentinel_parts: SentinelParts = draft.sentinel_parts
        self.sentinel: QueuedSentinel | None = draft.sentinel
        self.sentinel_mark: tuple[object, ...] = draft.sentinel_mark
        self._keeps_sentinel = draft.keeps_sentinel
        self._around = around
        store = around.store
        self.indicators: IndicatorDetector | None = draft.indicators
        self.detectors = build_detectors(
            self.rules, open_cache(config), self.indicators, build_mappings(config)
        )
        if config.workers == 1:
            prepare_detectors(self.detectors, config, store.counts())
        self.reader = build_reader(config, self.detectors, self.rules, self.sentinel)
        canary = SigmaDetector(load_rules([own_rules()], feeds=lambda _: None))
        #: Puts the canary through every detector, and one whose rule is about it.
        self.own_reader = build_reader(config, {**self.detectors, "selftest": canary}, self.rules)
        self.judge = build_judge(
            self.experts, read_known_verdicts(store, self.experts.base), config, wake=around.wake
        )
        self.retired = False
        self._tending: threading.Thread | None = None
        self._owes_asking = True
        # All that asks the store, while there is still a way back.
        correlator = open_correlator(store, config)
        #: The overrides, and what operators suppressed by command.
        self.suppressions = Suppressions(self.overrides, store.suppressions())
        self._kept_sources = old.find_kept(config) if old is not None else set()
        fresh = [s.name for s in config.sources if s.name not in self._kept_sources]
        points = {name: store.checkpoints(name) for name in fresh}
        if old is not None:
            before = [d.sink.name for d in old.deliveries]
            store.open_sinks(list(dict.fromkeys([*before, *(s.name for s in draft.sinks)])))
            old.retire(self)
        if config.workers == 1:  # worker processes have their own
            self.reader.archive = open_writer(config, 0, around.clock, around.on_step)
        self.shards = self._open_shards(old, points)
        self.deliveries: list[Delivery] = self._open_deliveries(draft.sinks, old)
        built_in = {rule.id: rule for rule in HEALTH_RULES.values()}
        self.line = Line(
            rules={
                **index_rules(self.detectors, self.rules),
                **canary.rules,
                **built_in,
                **(self.sentinel.rules if self.sentinel is not None else {}),
            },
            judge=self.judge,
            correlator=correlator,
            known=store.known_findings,
            sinks=bool(self.deliveries),
            overrides=self.suppressions,
            correlations=open_correlations(store, config, self.rules),
            sentinel=self.sentinel,
            software=open_inventory(store),
        )

    def start(self) -> None:
        """Start what was not taken over."""
        settle_memory()
        if self.experts.encoder is not None:
            self.experts.encoder.start()
        clients = None if self._keeps_sentinel else self.sentinel_parts.clients
        if clients is not None and self.sentinel is not None:
            clients.start()
            self.sentinel.start()
        if isinstance(self.judge, Bench):
            self.judge.start(self._list_judged())
        for shard in self.shards:
            shard.start(self._around.wake)
        for delivery in self.deliveries:
            delivery.start()

    def tend(self) -> None:
        """Ask for the verdicts that an earlier run left open, once, and have the model's process
        started again when it died while nobody asked it anything. Raises StoreError."""
        if self._owes_asking and isinstance(self.judge, Bench):
            self._ask_again(self.judge)
        self._owes_asking = False
        encoder = self.experts.encoder
        if encoder is None or (self._tending is not None and self._tending.is_alive()):
            return
        state = encoder.state()
        if state.phase == "backing_off" and state.retry_in <= 0:
            # Whoever is being answered holds the encoder: this thread must not wait for it.
            self._tending = threading.Thread(target=encoder.wait_ready, args=(0.0,), daemon=True)
            self._tending.start()

    def look_again(self) -> None:
        """Operators changed incidents or suppressions in the store: the line goes on with what is
        there. To be called between two turns. Raises StoreError: nothing has changed here then."""
        store = self._around.store
        correlator = open_correlator(store, self.config)
        self.suppressions.replace(store.suppressions())
        self.line.correlator = correlator

    def close(self) -> None:
        """Deliver what can be delivered at once, and close everything."""
        for delivery in self.deliveries:  # all at once, while the rest is closed
            delivery.begin_close()
        for shard in self.shards:
            shard.begin_close()
        for shard in self.shards:
            shard.close()
        # First the models: their threads may be waiting for an answer.
        self.sentinel_parts.close()
        if self.sentinel is not None:
            self.sentinel.close()
        self.experts.close()
        if isinstance(self.judge, Bench):
            self.judge.close()
        close_deliveries(self.deliveries, DRAIN_SECONDS)

    def retire(self, new: "Engine") -> None:
        """Close what the new engine does not take over."""
        self.retired = True
        kept = new._kept_sources
        if self.reader.archive is not None:
            self.reader.archive.close()
        for shard in self.shards:
            shard.begin_close()
        for shard in self.shards:
            if isinstance(shard, LocalShard):
                for source in shard.sources:
                    if source.name not in kept:
                        source.close()
            else:
                shard.close()
        if isinstance(self.judge, Bench):
            # It may wait for the model's answer to what it asked last; nobody waits for it.
            threading.Thread(target=self.judge.close, daemon=True).start()
        if self.sentinel is not None and self.sentinel is not new.sentinel:
            if new.sentinel is not None:
                new.sentinel.take_over(self.sentinel)
            self.sentinel.hand_over()
            self.sentinel_parts.close()
        if self.experts is not new.experts:
            self.experts.close()
        if self.indicators is not None and self.indicators is not new.indicators:
            self.indicators.close()

    def _list_judged(self) -> dict[str, RuleInfo]:
        """The rules on which the experts speak: the sentinel has its own word on each finding."""
        mine = self.sentinel.rules if self.sentinel is not None else {}
        return {key: rule for key, rule in self.line.rules.items() if key not in mine}

    def find_kept(self, config: Config) -> set[str]:
        """Sources that go on as they are under this configuration."""
        same = (
            config.workers == self.config.workers == 1
            and config.limits == self.config.limits
            and config.rescan_seconds == self.config.rescan_seconds
        )
        specs = {spec.name: spec for spec in config.sources}
        return {s.name for s in self.config.sources if same and specs.get(s.name) == s}

    def _open_shards(
        self, old: "Engine | None", points: dict[str, list[Checkpoint]]
    ) -> list[Shard]:
        """`points` are the checkpoints of the sources that are opened."""
        config, around = self.config, self._around
        if config.workers == 1:
            before = [s for s in (old.shards if old else []) if isinstance(s, LocalShard)]
            mine = [source for shard in before for source in shard.sources]
            kept = {source.name: source for source in mine if source.name in self._kept_sources}
            dropped = {name: n for shard in before for name, n in shard.dropped.items()}
            fresh = [spec for spec in config.sources if spec.name not in kept]
            opened = open_sources(fresh, config, points.__getitem__, around.clock, around.own)
            by_name = {source.name: source for source in opened} | kept
            sources = [by_name[spec.name] for spec in config.sources]
            running = {name: dropped.get(name, 0) for name in kept}
            return [LocalShard(sources, self.reader, config.limits, running=running)]
        names = [spec.name for spec in config.sources]
        count = min(config.workers, len(names))
        return [
            RemoteShard(
                number + 1,
                names[number::count],
                config,
                checkpoints=around.store.checkpoints,
                clock=around.clock,
                own=around.own,
                find_quiet=self.sentinel.find_quiet if self.sentinel is not None else None,
            )
            for number in range(count)
        ]

    def _open_deliveries(self, sinks: list[Sink], old: "Engine | None") -> list[Delivery]:
        """A sink whose settings are the same goes on; the others begin anew."""
        before = {}
        if old is not None:
            specs = dict(zip((d.sink.name for d in old.deliveries), old.config.sinks, strict=True))
            same = old.config.hostname == self.config.hostname
            for delivery in old.deliveries:
                before[delivery.sink.name] = (specs[delivery.sink.name] if same else None, delivery)
        kept: list[Delivery] = []
        fresh: list[Sink] = []
        found: dict[str, Delivery] = {}
        for sink, spec in zip(sinks, self.config.sinks, strict=True):
            if sink.name in before and before[sink.name][0] == spec:
                found[sink.name] = before[sink.name][1]
                kept.append(found[sink.name])
                sink.close()
            else:
                fresh.append(sink)
        close_deliveries([d for _, d in before.values() if d not in kept], DRAIN_SECONDS)
        store = self._around.store
        try:
            store.open_sinks([sink.name for sink in sinks])
        except StoreError as error:
            if old is None:
                raise
            # The new ones are known already; those that are gone are forgotten the next time.
            log.error("%s", error)
        found.update({sink.name: Delivery(sink, store) for sink in fresh})
        return [found[sink.name] for sink in sinks]

    def _ask_again(self, bench: Bench) -> None:
        """Findings of an earlier run on which the expert had not answered when it ended."""
        store = self._around.store
        waiting = store.pending_rules()
        known = self.line.rules
        store.settle_findings([rule for rule in waiting if rule not in known])
        for rule in waiting:
            if rule in known:
                bench.ask(known[rule])

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        judge = self.judge.describe() if isinstance(self.judge, Bench) else {}
        shards = [shard.describe() for shard in self.shards]
        limits, correlator = self.config.limits, self.line.correlator
        return {
            "sources": {name: row for s in shards for name, row in s["sources"].items()},
            "workers": [s["worker"] for s in shards if "worker" in s],
            "archive_error": next((s["archive_error"] for s in shards if s["archive_error"]), ""),
            "rule_errors": {key: row for s in shards for key, row in s["rule_errors"].items()},
            "sinks": {d.sink.name: d.describe() for d in self.deliveries},
            "rules": {"loaded": len(self.rules.infos), "refused": len(self.rules.refused)},
            "overrides": self.overrides.describe(self._around.clock()),
            "indicators": self.indicators.describe() if self.indicators is not None else {},
            "models": self.experts.describe(),
            "sentinel": {
                **self.sentinel_parts.describe(),
                **(self.sentinel.describe() if self.sentinel is not None else {}),
            },
            "judge": judge,
            "queues": {
                "judge": {"depth": judge.get("queue", 0), "cap": limits.judge_queue},
                "correlation_keys": {
                    "depth": correlator.keys if correlator is not None else 0,
                    "cap": limits.correlation_keys,
                    "dropped": correlator.evicted if correlator is not None else 0,
                },
                "usual": {
                    "depth": correlator.usuals if correlator is not None else 0,
                    "cap": limits.correlation_keys,
                    "dropped": correlator.forgotten if correlator is not None else 0,
                },
                **(self.line.correlations.describe() if self.line.correlations else {}),
            },
        }


def check_reload(new: Config, old: Config) -> None:
    """Raises ConfigError for what only a restart can change."""
    problems = [
        f"{name}: can only be changed by a restart"
        for name in ("state_dir", "control_socket")
        if getattr(new, name) != getattr(old, name)
    ]
    if new.archive.path != old.archive.path:
        problems.append("archive.path: can only be changed by a restart")
    if problems:
        raise ConfigError(problems)


def list_disks(config: Config) -> list[dict[str, Any]]:
    """Free space where the appliance writes: its state, and the folders of file sinks."""
    places = [Path(config.state_dir)]
    places += [Path(spec.path).parent for spec in config.sinks if isinstance(spec, FileSink)]
    disks: dict[int, dict[str, Any]] = {}
    for place in places:
        try:
            device, status = place.stat().st_dev, os.statvfs(place)
        except OSError:
            continue
        disks.setdefault(device, {
            "path": str(place),
            "free_bytes": status.f_bavail * status.f_frsize,
            "free_share": status.f_bavail / status.f_blocks if status.f_blocks else 1.0,
        })  # fmt: skip
    return list(disks.values())
