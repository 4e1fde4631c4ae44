"""First step of the line: cuts a stream of bytes into whole records, without understanding them.

Framers are fed chunks in order and give back Frames; they hold at most one unfinished record, and
never more than the record cap of it, whatever is fed. A stream can be taken up again at any Frame's
`next` offset with a new framer.
"""

import re
from typing import Literal, Protocol

import msgspec

#: What a stream's first bytes say it is.
Content = Literal["evtx", "gzip", "lines", "json", "binary", "utf16"]

#: Enough first bytes to tell what a file is.
SNIFF_BYTES = 1 << 16

_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_EVTX_MAGIC = b"ElfFile\x00"
_GZIP_MAGIC = b"\x1f\x8b"
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*(?:\{|\]\s*$)")
_SPREAD_OBJECT = re.compile(rb"\s*\{[^\n]*[^}\s][^\S\n]*\r?\n|\s*\{\s*\n")


#: First bytes of files that are no logs, of the kinds that lie about where logs are gathered.
_BINARY_MAGICS = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"%PDF-",
    b"PK\x03\x04",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",  # Zstandard
    b"\x7fELF",
    b"MZ\x90\x00",
    b"SQLite format 3\x00",
    b"LPKSHHRH",  # systemd journal
    b"\xd4\xc3\xb2\xa1",  # pcap
    b"\x0a\x0d\x0d\x0a",  # pcapng
    b"regf",
    b"PAR1",
)

#: A log may hold a NUL that an attacker put there, and must not be lost for it: only what is mostly
#: control characters from the beginning is no log.
_CONTROL_SAMPLE = 1024
_CONTROL_SHARE = 0.3
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))


class Frame(msgspec.Struct, frozen=True):
    """One record as cut from the stream. `position` and `next` are byte offsets; `truncated` is
    the full length when the record was longer than the cap and `data` is only its beginning."""

    data: bytes
    position: int
    next: int
    truncated: int = 0


class Framer(Protocol):
    """Cuts records from chunks fed in order."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes of the stream; give the records they complete."""

    def finish(self) -> list[Frame]:
        """The stream has ended: give the unfinished record, if there is one."""

    @property
    def pending(self) -> int:
        """Bytes of a record whose end has not come yet."""


def sniff_content(head: bytes) -> Content:
    """Tell from the first bytes (up to SNIFF_BYTES) how a stream is to be framed."""
    if head.startswith(_EVTX_MAGIC):
        return "evtx"
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_UTF16_BOMS):
        return "utf16"
    if head.startswith(_BINARY_MAGICS) or _is_mostly_control(head[:_CONTROL_SAMPLE]):
        return "binary"
    text = head.removeprefix(_BOM)
    if _ARRAY_OF_OBJECTS.match(text) or _SPREAD_OBJECT.match(text):
        return "json"
    return "lines"


def _is_mostly_control(head: bytes) -> bool:
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return controls > len(head) * _CONTROL_SHARE


