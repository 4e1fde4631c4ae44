"""The command line as a contract: help everywhere, exit codes, rules, models, configuration."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import build_parser, main
from appliance.places import default_rules


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
        "kb build",
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
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert command(capsys, "model", "build")[0] == 0  # built already: says so, does nothing


def test_missing_models_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.places.data_folders", lambda: [tmp_path])
    monkeypatch.setattr("appliance.commands.models.data_folders", lambda: [tmp_path])
    for words in (["model", "info"], ["kb", "info"], ["kb", "search", "x"]):
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
