"""Beside the line: what the sources showed of an incident's hosts and time, and what they did not.

"Nothing found" and "nothing seen" must never look the same. From the ledger's counts and from how
many events of these hosts the archive holds at which time this says per source what came, what was
rejected or dropped, and when it was silent; and which hosts are spoken of but never speak.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Final

from appliance.incident import Visibility
from appliance.normalise.entities import name_host

Body = Mapping[str, Any]
#: (source, host, beginning of a time slice in epoch seconds, events in it), as the archive counts.
Presence = Sequence[tuple[str, str, float, int]]

#: Seconds of one slice at the least, and slices of a window at the most.
LEAST_STEP: Final = 60.0
MOST_STEPS: Final = 1440
#: A silence is told when it is this long, and so many times longer than the source's usual pause.
SILENT_SECONDS: Final = 1800.0
SILENT_TIMES: Final = 6.0
#: Silences told of one source, the longest.
MOST_SILENCES: Final = 10


def choose_step(since: float, until: float) -> float:
    """Seconds of a slice for a window between two epoch times."""
    return max(LEAST_STEP, (until - since) / MOST_STEPS)


def list_visibility(
    presence: Presence,
    *,
    step: float,
    window: tuple[float, float],
    seen: tuple[float, float],
    findings: Iterable[Body],
    counts: Mapping[str, Mapping[str, float]],
) -> tuple[Visibility, ...]:
    """One row per source that told of the incident's hosts, by name. `window` are the times that
    `presence` covers in slices of `step` seconds, `seen` those of the first and last finding (epoch
    seconds); `counts` is the store's ledger. Without any presence (no archive) there are no events
    counted and no silences known."""
    hosts: dict[str, set[str]] = {}
    slices: dict[str, dict[float, int]] = {}
    for body in findings:
        hosts.setdefault(body["source"]["name"], set()).add(body["host"])
    for source, host, begin, events in presence:
        hosts.setdefault(source, set()).add(host)
        row = slices.setdefault(source, {})
        row[begin] = row.get(begin, 0) + events
    rows = []
    for source in sorted(hosts):
        ledger = counts.get(f"source:{source}", {})
        last = ledger.get("last_event", ledger.get("last_received", 0.0))
        found = slices.get(source, {})
        rows.append(
            Visibility(
                source=source,
                seen=int(ledger.get("seen", 0)),
                rejected=int(ledger.get("rejected", 0)),
                dropped=int(ledger.get("dropped", 0)),
                events=sum(found.values()),
                hosts=tuple(sorted(hosts[source])),
                last=last,
                silent=find_silences(
                    [begin for begin, events in found.items() if events],
                    step=step,
                    window=window,
                    seen=seen,
                    last=last,
                ),
            )
        )
    return tuple(rows)


def find_silences(
    begins: Sequence[float],
    *,
    step: float,
    window: tuple[float, float],
    seen: tuple[float, float],
    last: float,
) -> tuple[tuple[float, float], ...]:
    """The (first, last) epoch times without an event, in order, where slices of `step` seconds that
    hold events begin at `begins`: those that are much longer than the usual pause and come near to
    the incident's time `seen`. That nothing comes behind the last slice is a silence only if the
    incident goes on, or `last` tells that the source spoke later (a file may simply end)."""
    ordered = sorted(begins)
    if len(ordered) < 2:
        return ()  # no rhythm to miss
    pauses = [later - begin for begin, later in pairwise(ordered)]
    least = max(SILENT_SECONDS, SILENT_TIMES * median(pauses))
    edges = [(begin + step, later) for begin, later in pairwise(ordered)]
    edges.insert(0, (window[0], ordered[0]))
    end = ordered[-1] + step
    if end < seen[1] or last > end:
        edges.append((end, window[1]))
    silences = [
        (first, until)
        for first, until in edges
        if until - first >= least
        and first <= seen[1] + SILENT_SECONDS
        and until >= seen[0] - SILENT_SECONDS
    ]
    longest = sorted(silences, key=lambda pair: pair[0] - pair[1])[:MOST_SILENCES]
    return tuple(sorted(longest))


def find_unheard(
    findings: Iterable[Body], presence: Presence, heard: Collection[str] = ()
) -> dict[str, list[str]]:
    """Hosts that findings name without any event of their own, in the order in which they are first
    named, each with the ids of the findings. `heard` are further hosts known to send events. A name
    and its fully qualified form are one host."""
    bodies = list(findings)
    known = {name_host(host) for _, host, _, events in presence if events}
    known.update(name_host(body["host"]) for body in bodies)
    known.update(name_host(host) for host in heard)
    unheard: dict[str, list[str]] = {}
    for body in bodies:
        for entity in body["entities"]:
            if entity["kind"] == "host" and name_host(entity["value"]) not in known:
                unheard.setdefault(entity["value"], []).append(body["id"])
    return unheard
