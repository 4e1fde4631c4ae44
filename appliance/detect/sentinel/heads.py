"""The sentinel's heads (detect stage): from the encoder's vectors to scores, techniques, tactics
and a place among the knowledge base's vectors. Pure numpy.

The file is safetensors (https://github.com/huggingface/safetensors, section Format): an 8-byte
little-endian length, a JSON header of that length, the tensors' bytes. What the heads mean is JSON
under the header's `__metadata__` key `sentinel`.
"""

import math
import struct
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError

#: Length of the knowledge base's vectors.
SPACE: Final = 384
#: Largest file and header that are read, in bytes.
MAX_BYTES: Final = 64 << 20
MAX_HEADER: Final = 8 << 20
#: Scores are told apart up to here: beyond, float32 knows no difference.
_LEAST: Final = 1e-7

Vectors = NDArray[np.float32]


class About(msgspec.Struct, frozen=True):
    """What the heads mean. `thresholds` maps findings per host and day, as text, to the score over
    which so many ordinary events lie; `kinds` holds, for some kinds of text, a table of their own
    or one threshold for every budget."""

    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    thresholds: dict[str, float]
    temperature: float = 1.0
    kinds: dict[str, float | dict[str, float]] = {}
    tokens: int = 0
    trained: str = ""
    recipe: str = ""


class _Tensor(msgspec.Struct, frozen=True):
    """An entry of the header; offsets are counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class Heads:
    """The heads. Use `parse`. Holds no state.

    A vector is what the encoder pooled and, where the head `malicious` is one longer than the
    others, the log-odds by n-grams behind it. `dims` is its length.
    """

    def __init__(self, tensors: Mapping[str, Vectors], about: About) -> None:
        self.about = about
        self._malicious = tensors["malicious.weight"][0]
        self._bias = float(tensors["malicious.bias"][0])
        self._technique = tensors["technique.weight"], tensors["technique.bias"]
        self._tactic = tensors["tactic.weight"], tensors["tactic.bias"]
        self._project = tensors["project.weight"]
        self.dims = int(self._malicious.shape[0])
        self._pooled = int(self._project.shape[1])
        self._tables = {
            kind: _read_table(own if isinstance(own, dict) else {"1": own})
            for kind, own in about.kinds.items()
        }
        self._table = _read_table(about.thresholds)

    @classmethod
    def parse(cls, raw: bytes, name: str) -> Self:
        """Read the file's content; `name` is only told. Raises ModelError when it is no such file,
        lacks a head, or a head has another shape."""
        try:
            tensors, about = _read_tensors(raw)
            _check_shapes(tensors, about, tensors["project.weight"].shape[-1])
            return cls(tensors, about)
        except (KeyError, ValueError, IndexError, struct.error, msgspec.DecodeError) as error:
            raise ModelError(f"{name}: not the sentinel's heads: {error}") from error

    def weigh(self, vectors: Vectors) -> NDArray[np.float64]:
        """Log-odds that texts are of an attack. `vectors`: shape (n, dims); gives shape (n,)."""
        logits = vectors.astype(np.float64) @ self._malicious.astype(np.float64) + self._bias
        return np.asarray(logits / self.about.temperature)

    def score(self, vectors: Vectors) -> NDArray[np.float64]:
        """The same as probabilities, 0..1."""
        return _squash(self.weigh(vectors))

    def guess_techniques(
        self, vector: Vectors, beside: NDArray[np.float64] | None = None
    ) -> list[tuple[str, float]]:
        """Each known technique with its probability, the likeliest first; they sum to 1. `vector`:
        shape (dims,); `beside`: another expert's logits of the same techniques, which count as much
        as the head's (the geometric mean of both opinions)."""
        return self._rank(self.about.techniques, self._technique, vector, beside)

    def guess_tactics(self, vector: Vectors) -> list[tuple[str, float]]:
        """Each tactic with its probability, the likeliest first; they sum to 1."""
        return self._rank(self.about.tactics, self._tactic, vector)

    def place(self, vector: Vectors) -> Vectors:
        """Where a text lies among the knowledge base's entries: a unit vector, shape (384,)."""
        placed = self._project @ vector[: self._pooled]
        length = float(np.linalg.norm(placed))
        return (placed / np.float32(max(length, 1e-12))).astype(np.float32)

    def find_threshold(self, kind: str, budget: float) -> float:
        """The score over which a text of this kind is a finding, for so many findings per host and
        day: between the budgets that the model names log-odds follow the logarithm of the budget,
        beyond them the nearest counts."""
        return _interpolate(self._tables.get(kind, self._table), budget)

    def _rank(
        self,
        names: tuple[str, ...],
        head: tuple[Vectors, Vectors],
        vector: Vectors,
        beside: NDArray[np.float64] | None = None,
    ) -> list[tuple[str, float]]:
        weights, bias = head
        logits = (weights @ vector[: self._pooled] + bias).astype(np.float64)
        if beside is not None:
            logits = (logits + beside) / 2
        raised = np.exp(logits - logits.max(initial=0.0))
        chances = raised / max(float(raised.sum()), 1e-300)
        order = np.argsort(-chances, kind="stable")
        return [(names[place], float(chances[place])) for place in order]


