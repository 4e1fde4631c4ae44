"""Reads names that are asked for: of domain generators, of tunnels, and of ordinary sites. Two
families of generators are for the test."""

import csv
import random
import re
from collections.abc import Iterator
from typing import Final

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw

_MAX_OF_FAMILY: Final = 400
_MAX_ORDINARY: Final = 3000
_MAX_TUNNEL: Final = 2000
#: Programs that ask for names, for attacks and ordinary names alike; most queries name none.
_IMAGES: Final = (
    "C:\\Windows\\System32\\svchost.exe",
    "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
    "C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe",
)
_ORDINARY: Final = ("opendns-top-domains", "opendns-random-domains")
#: One family that draws letters, one that joins words; and the domain of one tunnel.
_TEST_FAMILIES: Final = ("zeus", "matsnu")
_TEST_TUNNEL: Final = "tuns.org"
_SIZES: Final = {"opendns-top-domains": _MAX_ORDINARY, "opendns-random-domains": _MAX_ORDINARY}


def _write(name: str, rng: random.Random) -> str | None:
    fields = {"QueryName": name.rstrip(".")}
    if rng.random() < 0.3:
        fields["Image"] = rng.choice(_IMAGES)
    texts = write_texts("dns", fields)
    return texts[0].text if texts else None


def read_generated(options: Options) -> Iterator[Example]:
    """Domain generators' names by family, and sites that people visit."""
    for path in sorted((options.data / "dns" / "dga").glob("*.txt")):
        family = path.stem
        ordinary = family in _ORDINARY
        split: Split = "test" if family in _TEST_FAMILIES else "train"
        rng = random.Random(f"{options.seed}:dga:{family}")
        names = sorted(
            {n.strip() for n in path.read_text(encoding="utf-8").splitlines() if "." in n}
        )
        for name in rng.sample(names, min(_SIZES.get(family, _MAX_OF_FAMILY), len(names))):
            text = _write(f"www.{name}" if ordinary and rng.random() < 0.3 else name, rng)
            if text is not None:
                in_test = split == "test" or (ordinary and draw("site", name) < 15)
                yield Example(
                    text=text,
                    kind="dns",
                    label=0 if ordinary else 1,
                    source="dga",
                    group=f"dga:{family}",
                    shape="dns",
                    os="network",
                    weight=0.8,
                    techniques=[] if ordinary else ["T1568.002"],
                    split="test" if in_test else "train",
                    attack_event=not ordinary,
                )


def read_tunnels(options: Options) -> Iterator[Example]:
    """Names of tunnels, and those of ordinary queries beside them; by their domain."""
    with (options.data / "dns" / "tunnel" / "train.csv").open(
        encoding="utf-8", errors="replace"
    ) as file:
        rows = [
            (row[0], row[1]) for row in csv.reader(file) if len(row) > 1 and row[0] in ("0", "1")
        ]
    rng = random.Random(f"{options.seed}:tunnel")
    for label, name in rng.sample(rows, min(_MAX_TUNNEL, len(rows))):
        domain = ".".join(re.split(r"\.", name.rstrip("."))[-2:])
        text = _write(name, rng)
        if text is not None:
            hostile = label == "1"
            yield Example(
                text=text,
                kind="dns",
                label=int(hostile),
                source="tunnel",
                group=f"tunnel:{domain}",
                shape="dns",
                os="network",
                weight=0.8,
                techniques=["T1071.004"] if hostile else [],
                split="test"
                if domain == _TEST_TUNNEL or (not hostile and draw("tunnel", domain) < 20)
                else "train",
                attack_event=hostile,
            )


def read_dns(options: Options) -> Iterator[Example]:
    """Both collections."""
    yield from read_generated(options)
    yield from read_tunnels(options)
