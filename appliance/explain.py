"""Beside the line: everything behind one finding, gathered for who must decide or check.

Nothing here is believed because it is near: a record read back from its file is the finding's only
if the finding's own id follows from it, a rule's text is shown only if its hash is the finding's.
What the store does not hold is `None`, and shown as not kept.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import tzinfo
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.assembly import build_formats, load_configured_rules
from appliance.config import Config
from appliance.correlate.keys import linking_keys
from appliance.detect.sigma.documents import MAX_FILE_BYTES, Document, read_documents
from appliance.emit.render import render_incident, render_time
from appliance.emit.text import cap_text
from appliance.errors import RuleError
from appliance.evidence import read_record
from appliance.pipeline import read_event
from appliance.schema import (
    LEVELS,
    Entity,
    RawRecord,
    RuleInfo,
)
from appliance.store import FindingDelivery, Store

Body = dict[str, Any]

#: Longest piece of a record or rule that is shown, in characters.
SHOWN_RECORD: Final = 16_384
SHOWN_RULE: Final = 16_384
#: Other findings of the incident that are compared, the newest first, and those that are named.
COMPARED_FINDINGS: Final = 2000
NAMED_FINDINGS: Final = 20


def explain_finding(
    store: Store, key: str, config: Config, *, timer: Callable[[], float] = time.monotonic
) -> Body:
    """The steps behind the finding with this full id, as JSON values.

    Keys: finding (its body), record, event, rule, level, votes, incident, sinks, updates. Raises
    StoreError, and KeyError when there is no such finding.
    """
    body = store.findings_by_ids([key])[key]
    delivery = store.finding_delivery(key)
    record, raw = _explain_record(body, delivery, config, timer)
    rule, info = _explain_rule(body, config)
    return {
        "finding": body,
        "record": record,
        "event": _explain_event(body, raw, config),
        "rule": rule,
        "level": _explain_level(body, info),
        "votes": _explain_votes(body),
        "incident": _explain_incident(store, body),
        "sinks": _explain_sinks(config, delivery),
        "updates": _explain_updates(body, delivery),
    }


# -- the record ------------------------------------------------------------------------------------


def _explain_record(
    body: Body, delivery: FindingDelivery | None, config: Config, timer: Callable[[], float]
) -> tuple[Body, RawRecord | None]:
    """Where the record came from, and its bytes when they can still be read and are the ones."""
    source, event = body["source"], body.get("event") or {}
    received = event.get("received") or (render_time(delivery.received) if delivery else None)
    facts: Body = {
        "source": source["name"],
        "path": source["path"],
        "position": source["record"],
        "stream": event.get("stream"),
        "length": event.get("length"),
        "event_time": body["time"],
        "event_time_known": event.get("time_known"),
        "received": received,
        "text": None,
        "why_not": "",
    }
    raw, facts["why_not"] = read_record(body, config, timer)
    if raw is not None:
        text = raw.data.decode("utf-8", "backslashreplace")
        facts["text"] = cap_text(text, SHOWN_RECORD)
        facts["length"] = len(raw.data)
    return facts, raw


# -- what was read in it ---------------------------------------------------------------------------


def _explain_event(body: Body, raw: RawRecord | None, config: Config) -> Body:
    """How the record was read. `views` is what this version reads in the very same bytes: None
    when they are gone; the rule's own log source is kept with the finding."""
    kept = body.get("event") or {}
    facts: Body = {
        "format": kept.get("format"),
        "mapped": kept.get("mapped"),
        "logsource": body["logsource"],
        "host": body["host"],
        "views": None,
        "why_not": "" if raw is not None else "the record's bytes are gone",
    }
    if raw is None:
        return facts
    result = read_event(raw, _find_zone(config, raw.source), build_formats(config))
    if not isinstance(result, tuple):
        facts["why_not"] = f"this version rejects it: {result.reason}"
        return facts
    event = result[0]
    facts["format"] = facts["format"] or event.format
    facts["views"] = [
        {
            "logsource": msgspec.to_builtins(view.logsource),
            "fields": {name: _show_value(value) for name, value in view.fields.items()},
        }
        for view in event.views
    ]
    return facts


