"""Behind the store, for an incident's report: the provenance graph as pictures.

Bands are hosts, from top to bottom in the order in which they were reached; inside a band time and
depth go from left to right. Bands that would not fit on a page begin a new picture; an edge into
another picture is told at its box.
"""

from typing import Final

from appliance.report import svg
from appliance.report.layers import Band, Box, Graph, Line, Placed, fold_graph, place_boxes
from appliance.report.markup import Safe, plain, show_moment, tag

BOX_WIDTH: Final = 190.0
BOX_HEIGHT: Final = 56.0
COLUMN_GAP: Final = 26.0
ROW_GAP: Final = 12.0
BAND_HEAD: Final = 30.0
#: Height of a picture before the next band begins another.
SHEET: Final = 780.0
Places = dict[int, tuple[float, float]]


def draw_provenance(graph: Graph, key: str) -> list[tuple[bool, Safe]]:
    """The pictures, one or more, each with whether it is too high for a page on its side; none
    where the graph is empty."""
    bands = place_boxes(graph)
    if not bands:
        return []
    columns = max(band.columns for band in bands)
    width = 24 + columns * BOX_WIDTH + (columns - 1) * COLUMN_GAP
    sheets: list[list[Band]] = [[]]
    for band in bands:
        if sheets[-1] and sum(map(band_height, sheets[-1])) + band_height(band) > SHEET:
            sheets.append([])
        sheets[-1].append(band)
    return [
        (
            sum(map(band_height, sheet)) > SHEET * 1.2,
            _draw_sheet(sheet, graph, f"{key}{number}", max(width, 620.0), (number, len(sheets))),
        )
        for number, sheet in enumerate(sheets, 1)
    ]


def band_height(band: Band) -> float:
    """Pixels that a band takes, with the space below it."""
    return BAND_HEAD + band.rows * (BOX_HEIGHT + ROW_GAP) + 14


def _draw_sheet(
    bands: list[Band], graph: Graph, key: str, width: float, turn: tuple[int, int]
) -> Safe:
    places: Places = {}
    frames: list[Safe] = []
    names: list[Safe] = []
    y = 1.0
    for band in bands:
        height = band_height(band) - 10
        frames.append(tag("rect", x=0.5, y=y, width=width - 1, height=height, rx=4, class_="lane"))
        names.append(
            svg.write(12, y + 19, svg.fit(f"Host {band.host}", width - 24, 13), "b", full=band.host)
        )
        for spot in band.placed:
            places[spot.box.number] = (
                12 + spot.column * (BOX_WIDTH + COLUMN_GAP),
                y + BAND_HEAD + spot.row * (BOX_HEIGHT + ROW_GAP),
            )
        y += band_height(band)
    boxes = {box.number: box for box in graph.boxes}
    edges = [
        _draw_line(line, places, boxes, key)
        for line in graph.lines
        if line.source in places and line.target in places
    ]
    drawn = [_draw_box(spot, places, graph, key) for band in bands for spot in band.placed]
    which = f" ({turn[0]} of {turn[1]})" if turn[1] > 1 else ""
    roots = ", ".join(f"{box.number} {box.label[:80]}" for box in graph.boxes if box.root)
    text = (
        f"{sum(len(band.placed) for band in bands)} boxes on {len(bands)} hosts: "
        f"{', '.join(band.host for band in bands)[:400]}. "
        f"Root cause: {roots or 'not known'}. The list behind the picture tells every box in words."
    )
    return svg.draw(
        key, width, y - 6, frames + edges + names + drawn,
        title=f"Provenance graph{which}", text=text, defs=[svg.arrow(key)],
    )  # fmt: skip


