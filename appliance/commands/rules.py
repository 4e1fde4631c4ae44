"""`rules check|test|list|coverage|scorecard`: which rules load, which are refused, whether they do
what they say, what they cover and what they found."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any, Literal

import msgspec

from appliance.assembly import (
    Unreachable,
    build_detectors,
    build_formats,
    find_unreachable,
    load_configured_rules,
    open_overrides,
)
from appliance.commands import try_rules
from appliance.commands.rule_feeds import (
    MOST_ROWS,
    choose_config,
    describe_feeds,
    report_feeds,
    show_feeds,
)
from appliance.commands.settings import read_config
from appliance.config import Config, load_config
from appliance.detect.sigma.correlation import SigmaCorrelator, WindowLimits, list_watched
from appliance.detect.sigma.load import RuleSet
from appliance.errors import Exit, RuleError, UsageError
from appliance.ledger import list_rule_rows
from appliance.pipeline import Reader, detect_event, read_event, read_records
from appliance.places import CONFIG
from appliance.report.coverage import build_layer, sum_up_techniques, write_layer
from appliance.report.scan_files import replace_file
from appliance.schema import (
    RECORD_FORMATS,
    Cursor,
    Detection,
    RawRecord,
    Rejected,
    RuleInfo,
    SourceBatch,
)
from appliance.store import Store
from appliance.view import View, clean, show_time

SAMPLES_SUFFIX = ".samples.jsonl"
#: Samples come in at least so late (2026-11-18): a time ahead of the receipt would not be believed.
SAMPLES_RECEIVED = 1_795_000_000.0


class Sample(msgspec.Struct, frozen=True):
    """One line beside a rule: a whole log record, as its forwarder writes it, and whether the rule
    must fire on it. Beside a correlation: `records`, one after another, and whether it must fire
    on any of them."""

    expect: Literal["match", "near_miss"]
    why: str
    record: str = ""
    records: tuple[str, ...] = ()
    format: str = "auto"


class SampleResult(msgspec.Struct, frozen=True):
    """A sample that was put through the line. `problem` is empty when the rule did as expected."""

    rule: RuleInfo
    expect: str
    problem: str


def _load(args: argparse.Namespace) -> tuple[RuleSet, Config]:
    """The rules that are named, or else those of the configuration that is named; without one the
    default set, as it comes."""
    config = load_config(Path(args.config)) if args.config else Config()
    return load_configured_rules(config, args.rules or None), config


def check(args: argparse.Namespace) -> Exit:
    """`appliance rules check`: what is refused, what can't fire, and, over the configuration that
    `run` would use, what its sources feed. Exit 1 when a rule is refused."""
    config, path = choose_config(args)
    rules = load_configured_rules(config, args.rules or None)
    view = View()
    overrides = open_overrides(config)
    unreachable = find_unreachable(rules, config)
    report = report_feeds(config, path, rules) if path is not None else None
    known = {info.id for info in rules.infos} | overrides.disabled
    named = {*overrides.rules, *(each.rule for each in overrides.suppressions)}
    if args.json:
        view.json({
            "loaded": len(rules.infos),
            "refused": [_refused_row(refused) for refused in rules.refused],
            "cannot_fire": [_unreachable_row(each) for each in unreachable],
            "switched_off": sorted(overrides.disabled),
            "overrides_without_rule": sorted(named - known),
            **({"config": None} if report is None else describe_feeds(report)),
        })  # fmt: skip
    else:
        for refused in rules.refused:
            view.line(f"{clean(refused.path)}:{refused.line}: {clean(refused.title)}: "
                      f"{clean(refused.reason)}")  # fmt: skip
        for each in unreachable[:MOST_ROWS]:
            view.line(f"can't fire: {clean(each.rule.path)}:{each.rule.line}: "
                      f"{clean(each.rule.title)}: {clean(_say_why(each))}", "yellow")  # fmt: skip
        if len(unreachable) > MOST_ROWS:
            view.line(f"and {len(unreachable) - MOST_ROWS} more that can't fire (--json has all)",
                      "yellow")  # fmt: skip
        for key in sorted(overrides.disabled):
            view.line(f"switched off by the operator: {clean(key)}", "yellow")
        for key in sorted(named - known):
            view.line(f"overrides: no loaded rule has the id {clean(key)} (an external sensor's "
                      "may)", "yellow")  # fmt: skip
        if report is not None:
            show_feeds(report, view)
            view.line()
        view.line(
            f"{len(rules.infos)} rules loaded, {len(rules.refused)} refused"
            + (f", {len(unreachable)} loaded can't fire" if unreachable else "")
        )
        if report is not None:
            view.line(f"by this configuration: {report.sum_up()}")
    return Exit.FOUND_OR_FAILED if rules.refused else Exit.DONE


def _unreachable_row(each: Unreachable) -> dict[str, Any]:
    return {
        "rule_id": each.rule.id,
        "title": each.rule.title,
        "path": each.rule.path,
        "line": each.rule.line,
        "fields": list(each.fields),
        "reason": _say_why(each),
    }


def _say_why(each: Unreachable) -> str:
    source = each.rule.logsource
    named = "/".join(part for part in (source.product, source.category, source.service) if part)
    return f"needs {', '.join(each.fields)}, which no known event of {named} has"


def _refused_row(refused: Any) -> dict[str, Any]:
    return {
        "path": str(refused.path),
        "line": refused.line,
        "title": refused.title,
        "rule_id": refused.rule_id,
        "reason": refused.reason,
    }


def list_rules(args: argparse.Namespace) -> Exit:
    """`appliance rules list`."""
    rules, _ = _load(args)
    view = View()
    if args.json:
        view.json([msgspec.to_builtins(info) for info in rules.infos])
        return Exit.DONE
    view.table(
        ["level", "title", "technique", "log source", "id"],
        [
            [
                info.level,
                info.title,
                " ".join(info.techniques),
                " ".join(
                    part
                    for part in (
                        info.logsource.product,
                        info.logsource.category,
                        info.logsource.service,
                    )
                    if part
                ),
                info.id,
            ]
            for info in rules.infos
        ],
    )
    return Exit.DONE


def test(args: argparse.Namespace) -> Exit:
    """`appliance rules test`: every sample beside the rules, through the line. Exit 1 when one
    fails, a rule has no match or no near miss, or a rule is refused; with --against as
    `try_rules.report` has it."""
    rules, config = _load(args)
    if args.against:
        known = (*RECORD_FORMATS, *(spec.name for spec in config.formats))
        if args.input_format not in known:
            raise UsageError(f"--input-format: {args.input_format!r} is none of {', '.join(known)}")
        return try_rules.report(args, rules, config)
    results = list(run_samples(rules))
    failed = [result for result in results if result.problem]
    view = View()
    if args.json:
        view.json([
            {"rule_id": r.rule.id, "title": r.rule.title, "expect": r.expect, "problem": r.problem}
            for r in results
        ])  # fmt: skip
    else:
        for result in failed:
            view.line(f"FAILED {clean(result.rule.title)}: {clean(result.problem)}", "red")
        for refused in rules.refused:
            view.line(
                f"REFUSED {clean(refused.path)}:{refused.line}: {clean(refused.reason)}", "red"
            )
        view.line(
            f"{len(rules.infos)} rules, {len(results)} samples: "
            f"{len(results) - len(failed)} passed, {len(failed)} failed, "
            f"{len(rules.refused)} rules refused"
        )
    return Exit.FOUND_OR_FAILED if failed or rules.refused else Exit.DONE


def run_samples(rules: RuleSet) -> Iterator[SampleResult]:
    """Put each rule's samples through decode, normalise and detect, and those of correlations,
    which are sequences, through these too. What correlations alone use needs no samples: theirs
    show what it does."""
    detectors = build_detectors(rules)
    for info in rules.infos:
        sequences = any(info.id == rule.info.id for rule in rules.correlations)
        samples = [s for s in read_samples(Path(info.path)) if bool(s.records) == sequences]
        if info.id in rules.silent and (sequences or not samples):
            continue
        for expect in ("match", "near_miss"):
            if not any(sample.expect == expect for sample in samples):
                yield SampleResult(info, expect, f"has no {expect} beside it")
        for number, sample in enumerate(samples, 1):
            problem = (
                _try_sequence(info, sample, number, detectors, rules)
                if sequences
                else _try_sample(info, sample, number, detectors)
            )
            yield SampleResult(info, sample.expect, problem)


def read_samples(rule: Path) -> list[Sample]:
    """The samples beside a rule's file; none when there is no such file. Raises RuleError."""
    path = rule.with_name(rule.stem + SAMPLES_SUFFIX)
    if not path.is_file():
        return []
    samples: list[Sample] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            sample = msgspec.json.decode(line, type=Sample)
            if bool(sample.record) == bool(sample.records):
                raise msgspec.ValidationError("a sample has either `record` or `records`")
            samples.append(sample)
        except msgspec.DecodeError as error:
            raise RuleError(f"{path}:{number}: {error}") from error
    return samples