def _find_zone(config: Config, source: str) -> tzinfo:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - reads files; needed for one record only

    named = next((s.timezone for s in config.sources if s.name == source), "UTC")
    return ZoneInfo(named)


def _show_value(value: object) -> object:
    if isinstance(value, str):
        return cap_text(value, 2048)
    if value is None or isinstance(value, bool | int | float):
        return value
    return cap_text(str(value), 2048)


# -- the rule --------------------------------------------------------------------------------------


def _explain_rule(body: Body, config: Config) -> tuple[Body, RuleInfo | None]:
    """The rule as it stands in its file now, if that is the very rule that fired."""
    kept = body.get("rule") or {}
    facts: Body = {
        "detector": body["detector"],
        "id": body["rule_id"],
        "title": body["title"],
        "level": body["level"],
        "path": kept.get("path"),
        "line": kept.get("line"),
        "hash": kept.get("hash"),
        "text": None,
        "description": None,
        "falsepositives": None,
        "references": None,
        "why_not": "",
    }
    if not kept:
        facts["why_not"] = "not kept: stored by a version that did not note the rule's file"
        return facts, None
    if not kept["path"]:
        facts["why_not"] = "it is no rule of a file: the detector or sensor named here said it"
        return facts, None
    info = _load_rule(kept["path"], body["rule_id"], config)
    if info is None:
        facts["why_not"] = "the file is gone, or holds this rule no longer"
        return facts, None
    if info.hash != kept["hash"]:
        facts["why_not"] = "the rule was changed since: its text now is not the one that fired"
        return facts, None
    document, text = _read_rule_text(Path(info.path), info.line)
    facts["text"] = text
    facts["description"] = cap_text(info.description, SHOWN_RULE) or None
    content = document.content if document else {}
    for name in ("falsepositives", "references"):
        values = content.get(name)
        listed = values if isinstance(values, list) else [] if values is None else [values]
        facts[name] = [cap_text(str(value), 2048) for value in listed[:64]]
    return facts, info


def _load_rule(path: str, key: str, config: Config) -> RuleInfo | None:
    """The rule with this id in this file, or None."""
    if not Path(path).is_file():
        return None
    plain = replace(config, overrides="")
    for paths in ([path], None):  # a correlation may name rules of other files
        try:
            loaded = load_configured_rules(plain, paths).infos
        except (RuleError, OSError):
            continue
        for info in loaded:
            if info.id == key and info.path == path:
                return info
    return None


def _read_rule_text(path: Path, line: int) -> tuple[Document | None, str | None]:
    """The rule's own document: read, and as it is written."""
    documents = [d for d in read_documents(path) if isinstance(d, Document)]
    document = next((d for d in documents if d.line == line), None)
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_FILE_BYTES).decode("utf-8", "backslashreplace").splitlines()
    except OSError:
        return document, None
    end = next(
        (n for n in range(line, len(lines)) if lines[n].rstrip() in ("---", "...")), len(lines)
    )
    return document, cap_text("\n".join(lines[line - 1 : end]).rstrip(), SHOWN_RULE)


# -- level, votes ----------------------------------------------------------------------------------


def _explain_level(body: Body, rule: RuleInfo | None) -> Body:
    """The finding's level and why it has it."""
    level = body["level"]
    stated = rule.level if rule is not None else None
    own = (body.get("rule") or {}).get("own_level")
    if own is not None:
        stated = own
        why = f"the operator's overrides gave it; the rule's own level is {own}"
    elif stated is None:
        why = f"as the {body['detector']} detector gave it when it fired"
    elif stated == level:
        why = "the level that the rule states"
    elif LEVELS.index(level) > LEVELS.index(stated):
        why = f"raised above the rule's own level ({stated})"
    else:
        why = f"below the rule's own level ({stated}): this must not happen"
    return {
        "level": level,
        "rule_level": stated,
        "why": why,
        "operator": None if own is None else level,
        "suppressed": body.get("suppressed"),
        "promise": "an expert or model can raise, explain and rank; none can lower a rule's level",
    }


