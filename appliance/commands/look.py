"""`status`, `findings`, `show` of a finding, `rejected`: looking at what is stored."""

import argparse
import base64
import time
from contextlib import closing
from importlib import import_module
from typing import Any

from appliance.commands.settings import open_store, parse_level, parse_since, read_config
from appliance.control import ask_daemon
from appliance.errors import ApplianceError, Exit, StoreError
from appliance.status import read_stopped_status
from appliance.store import Store
from appliance.view import View, clean, show_iso, show_time

Body = dict[str, Any]

#: Counts of a source that are said only when there are any.
_SOURCE_TROUBLES = (
    ("bytes_unfinished", "bytes of a record whose end has not come"),
    ("repaired", "records held bytes that are no UTF-8"),
    ("untimed", "records told no time that can be believed; theirs is that of their receipt"),
    ("truncated_files", "files were cut in place"),
    ("vanished_files", "files vanished before they were opened"),
    ("gaps", "gaps: entries were gone before they were read"),
    ("refused", "senders were refused"),
)


def status(args: argparse.Namespace) -> Exit:
    """`appliance status`: exit 1 when something is not as it should be, 4 when the daemon is not
    running (and shows what is stored)."""
    config = read_config(args)
    answer = ask_daemon(config.control_path, {"ask": "status"})
    view = View(as_json=args.json)
    try:
        facts = answer if answer is not None else read_stopped_status(config)
    except StoreError as error:
        if not config.store_path.is_file():
            raise
        # Of another version, or damaged: that nobody watches is to be said all the same.
        _say_unreadable(view, str(error))
        return Exit.NOT_RUNNING
    if args.rules:
        # Only now: who asks how it is should not wait for the rule engine to load.
        facts["rule_rows"] = import_module("appliance.ledger").list_ledger(config)
    if args.json:
        view.json(facts)
    else:
        _print_status(view, facts)
    if not facts["running"]:
        return Exit.NOT_RUNNING
    return Exit.FOUND_OR_FAILED if list_real(facts) else Exit.DONE


def _say_unreadable(view: View, error: str) -> None:
    if view.as_json:
        view.json({"running": False, "store_error": error})
    else:
        view.line(f"NOT RUNNING, and the store can't be read: {clean(error, 4096)}", "bold red")


def list_real(facts: Body) -> list[Body]:
    """The troubles that make the appliance unhealthy."""
    return [trouble for trouble in facts.get("troubles", []) if not trouble["notice"]]


