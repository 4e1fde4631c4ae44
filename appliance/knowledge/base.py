"""Knowledge, opened: entries by id and by nearness of meaning. Read-only and verified.

A base is a folder of three files: `entries.jsonl` (one KnowledgeEntry a line; those with a vector
first, in the order of the vectors), `vectors.faiss` (a flat inner-product index over unit vectors:
inner product is cosine) and `manifest.json`, which pins the other two by SHA-256 and names the
encoder that made the vectors.
"""

import hashlib
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError
from appliance.knowledge.entries import EntryType, Hit, KnowledgeEntry

ENTRIES_FILE: Final = "entries.jsonl"
VECTORS_FILE: Final = "vectors.faiss"
MANIFEST_FILE: Final = "manifest.json"

#: A base is read whole into memory; a larger file is refused before it is read.
MAX_FILE_BYTES: Final = 1 << 30


class KnowledgeSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where entries came from: `files` maps what was read to its SHA-256."""

    name: str
    version: str
    licence: str
    package: str
    entries: int
    files: dict[str, str]


class BaseManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a base is made of. `files` maps file names to SHA-256, `encoder` is the SHA-256 of the
    encoder's model file, `vectors` of the `entries` can be searched. `origin` is "local": built on
    this machine, signed by nobody."""

    format: Literal[1]
    files: dict[str, str]
    encoder: str
    dims: int
    entries: int
    vectors: int
    sources: tuple[KnowledgeSource, ...]
    origin: Literal["local"]
    created_by: str


class BaseInfo(msgspec.Struct, frozen=True):
    """What `kb info` prints: the manifest, its own SHA-256, and counts of searchable entries by
    type."""

    folder: str
    hash: str
    types: dict[str, int]
    manifest: BaseManifest


class KnowledgeBase:
    """Entries and their vectors. Use `open`. Safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        base_hash: str,
        manifest: BaseManifest,
        entries: tuple[KnowledgeEntry, ...],
        index: Any,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._entries = entries
        self._index = index
        self._techniques = {
            entry.external_id: entry for entry in entries if entry.type == "technique"
        }
        self._rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, entry in enumerate(entries[: manifest.vectors]):
            self._rows[entry.type].append(row)
        self._lock = threading.Lock()  # faiss does not promise concurrent searches
        #: SHA-256 of the manifest: changes when anything in the base does.
        self.hash: Final = base_hash

    @classmethod
    def open(cls, folder: Path, encoder_hash: str) -> Self:
        """Open a base for questions encoded by the encoder with this SHA-256.

        Raises ModelError when a file is missing, is not what the manifest says, or the base was
        made with another encoder (its vectors would mean something else).
        """
        raw = _read_limited(folder / MANIFEST_FILE)
        manifest = _decode_manifest(folder / MANIFEST_FILE, raw)
        if manifest.encoder != encoder_hash:
            raise ModelError(
                f"{folder}: made with encoder {manifest.encoder[:16]}, "
                f"this one is {encoder_hash[:16]}: build the base again"
            )
        if set(manifest.files) != {ENTRIES_FILE, VECTORS_FILE}:
            raise ModelError(f"{folder / MANIFEST_FILE}: pins {sorted(manifest.files)}")
        entries = _decode_entries(
            folder / ENTRIES_FILE, _read_pinned(folder, ENTRIES_FILE, manifest)
        )
        index = _decode_index(folder / VECTORS_FILE, _read_pinned(folder, VECTORS_FILE, manifest))
        if (
            len(entries) != manifest.entries
            or (index.ntotal, index.d) != (manifest.vectors, manifest.dims)
            or manifest.vectors > len(entries)
        ):
            raise ModelError(f"{folder}: entries and vectors do not fit together")
        return cls(folder, hashlib.sha256(raw).hexdigest(), manifest, entries, index)

    def technique(self, external_id: str) -> KnowledgeEntry | None:
        """The technique with this ATT&CK id in upper case, also a revoked or deprecated one."""
        return self._techniques.get(external_id)

    def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        type: EntryType | None = None,  # noqa: A002 - the field's name in the contract
    ) -> list[Hit]:
        """The `k` nearest entries, best first, optionally of one type.

        `vector` is a unit vector of shape (dims,). Raises ModelError on another shape or on values
        that are not finite.
        """
        if vector.shape != (self._manifest.dims,) or not np.isfinite(vector).all():
            raise ModelError(f"not a vector of {self._manifest.dims} finite numbers")
        rows = None if type is None else self._rows.get(type, [])
        count = min(k, self._manifest.vectors if rows is None else len(rows))
        if count <= 0:
            return []
        return self._search_rows(vector, count, rows)

    def info(self) -> BaseInfo:
        """What the base holds and where it came from."""
        types = {name: len(rows) for name, rows in self._rows.items()}
        return BaseInfo(str(self._folder), self.hash, types, self._manifest)

    def _search_rows(
        self, vector: NDArray[np.float32], count: int, rows: list[int] | None
    ) -> list[Hit]:
        faiss = load_faiss()
        question = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        with self._lock:
            if rows is None:
                scores, found = self._index.search(question, count)
            else:
                selector = faiss.IDSelectorBatch(np.array(rows, np.int64))
                options = faiss.SearchParameters(sel=selector)
                scores, found = self._index.search(question, count, params=options)
        pairs = zip(found[0], scores[0], strict=True)
        return [Hit(self._entries[row], float(score)) for row, score in pairs if row >= 0]


def load_faiss() -> Any:
    """The faiss module, on one thread: it shares the core with the line. Raises ModelError when it
    cannot be loaded."""
    try:
        import faiss  # noqa: PLC0415 - takes 0.1 s, and not every command needs it
    except ImportError as error:
        raise ModelError(f"faiss cannot be loaded: {error}") from error
    faiss.omp_set_num_threads(1)
    return faiss


def _decode_manifest(path: Path, raw: bytes) -> BaseManifest:
    try:
        return msgspec.json.decode(raw, type=BaseManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a manifest: {error}") from error


def _decode_entries(path: Path, raw: bytes) -> tuple[KnowledgeEntry, ...]:
    try:
        return tuple(msgspec.json.Decoder(KnowledgeEntry).decode_lines(raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not entries: {error}") from error


def _decode_index(path: Path, raw: bytes) -> Any:
    """The index in the bytes that were verified, not in a file that may have changed since."""
    faiss = load_faiss()
    try:
        index = faiss.deserialize_index(np.frombuffer(raw, np.uint8))
    except RuntimeError as error:
        raise ModelError(f"{path}: not a faiss index") from error
    if not isinstance(index, faiss.IndexFlatIP):
        raise ModelError(f"{path}: not a flat inner-product index")
    return index


def _read_pinned(folder: Path, name: str, manifest: BaseManifest) -> bytes:
    raw = _read_limited(folder / name)
    found = hashlib.sha256(raw).hexdigest()
    if found != manifest.files[name]:
        raise ModelError(
            f"{folder / name}: SHA-256 is {found}, its manifest says {manifest.files[name]}"
        )
    return raw


def _read_limited(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ModelError(f"{path}: is larger than {MAX_FILE_BYTES} bytes")
    return raw
