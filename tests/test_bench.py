"""The bench: nothing waits for an expert, no rule is forgotten, no fault ends the thread."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from appliance.errors import ApplianceError, ModelError, ModelUnavailable
from appliance.judge.bench import Answer, Bench, TagsOnly
from appliance.schema import RuleInfo, Verdict
from tests.builders import make_rule, make_verdict

WAIT = 10.0


class FakeExpert:
    """Answers when it is let, and fails as long as a rule is in `faults`."""

    def __init__(self) -> None:
        self.judged: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()
        self.held: str | None = None
        self.released = threading.Event()

    def judge_rule(self, rule: RuleInfo) -> Verdict:
        self.at_gate.set()
        assert self.gate.wait(WAIT)
        if rule.id == self.held:
            assert self.released.wait(WAIT)
        self.judged.append(rule.id)
        fault = self.faults.get(rule.id) or self.faults.get("*")
        if fault is not None:
            raise fault
        return make_verdict(f"full {rule.id}")

    def judge_rule_by_tags(self, rule: RuleInfo, why: str) -> Verdict:
        return make_verdict(why, expert="tags")


@pytest.fixture
def expert() -> FakeExpert:
    return FakeExpert()


class Benches:
    """Opens benches and closes them when the test ends."""

    def __init__(self, expert: FakeExpert) -> None:
        self.expert = expert
        self.opened: list[Bench] = []
        self.woken = threading.Event()

    def __call__(
        self,
        *loaded: RuleInfo,
        cap: int = 100,
        known: dict[str, Verdict] | None = None,
        retry: float = 0.01,
        fault: float = 0.01,
    ) -> Bench:
        bench = Bench(
            self.expert, known=known or {}, queue_cap=cap, wake=self.woken.set,
            retry_seconds=retry, fault_seconds=fault,
        )  # fmt: skip
        self.opened.append(bench)
        bench.start({rule.id: rule for rule in loaded})
        return bench


@pytest.fixture
def start(expert: FakeExpert) -> Iterator[Benches]:
    benches = Benches(expert)
    yield benches
    expert.gate.set()
    for bench in benches.opened:
        bench.close()
        assert bench._thread is not None
        assert not bench._thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true; fail when it takes too long."""
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def collect(bench: Bench, count: int) -> list[Answer]:
    """Take answers until there are this many."""
    found: list[Answer] = []

    def enough() -> bool:
        found.extend(bench.take_answers())
        return len(found) >= count

    until(enough)
    return found


def test_first_word_is_pending_then_the_answer_comes_then_it_is_given_at_once(
    start: Benches, expert: FakeExpert
) -> None:
    expert.gate.clear()
    bench = start()
    rule = make_rule("r1")
    first, pending = bench.first_verdict(rule)
    assert (first.expert, pending) == ("tags", True)
    assert "has not answered yet" in first.reason
    assert bench.first_verdict(rule)[1]
    assert bench.take_answers() == []
    assert not start.woken.is_set()
    expert.gate.set()
    assert start.woken.wait(WAIT)
    assert bench.wait_idle(WAIT)
    # An answer that was not taken yet is nobody's: the findings that wait for it must get it.
    assert bench.first_verdict(rule)[1]
    assert bench.take_answers() == [Answer(rule, make_verdict("full r1"))]
    assert bench.first_verdict(rule) == (make_verdict("full r1"), False)
    assert bench.take_answers() == []
    assert expert.judged == ["r1"]


def test_loaded_rules_are_judged_when_nothing_is_asked(start: Benches, expert: FakeExpert) -> None:
    bench = start(make_rule("a"), make_rule("b"))
    assert [a.rule.id for a in collect(bench, 2)] == ["a", "b"]
    assert bench.first_verdict(make_rule("b")) == (make_verdict("full b"), False)


def test_asked_rules_go_before_loaded_ones_and_are_judged_once(
    start: Benches, expert: FakeExpert
) -> None:
    expert.gate.clear()
    bench = start(*(make_rule(name) for name in "abcd"))
    assert expert.at_gate.wait(WAIT)  # at "a"
    assert bench.ask(make_rule("d"))
    assert bench.ask(make_rule("x"))
    assert bench.ask(make_rule("a"))
    expert.gate.set()
    assert len(collect(bench, 5)) == 5
    assert expert.judged == ["a", "d", "x", "b", "c"]


def test_known_verdicts_are_used_and_their_rules_not_judged(
    start: Benches, expert: FakeExpert
) -> None:
    old = make_rule("old")
    bench = start(old, make_rule("new"), known={old.hash: make_verdict("cached")})
    assert bench.first_verdict(old) == (make_verdict("cached"), False)
    collect(bench, 1)
    assert expert.judged == ["new"]
    assert bench.describe()["verdicts_known"] == 2


