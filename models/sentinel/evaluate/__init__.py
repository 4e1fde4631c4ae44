"""Stage `evaluate`: what the exported model is worth, measured through the product's own path.

examples.jsonl, sentinel.gguf, heads -> thresholds in the heads' metadata (chosen on validation),
evaluation.json (every figure, with counts and intervals), README.md (the model card, written from
it) and two plots. Texts are written by the product's `texts`, read by its child process, scored by
its heads; torch is not loaded.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.assembly import load_techniques
from appliance.errors import ModelError
from appliance.inference.manifest import (
    SENTINEL_FILE,
    read_sentinel,
    write_durably,
)
from models.sentinel.candidates import CANDIDATES_FILE
from models.sentinel.evaluate.attribution import (
    Guesser,
    list_described_captures,
    list_named_files,
    measure_attribution,
)
from models.sentinel.evaluate.budgets import (
    BUDGETS,
    DAYS,
    OTHERS,
    Background,
    choose_kinds,
    count_findings,
    count_over,
    find_event_threshold,
    gather_background,
    write_thresholds,
)
from models.sentinel.evaluate.card import SHIPPED_BUDGET, write_card
from models.sentinel.evaluate.compared import Rival, measure_parity, read_rivals
from models.sentinel.evaluate.evasion import list_rewritten, measure_evasion
from models.sentinel.evaluate.figures import (
    measure_calibration,
    measure_cells,
    measure_pooled,
    measure_slices,
    pool_thresholds,
    to_json,
)
from models.sentinel.evaluate.files import Limit, measure_files, pick_commands
from models.sentinel.evaluate.plots import draw_plots
from models.sentinel.evaluate.reading import ReadFile, read_attack_files, read_captures
from models.sentinel.evaluate.samples import Samples, gather_samples, pick_background
from models.sentinel.evaluate.scoring import Scorer, squash, unsquash
from models.sentinel.evaluate.speed import measure_speed
from models.sentinel.options import Options
from models.sentinel.rows import Example, read_rows

RESULTS_FILE: Final = "evaluation.json"
#: Where the worst mistakes are written, and how many of either sort.
WRONG_FILE: Final = "evaluate.wrong.jsonl"
_WRONG: Final = 200
#: Findings in 10,000 ordinary events at which the recall of files without rules is asked for.
PER_10_000: Final = 5.0
_EVTX: Final = "evtx-attack-samples"
_ROUNDS: Final = 200
_SMALL_ROUNDS: Final = 20
_COMMANDS: Final = 1_000
_SMALL_COMMANDS: Final = 40


class Run(msgspec.Struct):
    """What the parts of one evaluation share."""

    options: Options
    rows: list[Example]
    samples: Samples
    files: list[ReadFile]
    captures: list[ReadFile]
    scorer: Scorer
    rounds: int
    results: dict[str, Any]


def run(options: Options) -> None:
    """The stage. Raises OSError, ValueError when its files are none, ModelError and
    ModelUnavailable where the product could not load the model."""
    try:
        evaluate(options)
    except ModelError as error:
        raise ValueError(str(error)) from error


def evaluate(options: Options) -> dict[str, Any]:
    """Measure, write everything, give the figures."""
    work = options.work
    this = Run(
        options=options,
        rows=list(read_rows(work / "examples.jsonl")),
        samples=gather_samples(work, small=options.small),
        files=read_attack_files(options),
        captures=read_captures(options),
        scorer=Scorer.open(work),
        rounds=_SMALL_ROUNDS if options.small else _ROUNDS,
        results={},
    )
    _learn(this)
    this.results |= _describe(this)
    _measure_thresholds(this)
    _measure_tables(this)
    _measure_files(this)
    _measure_rest(this)
    write_durably(
        work / RESULTS_FILE, msgspec.json.format(msgspec.json.encode(this.results)) + b"\n"
    )
    _write_wrong(this)
    draw_plots(this.results, work)
    write_card(this.results, work)
    return this.results


def _learn(this: Run) -> None:
    samples = this.samples
    texts = [s.text for s in (*samples.attacks, *samples.background)]
    texts += [row.text for row in (*samples.labelled, *samples.valid)]
    for members in samples.attack_texts.values():
        texts += [text for pairs in members.values() for _, text in pairs]
    for file in (*this.files, *this.captures):
        texts += [text for event in file.events for _, text in event.texts]
    texts += list_rewritten(_pick_commands(this))
    began = time.perf_counter()
    count = this.scorer.learn(texts)
    print(f"evaluate: {count} texts scored in {time.perf_counter() - began:.0f} s", flush=True)


def _pick_commands(this: Run) -> list[dict[str, str]]:
    most = _SMALL_COMMANDS if this.options.small else _COMMANDS
    return pick_commands(this.files, this.samples.attack_texts.get(_EVTX, {}), most)


def _write_wrong(this: Run) -> None:
    """The ordinary texts that look most like attacks and the attacks that look least like them, for
    who improves data or model. Stays in --work: no data goes where the model goes."""
    lines = []
    for samples, sign in ((this.samples.background, -1.0), (this.samples.attacks, 1.0)):
        weights = this.scorer.weigh([sample.text for sample in samples])
        for at in np.argsort(sign * weights, kind="stable")[:_WRONG]:
            sample = samples[at]
            lines.append(
                {"score": round(float(weights[at]), 3), "label": sample.label, "kind": sample.kind,
                 "source": sample.source, "group": sample.groups[0], "text": sample.text}
            )  # fmt: skip
    path = this.options.work / WRONG_FILE
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def _describe(this: Run) -> dict[str, Any]:
    about = this.scorer.heads.about
    work = this.options.work
    model = work / SENTINEL_FILE
    card = work / "data_card.json"
    return {
        "small": this.options.small,
        "seed": this.options.seed,
        "model": {
            "trained": about.trained,
            "recipe": about.recipe,
            "tokens": about.tokens,
            "dims": this.scorer.heads.dims,
            "techniques": len(about.techniques),
            "tactics": len(about.tactics),
            "temperature": about.temperature,
            "bytes": {name: (work / name).stat().st_size for name in read_sentinel(model).files},
        },
        "manifest": msgspec.json.decode((work / "sentinel.json").read_bytes()),
        "data": msgspec.json.decode(card.read_bytes()) if card.is_file() else None,
    }


def _list_ordinary(this: Run, split: str) -> set[tuple[str, str]]:
    """Ordinary (kind, text) of the captures of one split."""
    source = "security-datasets"
    if split == "test":
        return {(s.kind, s.text) for s in this.samples.background if s.source == source}
    return {
        (row.kind, row.text)
        for row in this.samples.valid
        if row.label == 0 and row.source == source
    }


def _measure_thresholds(this: Run) -> None:
    """Thresholds from validation into the heads; what they give on the captures of both splits."""
    weigh = this.scorer.weigh
    ordinary = {
        (row.kind, row.text)
        for row in this.samples.valid
        if row.label == 0 and row.source.partition(":")[0] in ("life", "security-datasets")
    }
    texts: dict[str, list[str]] = {}
    for kind, text in sorted(ordinary):
        texts.setdefault(kind, []).append(text)
    logits = {kind: weigh(members) for kind, members in texts.items()}
    thresholds, kinds = choose_kinds(logits)
    this.scorer.heads = write_thresholds(this.options.work, thresholds, kinds)
    limits = [
        (budget, thresholds[budget], {kind: table[budget] for kind, table in kinds.items()})
        for budget in BUDGETS
    ]
    found: dict[str, Any] = {}
    backgrounds: dict[str, Background] = {}
    for split in ("valid", "test"):
        captures = [capture for capture in this.captures if capture.split == split]
        background = gather_background(captures, _list_ordinary(this, split))
        found[split] = {
            "captures": background.captures,
            "hosts": background.hosts,
            "span_days": background.span_days,
            "active_days": background.active_days,
            "texts": len(background.texts),
            "events": len(background.events),
            "left_out": background.left_out,
            "budgets": to_json(count_findings(background, weigh, limits)),
        }
        if background.events:
            found[split]["event_limit"] = find_event_threshold(background, weigh, PER_10_000)
            backgrounds[split] = background
    if len(backgrounds) == 2:
        limit = found["valid"]["event_limit"]
        on_test = count_over(backgrounds["test"], weigh, limit)
        found["valid_limit_on_test"] = msgspec.to_builtins(on_test)
    found["ordinary_set"] = _count_ordinary(this, limits)
    this.results["thresholds"] = {
        "days": {**DAYS, "others": OTHERS},
        "chosen_on": {kind: len(members) for kind, members in texts.items()},
        "scores": thresholds,
        "kinds": kinds,
        "on": found,
    }


def _count_ordinary(
    this: Run, limits: list[tuple[str, float, dict[str, float]]]
) -> list[dict[str, Any]]:
    """Distinct texts of the set `ordinary` (test sources), and of the templates that thresholds
    were chosen on, over each threshold."""
    found = []
    lists: dict[tuple[str, str, str], list[str]] = {}
    for sample in this.samples.background:
        if sample.source == "ordinary":
            lists.setdefault(("ordinary, test", sample.kind, sample.os), []).append(sample.text)
    for row in this.samples.valid:
        if row.label == 0 and row.source.startswith("life"):
            lists.setdefault(("templates, valid", row.kind, row.os), []).append(row.text)
    for (source, kind, os), texts in sorted(lists.items()):
        chances = squash(this.scorer.weigh(texts))
        over = {
            budget: int((chances > kinds.get(kind, score)).sum()) for budget, score, kinds in limits
        }
        found.append(
            {"source": source, "kind": kind, "os": os, "texts": len(chances), "over": over}
        )
    return found


def _measure_tables(this: Run) -> None:
    weigh, samples = this.scorer.weigh, this.samples
    seed, rounds = this.options.seed, this.rounds
    this.results["pooled"] = to_json(measure_pooled(samples, weigh, seed=seed, rounds=rounds))
    this.results["cells"] = to_json(measure_cells(samples, weigh, seed=seed, rounds=rounds))
    this.results["slices"] = to_json(measure_slices(samples, weigh, seed=seed, rounds=rounds))
    rivals = read_rivals(this.options.work, this.rows)
    this.results["baselines"] = {
        rival.name: _measure_rival(this, rival) for rival in rivals if rival.name == "n-grams"
    }
    if not this.options.small:
        this.results["parity"] = to_json(measure_parity(this.rows, rivals, weigh, seed, rounds))
    exported = this.options.work / "export.json"
    if exported.is_file():
        this.results["quantizations"] = msgspec.json.decode(exported.read_bytes())
    compared = this.options.work / CANDIDATES_FILE
    if compared.is_file():
        this.results["candidates"] = msgspec.json.decode(compared.read_bytes())
    truth, chances = [], []
    for label, chosen in ((1, samples.attacks), (0, samples.background)):
        texts = [sample.text for sample in chosen if sample.strict and (sample.real or label)]
        truth += [label] * len(texts)
        chances.append(squash(weigh(texts)))
    this.results["calibration"] = to_json(
        [
            measure_calibration("test", np.array(truth), np.concatenate(chances)),
            measure_calibration(
                "valid",
                np.array([int(row.label or 0) for row in samples.valid]),
                squash(weigh([row.text for row in samples.valid])),
            ),
        ]
    )


def _measure_rival(this: Run, rival: Rival) -> dict[str, Any]:
    """The bars' tables for a baseline, on the texts that are new to training."""
    known = {row.text: rival.logits[at] for at, row in enumerate(this.rows)}
    chosen = msgspec.structs.replace(
        this.samples,
        attacks=[s for s in this.samples.attacks if s.strict and s.text in known],
        background=[s for s in this.samples.background if s.strict and s.text in known],
    )

    def look(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([known[text] for text in texts], np.float64)

    seed, rounds = this.options.seed, this.rounds

    def keep_new(lines: list[Any]) -> list[Any]:
        return [line for line in lines if line["against"].startswith("new to training")]

    return {
        "pooled": keep_new(to_json(measure_pooled(chosen, look, seed=seed, rounds=rounds))),
        "cells": keep_new(to_json(measure_cells(chosen, look, seed=seed, rounds=rounds))),
    }


def _get_limit(this: Run, budget: str) -> Limit:
    found = this.results["thresholds"]
    return Limit(
        f"budget {budget}",
        unsquash(found["scores"][budget]),
        {kind: unsquash(table[budget]) for kind, table in found["kinds"].items()},
    )


def _measure_files(this: Run) -> None:
    if not this.files:
        return
    weigh = this.scorer.weigh
    limits = [_get_limit(this, budget) for budget in BUDGETS]
    on = this.results["thresholds"]["on"]
    for split, words in (("test", ""), ("valid", ", chosen on validation")):
        if "event_limit" in on[split]:
            name = f"{PER_10_000:g} in 10,000 ordinary events{words}"
            limits.append(Limit(name, on[split]["event_limit"]))
    base = pick_background(this.samples.background, None, "windows", strict=False)
    for name, limit in pool_thresholds(base, weigh).items():
        if limit is not None:
            limits.append(Limit(f"{name} distinct Windows events", limit))
    attack_texts = this.samples.attack_texts.get(_EVTX, {})
    this.results["files"] = {
        "files": len(this.files),
        "events": sum(file.count for file in this.files),
        "with_texts": sum(bool(file.events) for file in this.files),
        "with_attack": sum(bool(attack_texts.get(file.name)) for file in this.files),
        "blind": sum(not file.rules for file in this.files),
        "blind_with_texts": sum(not file.rules and bool(file.events) for file in this.files),
        "blind_with_attack": sum(
            not file.rules and bool(attack_texts.get(file.name)) for file in this.files
        ),
        "recall": to_json(measure_files(this.files, attack_texts, weigh, limits)),
    }


def _measure_rest(this: Run) -> None:
    """Attribution, evasion, speed."""
    work, scorer = this.options.work, this.scorer
    heads = scorer.heads
    beside = load_techniques(scorer.model, read_sentinel(scorer.model), len(heads.about.techniques))
    guesser = Guesser(heads, None if beside is None else beside.weigh)
    guessed = []
    sets = {
        _EVTX: list_named_files(this.files),
        "security-datasets": list_described_captures(this.captures, this.options.data),
    }
    limits = {budget: _get_limit(this, budget) for budget in (SHIPPED_BUDGET, "50")}
    for budget, limit in {**limits, "none": Limit("none", -math.inf)}.items():
        for source, files in sets.items():
            lines = measure_attribution(
                source, files, guesser,
                weigh=scorer.weigh, get_vectors=scorer.get_vectors, limit=limit,
            )  # fmt: skip
            guessed += [{"budget": budget, **line} for line in to_json(lines)]
    this.results["attribution"] = guessed
    commands = _pick_commands(this)
    base = pick_background(this.samples.background, None, "windows", strict=False)
    limit_100 = pool_thresholds(base, scorer.weigh)["1 in 100"]
    if commands and limit_100 is not None:
        this.results["evasion"] = to_json(measure_evasion(commands, scorer.weigh, limit_100))
    vocabulary = work / "vocab.txt"
    if vocabulary.is_file():
        seed, small = this.options.seed, this.options.small
        this.results["speed"] = to_json(
            [measure_speed(scorer.model, vocabulary, count, seed, small=small) for count in (1, 2)]
        )