def _print_status(view: View, facts: Body) -> None:
    _print_state(view, facts)
    columns = ["seen", "decoded", "rejected", "dropped", "unmapped", "findings"]
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
    if rules and facts["running"]:
        view.line(
            f"rules: {rules['loaded']} loaded, {rules['refused']} refused, "
            f"{rules['fired']} have fired"
        )
    _print_overrides(view, facts)
    _print_suppressions(view, facts)
    fired = ", ".join(f"{name} fired {count}" for name, count in facts["detectors"].items())
    view.line(f"detectors: {fired or 'none has fired'}")
    _print_models(view, facts)
    _print_sentinel(view, facts["sentinel"])
    _print_indicators(view, facts.get("indicators", {}))
    _print_archive(view, facts.get("archive", {}))
    view.table(
        ["sink", "target", "delivered", "waiting", "refused", "lost", "state"],
        [
            [
                row["name"],
                row.get("target", "-"),
                row["delivered"],
                row["waiting"],
                row.get("refused", "-"),
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
    if "rule_rows" in facts:
        _print_rules(view, facts["rule_rows"])
    _print_findings(view, facts["last_findings"], title="last findings")


def _print_state(view: View, facts: Body) -> None:
    """The first lines: how it is, in words, and what is wrong."""
    if not facts["running"]:
        view.line("NOT RUNNING (said by the store, as the daemon left it)", "bold red")
        return
    real = list_real(facts)
    if real:
        count = f"{len(real)} troubles" if len(real) > 1 else "1 trouble"
        view.line(f"NOT HEALTHY: {count}", "bold red")
    else:
        view.line("HEALTHY: every source, sink and part is as it should be", "bold green")
    for trouble in facts["troubles"]:
        what = "notice: " if trouble["notice"] else ""
        view.line(
            f"  {what}{clean(trouble['part'])}: {clean(trouble['words'])} "
            f"(since {show_time(trouble['since'])})",
            "yellow" if trouble["notice"] else "red",
        )
    view.line(f"running since {show_time(facts['started'])} UTC, pid {facts['pid']}, "
              f"version {facts['version']}")  # fmt: skip
    for worker in facts["workers"]:
        view.line(
            f"worker {worker['number']}: pid {worker['pid'] or '-'}, "
            f"{clean(', '.join(worker['sources']))}; started again {worker['restarts']} times"
        )


def _print_overrides(view: View, facts: Body) -> None:
    """What the operator's file changes, so that nothing is lowered in silence."""
    own, held = facts.get("overrides"), facts.get("rules", {}).get("suppressed", 0)
    if own and own["path"]:
        expired = f", {len(own['expired'])} of them expired" if own["expired"] else ""
        view.line(
            f"overrides: {own['levels']} levels changed, {own['disabled']} rules switched off, "
            f"{own['suppressions']} suppressions{expired}; {held} findings suppressed",
            "yellow",
        )
    elif held:
        view.line(f"overrides: {held} findings suppressed (`findings --suppressed`)", "yellow")


def _print_suppressions(view: View, facts: Body) -> None:
    """What is suppressed by command now; and how far the audit log goes."""
    for row in facts.get("suppressions", ()):
        scope = ",".join(f"{name}={value}" for name, value in row["scope"].items())
        view.line(
            f"suppression {row['number']}: {clean(scope)} until {show_time(row['until'])} UTC, "
            f"{row['findings']} findings: {clean(row['because'])}",
            "yellow",
        )
    head = facts.get("audit")
    if head:
        view.line(f"audit log: {head['number']} entries, head {head['hash'][:16]}")


def _print_rules(view: View, rows: list[Body]) -> None:
    view.table(
        ["rule", "level", "fed", "evaluated", "fired", "last fired (UTC)"],
        [
            [
                row["title"],
                row["level"],
                "yes" if row["fed"] else "NO",
                row["evaluated"],
                row["fired"],
                show_time(row["last_fired"]),
            ]
            for row in rows
        ],
        title="rules",
    )


def _describe_sink(row: Body) -> str:
    if "type" not in row:
        return "-"
    if row["error"]:
        return f"FAILING: {row['error']}"
    return "ok" if row["acknowledged"] else "ok (can lose messages: not acknowledged)"


def _print_models(view: View, facts: Body) -> None:
    if not facts["running"]:
        return
    models, judge = facts["models"], facts["judge"]
    encoder = models.get("encoder")
    if encoder:
        view.line(
            f"encoder: {encoder['phase']}, pid {encoder['pid'] or '-'}, "
            f"{encoder['answered']} answers, {encoder['restarts']} restarts"
            + (f", last error: {clean(encoder['last_error'])}" if encoder["last_error"] else "")
        )
    if judge:
        view.line(
            f"judge: {judge['verdicts_known']} verdicts on rules and signatures known"
            + (f", {judge['failed']} failed" if judge["failed"] else "")
            + (f", waits: {clean(judge['down'])}" if judge["down"] else "")
        )
    if models["missing"]:
        view.line(f"knowledge: {clean(models['missing'])}", "yellow")


def _print_sentinel(view: View, facts: Body) -> None:
    """What the sentinel does, and what it could not."""
    if facts.get("missing"):
        view.line(f"sentinel: {clean(facts['missing'])}")
    elif "processes" in facts:
        phases = ", ".join(process["phase"] for process in facts["processes"])
        view.line(
            f"sentinel: {clean(facts['model'])} {facts['hash'][:16]}, {phases}, {facts['restarts']}"
            f" restarts; {facts['per_second']:.0f} texts/s, {facts['waiting']} events wait"
            + (f", {clean(facts['down'])}" if facts["down"] else "")
        )
    if not facts["events"]:
        return
    view.line(
        f"sentinel: {facts['events']} events with {facts['texts']} texts, "
        f"{facts['known_share']:.1%} known before; {facts['judged'] + facts['at_once']} judged"
        + (f"; {facts['repeated']} findings were repeats" if facts["repeated"] else "")
    )
    gaps = (
        ("skipped", "skipped, the queue was full"),
        ("failed", "at which the model failed"),
        ("unjudged", "not judged: they waited when the appliance last crashed or was stopped"),
        ("faults", "faults"),
    )
    for name, what in gaps:
        if facts[name]:
            view.line(f"sentinel: {facts[name]} events {what}", "yellow")


def _print_archive(view: View, facts: Body) -> None:
    """Where the events' records are kept, and what of them is not."""
    if not facts.get("enabled", True):
        view.line("archive: switched off")
    if not facts.get("files") and not facts.get("waiting") and not facts.get("lost"):
        return
    view.line(
        f"archive: {facts['events']:,} events in {facts['bytes'] / 1e6:,.1f} MB, "
        f"{show_time(facts['oldest'])} to {show_time(facts['newest'])}; "
        f"{facts['files']} files, {facts['waiting']} segments not converted yet"
    )
    if facts["lost"]:
        view.line(f"archive: {facts['lost']:,} events could not be archived", "bold red")
    if facts["missing_events"]:
        view.line(f"archive: {facts['missing_events']:,} events' files are gone", "bold red")
    gone = facts["expired_events"] + facts["over_bytes_events"]
    if gone:
        view.line(f"archive: {gone:,} events were let go, for age or size")


def _print_indicators(view: View, facts: Body) -> None:
    """What is looked for, and what could not be."""
    files = facts.get("files", [])
    if not files and not facts.get("events"):
        return
    held = f"{sum(file['values'] for file in files)} values in {len(files)} files; "
    view.line(
        f"indicators: {held if files else ''}{facts.get('events', 0)} events looked up, "
        f"{facts.get('matched', 0)} found, {facts.get('expired', 0)} behind and "
        f"{facts.get('early', 0)} before their validity"
    )
    if facts.get("faults"):
        why = facts.get("fault", "")
        view.line(
            f"indicators: {facts['faults']} look-ups failed" + (f": {clean(why)}" if why else ""),
            "yellow",
        )


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
        bodies = store.finding_bodies(**selection, suppressed=args.suppressed)
    view = View()
    if args.json:
        view.json(bodies)
    else:
        _print_findings(view, bodies)
        if args.suppressed:
            for reason in dict.fromkeys(body["suppressed"] for body in bodies):
                view.line(f"reason: {clean(reason)}")
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


def find_one(store: Store, text: str) -> tuple[str, str]:
    """("finding" or "incident", its full id) for an id or the beginning of one. Raises
    ApplianceError when there is none, or several."""
    matches = store.find_ids(text.lower())
    if not matches:
        raise ApplianceError(f"no finding or incident has an id that starts with {text!r}")
    if len(matches) > 1:
        ids = ", ".join(f"{kind} {key[:16]}" for kind, key in matches)
        raise ApplianceError(f"{text!r} fits several: {ids}")
    return matches[0]


def show_finding(args: argparse.Namespace, body: Body) -> None:
    """`appliance show ID` of a finding."""
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
        ("incident", body["incident"] or "none"),
        ("verdict", body["verdict"]),
        *((("suppressed", body["suppressed"]),) if "suppressed" in body else ()),
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
