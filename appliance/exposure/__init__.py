"""Which known vulnerabilities concern the software that the site's own logs reveal.

The inventory, out of the store, is joined with what the knowledge base says to be affected: by
names (`names`), then by versions where a source states them (`versions`). What is left out, and why
an answer may be wrong, `LIMITS` says: it is part of every answer.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, Protocol

import msgspec

from appliance.exposure.names import WINDOWS, name_listed, name_seen
from appliance.exposure.versions import Answer, is_affected, split_version
from appliance.inventory.seen import Software
from appliance.knowledge.vulnerabilities import Affected, Vulnerability

#: What was seen running, and then only in another version for so long, is taken to be replaced.
REPLACED_SECONDS: Final = 7 * 86400.0
#: Hosts and sorts of evidence that one exposure names; all are counted.
MAX_HOSTS: Final = 1_000
MAX_HOW: Final = 8

BACKPORTS: Final = "a distribution's package: it may hold the fix under this version"
ENGINE: Final = "by the engine that it is built on"

LIMITS: Final = (
    "Only software that logs reveal is looked at; names are matched by folded words and a table of "
    "known ones, so some are missed.",
    "KEV names no versions: without an imported CVE record an entry says that the product is known "
    "to be exploited, not that this version is vulnerable.",
    "Distributions fix without changing the upstream version, and Windows files do not tell its "
    "patch level. User agents and clients' banners are what the client claims.",
)


class Exposed(msgspec.Struct, frozen=True):
    """A vulnerability, and software of the site that it concerns. `id` is the entry that is cited;
    `affected` is "yes" when the version lies in a range that a source states, "unknown" when none
    states any that can be compared. `hosts` and `how` (where the logs say so) are cut at
    MAX_HOSTS and MAX_HOW, `host_count` is not; `last_seen` is in epoch seconds."""

    id: str
    title: str
    vendor: str
    product: str
    version: str
    affected: Literal["yes", "unknown"]
    exploited: bool
    ransomware: bool
    since: str
    due: str
    hosts: tuple[str, ...]
    host_count: int
    how: tuple[str, ...]
    last_seen: float
    sources: tuple[str, ...]
    url: str
    note: str = ""


class Vulnerabilities(Protocol):
    """What is needed of a knowledge base; see `knowledge.vulnerabilities.VulnerabilityBase`."""

    def list_affected(self) -> Iterator[Affected]:
        """All that is said to be affected by something."""

    def describe(self, id: str) -> Vulnerability | None:  # noqa: A002 - the field's name
        """What is known of a vulnerability."""


class _Kind(msgspec.Struct, frozen=True):
    """Software as it is compared: on however many hosts, the answer is the same."""

    vendor: str
    product: str
    version: str
    packaged: bool
    debian: bool


class _Claim(msgspec.Struct, frozen=True):
    """Something said of a product, and whether it is said of the engine alone."""

    affected: Affected
    engine: bool


def find_exposure(software: Sequence[Software], base: Vulnerabilities) -> list[Exposed]:
    """What concerns the site: first what lies in an affected range, of each the known exploited
    ones, those that ransomware uses, the newest. May raise what `base` raises."""
    kinds = _group(list_current(software))
    claims = _collect_claims(kinds, base)
    found: list[Exposed] = []
    described: dict[str, Vulnerability | None] = {}
    for kind, rows in kinds.items():
        for key, said in claims[kind].items():
            answer = _judge(kind, said)
            if answer is False:
                continue
            if key not in described:
                described[key] = base.describe(key)
            known = described[key]
            if known is not None:
                found.append(_make_exposed(kind, rows, known, said, answer))
    found.sort(key=_rank)
    return found


def list_current(software: Iterable[Software]) -> list[Software]:
    """What is there as far as known: not removed, and of what was seen running not the versions
    that others have followed since. Of Windows it is the newest build: files that an update does
    not change keep the older one."""
    there = [row for row in software if row.removed is None]
    newest: dict[tuple[str, str, str], float] = {}
    builds: dict[str, str] = {}
    for row in there:
        key = (row.host, row.vendor, row.product)
        newest[key] = max(newest.get(key, row.last_seen), row.last_seen)
        if _is_windows(row):
            builds[row.host] = max(builds.get(row.host, ""), row.version, key=split_version)

    def is_current(row: Software) -> bool:
        if _is_windows(row):
            return row.version == builds[row.host]
        latest = newest[row.host, row.vendor, row.product]
        return row.installed or row.last_seen >= latest - REPLACED_SECONDS

    return [row for row in there if is_current(row)]


def _is_windows(row: Software) -> bool:
    return row.product == "Windows" and row.vendor == "Microsoft"


def _group(software: Iterable[Software]) -> dict[_Kind, list[Software]]:
    kinds: defaultdict[_Kind, list[Software]] = defaultdict(list)
    for row in software:
        how = row.how.lower()
        debian = how.startswith(("dpkg", "apt "))
        packaged = row.installed and not how.startswith("msiinstaller")
        # A version that names its distribution, and a distribution's kernel ("5.10.0-8-amd64").
        packaged = (
            packaged or " " in row.version or (row.product == "Kernel" and "-" in row.version)
        )
        kinds[_Kind(row.vendor, row.product, row.version, packaged, debian)].append(row)
    return kinds


def _collect_claims(
    kinds: Iterable[_Kind], base: Vulnerabilities
) -> dict[_Kind, dict[str, list[_Claim]]]:
    """By kind of software and vulnerability: what is said of it."""
    wanted: defaultdict[str, list[_Kind]] = defaultdict(list)
    claims: dict[_Kind, dict[str, list[_Claim]]] = {}
    for kind in kinds:
        claims[kind] = {}
        for name in name_seen(kind.vendor, kind.product):
            wanted[name].append(kind)
    for affected in base.list_affected():
        met: set[_Kind] = set()
        for name in name_listed(affected.vendor, affected.product):
            for kind in wanted.get(name, ()):
                if kind not in met:
                    met.add(kind)
                    engine = "/" not in name
                    said = claims[kind].setdefault(affected.vulnerability, [])
                    said.append(_Claim(affected, engine))
    return claims


def _judge(kind: _Kind, said: Sequence[_Claim]) -> Answer:
    """Whether the version is affected: where any source states versions, those decide."""
    if kind.product == "Windows" and name_seen(kind.vendor, kind.product) == (WINDOWS,):
        return _judge_windows(kind.version, said)
    answers: list[Answer] = []
    for claim in said:
        affected = claim.affected
        if claim.engine or not affected.statement:
            continue
        debian = kind.debian and affected.vendor in ("debian", "ubuntu", "canonical")
        answers.append(is_affected(kind.version, affected.statement, debian=debian))
    if True in answers:
        return True
    return None if not answers or None in answers else False


def _judge_windows(version: str, said: Sequence[_Claim]) -> Answer:
    """Statements about Windows begin each of its releases at 10.0.0: only one that ends in the
    build that was seen speaks of it, and how far that is patched is not seen."""
    build = split_version(version)
    ends = [
        split_version(condition.lstrip("<="))
        for claim in said
        for part in claim.affected.statement.split("; ")
        for condition in part.split(",")
        if condition.startswith("<")
    ]
    if len(build) < 3 or not ends:
        return None
    return None if any(end[:3] == build[:3] for end in ends) else False


def _make_exposed(
    kind: _Kind,
    rows: Sequence[Software],
    known: Vulnerability,
    said: Sequence[_Claim],
    answer: Answer,
) -> Exposed:
    hosts = sorted({row.host for row in rows})
    notes = [BACKPORTS] if answer and kind.packaged else []
    if all(claim.engine for claim in said):
        notes.append(ENGINE)
    return Exposed(
        id=known.id,
        title=known.title,
        vendor=kind.vendor,
        product=kind.product,
        version=kind.version,
        affected="yes" if answer else "unknown",
        exploited=known.exploited,
        ransomware=known.ransomware,
        since=known.since,
        due=known.due,
        hosts=tuple(hosts[:MAX_HOSTS]),
        host_count=len(hosts),
        how=tuple(sorted({row.how for row in rows})[:MAX_HOW]),
        last_seen=max(row.last_seen for row in rows),
        sources=tuple(dict.fromkeys((*known.sources, *(c.affected.origin for c in said)))),
        url=known.url,
        note="; ".join(notes),
    )


def _rank(row: Exposed) -> tuple[object, ...]:
    """The worst first; within one sort the newest."""
    year, _, number = row.id.removeprefix("CVE-").partition("-")
    told = year.isascii() and year.isdigit() and number.isascii() and number.isdigit()
    newest = (-int(year), -int(number[:19])) if told else (0, 0)
    return (
        row.affected != "yes",
        not row.exploited,
        not row.ransomware,
        newest,
        row.id,
        row.vendor,
        row.product,
        row.version,
    )
