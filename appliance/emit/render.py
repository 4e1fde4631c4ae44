"""On the way out, before every sink: findings and incidents as the objects a JSON reader gets.

`render_finding` is the one definition of a line of `scan --out`; the daemon puts the same object
into the outbox, so that a file written by `scan` and one written by `run` read alike. Every
text is capped: a log decides what it says, never how much memory or disk a finding costs.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from appliance.emit.text import HIDDEN, cap_text, show_surrogates
from appliance.schema import (
    Citation,
    Entity,
    Event,
    Finding,
    Incident,
    LogSource,
    MessageKind,
    Opinion,
    RuleInfo,
    Verdict,
    VerdictLabel,
)

#: Longest texts, in characters. A cut text says so and gives its full length.
MAX_NAME: Final = 512
MAX_TITLE: Final = 1024
MAX_VALUE: Final = 2048
MAX_PATH: Final = 4096
#: Longest lists, in entries. The rest is left out.
MAX_MATCHED: Final = 64
MAX_ENTITIES: Final = 256
MAX_TAGS: Final = 64
MAX_VERDICTS: Final = 32
MAX_CITATIONS: Final = 32
MAX_FINDINGS: Final = 1000
MAX_ALIASES: Final = 256
#: Deepest nesting of an object that did not come from this module.
MAX_DEPTH: Final = 32

#: Worst first; `insufficient_data` is no answer and stands outside the order.
VERDICT_ORDER: Final[tuple[VerdictLabel, ...]] = ("true_positive", "suspicious", "benign")


def render_time(seconds: float) -> str | None:
    """Seconds since the Unix epoch as ISO 8601 UTC with six digits and `Z`.

    None for a time that no calendar of four-digit years holds (a forged log may claim any).
    """
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def decide_verdict(verdicts: Iterable[Verdict]) -> VerdictLabel:
    """The label that stands for all experts: the worst of true_positive, suspicious, benign that
    any of them gave; `insufficient_data` when none has an answer. One expert that calls a finding
    benign can never outvote one that does not."""
    given = {verdict.label for verdict in verdicts}
    return next((label for label in VERDICT_ORDER if label in given), "insufficient_data")


def collect_citations(verdicts: Iterable[Verdict]) -> list[Citation]:
    """Every entry cited by any expert, once, with its best score, best first.

    At equal scores a link that the rule states itself stands before one found by likeness, and
    then the id decides, so that the order never depends on which expert spoke first.
    """
    best: dict[str, Citation] = {}
    for verdict in verdicts:
        for citation in verdict.citations:
            known = best.get(citation.id)
            if known is None or _rank_citation(citation) < _rank_citation(known):
                best[citation.id] = citation
    return sorted(best.values(), key=_rank_citation)


def _rank_citation(citation: Citation) -> tuple[float, bool, str, str]:
    return (-citation.score, citation.reason != "tag", citation.id, citation.title)


def render_finding(
    finding: Finding, incident: str | None, *, kind: MessageKind | None = None
) -> dict[str, Any]:
    """One line of `scan --out`: the finding as a JSON object.

    `incident` is the id of the incident it belongs to. With `kind` the object also says whether
    it is the first word on the finding ("finding") or a later one ("update"); without, it holds
    exactly the contract's keys. Times are ISO 8601 UTC, `score` is 0..1, `source.record` is the
    cursor's position (byte offset or record number), `verdict` as `decide_verdict` has it.
    Raises nothing for any text.
    """
    detection = finding.detection
    event = detection.event
    body: dict[str, Any] = {
        "id": finding.id,
        "time": render_time(event.time),
        "host": cap_text(event.host, MAX_NAME),
        "detector": cap_text(detection.detector, MAX_NAME),
        "rule_id": cap_text(detection.rule_id, MAX_NAME),
        "title": cap_text(detection.title, MAX_TITLE),
        "level": detection.level,
        "score": detection.score,
        "techniques": _render_tags(detection.techniques),
        "tactics": _render_tags(detection.tactics),
        "logsource": _render_logsource(detection.logsource),
        "source": {
            "name": cap_text(event.record.source, MAX_NAME),
            "path": cap_text(event.record.path, MAX_PATH),
            "record": event.record.cursor.position,
        },
        "entities": _render_entities(event.entities),
        "matched": [
            {
                "field": None if match.field is None else cap_text(match.field, MAX_NAME),
                "value": cap_text(match.value, MAX_VALUE),
                "pattern": cap_text(match.pattern, MAX_VALUE),
            }
            for match in detection.matched[:MAX_MATCHED]
        ],
        **render_verdicts(finding.verdicts),
        "incident": incident,
    }
    return body if kind is None else {"kind": kind, **body}


def render_origin(event: Event, rule: RuleInfo) -> dict[str, Any]:
    """What an auditor needs to go back from a finding to its record and its rule.

    `event` gives the event's id, when the record came in (ISO 8601 UTC), the format it was read
    as, its length in bytes, the name of its stream that went into the id, and whether a product's
    normaliser knew it and its own time was read; `rule` where the rule stood, and its hash.
    """
    return {
        "event": {
            "id": event.id,
            "received": render_time(event.received),
            "format": cap_text(event.format, MAX_NAME),
            "length": event.record.truncated or len(event.record.data),
            "stream": cap_text(event.record.logical, MAX_PATH),
            "mapped": event.mapped,
            "time_known": event.time_known,
        },
        "rule": {
            "path": cap_text(rule.path, MAX_PATH),
            "line": rule.line,
            "hash": cap_text(rule.hash, MAX_NAME),
        },
    }


def render_opinion(opinion: Opinion) -> dict[str, Any]:
    """What the sentinel's finding has beside: kind and text as the model read it, the threshold
    and the budget it is for, the techniques it takes the event for, the words that weigh most
    (by how much the log-odds fall without each)."""
    return {
        "kind": opinion.kind,
        "text": cap_text(opinion.text, MAX_VALUE),
        "threshold": opinion.threshold,
        "budget": opinion.budget,
        "techniques": [
            {
                "technique": cap_text(guess.technique, MAX_NAME),
                "score": guess.score,
                "probability": guess.probability,
                "cosine": guess.cosine,
            }
            for guess in opinion.techniques[:MAX_TAGS]
        ],
        "words": [
            {"word": cap_text(weight.word, MAX_NAME), "weight": weight.weight}
            for weight in opinion.words[:MAX_MATCHED]
        ],
    }


def render_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The part of a finding that the experts may still change: verdict, verdicts, citations."""
    return {
        "verdict": decide_verdict(verdicts),
        "verdicts": [
            {
                "expert": cap_text(verdict.expert, MAX_NAME),
                "label": verdict.label,
                "confidence": verdict.confidence,
                "reason": cap_text(verdict.reason, MAX_VALUE),
                "citations": [
                    cap_text(citation.id, MAX_NAME)
                    for citation in verdict.citations[:MAX_CITATIONS]
                ],
            }
            for verdict in verdicts[:MAX_VERDICTS]
        ],
        "citations": [
            {
                "id": cap_text(citation.id, MAX_NAME),
                "title": cap_text(citation.title, MAX_TITLE),
                "score": citation.score,
                "reason": citation.reason,
            }
            for citation in collect_citations(verdicts)[:MAX_CITATIONS]
        ],
    }


