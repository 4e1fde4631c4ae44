"""How facts are shown to a person: tables and colour on a terminal, plain text when piped.

Everything that comes from a log passes `clean` first, so that no text can move the cursor, colour
the screen or pretend to be another line.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.emit.render import make_encodable
from appliance.emit.text import cap_text, show_hidden

LEVEL_STYLES: Final = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "informational": "dim",
}
_CELL = 400
#: Columns whose cells are not broken over lines: what an operator copies.
_WHOLE: Final = frozenset({"id", "level", "technique", "source", "sink", "queue"})


def clean(value: object, limit: int = _CELL) -> str:
    """One line of visible characters, of at most `limit`; "-" for nothing."""
    if value is None or value == "":
        return "-"
    return show_hidden(cap_text(str(value), limit))


def show_time(seconds: float | None) -> str:
    """Seconds since the epoch as UTC to the second; "never" for None."""
    if seconds is None:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "-"


def show_range(first: float, last: float) -> str:
    """Two epoch times as one range, the date of the second left out when it is the same."""
    begin, end = show_time(first), show_time(last)
    return f"{begin} - {end[11:] if begin[:10] == end[:10] else end}"


def show_iso(text: str | None) -> str:
    """An ISO 8601 time of a body, to the second."""
    return clean(text)[:19].replace("T", " ")


def encode_json(value: Any) -> bytes:
    """The facts as indented JSON. A path that is no UTF-8 is shown with escapes (`\\udcff`)."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2)
    except orjson.JSONEncodeError:  # lone surrogates, which UTF-8 does not have
        return orjson.dumps(make_encodable(value), option=orjson.OPT_INDENT_2)


class View:
    """Standard output, as a terminal or as a pipe."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._console = Console(highlight=False, emoji=False, markup=False)
        self.terminal = self._console.is_terminal

    def json(self, value: Any) -> None:
        """Print facts as one JSON document, in UTF-8 whatever the terminal's character set is."""
        sys.stdout.flush()
        out = sys.stdout.buffer
        out.write(encode_json(value) + b"\n")
        out.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line (already clean)."""
        if self.terminal:
            self._console.print(Text(text, style=style), soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = ""
    ) -> None:
        """Print rows. On a terminal the column "level" is coloured; a pipe gets one line a row
        under a header, columns aligned, nothing folded."""
        cells = [[clean(cell) for cell in row] for row in rows]
        if not self.terminal:
            if title:
                self.line(f"# {title}")
            lines = [list(columns), *cells]
            widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
            for line in lines:
                padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
                self.line("  ".join(padded).rstrip())
            return
        table = Table(
            title=title or None,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for place, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[place], (int, float)) for row in rows)
            table.add_column(
                column,
                justify="right" if numeric else "left",
                overflow="fold",
                no_wrap=numeric or column in _WHOLE or column.endswith("(UTC)"),
            )
        for row in cells:
            table.add_row(
                *(
                    Text(cell, style=LEVEL_STYLES.get(cell, "") if name == "level" else "")
                    for name, cell in zip(columns, row, strict=True)
                )
            )
        self._console.print(table)
