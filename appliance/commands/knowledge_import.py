"""`kb import`: files of others become part of the knowledge base."""

import argparse
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.commands.knowledge import (
    Progress,
    count_encoders,
    find_encoder,
    need_folder,
    read_known_config,
    start_encoders,
)
from appliance.commands.paragraphs import wrap_text
from appliance.config import Config
from appliance.control import ask_daemon
from appliance.errors import ApplianceError, Exit, ModelError
from appliance.knowledge.entries import Dropped
from appliance.knowledge.generation import MANIFEST_FILE, Generation, lock_base, read_generation
from appliance.knowledge.imports import ImportReport, SourceReport, import_paths
from appliance.places import CONFIG, import_folder
from appliance.view import View, clean

Body = dict[str, Any]

#: Reasons, ids and unknown ids of an import that are shown; --json has more.
_SHOWN: Final = 5
#: Seconds that --reload waits for the daemon to have taken the base.
RELOAD_SECONDS: Final = 60.0


def kb_import(args: argparse.Namespace) -> Exit:
    """`appliance kb import`: exit 1 when nothing could be imported; the base is then what it was.
    What was imported before and is the same is no failure."""
    config = read_known_config(args)
    folder = Path(args.to) / "knowledge" if args.to else import_folder(need_folder(config))
    model = find_encoder(config)
    progress = Progress()
    try:
        with (
            _begin_from(folder, config),
            start_encoders(model, count_encoders()) as (encoder, *helpers),
        ):
            report = import_paths(
                folder,
                [Path(path) for path in args.paths],
                encoder,
                progress,
                helpers=helpers,
                now=time.time(),
            )
    except ApplianceError as error:
        progress.end()
        raise ApplianceError(f"{error}\nnothing was imported: the base is what it was") from error
    progress.end()
    told = _tell_daemon(args, config, folder) if report.changed or args.reload else ""
    view = View(as_json=args.json)
    if args.json:
        view.json({"folder": str(folder), **msgspec.to_builtins(report), "daemon": told})
        return Exit.DONE
    _print_report(view, report)
    for line in wrap_text(clean(told)) if told else []:
        view.line(line)
    return Exit.DONE


@contextmanager
def _begin_from(folder: Path, config: Config | None) -> Iterator[None]:
    """Where the folder has no base, a copy of the one in use; taken away again when the block
    raises. Raises ModelError."""
    if (folder / MANIFEST_FILE).exists():
        yield
        return
    source = need_folder(config)
    there = folder.exists()
    with lock_base(folder):
        copy = _copy_base(source, folder, there)
    try:
        yield
    except BaseException:
        # While another imports into the copy, or when one has, it is no longer ours to delete.
        with suppress(ModelError), lock_base(folder):
            if copy is not None and read_generation(folder).hash == copy.hash:
                _delete_copy(folder, copy, there)
        raise


def _copy_base(source: Path, folder: Path, there: bool) -> Generation | None:
    """The copy, as it lies in the folder; None when another has made a base there meanwhile. What
    could not be copied whole is deleted again, the folder too when it was not `there`. The caller
    holds the folder's lock. Raises ModelError."""
    if (folder / MANIFEST_FILE).exists():
        return None
    generation = None
    try:
        generation = read_generation(source)
        for path in (generation.entries, generation.vectors):
            shutil.copyfile(path, folder / path.name)
        # Last: whoever is killed before leaves no base, and the next copies again.
        shutil.copyfile(source / MANIFEST_FILE, folder / MANIFEST_FILE)
        return read_generation(folder)
    except BaseException as error:
        _delete_copy(folder, generation, there)
        if isinstance(error, OSError):
            raise ModelError(f"{folder}: cannot be written: {error.strerror}") from error
        raise


def _delete_copy(folder: Path, copy: Generation | None, there: bool) -> None:
    with suppress(OSError):
        for name in (MANIFEST_FILE, *(copy.manifest.files if copy else ())):
            (folder / name).unlink(missing_ok=True)
        if not there:
            folder.rmdir()


