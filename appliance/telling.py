"""Beside the line: an incident in sentences, for people who were not there.

`summarise` says what happened and how sure that is, `ask` what is still open. Every sentence names
what supports it; `keep_cited` is the one place through which all of them go, and leaves out each
that has no such support. What a log says stays a quoted, capped, visible text inside a sentence.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from appliance.emit.text import cap_text, show_hidden
from appliance.incident import Chain, Provenance, Sentence, TechniqueRow, Visibility
from appliance.schema import LEVELS, Fold, Incident

Body = Mapping[str, Any]

#: Ids that one sentence cites, and names that it lists, at the most.
MOST_CITED: Final = 8
MOST_NAMED: Final = 6
#: Sentences of a summary and of the open questions at the most; characters of one.
MOST_SENTENCES: Final = 8
MOST_QUESTIONS: Final = 24
MOST_CHARACTERS: Final = 1200
#: Characters of a log's own words in a sentence.
QUOTED: Final = 120
#: Kinds of incidents whose findings lie together without belonging together: no story of an attack.
BASKETS: Final = frozenset({"routine", "minor"})
#: From which share of the hours watched on a fold is called usual here.
USUAL: Final = 0.5

_ID: Final = re.compile(r"[0-9a-f]{32}")
#: What knowledge entries are called: ATT&CK's ids, vulnerabilities, entries of other kinds.
_KNOWLEDGE: Final = re.compile(
    r"(?:T\d{4}(?:\.\d{3})?|TA\d{4}|[GSMC]\d{4}|CVE-\d{4}-\d{4,}|[a-z_]+:[\w.:-]{1,200})"
)


class Telling(msgspec.Struct, frozen=True):
    """What sentences are made of. `folds` are the incident's rows, `unheard` hosts that are spoken
    of and never speak with the findings that name them, `archived` says whether there is an archive
    with events of the incident's hosts, `damage` why a part of it was left out."""

    incident: Incident
    findings: Sequence[Body]
    folds: Sequence[Fold]
    provenance: Provenance
    chain: Chain
    techniques: Sequence[TechniqueRow]
    visibility: Sequence[Visibility]
    unheard: Mapping[str, Sequence[str]]
    archived: bool
    left_out: int = 0
    damage: str = ""


# -- the rule that every sentence has its evidence -------------------------------------------------


def keep_cited(
    sentences: Iterable[Sentence],
    ids: Collection[str],
    sources: Collection[str],
    knows: Callable[[str], bool] | None = None,
) -> tuple[Sentence, ...]:
    """The sentences that have evidence, each with those of its citations that lead somewhere: ids
    of findings and events among `ids`, "source:NAME" with a name among `sources`, and knowledge
    entries (of which `knows` says whether the base has them; without it the form decides). Texts
    come out as one visible line. A sentence without a citation left is left out, and one that was
    said before."""
    kept: dict[str, Sentence] = {}
    for sentence in sentences:
        cites = tuple(
            cite
            for cite in dict.fromkeys(sentence.cites)
            if _leads_somewhere(cite, ids, sources, knows)
        )
        text = show_hidden(cap_text(sentence.text.strip(), MAX_TEXT))
        if text and cites and text not in kept:
            kept[text] = Sentence(text, cites)
    return tuple(kept.values())


MAX_TEXT: Final = MOST_CHARACTERS


def _leads_somewhere(
    cite: str,
    ids: Collection[str],
    sources: Collection[str],
    knows: Callable[[str], bool] | None,
) -> bool:
    if _ID.fullmatch(cite):
        return cite in ids
    if cite.startswith("source:"):
        return cite.removeprefix("source:") in sources
    return bool(_KNOWLEDGE.fullmatch(cite)) and (knows is None or knows(cite))


# -- words -----------------------------------------------------------------------------------------


def quote(text: object) -> str:
    """A log's own words: on one line, capped, between quotation marks that they can't close."""
    return '"' + show_hidden(cap_text(str(text), QUOTED)).replace('"', "'") + '"'


