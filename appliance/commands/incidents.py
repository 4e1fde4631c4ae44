"""`incidents`, `show`, and `explain` of an incident: which to look at first, and its story."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec

from appliance.commands.dossier import read_dossier
from appliance.commands.look import find_one, read_selection, show_finding
from appliance.commands.settings import open_store, read_config
from appliance.config import Config
from appliance.emit.render import render_incident
from appliance.errors import Exit
from appliance.incident import Dossier, Provenance, Sentence, TraceEdge, TraceNode
from appliance.joining import explain_incident
from appliance.schema import Fold, Incident
from appliance.store import Store
from appliance.telling import BASKETS, count_words, find_of_fold
from appliance.view import View, clean, show_range, show_time

Body = dict[str, Any]

#: Hosts, entities and lines of the tree that are shown, at the most.
_HOSTS = 4
#: Stages of one that a list without a terminal shows.
_STAGES = 3
_ENTITIES = 6
_KINDS = (
    "host", "user", "address", "domain", "service", "file", "session", "hash", "process",
)  # fmt: skip
_BRANCHES = 200
_DEEPEST = 24
#: Of things to which the same was done: those drawn one by one.
_ALIKE = 4
_WIDE = 4000

#: What stands at the top of the list's other kinds, by kind.
_ASIDE = {
    "minor": "below what is worth a look of its own",
    "routine": "expected here",
}


# -- the list --------------------------------------------------------------------------------------


def incidents(args: argparse.Namespace) -> Exit:
    """`appliance incidents`: the first to be looked at first."""
    selection = {**read_selection(args), "status": args.status}
    with closing(open_store(read_config(args))) as store:
        ranked = store.ranked_incidents(**selection)
        aside = {
            kind: store.ranked_incidents(**{**selection, "limit": -1}, kind=kind) for kind in _ASIDE
        }
    view = View()
    if args.json:
        shown = [*ranked, *(row for rows in aside.values() for row in rows if args.all)]
        view.json([describe_incident(incident, status) for incident, status in shown])
        return Exit.DONE
    _print_list(view, ranked)
    for kind, what in _ASIDE.items():
        rows = aside[kind]
        if rows and args.all:
            _print_list(view, rows, title=f"{kind}: {what}")
        elif rows:
            found = sum(incident.count for incident, _ in rows)
            titles = dict.fromkeys(incident.title for incident, _ in rows)
            more = f" and {len(titles) - 3} more" if len(titles) > 3 else ""
            named = "; ".join(clean(title, 80) for title in list(titles)[:3])
            many = f"{count_words(found, 'finding')} in {count_words(len(rows), 'row')}"
            view.line(f"{kind}, {what}: {many} (--all shows them): {named}{more}", "dim")
    return Exit.DONE


def describe_incident(incident: Incident, status: str) -> Body:
    """The incident as a JSON object: what sinks get, and how it ranks. `case` is the status of its
    case, `routine` and `minor` say that it is none to be looked at for itself."""
    return {
        **render_incident(incident),
        "case": status,
        "routine": incident.kind == "routine",
        "minor": incident.kind == "minor",
        "score": incident.score,
        "reasons": msgspec.to_builtins(incident.reasons),
        "folds": len(incident.folds),
        "techniques": list(incident.techniques),
        "detectors": list(incident.detectors),
    }


def _name_stages(tactics: Sequence[str], *, whole: bool) -> str:
    """The stages by first time; where nothing folds a long cell, the last ones, which say how far
    it came."""
    left = 0 if whole else max(0, len(tactics) - _STAGES)
    return ", ".join([*([f"{left} before"] if left else []), *tactics[left:]])


def _print_list(view: View, rows: Sequence[tuple[Incident, str]], title: str = "") -> None:
    view.table(
        ["id", "score", "level", "status", "stages", "findings", "hosts", "first - last (UTC)",
         "title"],
        [
            [
                incident.id[:12],
                f"{incident.score:.0f}",
                incident.level,
                status,
                _name_stages(incident.tactics, whole=view.terminal),
                _count_findings(incident),
                _name_hosts([e.value for e in incident.entities if e.kind == "host"]),
                show_range(incident.first_seen, incident.last_seen),
                incident.title,
            ]
            for incident, status in rows
        ],
        title=title,
    )  # fmt: skip


def _count_findings(incident: Incident) -> str:
    """ "120 in 4": findings, and the rows into which they fold."""
    return f"{incident.count} in {len(incident.folds)}" if incident.folds else f"{incident.count}"


def _name_hosts(hosts: Sequence[str]) -> str:
    more = f" +{len(hosts) - _HOSTS}" if len(hosts) > _HOSTS else ""
    return " ".join(hosts[:_HOSTS]) + more


# -- one -------------------------------------------------------------------------------------------


def show(args: argparse.Namespace) -> Exit:
    """`appliance show ID`: exit 1 when there is no such id, or several that start so."""
    config = read_config(args)
    with closing(open_store(config)) as store:
        kind, key = find_one(store, args.id)
        if kind == "finding":
            show_finding(args, store.findings_by_ids([key])[key])
            return Exit.DONE
        dossier = read_dossier(config, store, key)
    view = View()
    if args.json:
        view.json(msgspec.to_builtins(dossier))
    else:
        print_story(view, dossier, args.limit)
    return Exit.DONE


def print_story(view: View, dossier: Dossier, limit: int) -> None:
    """The story in order, with at most `limit` rows of what happened."""
    _print_head(view, dossier)
    _print_sentences(view, "in short", dossier.summary)
    _print_reasons(view, dossier)
    _print_course(view, dossier, limit)
    _print_provenance(view, dossier.provenance)
    _print_techniques(view, dossier)
    _print_entities(view, dossier.incident)
    _print_case(view, dossier)
    _print_visibility(view, dossier)
    _print_next(view, dossier)
    _print_sentences(view, "open questions", dossier.questions)
    view.line("")
    view.line(f"`appliance explain {dossier.incident.id[:12]}` says why these are one incident "
              "and why it ranks so; in brackets is what each sentence rests on", "dim")  # fmt: skip


def _print_head(view: View, dossier: Dossier) -> None:
    incident, case = dossier.incident, dossier.case
    view.line(f"incident {incident.id}", "bold")
    hosts = [entity.value for entity in incident.entities if entity.kind == "host"]
    closing_word = f" as {case.closing}" if case.closing else ""
    assignee = f", assigned to {clean(case.assignee)}" if case.assignee else ""
    kind = "" if incident.kind == "incident" else f" ({incident.kind}: {_ASIDE[incident.kind]})"
    for name, value in (
        ("title", clean(incident.title, 1024)),
        ("score", f"{incident.score:.0f} of 100{kind}"),
        ("level", incident.level),
        ("status", f"{case.status}{closing_word}{assignee}"),
        ("findings", _count_findings(incident)),
        ("when", f"{show_range(incident.first_seen, incident.last_seen)} UTC"),
        ("hosts", clean(" ".join(hosts), 1000)),
        ("stages", clean(", ".join(incident.tactics), 1000)),
        ("aliases", clean(" ".join(incident.aliases), 1000)),
        ("related", clean(" ".join(incident.related), 1000)),
    ):
        if value != "-":
            view.line(f"  {name:<9} {value}")


def _print_sentences(view: View, title: str, sentences: Iterable[Sentence]) -> None:
    rows = list(sentences)
    if not rows:
        return
    view.line("")
    view.line(title, "bold")
    for sentence in rows:
        cites = " ".join(cite[:12] if len(cite) == 32 else cite for cite in sentence.cites[:4])
        more = f" +{len(sentence.cites) - 4}" if len(sentence.cites) > 4 else ""
        view.line(f"  {clean(sentence.text, _WIDE)} [{clean(cites)}{more}]")


def _print_reasons(view: View, dossier: Dossier) -> None:
    if not dossier.incident.reasons:
        return
    view.line("")
    view.line("why it ranks so", "bold")
    for reason in sorted(dossier.incident.reasons, key=lambda reason: -abs(reason.points)):
        view.line(f"  {reason.points:+6.1f}  {clean(reason.name)}: {clean(reason.words, 1000)}")


def _print_course(view: View, dossier: Dossier, limit: int) -> None:
    """What happened, as folded rows with the stage of each."""
    view.line("")
    view.line("what happened, in order", "bold")
    rows = sorted(dossier.incident.folds, key=lambda fold: (fold.first, -fold.count))
    view.table(
        ["stage", "time (UTC)", "id", "level", "host", "times", "what", "technique", "by"],
        [_write_row(dossier, fold) for fold in rows[:limit]],
    )
    if len(rows) > limit:
        view.line(f"  {len(rows) - limit} more rows (--limit)", "dim")
    for gap in dossier.chain.gaps:
        view.line(f"  gap: {clean(gap.sentence.text, 1000)}", "yellow")
    if dossier.findings_left_out:
        view.line(f"  {dossier.findings_left_out} findings were counted and are not looked at one "
                  "by one (over the cap, or no longer kept)", "yellow")  # fmt: skip


def _write_row(dossier: Dossier, fold: Fold) -> list[object]:
    first = next(iter(find_of_fold(fold, dossier.findings)), None)
    usual = f" (seen in {fold.expected:.0%} of hours)" if fold.expected > 0 else ""
    times = f"{fold.count} x until {show_time(fold.last)[11:]}" if fold.count > 1 else "1 x"
    return [
        fold.tactics[0] if fold.tactics else "",
        show_time(fold.first),
        first["id"][:12] if first else "",
        fold.level,
        fold.host,
        times,
        f"{clean(fold.title)}{usual}",
        " ".join(fold.techniques[:3]),
        fold.detector,
    ]


# -- where it came from ----------------------------------------------------------------------------


def _print_provenance(view: View, provenance: Provenance) -> None:
    _print_sentences(view, "where it came from", provenance.sentences)
    lines = list(draw_tree(provenance))
    if lines:
        view.line("")
        for line in lines[:_BRANCHES]:
            view.line(f"  {line}")
        if len(lines) > _BRANCHES:
            view.line(f"  {len(lines) - _BRANCHES} more lines")
    if provenance.cut:
        view.line(f"  {provenance.cut} things are left out of the graph", "dim")


def draw_tree(provenance: Provenance) -> Iterator[str]:
    """The graph as an indented tree from its root causes on, what is done to each thing in the
    order of time. Ways that lead to no finding are counted, not drawn; what was drawn before is
    named and not followed again. Clean lines."""
    nodes = {node.id: node for node in provenance.nodes}
    outgoing: dict[str, list[TraceEdge]] = {}
    incoming: dict[str, list[str]] = {}
    for edge in sorted(provenance.edges, key=lambda edge: (edge.time, edge.target)):
        if edge.source in nodes and edge.target in nodes:
            outgoing.setdefault(edge.source, []).append(edge)
            incoming.setdefault(edge.target, []).append(edge.source)
    starts = [key for key in provenance.roots if key in nodes]
    others = sorted(
        (node for node in provenance.nodes if node.id not in incoming and node.id not in starts),
        key=lambda node: (node.first, node.id),
    )
    telling = _find_telling(provenance.nodes, incoming)
    days = {show_time(node.first)[:10] for node in provenance.nodes}
    tree = _Tree(nodes, outgoing, telling, 0 if len(days) > 1 else 11)
    for key in (*starts, *(node.id for node in others if node.id in telling)):
        if key not in tree.seen:
            yield from tree.draw(key)


def _find_telling(nodes: Iterable[TraceNode], incoming: dict[str, list[str]]) -> set[str]:
    """Things with findings, and those from which a way leads to one."""
    telling = {node.id for node in nodes if node.findings}
    todo = list(telling)
    while todo:
        fresh = [key for key in incoming.get(todo.pop(), []) if key not in telling]
        telling.update(fresh)
        todo.extend(fresh)
    return telling


class _Tree:
    """Draws branches; `seen` are the things that were drawn. `cut` characters of a time go."""

    def __init__(
        self,
        nodes: dict[str, TraceNode],
        outgoing: dict[str, list[TraceEdge]],
        telling: set[str],
        cut: int,
    ) -> None:
        self.seen: set[str] = set()
        self._nodes = nodes
        self._outgoing = outgoing
        self._telling = telling
        self._cut = cut

    def draw(self, start: str) -> Iterator[str]:
        """The lines of all that comes of one thing."""
        todo: list[tuple[str, int, TraceEdge | None, str]] = [(start, 0, None, "")]
        while todo:
            key, depth, edge, host = todo.pop()
            node = self._nodes[key]
            again = key in self.seen
            yield self._write(node, depth, edge, host, again=again)
            if again:
                continue
            self.seen.add(key)
            edges = self._outgoing.get(key, [])
            followed = [e for e in edges if e.target in self._telling] if depth < _DEEPEST else []
            indent = " " * (20 - self._cut + 2 * depth + 2)
            left = Counter(self._nodes[e.target].kind for e in edges if e not in followed)
            if left:
                kinds = ", ".join(f"{count} {kind}" for kind, count in left.most_common())
                yield f"{indent}(and without findings: {kinds})"
            followed, alike = self._leave_out(followed)
            for (verb, kind), count in alike.items():
                yield f"{indent}(and {clean(verb)} {count} more {kind}, with findings)"
            todo += [(e.target, depth + 1, e, node.host) for e in reversed(followed)]

    def _leave_out(
        self, edges: Sequence[TraceEdge]
    ) -> tuple[list[TraceEdge], Counter[tuple[str, str]]]:
        """Of many ends of one kind that the same was done to, the first few, and how many more."""
        kept, met = [], Counter[tuple[str, str]]()
        for edge in edges:
            node = self._nodes[edge.target]
            if edge.target not in self._outgoing:
                met[edge.verb, node.kind] += 1
                if met[edge.verb, node.kind] > _ALIKE:
                    continue
            kept.append(edge)
        return kept, Counter({key: n - _ALIKE for key, n in met.items() if n > _ALIKE})

    def _write(
        self, node: TraceNode, depth: int, edge: TraceEdge | None, host: str, *, again: bool
    ) -> str:
        verb = ""
        if edge is not None:
            verb = f"{clean(edge.verb)} {f'({edge.count} x) ' if edge.count > 1 else ''}"
        marks = [count_words(len(node.findings), "finding")] if node.findings else []
        if node.role == "root":
            marks.insert(0, "ROOT CAUSE")
        if again:
            marks.append("see above")
        mark = f"  <- {', '.join(marks)}" if marks else ""
        where = f" on {clean(node.host)}" if node.host not in ("", host) else ""
        when = show_time(edge.time if edge is not None else node.first)[self._cut :]
        return f"{when} {'  ' * depth}{verb}{node.kind} {clean(node.label, 160)}{where}{mark}"


# -- the rest --------------------------------------------------------------------------------------


def _print_techniques(view: View, dossier: Dossier) -> None:
    if not dossier.techniques:
        return
    view.line("")
    view.table(
        ["technique", "name", "tactics", "findings", "seen by"],
        [
            [row.technique, row.name, ", ".join(row.tactics), len(row.findings),
             "; ".join(row.rules[:4])]
            for row in dossier.techniques
        ],
        title="techniques",
    )  # fmt: skip


def _print_entities(view: View, incident: Incident) -> None:
    """Those that people speak of first, each kind on its lines."""
    if not incident.entities:
        return
    view.line("")
    view.line(f"entities ({len(incident.entities)})", "bold")
    for kind in _KINDS:
        values = [entity.value for entity in incident.entities if entity.kind == kind]
        for value in values[:_ENTITIES]:
            view.line(f"  {kind:<8} {clean(value)}")
        if len(values) > _ENTITIES:
            view.line(f"  {kind:<8} and {len(values) - _ENTITIES} more (--json)", "dim")


def _print_case(view: View, dossier: Dossier) -> None:
    case = dossier.case
    view.line("")
    view.line("case and actions", "bold")
    changed = f" since {show_time(case.changed)} UTC" if case.changed else ""
    note = f": {clean(case.note, 1000)}" if case.note else ""
    closed = f" as {case.closing}" if case.closing else ""
    view.line(f"  {case.status}{closed}{changed}{note}")
    for action in dossier.actions:
        details = ", ".join(f"{name} {value}" for name, value in action.details.items())
        view.line(f"  {show_time(action.time)}  {clean(action.actor)}: {clean(action.action)} "
                  f"{clean(details, 1000)}")  # fmt: skip
    if not dossier.actions:
        view.line("  nobody has acted on it yet")


def _print_visibility(view: View, dossier: Dossier) -> None:
    view.line("")
    view.table(
        ["source", "hosts", "archived", "seen", "rejected", "dropped", "last event (UTC)",
         "silent (UTC)"],
        [
            [
                row.source,
                _name_hosts(row.hosts),
                row.events,
                row.seen,
                row.rejected,
                row.dropped,
                show_time(row.last or None),
                "; ".join(show_range(*silence) for silence in row.silent),
            ]
            for row in dossier.visibility
        ],
        title="what could be seen (archived: events of these hosts around it; the rest: ever)",
    )  # fmt: skip
    gone = sum(1 for evidence in dossier.evidence if evidence.missing)
    if gone:
        view.line(f"  of {len(dossier.evidence)} findings the records of {gone} are not to be had; "
                  f"the first: {clean(next(e.missing for e in dossier.evidence if e.missing))}",
                  "yellow")  # fmt: skip


def _print_next(view: View, dossier: Dossier) -> None:
    steps = dossier.chain.next_steps
    if not steps:
        return
    view.line("")
    view.table(
        ["technique", "name", "tactic", "share", "of", "lift", "who here would show it"],
        [
            [
                step.technique,
                step.name,
                step.tactic,
                f"{step.share:.0%}",
                step.of,
                f"{step.lift:.1f}",
                f"{', '.join(step.sources[:3])}: {count_words(len(step.rules), 'rule')}"
                if step.sources
                else "NOTHING",
            ]
            for step in steps
        ],
        title="what usually comes next",
    )


# -- why -------------------------------------------------------------------------------------------


def explain_one(args: argparse.Namespace, config: Config, store: Store, key: str) -> None:
    """`appliance explain ID` of an incident."""
    facts = explain_incident(read_dossier(config, store, key))
    view = View()
    if args.json:
        view.json(facts)
    else:
        print_reasons(view, facts)


def print_reasons(view: View, facts: Body) -> None:
    """Why it ranks so, why its findings are one, and who says so."""
    view.line(f"incident {facts['incident']}", "bold")
    view.line(f"  {clean(facts['title'], 1024)}")
    view.line(f"1 rank: {facts['score']:.1f} of 100", "bold")
    for reason in facts["reasons"]:
        view.line(f"  {reason['points']:+6.1f}  {clean(reason['name'])}: "
                  f"{clean(reason['words'], 1000)}")  # fmt: skip
    if not facts["reasons"]:
        view.line(f"  no reasons were kept; its level is {facts['level']}")
    _print_joined(view, facts)
    _print_detectors(view, facts)
    view.line("5 expected here", "bold")
    for fold in facts["expected"]:
        view.line(f"  {clean(fold['title'])} on {clean(fold['host'])}: in {fold['expected']:.0%} "
                  "of the hours watched before")  # fmt: skip
    if not facts["expected"]:
        view.line("  none of it was seen here before, as far as was watched")
    view.line("6 experts", "bold")
    for expert, labels in facts["experts"].items():
        said = ", ".join(f"{label} {count}" for label, count in labels.items())
        view.line(f"  {clean(expert)}: {said}")
    if not facts["experts"]:
        view.line("  none has spoken")


def _print_joined(view: View, facts: Body) -> None:
    found = count_words(facts["looked_at"], "finding")
    if facts["kind"] in BASKETS:
        view.line(f"2 {found} {_ASIDE[facts['kind']]}: lie together, and need not belong together",
                  "bold")  # fmt: skip
    else:
        view.line(f"2 why {found} are one incident", "bold")
    if facts["left_out"]:
        view.line(f"  {facts['left_out']} more are counted and not looked at here", "yellow")
    view.table(
        ["kind", "shared", "findings", "rules", "hosts", "first - last (UTC)"],
        [
            [tie["kind"], tie["value"], tie["findings"], tie["rules"], _name_hosts(tie["hosts"]),
             show_range(tie["first"], tie["last"])]
            for tie in facts["ties"]
        ],
        title="entities that more than one of them names",
    )  # fmt: skip
    if facts["ties_left_out"]:
        view.line(f"  {facts['ties_left_out']} more entities")
    if facts["apart"] > 1 and facts["kind"] not in BASKETS:
        view.line(f"  by these alone they would be {facts['apart']} groups: the rest was joined by "
                  "time and rule, or through findings that are not looked at here")  # fmt: skip
    _print_named(view, "share none with another", facts["untied"])
    for name, what in (("aliases", "merged into it"), ("related", "closed, and shares entities")):
        if facts[name]:
            view.line(f"  {what}: {clean(' '.join(facts[name]), 1000)}")


def _print_detectors(view: View, facts: Body) -> None:
    view.line("3 detectors", "bold")
    for row in facts["detectors"]:
        view.line(f"  {clean(row['detector'])}: {count_words(row['findings'], 'finding')} of "
                  f"{count_words(row['rules'], 'rule')}")  # fmt: skip
    view.line("4 agreement and disagreement", "bold")
    view.line(f"  on {count_words(facts['agreed_events'], 'event')} more than one detector speaks")
    _print_named(view, "the experts contradict one another on", facts["disputed"])
    _print_named(view, "the sentinel stands alone, no rule speaks, on", facts["alone"])
    if not facts["disputed"]["count"] and not facts["alone"]["count"]:
        view.line("  nobody contradicts")


def _print_named(view: View, what: str, named: Body) -> None:
    if not named["count"]:
        return
    view.line(f"  {what}: {count_words(named['count'], 'finding')}", "yellow")
    for row in named["rows"]:
        verdicts = ", ".join(f"{expert} {label}" for expert, label in row["verdicts"].items())
        who = f"{clean(row['detector'])} ({clean(verdicts)})"
        view.line(f"    {row['id'][:12]} {row['count']} x {clean(row['title'])} on "
                  f"{clean(row['host'])}, by {who}")  # fmt: skip
