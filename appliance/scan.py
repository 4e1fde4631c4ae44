"""`appliance scan`: the same line over files, once.

A private temporary store, no sinks, no cursor kept; it waits for the experts' verdicts, so the same
files, rules and models always give the same findings. Files are read one after another, each front
to back; a record's time of receipt is its file's last change.
"""

import gc
import math
import os
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import msgspec

from appliance import __version__
from appliance.archiving import convert_rest, open_writer
from appliance.assembly import (
    Experts,
    SentinelParts,
    build_detectors,
    build_formats,
    build_judge,
    build_mappings,
    build_waiting,
    correlation_limits,
    index_rules,
    list_fed,
    load_configured_rules,
    open_experts,
    open_indicators,
    open_overrides,
    open_sentinel,
    settle_memory,
    window_limits,
)
from appliance.config import Config
from appliance.correlate.incidents import Correlator, Stored, read_stored_sign
from appliance.detect.sigma.correlation import SigmaCorrelator, list_watched
from appliance.detect.sigma.load import RuleSet
from appliance.errors import ArchiveError, SourceError
from appliance.health import NO_MODEL
from appliance.inventory.ledger import SoftwareLedger
from appliance.inventory.observe import Inventory
from appliance.judge.bench import Bench
from appliance.kept import SOURCE, Kept, clear_state, keep_in, prepare_state, write_kept
from appliance.pipeline import (
    ARCHIVE,
    Line,
    Reader,
    Work,
    apply_answers,
    join_work,
    process,
    read_records,
)
from appliance.schema import LEVELS, Hit, SourceBatch
from appliance.sources.streams import (
    StreamLimits,
    StreamName,
    Want,
    open_stream,
    reject_stream,
)
from appliance.store import Store, StoreLimits
from appliance.worker_frames import show_record

VERDICT_SECONDS = 600.0
#: Hits that correlations are given in one transaction, findings that are joined in one.
HITS_AT_ONCE = 5000
FINDINGS_AT_ONCE = 5000

#: Told the file being read, how many are done, how many there are, and the records so far.
OnProgress = Callable[[str, int, int, int], None]


class Listing(msgspec.Struct):
    """What is to be read: (logical name, file) of each. `refused` are folders and files that
    can't even be looked at, each with its logical name, path and reason; `links` and `special`
    count what a folder holds that is no file of its own: symbolic links, sockets, pipes, devices.
    """

    files: list[tuple[str, Path]]
    refused: list[tuple[str, str, str]]
    links: int = 0
    special: int = 0


class Scan(msgspec.Struct):
    """What a scan came to. `stats` is the object that `--stats` writes; the findings are in
    `store`, which `close` deletes unless the scan is `kept`. `folder` is private to the scan."""

    store: Store
    rules: RuleSet
    stats: dict[str, Any]
    notices: list[str]
    folder: Path
    kept: bool = False

    def close(self) -> None:
        """Delete the private store; one that is kept is closed."""
        self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def list_files(paths: Sequence[str], spool: Path) -> Listing:
    """Every regular file under the paths, in sorted order.

    The logical name enters the records' ids: the path below the folder that was named, so that the
    same files elsewhere give the same ids; a name that comes again is told apart by a number.
    "-" is standard input, copied into `spool` first. Links inside a folder are not followed: they
    could lead anywhere, also back. Raises SourceError for a path that is not there, and when there
    is no file at all.
    """
    listing = Listing([], [])
    for text in paths:
        if text == "-":
            copy = spool / "standard-input"
            _copy_input(sys.stdin.buffer, copy)
            listing.files.append(("-", copy))
            continue
        path = Path(text)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError as error:
            raise SourceError(f"{text}: no such file or folder") from error
        except OSError as error:
            raise SourceError(f"{text}: {error.strerror or error}") from error
        if stat.S_ISDIR(mode):
            _list_folder(path, listing)
        elif stat.S_ISREG(mode):
            listing.files.append((path.name, path))
        else:
            raise SourceError(f"{text}: neither a file nor a folder")
    if not listing.files:
        reasons = "".join(f"; {reason}" for _, _, reason in listing.refused[:5])
        raise SourceError(f"no file to read under {', '.join(paths)}{reasons}")
    names: Counter[str] = Counter()
    for place, (name, path) in enumerate(listing.files):
        if names[name]:
            listing.files[place] = (f"{name}#{names[name]}", path)
        names[name] += 1
    return listing


