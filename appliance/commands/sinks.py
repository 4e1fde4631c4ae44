"""`sink test`: a message of the operator's own through one sink or all."""

import argparse
import platform
import time
from typing import Any

from appliance.commands.settings import read_config
from appliance.config import Config, FileSink, SyslogSink, describe_sink
from appliance.control import ask_daemon
from appliance.emit.render import render_time
from appliance.emit.sinks import build_sink
from appliance.errors import ApplianceError, EmitError, Exit, UsageError
from appliance.schema import Message, SinkPosition, digest
from appliance.selftest import Scene, await_delivery, look_at_sink
from appliance.view import View, clean

SinkSpec = SyslogSink | FileSink

#: What a test message says.
TEST_TEXT = "a test message that an operator asked for; nothing was found"


def test(args: argparse.Namespace) -> Exit:
    """`appliance sink test`: exit 1 when a sink has not got it."""
    config = read_config(args)
    sinks = _choose(config, args.name)
    now = time.time()
    running = ask_daemon(config.control_path, {"ask": "status"}) is not None
    if running:
        rows = _test_running(config, sinks, now)
    else:
        rows = [{"name": sink.name, **_test_stopped(sink, config, now)} for sink in sinks]
    view = View()
    if args.json:
        view.json({"running": running, "sinks": rows})
    else:
        for row in rows:
            view.line(
                f"{'ok' if row['delivered'] else 'FAIL':<4}  {clean(row['name'])}: "
                f"{clean(row['words'], 2000)}",
                "" if row["delivered"] else "bold red",
            )
        view.line(
            "sent by the running daemon, to every sink that takes tests"
            if running
            else "the daemon is not running: sent by this command"
        )
    return Exit.DONE if all(row["delivered"] for row in rows) else Exit.FOUND_OR_FAILED


def _choose(config: Config, name: str | None) -> list[SinkSpec]:
    """The sink of this name, or all. Raises UsageError when there is none."""
    chosen = [sink for sink in config.sinks if name in (None, sink.name)]
    if not chosen:
        known = ", ".join(sink.name for sink in config.sinks) or "none is configured"
        raise UsageError(f"no sink is called {name!r}: {known}" if name else known)
    return chosen


def _test_running(config: Config, sinks: list[SinkSpec], now: float) -> list[dict[str, Any]]:
    """Through the running daemon's own sinks, behind what they have still to deliver."""
    told = [sink for sink in sinks if "test" in sink.kinds]
    done: dict[str, str] = {
        sink.name: "its kinds leave out `test`: nothing was sent"
        for sink in sinks
        if "test" not in sink.kinds
    }
    if told:
        names = [sink.name for sink in told]
        answer = ask_daemon(config.control_path, {"ask": "sink_test", "sinks": names})
        key = (answer or {}).get("id")
        if not isinstance(key, str):
            raise ApplianceError("the daemon does not say what it sent")
        done |= await_delivery(Scene(config, "", answer, now), key, names)
    return [
        {
            "name": sink.name,
            "delivered": not done[sink.name],
            "words": done[sink.name] or "delivered" + _qualify(sink),
        }
        for sink in sinks
    ]


def _qualify(sink: SinkSpec) -> str:
    """What "delivered" is worth where nobody acknowledges."""
    if isinstance(sink, FileSink):
        return ""
    return " as far as the transport can tell: look for it at the receiver"


def _test_stopped(sink: SinkSpec, config: Config, now: float) -> dict[str, Any]:
    """Through a sink of this command's own. A file is only looked at: the daemon knows by its
    length what is its own in it."""
    if isinstance(sink, FileSink):
        state, words = look_at_sink(sink)
        return {"delivered": state == "ok", "words": words}
    stamp = render_time(now) or ""
    key = digest("test", sink.name, stamp)
    body = {"kind": "test", "id": key, "time": stamp, "text": TEST_TEXT}
    settings = describe_sink(sink)
    try:
        opened = build_sink(sink.name, settings, hostname=config.hostname or platform.node() or "-")
        if "test" not in sink.kinds:
            return {"delivered": False, "words": "its kinds leave out `test`: nothing was sent"}
        try:
            opened.deliver([Message(1, "test", key, now, body)], SinkPosition())
        finally:
            opened.close()
    except (EmitError, ValueError) as error:
        return {"delivered": False, "words": str(error)}
    return {"delivered": True, "words": f"delivered to {opened.state().target}" + _qualify(sink)}
