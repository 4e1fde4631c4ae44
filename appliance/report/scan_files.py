"""Behind the store, for `scan --out`: findings as JSON lines, CSV, HTML or a Navigator layer.

Every writer takes the findings one by one, as objects of emit/render.py, and writes bytes. Log
text in them is hostile: HTML is escaped and loads nothing, a CSV cell never starts a formula.
"""

import csv
import html
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from appliance.emit.render import to_json_line
from appliance.emit.text import show_hidden
from appliance.errors import ApplianceError

Body = dict[str, Any]

CSV_COLUMNS: Final = (
    "time", "host", "level", "title", "rule_id", "detector", "score", "techniques", "tactics",
    "verdict", "incident", "path", "record", "matched", "id",
)  # fmt: skip

_LEVEL_COLOURS: Final = {
    "critical": "#b3001b",
    "high": "#c7530a",
    "medium": "#8a6d00",
    "low": "#2a6f97",
    "informational": "#5c6b73",
}

_PAGE_HEAD: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Scan findings</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
body{color:#1b2328;background:#fff}
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.45rem .6rem;border-bottom:1px solid #d8dee2}
td.level{font-weight:600;white-space:nowrap}td.time{white-space:nowrap}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere;color:#33424a}
.facts{color:#5c6b73;font-size:.85rem}
</style></head><body>
"""


def write_jsonl(findings: Iterable[Body], out: BinaryIO) -> None:
    """One JSON object a line, one a finding: the contract of `scan --out`."""
    for body in findings:
        out.write(to_json_line(body) + b"\n")


def write_csv(findings: Iterable[Body], out: BinaryIO) -> None:
    """RFC 4180 with a header line. Lists are joined by a space, matches by a bar."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for body in findings:
        flat = {
            **body,
            "path": body["source"]["path"],
            "record": body["source"]["record"],
            "techniques": " ".join(body["techniques"]),
            "tactics": " ".join(body["tactics"]),
            "matched": " | ".join(f"{m['field'] or '*'}={m['value']}" for m in body["matched"]),
        }
        rows.writerow([_make_cell(flat[name]) for name in CSV_COLUMNS])
        out.write(text.getvalue().encode("utf-8", "backslashreplace"))
        text.seek(0)
        text.truncate()
    out.write(text.getvalue().encode("utf-8"))


def _make_cell(value: object) -> str:
    """A cell's text: hidden characters made visible, no spreadsheet formula (CWE-1236)."""
    cell = show_hidden("" if value is None else str(value))
    return "'" + cell if cell[:1] in ("=", "+", "-", "@") else cell


def write_navigator(findings: Iterable[Body], out: BinaryIO) -> None:
    """An ATT&CK Navigator layer, format 4.5: each technique scored by its count of findings."""
    counts: Counter[str] = Counter()
    for body in findings:
        counts.update(body["techniques"])
    layer = {
        "name": "Scan findings",
        "versions": {"attack": "18", "navigator": "5.1.0", "layer": "4.5"},
        "domain": "enterprise-attack",
        "description": "Findings of one scan, by the technique that the rule names",
        "gradient": {
            "colors": ["#ffe8c2", "#c7530a"],
            "minValue": 0,
            "maxValue": max(counts.values(), default=1),
        },
        "techniques": [
            {"techniqueID": technique, "score": count, "comment": f"{count} findings"}
            for technique, count in sorted(counts.items())
        ],
    }
    out.write(orjson.dumps(layer, option=orjson.OPT_INDENT_2) + b"\n")


def write_html(findings: Iterable[Body], out: BinaryIO) -> None:
    """One self-contained page, a row a finding, in the order given."""
    out.write(_PAGE_HEAD.encode())
    out.write(b"<h1>Scan findings</h1>\n<table><thead><tr><th>Level</th><th>Time (UTC)</th>")
    out.write(b"<th>Host</th><th>Finding</th></tr></thead><tbody>\n")
    count = 0
    for body in findings:
        out.write(_make_row(body).encode("utf-8", "backslashreplace"))
        count += 1
    out.write(f'</tbody></table>\n<p class="facts">{count} findings</p></body></html>\n'.encode())


def _make_row(body: Body) -> str:
    def clean(value: object) -> str:
        return html.escape(show_hidden("" if value is None else str(value)))

    level = str(body["level"])
    cited = "; ".join(f"{c['id']} {c['title']}" for c in body["citations"])
    # One value often meets several patterns: it is shown once.
    values = dict.fromkeys((m["field"] or "keyword", m["value"]) for m in body["matched"])
    matched = "<br>".join(
        f"<code>{clean(name)}: {clean(value)}</code>" for name, value in list(values)[:6]
    )
    facts = f"{clean(body['verdict'])} &middot; {clean(cited)} &middot; " + clean(
        f"{body['source']['path']} record {body['source']['record']}"
    )
    colour = _LEVEL_COLOURS.get(level, "#000")
    return (
        f'<tr><td class="level" style="color:{colour}">{clean(level)}</td>'
        f'<td class="time">{clean(str(body["time"])[:19].replace("T", " "))}</td>'
        f"<td>{clean(body['host'])}</td><td><strong>{clean(body['title'])}</strong><br>{matched}"
        f'<div class="facts">{facts}</div></td></tr>\n'
    )


#: Every format of `scan --out`.
FORMATS: Final[dict[str, Callable[[Iterable[Body], BinaryIO], None]]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "html": write_html,
    "navigator": write_navigator,
}


def replace_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file whole or not at all: under a temporary name, fsync, then rename.

    Raises ApplianceError when the folder does not take it. Devices and pipes are written to as
    they are.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as device:
                write(device)
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as out:
                write(out)
                out.flush()
                os.fsync(out.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ApplianceError(f"{path}: {error.strerror or error}") from error
