"""Stage `examples`: real and generated examples together, each text once, conflicts resolved.

What the splits promise is enforced here, whatever a reader said: sets for the test never train, no
attack of a technique that is held back trains, and no text (or near copy of one) is in two splits.
Texts that left validation or test because training has them are kept in `seen.jsonl`: a base of
false positives may want the whole stream.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from models.sentinel.near import NearIndex
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw, is_unseen, read_rows, write_rows
from models.sentinel.scrub import scrub_text

#: Sources that are for the test alone.
TEST_ONLY: Final = frozenset({"evtx-attack-samples", "stockpile", "gtkcyber"})
#: Sources that are for training and validation alone.
NEVER_TEST: Final = frozenset({"life", "sigma", "eqllib", "exclusions"})
#: Near copies of one text that training keeps, of one kind, label and source.
NEAR_COPIES: Final = 3
#: Texts of one source, kind and label that training keeps.
MAX_OF_KIND: Final = 5000
_NEAR: Final = 0.85
_NEAR_OTHER_SPLIT: Final = 0.9
_ORDER: Final[tuple[Split, ...]] = ("train", "valid", "test")

#: Each source with its licence and what is wrong with its labels.
SOURCES: Final[dict[str, tuple[str, str]]] = {
    "life": (
        "ours, Apache-2.0",
        "templates written from knowledge: ordinary by construction, breadth is ours",
    ),
    "ordinary": ("mixed, by row", "scripts of administrators hold a few offensive-looking helpers"),
    "exclusions": ("mixed, by row", "unlabelled patterns, no telemetry"),
    "evtx-attack-samples": (
        "GPL-3.0",
        "the file is the label; `attack_event` is a guess by rules and process tree",
    ),
    "security-datasets": (
        "MIT",
        "attack by process tree and rules: injected and long-running processes are missed, "
        "a tree may hold an ordinary child",
    ),
    "eqllib": ("MIT", "by process tree of the test framework and rules; weak"),
    "atomic-red-team": ("MIT", "many tests are what administrators do too (whoami, net user)"),
    "stockpile": ("Apache-2.0", "as atomic-red-team; some abilities are cleaning up"),
    "lolbas": ("GPL-3.0", "placeholders are filled by us"),
    "gtfobins": ("GPL-3.0", "reading and writing files is ordinary: weight 0.15"),
    "psencmds": (
        "none stated, published by Palo Alto Networks Unit 42",
        "a few are of administrators' tools",
    ),
    "nl2bash": ("MIT", "questions of beginners: more find than life has"),
    "tldr": ("CC-BY-4.0", "placeholders are filled by us; offensive tools are left out by a list"),
    "sigma": ("DRL-1.1", "made up of rules' literals: no real command line, weight 0.5"),
    "fail2ban-logs": ("GPL-2.0", "`match: true` is an attack line; others are unlabelled"),
    "wazuh-ruleset": ("GPL-2.0", "by the level of the expected rule: 8 and above, below 4"),
    "loghub": (
        "research and academic use",
        "calm systems are ordinary; sshd's words tell guessing",
    ),
    "gtkcyber": ("none stated", "by sshd's words"),
    "auditd": ("mixed", "mostly unlabelled samples of parsers"),
    "cowrie": ("none stated", "all is hostile, much of it is `ls` and `uname`: weight 0.6"),
    "fwaf": ("none stated", "noisy: weight 0.6, plain words left out"),
    "libinjection": ("BSD-3-Clause", "values are put into queries by us"),
    "coreruleset": ("Apache-2.0", "negative tests are built to be near misses: weight 0.4"),
    "access-logs": ("Apache-2.0", "unlabelled"),
    "rita": ("GPL-3.0", "ordinary but for one beacon, which is unlabelled"),
    "stratosphere": ("GPL-2.0", "folders named benign or normal are ordinary, others unlabelled"),
    "zeek-wrccdc": ("CC-BY-SA", "unlabelled"),
    "dga": ("see the set", "random sites visited are taken as ordinary"),
    "tunnel": ("see the set", ""),
}


def name_source(row: Example) -> str:
    """The source without what stands behind a colon."""
    return row.source.partition(":")[0]


def enforce_splits(rows: Iterable[Example]) -> Iterator[Example]:
    """The rows with the splits that their source and techniques allow, lab words taken out."""
    for row in rows:
        source = name_source(row)
        row.text = scrub_text(row.text)
        if source in TEST_ONLY:
            row.split = "test"
        elif source in NEVER_TEST and row.split == "test":
            row.split = "valid"
        if (row.label == 1 or row.attack_event) and row.techniques and is_unseen(row.techniques):
            row.unseen = True
            if row.split == "train":
                row.split = (
                    "valid"
                    if source in NEVER_TEST or draw("unseen-split", row.group) < 20
                    else "test"
                )
        yield row


def resolve_conflicts(rows: Sequence[Example], counts: Counter[str]) -> list[Example]:
    """The rows without contradictions: a text that is ordinary somewhere is no attack, unless the
    attack is explicit (a rule of high level fired on the event). Explicit attacks win over the
    background of captures; against what we know to be ordinary both are dropped."""
    known: set[tuple[str, str]] = set()
    background: set[tuple[str, str]] = set()
    explicit: set[tuple[str, str]] = set()
    for row in rows:
        if row.label == 0:
            sure = name_source(row) not in ("security-datasets", "eqllib")
            (known if sure else background).add((row.kind, row.text))
        elif row.explicit:
            explicit.add((row.kind, row.text))
    kept = []
    for row in rows:
        key = (row.kind, row.text)
        if row.label == 0:
            if key in explicit:
                counts["ordinary dropped: the same text is an explicit attack"] += 1
                continue
        elif (row.label == 1 or row.attack_event) and (
            key in known or (key in background and not row.explicit)
        ):
            counts["attack dropped: the same text is ordinary"] += 1
            continue
        kept.append(row)
    return kept


def remove_copies(
    rows: Sequence[Example], counts: Counter[str]
) -> tuple[list[Example], list[Example]]:
    """Each text once, in the first of train, valid, test that has it; and the rows that lost their
    place to an earlier split."""
    best: dict[tuple[str, str], Example] = {}
    seen: dict[tuple[str, str, str], Example] = {}
    for split in _ORDER:
        for row in rows:
            if row.split != split:
                continue
            key = (row.kind, row.text)
            held = best.get(key)
            if held is None:
                best[key] = row
            elif held.split != split:
                counts[f"copies: {split} has a text of {held.split}"] += 1
                seen.setdefault((*key, split), row)
            else:
                counts[f"copies: within {split}"] += 1
                _merge(held, row)
    return list(best.values()), list(seen.values())


def _merge(held: Example, other: Example) -> None:
    """Put what a second row of the same text knows into the first: a label wins over none."""
    if held.label is None and other.label is not None:
        held.label, held.source, held.group = other.label, other.source, other.group
        held.weight = other.weight
    held.attack_event = held.attack_event or other.attack_event
    held.explicit = held.explicit or other.explicit
    if held.label == other.label:
        held.weight = max(held.weight, other.weight)
        held.techniques = list(dict.fromkeys([*held.techniques, *other.techniques]))[:8]


def thin_near_copies(
    rows: Sequence[Example], seed: int, counts: Counter[str]
) -> tuple[list[Example], list[Example]]:
    """Train: of near copies of one kind, label and source NEAR_COPIES stay. Valid and test: what is
    nearly a text of train with the same label goes to the second list."""
    within = NearIndex(_NEAR, seed)
    groups: dict[int, Counter[tuple[str, int | None, str]]] = defaultdict(Counter)
    numbers: dict[int, list[int | None]] = {}
    kept: list[Example] = []
    lost: list[Example] = []
    across = NearIndex(_NEAR_OTHER_SPLIT, seed)
    for row in rows:
        if row.split != "train":
            continue
        signature = within.sign(f"{row.kind} {row.text}")
        found = within.similar(signature)
        if found is None:
            found = within.add(signature)
        key = (row.kind, row.label, name_source(row))
        groups[found][key] += 1
        if groups[found][key] > NEAR_COPIES:
            counts["near copies: within train"] += 1
            continue
        kept.append(row)
        numbers.setdefault(across.add(signature), []).append(row.label)
    for row in rows:
        if row.split == "train":
            continue
        found = across.similar(across.sign(f"{row.kind} {row.text}"))
        label = 1 if row.attack_event else row.label
        if found is not None and label in numbers[found]:
            counts[f"near copies: {row.split} of train"] += 1
            lost.append(row)
        else:
            kept.append(row)
    return kept, lost


def cap_kinds(
    rows: Iterable[Example], counts: Counter[str], limit: int = MAX_OF_KIND
) -> list[Example]:
    """Train's rows of one source, kind and label, no more than `limit`, chosen by their text."""
    groups: dict[tuple[str, str, int | None], list[Example]] = defaultdict(list)
    kept = []
    for row in rows:
        if row.split == "train" and name_source(row) != "life":
            groups[name_source(row), row.kind, row.label].append(row)
        else:
            kept.append(row)
    for (source, kind, _), members in sorted(groups.items(), key=lambda item: str(item[0])):
        if len(members) > limit:
            counts[f"capped: {source} {kind}"] += len(members) - limit
            members.sort(key=lambda row: (draw("cap", row.text), row.text))
        kept += members[:limit]
    return kept


