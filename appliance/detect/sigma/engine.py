"""The Sigma detector of the detect stage: Event -> Detections, with its ledger.

A rule applies to a view when each part that its logsource states equals the view's part. A rule
fires once an event, on the first of the event's views that it matches. A rule never makes the
line fail: what goes wrong inside one is caught here, counted with the rule's id, and the others
go on.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from appliance.detect.sigma.load import RuleSet, covers
from appliance.detect.sigma.match import CompiledRule, Evidence, match_view
from appliance.detect.sigma.values import ViewValues
from appliance.schema import Detection, Event, LogSource, RuleInfo

DETECTOR: Final = "sigma"
#: Combinations of view logsources remembered at once. A log's own text can become a service name,
#: so their number is not ours to choose.
MAX_PLANS: Final = 1024
_MAX_REASON: Final = 512

#: The logsources of an event's views, in order.
Shape = tuple[LogSource, ...]


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A rule that failed while it was evaluated: how often, and the last reason."""

    count: int
    reason: str


@dataclass(slots=True)
class _Plan:
    """What to evaluate for events of one shape: rules with the places of the views they read."""

    steps: tuple[tuple[CompiledRule, tuple[int, ...]], ...]
    events: int = 0


class SigmaDetector:
    """Evaluates a RuleSet. Holds counters only; not for use by several threads at once."""

    def __init__(self, rules: RuleSet) -> None:
        self._rule_set = rules
        self._plans: dict[Shape, _Plan] = {}
        self._evaluated: Counter[str] = Counter()  # of plans that were forgotten
        self._fired: Counter[str] = Counter()
        self._errors: dict[str, RuleFault] = {}
        self.rules: Mapping[str, RuleInfo] = {rule.info.id: rule.info for rule in rules.rules}

    def detect(self, event: Event) -> list[Detection]:
        """What the rules say of the event, in the order in which they were loaded. Raises
        nothing because of a rule or of what the event holds."""
        plan = self._find_plan(tuple(view.logsource for view in event.views))
        plan.events += 1
        views = [ViewValues(view.fields) for view in event.views]
        detections: list[Detection] = []
        for rule, places in plan.steps:
            found = self._evaluate(rule, views, places)
            if found is not None:
                self._fired[rule.info.id] += 1
                place, evidence = found
                detections.append(_detection(rule.info, event, place, evidence))
        return detections

    def _evaluate(
        self, rule: CompiledRule, views: list[ViewValues], places: tuple[int, ...]
    ) -> tuple[int, Evidence] | None:
        """The first view that the rule matches and the evidence; a fault counts as no match."""
        try:
            for place in places:
                evidence = match_view(rule, views[place])
                if evidence is not None:
                    return place, evidence
        except Exception as error:  # the doorway: one rule's fault must not stop the line
            self._note_error(rule.info.id, error)
        return None

    def _note_error(self, rule_id: str, error: Exception) -> None:
        before = self._errors.get(rule_id)
        count = 1 if before is None else before.count + 1
        self._errors[rule_id] = RuleFault(count, repr(error)[:_MAX_REASON])

    def _find_plan(self, shape: Shape) -> _Plan:
        plan = self._plans.get(shape)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._evaluated = Counter(self.evaluated)
                self._plans.clear()
            plan = self._plans[shape] = _Plan(self._plan_steps(shape))
        return plan

    def _plan_steps(self, shape: Shape) -> tuple[tuple[CompiledRule, tuple[int, ...]], ...]:
        steps = []
        for rule in self._rule_set.rules:
            stated = rule.info.logsource
            places = tuple(i for i, logsource in enumerate(shape) if covers(stated, logsource))
            if places:
                steps.append((rule, places))
        return tuple(steps)

    @property
    def evaluated(self) -> dict[str, int]:
        """Events on which each rule was evaluated, by rule id; every loaded rule is there, so a
        rule that never met its logsource shows as 0 and not as silence."""
        counts = {rule_id: self._evaluated[rule_id] for rule_id in self.rules}
        for plan in list(self._plans.values()):  # status asks from another thread
            for rule, _ in plan.steps:
                counts[rule.info.id] += plan.events
        return counts

    @property
    def errors(self) -> Mapping[str, RuleFault]:
        """Rules that failed, by rule id: on as many events each has said nothing."""
        return dict(self._errors)

    def counts(self) -> dict[str, dict[str, int]]:
        """For the ledger: each loaded rule's {"evaluated", "fired", "errors"}, in events."""
        return {
            rule_id: {
                "evaluated": evaluated,
                "fired": self._fired[rule_id],
                "errors": self._errors[rule_id].count if rule_id in self._errors else 0,
            }
            for rule_id, evaluated in self.evaluated.items()
        }


def _detection(info: RuleInfo, event: Event, place: int, evidence: Evidence) -> Detection:
    return Detection(
        detector=DETECTOR,
        rule_id=info.id,
        title=info.title,
        level=info.level,
        techniques=info.techniques,
        tactics=info.tactics,
        event=event,
        logsource=event.views[place].logsource,
        matched=evidence,
    )
