"""Behind the store, for an incident's report: what a statement cites, as short names and links.

A cite is the id of a finding or an event, "source:NAME", or a knowledge entry's id. Ids can't be
read aloud: findings become F1, F2, ... in their order, events E1, ..., sources S1, ...; entries
keep their own. What is cited and where it stands in the report is known here, so that every link
of a page leads somewhere: `rows` lists what was cited, for the appendix.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from appliance.incident import Dossier, Sentence, TraceNode
from appliance.report.markup import Safe, cut, join, make_visible, plain, say, tag

CiteKind = Literal["finding", "event", "source", "entry"]
#: Cites of one statement that are linked; the rest is counted.
MAX_CITES: Final = 12
#: What can be an id of a finding or an event: hex digits of a digest, whole or shortened.
_HEX: Final = re.compile(r"[0-9a-f]{12,64}")
_SOURCE: Final = "source:"
_LETTERS: Final[dict[CiteKind, str]] = {"finding": "F", "event": "E", "source": "S", "entry": "K"}


class Cited(msgspec.Struct, frozen=True):
    """Something that can be cited. `label` is its short name, `anchor` where it stands on the page,
    `text` one line on it; `finding` is the label of the finding whose record the event is."""

    id: str
    kind: CiteKind
    label: str
    anchor: str
    text: str
    finding: str = ""


class Citations:
    """Everything that a dossier can cite, and what of it was."""

    def __init__(self, dossier: Dossier) -> None:
        self._known: dict[str, Cited] = {}
        self._counts = dict.fromkeys(_LETTERS, 0)
        self._titles = collect_titles(dossier)
        self._records: dict[str, str] = {}
        self._nodes = collect_events(dossier.provenance.nodes)
        #: What was cited so far, in the order of its first time.
        self.used: dict[str, Cited] = {}
        #: Anchors that stand on the page already: the appendix has the others.
        self.placed: set[str] = set()
        #: Statements that nothing supports: they are not shown.
        self.unsupported = 0
        for body in dossier.findings:
            cited = self._add(str(body.get("id", "")), "finding", describe_finding(body))
            record = body.get("event")
            if isinstance(record, dict) and record.get("id"):
                self._records[str(record["id"])] = cited.label
        for row in dossier.visibility:
            self._add(_SOURCE + row.source, "source", f"log source {row.source}")

    def _add(self, key: str, kind: CiteKind, text: str, finding: str = "") -> Cited:
        if key in self._known:
            return self._known[key]
        self._counts[kind] += 1
        number = self._counts[kind]
        label = key if kind == "entry" else f"{_LETTERS[kind]}{number}"
        cited = Cited(key, kind, label, f"{_LETTERS[kind].lower()}{number}", text, finding)
        self._known[key] = cited
        return cited

    def find(self, key: str) -> Cited:
        """What the id names; ids that the dossier does not hold are told as such."""
        if key in self._known:
            return self._known[key]
        if key.startswith(_SOURCE):
            return self._add(key, "source", f"log source {key.removeprefix(_SOURCE)}")
        if not _HEX.fullmatch(key):
            return self._add(key, "entry", self._titles.get(key, ""))
        node = self._nodes.get(key)
        finding = self._records.get(key, "")
        if node is None and not finding:
            return self._add(key, "event", "finding or event that this report does not hold")
        told = f"tells of {node.kind} {cut(node.label, 200)}" if node else "record of a finding"
        return self._add(key, "event", told, finding)

    def place(self, key: str) -> str:
        """The anchor for what is shown here, noted as being on the page."""
        anchor = self.find(key).anchor
        self.placed.add(anchor)
        return anchor

    def label(self, finding: str) -> str:
        """A finding's short name."""
        return self.find(finding).label

    def use(self, keys: Iterable[str], most: int = MAX_CITES) -> tuple[list[Cited], int]:
        """The cited, each once, noted as used, and how many more there are."""
        distinct = list(dict.fromkeys(keys))
        found = [self.find(key) for key in distinct[:most]]
        for cited in found:
            self.used.setdefault(cited.id, cited)
        return found, len(distinct) - len(found)

    def link(self, keys: Iterable[str], most: int = MAX_CITES) -> Safe:
        """Links in brackets to everything that is cited."""
        found, more = self.use(keys, most)
        links = [
            tag("a", say(cut(cited.label, 40)), href=f"#{cited.anchor}", title=cited.text[:200])
            for cited in found
        ]
        if more > 0:
            links.append(plain(f"{more:,} more"))
        return tag("span", join(links, " "), class_="cites") if links else Safe("")

    def choose(self, sentences: Iterable[Sentence]) -> list[Sentence]:
        """The sentences that something supports; the others are counted and left out."""
        chosen = []
        for sentence in sentences:
            if sentence.cites:
                chosen.append(sentence)
            else:
                self.unsupported += 1
        return chosen

    @property
    def rows(self) -> list[Cited]:
        """What was cited: findings, events, sources, entries, each in the order of their names."""
        order = list(_LETTERS)
        places = {key: place for place, key in enumerate(self._known)}
        return sorted(self.used.values(), key=lambda row: (order.index(row.kind), places[row.id]))


def describe_finding(body: dict[str, Any]) -> str:
    """One line on a finding: when, where, what."""
    time = make_visible(body.get("time"))[:19].replace("T", " ")
    host = cut(str(body.get("host") or "no host"), 80)
    return f"{time} on {host}: {cut(str(body.get('title', '')), 200)}"


def collect_titles(dossier: Dossier) -> dict[str, str]:
    """Titles of knowledge entries, as far as the dossier gives them."""
    titles: dict[str, str] = {}
    for body in dossier.findings:
        for citation in body.get("citations") or ():
            titles.setdefault(str(citation.get("id")), str(citation.get("title", "")))
    for row in dossier.techniques:
        titles[row.technique] = row.name
    for step in dossier.chain.next_steps:
        titles.setdefault(step.technique, step.name)
    return titles


def collect_events(nodes: Iterable[TraceNode]) -> dict[str, TraceNode]:
    """For each event of the graph the first node that it tells of."""
    told: dict[str, TraceNode] = {}
    for node in nodes:
        for event in node.events:
            told.setdefault(event, node)
    return told
