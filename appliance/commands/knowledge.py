"""`kb build|search|info`: the knowledge base, and what its other commands share with these.

`kb import` is in knowledge_import, `kb show` in knowledge_entry.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.commands.knowledge_sources import describe_source
from appliance.commands.models import ENCODER, need_encoder
from appliance.commands.paragraphs import wrap_text
from appliance.commands.settings import is_there, read_config
from appliance.config import Config
from appliance.errors import ApplianceError, ConfigError, Exit, ModelError, UsageError
from appliance.inference.client import EncoderClient
from appliance.inference.manifest import verify_built
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import build_base
from appliance.knowledge.generation import read_generation
from appliance.knowledge.search import Answer, answer_query, search_by_words
from appliance.places import CONFIG, build_folder, data_folders, default_rules, find_knowledge
from appliance.view import View, clean

Body = dict[str, Any]

#: Most processes that encode at once: each takes 100 MB.
_MOST_ENCODERS: Final = 4
#: Seconds between two lines of one progress where no terminal shows it.
_QUIET_SECONDS: Final = 10.0
_STEP: Final = re.compile(r"encoding \d+ of \d+")


class Progress:
    """Says on standard error what goes on: on a terminal the steps of one count overwrite one
    another; elsewhere a line comes every ten seconds at the most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._open = False
        self._next = float("-inf")

    def __call__(self, text: str) -> None:
        """One step."""
        shown = clean(text, 2000)
        step = _STEP.match(text) is not None
        if self._terminal:
            width = _find_width() - 1
            begin = "\r\x1b[K" if self._open else ""
            self._write(begin + (shown[:width] if step else shown + "\n"))
            self._open = step
            return
        if step:
            now = self._clock()
            if now < self._next:
                return
            self._next = now + _QUIET_SECONDS
        self._write(shown + "\n")

    def end(self) -> None:
        """Leave the line that is open."""
        if self._open:
            self._write("\n")
            self._open = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _find_width() -> int:
    try:
        return max(40, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return 80


def find_config(args: argparse.Namespace) -> Config | None:
    """The configuration that --config or --state names, else the system's where there is a good
    one: knowledge can be asked on a machine that has none. Raises ConfigError."""
    try:
        return read_known_config(args)
    except ConfigError as error:
        if args.config or getattr(args, "state", None):
            raise
        say_aside(args, f"left out: {error.problems[0]}")
        return None


def read_known_config(args: argparse.Namespace) -> Config | None:
    """As `find_config`, but raises ConfigError also when the system's own is bad: what changes a
    base must change the right one."""
    named = args.config or getattr(args, "state", None)
    return read_config(args) if named or is_there(CONFIG) else None


def find_encoder(config: Config | None) -> Path:
    """The encoder's file. Raises ModelError when there is none."""
    return need_encoder(config.models_dir if config is not None else "")


def say_aside(args: argparse.Namespace, text: str) -> None:
    """A remark, on standard error."""
    print(f"appliance: {args.command}: {clean(text, 2000)}", file=sys.stderr)  # noqa: T201


def need_folder(config: Config | None) -> Path:
    """The knowledge base's folder. Raises ModelError when there is none."""
    folder = find_knowledge(config.knowledge_dir if config is not None else "")
    if folder is not None:
        return folder
    looked = ", ".join(str(data / "knowledge") for data in data_folders())
    raise ModelError(
        f"no knowledge base is built (looked in {looked}): "
        "run `appliance model build`, then `appliance kb build`"
    )


@contextmanager
def open_unasked(folder: Path) -> Iterator[KnowledgeBase]:
    """The base at the folder, but for search by meaning: needs no encoder. Raises ModelError."""
    base = KnowledgeBase.open(folder, read_generation(folder).manifest.encoder)
    try:
        yield base
    finally:
        base.close()


@contextmanager
def start_encoders(model: Path, count: int) -> Iterator[list[EncoderClient]]:
    """So many processes with this encoder. Raises ModelError."""
    encoders = [EncoderClient(model) for _ in range(count)]
    try:
        for encoder in encoders:
            encoder.start()
        yield encoders
    finally:
        for encoder in encoders:
            encoder.close()


def count_encoders() -> int:
    """As many as there are cores for us, up to a few."""
    return min(_MOST_ENCODERS, len(os.sched_getaffinity(0)))


def kb_build(args: argparse.Namespace) -> Exit:
    """`appliance kb build`."""
    target = (Path(args.to) if args.to else build_folder()) / "knowledge"
    beside = Path(args.to) / "models" / ENCODER if args.to else None
    model = beside if beside is not None and beside.is_file() else need_encoder()
    progress = Progress()
    if target.is_dir() and not args.force and not args.without_imports:
        try:
            KnowledgeBase.open(target, verify_built(model).sha256).close()
        except ModelError as error:
            progress(f"building again: {error}")
        else:
            progress(f"{target}: built already")
            return Exit.DONE
    try:
        with start_encoders(model, count_encoders()) as (encoder, *helpers):
            build_base(
                target,
                encoder,
                progress,
                helpers=helpers,
                rules=[default_rules()],
                keep_imports=not args.without_imports,
            )
    finally:
        progress.end()
    return Exit.DONE


# -- search ----------------------------------------------------------------------------------------


def kb_search(args: argparse.Namespace) -> Exit:
    """`appliance kb search`: exit 1 when nothing is found, naming the filters that leave no entry.
    Without the encoder words alone are asked, and standard error says so."""
    if not args.query.strip():
        raise UsageError("the text to search for is empty")
    answer, idle = _answer(args, find_config(args))
    if answer.missing:
        say_aside(args, f"found by words alone, not by meaning: {answer.missing}")
    view = View()
    if args.json:
        view.json([msgspec.to_builtins(result) for result in answer.results])
    else:
        _print_results(view, answer)
    if not answer.results:
        why = f": {_tell_idle(args, idle)}" if idle else ""
        raise ApplianceError(f"nothing found for {args.query!r}{why}")
    if idle:  # what the text names by its id is found all the same
        say_aside(args, _tell_idle(args, idle))
    return Exit.DONE


def _tell_idle(args: argparse.Namespace, idle: list[str]) -> str:
    return ", ".join(f"no entry fits --{name} '{clean(getattr(args, name), 200)}'" for name in idle)


def _answer(args: argparse.Namespace, config: Config | None) -> tuple[Answer, list[str]]:
    """What is found, and which filters leave no entry."""
    folder = need_folder(config)
    limits = {"platform": args.platform, "tactic": args.tactic}
    try:
        encoder = EncoderClient(find_encoder(config))
        known = encoder.model_hash
    except ModelError as error:
        with open_unasked(folder) as base:
            found = search_by_words(base, args.query, args.k, args.type, **limits)
            idle = base.find_idle_filters(args.type, **limits)
            return Answer(found, str(error)), idle
    base = KnowledgeBase.open(folder, known)
    try:
        encoder.start()
        answer = answer_query(base, encoder.embed, args.query, args.k, args.type, **limits)
        return answer, base.find_idle_filters(args.type, **limits)
    finally:
        encoder.close()
        base.close()


def _print_results(view: View, answer: Answer) -> None:
    """Two lines for each: what it is, and where it comes from."""
    width = max((len(clean(r.id)) for r in answer.results if len(r.id) <= 24), default=0)
    for result in answer.results:
        name = clean(result.id)
        score = "  -  " if answer.missing and result.score < 1.0 else f"{result.score:.3f}"
        begin = f"{score}  {name:<{width}}  "
        if len(name) <= width:
            lines = wrap_text(clean(result.title), indent=begin, hang=" " * len(begin))
        else:
            lines = [begin.rstrip(), *wrap_text(clean(result.title), indent=" " * 7)]
        for line in lines:
            view.line(line)
        source = " ".join(part for part in (result.source, result.version) if part)
        view.line(f"       {result.type}, {clean(source)}")


# -- info ------------------------------------------------------------------------------------------


def kb_info(args: argparse.Namespace) -> Exit:
    """`appliance kb info`."""
    config = find_config(args)
    folder = need_folder(config)
    with open_unasked(folder) as base:
        info = base.info()
    manifest = info.manifest
    now = time.time()
    facts: Body = {
        **msgspec.to_builtins(info),
        "bytes": _measure_folder(folder),
        "encoder": _describe_encoder(config, manifest.encoder),
        "sources": [describe_source(source, now) for source in manifest.sources],
    }
    view = View()
    if args.json:
        view.json(facts)
    else:
        _print_info(view, facts)
    return Exit.DONE


def _measure_folder(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _describe_encoder(config: Config | None, made_with: str) -> Body:
    """Which encoder made the vectors, and whether it is the one that is here."""
    try:
        path = find_encoder(config)
        here = verify_built(path).sha256
    except ModelError as error:
        return {"sha256": made_with, "installed": False, "why_not": str(error)}
    if here != made_with:
        why = f"{path} is {here[:16]}: run `appliance kb build`"
        return {"sha256": made_with, "installed": False, "why_not": why}
    return {"sha256": made_with, "installed": True, "why_not": ""}


def _print_info(view: View, facts: Body) -> None:
    manifest, index, encoder = facts["manifest"], facts["manifest"]["index"], facts["encoder"]
    flat = "exact: every vector is compared"
    lists = (
        f"{index['kind']}: {index['probes']} of {index['lists']} lists are looked into, "
        f"recall@10 {index['recall']:.4f} ({index['questions']} questions)"
    )
    types = ", ".join(f"{clean(name)} {count}" for name, count in sorted(facts["types"].items()))
    missing = f"NOT here: {encoder['why_not']}"
    there = "the one that is installed" if encoder["installed"] else missing
    view.line(f"folder    {clean(facts['folder'], 4096)}")  # whole, to be copied
    for name, value in (
        ("hash", f"{facts['hash'][:16]}, built here by {manifest['created_by']}"),
        ("on disk", f"{facts['bytes'] / 1e6:.1f} MB"),
        ("encoder", f"{encoder['sha256'][:16]}, {manifest['dims']} dimensions: {there}"),
        ("index", flat if index["kind"] == "flat" else lists),
        (
            "holds",
            f"{manifest['entries']} entries, {manifest['vectors']} passages, "
            f"{manifest['links']} links, {manifest['indicators']} indicators",
        ),
        ("found by", f"type: {types or 'none'}"),
    ):
        for line in wrap_text(clean(value, 4000), indent=f"{name:<9} ", hang=" " * 10):
            view.line(line)
    for source in facts["sources"]:
        view.line()
        _print_source(view, source)


def _print_source(view: View, source: Body) -> None:
    stale = source["stale"]
    mark = "  STALE" if stale else ""
    version = f" {clean(source['version'])}" if source["version"] else ""
    view.line(f"{clean(source['name'])}{version}{mark}", "bold yellow" if stale else "bold")
    ways = {
        "package": "from an installed package",
        "own": "comes with the appliance",
        "rules": "comes with the appliance",
        "imported": f"imported {source['imported']}",
    }
    released = f", released {source['released']}" if source["released"] else ""
    aged = f", {source['age_days']} days old" if source["age_days"] is not None else ""
    limit = source["stale_after_days"]
    after = f" (stale after {limit})" if limit is not None else ""
    view.line(f"  {ways[source['kind']]}{released}{aged}{after}")
    view.line(
        f"  {source['entries']} entries, {source['links']} links, {source['indicators']} indicators"
    )
    licence = clean(source["licence"], 1000) if source["licence"] else "not told"
    for line in wrap_text(f"licence: {licence}", indent="  ", hang="    "):
        view.line(line)
