"""First step of the line: cuts what a syslog connection sends into messages, without
understanding them.

Framers are fed what was read, in order, and hold at most one unfinished message, of which never
more than the record cap; what they do is linear in the bytes fed, also byte by byte.
"""

import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

#: A message of nothing else is none.
BLANKS: Final = b"\0 \t\r\n"
#: The longest length that is believed: as long as the longest record that can be configured.
MAX_COUNT: Final = 64 << 20

#: CR and NUL behind a line do not count as its length.
_TRAILER_BYTES: Final = 2
_TRAILERS: Final = re.compile(rb"[\r\n\0]*+")
_FIRST_COUNT: Final = re.compile(rb"[1-9][0-9]{0,7} <")
_MAYBE_FIRST: Final = re.compile(rb"(?:[1-9][0-9]{0,7} ?)?")
_COUNT: Final = re.compile(rb"([1-9][0-9]{0,7}) ")
_MAYBE_COUNT: Final = re.compile(rb"[1-9][0-9]{0,7}")

_Mode = Literal["start", "text", "lines", "nul", "counted", "resync"]


class Framed(NamedTuple):
    """Messages, and the full length of each that was cut, by index."""

    records: list[bytes]
    cut: dict[int, int]


class SyslogFramer:
    """Syslog over TCP (RFC 6587, section 3.4): octet counting or newlines, as the connection's
    first bytes say.

    A connection that begins with a count, a space and `<` is octet-counted; there each message may
    still be a line, where no count stands. Any other is read by line all the way: a message's text
    behind an injected newline can then not pose as a count and swallow the messages behind it. CR
    before, and NULs around, a newline belong to it. Where the first message ends with a NUL and no
    newline, both end messages. Blank lines are no messages.

    `cap` is the longest message in bytes; of a longer one the first `keep` bytes are kept.
    """

    def __init__(self, cap: int, keep: int) -> None:
        self._cap = cap
        self._keep = min(keep, cap)
        self._mode: _Mode = "start"
        self._held = bytearray()
        self._length = 0  # of the unfinished message; more than is held once it is over the cap
        self._over = False
        self._need = 0  # octet counting: bytes to hold until there is something to do
        self._left = 0  # octet counting: bytes to come of a message over the cap
        self._steps: dict[_Mode, Callable[[bytes, Framed], bytes]] = {
            "start": self._start,
            "text": self._decide_trailer,
            "lines": self._read_lines,
            "nul": self._read_lines,
            "counted": self._read_counted,
            "resync": self._end_line,
        }

    @property
    def held(self) -> int:
        """Bytes in memory of a message whose end has not come yet."""
        return len(self._held)

    def feed(self, chunk: bytes) -> Framed:
        """Take the next bytes; give the messages that they complete."""
        out = Framed([], {})
        while chunk:
            chunk = self._steps[self._mode](chunk, out)
        return out

    def finish(self) -> Framed:
        """The connection has ended: give the unfinished message, if there is one."""
        out = Framed([], {})
        if self._mode == "counted" and not self._over:
            head = _COUNT.match(self._held)
            self._hold_anew(bytes(self._held[head.end() if head else 0 :]))
        elif self._mode == "start":
            self._hold_anew(bytes(self._held))
        elif self._left:
            self._length -= self._left
        self._give(out)
        self._need = self._left = 0
        return out

    def shed(self) -> None:
        """Keep no more than the beginning of the unfinished message, as if it were over the cap:
        too many are held by too many connections."""
        if self._mode == "counted" and not self._over:
            head = _COUNT.match(self._held)
            if head is None:
                return
            self._pass_over(bytes(self._held), head.end(), int(head[1]))
        elif self._length and self._mode != "counted":
            self._over = True
            del self._held[self._keep :]

    def _start(self, chunk: bytes, out: Framed) -> bytes:
        """Wait for the few bytes that tell."""
        self._held += chunk
        data = bytes(self._held).lstrip(b"\r\n\0")
        if _MAYBE_FIRST.fullmatch(data):
            self._held = bytearray(data)
            return b""
        self._held.clear()
        self._mode = "counted" if _FIRST_COUNT.match(data) else "text"
        return data

    def _decide_trailer(self, chunk: bytes, out: Framed) -> bytes:
        newline, nul = chunk.find(b"\n"), chunk.find(b"\0")
        if nul >= 0 and (newline < 0 or nul < newline) and chunk[nul + 1 : nul + 2] in (b"", b"<"):
            self._mode = "nul"
        elif newline >= 0:
            self._mode = "lines"
        else:
            self._hold(chunk)
            return b""
        return chunk

    def _read_lines(self, chunk: bytes, out: Framed) -> bytes:
        if self._mode == "nul":
            chunk = chunk.replace(b"\0", b"\n")
        if self._length:
            end = chunk.find(b"\n")
            if end < 0:
                self._hold(chunk)
                return b""
            self._hold(chunk[:end])
            self._give(out)
            chunk = chunk[end + 1 :]
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines:
            if b"\r" in chunk or b"\0" in chunk:
                lines = [line.rstrip(b"\r\0").lstrip(b"\0") for line in lines]
            if max(map(len, lines)) > self._cap:
                for line in lines:
                    self._add(line, out)
            else:
                out.records.extend([line for line in lines if line and not line.isspace()])
        self._hold(rest)
        return b""

    def _end_line(self, chunk: bytes, out: Framed) -> bytes:
        """The rest of one line within an octet-counted connection."""
        end = chunk.find(b"\n")
        if end < 0:
            self._hold(chunk)
            return b""
        self._hold(chunk[:end])
        self._give(out)
        self._mode = "counted"
        return chunk[end + 1 :]

    def _read_counted(self, chunk: bytes, out: Framed) -> bytes:
        if self._left:
            return self._read_rest(chunk, out)
        self._held += chunk
        if len(self._held) < self._need:
            return b""
        data = bytes(self._held)
        self._held.clear()
        self._need = at = 0
        while 0 <= at < len(data):
            head = _COUNT.match(data, at)
            length = int(head[1]) if head is not None else 0
            if head is None or length > MAX_COUNT:
                at = self._read_uncounted(data, at, out)
                continue
            begin = head.end()
            end = begin + length
            if length > self._cap:
                at = -1 if self._pass_over(data, begin, length) else end
                if at >= 0:
                    self._give(out)
            elif end > len(data):
                self._held += data[at:]
                self._need = end - at
                at = -1
            else:
                out.records.append(data[begin:end])
                at = end
        return b""

    def _read_uncounted(self, data: bytes, at: int, out: Framed) -> int:
        """What stands where a count should: trailers, the beginning of a count, or a line, also
        one that begins with a number that is no length. Gives where to go on, or -1 when more bytes
        are needed."""
        trailers = _TRAILERS.match(data, at)
        if trailers is not None and trailers.end() > at:
            return trailers.end()
        if _MAYBE_COUNT.fullmatch(data, at):
            self._held += data[at:]
            return -1
        end = data.find(b"\n", at)
        if end < 0:
            self._mode = "resync"
            self._hold(data[at:])
            return -1
        self._add(data[at:end].rstrip(b"\r\0"), out)
        return end + 1

    def _pass_over(self, data: bytes, begin: int, length: int) -> int:
        """Begin a counted message of which only the beginning is kept; gives how many bytes of it
        are to come."""
        self._hold_anew(data[begin : begin + min(self._keep, length)])
        self._length, self._over, self._need = length, True, 0
        self._left = max(0, begin + length - len(data))
        return self._left

    def _read_rest(self, chunk: bytes, out: Framed) -> bytes:
        part, rest = chunk[: self._left], chunk[self._left :]
        self._held += part[: max(0, self._keep - len(self._held))]
        self._left -= len(part)
        if not self._left:
            self._give(out)
        return rest

    def _hold_anew(self, data: bytes) -> None:
        self._held = bytearray(data)
        self._length = len(data)

    def _hold(self, part: bytes) -> None:
        self._length += len(part)
        if not self._over:
            self._held += part
            if self._length > self._cap + _TRAILER_BYTES:
                self._over = True
                del self._held[self._keep :]
        elif len(self._held) < self._keep:
            self._held += part[: self._keep - len(self._held)]

    def _give(self, out: Framed) -> None:
        """Give out the held message."""
        data, length, over = bytes(self._held), self._length, self._over
        self._held.clear()
        self._length, self._over = 0, False
        if over:
            out.cut[len(out.records)] = length
            out.records.append(data)
        else:
            self._add(data if self._mode == "counted" else data.rstrip(b"\r\0").lstrip(b"\0"), out)

    def _add(self, record: bytes, out: Framed) -> None:
        if len(record) > self._cap:
            out.cut[len(out.records)] = len(record)
            out.records.append(record[: self._keep])
        elif record and not record.isspace():
            out.records.append(record)
