"""Behind the store: an incident's report as one page, for people who were not there.

`render_html` turns a Dossier into a page that loads nothing and runs nothing. What it says was
worked out before; here it is only set out, every statement with links to what supports it, every
value of a log inert, and everything that is not shown counted.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from appliance.emit.text import show_surrogates
from appliance.incident import Action, Dossier, Evidence, Sentence, Visibility
from appliance.report import svg
from appliance.report.chain_picture import MAX_NEXT, draw_chain, list_some, show_period
from appliance.report.cites import Citations, Cited, collect_titles
from appliance.report.layers import Graph, fold_graph
from appliance.report.markup import (
    NOTHING,
    Safe,
    join,
    listed,
    plain,
    say,
    say_record,
    say_time,
    show_moment,
    show_span,
    table,
    tag,
)
from appliance.report.page import build_page, list_facts, show_figure
from appliance.report.provenance_picture import draw_provenance
from appliance.report.timeline import count_hidden_lanes, draw_timeline, name_stage
from appliance.schema import LEVELS

#: Longest lists of the page, in rows; what is over is counted.
MAX_EVIDENCE: Final = 300
MAX_FOLDS: Final = 200
MAX_ENTITIES: Final = 300
MAX_ROWS: Final = 500
MAX_NODES: Final = 400
MAX_SENTENCES: Final = 100
#: Characters of one raw record, and of all of them.
RECORD_CHARACTERS: Final = 4_096
ALL_RECORDS_CHARACTERS: Final = 2_000_000
#: What two experts call one finding when they disagree about it.
_AGAINST: Final = frozenset({"benign"})
_FOR: Final = frozenset({"true_positive", "suspicious"})

STATUS_WORDS: Final = {"open": "open", "acknowledged": "acknowledged", "closed": "closed"}


def render_html(dossier: Dossier) -> str:
    """The page. Raises nothing for any text in the dossier; every surrogate is visible text."""
    cites = Citations(dossier)
    sections = [
        ("summary", "Summary", _write_summary(dossier, cites)),
        ("timeline", "Timeline", _write_timeline(dossier)),
        ("chain", "Attack chain", _write_chain(dossier, cites)),
        ("provenance", "Where it came from and how far it went", _write_provenance(dossier, cites)),
        ("entities", "Who and what is involved", _write_entities(dossier)),
        ("attack", "ATT&CK techniques", _write_techniques(dossier, cites)),
        ("evidence", "Evidence", _write_evidence(dossier, cites)),
        ("visibility", "What was and was not visible", _write_visibility(dossier, cites)),
        ("actions", "Actions taken", _write_actions(dossier)),
        ("questions", "Open questions", _write_questions(dossier, cites)),
    ]
    # Last: what it lists was cited above.
    sections.append(("citations", "Appendix: what was cited", _write_citations(cites)))
    page = build_page(
        f"Incident {dossier.incident.number}: {dossier.incident.title}",
        head=_write_head(dossier),
        sections=sections,
        foot=_write_foot(dossier, cites),
    )
    return show_surrogates(page)


def show_level(level: str) -> Safe:
    """A level as its mark and its word."""
    known = level if level in LEVELS else "informational"
    mark = tag(
        "svg", svg.draw_level(known, 9, 9), width=18, height=18, viewBox="0 0 18 18",
        aria_hidden="true",
    )  # fmt: skip
    return tag("span", mark, say(level, 40), class_=f"level t-{known}")


def _when(seconds: float | None) -> Safe:
    return tag("span", say_time(seconds), class_="when")


def _number(count: float) -> Safe:
    return tag("span", say(f"{count:,}"), class_="num")


def write_sentences(
    sentences: Iterable[Sentence], cites: Citations, empty: str, *, ordered: bool = False
) -> Safe:
    """A list of statements, each with its cites; `empty` where there is none."""
    chosen = cites.choose(sentences)
    rows = [
        tag("li", say(sentence.text, 2000), cites.link(sentence.cites))
        for sentence in chosen[:MAX_SENTENCES]
    ]
    if not rows:
        return tag("p", say(empty), class_="none")
    more = _count_more(len(chosen), MAX_SENTENCES, "statements")
    return join([tag("ol" if ordered else "ul", *rows, class_="said"), more])


def _count_more(total: int, shown: int, what: str) -> Safe:
    if total <= shown:
        return NOTHING
    return tag("p", say(f"{total - shown:,} more {what} are not shown here."), class_="note")


def list_hosts(dossier: Dossier) -> list[str]:
    """The incident's hosts: those that the provenance reached first, in its order."""
    named = [e.value for e in dossier.incident.entities if e.kind == "host"]
    return list(dict.fromkeys([*dossier.provenance.reach, *named]))


