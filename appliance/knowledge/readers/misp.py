"""Knowledge, reading: MISP events (https://www.misp-project.org/datamodels, core format 2.4).

A file holds one event, a list of them, or what MISP's search returns. Each event is a source, named
by its info and the first 8 characters of its uuid. Of an event's attributes only those become
indicators that MISP itself would match by (`to_ids`); the others are context.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Indicator, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import (
    clean_prose,
    clean_title,
    parse_time,
    quote_value,
    settle_indicator,
)
from appliance.knowledge.readers.json_objects import (
    JsonObject,
    decode_json,
    is_object,
    is_set,
    keep_unique,
    read_list,
    read_object,
    read_objects,
    read_text,
    read_texts,
)

#: Most tags of an event or attribute, and most links of an indicator.
MAX_TAGS: Final = 200

#: Characters of an event's info that the name of its source holds.
_SOURCE_TITLE: Final = 120

#: Attribute types, and for each "|"-joined part of the value the kind of indicator it is, "" for
#: a part that only narrows (a port, the name that belongs to a digest).
_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "ip-src": ("address",),
    "ip-dst": ("address",),
    "ip-src|port": ("address", ""),
    "ip-dst|port": ("address", ""),
    "domain": ("domain",),
    "hostname": ("domain",),
    "hostname|port": ("domain", ""),
    "domain|ip": ("domain", "address"),
    "url": ("url",),
    "link": ("url",),
    "md5": ("md5",),
    "sha1": ("sha1",),
    "sha256": ("sha256",),
    "filename": ("file",),
    "filename|md5": ("", "md5"),
    "filename|sha1": ("", "sha1"),
    "filename|sha256": ("", "sha256"),
    "malware-sample": ("", "md5"),
}
_ATTACK_TAG: Final = re.compile(
    r"mitre-[a-z-]{1,60}=\"[^\"]{0,200}? - (T[0-9]{4}(?:\.[0-9]{3})?|TA[0-9]{4}|[GSCM][0-9]{4})\"",
    re.IGNORECASE,
)
_ATTACK_ID: Final = re.compile(r"T[0-9]{4}(?:\.[0-9]{3})?|TA[0-9]{4}|[GSCM][0-9]{4}")
_CVE_ID: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_UUID: Final = re.compile(r"[0-9a-fA-F-]{36}")
_THREAT_LEVELS: Final = {"1": "high", "2": "medium", "3": "low"}


class _Event(msgspec.Struct, frozen=True):
    """What an event's attributes need of it."""

    id: str
    title: str
    source: str
    where: str


def read_misp(raw: bytes, name: str) -> Iterator[Item]:
    """Of each event a note `misp:<uuid>`, links "about" from it to the ATT&CK ids its galaxies and
    tags name and to the CVE ids among its attributes, and its indicators, objects' too.

    An indicator is valid from the attribute's first_seen on and has no end: last_seen is when it
    was last met, not when it became harmless. A digest with a file's name, and an address with a
    port, are indicators by the digest and the address alone; the rest stands in the name. Its
    links are the event's note and the ATT&CK ids of its own tags. ModelError, raised by the first
    step, when the file holds no event.
    """
    value = decode_json(raw, name)
    found = _list_events(value)
    if not any(_is_event(event) for event in found):
        raise ModelError(f"{name}: no MISP event: it has no attributes, objects and info")
    known: set[str] = set()
    for place, event in enumerate(found, 1):
        where = name if len(found) == 1 else f"{name}: event {place}"
        if not _is_event(event):
            yield Dropped(where, f"{quote_value(event)} is no event")
        elif (uuid := read_text(event, "uuid").lower()) in known or not _UUID.fullmatch(uuid):
            yield Dropped(where, f"{quote_value(uuid)} is no new uuid of an event")
        else:
            known.add(uuid)
            yield from _read_event(event, uuid, where)


def _list_events(value: Any) -> list[Any]:
    """The events of the forms in which MISP gives them, without their wrappings."""
    if is_object(value) and isinstance(value.get("response"), list | dict):
        value = value["response"]
    events = value if isinstance(value, list) else [value]
    return [event.get("Event", event) if is_object(event) else event for event in events]


def _is_event(value: Any) -> bool:
    return is_object(value) and "info" in value and ("Attribute" in value or "Object" in value)


def _read_event(value: JsonObject, uuid: str, where: str) -> Iterator[Item]:
    info = clean_title(read_text(value, "info"))
    title = info or uuid
    # Many events have the same info: feeds publish one a day under one name.
    source = clean_title(f"MISP: {title[:_SOURCE_TITLE]} ({uuid[:8]})")
    event = _Event(f"misp:{uuid}", title, source, where)
    attributes = [*read_objects(value, "Attribute")]
    for part in read_objects(value, "Object"):
        attributes += [] if is_set(part, "deleted") else read_objects(part, "Attribute")
    yield KnowledgeEntry(
        id=event.id,
        external_id=uuid,
        type="note",
        title=title,
        text=clean_prose("\n".join(_list_paragraphs(value, attributes))),
        source=event.source,
        version=clean_title(read_text(value, "date")),
        licence="; ".join(tag for tag in _list_tags(value) if tag.lower().startswith("tlp:")),
        modified=clean_title(read_text(value, "date")),
    )
    ids = [*_list_attack_ids(value), *_list_cve_ids(attributes)]
    for target in keep_unique(ids):
        yield Link(event.id, "about", target, event.source)
    yield from _tell_wrong_parts(value, where)
    for place, attribute in enumerate(attributes, 1):
        yield from _read_attribute(attribute, event, place)


