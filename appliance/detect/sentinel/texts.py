"""The texts of an event that a model can judge (detect stage; the recipe uses the same functions).

A text is one line: its kind, who did it, and what was done, each reduced by `masks`. The same act
gives the same text whether Sysmon, Security 4688, auditd or a shell told of it, as far as each
tells enough; what a shape leaves out is left out, and a file's place in the system is no name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from appliance.detect.sentinel.masks import MAX_INPUT, MAX_TEXT, decode_base64, mask_text
from appliance.schema import LogSource, View

#: Parts of one script that are judged, and what each has, in characters: about what the model
#: reads. What is behind the last part is not judged.
MAX_PARTS: Final = 12
PART: Final = 360
#: Commands of one line that are judged by themselves, too, and what they stand between (not `2>&1`,
#: not a URL's `&name=`); a shorter part is none.
MAX_CHAIN: Final = 6
_CHAIN: Final = re.compile(r"&&|\|\||;|(?<!>)&(?![\w%.-]{0,64}=)")
_LEAST_PART: Final = 3
#: Longest path whose program's name is remembered, in characters.
_MAX_REMEMBERED: Final = 256
_NOTHING: Final = ("", "-")
_TASK_COMMAND: Final = re.compile(
    r"<Command>([^<]{1,2048})</Command>(?:\s{0,64}<Arguments>([^<]{0,8192})</Arguments>)?"
)
#: Separators at which a script is cut, if there is one in the last third of a part.
_CUTS: Final = re.compile(r"[\n;}]")


class Text(msgspec.Struct, frozen=True):
    """One text for the model: its kind (of KINDS), and the text, which begins with it."""

    kind: str
    text: str


def list_texts(views: Sequence[View], host: str) -> list[Text]:
    """The texts of an event's views, each once, in their order. Raises nothing."""
    found: dict[Text, None] = {}
    for view in views:
        kind = find_kind(view.logsource, view.fields)
        if kind is not None:
            found.update(dict.fromkeys(write_texts(kind, view.fields, host)))
    return list(found)


def find_kind(source: LogSource, fields: Mapping[str, Any]) -> str | None:
    """The kind of text that a view of this log source has; None for none."""
    if source.category is not None:
        return _CATEGORIES.get(source.category)
    if source.product == "windows" and source.service is not None:
        return _EVENTS.get((source.service, fields.get("EventID")))
    if source.product == "zeek":
        return _ZEEK.get(source.service or "")
    if source.product == "linux" and isinstance(fields.get("message"), str):
        return "log"
    return None


def write_texts(kind: str, fields: Mapping[str, Any], host: str = "") -> list[Text]:
    """The texts of one reading of an event, from fields under Sigma's names; none where the fields
    that matter are missing. Raises KeyError for an unknown kind, nothing for any fields."""
    return [Text(kind, text) for text in dict.fromkeys(WRITERS[kind](fields, host))]


