"""Knowledge, its core types: entries, links, indicators, and the encoder's shape."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

#: What an entry can be. "strategy" and "analytic" are ATT&CK's detection strategies and analytics,
#: "binary" is a program that attackers borrow, "log_source" says what an event or a field means.
EntryType = Literal[
    "technique",
    "tactic",
    "group",
    "software",
    "campaign",
    "mitigation",
    "strategy",
    "analytic",
    "asset",
    "rule",
    "binary",
    "vulnerability",
    "log_source",
    "playbook",
    "note",
    "incident",
]
ENTRY_TYPES: Final[tuple[str, ...]] = get_args(EntryType)

#: What an indicator's value is. "network" is an address with its prefix length (RFC 4632),
#: "file" a file's name without its folder.
IndicatorKind = Literal["md5", "sha1", "sha256", "address", "network", "domain", "url", "file"]
INDICATOR_KINDS: Final[tuple[str, ...]] = get_args(IndicatorKind)

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

    `id` is unique in a base and stays the same from version to version; for ATT&CK it is the ATT&CK
    id itself, for a vulnerability its CVE id. `external_id` is the id under which the source
    publishes it, `version` that of the source, `modified` when the source last changed the entry
    (RFC 3339, "" where it does not say). `aliases` are other names that people search by. `revoked`
    and `deprecated` entries are known by id but never found by search; `revoked_by` is the id that
    took over, if any.
    """

    id: str
    external_id: str
    type: EntryType
    title: str
    text: str
    source: str
    version: str
    licence: str
    tactics: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    url: str = ""
    aliases: tuple[str, ...] = ()
    modified: str = ""
    revoked: bool = False
    deprecated: bool = False
    revoked_by: str | None = None


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source` `kind` `target`, both ids of entries: "G0016" "uses" "T1059.001". `text` is what the
    source says of it (ATT&CK's procedure examples are texts of "uses"), `origin` the name of the
    knowledge source that says so. A link whose ends are not both in the base is kept and shown when
    they come."""

    source: str
    kind: str
    target: str
    origin: str
    text: str = ""


class Indicator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that was seen in attacks. `value` is normalised: hashes and domains in lower case
    (domains in IDNA A-labels without a dot at the end), addresses as `ipaddress` writes them.
    `valid_from` and `valid_until` are seconds since 1970, None where the source sets no bound.
    `confidence` is 0..100, as in STIX 2.1 section 3.2, None where it is not said."""

    kind: IndicatorKind
    value: str
    source: str
    name: str = ""
    valid_from: float | None = None
    valid_until: float | None = None
    confidence: int | None = None
    links: tuple[str, ...] = ()


class Dropped(msgspec.Struct, frozen=True):
    """Something of a source that does not enter the base: where it stands, and why not."""

    where: str
    reason: str


#: What a reader gives.
Item = KnowledgeEntry | Link | Indicator | Dropped


class Hit(msgspec.Struct, frozen=True):
    """An entry and how well it fits: the cosine (-1..1) of its nearest passage with the question,
    or a fused score where a search says so."""

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
