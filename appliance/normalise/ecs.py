"""Third station of the line, events in Elastic's common schema (ECS) from Beats and Elastic Agent.

Nested or dotted, bare or under `_source`. What event.category and event.type say is told again in
Sigma's words: processes, files, registry, connections and names looked up under the operating
system's product, packets of firewalls, DNS, web requests and logins under their category or
service. A record of Windows' event log (winlog.*) is read in `windows`, before this one. Events
whose category says nothing to Sigma keep ECS's names and count as not mapped.

Source: Elastic Common Schema reference 8.x, "Event categorization fields" and field sets. The
event's host is the agent's (host.name), which no request can choose.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from appliance.normalise.channels import name_category
from appliance.normalise.devices import (
    CATEGORIES,
    Request,
    collect_neutral,
    list_categories,
)
from appliance.normalise.entities import collect_entities, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.linux import AUTH, name_service
from appliance.normalise.reading import Context, Reading, find_object
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Fields, LogSource, View

_PRODUCTS: Final = ("windows", "linux", "macos")
_HOST_CATEGORIES: Final = (
    "process_creation", "process_termination", "file_event", "file_delete", "network_connection",
    "dns_query", "image_load", "driver_load",
)  # fmt: skip
_REGISTRY: Final = tuple(
    name_category(name) for name in ("registry_event", "registry_set", "registry_delete")
)
AUDITD: Final = name_service("auditd")
SSHD: Final = name_service("sshd")
SUDO: Final = name_service("sudo")
#: Datasets of Filebeat whose records are lines of a Linux service.
_DATASETS: Final = {
    "system.syslog": name_service("syslog"),
    "system.auth": AUTH,
    "apache.error": name_service("apache"),
    "nginx.error": name_service("nginx"),
}
#: Every log source that this normaliser can produce.
SOURCES: Final = (
    *(LogSource(product=p, category=c) for p in _PRODUCTS for c in _HOST_CATEGORIES),
    *_REGISTRY,
    *CATEGORIES,
    AUTH,
    AUDITD,
    SSHD,
    SUDO,
    *_DATASETS.values(),
)

#: ECS's name -> Sigma's; the first of one Sigma name that is there counts.
_NAMES: Final = (
    ("process.executable", "Image"),
    ("process.command_line", "CommandLine"),
    ("process.pid", "ProcessId"),
    ("process.entity_id", "ProcessGuid"),
    ("process.working_directory", "CurrentDirectory"),
    ("process.parent.executable", "ParentImage"),
    ("process.parent.command_line", "ParentCommandLine"),
    ("process.parent.pid", "ParentProcessId"),
    ("process.parent.entity_id", "ParentProcessGuid"),
    ("process.pe.original_file_name", "OriginalFileName"),
    ("process.pe.product", "Product"),
    ("process.pe.company", "Company"),
    ("process.pe.description", "Description"),
    ("process.Ext.token.integrity_level_name", "IntegrityLevel"),
    ("file.path", "TargetFilename"),
    ("registry.path", "TargetObject"),
    ("registry.data.strings", "Details"),
    ("dll.path", "ImageLoaded"),
    ("driver.path", "ImageLoaded"),
    ("source.ip", "SourceIp"),
    ("source.port", "SourcePort"),
    ("destination.ip", "DestinationIp"),
    ("destination.port", "DestinationPort"),
    ("destination.domain", "DestinationHostname"),
    ("network.transport", "Protocol"),
    ("dns.question.name", "QueryName"),
    ("host.name", "Computer"),
)
_NEUTRAL: Final = (
    ("source.ip", "src_ip"),
    ("client.ip", "src_ip"),
    ("source.port", "src_port"),
    ("client.port", "src_port"),
    ("destination.ip", "dst_ip"),
    ("server.ip", "dst_ip"),
    ("destination.port", "dst_port"),
    ("server.port", "dst_port"),
    ("network.transport", "protocol"),
    ("user.name", "user"),
    ("user.effective.name", "target_user"),
    ("user.target.name", "target_user"),
    ("dns.question.type", "record_type"),
    ("dns.response_code", "response_code"),
)
_HASHES: Final = ("md5", "sha1", "sha256", "imphash")
#: Most arguments of a program that get a field each.
_MAX_ARGUMENTS: Final = 64
#: Field sets of which a record without ecs.version must have several.
_SETS: Final = ("agent", "host", "process", "file", "source", "destination", "user", "network")
_FIREWALLS: Final = frozenset(
    {"iptables", "cisco", "pfsense", "fortinet", "panw", "checkpoint", "sonicwall", "juniper"}
    | {"sophos", "netflow", "firewall", "fortinet_fortigate", "cisco_asa", "cisco_ftd"}
)
_PROXIES: Final = frozenset({"squid", "zscaler", "bluecoat", "forcepoint", "netskope"})
_SERVERS: Final = frozenset({"apache", "nginx", "iis", "haproxy", "traefik", "tomcat"})


class _Event(msgspec.Struct, frozen=True):
    """What tells an event's kind: its categories and types as ECS lists them, the module and
    dataset that wrote it, and the host's operating system ("" when not told)."""

    categories: frozenset[str]
    types: frozenset[str]
    module: str
    dataset: str
    product: str

    def has(self, category: str, *types: str) -> bool:
        """True for an event of this category, and of one of these types when any are named."""
        return category in self.categories and (not types or not self.types.isdisjoint(types))