def _write_head(dossier: Dossier) -> list[Safe]:
    incident, case = dossier.incident, dossier.case
    status = STATUS_WORDS.get(case.status, "open")
    if case.closing:
        status += f" as {case.closing.replace('_', ' ')}"
    facts = [
        ("Level", show_level(incident.level)),
        ("Priority", say(f"{incident.score:.0f} of 100")),
        ("Status", say(status)),
        ("Assigned to", say(case.assignee or "nobody", 120)),
        ("First seen (UTC)", say_time(incident.first_seen)),
        ("Last seen (UTC)", say_time(incident.last_seen)),
        ("Lasted", say(show_span(max(0.0, incident.last_seen - incident.first_seen)))),
        ("Findings", say(f"{incident.count:,}")),
        ("Hosts", say(list_some(list_hosts(dossier), 6) or "none named", 400)),
        ("Stages", say(f"{len(dossier.chain.stages)} of the attack chain")),
        ("Report made (UTC)", say_time(dossier.made)),
        ("Made by", say(f"appliance {dossier.version}", 80)),
    ]
    parts = [
        tag("p", say(f"Incident report · number {incident.number} · {incident.id}", 200),
            class_="kicker"),
        tag("h1", say(incident.title, 300)),
        list_facts(facts, big=3),
    ]  # fmt: skip
    if incident.kind == "routine":
        words = "This is routine: expected here, kept in one place, no alarm."
        parts.append(tag("p", say(words), class_="alarm"))
    elif incident.kind == "minor":
        parts.append(tag("p", say("Minor: below what is worth a look of its own."), class_="alarm"))
    if case.note:
        parts.append(tag("p", tag("strong", say("Note at closing: ")), say(case.note, 2000)))
    return parts


def _write_summary(dossier: Dossier, cites: Citations) -> Safe:
    parts = [
        write_sentences(
            dossier.summary, cites, "No statement about this incident is supported by evidence."
        )
    ]
    reasons = dossier.incident.reasons
    if reasons:
        rows = [
            (say(reason.name, 60), tag("span", say(f"{reason.points:+.1f}"), class_="num"),
             say(reason.words, 600))
            for reason in reasons[:40]
        ]  # fmt: skip
        parts.append(tag("h3", say("Why it ranks where it does")))
        parts.append(
            table(
                ("Weighed", "Points", "Because"),
                rows,
                caption=f"Priority {dossier.incident.score:.0f} of 100, the sum of its reasons",
            )
        )
    parts.append(_write_disagreements(dossier, cites))
    return join(parts)


