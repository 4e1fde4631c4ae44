"""The operator's word on rules: levels, rules switched off, suppressions that expire."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.cli import main
from appliance.config import Config, load_config
from appliance.correlate.incidents import CorrelationLimits, Correlator, Stored
from appliance.detect.sigma.overrides import NO_OVERRIDES, Overrides, read_overrides
from appliance.errors import ConfigError
from appliance.explain import explain_finding
from appliance.health import Health
from appliance.judge.bench import Answer
from appliance.pipeline import Line, apply_answers, join_work, read_records
from appliance.schema import (
    Detection,
    Event,
    LogSource,
    RuleInfo,
    SourceBatch,
    Verdict,
    View,
)
from appliance.store import Batch, Store
from tests.builders import T0, make_event, make_rule
from tests.test_daemon import ROOT_LOGIN, wait_for
from tests.test_pipeline import SYSMON, make_line, make_reader, records
from tests.test_reload import FileBox

RULE = "5f0b1c55-0bb1-4ef0-8f0e-0d2a3d6f0a01"
#: The day of T0 is 2023-11-14.
FILE = f"""\
rules:
  quiet: {{level: low, reason: every night}}
  gone: {{enabled: false}}
suppressions:
  - rule: {RULE}
    where:
      User: backup
      Image|endswith: ['\\restic.exe', '\\tar.exe']
    reason: nightly backup, ticket 4711
    expires: 2023-11-20
  - rule: {RULE}
    where: {{event.host: web, event.source: logs, Port|gte: 1024}}
    reason: the web server
    expires: 2023-11-14T22:30:00
