"""A syslog receiver on a local datagram socket: what an operator's collector would see."""

import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(rb"<\d{1,3}>1 \S+ \S+ \S+ \S+ (\S+) \[\S+((?: \w+=\"(?:[^\"\\\]]|\\.)*\")*)\]")
_PARAM = re.compile(rb' (\w+)="((?:[^"\\\]]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(.)")


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came: when (of `clock`), its MSGID and its structured data."""

    at: float
    kind: str
    params: dict[str, str]


def parse_message(raw: bytes, at: float) -> Received:
    """Read an RFC 5424 message of ours. Raises ValueError when it is none."""
    header = _HEADER.match(raw)
    if header is None or b"\n" in raw:
        raise ValueError(f"not one RFC 5424 message: {raw[:200]!r}")
    params = {
        name.decode(): _ESCAPE.sub(rb"\1", value).decode()
        for name, value in _PARAM.findall(header[2])
    }
    return Received(at, header[1].decode(), params)


class SyslogReceiver:
    """Receives in a thread until closed; `on_message` is called there, in order."""

    def __init__(
        self, path: Path, on_message: Callable[[Received], None], clock: Callable[[], float]
    ) -> None:
        self.messages: list[Received] = []
        self._on_message = on_message
        self._clock = clock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.2)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        while not self._stopping.is_set():
            try:
                raw = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            message = parse_message(raw, self._clock())
            self.messages.append(message)
            self._on_message(message)

    def wait_for(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Wait until `enough`, for so many seconds at the most."""
        until = time.monotonic() + seconds
        while not enough() and time.monotonic() < until:
            time.sleep(0.05)
        return enough()

    def close(self) -> None:
        """Stop receiving."""
        self._stopping.set()
        self._thread.join(2)
        self._socket.close()
