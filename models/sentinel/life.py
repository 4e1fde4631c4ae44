"""Stage `life`: templates of what healthy systems do (life/*.yaml) become examples, all ordinary.

A template is one entry of `lines`. Its slots, [[...]], are filled from the inside out and again
until none is left; a slot without an argument has one value within a line. Every template is
expanded several times, a process in a form that is drawn each time (see `shapes`). One template in
ten is for validation, none for the test: these are our own words, a test must be of others'.
"""

import base64
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw, write_rows
from models.sentinel.shapes import LINUX_PARENTS, WINDOWS_PARENTS, System, render_process

#: Where the templates are.
TEMPLATES: Final = Path(__file__).parent / "life"
#: Expansions of one template.
EXPANSIONS: Final = 4
#: Rounds of filling one line; nested slots need as many as they are deep.
_MAX_ROUNDS: Final = 12
_MAX_LINE: Final = 32_768
_VALID_PERCENT: Final = 10
#: Share of what shells start that gets a parent of the common ones.
_ANY_PARENT: Final = 0.5
_SHELLS: Final = re.compile(r"(?:cmd|powershell|explorer)\.exe$|/(?:ba)?sh$", re.IGNORECASE)
#: A slot whose inside holds no other slot. A blank behind the brackets makes them a shell's test.
_SLOT: Final = re.compile(r"\[\[(?![\s\[])((?:[^\[\]]|\[(?!\[)|\](?!\]))*)\]\]")
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_RANGE: Final = re.compile(r"n:(-?\d+)-(\d+)")
_HEX: Final = re.compile(r"hex:(\d{1,3})")
#: Stands for a bracket that [[lbr]] wrote, until the line is done.
_BRACKET: Final = "\ue000"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"

#: The fields of each kind whose lines have parts, in their order (see life/README.md).
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "registry": ("TargetObject", "Details", "Image"),
    "service": ("ServiceName", "ImagePath", "ServiceType", "StartType", "AccountName"),
    "task": ("TaskName", "Command", "UserId"),
    "file": ("Image", "TargetFilename"),
    "image_load": ("Image", "ImageLoaded"),
    "network": ("Image", "DestinationHostname", "DestinationPort", "Protocol"),
    "pipe": ("Image", "PipeName"),
    "dns": ("QueryName",),
    "url": ("cs-method", "cs-host", "cs-uri", "cs-user-agent", "sc-status"),
    "logline": ("program", "message"),
    "script": ("ScriptBlockText",),
    "process": ("CommandLine",),
}
_SHAPES: Final = {
    "registry": "sysmon13", "service": "7045", "task": "4698", "file": "sysmon11",
    "image_load": "sysmon7", "network": "sysmon3", "pipe": "sysmon17", "dns": "dns",
    "url": "access", "logline": "syslog", "script": "4104",
}  # fmt: skip

#: Lists of values by the slot's name.
Slots = Mapping[str, Sequence[str]]


