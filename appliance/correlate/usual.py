"""What is usual here: learned from the findings alone, per site, and used to rank, never to drop.

For a rule on a host, and for a rule anywhere, the hours in which it fired are counted. With N hours
watched (in which anything at all was found) and n of them with this rule, the chance that the next
hour has it, too, is (n + 1) / (N + 2) (Laplace's rule of succession); minus its binary logarithm is
the surprise, in bits. Days are counted likewise, for what comes once a day. Only hours and days
that ended LAG seconds before the ten minutes in question count: so that the answer does not depend
on the order in which the findings of the last minutes came.
"""

import math
from typing import Final

from appliance.schema import Usual

#: Seconds of one fold, and of the hours that are counted.
BUCKET: Final = 600
HOUR: Final = 3600
DAY: Final = 86400
#: How late an event may come without changing what is found (seconds).
LAG: Final = 600.0
#: Hours watched after which a surprise counts in full: before, nobody knows what is usual.
MATURE_HOURS: Final = 24.0
#: What a rule's being known elsewhere on the site is worth on a host that never had it, in bits.
NEW_HOST_BITS: Final = 1.0
#: Days with it from which on what comes on most days (a backup, an update) is usual, though in few
#: hours; and what it is worth that it comes once a day and not every hour, in bits.
DAILY_DAYS: Final = 3
DAILY_BITS: Final = 1.0
#: Findings of ten minutes, times what was the most before, that are a burst; and when one can be.
BURST_COUNT: Final = 10
BURST_TIMES: Final = 4
BURST_HOURS: Final = 6
#: Most bits that a burst is worth.
MOST_BURST_BITS: Final = 6.0
#: Newest hours and ten minutes that are kept one by one; hosts that are kept by name.
_RECENT: Final = 6
_HOSTS: Final = 8


class Surprise:
    """How unusual something is: `bits` (0 and up, not yet weighed by how long was watched),
    `share` of the hours watched in which it was seen (0..1), `times` the hours in which it was,
    `maturity` 0..1, `burst` in bits, 0 for none."""

    __slots__ = ("bits", "burst", "maturity", "share", "times")

    def __init__(
        self, bits: float, share: float, times: int, maturity: float, burst: float
    ) -> None:
        self.bits = bits
        self.share = share
        self.times = times
        self.maturity = maturity
        self.burst = burst

    @property
    def steady(self) -> float:
        """Bits of rarity alone, as far as enough was watched: no count of the last minutes is in
        it."""
        return self.maturity * self.bits


def note_time(usual: Usual, time: float) -> None:
    """One more finding at `time` (event time, seconds)."""
    usual.hours += _note_new(usual.recent, int(time // HOUR))
    usual.days += _note_new(usual.recent_days, int(time // DAY))


def _note_new(recent: list[int], number: int) -> int:
    """Put an hour or day among the newest; how many went from there. One that is older than all of
    them is left out: nobody knows whether it was counted."""
    if number in recent or (len(recent) == _RECENT and number < recent[0]):
        return 0
    recent.append(number)
    recent.sort()
    if len(recent) <= _RECENT:
        return 0
    del recent[0]
    return 1


def is_noted(usual: Usual, time: float) -> bool:
    """Whether `note_time` would change nothing."""
    recent, hour = usual.recent, int(time // HOUR)
    return hour in recent or (len(recent) == _RECENT and hour < recent[0])


def is_host_noted(usual: Usual, host: str, time: float) -> bool:
    """Whether `note_host` would change nothing."""
    hosts = usual.hosts
    if len(hosts) == _HOSTS and time > hosts[-1][1]:
        return True
    return any(known == host and first <= time for known, first in hosts)


def note_count(usual: Usual, bucket: int) -> int:
    """One more finding in the ten minutes `bucket`; how many it has now."""
    for place, (known, count) in enumerate(usual.buckets):
        if known == bucket:
            usual.buckets[place] = (bucket, count + 1)
            return count + 1
    usual.buckets.append((bucket, 1))
    usual.buckets.sort()
    if len(usual.buckets) > _RECENT:
        _, count = usual.buckets.pop(0)
        usual.peak = max(usual.peak, count)
    return 1


def note_host(usual: Usual, host: str, time: float) -> None:
    """Seen with this host, at `time`: the hosts seen first are kept."""
    for place, (known, first) in enumerate(usual.hosts):
        if known == host:
            if time < first:
                usual.hosts[place] = (host, time)
            return
    usual.hosts.append((host, time))
    usual.hosts.sort(key=lambda row: (row[1], row[0]))
    del usual.hosts[_HOSTS:]


def count_hosts(usual: Usual, bucket: int) -> int:
    """Hosts (at most eight are kept) with which it was seen before the ten minutes."""
    until = bucket * BUCKET - LAG
    return sum(first <= until for _, first in usual.hosts)


def count_hours(usual: Usual, bucket: int) -> int:
    """Distinct hours with it that had ended LAG seconds before the ten minutes began."""
    until = bucket * BUCKET - LAG
    return usual.hours + sum((hour + 1) * HOUR <= until for hour in usual.recent)


def count_days(usual: Usual, bucket: int) -> int:
    """Distinct days (UTC) with it that had ended LAG seconds before the ten minutes began."""
    until = bucket * BUCKET - LAG
    return usual.days + sum((day + 1) * DAY <= until for day in usual.recent_days)


def measure_surprise(site: Usual, rule: Usual, here: Usual, bucket: int, count: int) -> Surprise:
    """How unusual `count` findings of a rule in the ten minutes `bucket` are on a host: `site` is
    what was seen of anything, `rule` of the rule anywhere, `here` of the rule on the host."""
    watched = count_hours(site, bucket)
    times = count_hours(here, bucket)
    bits = min(
        _count_bits(times, watched), _count_bits(count_hours(rule, bucket), watched) + NEW_HOST_BITS
    )
    days = count_days(here, bucket)
    if days >= DAILY_DAYS:
        bits = min(bits, _count_bits(days, count_days(site, bucket)) + DAILY_BITS)
    return Surprise(
        bits=bits,
        share=min(1.0, times / watched) if watched else 0.0,
        times=times,
        maturity=min(1.0, watched / MATURE_HOURS),
        burst=_measure_burst(here, bucket, count) if watched >= BURST_HOURS else 0.0,
    )


def _count_bits(times: int, watched: int) -> float:
    return max(0.0, -math.log2((times + 1) / (watched + 2)))


def _measure_burst(here: Usual, bucket: int, count: int) -> float:
    until = bucket * BUCKET - LAG
    before = [many for known, many in here.buckets if (known + 1) * BUCKET <= until]
    peak = max([here.peak, *before])
    if count < BURST_COUNT or count <= BURST_TIMES * (peak + 1):
        return 0.0
    return min(MOST_BURST_BITS, 1.0 + math.log2(count / (peak + 1)))
