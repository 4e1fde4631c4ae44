"""`rules check` over a configuration: which rules the configured sources feed, and which never."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from appliance.commands.settings import is_there
from appliance.config import Config, load_config
from appliance.detect.sigma.load import RuleSet
from appliance.errors import StoreError
from appliance.feeding import STATES, Feed, RuleFeed, State, judge_rules, list_feeds, read_seen
from appliance.places import CONFIG
from appliance.schema import LogSource
from appliance.store import Store
from appliance.view import View, clean

#: Log sources told of each state, and rules that can't fire.
MOST_ROWS = 15
#: Title of what is told together: by state, and whether only by records inside others.
_TITLES: dict[tuple[State, bool], str] = {
    ("never", False): "never: no configured source can feed these",
    ("possible", True): "nothing seen yet, and only records inside others could feed these (an "
    "object as a program's message, a line that a shipper wrapped)",
    ("possible", False): "nothing seen yet, though a configured source can feed these",
    ("fed", False): "fed",
}


class FeedReport(msgspec.Struct, frozen=True):
    """What the configuration's sources feed. `path` is the configuration's file; `records` counts
    by source what came in so far; `store` says in words why the ledger is not counted in, ""
    when it is."""

    path: Path
    feeds: list[Feed]
    records: dict[str, int]
    rules: list[RuleFeed]
    store: str

    def count(self) -> dict[State, int]:
        """Rules by state, worst first."""
        counts = Counter(each.state for each in self.rules)
        return {state: counts[state] for state in STATES}

    def sum_up(self) -> str:
        """The same in words."""
        inside = sum(each.inside for each in self.rules)
        words = [f"{count} {state}" for state, count in self.count().items()]
        words[STATES.index("possible")] += f" ({inside} only inside other records)" * bool(inside)
        return ", ".join(words)


def choose_config(args: argparse.Namespace) -> tuple[Config, Path | None]:
    """The configuration that --config names, else the system's own where there is one, and its
    file; with --no-config, or without any, the defaults. Raises ConfigError."""
    if args.config and not args.no_config:
        return load_config(Path(args.config)), Path(args.config)
    if not args.no_config and is_there(CONFIG):
        return load_config(CONFIG), CONFIG
    return Config(), None


def report_feeds(config: Config, path: Path, rules: RuleSet) -> FeedReport:
    """Of every rule whether the configuration's sources feed it, by the store's ledger too where
    there is one that can be read."""
    counts: dict[str, dict[str, float]] = {}
    why = ""
    try:
        if config.store_path.is_file():
            with closing(Store(config.store_path, read_only=True)) as store:
                counts = store.counts()
        else:
            why = "the appliance has never run here"
    except (OSError, StoreError) as error:
        why = str(error)
    feeds = list_feeds(config)
    records = {
        feed.name: int(counts.get(f"source:{feed.name}", {}).get("seen", 0)) for feed in feeds
    }
    return FeedReport(path, feeds, records, judge_rules(rules, feeds, read_seen(counts)), why)


class _Row(msgspec.Struct, frozen=True):
    """The rules of one log source that are fed alike."""

    logsource: LogSource
    state: State
    events: int
    inside: bool
    rules: int
    sources: tuple[str, ...]
    reason: str


def _list_rows(rules: Iterable[RuleFeed]) -> list[_Row]:
    """Worst first: never, then what only records inside others could feed, then what was not seen
    yet, then the least seen; of each the log source of most rules."""
    groups: dict[tuple[LogSource, State, bool], list[RuleFeed]] = {}
    for each in rules:
        groups.setdefault((each.rule.logsource, each.state, each.inside), []).append(each)
    rows = [
        _Row(
            logsource=logsource,
            state=state,
            events=max(each.events for each in group),
            inside=inside,
            rules=len(group),
            sources=tuple(dict.fromkeys(name for each in group for name in each.sources)),
            reason=group[0].reason,
        )
        for (logsource, state, inside), group in groups.items()
    ]
    rows.sort(key=lambda r: (STATES.index(r.state), not r.inside, r.events, -r.rules))
    return rows


def describe_feeds(report: FeedReport) -> dict[str, Any]:
    """The facts, for --json."""
    return {
        "config": str(report.path),
        "ledger": {"used": not report.store, "reason": report.store},
        "sources": [
            {
                "name": feed.name,
                "about": feed.about,
                "open": feed.open,
                "can_feed": sorted(map(name_logsource, feed.logsources)),
                "records": report.records[feed.name],
            }
            for feed in report.feeds
        ],
        "feeding": report.count(),
        "log_sources": [
            {**msgspec.to_builtins(row), "logsource": _describe_logsource(row.logsource)}
            for row in _list_rows(report.rules)
        ],
        "rules": [
            {
                "rule_id": each.rule.id,
                "title": each.rule.title,
                "path": each.rule.path,
                "line": each.rule.line,
                "logsource": _describe_logsource(each.rule.logsource),
                "state": each.state,
                "events": each.events,
                "sources": list(each.sources),
                "inside": each.inside,
                "reason": each.reason,
            }
            for each in report.rules
        ],
    }


def show_feeds(report: FeedReport, view: View) -> None:
    """The same for an operator: a few lines by log source, worst first."""
    view.line(f"configuration: {clean(str(report.path))}")
    if report.store:
        view.line(f"nothing is known of what came in: {clean(report.store)}", "yellow")
    view.table(
        ["source", "what", "can feed", "records"],
        [
            [
                feed.name,
                feed.about,
                "anything" if feed.open else f"{len(feed.logsources)} log sources",
                report.records[feed.name],
            ]
            for feed in report.feeds
        ],
    )
    rows = _list_rows(report.rules)
    for (state, inside), title in _TITLES.items():
        mine = [row for row in rows if (row.state, row.inside) == (state, inside)]
        if mine:
            view.line()
            _show_rows(state, title, mine, view)


def _show_rows(state: State, title: str, rows: Sequence[_Row], view: View) -> None:
    count = sum(row.rules for row in rows)
    view.line(f"{title}: {count} rules", "red" if state == "never" else "")
    last = "events" if state == "fed" else "why" if state == "never" else "from"
    view.table(
        ["log source", "rules", last],
        [[_name_row(row), row.rules, _say(row)] for row in rows[:MOST_ROWS]],
    )
    if rest := rows[MOST_ROWS:]:
        view.line(f"and {len(rest)} more log sources with {sum(r.rules for r in rest)} rules")


def _say(row: _Row) -> str:
    if row.state == "never":
        return row.reason.removeprefix("no configured source can feed it: ")
    if row.state == "possible":
        return ", ".join(row.sources)
    return f"{row.events}" + (f" ({row.reason})" if row.reason else "")


def name_logsource(source: LogSource) -> str:
    """A log source in a word: windows/process_creation."""
    return "/".join(p for p in (source.product, source.category, source.service) if p)


def _name_row(row: _Row) -> str:
    return name_logsource(row.logsource) or "correlations over several"


def _describe_logsource(source: LogSource) -> dict[str, str | None]:
    found: dict[str, str | None] = msgspec.to_builtins(source)
    return found
