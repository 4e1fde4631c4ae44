"""Stage `evaluate`, budgets: from findings per host and day to scores, and what these give.

The captures watch hosts for minutes, in the moment of an attack: they cannot tell what a host's
day holds. So a day is supposed (DAYS): so many distinct texts of a kind, and the share of the
budget that the kind may use; process starts and scripts, where attacks show most, may use most. A
kind's threshold is the score that budget x share / texts of the ordinary texts of *validation* are
over. Where that is less than ten texts the tail is drawn on: excesses over a high score are nearly
exponential in log-odds (Pickands 1975, Ann. Statist. 3:119, with shape 0). What the thresholds then
give on the test's captures and lists is counted beside them.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from appliance.detect.sentinel.heads import Heads
from appliance.inference.manifest import (
    SENTINEL_HEADS,
    SENTINEL_MANIFEST,
    hash_file,
    write_durably,
)
from models.sentinel.evaluate.figures import Share, Weigh, share
from models.sentinel.evaluate.reading import ReadFile, measure_time
from models.sentinel.evaluate.scoring import Scores, squash

#: Findings per host and day for which thresholds are written.
BUDGETS: Final = ("0.1", "0.5", "1", "2", "5", "10", "50")
#: Kind -> distinct texts of one host and day that are supposed, and the kind's share of the budget.
#: A Windows host has the first three and the rest; web servers have URLs instead.
DAYS: Final = {
    "process": (200, 0.4),
    "script": (100, 0.2),
    "registry": (800, 0.15),
    "url": (500, 0.25),
}
#: The same of all other kinds together.
OTHERS: Final = (600, 0.25)
#: Ordinary texts of validation from which on a kind has thresholds of its own.
FEWEST_OF_KIND: Final = 100
#: Scores that the tail is drawn from, at least and at most.
_TAIL: Final = (20, 200)
_TAIL_SHARE: Final = 0.05
#: Thresholds stay this far from 0 and 1, and have so many digits.
_DIGITS: Final = 6


def find_tail_threshold(logits: Scores, rate: float) -> float:
    """The log-odds over which a share `rate` of texts like these lies: an order statistic where
    ten texts or more are over it, else drawn on from the tail. Raises ValueError for too few."""
    count = len(logits)
    if count < _TAIL[0] + 1:
        raise ValueError(f"{count} ordinary texts are too few for a threshold")
    ranked = np.sort(logits)[::-1]
    over = rate * count
    if over >= 10:
        return float(ranked[min(int(over), count - 1)])
    size = min(max(_TAIL[0], int(count * _TAIL_SHARE)), _TAIL[1], count - 1)
    base = float(ranked[size])
    excess = float((ranked[:size] - base).mean())
    return base + excess * float(np.log(size / count / rate))


def choose_thresholds(logits: Scores, texts: float, share_: float) -> dict[str, float]:
    """Budget -> score, falling as budgets rise; from log-odds of distinct ordinary texts, of which
    a host and day hold `texts`, for findings that may use `share_` of the budget."""
    found: dict[str, float] = {}
    last = 1.0 - 10.0**-_DIGITS
    for budget in BUDGETS:
        limit = find_tail_threshold(logits, min(1.0, float(budget) * share_ / texts))
        score = round(float(squash(np.array([limit]))[0]), _DIGITS)
        last = min(last, max(score, 10.0**-_DIGITS))
        found[budget] = last
    return found


def choose_kinds(
    logits: Mapping[str, Scores],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Thresholds of all other kinds, and those of each kind of DAYS with ordinary texts enough.
    Raises ValueError where there are hardly any."""
    own = [kind for kind in DAYS if len(logits.get(kind, ())) >= FEWEST_OF_KIND]
    rest = [scores for kind, scores in logits.items() if kind not in own]
    if sum(map(len, rest)) < FEWEST_OF_KIND:
        rest = list(logits.values())
    if not rest:
        raise ValueError("validation has no ordinary text to choose thresholds on")
    others = choose_thresholds(np.concatenate(rest), *OTHERS)
    return others, {kind: choose_thresholds(logits[kind], *DAYS[kind]) for kind in own}


