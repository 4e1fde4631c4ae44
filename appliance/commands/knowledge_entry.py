"""`kb show`: one entry of the knowledge base in full, and all that it is linked to."""

import argparse
import difflib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import msgspec

from appliance.commands.knowledge import find_config, need_folder, open_unasked
from appliance.commands.paragraphs import cut_prose, wrap_prose, wrap_text
from appliance.commands.settings import open_store
from appliance.config import Config
from appliance.errors import ApplianceError, Exit
from appliance.knowledge.base import KnowledgeBase, Neighbour
from appliance.knowledge.entries import EntryType, KnowledgeEntry
from appliance.view import View, clean, show_iso

Body = dict[str, Any]

#: Rows of one section, examples, and findings that are shown; --all and --json have every one.
SHOWN: Final = 10
SHOWN_NAMES: Final = 20
SHOWN_EXAMPLES: Final = 3
SHOWN_FINDINGS: Final = 5

#: Characters of a link's text that are shown; --all shows it whole.
_LINK_CHARS: Final = 150
_EXAMPLE_CHARS: Final = 400

#: Longest id that stands beside its title.
_BESIDE: Final = 14

#: Who uses techniques, in the order in which examples of it are wanted.
_USERS: Final = ("group", "campaign", "software")

#: Longest name that is kept on one line.
_LONGEST_NAME: Final = 60
#: Keeps an id and its title on one line.
_HARD_SPACE: Final = "\N{NO-BREAK SPACE}"

#: What an id may be made of, for those that are spelled nearly so; the longest that is tried.
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz.-:_/"
_MAX_SPELLED: Final = 64
_LIKE: Final = 5
_LEAST_BEGINNING: Final = 6
_HITS: Final = 50
_LEAST_LIKENESS: Final = 0.6


class Section(msgspec.Struct, frozen=True):
    """Neighbours that are shown together: by the kind of the link, whether it leads from the entry
    to them, and their type (None: any)."""

    title: str
    kind: str
    forward: bool
    type: EntryType | None = None


#: In the order in which an operator wants them: what it is, what to do, who does it.
SECTIONS: Final = (
    Section("replaced by", "revoked_by", True),
    Section("took over from", "revoked_by", False),
    Section("part of", "subtechnique_of", True),
    Section("in the tactics", "in", True),
    Section("sub-techniques", "subtechnique_of", False),
    Section("playbooks that answer it", "answers", False),
    Section("answers", "answers", True),
    Section("rules that watch for it", "watches", False),
    Section("watches for", "watches", True),
    Section("log sources that show it", "shows", False),
    Section("shows", "shows", True),
    Section("how to detect it", "detects", False),
    Section("detects", "detects", True),
    Section("looks for it by", "has", True),
    Section("belongs to", "has", False),
    Section("reads", "reads", True),
    Section("read by", "reads", False),
    Section("countermeasures", "mitigates", False),
    Section("counters", "mitigates", True),
    Section("binaries that can be abused for it", "abuses", False),
    Section("can be abused for", "abuses", True),
    Section("as", "inherits", True),
    Section("does the same", "inherits", False),
    Section("tests for it", "tests", False),
    Section("tests", "tests", True),
    Section("used by groups", "uses", False, "group"),
    Section("used by software", "uses", False, "software"),
    Section("used in campaigns", "uses", False, "campaign"),
    Section("uses techniques", "uses", True, "technique"),
    Section("uses software", "uses", True, "software"),
    Section("said to be of", "attributed_to", True),
    Section("campaigns said to be of it", "attributed_to", False),
    Section("targets", "targets", True),
    Section("targeted by", "targets", False),
    Section("affects", "affects", True),
    Section("vulnerabilities", "affects", False),
    Section("techniques", "in", False),
    Section("notes about it", "about", False),
    Section("about", "about", True),
)

#: Analytics hang on the strategies of a technique.
ANALYTICS: Final = "analytics"


