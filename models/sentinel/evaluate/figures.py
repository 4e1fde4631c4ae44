"""Stage `evaluate`, figures: attacks of one source and kind against real background, with counts
and 95 % intervals.

Shares of single texts are bounded by drawing whole groups (files, captures, abilities) anew, since
texts of one file are alike; shares of files by Wilson's interval. The threshold is not drawn anew:
what is told is how sure the recall at that threshold is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.sentinel_metrics import (
    bound_auroc,
    bound_by_groups,
    bound_share,
    find_threshold,
    measure_auroc,
)
from models.sentinel.evaluate.samples import Sample, Samples, pick_background

#: Shares of distinct background texts that are flagged, with their names in tables.
RATES: Final = (("1 in 1,000", 0.001), ("1 in 100", 0.01))
#: Fewer attacks than this of one source and kind get no row.
FEWEST: Final = 5

Weigh = Callable[[Sequence[str]], NDArray[np.float64]]


class Share(msgspec.Struct, frozen=True):
    """`hits` of `total`, and the 95 % interval, None where that cannot be told."""

    hits: int
    total: int
    interval: tuple[float, float] | None

    @property
    def value(self) -> float | None:
        """The share; None of none."""
        return self.hits / self.total if self.total else None


class AtRate(msgspec.Struct, frozen=True):
    """Recall at the threshold that flags so many of the background: of texts and of groups.
    `threshold` is in log-odds, None where the background is too small for the rate."""

    rate: str
    threshold: float | None
    texts: Share | None
    groups: Share | None


class Cell(msgspec.Struct, frozen=True):
    """One line of the tables: attacks of one source, kind and system against the background
    described by `against`."""

    source: str
    kind: str
    os: str
    against: str
    attacks: int
    groups: int
    background: int
    auroc: float | None
    auroc_interval: tuple[float, float] | None
    rates: list[AtRate]


def share(hits: int, total: int) -> Share:
    """A share with Wilson's interval."""
    return Share(hits, total, bound_share(hits, total))


def share_by_groups(hit: NDArray[np.bool_], groups: Sequence[str], seed: int, rounds: int) -> Share:
    """A share with the interval that drawing groups anew gives."""
    values = hit.astype(np.float64)

    def measure(drawn: NDArray[np.float64]) -> float | None:
        return float((values * drawn).sum() / drawn.sum()) if drawn.sum() else None

    return Share(int(hit.sum()), len(hit), bound_by_groups(measure, groups, seed, rounds))


def compare(
    attacks: Sequence[Sample],
    background: Sequence[Sample],
    weigh: Weigh,
    *,
    against: str,
    kind: str,
    seed: int,
    rounds: int,
    thresholds: Mapping[str, float | None] | None = None,
) -> Cell:
    """One line. `thresholds` by name of rate, instead of those that this background gives."""
    ours = weigh([sample.text for sample in attacks])
    theirs = weigh([sample.text for sample in background])
    labels = np.concatenate([np.ones(len(ours)), np.zeros(len(theirs))])
    scores = np.concatenate([ours, theirs])
    groups = [f"a {sample.groups[0]}" for sample in attacks]
    both = groups + [f"o {sample.groups[0]}" for sample in background]
    members: dict[str, list[int]] = {}
    for at, sample in enumerate(attacks):
        for group in sample.groups:
            members.setdefault(group, []).append(at)
    rates = []
    for name, rate in RATES:
        limit = find_threshold(theirs, rate) if thresholds is None else thresholds[name]
        if limit is None:
            rates.append(AtRate(name, None, None, None))
            continue
        hit = ours > limit
        flagged = sum(bool(hit[places].any()) for places in members.values())
        texts = share_by_groups(hit, groups, seed, rounds)
        rates.append(AtRate(name, limit, texts, share(flagged, len(members))))
    return Cell(
        source=attacks[0].source,
        kind=kind,
        os=attacks[0].os,
        against=against,
        attacks=len(attacks),
        groups=len(members),
        background=len(background),
        auroc=measure_auroc(labels, scores),
        auroc_interval=bound_auroc(labels, scores, both, seed, rounds) if len(theirs) else None,
        rates=rates,
    )


def list_bases(samples: Samples) -> list[tuple[str, bool]]:
    """What is compared: what is new to training, and, where the rest is there, the whole stream."""
    whole = any(not sample.strict for sample in (*samples.attacks, *samples.background))
    return [("new to training", True), ("whole stream", False)][: 1 + whole]


def measure_cells(samples: Samples, weigh: Weigh, *, seed: int, rounds: int) -> list[Cell]:
    """A line for each source and kind of attacks of the test: against the background of its own
    kind, once without near copies of training and once the whole stream; and where there is no
    real background of the kind, against what there is."""
    found: list[Cell] = []
    for source, kind, os in sorted({(s.source, s.kind, s.os) for s in samples.attacks}):
        mine = [s for s in samples.attacks if (s.source, s.kind, s.os) == (source, kind, os)]
        for name, strict in list_bases(samples):
            attacks = [sample for sample in mine if sample.strict or not strict]
            if len(attacks) < FEWEST:
                continue
            real = pick_background(samples.background, kind, os, strict=strict)
            against, base = name, real
            if len(real) < FEWEST:
                base = pick_background(samples.background, kind, os, strict=strict, real=False)
                against = f"{name}, no telemetry"
            if base:
                found.append(
                    compare(
                        attacks, base, weigh, against=against, kind=kind, seed=seed, rounds=rounds
                    )
                )
    return found


