"""Stage `evaluate`, scoring: texts -> the product's child process -> the product's heads.

Nothing of torch is here: what is measured is what is shipped. Vectors are kept in --work by text
and model, so that a figure can be added without scoring again.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from appliance.detect.sentinel.heads import Heads
from appliance.inference.client import SentinelClients
from appliance.inference.manifest import (
    SENTINEL_FILE,
    SENTINEL_HEADS,
    SENTINEL_NGRAMS,
    hash_file,
)

VECTORS_FILE: Final = "evaluate.vectors.npz"
_LOAD_S: Final = 60.0
_CHUNK: Final = 256

Scores = NDArray[np.float64]


class Scorer:
    """Scores texts, each once. `weigh` and `score` are of texts that `learn` was told before.
    Raises ModelError, ModelUnavailable where the product would."""

    def __init__(self, model: Path, kept: Path | None = None) -> None:
        heads = model.parent / SENTINEL_HEADS
        self.heads = Heads.parse(heads.read_bytes(), heads.name)
        self.model = model
        self._kept = kept
        self._places: dict[str, int] = {}
        self._vectors = np.zeros((0, self.heads.dims), np.float32)
        ngrams = model.parent / SENTINEL_NGRAMS
        self._stamp = hash_file(model) + (hash_file(ngrams) if ngrams.is_file() else "")
        if kept is not None and kept.is_file():
            self._recall(kept)

    @classmethod
    def open(cls, work: Path) -> Self:
        """Of the model that `export` left in --work."""
        return cls(work / SENTINEL_FILE, work / VECTORS_FILE)

    def learn(self, texts: Iterable[str]) -> int:
        """Have the model read the texts that it has not read yet; how many these were."""
        asked = {_key(text): text for text in texts}
        known = {key: text for key, text in asked.items() if key not in self._places}
        if not known:
            return 0
        clients = SentinelClients(self.model, 1)
        clients.start()
        try:
            clients.members[0].wait_ready(_LOAD_S)
            listed = list(known.values())
            rows = [clients.embed(listed[at : at + _CHUNK]) for at in range(0, len(listed), _CHUNK)]
        finally:
            clients.close()
        for key in known:
            self._places[key] = len(self._places)
        self._vectors = np.concatenate([self._vectors, *rows])
        if self._kept is not None:
            np.savez(
                self._kept,
                stamp=self._stamp,
                keys=np.array(list(self._places)),
                vectors=self._vectors,
            )
        return len(known)

    def get_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Pooled vectors, shape (len(texts), dims). Raises KeyError for a text not learnt."""
        return self._vectors[[self._places[_key(text)] for text in texts]]

    def weigh(self, texts: Sequence[str]) -> Scores:
        """Log-odds of an attack, shape (len(texts),)."""
        return self.heads.weigh(self.get_vectors(texts)) if texts else np.zeros(0)

    def _recall(self, kept: Path) -> None:
        with np.load(kept) as file:
            if str(file["stamp"]) == self._stamp:
                self._places = {str(key): at for at, key in enumerate(file["keys"])}
                self._vectors = file["vectors"]


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def squash(logits: Scores) -> Scores:
    """Log-odds as probabilities, as the product's heads do it."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0))))


def unsquash(score: float) -> float:
    """A probability as log-odds."""
    kept = min(max(score, 1e-12), 1 - 1e-12)
    return float(np.log(kept / (1 - kept)))
