"""`run`, `scan`, `config check`: the commands that put records through the line."""

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from appliance.assembly import open_indicators, open_overrides
from appliance.commands.settings import parse_level
from appliance.config import Config, load_config
from appliance.daemon import run_daemon
from appliance.detect.sigma.pipelines import read_pipelines
from appliance.errors import Exit, UsageError
from appliance.places import CONFIG
from appliance.report.scan_files import FORMATS, replace_file
from appliance.scan import Scan, run_scan
from appliance.schema import LEVELS, RECORD_FORMATS
from appliance.service import set_up_logging
from appliance.view import View, clean, show_range


def run(args: argparse.Namespace) -> Exit:
    """`appliance run`."""
    path = Path(args.config or CONFIG)
    config = load_config(path)
    set_up_logging()
    run_daemon(config, path)
    return Exit.DONE


def check_config(args: argparse.Namespace) -> Exit:
    """`appliance config check`: ConfigError (exit 3) lists everything that is wrong."""
    path = Path(args.path or args.config or CONFIG)
    config = load_config(path)
    open_overrides(config)
    read_pipelines([Path(name) for name in config.pipelines])
    with tempfile.TemporaryDirectory(prefix="appliance-check-") as folder:
        open_indicators(config, Path(folder))
    View().line(
        f"{clean(path, 4096)}: good: {len(config.sources)} sources, {len(config.sinks)} sinks, "
        f"state in {clean(config.state_dir, 4096)}"
    )
    return Exit.DONE


def scan(args: argparse.Namespace) -> Exit:
    """`appliance scan`: exit 1 when nothing could be read, or with --fail-on when found."""
    with _ended_by_signals():
        return _scan(args)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit (128 and the signal's number, as a shell gives it), so
    that what is behind a `finally` is done: a scan's copy of the findings must not stay in /tmp."""

    def end(number: int, _: object) -> None:
        for again in before:  # only once: the next must not end the cleaning up
            signal.signal(again, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {n: handler for n, handler in before.items() if handler == signal.SIG_DFL}
    for number in before:  # nohup has SIGHUP ignored: so it stays
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _scan(args: argparse.Namespace) -> Exit:
    config = load_config(Path(args.config)) if args.config else Config()
    if args.rules:
        config = replace(config, rules=tuple(args.rules))
    config = replace(config, model=config.model and not args.no_model)
    known = (*RECORD_FORMATS, *(spec.name for spec in config.formats))
    if args.input_format not in known:
        raise UsageError(f"--input-format: {args.input_format!r} is none of {', '.join(known)}")
    done = _scan_with_progress(args, config)
    try:
        if args.out:
            _write_findings(args, done)
        if args.stats:
            stats = orjson.dumps(done.stats, option=orjson.OPT_INDENT_2) + b"\n"
            replace_file(Path(args.stats), lambda out: _write_all(out, stats))
        _print_summary(args, done)
        if args.fail_on:
            worst = LEVELS[parse_level(args.fail_on) :]
            if any(done.stats["findings"]["by_level"][level] for level in worst):
                return Exit.FOUND_OR_FAILED
        return Exit.DONE
    finally:
        done.close()


def _write_findings(args: argparse.Namespace, done: Scan) -> None:
    write = FORMATS[args.format]
    findings = done.store.iterate_findings()
    if args.out == "-":
        write(findings, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        replace_file(Path(args.out), lambda out: write(findings, out))


def _write_all(out: BinaryIO, content: bytes) -> None:
    out.write(content)


def _scan_with_progress(args: argparse.Namespace, config: Config) -> Scan:
    """Progress goes to standard error: standard output may be the findings."""
    console = Console(stderr=True, highlight=False, markup=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} files"),
        TextColumn("{task.fields[records]} records", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=args.quiet or not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("scan", total=None, records=0)

        def show(name: str, files: int, total: int, records: int) -> None:
            bar.update(task, completed=files, total=total, records=records)

        return run_scan(
            args.paths,
            config,
            input_format=args.input_format,
            on_progress=show,
            state=Path(args.state) if args.state else None,
        )


def _print_summary(args: argparse.Namespace, done: Scan) -> None:
    """What was read and found, on standard error when standard output carries the findings."""
    if args.quiet:
        return
    stats = done.stats
    say = (lambda text: print(text, file=sys.stderr)) if args.out == "-" else View().line  # noqa: T201
    seconds = stats["seconds"]
    say(
        f"{stats['events']} events in {stats['files']} files, {stats['bytes'] / 1e6:.1f} MB, "
        f"{seconds['total']:.1f} s ({stats['events_per_second']:.0f} events/s, "
        f"{stats['peak_rss_bytes'] / 2**20:.0f} MiB)"
    )
    rules = stats["rules"]
    say(
        f"rules: {rules['loaded']} loaded, {rules['refused']} refused, "
        f"{rules['evaluated']} met an event of their log source"
    )
    if stats["rejected"]:
        say(f"rejected: {stats['rejected']} records:")
        for _, stage, reason, count in done.store.rejected_reasons()[:10]:
            say(f"  {count:>7}  {stage}: {clean(reason)}")
    if stats["unmapped"]:
        say(f"unmapped: {stats['unmapped']} events match no log source; only keywords see them")
    for notice in done.notices:
        say(f"notice: {clean(notice)}")
    found = stats["findings"]
    levels = ", ".join(
        f"{found['by_level'][level]} {level}"
        for level in reversed(LEVELS)
        if found["by_level"][level]
    )
    say(f"findings: {found['total']} ({levels or 'none'}) in {stats['incidents']} incidents")
    if found["suppressed"]:
        say(f"suppressed: {found['suppressed']} findings, by the operator's overrides")
    if not args.out:
        _print_incidents(done)


def _print_incidents(done: Scan) -> None:
    view = View()
    incidents = done.store.incidents(limit=20)
    if not incidents:
        return
    rows = [
        [
            i.level,
            i.count,
            show_range(i.first_seen, i.last_seen),
            " ".join(e.value for e in i.entities if e.kind == "host"),
            i.title,
        ]
        for i in incidents
    ]
    view.table(["level", "findings", "first - last (UTC)", "hosts", "worst finding"], rows,
               title="incidents, the worst first")  # fmt: skip
