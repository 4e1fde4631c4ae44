"""Where findings meet the experts, without ever waiting for one.

A rule's verdict is worked out once, when the rule is loaded, and kept by rule and knowledge base. A
finding whose rule has its verdict takes it along; one whose rule has none yet goes out at once,
marked `insufficient_data`, and gets the verdict later as an update. One thread does the slow part,
behind one bounded queue; while the model is down it waits and tries again. A rule at which the
expert fails for another reason waits behind the others, so that it can't keep them from theirs.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, Literal, Protocol

import msgspec

from appliance.errors import ApplianceError, ModelUnavailable
from appliance.schema import RuleInfo, Verdict


class Expert(Protocol):
    """One expert on rules, as judge/knowledge.py has it."""

    def judge_rule(self, rule: RuleInfo) -> Verdict:
        """The full answer. May raise ModelUnavailable."""
        ...

    def judge_rule_by_tags(self, rule: RuleInfo, why: str) -> Verdict:
        """What can be said at once, without the model, and why it is no more."""
        ...


#: Verdicts kept in memory, and rules that wait behind a full queue. There are a few thousand loaded
#: rules; those of external sensors are known only when they fire, and their number is not ours.
MAX_VERDICTS: Final = 20_000
MAX_WAITING: Final = 10_000

#: Where a rule has come: into the queue, behind it, or nowhere.
Place = Literal["asked", "waiting", "left out"]


class Answer(msgspec.Struct, frozen=True):
    """An expert's final verdict on a rule's findings."""

    rule: RuleInfo
    verdict: Verdict


class TagsOnly:
    """The bench of an appliance whose model is switched off: what the tags say, at once."""

    def __init__(self, expert: Expert, why: str) -> None:
        self._expert = expert
        self._why = why

    def first_verdict(self, rule: RuleInfo) -> tuple[Verdict, bool]:
        """The verdict by tags; no later one follows."""
        return self._expert.judge_rule_by_tags(rule, self._why), False


class Bench:
    """Gives findings their verdicts. `first_verdict`, `take_answers` belong to the line's thread.

    `known` holds verdicts from earlier runs by rule hash; the oldest over MAX_VERDICTS are
    forgotten, and asked for again when their rule fires. `queue_cap` bounds the queue. A rule that
    finds it full is counted and waits, with the rules that were only loaded, until it is empty; one
    that finds MAX_WAITING rules there (only external sensors have so many) is judged by its tags,
    counted as `left_out`. `wake` is called when answers are ready (from the bench's thread, or from
    that of `ask`). `retry_seconds` is the pause while the model is down, `fault_seconds` that while
    there are only rules at which the expert fails.
    """

    def __init__(
        self,
        expert: Expert,
        *,
        known: Mapping[str, Verdict],
        queue_cap: int,
        wake: Callable[[], None] = lambda: None,
        retry_seconds: float = 0.5,
        fault_seconds: float = 5.0,
    ) -> None:
        self._expert = expert
        self._verdicts = dict(known)
        self._forget_verdicts()
        self._cap = queue_cap
        self._wake = wake
        self._retry_seconds = retry_seconds
        self._fault_seconds = fault_seconds
        self._changed = threading.Condition()
        self._asked: dict[str, RuleInfo] = {}
        self._turned_away: dict[str, RuleInfo] = {}
        self._ahead: deque[RuleInfo] = deque()
        self._failed: set[str] = set()
        self._answers: list[Answer] = []
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.down_reason = ""
        self.counts = {"answered": 0, "full": 0, "left_out": 0, "unavailable": 0, "failed": 0}

    def start(self, rules: Mapping[str, RuleInfo]) -> None:
        """Begin working; rules without a verdict are worked through when nothing is asked."""
        self._ahead = deque(rule for rule in rules.values() if rule.hash not in self._verdicts)
        self._thread = threading.Thread(target=self._work, name="bench", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop working. What was not answered is asked again by the next run."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(15)

    def first_verdict(self, rule: RuleInfo) -> tuple[Verdict, bool]:
        """The verdict to send a finding out with, and whether a later one will follow."""
        verdict = self._verdicts.get(rule.hash)
        if verdict is not None:
            return verdict, False
        place = self._ask(rule)
        if place != "asked":
            verdict = self._expert.judge_rule_by_tags(rule, "too many rules wait for the model")
            return verdict, place == "waiting"
        why = self.down_reason or "the knowledge expert has not answered yet"
        return self._expert.judge_rule_by_tags(rule, why), True

    def ask(self, rule: RuleInfo) -> bool:
        """Have a rule judged soon; False when the queue is full (its turn comes after it). The
        answer comes by `take_answers`, also when it is known already."""
        return self._ask(rule) == "asked"

    def _ask(self, rule: RuleInfo) -> Place:
        known = self._verdicts.get(rule.hash)
        with self._changed:
            if rule.hash in self._asked or self._is_answered(rule):
                return "asked"
            if known is None:
                return self._enqueue(rule)
            self._answers.append(Answer(rule, known))
        self._wake()
        return "asked"

    def _enqueue(self, rule: RuleInfo) -> Place:
        if len(self._asked) < self._cap:
            self._turned_away.pop(rule.hash, None)
            self._asked[rule.hash] = rule
            self._failed.discard(rule.hash)
            self._changed.notify_all()
            return "asked"
        self.counts["full"] += 1
        if rule.hash not in self._turned_away and len(self._turned_away) >= MAX_WAITING:
            self.counts["left_out"] += 1
            return "left out"
        self._turned_away[rule.hash] = rule
        self._changed.notify_all()
        return "waiting"

    def _is_answered(self, rule: RuleInfo) -> bool:
        return any(answer.rule.hash == rule.hash for answer in self._answers)

    def take_answers(self) -> list[Answer]:
        """Verdicts that have become known since the last call. From now on findings carry them."""
        with self._changed:
            answers, self._answers = self._answers, []
            self._verdicts.update((answer.rule.hash, answer.verdict) for answer in answers)
            self._forget_verdicts()
        return answers

    def _forget_verdicts(self) -> None:
        for key in list(islice(self._verdicts, max(0, len(self._verdicts) - MAX_VERDICTS))):
            del self._verdicts[key]

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing that was asked is open, or until the model is down."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self.down_reason) or not (self._asked or self._turned_away), timeout
            )

    def describe(self) -> dict[str, Any]:
        """Facts for `status`: queue depth and cap, answers, what is wrong."""
        with self._changed:
            return {
                "queue": len(self._asked) + len(self._turned_away),
                "queue_cap": self._cap,
                "verdicts_known": len(self._verdicts),
                "down": self.down_reason,
                **self.counts,
            }

    def _work(self) -> None:
        while (rule := self._next_rule()) is not None:
            try:
                verdict = self._expert.judge_rule(rule)
            except ModelUnavailable as error:
                self._note_unavailable(rule, str(error) or "the model is not available")
            except ApplianceError as error:
                self._note_failure(rule, str(error) or type(error).__name__)
            except Exception as error:  # one rule's fault must not end every rule's verdicts
                self._note_failure(rule, f"fault in the expert: {type(error).__name__}: {error}")
            else:
                self._note_answer(Answer(rule, verdict))
                self._wake()

    def _next_rule(self) -> RuleInfo | None:
        """The next rule to judge, when there is one: asked before turned away before only loaded,
        and those at which the expert failed last of all. None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                waiting = (*self._asked.values(), *self._turned_away.values())
                for rule in waiting:
                    if rule.hash not in self._failed:
                        return rule
                while self._ahead:
                    rule = self._ahead.popleft()
                    if rule.hash in self._verdicts or rule.hash in self._failed:
                        continue
                    if not self._is_answered(rule):
                        return rule
                if not waiting:
                    self._changed.wait()
                elif not self._changed.wait_for(self._has_other_work, self._fault_seconds):
                    return self._next_failed()
        return None

    def _has_other_work(self) -> bool:
        waiting = self._asked.keys() | self._turned_away.keys()
        return self._stopping or not waiting <= self._failed

    def _next_failed(self) -> RuleInfo:
        """A rule at which the expert failed, each in turn."""
        rules = self._asked or self._turned_away
        key, rule = next(iter(rules.items()))
        rules[key] = rules.pop(key)
        return rule

    def _note_answer(self, answer: Answer) -> None:
        key = answer.rule.hash
        with self._changed:
            self._asked.pop(key, None)
            self._turned_away.pop(key, None)
            self._failed.discard(key)
            self._answers.append(answer)
            self.down_reason = ""
            self.counts["answered"] += 1
            self._changed.notify_all()

    def _note_unavailable(self, rule: RuleInfo, reason: str) -> None:
        """The rule keeps its place; it is tried again after a pause."""
        with self._changed:
            if rule.hash not in self._asked and rule.hash not in self._turned_away:
                self._ahead.appendleft(rule)
            self.counts["unavailable"] += 1
            self.down_reason = reason
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping, self._retry_seconds)

    def _note_failure(self, rule: RuleInfo, reason: str) -> None:
        """The rule waits behind all others; one that nobody has asked for waits until then."""
        with self._changed:
            self._failed.add(rule.hash)
            self.counts["failed"] += 1
            waiting = self._asked.keys() | self._turned_away.keys()
            if waiting and waiting <= self._failed:
                self.down_reason = f"rule {rule.id}: {reason}"
            self._changed.notify_all()
