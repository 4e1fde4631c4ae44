"""The n-grams of the sentinel: fits what `appliance.inference.ngrams` runs.

Logistic regression over hashed character n-grams is the strongest plain baseline on command lines.
It is the encoder's teacher and, shipped, its partner: the student learns what it leaves open.
Fitted by L-BFGS on the whole set; rows that it is fitted on are scored by a fit on other groups
(cross-fitting), so that its opinion of a training row is as good as its opinion of a new one.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.inference.ngrams import (
    COLUMNS,
    FOLD,
    TECHNIQUE_COLUMNS,
    hash_text,
    list_columns,
)

#: Weight of the squared norm, per example.
_PENALTY: Final = 2e-6
_STEPS: Final = 60
#: The same for telling techniques apart, and the rate of its steps.
_TECHNIQUE_PENALTY: Final = 1e-6
_TECHNIQUE_STEPS: Final = 40
_TECHNIQUE_RATE: Final = 0.3
#: The fold of a row that no regression was fitted on, and the regression of all folds.
ALL: Final = -1

Floats = NDArray[np.float32]


class Table(msgspec.Struct):
    """A sparse matrix by rows: row i has the columns `columns[starts[i]:starts[i + 1]]`."""

    columns: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """These rows, in this order."""
        sizes = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        index = np.repeat(self.starts[rows] - starts[:-1], sizes) + np.arange(starts[-1])
        return Table(self.columns[index], starts)


def list_grams(texts: Sequence[str]) -> Table:
    """The distinct n-grams of each text, as columns."""
    return _join_rows([list_columns(text) for text in texts])


def _join_rows(rows: Sequence[NDArray[np.int64]]) -> Table:
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Table(np.concatenate(rows).astype(np.int32), starts)


def weigh_columns(table: Table, columns: int = COLUMNS) -> Floats:
    """Inverse document frequency of each column, smoothed: 1 + ln((1 + n) / (1 + count))."""
    counts = np.bincount(table.columns, minlength=columns)
    return np.asarray(1.0 + np.log((1.0 + len(table)) / (1.0 + counts)), np.float32)


def fit_scores(
    table: Table, idf: Floats, labels: Floats, weights: Floats, steps: int = _STEPS
) -> Floats:
    """Coefficients, the last of COLUMNS + 1 being the constant. `labels` 0 to 1, `weights` of
    their loss. Deterministic."""
    import torch  # noqa: PLC0415 - only in the extra train

    matrix, transposed = _build_matrices(table, idf)
    wanted = torch.from_numpy(labels)
    share = torch.from_numpy(weights / weights.sum())
    coefficients = torch.zeros(COLUMNS + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients], max_iter=steps, history_size=8,
                                  line_search_fn="strong_wolfe", tolerance_change=1e-9)  # fmt: skip

    def measure_loss() -> Any:
        with torch.no_grad():
            inner = coefficients[:-1]
            logits = (matrix @ inner[:, None])[:, 0] + coefficients[-1]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, wanted, share, reduction="sum"
            )
            wrong = share * (torch.sigmoid(logits) - wanted)
            slope = torch.empty_like(coefficients)
            slope[:-1] = (transposed @ wrong[:, None])[:, 0] + 2 * _PENALTY * inner
            slope[-1] = wrong.sum()
            coefficients.grad = slope
            return loss + _PENALTY * (inner**2).sum()

    optimizer.step(measure_loss)
    found: Floats = coefficients.detach().numpy()
    return found


def _fill_values(table: Table, idf: Floats) -> Floats:
    values = idf[table.columns]
    sizes = np.diff(table.starts)
    owner = np.repeat(np.arange(len(table)), sizes)
    lengths = np.sqrt(np.bincount(owner, values.astype(np.float64) ** 2, minlength=len(table)))
    return (values / np.maximum(lengths, 1e-9)[owner]).astype(np.float32)


def _build_matrices(table: Table, idf: Floats) -> tuple[Any, Any]:
    """The rows of length one, and the same transposed, in torch's CSR form."""
    import torch  # noqa: PLC0415 - only in the extra train

    values = _fill_values(table, idf)
    rows = np.repeat(np.arange(len(table), dtype=np.int32), np.diff(table.starts))
    order = np.argsort(table.columns, kind="stable")
    columns = len(idf)
    ends = np.cumsum(np.bincount(table.columns, minlength=columns))
    column_starts = np.concatenate([[0], ends]).astype(np.int64)
    shape = (len(table), columns)

    def build(starts: Any, index: Any, numbers: Any, size: tuple[int, int]) -> Any:
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(index.astype(np.int64)),
            torch.from_numpy(numbers),
            size=size,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR is in beta", at every first use
        return (
            build(table.starts, table.columns, values, shape),
            build(column_starts, rows[order], values[order], shape[::-1]),
        )


