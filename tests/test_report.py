"""The incident's report: what page, Markdown and JSON hold, and that log text is inert there."""

import json
import os
import random
import re
import stat
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.commands.report import choose_format
from appliance.errors import ApplianceError
from appliance.incident import Dossier, Provenance, Sentence, TraceEdge, TraceNode
from appliance.report import svg
from appliance.report.cites import Citations
from appliance.report.incident_html import render_html
from appliance.report.incident_text import render_json, render_markdown
from appliance.report.layers import MAX_BOXES, MAX_COLUMN, Graph, fold_graph, place_boxes
from appliance.report.markdown import escape, fence
from appliance.report.markup import make_visible, plain, say, tag
from appliance.report.page import POLICY
from appliance.report.timeline import Scale
from appliance.report.writing import write_report
from tests.report_samples import (
    DAY,
    WS,
    build_empty,
    build_hostile,
    build_huge,
    build_rich,
)

#: Elements that the pages are made of; nothing else may come out of a log's text.
ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """html head meta title style body header nav main footer section figure figcaption h1 h2 h3
        p a ol ul li dl dt dd div span strong code pre details summary table caption thead tbody tr
        th td svg defs pattern path marker polygon rect circle text g desc""",
    )
)
#: Attributes that name something to load; only anchors of the page itself are links.
LOADING = frozenset(("src", "action", "formaction", "srcset", "background", "poster", "data"))
VOID = frozenset(("meta", "br"))


