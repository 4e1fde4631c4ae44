"""First step of the line: cuts a stream of bytes into whole records, without understanding them.

Framers are fed chunks in order and give back Frames; they hold at most one unfinished record, and
never more than the record cap of it, whatever is fed. A stream can be taken up again at any Frame's
`next` offset with a new framer.
"""

import re
from typing import Literal, Protocol

import msgspec

#: What a stream's first bytes say it is.
Content = Literal[
    "evtx", "gzip", "lines", "json", "binary", "utf16", "auditd", "zeek", "w3c", "columns"
]  # fmt: skip

#: Enough first bytes to tell what a file is.
SNIFF_BYTES = 1 << 16

BOM = b"\xef\xbb\xbf"
EVTX_MAGIC = b"ElfFile\x00"
GZIP_MAGIC = b"\x1f\x8b"
_CONTAINERS: tuple[tuple[bytes, Content], ...] = (
    (EVTX_MAGIC, "evtx"),
    (GZIP_MAGIC, "gzip"),
    (b"\xff\xfe", "utf16"),
    (b"\xfe\xff", "utf16"),
)
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*(?:\{|\]\s*$)")
_SPREAD_OBJECT = re.compile(rb"\s*\{[^\n]*[^}\s][^\S\n]*\r?\n|\s*\{\s*\n")
_MAYBE_DOCUMENT = re.compile(rb"\s*(?:\[\s*|\{[^\n]*)\Z")

#: Lines behind comments that tell how a stream is framed: Zeek's header begins with its separator;
#: a W3C header (Extended Log File Format, working draft 960323, section Directives) has `#Fields:`;
#: an audit record has its type and id.
_COMMENTS = re.compile(rb"(?:#[^\n]*+\n)*+")
_ZEEK_HEADER = re.compile(rb"(?m:^)#separator ")
_W3C_HEADER = re.compile(rb"(?m:^)#Fields: ")
_AUDIT_LINE = re.compile(
    rb"(?:[ \t]*+(?:#[^\n]*+|----|time->[^\n]*+)?+\r?\n)*+"  # ausearch puts two lines before each
    rb"(?:node=[^ \n]{1,255} )?type=[A-Z0-9_]{1,40}(?:\[\d{1,5}\])? msg=audit\(\d{1,12}[.:]"
)
#: Directives without a whole `#Fields:` so far.
_DIRECTIVES = rb"#(?:Software|Version|Date|Start-Date|End-Date|Remark|Log-type|Time Format):[^\n]*+"
_W3C_BEGINNING = re.compile(
    rb"(?:" + _DIRECTIVES + rb"\n)*+(?:" + _DIRECTIVES + rb"|#Fields:[^\n]*+|#[A-Za-z-]{0,12})?"
)
#: What such a line may still become, while its end has not come.
_BEGINNINGS = (b"#separator ", b"type=", b"node=")

#: First bytes of files that are no logs, of the kinds that lie about where logs are gathered.
_BINARY_MAGICS = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",  # JPEG
    b"PK\x03\x04",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",  # Zstandard
    b"\x7fELF",
    b"MZ\x90\x00",
    b"SQLite format 3\x00",
    b"LPKSHHRH",  # systemd journal
    b"\xd4\xc3\xb2\xa1",  # pcap
    b"\x0a\x0d\x0d\x0a",  # pcapng
)
#: Magics that a line of text could begin with: bytes that no text has must follow.
_PRINTABLE_MAGICS = (b"GIF8", b"%PDF-", b"BZh", b"regf", b"PAR1")
_NO_TEXT = re.compile(rb"[\x00-\x08\x80-\xff]")

#: A log may hold a NUL that an attacker put there, and must not be lost for it: only what is mostly
#: control characters from the beginning is no log.
_CONTROL_SAMPLE = 1024
_CONTROL_SHARE = 0.3
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))


class Frame(msgspec.Struct, frozen=True):
    """One record as cut from the stream. `position` and `next` are byte offsets; `truncated` is
    the full length when the record was longer than the cap and `data` is only its beginning;
    `header` are the lines that say what the record's columns are."""

    data: bytes
    position: int
    next: int
    truncated: int = 0
    header: bytes = b""


class Framer(Protocol):
    """Cuts records from chunks fed in order."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes of the stream; give the records they complete."""

    def finish(self) -> list[Frame]:
        """The stream has ended: give the unfinished record, if there is one."""

    def flush(self) -> list[Frame]:
        """The stream rests: give the records whose lines are whole but that more lines could have
        joined."""

    @property
    def pending(self) -> int:
        """Bytes of a record whose end has not come yet."""

    @property
    def held(self) -> int:
        """Bytes, of the pending ones, that `flush` would give."""

    @property
    def position(self) -> int:
        """Offset at which a new framer can go on: behind all that was given out or passed over,
        and behind what was read of a record over the cap."""

    @property
    def overlong_from(self) -> int:
        """Offset at which the unfinished record over the cap began; -1 when there is none."""

    def resume_overlong(self, begun: int, kept: bytes) -> None:
        """Go on inside a record over the cap that began at `begun` with the bytes `kept`."""