def select_examples(
    rows: Iterable[Example], seed: int, counts: Counter[str]
) -> tuple[list[Example], list[Example]]:
    """The whole stage on rows: what stays, and what valid and test lost to train."""
    held = resolve_conflicts(list(enforce_splits(rows)), counts)
    held, seen = remove_copies(held, counts)
    held, near = thin_near_copies(held, seed, counts)
    held = cap_kinds(held, counts)
    held.sort(key=lambda row: (_ORDER.index(row.split), row.kind, row.source, row.group, row.text))
    return held, seen + near


def make_card(
    rows: Sequence[Example], seen: Sequence[Example], counts: Counter[str]
) -> dict[str, Any]:
    """The counts of what was made, and what is known of the sources."""

    def name(label: int | None) -> str:
        return {1: "attack", 0: "ordinary", None: "unlabelled"}[label]

    kinds: dict[str, dict[str, dict[str, int]]] = {}
    sources: dict[str, dict[str, dict[str, int]]] = {}
    shapes: dict[str, Counter[str]] = defaultdict(Counter)
    unseen: Counter[str] = Counter()
    techniques: Counter[str] = Counter()
    for row in rows:
        for table, key in ((kinds, row.kind), (sources, name_source(row))):
            cell = table.setdefault(key, {}).setdefault(row.split, {})
            cell[name(row.label)] = cell.get(name(row.label), 0) + 1
            if row.label is None and row.attack_event:
                cell["attack_event"] = cell.get("attack_event", 0) + 1
        if row.label is not None and row.kind == "process":
            shapes[f"{row.os} {row.shape}"][name(row.label)] += 1
        if row.label == 1 or row.attack_event:
            techniques.update(row.techniques)
            if row.unseen:
                unseen[row.split] += 1
    return {
        "examples": len(rows),
        "splits": dict(Counter(row.split for row in rows)),
        "kinds": kinds,
        "sources": sources,
        "process_shapes": {shape: dict(cell) for shape, cell in sorted(shapes.items())},
        "techniques": dict(techniques.most_common()),
        "unseen_parents": sorted({t.partition(".")[0] for t in techniques if is_unseen([t])}),
        "unseen_attacks": dict(unseen),
        "removed": dict(counts.most_common()),
        "seen": dict(Counter(row.split for row in seen)),
        "about": {
            name: {"licence": licence, "noise": noise} for name, (licence, noise) in SOURCES.items()
        },
    }


