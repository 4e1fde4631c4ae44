"""Third station of the line, product windows: every shape in which its events arrive.

Shapes: the `Event`/`System`/`EventData` object of .evtx readers, winlogbeat (nested, dotted, and
version 6's top level), the flat object of NXLog and of PowerShell exports, and Sysmon exports
with an EventId and no channel. All become one flat dict under the names of Windows itself
(EventID, Channel, Provider_Name, Computer, and the event's own data), which Sigma uses.

Time: System.TimeCreated, or winlogbeat's @timestamp, which is the same. A flat record holds up to
four: UtcTime (Sysmon's own, UTC) comes first; then @timestamp, UTC but that of the collector,
seconds late; then TimeCreated and EventTime, which exports write in local time without saying so.
"""

from functools import partial
from typing import Any, Final

from appliance.normalise.bridges import BRIDGED, BRIDGES
from appliance.normalise.channels import (
    CHANNELS,
    DEFENDER,
    PROVIDER_CHANNELS,
    SYSMON,
    WINDOWS,
    list_sysmon_sources,
)
from appliance.normalise.defender import collect_defender
from appliance.normalise.entities import collect_entities, name_host, read_number
from appliance.normalise.flatten import put_nested
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Fields, View

_FLAT_TIMES: Final = ("UtcTime", "@timestamp", "TimeCreated", "EventTime", "EventReceivedTime")
#: Winlogbeat's and NXLog's words for Windows' levels.
_LEVELS: Final = {
    "critical": 1, "error": 2, "warning": 3, "information": 4, "info": 4, "verbose": 5, "debug": 5,
}  # fmt: skip
#: Keyword bits that winlogbeat words; rules have Windows' number.
_KEYWORDS: Final = {
    "audit success": "0x8020000000000000",
    "audit failure": "0x8010000000000000",
}
#: System's elements whose text is a field of the same name.
_SYSTEM_PLAIN: Final = ("Level", "Task", "Opcode", "Keywords", "Version", "EventRecordID")
_WINLOG_PLAIN: Final = (
    ("task", "Task"),
    ("opcode", "Opcode"),
    ("version", "Version"),
    ("record_id", "EventRecordID"),
)
#: Flat shape: other names for the core fields, the first present one counts.
_FLAT_COMPUTER: Final = ("Computer", "Hostname", "ComputerName", "MachineName", "computer_name")
_FLAT_PROVIDER: Final = (
    "Provider_Name", "SourceName", "ProviderName", "Provider", "source_name",
)  # fmt: skip
_NESTED: Final = frozenset({dict, list})
_FLAT_MARKS: Final = frozenset(
    {"Channel", "SourceName", "Provider_Name", "ProviderName", "ProviderGuid", "Provider"}
    | {"LogName"}
)  # fmt: skip


def read_windows(decoded: Decoded, context: Context) -> Reading | None:
    """Read a Windows event of any shape; None when the record is none."""
    record = find_object(decoded)
    if isinstance(source := record.get("_source"), dict):
        # What Elasticsearch exports has the document one level down.
        record = source
    # A record of one shape may have a field with the name that marks another: then the next is
    # tried.
    reading: Reading | None = None
    if isinstance(event := record.get("Event"), dict):
        reading = _read_event(event, context)
    if reading is None and isinstance(winlog := record.get("winlog"), dict):
        reading = _read_winlogbeat(record, winlog, context)
    if reading is None and ("winlog.event_id" in record or "winlog.channel" in record):
        reading = _read_winlogbeat(record, _undot(record, "winlog."), context)
    if reading is None and "log_name" in record and "event_id" in record:
        reading = _read_winlogbeat(record, record, context)
    return reading or _read_flat(record, context)


# The Event object of .evtx readers --------------------------------------------------------


def _read_event(event: dict[str, Any], context: Context) -> Reading | None:
    system = event.get("System")
    if not isinstance(system, dict):
        return None
    event_id = _read_event_id(_read_text(system.get("EventID")))
    if event_id is None:
        return None
    fields: Fields = {}
    for name, data in event.items():
        if name == "EventData":
            _put_event_data(fields, data)
        elif name != "System" and name[:1] not in ("#", "@") and isinstance(data, dict):
            _put_user_data(fields, data)
    for name in _SYSTEM_PLAIN:
        if name in system:
            _put_absent(fields, name, _read_text(system[name]))
    user = _read_attributes(system.get("Security")).get("UserID")
    if user is not None:
        _put_absent(fields, "UserID", user)
    provider = _read_attributes(system.get("Provider")).get("Name")
    channel = _read_text(system.get("Channel"))
    time = _read_attributes(system.get("TimeCreated")).get("SystemTime")
    _put_core(fields, event_id, channel, provider, _read_text(system.get("Computer")))
    return _make_reading(fields, event_id, read_time(time, context))


def _read_attributes(element: Any) -> dict[str, Any]:
    """XML attributes: under `#attributes`, or each with an @ (xmltodict)."""
    if not isinstance(element, dict):
        return {}
    attributes = element.get("#attributes")
    if isinstance(attributes, dict):
        return attributes
    return {name[1:]: value for name, value in element.items() if name[:1] == "@"}


