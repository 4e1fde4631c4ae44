"""Third station of the line: the text of a time becomes seconds since the epoch.

Order matters: an unambiguous form (ISO 8601 with a zone, an epoch number) before a local one, and
the year that RFC 3164 leaves out is taken from when the record was received.
"""

import math
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final

from appliance.normalise.reading import Context

#: 1990-01-01: no log that we read is older; a clock at 1970 or FILETIME 0 (1601) is no time.
EARLIEST: Final = 631_152_000.0
#: How far ahead of its receipt an event may claim to be, in seconds.
MAX_AHEAD: Final = 86_400.0
#: How far a sender's clock may be ahead, and how old a record that has just been written may be,
#: for telling the two hours apart when the clock is set back; in seconds.
_SKEW: Final = 60.0
_RECENT: Final = 6 * 3600.0
#: Seconds from 1601-01-01 (FILETIME, [MS-DTYP] section 2.3.3) to the epoch.
_FILETIME_EPOCH: Final = 11_644_473_600
#: TAI64 label of the epoch, with the 10 seconds that TAI was ahead then.
_TAI64_EPOCH: Final = (1 << 62) + 10

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
_CLOCK: Final = r"(?P<hour>\d\d?):(?P<minute>\d\d):(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
_ZONE: Final = r"(?: ?(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d))?"
_ZONE_NAME: Final = r"(?P<zone>[A-Z]{3,4})"
_MONTH: Final = r"(?P<month>[A-Za-z]{3})"
#: Names of zones that mean one offset: those of RFC 5322 section 4.3, and Europe's. Any other
#: (IST, BST, AST name several) is no zone, and the time is in the one that is configured.
_ZONE_HOURS: Final = {
    "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3,
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
}  # fmt: skip
_FORMS: Final = tuple(
    re.compile(form)
    for form in (
        rf"(?:(?P<before>\d{{4}}) )?{_MONTH} {{1,2}}(?P<day>\d\d?)(?: (?P<year>\d{{4}}))? {_CLOCK}",
        rf"(?P<year>\d{{4}})[-/.]?(?P<month>\d\d)[-/.]?(?P<day>\d\d)[T ,-]{{1,2}}{_CLOCK}{_ZONE}",
        rf"(?:[A-Z][a-z]{{2}},? )?{_MONTH} {{1,2}}(?P<day>\d\d?) {_CLOCK} (?:{_ZONE_NAME} )?"
        r"(?P<year>\d{4})",
        rf"(?P<day>\d\d?)[/-]{_MONTH}[/-](?P<year>\d{{4}})[: ]{_CLOCK}{_ZONE}",
        # Forms of single products: hyphens put the day first, Half-Life's engine the month.
        rf"(?P<day>\d\d)-(?P<month>\d\d)-(?P<year>\d{{4}}) {_CLOCK}{_ZONE}",
        rf"{_MONTH}-(?P<day>\d\d)-(?P<short>\d\d) {_CLOCK}",
        rf"(?P<year>\d{{4}}):(?P<month>\d\d):(?P<day>\d\d)-{_CLOCK}",
        rf"(?P<short>\d\d)(?P<month>\d\d)(?P<day>\d\d) {{1,2}}{_CLOCK}",
        rf"{_ZONE_NAME} {_MONTH} {{1,2}}(?P<day>\d\d?) {_CLOCK}",
        rf"(?P<month>\d\d)-(?P<day>\d\d) {_CLOCK}",
        rf"L (?P<month>\d\d)/(?P<day>\d\d)/(?P<year>\d{{4}}) - {_CLOCK}",
        rf"{_MONTH}[a-z]{{0,6}} (?P<day>\d\d?), (?P<year>\d{{4}}) {_CLOCK}",
    )
)
#: Digits of EARLIEST: a shorter number is no epoch time.
_SHORTEST_EPOCH: Final = 9
_NUMBER: Final = re.compile(r"-?\d{1,20}(?:\.\d{1,12})?")


def is_plausible(seconds: float, received: float) -> bool:
    """True for a time from 1990 to a day after the record was received."""
    return EARLIEST <= seconds <= received + MAX_AHEAD


