"""Rewrites a training text in ways that keep its label: what a writer can change at will.

Works on the canonical texts of `appliance.detect.sentinel.texts`: `kind head : body`.
"""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

_HEAD: Final = re.compile(r"^(\w+) (.{0,160}?) : (.*)$", re.DOTALL)
_MOST: Final = 512
#: Chance of each rewriting, in this order: drop the parent, drop the head, pad, reorder, quotes.
_CHANCES: Final = (0.15, 0.05, 0.15, 0.10, 0.10)
_PAD_WORDS: Final = 12


def augment_text(text: str, padding: Sequence[str], random: np.random.Generator) -> str:
    """The text, rewritten by chance. `padding` are ordinary texts, of which words are put in.
    A text of another form comes back as it is."""
    match = _HEAD.match(text)
    if match is None:
        return text
    kind, head, body = match.groups()
    parent, less, pad, reorder, quotes = random.random(len(_CHANCES)) < _CHANCES
    if parent and " > " in head:
        head = head.split(" > ", 1)[1]
    elif less:
        head = ""
    words = body.split(" ")
    if pad and padding and kind in ("process", "script", "log"):
        words = _pad_words(words, padding, random)
    if reorder and kind == "process":
        words = _swap_arguments(words, random)
    if quotes:
        words = _change_quotes(words, random)
    body = " ".join(words)
    return (f"{kind} {head} : {body}" if head else f"{kind} : {body}")[:_MOST]


def _pad_words(words: list[str], padding: Sequence[str], random: np.random.Generator) -> list[str]:
    other = padding[int(random.integers(len(padding)))].partition(" : ")[2].split(" ")
    start = int(random.integers(max(1, len(other))))
    piece = other[start : start + int(random.integers(1, _PAD_WORDS))]
    at = int(random.integers(len(words) + 1)) if random.random() < 0.3 else len(words)
    return [*words[:at], *piece, *words[at:]]


def _swap_arguments(words: list[str], random: np.random.Generator) -> list[str]:
    """Two options with what belongs to each change places."""
    starts = [at for at, word in enumerate(words) if at and word[:1] in ("-", "/") and word[1:]]
    if len(starts) < 2:
        return words
    first = int(random.integers(len(starts) - 1))
    a, b = starts[first], starts[first + 1]
    end = starts[first + 2] if first + 2 < len(starts) else len(words)
    return [*words[:a], *words[b:end], *words[a:b], *words[end:]]


def _change_quotes(words: list[str], random: np.random.Generator) -> list[str]:
    if any('"' in word for word in words):
        return [word.replace('"', "") or '"' for word in words]
    at = int(random.integers(len(words)))
    return [*words[:at], f'"{words[at]}"', *words[at + 1 :]]
