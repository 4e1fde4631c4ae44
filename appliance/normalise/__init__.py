"""Third station of the line: a decoded record becomes a Sighting with views and entities.

source -> decode -> **normalise** -> detect. One file a product; the table below is all that can
run. Views are in the words of the Sigma taxonomy, entities in nobody's.
"""

from collections.abc import Mapping
from datetime import tzinfo
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from appliance.normalise import (
    aminer,
    auditd,
    cef,
    channels,
    dns,
    ecs,
    eql,
    firewalls,
    leef,
    linux,
    netfilter,
    proxy,
    services,
    suricata,
    w3c,
    wazuh,
    web,
    zeek,
)
from appliance.normalise.aminer import read_aminer
from appliance.normalise.auditd import read_auditd
from appliance.normalise.bridges import BRIDGES
from appliance.normalise.cef import read_cef_event
from appliance.normalise.custom import CustomSource, read_custom
from appliance.normalise.dns import read_dns
from appliance.normalise.ecs import read_ecs
from appliance.normalise.entities import name_host
from appliance.normalise.eql import read_eql
from appliance.normalise.firewalls import read_firewall
from appliance.normalise.generic import read_generic
from appliance.normalise.leef import read_leef_event
from appliance.normalise.linux import read_linux
from appliance.normalise.netfilter import read_netfilter_packet
from appliance.normalise.own import read_own
from appliance.normalise.proxy import read_proxy
from appliance.normalise.reading import Context, Normaliser, Reading, find_inner, is_syslog
from appliance.normalise.services import read_services
from appliance.normalise.suricata import read_suricata
from appliance.normalise.trim import REST, is_wide, trim, write_json
from appliance.normalise.w3c import read_w3c
from appliance.normalise.wazuh import read_wazuh
from appliance.normalise.web import read_web, read_web_json
from appliance.normalise.windows import read_windows
from appliance.normalise.zeek import read_zeek
from appliance.schema import Decoded, Entity, LogSource, RawRecord, Sighting

#: A shorter record, in bytes, can be as wide as it likes: counting would cost more than it saves.
_SHORT: Final = 8192
#: Every product, in the order in which they are asked. The first that knows the record reads it.
PRODUCTS: Final[dict[str, Normaliser]] = {
    "appliance": read_own,
    # Told by the decoder's format alone: whatever names their fields have, they are nothing else.
    "dns servers": read_dns,
    "netfilter": read_netfilter_packet,
    "cef": read_cef_event,
    "leef": read_leef_event,
    "auditd": read_auditd,
    "web servers": read_web,
    "squid": read_proxy,
    "w3c": read_w3c,
    # Before those whose records an alert may hold.
    "wazuh": read_wazuh,
    "aminer": read_aminer,
    "windows": read_windows,
    "windows (EQL schema)": read_eql,
    "ecs": read_ecs,
    "zeek": read_zeek,
    "suricata": read_suricata,
    "web servers (JSON)": read_web_json,
    "firewalls": read_firewall,
    "linux": read_linux,
    "services": read_services,
}


def _list_fed() -> tuple[LogSource, ...]:
    sources: dict[LogSource, None] = {LogSource(): None, channels.WINDOWS: None}
    for group in (
        channels.CHANNELS.values(),
        *channels.SYSMON_VIEWS.values(),
        *(produced for _, produced in BRIDGES.values()),
        eql.CATEGORIES.values(),
        linux.SOURCES,
        services.SOURCES,
        firewalls.SOURCES,
        dns.SOURCES,
        ecs.SOURCES,
        netfilter.SOURCES,
        cef.SOURCES,
        leef.SOURCES,
        suricata.SOURCES,
        zeek.SOURCES,
        web.SOURCES,
        proxy.SOURCES,
        w3c.SOURCES,
        auditd.SOURCES,
        wazuh.SOURCES,
        aminer.SOURCES,
        # One line a product: every log source that its views can have.
    ):
        sources.update(dict.fromkeys(group))
    return tuple(sources)


#: Every log source that some view of some event can have, but for those of custom formats.
FED: Final[tuple[LogSource, ...]] = _list_fed()
#: The configuration describes no format.
NO_CUSTOM: Final[Mapping[str, CustomSource]] = MappingProxyType({})


