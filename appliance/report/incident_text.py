"""Behind the store: an incident's report as Markdown and as JSON."""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import orjson

from appliance.emit.render import make_encodable
from appliance.emit.text import HIDDEN_RANGES
from appliance.incident import Dossier, Sentence
from appliance.report.chain_picture import list_some, show_period
from appliance.report.cites import Citations
from appliance.report.incident_html import describe_details, list_disagreements, list_hosts
from appliance.report.markdown import count_more, escape, fence, write_table
from appliance.report.markup import show_moment, show_span
from appliance.report.timeline import name_stage

MAX_FINDINGS: Final = 300
MAX_ROWS: Final = 200
RECORD_CHARACTERS: Final = 4096
#: What no output may hold raw, but for the line ends between the values.
_HIDDEN: Final = re.compile(
    "["
    + "".join(f"{chr(a)}-{chr(b)}" for a, b in HIDDEN_RANGES if b > 0x1F)
    + "\x00-\x09\x0b-\x1f]"
)


def encode_dossier(value: object) -> bytes:
    """Any of the structs as indented JSON in UTF-8 (RFC 8259): hidden characters as `\\uXXXX`, so
    that a terminal shows them and acts on none. Raises nothing for any text."""
    built = msgspec.to_builtins(value)
    try:
        raw = orjson.dumps(built, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    except (TypeError, RecursionError):  # lone surrogates, integers of many digits, deep nesting
        raw = orjson.dumps(make_encodable(built), option=orjson.OPT_INDENT_2)
    return _HIDDEN.sub(_escape, raw.decode()).encode() + b"\n"


def _escape(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def render_json(dossier: Dossier) -> str:
    """The dossier as JSON, whole: nothing is cut."""
    return encode_dossier(dossier).decode()


def render_markdown(dossier: Dossier) -> str:
    """The report as Markdown, in the order of the page, without its pictures."""
    cites = Citations(dossier)
    lines = [
        *_write_head(dossier),
        "## Summary",
        "",
        *_write_sentences(dossier.summary, cites),
        *_write_reasons(dossier),
        *_write_chain(dossier, cites),
        *_write_origin(dossier, cites),
        *_write_entities(dossier),
        *_write_techniques(dossier, cites),
        *_write_evidence(dossier, cites),
        *_write_visibility(dossier),
        *_write_actions(dossier),
        "## Open questions",
        "",
        *_write_sentences(dossier.questions, cites),
    ]
    lines += _write_citations(cites)
    return "\n".join(lines) + "\n"


def _cite(keys: Iterable[str], cites: Citations) -> str:
    found, more = cites.use(keys)
    names = [escape(cited.label, 40) for cited in found] + ([f"{more} more"] if more > 0 else [])
    return f" ({', '.join(names)})" if names else ""


def _write_sentences(sentences: Iterable[Sentence], cites: Citations) -> list[str]:
    chosen = cites.choose(sentences)
    lines = [
        f"- {escape(sentence.text, 2000)}{_cite(sentence.cites, cites)}"
        for sentence in chosen[:MAX_ROWS]
    ]
    return [*(lines or ["None."]), "", *count_more(len(chosen), MAX_ROWS, "statements")]


def _write_head(dossier: Dossier) -> list[str]:
    incident, case = dossier.incident, dossier.case
    closing = f" as {case.closing}" if case.closing else ""
    facts = (
        ("Level", incident.level),
        ("Priority", f"{incident.score:.0f} of 100"),
        ("Status", f"{case.status}{closing}, assigned to {case.assignee or 'nobody'}"),
        ("When (UTC)", show_period(incident.first_seen, incident.last_seen)),
        ("Findings", f"{incident.count}"),
        ("Hosts", list_some(list_hosts(dossier), 12) or "none named"),
        ("Id", incident.id),
        ("Made", f"{show_moment(dossier.made)} UTC by appliance {dossier.version}"),
    )
    return [
        f"# Incident {incident.number}: {escape(incident.title, 300)}",
        "",
        *write_table(("Fact", "Value"), facts),
    ]


def _write_reasons(dossier: Dossier) -> list[str]:
    reasons = dossier.incident.reasons[:40]
    lines = []
    if reasons:
        rows = [(reason.name, f"{reason.points:+.1f}", reason.words) for reason in reasons]
        lines += ["### Why it ranks where it does", ""]
        lines += write_table(("Weighed", "Points", "Because"), rows)
    disputed = list_disagreements(dossier)
    if disputed:
        titles = dict.fromkeys(str(body.get("title")) for body, _ in disputed)
        lines += ["### Where the experts disagree", ""]
        lines += [f"- {escape(title, 300)}" for title in list(titles)[:40]] + [""]
    return lines


def _write_chain(dossier: Dossier, cites: Citations) -> list[str]:
    chain = dossier.chain
    rows = [
        (
            name_stage(stage.tactic),
            show_period(stage.first, stage.last),
            list_some(stage.hosts, 8),
            list_some(stage.techniques, 12),
            stage.count,
        )
        for stage in chain.stages[:MAX_ROWS]
    ]
    lines = ["## Attack chain", ""]
    if rows:
        lines += write_table(("Stage", "When (UTC)", "Hosts", "Techniques", "Findings"), rows)
    lines += ["### Gaps", "", *_write_sentences([gap.sentence for gap in chain.gaps], cites)]
    if chain.next_steps:
        steps = [
            (
                f"{step.technique} {step.name}",
                f"{step.share:.0%} of {step.of}, {step.lift:.1f} x",
                list_some(step.sources, 8) or "nothing here",
                list_some(step.rules, 6) or "none",
            )
            for step in chain.next_steps[:40]
        ]
        lines += ["### What often comes next", ""]
        lines += write_table(("Technique", "How usual", "Would show in", "Rules"), steps)
    return lines


def _write_origin(dossier: Dossier, cites: Citations) -> list[str]:
    origin = dossier.provenance
    lines = ["## Where it came from and how far it went", ""]
    lines += _write_sentences(origin.sentences, cites)
    if origin.missing:
        lines += ["### What could not be followed", "", *_write_sentences(origin.missing, cites)]
    numbers = {node.id: place for place, node in enumerate(origin.nodes, 1)}
    arrivals: dict[str, str] = {}
    for edge in sorted(origin.edges, key=lambda edge: edge.time):
        if edge.source in numbers:
            arrivals.setdefault(edge.target, f"{edge.verb} by {numbers[edge.source]}")
    rows = [
        (
            numbers[node.id],
            "root cause" if node.id in origin.roots else node.role,
            f"{node.kind} {node.label}",
            node.host,
            show_moment(node.first),
            arrivals.get(node.id, "-"),
        )
        for node in origin.nodes[:MAX_ROWS]
    ]
    if rows:
        columns = ("No.", "Role", "What", "Host", "First (UTC)", "How")
        lines += write_table(columns, rows)
    return lines + count_more(len(origin.nodes) + origin.cut, len(rows), "things")


def _write_entities(dossier: Dossier) -> list[str]:
    groups: dict[str, list[str]] = {}
    for entity in dossier.incident.entities:
        groups.setdefault(entity.kind, []).append(entity.value)
    lines = ["## Who and what is involved", ""]
    for kind, values in sorted(groups.items()):
        named = ", ".join(escape(value, 200) for value in values[:40])
        more = f" and {len(values) - 40} more" if len(values) > 40 else ""
        lines.append(f"- {kind}: {named}{more}")
    return [*lines, *([] if groups else ["None."]), ""]


def _write_techniques(dossier: Dossier, cites: Citations) -> list[str]:
    lines = ["## ATT&CK techniques", ""]
    rows = []
    for row in dossier.techniques[:MAX_ROWS]:
        found, more = cites.use(row.findings, 6)
        names = " ".join(cited.label for cited in found) + (f" +{more}" if more > 0 else "")
        tactics = ", ".join(map(name_stage, row.tactics))
        rows.append((row.technique, row.name, tactics, names, list_some(row.rules, 6)))
    if not rows:
        return [*lines, "None.", ""]
    return lines + write_table(("Technique", "Name", "Tactics", "Findings", "Rules"), rows)


def _write_evidence(dossier: Dossier, cites: Citations) -> list[str]:
    records = {evidence.finding: evidence for evidence in dossier.evidence}
    lines = ["## Evidence", ""]
    for body in dossier.findings[:MAX_FINDINGS]:
        key = str(body.get("id"))
        lines += [f"### {escape(cites.label(key))}: {escape(body.get('title'), 200)}", ""]
        lines += _describe_finding(body)
        evidence = records.get(key)
        if evidence is None or not evidence.text:
            reason = evidence.missing if evidence else "not looked up for this report"
            lines += [f"Record not at hand: {escape(reason or 'not kept')}", ""]
        else:
            lines += fence(evidence.text, RECORD_CHARACTERS)
    left = max(0, len(dossier.findings) - MAX_FINDINGS) + dossier.findings_left_out
    return lines + count_more(left, 0, "findings")


def _describe_finding(body: dict[str, Any]) -> list[str]:
    source = body.get("source") or {}
    when = str(body.get("time") or "no time")[:19].replace("T", " ")
    lines = [
        f"- {escape(when)}, {escape(body.get('level'))}, on "
        f"{escape(body.get('host') or 'no host')}",
        f"- rule {escape(body.get('rule_id'))} of {escape(body.get('detector'))}",
        f"- {escape(source.get('path'))} at {escape(source.get('record'))}",
    ]
    for match in list(body.get("matched") or ())[:10]:
        name = escape(match.get("field") or "keyword", 80)
        lines.append(f"- {name} = {escape(match.get('value'), 1000)}")
    return [*lines, ""]


def _write_visibility(dossier: Dossier) -> list[str]:
    lines = ["## What was and was not visible", ""]
    if not dossier.visibility:
        return [*lines, "Nothing is known of the sources at that time.", ""]
    rows = [
        (
            row.source,
            row.seen,
            row.rejected,
            row.dropped,
            row.events,
            list_some(row.hosts, 8) or "none",
            show_moment(row.last) if row.last else "never",
            "; ".join(f"{show_period(a, b)} ({show_span(b - a)})" for a, b in row.silent[:6])
            or "no",
        )
        for row in dossier.visibility[:MAX_ROWS]
    ]
    columns = ("Source", "Seen", "Rejected", "Dropped", "Events of it", "Hosts", "Last (UTC)",
               "Silent")  # fmt: skip
    return lines + write_table(columns, rows)


def _write_actions(dossier: Dossier) -> list[str]:
    lines = ["## Actions taken", ""]
    rows = [
        (action.number, show_moment(action.time), action.actor, action.action,
         describe_details(action.details), action.hash[:16])
        for action in dossier.actions[:MAX_ROWS]
    ]  # fmt: skip
    if not rows:
        return [*lines, "None in the audit log.", ""]
    return lines + write_table(("No.", "When (UTC)", "Who", "Did", "With", "Hash"), rows)


def _write_citations(cites: Citations) -> list[str]:
    rows = [(row.label, row.text or "entry of the knowledge base", row.id) for row in cites.rows]
    lines = ["## Appendix: what was cited", ""]
    if not rows:
        return [*lines, "Nothing."]
    lines += write_table(("Name", "What it is", "Id"), rows)
    if cites.unsupported:
        lines.append(f"{cites.unsupported} statements without evidence were left out.")
    return lines
