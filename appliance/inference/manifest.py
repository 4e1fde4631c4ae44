"""Inference, before anything is loaded: which model files may run.

Two manifests, both JSON. The *shipped* one pins the sources that a model may be built from; the
*built* one lies beside a model file and pins its bytes. A file whose SHA-256 (FIPS 180-4) is not
the pinned one is refused before any native code reads it.
"""

import hashlib
import os
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from appliance.errors import ModelError

#: File name of the built manifest, in the same folder as the model file.
MANIFEST_NAME: Final = "manifest.json"

#: File name of the sentinel's manifest, in the folder of its files, and those files.
SENTINEL_MANIFEST: Final = "sentinel.json"
SENTINEL_FILE: Final = "sentinel.gguf"
SENTINEL_HEADS: Final = "sentinel.heads.safetensors"
SENTINEL_NGRAMS: Final = "sentinel.ngrams.npz"
SENTINEL_TECHNIQUES: Final = "sentinel.techniques.npz"

#: A manifest is read whole into memory: no honest one comes near this many bytes.
MAX_MANIFEST_BYTES: Final = 1 << 20

_CHUNK_BYTES: Final = 1 << 20

_Manifest = TypeVar("_Manifest", bound=msgspec.Struct)


class PinnedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source that a model may be built from. `folder` is the path of the files inside the
    Python package; `files` maps a file's name to its SHA-256 in lower-case hex."""

    name: str
    what: str
    package: str
    package_version: str
    folder: str
    files: dict[str, str]
    licence: str
    dims: int


class ShippedManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All pinned sources. `format` is the version of this layout."""

    format: Literal[1]
    models: tuple[PinnedModel, ...]


class BuiltModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a built model file is and where it came from. `size` in bytes, hashes are SHA-256 in
    hex, `source_sha256` is that of the weights it was converted from. `origin` is "local": built
    on this machine, signed by nobody."""

    format: Literal[1]
    name: str
    file: str
    sha256: str
    size: int
    dims: int
    source: str
    source_sha256: str
    licence: str
    origin: Literal["local"]
    created_by: str


class SentinelModel(msgspec.Struct, frozen=True):
    """What a trained sentinel is: `files` maps the names of its files, beside this manifest, to
    their SHA-256 in hex; `dims` is the length of its vectors (where it has n-grams, their log-odds
    are the last number), `tokens` how many it reads of a text
    (0: as many as its file says). What else the recipe wrote there is for readers."""

    format: Literal[1]
    name: str
    dims: int
    files: dict[str, str]
    tokens: int = 0
    trained: str = ""
    licence: str = ""

    @property
    def sha256(self) -> str:
        """That of the GGUF file."""
        return self.files[SENTINEL_FILE]


def hash_file(path: Path) -> str:
    """SHA-256 of the file as 64 hex digits. Raises ModelError when it cannot be read."""
    state = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                state.update(chunk)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    return state.hexdigest()


def read_pinned(shipped: Path, name: str) -> PinnedModel:
    """The entry called `name` of the shipped manifest. Raises ModelError when the manifest cannot
    be read or has no such entry."""
    manifest = _read_json(shipped, ShippedManifest)
    for model in manifest.models:
        if model.name == name:
            return model
    raise ModelError(f"{shipped}: pins no model called {name!r}")


def read_built(model: Path) -> BuiltModel:
    """The manifest beside the model file. Raises ModelError when it is missing, unreadable or
    about another file."""
    built = _read_json(model.parent / MANIFEST_NAME, BuiltModel)
    if built.file != model.name:
        raise ModelError(f"{model.parent / MANIFEST_NAME}: is about {built.file!r}")
    return built


def verify_built(model: Path) -> BuiltModel:
    """Read the manifest beside the model file and check size and SHA-256 of the file against it.
    Raises ModelError when they differ."""
    built = read_built(model)
    check_hash(model, built.sha256)
    return built


def read_sentinel(model: Path) -> SentinelModel:
    """The manifest beside a sentinel's GGUF file. Raises ModelError when it is missing, unreadable
    or does not name its files."""
    path = model.parent / SENTINEL_MANIFEST
    read = _read_json(path, SentinelModel)
    missing = {SENTINEL_FILE, SENTINEL_HEADS} - set(read.files)
    if model.name != SENTINEL_FILE or missing:
        raise ModelError(f"{path}: says nothing of {', '.join(sorted(missing)) or model.name}")
    return read


def verify_sentinel(model: Path) -> SentinelModel:
    """Read the manifest beside a sentinel's GGUF file and check its files against it. Raises
    ModelError when the SHA-256 of one is another."""
    read = read_sentinel(model)
    for name, expected in read.files.items():
        check_hash(model.parent / name, expected)
    return read


def check_hash(path: Path, expected: str) -> None:
    """Raise ModelError unless the file's SHA-256 is `expected`."""
    found = hash_file(path)
    if found != expected:
        raise ModelError(f"{path}: SHA-256 is {found}, its manifest says {expected}")


def read_checked(path: Path, expected: str) -> bytes:
    """The file's content, whose SHA-256 is `expected`. Raises ModelError when it can't be read or
    is another."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise ModelError(f"{path}: SHA-256 is {found}, its manifest says {expected}")
    return raw


def write_durably(path: Path, content: bytes) -> None:
    """Write to a temporary name, fsync, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's latest renames survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_json(path: Path, kind: type[_Manifest]) -> _Manifest:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ModelError(f"{path}: is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a manifest: {error}") from error
