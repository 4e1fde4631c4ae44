"""Behind the store, for every page: text that came from a log as markup that does nothing.

A page is put together from `Safe` pieces only, and the only ways to make one are here: `say` and
`plain` escape a text, `tag` escapes its attributes. What no reader can see (control characters,
bidirectional controls, zero-width characters) is written as visible ASCII, as emit/text.py has it;
marks that pile up over a letter are counted, long texts are cut and say how long they were.
"""

import html
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NewType

from appliance.emit.render import render_time
from appliance.emit.text import HIDDEN, show_hidden, show_surrogates

#: Markup that was made here: log text in it is escaped.
Safe = NewType("Safe", str)
Attribute = str | int | float | None

NOTHING: Final = Safe("")
#: Longest text of a value, in characters, where a caller does not say otherwise.
MAX_SHOWN: Final = 600
#: Combining marks (Unicode blocks of Mn/Me) over one letter that are shown; more is vandalism.
_PILE: Final = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{3,}"
)
#: HTML elements without an end tag (HTML standard, 13.1.2).
_VOID: Final = frozenset({"meta", "br", "hr", "col", "link"})
_LIST_ROW: Final = re.compile(r"[\r\n]+")


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, with a mark that gives the full length where it was more."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters)"


def _tame(text: str) -> str:
    return _PILE.sub(lambda found: f"{found[0][:2]}(+{len(found[0]) - 2} marks)", text)


def make_visible(value: object, limit: int = MAX_SHOWN) -> str:
    """One line of visible text, not escaped for any format. Raises nothing."""
    return show_hidden(_tame(cut("" if value is None else str(value), limit)))


def plain(value: object, limit: int = MAX_SHOWN) -> Safe:
    """The value as escaped text without any element: for SVG and for `title`."""
    return Safe(html.escape(make_visible(value, limit)))


def say(value: object, limit: int = MAX_SHOWN) -> Safe:
    """The value as escaped text; what was invisible stands in a marked element."""
    return _mark_hidden(_tame(cut("" if value is None else str(value), limit)))


def _mark_hidden(text: str) -> Safe:
    parts, place = [], 0
    for found in HIDDEN.finditer(text):
        parts.append(html.escape(text[place : found.start()]))
        parts.append(f'<span class="esc">{show_hidden(found[0])}</span>')
        place = found.end()
    parts.append(html.escape(text[place:]))
    # Neighbours share one element: a megabyte of NUL bytes is no megabyte of elements.
    return Safe("".join(parts).replace('</span><span class="esc">', ""))


def say_record(text: str, limit: int) -> Safe:
    """A record over several lines, for `pre`: line ends are shown as such and break the line."""
    lines = _LIST_ROW.split(_tame(text[:limit]))
    return Safe('<span class="esc">↵</span>\n'.join(_mark_hidden(line) for line in lines))


def tag(name: str, /, *children: Safe, **attributes: Attribute) -> Safe:
    """An element. Attribute names lose a trailing underscore and have hyphens for others; None
    leaves one out. Values are made visible and escaped."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{plain(_number(value), 20000)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Safe(f"<{name}{shown}>")
    return Safe(f"<{name}{shown}>{''.join(children)}</{name}>")


def _number(value: Attribute) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def join(parts: Iterable[Safe], between: str = "") -> Safe:
    """Pieces put together; `between` is our own text."""
    return Safe(html.escape(between).join(parts))


def say_time(seconds: float | None, *, whole: bool = True) -> Safe:
    """Epoch seconds as "2026-03-02 09:14:02" (UTC is said once on a page), or only the clock."""
    shown = show_moment(seconds)
    return Safe(shown if whole else shown[11:] or shown)


def show_moment(seconds: float | None) -> str:
    """Epoch seconds as text to the second in UTC; "unknown" where there is no such time."""
    rendered = None if seconds is None else render_time(seconds)
    return rendered[:19].replace("T", " ") if rendered else "unknown"


def read_moment(text: object) -> float | None:
    """A body's ISO 8601 time as epoch seconds; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def show_span(seconds: float) -> str:
    """A duration: "45 s", "7 min", "3.5 h", "2.1 d"."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"


#: How wide columns want to be: our own short words are not broken, others not down to a letter.
_COLUMN_KINDS: Final = {
    **dict.fromkeys(("No.", "Role", "Kind", "Level", "Points", "Times", "Findings"), "tight"),
    **dict.fromkeys(
        (
            "Host",
            "Hosts",
            "Stage",
            "Technique",
            "Tactics",
            "Source",
            "Who",
            "Detector",
            "Stages",
            "Case",
            "By",
        ),
        "some",
    ),
    **dict.fromkeys(("When (UTC)", "Name", "Silent", "Last (UTC)", "Finding", "Incident"), "more"),
}


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Safe]],
    *,
    caption: str = "",
    kind: str = "",
    ids: Sequence[str] = (),
) -> Safe:
    """A table with a head that print repeats; the first cell of a row is its heading. On a narrow
    screen rows become blocks: each cell knows its column's name. `ids` are anchors of the rows."""
    kinds = [_COLUMN_KINDS.get(column) for column in columns]
    head = tag("tr", *(tag("th", say(column), scope="col") for column in columns))
    body = []
    for place, row in enumerate(rows):
        cells = [
            tag(
                "td" if i else "th",
                cell,
                scope=None if i else "row",
                data_label=columns[i],
                class_=kinds[i],
            )
            for i, cell in enumerate(row)
        ]
        body.append(tag("tr", *cells, id=ids[place] if place < len(ids) else None))
    title = (tag("caption", say(caption)),) if caption else ()
    return tag(
        "table", *title, tag("thead", head), tag("tbody", *body), class_=f"rows {kind}".rstrip()
    )


def listed(values: Iterable[Any], most: int, limit: int = 120) -> Safe:
    """Values as code, at most `most`, with how many more there are."""
    given = list(values)
    shown = [tag("code", say(value, limit)) for value in given[:most]]
    if len(given) > most:
        shown.append(say(f"and {len(given) - most:,} more"))
    return join(shown, " ")


def encode_page(page: Safe) -> bytes:
    """The page as UTF-8. Raises nothing: a lone surrogate never gets so far, but is text then."""
    return show_surrogates(page).encode()
