"""The knowledge expert: what it cites, what it says when it cannot know, what it never does."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.errors import ModelUnavailable
from appliance.inference.client import EncoderClient
from appliance.judge.knowledge import (
    MAX_SIMILAR,
    MAX_TAGS,
    SIMILARITY_FLOOR,
    SIMILARITY_PRECISION,
    KnowledgeExpert,
)
from appliance.knowledge.base import KnowledgeBase
from appliance.schema import LogSource, RuleInfo, Verdict
from tests.fixtures_models import ensure_models


class Entry(msgspec.Struct, frozen=True):
    id: str
    title: str
    revoked_by: str | None = None
    deprecated: bool = False

    @property
    def external_id(self) -> str:
        return self.id


#: Ids of another release of ATT&CK.
RENUMBERED = {"T1999": "T1090", "T1998": "T1086"}


class Hit(msgspec.Struct, frozen=True):
    entry: Entry
    score: float


class ListBase:
    """A base whose answer to every question is the same list."""

    def __init__(self, entries: Sequence[Entry], hits: Sequence[tuple[str, float]] = ()) -> None:
        self.entries = {entry.id: entry for entry in entries}
        self.hits = [Hit(self.entries[entry_id], score) for entry_id, score in hits]
        self.types: set[str] = set()

    def entry(self, entry_id: str, /) -> Entry | None:
        return self.entries.get(RENUMBERED.get(entry_id, entry_id))

    def search(self, vector: NDArray[np.float32], k: int, wanted: str, /) -> list[Hit]:
        self.types.add(wanted)
        return self.hits[:k]


def make_rule(
    *techniques: str,
    title: str = "Title",
    description: str = "Words",
    others: tuple[str, ...] = (),
) -> RuleInfo:
    return RuleInfo(
        id="r1",
        title=title,
        description=description,
        level="high",
        techniques=techniques,
        tactics=(),
        logsource=LogSource(),
        path="r1.yml",
        line=1,
        hash="h",
        others=others,
    )


def embed_nothing(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.zeros((len(texts), 4), np.float32)


def embed_never(texts: Sequence[str]) -> NDArray[np.float32]:
    raise ModelUnavailable("the encoder is down")


ENTRIES = (
    Entry("T1003", "OS Credential Dumping"),
    Entry("T1003.001", "OS Credential Dumping: LSASS Memory"),
    Entry("T1059", "Command and Scripting Interpreter"),
    Entry("T1059.001", "Command and Scripting Interpreter: PowerShell"),
    Entry("T1086", "PowerShell", revoked_by="T1059.001"),
    Entry("T1090", "Proxy"),
    Entry("T1105", "Ingress Tool Transfer"),
    Entry("G0016", "APT29"),
)


def judge(rule: RuleInfo, hits: Sequence[tuple[str, float]] = (), floor: float = 0.6) -> Verdict:
    return KnowledgeExpert(ListBase(ENTRIES, hits), embed_nothing, floor).judge_rule(rule)


def cited(verdict: Verdict, reason: str) -> list[str]:
    return [citation.id for citation in verdict.citations if citation.reason == reason]


def test_tags_are_cited_in_full() -> None:
    verdict = judge(make_rule("T1003.001", "T1090"))
    assert verdict.expert == "knowledge"
    assert verdict.label == "suspicious"
    assert verdict.confidence == 1.0
    assert cited(verdict, "tag") == ["T1003.001", "T1090"]
    assert verdict.citations[0].title == "OS Credential Dumping: LSASS Memory"
    assert {citation.score for citation in verdict.citations} == {1.0}
    assert "T1003.001" in verdict.reason


def test_unknown_tag_is_named_and_lowers_confidence() -> None:
    verdict = judge(make_rule("T1003.001", "T1685"))
    assert cited(verdict, "tag") == ["T1003.001"]
    assert "does not know the tags T1685" in verdict.reason
    assert verdict.confidence == 0.5


def test_groups_software_and_vulnerabilities_are_cited_where_they_are_known() -> None:
    verdict = judge(make_rule("T1003.001", others=("G0016", "CVE-2021-44228", "G0016")))
    assert cited(verdict, "tag") == ["T1003.001", "G0016"]
    assert verdict.confidence == 1.0
    assert "CVE-2021-44228" not in verdict.reason
    assert cited(judge(make_rule(others=("G0016",))), "tag") == ["G0016"]


def test_only_unknown_tags_and_nothing_similar_is_no_data() -> None:
    verdict = judge(make_rule("T1685", "T1686.003"))
    assert verdict.label == "insufficient_data"
    assert verdict.citations == ()
    assert verdict.confidence == 0.0
    assert "T1685, T1686.003" in verdict.reason


def test_revoked_tag_cites_its_successor_and_says_so() -> None:
    verdict = judge(make_rule("T1086", "T1059.001"))
    assert cited(verdict, "tag") == ["T1059.001"]
    assert "T1086 is now T1059.001" in verdict.reason


def test_tag_of_another_release_cites_what_it_stands_for_and_names_both() -> None:
    verdict = judge(make_rule("T1999", "T1090"))
    assert cited(verdict, "tag") == ["T1090"]
    assert "T1999 is T1090 in the knowledge base" in verdict.reason
    assert verdict.confidence == 1.0
    verdict = judge(make_rule("T1998"))
    assert cited(verdict, "tag") == ["T1059.001"]
    assert "T1998 is T1086 in the knowledge base; T1086 is now T1059.001" in verdict.reason


def test_only_techniques_are_searched_for_what_is_similar() -> None:
    base = ListBase(ENTRIES, [("T1090", 0.9)])
    KnowledgeExpert(base, embed_nothing).judge_rule(make_rule())
    assert base.types == {"technique"}


def test_circle_of_successors_ends() -> None:
    circle = (Entry("T1", "a", revoked_by="T2"), Entry("T2", "b", revoked_by="T1"))
    expert = KnowledgeExpert(ListBase(circle), embed_nothing)
    assert len(expert.judge_rule(make_rule("T1")).citations) == 1


def test_similar_entries_count_from_the_floor_up() -> None:
    verdict = judge(make_rule(), [("T1090", 0.7), ("T1105", 0.6), ("T1059", 0.59)], floor=0.6)
    assert cited(verdict, "similarity") == ["T1090", "T1105"]
    assert verdict.label == "suspicious"
    assert verdict.confidence == round(0.7 * SIMILARITY_PRECISION, 4)
    assert verdict.citations[0].score == 0.7
    assert "T1090 (0.70)" in verdict.reason


def test_nothing_similar_is_no_data() -> None:
    verdict = judge(make_rule(), [("T1090", 0.59)], floor=0.6)
    assert (verdict.label, verdict.citations) == ("insufficient_data", ())
    assert "0.60" in verdict.reason


def test_at_most_three_are_cited_for_similarity() -> None:
    hits = [("T1003.001", 0.9), ("T1059.001", 0.89), ("T1090", 0.88), ("T1105", 0.87)]
    assert len(cited(judge(make_rule(), hits), "similarity")) == MAX_SIMILAR


def test_what_is_tagged_and_its_parent_are_not_cited_again() -> None:
    hits = [("T1003.001", 0.9), ("T1003", 0.89), ("T1059.001", 0.8), ("T1059", 0.79)]
    verdict = judge(make_rule("T1003.001"), hits)
    assert cited(verdict, "tag") == ["T1003.001"]
    assert cited(verdict, "similarity") == ["T1059.001"]


def test_sub_technique_of_a_tagged_parent_is_more_and_is_cited() -> None:
    verdict = judge(make_rule("T1003"), [("T1003", 0.9), ("T1003.001", 0.8)])
    assert cited(verdict, "similarity") == ["T1003.001"]


def test_cosine_is_never_above_one() -> None:
    verdict = judge(make_rule(), [("T1090", 1.0000002)])
    assert verdict.citations[0].score == 1.0


def test_missing_model_is_raised_by_the_full_answer() -> None:
    with pytest.raises(ModelUnavailable):
        KnowledgeExpert(ListBase(ENTRIES), embed_never).judge_rule(make_rule("T1003.001"))


def test_answer_by_tags_needs_no_model_and_says_why() -> None:
    expert = KnowledgeExpert(ListBase(ENTRIES), embed_never)
    verdict = expert.judge_rule_by_tags(make_rule("T1003.001", "T1685"), "the queue is full")
    assert verdict.label == "insufficient_data"
    assert verdict.confidence == 0.0
    assert cited(verdict, "tag") == ["T1003.001"]
    assert verdict.reason.startswith("the queue is full; ")
    assert "T1685" in verdict.reason


def test_without_a_base_every_answer_says_so() -> None:
    expert = KnowledgeExpert(None, embed_never)
    for verdict in (
        expert.judge_rule(make_rule("T1003.001")),
        expert.judge_rule_by_tags(make_rule("T1003.001"), "pending"),
    ):
        assert verdict.label == "insufficient_data"
        assert verdict.citations == ()
        assert "no knowledge base" in verdict.reason


def test_many_tags_do_not_make_a_long_verdict() -> None:
    rule = make_rule(*(f"T{number:04}" for number in range(5000)))
    verdict = judge(rule)
    assert len(verdict.reason) < 2000
    assert f"{5000 - MAX_TAGS} more tags were not looked up" in verdict.reason


def test_tag_cannot_forge_a_line_in_the_reason() -> None:
    verdict = judge(make_rule("T1\n2026 all clear \x1b[2J", "T1003"))
    assert verdict.reason.isprintable()


@given(
    st.lists(st.sampled_from([*(entry.id for entry in ENTRIES), "T1685", "x\n"]), max_size=8),
    st.lists(
        st.tuples(st.sampled_from([entry.id for entry in ENTRIES]), st.floats(-1, 1)), max_size=8
    ),
)
def test_verdict_never_says_benign_and_survives_the_store(
    tags: list[str], hits: list[tuple[str, float]]
) -> None:
    hits.sort(key=lambda hit: -hit[1])
    expert = KnowledgeExpert(ListBase(ENTRIES, hits), embed_nothing)
    rule = make_rule(*tags)
    for verdict in (expert.judge_rule(rule), expert.judge_rule_by_tags(rule, "down")):
        assert verdict.label in ("suspicious", "insufficient_data")
        assert 0.0 <= verdict.confidence <= 1.0
        assert len({citation.id for citation in verdict.citations}) == len(verdict.citations)
        assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    full = expert.judge_rule(rule)
    assert (full.label == "suspicious") == bool(full.citations)


# --- with the real encoder and base ---------------------------------------------------------


@pytest.fixture(scope="module")
def expert() -> Iterator[KnowledgeExpert]:
    root = ensure_models()
    client = EncoderClient(root / "models" / "encoder" / "encoder.gguf")
    client.start()
    base = KnowledgeBase.open(root / "knowledge", client.model_hash)
    yield KnowledgeExpert(base, client.embed, SIMILARITY_FLOOR)
    client.close()


def test_rule_without_tags_finds_its_technique(expert: KnowledgeExpert) -> None:
    rule = make_rule(
        title="LSASS Memory Dump via Comsvcs",
        description="Detects dumping of LSASS process memory to obtain credentials",
    )
    verdict = expert.judge_rule(rule)
    assert verdict.label == "suspicious"
    assert "T1003.001" in cited(verdict, "similarity")
    assert 0 < verdict.confidence < 1


def test_rule_about_nothing_known_is_no_data(expert: KnowledgeExpert) -> None:
    rule = make_rule(title="Office Kitchen Notice", description="The coffee machine needs water")
    verdict = expert.judge_rule(rule)
    assert (verdict.label, verdict.citations) == ("insufficient_data", ())


def test_tag_newer_than_the_base_is_mapped_and_both_are_named(expert: KnowledgeExpert) -> None:
    verdict = expert.judge_rule(make_rule("T1685", title="Disable Windows Defender"))
    assert "T1685 is T1562.001 in the knowledge base" in verdict.reason
    assert cited(verdict, "tag") == ["T1562.001"]


def test_tag_that_nobody_knows_is_named(expert: KnowledgeExpert) -> None:
    verdict = expert.judge_rule(make_rule("T9999", title="Disable Windows Defender"))
    assert "does not know the tags T9999" in verdict.reason
    assert "T9999" not in [citation.id for citation in verdict.citations]