def write_card(card: dict[str, Any]) -> str:
    """The card as a page of Markdown."""
    lines = [
        "# Data card of the sentinel",
        "",
        f"{card['examples']} examples: "
        + ", ".join(f"{split} {count}" for split, count in card["splits"].items())
        + ".",
        "",
    ]
    for title, table in (("Kinds", card["kinds"]), ("Sources", card["sources"])):
        lines += [
            f"## {title}",
            "",
            "| | split | attack | ordinary | unlabelled | of these plausibly attack |",
            "|---|---|---|---|---|---|",
        ]
        for key in sorted(table):
            for split in _ORDER:
                if (cell := table[key].get(split)) is not None:
                    cells = (
                        str(cell.get(column, 0))
                        for column in ("attack", "ordinary", "unlabelled", "attack_event")
                    )
                    lines.append(f"| {key} | {split} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Forms of process texts", "", "| form | attack | ordinary |", "|---|---|---|"]
    lines += [
        f"| {s} | {c.get('attack', 0)} | {c.get('ordinary', 0)} |"
        for s, c in card["process_shapes"].items()
    ]
    lines += [
        "",
        "## Techniques held back from training",
        "",
        ", ".join(card["unseen_parents"]),
        "",
        "Their attack examples: "
        + ", ".join(f"{s} {n}" for s, n in card["unseen_attacks"].items()),
        "",
        "## Removed",
        "",
    ]
    lines += [f"- {reason}: {count}" for reason, count in card["removed"].items()]
    lines += [
        "",
        "## Licences and known noise",
        "",
        "| source | licence | what is wrong with its labels |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['licence']} | {row['noise']} |" for name, row in card["about"].items()
    ]
    return "\n".join(lines) + "\n"


#: Percent of the rows that a small run keeps.
_SMALL_SHARE: Final = 12


def run(options: Options) -> None:
    """Write examples.jsonl, seen.jsonl, data_card.json and data_card.md. Raises ValueError when a
    label is missing from training."""
    work = options.work
    counts: Counter[str] = Counter()
    rows = (row for name in ("corpus.jsonl", "life.jsonl") for row in read_rows(work / name))
    if options.small:
        rows = (row for row in rows if draw("small", row.text) < _SMALL_SHARE)
    kept, seen = select_examples(rows, options.seed, counts)
    labels = {row.label for row in kept if row.split == "train"}
    if not {0, 1} <= labels:
        raise ValueError("training lacks attacks or ordinary examples")
    card = make_card(kept, seen, counts)
    write_rows(work / "examples.jsonl", kept)
    write_rows(work / "seen.jsonl", seen)
    _write(work / "data_card.json", json.dumps(card, indent=1) + "\n")
    _write(work / "data_card.md", write_card(card))
    print(f"examples: {len(kept)}, {card['splits']}; beside them {len(seen)} that train has seen")


def _write(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
