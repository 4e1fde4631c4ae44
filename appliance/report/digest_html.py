"""Behind the store: the digest of a shift as one page, like an incident's report."""

from collections.abc import Sequence
from typing import Final

from appliance.digest import Digest, DigestIncident, TrendSlice
from appliance.emit.text import show_surrogates
from appliance.report import svg
from appliance.report.chain_picture import list_some
from appliance.report.incident_html import describe_details, show_level
from appliance.report.markup import (
    NOTHING,
    Safe,
    join,
    plain,
    say,
    say_time,
    show_moment,
    show_span,
    table,
    tag,
)
from appliance.report.page import build_page, list_facts, show_figure
from appliance.report.timeline import name_stage

#: Bars of one picture at the most: more slices are added up.
MAX_BARS: Final = 48


def render_digest_html(digest: Digest) -> str:
    """The page. Raises nothing for any text in the digest."""
    page = build_page(
        f"Digest {show_moment(digest.since)} to {show_moment(digest.until)}",
        head=_write_head(digest),
        sections=[
            ("state", "How the appliance is", _write_state(digest)),
            ("new", "New incidents", _write_incidents(digest.new, digest.left_out.get("new", 0))),
            (
                "changed",
                "Incidents that changed",
                _write_incidents(digest.changed, digest.left_out.get("changed", 0)),
            ),
            ("closed", "Closed incidents", _write_closed(digest)),
            ("silent", "Silent sources", _write_silent(digest)),
            ("noise", "Noise", _write_noise(digest)),
            ("unseen", "What the appliance could not see", _write_unseen(digest)),
            ("actions", "What was done", _write_actions(digest)),
        ],
        foot=tag(
            "p",
            plain(
                f"Made by appliance {digest.version} at {show_moment(digest.until)} UTC from its "
                "own store. The page loads nothing and runs nothing. All times are UTC; what came "
                "in is counted by the time of its receipt."
            ),
        ),
    )
    return show_surrogates(page)


def describe_state(digest: Digest) -> str:
    """How it is, in a few words."""
    if not digest.running:
        return "NOT RUNNING"
    real = sum(not trouble.notice for trouble in digest.troubles)
    many = "trouble" if real == 1 else "troubles"
    return f"NOT HEALTHY: {real} {many}" if real else "healthy"


def describe_noise(digest: Digest) -> str:
    """Whether there is more noise than before, in words."""
    now = sum(slice_.total - slice_.incidents for slice_ in digest.trend)
    before = sum(slice_.total - slice_.incidents for slice_ in digest.earlier)
    if not before:
        return f"{now:,} findings of no incident, none in the time before"
    change = (now - before) / before
    word = "as many as" if abs(change) < 0.005 else f"{abs(change):.0%} {_direction(change)} than"
    return f"{now:,} findings of no incident, {word} in the time before ({before:,})"


def _direction(change: float) -> str:
    return "more" if change > 0 else "fewer"


def _write_head(digest: Digest) -> list[Safe]:
    state = describe_state(digest)
    facts = [
        ("New incidents", say(f"{len(digest.new) + digest.left_out.get('new', 0):,}")),
        ("Changed", say(f"{len(digest.changed) + digest.left_out.get('changed', 0):,}")),
        ("Closed", say(f"{len(digest.closed) + digest.left_out.get('closed', 0):,}")),
        ("Silent sources", say(f"{len(digest.silent)} of {digest.sources}")),
        ("Appliance", say(state)),
        ("Findings", say(f"{sum(slice_.total for slice_ in digest.trend):,}")),
        ("Suppressed", say(f"{sum(slice_.suppressed for slice_ in digest.trend):,}")),
        ("From (UTC)", say_time(digest.since)),
        ("To (UTC)", say_time(digest.until)),
    ]
    parts = [
        tag("p", say("Digest for the shift"), class_="kicker"),
        tag("h1", say(f"{show_span(digest.until - digest.since)} until "
                      f"{show_moment(digest.until)} UTC")),
        list_facts(facts, big=5),
    ]  # fmt: skip
    if digest.running and digest.healthy:
        return parts
    return [*parts, tag("p", tag("strong", say(state)), class_="alarm")]


