"""Reads lines of logs through the product's own decode and normalise: attacks on services that
fail2ban's and Wazuh's own samples name, a real auth.log under attack, ordinary systems, honeypots.

A line that the product reads as another kind (an access log line, an audit record) keeps its kind.
"""

import json
import random
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from appliance.detect.sentinel.texts import Text, list_texts
from appliance.schema import Sighting, View
from models.sentinel.corpus.commands import write_shell
from models.sentinel.corpus.windows import read_sightings
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw
from models.sentinel.scrub import scrub_fields


class Line(msgspec.Struct, frozen=True):
    """One line of a log with what its collection says of it."""

    data: str
    label: int | None
    group: str
    techniques: tuple[str, ...] = ()
    weight: float = 1.0
    split: Split = "train"


_GUESSING: Final = ("T1110",)
_FAIL_JSON: Final = re.compile(r"#\s*(?:failJSON|constraint)[^{]*(\{.*\})")
#: Lines of sshd and PAM that only guessing or scanning leaves in such numbers.
_HOSTILE: Final = re.compile(
    r"failed password|invalid user|illegal user|possible break-in|authentication failure.*rhost=\S|"
    r"\[preauth\]|too many authentication failures|bad protocol version|"
    r"did not receive identification",
    re.IGNORECASE,
)
_FORWARD: Final = re.compile(r"log \d+ (?:pass|fail) = (.*)")
#: Systems of loghub without an attack in their lines.
_CALM: Final = (
    "Hadoop",
    "HDFS",
    "Spark",
    "Zookeeper",
    "Mac",
    "HPC",
    "OpenStack",
    "Proxifier",
    "HealthApp",
    "Android",
)
_CALM_TEST: Final = ("Zookeeper", "Mac", "OpenStack")
_MAX_OF_SYSTEM: Final = 400


def list_fail2ban(root: Path) -> Iterator[Line]:
    """fail2ban's samples: `match: true` marks the line below as one that bans; others are no proof
    of the contrary."""
    for path in sorted(path for path in root.iterdir() if path.is_file()):
        split: Split = "test" if draw("fail2ban", path.name) < 15 else "train"
        match: bool | None = None
        for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if raw.startswith("#"):
                if (found := _FAIL_JSON.match(raw)) is not None:
                    said = re.search(r'"match"\s*:\s*(true|false)', found[1])
                    match = said is not None and said[1] == "true"
                continue
            if raw.strip():
                label = 1 if match else None
                yield Line(
                    raw, label, f"fail2ban:{path.name}", _GUESSING if match else (), 0.7, split
                )
                match = None


def list_wazuh(root: Path) -> Iterator[Line]:
    """Wazuh's samples: the level of the rule that a line must meet; 8 and above are attacks, those
    below 4 ordinary."""
    for path in sorted(root.rglob("*.ini")):
        split: Split = "test" if draw("wazuh", path.name) < 15 else "train"
        for section in re.split(r"(?m)^\[", path.read_text(encoding="utf-8", errors="replace")):
            level = re.search(r"(?m)^alert\s*=\s*(\d+)", section)
            number = int(level[1]) if level else -1
            label = 1 if number >= 8 else 0 if 0 <= number < 4 else None
            for match in _FORWARD.finditer(section):
                yield Line(match[1].strip(), label, f"wazuh:{path.name}", (), 0.5, split)


