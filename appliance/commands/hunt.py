"""`hunt`: looking for something in every event that was archived."""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from appliance.archive.reader import Archive, Hit, Hunt
from appliance.archiving import open_archive, open_folder
from appliance.commands.settings import is_there, open_store, parse_since, read_config
from appliance.config import Config
from appliance.emit.render import render_time
from appliance.errors import ApplianceError, Exit, UsageError
from appliance.hunting import Quarry, join_quarries, seek_indicator, seek_query, seek_rule
from appliance.pipeline import name_logsource
from appliance.places import CONFIG
from appliance.view import View, clean, show_time

#: Characters of a record that a row shows.
_BEGINNING = 160
_MATCHED = 120


def hunt(args: argparse.Namespace) -> Exit:
    """`appliance hunt`: exit 0 when something was found, 1 when nothing was."""
    config = _choose_config(args)
    quarry = _choose_quarry(args, config)
    now = time.time()
    since = parse_since(args.since, now)
    until = math.inf if args.until is None else parse_since(args.until, now)
    if not since < until:
        raise UsageError("--since must be before --until")
    began = time.perf_counter()
    with _opened(args, config) as archive:
        parts = archive.parts(since, until)
        if not parts:
            raise ApplianceError(f"{archive.folder}: nothing of that time is archived")
        progress = _Progress(sys.stderr.isatty() and not args.json)
        found = archive.hunt(
            quarry.condition, quarry.verify,
            since=since, until=until, limit=args.limit, on_progress=progress.show,
        )  # fmt: skip
        progress.clear()
    seconds = time.perf_counter() - began
    view = View(as_json=args.json)
    if args.json:
        view.json(_describe(found, quarry, seconds))
    else:
        _print(view, found, seconds)
    return Exit.DONE if found.hits else Exit.FOUND_OR_FAILED


def _choose_config(args: argparse.Namespace) -> Config:
    """A folder of its own needs no configuration."""
    if args.archive and not args.config and not args.state and not is_there(CONFIG):
        return Config()
    return read_config(args)


def _choose_quarry(args: argparse.Namespace, config: Config) -> Quarry:
    quarries: list[Quarry] = []
    if args.query:
        quarries.append(seek_query(" ".join(args.query)))
    if args.sigma:
        quarries.append(seek_rule(Path(args.sigma), config))
    if args.indicator:
        quarries.append(seek_indicator(args.indicator))
    if not quarries:
        raise UsageError("give a query, --sigma RULE or --indicator X")
    return join_quarries(quarries)


@contextmanager
def _opened(args: argparse.Namespace, config: Config) -> Iterator[Archive]:
    with ExitStack() as stack:
        if args.archive:
            yield stack.enter_context(closing(open_folder(Path(args.archive), config)))
            return
        store = stack.enter_context(closing(open_store(config)))
        archive = open_archive(config, store)
        if archive is None:
            raise ApplianceError(f"{config.archive_path}: nothing was archived yet")
        yield stack.enter_context(closing(archive))


class _Progress:
    """How far the hunt is, on a terminal."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def show(self, done: int, parts: int, hits: int) -> None:
        """Say it."""
        if self._shown:
            sys.stderr.write(f"\r{done}/{parts} parts searched, {hits} found \x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take it away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def _print(view: View, found: Hunt, seconds: float) -> None:
    if found.hits:
        view.table(
            ["time (UTC)", "host", "log source", "matched", "record"],
            [_make_row(hit) for hit in found.hits],
        )
    more = ", the newest of more: see --limit" if found.more else ""
    view.line(
        f"{len(found.hits)} found{more}; {found.compared:,} events compared of "
        f"{found.events:,} searched, in {seconds:.1f} s"
    )
    if found.unread:
        view.line(f"{found.unread} archived records can't be read any more", "yellow")
    for reason in found.gone[:10]:
        view.line(f"NOT SEARCHED: {clean(reason)}", "bold red")


def _make_row(hit: Hit) -> list[Any]:
    event = hit.event
    sources = dict.fromkeys(name_logsource(view.logsource) for view in event.views)
    matched = "; ".join(
        f"{match.field}: {match.value}" if match.field else match.value for match in hit.matched
    )
    data = event.record.data
    shown = data[: 4 * _BEGINNING].decode("utf-8", "backslashreplace")
    text = clean(shown[:_BEGINNING])
    if len(shown) > _BEGINNING:
        text += f"... ({len(data):,} bytes)"
    return [
        show_time(event.time), event.host, ", ".join(sources),
        clean(matched, _MATCHED), text,
    ]  # fmt: skip


def _describe(found: Hunt, quarry: Quarry, seconds: float) -> dict[str, Any]:
    return {
        "sought": quarry.name,
        "hits": [_describe_hit(hit) for hit in found.hits],
        "more": found.more,
        "events": found.events,
        "compared": found.compared,
        "unread": found.unread,
        "not_searched": found.gone,
        "seconds": round(seconds, 3),
    }


def _describe_hit(hit: Hit) -> dict[str, Any]:
    event, record = hit.event, hit.event.record
    return {
        "id": event.id,
        "time": render_time(event.time),
        "received": render_time(event.received),
        "host": event.host,
        "logsources": [name_logsource(view.logsource) for view in event.views],
        "source": {
            "name": record.source, "path": record.path, "record": record.cursor.position,
        },
        "format": event.format,
        "matched": [
            {"field": match.field, "value": match.value, "pattern": match.pattern}
            for match in hit.matched
        ],
        "entities": [{"kind": entity.kind, "value": entity.value} for entity in event.entities],
        "record": record.data.decode("utf-8", "backslashreplace"),
    }  # fmt: skip
