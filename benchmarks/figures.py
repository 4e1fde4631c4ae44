"""Beside the line: figures with the count behind them and the command that gave them."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One measured value. `value` is the median of `count` runs with `low` and `high` as their
    least and greatest, or (both None) a single value that rests on `count` things. `of` says
    what was counted, `command` what gave the value."""

    part: str
    case: str
    name: str
    value: float
    unit: str
    low: float | None
    high: float | None
    count: int
    of: str
    command: str


def find_quantile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: the smallest sample that at least `share` of all do not exceed.

    `share` is above 0 and at most 1. Raises ValueError for no samples.
    """
    if not samples:
        raise ValueError("no samples")
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


class Report:
    """Prints each figure as soon as it is known, and keeps all."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self._part = self._case = self._command = ""

    def begin(self, part: str, case: str, command: str) -> None:
        """Figures from here on belong to this case of this part and come from this command."""
        self._part, self._case, self._command = part, case, command
        print(f"\n{part}: {case}\n  $ {command}", flush=True)

    def add_runs(self, name: str, samples: Sequence[float], unit: str, of: str = "runs") -> None:
        """The median of the samples. Raises ValueError (statistics) for none."""
        self._add(
            name, statistics.median(samples), unit, min(samples), max(samples), len(samples), of
        )

    def add(self, name: str, value: float, unit: str, count: int, of: str) -> None:
        """A single value."""
        self._add(name, value, unit, None, None, count, of)

    def note(self, text: str) -> None:
        """Something to know about the case that is no figure."""
        print(f"  {text}", flush=True)

    def _add(
        self,
        name: str,
        value: float,
        unit: str,
        low: float | None,
        high: float | None,
        count: int,
        of: str,
    ) -> None:
        figure = Figure(
            self._part, self._case, name, value, unit, low, high, count, of, self._command
        )
        self.figures.append(figure)
        if low is None or high is None:
            basis = f", of {count:,} {of}"
        else:
            basis = f" ({write_number(low)} .. {write_number(high)}), {count:,} {of}"
        print(f"  {name:<38} {write_number(value):>9} {unit}{basis}", flush=True)

    def to_json(self, facts: dict[str, Any]) -> bytes:
        """All figures, with `facts` of the machine beside them."""
        return msgspec.json.format(msgspec.json.encode({**facts, "figures": self.figures})) + b"\n"


def write_number(value: float) -> str:
    """Three or four significant digits: nobody can repeat more on another day."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
