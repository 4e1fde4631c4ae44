"""`status`, `findings`, `incidents`, `show`, `rejected`: looking at what is stored."""

import argparse
import base64
import time
from contextlib import closing
from typing import Any

from appliance.commands.settings import open_store, parse_level, parse_since, read_config
from appliance.control import ask_daemon
from appliance.emit.render import render_incident
from appliance.errors import ApplianceError, Exit
from appliance.schema import Incident
from appliance.status import read_stopped_status
from appliance.store import Store
from appliance.view import View, clean, show_iso, show_time

Body = dict[str, Any]

#: Counts of a source that are said only when there are any.
_SOURCE_TROUBLES = (
    ("bytes_unfinished", "bytes of a record whose end has not come"),
    ("repaired", "records held bytes that are no UTF-8"),
    ("unreadable_files", "files or folders can't be read (see `appliance rejected`)"),
    ("files_over_cap", "files are over the cap and not followed"),
    ("truncated_files", "files were cut in place"),
    ("vanished_files", "files vanished before they were opened"),
)


def status(args: argparse.Namespace) -> Exit:
    """`appliance status`: exit 4 when the daemon is not running (and shows what is stored)."""
    config = read_config(args)
    answer = ask_daemon(config.control_path, {"ask": "status"})
    facts = answer if answer is not None else read_stopped_status(config)
    view = View()
    if args.json:
        view.json(facts)
    else:
        _print_status(view, facts)
    return Exit.DONE if facts["running"] else Exit.NOT_RUNNING


def _print_status(view: View, facts: Body) -> None:
    if facts["running"]:
        view.line(f"running since {show_time(facts['started'])} UTC, pid {facts['pid']}, "
                  f"version {facts['version']} (said by the daemon)", "bold green")  # fmt: skip
    else:
        view.line("NOT RUNNING (said by the store, as the daemon left it)", "bold red")
    if facts.get("store_error"):
        view.line(
            f"the store does not take what is found: {clean(facts['store_error'])}", "bold red"
        )
    columns = ["seen", "decoded", "rejected", "unmapped", "findings"]
    view.table(
        ["source", *columns[:-1], "found", "behind", "last event (UTC)"],
        [
            [
                row["name"],
                *(row[name] for name in columns),
                row.get("bytes_behind", "-"),
                show_time(row["last_event"]),
            ]
            for row in facts["sources"]
        ],
        title="sources",
    )
    for row in facts["sources"]:
        for name, what in _SOURCE_TROUBLES:
            if row.get(name):
                view.line(f"source {clean(row['name'])}: {row[name]} {what}", "yellow")
    rules = facts.get("rules")
    if rules:
        view.line(
            f"rules: {rules['loaded']} loaded, {rules['refused']} refused; since the start "
            f"{rules['met']} met an event of their log source, {rules['fired']} fired"
        )
    for rule, fault in facts.get("rule_errors", {}).items():
        view.line(
            f"rule {clean(rule)} failed {fault['count']} times: {clean(fault['reason'])}", "red"
        )
    fired = ", ".join(f"{name} fired {count}" for name, count in facts["detectors"].items())
    view.line(f"detectors: {fired or 'none has fired'}")
    _print_models(view, facts)
    view.table(
        ["sink", "target", "delivered", "waiting", "lost", "state"],
        [
            [
                row["name"],
                row.get("target", "-"),
                row["delivered"],
                row["waiting"],
                row["lost"],
                _describe_sink(row),
            ]
            for row in facts["sinks"]
        ],
        title="sinks",
    )
    view.table(
        ["queue", "depth", "cap", "dropped"],
        [
            [name, queue["depth"], queue["cap"], queue.get("dropped", 0)]
            for name, queue in facts["queues"].items()
        ],
        title="queues and tables",
    )
    _print_findings(view, facts["last_findings"], title="last findings")


def _describe_sink(row: Body) -> str:
    if "type" not in row:
        return "-"
    if row["error"]:
        return f"FAILING: {row['error']}"
    return "ok" if row["acknowledged"] else "ok (can lose messages: not acknowledged)"


def _print_models(view: View, facts: Body) -> None:
    if not facts["running"]:
        return
    models, judge, loaded = facts["models"], facts["judge"], facts["rules"]["loaded"]
    encoder = models.get("encoder")
    if encoder:
        view.line(
            f"encoder: {encoder['phase']}, pid {encoder['pid'] or '-'}, "
            f"{encoder['answered']} answers, {encoder['restarts']} restarts"
            + (f", last error: {clean(encoder['last_error'])}" if encoder["last_error"] else "")
        )
    if judge:
        view.line(
            f"judge: knows the verdict of {judge['verdicts_known']} of {loaded} rules"
            + (f", {judge['failed']} failed" if judge["failed"] else "")
            + (f", waits: {clean(judge['down'])}" if judge["down"] else "")
        )
    if models["missing"]:
        view.line(f"knowledge: {clean(models['missing'])}", "yellow")


def read_selection(args: argparse.Namespace) -> Body:
    """What --since, --level and --limit select, as the store takes it. Raises UsageError."""
    return {
        "since": parse_since(args.since, time.time()),
        "level": parse_level(args.level),
        "limit": args.limit,
    }


def findings(args: argparse.Namespace) -> Exit:
    """`appliance findings`."""
    selection = read_selection(args)
    with closing(open_store(read_config(args))) as store:
        bodies = store.finding_bodies(**selection)
    view = View()
    if args.json:
        view.json(bodies)
    else:
        _print_findings(view, bodies)
    return Exit.DONE


