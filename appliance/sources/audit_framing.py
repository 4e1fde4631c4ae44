"""First step of the line: Linux audit records, the lines of one event joined.

One event is written as several lines (`type=SYSCALL msg=audit(1364481363.243:24287): ...`, EXECVE,
CWD, PATH, PROCTITLE, EOE) that share node, time and serial number; lines of different events can
interleave. Nothing in a line says how many there will be (auditd itself leaves EOE out of its
file), so an event counts as whole

- at its EOE;
- at the first line of another event behind a PROCTITLE that came after SYSCALL (the kernel writes
  no record but EOE behind it, kernel/auditsc.c, audit_log_exit), or behind a record of a type that
  programs send (1100-1199 and 2100-2999 of linux/audit.h), which may have a SYSCALL of the sender's
  own behind it;
- when an event begins that is OTHERS events later, or 2 s and not the first one later (the 2 s are
  libauparse's end-of-event timeout);
- when the stream ends or rests (`flush`).

So that a stream can be taken up again at `position` without losing or repeating a line, events are
given out together, as soon as none of them is open: up to there nothing of the framer's state is
needed. A long group (logs of kernels before 3.14 have no PROCTITLE, so that there is always an open
event) is ended where its events look whole, at the latest at GROUP_LINES.
"""

import re
from typing import Final

from appliance.sources.framing import Frame, LineFramer

#: An event is whole when so many others began after it.
OTHERS: Final = 32
#: An event is whole when another begins so much later, in seconds.
LATER_SECONDS: Final = 2
#: From so many lines on a group ends wherever its events look whole; at the second it does anyway.
LONG_GROUP_LINES: Final = 128
GROUP_LINES: Final = 2048

#: The head of a record: node, type, and the id.
_HEAD: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:node=([^ \n]{1,255}) )?type=([A-Z0-9_]{1,40}(?:\[\d{1,5}\])?) "
    rb"msg=audit\(((\d{1,12})(?:\.\d{1,9})?:\d{1,20})\):? ?"
)
_ITEMS: Final = re.compile(rb" items=(\d{1,4}) ")
#: Types that programs send through the audit socket: 1100-1199, 2100-2999 (linux/audit.h,
#: libaudit's audit-records.h), and the daemon's own (1200-1299).
_SENT: Final = re.compile(
    rb"(?:USER_|CRED_|SERVICE_|SYSTEM_|DAEMON_|ANOM_(?!PROMISCUOUS|ABEND|LINK|CREAT)|RESP_|CRYPTO_"
    rb"|VIRT_|ROLE_|LABEL_|(?:ADD|DEL)_(?:USER|GROUP)$|(?:GRP|ACCT|CHGRP|CHUSER)_|GRP_MGMT"
    rb"|USYS_CONFIG|CHGRP_ID|TRUSTED_APP|FS_RELABEL|SOFTWARE_UPDATE|TEST$|UNKNOWN\[(?:11|2[1-9])\d\d\])"
)


class _Event:
    """One event of the group: its lines, and what tells whether more will come."""

    __slots__ = (
        "lines",
        "number",
        "paths",
        "position",
        "size",
        "syscall",
        "time",
        "title",
    )

    def __init__(self, position: int, number: int, time: int) -> None:
        self.position = position
        self.number = number
        self.time = time
        self.lines: list[bytes] = []
        self.size = 0
        self.paths = 0
        self.syscall = b""
        self.title = False

    def add(self, line: bytes, kind: bytes) -> None:
        """Take one line more."""
        self.lines.append(line)
        self.size += len(line) + 1
        if kind == b"SYSCALL":
            self.syscall = line
        elif kind == b"PATH":
            self.paths += 1
        elif kind == b"PROCTITLE":
            self.title = True

    def looks_whole(self, *, titled: bool) -> bool:
        """True when its SYSCALL announced no more PATH records than there are, and it has its
        PROCTITLE where others have theirs."""
        if not self.syscall:
            return True
        items = _ITEMS.search(self.syscall)
        return self.paths >= int(items[1] if items else 0) and (self.title or not titled)