def apply_scores(table: Table, idf: Floats, coefficients: Floats) -> Floats:
    """Logit of each row."""
    values = _fill_values(table, idf) * coefficients[table.columns]
    owner = np.repeat(np.arange(len(table)), np.diff(table.starts))
    sums = np.bincount(owner, values, minlength=len(table))
    return np.asarray(sums + coefficients[-1], np.float32)


class Regressions(msgspec.Struct):
    """One regression for each fold, fitted without it, and ALL, fitted on all folds: coefficients
    of shape (COLUMNS + 1,), the last the constant. `frequencies`: those of all rows, (COLUMNS,).
    Both as float16 holds them: what is measured here is what is shipped."""

    frequencies: Floats
    coefficients: dict[int, Floats]

    def score(self, table: Table, folds: NDArray[np.int64]) -> Floats:
        """Logit of each row by the regression of its fold."""
        scores = np.zeros(len(table), np.float32)
        for fold in sorted(set(folds.tolist())):
            asked = np.flatnonzero(folds == fold)
            found = self._pick(fold)
            scores[asked] = apply_scores(table.take(asked), self.frequencies, found)
        return scores

    def _pick(self, fold: int) -> Floats:
        """A small set may have a fold without which nothing is left to fit on."""
        return self.coefficients.get(fold, self.coefficients[ALL])


def cross_fit(
    table: Table,
    labels: Floats,
    weights: Floats,
    fitted: NDArray[np.bool_],
    folds: NDArray[np.int64],
) -> Regressions:
    """Fit on the rows that are `fitted`, once for each fold of them and once on all. `folds`: 0 to
    k - 1, one group in one fold."""
    frequencies = _round(weigh_columns(table))
    found: dict[int, Floats] = {}
    for fold in sorted({ALL, *folds[fitted].tolist()}):
        chosen = np.flatnonzero(fitted & (folds != fold))
        if len(chosen):
            rows = table.take(chosen)
            found[fold] = _round(fit_scores(rows, frequencies, labels[chosen], weights[chosen]))
    return Regressions(frequencies, found)


def _round(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def divide_scores(regressions: Regressions, temperature: float) -> Regressions:
    """The same with every logit divided by `temperature`."""
    divided = {fold: _round(c / temperature) for fold, c in regressions.coefficients.items()}
    return Regressions(regressions.frequencies, divided)


def fit_techniques(
    texts: Sequence[str], index: NDArray[np.int64], share: Floats, count: int
) -> tuple[Floats, NDArray[np.int8], float]:
    """Softmax regression of techniques on folded n-grams: inverse document frequencies, weights of
    shape (TECHNIQUE_COLUMNS, count) and their step, as `TechniqueNgrams` reads them. `index` and
    `share`: each text's techniques (see `share_techniques`). Deterministic."""
    import torch  # noqa: PLC0415 - only in the extra train

    table = _join_rows([np.unique(list_columns(text) // FOLD) for text in texts])
    frequencies = _round(weigh_columns(table, TECHNIQUE_COLUMNS))
    matrix, transposed = _build_matrices(table, frequencies)
    wanted = torch.zeros(len(texts), count)
    wanted.scatter_add_(1, torch.from_numpy(index), torch.from_numpy(share))
    told = wanted.sum(1, keepdim=True)
    weights = torch.zeros(TECHNIQUE_COLUMNS, count)
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(1, _TECHNIQUE_STEPS + 1):  # Adam on the whole set
        wrong = (torch.softmax(matrix @ weights, 1) * told - wanted) / told.sum().clamp(min=1.0)
        slope = transposed @ wrong + 2 * _TECHNIQUE_PENALTY * weights
        mean.mul_(0.9).add_(slope, alpha=0.1)
        square.mul_(0.99).addcmul_(slope, slope, value=0.01)
        weights -= (
            _TECHNIQUE_RATE * (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-6)
        )
    found = weights.numpy()
    width = max(float(np.abs(found).max()), 1e-9) / 127
    return frequencies, np.round(found / width).astype(np.int8), width


def write_techniques(
    path: Path, frequencies: Floats, weights: NDArray[np.int8], step: float
) -> None:
    """What `fit_techniques` found, as the product loads it; the same gives the same bytes."""
    np.savez_compressed(
        path,
        frequencies=frequencies.astype(np.float16),
        weights=weights,
        step=np.float32(step),
    )


def write_ngrams(path: Path, regressions: Regressions, ordinary: Iterable[str] = ()) -> None:
    """The regression of all folds as the product loads it, with ordinary texts that it is to know
    by heart; the same give the same bytes."""
    found = regressions.coefficients[ALL]
    hashes = sorted({hash_text(text) for text in ordinary})
    np.savez_compressed(
        path,
        frequencies=regressions.frequencies.astype(np.float16),
        coefficients=found[:-1].astype(np.float16),
        constant=found[-1],
        ordinary=np.array(hashes, np.uint64),
    )
