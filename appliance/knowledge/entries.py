"""Knowledge, its core types: one entry, the answer to a search, and the encoder's shape."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

EntryType = Literal["technique"]

#: Texts -> float32 of shape (len(texts), dims), rows of length 1. May raise ModelUnavailable.
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


class Encoder(Protocol):
    """What building a base needs of the encoder."""

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model file in hex."""

    @property
    def dims(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape (len(texts), dims), in the order of the texts."""


class KnowledgeEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is known and can be cited.

    `id` is unique in a base; for ATT&CK it is the ATT&CK id itself. `external_id` is the id under
    which the source publishes it, `version` that of the source. `revoked` and `deprecated` entries
    are known by id but never found by search; `revoked_by` is the id that took over, if any.
    """

    id: str
    external_id: str
    type: EntryType
    title: str
    text: str
    source: str
    version: str
    licence: str
    tactics: tuple[str, ...]
    platforms: tuple[str, ...]
    url: str
    revoked: bool = False
    deprecated: bool = False
    revoked_by: str | None = None


class Hit(msgspec.Struct, frozen=True):
    """An entry and the cosine (-1..1) of its vector with the question's."""

    entry: KnowledgeEntry
    score: float


class SearchResult(msgspec.Struct, frozen=True):
    """One object of the list that `kb search --json` prints. `score` is a cosine, 1.0 where the
    query names the entry's id."""

    id: str
    external_id: str
    type: EntryType
    title: str
    score: float
    source: str
    version: str
