"""Beside the line, for the attack chain: times in which a host or source fell silent.

The archive counts the events of each source and host in slices of time. Each has its own rhythm: a
silence is what is clearly longer than its own usual pauses. Silences are told of what is as large
as possible: of a source when all its hosts are silent, of a host when all its sources are.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from appliance.correlate.provenance_text import clean_text, word_time
from appliance.incident import Gap, Sentence
from appliance.schema import Incident

#: (source, host, beginning of a time slice in epoch seconds, events in it), as the archive counts.
Presence = Sequence[tuple[str, str, float, int]]

#: How far before and behind the incident's findings a silence matters, in seconds.
MARGIN: Final = 3600.0
#: A silence is this long at the least (seconds), so many times the median of the usual pauses and
#: so many times the 95th percentile of the others.
LEAST_SECONDS: Final = 900.0
MEDIAN_TIMES: Final = 6.0
HIGH_TIMES: Final = 2.0
_HIGH: Final = 0.95
#: Pauses that must be known before one can be called unusual.
LEAST_PAUSES: Final = 8
#: A slice, in seconds, where there are too few to tell.
STEP: Final = 60.0
#: A silence of something larger says as much when it covers this part of a smaller one's.
_COVERS: Final = 0.8
MAX_SILENCES: Final = 20
MAX_CITES: Final = 16
MAX_NAME: Final = 120


class _Subject(NamedTuple):
    """Whose silence it is: of a source, of a host, of a source about a host, "" for any."""

    source: str
    host: str


class _Silence(NamedTuple):
    """`open` tells which end is not known: nothing came before, or nothing behind."""

    subject: _Subject
    first: float
    last: float
    open: str

    def covers(self, other: "_Silence") -> bool:
        """Whether this silence explains the other one."""
        common = min(self.last, other.last) - max(self.first, other.first)
        return common >= _COVERS * (other.last - other.first)


def find_silences(incident: Incident, presence: Presence) -> list[Gap]:
    """The silences in the incident's time and `MARGIN` around it, at most `MAX_SILENCES`, the
    longest; each cites the sources that fell silent ("source:NAME")."""
    begins: dict[_Subject, set[float]] = {}
    for source, host, begin, events in presence:
        if events > 0 and math.isfinite(begin):
            begins.setdefault(_Subject(source, host), set()).add(begin)
    if not begins:
        return []
    every = sorted(set().union(*begins.values()))
    step = min((later - begin for begin, later in pairwise(every)), default=STEP)
    around = _Around(incident.first_seen, incident.last_seen, every[0], every[-1] + step, step)
    sources: dict[str, set[str]] = {}
    for pair in begins:
        sources.setdefault(pair.host, set()).add(pair.source)
    return _tell_silences(_choose_largest(begins, around), sources)


class _Around(NamedTuple):
    """The incident's first and last finding, the beginning and end of all that came, and the length
    of a slice; all in epoch seconds."""

    first: float
    last: float
    begin: float
    end: float
    step: float

    def matters(self, silence: _Silence) -> bool:
        """Whether it reaches into the incident's time or near to it."""
        return silence.first <= self.last + MARGIN and silence.last >= self.first - MARGIN


def _choose_largest(
    begins: Mapping[_Subject, Collection[float]], around: _Around
) -> list[_Silence]:
    """All silences but those that one of something larger explains. `begins` are the slices with
    events by source and host."""
    hosts_of = Counter(pair.source for pair in begins)
    sources_of = Counter(pair.host for pair in begins)
    everybody = len(hosts_of) > 1 and len(sources_of) > 1
    # A source of one host, and a host of one source, is told of by the host.
    shapes: tuple[Callable[[_Subject], _Subject | None], ...] = (
        lambda _: _Subject("", "") if everybody else None,
        lambda pair: _Subject(pair.source, "") if hosts_of[pair.source] > 1 else None,
        lambda pair: _Subject("", pair.host),
        lambda pair: pair if sources_of[pair.host] > 1 else None,
    )
    chosen: dict[_Subject, list[_Silence]] = {}
    for shape in shapes:
        members: dict[_Subject, list[_Subject]] = {}
        for pair in begins:
            subject = shape(pair)
            if subject is not None:
                members.setdefault(subject, []).append(pair)
        found = {
            subject: [
                silence
                for silence in _list_silences(subject, _join(begins[p] for p in pairs), around)
                if not all(_is_explained(silence, pair, chosen) for pair in pairs)
            ]
            for subject, pairs in members.items()
        }
        chosen |= found
    return [silence for silences in chosen.values() for silence in silences]


