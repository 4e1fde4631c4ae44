"""Puts the parts of the line together from a configuration, once, for `run` and `scan` alike."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.config import (
    NO_FINDING,
    Config,
    FindingPart,
    Format,
    JournalSource,
    SyslogSource,
)
from appliance.config import Source as SourceSpec
from appliance.correlate.incidents import HELD_FOLDS, CorrelationLimits, Correlator, Stored
from appliance.decode import Decoder
from appliance.decode.custom import build_csv_decoder, build_json_decoder, build_pattern_decoder
from appliance.detect.indicators.detector import DETECTOR as INDICATORS
from appliance.detect.indicators.detector import IndicatorDetector
from appliance.detect.sensors import SensorDetector
from appliance.detect.sensors.mapped import NO_MAPS, FindingMap, Pick, Row, build_map
from appliance.detect.sentinel.examine import Examiner, Near
from appliance.detect.sentinel.heads import SPACE, Heads
from appliance.detect.sentinel.watch import QueuedSentinel, WaitingSentinel
from appliance.detect.sigma.cache import Cache, IndexCache
from appliance.detect.sigma.correlation import SigmaCorrelator, WindowLimits, list_watched
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.firing import find_lacking
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.detect.sigma.overrides import NO_OVERRIDES, Overrides, read_overrides
from appliance.detect.sigma.pipelines import read_pipelines
from appliance.detect.sigma.rule_cache import load_cached
from appliance.errors import ModelError, ModelUnavailable, RuleError, StoreError
from appliance.feeding import choose_shapes, list_feeds, read_seen
from appliance.indicator_files import open_base_indicators, open_indicator_files
from appliance.inference.client import EncoderClient, SentinelClients
from appliance.inference.manifest import (
    SENTINEL_HEADS,
    SENTINEL_TECHNIQUES,
    SentinelModel,
    check_hash,
    read_checked,
    read_sentinel,
)
from appliance.inference.ngrams import TechniqueNgrams
from appliance.inventory.ledger import SoftwareLedger
from appliance.inventory.observe import Inventory
from appliance.judge.bench import Bench, TagsOnly
from appliance.judge.knowledge import KnowledgeExpert
from appliance.knowledge.base import MANIFEST_FILE, KnowledgeBase
from appliance.normalise import FED, feeds, matches
from appliance.normalise.custom import CustomSource
from appliance.normalise.known_fields import KNOWN_FIELDS
from appliance.pipeline import CustomFormats, Detector, QuietFilter, Reader
from appliance.places import default_rules, find_knowledge, find_models, find_sentinel
from appliance.schema import OWN_SOURCE, Checkpoint, LogSource, RuleInfo, Verdict
from appliance.shards import Source
from appliance.sources.files import FilesSource as FilesReader
from appliance.sources.journal import JournalSource as JournalReader
from appliance.sources.journal import Own
from appliance.sources.streams import StreamLimits
from appliance.sources.syslog_listen import SyslogListenSource as SyslogListener
from appliance.sources.syslog_listen import spool_folder
from appliance.store import Store, StoreLimits

#: Events of a kind that nothing was prepared for and that no index is built for yet: with our own
#: rules they take a millisecond each, the index up to a second.
PLAIN_EVENTS: Final = 32


class Experts(msgspec.Struct):
    """The judge's side: the encoder's child process, the knowledge base, and the expert on both.
    `why_not` says what is missing when a part is None."""

    expert: KnowledgeExpert
    encoder: EncoderClient | None
    base: KnowledgeBase | None
    why_not: str = ""

    @property
    def ready(self) -> bool:
        """True when the expert can give full answers."""
        return self.encoder is not None and self.base is not None

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        facts: dict[str, Any] = {"missing": self.why_not}
        if self.encoder is not None:
            facts["encoder"] = msgspec.to_builtins(self.encoder.state())
        if self.base is not None:
            facts["knowledge"] = msgspec.to_builtins(self.base.info())
        return facts

    def close(self) -> None:
        """End the encoder's child process."""
        if self.encoder is not None:
            self.encoder.close()