def _read_text(element: Any) -> Any:
    """An element's text, when it has attributes beside it too."""
    return element.get("#text") if isinstance(element, dict) else element


def _put_event_data(fields: Fields, data: Any) -> None:
    if not isinstance(data, dict):
        if data is not None:
            _put_unnamed(fields, data)
        return
    for name, value in data.items():
        if name[:1] in ("#", "@"):
            continue
        if name == "Data":
            _put_unnamed(fields, value)
        elif isinstance(value, dict | list):
            _put_element(fields, name, value)
        else:
            fields[name] = value
            if " " in name:
                _put_aliases(fields, name, value)


def _put_absent(fields: Fields, name: str, value: Any) -> None:
    """Put what Windows itself says, unless the event's data has a field of the name."""
    if name not in fields:
        put_nested(fields, name, value)


def _put_element(fields: Fields, name: str, value: Any) -> None:
    if isinstance(value, dict) and "#text" in value:
        value = value["#text"]
    put_nested(fields, name, value)


def _put_aliases(fields: Fields, name: str, value: Any) -> None:
    """Defender's names have blanks; rules write them without, or with underscores."""
    fields.setdefault(name.replace(" ", ""), value)
    fields.setdefault(name.replace(" ", "_"), value)


def _put_unnamed(fields: Fields, value: Any) -> None:
    """EventData without names: Data (a list: the whole text first, then each part) and param1 to
    paramN. Parts that carry a name (xmltodict) become fields."""
    parts = _read_text(value)
    parts = parts if isinstance(parts, list) else [parts]
    plain: list[Any] = []
    for part in parts:
        name = _read_attributes(part).get("Name")
        if isinstance(name, str) and name:
            text = _read_text(part)
            put_nested(fields, name, text)
            if " " in name and not isinstance(text, dict | list):
                _put_aliases(fields, name, text)
        else:
            plain.append(_read_text(part))
    if not plain or plain == [None]:
        return
    for number, part in enumerate(plain, start=1):
        put_nested(fields, f"param{number}", part)
    texts = [str(part) for part in plain if part is not None]
    fields["Data"] = texts[0] if len(texts) == 1 else ["\n".join(texts), *texts]


def _put_user_data(fields: Fields, data: dict[str, Any]) -> None:
    """UserData (and its like): one element that holds the fields."""
    for name, element in data.items():
        if name[:1] in ("#", "@"):
            continue
        if not isinstance(element, dict):
            _put_absent(fields, name, element)
            continue
        for inner, value in element.items():
            if inner[:1] not in ("#", "@") and inner not in fields:
                _put_element(fields, inner, value)


# Winlogbeat -------------------------------------------------------------------------------


