"""Beside the line: how well scores tell attacks from ordinary events, in numbers that a model card
and `appliance model eval` share.

Pure numpy. Scores are any real numbers of which higher means more suspicious; labels are 1 for an
attack and 0 for what is ordinary.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Shares of ordinary texts called attacks at which recall is told.
RATES: Final = (0.01, 0.001)
#: Two-sided 95 % of the normal distribution.
_Z: Final = 1.959964
#: The row over all kinds.
ALL: Final = "all"


class Row(msgspec.Struct, frozen=True):
    """One kind's figures. `auroc` is the chance that an attack scores above an ordinary text,
    `recall_1` and `recall_01` the share of attacks over the score that 1 % and 0.1 % of the
    ordinary texts reach. None where there is nothing to compare, or, of a recall, fewer ordinary
    texts than one in that share."""

    kind: str
    attacks: int
    ordinary: int
    auroc: float | None
    recall_1: float | None
    recall_01: float | None


def measure_auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve: the Mann-Whitney statistic over attacks times ordinary, equal
    scores counting half. None without both. `labels`, `scores`: shape (n,)."""
    truth, values = _take(labels, scores)
    attacks = int(truth.sum())
    ordinary = len(truth) - attacks
    if not attacks or not ordinary:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]  # of equal scores, the middle rank
    total = float(ranks[truth].sum()) - attacks * (attacks + 1) / 2.0
    return total / (attacks * ordinary)


def find_threshold(ordinary: ArrayLike, rate: float) -> float | None:
    """The lowest score over which at most `rate` of the ordinary scores lie (a score counts only
    when it is above it). None when there are fewer ordinary scores than 1 / rate: nothing can be
    said of so rare an event then."""
    values = np.sort(np.asarray(ordinary, np.float64))[::-1]
    allowed = int(np.floor(len(values) * rate + 1e-9))
    if allowed < 1:
        return None
    return float(values[min(allowed, len(values) - 1)])


def measure_recall(labels: ArrayLike, scores: ArrayLike, rate: float) -> float | None:
    """The share of attacks that score above the threshold of `rate`. None where there is no such
    threshold or no attack."""
    truth, values = _take(labels, scores)
    threshold = find_threshold(values[~truth], rate)
    if threshold is None or not truth.any():
        return None
    return float((values[truth] > threshold).mean())


def bound_share(hits: int, total: int) -> tuple[float, float] | None:
    """The 95 % interval of a share of `hits` in `total` (Wilson 1927, JASA 22:209). None
    of none."""
    if total < 1:
        return None
    share, z2 = hits / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    spread = share * (1 - share) / total + z2 / (4 * total * total)
    half = _Z * float(np.sqrt(spread)) / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def bound_by_groups(
    measure: Callable[[NDArray[np.float64]], float | None],
    groups: Sequence[str],
    seed: int,
    rounds: int = 200,
) -> tuple[float, float] | None:
    """The 95 % interval of a figure, by drawing whole groups with replacement (percentile
    bootstrap; Efron 1979, Ann. Statist. 7:1). `measure` gets how often each row was drawn, shape
    (n,), and gives None where that allows no figure. None with fewer than two groups."""
    _, owner = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    count = int(owner.max(initial=-1)) + 1
    if count < 2:
        return None
    random = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        drawn = np.bincount(random.integers(count, size=count), minlength=count)
        value = measure(drawn[owner].astype(np.float64))
        if value is not None:
            found.append(value)
    if len(found) < rounds // 2 or not found:
        return None
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def bound_auroc(
    labels: ArrayLike, scores: ArrayLike, groups: Sequence[str], seed: int, rounds: int = 200
) -> tuple[float, float] | None:
    """The 95 % interval of `measure_auroc`, by groups."""
    truth, values = _take(labels, scores)
    _, place = np.unique(values, return_inverse=True)

    def measure(drawn: NDArray[np.float64]) -> float | None:
        attacks = np.bincount(place, drawn * truth)
        ordinary = np.bincount(place, drawn * ~truth)
        pairs = float(attacks.sum() * ordinary.sum())
        if not pairs:
            return None
        return float((attacks * (np.cumsum(ordinary) - ordinary / 2.0)).sum()) / pairs

    return bound_by_groups(measure, groups, seed, rounds)


def measure_kinds(kinds: Sequence[str], labels: ArrayLike, scores: ArrayLike) -> list[Row]:
    """A row for each kind, in the order of their names, and one over all, last."""
    truth, values = _take(labels, scores)
    names = np.asarray(kinds, dtype=object)
    if names.shape != truth.shape:
        raise ValueError("as many kinds as labels are needed")
    rows = [_measure(kind, truth, values, names == kind) for kind in sorted(set(kinds))]
    return [*rows, _measure(ALL, truth, values, np.ones(len(truth), bool))]


def render_rows(rows: Sequence[Row]) -> list[list[str]]:
    """The table's cells as text: kind, attacks, ordinary, AUROC, recall at 1 % and at 0.1 %."""
    return [
        [row.kind, str(row.attacks), str(row.ordinary)]
        + [_show(value) for value in (row.auroc, row.recall_1, row.recall_01)]
        for row in rows
    ]


#: The heads of `render_rows`' columns.
COLUMNS: Final = ("kind", "attacks", "ordinary", "AUROC", "recall at 1 %", "recall at 0.1 %")


def render_markdown(rows: Sequence[Row]) -> str:
    """The same table for a model card."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(tuple, render_rows(rows))]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def describe_rows(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """The rows as JSON values."""
    return [msgspec.to_builtins(row) for row in rows]


def _measure(
    kind: str, truth: NDArray[np.bool_], values: NDArray[np.float64], which: NDArray[np.bool_]
) -> Row:
    mine, scores = truth[which], values[which]
    attacks = int(mine.sum())
    recalls = [measure_recall(mine, scores, rate) for rate in RATES]
    return Row(kind, attacks, len(mine) - attacks, measure_auroc(mine, scores), *recalls)


def _take(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError("labels and scores must be two lists of one length")
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite")
    return truth, values


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
