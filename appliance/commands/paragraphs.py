"""Texts in lines of a terminal's usual width, for commands that show prose."""

import textwrap
from typing import Final

from appliance.view import clean

#: Columns of the narrowest terminal that is in use.
WIDTH: Final = 80


def wrap_text(text: str, *, indent: str = "", hang: str | None = None) -> list[str]:
    """The lines of one clean paragraph: the first begins with `indent`, the others with `hang`
    (as `indent` when None). At least one."""
    following = indent if hang is None else hang
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=following,
        break_on_hyphens=False,
    )
    return lines or [indent.rstrip()]


def wrap_prose(text: str, indent: str) -> list[str]:
    """The lines of a text that may be hostile and have several paragraphs."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        if paragraph.strip():
            lines += wrap_text(clean(paragraph, 8_000), indent=indent)
    return lines


def cut_prose(text: str, most: int) -> str:
    """The first `most` characters of a text on one clean line, cut between words."""
    line = clean(" ".join(text.split()), 8_000) if text.strip() else ""
    return textwrap.shorten(line, most, placeholder=" ...") if len(line) > most else line
