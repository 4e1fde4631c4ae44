"""Knowledge, reading: STIX 2.1 bundles (OASIS STIX 2.1), those of MITRE ATT&CK and any others.

ATT&CK's objects get their ATT&CK ids, as https://attack.mitre.org publishes them; the fields
"x_mitre_..." are those of its repository attack-stix-data. Everything else keeps its STIX id, or
the CVE id of a vulnerability. A bundle that is not ATT&CK's own cannot say what T1059 is: of its
copies of ATT&CK's objects only the links are read.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, EntryType, Indicator, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import (
    clean_prose,
    clean_title,
    drop_marks,
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
from appliance.knowledge.readers.stix_patterns import read_pattern

ATTACK_LICENCE: Final = "ATT&CK Terms of Use, (c) The MITRE Corporation"

#: Most aliases of an entry, and most links of an indicator.
MAX_NAMES: Final = 200

_TYPES: Final[dict[str, EntryType]] = {
    "attack-pattern": "technique",
    "x-mitre-tactic": "tactic",
    "intrusion-set": "group",
    "threat-actor": "group",
    "malware": "software",
    "tool": "software",
    "campaign": "campaign",
    "course-of-action": "mitigation",
    "x-mitre-detection-strategy": "strategy",
    "x-mitre-analytic": "analytic",
    "x-mitre-asset": "asset",
    "x-mitre-data-component": "log_source",
    "x-mitre-data-source": "log_source",
    "vulnerability": "vulnerability",
    "report": "note",
    "grouping": "note",
    "note": "note",
    "opinion": "note",
    "infrastructure": "note",
    "malware-analysis": "note",
    "incident": "incident",
}
#: What tells of the bundle itself: read for its name, version and licence.
_ABOUT_BUNDLE: Final = frozenset(
    {"x-mitre-matrix", "x-mitre-collection", "marking-definition", "identity"}
    | {"extension-definition", "language-content"}
)
#: Objects whose `object_refs` say what they are about.
_REFERRING: Final = frozenset({"report", "grouping", "note", "opinion"})
#: ATT&CK's ids by what they name. Early mitigations carry their technique's id: not theirs.
_ATTACK_IDS: Final[dict[EntryType, re.Pattern[str]]] = {
    "technique": re.compile(r"T[0-9]{4}(?:\.[0-9]{3})?"),
    "tactic": re.compile(r"TA[0-9]{4}"),
    "group": re.compile(r"G[0-9]{4}"),
    "software": re.compile(r"S[0-9]{4}"),
    "campaign": re.compile(r"C[0-9]{4}"),
    "mitigation": re.compile(r"M[0-9]{4}"),
    "strategy": re.compile(r"DET[0-9]{4}"),
    "analytic": re.compile(r"AN[0-9]{4}"),
    "asset": re.compile(r"A[0-9]{4}"),
    "log_source": re.compile(r"D[CS][0-9]{4}"),
}
_CVE_ID: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_STIX_ID: Final = re.compile(r"[a-z0-9-]{1,64}--[A-Za-z0-9-]{1,64}")
_RELATION: Final = re.compile(r"[a-z0-9-]{1,64}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?=T)")
_WEB_ADDRESS: Final = re.compile(r"https?://[!-~]{1,2000}")
#: ATT&CK's domains: name of the source, kill chain, and the source name of its references.
_DOMAINS: Final = {
    "enterprise-attack": ("MITRE ATT&CK Enterprise", "mitre-attack"),
    "ics-attack": ("MITRE ATT&CK ICS", "mitre-ics-attack"),
    "mobile-attack": ("MITRE ATT&CK Mobile", "mitre-mobile-attack"),
}
_ATTACK_NAMES: Final = frozenset(chain for _, chain in _DOMAINS.values())


class _Source(msgspec.Struct, frozen=True):
    """Who says it. `is_attack`: the bundle is ATT&CK's own."""

    name: str
    version: str
    licence: str
    is_attack: bool