def _tell_wrong_parts(value: JsonObject, where: str) -> Iterator[Dropped]:
    for key in ("Attribute", "Object"):
        for part in read_list(value, key):
            if not is_object(part):
                yield Dropped(where, f"{quote_value(part)} is no {key.lower()}")


def _list_paragraphs(value: JsonObject, attributes: list[JsonObject]) -> Iterator[str]:
    yield read_text(value, "info")
    organisation = read_text(read_object(value, "Orgc"), "name")
    level = _THREAT_LEVELS.get(str(read_text(value, "threat_level_id")), "")
    for lead, said in (
        ("By", clean_title(organisation)),
        ("Date", clean_title(read_text(value, "date"))),
        ("Threat level", level),
        ("Tags", ", ".join(_list_tags(value))),
    ):
        if said:
            yield f"{lead}: {said}"
    # Words of the analysts; values are not repeated here.
    for attribute in attributes[:2_000]:
        if read_text(attribute, "type") in ("comment", "text") and not is_set(attribute, "deleted"):
            yield clean_prose(read_text(attribute, "value"), 1_000)


def _list_tags(value: JsonObject) -> tuple[str, ...]:
    tags = read_objects(value, "Tag")[:MAX_TAGS]
    return keep_unique(clean_title(read_text(tag, "name")) for tag in tags)


def _list_attack_ids(value: JsonObject) -> tuple[str, ...]:
    """ATT&CK ids that the tags and galaxies of an event or attribute name."""
    found = [match[1].upper() for tag in _list_tags(value) if (match := _ATTACK_TAG.search(tag))]
    for galaxy in read_objects(value, "Galaxy")[:MAX_TAGS]:
        if not read_text(galaxy, "type").startswith("mitre-"):
            continue
        for cluster in read_objects(galaxy, "GalaxyCluster")[:MAX_TAGS]:
            tag = _ATTACK_TAG.search(read_text(cluster, "tag_name")[:400])
            told = read_texts(read_object(cluster, "meta"), "external_id")[:8]
            found += [tag[1].upper()] if tag else filter(_ATTACK_ID.fullmatch, told)
    return keep_unique(found)


def _list_cve_ids(attributes: list[JsonObject]) -> Iterator[str]:
    for attribute in attributes:
        value = read_text(attribute, "value").strip().upper()
        is_told = read_text(attribute, "type") == "vulnerability"
        if is_told and _CVE_ID.fullmatch(value) and not is_set(attribute, "deleted"):
            yield value


def _read_attribute(
    attribute: JsonObject, event: _Event, place: int
) -> Iterator[Indicator | Dropped]:
    uuid = read_text(attribute, "uuid")
    where = f"{event.where}: {uuid if _UUID.fullmatch(uuid) else f'attribute {place}'}"
    try:
        kinds = _find_kinds(attribute)
        first_seen = _read_first_seen(attribute)
        values = _split_value(read_text(attribute, "value"), kinds)
    except ValueError as error:
        yield Dropped(where, str(error))
        return
    links = keep_unique([event.id, *_list_attack_ids(attribute)])[:MAX_TAGS]
    beside = ", ".join(value for kind, value in zip(kinds, values, strict=True) if not kind)
    for kind, value in zip(kinds, values, strict=True):
        if not kind:
            continue
        try:
            settled_kind, settled = settle_indicator(kind, value)
        except ValueError as error:
            yield Dropped(where, str(error))
            continue
        yield Indicator(
            kind=settled_kind,
            value=settled,
            source=event.source,
            name=_name_indicator(attribute, event, beside),
            valid_from=first_seen,
            links=links,
        )


def _find_kinds(attribute: JsonObject) -> tuple[str, ...]:
    """Kinds of the parts of an attribute's value; ValueError when it is not to be matched."""
    kind = read_text(attribute, "type")
    if is_set(attribute, "deleted"):
        raise ValueError("deleted by its source")
    if kind in ("comment", "text", "vulnerability"):
        raise ValueError(f"a {kind} is told by the event's note")
    if kind not in _PARTS:
        raise ValueError(f"{quote_value(kind)} is nothing that is looked up")
    if attribute.get("to_ids") not in (True, 1, "1"):
        raise ValueError("context, which is not to be matched (to_ids is not true)")
    return _PARTS[kind]


def _split_value(value: str, kinds: tuple[str, ...]) -> list[str]:
    """As many parts as there are kinds; a file's name, which comes first, may hold "|"."""
    parts = value.rsplit("|", len(kinds) - 1) if len(kinds) > 1 else [value]
    if len(parts) != len(kinds):
        raise ValueError(f"{quote_value(value)} has not {len(kinds)} parts")
    return parts


def _read_first_seen(attribute: JsonObject) -> float | None:
    first_seen = attribute.get("first_seen")
    if first_seen is None or first_seen == "":
        return None
    if not isinstance(first_seen, str):
        raise ValueError("first_seen is no time")
    return parse_time(first_seen)


def _name_indicator(attribute: JsonObject, event: _Event, beside: str) -> str:
    comment = clean_title(read_text(attribute, "comment"))[:100]
    told = comment or event.title
    return clean_title(f"{told} ({clean_title(beside)})" if beside else told)
