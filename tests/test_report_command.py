"""`appliance report`: an incident and a shift's digest, from a store to a file."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.cli import main
from appliance.digest import build_digest, choose_slice, cut_trend, find_silent
from appliance.incident import Case
from appliance.report.digest_html import describe_noise, group_slices, render_digest_html
from appliance.report.digest_text import (
    render_digest_json,
    render_digest_markdown,
    render_digest_text,
)
from appliance.schema import Fold, Incident
from appliance.store import Store
from appliance.store.cases import put_case
from appliance.store.digest import Shift
from tests.builders import (
    T0,
    make_batch,
    make_change,
    make_incident,
    make_rejected,
    make_row,
)
from tests.report_samples import build_digest_sample, build_empty_digest, build_hostile_digest
from tests.stories import Story
from tests.test_report import ACTIVE, ELEMENTS, Page, list_prose


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setenv("APPLIANCE_DATA", str(tmp_path / "none"))
    told = Story(tmp_path)
    for n in range(3):
        event = told.write(f"Failed password for <b>root</b> {n}\x1b[2J", T0 + n, "web", "h:web")
        told.find(event, title="Root <script>login</script>")
    told.keep()
    yield told
    told.store.close()


def ask(story: Story, *words: str) -> int:
    return main(["report", *words, "--state", str(story.folder)])


def test_an_incident_becomes_a_page_with_its_records(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "incident.html"
    assert ask(story, "abab", "-o", str(out)) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    page = Page(out.read_text(encoding="utf-8"))
    assert {element for element, _ in page.elements} <= ELEMENTS
    text = "".join(page.text)
    assert "Root <script>login</script>" in text
    assert "Failed password for <b>root</b> 0\\x1b[2J" in text
    assert ask(story, "abab", "-o", str(out)) == 1  # it is there
    assert ask(story, "abab", "-o", str(out), "--force") == 0


def test_a_finding_leads_to_its_incident(
    story: Story, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert ask(story, story.findings[1].id, "--format", "json") == 0
    loaded = json.loads(capsysbinary.readouterr().out)
    assert loaded["incident"]["id"] == "ab" * 16
    assert len(loaded["findings"]) == 3


def test_markdown_goes_to_standard_output(
    story: Story, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert ask(story, "abab", "--format", "md") == 0
    text = capsysbinary.readouterr().out.decode()
    assert text.startswith("# Incident 1: Root \\<script\\>login")
    assert not any(ACTIVE.search(line.strip("| ").replace("| ", "")) for line in list_prose(text))


@pytest.mark.parametrize(
    "words",
    [(), ("abab", "--since", "1h"), ("abab", "--format", "text"), ("--since", "2999-01-01")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(story: Story, words: tuple[str, ...]) -> None:
    assert ask(story, *words) == 2


def test_an_unknown_incident_is_no_report(story: Story, tmp_path: Path) -> None:
    assert ask(story, "ffff", "-o", str(tmp_path / "x.html")) == 1
    assert not (tmp_path / "x.html").exists()


def test_the_digest_comes_in_every_format(story: Story, tmp_path: Path) -> None:
    for name in ("d.html", "d.md", "d.json", "d.txt"):
        assert ask(story, "--since", "3650d", "-o", str(tmp_path / name)) == 0
    loaded = json.loads((tmp_path / "d.json").read_text())
    assert [row["fresh"] for row in loaded["new"]] == [3]
    assert loaded["running"] is False
    assert "NOT RUNNING" in (tmp_path / "d.txt").read_text()
    assert "Root <script>login" in "".join(Page((tmp_path / "d.html").read_text()).text)


# -- what is in a digest ---------------------------------------------------------------------------

NOW = T0 + 10 * 86400
SINCE = NOW - 86400


def put(store: Store, incident: Incident, *received: float, **changes: Any) -> None:
    rows = [
        msgspec.structs.replace(
            make_row(key=f"{incident.number:016x}{place:016x}"), received=time, **changes
        )
        for place, time in enumerate(received)
    ]
    incident = msgspec.structs.replace(incident, count=len(received))
    joined = {row.id: incident.id for row in rows}
    store.write_batch(make_batch(rows, change=make_change([incident], joined=joined)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "shift.db")
    new, changed, closed, routine, old, minor = (
        make_incident(f"{n:02x}" * 16, n) for n in range(1, 7)
    )
    replace = msgspec.structs.replace
    put(opened, new, SINCE + 10, SINCE + 20)
    put(opened, changed, SINCE - 500, SINCE + 30)
    put(opened, closed, SINCE - 900)
    fold = Fold("sigma", "r", "Scan", "low", "web", 40, T0, NOW, expected=0.5)
    put(
        opened,
        replace(routine, kind="routine", folds=(fold,)),
        SINCE - 3700,
        SINCE + 40,
        SINCE + 41,
    )
    put(opened, old, SINCE - 1000)
    put(opened, replace(minor, kind="minor"), SINCE + 50)
    put(opened, make_incident("77" * 16, 7), SINCE + 60, suppressed="backup window")
    with opened._writing() as db:
        case = Case(closed.id, "closed", "eve", "benign", "a test", SINCE + 70)
        put_case(db, case)
    rejected = make_rejected(1, b"bad", "no JSON")
    record = msgspec.structs.replace(rejected.record, received=SINCE + 80)
    opened.write_batch(make_batch(rejected=[msgspec.structs.replace(rejected, record=record)]))
    yield opened
    opened.close()


STATUS: dict[str, Any] = {
    "running": True,
    "troubles": [
        {"part": "source web", "words": "silent for 2 d", "since": SINCE, "kind": "silent",
         "notice": False},
    ],
    "sources": [
        {"name": "web", "last_received": SINCE + 5, "dropped": 0},
        {"name": "mail", "last_received": SINCE - 5, "dropped": 7},
        {"name": "badge", "last_received": None, "dropped": 0},
        {"name": "auth", "last_received": SINCE + 5, "dropped": 0},
    ],
    "queues": {"outbox": {"depth": 1, "cap": 2, "dropped": 3}},
    "sinks": [{"name": "siem", "lost": 0}],
}  # fmt: skip


def test_a_digest_tells_new_from_changed_from_closed(store: Store) -> None:
    digest = build_digest(store, STATUS, since=SINCE, until=NOW)
    assert [(row.number, row.fresh) for row in digest.new] == [(1, 2)]
    assert [(row.number, row.fresh, row.count) for row in digest.changed] == [(2, 1, 2)]
    assert [(row.number, row.closing, row.note) for row in digest.closed] == [
        (3, "benign", "a test")
    ]
    assert (digest.minor, digest.routine) == (1, 1)
    assert [fold.title for fold in digest.expected] == ["Scan"]
    assert digest.suppressed == (("backup window", 1),)
    assert digest.rejected == (("logs", "no JSON", 1),)
    assert digest.dropped == (("source mail", 7), ("table outbox", 3))
    assert [(row.name, row.words) for row in digest.silent] == [
        ("web", "silent for 2 d"),
        ("mail", "it gave nothing in this time"),
        ("badge", "it has never given anything"),
    ]
    assert digest.healthy is False


def test_the_trend_counts_every_finding_once(store: Store) -> None:
    digest = build_digest(store, STATUS, since=SINCE, until=NOW)
    assert len(digest.trend) == len(digest.earlier) == 24
    assert digest.trend[0].begin == SINCE
    now = [sum(getattr(s, kind) for s in digest.trend)
           for kind in ("incidents", "minor", "routine", "suppressed")]  # fmt: skip
    assert now == [3, 1, 2, 1]
    assert sum(slice_.total for slice_ in digest.earlier) == 4
    assert describe_noise(digest) == (
        "4 findings of no incident, 300% more than in the time before (1)"
    )


def test_slices_are_hours_days_or_more() -> None:
    assert choose_slice(86400) == 3600
    assert choose_slice(7 * 86400) == 86400
    assert choose_slice(3650 * 86400) == 49 * 86400
    shift = Shift((), ((0, "incident", 2), (99, "routine", 1)), (), (), (), 0)
    cut = cut_trend(shift, 0.0, 60.0, 4)
    assert [slice_.total for slice_ in cut] == [2, 0, 0, 1]
    assert sum(s.total for s in group_slices(cut, 2)) == 3


def test_a_status_without_anything_is_no_all_clear() -> None:
    assert find_silent({}, SINCE) == ()
    page = "".join(Page(render_digest_html(build_empty_digest())).text)
    assert "NOT RUNNING" in page
    assert "nothing is watched now" in page
    assert "healthy" not in page


def test_the_sample_is_told_in_every_format() -> None:
    digest = build_digest_sample()
    page = " ".join(Page(render_digest_html(digest)).text)
    for text in (page, render_digest_markdown(digest), render_digest_text(digest)):
        for told in ("Password Spraying", "vault restarts", "NOT HEALTHY", "Nightly Vulnerability",
                     "1,834 findings of no incident", "it has never given anything"):  # fmt: skip
            assert told in text.replace("\\", ""), told
    assert json.loads(render_digest_json(digest))["sources"] == 9


def test_log_text_in_a_digest_is_inert() -> None:
    digest = build_hostile_digest()
    page = Page(render_digest_html(digest))
    assert {element for element, _ in page.elements} <= ELEMENTS
    text = render_digest_text(digest)
    assert all(ord(letter) >= 32 or letter == "\n" for letter in text)
    assert "\u202e" not in text
    assert not any(line.startswith("forged") for line in text.splitlines())
    for line in list_prose(render_digest_markdown(digest)):
        bare = line.replace("\\|", "").replace("|", "") if line.startswith("|") else line
        assert not ACTIVE.search(bare), line[:300]
