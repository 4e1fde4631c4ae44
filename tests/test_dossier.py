"""The dossier of an incident: what is put together, and that every sentence has its evidence."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import appliance.dossier
from appliance.config import Config
from appliance.dossier import build_dossier, pull_events, watch_rules
from appliance.errors import ApplianceError
from appliance.incident import (
    Chain,
    ChainStage,
    Dossier,
    Gap,
    NextStep,
    Provenance,
    Sentence,
    TraceEdge,
    TraceNode,
)
from appliance.joining import explain_incident
from appliance.schema import Event, LogSource, RawRecord
from appliance.telling import keep_cited, list_names, name_span, quote
from tests.builders import T0, make_event
from tests.stories import Story, make_story_rule


class FakeArchive:
    """An archive in memory that remembers what it was asked."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.held = sorted(events, key=lambda event: event.time)
        self.asked: list[tuple[float, float, Collection[str] | None, int]] = []

    def events(
        self,
        *,
        hosts: Collection[str] | None,
        since: float,
        until: float,
        kinds: Collection[str] | None = None,
        limit: int,
    ) -> Iterator[Event]:
        self.asked.append((since, until, kinds, limit))
        fits = (
            event
            for event in self.held
            if since <= event.time < until
            and (hosts is None or event.host in hosts)
            and (kinds is None or {event.views[0].logsource.service} & set(kinds))
        )
        for _, event in zip(range(limit), fits, strict=False):
            yield event

    def records(
        self, ids: Collection[str], *, since: float | None = None, until: float | None = None
    ) -> Mapping[str, RawRecord]:
        assert since is not None
        assert until is not None
        held = (event for event in self.held if since <= event.time < until)
        return {event.id: event.record for event in held if event.id in ids}

    def presence(
        self, hosts: Collection[str] | None, since: float, until: float, step: float
    ) -> list[tuple[str, str, float, int]]:
        counts: dict[tuple[str, str, float], int] = {}
        for event in self.held:
            if (hosts is None or event.host in hosts) and since <= event.time < until:
                begin = since + (event.time - since) // step * step
                key = event.record.source, event.host, begin
                counts[key] = counts.get(key, 0) + 1
        return [(*key, count) for key, count in counts.items()]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    told = Story(tmp_path)
    yield told
    told.store.close()


def tell(story: Story, **options: Any) -> Dossier:
    plan: dict[str, Any] = {"archive": None, "base": None, "rules": (), "now": T0 + 9000}
    plan["trace"] = lambda *_: Provenance()
    return build_dossier(story.store, "ab" * 16, **{**plan, **options})


def make_attack(story: Story) -> list[Event]:
    """Three events on two hosts with four findings."""
    events = [
        story.write("failed for root", T0, "web", "h:web a:203.0.113.9"),
        story.write("accepted for root", T0 + 60, "web", "h:web a:203.0.113.9 u:eve"),
        story.write("copied the database", T0 + 120, "db", "h:db u:eve h:backup"),
    ]
    story.find(events[0])
    story.find(events[1], "r2", level="critical", tactics=("initial-access",))
    story.find(events[1], "s1", detector="sentinel", level="medium")
    story.find(
        events[2], "r3", tactics=("exfiltration",), techniques=("T1048",),
        verdicts=(("knowledge", "benign"), ("attack", "true_positive")),
    )  # fmt: skip
    return events


def test_what_a_dossier_holds(story: Story) -> None:
    make_attack(story)
    story.keep()
    dossier = tell(story)
    assert [body["rule_id"] for body in dossier.findings] == ["r1", "r2", "s1", "r3"]
    assert [(e.text, e.origin) for e in dossier.evidence] == [
        ("failed for root", "file"),
        ("accepted for root", "file"),
        ("accepted for root", "file"),
        ("copied the database", "file"),
    ]
    assert [(t.technique, len(t.findings)) for t in dossier.techniques] == [
        ("T1110", 3),
        ("T1048", 1),
    ]
    (row,) = dossier.visibility
    assert (row.source, row.seen, row.rejected, row.hosts) == ("auth", 100, 3, ("db", "web"))
    assert dossier.case.status == "open"
    assert dossier.actions == ()
    folds = [(fold.rule_id, fold.host, fold.count) for fold in dossier.incident.folds]
    assert folds == [("r2", "web", 1), ("r1", "web", 1), ("r3", "db", 1), ("s1", "web", 1)]


