"""Knowledge, brought in by the operator: files from a stick become part of the base.

An import reads everything first, then joins it with what the base holds, encodes what is new and
swaps the new generation in: whatever fails or is killed before leaves the base as it is.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.build import OldBase, Say, write_base
from appliance.knowledge.content import (
    ATTACK_ID,
    Content,
    Contribution,
    Resolver,
    is_older,
    join_contributions,
)
from appliance.knowledge.entries import (
    Dropped,
    Encoder,
    Indicator,
    Item,
    KnowledgeEntry,
    Link,
)
from appliance.knowledge.gathering import MAX_REASONS, Drops, Gathered, gather_items
from appliance.knowledge.generation import hash_file, lock_base
from appliance.knowledge.readers import read_path
from appliance.knowledge.readers.archives import tell_name
from appliance.knowledge.renumbered import RENUMBERED

#: Unknown ids that a report names; the rest are counted.
MAX_UNKNOWN: Final = 200

#: Ids named of each list in a report.
MAX_IDS: Final = 20

#: Sources that publish one file for each entry: a file says nothing of the others', so nothing of
#: such a source goes when it is not there again.
ENTRY_BY_ENTRY: Final = frozenset({"CVE"})

#: Sources that are published as a tree of small files: files of such a tree that are named one by
#: one add to what is there, while the tree (a folder or an archive) replaces it.
FILE_BY_FILE: Final = frozenset(
    {
        "Atomic Red Team",
        "Caldera Stockpile",
        "GTFOBins",
        "LOLBAS",
        "Sigma rules",
        "SigmaHQ",
        "Site notes",
    }
)

#: Why files are left out as a whole in which nothing was missed.
_NOT_MISSED: Final = frozenset(
    {"none of the formats that can be imported", "Markdown without text"}
)
#: Ends of names of files that trees hold beside their texts, and that no reader reads.
_NO_TEXT: Final = (
    ".bin", ".bmp", ".class", ".dll", ".doc", ".docx", ".exe", ".gif", ".ico", ".jar", ".jpeg",
    ".jpg", ".lnk", ".msi", ".pdf", ".png", ".pyc", ".so", ".webp", ".woff", ".woff2", ".xls",
    ".xlsx",
)  # fmt: skip

Read = Callable[[Path], Iterator[tuple[str, Item]]]


class _Part(msgspec.Struct):
    """What one of the named paths brought: the names of the sources, whether it is a tree (a folder
    or an archive), and its files that were left out as a whole and may belong to a source."""

    path: Path
    is_tree: bool = False
    sources: set[str] = set()
    unread: list[str] = []


class SourceReport(msgspec.Struct, frozen=True):
    """What an import did to one source. Counts are of entries, unless they say so; of each kind of
    change the first ids are named. `older` are entries that are not shown, because another source
    has them no older. `left_out` are the first of `dropped` things; where nothing was taken away
    because files could not be read, the first of all says so."""

    name: str
    files: int
    new: int
    changed: int
    unchanged: int
    gone: int
    older: int
    new_ids: tuple[str, ...]
    changed_ids: tuple[str, ...]
    gone_ids: tuple[str, ...]
    older_ids: tuple[str, ...]
    links_new: int
    links_gone: int
    indicators: int
    indicators_new: int
    indicators_gone: int
    dropped: int
    left_out: tuple[Dropped, ...]


class UnknownId(msgspec.Struct, frozen=True):
    """An ATT&CK id that imported links name and the base does not have: `links` links do. They are
    kept, and shown when the entry comes."""

    id: str
    links: int


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did. `changed` is False when the base is what it was, to the byte. `dropped`
    things (the first in `left_out`) came in files that brought nothing else. `unknown` are the
    most named of `unknown_ids` ATT&CK ids that the base does not have. Of the texts, `encoded`
    were new and `reused` had their vectors."""

    sources: tuple[SourceReport, ...]
    changed: bool
    dropped: int
    left_out: tuple[Dropped, ...]
    unknown: tuple[UnknownId, ...]
    unknown_ids: int
    encoded: int
    reused: int
    entries: int


