"""`report`: an incident for people who were not there, or the digest of a shift."""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from appliance.commands.dossier import read_dossier
from appliance.commands.look import find_one
from appliance.commands.settings import open_store, parse_since, read_config
from appliance.control import ask_daemon
from appliance.digest import Digest, build_digest
from appliance.errors import ApplianceError, Exit, UsageError
from appliance.incident import Dossier
from appliance.report.digest_html import render_digest_html
from appliance.report.digest_text import (
    render_digest_json,
    render_digest_markdown,
    render_digest_text,
)
from appliance.report.incident_html import render_html
from appliance.report.incident_text import render_json, render_markdown
from appliance.report.writing import write_report
from appliance.status import build_status

#: How an incident can be written; the ending of -o chooses where --format does not.
INCIDENT: Final[dict[str, Callable[[Dossier], str]]] = {
    "html": render_html,
    "md": render_markdown,
    "json": render_json,
}
DIGEST: Final[dict[str, Callable[[Digest], str]]] = {
    "text": render_digest_text,
    "html": render_digest_html,
    "md": render_digest_markdown,
    "json": render_digest_json,
}
_ENDINGS: Final = {
    ".html": "html",
    ".htm": "html",
    ".md": "md",
    ".markdown": "md",
    ".json": "json",
    ".txt": "text",
}
STANDARD_OUTPUT: Final = "-"


def report(args: argparse.Namespace) -> Exit:
    """`appliance report ID` and `appliance report --since T`: exit 1 when there is no such
    incident or the file is there already."""
    if (args.id is None) == (args.since is None):
        raise UsageError("give an incident's id, or --since T for the digest of a shift")
    formats = sorted(INCIDENT) if args.since is None else sorted(DIGEST)
    chosen = choose_format(args.format, args.out, "html" if args.since is None else "text")
    if chosen not in formats:
        raise UsageError(f"--format {chosen}: give one of {', '.join(formats)}")
    if args.out == STANDARD_OUTPUT and chosen == "html" and sys.stdout.isatty():
        raise UsageError("name the page's file with -o FILE")
    text = _make_incident(args, chosen) if args.since is None else _make_digest(args, chosen)
    data = text.encode("utf-8", "backslashreplace")
    if args.out == STANDARD_OUTPUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_report(Path(args.out), data, force=args.force)
    return Exit.DONE


def choose_format(named: str | None, out: str, default: str) -> str:
    """The format that --format names, else that of the file's ending, else `default`."""
    return named or _ENDINGS.get(Path(out).suffix.lower(), default)


def _make_incident(args: argparse.Namespace, chosen: str) -> str:
    config = read_config(args)
    with closing(open_store(config)) as store:
        kind, key = find_one(store, args.id)
        if kind != "incident":
            body = store.findings_by_ids([key]).get(key, {})
            home = str(body.get("incident") or "")
            if not home:
                raise ApplianceError(f"{args.id} is a finding of no incident: see `explain`")
            key = home
        dossier = read_dossier(config, store, key)
    return INCIDENT[chosen](dossier)


def _make_digest(args: argparse.Namespace, chosen: str) -> str:
    config = read_config(args)
    now = time.time()
    since = parse_since(args.since, now)
    if not since < now:
        raise UsageError(f"--since {args.since}: is not in the past")
    status = ask_daemon(config.control_path, {"ask": "status"})
    with closing(open_store(config)) as store:
        if status is None:
            status = build_status(store, config, {"running": False})
        digest = build_digest(store, status, since=since, until=now)
    return DIGEST[chosen](digest)