class _Bundle(msgspec.Struct, frozen=True):
    """A bundle's objects by STIX id, and what the entries need to know of one another."""

    file: str
    source: _Source
    objects: dict[str, JsonObject]
    #: Ids of entries by STIX id. In a bundle that is not ATT&CK's own, also ATT&CK's ids.
    ids: dict[str, str]
    #: What took over a revoked object, ids of entries both.
    successors: dict[str, str]
    #: Titles of techniques by ATT&CK id, for their sub-techniques.
    titles: dict[str, str]
    #: Ids of tactics by kill chain and short name, and by ("", short name).
    tactics: dict[tuple[str, str], str]
    #: Names of the strategies by the STIX id of their analytics.
    strategies: dict[str, str]


def read_stix(raw: bytes, name: str) -> Iterator[Item]:
    """Entries, links and indicators of a bundle, or of a TAXII 2.1 envelope (an object with the
    list `objects`): entries first, then links, then indicators. ModelError, raised by the first
    step, when the file is no such thing.

    Revoked and deprecated objects come as such. Relationships become links between the ids, their
    kind with "_" for "-"; besides there are "in" (technique -> tactic), "has" (strategy ->
    analytic), "reads" (analytic -> data component, with the log and channel), "about" (report ->
    what it holds). Texts of ATT&CK lose citation marks. Indicators come of simple patterns (see
    `stix_patterns`), their labels stand behind their name in brackets, and their links are what
    they indicate; what is dropped names its STIX id.
    """
    value = decode_json(raw, name)
    found = value.get("objects") if is_object(value) else None
    if not isinstance(found, list):
        raise ModelError(f"{name}: no STIX bundle: it has no list of objects")
    objects: dict[str, JsonObject] = {}
    yield from _sort_objects(found, name, objects)
    if found and not objects:
        raise ModelError(f"{name}: no STIX bundle: none of its objects has a type and an id")
    bundle = _read_bundle(objects, name)
    for item in objects.values():
        yield from _read_entry(bundle, item)
    for item in objects.values():
        yield from _read_links(bundle, item)
    yield from _read_indicators(bundle)


def _sort_objects(found: list[Any], name: str, objects: dict[str, JsonObject]) -> Iterator[Dropped]:
    """Fills in the objects by id, of several versions of one the newest."""
    for place, item in enumerate(found, 1):
        where = f"{name}: object {place}"
        if not is_object(item):
            yield Dropped(where, f"{quote_value(item)} is no object")
            continue
        stix_id, kind = read_text(item, "id"), read_text(item, "type")
        if not _STIX_ID.fullmatch(stix_id) or stix_id.partition("--")[0] != kind:
            yield Dropped(where, f"{quote_value(stix_id)} is no id of a {quote_value(kind)}")
            continue
        known = objects.get(stix_id)
        if known is None or read_text(known, "modified") < read_text(item, "modified"):
            objects[stix_id] = item
        if known is not None:
            yield Dropped(f"{name}: {stix_id}", "a second object with this id: the newer one stays")


def _read_bundle(objects: dict[str, JsonObject], name: str) -> _Bundle:
    source = _find_source(objects.values(), name)
    ids = _name_entries(objects)
    attack_ids = {
        stix_id: attack_id
        for stix_id, item in objects.items()
        if (attack_id := ids.get(stix_id)) and read_text(item, "type") == "attack-pattern"
    }
    return _Bundle(
        file=name,
        source=source,
        objects=objects,
        ids=ids,
        successors=_find_successors(objects.values(), ids),
        titles={
            attack_id: clean_title(read_text(objects[stix_id], "name"))
            for stix_id, attack_id in attack_ids.items()
        },
        tactics=_find_tactics(objects, ids),
        strategies={
            ref: clean_title(read_text(item, "name"))
            for item in objects.values()
            if read_text(item, "type") == "x-mitre-detection-strategy"
            for ref in read_texts(item, "x_mitre_analytic_refs")
        },
    )


