"""The running daemon's answer to `status`, over a Unix socket.

One question a connection: the client sends a JSON object and a newline, the daemon answers with one
and closes. The kernel tells who asks (SO_PEERCRED, unix(7)): root and the daemon's own user may.
"""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from appliance.errors import ApplianceError

QUESTION_BYTES = 4096
TIMEOUT_SECONDS = 5.0


class ControlServer:
    """Answers questions in a thread of its own until closed. `answer` may take a while, and must
    not raise anything but ApplianceError."""

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._path = path
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._closing = threading.Event()

    def start(self) -> None:
        """Listen. Raises ApplianceError when the socket can't be made."""
        try:
            self._path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                self._socket.bind(str(self._path))
            finally:
                os.umask(before)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise ApplianceError(f"control socket {self._path}: {error}") from error
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(TIMEOUT_SECONDS)
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if not self._closing.is_set():
                    continue
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(TIMEOUT_SECONDS)
                connection.sendall(orjson.dumps(self._reply(connection)) + b"\n")

    def _reply(self, connection: socket.socket) -> dict[str, Any]:
        if peer_user(connection) not in (0, os.geteuid()):
            return {"error": "only root and the appliance's own user may ask"}
        question = b""
        while not question.endswith(b"\n"):
            part = connection.recv(QUESTION_BYTES)
            if not part or len(question) + len(part) > QUESTION_BYTES:
                return {"error": "no question"}
            question += part
        try:
            asked = orjson.loads(question)
            return self._answer(asked if isinstance(asked, dict) else {})
        except (ApplianceError, orjson.JSONDecodeError) as error:
            return {"error": str(error)}


def peer_user(connection: socket.socket) -> int:
    """User id of the process at the other end of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def ask_daemon(path: Path, question: dict[str, Any]) -> dict[str, Any] | None:
    """The running daemon's answer, or None when none is running there.

    Raises ApplianceError when one is running but does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_SECONDS)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ApplianceError(f"control socket {path}: {error}") from error
        try:
            client.sendall(orjson.dumps(question) + b"\n")
            answer = b""
            while part := client.recv(1 << 16):
                answer += part
            reply = orjson.loads(answer)
        except (OSError, orjson.JSONDecodeError) as error:
            raise ApplianceError(f"the daemon at {path} does not answer: {error}") from error
    if "error" in reply:
        raise ApplianceError(f"the daemon at {path} says: {reply['error']}")
    return dict(reply)