def _undot(record: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The part of a dotted record below `prefix`, with event_data and user_data as objects."""
    part: dict[str, Any] = {}
    for full_name, value in record.items():
        if not full_name.startswith(prefix):
            continue
        name = full_name[len(prefix) :]
        head, dot, tail = name.partition(".")
        if dot and head in ("event_data", "user_data"):
            group = part.setdefault(head, {})
            if isinstance(group, dict):
                group[tail] = value
        else:
            part[name] = value
    return part


def _read_winlogbeat(
    record: dict[str, Any], winlog: dict[str, Any], context: Context
) -> Reading | None:
    event_id = _read_event_id(winlog.get("event_id", _find(record, "event", "code")))
    if event_id is None:
        return None
    fields: Fields = {}
    for group in ("user_data", "event_data"):
        data = winlog.get(group)
        if isinstance(data, dict):
            for name, value in data.items():
                _put_element(fields, name, value)
                if " " in name and not isinstance(value, dict | list):
                    _put_aliases(fields, name, value)
    if "param1" in fields and "Data" not in fields:
        _join_params(fields)
    for name, new in _WINLOG_PLAIN:
        if name in winlog:
            _put_absent(fields, new, winlog[name])
    _put_keywords(fields, winlog.get("keywords"))
    level = _find(record, "log", "level") or winlog.get("level")
    if isinstance(level, str):
        fields.setdefault("Level", _LEVELS.get(level.lower(), level))
    if isinstance(message := record.get("message"), str):
        fields.setdefault("Message", message)
    provider = winlog.get("provider_name", winlog.get("source_name"))
    computer = winlog.get("computer_name") or _find(record, "host", "name")
    channel = winlog.get("channel", winlog.get("log_name"))
    _put_core(fields, event_id, channel, provider, computer)
    return _make_reading(fields, event_id, read_time(record.get("@timestamp"), context))


def _find(record: dict[str, Any], outer: str, inner: str) -> Any:
    """A nested or dotted value."""
    value = record.get(outer)
    return value.get(inner) if isinstance(value, dict) else record.get(f"{outer}.{inner}")


def _join_params(fields: Fields) -> None:
    """Winlogbeat names unnamed data param1 to paramN; rules look into Data."""
    texts = []
    number = 1
    while (value := fields.get(f"param{number}")) is not None:
        texts.append(str(value))
        number += 1
    fields["Data"] = texts[0] if len(texts) == 1 else ["\n".join(texts), *texts]


def _put_keywords(fields: Fields, keywords: Any) -> None:
    if isinstance(keywords, list):
        fields.setdefault(
            "Keywords",
            [_KEYWORDS.get(word.lower(), word) for word in keywords if isinstance(word, str)],
        )


# Flat: NXLog, exports ---------------------------------------------------------------------


def _read_flat(record: dict[str, Any], context: Context) -> Reading | None:
    raw_id = record.get("EventID")
    if raw_id is None:
        raw_id = record.get("EventId", record.get("Event ID"))
    event_id = _read_event_id(_read_text(raw_id))
    if event_id is None:
        return None
    channel = record.get("Channel") or record.get("LogName")
    if not channel and "UtcTime" in record and not record.get("SourceName"):
        channel = "Microsoft-Windows-Sysmon/Operational"
    elif not channel and _FLAT_MARKS.isdisjoint(record):
        return None
    fields: Fields = dict(record)
    if " " in "".join(record):
        for name, value in record.items():
            if (kind := type(value)) is dict or kind is list:
                del fields[name]
                _put_element(fields, name, value)
            elif " " in name:
                _put_aliases(fields, name, value)
    else:
        # Sixty values an event: looking at their types by one comprehension is the cheapest.
        for name in [name for name, value in record.items() if type(value) in _NESTED]:
            value = fields.pop(name)
            _put_element(fields, name, value)
    _fit_flat(fields)
    provider = _find_first(record, _FLAT_PROVIDER)
    _put_core(fields, event_id, channel, provider, _find_first(record, _FLAT_COMPUTER))
    return _make_reading(fields, event_id, _read_flat_time(record, context))


def _find_first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of the fields that holds something."""
    for name in names:
        if value := record.get(name):
            return value
    return None


def _fit_flat(fields: Fields) -> None:
    """Bring NXLog's values into Windows' form: keywords as hex text, a level as a number."""
    keywords = fields.get("Keywords")
    if isinstance(keywords, int):
        fields["Keywords"] = f"{keywords & (2**64 - 1):#x}"
    level = fields.get("Level")
    if level is None:
        severity = fields.get("Severity")
        if isinstance(severity, str) and severity.lower() in _LEVELS:
            fields["Level"] = _LEVELS[severity.lower()]
    elif isinstance(level, str) and level.lower() in _LEVELS:
        fields["Level"] = _LEVELS[level.lower()]
    # The text is all that an export keeps of events whose data has no names.
    if fields.get("Channel") == "Windows PowerShell" and "Data" not in fields:
        message = fields.get("Message")
        if isinstance(message, str):
            fields["Data"] = message


def _read_flat_time(record: dict[str, Any], context: Context) -> float | None:
    for name in _FLAT_TIMES:
        if (value := record.get(name)) is not None:
            seconds = read_time(_mark_utc(value) if name == "UtcTime" else value, context)
            if seconds is not None:
                return seconds
    return None


def _mark_utc(value: Any) -> Any:
    """Sysmon's UtcTime names no zone."""
    return f"{value}Z" if isinstance(value, str) and value[-1:].isdecimal() else value


# All shapes -------------------------------------------------------------------------------


def _read_event_id(value: Any) -> int | None:
    number = read_number(value)
    return number if number is not None and number < 2**32 else None


def _put_core(fields: Fields, event_id: int, channel: Any, provider: Any, computer: Any) -> None:
    """The fields that the event's own data may not replace. An empty channel is filled in for
    providers that have but one."""
    fields["EventID"] = event_id
    if not channel and isinstance(provider, str):
        channel = PROVIDER_CHANNELS.get(provider.lower())
    for name, value in (
        ("Channel", channel),
        ("Provider_Name", provider),
        ("Computer", computer),
    ):
        if isinstance(value, str):
            fields[name] = value
        else:
            fields.pop(name, None)


def _make_reading(fields: Fields, event_id: int, time: float | None) -> Reading:
    channel = fields.get("Channel", "").lower()
    computer = fields.get("Computer")
    host = name_host(computer) if computer else ""
    collect = collect_defender if channel == DEFENDER else collect_entities
    return Reading(
        views=_list_views(fields, channel, event_id),
        entities=partial(collect, fields, host, event_id),
        host=host,
        time=time,
    )


def _list_views(fields: Fields, channel: str, event_id: int) -> tuple[View, ...]:
    if channel == SYSMON:
        sources = list_sysmon_sources(event_id, fields.get("EventType"))
        return tuple([View(source, fields) for source in sources])
    view = View(CHANNELS.get(channel, WINDOWS), fields)
    if channel in BRIDGED and (bridge := BRIDGES.get((channel, event_id))):
        return (view, *bridge[0](fields))
    return (view,)
