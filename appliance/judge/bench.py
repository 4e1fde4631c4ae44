"""Where findings meet the experts, without ever waiting for one.

A rule's verdict is worked out once, when the rule is loaded, and kept by rule and knowledge base. A
finding whose rule has its verdict takes it along; one whose rule has none yet goes out at once,
marked `insufficient_data`, and gets the verdict later as an update. One thread does the slow part,
behind one bounded queue; while the model is down it waits and tries again.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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

    `known` holds verdicts from earlier runs by rule hash; `queue_cap` bounds the rules that wait;
    `wake` is called (from the bench's thread) when answers are ready.
    """

    def __init__(
        self,
        expert: Expert,
        *,
        known: Mapping[str, Verdict],
        queue_cap: int,
        wake: Callable[[], None] = lambda: None,
        retry_seconds: float = 0.5,
    ) -> None:
        self._expert = expert
        self._verdicts = dict(known)
        self._cap = queue_cap
        self._wake = wake
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._asked: dict[str, RuleInfo] = {}
        self._ahead: deque[RuleInfo] = deque()
        self._answers: list[Answer] = []
        self._working = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.down_reason = ""
        self.counts = {"answered": 0, "full": 0, "unavailable": 0}

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
        if not self.ask(rule):
            return self._expert.judge_rule_by_tags(rule, "too many rules wait for the model"), True
        why = self.down_reason or "the knowledge expert has not answered yet"
        return self._expert.judge_rule_by_tags(rule, why), True

    def ask(self, rule: RuleInfo) -> bool:
        """Have a rule judged soon; False when the queue is full (it is asked again later)."""
        with self._changed:
            if rule.hash in self._asked or any(a.rule.hash == rule.hash for a in self._answers):
                return True
            if len(self._asked) >= self._cap:
                self.counts["full"] += 1
                return False
            self._asked[rule.hash] = rule
            self._changed.notify_all()
        return True

    def take_answers(self) -> list[Answer]:
        """Verdicts that have become known since the last call. From now on findings carry them."""
        with self._changed:
            answers, self._answers = self._answers, []
        for answer in answers:
            self._verdicts[answer.rule.hash] = answer.verdict
        return answers

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing that was asked is open, or until the model is down."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self.down_reason) or not (self._asked or self._working), timeout
            )

    def describe(self) -> dict[str, Any]:
        """Facts for `status`: queue depth and cap, answers, what is wrong."""
        with self._changed:
            return {
                "queue": len(self._asked),
                "queue_cap": self._cap,
                "verdicts_known": len(self._verdicts),
                "down": self.down_reason,
                **self.counts,
            }

    def _work(self) -> None:
        while (rule := self._next_rule()) is not None:
            try:
                verdict = self._expert.judge_rule(rule)
            except ApplianceError as error:
                self._note_failure(error)
                continue
            with self._changed:
                self._asked.pop(rule.hash, None)
                self._answers.append(Answer(rule, verdict))
                self._working = False
                self.down_reason = ""
                self.counts["answered"] += 1
                self._changed.notify_all()
            self._wake()

    def _next_rule(self) -> RuleInfo | None:
        """The next rule to judge: one that was asked for before one that was only loaded."""
        with self._changed:
            while not self._stopping:
                if self._asked:
                    self._working = True
                    return next(iter(self._asked.values()))
                if self._ahead:
                    rule = self._ahead.popleft()
                    if rule.hash in self._verdicts:
                        continue
                    self._asked[rule.hash] = rule
                    continue
                self._changed.wait()
        return None

    def _note_failure(self, error: ApplianceError) -> None:
        """The rule stays asked; it is tried again after a pause."""
        with self._changed:
            self.counts["unavailable"] += 1
            self.down_reason = str(error) or type(error).__name__
            self._working = False
            self._changed.notify_all()
            pause = self._retry_seconds if isinstance(error, ModelUnavailable) else 5.0
            self._changed.wait_for(lambda: self._stopping, pause)