def name_time(seconds: float) -> str:
    """Epoch seconds as "2026-11-22 09:00:01" (UTC)."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar holds"


def name_span(first: float, last: float) -> str:
    """Two epoch times as a range, the second without its date where that is the same."""
    begin, end = name_time(first), name_time(last)
    if begin == end:
        return f"at {begin} UTC"
    return f"from {begin} to {end[11:] if begin[:10] == end[:10] else end} UTC"


def count_words(count: int, word: str) -> str:
    """ "1 finding", "2,000 findings"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def list_names(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """ "a, b and 3 more"; "nothing" for none."""
    shown = [show_hidden(cap_text(name, QUOTED)) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else "".join(shown) or "-"


def _short_time(body: Body) -> str:
    return str(body["time"] or "")[:19].replace("T", " ")


def _cite(bodies: Iterable[Body]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(body["id"] for body in bodies))[:MOST_CITED]


def order_hosts(bodies: Iterable[Body]) -> list[str]:
    """Hosts of findings in the order of their first one."""
    return list(dict.fromkeys(body["host"] for body in bodies if body["host"]))


def rank_body(body: Body) -> tuple[int, float]:
    """Sorts the worst first, the surest of equals."""
    level = body["level"]
    return -(LEVELS.index(level) if level in LEVELS else 0), -body["score"]


# -- what happened ---------------------------------------------------------------------------------


def summarise(told: Telling) -> list[Sentence]:
    """What happened, when and where, how it began, how far it came, how sure that is, where the
    detectors disagree and what of it is usual here; empty without findings."""
    if not told.findings:
        return []
    parts = (
        _tell_what,
        _tell_beginning,
        _tell_course,
        _tell_spread,
        _tell_rank,
        _tell_certainty,
        _tell_disagreement,
        _tell_usual,
    )
    found = (part(told) for part in parts)
    return [sentence for sentence in found if sentence is not None][:MOST_SENTENCES]


def _tell_what(told: Telling) -> Sentence:
    incident, bodies = told.incident, told.findings
    worst = min(bodies, key=rank_body)
    rules = len({(body["detector"], body["rule_id"]) for body in bodies})
    hosts = order_hosts(bodies)
    text = (
        f"{count_words(incident.count, 'finding')} of {count_words(rules, 'rule')} "
        f"{name_span(incident.first_seen, incident.last_seen)} "
        f"on {list_names(hosts) if hosts else 'no named host'}; "
        f"the worst is {quote(worst['title'])} ({worst['level']}) "
        f"on {show_hidden(cap_text(worst['host'] or '-', QUOTED))} at {_short_time(worst)}."
    )
    return Sentence(text, _cite([worst, bodies[0], bodies[-1]]))


def _tell_beginning(told: Telling) -> Sentence:
    provenance, first = told.provenance, told.findings[0]
    nodes = {node.id: node for node in provenance.nodes}
    roots = [nodes[key] for key in provenance.roots if key in nodes]
    if roots:
        root = min(roots, key=lambda node: node.first)
        more = f" (one of {len(roots)} beginnings)" if len(roots) > 1 else ""
        text = (
            f"The earliest cause that the records show is the {root.kind} {quote(root.label)} on "
            f"{show_hidden(cap_text(root.host or '-', QUOTED))}, first seen "
            f"{name_time(root.first)}{more}."
        )
        return Sentence(text, (root.findings + root.events + _cite([first]))[:MOST_CITED])
    text = (
        f"The first finding is {quote(first['title'])} on "
        f"{show_hidden(cap_text(first['host'] or '-', QUOTED))} at {_short_time(first)}; "
        "what led to it is not among the records that were looked at."
    )
    return Sentence(text, _cite([first]))


def _tell_course(told: Telling) -> Sentence | None:
    """How far it came along the attack, in the order of time."""
    stages = [
        (stage.tactic, stage.first, stage.findings) for stage in told.chain.stages
    ] or _list_stages(told.findings)
    if not stages:
        return None
    steps = [f"{tactic} ({name_time(first)[11:]})" for tactic, first, _ in stages]
    cites = tuple(dict.fromkeys(ids[0] for _, _, ids in stages if ids))[:MOST_CITED]
    names = [f"{row.technique} {row.name}".strip() for row in told.techniques]
    by = f", by {list_names(names)}" if names else ""
    verb = "Its only stage is" if len(steps) == 1 else "Its stages, by first time, are"
    return Sentence(f"{verb} {list_names(steps, 14)}{by}.", cites)


def _list_stages(bodies: Iterable[Body]) -> list[tuple[str, float, tuple[str, ...]]]:
    """(tactic, first time, ids) from the findings alone."""
    found: dict[str, tuple[float, list[str]]] = {}
    for body in bodies:
        for tactic in body["tactics"]:
            row = found.setdefault(tactic, (read_body_time(body), []))
            row[1].append(body["id"])
    return [(tactic, first, tuple(ids)) for tactic, (first, ids) in found.items()]


def read_body_time(body: Body) -> float:
    """A finding's time as epoch seconds, 0 where it has none."""
    try:
        return datetime.fromisoformat(body["time"]).timestamp() if body["time"] else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _tell_spread(told: Telling) -> Sentence | None:
    bodies = told.findings
    hosts = list(told.provenance.reach) or order_hosts(bodies)
    if len(hosts) < 2 or told.incident.kind in BASKETS:
        return None
    firsts = [next((b for b in bodies if b["host"] == host), None) for host in hosts]
    cites = _cite(body for body in firsts if body is not None)
    text = f"It came to {len(hosts)} hosts, in this order: {list_names(hosts, 12)}."
    return Sentence(text, cites or _cite(bodies[:1]))


def _tell_rank(told: Telling) -> Sentence | None:
    incident = told.incident
    if not incident.reasons:
        return None
    up = sorted(incident.reasons, key=lambda reason: -abs(reason.points))[:3]
    words = "; ".join(
        f"{reason.points:+.0f} {show_hidden(cap_text(reason.words, QUOTED))}" for reason in up
    )
    text = f"Its priority is {incident.score:.0f} of 100, mostly for: {words}."
    return Sentence(text, _cite([min(told.findings, key=rank_body), told.findings[0]]))


def group_detectors(bodies: Iterable[Body]) -> dict[str, list[Body]]:
    """Findings by detector, the one with most first."""
    found: dict[str, list[Body]] = {}
    for body in bodies:
        found.setdefault(body["detector"], []).append(body)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def name_event(body: Body) -> str:
    """The id of a finding's event; its own where an older version did not note the event's."""
    return str((body.get("event") or {}).get("id") or body["id"])


def find_agreements(bodies: Iterable[Body]) -> list[Body]:
    """Findings on whose event another detector speaks, too."""
    by_event: dict[str, set[str]] = {}
    rows = list(bodies)
    for body in rows:
        event = name_event(body)
        by_event.setdefault(event, set()).add(body["detector"])
        by_event[event].update(other["detector"] for other in body.get("agreement", ()))
    return [body for body in rows if len(by_event[name_event(body)]) > 1]


def _tell_certainty(told: Telling) -> Sentence:
    bodies = told.findings
    groups = group_detectors(bodies)
    said = [f"{name} ({count_words(len(rows), 'finding')})" for name, rows in groups.items()]
    agreed = find_agreements(bodies)
    if agreed:
        events = len({name_event(body) for body in agreed})
        sure = f"on {count_words(events, 'event')} more than one detector speaks"
    elif len(groups) > 1:
        sure = "on no single event do two of them agree"
    else:
        sure = "no other kind of detector confirms it"
    verdicts = Counter(body["verdict"] for body in bodies)
    experts = ", ".join(f"{label} {count:,}" for label, count in verdicts.most_common())
    text = f"It rests on {list_names(said)}; {sure}; the experts' verdicts are: {experts}."
    cites = _cite([*agreed[:4], *(rows[0] for rows in groups.values())])
    return Sentence(text, cites)


def find_disputes(bodies: Iterable[Body]) -> list[Body]:
    """Findings on which experts contradict one another: one calls it benign, another does not."""
    rows = []
    for body in bodies:
        labels = {verdict["label"] for verdict in body["verdicts"]} - {"insufficient_data"}
        if len(labels) > 1:
            rows.append(body)
    return rows


def find_lonely(bodies: Iterable[Body]) -> list[Body]:
    """The sentinel's findings on events of which no rule says anything, where others speak, too."""
    rows = list(bodies)
    if len({body["detector"] for body in rows}) < 2:
        return []
    agreed = {body["id"] for body in find_agreements(rows)}
    return [body for body in rows if body["detector"] == "sentinel" and body["id"] not in agreed]


def _tell_disagreement(told: Telling) -> Sentence | None:
    disputed, lonely = find_disputes(told.findings), find_lonely(told.findings)
    parts = []
    if disputed:
        body = disputed[0]
        words = ", ".join(f"{v['expert']} says {v['label']}" for v in body["verdicts"])
        parts.append(
            f"the experts contradict one another on {count_words(len(disputed), 'finding')}, as on "
            f"{quote(body['title'])} ({show_hidden(cap_text(words, QUOTED))})"
        )
    if lonely:
        events = len({name_event(body) for body in lonely})
        parts.append(
            f"on {count_words(events, 'event')} the sentinel stands alone, where no rule says "
            "anything"
        )
    if not parts:
        return None
    text = "; ".join(parts) + "."
    return Sentence(text[0].upper() + text[1:], _cite([*disputed[:4], *lonely[:4]]))


def find_of_fold(fold: Fold, bodies: Iterable[Body]) -> list[Body]:
    """The findings that a row stands for."""
    return [
        body
        for body in bodies
        if (body["detector"], body["rule_id"], body["host"])
        == (fold.detector, fold.rule_id, fold.host)
    ]


def _tell_usual(told: Telling) -> Sentence | None:
    usual = [fold for fold in told.folds if fold.expected >= USUAL]
    cites = _cite(b for fold in usual[:4] for b in find_of_fold(fold, told.findings)[:2])
    if not usual or not cites:
        return None
    shown = [f"{quote(f.title)} on {f.host} (in {f.expected:.0%} of the hours)" for f in usual]
    what = "All of it" if len(usual) == len(told.folds) else f"{len(usual)} of its rows"
    return Sentence(f"{what} is usual here: {list_names(shown, 3)}.", cites)


# -- what is open ----------------------------------------------------------------------------------


def ask(told: Telling) -> list[Sentence]:
    """What was not seen, or not decided: gaps, missing parents, silent sources, hosts that send no
    logs, what would come next unseen, experts who contradict one another or have not answered."""
    found = [
        *told.provenance.missing,
        *(gap.sentence for gap in told.chain.gaps),
        *_ask_of_sources(told),
        *_ask_of_unheard(told),
        *_ask_of_archive(told),
        *_ask_of_next_steps(told),
        *_ask_of_verdicts(told),
    ]
    return found[:MOST_QUESTIONS]


def _ask_of_sources(told: Telling) -> Iterable[Sentence]:
    for row in told.visibility:
        cites, name = (f"source:{row.source}",), show_hidden(cap_text(row.source, QUOTED))
        if row.silent:
            first, last = max(row.silent, key=lambda pair: pair[1] - pair[0])
            others = count_words(len(row.silent) - 1, "other time")
            more = f", and at {others}" if len(row.silent) > 1 else ""
            yield Sentence(
                f"What happened while source {name} showed nothing of these hosts, "
                f"{name_span(first, last)}{more}?",
                cites,
            )
        lost = [
            f"{count:,} {what}"
            for count, what in ((row.rejected, "rejected"), (row.dropped, "dropped"))
            if count
        ]
        if lost:
            yield Sentence(
                f"Was anything of it among what source {name} gave and nobody could read: "
                f"{' and '.join(lost)} of {row.seen + row.dropped:,} records ever?",
                cites,
            )


def _ask_of_unheard(told: Telling) -> Iterable[Sentence]:
    shown = list(told.unheard.items())
    for host, ids in shown[:MOST_NAMED]:
        yield Sentence(
            f"What happened on {show_hidden(cap_text(host, QUOTED))}? "
            f"{count_words(len(ids), 'finding')} name it, and it sends no logs here.",
            tuple(ids[:MOST_CITED]),
        )
    if len(shown) > MOST_NAMED:
        cites = tuple(ids[0] for _, ids in shown[MOST_NAMED:])[:MOST_CITED]
        yield Sentence(
            f"And what happened on {len(shown) - MOST_NAMED} more hosts that are named and send no "
            "logs here?",
            cites,
        )


def _ask_of_archive(told: Telling) -> Iterable[Sentence]:
    names = dict.fromkeys(f"source:{body['source']['name']}" for body in told.findings)
    cites = tuple(names)[:MOST_CITED]
    if not told.archived:
        yield Sentence(
            "What came before the first finding and after the last? No event archive that can be "
            "read has events of these hosts: only the records of the findings themselves were "
            "looked at.",
            cites,
        )
    if told.damage:
        yield Sentence(
            "What does that part of the event archive hold that can't be read: "
            f"{show_hidden(cap_text(told.damage, QUOTED))}?",
            cites,
        )
    if told.left_out:
        yield Sentence(
            f"What do the {told.left_out:,} further findings say? They are counted here and not "
            "looked at one by one, or are no longer kept.",
            _cite(told.findings[-1:]),
        )


def _ask_of_next_steps(told: Telling) -> Iterable[Sentence]:
    blind = [step for step in told.chain.next_steps if not step.sources]
    for step in blind[:4]:
        yield Sentence(
            f"Did {step.technique} {show_hidden(cap_text(step.name, QUOTED))} follow? "
            f"{step.share:.0%} of {step.of:,} known procedures that use much of what was seen "
            "use it, too, "
            "and nothing that is read here would show it.",
            (*step.cites, step.technique)[:MOST_CITED],
        )


def _ask_of_verdicts(told: Telling) -> Iterable[Sentence]:
    disputed = find_disputes(told.findings)
    if disputed:
        yield Sentence(
            f"Who is right on {count_words(len(disputed), 'finding')} that one expert calls "
            f"benign and another does not, as {quote(disputed[0]['title'])}?",
            _cite(disputed),
        )
    unsure = [body for body in told.findings if body["verdict"] == "insufficient_data"]
    if unsure:
        yield Sentence(
            f"Are {count_words(len(unsure), 'finding')} real of which no expert could say "
            f"anything, as {quote(unsure[0]['title'])}?",
            _cite(unsure),
        )
