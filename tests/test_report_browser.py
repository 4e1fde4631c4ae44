"""The reports in headless Chromium: what a reader's browser makes of them, on screen and on paper.

Set REPORT_SHOTS to a folder to get the pictures and PDF files of all pages there, to look at.
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.report.digest_html import render_digest_html
from appliance.report.incident_html import render_html
from tests.chromium import Browser, open_browser
from tests.report_samples import (
    build_digest_sample,
    build_empty,
    build_empty_digest,
    build_hostile,
    build_hostile_digest,
    build_huge,
    build_rich,
)

PAGES: dict[str, Callable[[], str]] = {
    "rich": lambda: render_html(build_rich()),
    "empty": lambda: render_html(build_empty()),
    "hostile": lambda: render_html(build_hostile()),
    "huge": lambda: render_html(build_huge()),
    "digest": lambda: render_digest_html(build_digest_sample()),
    "empty-digest": lambda: render_digest_html(build_empty_digest()),
    "hostile-digest": lambda: render_digest_html(build_hostile_digest()),
}
WIDTHS = (1280, 390)

#: Boxes of text and shapes that lie on one another where they must not: texts of one picture,
#: boxes of the provenance graph, headings and paragraphs of the page.
FIND_OVERLAPS = """(() => {
  const found = [];
  const hit = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const compare = (elements, what) => {
    const boxes = elements.filter(e => e.checkVisibility()).map(e =>
      [e.getBoundingClientRect(), (e.textContent || '').slice(0, 40)])
      .filter(([r]) => r.width > 0 && r.height > 0).sort((a, b) => a[0].top - b[0].top);
    for (let i = 0; i < boxes.length; i++)
      for (let j = i + 1; j < boxes.length && boxes[j][0].top < boxes[i][0].bottom; j++)
        if (hit(boxes[i][0], boxes[j][0])) found.push([what, boxes[i][1], boxes[j][1]]);
    return boxes.length;
  };
  let seen = 0;
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const name = svg.querySelector('title').textContent;
    seen += compare([...svg.querySelectorAll('text')], 'text of ' + name);
    compare([...svg.querySelectorAll('rect.node:not(.under)')], 'box');
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll('text')) {
      const r = text.getBoundingClientRect();
      if (r.width && (r.right > frame.right + 1 || r.left < frame.left - 1))
        found.push(['outside', text.textContent.slice(0, 60), '']);
    }
  }
  for (const group of document.querySelectorAll('g.nodebox')) {
    const box = group.querySelector('rect.node:not(.under)').getBoundingClientRect();
    for (const text of group.querySelectorAll('text')) {
      const r = text.getBoundingClientRect();
      if (r.right > box.right + 1 || r.left < box.left - 1 || r.bottom > box.bottom + 2)
        found.push(['out of its box', text.textContent.slice(0, 60), '']);
    }
  }
  const blocks = document.querySelectorAll('h1,h2,h3,main p,summary,caption,dt,dd,tbody tr');
  compare([...blocks], 'block');
  return [seen, found.slice(0, 20)];
})()"""

#: What sticks out of the page at its right side, but for what scrolls in a frame of its own.
FIND_OVERFLOW = """(() => {
  const wide = document.documentElement.clientWidth;
  return [document.documentElement.scrollWidth - wide,
    [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll')
      && getComputedStyle(e).position !== 'absolute' && !e.closest('thead')
      && e.getBoundingClientRect().right > wide + 1)
    .slice(0, 5).map(e => e.outerHTML.slice(0, 120))];
})()"""

COUNT_PARTS = """[document.scripts.length,
  document.querySelectorAll('img,iframe,link,base,form,input,object,'
  + 'embed,foreignObject,use,image,[onload],[onerror],[onmouseover]').length,
  document.querySelectorAll('h1').length, document.title]"""

#: Lowest contrast (WCAG 2.2, 1.4.3) of any text against the nearest painted background.
FIND_FAINT = """(() => {
  const read = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = [];
  for (const e of document.querySelectorAll('main *, header *, nav *, footer *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (e.closest('svg') || !own) continue;
    let back = [255, 255, 255];
    for (let p = e; p; p = p.parentElement) {
      const c = read(getComputedStyle(p).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) { back = c; break; }
    }
    const a = light(read(getComputedStyle(e).color)), b = light(back);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push([e.textContent.slice(0, 40), contrast]);
  }
  return found.slice(0, 5);
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page as a file."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, render in PAGES.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(render(), encoding="utf-8")
    return found


def keep_picture(browser: Browser, name: str) -> None:
    """Put a picture aside for who wants to look."""
    folder = os.environ.get("REPORT_SHOTS")
    if folder:
        browser.take_picture(Path(folder) / f"{name}.png")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_stands_as_it_should(
    name: str, width: int, browser: Browser, files: dict[str, Path]
) -> None:
    browser.open(files[name], width)
    scripts, strangers, heads, title = browser.run(COUNT_PARTS)
    assert (scripts, strangers, heads) == (0, 0, 1)
    assert title.startswith(("Incident ", "Digest "))
    assert browser.requests() == [files[name].absolute().as_uri()]
    assert browser.complaints() == []
    over, wide = browser.run(FIND_OVERFLOW)
    assert (over, wide) == (0, [])
    seen, overlaps = browser.run(FIND_OVERLAPS)
    assert overlaps == []
    assert seen > 0 or "empty" in name
    keep_picture(browser, f"{name}-{width}")


@pytest.mark.parametrize("name", ["rich", "digest"])
def test_every_text_has_enough_contrast(
    name: str, browser: Browser, files: dict[str, Path]
) -> None:
    browser.open(files[name], 1280)
    assert browser.run("document.querySelectorAll('main *').length") > 100
    assert browser.run(FIND_FAINT) == []


def test_attacks_are_text_and_nothing_else(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["hostile"], 1280)
    text = browser.run("document.body.textContent")
    for attack in (
        "<script>document.title='PWNED'</script>",
        '"><img src=x onerror="document.title=\'PWNED\'">',
        "]]><script>",
        "</style><script>",
        "<svg onload=document.title='PWNED'>",
        "report\\u202efdp.exe",
        "\\x1b[2J",
        "\\x00NUL\\x00",
    ):
        assert attack in text, attack
    assert "PWNED" in browser.run("document.title")  # as text of the incident's title
    assert browser.run("document.title") != "PWNED"
    assert browser.run("document.querySelectorAll('h1')[0].textContent").startswith("<script>")


def count_pages(pdf: bytes) -> int:
    """Pages of a PDF (ISO 32000-1, 7.7.3.3), also where objects are in compressed streams."""
    parts = [pdf]
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.S):
        try:
            parts.append(zlib.decompressobj().decompress(found[1]))
        except zlib.error:
            continue
    return sum(len(re.findall(rb"/Type\s*/Page\b(?!s)", part)) for part in parts)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("rich", 12, 40), ("empty", 2, 3), ("hostile", 20, 150), ("huge", 15, 45),
     ("digest", 3, 6), ("empty-digest", 1, 3), ("hostile-digest", 10, 110)],
)  # fmt: skip
def test_a_page_prints(
    name: str, least: int, most: int, browser: Browser, files: dict[str, Path]
) -> None:
    browser.open(files[name], 1280)
    pdf = browser.print()
    assert pdf.startswith(b"%PDF-")
    assert least <= count_pages(pdf) <= most
    if folder := os.environ.get("REPORT_SHOTS"):
        (Path(folder) / f"{name}.pdf").write_bytes(pdf)


def test_records_are_open_on_paper_and_fit(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["rich"], 690)  # A4 without its margins
    shown = "document.querySelector('details pre').checkVisibility()"
    assert browser.run(shown) is False
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run(shown) is True
        rows = "[...document.querySelectorAll('details')].every(d => d.clientHeight > 60)"
        assert browser.run(rows)
        assert browser.run("getComputedStyle(document.querySelector('thead')).display") == (
            "table-header-group"
        )
        over, wide = browser.run(FIND_OVERFLOW)
        assert (over, wide) == (0, [])
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def test_the_check_for_overlaps_can_fail(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><body><svg role="img" width="200" height="60"><title>t</title>'
        '<text x="5" y="20">one</text><text x="9" y="22">two</text></svg>'
        '<div style="width:3000px">wide</div><script>1</script><img src="missing.png">'
    )
    browser.open(page, 1280)
    assert browser.run(FIND_OVERLAPS)[1]
    assert browser.run(FIND_OVERFLOW)[0] > 0
    assert browser.run(COUNT_PARTS)[:2] == [1, 1]
    assert len(browser.requests()) == 2