def test_asking_for_a_known_verdict_gives_it_without_the_model(
    start: Benches, expert: FakeExpert
) -> None:
    rule = make_rule("old")
    expert.faults["*"] = ModelUnavailable("gone")
    bench = start(known={rule.hash: make_verdict("cached")})
    assert bench.ask(rule)
    assert start.woken.is_set()
    assert bench.take_answers() == [Answer(rule, make_verdict("cached"))]


def test_full_queue_is_said_and_counted_and_the_rule_has_its_turn_later(
    start: Benches, expert: FakeExpert
) -> None:
    expert.gate.clear()
    bench = start(make_rule("ahead"), cap=2)
    assert expert.at_gate.wait(WAIT)
    assert bench.first_verdict(make_rule("r1"))[1]
    assert bench.first_verdict(make_rule("r2"))[1]
    verdict, pending = bench.first_verdict(make_rule("r3"))
    assert pending
    assert verdict.reason == "too many rules wait for the model"
    assert not bench.ask(make_rule("r3"))
    assert bench.describe()["full"] == 2
    assert bench.describe()["queue"] == 3
    assert not bench.wait_idle(0.05)
    expert.gate.set()
    assert bench.wait_idle(WAIT)
    assert expert.judged == ["ahead", "r1", "r2", "r3"]
    assert {a.rule.id for a in bench.take_answers()} == {"ahead", "r1", "r2", "r3"}


def test_who_waits_waits_for_rules_that_found_the_queue_full_too(
    start: Benches, expert: FakeExpert
) -> None:
    expert.gate.clear()
    expert.held = "r2"
    bench = start(cap=1)
    assert bench.ask(make_rule("r1"))
    assert not bench.ask(make_rule("r2"))
    expert.gate.set()
    until(lambda: expert.judged == ["r1"])
    assert not bench.wait_idle(0.05)
    expert.released.set()
    assert bench.wait_idle(WAIT)
    assert len(bench.take_answers()) == 2


def test_model_that_is_down_for_a_while_loses_nothing(start: Benches, expert: FakeExpert) -> None:
    expert.faults["*"] = ModelUnavailable("the child died")
    bench = start(make_rule("ahead"))
    until(lambda: bench.down_reason == "the child died")
    for name in ("r1", "r2"):
        verdict, pending = bench.first_verdict(make_rule(name))
        assert pending
        assert verdict.reason == "the child died"
    assert bench.wait_idle(WAIT), "who waits is told that the model is down"
    until(lambda: expert.judged.count("r1") >= 3)
    assert "r2" not in expert.judged
    assert bench.take_answers() == []
    assert bench.describe()["unavailable"] >= 3
    del expert.faults["*"]
    assert {a.rule.id for a in collect(bench, 3)} == {"r1", "r2", "ahead"}
    assert bench.down_reason == ""
    assert bench.describe()["down"] == ""
    assert bench.first_verdict(make_rule("r2")) == (make_verdict("full r2"), False)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ModelError("no such entry"), "rule bad: no such entry"),
        (ApplianceError(), "rule bad: ApplianceError"),
        (ZeroDivisionError("oops"), "rule bad: fault in the expert: ZeroDivisionError: oops"),
    ],
)
def test_a_rule_at_which_the_expert_fails_holds_up_no_other(
    start: Benches, expert: FakeExpert, fault: Exception, said: str
) -> None:
    expert.gate.clear()
    expert.faults["bad"] = fault
    bench = start(make_rule("ahead"))
    for name in ("bad", "r1", "r2"):
        bench.first_verdict(make_rule(name))
    expert.gate.set()
    assert {a.rule.id for a in collect(bench, 3)} == {"r1", "r2", "ahead"}
    until(lambda: bench.down_reason == said)
    assert bench.wait_idle(WAIT)
    until(lambda: expert.judged.count("bad") >= 3)
    assert bench.describe()["failed"] >= 3
    bench.first_verdict(make_rule("r3"))
    assert [a.rule.id for a in collect(bench, 1)] == ["r3"]
    del expert.faults["bad"]
    assert [a.rule.id for a in collect(bench, 1)] == ["bad"]
    assert bench.down_reason == ""
    assert bench.wait_idle(WAIT)