def build_formats(config: Config) -> CustomFormats:
    """The formats that the configuration, which was checked, describes."""
    decoders: dict[str, Decoder] = {}
    sources: dict[str, CustomSource] = {}
    for spec in config.formats:
        decoders[spec.name] = _build_decoder(spec)
        parts = (spec.logsource.product, spec.logsource.category, spec.logsource.service)
        logsource = LogSource(*(part or None for part in parts))
        sources[spec.name] = CustomSource(logsource, spec.time, spec.host, spec.entities)
    return CustomFormats(decoders, sources)


def _build_decoder(spec: Format) -> Decoder:
    if spec.pattern:
        return build_pattern_decoder(spec.name, spec.pattern, spec.rename)
    if spec.csv:
        return build_csv_decoder(spec.name, spec.csv, spec.delimiter, spec.columns)
    return build_json_decoder(spec.name, spec.json)


def build_mappings(config: Config) -> dict[str, FindingMap]:
    """How the records of formats are findings of others' detectors, by the format's name."""
    return {
        spec.name: _build_mapping(spec.finding)
        for spec in config.formats
        if spec.finding != NO_FINDING
    }


def _build_mapping(spec: FindingPart) -> FindingMap:
    parts = {
        name: Pick(
            part.field,
            part.table,
            tuple((row.match, row.give) for row in part.patterns),
            part.otherwise,
        )
        for name in ("sensor", "rule_id", "title", "techniques", "tactics")
        for part in (getattr(spec, name),)
    }
    level = spec.level
    return build_map(
        **parts,
        level=Pick(level.field, level.table, (), level.otherwise),
        at_least=level.at_least,
        signature=spec.signature,
        rows=tuple(
            Row(row.match, row.level, row.techniques, row.tactics) for row in spec.signatures
        ),
        where=spec.where,
        evidence=spec.evidence,
    )


def open_cache(config: Config) -> Cache:
    """Where the daemon and its workers keep what they compiled of the rules."""
    return Cache(Path(config.state_dir) / "cache")


def load_configured_rules(
    config: Config,
    paths: Sequence[str] | None = None,
    *,
    unfed: bool = False,
    cache: Cache | None = None,
) -> RuleSet:
    """The configuration's rules (or those of `paths`), with its formats, placeholders and
    pipelines, but for those that the operator switched off; with `unfed` also those whose log
    source nothing feeds; from the cache when nothing changed. Raises RuleError when not one loads,
    ConfigError for a pipeline or overrides that can't be read."""
    named = config.rules if paths is None else paths
    fed = _feed_all if unfed else partial(feeds, custom=build_formats(config).sources)
    places = [Path(path) for path in named] or [default_rules()]
    load = partial(
        load_rules,
        placeholders=config.placeholders,
        pipeline=read_pipelines([Path(path) for path in config.pipelines]),
    )
    if cache is None:
        rules = load(places, feeds=fed)
    else:
        about = [repr(sorted(config.placeholders.items()))]
        about += [Path(path).read_text() for path in config.pipelines]
        rules = load_cached(
            places, cache, feeds=fed, load=lambda p, f: load(p, feeds=f), about=about
        )
    if not rules.rules:
        reasons = "; ".join(f"{r.path}:{r.line}: {r.reason}" for r in rules.refused[:5])
        raise RuleError(f"no rule could be loaded: {reasons}")
    off = open_overrides(config).disabled
    return rules.without(off)


class Unreachable(msgspec.Struct, frozen=True):
    """A loaded rule that can't fire: its log source is fed, but with events that never have the
    fields that it needs."""

    rule: RuleInfo
    fields: tuple[str, ...]