def _print_findings(view: View, bodies: list[Body], title: str = "") -> None:
    view.table(
        ["id", "time (UTC)", "level", "technique", "host", "title"],
        [
            [
                body["id"][:12],
                show_iso(body["time"]),
                body["level"],
                body["techniques"][0] if body["techniques"] else "",
                body["host"],
                body["title"],
            ]
            for body in bodies
        ],
        title=title,
    )


def incidents(args: argparse.Namespace) -> Exit:
    """`appliance incidents`."""
    selection = read_selection(args)
    with closing(open_store(read_config(args))) as store:
        rows = store.incidents(**selection)
    view = View()
    if args.json:
        view.json([render_incident(row) for row in rows])
        return Exit.DONE
    view.table(
        ["id", "level", "findings", "last seen (UTC)", "hosts", "worst finding"],
        [
            [
                row.id[:12],
                row.level,
                row.count,
                show_time(row.last_seen),
                " ".join(e.value for e in row.entities if e.kind == "host"),
                row.title,
            ]
            for row in rows
        ],
    )
    return Exit.DONE


def show(args: argparse.Namespace) -> Exit:
    """`appliance show ID`: exit 1 when there is no such id, or several that start so."""
    with closing(open_store(read_config(args))) as store:
        matches = store.find_ids(args.id.lower())
        if not matches:
            raise ApplianceError(f"no finding or incident has an id that starts with {args.id!r}")
        if len(matches) > 1:
            ids = ", ".join(f"{kind} {key[:16]}" for kind, key in matches)
            raise ApplianceError(f"{args.id!r} fits several: {ids}")
        kind, key = matches[0]
        if kind == "finding":
            _show_finding(args, store.findings_by_ids([key])[key])
        else:
            _show_incident(args, store, key)
    return Exit.DONE


def _show_finding(args: argparse.Namespace, body: Body) -> None:
    view = View()
    if args.json:
        view.json(body)
        return
    view.line(f"finding {body['id']}", "bold")
    source = body["source"]
    logsource = " ".join(f"{k}={clean(v)}" for k, v in body["logsource"].items() if v)
    for name, value in (
        ("title", body["title"]),
        ("level", body["level"]),
        ("time", f"{show_iso(body['time'])} UTC"),
        ("host", body["host"]),
        ("detector", f"{body['detector']}, rule {body['rule_id']}"),
        ("technique", " ".join(body["techniques"])),
        ("tactic", " ".join(body["tactics"])),
        ("log source", logsource),
        ("record", f"{source['path']} at {source['record']} (source {source['name']})"),
        ("incident", body["incident"]),
        ("verdict", body["verdict"]),
    ):
        view.line(f"  {name:<11} {clean(value, 2000)}")
    view.line("  matched")
    for match in body["matched"]:
        view.line(f"    {clean(match['field'] or 'keyword')} = {clean(match['value'], 2000)}")
        view.line(f"      by {clean(match['pattern'], 2000)}")
    view.line("  experts")
    for verdict in body["verdicts"]:
        view.line(f"    {verdict['expert']}: {verdict['label']} ({verdict['confidence']:.2f}): "
                  f"{clean(verdict['reason'], 2000)}")  # fmt: skip
    for cited in body["citations"]:
        view.line(f"    [{cited['id']}] {clean(cited['title'])} "
                  f"(by {cited['reason']}, {cited['score']:.2f})")  # fmt: skip
    view.line("  entities")
    for entity in body["entities"]:
        view.line(f"    {entity['kind']:<8} {clean(entity['value'])}")


def _show_incident(args: argparse.Namespace, store: Store, key: str) -> None:
    incident: Incident | None = store.incident(key)
    if incident is None:
        raise ApplianceError(f"incident {key} is no longer kept")
    bodies = store.finding_bodies(since=float("-inf"), incident=key, limit=args.limit)
    view = View()
    if args.json:
        view.json({**render_incident(incident), "story": bodies})
        return
    view.line(f"incident {incident.id}", "bold")
    hosts = " ".join(e.value for e in incident.entities if e.kind == "host")
    for name, value in (
        ("level", incident.level),
        ("status", incident.status),
        ("findings", incident.count),
        ("from", f"{show_time(incident.first_seen)} UTC"),
        ("to", f"{show_time(incident.last_seen)} UTC"),
        ("hosts", hosts),
        ("tactics", ", ".join(incident.tactics)),
        ("aliases", " ".join(incident.aliases)),
    ):
        view.line(f"  {name:<9} {clean(value)}")
    _print_findings(view, bodies, title="what happened, in order")
    view.table(["kind", "entity"], [[e.kind, e.value] for e in incident.entities], title="entities")


def rejected(args: argparse.Namespace) -> Exit:
    """`appliance rejected`: what could not be read, with its bytes and the reason."""
    with closing(open_store(read_config(args))) as store:
        rows = store.rejected_rows(args.limit)
        reasons = store.rejected_reasons()
    view = View()
    if args.json:
        view.json([{**row, "data": base64.b64encode(row["data"]).decode()} for row in rows])
        return Exit.DONE
    view.table(["source", "stage", "reason", "records"], reasons, title="by reason")
    view.table(
        ["received (UTC)", "source", "path", "at", "stage", "reason", "bytes", "begins"],
        [
            [
                show_time(row["received"]),
                row["source"],
                row["path"],
                row["position"],
                row["stage"],
                row["reason"],
                row["length"],
                row["data"][:80].decode("utf-8", "backslashreplace"),
            ]
            for row in rows
        ],
        title="the newest",
    )
    return Exit.DONE
