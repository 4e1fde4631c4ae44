"""Behind the store: the small shapes that every picture of a report is drawn from.

Pictures are inline SVG 1.1 elements with sizes in CSS pixels. Nobody can measure text here, so
widths are taken from a wide sans-serif font (DejaVu Sans): whatever the reader's font is, a text
that fits here fits there. Levels are told by shape and letter as well as by colour.
"""

import unicodedata
from collections.abc import Sequence
from typing import Final

from appliance.report.markup import Safe, join, make_visible, plain, tag
from appliance.schema import LEVELS

LEVEL_WORDS: Final = {
    "critical": "critical",
    "high": "high",
    "medium": "medium",
    "low": "low",
    "informational": "info",
}
_NARROW: Final = frozenset("iljI|.,:;'`!()[]/\\ ftr")
_BROAD: Final = frozenset("mwMW@%—…")


def measure(text: str, size: float) -> float:
    """Width of a text in a font of `size` pixels: rather too much than too little."""
    return sum(_width(letter) for letter in text) * size


def _width(letter: str) -> float:
    if letter in _NARROW:
        return 0.42
    if letter in _BROAD:
        return 1.02
    if not letter.isascii():
        # East Asian wide letters, symbols and emoji come from fonts that nobody knows.
        known = ord(letter) < 0x500 and unicodedata.east_asian_width(letter) in "NaAH"
        return 0.78 if known else 1.3
    if letter.isalnum():
        return 0.76 if letter.isupper() else 0.66
    return 0.88


def fit(text: object, width: float, size: float) -> str:
    """The text as one visible line that is no wider than `width`, cut with an ellipsis."""
    shown = make_visible(text, 400)
    if measure(shown, size) <= width:
        return shown
    room = width - measure("…", size)
    for place, letter in enumerate(shown):
        room -= _width(letter) * size
        if room < 0:
            return shown[:place].rstrip() + "…"
    return shown


def wrap(text: object, width: float, size: float, most: int) -> list[str]:
    """The text in at most `most` lines, broken at spaces where there are some; the last is cut."""
    words = make_visible(text, 2000).split(" ")
    lines = [""]
    for place, word in enumerate(words):
        tried = f"{lines[-1]} {word}".strip()
        if measure(tried, size) <= width or not lines[-1]:
            lines[-1] = tried
        elif len(lines) == most:
            lines[-1] = f"{lines[-1]} {' '.join(words[place:])}"
            break
        else:
            lines.append(word)
    return [fit(line, width, size) for line in lines if line]


def wrap_anywhere(text: object, width: float, size: float, most: int) -> list[str]:
    """The text in at most `most` lines, broken at any letter: for paths and command lines."""
    left = make_visible(text, 400)
    lines: list[str] = []
    while left and len(lines) < most:
        line = fit(left, width, size) if len(lines) == most - 1 else _take(left, width, size)
        lines.append(line.strip())
        left = left[len(line) :].lstrip()
    return lines


def _take(text: str, width: float, size: float) -> str:
    """As much of the beginning as fits; to a space or a backslash where one is near the end."""
    for place, letter in enumerate(text):
        width -= _width(letter) * size
        if width < 0:
            broken = max(text.rfind(" ", 0, place), text.rfind("\\", 0, place))
            return text[: broken + 1] if broken > place * 0.6 else text[: max(place, 1)]
    return text


def write(
    x: float, y: float, text: str, kind: str = "", *, full: object = None, anchor: str | None = None
) -> Safe:
    """One line of text, `y` its base line. `full` is the whole text where this one was cut."""
    children = [] if full is None else [tag("title", plain(full, 2000))]
    return tag(
        "text", *children, plain(text, 2000), x=x, y=y, class_=kind or None, text_anchor=anchor
    )


def draw_level(level: str, x: float, y: float, radius: float = 7.0) -> Safe:
    """The mark of a level around (x, y): diamond, triangle, square, circle, ring."""
    kind = f"lv {level if level in LEVELS else 'informational'}"
    r = radius
    if level == "critical":
        points = [(x, y - r - 1), (x + r + 1, y), (x, y + r + 1), (x - r - 1, y)]
    elif level == "high":
        points = [(x, y - r), (x + r, y + r - 1), (x - r, y + r - 1)]
    elif level == "medium":
        return tag("rect", x=x - r + 1, y=y - r + 1, width=2 * r - 2, height=2 * r - 2, class_=kind)
    elif level == "low":
        return tag("circle", cx=x, cy=y, r=r - 1, class_=kind)
    else:
        return tag("circle", cx=x, cy=y, r=r - 2, class_=f"{kind} ring")
    shown = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    return tag("polygon", points=shown, class_=kind)


def hatch(key: str) -> Safe:
    """The pattern of a gap: what is hatched is a time without data."""
    line = tag("path", d="M0 0V8", stroke="#7b8790", stroke_width=2.2)
    return tag(
        "pattern", line, id=f"{key}-gap", width=8, height=8,
        patternUnits="userSpaceOnUse", patternTransform="rotate(45)",
    )  # fmt: skip


def arrow(key: str) -> Safe:
    """The head of an edge."""
    return tag(
        "marker", tag("path", d="M0 0L8 4L0 8z", class_="head"), id=f"{key}-arrow",
        viewBox="0 0 8 8", refX=7.5, refY=4, markerWidth=7, markerHeight=7, orient="auto",
    )  # fmt: skip


def draw(
    key: str,
    width: float,
    height: float,
    parts: Sequence[Safe],
    *,
    title: str,
    text: str,
    defs: Sequence[Safe] = (),
) -> Safe:
    """A picture of `width` by `height` pixels with its title and its text for who can't see it.
    `key` makes its ids: no two on a page may share it."""
    return tag(
        "svg",
        tag("title", plain(title), id=f"{key}-t"),
        tag("desc", plain(text, 4000), id=f"{key}-d"),
        tag("defs", *defs) if defs else Safe(""),
        join(parts),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=round(width),
        height=round(height),
        role="img",
        aria_labelledby=f"{key}-t {key}-d",
        class_="picture",
    )


def draw_legend() -> Safe:
    """What the marks mean, in words."""
    marks = [
        tag("span", _sample(draw_level(level, 9, 9), 18), plain(LEVEL_WORDS[level]), class_="key")
        for level in reversed(LEVELS)
    ]
    box = tag("rect", x=1, y=3, width=28, height=12, fill="url(#legend-gap)", class_="gap")
    gap = _sample(join([tag("defs", hatch("legend")), box]), 30)
    marks.append(tag("span", gap, plain("gap: no data"), class_="key"))
    return tag("p", *marks, class_="legend")


def _sample(shape: Safe, width: int) -> Safe:
    return tag("svg", shape, width=width, height=18, viewBox=f"0 0 {width} 18", aria_hidden="true")