def test_the_summary_and_the_questions(story: Story) -> None:
    make_attack(story)
    story.keep()
    dossier = tell(story)
    said = " ".join(sentence.text for sentence in dossier.summary)
    assert 5 <= len(dossier.summary) <= 8
    for part in (
        "4 findings of 4 rules from 2023-11-14 22:13:20 to 22:15:20 UTC on web and db",
        '"Title of r2" (critical)',
        'The first finding is "Title of r1"',
        "credential-access (22:13:20), initial-access (22:14:20) and exfiltration (22:15:20)",
        "It came to 2 hosts, in this order: web and db.",
        "on 1 event more than one detector speaks",
        "contradict one another on 1 finding",
        "knowledge says benign",
    ):
        assert part in said, part
    asked = " ".join(sentence.text for sentence in dossier.questions)
    for part in (
        "What happened on backup?",
        "No event archive that can be read has events",
        "3 rejected of 100 records",
        "Who is right on 1 finding",
    ):
        assert part in asked, part


def test_every_sentence_cites_what_is_there(story: Story) -> None:
    """Sentences of the graph and the chain, too: without evidence in the dossier they go."""
    events = make_attack(story)
    story.keep()
    known, foreign = events[0].id, "0f" * 16
    node = TraceNode("p1", "process", "sshd", "web", T0, T0, events=(known,), role="root")
    graph = Provenance(
        nodes=(node,),
        roots=("p1",),
        sentences=(
            Sentence("cites an event", (known, foreign)),
            Sentence("cites nothing", ()),
            Sentence("cites what is not there", (foreign, "source:other", "nothing known")),
        ),
        missing=(Sentence("a parent", ("source:auth",)), Sentence("bare", ())),
    )
    chain = Chain(
        gaps=(
            Gap("web", T0, T0 + 1, Sentence("gap with evidence", ("source:auth",))),
            Gap("web", T0, T0 + 1, Sentence("gap without", ())),
        )
    )
    dossier = tell(story, trace=lambda *_: graph, link=lambda *_: chain)
    assert dossier.provenance.sentences == (Sentence("cites an event", (known,)),)
    assert [s.text for s in dossier.provenance.missing] == ["a parent"]
    assert [gap.sentence.text for gap in dossier.chain.gaps] == ["gap with evidence"]
    ids = {body["id"] for body in dossier.findings} | {event.id for event in events}
    sentences = [*dossier.summary, *dossier.questions, *dossier.provenance.sentences]
    assert len(sentences) > 8
    for sentence in sentences:
        assert sentence.cites, sentence
        for cite in sentence.cites:
            assert cite in ids or cite == "source:auth" or cite.startswith("T1"), sentence
    texts = [sentence.text for sentence in (*dossier.questions, *dossier.summary)]
    assert "a parent" in texts
    assert "gap with evidence" in texts
    assert not {"bare", "gap without", "cites nothing"} & set(texts)
    assert any('the process "sshd" on web' in text for text in texts)


def test_keep_cited() -> None:
    kept = keep_cited(
        [
            Sentence("a\x1b[31m\nb", ("ab" * 16, "ab" * 16)),
            Sentence("   ", ("ab" * 16,)),
            Sentence("known", ("T1059", "T9999", "source:x")),
            Sentence("known", ("source:x",)),
            Sentence("unknown", ("T9999",)),
        ],
        {"ab" * 16},
        {"x"},
        lambda key: key == "T1059",
    )
    assert kept == (
        Sentence("a\\x1b[31m\\x0ab", ("ab" * 16,)),
        Sentence("known", ("T1059", "source:x")),
    )
    assert keep_cited([Sentence("t", ("T1059.001", "x y"))], (), ()) == (
        Sentence("t", ("T1059.001",)),
    )


def test_hostile_words_stay_words(story: Story) -> None:
    """A title and a host that try to look like another line, or another sentence."""
    evil = 'x" is harmless.\n\x1b]0;t\x07 \u202e"'
    event = story.write("line", T0, "we\nb\x1b[2J", "h:web")
    story.find(event, title=evil * 100)
    story.keep()
    for sentence in (dossier := tell(story)).summary:
        assert sentence.text.isprintable()
        assert len(sentence.text) < 1300
    assert "x' is harmless." in dossier.summary[0].text