def read_ecs(decoded: Decoded, context: Context) -> Reading | None:
    """Read an ECS event that Sigma has words for; None for another record."""
    record = find_object(decoded)
    if isinstance(source := record.get("_source"), dict):
        record = source
    if "@timestamp" not in record or not is_ecs(record):
        return None
    fields = flatten(record)
    event = _describe(fields)
    _put_names(fields, record, event)
    views = _list_views(fields, event)
    if not views:
        return None
    joined = dict(fields)
    for view in views:
        joined.update(view.fields)
    host = name_host(_find(fields, "host.name", "host.hostname", "agent.hostname", "agent.name"))
    entities = dict.fromkeys((*collect_entities(joined, host), *collect_neutral(joined, host)))
    return Reading(
        views=views,
        entities=tuple(entities),
        host=host,
        time=read_time(record.get("@timestamp"), context),
    )


def is_ecs(record: dict[str, Any]) -> bool:
    """True for a record that names its version of ECS, or has an ECS event and field sets."""
    if "ecs.version" in record:
        return True
    if isinstance(ecs := record.get("ecs"), dict) and "version" in ecs:
        return True
    event = record.get("event")
    told = (
        any(name in event for name in ("category", "module", "dataset", "kind"))
        if isinstance(event, dict)
        else any(f"event.{name}" in record for name in ("category", "module", "dataset"))
    )
    if not told:
        return False
    names = {name.partition(".")[0] for name in record if len(name) <= 64}
    return sum(name in names for name in _SETS) >= 2


def _find(fields: Fields, *names: str) -> str:
    for name in names:
        if isinstance(value := fields.get(name), str) and value:
            return value
    return ""


def _list_words(value: Any) -> frozenset[str]:
    values = value if isinstance(value, list) else [value]
    return frozenset(text.lower() for text in values if isinstance(text, str))


def _describe(fields: Fields) -> _Event:
    module = _find(fields, "event.module").lower()
    dataset = _find(fields, "event.dataset", "data_stream.dataset").lower()
    return _Event(
        categories=_list_words(fields.get("event.category")),
        types=_list_words(fields.get("event.type")),
        module=module or dataset.partition(".")[0],
        dataset=dataset,
        product=_name_product(fields, module),
    )


def _name_product(fields: Fields, module: str) -> str:
    kind = _find(fields, "host.os.type", "host.os.family", "host.os.platform").lower()
    if kind in _PRODUCTS:
        return kind
    if kind == "darwin":
        return "macos"
    if kind in ("debian", "redhat", "ubuntu", "centos", "suse", "fedora", "arch", "alpine"):
        return "linux"
    # Modules of Auditbeat that there are on Linux alone.
    return "linux" if module == "auditd" else ""


