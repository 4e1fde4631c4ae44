"""`rules check|test|list`: which rules load, which are refused, whether they do what they say."""

import argparse
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, Literal

import msgspec

from appliance.assembly import build_detectors, load_rule_set
from appliance.detect.sigma.load import RuleSet
from appliance.errors import Exit, RuleError
from appliance.pipeline import detect_event, read_event
from appliance.schema import Cursor, RawRecord, Rejected, RuleInfo
from appliance.view import View, clean

SAMPLES_SUFFIX = ".samples.jsonl"


class Sample(msgspec.Struct, frozen=True):
    """One line beside a rule: a whole log record, as its forwarder writes it, and whether the rule
    must fire on it."""

    expect: Literal["match", "near_miss"]
    record: str
    why: str
    format: str = "auto"


class SampleResult(msgspec.Struct, frozen=True):
    """A sample that was put through the line. `problem` is empty when the rule did as expected."""

    rule: RuleInfo
    expect: str
    problem: str


def check(args: argparse.Namespace) -> Exit:
    """`appliance rules check`: exit 1 when a rule is refused."""
    rules = load_rule_set(args.rules)
    view = View()
    if args.json:
        view.json({
            "loaded": len(rules.rules),
            "refused": [_refused_row(refused) for refused in rules.refused],
        })  # fmt: skip
    else:
        for refused in rules.refused:
            view.line(f"{clean(refused.path)}:{refused.line}: {clean(refused.title)}: "
                      f"{clean(refused.reason)}")  # fmt: skip
        view.line(f"{len(rules.rules)} rules loaded, {len(rules.refused)} refused")
    return Exit.FOUND_OR_FAILED if rules.refused else Exit.DONE


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
    rules = load_rule_set(args.rules)
    view = View()
    if args.json:
        view.json([msgspec.to_builtins(rule.info) for rule in rules.rules])
        return Exit.DONE
    view.table(
        ["level", "title", "technique", "log source", "id"],
        [
            [
                rule.info.level,
                rule.info.title,
                " ".join(rule.info.techniques),
                " ".join(
                    part
                    for part in (
                        rule.info.logsource.product,
                        rule.info.logsource.category,
                        rule.info.logsource.service,
                    )
                    if part
                ),
                rule.info.id,
            ]
            for rule in rules.rules
        ],
    )
    return Exit.DONE


def test(args: argparse.Namespace) -> Exit:
    """`appliance rules test`: every sample beside the rules, through the line. Exit 1 when one
    fails, a rule has no match or no near miss, or a rule is refused."""
    rules = load_rule_set(args.rules)
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
            f"{len(rules.rules)} rules, {len(results)} samples: "
            f"{len(results) - len(failed)} passed, {len(failed)} failed, "
            f"{len(rules.refused)} rules refused"
        )
    return Exit.FOUND_OR_FAILED if failed or rules.refused else Exit.DONE


def run_samples(rules: RuleSet) -> Iterator[SampleResult]:
    """Put each rule's samples through decode, normalise and detect."""
    detectors = build_detectors(rules)
    for rule in rules.rules:
        info = rule.info
        samples = read_samples(Path(info.path))
        for expect in ("match", "near_miss"):
            if not any(sample.expect == expect for sample in samples):
                yield SampleResult(info, expect, f"has no {expect} beside it")
        for number, sample in enumerate(samples, 1):
            yield SampleResult(info, sample.expect, _try_sample(info, sample, number, detectors))


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
            samples.append(msgspec.json.decode(line, type=Sample))
        except msgspec.DecodeError as error:
            raise RuleError(f"{path}:{number}: {error}") from error
    return samples


def _try_sample(info: RuleInfo, sample: Sample, number: int, detectors: Any) -> str:
    cursor = Cursor("samples", info.id, number, number + 1)
    record = RawRecord(
        sample.record.encode(), "samples", info.path, info.id, cursor, 1_790_000_000.0,
        sample.format,
    )  # fmt: skip
    result = read_event(record, UTC)
    if isinstance(result, Rejected):
        return f"sample {number} is rejected: {result.reason}"
    fired = any(d.rule_id == info.id for d in detect_event(result[0], detectors))
    if fired != (sample.expect == "match"):
        said = "fires" if fired else "does not fire"
        return f"sample {number} ({sample.expect}): the rule {said}: {sample.why}"
    return ""
