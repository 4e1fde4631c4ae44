"""Beside the line: which log sources the configured sources can feed, and what they have fed.

A rule whose log source nothing feeds is silent for ever, and its silence looks like an all-clear.
What a source can feed follows from its kind and format, in a few cases from where its files lie,
over the tables of `normalise.shapes`; what was fed is in the store's ledger.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from glob import has_magic
from typing import Final, Literal

import msgspec

from appliance.config import Config, FilesSource, JournalSource, Source
from appliance.decode import HEADERS, INNER, LOOKS, SYSLOG_FORMATS
from appliance.detect.sigma.correlation import TEMPORAL, CorrelationRule, Expression
from appliance.detect.sigma.load import RuleSet
from appliance.normalise import matches
from appliance.normalise.linux import AUTH, SYSLOG, name_service
from appliance.normalise.programs import HOST_PROGRAMS, OWN_SERVICES
from appliance.normalise.shapes import MESSAGES, OBJECTS, READERS, SHAPES, Shape, list_shapes
from appliance.normalise.web import name_servers
from appliance.normalise.zeek import LOGS, name_log
from appliance.schema import LogSource, RuleInfo, name_program

#: Where files of one product lie, as a source of format `auto` names them. Only places that nothing
#: else writes to: of every other file `auto` can make anything.
PLACES: Final[tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]] = (
    (re.compile(r"\.evtx$"), ("windows",)),
    (re.compile(r"(^|/)audit/audit\.log[^/]*$"), ("auditd",)),
    (re.compile(r"/(nginx|apache2?|httpd)/([^/]*/)*[^/]*$"), ("web servers", "web servers (JSON)")),
    (re.compile(r"/(zeek|bro)/([^/]*/)*[^/]*$"), ("zeek",)),
    (re.compile(r"/eve[^/]*\.json[^/]*$"), ("suricata",)),
    (re.compile(r"/squid/([^/]*/)*[^/]*$"), ("squid", "web servers")),
)
#: Product -> what a source must read to feed its log sources.
NEEDS: Final[dict[str, str]] = {
    "windows": "Windows event logs: EVTX files, or a forwarder's JSON",
    "windows (EQL schema)": "events of EQL's schema as JSON",
    "auditd": "Linux audit records: format auditd",
    "linux": "syslog or the journal of Linux hosts",
    "zeek": "Zeek's logs: format zeek, or its JSON",
    "suricata": "Suricata's EVE: format json",
    "web servers": "access or error logs of web servers: format access or access_error",
    "web servers (JSON)": "access logs as JSON",
    "w3c": "W3C logs of IIS, proxies, the Windows Firewall: format w3c",
    "squid": "Squid's access log: format squid",
    "dns servers": "query logs of BIND, Unbound, dnsmasq: format bind or unbound",
    "netfilter": "packets that Linux logs: format netfilter, or syslog",
    "firewalls": "a firewall's syslog",
    "cef": "CEF events: format cef, or syslog",
    "leef": "LEEF events: format leef, or syslog",
    "wazuh": "Wazuh's alerts.json: format json",
    "aminer": "AMiner's JSON: format json",
    "ecs": "ECS documents (Beats, Elastic Agent): format json",
    "services": "logs of the service: syslog, or its file as text",
    "appliance": "nothing: these are the appliance's own",
}
#: Where other products feed the same log source these are named last: seldom what is meant.
_SELDOM: Final = ("windows (EQL schema)", "ecs", "cef", "leef", "web servers (JSON)")
_MOST_NEEDS: Final = 3
#: Formats that only a stream's header lines tell, which no listener has.
_HEADED: Final = frozenset(name for name, _ in HEADERS)
#: What a shipper's JSON may hold as a line.
_SHIPPED: Final = frozenset({name for name, _ in LOOKS} | {"syslog5424", "syslog3164"})
_INNER: Final = frozenset(inner.format for inner in INNER)


class Feed(msgspec.Struct, frozen=True):
    """What one configured source can feed. `about` says in words what it is; `open` is True when
    its format leaves open what comes; `inside` are those log sources that only records inside its
    records can feed (an object as the message of a syslog line, a line that a shipper wrapped);
    `shapes` are those that its events can have."""

    name: str
    about: str
    open: bool
    logsources: frozenset[LogSource]
    inside: frozenset[LogSource]
    shapes: tuple[Shape, ...]

    def can_feed(self, stated: LogSource) -> bool:
        """Whether some record of the source can meet a rule of this log source."""
        return any(matches(stated, source) for source in self.logsources)

    def feeds_itself(self, stated: LogSource) -> bool:
        """Whether one that is not inside another can."""
        return any(matches(stated, source) for source in self.logsources - self.inside)


State = Literal["fed", "possible", "never"]
#: Worst first.
STATES: Final[tuple[State, ...]] = ("never", "possible", "fed")


class RuleFeed(msgspec.Struct, frozen=True):
    """Whether a rule can have anything to say here. `events` counts the views of its log source
    that were seen; `sources` names the configured sources that can feed it by their own records or,
    where `inside` is True, by records inside these alone; `reason` says in words what would be
    needed when none can. A correlation's `inside` is True when one of its rules' is."""

    rule: RuleInfo
    state: State
    events: int
    sources: tuple[str, ...]
    reason: str = ""
    inside: bool = False


def list_feeds(config: Config) -> list[Feed]:
    """What each configured source can feed, in the order of the configuration."""
    custom = {
        spec.name: LogSource(
            *(part or None for part in (spec.logsource.product, spec.logsource.category,
                                        spec.logsource.service))
        )
        for spec in config.formats
    }  # fmt: skip
    return [derive_feed(spec, custom) for spec in config.sources]


def derive_feed(spec: Source, custom: Mapping[str, LogSource]) -> Feed:
    """What the source can feed; `custom` are the formats that the configuration describes."""
    about = _describe(spec)
    if not isinstance(spec, JournalSource) and spec.format in custom:
        source = custom[spec.format]
        return _make_feed(spec.name, about, ((source,),))
    if isinstance(spec, JournalSource) and spec.identifiers:
        shapes = _list_of_programs({name_program(name) for name in spec.identifiers})
        return _make_feed(spec.name, about, shapes)
    declared = "journal" if isinstance(spec, JournalSource) else spec.format
    if not isinstance(spec, FilesSource):
        shapes = list_shapes(_list_products(_list_formats(declared, headed=False)))
        return _make_feed(spec.name, about, shapes, declared)
    placed = _find_placed(spec) if declared == "auto" else None
    products = placed or _list_products(_list_formats(declared, headed=True))
    shapes = list_shapes(products)
    if declared == "access":
        shapes = _leave_out_servers(spec.paths, shapes)
    if set(products) == {"zeek"}:
        shapes = _leave_out_logs(spec.paths, shapes)
    return _make_feed(spec.name, about, shapes, declared if placed is None else "")


#: Formats that say how a record is framed and not whose it is.
_OPEN: Final = frozenset({"auto", "json", *SYSLOG_FORMATS})


def _make_feed(name: str, about: str, shapes: tuple[Shape, ...], declared: str = "") -> Feed:
    """With `declared`, a format that may leave open what comes."""
    sources = frozenset(source for shape in shapes for source in shape)
    inside: frozenset[LogSource] = frozenset()
    if declared in _THEMSELVES:
        itself = list_shapes(_THEMSELVES[declared])
        inside = sources - {source for shape in itself for source in shape}
    return Feed(name, about, declared in _OPEN, sources, inside, shapes)


def _describe(spec: Source) -> str:
    if isinstance(spec, JournalSource):
        chosen = (*spec.units, *spec.identifiers)
        return f"journal of {', '.join(chosen)}" if chosen else "journal"
    kind = "files" if isinstance(spec, FilesSource) else f"syslog over {spec.transport}"
    return f"{kind}, format {spec.format}"


def _list_formats(declared: str, *, headed: bool) -> frozenset[str]:
    """The formats in which records of a declared one can end, those inside others too."""
    if declared == "auto":
        return frozenset(READERS) - {"journal"} - (frozenset() if headed else _HEADED)
    if declared in SYSLOG_FORMATS:
        return frozenset({declared}) | _INNER
    return frozenset({declared}) | (_SHIPPED if declared == "json" else frozenset())


def _list_products(formats: Iterable[str]) -> list[str]:
    return [name for name in SHAPES if any(name in READERS[one] for one in formats)]


def _list_inner(*, own: bool = False) -> list[str]:
    """The products that read what travels inside syslog; with `own` what the host's own programs
    put there."""
    found = [one.format for one in INNER if not own or one.format not in ("cef", "leef")]
    return _list_products(found)


#: Of these the products that read the records themselves; of all others every product does.
_THEMSELVES: Final[dict[str, tuple[str, ...]]] = {
    "json": READERS["json"],
    "syslog3164": (*MESSAGES, *_list_inner()),
    "syslog5424": (*MESSAGES, *_list_inner()),
    "journal": (*MESSAGES, *_list_inner(own=True)),
}


def _find_placed(spec: FilesSource) -> list[str] | None:
    """The products whose places all paths name; None when one may hold anything."""
    found: dict[str, None] = {}
    for path in spec.paths:
        products = next((made for place, made in PLACES if place.search(path.lower())), None)
        if products is None:
            return None
        found.update(dict.fromkeys(products))
    return list(found)


def _leave_out_servers(paths: Sequence[str], shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Without the servers of which no path says that they are."""
    named = {source for path in paths for source in name_servers(path)}
    others = set(name_servers("*")) - named
    return tuple(shape for shape in shapes if others.isdisjoint(shape))