def test_without_findings_nothing_is_said(story: Story) -> None:
    story.find(story.write("line", T0, "web"))
    incident = story.keep()
    with story.store._writing() as db:
        db.execute("DELETE FROM findings")
    dossier = tell(story)
    assert dossier.summary == ()
    assert dossier.findings_left_out == 1
    assert dossier.incident.id == incident.id
    with pytest.raises(ApplianceError, match="no longer kept"):
        build_dossier(story.store, "cd" * 16, archive=None, base=None, rules=(), now=T0)


def test_the_cap_keeps_the_first_and_the_newest(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance.dossier, "MOST_FINDINGS", 80)
    monkeypatch.setattr(appliance.dossier, "MOST_RECORDS", 10)
    for number in range(200):
        story.find(story.write(f"line {number}", T0 + number, "web"))
    story.keep()
    dossier = tell(story)
    texts = [body["matched"][0]["value"] for body in dossier.findings]
    assert texts == [f"line {n}" for n in (*range(64), *range(184, 200))]
    assert dossier.findings_left_out == 120
    assert [e.origin for e in dossier.evidence] == ["file"] * 10 + [""] * 70
    assert "over the cap of 10" in dossier.evidence[10].missing
    assert any("120 further findings" in s.text for s in dossier.questions)


def test_evidence_that_is_gone_says_why(story: Story) -> None:
    make_attack(story)
    story.keep()
    story.log.write_bytes(b"another line\n" * 10)
    assert {e.missing for e in tell(story).evidence} == {
        "the file at this path no longer holds the record"
    }
    story.log.unlink()
    dossier = tell(story, archive=FakeArchive(story.events[:1]))
    assert (dossier.evidence[0].text, dossier.evidence[0].origin) == ("failed for root", "archive")
    assert "no file at" in dossier.evidence[1].missing


def test_events_before_and_behind_come_from_the_archive(story: Story) -> None:
    make_attack(story)
    story.keep()
    parent = story.write("session opened", T0 - 7000, "web")
    child = story.write("later", T0 + 5000, "web")
    other = story.write("elsewhere", T0, "mail")
    far = story.write("reached", T0 + 200, "file")
    given: list[list[Event]] = []

    def trace(events: Any, findings: Any) -> Provenance:
        given.append(list(events))
        edge = TraceEdge("a", "b", "connected to", T0)
        return Provenance(edges=(edge,), reach=("web", "db", "file"))

    archive = FakeArchive(story.events)
    dossier = tell(story, archive=archive, trace=trace)
    first, second = given
    assert {parent.id, child.id} < {event.id for event in first}
    assert far.id not in {event.id for event in first}
    assert {event.id for event in second} - {event.id for event in first} == {far.id}
    assert other.id not in {event.id for event in second}
    assert [event.time for event in first] == sorted(event.time for event in first)
    (row,) = dossier.visibility
    assert row.events == 5
    assert not any("No event archive" in s.text for s in dossier.questions)
    assert "It came to 3 hosts" in " ".join(s.text for s in dossier.summary)


def test_a_named_host_that_sends_logs_is_no_question(story: Story) -> None:
    make_attack(story)
    story.keep()
    story.write("a backup", T0 - 3600, "backup.example.org")
    assert "What happened on backup" in " ".join(s.text for s in tell(story).questions)
    dossier = tell(story, archive=FakeArchive(story.events))
    assert "What happened on backup" not in " ".join(s.text for s in dossier.questions)


def test_a_busy_hour_does_not_crowd_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance.dossier, "CLOSE_EVENTS", 160)
    busy = [make_event(n, T0 + n / 10) for n in range(1000)]
    last = make_event(5000, T0 + 40_000)
    found = pull_events(FakeArchive([*busy, last]), ["web"], T0, T0 + 40_000, until=T0 + 47_000)
    assert last.id in found
    assert 10 <= len(found) <= 160
    assert pull_events(None, ["web"], T0, T0, until=T0) == {}