def find_unreachable(rules: RuleSet, config: Config) -> list[Unreachable]:
    """The loaded rules that need, in every alternative of their condition, fields that no event of
    any log source they read has, and the correlations all of whose rules do. Where one of those log
    sources is open, nothing is claimed."""
    sources = list_fed(build_formats(config))
    covered: dict[LogSource, tuple[frozenset[str] | None, ...]] = {}
    found: list[Unreachable] = []
    for rule in rules.rules:
        stated = rule.info.logsource
        if stated not in covered:
            read = [source for source in sources if matches(stated, source)]
            covered[stated] = tuple(KNOWN_FIELDS.get(source) for source in read)
        tables = [table for table in covered[stated] if table is not None]
        if not tables or len(tables) < len(covered[stated]):
            continue
        lacking = [find_lacking(rule.condition, table) for table in tables]
        if all(lacking):
            fields = tuple(sorted({name for names in lacking for name in names}))
            found.append(Unreachable(rule.info, fields))
    by_id = {each.rule.id: each for each in found}
    for correlation in rules.correlations:
        mine = [by_id[base] for base in correlation.bases if base in by_id]
        if len(mine) == len(correlation.bases):
            fields = tuple(sorted({name for each in mine for name in each.fields}))
            found.append(Unreachable(correlation.info, fields))
            by_id[correlation.info.id] = found[-1]
    return found


def _feed_all(_: LogSource) -> str | None:
    return None


def open_overrides(config: Config) -> Overrides:
    """The operator's word on rules. Raises ConfigError."""
    if not config.overrides:
        return NO_OVERRIDES
    return read_overrides(Path(config.overrides), config.placeholders)


def open_experts(config: Config) -> Experts:
    """The knowledge expert with what is there of model and base.

    What is not there or not trusted makes no error here: the line runs without, and says so.
    """
    missing: list[str] = []
    encoder: EncoderClient | None = None
    base: KnowledgeBase | None = None
    models = find_models(config.models_dir)
    folder = find_knowledge(config.knowledge_dir)
    if models is None:
        missing.append("no encoder is built: run `appliance model build`")
    if folder is None:
        missing.append("no knowledge base is built: run `appliance kb build`")
    try:
        if models is not None:
            encoder = EncoderClient(models / "encoder" / "encoder.gguf")
        if encoder is not None and folder is not None:
            base = KnowledgeBase.open(folder, encoder.model_hash)
    except ModelError as error:
        encoder = None  # what is not as its manifest says does not run, nor is it half used
        missing.append(str(error))
    if not config.model:
        encoder = None
        missing.append("the model is switched off")
    embed = encoder.embed if encoder is not None else _refuse
    return Experts(KnowledgeExpert(base, embed), encoder, base, "; ".join(missing))


class SentinelParts(msgspec.Struct):
    """The sentinel's child processes and what reads their answers; both None where there is no
    model or it is switched off, and `why_not` says so."""

    clients: SentinelClients | None = None
    examiner: Examiner | None = None
    model: SentinelModel | None = None
    why_not: str = ""

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        if self.clients is None or self.model is None:
            return {"model": None, "missing": self.why_not}
        states = self.clients.states()
        return {
            "model": self.model.name,
            "hash": self.model.sha256,
            "trained": self.model.trained,
            "missing": "",
            "processes": [msgspec.to_builtins(state) for state in states],
            "restarts": sum(state.restarts for state in states),
        }

    def close(self) -> None:
        """End the child processes."""
        if self.clients is not None:
            self.clients.close()


class _Techniques:
    """The knowledge base's techniques, for the sentinel."""

    def __init__(self, base: KnowledgeBase) -> None:
        self._base = base

    def search_techniques(self, vector: NDArray[np.float32], k: int) -> Sequence[Near]:
        """The nearest, best first."""
        return self._base.search(vector, k, "technique")


