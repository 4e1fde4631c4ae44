"""`explain`: every step behind a finding, and nothing that isn't known."""

import gzip
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.daemon import Daemon
from appliance.store import Store
from tests.rows import read_rows

RULE = """title: Root Login
id: 11111111-2222-4333-8444-555555555555
description: A root login.
references: [https://example.org/root]
falsepositives: [An administrator]
logsource: {product: linux, service: sshd}
detection:
  s: {message|startswith: 'Accepted password for root'}
  condition: s
level: high
---
title: Another
logsource: {product: linux, service: sshd}
detection:
  s: {message: 'never'}
  condition: s
"""
LINE = "Nov 22 09:00:0{n} {host} sshd[71]: Accepted password for root from 203.0.113.9 port 5{n}\n"
HOSTILE = (
    "Nov 22 09:00:09 h sshd[7]: Accepted password for root from \x1b[31m\u202ea \x1b]0;x\x07\n"
)


def wait_for(enough: Callable[[], Any], seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while not (value := enough()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
    return value


class Site:
    """An appliance with one rule file, one log, a file sink, and a folder with a short name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "auth.log"
        self.rule = folder / "rules" / "root.yml"
        self.rule.parent.mkdir()
        self.rule.write_text(RULE)
        self.config = folder / "a.yaml"
        self.config.write_text(
            f"state_dir: {folder}/state\nmodel: false\nknowledge_dir: {folder}\n"
            f"models_dir: {folder}\nrules: [{folder}/rules]\nheartbeat: 0\n"
            f"sources: [{{name: auth, paths: ['{folder}/auth.log*']}}]\n"
            f"sinks: [{{name: out, type: file, path: {folder}/out.jsonl}}]\n"
        )

    def run(self, findings: int) -> list[dict[str, Any]]:
        """Run the daemon until so many findings are in the sink's file; give them."""
        from appliance.config import load_config

        out = self.folder / "out.jsonl"

        def read() -> list[dict[str, Any]]:
            return [body for body in read_rows(out) if body["kind"] == "finding"]

        daemon = Daemon(load_config(self.config))
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            wait_for(lambda: len(read()) >= findings)
        finally:
            daemon.stop()
            thread.join(30)
        return read()

    def explain(self, capsys: pytest.CaptureFixture[str], key: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["explain", key, "--config", str(self.config), "--json"]) == 0
        facts: dict[str, Any] = json.loads(capsys.readouterr().out)
        return facts

    def say(self, capsys: pytest.CaptureFixture[str], key: str) -> str:
        capsys.readouterr()
        assert main(["explain", key, "--config", str(self.config)]) == 0
        return capsys.readouterr().out


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ex-") as folder:
        yield Site(Path(folder))


def test_every_step(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [LINE.format(n=n, host=host) for n, host in enumerate(("web", "web", "other"))]
    site.log.write_text("".join(lines))
    found = site.run(3)
    facts = site.explain(capsys, found[1]["id"][:10])
    record = facts["record"]
    assert record["text"] + "\n" == lines[1]
    assert (record["position"], record["source"]) == (len(lines[0]), "auth")
    assert record["received"] > record["event_time"] > "20"
    assert facts["event"]["format"] == "syslog3164"
    views = {view["logsource"]["service"]: view["fields"] for view in facts["event"]["views"]}
    assert views["sshd"]["user"] == "root"
    rule = facts["rule"]
    assert rule["text"] == RULE.partition("\n---")[0]
    assert (rule["path"], rule["line"]) == (str(site.rule), 1)
    assert rule["falsepositives"] == ["An administrator"]
    assert rule["references"] == ["https://example.org/root"]
    assert facts["level"]["why"] == "the level that the rule states"
    assert [vote["expert"] for vote in facts["votes"]] == ["knowledge"]
    assert facts["votes"][0]["citations"] == []
    incident = facts["incident"]
    shared = {link["id"]: set(link["shared"]) for link in incident["links"]}
    assert shared[found[0]["id"]] == {"host:web", "address:203.0.113.9"}
    assert shared[found[2]["id"]] == {"address:203.0.113.9"}
    assert not incident["opened_by_this"]
    assert site.explain(capsys, found[0]["id"])["incident"]["opened_by_this"]
    assert facts["sinks"] == [{"name": "out", "has": True, "why": "delivered"}]
    said = site.say(capsys, found[1]["id"])
    for text in ("Accepted password for root", "condition: s", "out: yes: delivered",
                 "through host:web, address:203.0.113.9", "by Accepted password for root*",
                 "An administrator"):  # fmt: skip
        assert text in said, text
    assert "not kept" not in said


def test_hostile_records_are_shown_and_not_obeyed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.rule.write_text(RULE.replace("A root login.", '"\\e]0;pwned\\a"'))
    site.log.write_text(HOSTILE)
    (found,) = site.run(1)
    said = site.say(capsys, found["id"])
    assert said.replace("\n", "").isprintable()
    assert "\\x1b[31m\\u202ea" in said
    facts = site.explain(capsys, found["id"])
    assert facts["record"]["text"] == HOSTILE.rstrip("\n")


def test_a_record_that_is_gone_or_another_is_not_shown(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.log.write_text(LINE.format(n=1, host="web"))
    (found,) = site.run(1)
    site.log.write_text(LINE.format(n=2, host="web"))  # as long, at the same place
    facts = site.explain(capsys, found["id"])
    assert facts["record"]["text"] is None
    assert facts["record"]["why_not"] == "the file at this path no longer holds the record"
    assert facts["event"]["views"] is None
    site.log.unlink()
    facts = site.explain(capsys, found["id"])
    assert "no file at" in facts["record"]["why_not"]
    said = site.say(capsys, found["id"])
    assert "no file at" in said
    assert "Accepted password for root from 203.0.113.9" in said  # what matched is kept


def test_a_record_inside_gzip(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [LINE.format(n=n, host="web") for n in (1, 2)]
    with gzip.open(site.folder / "auth.log.1.gz", "wt") as out:
        out.write("Nov 22 08:00:00 web cron[1]: x\n" + "".join(lines))
    found = site.run(2)
    assert site.explain(capsys, found[1]["id"])["record"]["text"] + "\n" == lines[1]


def test_a_record_under_a_header(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose columns stand at the file's beginning."""
    site.rule.write_text(
        "title: Any\nid: 11111111-2222-4333-8444-555555555555\nlogsource: {category: dns}\n"
        "detection: {s: {query: evil.example}, condition: s}\n"
    )
    head = [
        "#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-",
        "#path\tdns", "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tquery",
        "#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring",
    ]  # fmt: skip
    rows = [
        f"1795338009.{n}\tC{n}\t10.0.0.5\t5353{n}\t10.0.0.1\t53\tudp\t{name}.example"
        for n, name in enumerate(("good", "evil", "evil"), 1)
    ]
    site.log.write_text("\n".join(head + rows) + "\n")
    found = site.run(2)
    facts = site.explain(capsys, found[1]["id"])
    assert facts["record"]["text"] == rows[2]
    assert facts["event"]["views"][0]["fields"]["query"] == "evil.example"


def test_an_evtx_record(
    site: Site, shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose number is no offset."""
    import shutil

    path = next(
        p for p in sorted(shared_data("windows").rglob("*.evtx")) if p.stat().st_size > 70_000
    )
    shutil.copy(path, site.folder / "auth.log.evtx")
    site.rule.write_text(
        "title: Any\nid: 11111111-2222-4333-8444-555555555555\n"
        "logsource: {product: windows}\ndetection: {s: {EventID|exists: true}, condition: s}\n"
    )
    found = site.run(5)
    facts = site.explain(capsys, found[4]["id"])
    assert facts["record"]["why_not"] == ""
    assert '"EventRecordID"' in facts["record"]["text"]


def test_a_rule_that_changed_or_went(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.log.write_text(LINE.format(n=1, host="web"))
    (found,) = site.run(1)
    site.rule.write_text(RULE.replace("level: high", "level: low"))
    facts = site.explain(capsys, found["id"])
    assert facts["rule"]["text"] is None
    assert "changed since" in facts["rule"]["why_not"]
    assert facts["level"]["level"] == "high"
    assert facts["level"]["rule_level"] is None
    site.rule.unlink()
    facts = site.explain(capsys, found["id"])
    assert facts["rule"]["text"] is None
    assert "gone" in facts["rule"]["why_not"]
    assert "the rule itself: the file is gone" in site.say(capsys, found["id"])


def test_findings_of_older_versions(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """What they did not keep is said to be not kept."""
    site.log.write_text(LINE.format(n=1, host="web"))
    (found,) = site.run(1)
    store = Store(site.folder / "state" / "store.db")
    body = store.findings_by_ids([found["id"]])[found["id"]]
    del body["event"], body["rule"]
    for verdict in body["verdicts"]:
        del verdict["citations"]
    body["verdicts"] *= 2
    store.update_findings({found["id"]: body}, [])
    with store._writing() as db:
        db.execute("UPDATE findings SET seq = 0")
        db.execute("DELETE FROM incidents")
    store.close()
    facts = site.explain(capsys, found["id"])
    assert facts["record"]["text"] is facts["record"]["length"] is None
    assert facts["record"]["why_not"].startswith("not kept")
    assert facts["rule"]["why_not"].startswith("not kept")
    assert facts["votes"][0]["citations"] is None
    assert facts["incident"] is None
    assert facts["sinks"][0]["has"] is None
    said = site.say(capsys, found["id"])
    assert said.count("not kept") >= 6
    assert "no longer kept" in said


def test_what_is_no_finding(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.log.write_text(LINE.format(n=1, host="web"))
    assert len(site.run(1)) == 1
    for key, reason in (
        ("ffff0000ffff", "no finding or incident"),
        ("zz", "no finding or incident"),
    ):
        assert main(["explain", key, "--config", str(site.config)]) == 1
        assert reason in capsys.readouterr().err
