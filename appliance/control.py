"""The running daemon's answer to `status`, and to what operators do, over a Unix socket.

One question a connection: the client sends a JSON object and a newline, the daemon answers with one
and closes. The kernel tells who asks (SO_PEERCRED, unix(7)): root and the daemon's own user may.
"""

import contextlib
import logging
import os
import pwd
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from appliance.emit.text import show_surrogates
from appliance.errors import ApplianceError

log = logging.getLogger("appliance")

QUESTION_BYTES = 1 << 16
TIMEOUT_SECONDS = 5.0
#: How long `close` waits for the answer at hand.
CLOSE_SECONDS = 1.0
#: Longest path of a Unix socket in bytes: `sun_path` of unix(7) has 108 with the NUL.
SOCKET_BYTES = 107
#: A question is one line, written at once; who takes longer must not hold up the others.
QUESTION_SECONDS = 1.0
ACCEPT_RETRY_SECONDS = 0.1


class ControlServer:
    """Answers questions in a thread of its own until closed, one after another. `answer` gives JSON
    values or raises ApplianceError; anything else it raises is logged and told to who asked. A
    question with the key `act` goes to `act` instead, with the user id of who asks."""

    def __init__(
        self,
        path: Path,
        answer: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        act: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
    ) -> None:
        self._path = path
        self._answer = answer
        self._act = act
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._closing = threading.Event()

    def start(self) -> None:
        """Listen; a socket that an earlier run left is replaced. Raises ApplianceError when the
        socket can't be made, or something else is at its path."""
        try:
            _remove_stale(self._path)
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
        # Not is_alive: the thread may have ended already, and what it listened on is still there.
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed, or out of file descriptors for a while
                self._closing.wait(ACCEPT_RETRY_SECONDS)
                continue
            with connection, contextlib.suppress(OSError):
                reply = self._reply(connection)
                connection.settimeout(TIMEOUT_SECONDS)
                connection.sendall(reply + b"\n")

    def _reply(self, connection: socket.socket) -> bytes:
        """The answer to the question on this connection, as JSON. Raises OSError."""
        try:
            # Read before refusing: closing on an unread question resets the connection, and the
            # client would see that instead of the reason.
            question = _read_question(connection)
        except ApplianceError as error:
            return _refuse(str(error))
        user = peer_user(connection)
        if user not in (0, os.geteuid()):
            return _refuse("only root and the appliance's own user may ask")
        try:
            if self._act is not None and "act" in question:
                return orjson.dumps(self._act(question, user))
            return orjson.dumps(self._answer(question))
        except ApplianceError as error:
            return _refuse(str(error))
        except Exception as error:  # `status` must not go silent over one fault
            log.exception("control socket")
            return _refuse(f"fault in the daemon: {type(error).__name__}: {error}")


def _refuse(reason: str) -> bytes:
    # JSON has no lone surrogate, and a reason may quote anything.
    return orjson.dumps({"error": show_surrogates(reason)})


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError("something else is there")
        path.unlink()


def _read_question(connection: socket.socket) -> dict[str, Any]:
    """One line with a JSON object. Raises ApplianceError for anything else, OSError."""
    until = time.monotonic() + QUESTION_SECONDS
    question = b""
    while b"\n" not in question:
        left = until - time.monotonic()
        if left <= 0:
            raise ApplianceError("no question came in time")
        connection.settimeout(left)
        try:
            part = connection.recv(QUESTION_BYTES)
        except TimeoutError:
            continue
        if not part:
            raise ApplianceError("no question")
        question += part
        if len(question) > QUESTION_BYTES:
            raise ApplianceError(f"the question is longer than {QUESTION_BYTES} bytes")
    try:
        asked = orjson.loads(question.partition(b"\n")[0])
    except orjson.JSONDecodeError as error:
        raise ApplianceError(f"the question is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise ApplianceError("the question is not a JSON object")
    return asked


def peer_user(connection: socket.socket) -> int:
    """User id of the process at the other end of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def name_user(user: int) -> str:
    """A user id as the audit log names it: "anna (uid 1000)"."""
    try:
        name = pwd.getpwuid(user).pw_name
    except (KeyError, OverflowError):
        name = "unknown"
    return f"{name} (uid {user})"


def ask_daemon(
    path: Path, question: dict[str, Any], *, seconds: float = TIMEOUT_SECONDS
) -> dict[str, Any] | None:
    """The running daemon's answer, or None when none is running there. `seconds` is how long it may
    take.

    Raises ApplianceError when one is running but does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(seconds)
        if len(os.fsencode(path)) > SOCKET_BYTES:
            return None  # no daemon could have bound it
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
    if not isinstance(reply, dict):
        raise ApplianceError(f"the daemon at {path} does not answer with an object")
    if "error" in reply:
        raise ApplianceError(f"the daemon at {path} says: {reply['error']}")
    return reply