"""


def write(folder: Path, text: str = FILE) -> Path:
    path = folder / "overrides.yaml"
    path.write_text(text)
    return path


def detect(rule: str = RULE, *, at: float = T0, host: str = "web", **fields: Any) -> Detection:
    event: Event = msgspec.structs.replace(
        make_event(received=at), host=host, views=(View(LogSource("windows"), fields),)
    )
    return Detection("sigma", rule, "t", "high", (), (), event, LogSource("windows"), ())


def suppressed(overrides: Overrides, detection: Detection) -> str:
    review = overrides.review(detection)
    assert review is not None
    assert review.detection == detection
    return review.suppressed


@pytest.fixture
def overrides(tmp_path: Path) -> Overrides:
    return read_overrides(write(tmp_path))


def test_levels_and_rules_switched_off(overrides: Overrides) -> None:
    review = overrides.review(detect("quiet"))
    assert review is not None
    assert (review.detection.level, review.own_level) == ("low", "high")
    assert overrides.review(detect("gone")) is None
    other = overrides.review(detect("another"))
    assert other is not None
    assert (other.detection.level, other.own_level, other.suppressed) == ("high", None, "")
    assert overrides.disabled == {"gone"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"User": "BACKUP", "Image": r"C:\Restic.exe"}, "nightly backup, ticket 4711"),
        ({"User": "backup", "Image": r"C:\tar.exe", "x": 1}, "nightly backup, ticket 4711"),
        ({"User": "backup", "Image": r"C:\restic.exe.bak"}, ""),
        ({"User": "eve", "Image": r"C:\restic.exe"}, ""),
        ({"Image": r"C:\restic.exe"}, ""),
        ({"Port": 8080}, "the web server"),
        ({"Port": 80}, ""),
    ],
)
def test_suppressions_match_all_their_fields(
    overrides: Overrides, fields: dict[str, Any], reason: str
) -> None:
    assert suppressed(overrides, detect(**fields)) == reason
    assert suppressed(overrides, detect("another", **fields)) == ""


def test_the_events_own_host_and_source(overrides: Overrides) -> None:
    assert suppressed(overrides, detect(Port=8080)) == "the web server"
    assert suppressed(overrides, detect(Port=8080, host="files")) == ""
    # A field of the log that has the name of the event's own does not count.
    forged: dict[str, Any] = {"Port": 8080, "event.host": "web"}
    assert suppressed(overrides, detect(host="x", **forged)) == ""


def test_fields_must_meet_in_one_view(overrides: Overrides) -> None:
    found = detect(User="backup")
    more = View(LogSource("windows"), {"Image": r"C:\restic.exe"})
    event = msgspec.structs.replace(found.event, views=(*found.event.views, more))
    assert suppressed(overrides, msgspec.structs.replace(found, event=event)) == ""


def test_suppressions_expire_by_themselves(overrides: Overrides) -> None:
    fields: dict[str, Any] = {"User": "backup", "Image": r"C:\restic.exe"}
    end = datetime(2023, 11, 21, tzinfo=UTC).timestamp()  # the day that is named still counts
    assert suppressed(overrides, detect(at=end - 1, **fields))
    assert not suppressed(overrides, detect(at=end, **fields))
    moment = datetime(2023, 11, 14, 22, 30, tzinfo=UTC).timestamp()
    assert suppressed(overrides, detect(at=moment - 1, Port=8080))
    assert not suppressed(overrides, detect(at=moment, Port=8080))
    assert [each.line for each in overrides.expired(moment)] == [11]
    assert len(overrides.expired(end)) == 2
    assert overrides.describe(moment)["expired"][0]["rule"] == RULE


def test_an_expired_suppression_is_a_notice(overrides: Overrides) -> None:
    health = Health(Config(), {}, T0)
    facts = {"overrides": overrides.describe(T0 + 10 * 86400)}
    troubles = health.look(T0 + 10 * 86400, facts)
    assert [(t.part, t.notice) for t in troubles] == [("overrides", True)] * 2
    assert "line 5 has expired" in troubles[0].words
    assert "ticket 4711" in troubles[0].words
    assert health.look(T0, {"overrides": overrides.describe(T0)}) == []


def test_nothing_said_changes_nothing(tmp_path: Path) -> None:
    found = detect()
    for overrides in (NO_OVERRIDES, read_overrides(write(tmp_path, "# nothing yet\n"))):
        review = overrides.review(found)
        assert review is not None
        assert (review.detection, review.own_level, review.suppressed) == (found, None, "")


HEAD = "suppressions:\n  - rule: r\n"
GOOD = "    reason: x\n    expires: 2030-01-01\n"
WRONG = [
    ("rule: x\n", 1, "rule: unknown key; known: rules, suppressions"),
    ("- a\n", 1, "not a mapping"),
    ("rules: {}\n---\nrules: {}\n", 3, "must be one document"),
    ("rules:\n  a: {level: high}\n  b: {level: loud}\n", 3, "rules.b.level: must be one of"),
    ("rules:\n  a: {enabled: maybe}\n", 2, "must be true or false"),
    ("rules:\n  a: {reason: x}\n", 2, "changes nothing"),
    ("rules:\n  a: {levl: low}\n", 2, "rules.a.levl: unknown key"),
    ("rules:\n  a: {level: low}\n  a: {level: high}\n", 3, "duplicate key"),
    ("rules: [a]\n", 1, "must be a mapping"),
    ("suppressions: {a: b}\n", 1, "must be a list"),
    (HEAD + "    where: {f: v}\n    reason: x\n", 2, "suppressions[0].expires: is missing"),
    (HEAD + "    where: {f: v}\n    expires: 2030-01-01\n", 2, "reason: is missing"),
    (HEAD + GOOD, 2, "where: is missing"),
    (HEAD + "    where: {}\n" + GOOD, 2, "not empty"),
    (HEAD + "    where: {'|contains': v}\n" + GOOD, 2, "names no field"),
    (HEAD + "    where: {'f|nope': v}\n" + GOOD, 2, "nope"),
    (HEAD + "    where: {'f|re': '(?=a)b'}\n" + GOOD, 2, "invalid"),
    (HEAD + "    where: {'f|expand': '%p%'}\n" + GOOD, 2, "placeholder %p% has no value"),
    (HEAD + "    where: {f: v}\n    reason: ''\n    expires: 2030-01-01\n", 2, "reason: must be"),
    (HEAD + "    where: {f: v}\n    reason: x\n    expires: soon\n", 2, "must be a date"),
    (HEAD + "    where: {f: v}\n    reason: x\n    expires: 2030\n", 2, "must be a date"),
    ("suppressions: [{rule: 5, where: {f: v}, reason: x, expires: 2030-01-01}]", 1, "rule: must"),
    ("a: [\n", 2, "YAML"),
]


@pytest.mark.parametrize(("text", "line", "reason"), WRONG)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_overrides(path)
    assert any(p.startswith(f"{path}:{line}: ") and reason in p for p in caught.value.problems)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = "rules:\n  a: {level: loud}\n" + HEAD + "    where: {f: v}\n"
    with pytest.raises(ConfigError) as caught:
        read_overrides(write(tmp_path, text))
    assert len(caught.value.problems) == 3


def test_placeholders_count_in_suppressions(tmp_path: Path) -> None:
    text = HEAD + "    where: {'User|expand': '%admins%'}\n" + GOOD
    overrides = read_overrides(write(tmp_path, text), {"admins": ["root", "adm*"]})
    assert suppressed(overrides, detect("r", User="admin7")) == "x"
    assert suppressed(overrides, detect("r", User="bob")) == ""


# -- through the line ------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "store.db", durable=False)) as store:
        yield store


LINE_FILE = """\
rules:
  r2: {level: informational}
  r3: {enabled: false}
suppressions:
  - {rule: r1, where: {Image: '*.exe'}, reason: known, expires: 2030-01-01}
