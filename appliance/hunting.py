"""What a hunt looks for: a query, a Sigma rule or an indicator, for the archive to find.

Each becomes a Quarry: a filter in SQL that says yes to every event that may be it, and the word of
the project's own matcher on each of those. The matcher is the line's: a hunt with a rule finds the
events on which the line would have raised the rule's finding.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.archive.columns import merge_fields, tell_about
from appliance.archive.filters import (
    EVERYTHING,
    Filter,
    all_of,
    any_of,
    has_entity,
    has_expression,
    has_logsource,
    has_text,
)
from appliance.archive.reader import Verify
from appliance.archive.terms import Term, parse_query
from appliance.assembly import load_configured_rules
from appliance.config import Config
from appliance.detect.indicators.values import parse_network, read_address, read_domain, refang
from appliance.detect.sigma.engine import SigmaDetector
from appliance.detect.sigma.load import RuleSet
from appliance.detect.sigma.match import AllOf, FieldTest, Node, Not
from appliance.detect.sigma.needs import Every, Expression, Literal, Need, Some, find_need
from appliance.detect.sigma.patterns import Matches, ValueTest, Wildcard, build_text_test
from appliance.detect.sigma.values import ViewValues, fold
from appliance.errors import RuleError, UsageError
from appliance.schema import Entity, Event, Match, Sighting

_HASH: Final = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})", re.ASCII)
_DOMAIN: Final = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z0-9-]{1,63}", re.ASCII)
#: Longest indicator, in characters.
MAX_INDICATOR: Final = 2048


@dataclass(frozen=True, slots=True)
class Quarry:
    """What is looked for: where to look, what it is, and how it is called."""

    condition: Filter
    verify: Verify
    name: str


def join_quarries(quarries: Sequence[Quarry]) -> Quarry:
    """What is all of these at once."""
    if len(quarries) == 1:
        return quarries[0]

    def verify(event: Event) -> Sequence[Match] | None:
        matched: list[Match] = []
        for quarry in quarries:
            found = quarry.verify(event)
            if found is None:
                return None
            matched.extend(found)
        return matched

    name = " and ".join(quarry.name for quarry in quarries)
    return Quarry(all_of([quarry.condition for quarry in quarries]), verify, name)


# -- queries ---------------------------------------------------------------------------------------


def seek_query(text: str) -> Quarry:
    """Events that meet every term of the query (archive/terms.py). Raises UsageError."""
    node = AllOf(tuple(_build_node(term) for term in parse_query(text)))

    def verify(event: Event) -> Sequence[Match] | None:
        return node.match(ViewValues(list_fields(event)))

    return Quarry(_filter_need(find_need(node), anycase=True), verify, "the query")


def list_fields(event: Event) -> dict[str, list[Any]]:
    """All that the event says, by the names of its fields without case, and where it is from
    (`archive.columns.ABOUT`)."""
    found: dict[str, list[Any]] = {}
    for fields in (merge_fields(event), tell_about(event)):
        for name, values in fields.items():
            found.setdefault(name.lower(), []).extend(values)
    return found


def _build_node(term: Term) -> Node:
    test = FieldTest(term.field.lower() if term.field else None, (_build_test(term),))
    return Not(test) if term.negated else test


def _build_test(term: Term) -> ValueTest:
    if term.kind == "matches":
        try:
            return Matches(f"(?i){term.parts[0]}")
        except RuleError as error:
            raise UsageError(f"query, character {term.place}: {error}") from error
    parts: list[str | Wildcard] = []
    for place, text in enumerate(term.parts):
        if place:
            parts.append(Wildcard.MANY)
        if text:
            parts.append(text)
    many = Wildcard.MANY
    if term.field is None:
        parts = [*([] if parts[0] is many else [many]), *parts]
        parts += [] if parts[-1] is many else [many]
    return build_text_test(parts)


# -- rules -----------------------------------------------------------------------------------------


def seek_rule(path: Path, config: Config) -> Quarry:
    """Events on which a rule of the file fires. Raises RuleError for a file of which not every rule
    loads, and for correlations, which no single event meets."""
    if not path.is_file():
        raise RuleError(f"{path}: no such file")
    rules = load_configured_rules(config, [str(path)], unfed=True)
    if rules.refused:
        reasons = "; ".join(f"{r.path}:{r.line}: {r.reason}" for r in rules.refused[:5])
        raise RuleError(reasons)
    if rules.correlations:
        raise RuleError(f"{path}: holds a correlation, which no single event meets")
    return seek_rules(rules)


def seek_rules(rules: RuleSet) -> Quarry:
    """Events on which one of the rules fires."""
    detector = SigmaDetector(rules, indexed=False)
    several = len(rules.rules) > 1

    def verify(event: Event) -> Sequence[Match] | None:
        found = detector.detect(_sight(event))
        if not found:
            return None
        named = [Match(None, one.title, "rule") for one in found] if several else []
        return [*named, *(match for one in found for match in one.matched)]

    filters = [
        all_of([
            has_logsource(stated.product, stated.category, stated.service),
            _filter_need(find_need(rule.condition)),
        ])
        for rule in rules.rules
        for stated in (rule.info.logsource,)
    ]  # fmt: skip
    name = "the rules" if several else rules.rules[0].info.title
    return Quarry(any_of(filters), verify, name)


def _sight(event: Event) -> Sighting:
    return Sighting(
        time=event.time,
        received=event.received,
        host=event.host,
        views=event.views,
        record=event.record,
        format=event.format,
        collect=lambda: event.entities,
        mapped=event.mapped,
        time_known=event.time_known,
    )


def _filter_need(need: Need | None, *, anycase: bool = False) -> Filter:
    """Where to look for what meets the need. Fields' names have no case with `anycase`."""
    match need:
        case None:
            return EVERYTHING
        case Every():
            return all_of([_filter_need(part, anycase=anycase) for part in need.parts])
        case Some():
            return any_of([_filter_need(part, anycase=anycase) for part in need.parts])
        case Literal():
            return has_text(
                need.field, need.text, starts=need.starts, ends=need.ends, anycase=anycase
            )
        case Expression():
            return has_expression(need.field, need.text, anycase=anycase)