def open_sentinel(config: Config, base: KnowledgeBase | None) -> SentinelParts:
    """The sentinel with what is there of its model. What is not there, or not what its manifest
    says, makes no error here: the line runs without, and says so."""
    settings = config.sentinel
    if not config.model or not settings.enabled:
        return SentinelParts(why_not="switched off")
    path = find_sentinel(settings.model)
    if path is None:
        return SentinelParts(why_not="no model")
    try:
        model = read_sentinel(path)
        for name, expected in model.files.items():
            if name not in (SENTINEL_HEADS, SENTINEL_TECHNIQUES):  # checked as they are read
                check_hash(path.parent / name, expected)
        heads = load_heads(path, model)
        beside = load_techniques(path, model, len(heads.about.techniques))
    except ModelError as error:
        return SentinelParts(why_not=str(error))
    clients = SentinelClients(path, settings.processes)
    near = _Techniques(base) if base is not None and base.info().manifest.dims == SPACE else None
    examiner = Examiner(heads, clients, near, settings.budget, beside)
    return SentinelParts(clients, examiner, model)


def load_heads(path: Path, model: SentinelModel) -> Heads:
    """The heads beside the sentinel's GGUF file. Raises ModelError when they are not what the
    manifest says, or are another model's."""
    beside = path.parent / SENTINEL_HEADS
    heads = Heads.parse(read_checked(beside, model.files[SENTINEL_HEADS]), str(beside))
    if heads.dims != model.dims:
        raise ModelError(f"{beside}: of {heads.dims} dimensions, the model has {model.dims}")
    return heads


def load_techniques(path: Path, model: SentinelModel, count: int) -> TechniqueNgrams | None:
    """What tells `count` techniques apart by n-grams, where the model has it. Raises as
    `load_heads`."""
    expected = model.files.get(SENTINEL_TECHNIQUES)
    if expected is None:
        return None
    beside = path.parent / SENTINEL_TECHNIQUES
    found = TechniqueNgrams.parse(read_checked(beside, expected), str(beside))
    if found.count != count:
        raise ModelError(f"{beside}: of {found.count} techniques, the heads have {count}")
    return found


def build_queue(
    parts: SentinelParts, config: Config, wake: Callable[[], None]
) -> QueuedSentinel | None:
    """The sentinel of `run`, where there is one."""
    if parts.examiner is None:
        return None
    settings = config.sentinel
    return QueuedSentinel(
        parts.examiner,
        settings.cache,
        queue_cap=settings.queue,
        queue_bytes=settings.queue_bytes,
        repeat_seconds=settings.repeat,
        wake=wake,
    )


def build_waiting(parts: SentinelParts, config: Config) -> WaitingSentinel | None:
    """The sentinel of `scan`, where there is one."""
    if parts.examiner is None:
        return None
    settings = config.sentinel
    return WaitingSentinel(parts.examiner, settings.cache, repeat_seconds=settings.repeat)


def _refuse(texts: Sequence[str]) -> NDArray[np.float32]:
    raise ModelUnavailable(f"no encoder for {len(texts)} texts")


def read_known_verdicts(store: Store, base: KnowledgeBase | None) -> dict[str, Verdict]:
    """Cached verdicts of earlier runs with the same knowledge base, by rule hash."""
    if base is None:
        return {}
    cached = store.verdicts(base.hash)
    return {key: msgspec.json.decode(body, type=Verdict) for key, body in cached.items()}


def build_judge(
    experts: Experts, known: Mapping[str, Verdict], config: Config, **settings: Any
) -> Bench | TagsOnly:
    """The bench with its thread, or what the tags say when model or base are missing."""
    if not experts.ready:
        return TagsOnly(experts.expert, experts.why_not)
    return Bench(experts.expert, known=known, queue_cap=config.limits.judge_queue, **settings)


