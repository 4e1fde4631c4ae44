"""Behind the store, for an incident's report: a provenance graph folded and laid out.

Nodes of one host form a band; in a band, columns are layers (the longest way from what has no
parent in it, as Sugiyama, Tagawa and Toda 1981 layer a graph), and in a column nodes stand in the
order of their parents. Everything is deterministic: equal graphs give equal pictures. Before that,
siblings that read alike become one box with a number, and what is over the cap goes, first what
matters least; every count of what is not drawn is kept.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from appliance.incident import Provenance, TraceEdge, TraceNode
from appliance.report.markup import make_visible

#: Boxes of a picture; nodes over it are left out and counted.
MAX_BOXES: Final = 80
#: Graphs larger than this fold siblings by the first word of their label, too.
CROWDED: Final = 60
#: Leaf siblings of one kind under one parent before they fold whatever they are called.
MANY_LEAVES: Final = 6
MAX_COLUMN: Final = 5
NO_HOST: Final = "(no host)"


class Box(msgspec.Struct, frozen=True):
    """One or more nodes drawn as one box. `number` names it in the picture and the list."""

    number: int
    kind: str
    label: str
    host: str
    role: str
    root: bool
    nodes: tuple[TraceNode, ...]

    @property
    def first(self) -> float:
        """Its earliest time."""
        return min(node.first for node in self.nodes)

    @property
    def findings(self) -> tuple[str, ...]:
        """Ids of the findings on its nodes."""
        return tuple(dict.fromkeys(f for node in self.nodes for f in node.findings))


class Line(msgspec.Struct, frozen=True):
    """Edges between two boxes, by the boxes' numbers."""

    source: int
    target: int
    verbs: tuple[str, ...]
    time: float
    count: int


class Graph(msgspec.Struct, frozen=True):
    """What is drawn, and how many nodes are not."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    left_out: int


class Placed(msgspec.Struct, frozen=True):
    """Where a box stands: column and row inside its host's band."""

    box: Box
    column: int
    row: int


class Band(msgspec.Struct, frozen=True):
    """A host's boxes. `rows` and `columns` count what they take."""

    host: str
    placed: tuple[Placed, ...]
    rows: int
    columns: int


_ROLE_WEIGHT: Final = {"root": 0, "path": 1, "ancestor": 2, "descendant": 3, "touched": 4}


def fold_graph(provenance: Provenance, most: int = MAX_BOXES) -> Graph:
    """Boxes and lines of a provenance graph. Edges to nodes that are not there are left out."""
    nodes = {node.id: node for node in provenance.nodes}
    edges = [e for e in provenance.edges if e.source in nodes and e.target in nodes]
    groups = _group_nodes(nodes, edges, frozenset(provenance.roots))
    kept = _choose_groups(groups, edges, provenance.roots, most)
    kept.sort(key=lambda group: (min(n.first for n in group), group[0].id))
    boxes = tuple(
        _make_box(number, group, provenance.roots) for number, group in enumerate(kept, 1)
    )
    home = {node.id: box.number for box in boxes for node in box.nodes}
    return Graph(boxes, _join_edges(edges, home), len(nodes) - len(home))


def _group_nodes(
    nodes: dict[str, TraceNode], edges: Sequence[TraceEdge], roots: frozenset[str]
) -> list[list[TraceNode]]:
    parents: dict[str, set[tuple[str, str]]] = defaultdict(set)
    children: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for edge in edges:
        if edge.source != edge.target:
            parents[edge.target].add((edge.source, edge.verb))
            children[edge.source].add((edge.target, edge.verb))
    groups: dict[tuple[object, ...], list[TraceNode]] = {}
    loose = len(nodes) > CROWDED
    for node in sorted(nodes.values(), key=lambda node: (node.first, node.id)):
        alone = node.id in roots or node.role == "root" or not parents[node.id]
        key: tuple[object, ...] = (node.id,)
        if not alone:
            name = read_head(node) if loose else node.label
            key = (node.kind, node.host, name,
                   frozenset(parents[node.id]), frozenset(children[node.id]))  # fmt: skip
        groups.setdefault(key, []).append(node)
    return _fold_leaves(list(groups.values()), parents, children, roots)