def sniff_content(head: bytes) -> Content:
    """Tell from the first bytes (up to SNIFF_BYTES) how a stream is to be framed. NULs in front,
    as a log cut in place has them when its writer goes on behind, are passed over."""
    for magic, content in _CONTAINERS:
        if head.startswith(magic):
            return content
    text = head.lstrip(b"\x00")
    if _is_binary(text) or (head and not text):
        return "binary"
    text = text.removeprefix(BOM)
    if _ARRAY_OF_OBJECTS.match(text) or _SPREAD_OBJECT.match(text):
        return "json"
    if _AUDIT_LINE.match(text):
        return "auditd"
    comments = _COMMENTS.match(text)
    header = comments[0] if comments else b""
    if _ZEEK_HEADER.search(header):
        return "zeek"
    return "w3c" if _W3C_HEADER.search(header) else "lines"


def _is_binary(text: bytes) -> bool:
    sample = text[:_CONTROL_SAMPLE]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return (
        text.startswith(_BINARY_MAGICS)
        or controls > len(sample) * _CONTROL_SHARE
        or (text.startswith(_PRINTABLE_MAGICS) and _NO_TEXT.search(sample) is not None)
    )


def is_undecided(head: bytes) -> bool:
    """True when more bytes may change what `sniff_content` says of a file that still grows: only
    NULs so far, the beginning of what may become a JSON document, or that of a header or an audit
    record."""
    text = head.lstrip(b"\x00").removeprefix(BOM)
    return len(head) < SNIFF_BYTES and (
        not text.strip()
        or _MAYBE_DOCUMENT.match(text) is not None
        or _W3C_BEGINNING.fullmatch(text) is not None
        or (b"\n" not in text and any(_may_become(text, begin) for begin in _BEGINNINGS))
    )


def _may_become(text: bytes, begin: bytes) -> bool:
    return text.startswith(begin) or begin.startswith(text)