def open_indicators(config: Config, folder: Path | None = None) -> IndicatorDetector | None:
    """The indicators' detector, of the files that the configuration names and of what was imported
    into the knowledge base; None where there are none. What is compiled for it is kept in `folder`,
    that of the state when None. Raises ModelError for a named file that can't be read or is
    damaged: without it the line would miss what it was told to find. A base that can't be read is
    told of by the detector (`missing`): rules need none."""
    kept = folder if folder is not None else Path(config.state_dir) / "indicators"
    files = open_indicator_files(config.indicators, kept)
    missing = ""
    base = find_knowledge(config.knowledge_dir)
    if base is not None and (base / MANIFEST_FILE).exists():
        try:
            files += open_base_indicators(base, kept)
        except ModelError as error:
            missing = f"none of the knowledge base's are looked for: {error}"
    return IndicatorDetector(files, missing=missing) if files or missing else None


#: A detector that is built here.
BuiltDetector = SigmaDetector | SensorDetector | IndicatorDetector


def build_detectors(
    rules: RuleSet,
    cache: Cache | None = None,
    indicators: IndicatorDetector | None = None,
    mapped: Mapping[str, FindingMap] = NO_MAPS,
) -> dict[str, BuiltDetector]:
    """Every detector there is: an auditor sees here all that can raise a finding. `mapped` are the
    formats whose records are findings already, see `build_mappings`."""
    kept = None if cache is None else IndexCache(cache)
    sigma = SigmaDetector(rules, cache=kept, patience=PLAIN_EVENTS)
    built: dict[str, BuiltDetector] = {"sigma": sigma, "sensors": SensorDetector(mapped)}
    if indicators is not None:
        built[INDICATORS] = indicators
    return built


def prepare_detectors(
    detectors: Mapping[str, BuiltDetector],
    config: Config,
    counts: Mapping[str, Mapping[str, float]],
    names: Sequence[str] | None = None,
) -> None:
    """Have the rules ready for the events that the configured sources (or those of `names`) are
    known to feed, so that the first of them need not wait. `counts` are the store's: of a source
    that may feed anything they say what it did."""
    feeds = [feed for feed in list_feeds(config) if names is None or feed.name in names]
    shapes = choose_shapes(feeds, read_seen(counts))
    for detector in detectors.values():
        if isinstance(detector, SigmaDetector):
            detector.prepare(shapes)


def read_ledger(config: Config) -> Mapping[str, Mapping[str, float]]:
    """The store's counts, for who does not write it; empty where it can't be read."""
    try:
        with closing(Store(config.store_path, read_only=True)) as store:
            return store.counts()
    except (StoreError, OSError):
        return {}


def settle_memory() -> None:
    """What was loaded stays: the collector need not look through thousands of rules again and
    again. What an engine before left is given back first."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def build_reader(
    config: Config,
    detectors: Mapping[str, Detector],
    rules: RuleSet | None = None,
    quiet: QuietFilter | None = None,
) -> Reader:
    """The stateless half of the line, of the daemon and of its worker processes; `rules` for the
    correlations among them, `quiet` where there is a sentinel."""
    zones: dict[str, tzinfo] = {spec.name: ZoneInfo(spec.timezone) for spec in config.sources}
    formats = build_formats(config)
    return Reader(
        detectors=detectors,
        zones={**zones, OWN_SOURCE: UTC},
        fed=list_fed(formats),
        formats=formats,
        watched=list_watched(rules.correlations, rules.silent) if rules else {},
        quiet=quiet,
        inventory=Inventory(),
    )


def open_inventory(store: Store) -> SoftwareLedger:
    """The inventory as the store has it. Raises StoreError."""
    return SoftwareLedger(store.software())


def list_fed(formats: CustomFormats) -> frozenset[LogSource]:
    """Every log source whose views are counted."""
    return frozenset(FED) | {source.logsource for source in formats.sources.values()}


def open_sources(
    specs: Sequence[SourceSpec],
    config: Config,
    checkpoints: Callable[[str], list[Checkpoint]],
    clock: Callable[[], float],
    own: Own,
) -> list[Source]:
    """Sources where the store left them. `own` says which of the journal's entries are the
    appliance's."""
    return [_open_source(spec, config, checkpoints(spec.name), clock, own) for spec in specs]


