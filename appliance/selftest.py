"""Beside the line: does every part do its work? One check a line, in words for an operator.

Looks and asks; changes nothing but what a canary record leaves: one informational finding. `ok` is
as it should be, `WARN` is worth knowing, `FAIL` is not as it should be.
"""

import ctypes
import glob
import ipaddress
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

import appliance
from appliance.assembly import (
    build_detectors,
    build_judge,
    build_reader,
    correlation_limits,
    index_rules,
    load_configured_rules,
    open_experts,
    open_sentinel,
)
from appliance.audit import BEGINNING, Head
from appliance.config import Config, FileSink, FilesSource, SyslogSink, SyslogSource
from appliance.control import ask_daemon
from appliance.correlate.incidents import Correlator
from appliance.detect.sentinel.examine import Examiner
from appliance.detect.sentinel.texts import write_texts
from appliance.detect.sigma.load import load_rules
from appliance.emit.syslog_tcp import look_up_address, parse_address
from appliance.errors import ApplianceError, ModelError, ModelUnavailable, RuleError, StoreError
from appliance.inference.client import EncoderClient
from appliance.inference.manifest import verify_built
from appliance.judge.bench import Bench
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.search import search_text
from appliance.pipeline import Line, apply_answers, process
from appliance.places import find_knowledge, find_models, own_rules
from appliance.reach import (
    Allowed,
    OpenSocket,
    allow_lookups,
    find_strangers,
    list_family,
    list_sockets,
)
from appliance.schema import OWN_SOURCE, Cursor, RawRecord, SourceBatch, digest
from appliance.store import Store, StoreFacts, inspect_store

State = Literal["ok", "WARN", "FAIL"]
Row = dict[str, Any]

#: Two texts whose cosine is known for the shipped encoder, and how far it may be off: quantized
#: weights give the fourth digit differently on other processors, another model the first.
KNOWN_TEXTS: Final = ("dump lsass memory", "OS Credential Dumping: LSASS Memory")
KNOWN_COSINE: Final = 0.776
COSINE_TOLERANCE: Final = 0.02
#: A process start of an attack, and one of every day: the first must score above the second.
KNOWN_ATTACK: Final = {
    "ParentImage": "C:\\Windows\\System32\\cmd.exe",
    "Image": "C:\\Windows\\System32\\rundll32.exe",
    "CommandLine": "rundll32.exe C:\\Windows\\System32\\comsvcs.dll, MiniDump 624 "
    "C:\\Users\\Public\\lsass.dmp full",
}
KNOWN_ORDINARY: Final = {
    "ParentImage": "C:\\Windows\\System32\\services.exe",
    "Image": "C:\\Windows\\System32\\svchost.exe",
    "CommandLine": "C:\\Windows\\system32\\svchost.exe -k netsvcs -p -s Schedule",
}
#: A question to the knowledge base, and what must be among its first answers.
KNOWN_QUESTION: Final = "dump lsass memory"
KNOWN_ANSWER: Final = "T1003.001"
KNOWN_RANK: Final = 5

#: Parts of a disk that must be free, below which it is said, and below which it is a failure.
WARN_FREE: Final = 0.10
FAIL_FREE: Final = 0.02
#: Seconds that a record may seem to have come in after now, and an event to have happened.
RECEIVED_AHEAD: Final = 60.0
EVENT_AHEAD: Final = 86_400.0
#: Seconds to wait for the canary in the store, and then in each sink.
CANARY_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
#: adjtimex(2): TIME_ERROR says that the clock is not synchronised; size of struct timex at most.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512
#: What a check names one by one; the rest is counted.
_MOST_NAMED: Final = 5


