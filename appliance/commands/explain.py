"""`explain`: every step behind one finding, or behind an incident."""

import argparse
from contextlib import closing
from typing import Any

from appliance.commands.incidents import explain_one
from appliance.commands.look import find_one
from appliance.commands.settings import open_store, read_config
from appliance.errors import Exit
from appliance.explain import explain_finding
from appliance.view import View, clean, show_iso

Body = dict[str, Any]

NOT_KEPT = "not kept"


def explain(args: argparse.Namespace) -> Exit:
    """`appliance explain ID`: exit 1 when there is no such id, or several that start so."""
    config = read_config(args)
    with closing(open_store(config)) as store:
        kind, key = find_one(store, args.id)
        if kind != "finding":
            explain_one(args, config, store, key)
            return Exit.DONE
        facts = explain_finding(store, key, config)
    view = View()
    if args.json:
        view.json(facts)
    else:
        _print_steps(view, facts)
    return Exit.DONE


def _print_steps(view: View, facts: Body) -> None:
    body = facts["finding"]
    view.line(f"finding {body['id']}", "bold")
    _fields(view, (("title", body["title"]), ("level", body["level"]), ("host", body["host"])))
    for title, show in (
        ("1 record", _print_record),
        ("2 read as", _print_event),
        ("3 rule", _print_rule),
        ("4 what matched", _print_matched),
        ("5 votes", _print_votes),
        ("6 level", _print_level),
        ("7 incident", _print_incident),
        ("8 sinks", _print_sinks),
    ):
        view.line(title, "bold")
        show(view, facts)


def _fields(view: View, pairs: Any) -> None:
    for name, value in pairs:
        kept = NOT_KEPT if value is None else clean(value, 4096)
        view.line(f"  {name:<12} {kept}")


def _block(view: View, text: str) -> None:
    """A text of several lines, each clean."""
    for line in text.split("\n"):
        view.line(f"    {clean(line.rstrip(chr(13)), 4096) if line.strip() else ''}".rstrip())


def _print_record(view: View, facts: Body) -> None:
    record = facts["record"]
    read = "" if record["event_time_known"] is not False else " (not in the record: when it came)"
    _fields(
        view,
        (
            ("source", record["source"]),
            ("path", record["path"]),
            ("position", record["position"]),
            ("bytes", record["length"]),
            ("received", _show_time(record["received"])),
            ("event time", f"{_show_time(record['event_time'])}{read}"),
        ),
    )
    if record["text"] is None:
        view.line(f"  the record itself: {clean(record['why_not'], 4096)}", "yellow")
    else:
        view.line("  the record itself (read again; the finding's id follows from these bytes):")
        view.line(f"    {clean(record['text'], 20_000)}")


def _show_time(text: str | None) -> str:
    return NOT_KEPT if text is None else f"{show_iso(text)} UTC"


def _print_event(view: View, facts: Body) -> None:
    event = facts["event"]
    mapped = {True: "a product's normaliser knew it", False: "no product's normaliser knew it"}
    _fields(
        view,
        (
            ("format", event["format"]),
            ("mapping", mapped.get(event["mapped"])),
            ("log source", _show_logsource(event["logsource"])),
        ),
    )
    if event["views"] is None:
        view.line(f"  views: {clean(event['why_not'])}", "yellow")
        return
    for seen in event["views"]:
        view.line(f"  view {_show_logsource(seen['logsource'])} (as this version reads it)")
        for name, value in seen["fields"].items():
            view.line(f"    {clean(name)} = {clean(value, 2000)}")


def _show_logsource(logsource: Body) -> str:
    parts = [f"{name}={clean(value)}" for name, value in logsource.items() if value]
    return " ".join(parts) or "none"


def _print_rule(view: View, facts: Body) -> None:
    rule = facts["rule"]
    where = f"{rule['path']}:{rule['line']}" if rule["path"] else None
    _fields(
        view,
        (
            ("detector", rule["detector"]),
            ("title", rule["title"]),
            ("id", rule["id"]),
            ("level", rule["level"]),
            ("file", where),
            ("hash", rule["hash"]),
        ),
    )
    if rule["text"] is None:
        view.line(f"  the rule itself: {clean(rule['why_not'] or 'its file is gone')}", "yellow")
        return
    if rule["description"]:
        _fields(view, (("description", " ".join(rule["description"].split())),))
    for name in ("falsepositives", "references"):
        for value in rule[name]:
            _fields(view, ((name[:12] if name == "references" else "known false", value),))
    view.line("  the rule itself (its hash is the one that fired):")
    _block(view, rule["text"])


def _print_matched(view: View, facts: Body) -> None:
    if not facts["finding"]["matched"]:
        view.line("  nothing was noted by this detector")
    for match in facts["finding"]["matched"]:
        view.line(f"  {clean(match['field'] or 'keyword')} = {clean(match['value'], 2000)}")
        view.line(f"    by {clean(match['pattern'], 2000)}")


def _print_votes(view: View, facts: Body) -> None:
    for other in facts["finding"].get("agreement", []):
        score = f", score {other['score']:.2f}" if "score" in other else ""
        view.line(f"  agrees: {clean(other['detector'])} rule {clean(other['rule_id'])}{score}")
    for vote in facts["votes"]:
        view.line(
            f"  {clean(vote['expert'])}: {vote['label']}, confidence {vote['confidence']:.2f}: "
            f"{clean(vote['reason'], 2000)}"
        )
        if vote["citations"] is None:
            view.line("    which of the finding's citations are its own: not kept")
        for cited in vote["citations"] or ():
            how = f" (by {cited['reason']}, {cited['score']:.2f})" if "score" in cited else ""
            view.line(f"    [{clean(cited['id'])}] {clean(cited.get('title', ''))}{how}")
    updates = facts["updates"]
    view.line(f"  together: {clean(updates['verdict'])}; {updates['what']}")


def _print_level(view: View, facts: Body) -> None:
    level = facts["level"]
    view.line(f"  {level['level']}: {level['why']}")
    if level["suppressed"]:
        view.line(f"  suppressed by the operator: {clean(level['suppressed'])}", "yellow")
    view.line(f"  {level['promise']}")


def _print_incident(view: View, facts: Body) -> None:
    joined = facts["incident"]
    if facts["level"]["suppressed"]:
        view.line("  none: a suppressed finding joins no incident")
        return
    if joined is None:
        view.line(f"  {clean(facts['finding']['incident'])}: no longer kept")
        return
    incident = joined["incident"]
    view.line(
        f"  {incident['id']}: {incident['level']}, {incident['status']}, "
        f"{incident['count']} findings: {clean(incident['title'])}"
    )
    if joined["opened_by_this"]:
        view.line("  this finding opened it")
    view.line(f"  it can be linked by: {clean(', '.join(joined['linking_entities']), 4000)}")
    view.line(
        f"  {joined['linked']} of {joined['compared']} other findings of the incident that are "
        "kept share an entity with it"
    )
    for link in joined["links"]:
        view.line(f"    {link['id'][:12]} {show_iso(link['time'])} {link['level']} "
                  f"{clean(link['title'])}")  # fmt: skip
        view.line(f"      through {clean(', '.join(link['shared']), 2000)}")


def _print_sinks(view: View, facts: Body) -> None:
    if not facts["sinks"]:
        view.line("  the store knows no sink")
    words = {True: "yes", False: "no", None: "not known"}
    for sink in facts["sinks"]:
        view.line(f"  {clean(sink['name'])}: {words[sink['has']]}: {sink['why']}")
    for message in facts["updates"]["waiting"]:
        view.line(f"  still in the outbox: {message['kind']} at {message['seq']}")
