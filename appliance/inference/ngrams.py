"""Inference, beside the sentinel's encoder: log-odds and techniques by character n-grams.

The second expert of the sentinel, and the plain one: logistic regression over hashed n-grams. What
an encoder of two layers smooths over, a rare flag or a misspelt path, this one holds on to; the
encoder knows what n-grams can't, which words go together. The encoder was trained to say what these
log-odds leave open, and the head `malicious` adds both up.

Features: the n-grams of 2 to 6 bytes of the tidied text in UTF-8, hashed into 2^20 columns, present
or not, weighted by inverse document frequency, the row of length one. Hash: the bytes as a number,
with the length above them, times 2^64 / golden ratio, the top 20 bits (Fibonacci hashing; Knuth,
The Art of Computer Programming, volume 3, section 6.4). Techniques are told apart in the top 14
bits alone: there is a column of weights for each of them, and only findings ask.

What a regression can't learn it may keep by heart: ordinary texts of training that look like
attacks all the same (a calculator from the start menu, which laboratories start as their payload)
are known by their hash, and have log-odds of their own.

Files are NumPy's npz (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError
from appliance.inference.frames import tidy_text

#: Lengths of the n-grams, in bytes.
GRAMS: Final = range(2, 7)
#: Columns that they are hashed into.
COLUMNS: Final = 1 << 20
#: Columns that techniques are told apart by: so many of those make one of these.
FOLD: Final = 64
TECHNIQUE_COLUMNS: Final = COLUMNS // FOLD

#: Log-odds of a text that is known to be ordinary.
ORDINARY: Final = -6.0

_MULTIPLIER: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_SHIFT: Final = np.uint64(64 - COLUMNS.bit_length() + 1)
_BYTE: Final = np.uint64(8)
_LENGTHS: Final = {size: np.uint64(size << 48) for size in GRAMS}

Floats = NDArray[np.float32]


class Ngrams:
    """The regression. Not thread-safe. `frequencies` (inverse document frequencies) and
    `coefficients` have shape (COLUMNS,), `ordinary` holds the hashes of texts known by heart."""

    def __init__(
        self,
        frequencies: Floats,
        coefficients: Floats,
        constant: float,
        ordinary: Iterable[int] = (),
    ) -> None:
        self._ordinary = frozenset(ordinary)
        self._frequencies = frequencies
        self._coefficients = coefficients
        self._constant = constant

    @classmethod
    def parse(cls, raw: bytes, name: str) -> Self:
        """Read a file's content (arrays `frequencies`, `coefficients`, `constant`, `ordinary`);
        `name` is only told. Raises ModelError when it is none."""
        with _reading(raw, name) as file:
            frequencies = _read_frequencies(file["frequencies"], COLUMNS)
            coefficients = _read_array(file["coefficients"], (COLUMNS,))
            constant = float(_read_array(file["constant"], ()))
            ordinary = file["ordinary"]
            if ordinary.dtype != np.uint64 or ordinary.ndim != 1:
                raise ValueError(f"hashes of {ordinary.dtype} and shape {ordinary.shape}")
            return cls(frequencies, coefficients, constant, ordinary.tolist())

    def weigh(self, text: str) -> float:
        """Log-odds that the text is of an attack."""
        if hash_text(text) in self._ordinary:
            return ORDINARY
        columns = list_columns(text)
        if not len(columns):
            return self._constant
        values = self._frequencies[columns]
        length = float(np.sqrt(np.dot(values, values)))
        return float(np.dot(values, self._coefficients[columns])) / length + self._constant


class TechniqueNgrams:
    """Which techniques a text resembles. `frequencies` has shape (TECHNIQUE_COLUMNS,), `weights`
    (TECHNIQUE_COLUMNS, techniques) in steps of `step`. Holds no state."""

    def __init__(self, frequencies: Floats, weights: NDArray[np.int8], step: float) -> None:
        self._frequencies = frequencies
        self._weights = weights
        self._step = step
        #: How many techniques it tells apart.
        self.count: Final = int(weights.shape[1])

    @classmethod
    def parse(cls, raw: bytes, name: str) -> Self:
        """Read a file's content (arrays `frequencies`, `weights` of int8, `step`); `name` is only
        told. Raises ModelError when it is none."""
        with _reading(raw, name) as file:
            frequencies = _read_frequencies(file["frequencies"], TECHNIQUE_COLUMNS)
            weights = file["weights"]
            if weights.dtype != np.int8 or weights.ndim != 2 or len(weights) != TECHNIQUE_COLUMNS:
                raise ValueError(f"weights of {weights.dtype} and shape {weights.shape}")
            return cls(frequencies, weights, float(_read_array(file["step"], ())))

    def weigh(self, text: str) -> NDArray[np.float64]:
        """Logits of the techniques, shape (count,)."""
        columns = np.unique(list_columns(text) // FOLD)
        values = self._frequencies[columns].astype(np.float64)
        length = max(float(np.sqrt(np.dot(values, values))), 1e-9)
        logits: NDArray[np.float64] = values @ self._weights[columns] * (self._step / length)
        return logits


def hash_text(text: str) -> int:
    """What a text known by heart is known by: the first 8 bytes, big-endian, of the BLAKE2b (RFC
    7693) of the tidied text in UTF-8."""
    raw = tidy_text(text).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


def list_columns(text: str) -> NDArray[np.int64]:
    """The columns of the text's distinct n-grams, rising."""
    raw = np.frombuffer(tidy_text(text).encode("utf-8"), np.uint8).astype(np.uint64)
    packed = raw
    found: list[NDArray[np.uint64]] = []
    for size in GRAMS:
        if len(raw) < size:
            break
        packed = (packed[:-1] << _BYTE) | raw[size - 1 :]
        found.append((packed | _LENGTHS[size]) * _MULTIPLIER >> _SHIFT)
    if not found:
        return np.zeros(0, np.int64)
    columns = np.concatenate(found)
    columns.sort()
    first = np.empty(len(columns), bool)
    first[0] = True
    np.not_equal(columns[1:], columns[:-1], out=first[1:])
    return columns[first].astype(np.int64)


@contextmanager
def _reading(raw: bytes, name: str) -> Iterator[Mapping[str, Any]]:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            yield file
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{name}: not the sentinel's n-grams: {error}") from error


def _read_array(values: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    found: Floats = values.astype(np.float32)
    if found.shape != shape or not np.isfinite(found).all():
        raise ValueError(f"an array of shape {found.shape}, or of values that are not finite")
    return found


def _read_frequencies(values: NDArray[Any], columns: int) -> Floats:
    found = _read_array(values, (columns,))
    if (found <= 0).any():
        raise ValueError("a frequency of nothing")
    return found