def _find_source(objects: Iterable[JsonObject], name: str) -> _Source:
    kinds: dict[str, list[JsonObject]] = {}
    domains: Counter[str] = Counter()
    newest = ""
    for item in objects:
        kind = read_text(item, "type")
        if kind in _ABOUT_BUNDLE or kind in _REFERRING or kind == "x-mitre-tactic":
            kinds.setdefault(kind, []).append(item)
        domains.update(domain for domain in read_texts(item, "x_mitre_domains")[:8])
        day = _DAY.match(read_text(item, "modified"))
        newest = max(newest, day[0]) if day else newest
    collections = kinds.get("x-mitre-collection", [])
    version = clean_title(read_text(collections[0], "x_mitre_version")) if collections else ""
    is_attack = bool(collections or kinds.get("x-mitre-matrix") or kinds.get("x-mitre-tactic"))
    domain = _find_domain(kinds.get("x-mitre-matrix", []), domains)
    if is_attack and domain:
        return _Source(_DOMAINS[domain][0], version or newest, ATTACK_LICENCE, True)
    reports = kinds.get("report", []) + kinds.get("grouping", [])
    title = clean_title(read_text(reports[0], "name")) if len(reports) == 1 else ""
    licence = _find_licence(kinds.get("marking-definition", []))
    return _Source(f"STIX: {title or clean_title(name)}", version or newest, licence, False)


def _find_domain(matrices: list[JsonObject], domains: Counter[str]) -> str:
    """The ATT&CK domain: that of the first matrix, else the one most objects name, else ""."""
    for matrix in matrices:
        for reference in read_objects(matrix, "external_references"):
            if (found := read_text(reference, "external_id")) in _DOMAINS:
                return found
    return next((domain for domain, _ in domains.most_common() if domain in _DOMAINS), "")


def _find_licence(markings: list[JsonObject]) -> str:
    """Statements and traffic light colours of the bundle's markings (STIX 2.1 section 7.2.1)."""
    found = []
    for marking in markings:
        definition = read_object(marking, "definition")
        colour = read_text(definition, "tlp")
        found.append(read_text(definition, "statement") or (colour and f"TLP:{colour.upper()}"))
        if not found[-1] and read_text(marking, "name").startswith("TLP:"):
            found[-1] = read_text(marking, "name")
    return clean_title("; ".join(keep_unique(text[:200] for text in found)[:8]))