def _put_names(fields: Fields, record: dict[str, Any], event: _Event) -> None:
    for name, new in (*_NAMES, *_NEUTRAL):
        if (value := fields.get(name)) is not None:
            fields.setdefault(new, value)
    arguments = fields.get("process.args")
    if "CommandLine" not in fields and isinstance(arguments, list):
        fields["CommandLine"] = " ".join(str(part) for part in arguments)
    hashes = [
        f"{name.upper()}={value}"
        for name in _HASHES
        if (value := _find(fields, f"process.hash.{name}", f"file.hash.{name}", f"dll.hash.{name}"))
    ]
    if hashes:
        fields.setdefault("Hashes", ",".join(hashes))
    if user := _find(fields, "user.name"):
        domain = _find(fields, "user.domain")
        fields.setdefault("User", f"{domain}\\{user}" if domain else user)
    outcome = fields.get("event.outcome")
    if outcome in ("success", "failure"):
        fields.setdefault("result", outcome)
    direction = _find(fields, "network.direction").lower()
    if direction in ("egress", "outbound"):
        fields.setdefault("Initiated", "true")
    elif direction in ("ingress", "inbound"):
        fields.setdefault("Initiated", "false")
    if query := _find(fields, "dns.question.name"):
        fields["query"] = query.rstrip(".") or "."
        if answers := _list_answers(fields, record):
            fields.setdefault("answer", answers)


def _list_answers(fields: Fields, record: dict[str, Any]) -> list[str]:
    dns = record.get("dns")
    answers = dns.get("answers") if isinstance(dns, dict) else record.get("dns.answers")
    if isinstance(answers, list):
        data = [answer.get("data") for answer in answers if isinstance(answer, dict)]
    elif isinstance(held := fields.get("dns.answers.data"), list):
        data = held
    else:
        data = []
    return [text for text in data if isinstance(text, str)]


def _list_views(fields: Fields, event: _Event) -> tuple[View, ...]:
    views: list[View] = []
    for judge in _JUDGES:
        views.extend(judge(fields, event))
        if views:
            break
    if not views and event.dataset in _DATASETS:
        views.append(View(_DATASETS[event.dataset], fields))
    if event.module == "auditd" and event.product == "linux":
        views.extend(_rebuild_audit(fields))
    return tuple(views)


def _view(event: _Event, category: str, fields: Fields) -> list[View]:
    """A view of the operating system's category; without one, the category alone would meet no
    rule, since each names its product."""
    if not event.product:
        return []
    return [View(LogSource(product=event.product, category=category), fields)]


def _judge_process(fields: Fields, event: _Event) -> list[View]:
    if event.has("process", "start") and "Image" in fields:
        return _view(event, "process_creation", fields)
    if event.has("process", "end"):
        return _view(event, "process_termination", fields)
    return []


def _judge_file(fields: Fields, event: _Event) -> list[View]:
    if event.has("library"):
        return _view(event, "image_load", fields)
    if event.has("driver"):
        return _view(event, "driver_load", fields)
    if not event.has("file") or "TargetFilename" not in fields:
        return []
    if event.has("file", "deletion"):
        return _view(event, "file_delete", fields)
    if event.has("file", "creation", "change"):
        return _view(event, "file_event", fields)
    return []


def _judge_registry(fields: Fields, event: _Event) -> list[View]:
    if not event.has("registry") or "TargetObject" not in fields:
        return []
    copy = {**fields, "TargetObject": _shorten_hive(fields["TargetObject"])}
    if isinstance(details := copy.get("Details"), list) and len(details) == 1:
        copy["Details"] = details[0]
    views = [View(_REGISTRY[0], copy)]
    if event.has("registry", "deletion"):
        views.append(View(_REGISTRY[2], copy))
    elif "Details" in copy:
        views.append(View(_REGISTRY[1], copy))
    return views


