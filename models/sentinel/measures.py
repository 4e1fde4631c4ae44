"""How well scores tell attacks from ordinary life: the figures that the stages print."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from appliance import sentinel_metrics
from models.sentinel.rows import Example

Scores = NDArray[np.float64]
#: Steps of Newton's method, and the weight of the squared norm that keeps them finite.
_NEWTON: Final = 50
_RIDGE: Final = 1e-4
#: Fewer rows of either label than this, and no figure is given.
_FEWEST: Final = 10
#: Sources with the events of attacks on Windows, and of Windows systems without.
_CAPTURES: Final = ("evtx-attack-samples", "security-datasets", "ordinary")


def measure_auroc(scores: Scores, labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of attacks (label 1) against ordinary rows (0), others left out; NaN
    where one of the two is missing."""
    known = labels >= 0
    found = sentinel_metrics.measure_auroc(labels[known], scores[known])
    return float("nan") if found is None else found


def measure_recall(scores: Scores, labels: NDArray[np.int64], false_share: float) -> float:
    """Share of attacks above the score that `false_share` of the ordinary rows reach, also where
    these are so few that none may."""
    ordinary = np.sort(scores[labels == 0])
    attacks = scores[labels == 1]
    if not len(ordinary) or not len(attacks):
        return float("nan")
    allowed = int(false_share * len(ordinary))
    return float((attacks > ordinary[len(ordinary) - 1 - allowed]).mean())


def fit_temperature(logits: Scores, labels: Scores, weights: Scores) -> float:
    """The number that logits are divided by so that their logistic is the best probability
    (weighted cross-entropy; temperature scaling, Guo et al. 2017, arXiv:1706.04599)."""
    if not len(logits) or float(np.ptp(labels)) == 0.0:
        return 1.0

    def measure_loss(temperature: float) -> float:
        chance = np.clip(0.5 + 0.5 * np.tanh(0.5 * logits / temperature), 1e-7, 1 - 1e-7)
        loss = labels * np.log(chance) + (1 - labels) * np.log(1 - chance)
        return float(-(weights * loss).sum())

    grid = np.exp(np.linspace(np.log(0.2), np.log(10.0), 200))
    return float(min(grid, key=lambda value: measure_loss(float(value))))


def fit_sum(logits: Scores, labels: Scores, weights: Scores) -> tuple[Scores, float]:
    """The shares, shape (columns,), and the constant with which columns of logits, shape (rows,
    columns), add up to the best log-odds (weighted cross-entropy; logistic regression by Newton's
    method). No share is negative: a column that would have one is left out."""
    used = np.ones(logits.shape[1], bool)
    shares = np.ones(logits.shape[1]) / max(logits.shape[1], 1)
    if not len(logits) or float(np.ptp(labels)) == 0.0:
        return shares, 0.0
    while used.any():
        found = _fit_logistic(logits[:, used], labels, weights)
        shares = np.zeros(logits.shape[1])
        shares[used] = found[:-1]
        if (shares >= 0).all():
            return shares, float(found[-1])
        used &= shares > 0
    return shares, 0.0


def _fit_logistic(logits: Scores, labels: Scores, weights: Scores) -> Scores:
    columns = np.column_stack([logits, np.ones(len(logits))])
    weights = weights / weights.sum()
    found = np.zeros(columns.shape[1])
    for _ in range(_NEWTON):
        chance = 0.5 + 0.5 * np.tanh(0.5 * columns @ found)
        slope = columns.T @ (weights * (chance - labels)) + _RIDGE * found
        bend = columns.T @ (columns * (weights * chance * (1 - chance))[:, None])
        found = found - np.linalg.solve(bend + _RIDGE * np.eye(len(found)), slope)
    return found


def is_measured(row: Example) -> bool:
    """True for a row outside of training of which something is known."""
    return row.split != "train" and (row.label is not None or row.attack_event)


def list_figures(rows: Sequence[Example], scores: dict[str, Scores]) -> list[dict[str, object]]:
    """For each split, kind (and "all") and name of scores: counts, AUROC, recall at 1 % and 0.1 %
    false positives. The split "captures" sets the attack's events of Windows captures, labelled
    or not, against the ordinary life of other Windows systems, both of the split `test`."""
    kinds = np.array([row.kind for row in rows])
    figures: list[dict[str, object]] = []
    for split in ("valid", "test", "captures"):
        labels = np.array([_label_row(row, split) for row in rows], np.int64)
        for kind in ["all", *sorted(set(kinds.tolist()))]:
            chosen = (labels >= 0) & ((kinds == kind) | (kind == "all"))
            attacks = int(labels[chosen].sum())
            ordinary = int(chosen.sum()) - attacks
            if min(attacks, ordinary) < _FEWEST:
                continue
            line: dict[str, object] = {
                "split": split,
                "kind": kind,
                "attacks": attacks,
                "ordinary": ordinary,
            }
            for name, values in scores.items():
                line[name] = _measure(values[chosen], labels[chosen])
            figures.append(line)
    return figures


def _label_row(row: Example, split: str) -> int:
    """1 or 0, -1 where the row does not count."""
    if split != "captures":
        return row.label if row.split == split and row.label is not None else -1
    if row.split != "test" or row.source not in _CAPTURES or row.os != "windows":
        return -1
    return 1 if row.attack_event else 0 if row.label == 0 else -1


def _measure(scores: Scores, labels: NDArray[np.int64]) -> dict[str, float]:
    return {
        "auroc": round(measure_auroc(scores, labels), 4),
        "recall_1%": round(measure_recall(scores, labels, 0.01), 4),
        "recall_0.1%": round(measure_recall(scores, labels, 0.001), 4),
    }


def show_figures(figures: Sequence[dict[str, object]], names: Sequence[str]) -> str:
    """The figures as a Markdown table: AUROC / recall at 1 % / recall at 0.1 %."""
    lines = ["| split | kind | attacks | ordinary | " + " | ".join(names) + " |"]
    lines.append("|---" * (4 + len(names)) + "|")
    for line in figures:
        cells = [str(line[key]) for key in ("split", "kind", "attacks", "ordinary")]
        for name in names:
            figure = line.get(name)
            cells.append(
                " / ".join(f"{value:.3f}" for value in figure.values())
                if isinstance(figure, dict)
                else "-"
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
