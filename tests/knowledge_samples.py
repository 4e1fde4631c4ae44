"""A small knowledge base for tests: an encoder without meaning, entries, and what reads them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelUnavailable
from appliance.knowledge.build import Written, write_base
from appliance.knowledge.content import Contribution, SourceKind
from appliance.knowledge.entries import Indicator, Item, KnowledgeEntry, Link
from appliance.knowledge.gathering import gather_items
from appliance.knowledge.generation import lock_base

DIMS = 8


class LetterEncoder:
    """Counts letters: a small deterministic encoder for tests that need no meaning. `texts` are
    those it was given."""

    model_hash = "ab" * 32
    dims = DIMS

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts.extend(texts)
        rows = np.ones((len(texts), DIMS), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text.lower():
                row[ord(letter) % DIMS] += 1
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


class DeadEncoder(LetterEncoder):
    """An encoder whose process is gone."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise ModelUnavailable("the encoder is down")


def make_entry(id: str, title: str, **changes: object) -> KnowledgeEntry:  # noqa: A002
    """A technique, but for the changes."""
    entry = KnowledgeEntry(
        id=id,
        external_id=id,
        type="technique",
        title=title,
        text=f"About {title}.",
        source="Test ATT&CK",
        version="1",
        licence="none",
        tactics=("execution",),
        platforms=("Linux",),
        url=f"https://example.org/{id}",
    )
    return msgspec.structs.replace(entry, **changes)


def make_items() -> list[Item]:
    """Two techniques, one that the second took over from, one withdrawn, and what points there."""
    return [
        make_entry("T0001", "aaaa"),
        make_entry("T0002", "bbbb", platforms=("Windows", "Office Suite"), tactics=("impact",)),
        make_entry("T0003", "cccc", revoked=True, revoked_by="T0002"),
        make_entry("T0004", "dddd", deprecated=True),
        make_entry("G0001", "Blue Badger", type="group", aliases=("APT 999", "Grün"), tactics=()),
        make_entry("DET0001", "How to see it", type="strategy", tactics=()),
        make_entry("AN0001", "What to see", type="analytic", text="zzzz zz", tactics=()),
        make_entry("TA0040", "Impact", type="tactic", external_id="TA0040", tactics=()),
        Link("G0001", "uses", "T0003", "Test ATT&CK", "Blue Badger hid qqqq in certutil.exe."),
        Link("DET0001", "detects", "T0001", "Test ATT&CK"),
        Link("DET0001", "has", "AN0001", "Test ATT&CK"),
        Indicator("sha256", "ab" * 32, "Test ATT&CK", "bad", links=("G0001",)),
    ]


def gather(items: Sequence[Item], kind: SourceKind = "package") -> list[Contribution]:
    """What these items make, without files."""
    return list(gather_items((("sample", item) for item in items), kind).contributions.values())


def build_sample(
    folder: Path, items: Sequence[Item] | None = None, encoder: LetterEncoder | None = None
) -> Written:
    """A base of these items, by default `make_items()`."""
    contributions = gather(make_items() if items is None else items)
    with lock_base(folder):
        return write_base(folder, contributions, encoder or LetterEncoder(), say_nothing)


def read_from(items: Sequence[Item]) -> Callable[[Path], Iterator[tuple[str, Item]]]:
    """A reader that finds these items in whatever it reads."""

    def read(path: Path) -> Iterator[tuple[str, Item]]:
        for item in items:
            yield path.name, item

    return read


def say_nothing(_: str) -> None:
    """No progress."""


def make_note(name: str, text: str, **changes: object) -> KnowledgeEntry:
    """A note of the site."""
    fields: dict[str, object] = {"type": "note", "text": text, "source": "Notes", "tactics": ()}
    return make_entry(f"note:{name}", f"Note {name}", **{**fields, **changes})