def split_heads(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON header of a safetensors file and what is behind it. Raises ValueError,
    struct.error."""
    (length,) = struct.unpack_from("<Q", raw)
    header: dict[str, Any] = msgspec.json.decode(raw[8 : 8 + length])
    return header, raw[8 + length :]


def write_thresholds(
    folder: Path, thresholds: dict[str, float], kinds: Mapping[str, float | dict[str, float]]
) -> Heads:
    """Put thresholds into the heads' metadata and the new hash into sentinel.json beside them; the
    tensors' bytes stay as they are. Between the two writes the hash is the old one: such a pair is
    refused on load, never run. Raises OSError, ValueError, ModelError when the files are none."""
    path = folder / SENTINEL_HEADS
    header, body = split_heads(path.read_bytes())
    said = msgspec.json.decode(header["__metadata__"]["sentinel"])
    said["thresholds"], said["kinds"] = dict(thresholds), dict(kinds)
    header["__metadata__"]["sentinel"] = msgspec.json.encode(said).decode()
    head = msgspec.json.encode(header)
    head += b" " * (-len(head) % 8)  # the format wants the tensors aligned
    raw = struct.pack("<Q", len(head)) + head + body
    heads = Heads.parse(raw, path.name)
    write_durably(path, raw)
    manifest = folder / SENTINEL_MANIFEST
    about = msgspec.json.decode(manifest.read_bytes())
    about["files"][SENTINEL_HEADS] = hash_file(path)
    if "sizes" in about:
        about["sizes"][SENTINEL_HEADS] = len(raw)
    write_durably(manifest, msgspec.json.format(msgspec.json.encode(about)) + b"\n")
    return heads


class Background(msgspec.Struct):
    """The background of some captures: its distinct texts by kind, and its events, each as the
    places of its texts in `texts`. `left_out` events are of the attack or unclear."""

    captures: int
    hosts: int
    span_days: float
    active_days: float
    texts: list[tuple[str, str]]
    events: list[list[int]]
    left_out: int


def gather_background(captures: Sequence[ReadFile], ordinary: set[tuple[str, str]]) -> Background:
    """Events all of whose texts are ordinary by the examples' label."""
    seen = measure_time(captures)
    places: dict[tuple[str, str], int] = {}
    events: list[list[int]] = []
    left_out = 0
    for capture in captures:
        for event in capture.events:
            if all(text in ordinary for text in event.texts):
                events.append([places.setdefault(text, len(places)) for text in event.texts])
            else:
                left_out += 1
    return Background(
        seen.captures, seen.hosts, seen.span_days, seen.active_days, list(places), events, left_out
    )


class Budget(msgspec.Struct, frozen=True):
    """What a budget's threshold gives on the background of captures: distinct texts flagged, events
    flagged, events in 10,000, and findings per observed host-day (two readings of the time)."""

    budget: str
    threshold: float
    texts: Share
    events: Share
    per_10_000: float
    per_active_day: float | None
    per_span_day: float | None


def count_findings(
    background: Background, weigh: Weigh, limits: Sequence[tuple[str, float, dict[str, float]]]
) -> list[Budget]:
    """For each (budget, score, scores of kinds with their own) what the background gives."""
    chances = squash(weigh([text for _, text in background.texts]))
    found = []
    for budget, score, kinds in limits:
        over = np.array(
            [
                chance > kinds.get(kind, score)
                for (kind, _), chance in zip(background.texts, chances, strict=True)
            ],
            bool,
        )
        events = sum(bool(over[places].any()) for places in background.events)
        total = len(background.events)
        found.append(
            Budget(
                budget=budget,
                threshold=score,
                texts=share(int(over.sum()), len(over)),
                events=share(events, total),
                per_10_000=1e4 * events / total if total else 0.0,
                per_active_day=_divide(events, background.active_days),
                per_span_day=_divide(events, background.span_days),
            )
        )
    return found


def _divide(count: int, days: float) -> float | None:
    return count / days if days > 0 else None


def find_event_threshold(background: Background, weigh: Weigh, per_10_000: float) -> float:
    """The lowest log-odds over which at most so many in 10,000 events of the background have a
    text. Raises ValueError without events."""
    if not background.events:
        raise ValueError("no background events")
    logits = weigh([text for _, text in background.texts])
    best = np.sort([logits[places].max() for places in background.events])[::-1]
    allowed = int(per_10_000 * len(best) / 1e4)
    return float(best[min(allowed, len(best) - 1)])


def count_over(background: Background, weigh: Weigh, limit: float) -> Share:
    """Events of the background with a text over the log-odds `limit`."""
    over = weigh([text for _, text in background.texts]) > limit
    hits = sum(bool(over[places].any()) for places in background.events)
    return share(hits, len(background.events))