def kb_show(args: argparse.Namespace) -> Exit:
    """`appliance kb show`: exit 1 when there is no such entry, naming those spelled alike."""
    config = find_config(args)
    with open_unasked(need_folder(config)) as base:
        entry = find_entry(base, args.id)
        facts = gather_facts(base, entry, args.id)
    facts["findings"] = find_findings(config, facts)
    view = View(as_json=args.json)
    if args.json:
        view.json(facts)
    else:
        _print_entry(view, facts, whole=args.all)
    return Exit.DONE


# -- finding it ------------------------------------------------------------------------------------


def find_entry(base: KnowledgeBase, asked: str) -> KnowledgeEntry:
    """The entry with this id, in any case, also one that was renumbered; else the only one that
    bears the name. Raises ApplianceError, which names the nearest ones."""
    wanted = " ".join(asked.split())
    if not wanted:
        raise ApplianceError("the knowledge base has no entry under an empty id")
    entry = base.entry(wanted)
    if entry is not None:
        return entry
    named = find_named(base, wanted)
    if len(named) == 1:
        return named[0]
    if named:
        raise ApplianceError(
            f"'{clean(asked, 200)}' is the name of several: {_list_entries(named[:SHOWN])}: "
            "give the id"
        )
    near = find_near(base, wanted)
    told = f"; spelled alike: {_list_entries(near)}" if near else ""
    raise ApplianceError(f"the knowledge base has no '{clean(asked, 200)}'{told}")


def _list_entries(entries: Iterable[KnowledgeEntry]) -> str:
    return ", ".join(f"{clean(entry.id)} ({clean(entry.title, 60)})" for entry in entries)


def find_named(base: KnowledgeBase, name: str) -> list[KnowledgeEntry]:
    """Entries whose title, last part of a technique's title, or alias this is, in any case."""
    folded = name.casefold()
    hits = base.search_words(name, 2 * SHOWN) if name else []
    return [hit.entry for hit in hits if folded in list_names(hit.entry)]


def list_names(entry: KnowledgeEntry) -> set[str]:
    """What an entry is called, case folded."""
    names = [entry.title, entry.title.rpartition(": ")[2], *entry.aliases]
    return {" ".join(name.casefold().split()) for name in names}