def _draw_line(line: Line, places: Places, boxes: dict[int, Box], key: str) -> Safe:
    (sx, sy), (tx, ty) = places[line.source], places[line.target]
    source, target = boxes[line.source], boxes[line.target]
    crossing = source.host != target.host
    middle, left = sy + BOX_HEIGHT / 2, ty + BOX_HEIGHT / 2
    if crossing:
        down = ty > sy
        start = sy + (BOX_HEIGHT if down else 0)
        end = ty if down else ty + BOX_HEIGHT
        bend = 36.0 if down else -36.0
        x1, x2 = sx + BOX_WIDTH - 26, tx + BOX_WIDTH - 40
        path = (
            f"M{x1:.1f} {start:.1f}C{x1:.1f} {start + bend:.1f} "
            f"{x2:.1f} {end - bend:.1f} {x2:.1f} {end:.1f}"
        )
    elif tx > sx:
        x1, x2 = sx + BOX_WIDTH, tx
        bend = COLUMN_GAP / 2
        path = (
            f"M{x1:.1f} {middle:.1f}C{x1 + bend:.1f} {middle:.1f} "
            f"{x2 - bend:.1f} {left:.1f} {x2:.1f} {left:.1f}"
        )
    else:  # back, or down the last column: around the left side
        x = min(sx, tx)
        out = x - 16
        path = (
            f"M{sx:.1f} {middle:.1f}C{out:.1f} {middle:.1f} "
            f"{out:.1f} {left:.1f} {tx:.1f} {left:.1f}"
        )
    told = (
        f"{source.number} {source.label} {', '.join(line.verbs)} {target.number} {target.label}, "
        f"first {show_moment(line.time)}, {line.count:,} times"
    )
    return tag(
        "g",
        tag("title", plain(told, 900)),
        tag("path", d=path, class_="edge far" if crossing else "edge",
            marker_end=f"url(#{key}-arrow)"),
    )  # fmt: skip


def describe_arrival(box: Box, graph: Graph) -> str:
    """How a box came to be: the root cause, or the first edge that leads to it, with the other
    box's number where that stands on another host; then when."""
    hosts = {other.number: other.host for other in graph.boxes}
    into = sorted((line for line in graph.lines if line.target == box.number),
                  key=lambda line: (line.time, line.source))  # fmt: skip
    clock = show_moment(box.first)[11:16]
    if box.root:
        return f"{clock} ROOT CAUSE"
    if not into:
        return f"{clock} {box.kind}"
    far = f" by {into[0].source}" if hosts[into[0].source] != box.host else ""
    return f"{clock} {into[0].verbs[0]}{far}"


def _draw_box(spot: Placed, places: Places, graph: Graph, key: str) -> Safe:
    box = spot.box
    x, y = places[box.number]
    found = len(box.findings)
    told = [
        f"{box.number}: {box.kind} {box.label}",
        f"on {box.host}, first {show_moment(box.first)} UTC, {box.role}",
        f"{found} findings" if found else "no finding",
    ]
    if len(box.nodes) > 1:
        told.append("; ".join(node.label[:80] for node in box.nodes[:12]))
    parts = [tag("title", plain(". ".join(told), 2000))]
    kind = f"node {box.role}" + (" cause" if box.root else "") + (" found" if found else "")
    if len(box.nodes) > 1:
        parts.append(tag("rect", x=x + 3, y=y + 3, width=BOX_WIDTH, height=BOX_HEIGHT, rx=4,
                         class_="node under"))  # fmt: skip
    parts.append(tag("rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=4, class_=kind))
    if box.root:
        parts.append(tag("rect", x=x + 3, y=y + 3, width=BOX_WIDTH - 6, height=BOX_HEIGHT - 6, rx=2,
                         class_="inner"))  # fmt: skip
    left = x + 10
    number = str(box.number)
    parts.append(svg.write(left, y + 17, number, "no"))
    head = svg.measure(number, 12) + 6
    room = BOX_WIDTH - 18 - head
    away = [line.target for line in graph.lines if line.source == box.number]
    far = [str(target) for target in away if target not in places]
    if far:  # told here, since no line can lead into another picture
        shown = svg.fit(f"to {', '.join(far)}", 60, 10.5)
        room -= svg.measure(shown, 10.5) + 6
    room -= 30 if found else 0
    right = x + BOX_WIDTH - (38 if found else 8)
    if far:
        parts.append(svg.write(right, y + 17, shown, "to small", anchor="end"))
    below = describe_arrival(box, graph)
    parts.append(svg.write(left + head, y + 17, svg.fit(below, room, 10.5), "s small"))
    for place, line in enumerate(svg.wrap_anywhere(box.label, BOX_WIDTH - 20, 12.5, 2)):
        parts.append(svg.write(left, y + 33 + 15 * place, line, "label"))
    if found:
        shown = str(found) if found < 100 else "99+"
        parts.append(tag("rect", x=x + BOX_WIDTH - 34, y=y + 6, width=26, height=15, rx=7,
                         class_="badge"))  # fmt: skip
        parts.append(svg.write(x + BOX_WIDTH - 21, y + 17, shown, "badgetext", anchor="middle"))
    return tag("g", *parts, class_="nodebox")


__all__ = ["draw_provenance", "fold_graph"]
