"""Configuration: every mistake at once, each with its line; nothing ignored."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from appliance.config import Config, FilesSource, Limits, load_config, parse_config
from appliance.engine import open_sink
from appliance.errors import ConfigError
from appliance.schema import ignore_step

GOOD = """\
state_dir: {folder}/state
sources:
  - name: sysmon
    type: files
    paths: ["{folder}/logs/*.jsonl"]
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
    auth = config.sources[1]
    assert isinstance(auth, FilesSource)
    assert auth.start_at == "end"
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
        ("a.yaml:14: limits.batch_records:", "1 to 100,000"),
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


BASE = "sources:\n  - {name: a, paths: [/var/log/x]}\n"
LONG = "n" * 300


@contextlib.contextmanager
def no_rights() -> Iterator[None]:
    """As another user than root, whom no permission holds up."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("rescan_seconds: .nan", "rescan_seconds"),
        ("rescan_seconds: .inf", "rescan_seconds"),
        ("rescan_seconds: 1.0e-300", "rescan_seconds"),
        ("correlate: {window_seconds: .nan}", "correlate.window_seconds"),
        ("correlate: {max_span_seconds: .inf}", "correlate.max_span_seconds"),
        (f"correlate: {{window_seconds: {10**400}}}", "correlate.window_seconds"),
        (f"limits: {{record_bytes: {1 << 30}}}", "limits.record_bytes"),
        *((f"limits: {{{f.name}: {1 << 64}}}", f"limits.{f.name}") for f in fields(Limits)),
        ('state_dir: ""', "state_dir"),
        ("state_dir: /etc/passwd", "state_dir"),
        (f"state_dir: /{LONG}", "state_dir"),
        (f"state_dir: /tmp/{'d/' * 60}", "state_dir"),
        (f"control_socket: /tmp/{'d/' * 60}s", "control_socket"),
        ('state_dir: "/tmp/\\e[31mX"', "state_dir"),
        ("hostname: two words", "hostname"),
        ("hostname: höst", "hostname"),
        (f"hostname: {LONG}", "hostname"),
        ("model: !!bool maybe", "model"),
        ("hostname: !!timestamp foo", "hostname"),
        ('rescan_seconds: !!int ""', "rescan_seconds"),
        ("hostname: !!python/object:os.system x", "hostname"),
        (f"rules: [/{LONG}]", "rules[0]"),
        ('rules: ["/x\\0y"]', "rules[0]"),
        ('rules: [""]', "rules[0]"),
        (f"models_dir: /{LONG}", "models_dir"),
        ('"a\\nb: is fine": 1', "a\\x0ab: is fine"),
    ],
    ids=lambda value: value[:40],
)
def test_values_out_of_range(text: str, key: str) -> None:
    (found,) = problems(f"{BASE}{text}\n")
    assert found.startswith(f"a.yaml:3: {key}: ")
    assert found.isprintable()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (r'{name: "\uD800", paths: [/x]}', "name"),
        (r'{name: "a\nb", paths: [/x]}', "name"),
        ('{name: "", paths: [/x]}', "name"),
        (f"{{name: {LONG}, paths: [/x]}}", "name"),
        (r'{name: s, paths: ["/x\0y"]}', "paths[0]"),
        (f"{{name: s, paths: [/{LONG}/x]}}", "paths[0]"),
        (f"{{name: s, paths: [/x], timezone: {LONG}}}", "timezone"),
        ("{name: s, paths: x}", "paths"),
    ],
)
def test_what_a_source_cannot_be(text: str, key: str) -> None:
    (found,) = problems(f"sources:\n  - {text}\n")
    assert found.startswith(f"a.yaml:2: sources[0].{key}: ")
    assert found.isprintable()


@pytest.mark.parametrize(
    ("sink", "keys"),
    [
        ("type: syslog, transport: tcp, address: 'h h:1'", ["address"]),
        ("type: syslog, transport: tcp, address: 'h:٣'", ["address"]),
        ("type: syslog, transport: udp, address: 'h:70000'", ["address"]),
        ("type: syslog, transport: unix, address: ''", ["address"]),
        ("type: syslog, transport: unix, address: dev/log", ["address"]),
        (f"type: syslog, transport: unix, address: /{'d/' * 60}", ["address"]),
        ("type: syslog, transport: tcp, address: 'h:1', facility: local9", ["facility"]),
        ("type: syslog, transport: tcp, address: 'h:1', enterprise: '3x'", ["enterprise"]),
        ("type: syslog, transport: tcp, address: 'h:1', max_bytes: 479", ["max_bytes"]),
        ("type: syslog, transport: udp, address: 'h:1', max_bytes: 70000", ["max_bytes"]),
        (
            "type: syslog, transport: tcp, address: x, facility: y, enterprise: z, max_bytes: 1",
            ["address", "facility", "enterprise", "max_bytes"],
        ),
        ("type: file, path: ''", ["path"]),
        ("type: file, path: /", ["path"]),
        (r'type: file, path: "/tmp/a\0b"', ["path"]),
        (f"type: file, path: /tmp/{LONG}", ["path"]),
        (f"type: file, path: /{LONG}/x", ["path"]),
        ("type: file, path: /dev/null", ["path"]),
        ("type: file, path: /tmp", ["path"]),
    ],
)
def test_a_sink_that_the_daemon_would_refuse_is_named_with_its_key(
    sink: str, keys: list[str]
) -> None:
    found = problems(f"{BASE}sinks:\n  - {{name: s, {sink}}}\n")
    assert [text.split(": ")[1] for text in found] == [f"sinks[0].{k}" for k in keys]
    assert all(text.startswith("a.yaml:4: ") and text.isprintable() for text in found)


def test_what_passes_the_check_is_what_the_daemon_builds(tmp_path: Path) -> None:
    config = parse_config(GOOD.format(folder=tmp_path), "a.yaml")
    sinks = [open_sink(spec, config, ignore_step) for spec in config.sinks]
    assert [sink.state().target for sink in sinks] == [
        "tcp://192.0.2.7:601", "udp://[2001:db8::1]:514", f"{tmp_path}/findings.jsonl",
    ]  # fmt: skip
    text = (
        BASE + "sinks:\n  - {name: s, type: syslog, transport: tcp, address: 'h:1', max_bytes: 0}"
    )
    config = parse_config(text, "a.yaml")
    assert open_sink(config.sinks[0], config, ignore_step).name == "s"


def test_places_that_may_not_be_entered(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    text = f"""\
state_dir: {closed}/state
rules: [{closed}/rules]
models_dir: {closed}/models
sinks: [{{name: s, type: file, path: {closed}/out/x.jsonl}}]
{BASE}"""
    with no_rights():
        found = problems(text)
    assert [text.split(": ")[1] for text in found] == [
        "state_dir", "rules[0]", "models_dir", "sinks[0].path",
    ]  # fmt: skip
    assert all("Permission denied" in text for text in found)


@pytest.mark.parametrize("text", [r'a: "\UFFFFFFFF"', "a: \x07", "? [a, b]\n: 1\n", "!!x a"])
def test_odd_yaml_is_one_problem_a_line(text: str) -> None:
    assert all(problem.isprintable() for problem in problems(text))


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than"):
        load_config(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="File name too long"):
        load_config(tmp_path / LONG)


@pytest.mark.parametrize(
    ("pattern", "circle"),
    [
        ("{folder}", True),
        ("{folder}/*.jsonl", True),
        ("{folder}/**/*", True),
        ("{folder}/**", True),
        ("{folder}/findings.jsonl", True),
        ("{folder}/logs", False),
        ("{folder}/*.log", False),
        ("{folder}/*/*.jsonl", False),
        ("{folder}x/*.jsonl", False),
    ],
)
def test_no_source_may_follow_what_is_written(tmp_path: Path, pattern: str, circle: bool) -> None:
    text = (
        f"state_dir: /var/lib/elsewhere\nsources:\n"
        f"  - {{name: all, paths: ['{pattern.format(folder=tmp_path)}']}}\n"
        f"sinks:\n  - {{name: out, type: file, path: {tmp_path}/findings.jsonl}}\n"
    )
    try:
        parse_config(text, "a.yaml")
        found = []
    except ConfigError as error:
        found = error.problems
    assert any("is followed by source 'all'" in problem for problem in found) is circle


def test_no_source_may_follow_the_state(tmp_path: Path) -> None:
    found = problems(f"state_dir: {tmp_path}/s\nsources:\n  - {{name: all, paths: [{tmp_path}]}}\n")
    assert any("a.yaml:1: state_dir" in problem and "followed" in problem for problem in found)