def _fold_leaves(
    groups: list[list[TraceNode]],
    parents: dict[str, set[tuple[str, str]]],
    children: dict[str, set[tuple[str, str]]],
    roots: frozenset[str],
) -> list[list[TraceNode]]:
    """Many leaves of one kind under one parent, and without findings, become one."""
    leaves: dict[tuple[object, ...], list[list[TraceNode]]] = defaultdict(list)
    rest = []
    for group in groups:
        node = group[0]
        plain = not children[node.id] and parents[node.id] and node.id not in roots
        if plain and not any(n.findings for n in group):
            origin = frozenset(source for source, _ in parents[node.id])
            leaves[node.kind, node.host, origin].append(group)
        else:
            rest.append(group)
    for alike in leaves.values():
        if len(alike) >= MANY_LEAVES:
            rest.append([node for group in alike for node in group])
        else:
            rest += alike
    return rest


def read_head(node: TraceNode) -> str:
    """What a node is called without its arguments: "cmd.exe" of a command line."""
    word = node.label.split(" ", 1)[0] if node.kind == "process" else node.label
    return word.strip("\"'").replace("\\", "/").rstrip("/").rpartition("/")[2] or node.label


def _choose_groups(
    groups: Sequence[list[TraceNode]], edges: Sequence[TraceEdge], roots: Sequence[str], most: int
) -> list[list[TraceNode]]:
    """At most `most` groups: the weightiest, each with the way that leads to it from a root."""
    home = {node.id: place for place, group in enumerate(groups) for node in group}
    parent: dict[int, int] = {}
    for edge in sorted(edges, key=lambda edge: (edge.time, edge.source, edge.target)):
        source, target = home[edge.source], home[edge.target]
        if source != target:
            parent.setdefault(target, source)
    chosen: dict[int, None] = {}
    order = sorted(range(len(groups)), key=lambda place: _importance(groups[place], roots))
    for place in order:
        way = [place]
        while way[-1] in parent and parent[way[-1]] not in chosen and parent[way[-1]] not in way:
            way.append(parent[way[-1]])
        fresh = [step for step in way if step not in chosen]
        if len(chosen) + len(fresh) <= most:
            chosen.update(dict.fromkeys(fresh))
    return [groups[place] for place in chosen]


def _importance(group: Sequence[TraceNode], roots: Sequence[str]) -> tuple[int, int, float, str]:
    role = min(_ROLE_WEIGHT.get(node.role, 5) for node in group)
    if any(node.id in roots for node in group):
        role = 0
    found = any(node.findings for node in group)
    return (role if not found else min(role, 1), -found, group[0].first, group[0].id)


def _make_box(number: int, group: Sequence[TraceNode], roots: Sequence[str]) -> Box:
    node = group[0]
    label = node.label
    if len(group) > 1:
        heads = list(dict.fromkeys(read_head(member) for member in group))
        what = heads[0] if len(heads) == 1 else f"{name_many(node.kind)}: {', '.join(heads[:20])}"
        label = f"{len(group)} x {what}" if len(heads) == 1 else f"{len(group)} {what}"
    role = min((member.role for member in group), key=lambda r: _ROLE_WEIGHT.get(r, 5))
    root = any(member.id in roots or member.role == "root" for member in group)
    host = node.host or NO_HOST
    return Box(number, node.kind, make_visible(label, 400), host, role, root, tuple(group))


def name_many(kind: str) -> str:
    """The plural of a node's kind."""
    return {"process": "processes", "registry": "registry keys", "address": "addresses"}.get(
        kind, f"{kind}s"
    )