def render_incident(incident: Incident) -> dict[str, Any]:
    """The incident as a JSON object: kind ("incident"), id, number, status, level, title,
    first_seen and last_seen (ISO 8601 UTC), hosts, tactics, entities, findings (ids of the
    first), count (of all findings), entity_count, aliases.

    The lists are capped, the counts are not: a list shorter than its count was cut. `hosts` is
    taken from all entities, so that a cut of these does not hide a machine. Raises nothing for
    any text.
    """
    hosts = [entity.value for entity in incident.entities if entity.kind == "host"]
    return {
        "kind": "incident",
        "id": incident.id,
        "number": incident.number,
        "status": incident.status,
        "level": incident.level,
        "title": cap_text(incident.title, MAX_TITLE),
        "first_seen": render_time(incident.first_seen),
        "last_seen": render_time(incident.last_seen),
        "hosts": [cap_text(host, MAX_NAME) for host in hosts[:MAX_ENTITIES]],
        "tactics": _render_tags(incident.tactics),
        "entities": _render_entities(incident.entities),
        "findings": list(incident.findings[:MAX_FINDINGS]),
        "count": incident.count,
        "entity_count": len(incident.entities),
        "aliases": list(incident.aliases[:MAX_ALIASES]),
    }


def _render_tags(tags: Sequence[str]) -> list[str]:
    return [cap_text(tag, MAX_NAME) for tag in tags[:MAX_TAGS]]


def _render_logsource(logsource: LogSource) -> dict[str, str | None]:
    parts = (logsource.product, logsource.category, logsource.service)
    capped = [None if part is None else cap_text(part, MAX_NAME) for part in parts]
    return dict(zip(("product", "category", "service"), capped, strict=True))


def _render_entities(entities: Sequence[Entity]) -> list[dict[str, str]]:
    return [
        {"kind": entity.kind, "value": cap_text(entity.value, MAX_VALUE)}
        for entity in entities[:MAX_ENTITIES]
    ]


def to_json_line(body: dict[str, Any]) -> bytes:
    """The object as one line of JSON (RFC 8259) in UTF-8, without the newline at its end.

    Keys stay in the order in which they were rendered. Readers of JSON lines split at `\\n`
    only, but people look at such a file in a terminal, and some readers also split at U+0085,
    U+2028 or U+2029. So every control, line separator and bidirectional or other format
    character is written as JSON's own `\\uXXXX`: the line shows it and acts on nothing, the
    parsed value is exact. Lone surrogates have no valid JSON: they become visible text.

    Raises nothing: a value that JSON cannot hold is written as its text, a not-a-number as null.
    """
    try:
        raw = orjson.dumps(body)
    except (TypeError, RecursionError):  # orjson.JSONEncodeError is a TypeError
        raw = orjson.dumps(make_encodable(body))
    # Such characters occur inside strings only, where a \u escape is always allowed.
    return HIDDEN.sub(_escape_for_json, raw.decode()).encode()


def _escape_for_json(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def make_encodable(value: object, depth: int = MAX_DEPTH) -> object:
    """A copy that orjson accepts: 64-bit integers, texts without lone surrogates, few levels."""
    if isinstance(value, dict) and depth > 0:
        return {_make_text(key): make_encodable(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple) and depth > 0:
        return [make_encodable(inner, depth - 1) for inner in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    return _make_text(value)


def _make_text(value: object) -> str:
    if isinstance(value, str):
        return show_surrogates(value)
    if isinstance(value, dict | list | tuple):
        return f"... ({len(value)} entries)"
    # Python refuses to write an integer of many digits in decimal, in hex never.
    return hex(value) if isinstance(value, int) else cap_text(str(value), MAX_VALUE)
