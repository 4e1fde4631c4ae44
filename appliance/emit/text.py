"""On the way out, under every output: text that cannot act on who reads it.

A finding quotes log text, and log text is hostile: it may hold newlines that forge a line, escape
sequences that drive a terminal, and bidirectional controls that make a line read as something
else. `show_hidden` turns each such character into visible ASCII. It is for people and not
reversible: a log that really holds a backslash, an x and two digits looks the same. Where exact
values matter (JSON), the format's own escapes are used instead.
"""

import re
from typing import Final

#: Characters that no output may hold raw: Unicode general categories Cc (C0, DEL, C1), Cs (lone
#: surrogates), Zl, Zp (line and paragraph separator) and Cf (bidirectional controls, zero-width
#: characters, byte order mark, tags) of Unicode 16, as inclusive ranges.
HIDDEN_RANGES: Final[tuple[tuple[int, int], ...]] = (
    (0x0000, 0x001F),
    (0x007F, 0x009F),
    (0x00AD, 0x00AD),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x180E, 0x180E),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xD800, 0xDFFF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0001, 0xE0001),
    (0xE0020, 0xE007F),
)

#: One character of HIDDEN_RANGES.
HIDDEN: Final = re.compile(
    "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in HIDDEN_RANGES) + "]"
)
SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _escape_visibly(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def show_hidden(text: str) -> str:
    """The text with every character of HIDDEN_RANGES written as ASCII: `\\x1b`, `\\u202e`,
    `\\U000e0001`. What it returns always encodes as UTF-8 and is one line. Raises nothing."""
    return HIDDEN.sub(_escape_visibly, text)


def show_surrogates(text: str) -> str:
    """The text with only lone surrogates written as ASCII (`\\udc80`), so that it encodes as
    UTF-8; they stand for bytes of the log that are no UTF-8 (PEP 383). Raises nothing."""
    return SURROGATE.sub(_escape_visibly, text)


def cap_text(text: str, limit: int) -> str:
    """The text in at most `limit` characters before its mark, able to be encoded as UTF-8.

    A text that was cut ends in `... (N characters)`, N being its full length.
    """
    if len(text) <= limit:
        return show_surrogates(text)
    return f"{show_surrogates(text[:limit])}... ({len(text)} characters)"
