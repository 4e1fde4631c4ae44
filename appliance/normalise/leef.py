"""Third station of the line, LEEF events of any device: product leef, and Sigma's categories.

Names are those of IBM's guide ("Predefined LEEF event attributes"). The event's host is that of the
syslog header: no attribute names the device. In a file without headers it is identHostName, the
host that the event is about.
"""

import re
from typing import Any, Final

from appliance.normalise.devices import (
    CATEGORIES,
    Request,
    collect_neutral,
    find_text,
    judge_result,
    list_categories,
    read_zoned_time,
)
from appliance.normalise.entities import make_host, make_user, name_host
from appliance.normalise.reading import Context, Reading
from appliance.schema import Decoded, Entity, Fields, LogSource, View

LEEF: Final = LogSource(product="leef")
#: Every log source that this normaliser can produce.
SOURCES: Final = (LEEF, *CATEGORIES)

#: IBM's name, or one that devices use -> the neutral one; the first that is there counts.
_NAMES: Final = (
    ("src", "src_ip"), ("srcPort", "src_port"), ("dst", "dst_ip"), ("dstPort", "dst_port"),
    ("usrName", "user"), ("act", "action"), ("Action", "action"), ("proto", "protocol"),
)  # fmt: skip
_THREATS: Final = ("virusName", "virus", "malwareName", "threatName", "threat")
_FILES: Final = ("filePath", "fileName", "Path", "ChildPath")
#: Letters of Java's SimpleDateFormat, which devTimeFormat is in, as groups of an expression.
_LETTERS: Final = {
    "yyyy": r"(?P<year>\d{4})",
    "MMM": r"(?P<word>[A-Za-z]{3})",
    "MM": r"(?P<month>\d\d?)",
    "dd": r"(?P<day>\d\d?)",
    "d": r"(?P<day>\d\d?)",
    "HH": r"(?P<hour>\d\d?)",
    "mm": r"(?P<minute>\d\d)",
    "ss": r"(?P<second>\d\d)",
    "SSS": r"(?P<fraction>\d{1,9})",
    "Z": r"(?P<zone>[+-]\d{4})",
    "XXX": r"(?P<zone>Z|[+-]\d\d:\d\d)",
    "z": r"(?P<zone>UTC|GMT)",
}
_TOKEN: Final = re.compile(r"([A-Za-z])\1*|'[^']*'|.", re.DOTALL)
_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)


def read_leef_event(decoded: Decoded, context: Context) -> Reading | None:
    """Read a LEEF event; None for another record."""
    if decoded.format != "leef":
        return None
    record = decoded.fields
    fields: Fields = dict(record)
    for name, new in _NAMES:
        if (value := record.get(name)) not in (None, ""):
            fields.setdefault(new, value)
    if result := judge_result(record.get("result") or record.get("outcome")):
        fields["result"] = result
    if path := find_text(record, *_FILES):
        fields["Filename"] = path
    ident = name_host(find_text(record, "identHostName"))
    host = context.host or ident
    views = list_categories(
        fields, request=_find_request(record), threat=find_text(record, *_THREATS)
    )
    joined = dict(fields)
    for view in views:
        joined.update(view.fields)
    entities = dict.fromkeys(_collect(record, joined, host))
    if ident and (entity := make_host(ident)):
        entities[entity] = None
    return Reading(
        views=(View(LEEF, fields), *views),
        entities=tuple(entities),
        host=host,
        time=_read_device_time(record, context),
    )


def _collect(record: dict[str, Any], fields: Fields, host: str) -> tuple[Entity, ...]:
    name, domain = find_text(record, "usrName"), find_text(record, "domain")
    if not name or not domain:
        return collect_neutral(fields, host)
    found = collect_neutral({n: value for n, value in fields.items() if n != "user"}, host)
    user = make_user(name, domain)
    return (*found, user) if user is not None else found


def _find_request(record: dict[str, Any]) -> Request | None:
    url = find_text(record, "url", "URL", "requestUrl")
    if not url:
        return None
    return Request(
        url=url,
        method=find_text(record, "method", "requestMethod"),
        agent=find_text(record, "userAgent", "user-agent"),
        status=find_text(record, "responseCode", "status"),
    )


def _read_device_time(record: dict[str, Any], context: Context) -> float | None:
    stamp, form = record.get("devTime"), record.get("devTimeFormat")
    if isinstance(stamp, str) and isinstance(form, str) and len(stamp) <= 64 and len(form) <= 64:
        stamp = _rewrite_time(stamp.strip(), form.strip()) or stamp
    return read_zoned_time(stamp, context)


def _rewrite_time(stamp: str, form: str) -> str:
    """The time as ISO 8601; "" when the format has other letters or the time another form."""
    pattern, seen = "", set()
    for token in _TOKEN.finditer(form):
        text = token[0]
        if text[0].isascii() and text[0].isalpha():
            group = _LETTERS.get(text)
            if group is None or group in seen:
                return ""
            seen.add(group)
            pattern += group
        else:
            pattern += re.escape(text.strip("'") if len(text) > 1 else text)
    try:
        match = re.fullmatch(pattern, stamp)
    except re.error:
        # The same part twice, in two widths.
        return ""
    if match is None:
        return ""
    parts = {"fraction": "0", "zone": "", "second": "00", "month": ""} | match.groupdict()
    if word := parts.get("word"):
        if word.lower() not in _MONTHS:
            return ""
        parts["month"] = str(_MONTHS.index(word.lower()) + 1)
    if not all(parts.get(name) for name in ("year", "month", "day", "hour", "minute")):
        return ""
    zone = "Z" if parts["zone"] in ("UTC", "GMT") else parts["zone"]
    return (
        f"{parts['year']}-{parts['month']:0>2}-{parts['day']:0>2}T{parts['hour']:0>2}:"
        f"{parts['minute']}:{parts['second']}.{parts['fraction'][:6]}{zone}"
    )
