"""`incidents`, `show` and `explain` of an incident: ranked, in order, and safe to look at."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.cli import main
from appliance.commands.incidents import draw_tree
from appliance.incident import Provenance, TraceEdge, TraceNode
from appliance.schema import Fold, Incident, Level, Reason
from tests.builders import T0, make_batch, make_change, make_incident
from tests.stories import Story

HOSTILE = 'x\x1b[31m\nincident 00\u202e"'


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setenv("APPLIANCE_DATA", str(tmp_path / "none"))
    told = Story(tmp_path)
    yield told
    told.store.close()


def ask(
    capsys: pytest.CaptureFixture[str], story: Story, *words: str, code: int = 0
) -> tuple[str, str]:
    """Standard output and error of a command."""
    capsys.readouterr()
    assert main([*words, "--state", str(story.folder)]) == code
    said = capsys.readouterr()
    return said.out, said.err


def rank(story: Story, *incidents: Incident) -> None:
    story.store.write_batch(make_batch(change=make_change(incidents)))


def make_ranked(
    name: str, score: float, *, level: Level = "high", title: str = "Title", **changes: Any
) -> Incident:
    incident = make_incident(name * 16, int(name, 16), level=level)
    return msgspec.structs.replace(incident, score=score, title=title, **changes)


def make_fold(count: int = 3, *, expected: float = 0.0, title: str = "Root login") -> Fold:
    return Fold("sigma", "r1", title, "high", "web", count, T0, T0 + 60, ("T1110",),
                ("credential-access",), expected)  # fmt: skip


# -- the list --------------------------------------------------------------------------------------


def test_the_list_is_ranked(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    rank(
        story,
        make_ranked("0a", 10.4, level="critical"),
        make_ranked("0b", 80.0, level="medium", folds=(make_fold(),), count=120),
        make_ranked("0c", 40.0),
        make_ranked("0d", 5.0, kind="routine", title="Backup", count=7),
        make_ranked("0e", 1.0, kind="minor", title="Small", count=2),
    )
    said, _ = ask(capsys, story, "incidents")
    lines = said.splitlines()
    assert [line[:2] for line in lines[1:4]] == ["0b", "0c", "0a"]
    assert lines[0].split()[:4] == ["id", "score", "level", "status"]
    assert "120 in 1" in lines[1]
    assert lines[4:] == [
        "minor, below what is worth a look of its own: 2 findings in 1 row (--all shows them): "
        "Small",
        "routine, expected here: 7 findings in 1 row (--all shows them): Backup",
    ]
    said, _ = ask(capsys, story, "incidents", "--all")
    assert "# routine: expected here" in said
    assert said.count("Backup") == 1
    said, _ = ask(capsys, story, "incidents", "--limit", "1")
    assert "0b0b" in said
    assert "0c0c" not in said
    said, _ = ask(capsys, story, "incidents", "--level", "high")
    assert "0b0b" not in said


def test_a_long_way_is_cut_to_its_last_stages(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ("initial-access", "execution", "persistence", "discovery", "impact")
    rank(story, make_ranked("0b", 80.0, tactics=stages), make_ranked("0c", 9.0, tactics=stages[:3]))
    said, _ = ask(capsys, story, "incidents")
    assert "  2 before, persistence, discovery, impact  " in said
    assert "  initial-access, execution, persistence  " in said
    assert json.loads(ask(capsys, story, "incidents", "--json")[0])[0]["tactics"] == list(stages)


def test_the_list_as_json(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    reason = Reason("level", 20.0, "high")
    rank(
        story,
        make_ranked("0a", 30.5, reasons=(reason,)),
        make_ranked("0b", 0.0, kind="routine"),
    )
    rows = json.loads(ask(capsys, story, "incidents", "--json")[0])
    assert [(row["score"], row["case"], row["routine"]) for row in rows] == [(30.5, "open", False)]
    assert rows[0]["reasons"] == [{"name": "level", "points": 20.0, "words": "high"}]
    rows = json.loads(ask(capsys, story, "incidents", "--json", "--all")[0])
    assert [row["routine"] for row in rows] == [False, True]


def test_closed_cases_come_last(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    rank(story, make_ranked("0a", 90.0), make_ranked("0b", 10.0))
    with story.store._writing() as db:
        db.execute("INSERT INTO cases VALUES (?, 'closed', ?, ?)", ("0a" * 16, T0, b"{}"))
    lines = ask(capsys, story, "incidents")[0].splitlines()
    assert [line[:2] for line in lines[1:]] == ["0b", "0a"]
    said, _ = ask(capsys, story, "incidents", "--status", "closed")
    assert [line[:2] for line in said.splitlines()[1:]] == ["0a"]
    assert len(ask(capsys, story, "incidents", "--status", "acknowledged")[0].splitlines()) == 1


# -- the story -------------------------------------------------------------------------------------


def make_attack(story: Story, **changes: Any) -> Incident:
    first = story.write("failed for root", T0, "web", "h:web a:203.0.113.9")
    story.find(first)
    for number in range(3):
        again = story.write(f"accepted {number}", T0 + 60 + number, "web", "h:web a:203.0.113.9")
        story.find(again, "r2", level="critical", tactics=("initial-access",))
    return story.keep(**changes)


def test_show_tells_the_story(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    reasons = (Reason("rarity", 30.0, "never seen here"), Reason("expected", -2.5, "a bit usual"))
    make_attack(story, score=71.0, reasons=reasons)
    said, complaint = ask(capsys, story, "show", "abab")
    lines = said.splitlines()
    assert lines[0] == "incident " + "ab" * 16
    assert "  score     71 of 100" in lines
    assert "  when      2023-11-14 22:13:20 - 22:14:22 UTC" in lines
    assert "   +30.0  rarity: never seen here" in lines
    assert "    -2.5  expected: a bit usual" in lines
    course = [line for line in lines if " x  " in line or " x until " in line]
    assert ["Title of r1" in course[0], "3 x until 22:14:22" in course[1]] == [True, True]
    assert [line.split()[0] for line in course] == ["credential-access", "initial-access"]
    for part in ("in short", "open questions", "case and actions", "nobody has acted on it yet",
                 "203.0.113.9", "No event archive that can be read has events"):  # fmt: skip
        assert part in said, part
    shown = json.loads(ask(capsys, story, "findings", "--json")[0])
    assert shown[0]["id"][:12] in said  # what to give to `explain`
    assert complaint == ""


def test_show_as_json_is_the_dossier(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    incident = make_attack(story)
    facts = json.loads(ask(capsys, story, "show", incident.id, "--json")[0])
    assert facts["incident"]["id"] == incident.id
    assert [body["rule_id"] for body in facts["findings"]] == ["r1", "r2", "r2", "r2"]
    assert [evidence["text"] for evidence in facts["evidence"][:2]] == [
        "failed for root",
        "accepted 0",
    ]
    assert len(facts["summary"]) >= 4
    assert all(sentence["cites"] for sentence in facts["summary"] + facts["questions"])


def test_show_of_a_finding_is_as_it_was(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    make_attack(story)
    key = story.findings[0].id
    said, _ = ask(capsys, story, "show", key[:12])
    assert said.startswith(f"finding {key}\n  title       Title of r1\n")
    assert json.loads(ask(capsys, story, "show", key, "--json")[0])["id"] == key
    _, complaint = ask(capsys, story, "show", "0123456789", code=1)
    assert "no finding or incident" in complaint


def test_what_a_log_says_is_shown_and_not_obeyed(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    event = story.write(HOSTILE, T0, HOSTILE, f"h:{HOSTILE} f:{HOSTILE}")
    story.find(event, HOSTILE, title=HOSTILE, techniques=(HOSTILE,), tactics=(HOSTILE,))
    again = story.write(HOSTILE, T0, "web", f"h:web h:{HOSTILE}")
    story.find(again, "r2", title=HOSTILE, verdicts=((HOSTILE, "benign"), ("b", "suspicious")))
    reasons = (Reason(HOSTILE, 1.0, HOSTILE),)
    incident = story.keep(title=HOSTILE, reasons=reasons, folds=(make_fold(title=HOSTILE),))
    for words in (["incidents"], ["show", incident.id], ["explain", incident.id]):
        said, _ = ask(capsys, story, *words)
        assert said.replace("\n", "").isprintable(), words
        assert "\nincident 00" not in said, words
        assert "\\x1b[31m" in said, words


def make_node(key: str, label: str = "", **more: Any) -> TraceNode:
    return TraceNode(key, "process", label or key, "web", T0, T0, **more)


def test_the_tree() -> None:
    nodes = (make_node("a", "sshd", role="root"), make_node("b", "ba\nsh", findings=("f1", "f2")),
             make_node("c"), make_node("lost", findings=("f3",)), make_node("far"),
             msgspec.structs.replace(make_node("d", findings=("f4",)), host="db"))  # fmt: skip
    edges = (
        TraceEdge("a", "b", "started", T0 + 1),
        TraceEdge("b", "c", "wrote", T0 + 2, count=3),
        TraceEdge("b", "d", "reached", T0 + 3, count=3),
        TraceEdge("d", "a", "came back to", T0 + 4),
        TraceEdge("b", "gone", "started", T0 + 5),
        TraceEdge("far", "c", "wrote", T0 + 5),
    )
    lines = list(draw_tree(Provenance(nodes=nodes, edges=edges, roots=("a",))))
    assert lines == [
        "22:13:20 process sshd on web  <- ROOT CAUSE",
        "22:13:21   started process ba\\x0ash  <- 2 findings",
        "             (and without findings: 1 process)",
        "22:13:23     reached (3 x) process d on db  <- 1 finding",
        "22:13:24       came back to process sshd on web  <- ROOT CAUSE, see above",
        "22:13:20 process lost on web  <- 1 finding",
    ]


def test_what_is_alike_is_counted() -> None:
    nodes = [make_node("a", role="root")]
    nodes += [make_node(f"r{n}", findings=(f"f{n}",)) for n in range(9)]
    edges = tuple(TraceEdge("a", f"r{n}", "set", T0 + n) for n in range(9))
    lines = list(draw_tree(Provenance(nodes=tuple(nodes), edges=edges, roots=("a",))))
    assert len(lines) == 6
    assert lines[1].strip() == "(and set 5 more process, with findings)"
    assert "process r3" in lines[5]


def test_a_deep_tree_ends() -> None:
    chain = (*(make_node(str(n)) for n in range(4999)), make_node("4999", findings=("f",)))
    deep = tuple(TraceEdge(str(n), str(n + 1), "started", T0) for n in range(4999))
    lines = list(draw_tree(Provenance(nodes=chain, edges=deep, roots=("0",))))
    assert len(lines) == 26
    assert "and without findings: 1 process" in lines[-1]


# -- why -------------------------------------------------------------------------------------------


def test_explain_says_why(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    reasons = (Reason("level", 20.0, "critical"), Reason("expected", -30.0, "usual"))
    folds = (make_fold(expected=0.75, title="Usual login"),)
    incident = make_attack(story, score=33.3, reasons=reasons, folds=folds)
    said, _ = ask(capsys, story, "explain", incident.id[:8])
    lines = said.splitlines()
    assert "1 rank: 33.3 of 100" in lines
    assert lines.index("   -30.0  expected: usual") < lines.index("   +20.0  level: critical")
    for part in ("2 why 4 findings are one incident", "203.0.113.9",
                 "sigma: 4 findings of 2 rules", "knowledge: suspicious 4", "nobody contradicts",
                 "Usual login on web: in 75% of the hours watched before"):  # fmt: skip
        assert part in said, part
    facts = json.loads(ask(capsys, story, "explain", incident.id, "--json")[0])
    assert facts["ties"][0]["findings"] == 4
    assert facts["experts"] == {"knowledge": {"suspicious": 4}}


@pytest.mark.parametrize("kind", ["routine", "minor"])
def test_what_only_lies_together_is_no_way_of_an_attack(
    story: Story, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for host in ("web", "db"):
        story.find(story.write(f"{host} line", T0, host, f"h:{host}"), "r1")
    incident = story.keep(kind=kind)
    said, _ = ask(capsys, story, "explain", incident.id)
    assert "are one incident" not in said
    assert "lie together, and need not belong together" in said
    said, _ = ask(capsys, story, "show", incident.id)
    assert "It came to 2 hosts" not in said
