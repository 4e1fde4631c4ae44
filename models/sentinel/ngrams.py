"""The second teacher: logistic regression over hashed character n-grams.

Character n-grams are the strongest plain baseline on command lines, and see what a word piece
hides. Features: the 3-, 4- and 5-grams of the text's bytes, hashed into 2^18 columns, present or
not, weighted by inverse document frequency, rows of length one. Fitted by L-BFGS on the whole set;
rows that it is fitted on are scored by a fit on other groups (cross-fitting), so that its opinion
of a training row is as good as its opinion of a new one.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

#: Lengths of the n-grams, in bytes.
GRAMS: Final = (3, 4, 5)
#: Columns that they are hashed into.
COLUMNS: Final = 1 << 18
#: Weight of the squared norm, per example.
_PENALTY: Final = 2e-6
_STEPS: Final = 60
_MULTIPLIER: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 / golden ratio: Fibonacci hashing
_CHUNK: Final = 4_096

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
    columns: list[NDArray[np.int32]] = []
    sizes: list[NDArray[np.int64]] = []
    for start in range(0, len(texts), _CHUNK):
        chunk = [text.encode("utf-8", "replace") for text in texts[start : start + _CHUNK]]
        found, counts = _hash_chunk(chunk)
        columns.append(found)
        sizes.append(counts)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    return Table(np.concatenate(columns), starts)


def _hash_chunk(texts: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    raw = np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    keys: list[NDArray[np.int64]] = []
    for size in GRAMS:
        if len(raw) < size:
            continue
        packed = np.zeros(len(raw) - size + 1, np.uint64)
        for offset in range(size):
            packed = (packed << np.uint64(8)) | raw[offset : len(raw) - size + 1 + offset]
        packed |= np.uint64(size) << np.uint64(48)
        column = (packed * _MULTIPLIER) >> np.uint64(64 - COLUMNS.bit_length() + 1)
        inside = owner[: len(packed)] == owner[size - 1 :]
        keys.append((owner[: len(packed)] * COLUMNS + column.astype(np.int64))[inside])
    distinct = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    counts = np.bincount(distinct // COLUMNS, minlength=len(texts))
    return (distinct % COLUMNS).astype(np.int32), counts.astype(np.int64)


def weigh_columns(table: Table) -> Floats:
    """Inverse document frequency of each column, smoothed: 1 + ln((1 + n) / (1 + count))."""
    counts = np.bincount(table.columns, minlength=COLUMNS)
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
    ends = np.cumsum(np.bincount(table.columns, minlength=COLUMNS))
    column_starts = np.concatenate([[0], ends]).astype(np.int64)
    shape = (len(table), COLUMNS)

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


def cross_score(
    table: Table,
    labels: Floats,
    weights: Floats,
    fitted: NDArray[np.bool_],
    folds: NDArray[np.int64],
) -> Floats:
    """Logits of every row. A row that is `fitted` is scored by coefficients that were fitted
    without its fold (0 to k - 1, one group in one fold); every other row by those fitted on all."""
    idf = weigh_columns(table)
    scores = np.zeros(len(table), np.float32)
    for fold in sorted({-1, *folds[fitted].tolist()}):
        chosen = np.flatnonzero(fitted & (folds != fold))
        asked = np.flatnonzero(fitted & (folds == fold) if fold >= 0 else ~fitted)
        if not len(chosen) or not len(asked):
            continue
        found = fit_scores(table.take(chosen), idf, labels[chosen], weights[chosen])
        scores[asked] = apply_scores(table.take(asked), idf, found)
    return scores
