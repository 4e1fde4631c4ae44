"""The comparison itself: two detectors, one event, every detection with its evidence and place."""

from dataclasses import dataclass, field
from typing import Final

from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet
from appliance.schema import Detection, Sighting

#: Differences that are kept with their words; all are counted.
MAX_TOLD: Final = 10
_MAX_SHOWN: Final = 600
_RULES_SHOWN: Final = 3


@dataclass(slots=True)
class Tally:
    """What one set, or all pairs, came to; `differences` counts events and ledgers."""

    events: int = 0
    detections: int = 0
    differences: int = 0
    told: list[str] = field(default_factory=list)

    def tell(self, words: str) -> None:
        """Count a difference and keep its words."""
        self.differences += 1
        if len(self.told) < MAX_TOLD:
            self.told.append(words)


class Referee:
    """One rule set in both detectors. What they say adds up over the events, as in the line."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.fast = SigmaDetector(rules)
        self.plain = SigmaDetector(rules, indexed=False)

    def compare(self, sighting: Sighting, tally: Tally) -> list[Detection]:
        """Count the sighting and what differs; gives the plain matcher's word."""
        fast, plain = self.fast.detect(sighting), self.plain.detect(sighting)
        tally.events += 1
        tally.detections += len(plain)
        if list(map(_read_said, fast)) != list(map(_read_said, plain)):
            tally.tell(f"{_name_event(sighting)}: {_tell_detections(fast, plain)}")
        elif any(one.event is not sighting.event for one in (*fast, *plain)):
            tally.tell(f"{_name_event(sighting)}: a detection is of another event")
        return plain

    def compare_ledgers(self, tally: Tally) -> None:
        """Count each rule whose ledger or faults differ."""
        fast, plain = self.fast.counts(), self.plain.counts()
        for rule in dict.fromkeys((*plain, *fast)):
            if fast.get(rule) != plain.get(rule):
                tally.tell(f"ledger of rule {rule}: {fast.get(rule)}, plain {plain.get(rule)}")
        if dict(self.fast.errors) != dict(self.plain.errors):
            tally.tell("the faults of rules differ")


def _name_event(sighting: Sighting) -> str:
    """Where the event can be found."""
    record = sighting.record
    return f"event {sighting.event.id} ({record.logical} at {record.cursor.position})"


def _read_said(said: Detection) -> tuple[object, ...]:
    """All of a detection but the event. Times that are no numbers would equal nothing."""
    return (
        said.detector,
        said.rule_id,
        said.title,
        said.level,
        said.techniques,
        said.tactics,
        said.logsource,
        said.matched,
    )


def _show_place(said: Detection) -> str:
    """Where the rule matched, and what."""
    source = said.logsource
    name = "/".join(part or "" for part in (source.product, source.category, source.service))
    return f"on {name}: {said.matched!r}"[:_MAX_SHOWN]


def _tell_detections(fast: list[Detection], plain: list[Detection]) -> str:
    """Which rules it is about, and how."""
    index = {said.rule_id: said for said in fast}
    referee = {said.rule_id: said for said in plain}
    words = []
    for rule in dict.fromkeys((*referee, *index)):
        one, other = index.get(rule), referee.get(rule)
        if one is None and other is not None:
            words.append(f"rule {rule} ({other.title!r}) is missed")
        elif one is not None and other is None:
            words.append(f"rule {rule} ({one.title!r}) is said by the index alone")
        elif one is not None and other is not None and _read_said(one) != _read_said(other):
            words.append(
                f"rule {rule} ({one.title!r}): {_show_place(one)}, plain {_show_place(other)}"
            )
    if len(words) > _RULES_SHOWN:
        words[_RULES_SHOWN:] = [f"and {len(words) - _RULES_SHOWN} more rules"]
    return "; ".join(words) or (
        f"order {[said.rule_id for said in fast]}, plain {[said.rule_id for said in plain]}"
    )
