"""Stage `evaluate`, comparison: the shipped model with what it was made from, on the same rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.sentinel_metrics import bound_auroc, measure_auroc
from models.sentinel.rows import Example
from models.sentinel.teacher import hash_rows

NGRAMS_FILE: Final = "teacher.ngrams.npz"
SOFT_FILE: Final = "teacher.soft.npz"
SCORES_FILE: Final = "student.scores.npz"
_FEWEST: Final = 10

Scores = NDArray[np.float64]


class Rival(msgspec.Struct):
    """Log-odds of one model by place in examples.jsonl, NaN where it was not asked."""

    name: str
    logits: Scores


class Parity(msgspec.Struct, frozen=True):
    """AUROC of each model on the labelled rows of the test that all of them scored, and the 95 %
    interval of the shipped model's, by groups."""

    kind: str
    attacks: int
    ordinary: int
    auroc: dict[str, float | None]
    interval: tuple[float, float] | None


def read_rivals(work: Path, rows: Sequence[Example]) -> list[Rival]:
    """Those of the teachers and the float student whose files are there and about these rows."""
    found: list[Rival] = []
    stamp = hash_rows(rows)
    ngrams = _read(work / NGRAMS_FILE)
    if ngrams is not None and str(ngrams["rows"]) == stamp:
        logits = ngrams["logits"].astype(np.float64)
        found.append(Rival("n-grams", logits))
        soft = _read(work / SOFT_FILE)
        if soft is not None and str(soft["rows"]) == stamp:
            minilm = np.where(soft["known"], soft["logits"].astype(np.float64), np.nan)
            found.append(Rival("MiniLM teacher", minilm))
            found.append(Rival("both teachers", (logits + minilm) / 2))
    scores = _read(work / SCORES_FILE)
    if scores is not None and _fits(scores["rows"].tolist(), rows):
        student = np.full(len(rows), np.nan)
        student[scores["rows"]] = scores["logits"]
        found.append(Rival("float student", student))
    return found


def _fits(places: Sequence[int], rows: Sequence[Example]) -> bool:
    """Whether these are the places of such rows as the student scores: every labelled one of
    validation and test, and none of training."""
    known = set(places)
    return (
        max(known, default=0) < len(rows)
        and all(
            at in known if row.label is not None and row.split != "train" else True
            for at, row in enumerate(rows)
        )
        and not any(rows[at].split == "train" for at in known)
    )


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def measure_parity(
    rows: Sequence[Example],
    rivals: Sequence[Rival],
    weigh: Callable[[Sequence[str]], Scores],
    seed: int,
    rounds: int,
) -> list[Parity]:
    """Over all kinds and each; of labelled test rows that every rival scored."""
    chosen = [
        at
        for at, row in enumerate(rows)
        if row.split == "test"
        and row.label is not None
        and not any(np.isnan(rival.logits[at]) for rival in rivals)
    ]
    if not chosen:
        return []
    scores = {"shipped": weigh([rows[at].text for at in chosen])}
    scores |= {rival.name: rival.logits[chosen] for rival in rivals}
    labels = np.array([int(rows[at].label or 0) for at in chosen])
    names = [f"{rows[at].kind} {rows[at].os}" for at in chosen]
    groups = [rows[at].group for at in chosen]
    found = []
    for kind in ("all", *sorted(set(names))):
        mine = np.array([kind in ("all", name) for name in names])
        attacks = int(labels[mine].sum())
        ordinary = int(mine.sum()) - attacks
        if min(attacks, ordinary) < _FEWEST:
            continue
        own = [group for group, take in zip(groups, mine, strict=True) if take]
        found.append(
            Parity(
                kind,
                attacks,
                ordinary,
                {name: measure_auroc(labels[mine], each[mine]) for name, each in scores.items()},
                bound_auroc(labels[mine], scores["shipped"][mine], own, seed, rounds),
            )
        )
    return found