class Check(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it is, in words."""

    what: str
    state: State
    words: str


class Scene(msgspec.Struct, frozen=True):
    """What the checks look at. `status` is the running daemon's own, None when none runs; `now` in
    epoch seconds; `config_path` empty when the configuration came from no file."""

    config: Config
    config_path: str
    status: Row | None
    now: float
    sleep: Callable[[float], None] = time.sleep
    timer: Callable[[], float] = time.monotonic


def run_checks(scene: Scene) -> Iterator[Check]:
    """Every check, in order; one that fails stops no other. Raises nothing."""
    for what, check in CHECKS.items():
        try:
            yield from check(scene)
        except (ApplianceError, OSError, UnicodeError, ValueError) as error:
            yield Check(what, "FAIL", str(error))


# -- configuration, rules, models ------------------------------------------------------------------


def check_configuration(scene: Scene) -> Iterator[Check]:
    """It was read before the checks began, or they would not have."""
    config = scene.config
    yield Check(
        "configuration",
        "ok" if config.sources else "WARN",
        f"{scene.config_path or 'none, only a state directory'}: {len(config.sources)} sources, "
        f"{len(config.sinks)} sinks",
    )


def check_daemon(scene: Scene) -> Iterator[Check]:
    """Whether it runs, as this version, and what it says is wrong."""
    status = scene.status
    if status is None:
        yield Check("daemon", "WARN", "not running: what follows is seen from here")
        return
    version = status.get("version")
    words = f"running, pid {status.get('pid')}, version {version}"
    if version != appliance.__version__:
        words += f"; this command is version {appliance.__version__}: restart the daemon"
        yield Check("daemon", "WARN", words)
        return
    found = [f"{t['part']}: {t['words']}" for t in status.get("troubles", ()) if not t["notice"]]
    yield Check("daemon", "WARN" if found else "ok", words + _name_some(found))


def check_rules(scene: Scene) -> Iterator[Check]:
    """Whether the rules load, and which do not."""
    rules = load_configured_rules(scene.config)
    refused = [f"{r.path}:{r.line}: {r.reason}" for r in rules.refused]
    words = f"{len(rules.infos)} loaded, {len(refused)} refused"
    yield Check("rules", "WARN" if refused else "ok", words + _name_some(refused))


def _name_some(names: list[str]) -> str:
    """The first few, behind a colon; nothing for none."""
    shown = "; ".join(names[:_MOST_NAMED])
    more = f"; {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f": {shown}{more}" if names else ""


def check_models(scene: Scene) -> Iterator[Check]:
    """The encoder's file and its answers, the knowledge base and its answers."""
    config = scene.config
    if not config.model:
        yield Check("encoder", "ok", "switched off by the configuration")
        return
    models, folder = find_models(config.models_dir), find_knowledge(config.knowledge_dir)
    if models is None:
        yield Check("encoder", "WARN", "none is built: run `appliance model build`")
        return
    path = models / "encoder" / "encoder.gguf"
    try:
        built = verify_built(path)
    except ModelError as error:
        yield Check("encoder", "FAIL", str(error))
        return
    yield Check("encoder", "ok", f"{path}: is what its manifest says, {built.sha256[:16]}")
    encoder = EncoderClient(path)
    try:
        encoder.start()
        yield _check_vector(encoder)
        if folder is None:
            yield Check("knowledge base", "WARN", "none is built: run `appliance kb build`")
        else:
            yield from _check_base(folder, encoder)
    finally:
        encoder.close()


def check_sentinel(scene: Scene) -> Iterator[Check]:
    """The sentinel's files, and whether it tells a known attack from an ordinary event."""
    parts = open_sentinel(scene.config, None)
    if parts.examiner is None or parts.clients is None or parts.model is None:
        words = {"switched off": "switched off by the configuration", "no model": "no model"}
        right = parts.why_not in words
        yield Check("sentinel", "ok" if right else "FAIL", words.get(parts.why_not, parts.why_not))
        return
    yield Check(
        "sentinel", "ok", f"{parts.model.name} is what its manifest says, {parts.model.sha256[:16]}"
    )
    try:
        parts.clients.start()
        yield _check_scores(parts.examiner)
    finally:
        parts.close()


def _check_scores(examiner: Examiner) -> Check:
    texts = [write_texts("process", fields)[0] for fields in (KNOWN_ATTACK, KNOWN_ORDINARY)]
    try:
        attack, ordinary = examiner.score(texts)
    except (ModelError, ModelUnavailable) as error:
        return Check("sentinel's answer", "FAIL", str(error))
    words = f"a known attack scores {attack:.3f}, an ordinary event {ordinary:.3f}"
    return Check("sentinel's answer", "ok" if attack > ordinary else "FAIL", words)


def _check_vector(encoder: EncoderClient) -> Check:
    try:
        one, other = encoder.embed(list(KNOWN_TEXTS))
    except (ModelError, ModelUnavailable) as error:
        return Check("encoder's answer", "FAIL", str(error))
    cosine = float(one @ other)
    right = abs(cosine - KNOWN_COSINE) <= COSINE_TOLERANCE
    words = f"two known texts have cosine {cosine:.3f}, expected {KNOWN_COSINE:.3f}"
    return Check("encoder's answer", "ok" if right else "FAIL", words)


def _check_base(folder: Path, encoder: EncoderClient) -> Iterator[Check]:
    try:
        base = KnowledgeBase.open(folder, encoder.model_hash)
        info = base.info()
        yield Check(
            "knowledge base",
            "ok",
            f"{folder}: is what its manifest says, {info.manifest.entries} entries, "
            f"{info.manifest.vectors} searchable",
        )
        found = search_text(base, encoder.embed, KNOWN_QUESTION, KNOWN_RANK)
    except (ModelError, ModelUnavailable) as error:
        yield Check("knowledge base", "FAIL", str(error))
        return
    right = any(result.external_id == KNOWN_ANSWER for result in found)
    words = f'"{KNOWN_QUESTION}" {"finds" if right else "does not find"} {KNOWN_ANSWER} among the '
    yield Check("knowledge search", "ok" if right else "FAIL", words + f"first {KNOWN_RANK}")


# -- store, clock, disk ----------------------------------------------------------------------------


def check_store(scene: Scene) -> Iterator[Check]:
    """Whether the database is sound, read-only."""
    path = scene.config.store_path
    if not path.is_file():
        state: State = "WARN" if scene.status is None else "FAIL"
        yield Check("store", state, f"{path}: none there: the appliance has never run")
        return
    facts = inspect_store(path)
    if facts.problems:
        yield Check("store", "FAIL", f"{path}: damaged" + _name_some(list(facts.problems)))
        return
    yield Check("store", *_judge_schema(facts))


def _judge_schema(facts: StoreFacts) -> tuple[State, str]:
    held = f"{facts.path}: sound, schema {facts.schema}, {facts.rows.get('findings', 0)} findings"
    if facts.schema > facts.known_schema:
        return "FAIL", f"{held}; this version knows up to schema {facts.known_schema}"
    if facts.schema < facts.known_schema:
        return "WARN", f"{held}; the next start brings it to schema {facts.known_schema}"
    return "ok", held


def check_audit(scene: Scene) -> Iterator[Check]:
    """Whether the audit log's chain is whole, and holds what the running daemon wrote last."""
    path = scene.config.store_path
    if not path.is_file():
        return
    with closing(Store(path, read_only=True)) as store:
        chain = store.verify_audit()
        told = (scene.status or {}).get("audit") or {}
        seen = Head(int(told.get("number", 0)), str(told.get("hash", BEGINNING)))
        missing = not store.audit_holds(seen)
    words = f"{chain.entries} entries, head {chain.head.number} {chain.head.hash}"
    faults = list(chain.faults)
    if missing:
        faults.append(f"entry {seen.number}, which the daemon wrote, is not there as it wrote it")
    if faults:
        yield Check("audit log", "FAIL", f"BROKEN{_name_some(faults)}; {words}")
    else:
        yield Check("audit log", "ok", f"its chain is whole: {words}")


def check_clock(scene: Scene) -> Iterator[Check]:
    """Whether the clock can be right, and whether anything keeps it so."""
    now = scene.now
    built = (Path(appliance.__file__)).stat().st_mtime
    if now < built:
        yield Check("clock", "FAIL", "it stands before the day on which this version was made")
    elif behind := _find_later(scene):
        yield Check("clock", *behind)
    else:
        yield Check("clock", "ok", "not before this version nor before the newest record")
    yield Check("clock's source", *_judge_synchronised(is_synchronised()))


def _find_later(scene: Scene) -> tuple[State, str] | None:
    """What was stored with a time that has not come yet."""
    path = scene.config.store_path
    if not path.is_file():
        return None
    try:
        with closing(Store(path, read_only=True)) as store:
            counts = store.counts()
    except StoreError:
        return None  # the store's own check says so
    received = _latest(counts, "last_received")
    if received > scene.now + RECEIVED_AHEAD:
        ahead = received - scene.now
        return "FAIL", f"it was set back: the newest record came in {ahead:.0f} s ahead of it"
    ahead = _latest(counts, "last_event") - scene.now
    if ahead > EVENT_AHEAD:
        return "WARN", f"a source's newest event is {ahead / 86400:.1f} days ahead of it"
    return None


def _latest(counts: Mapping[str, Mapping[str, float]], name: str) -> float:
    return max((values.get(name, 0.0) for values in counts.values()), default=0.0)


def is_synchronised() -> bool | None:
    """What the kernel says of its clock (adjtimex(2), which asks and sets nothing here); None when
    it does not say."""
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(
            ctypes.create_string_buffer(_TIMEX_BYTES)
        )
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else bool(answer != _TIME_ERROR)


def _judge_synchronised(synchronised: bool | None) -> tuple[State, str]:
    if synchronised is None:
        return "WARN", "the kernel does not say whether the clock is synchronised"
    if synchronised:
        return "ok", "the kernel says that the clock is synchronised"
    return "WARN", "the kernel says that the clock is not synchronised with any other"


def check_disk(scene: Scene) -> Iterator[Check]:
    """Room where the appliance writes."""
    folders = {"state": Path(scene.config.state_dir)}
    for sink in scene.config.sinks:
        if isinstance(sink, FileSink):
            folders[f"sink {sink.name}"] = Path(sink.path).parent
    for name, folder in folders.items():
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent  # noqa: PLW2901 - what is made at the start lies there
        yield Check(f"disk of {name}", *judge_room(folder, os.statvfs(folder)))


def judge_room(folder: Path, disk: os.statvfs_result) -> tuple[State, str]:
    """How much of the disk is free for the daemon."""
    free = disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0
    words = f"{folder}: {free:.0%} free, {disk.f_bavail * disk.f_frsize / 1e9:.1f} GB"
    if free < FAIL_FREE:
        return "FAIL", words
    return ("WARN" if free < WARN_FREE else "ok"), words


# -- rights ----------------------------------------------------------------------------------------


def check_rights(scene: Scene) -> Iterator[Check]:
    """Who else may read what the appliance knows, or change what it does."""
    config = scene.config
    state = Path(config.state_dir)
    if not state.is_dir():
        yield Check("rights", "WARN", f"{state}: not there yet: the daemon makes it at its start")
    else:
        mode = stat.S_IMODE(state.stat().st_mode)
        bad = bool(mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP))
        words = f"{state}: mode {mode:04o}"
        words += "; the store quotes logs: `chmod 0750` keeps others out" if bad else ""
        yield Check("rights of the state", "FAIL" if bad else "ok", words)
    control = config.control_path
    if control.exists():
        mode = stat.S_IMODE(control.stat().st_mode)
        bad = bool(mode & 0o077)
        words = f"{control}: mode {mode:04o}" + ("; nobody else has business there" if bad else "")
        yield Check("rights of the control socket", "FAIL" if bad else "ok", words)
    if scene.config_path:
        path = Path(scene.config_path)
        mode = stat.S_IMODE(path.stat().st_mode)
        bad = bool(mode & stat.S_IWOTH)
        words = f"{path}: mode {mode:04o}" + ("; anybody can change it" if bad else "")
        yield Check("rights of the configuration", "FAIL" if bad else "ok", words)


