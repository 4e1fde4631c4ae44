"""The sentinel's parts one by one: heads, memory, opinions, queue. The encoder is a counting one
here; tests/test_sentinel_line.py runs a real one."""

import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.detect.sentinel.cache import Memory, QuietTexts, key_text
from appliance.detect.sentinel.examine import MAX_WORDS, Examiner
from appliance.detect.sentinel.heads import SPACE, Heads
from appliance.detect.sentinel.texts import KINDS, Text
from appliance.detect.sentinel.watch import (
    CHUNK,
    EVENT_BYTES,
    Candidate,
    Joined,
    QueuedSentinel,
    WaitingSentinel,
)
from appliance.errors import ModelError, ModelUnavailable
from tests.builders import T0, make_event
from tests.test_daemon import wait_for

DIMS = 4
ABOUT: dict[str, Any] = {
    "techniques": ["T1", "T2"],
    "tactics": ["execution"],
    "temperature": 1.0,
    "thresholds": {"0.2": 0.99, "2": 0.9, "20": 0.5},
    "kinds": {},
    "recipe": "r",
}


def pack_heads(
    about: Mapping[str, Any] = ABOUT, tensors: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> bytes:
    """A heads file. The malicious head reads the first dimension, with weight 1."""
    parts: dict[str, NDArray[Any]] = {
        "malicious.weight": np.eye(1, DIMS, dtype=np.float32),
        "malicious.bias": np.zeros(1, np.float32),
        "technique.weight": np.eye(2, DIMS, 1, dtype=np.float32) * 9,
        "technique.bias": np.zeros(2, np.float32),
        "tactic.weight": np.zeros((1, DIMS), np.float32),
        "tactic.bias": np.zeros(1, np.float32),
        "project.weight": np.eye(SPACE, DIMS, dtype=np.float32),
        **tensors,
    }
    header: dict[str, Any] = {"__metadata__": {"sentinel": msgspec.json.encode(about).decode()}}
    body = b""
    for name, tensor in parts.items():
        raw = tensor.astype("<f4").tobytes()
        span = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        body += raw
    head = msgspec.json.encode(header)
    return struct.pack("<Q", len(head)) + head + body


class WordEncoder:
    """The first dimension of a text's vector is the sum of its words' weights, the second counts
    "one", the third "two"; it may be told to be down, or to die of a word."""

    def __init__(self, **weights: float) -> None:
        self.weights = weights
        self.asked: list[list[str]] = []
        self.ready = True
        self.poison = ""
        self.before: Callable[[], object] = lambda: None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.before()
        self.asked.append(list(texts))
        if not self.ready:
            raise ModelUnavailable("down")
        if self.poison and any(self.poison in text for text in texts):
            raise ModelUnavailable("it died")
        rows = [[sum(self.weights.get(word, 0.0) for word in text.split()),
                 text.count("one"), text.count("two"), 1.0] for text in texts]  # fmt: skip
        return np.array(rows, np.float32)

    def wait_ready(self, timeout: float) -> bool:
        return self.ready


def make_examiner(encoder: WordEncoder, knowledge: Any = None, budget: float = 2.0) -> Examiner:
    return Examiner(Heads.parse(pack_heads(), "heads"), encoder, knowledge, budget)


def text(words: str, kind: str = "process") -> Text:
    return Text(kind, f"{kind} {words}")


def candidate(number: int, *words: str, rules: tuple[str, ...] = ()) -> Candidate:
    return Candidate(make_event(number), tuple(text(each) for each in words), rules)


# -- heads -----------------------------------------------------------------------------------------


def test_heads_give_what_their_weights_say() -> None:
    heads = Heads.parse(pack_heads({**ABOUT, "temperature": 2.0}), "heads")
    vectors = np.array([[4, 0, 0, 0], [0, 1, 0, 0], [-4, 0, 0, 0]], np.float32)
    assert heads.score(vectors) == pytest.approx([0.8808, 0.5, 0.1192], abs=1e-4)
    assert [name for name, _ in heads.guess_techniques(vectors[1])] == ["T1", "T2"]
    chances = [chance for _, chance in heads.guess_techniques(vectors[1])]
    assert sum(chances) == pytest.approx(1.0)
    assert chances[0] > 0.99
    # Another expert counts as much as the head.
    found = dict(heads.guess_techniques(vectors[1], np.array([0.0, 40.0])))
    assert found["T2"] > 0.99
    assert sum(found.values()) == pytest.approx(1.0)
    placed = heads.place(vectors[0])
    assert placed.shape == (SPACE,)
    assert float(np.linalg.norm(placed)) == pytest.approx(1.0)
    assert np.isfinite(heads.place(np.zeros(DIMS, np.float32))).all()


def test_thresholds_lie_between_those_of_the_model() -> None:
    kinds = {"dns": {"1": 0.8}, "url": 0.7}
    heads = Heads.parse(pack_heads({**ABOUT, "kinds": kinds}), "heads")
    assert heads.find_threshold("process", 2) == pytest.approx(0.9)
    assert heads.find_threshold("process", 20) == pytest.approx(0.5)
    between = heads.find_threshold("process", 2 * 10**0.5)  # half of the way, in logarithms
    assert between == pytest.approx(0.75)  # log-odds 2.197 and 0: 1.0986
    assert heads.find_threshold("process", 0.001) == 0.99  # stricter than the strictest: unknown
    assert heads.find_threshold("process", 10_000) == 0.5
    assert heads.find_threshold("dns", 5) == 0.8
    assert heads.find_threshold("url", 5) == 0.7


BAD_ABOUT: list[dict[str, Any]] = [
    {"thresholds": {}},
    {"thresholds": {"1": 0.1, "2": 0.2}},
    {"thresholds": {"0": 0.5}},
    {"thresholds": {"many": 0.5}},
    {"thresholds": {"1": 1.5}},
    {"temperature": 0.0},
    {"techniques": ["T1"]},
    {"kinds": {"dns": {}}},
]


@pytest.mark.parametrize("about", BAD_ABOUT)
def test_heads_that_make_no_sense_are_refused(about: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not the sentinel's heads"):
        Heads.parse(pack_heads({**ABOUT, **about}), "heads")


def test_damaged_heads_are_refused_at_every_length() -> None:
    whole = pack_heads()
    for length in range(0, len(whole), 97):
        with pytest.raises(ModelError):
            Heads.parse(whole[:length], "heads")
    with pytest.raises(ModelError):
        Heads.parse(struct.pack("<Q", 1 << 60) + whole[8:], "heads")
    with pytest.raises(ModelError):
        Heads.parse(pack_heads(tensors={"project.weight": np.full((SPACE, DIMS), np.nan)}), "heads")
    with pytest.raises(ModelError):
        Heads.parse(pack_heads(tensors={"project.weight": np.zeros((8, DIMS))}), "heads")


# -- memory ----------------------------------------------------------------------------------------


def test_memory_keeps_what_was_asked_for_last() -> None:
    memory: Memory[int] = Memory(2)
    memory.put(b"a", 1)
    memory.put(b"b", 2)
    assert memory.get(b"a") == 1
    memory.put(b"c", 3)
    assert (memory.get(b"a"), memory.get(b"b"), memory.get(b"c")) == (1, None, 3)
    assert len(memory) == 2
    nothing: Memory[int] = Memory(0)
    nothing.put(b"a", 1)
    assert len(nothing) == 0


def test_keys_tell_kinds_and_any_text_apart() -> None:
    texts = [Text("dns", "a"), Text("url", "a"), Text("dns", "a\0"), Text("dns", "\udcff")]
    assert len({key_text(each) for each in texts}) == 4
    quiet = QuietTexts(10)
    quiet.learn([key_text(texts[0])])
    assert [quiet.is_quiet(each) for each in texts] == [True, False, False, False]


# -- opinions --------------------------------------------------------------------------------------


def test_an_opinion_says_what_which_and_why() -> None:
    encoder = WordEncoder(bad=3.0, worse=4.0, kind=-1.0)
    (low, high) = make_examiner(encoder).examine(
        [text("kind words"), text("bad > one worse : kind")]
    )
    assert low.opinion is None
    assert low.score == pytest.approx(0.2689, abs=1e-4)
    opinion = high.opinion
    assert opinion is not None
    assert (opinion.score, opinion.threshold, opinion.strong) == (0.9975, 0.9, True)
    assert [(w.word, w.weight) for w in opinion.words] == [("worse", 4.0), ("bad", 3.0)]
    assert opinion.techniques[0].technique == "T1"
    assert opinion.techniques[0].cosine is None
    assert len(encoder.asked) == 2  # the texts, and the words left out of one: all at once


def test_at_most_so_many_words_are_left_out() -> None:
    encoder = WordEncoder(bad=9.0)
    make_examiner(encoder).examine([text("bad " + " ".join(f"w{n}" for n in range(300)))])
    assert len(encoder.asked[1]) == MAX_WORDS


class Entry(msgspec.Struct):
    external_id: str

    @property
    def id(self) -> str:
        return self.external_id

    @property
    def title(self) -> str:
        return f"title of {self.external_id}"


class Hit(msgspec.Struct):
    entry: Entry
    score: float


class Base:
    def __init__(self) -> None:
        self.asked: list[NDArray[np.float32]] = []

    def search_techniques(self, vector: NDArray[np.float32], k: int) -> list[Hit]:
        self.asked.append(vector)
        return [Hit(Entry("T2"), 0.98), Hit(Entry("T9"), 0.6), Hit(Entry("T8"), 0.2)]


def test_what_is_known_counts_and_is_cited() -> None:
    base = Base()
    (found,) = make_examiner(WordEncoder(bad=9.0), base).examine([text("bad")])
    assert found.opinion is not None
    assert [(c.id, c.reason) for c in found.opinion.citations] == [
        ("T2", "similarity"),
        ("T9", "similarity"),
    ]
    best = found.opinion.techniques[0]
    assert (best.technique, best.probability, best.cosine, best.score) == ("T2", 0.5, 0.98, 0.74)
    assert base.asked[0].shape == (SPACE,)
    # What is not near is not likelier for it.
    assert [g.score for g in found.opinion.techniques] == [0.74, 0.25]


def test_a_detection_a_kind_with_levels_that_only_rise() -> None:
    examiner = make_examiner(WordEncoder(bad=3.0))
    event = make_event()
    opinions = [
        found.opinion
        for found in examiner.examine([text("bad"), text("bad bad"), text("bad", "dns")])
        if found.opinion
    ]
    found = examiner.detect(event, opinions, ("r1",))
    assert [(d.rule_id, d.level, d.score) for d in found] == [
        ("sentinel:process", "high", 0.9975),
        ("sentinel:dns", "medium", 0.9526),
    ]
    assert {d.detector for d in found} == {"sentinel"}
    assert found[0].opinion is not None
    assert found[0].opinion.agrees == ("r1",)
    assert set(examiner.rules) == {f"sentinel:{kind}" for kind in KINDS}


def test_a_larger_budget_never_finds_less() -> None:
    texts = [text(f"w{n}") for n in range(40)]
    weights = {f"w{n}": n / 8 for n in range(40)}
    found = [
        sum(e.opinion is not None for e in make_examiner(
            WordEncoder(**weights), budget=budget).examine(texts))
        for budget in (0.1, 0.5, 2, 8, 20, 100)
    ]  # fmt: skip
    assert found == sorted(found)
    assert found[0] < found[-1]


# -- waiting for it --------------------------------------------------------------------------------


def test_scan_judges_at_once_and_each_text_once() -> None:
    encoder = WordEncoder(bad=9.0)
    sentinel = WaitingSentinel(make_examiner(encoder), 100)
    joined = sentinel.join([candidate(1, "bad"), candidate(2, "good"), candidate(3, "bad", "good")])
    assert [d.event for d in joined.detections] == [make_event(1), make_event(3)]
    assert joined.counts == {"queued": 3, "judged": 3}
    assert encoder.asked[0] == ["process bad", "process good"]
    count = len(encoder.asked)
    again = sentinel.join([candidate(4, "bad"), candidate(5, "good")])
    assert [d.event for d in again.detections] == [make_event(4)]
    assert len(encoder.asked) == count
    assert sentinel.is_quiet(text("good"))
    assert not sentinel.is_quiet(text("bad"))


def test_scan_finds_the_same_with_a_memory_of_one_text() -> None:
    words = ["bad", "good", "bad bad", "other", "bad", "good"] * 40
    rows = [candidate(n, word) for n, word in enumerate(words)]
    large = WaitingSentinel(make_examiner(WordEncoder(bad=9.0)), 10_000).join(rows)
    small = WaitingSentinel(make_examiner(WordEncoder(bad=9.0)), 1).join(rows)
    assert large == small
    assert len(large.detections) == 120


def test_scan_waits_for_a_model_that_comes_back_and_gives_up_on_one_that_does_not() -> None:
    encoder = WordEncoder(bad=9.0)
    encoder.ready = False
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        encoder.ready = len(pauses) == 3

    sentinel = WaitingSentinel(make_examiner(encoder), 100, sleep=sleep)
    assert len(sentinel.join([candidate(1, "bad")] * 2).detections) == 2
    assert len(pauses) == 3
    encoder.ready = False
    joined = sentinel.join([candidate(n, f"bad {n}") for n in range(3)])
    assert joined.counts == {"queued": 3, "failed": 3}
    assert (sentinel.failed, sentinel.down_reason) == (3, "down")


def test_scan_judges_all_but_the_text_that_kills_the_model() -> None:
    encoder = WordEncoder(bad=9.0)
    encoder.poison = "deadly"
    sentinel = WaitingSentinel(make_examiner(encoder), 100, sleep=lambda _: None)
    joined = sentinel.join([candidate(1, "bad"), candidate(2, "deadly"), candidate(3, "bad bad")])
    assert [d.event for d in joined.detections] == [make_event(1), make_event(3)]
    assert joined.counts == {"queued": 3, "judged": 2, "failed": 1}


# -- beside the line -------------------------------------------------------------------------------


class Beside:
    """A queued sentinel with its encoder, and its counts added up as the store adds them."""

    def __init__(self, **settings: Any) -> None:
        self.encoder = WordEncoder(bad=9.0)
        self.woken = threading.Event()
        self.counts: dict[str, int] = {}
        settings = {"queue_cap": 1000, "queue_bytes": 1 << 30, "cap": 1000} | settings
        self.sentinel = QueuedSentinel(
            make_examiner(self.encoder),
            settings.pop("cap"),
            wake=self.woken.set,
            retry_seconds=0.01,
            **settings,
        )

    def put(self, *candidates: Candidate) -> Joined:
        joined = self.sentinel.join(candidates)
        self.sentinel.commit()
        for name, count in joined.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return joined

    @property
    def unjudged(self) -> int:
        """As `status` works it out."""
        queued, done = self.counts.get("queued", 0), self.counts.get("judged", 0)
        return queued - done - self.counts.get("failed", 0) - self.sentinel.waiting


@pytest.fixture
def beside() -> Iterator[Beside]:
    beside = Beside()
    beside.sentinel.start()
    yield beside
    beside.sentinel.close()


def test_what_is_unknown_comes_with_a_later_batch_and_what_is_known_at_once(beside: Beside) -> None:
    first = beside.put(candidate(1, "bad", rules=("r1",)), candidate(2, "good"))
    assert first == Joined([], {"queued": 2})
    assert beside.woken.wait(5)
    wait_for(lambda: beside.sentinel.wait_idle(1))
    assert beside.sentinel.ready
    later = beside.put(candidate(3, "bad"), candidate(4, "good"))
    assert [d.event for d in later.detections] == [make_event(1), make_event(3)]
    assert later.detections[0].opinion is not None
    assert later.detections[0].opinion.agrees == ("r1",)
    assert later.counts == {"judged": 2, "at_once": 2}
    assert (beside.unjudged, beside.sentinel.waiting) == (0, 0)


def test_joining_never_waits_for_a_model_that_hangs(beside: Beside) -> None:
    gate = threading.Event()
    beside.encoder.before = lambda: gate.wait(20)
    try:
        beside.put(candidate(1, "bad"))
        done = threading.Event()

        def join_many() -> None:
            for number in range(200):
                beside.put(candidate(number, f"bad {number}"))
            done.set()

        threading.Thread(target=join_many, daemon=True).start()
        assert done.wait(5)
        assert beside.sentinel.waiting >= 200
        assert beside.unjudged == 0
    finally:
        gate.set()


def test_a_full_queue_skips_and_counts_by_number_and_by_bytes() -> None:
    beside = Beside(queue_cap=3)
    beside.put(*(candidate(n, f"w{n}") for n in range(5)))
    assert beside.counts == {"queued": 3, "skipped": 2}
    assert beside.sentinel.describe()["full"]
    beside.sentinel.start()
    wait_for(lambda: beside.sentinel.wait_idle(1))
    beside.put()
    beside.put(candidate(9, "w9"))
    assert not beside.sentinel.describe()["full"]
    assert beside.counts["queued"] == 4
    beside.sentinel.close()

    narrow = Beside(queue_bytes=3 * EVENT_BYTES)
    narrow.put(*(candidate(n, f"w{n}") for n in range(5)))
    assert narrow.counts == {"queued": 2, "skipped": 3}
    assert narrow.sentinel.describe()["queue_bytes"] <= 3 * EVENT_BYTES


def test_answers_that_nobody_fetches_count_against_the_queue() -> None:
    beside = Beside(queue_cap=4)
    beside.sentinel.start()
    beside.put(*(candidate(n, f"w{n}") for n in range(4)))
    wait_for(lambda: beside.sentinel.wait_idle(1))
    joined = beside.sentinel.join([candidate(9, "w9")])
    beside.sentinel.rollback()
    assert joined.counts.get("skipped") == 1
    assert beside.sentinel.waiting == 4
    beside.sentinel.close()


def test_a_batch_that_is_not_stored_changes_nothing(beside: Beside) -> None:
    beside.put(candidate(1, "bad"))
    assert beside.woken.wait(5)
    wait_for(lambda: beside.sentinel.ready)
    first = beside.sentinel.join([candidate(2, "new")])
    beside.sentinel.rollback()
    assert len(first.detections) == 1
    assert beside.sentinel.describe()["queue"] == 0
    again = beside.put(candidate(2, "new"))
    assert again.detections == first.detections
    assert again.counts == first.counts == {"judged": 1, "queued": 1}


def test_a_model_that_is_down_loses_nothing_and_is_asked_again(beside: Beside) -> None:
    beside.encoder.ready = False
    beside.put(*(candidate(n, f"bad {n}") for n in range(5)))
    wait_for(lambda: beside.sentinel.down_reason)
    assert not beside.sentinel.wait_idle(0.1)
    assert beside.sentinel.waiting == 5
    beside.encoder.ready = True
    wait_for(lambda: beside.sentinel.wait_idle(1))
    assert len(beside.put().detections) == 5
    assert beside.sentinel.down_reason == ""


def test_a_model_that_has_nothing_to_do_is_looked_after() -> None:
    beside = Beside(tend_seconds=0.02)
    looks: list[float] = []

    def look(timeout: float) -> bool:
        looks.append(timeout)
        return True

    beside.encoder.wait_ready = look  # type: ignore[method-assign]
    beside.sentinel.start()
    wait_for(lambda: len(looks) > 2)
    assert set(looks) == {0.0}
    beside.sentinel.close()


def test_a_text_that_kills_the_model_is_left_out_and_counted(beside: Beside) -> None:
    beside.encoder.poison = "deadly"
    beside.put(*(candidate(n, f"bad {n}") for n in range(3)), candidate(7, "deadly"),
               *(candidate(n, f"bad {n}") for n in range(10, 13)))  # fmt: skip
    wait_for(lambda: beside.sentinel.wait_idle(1) and not beside.sentinel.describe()["queue"])
    joined = beside.put()
    assert len(joined.detections) == 6
    assert joined.counts == {"judged": 6, "failed": 1}
    assert beside.unjudged == 0


def test_a_fault_in_the_thinking_is_one_events_fault(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Examiner.detect

    def detect(self: Examiner, event: Any, *rest: Any) -> Any:
        if event.id == make_event(2).id:
            raise ZeroDivisionError("a fault")
        return real(self, event, *rest)

    monkeypatch.setattr(Examiner, "detect", detect)
    beside.put(candidate(1, "bad"), candidate(2, "bad"), candidate(3, "bad"))
    wait_for(lambda: beside.sentinel.wait_idle(1) and not beside.sentinel.describe()["queue"])
    joined = beside.put()
    assert [d.event for d in joined.detections] == [make_event(1), make_event(3)]
    assert joined.counts == {"judged": 2, "failed": 1}


def test_what_waits_goes_over_to_the_next_model() -> None:
    old = Beside()
    old.sentinel.start()
    old.put(candidate(1, "bad"))
    wait_for(lambda: old.sentinel.ready)
    old.encoder.ready = False
    old.put()  # the first is stored
    old.put(*(candidate(n, f"bad {n}") for n in range(2, 2 + CHUNK)))
    new = Beside()
    new.counts = old.counts
    new.sentinel.take_over(old.sentinel)
    assert new.unjudged == 0
    new.sentinel.start()
    wait_for(lambda: new.sentinel.wait_idle(1))
    assert len(new.put().detections) == CHUNK
    assert new.unjudged == 0
    assert old.sentinel.describe()["queue"] == 0
    old.sentinel.close()
    new.sentinel.close()


def at(number: int, seconds: float, host: str = "web") -> Candidate:
    event = msgspec.structs.replace(make_event(number, T0 + seconds), host=host)
    return Candidate(event, (text("bad"),))


def test_the_same_text_on_the_same_host_is_told_once_a_day() -> None:
    day = 86400.0
    scan = WaitingSentinel(make_examiner(WordEncoder(bad=9.0)), 10, repeat_seconds=day)
    rows = [at(1, 0), at(2, 60), at(3, 60, "db"), at(4, day - 1), at(5, day), at(6, day + 9)]
    joined = scan.join(rows)
    assert [d.event.time - T0 for d in joined.detections] == [0, 60, day]
    assert joined.counts == {"queued": 6, "judged": 6, "repeated": 3}
    scan.rollback()  # not stored: the same again
    assert len(scan.join(rows[:1]).detections) == 1
    scan.commit()
    assert scan.join([at(7, 100)]).detections == []

    beside = Beside(repeat_seconds=day)
    beside.sentinel.start()
    beside.put(at(1, 0), at(2, 5))
    wait_for(lambda: beside.sentinel.wait_idle(1))
    first = beside.sentinel.join([at(3, 9)])
    beside.sentinel.rollback()
    assert len(first.detections) == 1
    again = beside.put(at(3, 9))
    assert again.detections == first.detections
    assert again.counts == {"judged": 2, "at_once": 1, "repeated": 2}
    assert beside.put(at(4, 20)).detections == []
    beside.sentinel.close()


def test_workers_are_told_what_is_ordinary_and_nothing_else(beside: Beside) -> None:
    known, hot, unknown = text("good"), text("bad"), text("new")
    beside.put(candidate(1, "good"), candidate(2, "bad"))
    wait_for(lambda: beside.sentinel.wait_idle(1))
    asked = {key_text(each): each.kind for each in (known, hot, unknown)}
    assert beside.sentinel.find_quiet(asked) == [key_text(known)]


def test_memory_is_bounded(beside: Beside) -> None:
    small = Beside(cap=50)
    small.sentinel.start()
    for first in range(0, 500, 100):
        small.put(*(candidate(n, f"bad {n}") for n in range(first, first + 100)))
        wait_for(lambda: small.sentinel.wait_idle(1))
        small.put()
    facts = small.sentinel.describe()
    assert facts["cache"] == facts["cache_cap"] == 50
    assert small.counts == {"queued": 500, "judged": 500}
    small.sentinel.close()


def test_the_small_model_is_not_needed_to_read_heads(tmp_path: Path) -> None:
    """The recipe writes heads with the safetensors library: the same file is read here."""
    from tests.sentinel_models import TECHNIQUES, write_sentinel

    model = write_sentinel(tmp_path)
    heads = Heads.parse((model.parent / "sentinel.heads.safetensors").read_bytes(), "heads")
    assert heads.dims == 128
    assert heads.about.techniques == TECHNIQUES
