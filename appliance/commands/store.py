"""`store info|vacuum|backup|restore`: looking after the database."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.commands.settings import read_config
from appliance.config import Config
from appliance.control import name_user
from appliance.errors import ApplianceError, Exit, StoreError
from appliance.store import (
    Restorer,
    StoreFacts,
    backup_store,
    inspect_store,
    restore_store,
    vacuum_store,
)
from appliance.view import View, clean, show_time

#: Counts of what the store let go, and why.
_GONE: Final = {
    "over_cap": "over the cap of rows",
    "expired": "older than the retention",
    "over_bytes": "over the cap of bytes",
}


def info(args: argparse.Namespace) -> Exit:
    """`appliance store info`: exit 1 when the database is damaged."""
    config = read_config(args)
    facts = inspect_store(_need_store(config))
    gone = {
        f"{table}_{why}": int(facts.counts[f"{table}_{why}"])
        for table in ("findings", "incidents", "rejected", "outbox")
        for why in _GONE
        if facts.counts.get(f"{table}_{why}")
    }
    view = View()
    if args.json:
        view.json({**msgspec.to_builtins(facts), "caps": _list_caps(config), "gone": gone})
    else:
        _print_facts(view, facts)
        _print_caps(view, config, gone)
    return Exit.FOUND_OR_FAILED if facts.problems else Exit.DONE


def _need_store(config: Config) -> Path:
    """The store's path, whatever its schema. Raises StoreError when nothing is there."""
    if not config.store_path.is_file():
        raise StoreError(f"{config.store_path}: no store there: the appliance has never run")
    return config.store_path


def _list_caps(config: Config) -> dict[str, float]:
    limits, kept = config.limits, config.retention
    return {
        "findings_rows": limits.findings_rows,
        "incidents_rows": limits.incidents_rows,
        "rejected_rows": limits.rejected_rows,
        "outbox_rows": limits.outbox_rows,
        "store_bytes": limits.store_bytes,
        "findings_days": kept.findings_days,
        "rejected_days": kept.rejected_days,
    }


def _print_facts(view: View, facts: StoreFacts) -> None:
    for name, value in (
        ("path", facts.path),
        ("schema", f"{facts.schema} (this version knows up to {facts.known_schema})"),
        ("size", f"{show_bytes(facts.file_bytes)}, write-ahead log {show_bytes(facts.wal_bytes)}"),
        ("in use", f"{show_bytes(facts.used_bytes)}, free pages {show_bytes(facts.free_bytes)}"),
    ):
        view.line(f"{name:<9} {clean(value, 4096)}")
    if facts.problems:
        for problem in facts.problems:
            view.line(f"DAMAGED   {clean(problem)}", "bold red")
    else:
        view.line("integrity ok")
    view.table(
        ["table", "rows", "oldest (UTC)", "newest (UTC)"],
        [
            [
                table,
                rows,
                *(
                    show_time(when[table]) if table in when and rows else "-"
                    for when in (facts.oldest, facts.newest)
                ),
            ]
            for table, rows in facts.rows.items()
        ],
    )


def _print_caps(view: View, config: Config, gone: dict[str, int]) -> None:
    limits, kept = config.limits, config.retention
    view.line(
        f"kept      findings {_show_days(kept.findings_days)} (at most {limits.findings_rows:,}), "
        f"rejected {_show_days(kept.rejected_days)} (at most {limits.rejected_rows:,}), "
        f"database at most {show_bytes(limits.store_bytes)}"
    )
    for name, rows in gone.items():
        table, _, why = name.partition("_")
        view.line(f"let go    {rows} {table}: {_GONE[why]}", "yellow")


def _show_days(days: float) -> str:
    return f"{days:g} days" if days else "for ever"


def show_bytes(size: float) -> str:
    """A size as people read it: 512 bytes, 1.5 kB, 2.0 GB (powers of 1000)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{int(size)} bytes"


@contextmanager
def holding_state(config: Config) -> Iterator[None]:
    """The state directory, held as the daemon holds it. Raises ApplianceError while one runs."""
    from appliance.daemon import lock_state  # noqa: PLC0415 - loads the whole line

    folder = Path(config.state_dir)
    try:
        held = lock_state(folder)
    except ApplianceError as error:
        raise ApplianceError(f"{error}: stop it first") from error
    with held:
        give_to_owner(folder / "lock", folder)
        yield


def give_to_owner(path: Path, folder: Path) -> None:
    """What root makes in a folder belongs to whom the folder belongs: the daemon must be able to
    open it afterwards."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def vacuum(args: argparse.Namespace) -> Exit:
    """`appliance store vacuum`: exit 1 while the daemon runs."""
    config = read_config(args)
    path = _need_store(config)
    with holding_state(config):
        before, after = vacuum_store(path)
    view = View()
    if args.json:
        view.json({"path": str(path), "before": before, "after": after})
    else:
        view.line(f"{clean(path, 4096)}: {show_bytes(before)}, now {show_bytes(after)}")
    return Exit.DONE


def backup(args: argparse.Namespace) -> Exit:
    """`appliance store backup FILE`: while the daemon runs, too; exit 1 when it can't be made."""
    config = read_config(args)
    path = _need_store(config)
    target = Path(args.file)
    if target.is_dir():
        raise ApplianceError(f"{target}: is a folder; name a file")
    if os.path.lexists(target) and not args.force:
        raise ApplianceError(f"{target}: is there already (--force writes over it)")
    if _is_same(target, path):
        raise ApplianceError(f"{target}: is the store itself")
    facts = backup_store(path, target)
    _report(args, facts, {"backup": str(target)}, "backed up and checked")
    return Exit.DONE


def restore(args: argparse.Namespace) -> Exit:
    """`appliance store restore FILE`: exit 1 while the daemon runs, or when FILE is no backup."""
    config = read_config(args)
    source, path = Path(args.file), config.store_path
    if not source.is_file():
        raise StoreError(f"{source}: no such file")
    if _is_same(source, path):
        raise ApplianceError(f"{source}: is the store itself")
    with holding_state(config):
        kept = _name_kept(path, time.time())
        restorer = Restorer(name_user(os.getuid()), time.time())
        facts = restore_store(source, path, kept, restorer)
        give_to_owner(path, path.parent)
    aside = str(kept) if kept.exists() else None
    _report(args, facts, {"restored": str(source), "kept": aside}, "restored and checked")
    if not args.json:
        view = View()
        if aside:
            view.line(f"what was there is kept as {clean(aside, 4096)}")
        view.line(
            "what came in since the backup is read again as far as the logs still hold it; sinks "
            "get those findings a second time, with the same ids"
        )
    return Exit.DONE


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False


def _name_kept(path: Path, now: float) -> Path:
    """A name beside the store that nothing has yet."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    kept = path.with_name(f"{path.name}.before-restore-{stamp}")
    number = 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}.before-restore-{stamp}-{number}")
    return kept


def _report(args: argparse.Namespace, facts: StoreFacts, said: dict[str, Any], done: str) -> None:
    view = View()
    if args.json:
        view.json({**said, **msgspec.to_builtins(facts)})
        return
    view.line(
        f"{clean(facts.path, 4096)}: {done}: {show_bytes(facts.file_bytes)}, "
        f"{facts.rows['findings']} findings, {facts.rows['incidents']} incidents, "
        f"newest finding {show_time(facts.newest['findings'])} UTC"
    )