def list_disagreements(dossier: Dossier) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Findings that one expert holds for real and another for benign, with their verdicts."""
    found = []
    for body in dossier.findings:
        verdicts = [v for v in body.get("verdicts") or () if isinstance(v, dict)]
        labels = {str(verdict.get("label")) for verdict in verdicts}
        if labels & _AGAINST and labels & _FOR:
            found.append((body, verdicts))
    return found


def _write_disagreements(dossier: Dossier, cites: Citations) -> Safe:
    found = list_disagreements(dossier)
    if not found:
        return NOTHING
    alike: dict[tuple[str, str], list[str]] = {}
    for body, verdicts in found:
        said = [
            f"{v.get('expert')}: {str(v.get('label')).replace('_', ' ')} ({v.get('reason', '')})"
            for v in verdicts[:8]
        ]
        what = (str(body.get("title")), "; ".join(said))
        alike.setdefault(what, []).append(str(body.get("id")))
    rows = [
        tag("li", say(title, 200), say(": "), say(told, 900), cites.link(keys))
        for (title, told), keys in list(alike.items())[:40]
    ]
    return join(
        [
            tag("h3", say("Where the experts disagree")),
            tag("ul", *rows, class_="said"),
            _count_more(len(alike), 40, "disagreements"),
        ]
    )


def _write_timeline(dossier: Dossier) -> Safe:
    shown = len(dossier.findings)
    told = (
        f"{shown:,} findings, times in UTC. A lane is a host, a row in it a stage of the attack. "
        "Findings that would touch are one mark with their number."
    )
    if dossier.findings_left_out:
        told += f" {dossier.findings_left_out:,} further findings are over the report's cap."
    hidden = count_hidden_lanes(dossier)
    if hidden:
        told += f" {hidden:,} more hosts have findings and no lane here."
    wide = draw_timeline(dossier, "tl", 1104)
    if not dossier.findings:
        return wide
    narrow = draw_timeline(dossier, "tls", 350)
    figure = show_figure(wide, narrow, caption=say(told))
    return join([svg.draw_legend(), figure])


def _write_chain(dossier: Dossier, cites: Citations) -> Safe:
    chain = dossier.chain
    names = collect_titles(dossier)
    parts = []
    if not chain.stages and not chain.gaps and not chain.next_steps:
        return draw_chain(chain, names, "ch", 900)
    caption = "Stages in the order of their first time; hatched: gaps; dashed: what often follows."
    parts.append(
        show_figure(
            draw_chain(chain, names, "ch", 900),
            draw_chain(chain, names, "chs", 350),
            caption=say(caption),
        )
    )
    rows = [
        (
            say(name_stage(stage.tactic)),
            tag("span", say(show_period(stage.first, stage.last)), class_="v"),
            listed(stage.hosts, 12),
            listed(stage.techniques, 16),
            _number(stage.count),
            cites.link(stage.findings, 8),
        )
        for stage in chain.stages[:MAX_ROWS]
    ]
    if rows:
        columns = ("Stage", "When (UTC)", "Hosts", "Techniques", "Findings", "How we know")
        parts.append(tag("h3", say("Stages")))
        parts.append(table(columns, rows))
    parts.append(tag("h3", say("Gaps")))
    parts.append(
        write_sentences(
            [gap.sentence for gap in chain.gaps], cites, "No gap in the data was found."
        )
    )
    parts.append(_write_next(dossier, cites))
    return join(parts)


def _write_next(dossier: Dossier, cites: Citations) -> Safe:
    steps = dossier.chain.next_steps
    if not steps:
        return NOTHING
    rows = [
        (
            say(f"{step.technique} {step.name}", 160),
            say(name_stage(step.tactic)),
            join([say(f"{step.share:.0%} of {step.of:,}, {step.lift:.1f} x"),
                  cites.link(step.cites, 6)]),
            listed(step.sources, 8) if step.sources else tag("strong", say("nothing here")),
            say(list_some(step.rules, 6) or "none", 500),
        )
        for step in steps[:40]
    ]  # fmt: skip
    columns = ("Technique", "Stage", "How usual", "Would show in", "Rules that watch")
    note = (
        "From ATT&CK's procedures: the share of campaigns, groups and software with what was "
        "seen that use this, too, and how many times more often than all do. Not a forecast."
    )
    more = _count_more(len(steps), MAX_NEXT, "steps")
    drawn = tag("p", say(f"The picture shows the first {MAX_NEXT}."), class_="note")
    return join(
        [
            tag("h3", say("What often comes next")),
            tag("p", say(note), class_="note"),
            drawn if more else NOTHING,
            table(columns, rows),
        ]
    )


def _write_provenance(dossier: Dossier, cites: Citations) -> Safe:
    origin = dossier.provenance
    graph = fold_graph(origin)
    parts = [
        write_sentences(origin.sentences, cites, "Nothing could be traced.", ordered=True),
    ]
    sheets = draw_provenance(graph, "pv")
    if sheets:
        parts.append(_write_graph(graph, sheets))
    if origin.missing:
        parts.append(tag("h3", say("What could not be followed")))
        parts.append(write_sentences(origin.missing, cites, "Nothing that is supported."))
    left_out = graph.left_out + origin.cut
    if left_out:
        words = (
            f"{left_out:,} further things are not drawn: {origin.cut:,} over the cap of tracing, "
            f"{graph.left_out:,} over that of the picture, the least important first."
        )
        parts.append(tag("p", say(words), class_="note"))
    if graph.boxes:
        parts.append(_write_nodes(graph, cites))
    return join(parts)


def _write_graph(graph: Graph, sheets: Sequence[tuple[bool, Safe]]) -> Safe:
    folded = sum(len(box.nodes) for box in graph.boxes) - len(graph.boxes)
    words = (
        "Each frame is a host; from left to right, what started, wrote or reached what. Double "
        "frame: root cause. Orange frame and number: findings on it. Dashed frame: touched, not "
        "part of the path. Heavy dashes: from one host to another."
    )
    if folded:
        words += f" {folded:,} things that read like a neighbour stand behind it, as “7 x name”."
    if len(sheets) > 1:
        words += " An arrow into another picture is told in words, “to” and “by” its number."
    figures = []
    for place, (tall, sheet) in enumerate(sheets, 1):
        caption = say(words, 1000) if place == len(sheets) else None
        figures.append(tag("div", show_figure(sheet, caption=caption),
                           class_="tall" if tall else "broad"))  # fmt: skip
    return join(figures)


def _write_nodes(graph: Graph, cites: Citations) -> Safe:
    arrivals: dict[int, list[str]] = {}
    for line in sorted(graph.lines, key=lambda line: (line.time, line.source)):
        times = f" ({line.count:,} times)" if line.count > 1 else ""
        told = f"{', '.join(line.verbs)} by {line.source}{times}"
        arrivals.setdefault(line.target, []).append(told)
    rows = []
    for box in graph.boxes[:MAX_NODES]:
        facts = list(dict.fromkeys(f"{k}: {v}" for node in box.nodes for k, v in node.facts))
        what = [say(box.label, 300)]
        what += [tag("div", say(fact, 300), class_="note") for fact in facts[:6]]
        keys = box.findings or tuple(e for node in box.nodes for e in node.events)
        last = max(node.last for node in box.nodes)
        rows.append(
            (
                say(box.number),
                say("root cause" if box.root else box.role),
                say(box.kind),
                join([*what, _count_facts(len(facts), 6)]),
                say(box.host, 80),
                say(show_period(box.first, last)),
                join([say(list_some(arrivals.get(box.number, []), 4) or "-", 400),
                      cites.link(keys, 4)]),
            )
        )  # fmt: skip
    columns = ("No.", "Role", "Kind", "What", "Host", "When (UTC)", "How we know")
    return join(
        [
            tag("h3", say("The picture in words")),
            table(columns, rows, ids=[f"n{box.number}" for box in graph.boxes]),
        ]
    )


def _count_facts(total: int, shown: int) -> Safe:
    if total <= shown:
        return NOTHING
    return tag("div", say(f"and {total - shown:,} more facts"), class_="note")


def _write_entities(dossier: Dossier) -> Safe:
    groups: dict[str, list[str]] = {}
    for entity in dossier.incident.entities:
        groups.setdefault(entity.kind, []).append(entity.value)
    if not groups:
        return tag("p", say("No entity is named by the findings."), class_="none")
    rows = [
        (say(kind), _number(len(values)), listed(values, MAX_ENTITIES // 10, 160))
        for kind, values in sorted(groups.items())
    ]
    return table(("Kind", "Distinct", "Values"), rows)


def _write_techniques(dossier: Dossier, cites: Citations) -> Safe:
    if not dossier.techniques:
        return tag("p", say("No finding names a technique of ATT&CK."), class_="none")
    rows = [
        (
            _link_technique(row.technique, cites),
            say(row.name, 160),
            say(", ".join(name_stage(tactic) for tactic in row.tactics), 300),
            join([_number(len(row.findings)), cites.link(row.findings, 8)]),
            say(list_some(row.rules, 6), 600),
        )
        for row in dossier.techniques[:MAX_ROWS]
    ]
    columns = ("Technique", "Name", "Tactics", "Findings", "Rules")
    return join([table(columns, rows), _count_more(len(dossier.techniques), MAX_ROWS, "rows")])


def _link_technique(technique: str, cites: Citations) -> Safe:
    (cited,), _ = cites.use([technique])
    return tag("a", say(technique, 20), href=f"#{cited.anchor}")


def _write_evidence(dossier: Dossier, cites: Citations) -> Safe:
    parts = [_write_folds(dossier)]
    records = {evidence.finding: evidence for evidence in dossier.evidence}
    left = ALL_RECORDS_CHARACTERS
    for body in dossier.findings[:MAX_EVIDENCE]:
        evidence = records.get(str(body.get("id")))
        room = min(RECORD_CHARACTERS, left)
        left -= min(room, len(evidence.text) if evidence else 0)
        parts.append(_write_finding(body, evidence, cites, room))
    hidden = max(0, len(dossier.findings) - MAX_EVIDENCE) + dossier.findings_left_out
    if hidden:
        words = f"{hidden:,} findings are not shown one by one; the table above counts them."
        parts.append(tag("p", say(words), class_="note"))
    if not dossier.findings:
        parts.append(tag("p", say("No finding of it is kept any more."), class_="none"))
    else:
        words = (
            f"Log text is shown as text: what can't be seen is written out and marked like "
            f"this: \x1b. Records are cut at {RECORD_CHARACTERS:,} characters each and "
            f"{ALL_RECORDS_CHARACTERS:,} in all; a cut says so."
        )
        parts.insert(0, tag("p", say(words), class_="note"))
    return join(parts)


def _write_folds(dossier: Dossier) -> Safe:
    folds = dossier.incident.folds
    if not folds:
        return NOTHING
    rows = [
        (
            say(fold.title, 200),
            show_level(fold.level),
            say(fold.host, 80),
            _number(fold.count),
            say(show_period(fold.first, fold.last)),
            say(f"{fold.expected:.0%} of hours" if fold.expected else "new here"),
            say(fold.detector, 60),
        )
        for fold in folds[:MAX_FOLDS]
    ]
    columns = ("Finding", "Level", "Host", "Times", "When (UTC)", "Usual here", "Detector")
    return join(
        [
            tag("h3", say("What was found")),
            table(columns, rows, caption="Findings of one rule on one host are one row"),
            _count_more(len(folds), MAX_FOLDS, "rows"),
            tag("h3", say("Finding by finding, with the records")),
        ]
    )


def _write_finding(
    body: dict[str, Any], evidence: Evidence | None, cites: Citations, room: int
) -> Safe:
    key = str(body.get("id"))
    moment = str(body.get("time") or "no time")[:19].replace("T", " ")
    summary = tag(
        "summary",
        tag("span", say(cites.label(key)), class_="fid"),
        tag("span", say(moment), class_="when"),
        say(" "),
        show_level(str(body.get("level"))),
        say(" "),
        tag("strong", say(body.get("title"), 200)),
        say(f" on {body.get('host') or 'no host'}", 120),
    )
    source = body.get("source") or {}
    known = [c for c in body.get("citations") or () if isinstance(c, dict)][:8]
    parts = [
        summary,
        _write_matches(body),
        _write_verdicts(body),
        tag(
            "p",
            say(f"Rule {body.get('rule_id')} of {body.get('detector')}; {source.get('path')} at "
                f"{source.get('record')}, source {source.get('name')}; id {key}", 900),
            cites.link([str(c.get("id")) for c in known]),
            class_="note",
        ),
        _write_record(evidence, room),
    ]  # fmt: skip
    return tag("details", *parts, id=cites.place(key))


def _write_matches(body: dict[str, Any]) -> Safe:
    values = list(
        dict.fromkeys(
            (str(m.get("field") or "keyword"), str(m.get("value")), str(m.get("pattern")))
            for m in body.get("matched") or ()
            if isinstance(m, dict)
        )
    )
    if not values:
        return NOTHING
    rows = [
        tag("li", tag("strong", say(name, 80)), say(" = "), tag("code", say(value, 1000)),
            say(" met "), tag("code", say(pattern, 200)))
        for name, value, pattern in values[:10]
    ]  # fmt: skip
    return join([tag("ul", *rows, class_="said"), _count_more(len(values), 10, "matches")])


def _write_verdicts(body: dict[str, Any]) -> Safe:
    verdicts = [v for v in body.get("verdicts") or () if isinstance(v, dict)][:8]
    if not verdicts:
        return NOTHING
    said = [
        f"{v.get('expert')}: {str(v.get('label')).replace('_', ' ')}"
        + (f", {v['confidence']:.0%} sure" if isinstance(v.get("confidence"), float) else "")
        + (f" ({v.get('reason')})" if v.get("reason") else "")
        for v in verdicts
    ]
    return tag("p", tag("strong", say("Experts: ")), say("; ".join(said), 1500))


def _write_record(evidence: Evidence | None, room: int) -> Safe:
    if evidence is None:
        return tag("p", say("Record: not looked up for this report."), class_="none")
    if not evidence.text:
        return tag("p", say(f"Record not at hand: {evidence.missing or 'not kept'}.", 400),
                   class_="none")  # fmt: skip
    words = f"Record, from the {evidence.origin or 'appliance'}"
    if len(evidence.text) > room:
        words += f", its first {room:,} of {len(evidence.text):,} characters"
    return join(
        [
            tag("p", say(f"{words}:", 200), class_="note"),
            tag("pre", say_record(evidence.text, room)) if room else NOTHING,
        ]
    )


def _write_visibility(dossier: Dossier, cites: Citations) -> Safe:
    intro = (
        "What the sources gave in the time of this incident. What is not here was not seen: no "
        "alert and no data are not the same."
    )
    if not dossier.visibility:
        words = "Nothing is known of the sources at that time: treat everything as unseen."
        return tag("p", say(words), class_="alarm")
    ids = [cites.place(f"source:{row.source}") for row in dossier.visibility[:MAX_ROWS]]
    rows = [_write_source(row) for row in dossier.visibility[:MAX_ROWS]]
    columns = (
        "Source", "Seen", "Rejected", "Dropped", "Events of it", "Hosts", "Last (UTC)", "Silent",
    )  # fmt: skip
    return join([tag("p", say(intro)), table(columns, rows, ids=ids)])


def _write_source(row: Visibility) -> tuple[Safe, ...]:
    silent = [
        tag("div", say(f"{show_period(a, b)} ({show_span(b - a)})")) for a, b in row.silent[:6]
    ]
    if len(row.silent) > 6:
        silent.append(say(f"and {len(row.silent) - 6:,} more"))
    return (
        say(row.source, 120),
        _number(row.seen),
        _warn(row.rejected),
        _warn(row.dropped),
        _number(row.events),
        listed(row.hosts, 12) if row.hosts else tag("strong", say("none")),
        _when(row.last) if row.last else tag("strong", say("never")),
        join(silent) if silent else say("no"),
    )


def _warn(count: int) -> Safe:
    return tag("strong" if count else "span", say(f"{count:,}"), class_="num")


def describe_details(details: dict[str, Any]) -> str:
    """An action's own values on one line."""
    return ", ".join(f"{name}: {value}" for name, value in list(details.items())[:12])