def _leave_out_logs(paths: Sequence[str], shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Only the logs of Zeek that the paths name, where each names one."""
    logs = [_name_zeek(path) for path in paths]
    return tuple(LOGS[log] for log in dict.fromkeys(logs)) if all(logs) else shapes


def _name_zeek(path: str) -> str:
    """The Zeek log that the path's last part names; "" where a wildcard leaves it open."""
    stem, dot, _ = path.rpartition("/")[2].partition(".")
    return name_log(path) if dot and not has_magic(stem) else ""


def _list_of_programs(programs: set[str]) -> tuple[Shape, ...]:
    """What the journal's entries of these programs can be. PAM speaks in any of them."""
    named = {name_service(OWN_SERVICES[name]) for name in programs if name in OWN_SERVICES}
    named |= {AUTH, SYSLOG}
    products = ["firewalls", "services"] if programs - HOST_PROGRAMS else []
    products += OBJECTS if programs - HOST_PROGRAMS else ()
    inner = [one.format for one in INNER if one.programs is None or programs & one.programs]
    if not programs - HOST_PROGRAMS:  # which pass nobody else's records on
        inner = [one for one in inner if one not in ("cef", "leef")]
    products += _list_products(inner)
    of_linux = tuple(shape for shape in SHAPES["linux"] if named.issuperset(shape))
    return tuple(dict.fromkeys((*of_linux, *list_shapes(dict.fromkeys(products)))))


# -- what was fed ----------------------------------------------------------------------------------


def read_seen(counts: Mapping[str, Mapping[str, float]]) -> dict[LogSource, int]:
    """Views of events by log source, as the store's ledger counts them (scope "logsource")."""
    return {
        LogSource(*(None if part == "-" else part for part in name.split("/"))): int(count)
        for name, count in counts.get("logsource", {}).items()
        if name.count("/") == 2
    }


def choose_shapes(feeds: Sequence[Feed], seen: Mapping[LogSource, int]) -> list[Shape]:
    """The shapes worth preparing: all that a source of a known format can feed, and of all others
    what was ever seen. What may come and never did is left for the day when it comes: to prepare
    all that `auto` can be would make each cold start seconds longer."""
    met = {source for source, count in seen.items() if count and source != LogSource()}
    shapes: dict[Shape, None] = {}
    for feed in feeds:
        chosen = (s for s in feed.shapes if met.issuperset(s)) if feed.open else feed.shapes
        shapes.update(dict.fromkeys(chosen))
    known = {source for shape in shapes for source in shape}
    # Of sources that are gone, and what no table foresaw.
    shapes.update(dict.fromkeys((source,) for source in met if source not in known))
    return list(shapes)


# -- rules -----------------------------------------------------------------------------------------


def judge_rules(
    rules: RuleSet, feeds: Sequence[Feed], seen: Mapping[LogSource, int]
) -> list[RuleFeed]:
    """Of every loaded rule whether it is fed, in the order of `RuleSet.infos`."""
    known: dict[LogSource, RuleFeed] = {}
    judged: dict[str, RuleFeed] = {}
    for rule in rules.rules:
        stated = rule.info.logsource
        if stated not in known:
            known[stated] = _judge_logsource(rule.info, feeds, seen)
        judged[rule.info.id] = msgspec.structs.replace(known[stated], rule=rule.info)
    for correlation in rules.correlations:
        judged[correlation.info.id] = _judge_correlation(correlation, judged)
    return list(judged.values())


def _judge_logsource(
    rule: RuleInfo, feeds: Sequence[Feed], seen: Mapping[LogSource, int]
) -> RuleFeed:
    stated = rule.logsource
    events = sum(count for source, count in seen.items() if matches(stated, source))
    direct = tuple(feed.name for feed in feeds if feed.feeds_itself(stated))
    able = direct or tuple(feed.name for feed in feeds if feed.can_feed(stated))
    if events:
        gone = "" if able else "seen before, but no source that is configured now can feed it"
        return RuleFeed(rule, "fed", events, able, gone)
    if able:
        return RuleFeed(rule, "possible", 0, able, inside=not direct)
    return RuleFeed(rule, "never", 0, (), name_need(stated))


def name_need(stated: LogSource) -> str:
    """What a source would have to read to feed rules of this log source."""
    met = {
        name: sum(matches(stated, source) for shape in shapes for source in shape)
        for name, shapes in SHAPES.items()
    }
    able = sorted((name for name in met if met[name]), key=lambda name: -met[name])
    usual = [name for name in able if name not in _SELDOM] or able
    words = "; or ".join(NEEDS[name] for name in usual[:_MOST_NEEDS])
    return f"no configured source can feed it: needs {words or 'a source of its own format'}"


def _judge_correlation(rule: CorrelationRule, judged: Mapping[str, RuleFeed]) -> RuleFeed:
    """A correlation is as its rules are: fed when those that are can meet its condition."""
    bases = [judged[base] for base in rule.bases]
    state: State = "never"
    for least in STATES:
        if _can_hold(rule, [STATES.index(base.state) >= STATES.index(least) for base in bases]):
            state = least
    lacking = [base for base in bases if base.state == "never"]
    reason = ""
    if state == "never" and lacking:
        reason = f"its rule {lacking[0].rule.title!r} is never fed: {lacking[0].reason}"
    by_logsource = {base.rule.logsource: base.events for base in bases}
    sources = tuple(dict.fromkeys(name for base in bases for name in base.sources))
    inside = state == "possible" and any(base.inside for base in bases)
    return RuleFeed(rule.info, state, sum(by_logsource.values()), sources, reason, inside)


def _can_hold(rule: CorrelationRule, there: Sequence[bool]) -> bool:
    """Whether the condition can hold when only these of its rules can fire."""
    if isinstance(rule.condition, Expression):
        return any(there) and (
            _has_not(rule.condition) or rule.condition.holds(lambda base: there[base])
        )
    if rule.kind in TEMPORAL:
        return any(rule.condition.holds(number + 1) for number in range(sum(there)))
    return any(there)


def _has_not(expression: Expression) -> bool:
    return expression.kind == "not" or any(map(_has_not, expression.parts))