def _write_state(digest: Digest) -> Safe:
    parts = []
    if not digest.running:
        words = (
            "The daemon is not running: nothing is watched now. What follows is what the store "
            "holds; how the sources are, nobody can say."
        )
        parts.append(tag("p", say(words)))
    rows = [
        (
            say("notice" if trouble.notice else "trouble"),
            say(trouble.part, 120),
            say(trouble.words, 600),
            say(show_moment(trouble.since)),
        )
        for trouble in digest.troubles[:100]
    ]
    if rows:
        parts.append(table(("Kind", "Part", "What", "Since (UTC)"), rows))
    elif digest.running:
        parts.append(tag("p", say("Every source, sink and part is as it should be.")))
    return join(parts)


def _write_incidents(rows: Sequence[DigestIncident], left_out: int) -> Safe:
    if not rows:
        return tag("p", say("None."), class_="none")
    body = [
        (
            say(f"{row.score:.0f}"),
            show_level(row.level),
            join([tag("strong", say(row.title, 200)),
                  tag("div", say(f"number {row.number}, "), tag("code", say(row.id[:12])),
                      class_="note")]),
            say(list_some(row.hosts, 6) or "-", 400),
            say(", ".join(map(name_stage, row.tactics)) or "-", 300),
            say(f"{row.fresh:,} of {row.count:,}"),
            say(f"{row.status}, {row.assignee or 'nobody'}", 160),
            say(show_moment(row.last_seen)),
        )
        for row in rows
    ]  # fmt: skip
    columns = (
        "Score", "Level", "Incident", "Hosts", "Stages", "New findings", "Case", "Last seen (UTC)",
    )  # fmt: skip
    more = tag("p", say(f"{left_out:,} more are not shown."), class_="note")
    return join([table(columns, body), more if left_out else NOTHING])


def _write_closed(digest: Digest) -> Safe:
    if not digest.closed:
        return tag("p", say("None."), class_="none")
    rows = [
        (
            say(row.closing.replace("_", " ") or "-"),
            show_level(row.level),
            join([tag("strong", say(row.title, 200)),
                  tag("div", say(f"number {row.number}, "), tag("code", say(row.id[:12])),
                      class_="note")]),
            say(row.assignee or "nobody", 100),
            say(row.note or "-", 600),
            say(f"{row.fresh:,} of {row.count:,}"),
        )
        for row in digest.closed
    ]  # fmt: skip
    return table(("Closed as", "Level", "Incident", "By", "Note", "New findings"), rows)


def _write_silent(digest: Digest) -> Safe:
    if not digest.silent:
        words = f"None: each of the {digest.sources} sources gave something in this time."
        return tag("p", say(words if digest.sources else "No source is configured."))
    rows = [
        (say(row.name, 120), say_time(row.last) if row.last else tag("strong", say("never")),
         say(row.words, 400))
        for row in digest.silent
    ]  # fmt: skip
    warn = "No alert from these means nothing: there was no data."
    columns = ("Source", "Gave something last (UTC)", "What is known")
    return join([tag("p", tag("strong", say(warn))), table(columns, rows)])