def _open_source(
    spec: SourceSpec,
    config: Config,
    checkpoints: list[Checkpoint],
    clock: Callable[[], float],
    own: Own,
) -> Source:
    limits = StreamLimits(config.limits.record_bytes, config.limits.rejected_bytes)
    if isinstance(spec, JournalSource):
        return JournalReader(
            spec.name,
            directory=spec.directory,
            units=spec.units,
            identifiers=spec.identifiers,
            start_at=spec.start_at,
            checkpoints=checkpoints,
            clock=clock,
            limits=limits,
            own=own,
        )
    if isinstance(spec, SyslogSource):
        return SyslogListener(
            spec.name,
            transport=spec.transport,
            address=spec.address,
            folder=spool_folder(Path(config.state_dir), spec.name),
            clock=clock,
            checkpoints=checkpoints,
            format=spec.format,
            limits=limits,
            spool_bytes=spec.spool_bytes,
            allow=spec.allow,
            max_connections=spec.max_connections,
            idle_seconds=spec.idle_seconds,
            receive_buffer=spec.receive_buffer,
        )
    return FilesReader(
        spec.name,
        spec.paths,
        clock=clock,
        checkpoints=checkpoints,
        format=spec.format,
        columns=spec.format in config.headed_formats,
        start_at=spec.start_at,
        limits=limits,
        files_cap=config.limits.files_per_source,
        rescan_seconds=config.rescan_seconds,
    )


def index_rules(
    detectors: Mapping[str, BuiltDetector], rules: RuleSet | None = None
) -> dict[str, RuleInfo]:
    """What is known of every rule, by id; `rules` for the correlations among them."""
    known = {key: rule for detector in detectors.values() for key, rule in detector.rules.items()}
    return known | {rule.info.id: rule.info for rule in (rules.correlations if rules else ())}


def store_limits(config: Config) -> StoreLimits:
    """The store's caps as configured."""
    limits = config.limits
    return StoreLimits(
        findings=limits.findings_rows,
        incidents=limits.incidents_rows,
        folds=limits.findings_rows,
        rejected=limits.rejected_rows,
        rejected_bytes=limits.rejected_bytes,
        outbox=limits.outbox_rows,
        findings_seconds=config.retention.findings_days * 86400,
        rejected_seconds=config.retention.rejected_days * 86400,
        store_bytes=limits.store_bytes,
    )


def correlation_limits(config: Config) -> CorrelationLimits:
    """The correlator's window and caps as configured."""
    return CorrelationLimits(
        window=config.correlate.window_seconds,
        span=config.correlate.max_span_seconds,
        links=config.limits.correlation_keys,
        usuals=config.limits.correlation_keys,
        parts=config.limits.incident_folds,
        assets=tuple(sorted(config.correlate.assets.items())),
    )


def window_limits(config: Config) -> WindowLimits:
    """The caps of Sigma correlations as configured."""
    limits = config.limits
    return WindowLimits(
        groups=limits.correlation_groups,
        events=limits.correlation_events,
        late=config.correlate.late,
    )


def open_correlations(store: Store, config: Config, rules: RuleSet) -> SigmaCorrelator | None:
    """Sigma's correlations where the store left those that are still the same; the groups of others
    are forgotten. None where there are none."""
    store.keep_windows({rule.info.hash for rule in rules.correlations})
    if not rules.correlations:
        return None
    return SigmaCorrelator(rules.correlations, window_limits(config), stored=store.windows())


def open_correlator(store: Store, config: Config) -> Correlator:
    """The correlator where the store left it."""
    return Correlator(
        correlation_limits(config),
        Stored(
            links=store.links(),
            usuals=store.usuals(),
            aliases=store.aliases(),
            folds=store.recent_folds(HELD_FOLDS),
            load=store.incident,
            load_fold=store.fold,
            next_number=store.next_incident_number(),
        ),
    )
