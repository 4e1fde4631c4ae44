"""How old a source of knowledge is, and whether that is too old. The clock is an argument."""

import re
from datetime import UTC, datetime
from typing import Any, Final

from appliance.knowledge.generation import KnowledgeSource

DAY: Final = 86_400

#: Days after which a source is stale, by what it is called; the first that fits counts. A source
#: that is not here does not age: what it says stays true.
STALE_DAYS: Final[tuple[tuple[re.Pattern[str], int], ...]] = (
    (re.compile(r"CISA KEV"), 30),
    (re.compile(r"MITRE ATT&CK"), 270),
    (re.compile(r"Sigma"), 180),
)
#: The same for a source that brings indicators.
STALE_INDICATOR_DAYS: Final = 30

#: When releases of ATT&CK came out (attack.mitre.org/resources/versions).
ATTACK_RELEASES: Final[dict[str, str]] = {
    "13": "2023-04-25",
    "14": "2023-10-31",
    "15": "2024-04-23",
    "16": "2024-10-31",
    "17": "2025-04-22",
    "18": "2025-10-28",
}
_DATE: Final = re.compile(r"(\d{4})[-./](\d{2})[-./](\d{2})(?!\d)")


def describe_source(source: KnowledgeSource, now: float) -> dict[str, Any]:
    """What is known of a source at `now` (seconds since 1970): its age in days, by the older of its
    release and its import (None where neither is told), and whether that is too old."""
    released = find_release(source.name, source.version)
    told = [moment for moment in (released, source.read_at or None) if moment is not None]
    age = max(0, int((now - min(told)) // DAY)) if told else None
    limit = find_limit(source)
    return {
        "name": source.name,
        "kind": source.kind,
        "version": source.version,
        "licence": source.licence,
        "released": _show_day(released),
        "imported": _show_day(source.read_at or None),
        "age_days": age,
        "stale_after_days": limit,
        "stale": None if limit is None or age is None else age > limit,
        "entries": source.entries,
        "links": source.links,
        "indicators": source.indicators,
    }


def find_release(name: str, version: str) -> float | None:
    """When this version of a source came out (seconds since 1970), as far as the version tells."""
    text = version
    if name.startswith("MITRE ATT&CK"):
        text = ATTACK_RELEASES.get(version.removeprefix("v").partition(".")[0], version)
    found = _DATE.match(text)
    if found is None:
        return None
    try:
        return datetime(int(found[1]), int(found[2]), int(found[3]), tzinfo=UTC).timestamp()
    except ValueError:
        return None


def find_limit(source: KnowledgeSource) -> int | None:
    """Days after which the source is stale; None for one that does not age."""
    if source.kind in ("own", "rules"):
        return None  # they come with the appliance
    named = (days for name, days in STALE_DAYS if name.match(source.name))
    return next(named, STALE_INDICATOR_DAYS if source.indicators else None)


def _show_day(moment: float | None) -> str | None:
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return None
