"""First step of the line: lines whose columns are named by header lines among them.

Zeek's TSV logs (https://docs.zeek.org/en/master/log-formats.html, "Zeek TSV Format Logs") and the
W3C Extended Log File Format as IIS writes it (working draft 960323, section Directives). A header
line is no record: it becomes part of the `header` of every record behind it, until a line of the
same name takes its place, as when a server starts anew and goes on in the same file.

Columns separated by a character (RFC 4180) have one header line, the stream's first. That very line
again, as when files are joined or a writer starts anew, is no record either.
"""

import re
from typing import Final, Literal

from appliance.sources.framing import BOM, Frame, LineFramer

#: Longest header, in bytes. Those of real systems have up to 2,000.
HEADER_BYTES: Final = 16 << 10

HeaderFormat = Literal["zeek", "w3c", "columns"]
#: The formats by the content that a stream is found to be.
HEADER_FORMATS: Final[dict[str, HeaderFormat]] = {
    "zeek": "zeek",
    "w3c": "w3c",
    "columns": "columns",
}

#: What a header line begins with; group 1 is its name.
_HEADER_LINES: Final[dict[str, re.Pattern[bytes]]] = {
    "zeek": re.compile(
        rb"#(separator|set_separator|empty_field|unset_field|path|open|close|fields|types)"
        rb"(?![A-Za-z0-9_])"
    ),
    "w3c": re.compile(
        rb"(?i:#(Version|Fields|Software|Start-Date|End-Date|Date|Remark|Log-type|Time Format):)"
    ),
}
#: A line of this name begins a header of its own: nothing of the one before holds any more.
_FIRST_NAMES: Final = frozenset({b"separator"})
#: Name of the only header line of columns that a character separates.
_ONLY: Final = b"columns"


class HeaderFramer:
    """Lines as LineFramer gives them, each with the header lines that are valid there.

    `header` is the header as it is at the offset (lines joined by newlines, without their ends).
    `broken` says why the stream can't be read further, "" while it can: its header is longer than
    HEADER_BYTES. `position` then stays at the line that was too much.
    """

    def __init__(
        self, offset: int, cap: int, keep: int, *, form: HeaderFormat, header: bytes = b""
    ) -> None:
        self._lines = LineFramer(offset, cap, keep)
        self._form = _HEADER_LINES.get(form)
        self._begins = not offset
        self._parts: dict[bytes, bytes] = {}
        self._stopped_at = -1
        self.header = b""
        self.header_lines = 0
        self.broken = ""
        for line in header.split(b"\n") if header else ():
            name = _ONLY if self._form is None else self._name_line(line)
            if name is not None:
                self._parts[name] = line
        self.header = b"\n".join(self._parts.values())

    @property
    def pending(self) -> int:
        """Bytes of a line whose newline has not come yet."""
        return self._lines.pending

    @property
    def held(self) -> int:
        """Always 0: a line with its end is a record."""
        return 0

    @property
    def position(self) -> int:
        """Offset at which a new framer can go on, given the header."""
        return self._stopped_at if self.broken else self._lines.position

    @property
    def overlong_from(self) -> int:
        """Where the unfinished line over the cap began; -1 when there is none."""
        return -1 if self.broken else self._lines.overlong_from

    def resume_overlong(self, begun: int, kept: bytes) -> None:
        """Go on inside a line over the cap."""
        self._lines.resume_overlong(begun, kept)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; give the records they complete."""
        return [] if self.broken else self._pass_on(self._lines.feed(chunk))

    def flush(self) -> list[Frame]:
        """Nothing: a line without its end is no record yet."""
        return []

    def finish(self) -> list[Frame]:
        """Give the last line, which no newline ended."""
        return [] if self.broken else self._pass_on(self._lines.finish())

    def _pass_on(self, lines: list[Frame]) -> list[Frame]:
        frames: list[Frame] = []
        for line in lines:
            data = line.data
            if not line.position and data.startswith(BOM):
                data = data[len(BOM) :]
            if (name := self._name_line(data)) is not None:
                self._take_header(name, data, line)
                if self.broken:
                    break
                continue
            frames.append(Frame(data, line.position, line.next, line.truncated, self.header))
        return frames

    def _name_line(self, data: bytes) -> bytes | None:
        """What a header line is called; None for a record."""
        if self._form is None:
            first = self._begins and not self.header
            return _ONLY if first or data == self.header != b"" else None
        match = self._form.match(data) if data[:1] == b"#" else None
        return match[1].lower() if match else None

    def _take_header(self, name: bytes, data: bytes, line: Frame) -> None:
        parts = {} if name in _FIRST_NAMES else dict(self._parts)
        parts[name] = data
        header = b"\n".join(parts.values())
        if line.truncated or len(header) > HEADER_BYTES:
            size = line.truncated or len(header)
            self.broken = f"header of {size} bytes is longer than the cap of {HEADER_BYTES}"
            self._stopped_at = line.position
            return
        self._parts = parts
        self.header = header
        self.header_lines += 1
