"""The command line as a contract: help everywhere, exit codes, rules, models, configuration."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import build_parser, main
from appliance.places import default_rules
from appliance.store import Store
from tests.test_config import no_rights


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def all_commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[list[str]]:
    """Every command with its words."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield list(path)
    for group in groups:
        for name, sub in group.choices.items():
            yield from all_commands(sub, (*path, name))


COMMANDS = list(all_commands(build_parser()))


def test_the_commands_of_the_contract_are_there() -> None:
    words = {" ".join(command) for command in COMMANDS}
    assert {
        "run", "scan", "status", "findings", "incidents", "show", "kb search", "kb info",
        "kb build", "kb import", "kb show",
        "rules check", "rules test", "rules list", "model info", "model build", "config check",
    } <= words  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert "usage: appliance" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["bogus"], ["rules"], ["scan"], ["findings", "--level", "x"]]
)
def test_usage_errors_are_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_bad_configuration_is_exit_3_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("bogus: 1\nsources: []\nstate_dir: 7\n")
    for words in (["run"], ["status"], ["findings"], ["incidents"], ["config", "check"]):
        code, _, complaint = command(capsys, *words, "--config", str(path))
        assert code == 3, words
        assert f"{path}:1: bogus: unknown key" in complaint
        assert f"{path}:3: state_dir: must be text" in complaint
    assert command(capsys, "status", "--config", str(tmp_path / "none"))[0] == 3


def test_good_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(f"state_dir: {tmp_path}/s\nsources:\n  - name: a\n    paths: [/var/log/*]\n")
    code, said, _ = command(capsys, "config", "check", str(path))
    assert code == 0
    assert "1 sources" in said


def test_default_rules_load_and_pass_their_samples(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = command(capsys, "rules", "check", "--json")
    facts = json.loads(said)
    assert code == 0
    assert facts["loaded"] >= 20
    assert facts["refused"] == []
    code, said, _ = command(capsys, "rules", "test")
    assert code == 0, said
    assert f"{facts['loaded']} rules" in said
    code, said, _ = command(capsys, "rules", "list", "--json")
    assert len(json.loads(said)) == facts["loaded"]


def test_rules_test_can_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = sorted((default_rules() / "linux").glob("*.yml"))[0]
    samples = rule.with_name(rule.stem + ".samples.jsonl").read_text()
    (tmp_path / "r.yml").write_text(rule.read_text())
    assert command(capsys, "rules", "test", str(tmp_path))[0] == 1  # no samples at all
    (tmp_path / "r.samples.jsonl").write_text(samples)
    assert command(capsys, "rules", "test", str(tmp_path))[0] == 0
    swapped = samples.replace('"near_miss"', '"x"').replace('"match"', '"near_miss"')
    (tmp_path / "r.samples.jsonl").write_text(swapped.replace('"x"', '"match"'))
    code, said, _ = command(capsys, "rules", "test", str(tmp_path))
    assert code == 1
    assert "does not fire" in said
    (tmp_path / "r.samples.jsonl").write_text('{"expect": "maybe"}\n')
    code, _, complaint = command(capsys, "rules", "test", str(tmp_path))
    assert code == 1
    assert "r.samples.jsonl:1" in complaint


def test_refused_rules_are_named_with_file_line_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "aws.yml").write_text(
        "title: Cloud\nlogsource: {product: aws, service: cloudtrail}\n"
        "detection:\n  s: {a: b}\n  condition: s\n"
    )
    (tmp_path / "bad.yml").write_text("title: Bad\n\x1b[31m: [\n")
    (tmp_path / "good.yml").write_text(
        "title: Good\nlogsource: {product: windows, category: process_creation}\n"
        "detection:\n  s: {Image: b}\n  condition: s\n"
    )
    code, said, _ = command(capsys, "rules", "check", str(tmp_path))
    assert code == 1
    assert f"{tmp_path}/aws.yml:1: Cloud: no source of this version produces" in said
    assert f"{tmp_path}/bad.yml:2: " in said
    assert "1 rules loaded, 2 refused" in said
    assert "\x1b" not in said