class Filler:
    """Fills the slots of lines from lists and from one generator of draws."""

    def __init__(self, slots: Slots, rng: random.Random) -> None:
        self._slots = slots
        self._rng = rng

    def fill(self, line: str) -> str:
        """The line with every slot filled. Raises ValueError for a slot that nothing fills, or
        lines that do not come to an end."""
        known: dict[str, str] = {}
        for _ in range(_MAX_ROUNDS):
            filled = _SLOT.sub(lambda match: self._value(match[1], known), line)
            if filled == line:
                return filled.replace(_BRACKET, "[")
            line = filled
            if len(line) > _MAX_LINE:
                break
        raise ValueError(f"slots without an end: {line[:200]!r}")

    def _value(self, slot: str, known: dict[str, str]) -> str:
        if _NAME.fullmatch(slot):
            if slot not in known:
                known[slot] = self._draw_name(slot)
            return known[slot]
        if (match := _RANGE.fullmatch(slot)) is not None:
            return str(self._rng.randint(int(match[1]), int(match[2])))
        if (match := _HEX.fullmatch(slot)) is not None:
            return self._hex(int(match[1]))
        head, colon, rest = slot.partition(":")
        if colon and head in ("b64", "b64u"):
            text = rest.replace(_BRACKET, "[")
            data = text.encode("utf-16-le" if head == "b64" else "utf-8", "replace")
            return base64.b64encode(data).decode("ascii")
        if "|" in slot:
            return self._rng.choice(slot.split("|"))
        raise ValueError(f"unknown slot [[{slot}]]")

    def _hex(self, digits: int) -> str:
        return "".join(self._rng.choice("0123456789abcdef") for _ in range(digits))

    def _draw_name(self, name: str) -> str:  # noqa: PLR0911 - one for each slot
        rng = self._rng
        if name in self._slots:
            return rng.choice(self._slots[name])
        if name == "lbr":
            return _BRACKET
        if name == "guid":
            return str(uuid.UUID(int=rng.getrandbits(128), version=4))
        if name == "hash":
            return self._hex(64)
        if name == "id":
            return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(5, 10)))
        if name == "sid":
            parts = "-".join(str(rng.randint(10**8, 2**32 - 1)) for _ in range(3))
            return f"S-1-5-21-{parts}-{rng.randint(1000, 9999)}"
        if name == "ip":
            return self._address()
        number = {"pid": (300, 30_000), "port": (1024, 65_535), "kb": (4_000_000, 5_060_000)}
        if name in number:
            return str(rng.randint(*number[name]))
        if name == "version":
            return ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice((3, 4, 4))))
        if name == "date":
            return f"{rng.randint(2018, 2026)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        if name == "time":
            return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
        raise ValueError(f"unknown slot [[{name}]]")

    def _address(self) -> str:
        rng = self._rng
        last = f"{rng.randint(0, 255)}.{rng.randint(1, 254)}"
        return rng.choice(
            (
                f"10.{rng.randint(0, 255)}.{last}",
                f"192.168.{last}",
                f"172.{rng.randint(16, 31)}.{last}",
            )
        )


def read_templates(path: Path) -> dict[str, Any]:
    """A file of templates, checked. Raises ValueError with the group and line that is wrong."""
    with path.open(encoding="utf-8") as file:
        document = yaml.safe_load(file)
    if not isinstance(document, dict) or not isinstance(document.get("groups"), list):
        raise ValueError(f"{path.name}: no list of groups")
    for group in document["groups"]:
        where = f"{path.name}: {group.get('name')}"
        if group.get("kind") not in PARTS:
            raise ValueError(f"{where}: unknown kind {group.get('kind')!r}")
        if group.get("os") not in ("windows", "linux"):
            raise ValueError(f"{where}: unknown os {group.get('os')!r}")
        for line in group["lines"]:
            if not isinstance(line, str) or not line.strip():
                raise ValueError(f"{where}: {line!r} is no text")
    return document


def split_parts(kind: str, line: str) -> dict[str, str]:
    """The fields of one filled line; further bars belong to the last part. Raises ValueError when
    parts are missing."""
    names = PARTS[kind]
    if len(names) == 1:
        return {names[0]: line}
    parts = line.split("|", len(names) - 1)
    if kind == "url" and line.count("|") > len(names) - 1:
        # A query may hold bars; method and host before, agent and status behind it do not.
        method, site, rest = line.split("|", 2)
        parts = [method, site, *rest.rsplit("|", 2)]
    if len(parts) != len(names):
        raise ValueError(f"{len(parts)} parts where {kind} has {len(names)}: {line[:120]!r}")
    return dict(zip(names, parts, strict=True))


