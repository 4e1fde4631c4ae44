"""Puts the parts of the line together from a configuration, once, for `run` and `scan` alike."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, tzinfo
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.config import Config, JournalSource, SyslogSource
from appliance.config import Source as SourceSpec
from appliance.correlate.incidents import CorrelationLimits, Correlator
from appliance.decode import Decoder
from appliance.decode.custom import build_json_decoder, build_pattern_decoder
from appliance.detect.sensors import SensorDetector
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.errors import ModelError, ModelUnavailable, RuleError
from appliance.inference.client import EncoderClient
from appliance.judge.bench import Bench, TagsOnly
from appliance.judge.knowledge import KnowledgeExpert
from appliance.knowledge.base import KnowledgeBase
from appliance.normalise import FED, feeds
from appliance.normalise.custom import CustomSource
from appliance.pipeline import NO_FORMATS, CustomFormats, Detector, Reader
from appliance.places import default_rules, find_knowledge, find_models
from appliance.schema import OWN_SOURCE, Checkpoint, LogSource, RuleInfo, Verdict
from appliance.shards import Source
from appliance.sources.files import FilesSource as FilesReader
from appliance.sources.journal import JournalSource as JournalReader
from appliance.sources.journal import Own
from appliance.sources.streams import StreamLimits
from appliance.sources.syslog_listen import SyslogListenSource as SyslogListener
from appliance.sources.syslog_listen import spool_folder
from appliance.store import Store, StoreLimits


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
        decoders[spec.name] = (
            build_pattern_decoder(spec.name, spec.pattern, spec.rename)
            if spec.pattern
            else build_json_decoder(spec.name, spec.json)
        )
        parts = (spec.logsource.product, spec.logsource.category, spec.logsource.service)
        logsource = LogSource(*(part or None for part in parts))
        sources[spec.name] = CustomSource(logsource, spec.time, spec.host)
    return CustomFormats(decoders, sources)


def load_rule_set(paths: Sequence[str], formats: CustomFormats = NO_FORMATS) -> RuleSet:
    """Sigma rules of these paths, or the default set; `formats` feed some of them. Raises RuleError
    when not one loads."""
    fed = partial(feeds, custom=formats.sources)
    rules = load_rules([Path(path) for path in paths] or [default_rules()], feeds=fed)
    if not rules.rules:
        reasons = "; ".join(f"{r.path}:{r.line}: {r.reason}" for r in rules.refused[:5])
        raise RuleError(f"no rule could be loaded: {reasons}")
    return rules


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


def build_detectors(rules: RuleSet) -> dict[str, SigmaDetector | SensorDetector]:
    """Every detector there is: an auditor sees here all that can raise a finding."""
    return {"sigma": SigmaDetector(rules), "sensors": SensorDetector()}


def build_reader(config: Config, detectors: Mapping[str, Detector]) -> Reader:
    """The stateless half of the line, of the daemon and of its worker processes."""
    zones: dict[str, tzinfo] = {spec.name: ZoneInfo(spec.timezone) for spec in config.sources}
    formats = build_formats(config)
    return Reader(
        detectors=detectors,
        zones={**zones, OWN_SOURCE: UTC},
        fed=list_fed(formats),
        formats=formats,
    )


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
        start_at=spec.start_at,
        limits=limits,
        files_cap=config.limits.files_per_source,
        rescan_seconds=config.rescan_seconds,
    )


def index_rules(detectors: Mapping[str, SigmaDetector | SensorDetector]) -> dict[str, RuleInfo]:
    """What is known of every rule, by id."""
    return {key: rule for detector in detectors.values() for key, rule in detector.rules.items()}


def store_limits(config: Config) -> StoreLimits:
    """The store's caps as configured."""
    limits = config.limits
    return StoreLimits(
        findings=limits.findings_rows,
        incidents=limits.incidents_rows,
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
        findings=config.limits.incident_findings,
    )


def open_correlator(store: Store, config: Config) -> Correlator:
    """The correlator where the store left it."""
    return Correlator(
        correlation_limits(config),
        links=store.links(),
        aliases=store.aliases(),
        load=store.incident,
        next_number=store.next_incident_number(),
    )