def _list_folder(folder: Path, listing: Listing) -> None:
    """All below the folder, into the listing. What can't be looked at is noted, never skipped."""

    def refuse(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        reason = f"{path}: {error.strerror or error}"
        listing.refused.append((str(path.relative_to(folder)), str(path), reason))

    inside: list[Path] = []
    for below, folders, names in os.walk(folder, onerror=refuse):
        for name in (*folders, *names):
            path = Path(below, name)
            try:
                mode = path.lstat().st_mode
            except OSError as error:
                refuse(error)
                continue
            if stat.S_ISLNK(mode):
                listing.links += 1
            elif stat.S_ISREG(mode):
                inside.append(path)
            elif not stat.S_ISDIR(mode):
                listing.special += 1
    listing.files.extend((str(path.relative_to(folder)), path) for path in sorted(inside))


def run_scan(
    paths: Sequence[str],
    config: Config,
    *,
    input_format: str = "auto",
    on_progress: OnProgress,
    state: Path | None = None,
) -> Scan:
    """Put every record of the files through the line, read as `input_format`.

    With `state`, a folder that is not there yet or is empty, the store is kept there, as that of a
    daemon whose state directory it is; a scan that fails leaves nothing in it. Raises RuleError
    when no rule loads, SourceError when nothing can be read, UsageError for another folder.
    """
    began = time.perf_counter()
    made = state is not None and prepare_state(state)
    folder = Path(tempfile.mkdtemp(prefix="appliance-scan-"))
    if state is not None:
        # They are opened again from wherever somebody looks.
        paths = [path if path == "-" else str(Path(path).absolute()) for path in paths]
    try:
        done = _scan(
            paths,
            config,
            folder,
            state=state,
            input_format=input_format,
            on_progress=on_progress,
            began=began,
        )
        if state is not None:
            done.kept = True
            rules = tuple(str(Path(path).absolute()) for path in config.rules)
            write_kept(state, Kept(__version__, time.time(), tuple(paths), rules, input_format))
        return done
    except BaseException:  # SystemExit too: a signal ends a scan so
        shutil.rmtree(folder, ignore_errors=True)
        if state is not None:
            clear_state(state, made=made)
        raise


def _scan(
    paths: Sequence[str],
    config: Config,
    folder: Path,
    *,
    state: Path | None,
    input_format: str,
    on_progress: OnProgress,
    began: float,
) -> Scan:
    listing = list_files(paths, state or folder)
    formats = build_formats(config)
    rules = load_configured_rules(config)
    experts = open_experts(config)
    parts = open_sentinel(config, experts.base)
    sentinel = build_waiting(parts, config)
    unbounded = StoreLimits(
        findings=1 << 60, incidents=1 << 60, folds=1 << 60, software_seconds=0.0
    )
    kept = keep_in(config, state)
    path = folder / "scan.db" if kept is None else kept.store_path
    store = Store(path, limits=unbounded, durable=False)
    _start_models(experts, parts)
    detectors = build_detectors(
        rules, indicators=open_indicators(config, folder), mapped=build_mappings(config)
    )
    settle_memory()
    judge = build_judge(experts, {}, config)
    reader = Reader(
        detectors=detectors,
        zones={SOURCE: ZoneInfo("UTC")},
        fed=list_fed(formats),
        formats=formats,
        watched=list_watched(rules.correlations, rules.silent),
        quiet=sentinel,
        inventory=Inventory(),
        archive=None if kept is None else open_writer(kept, 0, time.time),
    )
    line = Line(
        rules={**index_rules(detectors, rules), **(sentinel.rules if sentinel else {})},
        judge=judge,
        correlator=None,  # findings are joined in the order of their times, when all are known
        known=store.known_findings,
        sinks=False,
        overrides=open_overrides(config),
        sentinel=sentinel,
        software=SoftwareLedger(keep_seconds=0.0),
    )
    if isinstance(judge, Bench):
        judge.start({})  # only rules that fire are judged
    loaded = time.perf_counter()
    try:
        sizes, storing = _read_all(
            listing,
            reader,
            line,
            store,
            config,
            input_format=input_format,
            on_progress=on_progress,
        )
        storing += _correlate_hits(rules, line, store, config)
        began_joining = time.perf_counter()
        join_findings(store, config)
        line.seconds["correlate"] += time.perf_counter() - began_joining
        waiting = time.perf_counter()
        notices = _await_verdicts(judge, experts, store)
        line.seconds["judge"] += time.perf_counter() - waiting
    finally:
        _close_parts(judge, parts, experts, reader)
    if sentinel is not None and sentinel.failed:
        notices.append(f"the sentinel judged {sentinel.failed} events not: {sentinel.down_reason}")
    if config.model and config.sentinel.enabled and parts.why_not not in ("", NO_MODEL):
        notices.append(f"sentinel: {parts.why_not}")
    notices += [experts.why_not] if experts.why_not else []
    notices += _tell_omitted(listing)
    notices += _settle_archive(kept, store)
    stats = _sum_up(sizes, rules, reader, store)
    total = time.perf_counter() - began
    stats["seconds"] = {"load": loaded - began, **reader.seconds, **line.seconds}
    stats["seconds"].update(store=storing, total=total)
    stats["events_per_second"] = stats["events"] / total
    stats["peak_rss_bytes"] = read_peak_rss()
    if stats["events"] == 0:
        reasons = sorted({row[2] for row in store.rejected_reasons()}) or ["the files are empty"]
        store.close()
        raise SourceError("no record could be read: " + "; ".join(reasons[:5]))
    return Scan(store, rules, stats, notices, folder)


def _start_models(experts: Experts, parts: SentinelParts) -> None:
    if experts.encoder is not None:
        experts.encoder.start()
    if parts.clients is not None:
        parts.clients.start()


def _close_parts(judge: object, parts: SentinelParts, experts: Experts, reader: Reader) -> None:
    """End the models' processes, and what the archive has open."""
    if isinstance(judge, Bench):
        judge.close()
    parts.close()
    experts.close()
    if reader.archive is not None:
        reader.archive.close()
    gc.unfreeze()  # what `settle_memory` took from the collector can go now


def _read_all(
    listing: Listing,
    reader: Reader,
    line: Line,
    store: Store,
    config: Config,
    *,
    input_format: str,
    on_progress: OnProgress,
) -> tuple[list[int], float]:
    """Every file through the line; gives their sizes in bytes when they were opened (a log may be
    gone by the end), and the seconds spent in the store."""
    files = listing.files
    sizes: list[int] = []
    storing = 0.0
    records = 0
    columns = input_format in config.headed_formats
    for logical, refused, reason in listing.refused:
        name = StreamName(SOURCE, logical, logical, refused, input_format)
        store.write_batch(process([_reject_file(name, reason)], reader, line))
    for done, (logical, path) in enumerate(files):
        on_progress(logical, done, len(files), records)
        name = StreamName(SOURCE, logical, logical, str(path), input_format, columns)
        for batch in read_file(name, config, sizes):
            work = read_records([batch], reader)
            out = join_work([work], line)
            records += len(batch.records)
            began = time.perf_counter()
            if work.hits:
                store.spool(_pack_hit(hit) for hit in work.hits)
            store.write_batch(out)
            line.commit()
            if reader.archive is not None:
                reader.archive.commit()
            storing += time.perf_counter() - began
            on_progress(logical, done, len(files), records)
    on_progress("", len(files), len(files), records)
    return sizes, storing


def _pack_hit(hit: Hit) -> tuple[float, str, bytes]:
    """The hit by its time."""
    event = hit.event
    time = event.time if math.isfinite(event.time) else event.received
    try:
        return time, event.id, msgspec.msgpack.encode(hit)
    except UnicodeEncodeError:
        shown = msgspec.structs.replace(event, record=show_record(event.record))
        return time, event.id, msgspec.msgpack.encode(msgspec.structs.replace(hit, event=shown))


def _correlate_hits(rules: RuleSet, line: Line, store: Store, config: Config) -> float:
    """What the correlations say of all hits, in the order of their events' times, whatever files
    they came from: files are read one after another, time is not. Gives the seconds in the store.
    """
    if not rules.correlations:
        return 0.0
    storing = 0.0
    line.correlations = SigmaCorrelator(rules.correlations, window_limits(config), replay=True)
    decoder = msgspec.msgpack.Decoder(Hit)
    rows = store.unspool()
    while chunk := [decoder.decode(row) for row in islice(rows, HITS_AT_ONCE)]:
        batch = join_work([Work([], [], [], {}, {}, chunk)], line)
        batch.windows = None  # nobody goes on from here
        began = time.perf_counter()
        store.write_batch(batch)
        line.commit()
        storing += time.perf_counter() - began
    return storing


def join_findings(store: Store, config: Config) -> None:
    """Incidents of all findings, in the order of their events' times: files are read one after
    another, time is not. Raises StoreError."""
    correlator = Correlator(
        correlation_limits(config), Stored(load=store.incident, load_fold=store.fold)
    )
    rows = store.iterate_timed()
    while chunk := list(islice(rows, FINDINGS_AT_ONCE)):
        for moment, body in chunk:
            correlator.join(read_stored_sign(body, moment))
        correlator.evict()
        store.put_correlation(correlator.changes())
        correlator.commit()


def _reject_file(name: StreamName, reason: str) -> SourceBatch:
    """A file or folder that can't be read at all, as one rejected record."""
    return SourceBatch([], [reject_stream(name, reason, time.time())], [])


def read_file(name: StreamName, config: Config, sizes: list[int]) -> Iterator[SourceBatch]:
    """The records of one file; its size in bytes is appended to `sizes`."""
    limits = StreamLimits(config.limits.record_bytes, config.limits.rejected_bytes)
    want = Want(config.limits.batch_records, final=True)
    try:
        status = Path(name.path).stat()
        sizes.append(status.st_size)
        received = min(status.st_mtime, time.time())
        stream = open_stream(name, limits)
    except (OSError, SourceError) as error:
        yield _reject_file(name, str(error))
        return
    try:
        while not stream.ended:
            got = stream.read(want, received)
            if got.records or got.rejected:
                yield SourceBatch(got.records, got.rejected, [])
    except OSError as error:  # a bad block, a network share that went away: the rest goes on
        yield _reject_file(name, f"cannot be read further: {error.strerror or error}")
    finally:
        stream.close()


def _await_verdicts(judge: object, experts: Experts, store: Store) -> list[str]:
    """Wait for the experts; what they could not answer stays `insufficient_data`, and is said."""
    if not isinstance(judge, Bench):
        return []
    until = time.monotonic() + VERDICT_SECONDS
    tries = 0
    judge.wait_idle(VERDICT_SECONDS)
    while judge.down_reason and tries < 20 and time.monotonic() < until:
        tries += 1
        time.sleep(0.5)
        judge.wait_idle(max(0.0, until - time.monotonic()))
    base = experts.base.hash if experts.base else None
    apply_answers(judge.take_answers(), base, store, time.time(), sinks=False)
    left = store.pending_rules()
    if left:
        why = judge.down_reason or "it took too long"
        return [f"findings of {len(left)} rules have no verdict: {why}"]
    return []


def _tell_omitted(listing: Listing) -> list[str]:
    told = [f"not read: {reason}" for _, _, reason in listing.refused[:10]]
    if len(listing.refused) > len(told):
        told.append(f"not read: {len(listing.refused) - len(told)} more")
    if listing.links:
        told.append(f"{listing.links} links not followed")
    if listing.special:
        told.append(f"{listing.special} sockets, pipes or devices not read")
    return told


def _settle_archive(config: Config | None, store: Store) -> list[str]:
    """Make an archive that is kept quick to search; what of it could not be written or read is
    said."""
    if config is None:
        return []
    lost = int(store.counts().get(ARCHIVE, {}).get("lost", 0))
    told = [f"archive: {lost} events could not be kept"] if lost else []
    try:
        convert_rest(config, store)
    except (ArchiveError, OSError) as error:
        told.append(f"archive: searched slowly, it could not be converted: {error}")
    return told


def _sum_up(sizes: Sequence[int], rules: RuleSet, reader: Reader, store: Store) -> dict[str, Any]:
    counts = store.counts()
    source = counts.get(f"source:{SOURCE}", {})
    evaluated = reader.detectors["sigma"].counts()  # type: ignore[attr-defined]
    by_level = {level: int(counts.get(f"level:{level}", {}).get("findings", 0)) for level in LEVELS}
    return {
        "events": int(source.get("decoded", 0)),
        "rejected": int(source.get("rejected", 0)),
        "unmapped": int(source.get("unmapped", 0)),
        "repaired": int(source.get("repaired", 0)),
        "files": len(sizes),
        "bytes": sum(sizes),
        "rules": {
            "loaded": len(rules.infos),
            "refused": len(rules.refused),
            "evaluated": sum(1 for row in evaluated.values() if row["evaluated"]),
        },
        "findings": {
            "total": sum(by_level.values()),
            "by_level": by_level,
            "suppressed": sum(
                int(values.get("suppressed", 0))
                for scope, values in counts.items()
                if scope.startswith("rule:")
            ),
            "by_detector": {
                scope.partition(":")[2]: int(values["fired"])
                for scope, values in counts.items()
                if scope.startswith("detector:")
            },
        },
        "incidents": len(store.incidents()),
        "sentinel": {name: int(value) for name, value in counts.get("sentinel", {}).items()},
        "indicators": {name: int(value) for name, value in counts.get("indicators", {}).items()},
        "inventory": {
            "software": store.sizes()["software"],
            **{name: int(value) for name, value in counts.get("inventory", {}).items()},
        },
    }


def read_peak_rss() -> int:
    """Peak resident set of this process in bytes: VmHWM of proc(5). ru_maxrss would not do, it
    outlives execve and so tells of the process that started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _copy_input(source: BinaryIO, target: Path) -> None:
    with target.open("wb") as out:
        shutil.copyfileobj(source, out)