def _print_report(view: View, report: ImportReport) -> None:
    for source in report.sources:
        _print_source_report(view, source)
    if report.dropped:
        view.line(f"left out of files that brought nothing: {report.dropped}")
        _print_reasons(view, report.left_out, report.dropped)
    if report.unknown:
        named = ", ".join(f"{clean(u.id)} ({u.links} links)" for u in report.unknown[:10])
        more = report.unknown_ids - len(report.unknown[:10])
        rest = f" and {more} more" if more > 0 else ""
        for line in wrap_text(
            f"not in the base, but linked to: {named}{rest}; the links are kept", hang="  "
        ):
            view.line(line)
    if not report.changed:
        view.line("nothing changed: the base has all of it")
        return
    view.line(
        f"the base has {report.entries} entries now: {report.encoded} texts were encoded, "
        f"{report.reused} had their vectors"
    )


def _print_source_report(view: View, source: SourceReport) -> None:
    view.line(f"{clean(source.name)} ({source.files} files)", "bold")
    view.line(
        f"  entries: {source.new} new, {source.changed} changed, {source.unchanged} unchanged, "
        f"{source.gone} gone"
    )
    if source.links_new or source.links_gone:
        view.line(f"  links: {source.links_new} new, {source.links_gone} gone")
    if source.indicators or source.indicators_gone:
        view.line(
            f"  indicators: {source.indicators}, of them {source.indicators_new} new; "
            f"{source.indicators_gone} gone"
        )
    for name, ids, count in (
        ("changed", source.changed_ids, source.changed),
        ("gone", source.gone_ids, source.gone),
    ):
        if ids:
            _print_ids(view, name, ids, count)
    if source.older:
        _print_ids(view, "older than what another source says, which is shown", source.older_ids,
                   source.older)  # fmt: skip
    if source.dropped:
        view.line(f"  left out: {source.dropped}", "yellow")
        _print_reasons(view, source.left_out, source.dropped)


def _print_ids(view: View, name: str, ids: Sequence[str], count: int) -> None:
    listed = ", ".join(clean(each, 80) for each in ids[:_SHOWN])
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    for line in wrap_text(f"{name}: {listed}{more}", indent="  ", hang="    "):
        view.line(line)


def _print_reasons(view: View, left_out: Sequence[Dropped], count: int) -> None:
    for each in left_out[:_SHOWN]:
        told = f"{clean(each.where)}: {clean(each.reason)}"
        for line in wrap_text(told, indent="    ", hang="      "):
            view.line(line)
    if count > _SHOWN:
        view.line(f"    ... and {count - min(_SHOWN, len(left_out))} more")


def _tell_daemon(args: argparse.Namespace, config: Config | None, folder: Path) -> str:
    """What the running daemon has to do with it, in words; with --reload it is told."""
    how = "`systemctl reload appliance`, or `kb import --reload`"
    generic = f"a running daemon goes on with the base that it has opened, until it is told: {how}"
    if config is None:
        if args.reload:
            raise ApplianceError(f"{CONFIG}: no such file: name the daemon's with --config")
        return generic
    try:
        facts = ask_daemon(config.control_path, {"ask": "status"})
    except ApplianceError as error:
        if args.reload:
            raise ApplianceError(f"imported, but not reloaded: {error}") from error
        return generic
    if facts is None:
        return "no daemon is running: the next one starts with this base"
    if not args.reload:
        return f"the daemon (pid {facts['pid']}) goes on with the base that it has opened: {how}"
    return reload_daemon(config, facts, read_generation(folder).hash)


def reload_daemon(config: Config, facts: Body, wanted: str, seconds: float = RELOAD_SECONDS) -> str:
    """Have the daemon whose status this is load everything again, and wait until it has the base
    with this hash. What came of it, in words. Raises ApplianceError when it can't be told, or
    refuses."""
    try:
        os.kill(facts["pid"], signal.SIGHUP)
    except OSError as error:
        raise ApplianceError(
            f"imported, but the daemon (pid {facts['pid']}) can't be told: {error.strerror}"
        ) from error
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.2)
        now = ask_daemon(config.control_path, {"ask": "status"})
        if now is None:
            raise ApplianceError("imported, but the daemon has ended")
        known = now["models"].get("knowledge")
        if known and known["hash"] == wanted:
            return f"the daemon (pid {now['pid']}) has taken the new base"
    return f"the daemon (pid {facts['pid']}) was told and has not taken it yet: see `status`"