def test_all_failing_rules_have_their_turn(start: Benches, expert: FakeExpert) -> None:
    expert.faults["*"] = ModelError("broken")
    bench = start(cap=2)
    for name in ("a", "b", "c"):
        bench.first_verdict(make_rule(name))
    until(lambda: {"a", "b", "c"} <= set(expert.judged) and expert.judged.count("b") >= 2)
    del expert.faults["*"]
    assert {a.rule.id for a in collect(bench, 3)} == {"a", "b", "c"}


def test_new_rules_do_not_wait_for_the_pause_of_failing_ones(
    start: Benches, expert: FakeExpert
) -> None:
    expert.faults["bad"] = ModelError("broken")
    bench = start(fault=1000.0)
    bench.first_verdict(make_rule("bad"))
    until(lambda: bool(bench.down_reason))
    bench.first_verdict(make_rule("good"))
    assert [a.rule.id for a in collect(bench, 1)] == ["good"]


def test_loaded_rule_that_fails_is_tried_again_when_it_fires(
    start: Benches, expert: FakeExpert
) -> None:
    expert.faults["bad"] = ModelError("broken")
    bench = start(make_rule("bad"), make_rule("good"), fault=1000.0)
    assert [a.rule.id for a in collect(bench, 1)] == ["good"]
    assert bench.describe()["failed"] == 1
    assert bench.down_reason == ""
    del expert.faults["bad"]
    assert bench.first_verdict(make_rule("bad"))[1]
    assert [a.rule.id for a in collect(bench, 1)] == ["bad"]


def test_wait_idle_runs_out(start: Benches, expert: FakeExpert) -> None:
    expert.gate.clear()
    bench = start()
    assert bench.wait_idle(0.01)
    bench.first_verdict(make_rule("r1"))
    assert not bench.wait_idle(0.05)
    expert.gate.set()
    assert bench.wait_idle(WAIT)


def test_close_while_working_ends_the_thread_after_the_rule_at_hand(
    start: Benches, expert: FakeExpert
) -> None:
    expert.gate.clear()
    bench = start()
    bench.first_verdict(make_rule("r1"))
    bench.first_verdict(make_rule("r2"))
    assert expert.at_gate.wait(WAIT)
    closer = threading.Thread(target=bench.close)
    closer.start()
    until(lambda: bench._stopping)
    expert.gate.set()
    closer.join(WAIT)
    assert not closer.is_alive()
    assert expert.judged == ["r1"]
    assert [a.rule.id for a in bench.take_answers()] == ["r1"]


@pytest.mark.parametrize("fault", [ModelUnavailable("down"), ModelError("broken")])
def test_close_does_not_wait_for_a_pause(
    start: Benches, expert: FakeExpert, fault: Exception
) -> None:
    expert.faults["*"] = fault
    bench = start(retry=1000.0, fault=1000.0)
    bench.first_verdict(make_rule("r1"))
    until(lambda: bool(bench.down_reason))
    began = time.monotonic()
    bench.close()
    assert time.monotonic() - began < WAIT / 2


def test_close_before_start(expert: FakeExpert) -> None:
    Bench(expert, known={}, queue_cap=1).close()


def test_switched_off_says_why_and_promises_nothing(expert: FakeExpert) -> None:
    assert TagsOnly(expert, "switched off").first_verdict(make_rule()) == (
        make_verdict("switched off", expert="tags"),
        False,
    )


def test_the_memory_of_verdicts_has_a_cap(start: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.judge.bench.MAX_VERDICTS", 3)
    bench = start(known={f"h{n}": make_verdict(f"v{n}") for n in range(5)})
    assert bench.describe()["verdicts_known"] == 3
    for name in ("a", "b"):
        assert bench.first_verdict(make_rule(name))[1]
        assert [answer.rule.id for answer in collect(bench, 1)] == [name]
        assert bench.describe()["verdicts_known"] == 3
    assert bench.first_verdict(make_rule("a")) == (make_verdict("full a"), False)


def test_a_flood_of_rules_that_were_not_loaded_is_judged_by_tags(
    start: Benches, expert: FakeExpert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.judge.bench.MAX_WAITING", 2)
    expert.gate.clear()
    bench = start(cap=1)
    pending = [bench.first_verdict(make_rule(f"r{n}"))[1] for n in range(5)]
    assert pending == [True, True, True, False, False]
    assert bench.first_verdict(make_rule("r2"))[1]  # waits already
    facts = bench.describe()
    assert (facts["queue"], facts["left_out"]) == (3, 2)
    expert.gate.set()
    assert {answer.rule.id for answer in collect(bench, 3)} == {"r0", "r1", "r2"}
    assert bench.first_verdict(make_rule("r4"))[1]  # there is room again
    assert [answer.rule.id for answer in collect(bench, 1)] == ["r4"]
