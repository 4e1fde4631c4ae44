"""A syslog listener in the real daemon: from a datagram or a connection to the finding."""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.config import SyslogSource
from appliance.control import ask_daemon
from appliance.sources.listening import Transport
from tests.test_daemon import ROOT_LOGIN, Box, wait_for

LINE = f"<86>Nov 22 09:00:00 jump sshd[71]: {ROOT_LOGIN}"


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        yield box
        box.stop()


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listen(box: Box, transport: Transport) -> int:
    port = free_port(socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
    spec = SyslogSource("net", "syslog", transport, f"127.0.0.1:{port}")
    box.config = replace(box.config, sources=(spec,))
    return port


def source(box: Box) -> dict[str, Any]:
    answer = wait_for(lambda: ask_daemon(box.config.control_path, {"ask": "status"}))
    row: dict[str, Any] = answer["sources"][0]
    return row


def send_tcp(port: int, data: bytes) -> bytes:
    """Send, half-close, and wait for the end: an orderly one says that all is kept."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.recv(1)


def troubles(box: Box) -> list[str]:
    return [f"{t['part']}: {t['words']}" for t in box.ask()["troubles"] if not t["notice"]]


@pytest.mark.parametrize("workers", [1, 2])
def test_tcp_to_finding(box: Box, workers: int) -> None:
    port = listen(box, "tcp")
    box.config = replace(box.config, workers=workers)
    box.start()
    wait_for(lambda: source(box).get("listening"))
    assert send_tcp(port, f"{LINE}\n{len(LINE)} no count\n".encode()) == b""
    (found,) = wait_for(box.findings)
    assert found["source"]["name"] == "net"
    assert found["source"]["path"] == "syslog tcp 127.0.0.1"
    assert found["host"] == "jump"
    wait_for(lambda: source(box)["seen"] == 2)


def test_a_workers_receiver_that_is_just_starting_holds_up_no_stop(box: Box) -> None:
    listen(box, "tcp")
    box.config = replace(box.config, workers=2)
    box.start()
    worker = wait_for(lambda: box.ask()["workers"][0]["pid"])

    def list_children() -> list[str]:
        tasks = Path(f"/proc/{worker}/task").iterdir()
        return [pid for task in tasks for pid in (task / "children").read_text().split()]

    wait_for(list_children)
    began = time.monotonic()
    box.stop()
    assert time.monotonic() - began < 4


def test_udp_to_finding(box: Box) -> None:
    port = listen(box, "udp")
    box.start()
    wait_for(lambda: source(box).get("listening"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(LINE.encode(), ("127.0.0.1", port))
    (found,) = wait_for(box.findings)
    assert found["source"]["path"] == "syslog udp 127.0.0.1"


def test_what_was_taken_is_found_after_a_restart_and_once(box: Box) -> None:
    port = listen(box, "tcp")
    box.start()
    wait_for(lambda: source(box).get("listening"))
    send_tcp(port, LINE.encode() + b"\n")
    wait_for(lambda: len(box.findings()) == 1)
    box.stop()
    box.start()
    wait_for(lambda: source(box).get("listening"))
    other = LINE.replace("203.0.113.9", "203.0.113.10")
    send_tcp(port, other.encode() + b"\n")
    wait_for(lambda: len(box.findings()) == 2)
    assert source(box)["seen"] == 2


def test_a_killed_receiver_comes_again(box: Box) -> None:
    port = listen(box, "tcp")
    box.start()
    pid = wait_for(lambda: source(box).get("pid"))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: source(box).get("pid") not in (None, pid))
    wait_for(lambda: source(box)["listening"])
    send_tcp(port, LINE.encode() + b"\n")
    wait_for(lambda: len(box.findings()) == 1)
    assert source(box)["restarts"] == 1


def test_an_address_in_use_is_said_and_clears(box: Box) -> None:
    port = listen(box, "tcp")
    with socket.create_server(("127.0.0.1", port)):
        box.start()
        (said,) = wait_for(lambda: troubles(box), 10)
        assert said.startswith("source net: ")
        assert "in use" in said
    wait_for(lambda: not troubles(box), 45)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root may")
def test_a_full_disk_below_the_spool_is_said_and_clears_and_nothing_is_lost(box: Box) -> None:
    import subprocess

    port = listen(box, "tcp")
    spool = box.folder / "state" / "spool"
    spool.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(spool)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        box.start()
        wait_for(lambda: source(box).get("listening"))
        filler = spool / "filler"
        free = shutil.disk_usage(spool).free
        filler.write_bytes(b"x" * (free - (free % 4096)))
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall((LINE + "\n").encode())
            client.shutdown(socket.SHUT_WR)
            (said,) = wait_for(lambda: troubles(box), 10)
            assert said.startswith("source net: spool")
            assert "No space left on device" in said
            assert box.findings() == []
            filler.unlink()
            client.settimeout(30)
            assert client.recv(1) == b""
        wait_for(lambda: len(box.findings()) == 1)
        wait_for(lambda: not troubles(box))
    finally:
        box.stop()
        subprocess.run(["umount", str(spool)], check=True)