# -- sources ---------------------------------------------------------------------------------------


def check_sources(scene: Scene) -> Iterator[Check]:
    """Whether each source can be read: as the daemon says, else as it looks from here."""
    rows = {row["name"]: row for row in (scene.status or {}).get("sources", ())}
    for spec in scene.config.sources:
        what = f"source {spec.name}"
        if said := _find_trouble(scene.status, what):
            yield Check(what, "FAIL", said)
        elif spec.name in rows:
            yield Check(what, *_judge_source(rows[spec.name]))
        elif scene.status is not None:
            yield Check(what, "FAIL", "the running daemon does not know it: restart or reload it")
        elif isinstance(spec, FilesSource):
            yield Check(what, *_look_at_files(spec, find_user(scene.config)))
        else:
            yield Check(what, "ok", "not looked at: the daemon is not running")


def _find_trouble(status: Row | None, part: str) -> str:
    """What the daemon says is wrong with a part, or nothing."""
    troubles = (status or {}).get("troubles", ())
    return "; ".join(t["words"] for t in troubles if t["part"] == part and not t["notice"])


def _judge_source(row: Row) -> tuple[State, str]:
    seen = f"{row.get('seen', 0)} records seen"
    if row.get("error"):
        return "FAIL", f"{row['error']}; {seen}"
    if row.get("listening") is False:
        return "FAIL", f"it does not listen; {seen}"
    if row.get("unreadable_files"):
        return "FAIL", f"{row['unreadable_files']} files or folders can't be read; {seen}"
    if not row.get("seen"):
        return "WARN", "nothing has come yet"
    if row.get("rejected"):
        return "WARN", f"{seen}, {row['rejected']} rejected: see `appliance rejected`"
    return "ok", seen