def _try_sequence(
    info: RuleInfo, sample: Sample, number: int, detectors: Any, rules: RuleSet
) -> str:
    """Whether the correlation fires on records that come one after another, and on nothing else."""
    zones = {"samples": UTC}
    watched = list_watched(rules.correlations, rules.silent)
    reader = Reader(detectors=detectors, zones=zones, watched=watched)
    records = [
        _make_record(info, text, sample.format, place) for place, text in enumerate(sample.records)
    ]
    work = read_records([SourceBatch(records, [], [])], reader)
    if work.rejected:
        return f"sample {number} is rejected: {work.rejected[0].reason}"
    found = SigmaCorrelator(rules.correlations, WindowLimits()).advance(work.hits)
    return _compare(info, sample, number, found)


def _make_record(info: RuleInfo, text: str, declared: str, place: int) -> RawRecord:
    cursor = Cursor("samples", info.id, place, place + 1)
    received = max(time.time(), SAMPLES_RECEIVED)
    return RawRecord(text.encode(), "samples", info.path, info.id, cursor, received, declared)


def _try_sample(info: RuleInfo, sample: Sample, number: int, detectors: Any) -> str:
    result = read_event(_make_record(info, sample.record, sample.format, number), UTC)
    if isinstance(result, Rejected):
        return f"sample {number} is rejected: {result.reason}"
    return _compare(info, sample, number, detect_event(result[0], detectors))