class LineFramer:
    """Newline-ended records (LF or CRLF). Lines of nothing but white space are no records.

    `cap` is the longest record in bytes; of a longer one the first `keep` bytes are kept.
    """

    def __init__(self, offset: int, cap: int, keep: int) -> None:
        self._cap = cap
        self._keep = keep
        self._start = offset
        self._held = b""
        self._overlong = 0  # length so far of a record that went over the cap

    @property
    def pending(self) -> int:
        """Bytes of a line whose newline has not come yet."""
        return self._overlong or len(self._held)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; give the lines they complete."""
        frames: list[Frame] = []
        end = chunk.find(b"\n")
        if end < 0:
            self._hold(chunk)
            return frames
        self._hold(chunk[:end])
        self._close(frames, ended=True)
        lines = chunk[end + 1 :].split(b"\n")
        position = self._start
        for line in lines[:-1]:
            after = position + len(line) + 1
            if len(line) > self._cap:
                frames.append(Frame(line[: self._keep], position, after, len(line)))
            elif line and not line.isspace():
                data = line[:-1] if line.endswith(b"\r") else line
                frames.append(Frame(data, position, after))
            position = after
        self._start = position
        self._hold(lines[-1])
        return frames

    def finish(self) -> list[Frame]:
        """Give the last line, which no newline ended."""
        frames: list[Frame] = []
        self._close(frames, ended=False)
        return frames

    def _hold(self, part: bytes) -> None:
        if self._overlong:
            self._overlong += len(part)
            return
        self._held += part
        if len(self._held) > self._cap:
            self._overlong = len(self._held)
            self._held = self._held[: self._keep]

    def _close(self, frames: list[Frame], *, ended: bool) -> None:
        length = self.pending
        after = self._start + length + (1 if ended else 0)
        data = self._held.removesuffix(b"\r") if not self._overlong else self._held
        if data and (self._overlong or not data.isspace()):
            frames.append(Frame(data, self._start, after, self._overlong))
        self._start = after
        self._held = b""
        self._overlong = 0


#: Inside an object: a whole string, a bracket, or the quote of a string that goes on in the next
#: chunk.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]"]', re.DOTALL)
_STRING_REST = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)


class JsonFramer:
    """JSON objects that stand behind one another or in one array, over any number of lines.

    Only brackets and strings are looked at; what stands between top-level objects (commas, array
    brackets, white space) is passed over, any other text there is a record of its own, to be
    rejected by the decoder rather than lost. Every byte is looked at once.
    """

    def __init__(self, offset: int, cap: int, keep: int) -> None:
        self._cap = cap
        self._keep = keep
        self._start = offset  # of the object, or of what stands between two
        self._held = bytearray()
        self._length = 0  # of the object so far; more than is held once it is over the cap
        self._depth = 0
        self._in_string = False
        self._escaped = False  # the chunk ended behind a backslash

    @property
    def pending(self) -> int:
        """Bytes of an object whose closing bracket has not come yet."""
        return self._length

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; give the objects they complete."""
        frames: list[Frame] = []
        begin = 0
        at = self._leave_string(chunk) if self._in_string else 0
        while at < len(chunk):
            if self._depth == 0:
                brace = chunk.find(b"{", at)
                if brace < 0:
                    break
                self._hold(chunk[begin:brace])
                self._close_between(frames)
                begin, at, self._depth = brace, brace + 1, 1
                continue
            token = _TOKEN.search(chunk, at)
            if token is None:
                break
            at = token.end()
            text = token.group()
            if text == b'"':
                self._enter_string(chunk, at)
                break
            if text in (b"{", b"["):
                self._depth += 1
            elif text in (b"}", b"]"):
                self._depth -= 1
                if self._depth == 0:
                    self._hold(chunk[begin:at])
                    self._close_object(frames)
                    begin = at
        self._hold(chunk[begin:])
        return frames

    def finish(self) -> list[Frame]:
        """Give what is left: an object cut off in the middle, for the decoder to reject."""
        frames: list[Frame] = []
        if self._depth:
            self._close_object(frames)
        else:
            self._close_between(frames)
        self._depth = 0
        self._in_string = self._escaped = False
        return frames

    def _enter_string(self, chunk: bytes, at: int) -> None:
        rest = _STRING_REST.match(chunk, at)
        self._in_string = True
        # What stops the match before the end can only be the last byte, a backslash.
        self._escaped = rest is not None and rest.end() < len(chunk)

    def _leave_string(self, chunk: bytes) -> int:
        """Index behind the quote that ends the open string, or the chunk's length."""
        at = 1 if self._escaped and chunk else 0
        self._escaped = self._escaped and not chunk
        rest = _STRING_REST.match(chunk, at)
        end = rest.end() if rest else at
        if end < len(chunk) and chunk[end : end + 1] == b'"':
            self._in_string = False
            return end + 1
        self._escaped = self._escaped or end < len(chunk)
        return len(chunk)

    def _hold(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= self._cap:
            self._held += part
        elif len(self._held) < self._keep:
            self._held += part[: self._keep - len(self._held)]

    def _close_object(self, frames: list[Frame]) -> None:
        self._close(frames, bytes(self._held))

    def _close_between(self, frames: list[Frame]) -> None:
        self._close(frames, bytes(self._held).removeprefix(_BOM).strip(b" \t\r\n,[]"))

    def _close(self, frames: list[Frame], data: bytes) -> None:
        after = self._start + self._length
        over = self._length > self._cap
        if data:
            kept = data[: self._keep] if over else data
            frames.append(Frame(kept, self._start, after, self._length if over else 0))
        self._start = after
        self._length = 0
        self._held = bytearray()