class LineFramer:
    """Newline-ended records (LF or CRLF). Lines of nothing but white space are no records, and
    NULs in front of a line are passed over.

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

    @property
    def held(self) -> int:
        """Always 0: a line with its end is a record."""
        return 0

    def flush(self) -> list[Frame]:
        """Nothing: a line without its end is no record yet."""
        return []

    @property
    def position(self) -> int:
        """Offset at which a new framer can go on."""
        return self._start + self._overlong

    @property
    def overlong_from(self) -> int:
        """Where the unfinished line over the cap began; -1 when there is none."""
        return self._start if self._overlong else -1

    def resume_overlong(self, begun: int, kept: bytes) -> None:
        """Go on inside a line over the cap."""
        self._overlong = self._start - begun
        self._start = begun
        self._held = kept[: self._keep]

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
            text = line.lstrip(b"\x00") if line.startswith(b"\x00") else line
            start = after - 1 - len(text)
            if len(text) > self._cap:
                frames.append(Frame(text[: self._keep], start, after, len(text)))
            elif text and not text.isspace():
                frames.append(Frame(text.removesuffix(b"\r"), start, after))
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
        if not self._held and part.startswith(b"\x00"):
            text = part.lstrip(b"\x00")
            self._start += len(part) - len(text)
            part = text
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


#: Inside an object: a whole string, a bracket, or the quote of a string that does not end here. A
#: string holds no newline as it is (RFC 8259, section 7).
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*+"|[{}\[\]"]', re.DOTALL)
_STRING_REST = re.compile(rb'(?:[^"\\\n]|\\.)*+', re.DOTALL)
#: Far more than any log nests; deeper is broken.
_DEEPEST = 512


class JsonFramer:
    """JSON objects that stand behind one another or in one array, over any number of lines.

    Only brackets and strings are looked at; what stands between top-level objects (commas, array
    brackets, white space) is passed over, any other text there is a record of its own, to be
    rejected by the decoder rather than lost. Every byte is looked at once.

    An object that can't be one any more (a newline inside a string, an object where a name must
    stand, brackets that do not fit) is cut off there and given out as it is, so that a record which
    a crash left unfinished does not swallow those behind it.
    """

    def __init__(self, offset: int, cap: int, keep: int) -> None:
        self._cap = cap
        self._keep = keep
        self._start = offset  # of the object, or of what stands between two
        self._held = bytearray()
        self._length = 0  # of the object so far; more than is held once it is over the cap
        self._open = bytearray()  # brackets that are open, the outermost an object's
        self._last = b""  # last byte that is no white space, of the chunk before
        self._in_string = False
        self._escaped = False  # the chunk ended behind a backslash

    @property
    def pending(self) -> int:
        """Bytes of an object whose closing bracket has not come yet."""
        return self._length

    @property
    def held(self) -> int:
        """Always 0: an object with its closing bracket is a record."""
        return 0

    def flush(self) -> list[Frame]:
        """Nothing: an object without its closing bracket is no record yet."""
        return []

    @property
    def position(self) -> int:
        """Offset at which a new framer can go on. Within an object over the cap that is behind
        what was read: its rest will be told from text between objects by the decoder."""
        return self._start + (self._length if self._length > self._cap else 0)

    @property
    def overlong_from(self) -> int:
        """Where the unfinished object over the cap began; -1 when there is none."""
        return self._start if self._length > self._cap else -1

    def resume_overlong(self, begun: int, kept: bytes) -> None:
        """Give up the object: how it was nested is not known. Its rest is cut off at the next
        line."""
        self._length = self._start - begun
        self._start = begun
        self._held = bytearray(kept[: self._keep])
        self._open = bytearray(b"{")
        self._in_string = True

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; give the objects they complete."""
        frames: list[Frame] = []
        begin = 0
        at = 0
        if self._in_string:
            at, begin = self._leave_string(chunk, frames)
        while at < len(chunk):
            if not self._open:
                brace = chunk.find(b"{", at)
                if brace < 0:
                    break
                self._hold(chunk[begin:brace])
                self._close_between(frames)
                begin, at = brace, brace + 1
                self._open += b"{"
                continue
            token = _TOKEN.search(chunk, at)
            if token is None:
                break
            text = token.group()
            if text == b'"':
                at, begin = self._enter_string(chunk, token.end(), begin, frames)
                continue
            if self._breaks(text, chunk, token.start()):
                self._hold(chunk[begin : token.start()])
                self._cut(frames)
                begin = at = token.start() + (text in (b"}", b"]"))
                continue
            at = token.end()
            if text in (b"{", b"["):
                self._open += text
            elif text in (b"}", b"]"):
                self._open.pop()
                if not self._open:
                    self._hold(chunk[begin:at])
                    self._close_object(frames)
                    begin = at
        self._hold(chunk[begin:])
        self._last = chunk.rstrip()[-1:] or self._last
        return frames

    def finish(self) -> list[Frame]:
        """Give what is left: an object cut off in the middle, for the decoder to reject."""
        frames: list[Frame] = []
        if self._open:
            self._close_object(frames)
        else:
            self._close_between(frames)
        self._open.clear()
        self._in_string = self._escaped = False
        return frames

    def _breaks(self, text: bytes, chunk: bytes, at: int) -> bool:
        """True when a bracket can't stand here in any JSON."""
        inner = self._open[-1:]
        if text in (b"}", b"]"):
            return (inner == b"{") != (text == b"}")
        if text not in (b"{", b"["):
            return False
        before = chunk[max(0, at - 64) : at].rstrip()[-1:] or chunk[:at].rstrip()[-1:] or self._last
        fitting = (b":",) if inner == b"{" else (b"[", b",")
        return len(self._open) >= _DEEPEST or before not in fitting

    def _enter_string(
        self, chunk: bytes, at: int, begin: int, frames: list[Frame]
    ) -> tuple[int, int]:
        """An opening quote without its end in this chunk: it goes on, or a newline breaks it."""
        rest = _STRING_REST.match(chunk, at)
        end = rest.end() if rest else at
        if chunk[end : end + 1] == b"\n":
            self._hold(chunk[begin:end])
            self._cut(frames)
            return end, end
        self._in_string = True
        # What else stops the match before the end can only be the last byte, a backslash.
        self._escaped = end < len(chunk)
        return len(chunk), begin

    def _leave_string(self, chunk: bytes, frames: list[Frame]) -> tuple[int, int]:
        """Where to go on behind the open string, and where the object's bytes begin."""
        at = 1 if self._escaped and chunk else 0
        self._escaped = self._escaped and not chunk
        rest = _STRING_REST.match(chunk, at)
        end = rest.end() if rest else at
        stop = chunk[end : end + 1]
        if stop == b'"':
            self._in_string = False
            return end + 1, 0
        if stop == b"\n":
            self._hold(chunk[:end])
            self._cut(frames)
            return end, end
        self._escaped = self._escaped or end < len(chunk)
        return len(chunk), 0

    def _cut(self, frames: list[Frame]) -> None:
        """The object so far can't become one: give it out, look for the next."""
        self._close_object(frames)
        self._open.clear()
        self._in_string = self._escaped = False

    def _hold(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= self._cap:
            self._held += part
        elif len(self._held) < self._keep:
            self._held += part[: self._keep - len(self._held)]

    def _close_object(self, frames: list[Frame]) -> None:
        self._close(frames, bytes(self._held))

    def _close_between(self, frames: list[Frame]) -> None:
        self._close(frames, bytes(self._held).removeprefix(BOM).strip(b" \t\r\n,[]\x00"))

    def _close(self, frames: list[Frame], data: bytes) -> None:
        after = self._start + self._length
        over = self._length > self._cap
        if data:
            kept = data[: self._keep] if over else data
            frames.append(Frame(kept, self._start, after, self._length if over else 0))
        self._start = after
        self._length = 0
        self._held = bytearray()