def group_slices(slices: Sequence[TrendSlice], most: int) -> list[TrendSlice]:
    """Neighbouring slices added up until there are at most `most`."""
    size = -(-len(slices) // most)
    return [
        TrendSlice(
            slices[place].begin,
            sum(s.incidents for s in slices[place : place + size]),
            sum(s.minor for s in slices[place : place + size]),
            sum(s.routine for s in slices[place : place + size]),
            sum(s.suppressed for s in slices[place : place + size]),
        )
        for place in range(0, len(slices), size)
    ]


def draw_trend(digest: Digest, key: str, width: float) -> Safe:
    """Bars of the noise: the time of the digest dark, the time before it light behind a line."""
    most = MAX_BARS if width > 500 else 24
    before, now = group_slices(digest.earlier, most // 2), group_slices(digest.trend, most // 2)
    bars = [*before, *now]
    values = [slice_.total - slice_.incidents for slice_ in bars]
    top = max(values, default=0) or 1
    height, base, left = 96.0, 118.0, 54.0
    room = (width - left - 10) / len(bars)
    parts = [
        svg.write(left - 6, base - height + 4, f"{top:,}", "t", anchor="end"),
        svg.write(left - 6, base + 4, "0", "t", anchor="end"),
        tag("path", d=f"M{left} {base - height}H{width - 8:.0f}", class_="tick"),
        tag("path", d=f"M{left} {base}H{width - 8:.0f}", class_="axis"),
    ]
    for place, (slice_, value) in enumerate(zip(bars, values, strict=True)):
        tall = max(height * value / top, 1.5 if value else 0)
        told = f"from {show_moment(slice_.begin)}: {value:,} findings of no incident"
        box = tag(
            "rect", x=left + place * room + 1, y=base - tall, width=max(room - 2, 1), height=tall,
            class_="bar quiet" if place < len(before) else "bar",
        )  # fmt: skip
        parts.append(tag("g", tag("title", plain(told)), box))
    middle = left + len(before) * room
    parts.append(tag("path", d=f"M{middle:.1f} {base - height - 6}V{base + 20}", class_="break"))
    parts.append(svg.write(middle - 6, base + 18, "the time before", "t", anchor="end"))
    parts.append(svg.write(middle + 6, base + 18, "this time", "t b"))
    begin, end = show_moment(bars[0].begin)[:16], show_moment(digest.until)[:16]
    parts.append(svg.write(left, base + 34, begin, "t"))
    parts.append(svg.write(width - 10, base + 34, end, "t", anchor="end"))
    return svg.draw(
        key, width, base + 42, parts, title="Findings of no incident over time",
        text=describe_noise(digest),
    )  # fmt: skip


def _write_noise(digest: Digest) -> Safe:
    unit = "hour" if digest.step <= 3600 else show_span(digest.step)
    caption = (
        f"Routine, minor and suppressed findings, a bar for each {unit} or several; light: the "
        "time before."
    )
    totals = [
        (name, sum(getattr(s, key) for s in digest.trend), sum(getattr(s, key) for s in
                                                                digest.earlier))
        for name, key in (("in incidents", "incidents"), ("minor", "minor"),
                          ("routine", "routine"), ("suppressed", "suppressed"))
    ]  # fmt: skip
    parts = [
        tag("p", say(f"{describe_noise(digest)}.")),
        show_figure(
            draw_trend(digest, "tr", 1104), draw_trend(digest, "trs", 350), caption=say(caption)
        ),
        table(
            ("Findings", "This time", "The time before"),
            [(say(name), say(f"{now:,}"), say(f"{before:,}")) for name, now, before in totals],
        ),
    ]
    if digest.suppressed:
        parts.append(tag("h3", say("Suppressed by the operator")))
        parts.append(
            table(
                ("Reason", "Findings"),
                [(say(reason, 400), say(f"{count:,}")) for reason, count in digest.suppressed],
            )
        )
    if digest.expected:
        rows = [
            (say(fold.title, 200), say(fold.host or "-", 100), say(f"{fold.count:,}"),
             say(f"{fold.expected:.0%} of hours"), say(show_moment(fold.last)))
            for fold in digest.expected
        ]  # fmt: skip
        parts.append(tag("h3", say("What is expected here, the most frequent")))
        parts.append(table(("Finding", "Host", "Times, ever", "Seen in", "Last (UTC)"), rows))
    words = (
        f"{digest.minor:,} minor incidents and {digest.routine:,} of routine got findings; "
        "`appliance incidents --all` lists them."
    )
    parts.append(tag("p", say(words), class_="note"))
    return join(parts)


def _write_unseen(digest: Digest) -> Safe:
    parts = []
    if digest.rejected:
        rows = [
            (say(source, 100), say(reason, 300), say(f"{count:,}"))
            for source, reason, count in digest.rejected[:100]
        ]
        parts.append(tag("h3", say("Records that could not be read")))
        parts.append(table(("Source", "Why", "Records"), rows))
    else:
        parts.append(tag("p", say("No record of this time was rejected.")))
    if digest.dropped:
        lost = [(say(name, 100), say(f"{count:,}")) for name, count in digest.dropped[:100]]
        parts.append(tag("h3", say("Dropped, ever")))
        parts.append(
            table(("Where", "How many"), lost, caption="Counted since the store was begun, by part")
        )
    else:
        parts.append(tag("p", say("Nothing was ever dropped.")))
    return join(parts)


def _write_actions(digest: Digest) -> Safe:
    if not digest.actions:
        return tag("p", say("Nothing is in the audit log of this time."), class_="none")
    rows = [
        (say(show_moment(action.time)), say(action.actor, 80), say(action.action, 60),
         tag("code", say(action.subject[:12], 40)), say(describe_details(action.details), 400))
        for action in digest.actions
    ]  # fmt: skip
    left = digest.left_out.get("actions", 0)
    more = tag("p", say(f"{left:,} older entries are not shown."), class_="note")
    return join(
        [table(("When (UTC)", "Who", "Did", "To", "With"), rows), more if left else NOTHING]
    )
