"""How well a rule's text finds its own ATT&CK tags, and where to set the similarity floor.

    python -m benchmarks.knowledge_floor RULES_DIR --base DIR --models DIR [--floor F]

Reads title, description and tags of every Sigma rule, searches the base for the text, and counts
how often the first entry (as if the rule had no tags) is one of the rule's own techniques, its
parent or its child. The floor is chosen on half of the rules (by hash of the path) as the lowest
at which precision is at least --precision, and reported on the other half.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from appliance.errors import ApplianceError
from appliance.inference.client import EncoderClient
from appliance.knowledge.base import KnowledgeBase

_TAG = re.compile(r"attack\.(t\d{4}(?:\.\d{3})?)", re.IGNORECASE)


class TaggedRule(NamedTuple):
    """A rule's text and its techniques; `chooses` when it is in the half that chooses the floor."""

    text: str
    techniques: tuple[str, ...]
    chooses: bool


class Answer(NamedTuple):
    """Best entry for one rule: its cosine, and whether the rule's tags agree (any of the first
    three, five)."""

    score: float
    first: bool
    in_three: bool
    in_five: bool


def read_rules(folder: Path) -> Iterator[TaggedRule]:
    """Every rule with at least one technique tag."""
    for path in sorted(folder.rglob("*.yml")):
        document = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(document, dict) or "title" not in document:
            continue
        found = [_TAG.fullmatch(str(tag)) for tag in document.get("tags") or []]
        techniques = tuple(match[1].upper() for match in found if match)
        if techniques:
            name = str(path.relative_to(folder)).encode()
            half = hashlib.sha256(name).digest()[0] % 2 == 0
            text = f"{document['title']}. {document.get('description') or ''}"
            yield TaggedRule(text, techniques, half)


def name_today(base: KnowledgeBase, rule: TaggedRule) -> TaggedRule:
    """The rule with those of its techniques that the base knows, by the base's ids: rules are
    tagged with those of other releases, too."""
    found = (base.entry(tag) for tag in rule.techniques)
    return rule._replace(techniques=tuple(entry.id for entry in found if entry is not None))


def is_related(found: str, techniques: Sequence[str]) -> bool:
    """Whether the technique is one of these, or the parent or a sub-technique of one."""
    return any(
        found == tag or found == tag.partition(".")[0] or found.partition(".")[0] == tag
        for tag in techniques
    )


def answer_rule(base: KnowledgeBase, rule: TaggedRule, vector: NDArray[np.float32]) -> Answer:
    """Search as the knowledge expert does, and compare with the rule's own tags."""
    hits = base.search(vector, 5, "technique")
    related = [is_related(hit.entry.external_id, rule.techniques) for hit in hits]
    return Answer(hits[0].score, related[0], any(related[:3]), any(related))


def choose_floor(answers: Sequence[Answer], precision: float) -> float | None:
    """The lowest floor (two digits) at or above which at least `precision` of the first entries
    agree; None when there is none."""
    for floor in np.arange(0.30, 1.0, 0.01):
        above = [answer for answer in answers if answer.score >= floor]
        if above and sum(answer.first for answer in above) / len(above) >= precision:
            return round(float(floor), 2)
    return None


def print_row(name: str, answers: Sequence[Answer], floor: float) -> None:
    """Precision and coverage at a floor, with counts."""
    above = [answer for answer in answers if answer.score >= floor]
    right = sum(answer.first for answer in above)
    share = right / len(above) if above else float("nan")
    print(
        f"{name}: floor {floor:.2f}: precision {share:.3f} ({right}/{len(above)}), "
        f"coverage {len(above) / len(answers):.3f} ({len(above)}/{len(answers)})"
    )


def main() -> int:
    """Print the figures. Exit status 1 when there is nothing to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rules", type=Path, help="folder of Sigma rules")
    parser.add_argument("--base", type=Path, required=True, help="knowledge base folder")
    parser.add_argument("--models", type=Path, required=True, help="folder with encoder/")
    parser.add_argument("--precision", type=float, default=0.60, help="wanted while choosing")
    parser.add_argument("--floor", type=float, help="report this floor instead of choosing one")
    options = parser.parse_args()
    client = EncoderClient(options.models / "encoder" / "encoder.gguf")
    try:
        client.start()
        base = KnowledgeBase.open(options.base, client.model_hash)
        tagged = list(read_rules(options.rules))
        rules = [rule for rule in (name_today(base, rule) for rule in tagged) if rule.techniques]
        if not rules:
            print(f"no tagged rules under {options.rules}")
            return 1
        vectors = client.embed([rule.text for rule in rules])
    except ApplianceError as error:
        print(error)
        return 1
    finally:
        client.close()
    answers = [answer_rule(base, rule, row) for rule, row in zip(rules, vectors, strict=True)]
    print(f"rules with technique tags: {len(tagged)}, of which the base knows one: {len(rules)}")
    for name, right in (
        ("first", sum(answer.first for answer in answers)),
        ("first three", sum(answer.in_three for answer in answers)),
        ("first five", sum(answer.in_five for answer in answers)),
    ):
        print(f"own technique among {name}: {right / len(answers):.3f} ({right}/{len(answers)})")
    chosen = [answer for answer, rule in zip(answers, rules, strict=True) if rule.chooses]
    others = [answer for answer, rule in zip(answers, rules, strict=True) if not rule.chooses]
    floor = options.floor or choose_floor(chosen, options.precision)
    if floor is None:
        print(f"no floor reaches precision {options.precision}")
        return 1
    print_row("half that chooses", chosen, floor)
    print_row("other half", others, floor)
    for step in (0.50, 0.55, 0.60, 0.65, 0.70):
        print_row("all", answers, step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
