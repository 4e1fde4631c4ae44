"""Reads the set `ordinary`: what healthy systems do, with each row's own source. One source in four
is for the test. Exclusions of rules and configurations are knowledge, no telemetry: unlabelled."""

import random
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.corpus.commands import split_pipeline
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw
from models.sentinel.scrub import scrub_fields
from models.sentinel.shapes import LINUX_PARENTS, System, render_process

_TEST_PERCENT: Final = 25
_MAX_SCRIPT: Final = 24_000
#: Events of the product whose exclusions can be written as a text.
_EXCLUDED: Final = {
    "ProcessCreate": "process",
    "process_creation": "process",
    "FileCreate": "file",
    "file_event": "file",
    "ImageLoad": "image_load",
    "image_load": "image_load",
    "RegistryEvent": "registry",
    "registry_set": "registry",
    "NetworkConnect": "network",
    "network_connection": "network",
    "PipeEvent": "pipe",
    "DnsQuery": "dns",
    "dns_query": "dns",
}


def split_source(source: str) -> Split:
    """One source in four is for the test, by its name."""
    return "test" if draw("ordinary", source) < _TEST_PERCENT else "train"


def _read(options: Options, name: str) -> Iterator[dict[str, Any]]:
    with (options.data / "ordinary" / name).open("rb") as file:
        for line in file:
            yield msgspec.json.decode(line)


def _row(  # noqa: PLR0917 - the row's own fields
    text: str, kind: str, shape: str, system: System, origin: str, number: int, **more: Any
) -> Example:
    return Example(
        text=text,
        kind=kind,
        label=0,
        source="ordinary",
        group=f"ordinary:{origin}:{number // 20}",
        shape=shape,
        os=system,
        split=split_source(origin),
        **more,
    )


def read_processes(options: Options) -> Iterator[Example]:
    """Windows processes, as told and in two more forms."""
    for number, row in enumerate(_read(options, "windows_processes.jsonl")):
        rng = random.Random(f"{options.seed}:ordinary-process:{number}")
        parents = [row["parent_image"]] if row.get("parent_image") else []
        seen: set[str] = set()
        for _ in range(3):
            for text, form in render_process(
                row["command_line"], "windows", parents, rng, image=row.get("image") or ""
            ):
                if text not in seen:
                    seen.add(text)
                    yield _row(text, "process", form, "windows", row["source"], number)


def read_other(options: Options) -> Iterator[Example]:
    """Services, tasks and registry values."""
    for number, row in enumerate(_read(options, "windows_other.jsonl")):
        name, value = str(row.get("name") or ""), str(row.get("value") or "")
        kind, fields = {
            "registry_event": (
                "registry",
                {"TargetObject": name, "Details": "" if value == "(key)" else value},
            ),
            "service": ("service", {"ServiceName": name, "ImagePath": value}),
        }.get(row["kind"], ("task", {"TaskName": name, "Command": value}))
        for text in write_texts(kind, scrub_fields(fields)):
            yield _row(text.text, text.kind, row["kind"], "windows", row["source"], number)


def read_scripts(options: Options) -> Iterator[Example]:
    """PowerShell scripts of administrators: the first parts of each, without comments in half."""
    for number, row in enumerate(_read(options, "powershell_scripts.jsonl")):
        script = str(row["script"])[:_MAX_SCRIPT]
        if draw("ordinary-script", str(number)) < 50:
            script = re.sub(r"<#[\s\S]{0,8000}?#>|(?m:^\s*#.*$)", "", script)
        split = split_source(row["source"])
        for text in write_texts("script", scrub_fields({"ScriptBlockText": script})):
            yield Example(
                text=text.text,
                kind="script",
                label=0,
                source="ordinary",
                group=f"ordinary:{row['source']}:{number}",
                shape="4104",
                os="windows",
                split=split,
            )


def read_linux(options: Options) -> Iterator[Example]:
    """Linux commands of diagnostic tools, provisioning scripts and audit records."""
    for number, row in enumerate(_read(options, "linux_commands.jsonl")):
        rng = random.Random(f"{options.seed}:ordinary-linux:{number}")
        seen: set[str] = set()
        command = str(row["command"])
        for part in [command] if row["kind"].startswith("auditd") else split_pipeline(command)[:3]:
            for _ in range(2):
                for text, form in render_process(part, "linux", LINUX_PARENTS, rng):
                    if text not in seen:
                        seen.add(text)
                        yield _row(text, "process", form, "linux", row["source"], number)


def read_exclusions(options: Options) -> Iterator[Example]:
    """What rules and configurations except, unlabelled and for training alone."""
    for number, row in enumerate(_read(options, "exclusions.jsonl")):
        kind = _EXCLUDED.get(str(row.get("event")))
        field, value = str(row.get("field")), str(row.get("value"))
        if kind is None or field.startswith("Parent") or "%" in value[:1]:
            continue
        for text in write_texts(kind, {field: value}):
            yield Example(
                text=text.text,
                kind=kind,
                label=None,
                source="exclusions",
                group=f"exclusions:{number // 20}",
                shape="pattern",
                os="windows",
            )


def read_ordinary(options: Options) -> Iterator[Example]:
    """The whole set."""
    for read in (read_processes, read_other, read_scripts, read_linux, read_exclusions):
        yield from read(options)