class AuditFramer:
    """One frame an event: its lines joined by newlines, in their order. Any other line is a record
    of its own. An EOE that says nothing, of an event that was whole before it, is passed over.

    `cap` is the longest record in bytes: a longer line is cut as LineFramer does, an event is given
    in parts of whole lines. Groups of events hold at most twice that.
    """

    def __init__(self, offset: int, cap: int, keep: int) -> None:
        self._lines = LineFramer(offset, cap, keep)
        self._cap = cap
        self._clear()

    def _clear(self) -> None:
        self._events: list[_Event] = []
        self._open: dict[bytes, _Event] = {}
        self._ripe = b""  # the open event that the first line of another one ends
        self._count = 0
        self._size = 0
        self._begun = 0
        self._titled = False
        self._after = 0

    @property
    def pending(self) -> int:
        """Bytes of unfinished events and of a line whose newline has not come yet."""
        return self._lines.pending + self._size

    @property
    def held(self) -> int:
        """Bytes of the lines of unfinished events."""
        return self._size

    @property
    def position(self) -> int:
        """Offset of the first line that was not given out."""
        return self._events[0].position if self._events else self._lines.position

    @property
    def overlong_from(self) -> int:
        """Where the unfinished line over the cap began; -1 when there is none."""
        return -1 if self._events else self._lines.overlong_from

    def resume_overlong(self, begun: int, kept: bytes) -> None:
        """Go on inside a line over the cap."""
        self._lines.resume_overlong(begun, kept)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; give the events of the groups they complete."""
        frames: list[Frame] = []
        for line in self._lines.feed(chunk):
            self._add(line, frames)
        if self._events and self._lines.overlong_from >= 0:
            self._give(frames)  # a line over the cap ends a group: here as well as at its end
        return frames

    def flush(self) -> list[Frame]:
        """Give the events whose lines are there; what comes later of them is an event of its
        own."""
        frames: list[Frame] = []
        self._give(frames)
        return frames

    def finish(self) -> list[Frame]:
        """Give everything, also the last line, which no newline ended."""
        frames: list[Frame] = []
        for line in self._lines.finish():
            self._add(line, frames)
        self._give(frames)
        return frames

    def _add(self, line: Frame, frames: list[Frame]) -> None:
        if line.truncated:
            self._give(frames)
            frames.append(line)
            return
        head = _HEAD.match(line.data)
        key = head[3] if head else b""
        if head and head[1]:
            key = head[1] + b" " + key
        if self._ripe and self._ripe != key:
            self._close(self._ripe, frames)
        if head is None:
            self._begin(line, 0).add(line.data, b"")
        elif not self._join(line, key, head, frames):
            return
        self._after = line.next
        self._count += 1
        self._size += line.next - line.position
        if not self._open or self._count >= GROUP_LINES or self._size > 2 * self._cap:
            self._give(frames)

    def _join(self, line: Frame, key: bytes, head: re.Match[bytes], frames: list[Frame]) -> bool:
        """Put the line to its event; False when it is an EOE that nothing waits for."""
        kind = head[2]
        event = self._open.get(key)
        if event is not None and event.size + len(line.data) > self._cap:
            del self._open[key]  # the rest of it becomes an event of the same id
            event = None
        if event is None:
            if kind == b"EOE" and not line.data[head.end() :].strip():
                return False
            time = int(head[4])
            self._close_older(time, frames)
            event = self._open[key] = self._begin(line, time)
        event.add(line.data, kind)
        self._titled = self._titled or event.title or kind == b"EOE"
        self._ripe = b""
        if kind == b"EOE":
            del self._open[key]
        elif (event.title and event.syscall and kind == b"PROCTITLE") or (
            not event.syscall and _SENT.match(kind)
        ):
            self._ripe = key
        return True

    def _begin(self, line: Frame, time: int) -> _Event:
        event = _Event(line.position, self._begun, time)
        self._begun += 1
        self._events.append(event)
        return event

    def _close_older(self, time: int, frames: list[Frame]) -> None:
        """End the events that are whole now that another one begins at `time`."""
        events = self._open
        if not events:
            return
        while events:
            key, oldest = next(iter(events.items()))
            others = self._begun - oldest.number
            if others < (OTHERS if time - oldest.time < LATER_SECONDS else 2):
                break
            del events[key]
        # In a log of which only some events have titles none may ever look whole.
        titled = self._titled and self._count < GROUP_LINES // 2
        if not events or (
            self._count >= LONG_GROUP_LINES
            and all(event.looks_whole(titled=titled) for event in events.values())
        ):
            self._give(frames)

    def _close(self, key: bytes, frames: list[Frame]) -> None:
        self._ripe = b""
        self._open.pop(key, None)
        if not self._open:
            self._give(frames)

    def _give(self, frames: list[Frame]) -> None:
        """Give all events of the group, in the order in which they began."""
        after = self._after
        for event in self._events:
            lines = event.lines
            data = lines[0] if len(lines) == 1 else b"\n".join(lines)
            frames.append(Frame(data, event.position, after))
        self._clear()
