"""Finds texts that are nearly the same: MinHash over character shingles (Broder 1997), with bands
as an index (Leskovec et al., Mining of Massive Datasets, chapter 3)."""

import re
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Characters of one shingle, hashes of one signature, rows of one band.
SHINGLE: Final = 5
HASHES: Final = 32
ROWS: Final = 4
#: Texts of one bucket that a new one is compared with.
_MAX_COMPARED: Final = 12
_DIGITS: Final = re.compile(r"\d+")

Signature = NDArray[np.uint64]


class NearIndex:
    """Texts by signature; `similar` finds one that is alike at least by `share` (estimated Jaccard
    similarity, 0..1). Holds the signatures of all that were added."""

    def __init__(self, share: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._share = share
        # Multiply-shift: odd factors, modulo 2**64, of which the upper half is well mixed.
        self._a = rng.integers(0, 1 << 63, HASHES, dtype=np.uint64)[:, None] * np.uint64(
            2
        ) + np.uint64(1)
        self._b = rng.integers(0, 1 << 63, HASHES, dtype=np.uint64)[:, None]
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._signatures: list[Signature] = []

    def sign(self, text: str) -> Signature:
        """The signature of a text; numbers in it are all the same."""
        data = _DIGITS.sub("0", text).encode("utf-8", "replace")
        pieces = {data[at : at + SHINGLE] for at in range(max(1, len(data) - SHINGLE + 1))}
        hashed = np.fromiter((zlib.crc32(piece) for piece in pieces), np.uint64, len(pieces))
        values: Signature = ((self._a * hashed + self._b) >> np.uint64(32)).min(axis=1)
        return values

    def similar(self, signature: Signature) -> int | None:
        """The number of an added text that is nearly this one, if one is found; else None."""
        for key in self._list_bands(signature):
            for number in self._buckets.get(key, ())[:_MAX_COMPARED]:
                if float(np.mean(self._signatures[number] == signature)) >= self._share:
                    return number
        return None

    def add(self, signature: Signature) -> int:
        """Add a text; its number."""
        number = len(self._signatures)
        self._signatures.append(signature)
        for key in self._list_bands(signature):
            self._buckets.setdefault(key, []).append(number)
        return number

    def _list_bands(self, signature: Signature) -> list[tuple[int, bytes]]:
        return [(at, signature[at : at + ROWS].tobytes()) for at in range(0, HASHES, ROWS)]