def _join(begins: Iterable[Collection[float]]) -> list[float]:
    return sorted(set().union(*begins))


def _is_explained(
    silence: _Silence, pair: _Subject, chosen: Mapping[_Subject, Sequence[_Silence]]
) -> bool:
    """Whether the source and host is silent at this time as a part of something larger."""
    larger = (_Subject("", ""), _Subject(pair.source, ""), _Subject("", pair.host))
    return any(other.covers(silence) for each in larger for other in chosen.get(each, ()))


def _list_silences(
    subject: _Subject, begins: Sequence[float], around: _Around
) -> Iterable[_Silence]:
    """Of one that spoke in the slices that begin at `begins`, in order. That nothing came before
    the first, or behind the last, is one only where others spoke or the incident went on."""
    pauses = sorted(later - begin for begin, later in pairwise(begins))
    if len(pauses) < LEAST_PAUSES:
        return []
    found = [
        _Silence(subject, begin + around.step, later, "")
        for begin, later in pairwise(begins)
        if later - begin >= _find_least(pauses, later - begin)
    ]
    usual = _find_least(pauses, math.inf)
    begin = min(around.begin, around.first)
    if begins[0] - begin >= usual:
        found.append(_Silence(subject, begin, begins[0], "before"))
    end = max(around.end, around.last)
    if end - begins[-1] >= usual:
        found.append(_Silence(subject, begins[-1] + around.step, end, "after"))
    return [silence for silence in found if around.matters(silence)]


def _find_least(pauses: Sequence[float], own: float) -> float:
    """How long a pause has to be to be unusual among these, sorted: `own`, where it is one of them,
    does not count among the usual ones."""
    others = len(pauses) - (own <= pauses[-1])
    place = max(0, math.ceil(_HIGH * others) - 1)
    # The one left out is at the end of the sorted ones where it matters: it is among the longest.
    return max(LEAST_SECONDS, MEDIAN_TIMES * median(pauses), HIGH_TIMES * pauses[place])


def _tell_silences(
    silences: Iterable[_Silence],
    sources: Mapping[str, Collection[str]],
) -> list[Gap]:
    """`sources` are those of each host."""
    everyone = sorted(set().union(*sources.values()))
    longest = sorted(silences, key=lambda s: (s.first - s.last, s.first, s.subject))
    gaps = []
    for silence in longest[:MAX_SILENCES]:
        source, host = silence.subject
        named = [source] if source else sorted(sources[host]) if host else everyone
        cites = tuple(f"source:{name}" for name in named[:MAX_CITES])
        sentence = Sentence(_word_silence(silence, bool(host and len(named) > 1)), cites)
        gaps.append(Gap(_name_subject(silence.subject), silence.first, silence.last, sentence))
    return gaps


def _name_subject(subject: _Subject) -> str:
    source, host = (clean_text(name, MAX_NAME) for name in subject)
    if not source and not host:
        return "all sources"
    return f"{source} about {host}" if source and host else host or source


def _word_silence(silence: _Silence, many: bool) -> str:
    source, host = (clean_text(name, MAX_NAME) for name in silence.subject)
    who = f"No data from host {host}" if host else f"No data from source {source}"
    if source and host:
        who = f"Source {source} has no data from host {host}"
    elif not source and not host:
        who = "No data from any source"
    elif many:
        who += " by any source"
    if silence.open == "before":
        return f"{who} before {word_time(silence.last)}: what came earlier is not known."
    if silence.open == "after":
        return f"{who} after {word_time(silence.first)}: what came later is not known."
    return (
        f"{who} between {word_time(silence.first)} and {word_time(silence.last)}: "
        "much longer than the usual pauses."
    )
