"""Behind the store: the digest of a shift as Markdown, plain text and JSON."""

from collections.abc import Sequence
from typing import Final

from appliance.digest import Digest, DigestIncident
from appliance.report.chain_picture import list_some
from appliance.report.digest_html import describe_noise, describe_state
from appliance.report.incident_html import describe_details
from appliance.report.incident_text import encode_dossier
from appliance.report.markdown import escape, write_table
from appliance.report.markup import make_visible, show_moment, show_span

Rows = list[tuple[object, ...]]
#: Columns of a line of plain text at the most, for one value.
MAX_CELL: Final = 100


def render_digest_json(digest: Digest) -> str:
    """The digest as JSON."""
    return encode_dossier(digest).decode()


def _list_parts(digest: Digest) -> list[tuple[str, tuple[str, ...], Rows, str]]:
    """(heading, columns, rows, word where there is none) of each list."""
    totals: Rows = [
        (name, sum(getattr(s, key) for s in digest.trend),
         sum(getattr(s, key) for s in digest.earlier))
        for name, key in (("in incidents", "incidents"), ("minor", "minor"),
                          ("routine", "routine"), ("suppressed", "suppressed"))
    ]  # fmt: skip
    incident = ("Score", "Level", "Id", "Title", "Hosts", "New findings", "Case")
    return [
        ("Troubles", ("Part", "What", "Since (UTC)"),
         [(t.part, t.words, show_moment(t.since)) for t in digest.troubles], "None."),
        ("New incidents", incident, _list_incidents(digest.new), "None."),
        ("Incidents that changed", incident, _list_incidents(digest.changed), "None."),
        ("Closed incidents", ("Closed as", "Level", "Id", "Title", "By", "Note"),
         [(row.closing, row.level, row.id[:12], row.title, row.assignee or "nobody", row.note)
          for row in digest.closed], "None."),
        ("Silent sources", ("Source", "Last (UTC)", "What is known"),
         [(s.name, show_moment(s.last) if s.last else "never", s.words) for s in digest.silent],
         "None."),
        (f"Noise: {describe_noise(digest)}", ("Findings", "This time", "The time before"), totals,
         ""),
        ("Suppressed by the operator", ("Reason", "Findings"), list(digest.suppressed), "None."),
        ("What is expected here, the most frequent", ("Finding", "Host", "Times, ever", "Hours"),
         [(f.title, f.host, f.count, f"{f.expected:.0%}") for f in digest.expected],
         "Nothing yet."),
        ("Records that could not be read", ("Source", "Why", "Records"), list(digest.rejected),
         "None."),
        ("Dropped, ever", ("Where", "How many"), list(digest.dropped), "Nothing."),
        ("What was done", ("When (UTC)", "Who", "Did", "To", "With"),
         [(show_moment(a.time), a.actor, a.action, a.subject[:12], describe_details(a.details))
          for a in digest.actions], "Nothing in the audit log of this time."),
    ]  # fmt: skip


def _list_incidents(rows: Sequence[DigestIncident]) -> Rows:
    return [
        (f"{row.score:.0f}", row.level, row.id[:12], row.title, list_some(row.hosts, 4),
         f"{row.fresh} of {row.count}", f"{row.status}, {row.assignee or 'nobody'}")
        for row in rows
    ]  # fmt: skip


def _title(digest: Digest) -> str:
    span = show_span(digest.until - digest.since)
    return f"Digest: {span} until {show_moment(digest.until)} UTC"


def render_digest_markdown(digest: Digest) -> str:
    """The digest as Markdown."""
    lines = [f"# {_title(digest)}", "", f"Appliance {digest.version}: {describe_state(digest)}", ""]
    for heading, columns, rows, empty in _list_parts(digest):
        lines += [f"## {escape(heading)}", ""]
        lines += write_table(columns, rows) if rows else [empty, ""]
    return "\n".join(lines)


def render_digest_text(digest: Digest) -> str:
    """The digest as plain text in aligned columns, for a terminal or a mail."""
    lines = [_title(digest), f"appliance {digest.version}: {describe_state(digest)}", ""]
    for heading, columns, rows, empty in _list_parts(digest):
        lines.append(make_visible(heading).upper() if len(heading) < 50 else heading)
        if not rows:
            lines += [f"  {empty}", ""]
            continue
        cells = [[make_visible(cell, MAX_CELL) or "-" for cell in row] for row in rows]
        table = [list(columns), *cells]
        widths = [max(len(row[place]) for row in table) for place in range(len(columns))]
        for row in table:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(padded)}".rstrip())
        lines.append("")
    return "\n".join(lines)
