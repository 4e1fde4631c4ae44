"""The knowledge base's two indexes: lists of vectors against the plain search, and words."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.entries import Item, Link
from appliance.knowledge.index import (
    FLAT_LIMIT,
    MIN_RECALL,
    VectorIndex,
    find_exact_scores,
    make_questions,
    round_vectors,
    write_index,
)
from appliance.knowledge.lexical import (
    MAX_WEIGHED,
    cut_words,
    make_match,
    make_name_match,
    stem_word,
    write_facet,
)
from tests.knowledge_samples import LetterEncoder, build_sample, make_entry

DIMS = 32
Vectors = NDArray[np.float32]


def make_vectors(count: int, seed: int = 1) -> Vectors:
    """Unit vectors in clusters, as texts of a few hundred subjects have them."""
    random = np.random.default_rng(seed)
    middles = random.standard_normal((200, DIMS))
    vectors = middles[random.integers(0, 200, count)] + 0.7 * random.standard_normal((count, DIMS))
    return round_vectors(
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    )


def open_index(path: Path, vectors: Vectors, flat_limit: int = FLAT_LIMIT) -> VectorIndex:
    return VectorIndex.open(path, write_index(path, vectors, flat_limit))


def test_many_vectors_lie_in_lists_whose_recall_was_measured(tmp_path: Path) -> None:
    vectors = make_vectors(FLAT_LIMIT + 1_000)
    facts = write_index(tmp_path / "i", vectors)
    assert facts.kind == "ivf"
    assert 1 <= facts.probes < facts.lists
    assert facts.recall >= MIN_RECALL
    assert facts.questions == 400
    index = VectorIndex.open(tmp_path / "i", facts)
    questions = make_questions(vectors, 200, seed=77)  # others than those that chose
    worst = find_exact_scores(vectors, questions, 10)
    found = 0
    for question, least in zip(questions, worst, strict=True):
        rows, scores = index.search(question, 10)
        assert len(rows) == 10
        np.testing.assert_allclose(scores, vectors[rows] @ question, atol=1e-5)
        found += int((scores >= least - 1e-5).sum())
    assert found / (10 * len(questions)) >= MIN_RECALL - 0.01


def test_same_vectors_give_the_same_bytes_and_are_read_back(tmp_path: Path) -> None:
    vectors = make_vectors(3_000)
    for limit in (10_000, 100):
        index = open_index(tmp_path / "a", vectors, limit)
        write_index(tmp_path / "b", index.read_vectors(), limit)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        np.testing.assert_array_equal(index.read_vectors(), vectors)


@pytest.mark.parametrize("limit", [10_000, 100])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.01, 0.0])
def test_filter_is_kept_and_what_is_rare_is_found(tmp_path: Path, limit: int, share: float) -> None:
    vectors = make_vectors(3_000)
    index = open_index(tmp_path / "i", vectors, limit)
    mask = np.random.default_rng(5).random(3_000) < share
    found = wanted = 0
    for question in make_questions(vectors, 50, seed=3):
        rows, _ = index.search(question, 10, mask)
        assert mask[rows].all()
        exact = np.flatnonzero(mask)[np.argsort(-(vectors[mask] @ question))[:10]]
        wanted += len(exact)
        found += len(set(rows.tolist()) & set(exact.tolist()))
    assert found >= 0.97 * wanted
    if limit == 10_000 or share == 0.01:
        assert found >= 0.999 * wanted


def test_rows_are_scored(tmp_path: Path) -> None:
    vectors = make_vectors(3_000)
    question = make_questions(vectors, 1, seed=3)[0]
    for limit in (10_000, 100):
        rows, scores = open_index(tmp_path / "i", vectors, limit).score_rows(
            question, np.array([7, 2_999, 0])
        )
        assert set(rows.tolist()) == {0, 7, 2_999}
        np.testing.assert_allclose(scores, vectors[rows] @ question, atol=1e-5)


def test_search_starts_no_threads_and_may_be_shared(tmp_path: Path) -> None:
    vectors = make_vectors(3_000)
    index = open_index(tmp_path / "i", vectors, 100)
    question = make_questions(vectors, 1, seed=3)[0]
    wanted = index.search(question, 5)[0].tolist()
    before = len(list(Path("/proc/self/task").iterdir()))
    index.search(question, 5)
    assert len(list(Path("/proc/self/task").iterdir())) <= before
    answers: list[list[int]] = []

    def ask() -> None:
        answers.extend(index.search(question, 5)[0].tolist() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [wanted] * 200


def test_base_with_many_passages_answers(tmp_path: Path) -> None:
    class RandomEncoder(LetterEncoder):
        dims = DIMS

        def embed(self, texts):  # type: ignore[no-untyped-def]
            return make_vectors(len(texts), seed=len(texts[0]))

    items = [
        make_entry(f"note:{n}", f"word{n}", type="note" if n % 100 else "playbook", platforms=())
        for n in range(FLAT_LIMIT + 100)
    ]
    written = build_sample(tmp_path, items, RandomEncoder())
    assert written.manifest.index.kind == "ivf"
    opened = KnowledgeBase.open(tmp_path, RandomEncoder.model_hash)
    vector = opened._index.read_vectors()[12_345]
    first = opened.search(vector, 10)[0]
    assert first.score == pytest.approx(1.0, abs=1e-3)
    playbooks = opened.search(vector, 500, "playbook")
    assert len(playbooks) == (FLAT_LIMIT + 100) // 100
    assert [hit.entry.id for hit in opened.search_words("word777", 2)] == ["note:777"]


# --- links ----------------------------------------------------------------------------------


def test_revocation_has_the_ends_that_it_names(tmp_path: Path) -> None:
    """What was revoked stands for its successor elsewhere: here it is what is told."""
    items: list[Item] = [
        make_entry("T0001", "aaaa", revoked=True, revoked_by="T0002"),
        make_entry("T0002", "bbbb", revoked=True, revoked_by="T0003"),
        make_entry("T0003", "cccc"),
        make_entry("G0001", "dddd", type="group"),
        Link("T0001", "revoked_by", "T0002", "Test ATT&CK"),
        Link("T0002", "revoked_by", "T0003", "Test ATT&CK"),
        Link("T0003", "revoked_by", "T0003", "Test ATT&CK"),
        Link("G0001", "uses", "T0001", "Test ATT&CK"),
    ]
    build_sample(tmp_path, items)
    opened = KnowledgeBase.open(tmp_path, LetterEncoder.model_hash)

    def tell(asked: str) -> set[tuple[str, str, bool]]:
        return {(each.link.kind, each.id, each.forward) for each in opened.neighbours(asked)}

    assert tell("T0003") == {
        ("revoked_by", "T0001", False),
        ("revoked_by", "T0002", False),
        ("uses", "G0001", False),
    }
    assert tell("T0002") == {("revoked_by", "T0001", False), ("revoked_by", "T0003", True)}
    assert tell("T0001") >= {("revoked_by", "T0002", True)}
    assert tell("G0001") == {("uses", "T0003", True)}
    opened.close()


def test_filters_that_leave_no_entry_are_named(small: KnowledgeBase) -> None:
    assert small.find_idle_filters() == []
    # Together these leave none either: each alone does.
    assert small.find_idle_filters("group", platform="Windows", tactic="TA0040") == []
    assert small.find_idle_filters("incident", platform="Amiga", tactic="TA9999") == [
        "type",
        "platform",
        "tactic",
    ]
    assert small.find_idle_filters("technique", platform="\udcff", tactic="") == [
        "platform",
        "tactic",
    ]


# --- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Runs certutil.exe.", ["run", "certutil.exe", "certutil", "exe"]),
        ("T1059.001", ["t1059.001", "t1059", "001"]),
        ("CVE-2021-44228,", ["cve-2021-44228", "cve", "2021", "44228"]),
        ("C:\\Windows\\x.dll", ["c:\\windows\\x.dll", "c", "window", "x", "dll"]),
        ("/etc/passwd", ["etc/passwd", "etc", "passwd"]),
        ("d41d8cd98f00b204e9800998ecf8427e", ["d41d8cd98f00b204e9800998ecf8427e"]),
        ("Grün ÜBER ﬁle", ["grün", "über", "fil"]),
        ("x" * 129 + ".y", ["y"]),
        ("", []),
    ],
)
def test_ids_files_and_paths_are_words_and_so_are_their_parts(text: str, words: list[str]) -> None:
    assert cut_words(text) == words


@pytest.mark.parametrize(
    "forms",
    [
        ("dump", "dumps", "dumped", "dumping"),
        ("execute", "executes", "executed", "executing"),
        ("policy", "policies"),
        ("run", "runs", "running"),
        ("credential", "credentials"),
    ],
)
def test_forms_of_a_word_meet(forms: tuple[str, ...]) -> None:
    assert len({stem_word(form) for form in forms}) == 1


@pytest.mark.parametrize("word", ["status", "process", "lsass", "dns", "t1059", "ssh", "analysis"])
def test_words_that_only_look_like_a_form_stay(word: str) -> None:
    assert stem_word(word) == word


def test_common_words_are_left_out_when_there_is_no_room() -> None:
    counts = {"rar": 3, "common": MAX_WEIGHED, "unknown": 0}
    match = make_match("the rare common unknown", lambda word: counts.get(word, 0))
    assert match == '{name title aliases text} : ("rar")'
    alone = make_match("common", lambda word: counts.get(word, 0))
    assert alone == '{name title aliases text} : ("common")'
    assert make_match("unknown", lambda word: counts.get(word, 0)) is None


def test_only_what_looks_like_a_name_is_asked_for_as_one() -> None:
    match = make_name_match("what does 4769 on host01 mean to a.exe", lambda _: 1)
    assert match == '{name title aliases} : ("4769" OR "host01" OR "a.exe")'
    assert make_name_match("what is it", lambda _: 1) is None


def test_hash_and_star_find_what_begins_so() -> None:
    match = make_match("d41d8cd98f certu*", lambda _: 0, [write_facet("type", "log_source")])
    assert match == (
        '({name title aliases text} : ("d41d8cd98f"* OR "certu"*)) AND facets : "type=log-source"'
    )


@pytest.mark.parametrize("text", ["a" * 100_000, "a." * 50_000, "*" * 100_000, "\\:" * 50_000])
def test_long_text_is_cut_quickly(text: str) -> None:
    assert len(cut_words(text)) <= 50_000
    make_match(text, lambda _: 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    folder = tmp_path_factory.mktemp("base")
    build_sample(folder)
    return KnowledgeBase.open(folder, LetterEncoder.model_hash)


@given(st.text() | st.text('"*.:-(){}^+ aAND ORNEAR\\/'))
def test_no_question_breaks_the_index(small: KnowledgeBase, query: str) -> None:
    for hit in small.search_words(query, 3):
        assert np.isfinite(hit.score)
    small.search_words(query, 3, platform=query, tactic=query)
    small.search_names(query, 3)
    small.entry(query)
    small.links(query)