class Page(HTMLParser):
    """The page's elements, checked for being properly nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def ids(self) -> list[str]:
        return [key for _, attributes in self.elements if (key := attributes.get("id"))]


SAMPLES = {
    "rich": build_rich, "empty": build_empty, "hostile": build_hostile, "huge": build_huge,
}  # fmt: skip


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render_html(build()) for name, build in SAMPLES.items()}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_holds_only_our_elements_and_loads_nothing(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert len(page.elements) > 100
    found = {element for element, _ in page.elements}
    assert found <= ELEMENTS, found - ELEMENTS
    for element, attributes in page.elements:
        assert not LOADING & set(attributes), (element, attributes)
        assert not any(key.startswith("on") for key in attributes), (element, attributes)
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#"), attributes
        for key in ("fill", "marker-end"):
            assert re.fullmatch(r"url\(#[a-z0-9-]+\)|", attributes.get(key) or ""), attributes
        assert "style" not in attributes
    metas = [a for element, a in page.elements if element == "meta" and a.get("http-equiv")]
    assert [(a["http-equiv"], a["content"]) for a in metas] == [("Content-Security-Policy", POLICY)]
    assert "default-src 'none'" in POLICY
    assert [a.get("lang") for e, a in page.elements if e == "html"] == ["en"]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_link_leads_to_one_place_of_the_page(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = [(a.get("href") or "")[1:] for element, a in page.elements if element == "a"]
    assert links
    assert set(links) <= set(ids), set(links) - set(ids)
    labelled = " ".join(a.get("aria-labelledby") or "" for _, a in page.elements).split()
    assert set(labelled) <= set(ids)


@pytest.mark.parametrize("name", SAMPLES)
def test_no_character_that_acts_is_left_in_a_page(name: str, pages: dict[str, str]) -> None:
    text = pages[name]
    assert text.encode()
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text
    )
    assert "PWNED" not in "".join(re.findall(r"<script.*", text))


def test_headings_and_tables_are_for_those_who_listen(pages: dict[str, str]) -> None:
    page = Page(pages["rich"])
    levels = [int(e[1]) for e, _ in page.elements if re.fullmatch("h[1-6]", e)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    scopes = {a.get("scope") for e, a in page.elements if e == "th"}
    assert scopes == {"col", "row"}
    pictures = [a for e, a in page.elements if e == "svg" and a.get("role") == "img"]
    assert len(pictures) >= 5
    assert all(a.get("aria-labelledby") for a in pictures)


def test_the_rich_page_tells_what_is_known(pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["rich"]).text)
    for told in (
        "LSASS Memory Dumped, then Directory Replication",
        "94 of 100",
        "acknowledged",
        "appliance 0.9.0",
        "No data from dc-01 between 16:42 and 17:21",
        "Often next: T1486 Data Encrypted for Impact",
        "Would show in: winsec, fileserver-audit",
        "Nothing that is fed here would show it",
        "ROOT CAUSE",
        "7 x whoami.exe",
        "9 files: 00.docx",
        "Spearphishing Attachment",
        "the archive of that hour is past its retention",
        "the backup agent runs such command lines, too",
        "Is helpdesk2 still enabled?",
        "vault restarts, ticket 4711",
        "1,240 findings are not shown one by one",
        "12 further things are not drawn",
        "1 statements without evidence were left out",
    ):
        assert told in text, told
    assert "someone abroad" not in text  # what nothing supports


def test_every_statement_shown_has_its_links(pages: dict[str, str]) -> None:
    body = pages["rich"]
    for section in ("summary", "questions"):
        part = body.split(f'<section id="{section}"')[1].split("</section>")[0]
        rows = re.findall(r"<li>.*?</li>", part.split("Where the experts")[0])
        assert rows
        assert all('<span class="cites"><a href="#' in row for row in rows)


def test_an_empty_dossier_says_what_is_not_known(pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["empty"]).text)
    for told in (
        "No statement about this incident is supported by evidence",
        "No stage of an attack could be told",
        "Nothing could be traced",
        "treat everything as unseen",
        "No action is in the audit log",
        "Record: not looked up for this report",
    ):
        assert told in text, told


def test_a_long_record_is_cut_and_says_so(pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["hostile"]).text)
    assert "its first 4,096 of 1,000,000 characters" in text
    assert len(pages["hostile"]) < 4_000_000


def test_cites_that_the_dossier_does_not_hold_stand_in_the_appendix() -> None:
    strange = ("ee" * 16, "source:elsewhere", "T9999")
    rich = msgspec.structs.replace(build_rich(), summary=(Sentence("Something is so.", strange),))
    page = render_html(rich)
    appendix = page.split('<section id="citations"')[1]
    assert "finding or event that this report does not hold" in appendix
    assert "log source elsewhere" in appendix
    assert "T9999" in appendix
    parsed = Page(page)
    assert {(a.get("href") or "")[1:] for e, a in parsed.elements if e == "a"} <= set(parsed.ids())


def test_a_huge_graph_is_folded_and_capped() -> None:
    dossier = build_huge()
    graph = fold_graph(dossier.provenance)
    assert len(graph.boxes) == MAX_BOXES
    assert sum(len(box.nodes) for box in graph.boxes) + graph.left_out == 400
    assert graph.left_out > 0
    text = " ".join(Page(render_html(dossier)).text)
    assert f"{graph.left_out + 31:,} further things are not drawn" in text


def assert_no_box_on_another(graph: Graph) -> None:
    for band in place_boxes(graph):
        places = [(spot.column, spot.row) for spot in band.placed]
        assert len(places) == len(set(places))
        assert max(column for column, _ in places) <= MAX_COLUMN
        assert max(row for _, row in places) < band.rows
    numbers = [spot.box.number for band in place_boxes(graph) for spot in band.placed]
    assert sorted(numbers) == [box.number for box in graph.boxes]


@pytest.mark.parametrize("seed", range(60))
def test_every_box_of_any_graph_has_its_own_place(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randrange(1, 60)
    nodes = tuple(
        TraceNode(f"n{n}", "process", f"p{chance.randrange(9)}", f"h{chance.randrange(4)}",
                  DAY + chance.randrange(50), DAY + 60)
        for n in range(count)
    )  # fmt: skip
    edges = tuple(  # also backwards, to itself, and to nowhere
        TraceEdge(f"n{chance.randrange(count)}", f"n{chance.randrange(count + 2)}", "did", DAY)
        for _ in range(chance.randrange(0, 2 * count + 1))
    )
    graph = fold_graph(Provenance(nodes, edges, ("n0",)), most=chance.choice((5, 40, 80)))
    assert_no_box_on_another(graph)
    assert sum(len(box.nodes) for box in graph.boxes) + graph.left_out == count


def test_the_same_dossier_gives_the_same_page() -> None:
    assert render_html(build_rich()) == render_html(build_rich())
    shuffled = build_rich()
    nodes, edges = list(shuffled.provenance.nodes), list(shuffled.provenance.edges)
    random.Random(1).shuffle(nodes)
    random.Random(2).shuffle(edges)
    origin = msgspec.structs.replace(shuffled.provenance, nodes=tuple(nodes), edges=tuple(edges))
    assert place_boxes(fold_graph(origin)) == place_boxes(fold_graph(build_rich().provenance))


def test_siblings_that_read_alike_are_one_box() -> None:
    boxes = [box.label for box in fold_graph(build_rich().provenance).boxes]
    assert "7 x whoami.exe" in boxes
    assert any(label.startswith("9 files: 00.docx") for label in boxes)


def test_idle_time_is_shortened_and_order_kept() -> None:
    times = [0.0, 60, 120, 30_000, 30_060]
    scale = Scale(times, 0, 1000)
    places = [scale.place(time) for time in times]
    assert places == sorted(places)
    assert scale.breaks
    assert places[3] - places[2] == pytest.approx(40)
    assert scale.place(-5) == 0
    assert scale.place(1e12) == pytest.approx(1000)


@pytest.mark.parametrize("text", ["a" * 900, "漢" * 50, "mmWW " * 40, "\x00\u202e" * 30, ""])
def test_a_fitted_text_is_no_wider_than_its_room(text: str) -> None:
    for size in (10.5, 12, 15):
        assert svg.measure(svg.fit(text, 100, size), size) <= 100
        for line in (*svg.wrap(text, 100, size, 3), *svg.wrap_anywhere(text, 100, size, 3)):
            assert svg.measure(line, size) <= 100 + size


def test_text_becomes_markup_that_does_nothing() -> None:
    assert say("<b>\x1b&\"'") == '&lt;b&gt;<span class="esc">\\x1b</span>&amp;&quot;&#x27;'
    assert plain("\u202e<") == "\\u202e&lt;"
    assert tag("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'
    assert make_visible("x" * 700).endswith("… (700 characters)")
    assert "+5 marks" in make_visible("Z" + "\u0301" * 7)
    assert say("\x00" * 3).count("<span") == 1


# -- Markdown and JSON ---------------------------------------------------------------------------

#: What Markdown could make of a text that was not escaped (GFM: links, images, elements, tables,
#: emphasis, code, autolinks).
ACTIVE = re.compile(
    r"(?<!\\)(?:\[|\]\(|!\[|<[a-z/!?]|\*|~~|\|)|(?:https?|ftp)://|\bwww\.|\bmailto:", re.I
)


def list_prose(text: str) -> list[str]:
    """The lines outside of fences; code spans taken out."""
    lines: list[str] = []
    fenced = ""
    for line in text.splitlines():
        if fenced:
            fenced = "" if line == fenced else fenced
        elif found := re.match(r"(`{3,})text$", line):
            fenced = found[1]
        else:
            lines.append(line.replace("`@`", ""))
    assert fenced == ""
    return lines


@pytest.mark.parametrize("name", SAMPLES)
def test_log_text_is_inert_in_markdown(name: str) -> None:
    lines = list_prose(render_markdown(SAMPLES[name]()))
    assert len(lines) > 20
    for line in lines:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1] == ""
            line = "".join(cells)  # noqa: PLW2901
        assert not ACTIVE.search(line), line[:300]
        assert not re.search(r"(?<!\\)`", line), line[:300]


def test_tables_of_markdown_keep_their_columns() -> None:
    lines = list_prose(render_markdown(build_hostile()))
    width = 0
    rows = 0
    for line in lines:
        if not line.startswith("|"):
            width = 0
            continue
        count = len(re.split(r"(?<!\\)\|", line))
        width = width or count
        rows += 1
        assert count == width, line[:200]
    assert rows > 100


def test_headings_of_markdown_are_ours() -> None:
    heads = [line for line in list_prose(render_markdown(build_hostile())) if line.startswith("#")]
    assert not any("FORGED" in head and not head.startswith(("### F", "# Inc")) for head in heads)
    assert [head for head in heads if head.startswith("## ")] == [
        "## Summary", "## Attack chain", "## Where it came from and how far it went",
        "## Who and what is involved", "## ATT&CK techniques", "## Evidence",
        "## What was and was not visible", "## Actions taken", "## Open questions",
        "## Appendix: what was cited",
    ]  # fmt: skip


def test_markdown_escapes_what_matters_and_leaves_what_reads() -> None:
    assert (
        escape("10.1.2.3 T1059.001 2026-03-02 ws-0231") == "10.1.2.3 T1059.001 2026-03-02 ws-0231"
    )
    assert escape("www.1e.com") == r"www\.1e\.com"
    assert escape("a@b.c") == r"a`@`b\.c"
    assert escape("# <b> [x](y) `z`\n") == r"\# \<b\> \[x\]\(y\) \`z\`\\x0a"
    assert fence("a ```` b\n```\nc", 100)[0] == "`````text"


def test_json_is_the_dossier_and_shows_what_hides() -> None:
    dossier = build_rich()
    loaded = json.loads(render_json(dossier))
    assert loaded["incident"]["number"] == 412
    assert len(loaded["findings"]) == len(dossier.findings)
    assert msgspec.convert(loaded, Dossier) == dossier
    text = render_json(build_hostile())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\u2066]", text)
    hostile: dict[str, Any] = json.loads(text)
    assert len(hostile["evidence"]) == len(hostile["findings"])


# -- the file ------------------------------------------------------------------------------------


def test_a_report_is_written_whole_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "incident.html"
    old = os.umask(0)
    try:
        write_report(path, b"one", force=False)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(ApplianceError, match="--force"):
        write_report(path, b"two", force=False)
    assert path.read_bytes() == b"one"
    write_report(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["incident.html"]


def test_a_report_follows_no_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    link = tmp_path / "report.html"
    link.symlink_to(target)
    with pytest.raises(ApplianceError, match="already"):
        write_report(link, b"x", force=False)
    write_report(link, b"x", force=True)
    assert target.read_text() == "kept"
    assert not link.is_symlink()
    with pytest.raises(ApplianceError, match="is a folder"):
        write_report(tmp_path, b"x", force=True)
    with pytest.raises(ApplianceError, match="No such file"):
        write_report(tmp_path / "no" / "x", b"x", force=False)


def test_the_ending_chooses_the_format() -> None:
    assert choose_format(None, "a/b.md", "html") == "md"
    assert choose_format("json", "x.html", "html") == "json"
    assert choose_format(None, "-", "text") == "text"


def test_citations_name_findings_in_their_order() -> None:
    dossier = build_rich()
    cites = Citations(dossier)
    assert cites.label(str(dossier.findings[0]["id"])) == "F1"
    assert cites.find("source:winsec").label == "S1"
    assert cites.find("T1003.001").text == "LSASS Memory"
    event = str(dossier.findings[2]["event"]["id"])
    assert cites.find(event).finding == "F3"
    assert WS in cites.find(str(dossier.findings[0]["id"])).text