def _squash(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0)))


def _read_table(rows: Mapping[str, float]) -> list[tuple[float, float]]:
    """(budget, score), the smallest budget first. Raises ValueError when it makes no sense."""
    table = sorted((float(budget), float(score)) for budget, score in rows.items())
    if not table:
        raise ValueError("no threshold")
    if any(not 0 < budget < math.inf or not 0 <= score <= 1 for budget, score in table):
        raise ValueError("a threshold that is none")
    if any(before[1] < after[1] for before, after in pairwise(table)):
        raise ValueError("a larger budget has a higher threshold")
    return table


def _interpolate(table: list[tuple[float, float]], budget: float) -> float:
    if budget <= table[0][0]:
        return table[0][1]
    for (low, strict), (high, loose) in pairwise(table):
        if budget < high:
            share = math.log(budget / low) / math.log(high / low)
            logit = (1 - share) * _unsquash(strict) + share * _unsquash(loose)
            return 1.0 / (1.0 + math.exp(-logit))
    return table[-1][1]


def _unsquash(score: float) -> float:
    kept = min(max(score, _LEAST), 1 - _LEAST)
    return math.log(kept / (1 - kept))


def _read_tensors(raw: bytes) -> tuple[dict[str, Vectors], About]:
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    (length,) = struct.unpack_from("<Q", raw)
    if length > min(MAX_HEADER, len(raw) - 8):
        raise ValueError("the header is too long")
    header: dict[str, Any] = msgspec.json.decode(raw[8 : 8 + length], type=dict[str, Any])
    said = header.pop("__metadata__", {})
    about = msgspec.json.decode(said["sentinel"], type=About)
    body = memoryview(raw)[8 + length :]
    return {name: _read_tensor(entry, body) for name, entry in header.items()}, about


def _read_tensor(entry: Any, body: memoryview) -> Vectors:
    tensor = msgspec.convert(entry, _Tensor)
    begin, end = tensor.data_offsets
    if tensor.dtype != "F32" or not 0 <= begin <= end <= len(body):
        raise ValueError(f"a tensor of {tensor.dtype} at {begin} to {end}")
    found = np.frombuffer(body[begin:end], "<f4").reshape(tensor.shape).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("a weight is not finite")
    return found


def _check_shapes(tensors: Mapping[str, Vectors], about: About, dims: int) -> None:
    ngrams = tensors["malicious.weight"].shape == (1, dims + 1)
    wanted = {
        "malicious.weight": (1, dims + ngrams),
        "malicious.bias": (1,),
        "technique.weight": (len(about.techniques), dims),
        "technique.bias": (len(about.techniques),),
        "tactic.weight": (len(about.tactics), dims),
        "tactic.bias": (len(about.tactics),),
        "project.weight": (SPACE, dims),
    }
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {tensors[name].shape}, not {shape}")
    if not 0 < about.temperature < math.inf:
        raise ValueError("a temperature that is none")
