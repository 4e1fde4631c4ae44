"""What events can be, by product and by format (normalise, beside the line).

Two plain tables: for each product of `PRODUCTS` the shapes of its events, for each format that a
record is decoded as the products that may read it. From them follows what a configured source can
feed, and what the rule engine prepares before the first event.

A shape is the log sources of those views of an event that share one set of fields: the rules over
such views are asked together. An event whose views hold different fields has several.
"""

from collections.abc import Iterable
from typing import Final

from appliance.normalise import (
    aminer,
    auditd,
    cef,
    devices,
    dns,
    ecs,
    eql,
    firewalls,
    leef,
    linux,
    netfilter,
    own,
    proxy,
    services,
    suricata,
    w3c,
    wazuh,
    web,
    zeek,
)
from appliance.normalise.bridges import BRIDGES
from appliance.normalise.channels import (
    CHANNELS,
    SYSMON_VIEWS,
    WINDOWS,
    list_sysmon_sources,
    name_category,
)
from appliance.normalise.programs import AUTH_PROGRAMS, OWN_SERVICES
from appliance.schema import LogSource

#: Log sources whose views share their fields, in order.
Shape = tuple[LogSource, ...]


def _each(sources: Iterable[LogSource]) -> tuple[Shape, ...]:
    return tuple((source,) for source in sources)


def _join(*groups: Iterable[Shape]) -> tuple[Shape, ...]:
    return tuple(dict.fromkeys(shape for group in groups for shape in group))


_REGISTRY: Final = name_category("registry_event")
_REGISTRY_CHANGES: Final = tuple(
    (_REGISTRY, name_category(name)) for name in ("registry_set", "registry_delete")
)
#: Bridges that need no field beside the event's own, so that their view shares them.
_BARE: Final = frozenset({"dns_query", "ps_script", "ps_module"})


def _list_windows() -> tuple[Shape, ...]:
    bridged: list[Shape] = []
    for (channel, _), (_, produced) in BRIDGES.items():
        if len(produced) == 1 and produced[0].category in _BARE:
            bridged.append((CHANNELS[channel], *produced))
        elif _REGISTRY not in produced:
            bridged += _each(produced)
    return _join(
        _each([WINDOWS, *CHANNELS.values()]),
        SYSMON_VIEWS.values(),
        [list_sysmon_sources(12, kind) for kind in ("CreateKey", "DeleteKey")],
        bridged,
        _REGISTRY_CHANGES,
    )


def _list_linux() -> tuple[Shape, ...]:
    """A program's own service, what logins are told in, and all else."""
    auth, syslog = linux.AUTH, linux.SYSLOG
    shapes: list[Shape] = [(auth,), (syslog,), (auth, syslog)]
    for program, service in OWN_SERVICES.items():
        source = linux.name_service(service)
        if program in AUTH_PROGRAMS:
            shapes.append((source, auth))
        else:
            shapes += [(source, syslog), (source, auth, syslog)]
    return _join(shapes)


def _list_ecs() -> tuple[Shape, ...]:
    """Logins and changes of the registry have their more general view always with them."""
    joint = (*_REGISTRY_CHANGES, (ecs.SSHD, linux.AUTH), (ecs.SUDO, linux.AUTH))
    never = {special for pair in joint for special in pair} - {_REGISTRY, linux.AUTH}
    return _join(_each(source for source in ecs.SOURCES if source not in never), joint)


def _list_device(source: LogSource) -> tuple[Shape, ...]:
    """The record as it is, and each category of devices, some of which need no other fields."""
    plain = ((source, made) for made in (devices.DNS, devices.FIREWALL))
    return _join([(source,)], plain, _each(devices.CATEGORIES))


#: Product -> the shapes of its events.
SHAPES: Final[dict[str, tuple[Shape, ...]]] = {
    "appliance": _each([own.CANARY]),
    "dns servers": _each(dns.SOURCES),
    "netfilter": _each(netfilter.SOURCES),
    "cef": _list_device(cef.CEF),
    "leef": _list_device(leef.LEEF),
    "auditd": _join(_each(auditd.SOURCES), [(auditd.AUDITD, linux.AUTH)]),
    "web servers": _each(web.SOURCES),
    "squid": _each(proxy.SOURCES),
    "w3c": _each(w3c.SOURCES),
    "wazuh": _each(wazuh.SOURCES),
    "aminer": _each(aminer.SOURCES),
    "windows": _list_windows(),
    "windows (EQL schema)": _join(
        _each([WINDOWS, *eql.CATEGORIES.values()]), [(_REGISTRY, name_category("registry_set"))]
    ),
    "ecs": _list_ecs(),
    "zeek": _join(zeek.LOGS.values()),
    "suricata": _join(suricata.SHAPES),
    "web servers (JSON)": _each(web.SOURCES),
    "firewalls": _each(firewalls.SOURCES),
    "linux": _list_linux(),
    "services": _each(services.SOURCES),
}

#: Products that read objects: a record that is JSON, and JSON as the message of a syslog line.
OBJECTS: Final = (
    "auditd", "wazuh", "aminer", "windows", "windows (EQL schema)", "ecs", "zeek", "suricata",
    "web servers (JSON)",
)  # fmt: skip
#: Products that read messages, in syslog or as a line of text.
MESSAGES: Final = ("firewalls", "linux", "services")
_SYSLOG: Final = (*OBJECTS, *MESSAGES)
#: Format of a decoded record -> the products that may read it. What travels inside another record
#: stands under its own format.
READERS: Final[dict[str, tuple[str, ...]]] = {
    "json": (*OBJECTS, "services"),
    "evtx": ("windows",),
    "syslog5424": _SYSLOG,
    "syslog3164": _SYSLOG,
    "journal": _SYSLOG,
    "text": MESSAGES,
    "bind": ("dns servers",),
    "unbound": ("dns servers",),
    "dnsmasq": ("dns servers",),
    "netfilter": ("netfilter",),
    "cef": ("cef",),
    "leef": ("leef",),
    "zeek": ("zeek",),
    "access": ("web servers",),
    "access_error": ("web servers",),
    "squid": ("squid",),
    "w3c": ("w3c",),
    "auditd": ("auditd",),
}  # fmt: skip


def list_shapes(products: Iterable[str]) -> tuple[Shape, ...]:
    """The shapes of all events of these products, each once."""
    return _join(*(SHAPES[product] for product in products))