def _look_at_files(spec: FilesSource, user: int) -> tuple[State, str]:
    found = [path for pattern in spec.paths for path in glob.glob(pattern, recursive=True)]
    closed = [path for path in found if not may_read(Path(path), user)]
    if closed:
        words = f"{len(closed)} of {len(found)} can't be read by {name_user(user)}"
        # Of another user only the modes are known: an access list may say otherwise.
        return ("FAIL" if user == os.geteuid() else "WARN"), words + _name_some(closed)
    if not found:
        return "WARN", "no file there yet"
    return "ok", f"{len(found)} files or folders can be read by {name_user(user)}"


def find_user(config: Config) -> int:
    """The user who runs the daemon: the owner of its state, else who asks."""
    try:
        return Path(config.state_dir).stat().st_uid
    except FileNotFoundError:
        return os.geteuid()


def name_user(user: int) -> str:
    """For an operator: "user adm" or "user 1000"."""
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"


def may_read(path: Path, user: int) -> bool:
    """Whether the user can read the file, or list the folder: for who asks as the kernel says, for
    another by the modes of the file and of all folders above it."""
    if user == os.geteuid():
        return os.access(path, os.R_OK, effective_ids=True)
    if user == 0:
        return True
    try:
        entry = pwd.getpwuid(user)
        groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    except KeyError:
        groups = set()
    real = path.resolve()
    return _allows(real.stat(), stat.S_IROTH, user, groups) and all(
        _allows(folder.stat(), stat.S_IXOTH, user, groups) for folder in real.parents
    )