def _get(fields: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that holds something, as text."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, list):
            value = " ".join(str(part) for part in value[:64] if part is not None)
        if value is not None and value not in _NOTHING:
            return value if isinstance(value, str) else str(value)
    return ""


def _name(fields: Mapping[str, Any], *names: str) -> str:
    """A program's name without its folder, masked."""
    path = _get(fields, *names)
    return _recall_name(path) if len(path) <= _MAX_REMEMBERED else _mask_name(path)


def _mask_name(path: str) -> str:
    return mask_text(path[:MAX_INPUT].replace("\\", "/").rpartition("/")[2])[:64]


_recall_name = lru_cache(maxsize=4096)(_mask_name)


def _finish(kind: str, head: str, body: str) -> str:
    return f"{kind} {head} : {body}"[:MAX_TEXT] if head else f"{kind} : {body}"[:MAX_TEXT]


def _write_process(fields: Mapping[str, Any], host: str) -> list[str]:
    command = _get(fields, "CommandLine", "ProcessCommandLine", "HostApplication")
    image = _name(fields, "Image", "NewProcessName")
    if not command:
        command = _get(fields, "Image", "NewProcessName")
    if not command:
        return []
    parent = _name(fields, "ParentImage", "ParentProcessName")
    head = f"{parent} > {image}" if parent and image else image
    texts = [_finish("process", head, mask_text(command, host))]
    # Whoever puts something harmless before or behind it changes the text, not what is done.
    parts = [part for part in _CHAIN.split(command[:MAX_INPUT]) if len(part.strip()) > _LEAST_PART]
    if len(parts) > 1:
        texts += [_finish("process", head, mask_text(part, host)) for part in parts[:MAX_CHAIN]]
    # What is hidden in base64 is judged as what it is.
    for hidden in decode_base64(command[:MAX_INPUT]):
        texts += [_finish("process", f"{image} xxb64", part) for part in _cut(hidden, host)]
    return texts[:MAX_PARTS]


def _write_script(fields: Mapping[str, Any], host: str) -> list[str]:
    script = _get(fields, "ScriptBlockText", "Payload")
    texts = [_finish("script", "", part) for part in _cut(script, host)]
    for hidden in decode_base64(script[:MAX_INPUT]):
        texts += [_finish("script", "xxb64", part) for part in _cut(hidden, host)]
    return texts[:MAX_PARTS]


def _cut(text: str, host: str) -> list[str]:
    """A long text in parts of at most PART characters, cut where a statement ends."""
    parts: list[str] = []
    start = 0
    while start < len(text) and len(parts) < MAX_PARTS:
        end = start + PART
        if end < len(text):
            cuts = [match.end() for match in _CUTS.finditer(text, start + 2 * PART // 3, end)]
            end = cuts[-1] if cuts else end
        masked = mask_text(text[start:end], host)
        if len(masked) > 3:
            parts.append(masked)
        start = end
    return parts


def _write_registry(fields: Mapping[str, Any], host: str) -> list[str]:
    target = _get(fields, "TargetObject", "ObjectName")
    if not target:
        return []
    details = _get(fields, "Details", "NewName", "NewValue")
    body = mask_text(target, host) + (f" = {mask_text(details, host)}" if details else "")
    return [_finish("registry", _name(fields, "Image", "ProcessName"), body)]


def _write_service(fields: Mapping[str, Any], host: str) -> list[str]:
    path = _get(fields, "ImagePath", "ServiceFileName")
    name = mask_text(_get(fields, "ServiceName"), host)[:64]
    return [_finish("service", name, mask_text(path, host))] if path else []


def _write_task(fields: Mapping[str, Any], host: str) -> list[str]:
    command = _get(fields, "Command", "ActionName")
    if not command and (
        match := _TASK_COMMAND.search(_get(fields, "TaskContent", "TaskContentNew"))
    ):
        command = " ".join(part for part in match.groups() if part)
    name = mask_text(_get(fields, "TaskName"), host)[:96]
    return [_finish("task", name, mask_text(command, host))] if command else []


def _write_pair(
    kind: str, doers: tuple[str, ...], what: tuple[str, ...], *more: str
) -> Callable[[Mapping[str, Any], str], list[str]]:
    """A writer for what one program does to one thing; `more` are fields put behind it."""

    def write(fields: Mapping[str, Any], host: str) -> list[str]:
        thing = _get(fields, *what)
        if not thing:
            return []
        rest = [mask_text(value, host) for name in more if (value := _get(fields, name))]
        body = " ".join([mask_text(thing, host), *rest])
        return [_finish(kind, _name(fields, *doers), body)]

    return write


def _write_network(fields: Mapping[str, Any], host: str) -> list[str]:
    place = _get(fields, "DestinationHostname", "DestinationIp", "DestAddress")
    if not place:
        return []
    port = _get(fields, "DestinationPort", "DestPort")
    body = f"{mask_text(place, host)} {mask_text(port)} {mask_text(_get(fields, 'Protocol'))}"
    return [_finish("network", _name(fields, "Image", "Application"), body.strip())]


def _write_url(fields: Mapping[str, Any], host: str) -> list[str]:
    target = _get(fields, "cs-uri", "c-uri", "uri")
    if not target:
        target = _get(fields, "cs-uri-stem")
        if query := _get(fields, "cs-uri-query"):
            target = f"{target}?{query}"
    if not target:
        return []
    method = mask_text(_get(fields, "cs-method", "method"))[:16]
    agent = mask_text(_get(fields, "cs-user-agent", "c-useragent", "user_agent"))[:96]
    body = mask_text(target, host)
    return [_finish("url", method, f"{body[:384]} | {agent}" if agent else body)]


def _write_dns(fields: Mapping[str, Any], _host: str) -> list[str]:
    """A name as it is: which letters it has is what matters."""
    name = _get(fields, "QueryName", "query")[:253].lower()
    shown = "".join(char if char.isprintable() else "?" for char in name)
    return [_finish("dns", _name(fields, "Image"), shown)] if shown else []


def _write_log(fields: Mapping[str, Any], host: str) -> list[str]:
    message = _get(fields, "message")
    program = mask_text(_get(fields, "program", "appname"))[:48]
    return [_finish("log", program, mask_text(message, host))] if message else []


Writer = Callable[[Mapping[str, Any], str], list[str]]
#: Every kind of text, with what writes it.
WRITERS: Final[dict[str, Writer]] = {
    "process": _write_process,
    "script": _write_script,
    "registry": _write_registry,
    "service": _write_service,
    "task": _write_task,
    "file": _write_pair("file", ("Image", "ProcessName"), ("TargetFilename", "ObjectName")),
    "image_load": _write_pair("image_load", ("Image",), ("ImageLoaded",), "Signed"),
    "network": _write_network,
    "pipe": _write_pair("pipe", ("Image",), ("PipeName",)),
    "access": _write_pair(
        "access", ("SourceImage",), ("TargetImage",), "GrantedAccess", "CallTrace"
    ),
    "thread": _write_pair(
        "thread", ("SourceImage",), ("TargetImage",), "StartModule", "StartFunction"
    ),
    "wmi": _write_pair(
        "wmi", ("Name",), ("Destination", "Query", "Consumer"), "Query", "Operation"
    ),
    "dns": _write_dns,
    "url": _write_url,
    "log": _write_log,
}
KINDS: Final = tuple(WRITERS)

#: Sigma category -> kind.
_CATEGORIES: Final = {
    "process_creation": "process",
    "ps_script": "script",
    "ps_classic_start": "process",
    "registry_event": "registry",
    "registry_set": "registry",
    "registry_add": "registry",
    "file_event": "file",
    "image_load": "image_load",
    "driver_load": "image_load",
    "network_connection": "network",
    "pipe_created": "pipe",
    "process_access": "access",
    "create_remote_thread": "thread",
    "wmi_event": "wmi",
    "dns_query": "dns",
    "dns": "dns",
    "webserver": "url",
    "proxy": "url",
}
#: (Windows service, event id) -> kind, for channels whose events have no category.
_EVENTS: Final[dict[tuple[str, Any], str]] = {
    ("system", 7045): "service",
    ("security", 4697): "service",
    ("security", 4698): "task",
    ("security", 4702): "task",
    ("taskscheduler", 200): "task",
}
#: Zeek log -> kind.
_ZEEK: Final = {"dns": "dns", "http": "url"}
