"""`ack`, `assign`, `close`, `reopen`, `note`, `merge`, `split`, `suppress`, `audit`: working an
incident.

The running daemon carries it out; where none runs, this command does, holding the state as a daemon
would.
"""

import argparse
import os
import time
from contextlib import closing
from typing import Any, Final

from appliance.assembly import correlation_limits
from appliance.casework import (
    Ack,
    Assign,
    Close,
    Merge,
    Note,
    Reopen,
    Request,
    Split,
    Suppress,
    Unsuppress,
    check_request,
    describe_outcome,
    perform,
    write_request,
)
from appliance.commands.look import find_one
from appliance.commands.settings import open_store, parse_since, read_config
from appliance.commands.store import give_to_owner, holding_state
from appliance.config import Config
from appliance.control import ask_daemon, name_user
from appliance.emit.render import render_time
from appliance.emit.text import show_surrogates
from appliance.errors import ApplianceError, Exit, StoreError, UsageError
from appliance.incident import Action
from appliance.store import Store
from appliance.suppression import (
    Suppression,
    check_reason,
    check_scope,
    describe_suppression,
    read_end,
    read_scope,
)
from appliance.view import View, clean, show_time

#: Seconds that the daemon may take: a merge of large incidents moves many rows.
ACT_SECONDS: Final = 120.0
#: Longest piece of a detail that is shown in a row.
_SHOWN: Final = 4096


def ack(args: argparse.Namespace) -> Exit:
    """`appliance ack ID`: exit 1 when there is no such incident, or it can't be."""
    return _carry_out(args, Ack(args.id, args.note))


def assign(args: argparse.Namespace) -> Exit:
    """`appliance assign ID --to WHO`."""
    return _carry_out(args, Assign(args.id, args.to, args.note))


def close(args: argparse.Namespace) -> Exit:
    """`appliance close ID --as WHAT --note TEXT`."""
    return _carry_out(args, Close(args.id, args.closing, args.note))


def reopen(args: argparse.Namespace) -> Exit:
    """`appliance reopen ID`."""
    return _carry_out(args, Reopen(args.id, args.note))


def note(args: argparse.Namespace) -> Exit:
    """`appliance note ID TEXT`."""
    return _carry_out(args, Note(args.id, args.text))


def merge(args: argparse.Namespace) -> Exit:
    """`appliance merge ID ID...`."""
    return _carry_out(args, Merge(tuple(args.ids), args.into or "", args.note))


def split(args: argparse.Namespace) -> Exit:
    """`appliance split ID FINDING...`."""
    return _carry_out(args, Split(args.id, tuple(args.findings), args.note))


def suppress(args: argparse.Namespace) -> Exit:
    """`appliance suppress`: --scope with --until and --because, --list, or --end."""
    if args.list:
        return _list_suppressions(args)
    if args.end is not None:
        return _carry_out(args, Unsuppress(args.end))
    if args.until is None or args.because is None:
        raise UsageError("--scope needs --until and --because")
    scope = read_scope(args.scope)
    check_scope(scope)
    until = read_end(args.until, time.time())
    reason = check_reason(args.because, "--because")
    return _carry_out(args, Suppress(scope, until, reason))


def _carry_out(args: argparse.Namespace, request: Request) -> Exit:
    """Have the daemon do it, or do it here; say what was done."""
    check_request(request, time.time())
    config = read_config(args)
    question = {"act": write_request(request), "claimed": _read_claimed()}
    done = ask_daemon(config.control_path, question, seconds=ACT_SECONDS)
    running = done is not None
    if done is None:
        done = _do_here(config, request)
    if "said" not in done:
        raise ApplianceError("the running daemon is of a version that can't do this: restart it")
    view = View()
    if args.json:
        view.json({"running": running, **done})
    else:
        view.line(clean(done["said"], _SHOWN))
    return Exit.DONE


def _read_claimed() -> str:
    """Who sudo says that root is; root could say anything, so the audit log has it as a claim."""
    return show_surrogates(os.environ.get("SUDO_USER", "")) if os.getuid() == 0 else ""