def _allows(status: os.stat_result, right: int, user: int, groups: set[int]) -> bool:
    """Whether the mode gives the user this right (a bit of "others"); path_resolution(7): the
    first class that fits decides."""
    shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
    return bool(status.st_mode & (right << shift))


# -- nothing leaves --------------------------------------------------------------------------------


def check_reach(scene: Scene) -> Iterator[Check]:
    """Whether the daemon and its children hold any socket that the configuration does not name."""
    if scene.status is None:
        yield Check("nothing leaves", "ok", "not looked at: the daemon is not running")
        return
    try:
        opened = [
            found for pid in list_family(int(scene.status["pid"])) for found in list_sockets(pid)
        ]
    except OSError as error:
        words = f"can't be looked at ({error.strerror}): ask as root or as the daemon's user"
        yield Check("nothing leaves", "WARN", words)
        return
    strangers = find_strangers(opened, list_ways(scene.config))
    if strangers:
        named = _name_some([found.describe() for found in strangers])
        yield Check("nothing leaves", "FAIL", f"{len(strangers)} sockets not configured{named}")
    else:
        yield Check("nothing leaves", "ok", _count_sockets(opened))


def _count_sockets(opened: list[OpenSocket]) -> str:
    network = [found for found in opened if found.kind in ("tcp", "udp")]
    return (
        f"{len(opened)} sockets, {len(network)} of them to or from a network, "
        "each named by the configuration"
    )


