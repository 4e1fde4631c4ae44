"""Behind the store, for an incident's report: the timeline as a picture.

Each host is a lane, each stage of the attack that was seen on it a row of the lane, each finding a
mark by its level; marks that would touch become one with a number. Times without data are hatched.
Long times in which nothing happens are shortened and said to be.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from appliance.incident import Dossier, Gap
from appliance.report import svg
from appliance.report.markup import Safe, make_visible, plain, read_moment, show_moment, tag
from appliance.report.markup import show_span as span
from appliance.schema import LEVELS

MAX_LANES: Final = 24
ROW: Final = 22.0
LANE_HEAD: Final = 22.0
#: Pixels between two marks of a row at the least, and of a stretch that is shortened.
APART: Final = 34.0
BREAK: Final = 40.0
#: A stretch without anything is shortened when it is this part of the whole time.
IDLE_SHARE: Final = 0.12
STEPS: Final = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 604800)
#: ATT&CK's tactics (enterprise, then those that only industrial systems have) in their order.
TACTICS: Final = (
    "reconnaissance", "resource-development", "initial-access", "execution", "persistence",
    "privilege-escalation", "defense-evasion", "evasion", "stealth", "defense-impairment",
    "credential-access", "discovery", "lateral-movement", "collection", "command-and-control",
    "exfiltration", "inhibit-response-function", "impair-process-control", "impact",
)  # fmt: skip
NO_STAGE: Final = "other"
NO_HOST: Final = "(no host)"


class Mark(msgspec.Struct, frozen=True):
    """One finding on the timeline."""

    time: float
    host: str
    stage: str
    level: str
    title: str


def name_stage(tactic: str) -> str:
    """ "credential-access" as "Credential access"."""
    return tactic.replace("-", " ").capitalize()


def collect_marks(dossier: Dossier) -> list[Mark]:
    """The findings with a time; a finding's stage is that of the chain, else its first tactic."""
    stages = {finding: stage.tactic for stage in dossier.chain.stages for finding in stage.findings}
    marks = []
    for body in dossier.findings:
        time = read_moment(body.get("time"))
        if time is None:
            continue
        tactics = [str(tactic) for tactic in body.get("tactics") or ()]
        stage = stages.get(str(body.get("id")), tactics[0] if tactics else NO_STAGE)
        marks.append(
            Mark(
                time,
                str(body.get("host") or NO_HOST),
                stage,
                str(body.get("level")),
                str(body.get("title", "")),
            )
        )
    return sorted(marks, key=lambda mark: mark.time)