def expand_template(
    group: Mapping[str, Any], line: str, filler: Filler, rng: random.Random
) -> list[tuple[str, str, str]]:
    """One expansion as (kind, text, form). Raises ValueError for a line that can't be read."""
    kind, system = group["kind"], group["os"]
    filled = filler.fill(line)
    if kind == "process":
        parents = [filler.fill(parent) for parent in group.get("parents") or ()]
        named: System = "windows" if system == "windows" else "linux"
        if any(_SHELLS.search(parent) for parent in parents) and rng.random() < _ANY_PARENT:
            # What is typed or scripted is started by all that starts attacks' commands too.
            parents = list(WINDOWS_PARENTS if system == "windows" else LINUX_PARENTS)
        return [
            ("process", text, form) for text, form in render_process(filled, named, parents, rng)
        ]
    fields = split_parts(kind, filled)
    written = "log" if kind == "logline" else kind
    return [(written, text.text, _SHAPES[kind]) for text in write_texts(written, fields)]


def expand_file(
    path: Path, common: Slots, seed: int, faults: Counter[str], expansions: int = EXPANSIONS
) -> Iterator[Example]:
    """The examples of one file, each text of a template once. A template that can't be filled is
    counted in `faults` with its reason and left out."""
    document = read_templates(path)
    slots = {
        **common,
        **{name: list(map(str, v)) for name, v in (document.get("slots") or {}).items()},
    }
    for group in document["groups"]:
        for number, line in enumerate(group["lines"]):
            name = f"{path.stem}:{group['name']}:{number}"
            rng = random.Random(f"{seed}:{name}")
            filler = Filler(slots, rng)
            split: Split = "valid" if draw("life", line) < _VALID_PERCENT else "train"
            seen: set[str] = set()
            for _ in range(expansions):
                try:
                    texts = expand_template(group, line, filler, rng)
                except ValueError as error:
                    faults[f"{name}: {error}"] += 1
                    break
                for kind, text, form in texts:
                    if text in seen:
                        continue
                    seen.add(text)
                    yield Example(
                        text=text,
                        kind=kind,
                        label=0,
                        source=f"life:{path.name}:{group['name']}",
                        group=name,
                        shape=form,
                        os="network" if kind in ("dns", "url") else group["os"],
                        split=split,
                    )


def expand_traced(path: Path, seed: int) -> Iterator[Example]:
    """Programs that ordinary work was seen to run (see `trace`), each in two drawn forms."""
    for number, line in enumerate(path.read_bytes().splitlines()):
        row = msgspec.json.decode(line, type=dict[str, str])
        rng = random.Random(f"{seed}:traced:{number}")
        parents = [row["parent"]] if row["parent"] else []
        split: Split = "valid" if draw("life", row["command"]) < _VALID_PERCENT else "train"
        texts = {
            text: form
            for _ in range(2)
            for text, form in render_process(
                row["command"], "linux", parents, rng, image=row["image"].rpartition("/")[2]
            )
        }
        for text, form in texts.items():
            yield Example(
                text=text,
                kind="process",
                label=0,
                source=f"life:{path.name}:traced",
                group=f"traced:{number}",
                shape=form,
                os="linux",
                split=split,
            )


def read_common(folder: Path = TEMPLATES) -> dict[str, list[str]]:
    """The lists that every file may draw from."""
    with (folder / "common.yaml").open(encoding="utf-8") as file:
        return {
            name: [str(value) for value in values] for name, values in yaml.safe_load(file).items()
        }


def run(options: Options) -> None:
    """Write life.jsonl. Raises ValueError when more than one template in a hundred is faulty."""
    common = read_common()
    paths = sorted(path for path in TEMPLATES.glob("*.yaml") if path.name != "common.yaml")
    faults: Counter[str] = Counter()
    kinds: Counter[str] = Counter()

    def count(rows: Iterator[Example]) -> Iterator[Example]:
        for row in rows:
            kinds[row.kind] += 1
            yield row

    written = (row for path in paths for row in expand_file(path, common, options.seed, faults))
    traced = expand_traced(TEMPLATES / "traced_linux.jsonl", options.seed)
    total = write_rows(options.work / "life.jsonl", count(chain(written, traced)))
    for fault in list(faults)[:20]:
        print(f"life: left out {fault}")
    print(f"life: {total} examples, {len(faults)} templates left out, {dict(kinds)}")
    if len(faults) * 100 > total:
        raise ValueError(f"{len(faults)} templates can't be filled")
