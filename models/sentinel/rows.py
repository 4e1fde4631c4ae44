"""The rows that the recipe's stages hand on: JSON lines, one example each, and what names a split.

Draws are hashes of names, never of a generator's state: a file or template keeps its split when
others come and go.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

Split = Literal["train", "valid", "test"]

#: Longest text kept of one example, in characters (that of the product's texts).
MAX_TEXT: Final = 512
#: ATT&CK parent techniques of which no attack example is trained on, in percent.
UNSEEN_PERCENT: Final = 15
_TECHNIQUE: Final = re.compile(r"T\d{4}(?:\.\d{3})?", re.ASCII)


class Example(msgspec.Struct, omit_defaults=False):
    """One text and what is known of it. `label` is 1 attack, 0 ordinary, None unknown; `group` is
    what must not be divided by a split (capture, file, test, template); `attack_event` marks the
    events of a capture of attacks that are plausibly the attack themselves, where the label is
    that of the file; `shape` is the form of log that the text came in; `unseen` marks attacks whose
    technique is held back from training; `explicit` attacks stay attacks where the same text is
    ordinary elsewhere."""

    text: str
    kind: str
    label: int | None
    source: str
    group: str
    shape: str
    os: str
    weight: float = 1.0
    techniques: list[str] = []
    split: Split = "train"
    attack_event: bool = False
    explicit: bool = False
    unseen: bool = False


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Example)


def write_rows(path: Path, rows: Iterable[Example]) -> int:
    """Write the rows to the file, in whole or not at all; how many. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    count = 0
    with new.open("wb") as file:
        for row in rows:
            file.write(_ENCODER.encode(row) + b"\n")
            count += 1
    new.replace(path)
    return count


def read_rows(path: Path) -> Iterator[Example]:
    """The rows of a file. Raises OSError, msgspec.MsgspecError for what is no row."""
    with path.open("rb") as file:
        for line in file:
            yield _DECODER.decode(line)


def draw(*names: str) -> int:
    """A number from 0 to 99 that these names alone decide."""
    digest = hashlib.sha256("\x1f".join(names).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % 100


def is_unseen(techniques: Iterable[str]) -> bool:
    """True when one of the techniques' parents is held back from training."""
    parents = {technique.partition(".")[0] for technique in techniques}
    return any(draw("unseen", parent) < UNSEEN_PERCENT for parent in parents)


def find_techniques(text: str) -> list[str]:
    """The ATT&CK ids that a text names, in order, each once."""
    return list(dict.fromkeys(_TECHNIQUE.findall(text.upper())))


def split_words(text: str) -> frozenset[str]:
    """The words of a table that is written as text."""
    return frozenset(text.split())