def list_ways(config: Config) -> list[Allowed]:
    """Every way in and out that the configuration names."""
    ways = [Allowed("unix", listens=True, path=str(config.control_path))]
    for source in config.sources:
        if isinstance(source, SyslogSource):
            host, port = parse_address(source.address)
            kind = "udp" if source.transport == "udp" else "tcp"
            hosts = frozenset({write_host(host)})
            ways.append(Allowed(kind, listens=True, hosts=hosts, port=port))
    for sink in config.sinks:
        if not isinstance(sink, SyslogSink):
            continue
        if sink.transport == "unix":
            ways.append(Allowed("unix", path=sink.address))
            continue
        host, port = parse_address(sink.address)
        kind = "udp" if sink.transport == "udp" else "tcp"
        found = _resolve(sink.address)
        ways.append(Allowed(kind, hosts=found, port=port))
        if write_host(host) not in found:
            ways.extend(allow_lookups())
    return ways


def _resolve(address: str) -> frozenset[str]:
    """Numeric addresses; none (which stands for any, at that port) where the name is not known."""
    try:
        return frozenset(write_host(host) for host in look_up_address(address))
    except (OSError, UnicodeError):
        return frozenset()


def write_host(host: str) -> str:
    """A numeric address as the kernel's tables are read here: one spelling, without its zone. A
    name stays as it is."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return host


# -- sinks -----------------------------------------------------------------------------------------


def check_sinks(scene: Scene) -> Iterator[Check]:
    """Each sink as the daemon says; else what can be seen without sending."""
    rows = {row["name"]: row for row in (scene.status or {}).get("sinks", ())}
    for sink in scene.config.sinks:
        what = f"sink {sink.name}"
        row = rows.get(sink.name)
        if row is not None and "type" in row:
            failing = row.get("error")
            words = f"{row['delivered']} delivered, {row['waiting']} waiting, {row['lost']} lost"
            state: State = "FAIL" if failing else "WARN" if row["lost"] else "ok"
            yield Check(what, state, f"{failing}; {words}" if failing else words)
        elif scene.status is not None:
            yield Check(what, "FAIL", "the running daemon does not know it: restart or reload it")
        else:
            yield Check(what, *look_at_sink(sink))


def look_at_sink(sink: SyslogSink | FileSink) -> tuple[State, str]:
    """What can be known of a sink without sending anything."""
    if isinstance(sink, FileSink):
        path = Path(sink.path)
        place = path if path.exists() else path.parent
        if not os.access(place, os.W_OK, effective_ids=True):
            return "FAIL", f"{place}: may not be written to"
        return "ok", f"{place}: may be written to (nothing was written)"
    if sink.transport == "unix":
        if not Path(sink.address).is_socket():
            return "FAIL", f"{sink.address}: no socket there"
        return "ok", f"{sink.address}: is there (nothing was sent)"
    try:
        found = look_up_address(sink.address)
    except (OSError, UnicodeError) as error:
        return "FAIL", f"{sink.address}: {error}"
    return "ok", f"{sink.address}: is {', '.join(found[:_MOST_NAMED])} (nothing was sent)"


# -- the canary ------------------------------------------------------------------------------------


def check_canary(scene: Scene) -> Iterator[Check]:
    """One record through every stage: of the running daemon and to its sinks, or here."""
    if scene.status is None:
        yield Check("canary", *_fly_here(scene))
        return
    answer = ask_daemon(scene.config.control_path, {"ask": "canary"})
    key = (answer or {}).get("finding")
    if not isinstance(key, str):
        yield Check("canary", "FAIL", "the daemon answers with no finding")
        return
    began = scene.timer()
    if not _await(scene, lambda: _is_stored(scene.config, key)):
        yield Check("canary", "FAIL", f"not in the store after {CANARY_SECONDS:g} s: {key[:12]}")
        return
    took = scene.timer() - began
    yield Check("canary", "ok", f"finding {key[:12]} went through every stage in {took:.1f} s")
    names = [sink.name for sink in scene.config.sinks if "finding" in sink.kinds]
    for name, why in await_delivery(scene, key, names).items():
        words = why or "it was delivered"
        yield Check(f"canary at sink {name}", "FAIL" if why else "ok", words)


def _await(scene: Scene, enough: Callable[[], bool]) -> bool:
    """Whether it became true within CANARY_SECONDS."""
    until = scene.timer() + CANARY_SECONDS
    while not enough():
        if scene.timer() > until:
            return False
        scene.sleep(_POLL_SECONDS)
    return True


def _is_stored(config: Config, key: str) -> bool:
    with closing(Store(config.store_path, read_only=True)) as store:
        return key in store.known_findings([key])


def await_delivery(scene: Scene, key: str, names: list[str]) -> dict[str, str]:
    """Ask the daemon until each of the sinks has the message, for CANARY_SECONDS at the most; by
    sink, why it has not (empty when it has). Raises ApplianceError."""
    done: dict[str, str] = dict.fromkeys(names, "the daemon does not say")

    def look() -> bool:
        answer = ask_daemon(scene.config.control_path, {"ask": "delivered", "id": key})
        sinks = (answer or {}).get("sinks")
        told: Mapping[str, Any] = sinks if isinstance(sinks, dict) else {}
        for name in names:
            if name in told:
                done[name] = "" if told[name] is True else "not delivered"
        return not any(done.values())

    if names and not _await(scene, look):
        for name, error in _ask_sink_errors(scene.config).items():
            if done.get(name):
                done[name] = (
                    f"not delivered after {CANARY_SECONDS:g} s: {error or 'no reason given'}"
                )
    return done


def _ask_sink_errors(config: Config) -> dict[str, str]:
    """By sink, what the daemon says is wrong with it now."""
    status = ask_daemon(config.control_path, {"ask": "status"}) or {}
    return {row["name"]: str(row.get("error") or "") for row in status.get("sinks", ())}


def _fly_here(scene: Scene) -> tuple[State, str]:
    """The canary through the same stages in this process, with a store of its own."""
    config = scene.config
    with (
        tempfile.TemporaryDirectory(prefix="appliance-selftest-") as folder,
        closing(Store(Path(folder) / "store.db", durable=False)) as store,
    ):
        key, verdict = _fly(config, store, scene.now)
        stored = store.findings_by_ids([key]) if key else {}
    if not stored:
        return "FAIL", "a record went in and no finding came out"
    return "ok", (
        f"went through every stage in this process, verdict {verdict}; the daemon is not running, "
        "so sinks were only looked at"
    )


def _fly(config: Config, store: Store, now: float) -> tuple[str, str]:
    """Put the canary through decode to store; the finding's id (empty: none) and verdict."""
    rules = load_rules([own_rules()], feeds=lambda _: None)  # fed by the canary alone
    if not rules.rules:
        raise RuleError(f"{own_rules()}: no rule loads")
    experts = open_experts(config)
    detectors = build_detectors(rules)
    judge = build_judge(experts, {}, config)
    line = Line(
        rules=index_rules(detectors),
        judge=judge,
        correlator=Correlator(correlation_limits(config)),
        known=store.known_findings,
        sinks=False,
    )
    if experts.encoder is not None:
        experts.encoder.start()
    try:
        if isinstance(judge, Bench):
            judge.start({})
        batch = process([_hatch(now)], build_reader(config, detectors), line)
        store.write_batch(batch)
        if isinstance(judge, Bench):
            judge.wait_idle(CANARY_SECONDS)
            base = experts.base.hash if experts.base else None
            apply_answers(judge.take_answers(), base, store, now, sinks=False)
    finally:
        if isinstance(judge, Bench):
            judge.close()
        experts.close()
    if batch.rejected:
        raise ApplianceError(f"the canary is rejected: {batch.rejected[0].reason}")
    key = batch.findings[0].id if batch.findings else ""
    found = store.findings_by_ids([key]) if key else {}
    return key, str(found[key]["verdict"]) if key in found else "none"


def _hatch(now: float) -> SourceBatch:
    """The canary as a batch of its own."""
    token = digest("canary", str(now))
    cursor = Cursor(OWN_SOURCE, "canary", 0, 1)
    data = msgspec.json.encode({"canary": token})
    record = RawRecord(data, OWN_SOURCE, "selftest", f"canary {token}", cursor, now, "json")
    return SourceBatch([record], [], [])


#: Every check, in the order in which they are made.
CHECKS: Final[dict[str, Callable[[Scene], Iterator[Check]]]] = {
    "configuration": check_configuration,
    "daemon": check_daemon,
    "rules": check_rules,
    "models": check_models,
    "sentinel": check_sentinel,
    "store": check_store,
    "audit log": check_audit,
    "clock": check_clock,
    "disk": check_disk,
    "rights": check_rights,
    "sources": check_sources,
    "nothing leaves": check_reach,
    "sinks": check_sinks,
    "canary": check_canary,
}
