"""Configuration: every mistake at once, each with its line; nothing ignored."""

from pathlib import Path

import pytest

from appliance.config import Config, load_config, parse_config
from appliance.errors import ConfigError

GOOD = """\
state_dir: {folder}/state
sources:
  - name: sysmon
    type: files
    paths: ["{folder}/*.jsonl"]
    timezone: Europe/Berlin
  - name: auth
    type: files
    paths: [/var/log/auth.log]
    format: syslog3164
    start_at: end
sinks:
  - {{name: siem, type: syslog, transport: tcp, address: "192.0.2.7:601"}}
  - {{name: v6, type: syslog, transport: udp, address: "[2001:db8::1]:514", kinds: [finding]}}
  - {{name: out, type: file, path: {folder}/findings.jsonl}}
correlate: {{window_seconds: 600}}
limits: {{record_bytes: 4096}}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "a.yaml")
    return caught.value.problems


def test_a_good_one(tmp_path: Path) -> None:
    config = parse_config(GOOD.format(folder=tmp_path), "a.yaml")
    assert [s.name for s in config.sources] == ["sysmon", "auth"]
    assert config.sources[1].start_at == "end"
    assert [s.name for s in config.sinks] == ["siem", "v6", "out"]
    assert config.correlate.window_seconds == 600.0
    assert config.limits.record_bytes == 4096
    assert config.limits.judge_queue == Config().limits.judge_queue
    assert config.control_path == tmp_path / "state" / "control.sock"


def test_every_mistake_is_said_with_its_line() -> None:
    text = """\
state_dir: 5
bogus: 1
sources:
  - name: a
    paths: [var/log/x]
    start_at: middle
    timezone: Mars/Olympus
  - name: a
    type: files
sinks:
  - {name: s, type: syslog, transport: tcp, address: nohost}
  - {name: f, type: pigeon}
  - {name: o, type: file, path: /no/such/folder/x.jsonl, mode: 7}
limits: {batch_records: -3, x: 1}
rules: [/no/such/rules]
model: perhaps
"""
    found = problems(text)
    expected = [
        ("a.yaml:1: state_dir:", "must be text"),
        ("a.yaml:2: bogus:", "unknown key"),
        ("a.yaml:5: sources[0].paths[0]:", "absolute path"),
        ("a.yaml:6: sources[0].start_at:", "beginning, end"),
        ("a.yaml:7: sources[0].timezone:", "no such time zone"),
        ("a.yaml:8: sources[1].paths:", "is missing"),
        ("a.yaml:8: sources[1].name:", "already used on line 4"),
        ("a.yaml:11: sinks[0].address:", "host:port"),
        ("a.yaml:12: sinks[1].type:", "file, syslog"),
        ("a.yaml:13: sinks[2].mode:", "unknown key"),
        ("a.yaml:13: sinks[2].path:", "no such folder"),
        ("a.yaml:14: limits.batch_records:", "greater than 0"),
        ("a.yaml:14: limits.x:", "unknown key"),
        ("a.yaml:15: rules[0]:", "no such file or folder"),
        ("a.yaml:16: model:", "true or false"),
    ]
    assert len(found) == len(expected), "\n".join(found)
    for text_found, (start, reason) in zip(found, expected, strict=True):
        assert text_found.startswith(start)
        assert reason in text_found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("- a\n- b\n", "mapping"),
        ("state_dir: /x\n", "at least one source"),
        ("sources: [\n", "expected"),
        ("a: *nothing\n", "undefined alias"),
        ("state_dir: /a\nstate_dir: /b\nsources: []\n", "given twice"),
        ("[" * 5000, "a.yaml:"),
    ],
)
def test_what_is_no_configuration(text: str, reason: str) -> None:
    assert any(reason in problem for problem in problems(text))


def test_two_sinks_on_one_file(tmp_path: Path) -> None:
    text = (
        GOOD.format(folder=tmp_path)
        + f"rescan_seconds: 1\nhostname: h\ncontrol_socket: {tmp_path}/c\n"
    )
    text = text.replace(
        "correlate:",
        f"  - {{name: again, type: file, path: {tmp_path}/./findings.jsonl}}\ncorrelate:",
    )
    assert any("also written by" in problem for problem in problems(text))


def test_an_unreadable_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "bad.yaml")
