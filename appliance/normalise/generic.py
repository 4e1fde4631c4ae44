"""Third station of the line, its last resort: a record that no product's normaliser knows.

It keeps its own field names and gets one view without a log source: only rules that name none are
evaluated over it, and the ledger counts it as not mapped.
"""

from typing import Any, Final

from appliance.normalise.entities import make_host, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading
from appliance.normalise.times import read_time
from appliance.schema import Decoded, LogSource, View

_NOWHERE: Final = LogSource()
#: Names under which records of unknown products tell their time and host, the likeliest first.
_TIME_NAMES: Final = (
    "@timestamp", "timestamp", "time", "ts", "eventTime", "event_time", "datetime", "date",
)  # fmt: skip
_HTTP_NAMES: Final = frozenset(
    {"uri", "url", "request", "request_uri", "method", "http_method", "request_method"}
    | {"user_agent", "http_user_agent", "status_code"}
)
_OWN_HOST_NAMES: Final = ("host.name", "computer", "Computer")
_HOST_NAMES: Final = ("hostname", "host", "host.name", "computer", "Computer", "Hostname")


def read_generic(decoded: Decoded, context: Context) -> Reading:
    """Read any record."""
    record: dict[str, Any] = decoded.fields
    fields = flatten(record)
    time = None
    for name in _TIME_NAMES:
        if (value := fields.get(name)) is not None:
            time = read_time(value, context)
            if time is not None:
                break
    host = ""
    # In an HTTP request the host is what the client asked for, and the client's choice.
    names = _HOST_NAMES if fields.keys().isdisjoint(_HTTP_NAMES) else _OWN_HOST_NAMES
    for name in names:
        if isinstance(value := fields.get(name), str) and (host := name_host(value)):
            break
    entity = make_host(host) if host else None
    return Reading(
        views=(View(_NOWHERE, fields),),
        entities=(entity,) if entity else (),
        host=host,
        time=time,
    )
