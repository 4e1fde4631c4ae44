"""The Sigma detector of the detect stage: Sighting -> Detections, with its ledger.

A rule applies to a view when each part that its logsource states equals the view's part. A rule
fires once an event, on the first of the event's views that it matches. A rule never makes the
line fail: what goes wrong inside one is caught here, counted with the rule's id, and the others
go on.

An `Index` says which rules are worth asking, the plain matcher of `match` asks them. What comes out
is the same without an index (`indexed=False`), where every rule is asked: that is the referee.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from appliance.detect.sigma.cache import IndexCache, hold_collector
from appliance.detect.sigma.index import Index, compile_database, list_bits
from appliance.detect.sigma.load import RuleSet, covers
from appliance.detect.sigma.match import CompiledRule, Evidence, match_view
from appliance.detect.sigma.needs import find_bars, find_need
from appliance.detect.sigma.values import ViewValues
from appliance.schema import Detection, LogSource, RuleInfo, Sighting, View, digest

DETECTOR: Final = "sigma"
#: Combinations of view logsources remembered at once. A log's own text can become a service name,
#: so their number is not ours to choose.
MAX_PLANS: Final = 1024
#: Indexes kept at once; one serves all views that the same rules read.
MAX_INDEXES: Final = 256
_MAX_REASON: Final = 512

#: The logsources of an event's views, in order.
Shape = tuple[LogSource, ...]
#: For each view of an event, the first view that holds the very same fields.
Sharing = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A rule that failed while it was evaluated: how often, and the last reason."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Group:
    """The rules that read one set of fields. `steps` holds each rule's place in the rule set, the
    rule, and the first view of the group whose logsource it covers; `index` is over the same."""

    place: int
    steps: tuple[tuple[int, CompiledRule, int], ...]
    index: Index


@dataclass(slots=True)
class _Plan:
    """What to evaluate for events of one shape: rules with the places of the views they read, and
    the same in groups for each way in which views share their fields."""

    steps: tuple[tuple[int, CompiledRule, tuple[int, ...]], ...]
    groups: dict[Sharing, tuple[_Group, ...]] = field(default_factory=dict)
    events: int = 0


class SigmaDetector:
    """Evaluates a RuleSet. Holds counters only; not for use by several threads at once.

    With `cache` compiled indexes are kept in that cache (see `cache`); with `indexed` False every
    rule is evaluated on every event that meets its logsource. The first `patience` events of a
    kind that nothing was prepared for are evaluated so too: an index takes as long to build as a
    hundred events, and most kinds have few."""

    def __init__(
        self,
        rules: RuleSet,
        *,
        cache: IndexCache | None = None,
        indexed: bool = True,
        patience: int = 0,
    ) -> None:
        self._patience = patience
        self._rule_set = rules
        self._open_database = compile_database if cache is None else cache.open_database
        self._cache = cache
        #: What the kept indexes were made from; empty where nothing may be kept.
        self._key = digest(rules.key, *(rule.info.id for rule in rules.rules)) if rules.key else ""
        self._indexed = indexed
        self._sources: dict[LogSource, list[int]] = {}
        for place, rule in enumerate(rules.rules):
            self._sources.setdefault(rule.info.logsource, []).append(place)
        self._plans: dict[Shape, _Plan] = {}
        self._indexes: dict[tuple[LogSource, ...], tuple[tuple[int, ...], Index]] = {}
        self._candidates = 0
        self._evaluated: Counter[str] = Counter()  # of plans that were forgotten
        self._fired: Counter[str] = Counter()
        self._errors: dict[str, RuleFault] = {}
        self.rules: Mapping[str, RuleInfo] = {rule.info.id: rule.info for rule in rules.rules}

    def prepare(self, shapes: Iterable[Shape]) -> None:
        """Build, or take from the cache, what events of these shapes need, their views sharing one
        set of fields, so that the first such event need not wait for it."""
        with hold_collector():
            for shape in shapes:
                plan = self._find_plan(shape)
                if self._indexed:
                    self._find_groups(plan, shape, (0,) * len(shape))

    def detect(self, sighting: Sighting) -> list[Detection]:
        """What the rules say of the event, in the order in which they were loaded. Raises
        nothing because of a rule or of what the event holds."""
        views = sighting.views
        shape = tuple([view.logsource for view in views])
        plan = self._plans.get(shape) or self._find_plan(shape)
        plan.events += 1
        if not plan.steps:
            return []
        sharing = _find_sharing(views)
        groups = plan.groups.get(sharing)
        if groups is None:
            if not self._indexed or plan.events <= self._patience:
                return self._detect_plainly(sighting, plan)
            groups = self._find_groups(plan, shape, sharing)
        asked: list[tuple[int, CompiledRule, int]] = []
        for group in groups:
            mask = group.index.find(views[group.place].fields)
            if mask:
                asked += [group.steps[number] for number in list_bits(mask)]
        return self._ask(sighting, asked, sharing) if asked else []

    def _ask(
        self, sighting: Sighting, asked: list[tuple[int, CompiledRule, int]], sharing: Sharing
    ) -> list[Detection]:
        """The plain matcher's word on the candidates."""
        self._candidates += len(asked)
        views = sighting.views
        prepared: dict[int, ViewValues] = {}
        if len(views) > 1:
            asked.sort(key=_order_view)
        detections: list[Detection] = []
        done = -1
        for order, rule, place in asked:
            if order == done:
                continue
            root = sharing[place]
            values = prepared.get(root)
            if values is None:
                values = prepared[root] = ViewValues(views[root].fields)
            try:
                evidence = match_view(rule, values)
            except Exception as error:  # the doorway: one rule's fault must not stop the line
                self._note_error(rule.info.id, error)
                done = order
                continue
            if evidence is not None:
                done = order
                self._fired[rule.info.id] += 1
                detections.append(_detection(rule.info, sighting, place, evidence))
        return detections

    def _detect_plainly(self, sighting: Sighting, plan: _Plan) -> list[Detection]:
        views = [ViewValues(view.fields) for view in sighting.views]
        detections: list[Detection] = []
        for _, rule, places in plan.steps:
            found = self._evaluate(rule, views, places)
            if found is not None:
                self._fired[rule.info.id] += 1
                place, evidence = found
                detections.append(_detection(rule.info, sighting, place, evidence))
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

    def _plan_steps(self, shape: Shape) -> tuple[tuple[int, CompiledRule, tuple[int, ...]], ...]:
        steps = []
        for stated, rules in self._sources.items():
            places = tuple(i for i, logsource in enumerate(shape) if covers(stated, logsource))
            if places:
                steps += [(order, self._rule_set.rules[order], places) for order in rules]
        return tuple(sorted(steps, key=_order))

    def _find_groups(self, plan: _Plan, shape: Shape, sharing: Sharing) -> tuple[_Group, ...]:
        """The plan's groups for views that share their fields so."""
        groups = []
        for root in dict.fromkeys(sharing):
            members = [place for place, other in enumerate(sharing) if other == root]
            first: dict[LogSource, int] = {}
            for stated in self._sources:
                covered = [place for place in members if covers(stated, shape[place])]
                if covered:
                    first[stated] = covered[0]
            if first:
                orders, index = self._find_index(tuple(first))
                rules = self._rule_set.rules
                steps = tuple(
                    (order, rules[order], first[rules[order].info.logsource]) for order in orders
                )
                groups.append(_Group(root, steps, index))
        found = plan.groups[sharing] = tuple(groups)
        return found

    def _find_index(self, sources: tuple[LogSource, ...]) -> tuple[tuple[int, ...], Index]:
        """The rules that state one of the logsources, and the index over them."""
        found = self._indexes.get(sources)
        if found is None:
            if len(self._indexes) >= MAX_INDEXES:
                self._indexes.clear()
            orders = tuple(sorted(order for source in sources for order in self._sources[source]))
            found = self._indexes[sources] = (orders, self._open_index(orders))
        return found

    def _open_index(self, orders: tuple[int, ...]) -> Index:
        """The index over these rules, as it was kept or made anew."""
        key = digest(self._key, *map(str, orders)) if self._key else ""
        if self._cache is not None and key and (kept := self._cache.read_index(key)) is not None:
            return kept
        conditions = [self._rule_set.rules[order].condition for order in orders]
        needs = [find_need(condition) for condition in conditions]
        index = Index(needs, list(map(find_bars, conditions)), self._open_database)
        if self._cache is not None and key:
            self._cache.write_index(key, index)
        return index

    @property
    def candidates(self) -> int:
        """Evaluations that the index left over, of all events so far."""
        return self._candidates

    @property
    def evaluated(self) -> dict[str, int]:
        """Events on which each rule was evaluated, by rule id; every loaded rule is there, so a
        rule that never met its logsource shows as 0 and not as silence."""
        counts = {rule_id: self._evaluated[rule_id] for rule_id in self.rules}
        for plan in list(self._plans.values()):  # status asks from another thread
            for _, rule, _ in plan.steps:
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


def _order(step: tuple[Any, ...]) -> Any:
    return step[0]


def _order_view(step: tuple[int, Any, int]) -> tuple[int, int]:
    """By rule and, where views share fields around another, by view."""
    return step[0], step[2]


def _find_sharing(views: tuple[View, ...]) -> Sharing:
    if len(views) == 1:
        return (0,)
    first: dict[int, int] = {}
    return tuple([first.setdefault(id(view.fields), place) for place, view in enumerate(views)])


def _detection(info: RuleInfo, sighting: Sighting, place: int, evidence: Evidence) -> Detection:
    return Detection(
        detector=DETECTOR,
        rule_id=info.id,
        title=info.title,
        level=info.level,
        techniques=info.techniques,
        tactics=info.tactics,
        event=sighting.event,
        logsource=sighting.views[place].logsource,
        matched=evidence,
    )