def _explain_votes(body: Body) -> list[Body]:
    """Each expert's word, with the entries that it cites. What a version that did not keep them
    apart stored has citations None: all that were cited are in the finding's own list."""
    cited = {entry["id"]: entry for entry in body["citations"]}
    votes = []
    for verdict in body["verdicts"]:
        ids = verdict.get("citations")
        if ids is None and len(body["verdicts"]) == 1:
            ids = list(cited)
        citations = None if ids is None else [cited.get(key, {"id": key}) for key in ids]
        votes.append({**verdict, "citations": citations})
    return votes


# -- the incident ----------------------------------------------------------------------------------


def _explain_incident(store: Store, body: Body) -> Body | None:
    """The incident and, of its other findings, which share which entities with this one. None when
    the incident is no longer kept."""
    incident = store.incident(body["incident"]) if body["incident"] else None
    if incident is None:
        return None
    keys = set(_list_keys(body))
    others = store.finding_bodies(incident=incident.id, limit=COMPARED_FINDINGS)
    shared = []
    for other in reversed(others):
        common = [key for key in _list_keys(other) if key in keys]
        if other["id"] != body["id"] and common:
            shared.append((other, common))
    return {
        "incident": render_incident(incident),
        "opened_by_this": bool(incident.findings) and incident.findings[0] == body["id"],
        "linking_entities": sorted(keys),
        "compared": sum(other["id"] != body["id"] for other in others),
        "linked": len(shared),
        "links": [
            {
                "id": other["id"],
                "time": other["time"],
                "level": other["level"],
                "title": other["title"],
                "shared": common,
            }
            for other, common in shared[:NAMED_FINDINGS]
        ],
    }


def _list_keys(body: Body) -> list[str]:
    """The correlation keys of a stored finding, as the correlator makes them."""
    entities = (Entity(entity["kind"], entity["value"]) for entity in body["entities"])
    return [key for key, _ in linking_keys(entities)]


# -- the way out -----------------------------------------------------------------------------------


def _explain_sinks(config: Config, delivery: FindingDelivery | None) -> list[Body]:
    """For each sink that the store knows, whether it has the finding, as far as can be known."""
    wanted = {sink.name: sink.kinds for sink in config.sinks}
    rows = []
    for sink in delivery.sinks if delivery else ():
        kinds = wanted.get(sink.name)
        has: bool | None = None
        seq = delivery.seq if delivery else 0
        if kinds is not None and "finding" not in kinds:
            has, why = False, "it does not take findings"
        elif not seq:
            why = "not kept: the finding's place in the outbox is not known"
        elif seq <= sink.began:
            has, why = False, "the sink was set up after the finding"
        elif seq > sink.seq:
            has, why = False, "waiting in the outbox"
        elif sink.lost:
            why = f"passed; {sink.lost} messages were lost to the outbox's cap, it may be one"
        else:
            has, why = True, "delivered"
        rows.append({"name": sink.name, "has": has, "why": why})
    return rows


def _explain_updates(body: Body, delivery: FindingDelivery | None) -> Body:
    """What is still to come, and the later messages that are still on their way."""
    waiting: Sequence[tuple[int, str]] = delivery.waiting if delivery else ()
    pending: Mapping[bool, str] = {
        True: "an expert has not answered yet",
        False: "every expert has answered",
    }
    return {
        "pending": delivery.pending if delivery else None,
        "what": pending[delivery.pending] if delivery else "not kept",
        "verdict": body["verdict"],
        "waiting": [{"seq": seq, "kind": kind} for seq, kind in waiting],
    }