_HIVES: Final = {"HKEY_LOCAL_MACHINE": "HKLM", "HKEY_USERS": "HKU", "HKEY_CURRENT_USER": "HKCU"}


def _shorten_hive(path: Any) -> Any:
    if not isinstance(path, str):
        return path
    hive, slash, rest = path.partition("\\")
    return f"{_HIVES.get(hive, hive)}{slash}{rest}"


def _judge_login(fields: Fields, event: _Event) -> list[View]:
    if event.product not in ("linux", "") or not event.has("authentication"):
        return []
    if event.product == "" and event.module != "system":
        return []
    views = [View(AUTH, fields)]
    program = _find(fields, "process.name").lower()
    if program == "sshd" or _find(fields, "system.auth.ssh.event"):
        views.insert(0, View(SSHD, fields))
    elif program == "sudo":
        views.insert(0, View(SUDO, fields))
    return views


def _judge_web(fields: Fields, event: _Event) -> list[View]:
    method = _find(fields, "http.request.method")
    url = _find(fields, "url.full", "url.original", "url.path")
    if not url or not (event.has("web") or method):
        return []
    is_server = event.module in _SERVERS
    if not is_server and event.module not in _PROXIES:
        return []
    status = fields.get("http.response.status_code")
    request = Request(
        url=_find(fields, "url.original", "url.full", "url.path") if is_server else url,
        method=method,
        agent=_find(fields, "user_agent.original"),
        referer=_find(fields, "http.request.referrer"),
        status="" if status is None else str(status),
    )
    return list(list_categories(fields, request=request, is_server=is_server))


def _judge_network(fields: Fields, event: _Event) -> list[View]:
    if _find(fields, "dns.question.name"):
        if "Image" in fields:
            return _view(event, "dns_query", fields)
        return [View(LogSource(category="dns"), fields)]
    if not event.has("network"):
        return []
    if event.module in _FIREWALLS or _find(fields, "observer.type") == "firewall":
        return _judge_packet(fields, event)
    if "Image" in fields and event.has("network", "start", "connection"):
        return _view(event, "network_connection", fields)
    return []


def _judge_packet(fields: Fields, event: _Event) -> list[View]:
    copy = dict(fields)
    if event.has("network", "denied"):
        copy |= {"action": "blocked", "blocked": "true"}
    elif event.has("network", "allowed"):
        copy |= {"action": "accept", "blocked": "false"}
    elif action := _find(fields, "event.action"):
        copy["action"] = action
    return [View(LogSource(category="firewall"), copy)] if "src_ip" in copy else []


def _rebuild_audit(fields: Fields) -> list[View]:
    """An audit event under the kernel's own names, which Auditbeat keeps below auditd.data; the
    arguments of a program that was started, which it joins to the event, as their own record."""
    copy = dict(fields)
    if kind := _find(fields, "auditd.message_type"):
        copy["type"] = kind.upper()
    prefix = "auditd.data."
    for name, value in fields.items():
        if name.startswith(prefix):
            copy.setdefault(name[len(prefix) :], value)
    for name, new in (("process.executable", "exe"), ("process.name", "comm")):
        if name in fields:
            copy.setdefault(new, fields[name])
    views = [View(AUDITD, copy)]
    arguments = fields.get("process.args")
    if isinstance(arguments, list) and _find(fields, "auditd.data.syscall").startswith("execve"):
        parts = {f"a{number}": part for number, part in enumerate(arguments[:_MAX_ARGUMENTS])}
        views.append(View(AUDITD, {**fields, "type": "EXECVE", **parts}))
    return views


#: Asked in this order; the first that gives a view ends it.
_JUDGES: Final[tuple[Callable[[Fields, _Event], list[View]], ...]] = (
    _judge_process,
    _judge_registry,
    _judge_file,
    _judge_login,
    _judge_web,
    _judge_network,
)
