"""Behind the store, for an incident's report: the attack chain as a picture.

From top to bottom: the stages in the order of their first time, each with its times, hosts,
techniques and number of findings; gaps hatched between them as gaps; at the end, dashed, what
usually comes next and who here would show it.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from appliance.incident import Chain, ChainStage, Gap, NextStep
from appliance.report import svg
from appliance.report.markup import Safe, plain, show_moment, show_span, tag
from appliance.report.timeline import name_stage

MAX_STAGES: Final = 40
MAX_GAPS: Final = 20
MAX_NEXT: Final = 8
LINE: Final = 17.0
#: Left edge of the boxes: the spine with its numbers stands before it.
LEFT: Final = 46.0


class Block(msgspec.Struct, frozen=True):
    """One box: its lines are (text, class, whole text)."""

    kind: str
    badge: str
    lines: tuple[tuple[str, str, str], ...]
    told: str
    beside: str = ""

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return 16 + LINE * len(self.lines)


def draw_chain(chain: Chain, names: Mapping[str, str], key: str, width: float) -> Safe:
    """The picture; `names` are those of techniques. A word where there is no chain."""
    if not chain.stages and not chain.gaps and not chain.next_steps:
        return tag("p", plain("No stage of an attack could be told."), class_="none")
    blocks = list_blocks(chain, names, width - LEFT - 12)
    parts: list[Safe] = []
    y = 4.0
    for place, block in enumerate(blocks):
        middle = y + min(block.height / 2, 24)
        if place + 1 < len(blocks):
            dashed = " dashed" if blocks[place + 1].kind == "next" else ""
            below = y + block.height + 12 + min(blocks[place + 1].height / 2, 24)
            parts.insert(0, tag("path", d=f"M22 {middle:.1f}V{below:.1f}", class_=f"spine{dashed}"))
        parts.append(_draw_block(block, y, middle, width, key))
        y += block.height + 12
    text = "; ".join(block.told for block in blocks) or "no stages"
    return svg.draw(
        key, width, y - 4, parts, title="Attack chain", text=text, defs=[svg.hatch(key)]
    )


def list_blocks(chain: Chain, names: Mapping[str, str], room: float) -> list[Block]:
    """Stages and gaps by their first times, then what usually comes next."""
    stages = chain.stages[:MAX_STAGES]
    timed: list[tuple[float, int, Block]] = [
        (stage.first, 1, _describe_stage(number, stage, names, room))
        for number, stage in enumerate(stages, 1)
    ]
    timed += [(gap.first, 0, _describe_gap(gap, room)) for gap in chain.gaps[:MAX_GAPS]]
    blocks = [block for _, _, block in sorted(timed, key=lambda item: item[:2])]
    return blocks + [_describe_next(step, room) for step in chain.next_steps[:MAX_NEXT]]


def _lines(text: str, room: float, kind: str, size: float, most: int) -> list[tuple[str, str, str]]:
    return [(line, kind, text) for line in svg.wrap(text, room, size, most)]


def _describe_stage(number: int, stage: ChainStage, names: Mapping[str, str], room: float) -> Block:
    techniques = [f"{t} {names[t]}" if names.get(t) else t for t in stage.techniques]
    when = show_period(stage.first, stage.last)
    many = "finding" if stage.count == 1 else "findings"
    beside = f"{when} · {stage.count:,} {many}"
    title = room if room < 600 else room - svg.measure(beside, 11) - 16
    lines = _lines(name_stage(stage.tactic), title, "b big", 17, 1)
    if room < 600:
        lines += _lines(beside, room, "s", 12, 2)
    lines += _lines(f"On {list_some(stage.hosts, 8) or 'no host'}", room, "", 12, 2)
    if techniques:
        lines += _lines(list_some(techniques, 8), room, "", 12, 3)
    told = f"{number} {name_stage(stage.tactic)}, {when}, {stage.count} {many}"
    return Block("stage", str(number), tuple(lines), told, "" if room < 600 else beside)


def _describe_gap(gap: Gap, room: float) -> Block:
    subject = gap.subject.replace("source:", "source ", 1)
    if gap.kind == "stage":  # no time without data: a stage that nobody saw
        lines = _lines(f"Gap: {subject}", room, "b", 13, 2)
        lines += _lines(gap.sentence.text, room, "", 12, 3)
        return Block("gap", "?", tuple(lines), f"gap: {subject}")
    span = show_span(gap.last - gap.first)
    lines = _lines(f"Gap: {subject}, {span} without data", room, "b", 13, 2)
    lines += _lines(f"{show_period(gap.first, gap.last)}", room, "s", 12, 2)
    lines += _lines(gap.sentence.text, room, "", 12, 3)
    return Block("gap", "?", tuple(lines), f"gap of {span} at {gap.subject}")


def _describe_next(step: NextStep, room: float) -> Block:
    title = f"Often next: {step.technique} {step.name}"
    odds = (
        f"{name_stage(step.tactic)} · used by {step.share:.0%} of the {step.of:,} known procedures "
        f"with much of what was seen, {step.lift:.1f} times the usual"
    )
    if step.sources:
        watch = f"Would show in: {list_some(step.sources, 6)}"
        rules = f"Watched by {list_some(step.rules, 4)}" if step.rules else "No rule here watches"
    else:
        watch, rules = "Nothing that is fed here would show it", ""
    lines = _lines(title, room, "b", 13, 2) + _lines(odds, room, "s", 12, 3)
    lines += _lines(watch, room, "" if step.sources else "b", 12, 2)
    if rules:
        lines += _lines(rules, room, "", 12, 2)
    return Block("next", "→", tuple(lines), f"{title}: {watch}")


def list_some(values: tuple[str, ...] | list[str], most: int) -> str:
    """The first values with commas, and how many more there are."""
    shown = ", ".join(values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most:,} more"


def show_period(first: float, last: float) -> str:
    """ "2026-03-02 09:14:02 to 09:20:11": the second day only where it is another."""
    begin, end = show_moment(first), show_moment(last)
    if begin == end:
        return begin
    return f"{begin} to {end[11:] if end[:10] == begin[:10] else end}"


def _draw_block(block: Block, y: float, middle: float, width: float, key: str) -> Safe:
    fill = f"url(#{key}-gap)" if block.kind == "gap" else None
    box = tag(
        "rect", x=LEFT, y=y, width=width - LEFT - 2, height=block.height, rx=4,
        class_=f"box {block.kind}",
    )  # fmt: skip
    parts = [tag("title", plain(block.told, 600)), box]
    if fill:  # a hatched edge: text on hatching would be hard to read
        parts.append(
            tag("rect", x=LEFT, y=y, width=10, height=block.height, fill=fill, class_="gap")
        )
    if block.kind == "gap":
        parts.append(tag("rect", x=10, y=middle - 12, width=24, height=24, class_="knob gap"))
    else:
        parts.append(tag("circle", cx=22, cy=middle, r=13, class_=f"knob {block.kind}"))
    parts.append(svg.write(22, middle + 5, block.badge, "knobtext", anchor="middle"))
    if block.beside:
        parts.append(svg.write(width - 16, y + 20, block.beside, "s", anchor="end"))
    for place, (line, kind, full) in enumerate(block.lines):
        base = y + 20 + LINE * place
        parts.append(
            svg.write(LEFT + 16, base, line, kind, full=full if line.endswith("…") else None)
        )
    return tag("g", *parts)