def test_model_and_knowledge(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.fixtures_models import ensure_models

    ensure_models()
    facts = json.loads(command(capsys, "model", "info", "--json")[1])
    assert facts["verified"] is True
    assert facts["dims"] == 384
    facts = json.loads(command(capsys, "kb", "info", "--json")[1])
    assert "18.1" in json.dumps(facts)
    code, said, _ = command(
        capsys, "kb", "search", "encoded powershell command", "--json", "-k", "10"
    )
    assert code == 0
    rows = json.loads(said)
    assert len(rows) == 10
    assert "T1059.001" in [row["external_id"] for row in rows[:5]]
    assert {"id", "external_id", "type", "title", "score", "source", "version"} <= rows[0].keys()
    assert all(-1.0 <= row["score"] <= 1.0 for row in rows)
    assert command(capsys, "model", "build")[0] == 0  # built already: says so, does nothing


def test_missing_models_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.places.data_folders", lambda: [tmp_path])
    monkeypatch.setattr("appliance.commands.models.data_folders", lambda: [tmp_path])
    for words in (["model", "info"], ["kb", "info"], ["kb", "search", "x"], ["kb", "show", "x"]):
        code, _, complaint = command(capsys, *words)
        assert code == 1
        assert "appliance model build" in complaint


def test_a_closed_pipe_is_no_traceback() -> None:
    lister = subprocess.Popen(
        [sys.executable, "-m", "appliance", "rules", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert lister.stdout is not None
    assert lister.stderr is not None
    lister.stdout.read(10)
    lister.stdout.close()
    complaint = lister.stderr.read()
    lister.wait(20)
    assert complaint == b""


def run_command(
    *words: str, shell: str = "", **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    """The command in a process of its own, `shell` behind it on a shell's command line."""
    line = shlex.join([sys.executable, "-m", "appliance", *words]) + " " + shell
    return subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """The state of an appliance that has run, in a folder with an odd name."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xc3\xa4"))
    folder.mkdir()
    Store(folder / "store.db", durable=False).close()
    yield folder


LOOKS = (["findings"], ["incidents"], ["rejected"], ["show", "ab"], ["status"])


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_a_state_that_may_not_be_entered(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    command(capsys, *words, "--state", str(tmp_path))  # imports what is needed, with all rights
    with no_rights():
        code, _, complaint = command(capsys, *words, "--state", str(closed))
    assert code == 1
    assert complaint.startswith(f"appliance: {words[0]}: ")
    assert "Permission denied" in complaint
    code, _, complaint = command(capsys, *words, "--state", "/" + "n" * 300)
    assert code == 1
    assert "File name too long" in complaint


@pytest.mark.parametrize(
    "words",
    [
        [*words, option, value]
        for words, option in (
            (["findings"], "--limit"),
            (["incidents"], "--limit"),
            (["rejected"], "--limit"),
            (["show", "ab"], "--limit"),
            (["kb", "search", "x"], "-k"),
        )
        for value in ("-1", "9" * 30, "9" * 5000, "1e3", "٣", "")
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_counts_have_bounds(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert "error: argument " in complaint
    assert len(complaint) < 1000


def test_a_limit_of_nothing(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = command(capsys, "findings", "--state", str(state), "--json", "--limit", "0")
    assert (code, json.loads(said)) == (0, [])


def test_a_state_whose_name_is_no_utf8(state: Path) -> None:
    done = run_command("status", "--json", "--state", str(state))
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["state_dir"] == str(state).replace("\udcff", "\\udcff")


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["rules", "list"], ["--help"]])
def test_a_full_disk_behind_standard_output(words: list[str], state: Path) -> None:
    looks = ["--state", str(state)] if words[0] == "status" else []
    done = run_command(*words, *looks, shell=">/dev/full")
    assert done.returncode == 1
    assert done.stderr.endswith(b": No space left on device\n")
    assert done.stderr.count(b"\n") == 1


def test_streams_that_are_closed(state: Path, tmp_path: Path) -> None:
    for words in (["findings"], ["findings", "--json"]):
        done = run_command(*words, "--state", str(state), shell=">&-")
        assert done.returncode == 1
        assert done.stderr == b"appliance: findings: Bad file descriptor\n"
    done = run_command("findings", "--state", "/none", shell="2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    done = run_command("scan", "-", "--no-model", shell="<&-")
    assert done.returncode == 1
    assert done.stderr == b"appliance: scan: Bad file descriptor\n"
    log, out = tmp_path / "auth.log", tmp_path / "out.jsonl"
    log.write_text("Nov 22 09:00:00 h sshd[7]: Accepted password for root from 10.0.0.9 port 5\n")
    done = run_command(
        "scan", str(log), "--no-model", "--quiet", "--out", str(out), shell="<&- >&- 2>&-"
    )
    assert done.returncode == 0
    assert json.loads(out.read_text())["host"] == "h"


def test_what_the_terminal_cannot_show_is_escaped(state: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_command("status", "--state", str(state), **plain)
    assert done.returncode == 4, done.stderr
    log = state / "ä.log"
    log.write_text("Nov 22 09:00:00 h sshd[7]: Accepted password for root from 10.0.0.9 port 5\n")
    done = run_command("scan", str(log), "--no-model", **plain)
    assert done.returncode == 0, done.stderr
    done = run_command("scan", str(log), "--no-model", "--out", "-", **plain)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["host"] == "h"
    done = run_command("show", "ä", "--state", str(state), **plain)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_places_that_take_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["model", "build", "--to", "/proc/nope"],
        ["scan", "/" + "n" * 300],
        ["scan", "/etc/passwd/x"],
        ["scan", "/etc/hostname", "--no-model", "--rules", "/" + "n" * 300],
        ["rules", "check", "/" + "n" * 300],
    ):
        code, _, complaint = command(capsys, *words)
        assert code == 1, words
        assert complaint.splitlines()[-1].startswith(f"appliance: {words[0]}")
        assert "Traceback" not in complaint


def test_a_configuration_path_is_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[31m.yaml"
    path.write_text(f'state_dir: "{tmp_path}/\\u202ex"\nsources: [{{name: a, paths: [/x]}}]\n')
    code, said, _ = command(capsys, "config", "check", str(path))
    assert code == 0
    assert "\\x1b[31m.yaml: good" in said
    assert said.strip().isprintable()
