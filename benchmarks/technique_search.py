"""How well a sentence of a report finds its ATT&CK technique, searched among all of them.

    python -m benchmarks.technique_search TRAM_JSON --base DIR --models DIR [--first N]

TRAM_JSON is a list of objects `{text, label}`, the label an ATT&CK id: the set `single_label` of
TRAM (5,089 sentences of reports, 50 techniques). Each is searched as `kb search --type technique`
does it; counted is how often the first, and one of the first five entries, is the label's technique
or of the same parent. Sentences that the base holds word for word (procedure examples may quote
reports) are told apart.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ApplianceError
from appliance.inference.client import EncoderClient
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.search import search_by_words, search_text

_FIVE = 5

Vectors = NDArray[np.float32]


class Sentence(NamedTuple):
    """What is asked, the technique that it is about, and that one's parent."""

    text: str
    label: str
    parent: str


class Figures(NamedTuple):
    """Shares of sentences whose parent is that of the first entry, and of one of five."""

    first: float
    five: float


def read_sentences(path: Path) -> list[Sentence]:
    """All of them. Raises ApplianceError for a file of another form or without any."""
    try:
        rows = json.loads(path.read_bytes())
        found = [
            Sentence(row["text"], row["label"], row["label"].partition(".")[0]) for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApplianceError(f"{path}: not a list of sentences: {error}") from error
    if not found:
        raise ApplianceError(f"{path}: holds no sentence")
    return found


def fold_text(text: str) -> str:
    """The words alone."""
    return " ".join(re.findall(r"\w+", text.lower()))


def list_held(base: KnowledgeBase, labels: Iterable[str]) -> set[str]:
    """What links to these techniques say: procedure examples, folded."""
    return {fold_text(link.text) for label in labels for link in base.links(label)}


def measure(sentences: Sequence[Sentence], search: Callable[[int], Sequence[str]]) -> Figures:
    """`search` gives the ids that are found for a sentence's place, best first."""
    first = five = 0
    for place, sentence in enumerate(sentences):
        parents = [found.partition(".")[0] for found in search(place)[:_FIVE]]
        first += parents[:1] == [sentence.parent]
        five += sentence.parent in parents
    return Figures(first / len(sentences), five / len(sentences))


def measure_ways(base: KnowledgeBase, sentences: Sequence[Sentence], vectors: Vectors) -> None:
    """Print a line for each way to search."""

    def ask(place: int) -> list[str]:
        found = search_text(
            base, lambda _: vectors[place : place + 1], sentences[place].text, _FIVE, "technique"
        )
        return [result.external_id for result in found]

    ways: dict[str, Callable[[int], list[str]]] = {
        "by vectors": lambda place: [
            hit.entry.external_id for hit in base.search(vectors[place], _FIVE, "technique")
        ],
        "by words": lambda place: [
            result.external_id
            for result in search_by_words(base, sentences[place].text, _FIVE, "technique")
        ],
        "as kb search does": ask,
    }
    for name, search in ways.items():
        began = time.perf_counter()
        first, five = measure(sentences, search)
        each = (time.perf_counter() - began) / len(sentences)
        print(f"{name:<18} first {first:.3f}, among five {five:.3f}  ({1e3 * each:.1f} ms each)")


def main() -> int:
    """Print the figures. Exit status 1 when there is nothing to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sentences", type=Path, metavar="TRAM_JSON")
    parser.add_argument("--base", type=Path, required=True, help="knowledge base folder")
    parser.add_argument("--models", type=Path, required=True, help="folder with encoder/")
    parser.add_argument("--first", type=int, help="only so many sentences, drawn at random")
    options = parser.parse_args()
    client = EncoderClient(options.models / "encoder" / "encoder.gguf")
    try:
        sentences = read_sentences(options.sentences)
        if options.first:
            drawn = np.random.default_rng(1).permutation(len(sentences))[: options.first]
            sentences = [sentences[place] for place in sorted(drawn)]
        client.start()
        base = KnowledgeBase.open(options.base, client.model_hash)
        vectors = client.embed([sentence.text for sentence in sentences])
    except ApplianceError as error:
        print(error)
        return 1
    finally:
        client.close()
    print(f"{len(sentences)} sentences, {base.info().types.get('technique', 0)} techniques")
    measure_ways(base, sentences, vectors)
    held = list_held(base, {sentence.label for sentence in sentences})
    others = [n for n, sentence in enumerate(sentences) if fold_text(sentence.text) not in held]
    print(f"without the {len(sentences) - len(others)} that the base holds word for word:")
    measure_ways(base, [sentences[place] for place in others], vectors[others])
    return 0


if __name__ == "__main__":
    sys.exit(main())
