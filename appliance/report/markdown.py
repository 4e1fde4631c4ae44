"""Behind the store, for reports as Markdown: text that came from a log, inert there, too.

GitHub Flavored Markdown (CommonMark 0.31 with tables and autolinks): every ASCII punctuation
character of a text is escaped by a backslash (CommonMark 2.4), so that it begins no link, image,
element, list, heading or cell. An at sign stands in a code span, since the autolink of mail
addresses looks at the text after escapes. Raw records stand in fences longer than any run of
backticks in them.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from appliance.report.markup import cut, make_visible, show_moment

MAX_SHOWN: Final = 600
_PUNCTUATION: Final = re.compile(r"([!\"#$%&'()*+,\-./:;<=>?\[\\\]^_`{|}~])")
#: What people read often and what means nothing inside a word or number.
_HARMLESS: Final = re.compile(
    r"\\([,;'\"%/=])|(?<=[0-9])\\([.:])(?=[0-9])|(?<=[0-9A-Za-z])\\(-)(?=[0-9A-Za-z])"
)
_RUNS: Final = re.compile("`+")


def escape(value: object, limit: int = MAX_SHOWN) -> str:
    """One line of text that Markdown shows as it is."""
    shown = " ".join(make_visible(value, limit).split(" ")).strip()
    escaped = _PUNCTUATION.sub(r"\\\1", shown)
    return _HARMLESS.sub(lambda found: found[1] or found[2] or found[3], escaped).replace(
        "@", "`@`"
    )


def fence(text: str, limit: int) -> list[str]:
    """Lines of a fenced block with the text, cut at `limit` characters; a cut says so."""
    lines = [make_visible(line, limit) for line in re.split(r"\r?\n|\r", text[:limit])]
    longest = max((len(run) for line in lines for run in _RUNS.findall(line)), default=0)
    mark = "`" * max(3, longest + 1)
    more = [f"({limit:,} of {len(text):,} characters)", ""] if len(text) > limit else []
    return [f"{mark}text", *lines, mark, "", *more]


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table; cells are escaped here."""
    body = [f"| {' | '.join(escape(cell, 300) or '-' for cell in row)} |" for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{'|'.join(' --- ' for _ in columns)}|", *body, ""]


def write_moment(seconds: float | None) -> str:
    """A time as text; nothing in it needs an escape."""
    return show_moment(seconds)


def count_more(total: int, shown: int, what: str) -> list[str]:
    """A line that says how much is not shown."""
    return [f"{total - shown:,} more {what} are not shown.", ""] if total > shown else []


def shorten(value: object, limit: int) -> str:
    """A text cut, with its full length."""
    return cut(str(value), limit)