def find_near(base: KnowledgeBase, asked: str) -> list[KnowledgeEntry]:
    """Entries whose ids or names are spelled nearly as this, the nearest first."""
    found: dict[str, KnowledgeEntry] = {}
    wanted = asked.casefold()[:_MAX_SPELLED]
    for spelling in spell_nearly(wanted):
        entry = base.entry(spelling)
        if entry is not None:
            found.setdefault(entry.id, entry)
    size = len(wanted)
    lengths = {size, size - 1, size - 2, size // 2} if size >= _LEAST_BEGINNING else ()
    beginnings = [f"{wanted[:length]}*" for length in sorted(lengths, reverse=True)]
    for text in [asked, *beginnings]:
        for hit in base.search_words(text, _HITS):
            found.setdefault(hit.entry.id, hit.entry)
    measured = ((_measure_likeness(wanted, entry), entry) for entry in found.values())
    near = [(likeness, entry) for likeness, entry in measured if likeness >= _LEAST_LIKENESS]
    near.sort(key=lambda pair: (-pair[0], pair[1].id))
    return [entry for _, entry in near[:_LIKE]]


def spell_nearly(text: str) -> Iterator[str]:
    """Every text that is one letter away from this one: left out, put in, another, or swapped with
    its neighbour (Damerau, 1964)."""
    for at in range(len(text) + 1):
        begin, end = text[:at], text[at:]
        if end:
            yield begin + end[1:]
        if len(end) > 1:
            yield begin + end[1] + end[0] + end[2:]
        for letter in _LETTERS:
            yield begin + letter + end
            if end:
                yield begin + letter + end[1:]


def _measure_likeness(wanted: str, entry: KnowledgeEntry) -> float:
    names = {entry.id.casefold(), entry.external_id.casefold(), *list_names(entry)}
    return max(
        difflib.SequenceMatcher(None, wanted, name[:_MAX_SPELLED]).ratio() for name in names if name
    )


# -- what is known of it ---------------------------------------------------------------------------


def gather_facts(base: KnowledgeBase, entry: KnowledgeEntry, asked: str) -> Body:
    """The object that `kb show --json` prints, but for `findings`: the entry's fields, `asked`,
    `other_ids` (of other releases of ATT&CK), `versions` (other sources' words on it) and
    `neighbours`."""
    neighbours = base.neighbours(entry.id)
    placed = [_describe_neighbour(entry, each, _find_section(each)) for each in neighbours]
    for each in neighbours:
        if each.link.kind == "detects" and not each.forward:
            below = (n for n in base.neighbours(each.id) if n.link.kind == "has" and n.forward)
            placed += [{**_describe_neighbour(entry, n, ANALYTICS), "of": each.id} for n in below]
    return {
        **msgspec.to_builtins(entry),
        "asked": asked,
        "other_ids": base.other_ids(entry.id),
        "versions": [
            {"source": v.source, "version": v.version, "title": v.title, "text": v.text}
            for v in base.versions(entry.id)[1:]
        ],
        "neighbours": placed,
    }


def _find_section(neighbour: Neighbour) -> str:
    kind = neighbour.entry.type if neighbour.entry is not None else None
    for section in SECTIONS:
        if (section.kind, section.forward) == (neighbour.link.kind, neighbour.forward) and (
            section.type in (None, kind)
        ):
            return section.title
    name = neighbour.link.kind.replace("_", " ")
    return name if neighbour.forward else f"{name} (the other way round)"


def _describe_neighbour(entry: KnowledgeEntry, neighbour: Neighbour, section: str) -> Body:
    """`says` holds ids by which the link calls this entry or the other, where today's are others;
    `known` is False when the base does not have the other one."""
    link, other = neighbour.link, neighbour.entry
    ends = (link.source, link.target) if neighbour.forward else (link.target, link.source)
    own, theirs = ends
    says = [own] if own != entry.id and section != ANALYTICS else []
    says += [theirs] if theirs != neighbour.id else []
    return {
        "section": section,
        "id": neighbour.id,
        "type": other.type if other is not None else None,
        "title": other.title if other is not None else "",
        "known": other is not None,
        "gone": other is not None and (other.revoked or other.deprecated),
        "kind": link.kind,
        "forward": neighbour.forward,
        "text": link.text,
        "says": says,
        "source": link.origin,
    }


def find_findings(config: Config | None, facts: Body) -> Body:
    """What the appliance's store has on the entry: how many findings, and the last. A rule's are
    those that it made; others' are those that are tagged with the entry or cite it for a tag; a
    technique's sub-techniques count. `count` is None when it is not known, and `why_not` says
    why."""
    if config is None:
        return {"count": None, "why_not": "there is no configuration here", "last": []}
    if not config.store_path.is_file():
        return {"count": None, "why_not": f"{config.store_path}: no store there", "last": []}
    ids = {facts["id"], *facts["other_ids"]}
    ids |= {n["id"] for n in facts["neighbours"] if _is_counted(n)}
    rule = facts["external_id"] if facts["type"] == "rule" else ""
    count = 0
    last: deque[Body] = deque(maxlen=SHOWN_FINDINGS)
    try:
        with closing(open_store(config)) as store:
            for body in store.iterate_findings():
                if _is_about(body, ids, rule):
                    count += 1
                    last.append(body)
    except ApplianceError as error:
        return {"count": None, "why_not": str(error), "last": []}
    names = ("id", "time", "level", "host", "title", "techniques", "rule_id")
    return {
        "count": count,
        "why_not": "",
        "last": [{name: body[name] for name in names} for body in reversed(last)],
    }


def _is_counted(neighbour: Body) -> bool:
    """Sub-techniques, and what this entry took over from."""
    kinds = ("subtechnique_of", "revoked_by")
    return neighbour["kind"] in kinds and not neighbour["forward"]


def _is_about(body: Body, ids: set[str], rule: str) -> bool:
    if rule and body["rule_id"] == rule:
        return True
    if not ids.isdisjoint(body["techniques"]):
        return True
    cited = (c["id"] for c in body["citations"] if c["reason"] == "tag")
    return not ids.isdisjoint(cited)


# -- showing it ------------------------------------------------------------------------------------


def _print_entry(view: View, facts: Body, *, whole: bool) -> None:
    for line in wrap_text(f"{clean(facts['id'])}  {clean(facts['title'])}"):
        view.line(line, "bold")
    _print_state(view, facts)
    for name, value in _list_fields(facts):
        for line in wrap_text(value, indent=f"  {name:<10} ", hang=" " * 13):
            view.line(line)
    if facts["url"]:
        view.line(f"  see        {clean(facts['url'], 2_048)}")  # whole, to be copied
    for line in ["", *wrap_prose(facts["text"], "  ")] if facts["text"].strip() else []:
        view.line(line)
    for version in facts["versions"]:
        view.line()
        view.line(f"as {clean(version['source'])} has it", "bold")
        for line in wrap_prose(version["text"] or version["title"], "  "):
            view.line(line)
    _print_findings(view, facts["findings"])
    neighbours = _merge_rows(facts["neighbours"])
    sections: dict[str, list[Body]] = {}
    for neighbour in neighbours:
        sections.setdefault(neighbour["section"], []).append(neighbour)
    for title in _order_sections(sections):
        _print_section(view, title, sections[title], whole=whole)
    told = [n for n in neighbours if n["kind"] == "uses" and n["text"]]
    if told:
        _print_examples(view, told, whole=whole)


def _merge_rows(neighbours: Iterable[Body]) -> list[Body]:
    """One row for all that say the same of the same entry in one section, with every source and
    every other id by which they call the ends."""
    rows: dict[tuple[str, str, str], list[Body]] = {}
    for each in neighbours:
        rows.setdefault((each["section"], each["id"], each["text"]), []).append(each)
    return [
        {
            **same[0],
            "says": list(dict.fromkeys(said for each in same for said in each["says"])),
            "source": ", ".join(dict.fromkeys(each["source"] for each in same)),
        }
        for same in rows.values()
    ]


def _print_state(view: View, facts: Body) -> None:
    """What is to be known before the rest is read: another number, or that it is gone."""
    asked = " ".join(facts["asked"].split())
    if asked.upper() in facts["other_ids"]:
        view.line(f"  {clean(asked.upper())} in another release of ATT&CK", "yellow")
    if facts["revoked"]:
        by = f": {clean(facts['revoked_by'])} took over" if facts["revoked_by"] else ""
        view.line(f"  revoked{by}", "yellow")
    elif facts["deprecated"]:
        view.line("  deprecated: nothing took over", "yellow")


def _list_fields(facts: Body) -> Iterator[tuple[str, str]]:
    told = facts["id"].casefold().endswith(facts["external_id"].casefold())
    external = "" if told else facts["external_id"]
    for name, values in (
        ("type", [facts["type"].replace("_", " ")]),
        ("known as", facts["aliases"]),
        ("also", [external, *facts["other_ids"]]),
        ("tactics", facts["tactics"]),
        ("platforms", facts["platforms"]),
        ("source", [" ".join(part for part in (facts["source"], facts["version"]) if part)]),
        ("licence", [facts["licence"]]),
        ("changed", [show_iso(facts["modified"])[:10] if facts["modified"] else ""]),
    ):
        shown = [clean(value) for value in values if value]
        if shown:
            yield name, ", ".join(shown)


def _order_sections(sections: Iterable[str]) -> list[str]:
    known = list(dict.fromkeys(section.title for section in SECTIONS))
    known.insert(known.index("how to detect it") + 1, ANALYTICS)
    return [title for title in known if title in sections] + [
        title for title in sections if title not in known
    ]


def _print_section(view: View, title: str, neighbours: Sequence[Body], *, whole: bool) -> None:
    view.line()
    view.line(f"{clean(title)} ({len(neighbours)})", "bold")
    if not whole and all(n["kind"] == "uses" and n["type"] in _USERS for n in neighbours):
        # Dozens of short names, whose texts stand among the examples.
        shown = neighbours[:SHOWN_NAMES]
        names = "; ".join(map(_name_neighbour, shown))
        for line in wrap_text(names, indent="  "):
            view.line(line.replace(_HARD_SPACE, " "))
    else:
        shown = neighbours if whole else neighbours[:SHOWN]
        width = max((len(n["id"]) for n in shown if len(n["id"]) <= _BESIDE), default=0)
        for neighbour in shown:
            for line in _write_row(neighbour, width, whole=whole):
                view.line(line)
    _print_rest(view, len(neighbours) - len(shown))


def _name_neighbour(neighbour: Body) -> str:
    name = f"{clean(neighbour['id'])} {clean(neighbour['title'])}"
    return name.replace(" ", _HARD_SPACE) if len(name) <= _LONGEST_NAME else name


def _write_row(neighbour: Body, width: int, *, whole: bool) -> Iterator[str]:
    name = clean(neighbour["id"])
    title = clean(neighbour["title"]) if neighbour["known"] else "(not in this base)"
    notes = [
        f"by {clean(neighbour['source'])}" if neighbour["type"] == "rule" else "",
        "revoked or deprecated" if neighbour["gone"] else "",
        f"says {', '.join(map(clean, neighbour['says']))}" if neighbour["says"] else "",
    ]
    told = "".join(f" ({note})" for note in notes if note)
    hang = " " * (width + 4)
    if len(name) <= width:
        yield from wrap_text(f"{title}{told}", indent=f"  {name:<{width}}  ", hang=hang)
    else:
        hang = "      "
        yield from wrap_text(f"{title}{told} [{name}]", indent="  ", hang=hang)
    if neighbour["text"] and neighbour["kind"] != "uses":
        most = 8_000 if whole else _LINK_CHARS
        yield from wrap_text(cut_prose(neighbour["text"], most), indent=hang)


def _print_rest(view: View, count: int) -> None:
    if count:
        view.line(f"  ... and {count} more (--all)")


def _print_examples(view: View, told: Sequence[Body], *, whole: bool) -> None:
    """What was seen: the texts of who uses it, or of what it uses."""
    ranks = {name: rank for rank, name in enumerate(_USERS)}
    ranked = sorted(told, key=lambda n: ranks.get(n["type"], len(ranks)))
    shown = ranked if whole else ranked[:SHOWN_EXAMPLES]
    view.line()
    view.line(f"seen in attacks ({len(told)})", "bold")
    for neighbour in shown:
        name = f"{clean(neighbour['id'])} {clean(neighbour['title'])}: "
        text = cut_prose(neighbour["text"], 8_000 if whole else _EXAMPLE_CHARS)
        for line in wrap_text(f"{name}{text}", indent="  ", hang="    "):
            view.line(line)
    _print_rest(view, len(told) - len(shown))


def _print_findings(view: View, findings: Body) -> None:
    view.line()
    if findings["count"] is None:
        for line in wrap_text(f"findings here: not known: {clean(findings['why_not'])}",
                              hang="  "):  # fmt: skip
            view.line(line)
        return
    view.line(f"findings here ({findings['count']})", "bold")
    for body in findings["last"]:
        begin = f"  {show_iso(body['time'])}  {clean(body['level']):<13}  "
        told = f"{clean(body['host'])}: {clean(body['title'])} [{clean(body['id'])[:12]}]"
        for line in wrap_text(told, indent=begin, hang="      "):
            view.line(line)
    _print_rest_of_findings(view, findings["count"] - len(findings["last"]))


def _print_rest_of_findings(view: View, count: int) -> None:
    if count > 0:
        view.line(f"  ... and {count} older ones (`appliance findings`)")