def test_records_are_read_again_where_no_archive_has_them(story: Story) -> None:
    events = {event.id: event for event in make_attack(story)}
    story.keep()
    given: list[Event] = []

    def read(record: RawRecord) -> Event | None:
        return next((e for e in events.values() if e.record.data == record.data), None)

    def trace(found: Any, _: Any) -> Provenance:
        given.extend(found)
        return Provenance()

    tell(story, read=read, trace=trace)
    assert [event.id for event in given] == list(events)


def test_who_would_see_a_technique() -> None:
    windows = LogSource(product="windows", category="process_creation")
    rules = [
        make_story_rule("a", techniques=("T1059.001",), logsource=windows),
        make_story_rule("b", techniques=("T1059",)),
        make_story_rule("c", techniques=("T1059",), logsource=LogSource(product="macos")),
    ]
    counts = {"logsource": {"windows/process_creation/-": 5.0, "linux/-/sshd": 2.0}}
    watch = watch_rules(rules, counts)
    assert watch("T1059") == (
        ("linux/-/sshd", "windows/process_creation/-"),
        ("Title of a", "Title of b"),
    )
    assert watch("T1059.001") == (("windows/process_creation/-",), ("Title of a",))
    assert watch("T1003") == ((), ())


def test_what_comes_next_unseen_is_asked(story: Story) -> None:
    make_attack(story)
    story.keep()
    step = NextStep("T1486", "Encrypted", "impact", 0.5, 40, 3.0, (), (), ("T1486", "G0016"))
    seen = NextStep("T1059", "Seen", "execution", 0.5, 40, 3.0, ("linux/-/sshd",), ("r",), ("T1",))
    stage = ChainStage("impact", T0, T0, ("web",), (), (story.findings[0].id,), 1)
    chain = Chain(stages=(stage,), next_steps=(step, seen))
    dossier = tell(story, link=lambda *_: chain)
    asked = [s for s in dossier.questions if s.text.startswith("Did ")]
    assert [s.text[:20] for s in asked] == ["Did T1486 Encrypted "]
    assert asked[0].cites == ("T1486", "G0016")
    assert any("Its only stage is impact" in s.text for s in dossier.summary)


def test_why_it_is_one_incident(story: Story) -> None:
    make_attack(story)
    alone = story.write("alone", T0 + 130, "mail", "f:/tmp/x")
    story.find(alone, "s2", detector="sentinel")
    story.keep()
    facts = explain_incident(tell(story))
    ties = {(tie["kind"], tie["value"]): tie for tie in facts["ties"]}
    assert ties["user", "eve"]["hosts"] == ["db", "web"]
    assert ties["address", "203.0.113.9"]["findings"] == 3
    assert ("host", "db") not in ties
    assert facts["ties"][0]["value"] == "eve"  # what spans hosts comes first
    assert facts["apart"] == 2
    assert [row["title"] for row in facts["untied"]["rows"]] == ["Title of s2"]
    assert facts["experts"] == {
        "attack": {"true_positive": 1},
        "knowledge": {"suspicious": 4, "benign": 1},
    }
    assert facts["disputed"]["count"] == 1
    assert (facts["agreed"]["count"], facts["agreed_events"]) == (2, 1)
    assert [row["title"] for row in facts["alone"]["rows"]] == ["Title of s2"]


def test_words() -> None:
    assert list_names([]) == "-"
    assert list_names(["a"]) == "a"
    assert list_names(["a", "b", "c"], 2) == "a, b and 1 more"
    assert name_span(T0, T0) == "at 2023-11-14 22:13:20 UTC"
    assert name_span(T0, T0 + 86400).endswith("to 2023-11-15 22:13:20 UTC")
    assert name_span(1e300, 1e300) == "at a time that no calendar holds UTC"
    assert quote('a"b\n') == '"a\'b\\x0a"'


def test_config_is_only_for_the_sources(story: Story) -> None:
    """A source of the configuration that is no file: its records can't be read at a place."""
    from appliance.config import JournalSource

    make_attack(story)
    story.keep()
    config = Config(sources=(JournalSource("auth", "journal"),))
    assert {e.missing for e in tell(story, config=config).evidence} == {
        "it came from no file that can be read at a position"
    }