def _join_edges(edges: Iterable[TraceEdge], home: dict[str, int]) -> tuple[Line, ...]:
    joined: dict[tuple[int, int], list[TraceEdge]] = defaultdict(list)
    for edge in edges:
        source, target = home.get(edge.source), home.get(edge.target)
        if source is not None and target is not None and source != target:
            joined[source, target].append(edge)
    return tuple(
        Line(
            source,
            target,
            tuple(dict.fromkeys(edge.verb for edge in found)),
            min(edge.time for edge in found),
            sum(edge.count for edge in found),
        )
        for (source, target), found in sorted(joined.items())
    )


def place_boxes(graph: Graph) -> list[Band]:
    """Bands of hosts in the order of their first box, with every box at a place of its own."""
    bands: dict[str, list[Box]] = {}
    for box in graph.boxes:
        bands.setdefault(box.host, []).append(box)
    return [_place_band(host, boxes, graph.lines) for host, boxes in bands.items()]


def _place_band(host: str, boxes: Sequence[Box], lines: Sequence[Line]) -> Band:
    inside = {box.number for box in boxes}
    own = [line for line in lines if line.source in inside and line.target in inside]
    columns = find_layers([box.number for box in boxes], own)
    joined = {number for line in own for number in (line.source, line.target)}
    rows = find_rows([box.number for box in boxes if box.number in joined], own, columns)
    placed = [
        Placed(box, columns[box.number], rows[box.number]) for box in boxes if box.number in rows
    ]
    begin = max(rows.values(), default=-1) + 1
    loners = [box for box in boxes if box.number not in joined]
    for place, box in enumerate(loners):  # in lines below: nothing leads from one to another
        placed.append(Placed(box, place % (MAX_COLUMN + 1), begin + place // (MAX_COLUMN + 1)))
    return Band(
        host,
        tuple(placed),
        max(spot.row for spot in placed) + 1,
        max(spot.column for spot in placed) + 1,
    )


def find_rows(
    numbers: Sequence[int], lines: Sequence[Line], columns: dict[int, int]
) -> dict[int, int]:
    """The row of each box, as a tidy tree has it: a box stands beside its parent (of several the
    first in the layer before it), the parent's further children below, each with all that follows
    from it. A row is one way through the layers, so no two boxes share a place."""
    parent: dict[int, int] = {}
    for line in sorted(lines, key=lambda line: (-columns[line.source], line.time, line.source)):
        if (columns[line.source], line.source) < (columns[line.target], line.target):
            parent.setdefault(line.target, line.source)
    children: dict[int, list[int]] = defaultdict(list)
    for child, source in sorted(parent.items()):
        children[source].append(child)
    rows: dict[int, int] = {}
    free = 0
    for start in (number for number in sorted(numbers) if number not in parent):
        waiting = [start]
        while waiting:
            number = waiting.pop()
            above = parent.get(number)
            if above is None or children[above][0] != number or columns[above] == columns[number]:
                rows[number] = free
                free += 1
            else:
                rows[number] = rows[above]
            waiting += reversed(children[number])
    return rows


def find_layers(numbers: Sequence[int], lines: Sequence[Line]) -> dict[int, int]:
    """The layer of each box: one more than its deepest parent's, at most MAX_COLUMN. Where edges
    go round in a circle, the lowest number (the earliest) in it is taken to come first."""
    waiting: dict[int, set[int]] = {number: set() for number in numbers}
    children: dict[int, list[int]] = defaultdict(list)
    for line in lines:
        waiting[line.target].add(line.source)
        children[line.source].append(line.target)
    layers: dict[int, int] = dict.fromkeys(numbers, 0)
    left = sorted(numbers)
    done: set[int] = set()
    while left:
        ready = next((number for number in left if not waiting[number]), left[0])
        left.remove(ready)
        done.add(ready)
        for child in children[ready]:
            waiting[child].discard(ready)
            if child not in done:
                layers[child] = max(layers[child], min(layers[ready] + 1, MAX_COLUMN))
    return layers
