"""First step of the line: the receiving side of RELP, which answers each message.

The Reliable Event Logging Protocol 1.0, as rsyslog's omrelp speaks it: the sender opens a session,
sends commands with a number each, and takes one for done when `rsp` with its number says `200`.
Frames are cut and answers are made here; who sends an answer, and when, is the receiver's.
"""

import re
from typing import Final, NamedTuple

from appliance.sources.syslog_frames import BLANKS, MAX_COUNT, Framed

#: RELP 1.0, section "Syntax": TXNR SP COMMAND SP DATALEN [SP DATA] TRAILER; without data the space
#: is left out.
_RELP_HEAD: Final = re.compile(rb"([0-9]{1,9}) ([A-Za-z]{1,32}) ([0-9]{1,9})( |(?=\n))")
_RELP_HEAD_BYTES: Final = 9 + 1 + 32 + 1 + 9 + 1

_OFFER: Final = b"200 OK\nrelp_version=0\nrelp_software=appliance\ncommands=syslog"
#: Said before the session's orderly end.
_LAST_HINT: Final = b"0 serverclose 0\n"


class RelpFrame(NamedTuple):
    """One command: its number as sent, its name in lower case, its data, and the data's full
    length where it was cut, else 0."""

    number: bytes
    command: bytes
    data: bytes
    cut: int


class RelpFramer:
    """RELP frames (The Reliable Event Logging Protocol 1.0, as librelp speaks it). `broken` says
    what was no frame; nothing behind it is read."""

    def __init__(self, cap: int, keep: int) -> None:
        self._cap = cap
        self._keep = min(keep, cap)
        self._held = bytearray()
        self._need = 0
        self._frame: RelpFrame | None = None  # over the cap, and not at its end
        self._kept = bytearray()  # its beginning
        self._left = 0  # bytes to come of it
        self.broken = ""

    @property
    def held(self) -> int:
        """Bytes in memory of a frame whose end has not come yet."""
        return len(self._held) + len(self._kept)

    def feed(self, chunk: bytes) -> list[RelpFrame]:
        """Take the next bytes; give the frames that they complete."""
        frames: list[RelpFrame] = []
        if self._left:
            part, chunk = chunk[: self._left], chunk[self._left :]
            self._left -= len(part)
            self._kept += part[: max(0, self._keep - len(self._kept))]
        self._held += chunk
        if self._left or len(self._held) < self._need or self.broken:
            return frames
        data = bytes(self._held)
        self._held.clear()
        self._need = 0
        at = 0
        if self._frame is not None:
            at = self._close_frame(data, frames)
        while 0 <= at < len(data) and not self.broken:
            at = self._read_frame(data, at, frames)
        return frames

    def _read_frame(self, data: bytes, at: int, frames: list[RelpFrame]) -> int:
        """One frame; gives where to go on, or -1 when there is nothing to go on with."""
        head = _RELP_HEAD.match(data, at)
        if head is None:
            if len(data) - at >= _RELP_HEAD_BYTES or b"\n" in data[at:]:
                self.broken = "no RELP frame"
                return -1
            self._held += data[at:]
            return -1
        length, begin = int(head[3]), head.end()
        end = begin + length
        number, command = head[1], head[2].lower()
        if length > MAX_COUNT or (length and not head[4]):
            self.broken = f"a RELP frame of {length} bytes"
        elif length > self._cap:
            self._kept += data[begin : begin + self._keep]
            self._frame = RelpFrame(number, command, b"", length)
            self._left = max(0, end - len(data))
            return -1 if self._left else end + self._close_frame(data[end:], frames)
        elif end >= len(data):
            self._held += data[at:]
            self._need = end + 1 - at
        elif data[end] != 0x0A:
            self.broken = "a RELP frame without its end"
        else:
            frames.append(RelpFrame(number, command, data[begin:end], 0))
            return end + 1
        return -1

    def _close_frame(self, data: bytes, frames: list[RelpFrame]) -> int:
        """The end of a frame over the cap; gives how many bytes it took."""
        if not data or self._frame is None:
            return 0
        if data[:1] != b"\n":
            self.broken = "a RELP frame without its end"
            return 0
        frames.append(self._frame._replace(data=bytes(self._kept)))
        self._frame = None
        self._kept.clear()
        return 1


class RelpSession:
    """One sender's session: `answers` are those that its commands so far are owed once the disk has
    their records; `closing` says that it wants to end behind them."""

    def __init__(self, framer: RelpFramer) -> None:
        self._framer = framer
        self._opened = False
        self.closing = False
        self.answers: list[bytes] = []

    @property
    def held(self) -> int:
        """Bytes in memory of a frame whose end has not come yet."""
        return self._framer.held

    @property
    def broken(self) -> str:
        """Why nothing more can be read, else empty."""
        return self._framer.broken

    def feed(self, chunk: bytes) -> Framed:
        """Take the next bytes; give the messages in them. `open` comes first, `close` last."""
        out = Framed([], {})
        for frame in self._framer.feed(chunk):
            if self.closing:
                break
            self.answers.append(frame_answer(frame.number, self._obey(frame, out)))
            if frame.command == b"close":
                self.answers.append(_LAST_HINT)
        return out

    def _obey(self, frame: RelpFrame, out: Framed) -> bytes:
        """Do what a command says; gives the answer."""
        if frame.command == b"close":
            self.closing = True
            return b""
        if frame.command == b"open" and not self._opened:
            self._opened = True
            return _OFFER
        if frame.command != b"syslog" or not self._opened:
            return b"500 no such command"
        if frame.cut:
            out.cut[len(out.records)] = frame.cut
        if frame.data.strip(BLANKS) or frame.cut:
            out.records.append(frame.data)
        return b"200 OK"


def frame_answer(number: bytes, data: bytes) -> bytes:
    """A response frame."""
    if not data:
        return b"%b rsp 0\n" % number
    return b"%b rsp %d %b\n" % (number, len(data), data)
