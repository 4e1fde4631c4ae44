"""Builds events from the literals of SigmaHQ's rules: what the rules' writers saw,
put together as the rule asks for it. Made up, so they weigh half; for training alone."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.corpus.fill import NAMES, WINDOWS_FOLDERS
from models.sentinel.options import Options
from models.sentinel.rows import Example, find_techniques
from models.sentinel.shapes import (
    LINUX_PARENTS,
    WINDOWS_PARENTS,
    System,
    find_image,
    render_process,
)

#: Command lines built of one rule.
_OF_RULE: Final = 3
_LEVELS: Final = ("medium", "high", "critical")


#: Sigma category -> kind of text and form, for rules whose literals are whole things.
_CATEGORIES: Final[dict[str, tuple[str, str]]] = {
    "registry_set": ("registry", "sysmon13"),
    "registry_event": ("registry", "sysmon13"),
    "registry_add": ("registry", "sysmon12"),
    "file_event": ("file", "sysmon11"),
    "image_load": ("image_load", "sysmon7"),
    "pipe_created": ("pipe", "sysmon17"),
    "network_connection": ("network", "sysmon3"),
    "dns_query": ("dns", "sysmon22"),
    "process_access": ("access", "sysmon10"),
    "create_remote_thread": ("thread", "sysmon8"),
    "wmi_event": ("wmi", "sysmon20"),
    "ps_script": ("script", "4104"),
}
#: Fields that a text of the kind is about: without one there is none.
_ABOUT: Final = {
    "registry": "TargetObject",
    "file": "TargetFilename",
    "image_load": "ImageLoaded",
    "pipe": "PipeName",
    "network": "DestinationHostname",
    "dns": "QueryName",
    "access": "TargetImage",
    "thread": "TargetImage",
    "wmi": "Destination",
    "script": "ScriptBlockText",
}
_FOLDERS: Final = tuple(folder for folder in WINDOWS_FOLDERS if folder[1:2] == ":")
#: What writes where a rule does not say who.
_DOERS: Final = (
    "C:\\Windows\\System32\\reg.exe",
    "C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe",
    "C:\\Windows\\System32\\cmd.exe",
    "C:\\Windows\\System32\\rundll32.exe",
    "C:\\Windows\\explorer.exe",
    "C:\\Windows\\System32\\svchost.exe",
    "C:\\Users\\anna\\AppData\\Local\\Temp\\setup.exe",
    "C:\\Windows\\regedit.exe",
)


def read_sigma(options: Options) -> Iterator[Example]:
    """One to three texts of each rule of Windows or Linux that can be put together."""
    for path in sorted((options.data / "sigma").rglob("*.yml")):
        for rule in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(rule, dict) and rule.get("level") in _LEVELS:
                yield from _build(rule, path, options)


def _build(rule: dict[str, Any], path: Path, options: Options) -> Iterator[Example]:
    logsource = rule.get("logsource") or {}
    product, category = logsource.get("product"), logsource.get("category")
    if product not in ("windows", "linux"):
        return
    system: System = "windows" if product == "windows" else "linux"
    tags = " ".join(str(tag) for tag in rule.get("tags") or ())
    rng = random.Random(f"{options.seed}:sigma:{rule.get('id')}")
    seen: set[str] = set()
    for _ in range(_OF_RULE):
        for kind, text, form in _write_rule(
            str(category), rule.get("detection") or {}, rng, system
        ):
            if text not in seen:
                seen.add(text)
                yield Example(
                    text=text,
                    kind=kind,
                    label=1,
                    source="sigma",
                    group=f"sigma:{path.stem}",
                    shape=form,
                    os=system,
                    weight=0.5 if kind == "process" else 0.4,
                    techniques=find_techniques(tags.replace("attack.", " ")),
                    attack_event=True,
                )


def _write_rule(
    category: str, detection: dict[str, Any], rng: random.Random, system: System
) -> Iterator[tuple[str, str, str]]:
    if category == "process_creation":
        command, image, parent = _compose(detection, rng, system)
        if command is not None:
            parents = (
                [parent] if parent else (WINDOWS_PARENTS if system == "windows" else LINUX_PARENTS)
            )
            for text, form in render_process(command, system, parents, rng, image=image):
                yield "process", text, form
    elif category == "None" and system == "windows":
        fields = _fill_fields(detection, rng)
        path = fields.get("ImagePath") or fields.get("ServiceFileName") or ""
        if len(path) > 5:
            fields.setdefault("ServiceName", rng.choice(NAMES))
            for written in write_texts("service", fields):
                yield "service", written.text, "7045"
    elif category in _CATEGORIES and system == "windows":
        kind, form = _CATEGORIES[category]
        fields = _fill_fields(detection, rng)
        about = fields.get(_ABOUT[kind], "")
        if len(about) < 6 or (kind == "image_load" and not re.search(r"[\\/]|\.dll", about)):
            return
        doer = "SourceImage" if kind in ("access", "thread") else "Image"
        fields.setdefault(doer, rng.choice(_DOERS))
        for written in write_texts(kind, fields):
            yield kind, written.text, form


def _fill_fields(detection: dict[str, Any], rng: random.Random) -> dict[str, str]:
    """One value for each field that the selections name; several where all must be there."""
    fields: dict[str, str] = {}
    for field, modifiers, values in _list_literals(detection, rng):
        text = " ".join(values) if "all" in modifiers else rng.choice(values)
        if field not in fields and _clean(text):
            fields[field] = _complete(field, modifiers, _clean(text), rng)
    return fields


def _complete(field: str, modifiers: str, text: str, rng: random.Random) -> str:
    """The literal with the part that the rule leaves open."""
    if field == "TargetObject" and not text.upper().startswith(("HK", "\\REGISTRY")):
        hive = rng.choice(("HKLM", "HKLM", "HKU\\S-1-5-21-1000000001-200000002-300000003-1001"))
        text = f"{hive}\\{text.lstrip(chr(92))}"
    elif field == "TargetFilename" and ("endswith" in modifiers or text.startswith("\\")):
        folder = rng.choice(_FOLDERS)
        name = rng.choice(NAMES) if text.startswith(".") else ""
        text = f"{folder.rstrip(chr(92))}\\{name}{text.lstrip(chr(92))}"
    elif field == "ImageLoaded" and "endswith" in modifiers and ":" not in text:
        text = f"{rng.choice(_FOLDERS).rstrip(chr(92))}\\{text.lstrip(chr(92))}"
    elif field in ("SourceImage", "TargetImage", "Image") and text.startswith("\\"):
        text = f"C:\\Windows\\System32{text}"
    if field in ("TargetObject", "TargetFilename") and text.endswith("\\"):
        text += rng.choice(NAMES) + (".exe" if field == "TargetFilename" else "")
    return text


def _list_literals(
    detection: dict[str, Any], rng: random.Random
) -> Iterator[tuple[str, str, list[str]]]:
    """(field, modifiers, values) of the selections, one block drawn of each, without filters."""
    for name, selection in detection.items():
        if name in ("condition", "timeframe") or re.match(r"filter|exclu|other|optional", name):
            continue
        block = rng.choice(selection) if isinstance(selection, list) and selection else selection
        for key, value in block.items() if isinstance(block, dict) else ():
            field, _, modifiers = str(key).partition("|")
            values = [
                str(v) for v in (value if isinstance(value, list) else [value]) if v is not None
            ]
            if values and not any(m in modifiers for m in ("re", "base64", "cidr", "fieldref")):
                yield field, modifiers, values


def _compose(
    detection: dict[str, Any], rng: random.Random, system: System
) -> tuple[str | None, str, str]:
    """A command line, image and parent that the selections ask for; None where they name none."""
    parts: list[str] = []
    image = parent = ""
    for field, modifiers, values in _list_literals(detection, rng):
        if field == "CommandLine":
            parts += values if "all" in modifiers else [rng.choice(values)]
        elif field == "Image" and not image:
            image = rng.choice(values)
        elif field == "ParentImage" and not parent:
            parent = rng.choice(values)
    parts = list(dict.fromkeys(_clean(part) for part in parts if _clean(part)))
    if not parts:
        return None, "", ""
    image = image.replace("*", "").strip()
    body = " ".join(parts)[:800]
    if not image:
        return body, "", parent.replace("*", "")
    base = re.split(r"[\\/]", image)[-1]
    if not base or find_image(body, system).lower().startswith(base.lower().split(".")[0]):
        return body, image, parent.replace("*", "")
    return f"{base} {body}", image, parent.replace("*", "")


def _clean(part: str) -> str:
    return re.sub(r"\s+", " ", part.replace("*", " ").replace("\\?", "?")).strip()