def normalise(
    record: RawRecord,
    decoded: Decoded,
    *,
    zone: tzinfo,
    custom: Mapping[str, CustomSource] = NO_CUSTOM,
) -> Sighting:
    """Read a decoded record as an event. Raises nothing, whatever the record holds.

    `zone` is that of times that name none. An event without a plausible time (see
    `times.is_plausible`) gets the time of its receipt, and `time_known` is False. What a record
    holds beyond the limits of `trim` is in the field REST of each view. `custom` says of the
    formats that the configuration describes what their records are.
    """
    rest: list[dict[str, Any]] = []
    if len(record.data) >= _SHORT and is_wide(decoded.fields):
        kept, rest = trim(decoded.fields)
        decoded = Decoded(decoded.format, kept, decoded.repaired, decoded.inner)
    context = Context(
        received=record.received,
        zone=zone,
        path=record.path,
        host=_name_sender(decoded),
        source=record.source,
    )
    if (source := custom.get(decoded.format)) is not None:
        reading, mapped = read_custom(decoded, source, context), True
    else:
        reading, mapped = _read(decoded, context)
    if rest:
        _put_rest(reading, rest)
    return Sighting(
        time=record.received if reading.time is None else reading.time,
        received=record.received,
        host=reading.host,
        views=reading.views,
        record=record,
        format=decoded.format,
        collect=reading.list_entities,
        mapped=mapped,
        time_known=reading.time is not None,
    )


def _name_sender(decoded: Decoded) -> str:
    return name_host(decoded.fields.get("hostname", "")) if is_syslog(decoded) else ""


def _read(decoded: Decoded, context: Context) -> tuple[Reading, bool]:
    """The product's reading, and whether there is such a product. A record inside a syslog message
    is read as what it is and, where the message's program is known too, as that program's."""
    outer = _ask_products(decoded, context)
    # What a shipper has read itself is not read again from the line that it keeps beside.
    inner = find_inner(decoded) if outer is None or is_syslog(decoded) else None
    within = _ask_products(inner, context) if inner is not None else None
    if within is None:
        return (outer, True) if outer is not None else (read_generic(decoded, context), False)
    around = outer if outer is not None else read_generic(decoded, context)
    return (
        Reading(
            views=within.views + (outer.views if outer is not None else ()),
            entities=partial(_join_entities, within, around),
            host=within.host or around.host,
            time=around.time if within.time is None else within.time,
        ),
        True,
    )


def _join_entities(within: Reading, around: Reading) -> tuple[Entity, ...]:
    return tuple(dict.fromkeys(within.list_entities() + around.list_entities()))


def _ask_products(decoded: Decoded, context: Context) -> Reading | None:
    for read in PRODUCTS.values():
        reading = read(decoded, context)
        if reading is not None:
            return reading
    return None


def _put_rest(reading: Reading, rest: list[dict[str, Any]]) -> None:
    """Add REST to each view (views may share one dict), beside what the record calls so."""
    text = write_json(rest)
    for fields in {id(view.fields): view.fields for view in reading.views}.values():
        own = fields.get(REST)
        fields[REST] = text if own is None else [write_json(own), text]


def matches(rule: LogSource, view: LogSource) -> bool:
    """True when each part that the rule states is the view's."""
    return (
        (rule.product is None or rule.product == view.product)
        and (rule.category is None or rule.category == view.category)
        and (rule.service is None or rule.service == view.service)
    )


def feeds(rule_logsource: LogSource, custom: Mapping[str, CustomSource] = NO_CUSTOM) -> str | None:
    """None when some event can have a view that the rule's log source matches, else the reason
    in words: a rule that nothing feeds is silent, which must not look like an all-clear."""
    if any(matches(rule_logsource, source) for source in FED):
        return None
    if any(matches(rule_logsource, source.logsource) for source in custom.values()):
        return None
    parts = (
        ("product", rule_logsource.product),
        ("category", rule_logsource.category),
        ("service", rule_logsource.service),
    )
    wanted = " ".join(f"{name}={value}" for name, value in parts if value is not None)
    return f"no source of this version produces {wanted}"