def _write_actions(dossier: Dossier) -> Safe:
    case = dossier.case
    words = f"The case is {STATUS_WORDS.get(case.status, 'open')}"
    words += f", assigned to {case.assignee}" if case.assignee else ", assigned to nobody"
    if case.changed:
        words += f", last changed {show_moment(case.changed)} UTC"
    state = tag("p", say(f"{words}.", 400))
    if not dossier.actions:
        return join([state, tag("p", say("No action is in the audit log."), class_="none")])
    rows = [_write_action(action) for action in dossier.actions[:MAX_ROWS]]
    columns = ("No.", "When (UTC)", "Who", "Did", "With", "Hash of the entry")
    more = _count_more(len(dossier.actions), MAX_ROWS, "entries")
    caption = "From the audit log; each entry's hash covers the entry before it"
    return join([state, table(columns, rows, caption=caption), more])


def _write_action(action: Action) -> tuple[Safe, ...]:
    return (
        say(action.number),
        _when(action.time),
        say(action.actor, 80),
        say(action.action, 60),
        say(describe_details(action.details), 600),
        tag("code", say(action.hash[:16])),
    )


def _write_questions(dossier: Dossier, cites: Citations) -> Safe:
    return write_sentences(dossier.questions, cites, "No question is open.")


def _write_citations(cites: Citations) -> Safe:
    rows = cites.rows
    if not rows:
        return tag("p", say("Nothing was cited."), class_="none")
    kinds = {"finding": "finding", "event": "event", "source": "log source", "entry": "knowledge"}
    # What has its own place on the page has its anchor there.
    ids = ["" if row.anchor in cites.placed else row.anchor for row in rows]
    body = [
        (
            tag("span", say(row.label, 60)),
            say(kinds[row.kind]),
            join([say(row.text or "entry of the knowledge base", 400), _point_on(row, cites)]),
            tag("code", say(row.id, 80)),
        )
        for row in rows
    ]
    shown = [key or f"c{place}" for place, key in enumerate(ids, 1)]
    return table(("Name", "Kind", "What it is", "Id"), body, ids=shown)


def _point_on(row: Cited, cites: Citations) -> Safe:
    if row.anchor not in cites.placed and not row.finding:
        return NOTHING
    if row.kind == "finding":
        return join([say(" "), tag("a", say("evidence"), href=f"#{row.anchor}")])
    if row.kind == "source":
        return join([say(" "), tag("a", say("ledger"), href=f"#{row.anchor}")])
    if row.finding:
        where = say(f"record of {row.finding}")
        anchor = row.finding.lower()
        shown = tag("a", where, href=f"#{anchor}") if anchor in cites.placed else where
        return join([say("; "), shown])
    return NOTHING


def _write_foot(dossier: Dossier, cites: Citations) -> Safe:
    words = [
        f"Made by appliance {dossier.version} at {show_moment(dossier.made)} UTC from its own "
        "store and archive. The page loads nothing and runs nothing. All times are UTC."
    ]
    if cites.unsupported:
        words.append(f"{cites.unsupported:,} statements without evidence were left out.")
    return tag("p", plain(" ".join(words)))