"""


def put(store: Store, line: Line, *fire: str) -> Batch:
    """Events on which these rules fire, through the line and into the store."""
    batch = SourceBatch(records(*(SYSMON % rule for rule in fire)), [], [])
    out = join_work([read_records([batch], make_reader())], line)
    store.write_batch(out)
    line.commit()
    return out


def test_a_suppressed_finding_is_stored_and_counted_but_not_sent(
    tmp_path: Path, store: Store
) -> None:
    store.open_sinks(["late"])  # it keeps everything in the outbox
    line = make_line(store, "r1", "r2")
    line.overrides = read_overrides(write(tmp_path, LINE_FILE))
    batch = put(store, line, "r1", "r2", "r3")
    assert [m.body["rule_id"] for m in batch.messages if m.kind == "finding"] == ["r2"]
    (incident,) = store.incidents()
    assert (incident.count, incident.level) == (1, "informational")
    (kept,) = store.finding_bodies(suppressed=True)
    assert (kept["rule_id"], kept["suppressed"], kept["incident"]) == ("r1", "known", None)
    (sent,) = store.finding_bodies()
    assert (sent["rule_id"], sent["level"]) == ("r2", "informational")
    assert sent["rule"]["own_level"] == "high"
    assert "suppressed" not in sent
    assert [body["id"] for body in store.iterate_findings()] == [sent["id"]]
    assert store.find_ids(kept["id"]) == [("finding", kept["id"])]
    counts = store.counts()
    assert counts["rule:r1"] == {"suppressed": 1, "last_suppressed": T0}
    assert counts["rule:r3"] == {"disabled": 1}
    assert counts["source:logs"]["findings"] == counts["rule:r2"]["fired"] == 1
    assert [scope for scope in counts if scope.startswith("level:")] == ["level:informational"]

    # What the experts say later goes into it, and to no sink.
    for rule in ("r1", "r2"):
        verdict = Verdict("knowledge", "suspicious", 0.5, "later")
        apply_answers([Answer(make_rule(rule), verdict)], None, store, T0, sinks=True)
    assert store.finding_bodies(suppressed=True)[0]["verdict"] == "suspicious"
    _, messages, _ = store.messages("late", 100)
    assert [m.body["rule_id"] for m in messages if m.kind == "update"] == ["r2"]


def test_a_suppressed_finding_joins_nothing_after_a_restart(tmp_path: Path, store: Store) -> None:
    """The same records once more: nothing new, and the incident stays as it was."""
    for _ in range(2):
        line = make_line(store)
        line.overrides = read_overrides(write(tmp_path, LINE_FILE))
        put(store, line, "r1", "r2")
        again = Correlator(CorrelationLimits(), Stored(links=store.links(), load=store.incident))
        assert line.correlator is not None
        assert again.keys == line.correlator.keys
    assert [incident.count for incident in store.incidents()] == [1]
    assert store.counts()["rule:r1"]["suppressed"] == 1


def test_explain_says_the_rules_own_level(tmp_path: Path, store: Store) -> None:
    line = make_line(store)
    line.overrides = read_overrides(write(tmp_path, LINE_FILE))
    put(store, line, "r1", "r2")
    (sent,) = store.finding_bodies()
    level = explain_finding(store, sent["id"], Config())["level"]
    assert (level["rule_level"], level["level"]) == ("high", "informational")
    assert "operator" in level["why"]
    assert level["suppressed"] is None
    (kept,) = store.finding_bodies(suppressed=True)
    facts = explain_finding(store, kept["id"], Config())
    assert facts["level"]["suppressed"] == "known"
    assert facts["incident"] is None


# -- as commands -----------------------------------------------------------------------------------

SIGMA = f"""\
title: Whoami
id: {RULE}
level: high
tags: [attack.discovery, attack.t1033]
logsource: {{product: windows, category: process_creation}}
detection: {{s: {{Image|endswith: '\\whoami.exe'}}, condition: s}}
"""
EVENT = (
    '{"EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Computer": "web",'
    ' "UtcTime": "2023-11-14 22:00:00.000", "Image": "C:\\\\whoami.exe", "User": "%s"}\n'
)


def test_scan_and_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scan with the configuration does as the daemon does; a wrong file is exit 3."""
    (tmp_path / "r.yml").write_text(SIGMA)
    log = tmp_path / "log.json"
    log.write_text(EVENT % "backup" + EVENT % "eve")
    where = f"[{{rule: {RULE}, where: {{User: backup}}, reason: why, expires: 2999-01-01}}]"
    path = write(tmp_path, f"rules: {{{RULE}: {{level: low}}}}\nsuppressions: {where}\n")
    config = tmp_path / "a.yaml"
    config.write_text(
        f"state_dir: {tmp_path}/state\nrules: [{tmp_path}/r.yml]\noverrides: {path}\n"
        f"sources: [{{name: logs, paths: [{log}]}}]\n"
    )
    words = ["scan", str(log), "--config", str(config), "--no-model", "--quiet"]
    stats = tmp_path / "stats.json"
    assert main([*words, "--out", "-", "--stats", str(stats)]) == 0
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found["level"] == "low"
    figures = json.loads(stats.read_text())["findings"]
    assert (figures["total"], figures["suppressed"]) == (1, 1)
    assert main(["config", "check", str(config)]) == 0
    path.write_text(f"rules: {{{RULE}: {{enabled: false}}, other: {{level: low}}}}\n")
    capsys.readouterr()
    assert main(["rules", "check", "--config", str(config), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["loaded"], facts["switched_off"]) == (0, [RULE])
    assert facts["overrides_without_rule"] == ["other"]
    path.write_text("rules: {a: {level: loud}}\n")
    assert main(["config", "check", str(config)]) == 3
    assert f"{path}:1: rules.a.level" in capsys.readouterr().err
    config.write_text(config.read_text().replace("overrides.yaml", "gone.yaml"))
    assert main(["config", "check", str(config)]) == 3
    assert "overrides: no such file" in capsys.readouterr().err


def test_findings_suppressed(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    line = make_line(store)
    line.overrides = read_overrides(write(tmp_path, LINE_FILE))
    put(store, line, "r1", "r2")
    state = ["--state", str(tmp_path)]
    assert main(["findings", "--json", *state]) == 0
    assert [body["rule_id"] for body in json.loads(capsys.readouterr().out)] == ["r2"]
    assert main(["findings", "--suppressed", "--json", *state]) == 0
    (body,) = json.loads(capsys.readouterr().out)
    assert main(["findings", "--suppressed", *state]) == 0
    assert "reason: known" in capsys.readouterr().out
    assert main(["show", body["id"], *state]) == 0
    assert "suppressed  known" in capsys.readouterr().out
    assert main(["explain", body["id"], *state]) == 0
    said = capsys.readouterr().out
    assert "suppressed by the operator: known" in said
    assert "joins no incident" in said
    assert main(["status", *state]) == 4
    assert "1 findings suppressed" in capsys.readouterr().out


def test_the_default_file_counts_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(f"state_dir: {tmp_path}\nsources: [{{name: a, paths: [/a]}}]\n")
    path = tmp_path / "overrides.yaml"
    monkeypatch.setattr("appliance.config.OVERRIDES", path)
    assert load_config(config).overrides == ""
    path.write_text("")
    assert load_config(config).overrides == str(path)


def test_rule_info_is_not_the_operators() -> None:
    """What is cached for a rule by its hash does not depend on the operator's file."""
    assert "own_level" not in RuleInfo.__struct_fields__


# -- in the daemon ---------------------------------------------------------------------------------


@pytest.fixture
def box() -> Iterator[FileBox]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = FileBox(Path(folder))
        yield box
        box.stop()


KEY = "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_running_daemon_takes_over_what_changes(box: FileBox, workers: int) -> None:
    """A suppression comes with a reload, a file with a mistake changes nothing, and one that has
    expired is a notice that leaves the appliance healthy."""
    path = box.folder / "overrides.yaml"
    path.write_text("")
    box.write(f"overrides: {path}\nworkers: {workers}")
    box.config = load_config(box.path)
    box.start()
    box.append(ROOT_LOGIN, "one")
    wait_for(lambda: len(box.findings()) == 1)

    text = "suppressions: [{rule: %s, where: {event.host: two}, reason: lab, expires: %s}]\n"
    path.write_text(text % (KEY, "2999-01-01") + f"rules: {{{KEY}: {{level: low}}}}\n")
    box.reload()
    wait_for(lambda: box.ask()["overrides"]["suppressions"] == 1)
    box.append(ROOT_LOGIN, "two")
    box.append(ROOT_LOGIN, "three")
    wait_for(lambda: len(box.findings()) == 2)
    assert [(f["host"], f["level"]) for f in box.findings()] == [("one", "high"), ("three", "low")]
    facts = box.ask()
    assert facts["rules"]["suppressed"] == 1
    assert facts["overrides"]["levels"] == 1

    path.write_text("suppressions: [{rule: x}]\n")
    box.reload()
    wait_for(lambda: box.ask()["reload_error"])
    assert box.ask()["overrides"]["suppressions"] == 1

    path.write_text(text % (KEY, "2020-01-01"))
    box.reload()
    wait_for(lambda: box.ask()["overrides"]["expired"])
    told = wait_for(lambda: [t for t in box.ask()["troubles"] if t["part"] == "overrides"])
    assert (len(told), told[0]["notice"]) == (1, True)
    box.append(ROOT_LOGIN, "two")
    wait_for(lambda: len(box.findings()) == 3)
    assert box.findings()[2]["host"] == "two"