# -- indicators ------------------------------------------------------------------------------------


def seek_indicator(text: str) -> Quarry:
    """Events with an indicator: an address, a network, a domain (and those below it), a hash, a
    URL, a file's name or path. What may be two of them, as a name with a dot, is looked for as
    both. Raises UsageError for what is none."""
    value = refang(text.strip())
    if not value or len(value) > MAX_INDICATOR:
        raise UsageError(f"--indicator: give 1 to {MAX_INDICATOR} characters")
    return _seek_entity(value) if "://" not in value else _seek_url(value)


def _seek_url(value: str) -> Quarry:
    """The URL in any field, whatever the scheme: logs often lack it."""
    rest = fold(value.partition("://")[2])
    if not rest:
        raise UsageError("--indicator: a URL needs a host")

    def verify(event: Event) -> Sequence[Match] | None:
        for name, values in list_fields(event).items():
            for found in ViewValues({name: values}).values(name):
                if rest in found.folded:
                    return [Match(name, found.text[:1024], value)]
        return None

    return Quarry(has_text(None, rest), verify, value)


def _seek_entity(value: str) -> Quarry:
    address = read_address(value)
    name = fold(value)
    if address is not None:
        return _seek_value("address", [str(address)], value)
    if "/" in value and (network := _read_network(value)) is not None:
        return _seek_network(network, value)
    if _HASH.fullmatch(name):
        kind = {32: "md5", 40: "sha1", 64: "sha256"}[len(name)]
        return _seek_value("hash", [f"{kind}:{name}"], value)
    return _seek_name(value)


def _seek_value(kind: str, texts: Sequence[str], value: str) -> Quarry:
    def holds(entity: Entity) -> bool:
        return entity.kind == kind and fold(entity.value) in texts

    filters = [has_entity(f"\n{kind}:{text}\n") for text in texts]
    return Quarry(any_of(filters), _verify_entities(holds, value), value)


def _seek_network(network: ipaddress.IPv4Network | ipaddress.IPv6Network, value: str) -> Quarry:
    def holds(entity: Entity) -> bool:
        if entity.kind != "address":
            return False
        try:
            return ipaddress.ip_address(entity.value) in network
        except ValueError:
            return False

    begin = "\naddress:"
    if network.version == 4:
        octets = str(network.network_address).split(".")[: network.prefixlen // 8]
        begin += "".join(f"{octet}." for octet in octets[:3])
    return Quarry(has_entity(begin), _verify_entities(holds, value), value)


def _seek_name(value: str) -> Quarry:
    """A file by its name or path; also a domain, where it can be one."""
    path = fold(value)
    domain = read_domain(value)
    is_domain = _DOMAIN.fullmatch(domain) is not None
    ends = ("/" + path, "\\" + path)

    def holds(entity: Entity) -> bool:
        text = fold(entity.value)
        if entity.kind == "file":
            return text == path or text.endswith(ends)
        return (
            is_domain
            and entity.kind == "domain"
            and (text == domain or text.endswith("." + domain))
        )

    filters = [has_entity(f"\nfile:{path}\n"), *(has_entity(f"{end}\n") for end in ends)]
    if is_domain:
        filters += [has_entity(f"\ndomain:{domain}\n"), has_entity(f".{domain}\n")]
    return Quarry(any_of(filters), _verify_entities(holds, value), value)


def _verify_entities(holds: Callable[[Entity], bool], value: str) -> Verify:
    def verify(event: Event) -> Sequence[Match] | None:
        found = [Match(e.kind, e.value, value) for e in _distinct(event.entities) if holds(e)]
        return found or None

    return verify


def _distinct(entities: Iterable[Entity]) -> list[Entity]:
    return list(dict.fromkeys(entities))


def _read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return parse_network(text)
    except ValueError:
        return None
