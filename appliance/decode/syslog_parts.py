"""Second station of the line: what both syslog formats share (PRI names, JSON as the message)."""

from typing import Any, Final

from appliance.decode.json_object import read_object
from appliance.decode.utf8 import escape_bytes
from appliance.errors import DecodeError

#: RFC 5424 section 6.2.1, table 1, under the names of syslog.conf(5).
FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
)  # fmt: skip
#: RFC 5424 section 6.2.1, table 2.
SEVERITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
#: Highest PRI: local7.debug.
MAX_PRI: Final = 191

_CEE: Final = "@cee:"


def name_priority(number: int) -> tuple[str, str]:
    """Facility and severity names of a PRI value in 0..MAX_PRI."""
    return FACILITIES[number >> 3], SEVERITIES[number & 7]


def read_json_body(message: str) -> tuple[dict[str, Any] | None, bool]:
    """The JSON object that the message is (plain, or behind the CEE cookie), and whether it had
    to be repaired. None when it is no JSON object: a message may be any text."""
    body = message.lstrip()
    if body.startswith(_CEE):
        body = body[len(_CEE) :].lstrip()
    if not body.startswith("{"):
        return None, False
    try:
        return read_object(body.encode("utf-8", "surrogateescape"))
    except DecodeError:
        return None, False


def make_plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with bad bytes escaped in every text; the JSON body is plain already."""
    return {
        name: value if name == "json" else _make_plain_value(value)
        for name, value in fields.items()
    }


def _make_plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return escape_bytes(value)
    if isinstance(value, dict):
        return {escape_bytes(key): _make_plain_value(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_make_plain_value(child) for child in value]
    return value
