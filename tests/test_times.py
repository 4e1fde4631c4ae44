"""Times without a year or a zone: New Year, leap days, changes of the clock, zones of sources."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest

from appliance.decode import decode
from appliance.normalise import normalise
from appliance.normalise.reading import Context
from appliance.normalise.times import MAX_AHEAD, read_time
from appliance.schema import Cursor, Event, RawRecord

ZURICH = ZoneInfo("Europe/Zurich")
NEW_YORK = ZoneInfo("America/New_York")
SYDNEY = ZoneInfo("Australia/Sydney")


def read(line: str, received: float, zone: tzinfo = UTC) -> Event:
    data = line.encode()
    record = RawRecord(data, "test", "/x.log", "x", Cursor("test", "x", 0, len(data)), received)
    return normalise(record, decode(record), zone=zone).event


def at(text: str, zone: tzinfo = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize("zone", [UTC, ZURICH, NEW_YORK, SYDNEY])
@pytest.mark.parametrize(
    ("stamp", "received", "expected"),
    [
        # Written in the old year, received in the new one.
        ("Dec 31 23:59:58", "2026-01-01T00:00:05", "2025-12-31T23:59:58"),
        # A host whose clock is ahead, or in a zone ahead, writes of the new year already.
        ("Jan  1 00:00:03", "2025-12-31T23:59:58", "2026-01-01T00:00:03"),
        ("Jan  1 09:00:00", "2025-12-31T22:00:00", "2026-01-01T09:00:00"),
        ("Jan  1 00:00:00", "2026-01-01T00:00:00", "2026-01-01T00:00:00"),
        # Read late: a file of weeks and months ago.
        ("Dec 31 23:59:58", "2026-03-01T00:00:00", "2025-12-31T23:59:58"),
        ("Mar  1 23:59:59", "2026-03-01T00:00:00", "2026-03-01T23:59:59"),
        ("Mar  2 00:00:01", "2026-02-28T23:59:59", "2025-03-02T00:00:01"),
        # 29 February is of the last leap year, in and out of one.
        ("Feb 29 12:00:00", "2028-02-29T12:00:05", "2028-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2028-02-28T23:00:00", "2028-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2027-03-01T00:00:00", "2024-02-29T12:00:00"),
        ("Feb 29 23:59:59", "2028-03-01T00:00:01", "2028-02-29T23:59:59"),
        ("Feb 28 23:59:59", "2028-03-01T00:00:01", "2028-02-28T23:59:59"),
        # 2100 is no leap year.
        ("Feb 29 12:00:00", "2103-06-01T00:00:00", "2096-02-29T12:00:00"),
    ],
)
def test_year_of_a_time_without_one(stamp: str, received: str, expected: str, zone: tzinfo) -> None:
    event = read(f"{stamp} h sshd[1]: x", at(received, zone), zone)
    assert event.time_known
    assert event.time == at(expected, zone)
    assert event.received == at(received, zone)


def test_29_february_that_none_of_the_years_had() -> None:
    event = read("Feb 29 12:00:00 h sshd[1]: x", at("1903-06-01"))
    assert not event.time_known
    assert event.time == event.received


@pytest.mark.parametrize(
    ("received", "zone", "known"),
    [
        # The bound is a day from the receipt, whatever the zones are.
        (at("2025-12-31T00:00:03"), UTC, "2026-01-01T00:00:03"),
        (at("2025-12-31T00:00:02"), UTC, "2025-01-01T00:00:03"),
    ],
)
def test_a_day_ahead_is_the_bound(received: float, zone: tzinfo, known: str) -> None:
    assert timedelta(days=1).total_seconds() == MAX_AHEAD
    assert read("Jan  1 00:00:03 h sshd[1]: x", received, zone).time == at(known)


def test_source_in_another_zone_than_the_receiver_at_new_year() -> None:
    # Sydney is eleven hours ahead: there it is the new year while UTC has the old one.
    received = at("2025-12-31T13:00:02")
    assert read("Jan  1 00:00:01 h sshd[1]: x", received, SYDNEY).time == received - 1
    # New York is five hours behind: the old year there, the new one in UTC.
    received = at("2026-01-01T04:59:59")
    assert read("Dec 31 23:59:58 h sshd[1]: x", received, NEW_YORK).time == received - 1


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        # 2026-03-29, 02:00 to 03:00 does not exist in Zurich: the hour before the change counts on.
        ("Mar 29 01:59:59", "2026-03-29T00:59:59"),
        ("Mar 29 02:30:00", "2026-03-29T01:30:00"),
        ("Mar 29 03:00:00", "2026-03-29T01:00:00"),
        # 2025-10-26, 02:00 to 03:00 exists twice: read late, the first time.
        ("Oct 26 01:59:59", "2025-10-25T23:59:59"),
        ("Oct 26 02:30:00", "2025-10-26T00:30:00"),
        ("Oct 26 03:00:00", "2025-10-26T02:00:00"),
    ],
)
def test_change_of_the_clock(stamp: str, expected: str) -> None:
    assert read(f"{stamp} h sshd[1]: x", at("2026-06-01"), ZURICH).time == at(expected)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        # Received while the hour runs for the first time, then for the second.
        ("2025-10-26T00:30:05", "2025-10-26T00:30:00"),
        ("2025-10-26T01:30:05", "2025-10-26T01:30:00"),
        ("2025-10-26T01:29:30", "2025-10-26T01:30:00"),
        ("2025-10-26T03:00:00", "2025-10-26T01:30:00"),
        ("2025-10-26T00:10:00", "2025-10-26T00:30:00"),
        # Long after there is nothing to tell them apart by.
        ("2025-10-27T09:00:00", "2025-10-26T00:30:00"),
    ],
)
@pytest.mark.parametrize("stamp", ["Oct 26 02:30:00", "2025-10-26T02:30:00"])
def test_hour_that_runs_twice_is_told_by_the_receipt(
    stamp: str, received: str, expected: str
) -> None:
    event = read(f"{stamp} h sshd[1]: x", at(received), ZURICH)
    assert event.time == at(expected)


def test_zone_of_the_record_goes_before_that_of_the_source() -> None:
    received = at("2026-03-01T12:00:00")
    for line in (
        "2026-03-01T11:00:00Z h sshd[1]: x",
        "2026-03-01T06:00:00-05:00 h sshd[1]: x",
        "2026-03-01 12:00:00 +0100 x",
        "[CET Mar  1 12:00:00] x",
        "Sun Mar  1 05:00:00 CST 2026 x",
    ):
        assert read(line, received, SYDNEY).time == received - 3600, line
    # A name that means several zones is none: the configured one counts.
    line = "Sun Mar  1 12:00:00 IST 2026 x"
    assert read(line, received, timezone(timedelta(hours=1))).time == received - 3600


def test_time_and_receipt_are_both_kept() -> None:
    received = at("2026-03-01T12:00:00")
    event = read("Mar  1 11:00:00 h sshd[1]: x", received)
    assert (event.time, event.received, event.time_known) == (received - 3600, received, True)
    event = read("2031-03-01T11:00:00Z h sshd[1]: x", received)
    assert (event.time, event.received, event.time_known) == (received, received, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01-03-2026 11:00:00", "2026-03-01T11:00:00"),
        ("01-03-2026 11:00:00 +0300", "2026-03-01T08:00:00"),
        ("Mar-01-26 11:00:00", "2026-03-01T11:00:00"),
        ("Mar-01-99 11:00:00", "1999-03-01T11:00:00"),
        ("2026:03:01-11:00:00", "2026-03-01T11:00:00"),
        ("260301 11:00:00", "2026-03-01T11:00:00"),
        ("260301  9:00:00", "2026-03-01T09:00:00"),
        ("2026-03-01  9:00:00", "2026-03-01T09:00:00"),
        ("PDT Mar  1 04:00:00", "2026-03-01T11:00:00"),
        ("03-01 11:00:00.500", "2026-03-01T11:00:00.500"),
        ("L 03/01/2026 - 11:00:00", "2026-03-01T11:00:00"),
        ("March 1, 2026 11:00:00", "2026-03-01T11:00:00"),
        # A day that is none, a month that is none.
        ("31-02-2026 11:00:00", None),
        ("Foo-01-26 11:00:00", None),
        ("261301 11:00:00", None),
        ("13-32 11:00:00", None),
    ],
)
def test_forms_of_single_products(text: str, expected: str | None) -> None:
    seconds = read_time(text, Context(received=at("2026-03-01T12:00:00"), zone=UTC))
    assert seconds == (None if expected is None else at(expected))
    if expected is not None:
        event = read(f"[{text}] x", at("2026-03-01T12:00:00"))
        # Only JSON records hold a month's whole name.
        assert event.time_known is not text.startswith("March")