def read_time(value: Any, context: Context) -> float | None:
    """Epoch seconds of a time as text or number; None when it is none or not plausible.

    Numbers are seconds, milliseconds, microseconds, nanoseconds or FILETIME, told apart by size.
    """
    if isinstance(value, str):
        seconds = _read_text(value, context)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _read_number(value)
    else:
        return None
    if seconds is None or not is_plausible(seconds, context.received):
        return None
    return seconds


def _read_text(text: str, context: Context) -> float | None:
    if len(text) > 64:
        return None
    # Before ISO 8601, whose basic form a number of milliseconds may look like.
    if text[4:_SHORTEST_EPOCH].isdecimal() and _NUMBER.fullmatch(text):
        return _read_number(float(text))
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=context.zone)
        return _place(moment, context.received)
    except (ValueError, OverflowError):
        pass
    if text[:1] == "@":
        return _read_tai64n(text)
    for form in _FORMS:
        if match := form.match(text):
            return _resolve(match.groupdict(), context)
    return None


def _read_number(value: float) -> float | None:
    if not math.isfinite(value) or value < EARLIEST:
        return None
    # Seconds stay below 1e11 until the year 5138; each finer unit is a thousand times as much.
    for limit, unit in ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6)):
        if value < limit:
            return value / unit
    if value < 1e18:
        return value / 1e7 - _FILETIME_EPOCH
    return value / 1e9


def _read_tai64n(text: str) -> float | None:
    try:
        return int(text[1:17], 16) - _TAI64_EPOCH + int(text[17:25], 16) / 1e9
    except ValueError:
        return None


def _resolve(parts: dict[str, str | None], context: Context) -> float | None:
    month_text = parts.get("month") or ""
    month = int(month_text) if month_text.isdecimal() else _MONTHS.get(month_text.lower(), 0)
    year = parts.get("year") or parts.get("before")
    if year is None and (short := parts.get("short")):
        # Two digits, as POSIX reads them (strptime, %y); none is after the record was received.
        year = f"20{short}" if int(short) < 69 else f"19{short}"
    zone = _read_zone(parts.get("zone")) or context.zone
    clock = (
        month,
        int(parts["day"] or 0),
        int(parts["hour"] or 0),
        int(parts["minute"] or 0),
        int(parts["second"] or 0),
        int((parts.get("fraction") or "0").ljust(6, "0")[:6]),
    )
    if year is not None:
        return _make_time(int(year), clock, zone, context.received)
    return _guess_year(clock, zone, context.received)


def _guess_year(clock: tuple[int, ...], zone: tzinfo, received: float) -> float | None:
    """The latest year that puts the time no more than a day after `received`. Nine years back
    always hold a 29 February, but for a century that is no leap year."""
    try:
        latest = datetime.fromtimestamp(received + MAX_AHEAD, zone).year
    except (ValueError, OverflowError, OSError):
        return None
    for year in range(latest, latest - 9, -1):
        seconds = _make_time(year, clock, zone, received)
        if seconds is not None and seconds <= received + MAX_AHEAD:
            return seconds
    return None


def _make_time(year: int, clock: tuple[int, ...], zone: tzinfo, received: float) -> float | None:
    month, day, hour, minute, second, micro = clock
    try:
        # A leap second is written as :60.
        moment = datetime(year, month, day, hour, minute, min(second, 59), micro, tzinfo=zone)
        return _place(moment, received)
    except (ValueError, OverflowError):
        return None


def _place(moment: datetime, received: float) -> float:
    """Epoch seconds of a local time. A time that the clock shows twice, when it is set back, is the
    second one if that was shortly before the receipt; read later, nothing tells, and it is the
    first. A time that the clock passes over counts on from before."""
    first = moment.timestamp()
    if type(moment.tzinfo) is timezone:
        return first
    second = moment.replace(fold=1).timestamp()
    recent = second - _SKEW <= received <= second + _RECENT
    return second if second > first and recent else first


def _read_zone(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    if text == "Z":
        return UTC
    if text[0] not in "+-":
        hours = _ZONE_HOURS.get(text)
        return None if hours is None else timezone(timedelta(hours=hours))
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    if offset >= timedelta(hours=24):
        return None
    return timezone(-offset if text[0] == "-" else offset)
