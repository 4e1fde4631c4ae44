"""Pairs made up: an event against the rule that it was made for, among the rules of one index."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from sigma.modifiers import modifier_mapping

from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.detect.sigma.match import CompiledRule
from appliance.schema import Detection, Sighting
from tests.referee.compare import Referee, Tally
from tests.referee.made_events import EventMaker
from tests.referee.made_rules import PLACEHOLDERS, RuleWriter

#: Events made for each rule.
EVENTS: Final = 10
#: Rules written for one set; some of them are refused.
_SIZES: Final = (3, 20, 60, 120, 200, 200)
_MAX_SHOWN: Final = 3000
_RULES_SHOWN: Final = 2
_RULE_ID: Final = re.compile(r"00000000-0000-4000-8000-[0-9a-f]{12}")
#: The modifiers of an item, as `RuleWriter` writes its key.
_CHAIN: Final = re.compile(r"\|([a-z0-9|]+)\": ")


@dataclass(slots=True)
class PairTally(Tally):
    """What all pairs came to: also the rules, those that could not be loaded, the pairs whose rule
    fired, and how many rules that were loaded use each modifier."""

    sets: int = 0
    rules: int = 0
    refused: int = 0
    matched: int = 0
    modifiers: Counter[str] = field(default_factory=Counter)
    #: The same for the same seed: of all that was made and said.
    digest: str = ""

    @property
    def share(self) -> float:
        """Pairs whose rule fired, of all."""
        return self.matched / self.events if self.events else 0.0

    @property
    def unused(self) -> list[str]:
        """Modifiers that pySigma knows and no rule that was loaded uses."""
        return sorted(set(modifier_mapping) - set(self.modifiers))


def compare_pairs(count: int, seed: int) -> PairTally:
    """So many pairs in both detectors; the ledgers after each set."""
    tally = PairTally()
    digest = hashlib.sha256()
    while tally.events < count:
        tally.sets += 1
        random = Random(f"{seed}/{tally.sets}")
        writer = RuleWriter(random)
        texts = [writer.write(number) for number in range(random.choice(_SIZES))]
        referee = Referee(_load(texts))
        tally.rules += len(referee.rules.rules)
        tally.refused += len(referee.rules.refused)
        _count_modifiers(referee.rules, texts, tally)
        maker = EventMaker(random, writer.fields, writer.samples)
        for rule, sighting in _make_events(maker, referee.rules, tally.sets, count - tally.events):
            told = len(tally.told)
            said = referee.compare(sighting, tally)
            tally.matched += any(one.rule_id == rule.info.id for one in said)
            digest.update(_write_made(sighting, said))
            if len(tally.told) > told:
                tally.told[-1] += _show_made(sighting, texts, tally.told[-1])
        referee.compare_ledgers(tally)
    tally.digest = digest.hexdigest()
    return tally


def _load(texts: list[str]) -> RuleSet:
    with TemporaryDirectory() as folder:
        path = Path(folder, "rules.yml")
        path.write_text("\n---\n".join(texts), encoding="ascii")
        return load_rules([path], feeds=lambda _: None, placeholders=PLACEHOLDERS)


def _make_events(
    maker: EventMaker, rules: RuleSet, name: int, most: int
) -> Iterator[tuple[CompiledRule, Sighting]]:
    """EVENTS events for each rule, in turns, but no more than `most`."""
    for number in range(min(most, EVENTS * len(rules.rules))):
        rule = rules.rules[number % len(rules.rules)]
        yield rule, maker.make(rule, f"set {name} event {number}")


def _count_modifiers(rules: RuleSet, texts: list[str], tally: PairTally) -> None:
    for rule in rules.rules:
        text = texts[_read_number(rule.info.id)].replace("utf16le", "wide")
        for chain in _CHAIN.findall(text):
            tally.modifiers.update(chain.split("|"))


def _read_number(rule_id: str) -> int:
    return int(rule_id[-12:], 16)


def _write_made(sighting: Sighting, said: list[Detection]) -> bytes:
    made = [(view.logsource, view.fields) for view in sighting.views]
    text = f"{made!r} {[(one.rule_id, one.logsource, one.matched) for one in said]!r}"
    return text.encode("utf-8", "surrogatepass")


def _show_made(sighting: Sighting, texts: list[str], words: str) -> str:
    """The event and the rules that the words name, so that the difference can be made again."""
    named = list(dict.fromkeys(_RULE_ID.findall(words)))[:_RULES_SHOWN]
    rules = [texts[_read_number(found)] for found in named]
    made = [(view.logsource, view.fields) for view in sighting.views]
    return "".join(f"\n    {text[:_MAX_SHOWN]}" for text in (repr(made), *rules))
