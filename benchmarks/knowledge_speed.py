"""Beside the line: a knowledge base of many entries: load, memory, search, recall.

The entries are made up: words with the frequencies of a language, vectors in clusters. No encoder
is needed, and none is measured. Memory and load are those of a fresh process.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import write_base
from appliance.knowledge.entries import Item, KnowledgeEntry, Link
from appliance.knowledge.gathering import gather_items
from appliance.knowledge.generation import lock_base
from appliance.knowledge.search import search_text
from benchmarks.children import show_part
from benchmarks.figures import Report, find_quantile

NAME: Final = "knowledge_speed"
TEXT: Final = "a knowledge base of 50,000 made-up entries: load, memory, search, recall"

DIMS: Final = 384
CLUSTERS: Final = 2_000
#: How far texts of one cluster lie apart, and how fast the spread falls from axis to axis: so that,
#: as with real texts, a large share of the lists has to be looked into.
SPREAD: Final = 2.0
FALL: Final = 0.5
WORDS: Final = 30_000
TECHNIQUES: Final = 800
QUESTIONS: Final = 300
RECALL_AT: Final = 10
HASH: Final = "00" * 32

Vectors = NDArray[np.float32]


class MadeUpEncoder:
    """Vectors that have nothing to do with the text, but lie like those of texts."""

    model_hash = HASH
    dims = DIMS

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._axes = (np.arange(1, DIMS + 1, dtype=np.float32)) ** -FALL
        self._middles = np.random.default_rng(1).standard_normal((CLUSTERS, DIMS), np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of random clusters."""
        noise = self._random.standard_normal((len(texts), DIMS), np.float32)
        middles = self._middles[self._random.integers(0, CLUSTERS, len(texts))]
        vectors = (middles + SPREAD * noise) * self._axes
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def make_texts(count: int, words: int, seed: int) -> list[str]:
    """Texts whose n-th most common word is n times as rare as the most common (Zipf's law)."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, WORDS + 1)
    ranks = random.choice(WORDS, (count, words), p=weights / weights.sum())
    return [" ".join(f"w{rank}" for rank in row) for row in ranks.tolist()]


def make_items(entries: int) -> Iterator[tuple[str, Item]]:
    """Vulnerabilities, techniques, and half as many procedure examples as entries."""
    for number, text in enumerate(make_texts(entries, 40, 2)):
        technique = number < TECHNIQUES
        name = f"T{1000 + number}" if technique else f"CVE-2020-{number:05d}"
        yield (
            "made up",
            KnowledgeEntry(
                id=name,
                external_id=name,
                type="technique" if technique else "vulnerability",
                title=text[:40],
                text=text,
                source="made up",
                version="1",
                licence="none",
                tactics=("execution",) if number % 3 == 0 else (),
                platforms=("Linux",) if number % 2 == 0 else ("Windows",),
            ),
        )
    for number, text in enumerate(make_texts(entries // 2, 30, 3)):
        target = f"T{1000 + number % TECHNIQUES}"
        yield "made up", Link(f"G{number % 200:04d}", "uses", target, "made up", text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument("--entries", type=int, default=50_000, metavar="N", help="(50000)")


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Print the figures. Raises RuntimeError when the measuring process fails."""
    words = ["--entries", options.entries]
    report.begin(NAME, f"{options.entries} entries", show_part(NAME, *words))
    begin = time.perf_counter()
    contributions = gather_items(make_items(options.entries), "imported").contributions.values()
    with lock_base(folder):
        written = write_base(folder, contributions, MadeUpEncoder(4), lambda _: None)
    manifest = written.manifest
    passages = manifest.vectors
    report.add("written, without encoding", time.perf_counter() - begin, "s", passages, "passages")
    size = sum(path.stat().st_size for path in folder.iterdir()) / (1 << 20)
    report.add("on disk", size, "MiB", passages, "passages")
    index = manifest.index
    report.note(f"index: {index.kind}, {index.probes} of {index.lists} lists")
    figures = run_fresh(folder)
    for name, value, unit, count, of in figures:
        report.add(name, value, unit, count, of)


def run_fresh(folder: Path) -> list[tuple[str, float, str, int, str]]:
    """What a fresh process measures. Raises RuntimeError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.knowledge_speed", str(folder)],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the measuring process ended with {done.returncode}")
    figures: list[tuple[str, float, str, int, str]] = json.loads(done.stdout)
    return figures


def measure_here(folder: Path) -> list[tuple[str, float, str, int, str]]:
    """Load, memory, times and recall, in this process. The libraries are loaded before."""
    figures: list[tuple[str, float, str, int, str]] = []
    before = read_resident()
    begin = time.perf_counter()
    base = KnowledgeBase.open(folder, HASH)
    figures.append(("load, files verified", time.perf_counter() - begin, "s", 1, "loads"))
    entries = base.info().manifest.entries
    figures.append(("resident before", before, "MiB", 1, "processes"))
    figures.append(("resident after the load", read_resident(), "MiB", entries, "entries"))
    vectors = MadeUpEncoder(5).embed([""] * QUESTIONS)
    texts = make_texts(QUESTIONS, 12, 6)
    asks: dict[str, Callable[[int], Any]] = {
        "vector": lambda n: base.search(vectors[n], 10),
        "vector, one type": lambda n: base.search(vectors[n], 10, "technique"),
        "words": lambda n: base.search_words(texts[n], 10),
        "fused": lambda n: search_text(base, lambda _: vectors[n : n + 1], texts[n], 10),
        "fused, type and platform": lambda n: search_text(
            base, lambda _: vectors[n : n + 1], texts[n], 10, "vulnerability", platform="Linux"
        ),
    }
    for name, ask in asks.items():
        times = [1000 * take_time(ask, number) for number in range(QUESTIONS)]
        for share in (0.5, 0.95):
            label = f"search by {name}, p{share * 100:.0f}"
            figures.append((label, find_quantile(times, share), "ms", QUESTIONS, "questions"))
    figures.append(("resident after the searches", read_resident(), "MiB", entries, "entries"))
    figures.append(("recall at 10", measure_recall(base, vectors), "", QUESTIONS, "questions"))
    return figures


def take_time(ask: Callable[[int], Any], number: int) -> float:
    """Seconds that one question takes."""
    begin = time.perf_counter()
    ask(number)
    return time.perf_counter() - begin


def measure_recall(base: KnowledgeBase, questions: Vectors) -> float:
    """The share of the true ten nearest entries that a search finds, against all vectors."""
    vectors = base._index.read_vectors()
    owners = base._entries.owners
    found = 0
    for question in questions:
        order = np.argsort(-(vectors @ question))
        places = list(dict.fromkeys(owners[order[: 40 * RECALL_AT]].tolist()))[:RECALL_AT]
        wanted = {base._entries.read_entry(place).id for place in places}
        found += len(wanted & {hit.entry.id for hit in base.search(question, RECALL_AT)})
    return found / (RECALL_AT * len(questions))


def read_resident() -> float:
    """Resident memory of this process in MiB, with mapped files (proc_pid_statm(5))."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_here(Path(sys.argv[1]))))
