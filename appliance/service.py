"""The daemon's edge towards systemd: readiness and watchdog (sd_notify(3)), and where its own
messages go. Outside systemd every call does nothing, and messages go to standard error.

What is logged quotes logs, and log text is hostile: control characters are shown, never sent.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TextIO

from systemd import daemon, journal

from appliance.emit.text import cap_text, show_hidden
from appliance.sources.journal import Own

#: Longest message and longest field of one, in characters.
MESSAGE_CHARACTERS: Final = 16_384
FIELD_CHARACTERS: Final = 1024
#: Longest text of `systemctl status`.
STATUS_CHARACTERS: Final = 256
#: Name under which the journal and syslog know the daemon's messages.
IDENTIFIER: Final = "appliance"

#: Attributes of a log record (`log.info(..., extra={"source": name})`) -> fields of the journal.
_EXTRA: Final = {
    "source": "APPLIANCE_SOURCE",
    "sink": "APPLIANCE_SINK",
    "rule": "APPLIANCE_RULE",
}  # fmt: skip
#: Severities of RFC 5424, section 6.2.1, by the least level that has them.
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG: Final = 7


def _send(state: str) -> bool:
    return bool(daemon.notify(state))


class Service:
    """What the daemon tells the service manager. Raises nothing: a manager that does not listen is
    no reason to stop.

    `beat` feeds the watchdog, so it must be called by the line's own turn and by nothing else: a
    line that hangs must be seen to hang.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str] = os.environ,
        send: Callable[[str], bool] = _send,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._monotonic = monotonic
        self._status = ""
        self._last_beat: float | None = None
        #: Seconds within which the manager wants a sign of life; 0 when it wants none.
        self.watchdog_seconds = read_watchdog(environ, os.getpid())

    def ready(self) -> None:
        """The daemon has started, or has taken over a new configuration."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """A new configuration is being read; `ready` must follow, also when it was refused."""
        # systemd 253 and newer take the time for Type=notify-reload; older ones pass over it.
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={int(self._monotonic() * 1e6)}")

    def stopping(self) -> None:
        """The daemon was told to stop and is doing so."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it is another than the last one."""
        shown = show_hidden(cap_text(text, STATUS_CHARACTERS))
        if shown != self._status:
            self._status = shown
            self._tell(f"STATUS={shown}")

    def beat(self, now: float) -> None:
        """The line turns. `now` is in seconds of any clock; sent at most four times in the time
        that the watchdog waits, so that a turn may take three quarters of it."""
        if not self.watchdog_seconds:
            return
        last = self._last_beat
        # A clock that was set back is no reason to be silent.
        if last is None or now < last or now - last >= self.watchdog_seconds / 4:
            self._last_beat = now
            self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        try:
            self._send(state)
        except (OSError, ValueError) as error:
            logging.getLogger(IDENTIFIER).debug("service manager: %s", error)


def read_watchdog(environ: Mapping[str, str], pid: int) -> float:
    """Seconds within which WATCHDOG=1 is expected of this process (sd_watchdog_enabled(3)); 0 when
    it is not."""
    period = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID", str(pid))
    if not period.isascii() or not period.isdecimal() or len(period) > 18 or meant != str(pid):
        return 0.0
    return int(period) / 1e6


def find_own_entries(since: float, environ: Mapping[str, str] = os.environ) -> Own:
    """Which of the journal's entries are this process' own, from `since` (epoch seconds) on: a
    journal source leaves these out."""
    boot = _read_line("/proc/sys/kernel/random/boot_id").replace("-", "")
    unit = ""
    # A daemon that somebody started in a shell shares its unit with everything else there.
    if environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        unit = find_unit(_read_line("/proc/self/cgroup"))
    return Own(unit=unit, pid=os.getpid(), boot=boot, since=since)


def find_unit(cgroup: str) -> str:
    """The system unit that a line of /proc/PID/cgroup names (cgroups(7)), "" for none: the first
    part of its path that is no slice."""
    parts = cgroup.rpartition(":")[2].strip("/").split("/")
    unit = next((part for part in parts if not part.endswith(".slice")), "")
    return unit if unit.endswith(".service") and not unit.startswith("user@") else ""


def _read_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""


def is_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """True when what is written to the stream goes to the journal: it is the very one that systemd
    connected (systemd.exec(5), JOURNAL_STREAM), not another that took its number."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return bool(colon) and (device, inode) == (str(status.st_dev), str(status.st_ino))


class OneLine(logging.Formatter):
    """`LEVEL logger: message` in one line of visible characters, an exception behind it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Raises what a wrong format string raises, as every Formatter does."""
        return show_hidden(cap_text(super().format(record), MESSAGE_CHARACTERS))


class JournalHandler(logging.Handler):
    """Writes to the journal: MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, LOGGER, and what `extra=` says
    of source, sink and rule. What the journal does not take goes to `fallback`."""

    def __init__(
        self, fallback: logging.Handler, send: Callable[..., object] = journal.sendv
    ) -> None:
        super().__init__()
        self._fallback = fallback
        self._send_fields = send
        self.setFormatter(OneLine("%(message)s"))
        fallback.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message. Raises nothing."""
        try:
            self._send_fields(*self.list_fields(record))
        except (OSError, ValueError):
            self._fallback.emit(record)
        except Exception:  # what a wrong format string raises; told as logging tells it
            self.handleError(record)

    def list_fields(self, record: logging.LogRecord) -> list[str]:
        """The entry's fields as NAME=value."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(find_priority(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "LOGGER": record.name,
        }
        for name, field in _EXTRA.items():
            if (value := getattr(record, name, None)) is not None:
                fields[field] = show_hidden(cap_text(str(value), FIELD_CHARACTERS))
        return [f"{name}={value}" for name, value in fields.items()]


def find_priority(level: int) -> int:
    """The syslog severity of a level of `logging`."""
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def set_up_logging(
    stream: TextIO | None = None, environ: Mapping[str, str] = os.environ, level: int = logging.INFO
) -> logging.Handler:
    """Have messages go to the journal with their fields when systemd connected `stream` (standard
    error) to it, else to `stream`; return the handler that was put on the root logger in place of
    those that were there."""
    stream = stream or sys.stderr
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    if is_journal(stream, environ):
        handler = JournalHandler(handler)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells how it was loaded
    return handler
