"""A page in headless Chromium, spoken to over a pipe (Chrome DevTools Protocol, standard library).

The reports run no script; what is run here comes from the test, through the protocol, and sees the
page as a reader's browser has laid it out. Every request that the page makes is noted, and none is
let out: the browser gets a proxy that nobody listens on.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

#: Seconds for one answer; a busy machine is slow to start a browser.
PATIENCE: Final = 90.0
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """Where the browser is. Skips the test where there is none; with CI=true that is a failure."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        reason = "no chromium on this machine"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Browser:
    """One browser with one page."""

    def __init__(self, process: "subprocess.Popen[bytes]", read: int, write: int) -> None:
        self._process, self._read, self._write = process, read, write
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Security"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Ask one thing and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                found: dict[str, Any] = answer["result"]
                return found

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path: Path, width: int, height: int = 900) -> None:
        """Load a file at a window's size; what came before is forgotten."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        until = time.monotonic() + PATIENCE
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until
            self._next()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses of all that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Errors and warnings that the browser logged, and exceptions."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [str(event["params"]) for event in self.events if event["method"] in kinds]

    def take_picture(self, path: Path, *, whole: bool = True, most: int = 16000) -> None:
        """A PNG of the page, from its top down to `most` pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most),
                "scale": 1}  # fmt: skip
        extra = {"clip": clip, "captureBeyondViewport": True} if whole else {}
        data = self.call("Page.captureScreenshot", format="png", **extra)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self) -> bytes:
        """The page as PDF, as its own print rules have it."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser whose files are in `folder`, ended at the end."""
    program = find_chromium()
    commands, answers = os.pipe(), os.pipe()

    def give_pipes() -> None:
        # The protocol is on descriptors 3 and 4; both ends may be these numbers already.
        own = [os.dup(commands[0]), os.dup(answers[1])]
        own = [os.dup2(number, 40 + place) for place, number in enumerate(own)]
        os.dup2(own[0], 3)
        os.dup2(own[1], 4)

    process = subprocess.Popen(
        [
            program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-extensions", "--mute-audio",
            "--proxy-server=127.0.0.1:9", f"--user-data-dir={folder / 'profile'}", "about:blank",
        ],
        preexec_fn=give_pipes,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands[0])
    os.close(answers[1])
    try:
        yield Browser(process, answers[0], commands[1])
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(commands[1])
        os.close(answers[0])
