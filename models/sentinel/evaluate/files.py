"""Stage `evaluate`, files: how many files of attacks are flagged, with and without rules' help."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.sentinel.evaluate.figures import Share, share
from models.sentinel.evaluate.reading import ReadFile

#: One distinct (kind, text).
Pair = tuple[str, str]


class Limit(msgspec.Struct, frozen=True):
    """A threshold in log-odds with its name; `kinds` holds those kinds' own."""

    name: str
    logit: float
    kinds: dict[str, float] = {}


class FileRecall(msgspec.Struct, frozen=True):
    """Files flagged at one threshold. `by_attack`: by an event that is plausibly the attack's, of
    files with such; `by_any`: by any text, of files with a text; `of_all`: the same, of all files.
    `blind_*`: the same of the files on which no rule of medium level or above fires."""

    limit: str
    logit: float
    by_attack: Share
    by_any: Share
    of_all: Share
    blind_by_any: Share
    blind_of_all: Share
    blind_by_attack: Share
    rules_or_sentinel: Share


def measure_files(
    files: Sequence[ReadFile],
    attack_texts: Mapping[str, set[Pair]],
    weigh: Callable[[Sequence[str]], NDArray[np.float64]],
    limits: Sequence[Limit],
) -> list[FileRecall]:
    """One line a threshold. `attack_texts`: the texts of each file's plausible attack."""
    texts = [list(dict.fromkeys(pair for e in file.events for pair in e.texts)) for file in files]
    logits = [weigh([text for _, text in pairs]) for pairs in texts]
    blind = [not file.rules for file in files]
    told = [bool(attack_texts.get(file.name)) for file in files]
    found = []
    for limit in limits:
        flagged = [
            {
                pair
                for pair, score in zip(pairs, scores, strict=True)
                if score > limit.kinds.get(pair[0], limit.logit)
            }
            for pairs, scores in zip(texts, logits, strict=True)
        ]
        any_hit = [bool(pairs) for pairs in flagged]
        attack_hit = [
            bool(pairs & attack_texts.get(file.name, set()))
            for file, pairs in zip(files, flagged, strict=True)
        ]
        readable = [bool(pairs) for pairs in texts]
        found.append(
            FileRecall(
                limit=limit.name,
                logit=limit.logit,
                by_attack=_count(attack_hit, told),
                by_any=_count(any_hit, readable),
                of_all=_count(any_hit, [True] * len(files)),
                blind_by_any=_count(any_hit, _both(blind, readable)),
                blind_of_all=_count(any_hit, blind),
                blind_by_attack=_count(attack_hit, _both(blind, told)),
                rules_or_sentinel=share(
                    sum(hit or not no_rule for hit, no_rule in zip(any_hit, blind, strict=True)),
                    len(files),
                ),
            )
        )
    return found


def _count(hits: Sequence[bool], chosen: Sequence[bool]) -> Share:
    return share(sum(h and c for h, c in zip(hits, chosen, strict=True)), sum(chosen))


def _both(one: Sequence[bool], other: Sequence[bool]) -> list[bool]:
    return [a and b for a, b in zip(one, other, strict=True)]


def pick_commands(
    files: Sequence[ReadFile], attack_texts: Mapping[str, set[Pair]], most: int
) -> list[dict[str, str]]:
    """The distinct raw process starts of the files' plausible attacks, at most `most`."""
    found: dict[str, dict[str, str]] = {}
    for file in files:
        attacks = attack_texts.get(file.name, set())
        for event in file.events:
            if event.raw and any(text in attacks for text in event.texts):
                found.setdefault(event.raw["CommandLine"], event.raw)
    return list(found.values())[:most]