class Scale:
    """Where a time stands between `left` and `right` pixels; idle stretches are shortened."""

    def __init__(self, times: Iterable[float], left: float, right: float) -> None:
        known = sorted(set(times)) or [0.0]
        if known[-1] - known[0] < 1:  # one moment: in the middle
            known = [known[0] - 30, known[0] + 30]
        total = known[-1] - known[0]
        pieces = list(pairwise(known))
        idle = {piece for piece in pieces if piece[1] - piece[0] > max(total * IDLE_SHARE, 600)}
        # Of all stretches the longest few: too many breaks would leave nothing but breaks.
        idle = set(sorted(idle, key=lambda piece: piece[0] - piece[1])[:5])
        busy = sum(b - a for a, b in pieces if (a, b) not in idle)
        if busy < 1:
            idle = set()
            busy = total
        self.per_second = (right - left - BREAK * len(idle)) / busy
        self.times, self.places, self.breaks = [known[0]], [left], []
        for begin, end in pieces:
            here = self.places[-1]
            if (begin, end) in idle:
                self.breaks.append((here, here + BREAK, end - begin))
                self.places.append(here + BREAK)
            else:
                self.places.append(here + (end - begin) * self.per_second)
            self.times.append(end)

    def place(self, time: float) -> float:
        """Pixels from the left; times outside stand at the ends."""
        at = min(max(bisect_right(self.times, time) - 1, 0), len(self.times) - 2)
        begin, end = self.times[at], self.times[at + 1]
        share = min(max((time - begin) / (end - begin), 0.0), 1.0)
        return self.places[at] + share * (self.places[at + 1] - self.places[at])

    def ticks(self, apart: float) -> list[float]:
        """Round times that stand at least `apart` pixels from one another, outside breaks."""
        step = next((s for s in STEPS if s * self.per_second >= apart), STEPS[-1])
        found: list[float] = []
        for begin, end, left, right in zip(
            self.times, self.times[1:], self.places, self.places[1:], strict=False
        ):
            if any(a <= left and right <= b for a, b, _ in self.breaks):
                continue
            tick = -(-begin // step) * step
            while tick <= end and len(found) < 200:
                if not found or self.place(tick) - self.place(found[-1]) >= apart:
                    found.append(tick)
                tick += step
        if not found:
            found = [self.times[0]]
        return found


def draw_timeline(dossier: Dossier, key: str, width: float) -> Safe:
    """The picture, `width` pixels wide; a word where there is nothing to draw."""
    marks = collect_marks(dossier)
    if not marks:
        return tag("p", plain("No finding with a time."), class_="none")
    gaps = [g for g in dossier.chain.gaps if math.isfinite(g.first) and math.isfinite(g.last)]
    margin = 150.0 if width > 500 else 104.0
    times = [mark.time for mark in marks] + [t for gap in gaps for t in (gap.first, gap.last)]
    scale = Scale(times, margin + 12, width - 20)
    lanes = _order_lanes(marks)
    parts: list[Safe] = []
    y = 40.0
    for host, stages in lanes.items():
        height = LANE_HEAD + ROW * len(stages) + 6
        parts.append(tag("rect", x=0.5, y=y, width=width - 1, height=height, class_="lane"))
        holes = [gap for gap in gaps if gap.subject == host]
        parts += [_draw_gap(gap, scale, y, height, key) for gap in holes]
        # A gap says so at its top: the name ends before it.
        room = min((scale.place(gap.first) for gap in holes), default=width - 4) - 16
        shown = svg.fit(host, room, 13)
        parts.append(svg.write(8, y + 16, shown, "b", full=host))
        for place, stage in enumerate(stages):
            base = y + LANE_HEAD + ROW * place + ROW / 2
            parts.append(
                svg.write(8, base + 4, svg.fit(name_stage(stage), margin - 12, 11), "s",
                          full=name_stage(stage))
            )  # fmt: skip
            parts.append(tag("path", d=f"M{margin} {base}H{width - 8:.0f}", class_="rule"))
            row = [mark for mark in marks if mark.host == host and mark.stage == stage]
            parts += _draw_marks(row, scale, base)
        y += height + 6
    others = [gap for gap in gaps if gap.subject not in lanes]
    for subject in list(dict.fromkeys(gap.subject for gap in others))[:MAX_LANES]:
        told = f"source {subject[7:]}" if subject.startswith("source:") else subject
        parts.append(tag("rect", x=0.5, y=y, width=width - 1, height=46, class_="lane"))
        own = [gap for gap in others if gap.subject == subject]
        parts += [_draw_gap(gap, scale, y + 20, 24, key) for gap in own]
        parts.append(svg.write(8, y + 16, svg.fit(told, width - 20, 13), "b", full=told))
        y += 52
    parts += _draw_axis(scale, y, width)
    text = (
        f"{len(marks)} findings on {len(lanes)} hosts from {show_moment(marks[0].time)} to "
        f"{show_moment(marks[-1].time)} UTC; {len(gaps)} gaps. The evidence lists each finding."
    )
    return svg.draw(
        key, width, y + 8, parts, title="Timeline of the findings", text=text, defs=[svg.hatch(key)]
    )


def _order_lanes(marks: Sequence[Mark]) -> dict[str, list[str]]:
    """Hosts by first time, each with its stages in ATT&CK's order."""
    lanes: dict[str, set[str]] = {}
    for mark in marks:
        if mark.host in lanes or len(lanes) < MAX_LANES:
            lanes.setdefault(mark.host, set()).add(mark.stage)
    return {host: sorted(stages, key=order_stage)[:16] for host, stages in lanes.items()}


def order_stage(stage: str) -> tuple[int, str]:
    """Sorts stages as ATT&CK has them, unknown ones last."""
    return (TACTICS.index(stage) if stage in TACTICS else len(TACTICS), stage)


def count_hidden_lanes(dossier: Dossier) -> int:
    """Hosts with findings that are over the cap of lanes."""
    return max(0, len({mark.host for mark in collect_marks(dossier)}) - MAX_LANES)


def _draw_marks(row: Sequence[Mark], scale: Scale, y: float) -> list[Safe]:
    """The marks of a row; those that would touch are one, of the worst level, with their number."""
    groups: list[list[Mark]] = []
    for mark in row:
        at = scale.place(mark.time)
        if groups and at - scale.place(groups[-1][0].time) < APART:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    parts = []
    for group in groups:
        x = scale.place(group[0].time)
        worst = max(group, key=lambda mark: _rank(mark.level))
        told = [f"{show_moment(m.time)[11:]} {m.level}: {m.title[:120]}" for m in group[:12]]
        more = [f"and {len(group) - 12} more"] if len(group) > 12 else []
        title = tag("title", plain("; ".join(told + more), 3000))
        children = [title, svg.draw_level(worst.level, x, y)]
        if len(group) > 1:
            count = str(len(group)) if len(group) < 100 else "99+"
            children.append(svg.write(x + 8, y - 2, count, "n"))
        parts.append(tag("g", *children, class_="mark"))
    return parts


def _rank(level: str) -> int:
    ranks: Mapping[Any, int] = {name: place for place, name in enumerate(LEVELS)}
    return ranks.get(level, -1)


def _draw_gap(gap: Gap, scale: Scale, y: float, height: float, key: str) -> Safe:
    left = scale.place(gap.first)
    right = max(scale.place(gap.last), left + 5)
    told = f"no data: {show_moment(gap.first)} to {show_moment(gap.last)}. {gap.sentence.text}"
    box = tag(
        "rect", x=left, y=y + 1, width=right - left, height=height - 2,
        fill=f"url(#{key}-gap)", class_="gap",
    )  # fmt: skip
    label = [svg.write((left + right) / 2, y + 15, "no data", "gl", anchor="middle")]
    wide = right - left > svg.measure("no data", 11) + 8
    return tag("g", tag("title", plain(told, 800)), box, *(label if wide else ()))


def _draw_axis(scale: Scale, bottom: float, width: float) -> list[Safe]:
    parts = []
    for left, right, seconds in scale.breaks:
        middle = (left + right) / 2
        told = tag("title", plain(f"{span(seconds)} shortened"))
        zigzag = f"M{middle - 4:.1f} 34L{middle + 4:.1f} 38V{bottom:.0f}"
        parts.append(tag("g", told, tag("path", d=zigzag, class_="break")))
        parts.append(svg.write(middle, 30, f"⋯{span(seconds)}", "t", anchor="middle"))
    day, last, drawn = "", -100.0, False
    for tick in scale.ticks(70):
        x = scale.place(tick)
        near = any(left - 36 < x < right + 36 for left, right, _ in scale.breaks)
        if near or x - last < 66:
            continue
        last, drawn = x, True
        shown = show_moment(tick)
        clock = shown[11:16] if tick % 60 == 0 else shown[11:]
        parts.append(tag("path", d=f"M{x:.1f} 34V{bottom:.0f}", class_="tick"))
        anchor = "end" if x > width - 40 else "middle"
        parts.append(svg.write(x, 30, make_visible(clock), "t", anchor=anchor))
        if shown[:10] != day:
            day = shown[:10]
            parts.append(svg.write(x, 14, day, "t b", anchor=anchor))
    if not drawn:  # too narrow for round times: the ends
        for time, anchor in ((scale.times[0], "start"), (scale.times[-1], "end")):
            shown = show_moment(time)
            x = scale.place(time)
            parts.append(svg.write(x, 14, shown[5:16], "t b", anchor=anchor))
    return parts
