"""`rules test FILE --against LOGS`: tries rules over files of logs, and says why they do not fire.

The same decode and normalise as the line, the plain matcher, no store, no daemon. What is told is
bounded, however large the logs are.
"""

import argparse
import heapq
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Final

from appliance.assembly import build_formats
from appliance.config import Config
from appliance.detect.sigma.load import RuleSet, covers
from appliance.detect.sigma.match import CompiledRule, match_view
from appliance.detect.sigma.trace import Trace, trace_rule
from appliance.detect.sigma.values import ViewValues
from appliance.errors import Exit
from appliance.pipeline import read_event
from appliance.scan import list_files, read_file
from appliance.schema import Match, Rejected, Sighting
from appliance.sources.streams import StreamName
from appliance.view import View, clean

#: Matches shown of one rule, and pieces of evidence of one match.
SHOWN_MATCHES: Final = 3
SHOWN_EVIDENCE: Final = 8
#: Least part of a condition's tests that must hold for a near miss.
_LEAST_SHARE: Final = 0.01


@dataclass(order=True)
class _Near:
    """A near miss: the better one is the greater; of equals the earlier."""

    share: float
    held: int
    earlier: int
    place: dict[str, Any] = field(compare=False)
    trace: Trace = field(compare=False)


@dataclass
class _Trial:
    """What one rule met: events of its log source, those it fired on, and the nearest misses."""

    rule: CompiledRule
    events: int = 0
    fired: int = 0
    matches: list[dict[str, Any]] = field(default_factory=list)
    near: list[_Near] = field(default_factory=list)

    def meet(self, event: Sighting, views: list[ViewValues], number: int, keep: int) -> None:
        """Try the rule on one event."""
        stated = self.rule.info.logsource
        mine = [
            view
            for view, of in zip(views, event.views, strict=True)
            if covers(stated, of.logsource)
        ]
        if not mine:
            return
        self.events += 1
        for view in mine:
            evidence = match_view(self.rule, view)
            if evidence is not None:
                self.fired += 1
                if len(self.matches) < SHOWN_MATCHES:
                    self.matches.append({**_locate(event), "matched": _show_evidence(evidence)})
                return
        if keep:
            best = max((trace_rule(self.rule, v) for v in mine), key=lambda t: (t.share, t.held))
            if best.held and best.share >= _LEAST_SHARE:
                near = _Near(best.share, best.held, -number, _locate(event), best)
                add = heapq.heappush if len(self.near) < keep else heapq.heappushpop
                add(self.near, near)

    def describe(self) -> dict[str, Any]:
        """The trial as JSON values, the nearest misses first."""
        return {
            "rule_id": self.rule.info.id,
            "title": self.rule.info.title,
            "path": self.rule.info.path,
            "line": self.rule.info.line,
            "events": self.events,
            "fired": self.fired,
            "matches": self.matches,
            "near_misses": [
                {
                    **near.place,
                    "held": near.trace.held,
                    "asked": near.trace.asked,
                    "failed": [
                        {"part": f.part, "values": list(f.values), "why": f.why}
                        for f in near.trace.failed
                    ],
                }
                for near in sorted(self.near, reverse=True)
            ],
        }


def _locate(event: Sighting) -> dict[str, Any]:
    return {"path": event.record.path, "record": event.record.cursor.position, "host": event.host}


def _show_evidence(evidence: tuple[Match, ...]) -> list[dict[str, Any]]:
    return [
        {"field": m.field, "value": m.value, "pattern": m.pattern}
        for m in evidence[:SHOWN_EVIDENCE]
    ]


def try_rules(
    rules: Iterable[CompiledRule], paths: list[str], config: Config, *, form: str, keep: int
) -> dict[str, Any]:
    """Put every record of the files before every rule; `keep` near misses are kept of each.

    Raises SourceError for what is not there."""
    trials = [_Trial(rule) for rule in rules]
    events = rejected = 0
    for event in _read_events(paths, config, form):
        if event is None:
            rejected += 1
            continue
        events += 1
        views = [ViewValues(view.fields) for view in event.views]
        for trial in trials:
            trial.meet(event, views, events, keep)
    return {
        "events": events,
        "rejected": rejected,
        "rules": [trial.describe() for trial in trials],
    }


def _read_events(paths: list[str], config: Config, form: str) -> Iterator[Sighting | None]:
    """The events of the files; None for a record that can't be read."""
    formats = build_formats(config)
    with tempfile.TemporaryDirectory(prefix="appliance-rules-") as spool:
        listing = list_files(paths, Path(spool))
        yield from (None for _ in listing.refused)
        for logical, path in listing.files:
            columns = form in config.headed_formats
            name = StreamName("rules test", logical, logical, str(path), form, columns)
            for batch in read_file(name, config, []):
                yield from (None for _ in batch.rejected)
                for record in batch.records:
                    result = read_event(record, UTC, formats)
                    yield None if isinstance(result, Rejected) else result[0]


def report(args: argparse.Namespace, rules: RuleSet, config: Config) -> Exit:
    """Try and say. Exit 1 when a rule is refused, or no rule fired on anything."""
    found = try_rules(rules.rules, args.against, config, form=args.input_format, keep=args.near)
    refused = [
        {"path": r.path, "line": r.line, "title": r.title, "reason": r.reason}
        for r in rules.refused
    ]
    view = View()
    if args.json:
        view.json({**found, "refused": refused, "correlations_not_tried": len(rules.correlations)})
    else:
        for row in refused:
            view.line(f"REFUSED {clean(row['path'])}:{row['line']}: {clean(row['reason'])}", "red")
        for trial in found["rules"]:
            _print_trial(view, trial)
        if rules.correlations:
            view.line(
                f"{len(rules.correlations)} correlations are not tried: `scan` does", "yellow"
            )
        view.line(f"{found['events']} events, {found['rejected']} records rejected")
    fired = any(trial["fired"] for trial in found["rules"])
    return Exit.DONE if fired and not refused else Exit.FOUND_OR_FAILED


def _print_trial(view: View, trial: dict[str, Any]) -> None:
    met = f"{trial['fired']} of {trial['events']} events of its log source"
    view.line(f"{clean(trial['title'])}: fired on {met}", "bold")
    if not trial["events"]:
        view.line("  no event has its log source: look at the rule's `logsource`", "yellow")
    for match in trial["matches"]:
        view.line(f"  fired: {clean(match['path'], 4096)} at {match['record']}")
        for piece in match["matched"]:
            view.line(f"    {clean(piece['field'] or 'keyword')} = {clean(piece['value'])} "
                      f"by {clean(piece['pattern'])}")  # fmt: skip
    for near in trial["near_misses"]:
        view.line(
            f"  near miss: {clean(near['path'], 4096)} at {near['record']}: "
            f"{near['held']} of {near['asked']} tests hold"
        )
        for failed in near["failed"]:
            view.line(f"    failed: {clean(failed['part'])}")
            had = "".join(f"; it has {clean(value)}" for value in failed["values"])
            view.line(f"      {clean(failed['why'])}{had}")
