"""Knowledge, on disk: a base's folder, its manifest, and how one generation follows another.

The manifest names two files by the hash of their content: `entries-<12 hex digits>.db` and
`vectors-<12 hex digits>.faiss`. A new generation's files are written beside the old ones and
synced; then one rename puts the new manifest in the old one's place: whoever is killed at any
moment leaves the old base or the new one. The files of the generation before stay until the next
one, for a process that is about to open them.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.content import SourceKind
from appliance.knowledge.index import IndexFacts

MANIFEST_FILE: Final = "manifest.json"

#: A larger file is not opened.
MAX_FILE_BYTES: Final = 4 << 30
_MAX_MANIFEST_BYTES: Final = 16 << 20

_FRESH: Final = ".fresh-"
_OURS: Final = re.compile(r"(?:entries-[0-9a-f]{12}\.db|vectors-[0-9a-f]{12}\.faiss)")
#: The format that `BaseManifest` describes.
_FORMAT: Final = 2
#: Files of the first format, and what a killed build leaves.
_OLD_FORMAT: Final = ("entries.jsonl", "vectors.faiss")


class KnowledgeSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where entries came from. `files` maps what was read to its SHA-256 ("" where none was taken),
    `read_at` is when (seconds since 1970, 0 for what came with the appliance)."""

    kind: SourceKind
    name: str
    version: str
    licence: str
    entries: int
    links: int
    indicators: int
    files: dict[str, str]
    read_at: float = 0.0


class BaseManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a base is made of. `files` maps file names to SHA-256, `encoder` is the SHA-256 of the
    encoder's model file; there are `entries` that are shown, `vectors` of their passages (`dims`
    numbers each), `links` and `indicators`. `origin` is "local": built on this machine, signed by
    nobody."""

    format: Literal[2]
    files: dict[str, str]
    encoder: str
    dims: int
    entries: int
    vectors: int
    links: int
    indicators: int
    index: IndexFacts
    sources: tuple[KnowledgeSource, ...]
    origin: Literal["local"]
    created_by: str


class _AnyManifest(msgspec.Struct):
    format: int


class Generation(NamedTuple):
    """A manifest that was read, its bytes' SHA-256, and its two files."""

    manifest: BaseManifest
    hash: str
    entries: Path
    vectors: Path


def read_generation(folder: Path) -> Generation:
    """The generation that the folder's manifest names, its files not verified yet. Raises
    ModelError."""
    path = folder / MANIFEST_FILE
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > _MAX_MANIFEST_BYTES:
        raise ModelError(f"{path}: is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = msgspec.json.decode(raw, type=BaseManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {_describe_refused(raw, error)}") from error
    entries, vectors = (_find_named(path, manifest, start) for start in ("entries-", "vectors-"))
    return Generation(manifest, hashlib.sha256(raw).hexdigest(), entries, vectors)


def _describe_refused(raw: bytes, error: Exception) -> str:
    try:
        number = msgspec.json.decode(raw, type=_AnyManifest).format
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"not a manifest: {error}"
    if number == _FORMAT:
        return f"not a manifest: {error}"
    age = "an earlier" if number < _FORMAT else "a later"
    return f"a base of {age} format: run `appliance kb build`"


def _find_named(path: Path, manifest: BaseManifest, start: str) -> Path:
    names = [name for name in manifest.files if name.startswith(start) and _OURS.fullmatch(name)]
    if len(names) != 1 or len(manifest.files) != 2:
        raise ModelError(f"{path}: pins {sorted(manifest.files)}")
    return path.parent / names[0]


def verify_file(path: Path, manifest: BaseManifest) -> None:
    """Raises ModelError when the file is missing or not what the manifest says."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path}: is larger than {MAX_FILE_BYTES} bytes")
        found = hash_file(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    pinned = manifest.files[path.name]
    if found != pinned:
        raise ModelError(f"{path}: SHA-256 is {found}, its manifest says {pinned}")


def hash_file(path: Path) -> str:
    """SHA-256 in hex. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def lock_base(folder: Path) -> Iterator[None]:
    """The right to change the base, until the end of the block; the folder is made when it is not
    there. Raises ModelError when another process has it. A killed process gives it back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ModelError(f"{folder}: another build or import is at work") from error
        yield
    finally:
        os.close(descriptor)


def write_file(folder: Path, kind: Literal["entries", "vectors"], write: Callable[[Path], None]
) -> tuple[str, str]:  # fmt: skip
    """Let `write` write a file, sync it and give it the name that its content asks for. Gives name
    and SHA-256. The caller holds the lock. Raises ModelError when the disk does not take it."""
    fresh = folder / f"{_FRESH}{kind}"
    suffix = {"entries": "db", "vectors": "faiss"}[kind]
    try:
        write(fresh)
        _sync(fresh)
        digest = hash_file(fresh)
        name = f"{kind}-{digest[:12]}.{suffix}"
        fresh.replace(folder / name)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror}") from error
    return name, digest


def swap_in(folder: Path, manifest: BaseManifest) -> bool:
    """Make this manifest, whose files lie there, the folder's; then delete the files that neither
    it nor the one before it names. False when it was the folder's already. The caller holds the
    lock. Raises ModelError when the disk does not take it."""
    raw = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    path = folder / MANIFEST_FILE
    fresh = folder / f"{_FRESH}{MANIFEST_FILE}"
    try:
        before = path.read_bytes() if path.is_file() else b""
        if before != raw:
            fresh.write_bytes(raw)
            _sync(fresh)
            _sync(folder)
            fresh.replace(path)
            _sync(folder)
            _delete_others(folder, {*manifest.files, *_list_pinned(before)})
        return before != raw
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror}") from error


def delete_leftovers(folder: Path) -> None:
    """Delete what a killed build left half written. The caller holds the lock."""
    for path in folder.glob(f"{_FRESH}*"):
        path.unlink(missing_ok=True)


@contextmanager
def take_back(folder: Path) -> Iterator[None]:
    """When the block raises, delete the files of a base that it has brought into the folder, whole
    or half written, unless the manifest names them by then. The caller holds the lock."""
    before = {path.name for path in folder.glob("*")}
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what is told is why the block failed
            path = folder / MANIFEST_FILE
            named = _list_pinned(path.read_bytes()) if path.exists() else set()
            _delete_others(folder, before | named)
        raise


def _list_pinned(raw: bytes) -> set[str]:
    try:
        return set(msgspec.json.decode(raw, type=BaseManifest).files)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return set()


def _delete_others(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        ours = _OURS.fullmatch(path.name) or path.name in _OLD_FORMAT
        if (ours or path.name.startswith(_FRESH)) and path.name not in keep:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