def import_paths(
    folder: Path,
    paths: Sequence[Path],
    encoder: Encoder,
    progress: Say,
    *,
    read: Read = read_path,
    helpers: Sequence[Encoder] = (),
    now: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> ImportReport:
    """Bring files and folders into the base at `folder`.

    What a source brought before is replaced by what it brings now; but nothing is taken away by
    single files of a source that is a tree of files, by a source that has a file for each entry,
    and by a tree with files that could not be read. `now` (seconds since 1970) is noted as the
    time of reading. Raises ModelError when there is no sound base made with this
    encoder, when a file is refused, when nothing was found, or when the disk is full;
    ModelUnavailable when the encoder fails. The base is then what it was.
    """
    with lock_base(folder):
        old = _need_base(folder, encoder, progress)
        before = list(old.read_contributions())
        parts = [_Part(path) for path in paths]
        items = _settle_repeats(_read_all(parts, read, progress))
        gathered = gather_items(items, "imported", now)
        drops = _drop_other_types(gathered, before)
        if not gathered.contributions:
            raise ModelError(_describe_nothing(paths, drops))
        _note_files(gathered, parts)
        after, reports = _replace_sources(before, gathered, drops, parts)
        content = join_contributions(after, RENUMBERED)
        unknown = _count_unknown(content, gathered)
        sources = tuple(_add_older(report, content) for report in reports)
        if after == before:
            return _make_report(sources, drops, unknown, len(content.shown))
        written = write_base(
            folder, after, encoder, progress, old=old, helpers=helpers, clock=clock
        )  # fmt: skip
        report = _make_report(sources, drops, unknown, written.manifest.entries)
        return msgspec.structs.replace(
            report, changed=written.changed, encoded=written.encoded, reused=written.reused
        )


def _need_base(folder: Path, encoder: Encoder, progress: Say) -> OldBase:
    problems: list[str] = []
    old = OldBase.open(folder, problems.append)
    if old is None or problems:
        why = "; ".join(problems) or "there is none"
        raise ModelError(f"{folder}: no base to import into ({why}): run `appliance kb build`")
    if old.generation.manifest.encoder != encoder.model_hash:
        raise ModelError(
            f"{folder}: made with encoder {old.generation.manifest.encoder[:16]}, this one is "
            f"{encoder.model_hash[:16]}: build the base again"
        )
    progress(f"{folder}: {old.generation.manifest.entries} entries before")
    return old


def _read_all(parts: Iterable[_Part], read: Read, progress: Say) -> Iterator[tuple[str, Item]]:
    for part in parts:
        progress(f"reading {ascii(str(part.path))[1:-1]}")
        yield from _read_part(part, read)


def _read_part(part: _Part, read: Read) -> Iterator[tuple[str, Item]]:
    """What the part's path holds; the part is told what it was."""
    part.is_tree = part.path.is_dir()
    left_out: dict[str, None] = {}
    brought: set[str] = set()
    for file, item in read(part.path):
        # The name of a single file has no folder before it; that of an archive's member has.
        part.is_tree = part.is_tree or "/" in file
        if not isinstance(item, Dropped):
            part.sources.add(item.origin if isinstance(item, Link) else item.source)
            brought.add(file)
        elif item.where == file and item.reason not in _NOT_MISSED and not _is_no_text(file):
            left_out[file] = None
        yield file, item
    part.unread = [file for file in left_out if file not in brought]


def _is_no_text(file: str) -> bool:
    return file.lower().endswith(_NO_TEXT)


def _settle_repeats(items: Iterable[tuple[str, Item]]) -> Iterator[tuple[str, Item]]:
    """The items; but an entry that its source gave before, with another version and nothing else
    that is new, is given as it was before: a catalogue in two forms contradicts itself nowhere."""
    given: dict[tuple[str, str], KnowledgeEntry] = {}
    for file, item in items:
        if not isinstance(item, KnowledgeEntry):
            yield file, item
            continue
        known = given.setdefault((item.source, item.id), item)
        if known is not item and not is_older(known, item) and _differs_in_version(known, item):
            yield file, known
            continue
        if not is_older(item, known):
            given[item.source, item.id] = item
        yield file, item


def _differs_in_version(one: KnowledgeEntry, other: KnowledgeEntry) -> bool:
    """Whether that is all that differs, the time of the last change included."""
    return one == msgspec.structs.replace(other, version=one.version, modified=one.modified)


def _drop_other_types(gathered: Gathered, before: Iterable[Contribution]) -> dict[str, Drops]:
    """An id means one thing: an entry that has another type than the base's is left out."""
    types = {e.id: (e.type, s.name) for s in before for e in s.entries.values()}
    drops = dict(gathered.drops)
    for source in sorted(gathered.contributions):
        contribution = gathered.contributions[source]
        for entry in list(contribution.entries.values()):
            known, by = types.setdefault(entry.id, (entry.type, source))
            if known != entry.type and by != source:
                reason = f"{entry.id}: is a {known} by {by}, here it is a {entry.type}"
                drops.setdefault(source, Drops()).add(Dropped(source, reason))
                del contribution.entries[entry.id]
    return drops


def _describe_nothing(paths: Sequence[Path], drops: dict[str, Drops]) -> str:
    names = ", ".join(ascii(str(path))[1:-1] for path in paths[:3])
    first = [left for each in drops.values() for left in each.first][:3]
    reasons = "; ".join(f"{left.where}: {left.reason}" for left in first)
    return f"{names}: nothing to import" + (f": {reasons}" if reasons else "")


def _note_files(gathered: Gathered, parts: Sequence[_Part]) -> None:
    """The paths that each source came from, with the hash of what is a file."""
    digests: list[tuple[_Part, str]] = []
    try:
        for part in parts:
            if part.sources:
                digests.append((part, hash_file(part.path) if part.path.is_file() else ""))
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read: {error.strerror}") from error
    for name, contribution in gathered.contributions.items():
        contribution.files = {
            part.path.name: digest for part, digest in digests if name in part.sources
        }


def _replace_sources(
    before: Sequence[Contribution],
    gathered: Gathered,
    drops: dict[str, Drops],
    parts: Sequence[_Part],
) -> tuple[list[Contribution], list[SourceReport]]:
    """The contributions afterwards, sorted, and what became of each source that was read."""
    known = {source.key: source for source in before}
    after = dict(known)
    reports = []
    for name, read in sorted(gathered.contributions.items()):
        stale = known.get(read.key)
        fresh = read
        told = drops.setdefault(name, Drops())
        if stale is not None:
            fresh = _join_stale(stale, read, [part for part in parts if name in part.sources], told)
            if _says_the_same(stale, fresh):
                fresh = stale
        after[fresh.key] = fresh
        reports.append(
            _report_source(
                stale or Contribution("imported", name), fresh, len(gathered.files[name]), told
            )
        )
    return [after[key] for key in sorted(after)], reports


def _join_stale(
    stale: Contribution, read: Contribution, parts: Sequence[_Part], drops: Drops
) -> Contribution:
    """The source afterwards, which came from these parts. What stays only because files could not
    be read is told first among the drops."""
    if _only_adds(stale.name, parts):
        return _add_to(stale, read)
    unread = [(part.path, file) for part in parts for file in part.unread]
    if not unread:
        return read
    joined = _add_to(stale, read)
    if not _says_the_same(joined, read):
        path, file = unread[0]
        many = f"{len(unread)} files" if len(unread) > 1 else "1 file"
        reason = f"nothing is taken away, because {many} could not be read: {file}"
        drops.count += 1
        drops.first.insert(0, Dropped(tell_name(path.name or str(path)), reason))
        del drops.first[MAX_REASONS:]
    return joined


def _only_adds(name: str, parts: Iterable[_Part]) -> bool:
    """Whether what these parts bring of the source is only some of its files."""
    if name in ENTRY_BY_ENTRY:
        return True
    return name in FILE_BY_FILE and not any(part.is_tree for part in parts)


def _add_to(stale: Contribution, fresh: Contribution) -> Contribution:
    """Both, the fresh one's entries in the place of those it has under the same id, with links."""
    kept = [link for link in stale.links if link.source not in fresh.entries]
    return msgspec.structs.replace(
        fresh,
        files={**stale.files, **fresh.files},
        entries=dict(sorted({**stale.entries, **fresh.entries}.items())),
        links=sorted(
            {*kept, *fresh.links},
            key=lambda link: (link.source, link.kind, link.target, link.text),
        ),
        indicators=sorted({*stale.indicators, *fresh.indicators}),
    )


def _says_the_same(stale: Contribution, fresh: Contribution) -> bool:
    return (
        stale.entries == fresh.entries
        and stale.links == fresh.links
        and stale.indicators == fresh.indicators
    )


def _report_source(
    stale: Contribution, fresh: Contribution, files: int, drops: Drops
) -> SourceReport:
    new = [each for each in fresh.entries if each not in stale.entries]
    gone = [each for each in stale.entries if each not in fresh.entries]
    both = [each for each in fresh.entries if each in stale.entries]
    changed = [each for each in both if stale.entries[each] != fresh.entries[each]]
    links = set(stale.links), set(fresh.links)
    indicators = set(stale.indicators), set(fresh.indicators)
    return SourceReport(
        name=fresh.name,
        files=files,
        new=len(new),
        changed=len(changed),
        unchanged=len(both) - len(changed),
        gone=len(gone),
        older=0,
        new_ids=tuple(new[:MAX_IDS]),
        changed_ids=tuple(changed[:MAX_IDS]),
        gone_ids=tuple(gone[:MAX_IDS]),
        older_ids=(),
        links_new=len(links[1] - links[0]),
        links_gone=len(links[0] - links[1]),
        indicators=len(fresh.indicators),
        indicators_new=len(indicators[1] - indicators[0]),
        indicators_gone=len(indicators[0] - indicators[1]),
        dropped=drops.count,
        left_out=tuple(drops.first),
    )


def _add_older(report: SourceReport, content: Content) -> SourceReport:
    older = [
        placed.entry.id
        for placed in content.entries
        if not placed.shown
        and content.sources[placed.source].kind == "imported"
        and content.sources[placed.source].name == report.name
    ]
    return msgspec.structs.replace(report, older=len(older), older_ids=tuple(older[:MAX_IDS]))


def _count_unknown(content: Content, gathered: Gathered) -> Counter[str]:
    """ATT&CK ids in what was read that no entry bears, and in how many links."""
    entries: dict[str, KnowledgeEntry] = {
        each: content.entries[place].entry for each, place in content.shown.items()
    }
    resolve = Resolver(entries, RENUMBERED)
    unknown: Counter[str] = Counter()
    for contribution in gathered.contributions.values():
        named = [end for link in contribution.links for end in (link.source, link.target)]
        for body in contribution.indicators:
            named.extend(msgspec.json.decode(body, type=Indicator).links)
        unknown.update(
            end for end in named if ATTACK_ID.fullmatch(end) and resolve.find_known(end) is None
        )
    return unknown


def _make_report(
    sources: tuple[SourceReport, ...],
    drops: dict[str, Drops],
    unknown: Counter[str],
    entries: int,
) -> ImportReport:
    named = {source.name for source in sources}
    others = [each for name, each in drops.items() if name not in named]
    ranked = sorted(unknown.items(), key=lambda pair: (-pair[1], pair[0]))
    return ImportReport(
        sources=sources,
        changed=False,
        dropped=sum(each.count for each in others),
        left_out=tuple(left for each in others for left in each.first)[:MAX_REASONS],
        unknown=tuple(UnknownId(name, links) for name, links in ranked[:MAX_UNKNOWN]),
        unknown_ids=len(unknown),
        encoded=0,
        reused=0,
        entries=entries,
    )