def pool_thresholds(background: Sequence[Sample], weigh: Weigh) -> dict[str, float | None]:
    """The thresholds of RATES over all kinds together, by name."""
    scores = weigh([sample.text for sample in background])
    return {name: find_threshold(scores, rate) for name, rate in RATES}


def measure_pooled(samples: Samples, weigh: Weigh, *, seed: int, rounds: int) -> list[Cell]:
    """The bars' own table: Windows attacks of each whole source, kind by kind and all kinds
    together, at the thresholds that flag so many of all distinct background events."""
    found: list[Cell] = []
    for os in ("windows", "linux"):
        for name, strict in list_bases(samples):
            base = pick_background(samples.background, None, os, strict=strict)
            limits = pool_thresholds(base, weigh)
            chosen = [s for s in samples.attacks if s.os == os and (s.strict or not strict)]
            for source in ("evtx-attack-samples", "stockpile", "security-datasets", "cowrie"):
                mine = [s for s in chosen if s.source == source]
                for kind in ("all", *sorted({s.kind for s in mine})):
                    attacks = [s for s in mine if kind in ("all", s.kind)]
                    if len(attacks) >= FEWEST:
                        found.append(
                            compare(
                                attacks, base, weigh, against=f"{name}, all kinds", kind=kind,
                                seed=seed, rounds=rounds, thresholds=limits,
                            )
                        )  # fmt: skip
    return found


class Slice(msgspec.Struct, frozen=True):
    """Texts of one form, or of techniques that training saw or did not: recall of attacks and
    share of background at the threshold that flags 1 in 100 of the background of its kind."""

    source: str
    kind: str
    os: str
    what: str
    attacks: Share
    background: Share


def measure_slices(samples: Samples, weigh: Weigh, *, seed: int, rounds: int) -> list[Slice]:
    """By form of log, and by techniques seen and unseen, of process and script texts."""
    found: list[Slice] = []
    for kind, os in (("process", "windows"), ("process", "linux"), ("script", "windows")):
        base = pick_background(samples.background, kind, os, strict=True)
        limit = find_threshold(weigh([sample.text for sample in base]), 0.01)
        mine = [s for s in samples.attacks if (s.kind, s.os, s.strict) == (kind, os, True)]
        if limit is None:
            continue
        for source, what, attacks, ordinary in _list_slices(mine, base):
            shares = []
            for chosen in (attacks, ordinary):
                hit = weigh([sample.text for sample in chosen]) > limit
                groups = [sample.groups[0] for sample in chosen]
                shares.append(share_by_groups(hit, groups, seed, rounds))
            found.append(Slice(source, kind, os, what, *shares))
    return found


def _list_slices(
    mine: Sequence[Sample], base: Sequence[Sample]
) -> Iterator[tuple[str, str, list[Sample], list[Sample]]]:
    """Source, name, attacks and background of each slice."""
    for shape in sorted({sample.shape for sample in mine}):
        attacks = [sample for sample in mine if sample.shape == shape]
        yield "all", f"form {shape}", attacks, [s for s in base if s.shape == shape]
    for source in sorted({sample.source for sample in mine}):
        for what, unseen in (("techniques seen", False), ("techniques unseen", True)):
            attacks = [s for s in mine if s.source == source and s.unseen == unseen]
            if len(attacks) >= FEWEST:
                yield source, what, attacks, list(base)


class Calibration(msgspec.Struct, frozen=True):
    """Ten bins of scores: mean score, share of attacks and count of each (None where empty), and
    the expected calibration error: the mean distance of the two, weighted by count."""

    split: str
    scores: list[float | None]
    attacks: list[float | None]
    counts: list[int]
    error: float


def measure_calibration(
    split: str, labels: NDArray[np.int64], chances: NDArray[np.float64]
) -> Calibration:
    """Of probabilities `chances` and labels 0 or 1. Raises ValueError for none."""
    if not len(labels):
        raise ValueError("nothing to calibrate with")
    bins = np.minimum((chances * 10).astype(int), 9)
    scores: list[float | None] = []
    attacks: list[float | None] = []
    counts: list[int] = []
    error = 0.0
    for number in range(10):
        inside = bins == number
        counts.append(int(inside.sum()))
        if not counts[-1]:
            scores.append(None)
            attacks.append(None)
            continue
        mean, truth = float(chances[inside].mean()), float(labels[inside].mean())
        scores.append(mean)
        attacks.append(truth)
        error += abs(mean - truth) * counts[-1] / len(labels)
    return Calibration(split, scores, attacks, counts, error)


def to_json(values: Sequence[msgspec.Struct]) -> list[Any]:
    """Structs as JSON values."""
    return [msgspec.to_builtins(value) for value in values]