def _compare(info: RuleInfo, sample: Sample, number: int, found: list[Detection]) -> str:
    """What is wrong with what was found; empty when nothing is."""
    fired = any(detection.rule_id == info.id for detection in found)
    if fired != (sample.expect == "match"):
        said = "fires" if fired else "does not fire"
        return f"sample {number} ({sample.expect}): the rule {said}: {sample.why}"
    return ""


def _list_rows(args: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """The ledger of every rule, those that nothing feeds too, and whether there is a store."""
    named = args.config or args.state or CONFIG.is_file()
    config = read_config(args) if named else Config()
    rules = load_configured_rules(config, args.rules or None, unfed=True)
    counts: Mapping[str, Mapping[str, float]] = {}
    stored = config.store_path.is_file()
    if stored:
        with closing(Store(config.store_path, read_only=True)) as store:
            counts = store.counts()
    custom = build_formats(config).sources
    rows = list_rule_rows(rules.infos, counts, custom)
    lacking = {each.rule.id: list(each.fields) for each in find_unreachable(rules, config)}
    for row in rows:
        row["lacking"] = lacking.get(row["id"], [])
        row["fed"] = row["fed"] and not row["lacking"]
    return rows, stored


def coverage(args: argparse.Namespace) -> Exit:
    """`appliance rules coverage`: the techniques that rules name, each with its state."""
    rows, stored = _list_rows(args)
    techniques = sum_up_techniques(rows)
    if args.out:
        layer = build_layer(techniques, industrial=args.ics)
        if args.out == "-":
            write_layer(layer, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return Exit.DONE
        replace_file(Path(args.out), lambda out: write_layer(layer, out))
    view = View()
    if args.json:
        view.json({"stored": stored, "techniques": techniques})
        return Exit.DONE
    if not args.out:
        view.table(
            ["technique", "state", "rules fed", "rules unfed", "fired"],
            [[k, c["state"], c["fed"], c["unfed"], c["fired"]] for k, c in techniques.items()],
        )
    states = [counts["state"] for counts in techniques.values()]
    view.line(
        f"{len(techniques)} techniques: {states.count('fired')} fired, {states.count('fed')} fed, "
        f"{states.count('unfed')} unfed; {sum(not row['techniques'] for row in rows)} of "
        f"{len(rows)} rules name none" + ("" if stored else "; no store: nothing can have fired")
    )
    return Exit.DONE


def scorecard(args: argparse.Namespace) -> Exit:
    """`appliance rules scorecard`: what each rule met and found, the noisiest first."""
    rows, stored = _list_rows(args)
    rows.sort(key=lambda row: (-row["fired"], -row["evaluated"], row["title"], row["id"]))
    view = View()
    if args.json:
        view.json({"stored": stored, "rules": rows})
        return Exit.DONE
    if not stored:
        view.line("no store: nothing was seen yet", "yellow")
    view.table(
        ["rule", "level", "fed", "events", "fired", "share", "suppressed", "last fired (UTC)"],
        [
            [
                row["title"],
                row["level"],
                _say_fed(row),
                row["evaluated"],
                row["fired"],
                f"{row['share']:.1%}",
                row["suppressed"],
                show_time(row["last_fired"]),
            ]
            for row in rows
        ],
    )
    return Exit.DONE


def _say_fed(row: Mapping[str, Any]) -> str:
    """Whether silence means anything."""
    if row["lacking"]:
        return f"NO FIELD {row['lacking'][0]}"
    if not row["fed"]:
        return "NO SOURCE"
    return "yes" if row["evaluated"] else "never fed"
