"""Second station of the line, its floor: bytes to text that later stations can print and store.

Bytes that are no UTF-8 are escaped and never a reason to reject: else one \\xff in a user name
would hide the whole record. Lone surrogates are escaped too, since they can't be encoded again.
"""

import re
from typing import Final

BOM: Final = b"\xef\xbb\xbf"

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def strip_frame(data: bytes) -> bytes:
    """The record without its line end, a leading UTF-8 byte order mark, and NULs at its ends:
    a writer that terminates its strings leaves one behind, a log that was truncated under its
    writer has thousands in front of the next line."""
    data = data.lstrip(b"\0").rstrip(b"\r\n\0")
    return data[3:] if data.startswith(BOM) else data


def read_text(data: bytes) -> str:
    """The text, with each byte that is no UTF-8 as a lone surrogate (PEP 383).

    Such a text is for parsing only: `escape_bytes` makes it fit to leave the decoder.
    """
    return data.decode("utf-8", "surrogateescape")


def has_bad_bytes(text: str) -> bool:
    """True when the text holds a surrogate, so can't be encoded as UTF-8."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def escape_bytes(text: str, *, doubled: bool = False) -> str:
    """The text with bad bytes as `\\xNN` and other lone surrogates as `\\uNNNN`.

    `doubled` writes two backslashes, which is what the inside of a JSON string needs.
    """
    slash = "\\\\" if doubled else "\\"

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:
            return f"{slash}x{code - 0xDC00:02x}"
        return f"{slash}u{code:04x}"

    return _SURROGATE.sub(escape, text)