def _name_entries(objects: dict[str, JsonObject]) -> dict[str, str]:
    """Ids of entries by STIX id. Where two claim one ATT&CK or CVE id, what is in force has it,
    then what comes first; the other keeps its STIX id."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    entries = [item for item in objects.values() if read_text(item, "type") in _TYPES]
    for item in sorted(entries, key=_is_withdrawn):
        stix_id = read_text(item, "id")
        own_id = _find_own_id(item)
        ids[stix_id] = stix_id if not own_id or own_id in taken else own_id
        taken.add(own_id)
    return ids


def _is_withdrawn(item: JsonObject) -> bool:
    return is_set(item, "revoked") or is_set(item, "x_mitre_deprecated")


def _find_own_id(item: JsonObject) -> str:
    """The ATT&CK or CVE id of an object; "" when it has none."""
    kind = _TYPES[read_text(item, "type")]
    if kind == "vulnerability":
        references = read_objects(item, "external_references")
        names = [read_text(item, "name"), *(read_text(ref, "external_id") for ref in references)]
        return next((name for name in names if _CVE_ID.fullmatch(name)), "")
    form = _ATTACK_IDS.get(kind)
    found = _read_attack_id(item)
    return found if form and form.fullmatch(found) else ""


def _read_attack_id(item: JsonObject) -> str:
    for reference in read_objects(item, "external_references"):
        if read_text(reference, "source_name") in _ATTACK_NAMES:
            return clean_title(read_text(reference, "external_id"))
    return ""


def _find_successors(objects: Iterable[JsonObject], ids: dict[str, str]) -> dict[str, str]:
    successors = {}
    for item in objects:
        if read_text(item, "relationship_type") == "revoked-by":
            old, new = (
                ids.get(read_text(item, "source_ref")),
                ids.get(read_text(item, "target_ref")),
            )
            if old and new:
                successors[old] = new
    return successors


def _find_tactics(
    objects: dict[str, JsonObject], ids: dict[str, str]
) -> dict[tuple[str, str], str]:
    tactics: dict[tuple[str, str], str] = {}
    for stix_id, item in objects.items():
        if read_text(item, "type") == "x-mitre-tactic":
            short_name = read_text(item, "x_mitre_shortname")
            chains = [
                _DOMAINS[domain][1]
                for domain in read_texts(item, "x_mitre_domains")
                if domain in _DOMAINS
            ]
            for chain in [*chains, ""]:
                tactics.setdefault((chain, short_name), ids[stix_id])
    return tactics


def _read_entry(bundle: _Bundle, item: JsonObject) -> Iterator[Item]:
    kind, stix_id = read_text(item, "type"), read_text(item, "id")
    where = f"{bundle.file}: {stix_id}"
    if kind in _TYPES:
        entry_id = bundle.ids[stix_id]
        if bundle.source.is_attack or entry_id == stix_id or _CVE_ID.fullmatch(entry_id):
            yield _make_entry(bundle, item, entry_id)
        else:
            yield Dropped(where, f"{entry_id} is told by ATT&CK itself; its links are read")
    elif kind not in _ABOUT_BUNDLE and kind not in ("relationship", "indicator"):
        yield Dropped(where, f"a {quote_value(kind)} is neither an entry nor an indicator")


def _make_entry(bundle: _Bundle, item: JsonObject, entry_id: str) -> KnowledgeEntry:
    kind = _TYPES[read_text(item, "type")]
    names = [*read_texts(item, "aliases"), *read_texts(item, "x_mitre_aliases")][:MAX_NAMES]
    name = read_text(item, "name")
    phases = read_objects(item, "kill_chain_phases")[:MAX_NAMES]
    return KnowledgeEntry(
        id=entry_id,
        external_id=_find_own_id(item) or _read_attack_id(item) or entry_id,
        type=kind,
        title=_make_title(bundle, item, entry_id),
        text=clean_prose(drop_marks("\n".join(_list_paragraphs(bundle, item)))),
        source=bundle.source.name,
        version=bundle.source.version,
        licence=bundle.source.licence,
        tactics=keep_unique(
            clean_title(read_text(phase, "phase_name"))
            for phase in phases
            if read_text(phase, "kill_chain_name") in _ATTACK_NAMES
        ),
        platforms=keep_unique(clean_title(text) for text in _read_platforms(item)),
        url=_find_url(item),
        aliases=keep_unique(clean_title(alias) for alias in names if alias != name),
        modified=_read_modified(item),
        revoked=is_set(item, "revoked"),
        deprecated=is_set(item, "x_mitre_deprecated"),
        revoked_by=bundle.successors.get(entry_id),
    )


def _read_platforms(item: JsonObject) -> list[str]:
    # ICS says "None" where it means none.
    return [text for text in read_texts(item, "x_mitre_platforms")[:MAX_NAMES] if text != "None"]


def _make_title(bundle: _Bundle, item: JsonObject, entry_id: str) -> str:
    """A sub-technique's title begins with its technique's, an analytic's ends with what it is for;
    what has no name is called by its id."""
    name = read_text(item, "name")
    parent = bundle.titles.get(entry_id.partition(".")[0])
    if "." in entry_id and parent:
        return clean_title(f"{parent}: {name}")
    strategy = bundle.strategies.get(read_text(item, "id"))
    if strategy:
        platforms = ", ".join(_read_platforms(item))
        return clean_title(f"{name}: {strategy}{platforms and f' ({platforms})'}")
    return clean_title(name or read_text(item, "abstract")) or entry_id


def _list_paragraphs(bundle: _Bundle, item: JsonObject) -> Iterator[str]:
    """What the object says of itself, then what its fields add."""
    yield read_text(item, "description") or read_text(item, "content")
    if detection := read_text(item, "x_mitre_detection"):
        yield f"Detection: {detection}"
    for lead, fields, first, second in (
        ("Logs", read_objects(item, "x_mitre_log_source_references"), "name", "channel"),
        ("Logs", read_objects(item, "x_mitre_log_sources"), "name", "channel"),
        ("To be set", read_objects(item, "x_mitre_mutable_elements"), "field", "description"),
        ("Related", read_objects(item, "x_mitre_related_assets"), "name", "description"),
    ):
        said = [(read_text(field, first), read_text(field, second)) for field in fields[:MAX_NAMES]]
        if told := keep_unique(": ".join(part for part in pair if part) for pair in said):
            yield f"{lead}: {'; '.join(told)}"
    if refs := read_texts(item, "x_mitre_analytic_refs"):
        yield f"Analytics: {', '.join(_tell_analytics(bundle, refs[:MAX_NAMES]))}"
    if read_text(item, "type") == "campaign":
        first_seen, last_seen = (
            read_text(item, key).partition("T")[0] for key in ("first_seen", "last_seen")
        )
        if first_seen and last_seen:
            yield f"Seen from {first_seen} to {last_seen}."


def _tell_analytics(bundle: _Bundle, refs: list[str]) -> Iterator[str]:
    for ref in refs:
        if ref in bundle.ids:
            platforms = ", ".join(_read_platforms(bundle.objects[ref]))
            yield bundle.ids[ref] + (platforms and f" ({platforms})")


def _find_url(item: JsonObject) -> str:
    """Where ATT&CK describes the object, else the first address it names."""
    references = read_objects(item, "external_references")
    ordered = sorted(
        references[:MAX_NAMES], key=lambda ref: read_text(ref, "source_name") not in _ATTACK_NAMES
    )
    urls = (read_text(reference, "url") for reference in ordered)
    return next((url for url in urls if _WEB_ADDRESS.fullmatch(url)), "")


def _read_modified(item: JsonObject) -> str:
    modified = read_text(item, "modified")
    try:
        parse_time(modified)
    except ValueError:
        return ""
    return clean_title(modified)


def _read_links(bundle: _Bundle, item: JsonObject) -> Iterator[Link | Dropped]:
    kind = read_text(item, "type")
    if kind == "relationship":
        yield from _read_relationship(bundle, item)
    elif kind == "attack-pattern":
        yield from _link_tactics(bundle, item)
    elif kind == "x-mitre-detection-strategy":
        yield from _link_all(bundle, item, "has", read_list(item, "x_mitre_analytic_refs"))
    elif kind == "x-mitre-analytic":
        for reference in read_objects(item, "x_mitre_log_source_references"):
            log = (read_text(reference, "name"), read_text(reference, "channel"))
            text = clean_prose(": ".join(part for part in log if part))
            refs = [reference.get("x_mitre_data_component_ref")]
            yield from _link_all(bundle, item, "reads", refs, text)
    elif kind in _REFERRING:
        refs = [ref for ref in read_list(item, "object_refs") if not _is_plain_part(bundle, ref)]
        yield from _link_all(bundle, item, "about", refs)


def _is_plain_part(bundle: _Bundle, ref: object) -> bool:
    """Whether a report names what is read anyway, or told as dropped, and is no entry."""
    return isinstance(ref, str) and ref in bundle.objects and ref not in bundle.ids


def _read_relationship(bundle: _Bundle, item: JsonObject) -> Iterator[Link | Dropped]:
    where = f"{bundle.file}: {read_text(item, 'id')}"
    kind = read_text(item, "relationship_type")
    ends = read_text(item, "source_ref"), read_text(item, "target_ref")
    if _is_withdrawn(item):
        yield Dropped(where, "revoked or deprecated by its source")
    elif not _RELATION.fullmatch(kind):
        yield Dropped(where, f"{quote_value(kind)} is no type of a relationship")
    elif missing := [end for end in ends if end not in bundle.ids]:
        if kind != "indicates" or ends[1] in missing or ends[0] not in bundle.objects:
            yield Dropped(where, _tell_missing(bundle, missing[-1]))
    else:
        yield Link(
            source=bundle.ids[ends[0]],
            kind=kind.replace("-", "_"),
            target=bundle.ids[ends[1]],
            origin=bundle.source.name,
            text=clean_prose(drop_marks(read_text(item, "description"))),
        )


def _tell_missing(bundle: _Bundle, ref: object) -> str:
    if isinstance(ref, str) and ref in bundle.objects:
        return f"its end {quote_value(ref)} is no entry"
    return f"its end {quote_value(ref)} is not in this file"


def _link_tactics(bundle: _Bundle, item: JsonObject) -> Iterator[Link | Dropped]:
    stix_id = read_text(item, "id")
    done: set[str] = set()
    for phase in read_objects(item, "kill_chain_phases"):
        chain, name = read_text(phase, "kill_chain_name"), read_text(phase, "phase_name")
        tactic = bundle.tactics.get((chain, name)) or bundle.tactics.get(("", name))
        if tactic is not None and tactic not in done:
            done.add(tactic)
            yield Link(bundle.ids[stix_id], "in", tactic, bundle.source.name)
        elif tactic is None and bundle.source.is_attack:
            reason = f"no tactic of this file is called {quote_value(name)}"
            yield Dropped(f"{bundle.file}: {stix_id}", reason)


def _link_all(
    bundle: _Bundle, item: JsonObject, kind: str, refs: list[Any], text: str = ""
) -> Iterator[Link | Dropped]:
    stix_id = read_text(item, "id")
    for ref in refs:
        target = bundle.ids.get(ref) if isinstance(ref, str) else None
        if target is None:
            yield Dropped(f"{bundle.file}: {stix_id}", f'"{kind}": {_tell_missing(bundle, ref)}')
        else:
            yield Link(bundle.ids[stix_id], kind, target, bundle.source.name, text)


def _read_indicators(bundle: _Bundle) -> Iterator[Indicator | Dropped]:
    indicated: dict[str, list[str]] = {}
    for item in bundle.objects.values():
        if read_text(item, "relationship_type") == "indicates" and not _is_withdrawn(item):
            target = bundle.ids.get(read_text(item, "target_ref"))
            if target:
                indicated.setdefault(read_text(item, "source_ref"), []).append(target)
    for stix_id, item in bundle.objects.items():
        if read_text(item, "type") == "indicator":
            links = indicated.get(stix_id, [])
            try:
                yield from _read_indicator(bundle, item, links)
            except ValueError as error:
                yield Dropped(f"{bundle.file}: {stix_id}", str(error))


def _read_indicator(
    bundle: _Bundle, item: JsonObject, links: list[str]
) -> Iterator[Indicator | Dropped]:
    """The indicators of one object; ValueError when it gives none at all."""
    if is_set(item, "revoked"):
        raise ValueError("revoked by its source")
    if (language := item.get("pattern_type", "stix")) != "stix":
        raise ValueError(f"its pattern is in the language {quote_value(language)}")
    valid_from, valid_until = _read_bound(item, "valid_from"), _read_bound(item, "valid_until")
    if valid_from is not None and valid_until is not None and valid_until <= valid_from:
        raise ValueError("its validity ends before it begins")
    name = _name_indicator(item)
    confidence = _read_confidence(item)
    all_links = keep_unique([*links, *_list_attack_references(item)])[:MAX_NAMES]
    for value in read_pattern(read_text(item, "pattern")):
        try:
            if not value.kind:
                raise ValueError(f"{quote_value(value.path)} is nothing that is looked up")
            kind, settled = settle_indicator(value.kind, value.value)
        except ValueError as error:
            yield Dropped(f"{bundle.file}: {read_text(item, 'id')}", str(error))
            continue
        yield Indicator(
            kind=kind,
            value=settled,
            source=bundle.source.name,
            name=name,
            valid_from=valid_from,
            valid_until=valid_until,
            confidence=confidence,
            links=all_links,
        )


def _read_bound(item: JsonObject, key: str) -> float | None:
    value = item.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key} is no time")
    return parse_time(value)


def _read_confidence(item: JsonObject) -> int | None:
    value = item.get("confidence")
    return value if type(value) is int and 0 <= value <= 100 else None


def _name_indicator(item: JsonObject) -> str:
    """Its name, else the beginning of its description, and its labels in brackets."""
    labels = keep_unique([*read_texts(item, "indicator_types"), *read_texts(item, "labels")])[:8]
    name = read_text(item, "name") or read_text(item, "description")
    told = f" [{', '.join(labels)}]" if labels else ""
    return clean_title(clean_title(name)[:150] + told)


def _list_attack_references(item: JsonObject) -> Iterator[str]:
    for reference in read_objects(item, "external_references"):
        found = read_text(reference, "external_id")
        if read_text(reference, "source_name") in _ATTACK_NAMES and any(
            form.fullmatch(found) for form in _ATTACK_IDS.values()
        ):
            yield found