def list_loghub(root: Path) -> Iterator[Line]:
    """loghub: lines of calm systems are ordinary; sshd's own words tell the guessing."""
    for path in sorted(root.rglob("*.log")):
        system = path.parent.name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        step = max(1, len(lines) // _MAX_OF_SYSTEM)
        for raw in lines[::step]:
            hostile = _HOSTILE.search(raw) is not None
            label = 0 if system in _CALM else 1 if hostile else None
            techniques = _GUESSING if hostile and label else ()
            yield Line(
                raw,
                label,
                f"loghub:{system}",
                techniques,
                0.5,
                "test" if system in _CALM_TEST else "train",
            )


def list_auth(path: Path) -> Iterator[Line]:
    """A real auth.log under attack, for the test alone: what sshd says of strangers, the rest."""
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        hostile = "sshd" in raw and _HOSTILE.search(raw) is not None
        calm = re.search(r"CRON|systemd|sudo", raw) is not None
        yield Line(
            raw,
            1 if hostile else 0 if calm else None,
            "gtkcyber:auth.log",
            _GUESSING if hostile else (),
            1.0,
            "test",
        )


def list_audit(data: Path) -> Iterator[Line]:
    """Audit records of parsers' own samples and of two emulations: unlabelled but for the program
    that the emulation's name tells."""
    for root in ("go-libaudit", "laurel", "security-datasets"):
        for path in sorted((data / root).rglob("*")):
            if path.suffix in (".log", ".txt") and path.is_file():
                named = {"sh_binary_padding": "dd", "sh_arp_cache": "arp", "record-perl": "perl"}
                program = next(
                    (p for start, p in named.items() if path.name.startswith(start)), None
                )
                for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
                    hostile = program is not None and (
                        f'"{program}"' in raw or f"/{program}" in raw
                    )
                    yield Line(raw, 1 if hostile else None, f"{root}:{path.name}")


def read_lines(lines: Iterable[Line], source: str, system: str = "linux") -> Iterator[Example]:
    """The examples of lines, each text of a collection once: the first label that a text has."""
    held = list(lines)
    starts: dict[int, Line] = {}
    place = 0
    with tempfile.TemporaryDirectory(prefix="recipe-") as folder:
        path = Path(folder, "lines.log")
        with path.open("wb") as file:
            for line in held:
                data = line.data.encode("utf-8", "replace") + b"\n"
                starts[place] = line
                place += len(data)
                file.write(data)
        best: dict[Text, Line] = {}
        shapes: dict[Text, str] = {}
        for sighting in read_sightings(path, source):
            found = starts.get(sighting.record.cursor.position)
            if found is None:
                continue
            for text in _list_scrubbed(sighting):
                known = best.get(text)
                if known is None or (known.label is None and found.label is not None):
                    best[text], shapes[text] = found, sighting.format
    for text, line in best.items():
        yield Example(
            text=text.text,
            kind=text.kind,
            label=line.label,
            source=source,
            group=line.group,
            shape=shapes[text],
            os="network" if text.kind in ("url", "dns") else system,
            weight=line.weight,
            techniques=list(line.techniques) if line.label else [],
            split=line.split,
            attack_event=line.label == 1,
        )


def _list_scrubbed(sighting: Sighting) -> list[Text]:
    views = [View(view.logsource, scrub_fields(view.fields)) for view in sighting.views]
    return list_texts(views, sighting.host)


def read_cowrie(options: Options) -> Iterator[Example]:
    """cowrie: what strangers typed into a honeypot; three sessions in ten are for the test."""
    path = options.data / "linux" / "cowrie" / "cowrie.json"
    for raw in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(raw)
        if row.get("eventid") != "cowrie.command.input":
            continue
        session = str(row.get("session"))
        split: Split = "test" if draw("cowrie", session) < 30 else "train"
        rng = random.Random(f"{options.seed}:cowrie:{raw[:300]}")
        for kind, text, form in write_shell(str(row.get("input") or ""), rng):
            yield Example(
                text=text,
                kind=kind,
                label=1,
                source="cowrie",
                group=f"cowrie:{session}",
                shape=form,
                os="linux",
                weight=0.6,
                techniques=["T1059.004"],
                split=split,
                attack_event=True,
            )


def read_logs(options: Options) -> Iterator[Example]:
    """Every collection of logs."""
    linux = options.data / "linux"
    yield from read_lines(list_fail2ban(linux / "fail2ban-logs"), "fail2ban-logs")
    yield from read_lines(list_wazuh(linux / "wazuh-ruleset"), "wazuh-ruleset")
    yield from read_lines(list_loghub(linux / "loghub"), "loghub")
    yield from read_lines(list_auth(linux / "gtkcyber" / "auth.log"), "gtkcyber")
    yield from read_lines(list_audit(linux), "auditd")
    yield from read_cowrie(options)