def _do_here(config: Config, request: Request) -> dict[str, Any]:
    """Without a daemon: in this process, holding the state. Raises ApplianceError."""
    path = config.store_path
    if not path.is_file():
        raise StoreError(f"{path}: no store there: the appliance has never run")
    with holding_state(config), closing(Store(path)) as store:
        now = time.time()
        with store.working(
            actor=name_user(os.getuid()),
            now=now,
            claimed=_read_claimed(),
            sinks=bool(config.sinks),
        ) as desk:
            done = perform(request, desk, now, correlation_limits(config).assets)
    give_to_owner(path, path.parent)
    return describe_outcome(done)


# -- looking --------------------------------------------------------------------------------------


def _list_suppressions(args: argparse.Namespace) -> Exit:
    now = time.time()
    with closing(open_store(read_config(args))) as store:
        rows = [(row, store.count_suppressed(row.because)) for row in store.suppressions()]
    view = View()
    if args.json:
        view.json([{**describe_suppression(*row), "holds": row[0].holds(now)} for row in rows])
        return Exit.DONE
    view.table(
        ["number", "state", "until (UTC)", "findings", "scope", "by", "because"],
        [
            [
                row.number, _name_state(row, now), show_time(row.until), findings,
                row.scope.describe(), row.actor, row.because,
            ]
            for row, findings in rows
        ],
    )  # fmt: skip
    return Exit.DONE


def _name_state(row: Suppression, now: float) -> str:
    if row.ended:
        return "ended"
    return "holds" if row.holds(now) else "expired"


def audit(args: argparse.Namespace) -> Exit:
    """`appliance audit`: exit 1 when there is no such incident, or with --verify when the chain is
    broken."""
    since = parse_since(args.since, time.time())
    with closing(open_store(read_config(args))) as store:
        if args.verify:
            return _verify(args, store)
        subject = None
        if args.id:
            kind, subject = find_one(store, args.id)
            if kind != "incident":
                raise ApplianceError(f"{args.id!r} is a finding: name its incident")
        actions = store.actions(subject, since=since, limit=args.limit)
    view = View()
    if args.json:
        view.json([show_action(action) for action in actions])
        return Exit.DONE
    view.table(
        ["number", "time (UTC)", "actor", "action", "subject", "details"],
        [
            [a.number, show_time(a.time), a.actor, a.action, _cut_id(a.subject), say_details(a)]
            for a in actions
        ],
    )
    return Exit.DONE


def show_action(action: Action) -> dict[str, Any]:
    """An entry as JSON values, with all that its hash covers. `seconds` is the time as it is hashed
    and `time` the same for people."""
    return {
        "number": action.number,
        "time": render_time(action.time),
        "seconds": f"{action.time:.6f}",
        "actor": action.actor,
        "action": action.action,
        "subject": action.subject,
        "details": action.details,
        "previous": action.previous,
        "hash": action.hash,
    }


def say_details(action: Action) -> str:
    """The details in words: name and value, cut where they are long."""
    parts = []
    for name, value in action.details.items():
        if isinstance(value, dict):
            text = ",".join(f"{key}={inner}" for key, inner in value.items())
        elif isinstance(value, list):
            text = " ".join(_cut_id(str(one)) for one in value[:8])
            text += f" and {len(value) - 8} more" if len(value) > 8 else ""
        else:
            text = _cut_id(str(value))
        parts.append(f"{name}: {text}")
    return "; ".join(parts)


def _cut_id(text: str) -> str:
    """An id as short as lists show it."""
    return text[:12] if len(text) == 32 and set(text) <= set("0123456789abcdef") else text


def _verify(args: argparse.Namespace, store: Store) -> Exit:
    chain = store.verify_audit()
    view = View()
    if args.json:
        view.json(
            {
                "whole": not chain.faults,
                "entries": chain.entries,
                "number": chain.head.number,
                "head": chain.head.hash,
                "faults": list(chain.faults),
            }
        )
    else:
        for fault in chain.faults:
            view.line(f"BROKEN: {clean(fault, _SHOWN)}", "bold red")
        what = "the chain is whole" if not chain.faults else "the chain is BROKEN"
        view.line(f"{what}: {chain.entries} entries, head {chain.head.number} {chain.head.hash}")
    return Exit.FOUND_OR_FAILED if chain.faults else Exit.DONE
