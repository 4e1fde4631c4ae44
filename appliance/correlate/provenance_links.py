"""Beside the line, when somebody asks where an incident came from: over the breaks of the tree.

Windows starts much by its own servants: a service by services.exe, a task by svchost.exe, a WMI
call by wmiprvse.exe, a remote shell by wsmprovhost.exe. Who really caused such a process is told by
other events, and a `Link` says by which: service installed with that command line, task registered
with it, logon session of the process and the address it was opened from, connection from that
address and port, credentials used for that server, file written and then run, thread injected.

A link is strong where an identifier that both sides recorded joins them (logon id, port, path,
command line); strong ones are followed forwards, too. The others, by time and name, are only
followed backwards from a finding.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from appliance.correlate.provenance_hosts import HostMap, is_plain_address
from appliance.correlate.provenance_notes import Note, Timeline
from appliance.correlate.provenance_processes import (
    LATE_S,
    Process,
    ProcessTable,
    word_logon,
)
from appliance.correlate.provenance_rules import ORDINARY_HOSTS
from appliance.correlate.provenance_text import (
    MAX_COMPARED,
    MAX_LABEL,
    clean_text,
    make_id,
    name_image,
    read_pid,
    read_text,
)
from appliance.incident import NodeKind
from appliance.schema import Fields

#: How long before its effect a cause without a common identifier may lie, in seconds.
SOON_S: Final = 60.0
VERY_SOON_S: Final = 10.0
#: How long a client may have run before the logon that it made, in seconds.
CLIENT_S: Final = 120.0
#: Most tops that are looked at, and most services or tasks of a host.
MAX_TOPS: Final = 20_000
MAX_RECIPES: Final = 128
#: Most records of one installation; most logons among which one may be the cause; most searches
#: through command lines and scripts.
MAX_TOLD: Final = 8
MAX_LOGONS: Final = 32
MAX_SEARCHES: Final = 500
#: Most comparisons of a process with what services and tasks run.
MAX_COMPARISONS: Final = 200_000
#: How far into a command line paths are looked for, in characters.
MAX_PATHS: Final = 2_048
_REMOTE_PORTS: Final = frozenset({22, 135, 139, 445, 3389, 5985, 5986})
_TASK_PARENTS: Final = frozenset({"svchost.exe", "taskeng.exe", "taskhostw.exe", "taskhost.exe"})
_WMI_PARENTS: Final = frozenset({"wmiprvse.exe", "scrcons.exe"})
_WMI_WORDS: Final = ("wmic", "win32_process", "wmimethod", "cimmethod", "wmiclass")
_SERVICE_KEY: Final = re.compile(r".*\\services\\([^\\]{1,256})\\imagepath", re.IGNORECASE)
_COMMAND: Final = re.compile(r"<Command>([^<]{1,4096})</Command>", re.IGNORECASE)
_ARGUMENTS: Final = re.compile(r"<Arguments>([^<]{1,8192})</Arguments>", re.IGNORECASE)
_PATH: Final = re.compile(r"[A-Za-z]:\\[^\s\"'|<>*?,;]{3,256}|/[^\s\"'|<>*?,;:]{3,256}")
_ENTITIES: Final = (
    ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"),
)  # fmt: skip
_VARIABLES: Final = (
    ("%comspec%", "c:\\windows\\system32\\cmd.exe"),
    ("%systemroot%", "c:\\windows"),
    ("%windir%", "c:\\windows"),
    ("\\systemroot\\", "c:\\windows\\"),
    ("\\??\\", ""),
    ("%programdata%", "c:\\programdata"),
)


class Thing(msgspec.Struct, frozen=True):
    """A node that is no process."""

    kind: NodeKind
    id: str
    label: str
    host: str
    facts: tuple[tuple[str, str], ...] = ()


#: An end of an edge.
Ref = Process | Thing


class Hop(msgspec.Struct, frozen=True):
    """One edge: `source` did `verb` to `target`, told by the notes."""

    source: Ref
    target: Ref
    verb: str
    notes: tuple[Note, ...]


class Link(msgspec.Struct, frozen=True):
    """`cause` led to `effect` by the hops; without a cause what is known of it: `host` and `user`
    it came from. `how` are the words of the break."""

    effect: Process
    cause: Process | None
    hops: tuple[Hop, ...]
    strong: bool
    how: str
    host: str = ""
    user: str = ""


class Origin(msgspec.Struct, frozen=True):
    """Where a logon session came from."""

    session: Thing
    cause: Process | None
    hops: tuple[Hop, ...]
    host: str
    strong: bool
    user: str


class _Recipe(msgspec.Struct, frozen=True):
    """A service, task or subscription: what it runs, and by which notes that is known."""

    thing: Thing
    name: str
    time: float
    logon: str
    notes: tuple[Note, ...]
    #: The command as it is compared.
    folded: str


class Linker:
    """Finds the links among the processes of a table, by the notes."""

    def __init__(
        self,
        table: ProcessTable,
        notes: Sequence[Note],
        hosts: HostMap,
        found: Collection[str],
    ) -> None:
        self.table = table
        self.found = found
        self.hosts = hosts
        self.searches = 0
        self.comparisons = 0
        self.logons: dict[tuple[str, str], Note] = {}
        self.remote_logons: dict[str, Timeline[Note]] = defaultdict(Timeline)
        self.connects: dict[tuple[str, str], Note] = {}
        self.outward: dict[str, Timeline[Note]] = defaultdict(Timeline)
        self.explicit: dict[str, Timeline[Note]] = defaultdict(Timeline)
        self.scripts: dict[str, Timeline[Note]] = defaultdict(Timeline)
        self.files: dict[tuple[str, str], Timeline[Note]] = defaultdict(Timeline)
        self.flows: dict[tuple[str, str], list[Note]] = defaultdict(list)
        self.recipes: dict[tuple[str, str], list[_Recipe]] = defaultdict(list)
        self.runs: dict[tuple[str, int], Note] = {}
        self.threads: list[Note] = []
        self.shares: dict[tuple[str, str], list[Note]] = defaultdict(list)
        self.by_host: dict[str, Timeline[Process]] = defaultdict(Timeline)
        self._origins: dict[tuple[str, str], Origin | None] = {}
        for process in table.all:
            if process.recorded and process.command and not process.is_system:
                self.by_host[process.host].add(process.begin, process)
        for note in notes:
            self._index(note)
        self._merge_recipes()

    # Indexes --------------------------------------------------------------------------------

    def _index(self, note: Note) -> None:
        fields = note.fields
        match note.kind:
            case "logon":
                self._index_logon(note)
            case "connect":
                self._index_connection(note)
            case "explicit":
                self.explicit[note.host].add(note.time, note)
            case "script":
                self.scripts[note.host].add(note.time, note)
            case "file" if path := read_text(fields, "TargetFilename"):
                self.files[note.host, _fold_path(path)].add(note.time, note)
            case "flow":
                ends = (read_text(fields, "src_ip"), read_text(fields, "dst_ip"))
                if set(ends) <= self.hosts.owned:
                    self.flows[ends].append(note)
            case "thread":
                self.threads.append(note)
            case "share" if name := name_image(read_text(fields, "RelativeTargetName")):
                self.shares[note.host, name].append(note)
            case "run" if pid := read_pid(fields, "ProcessID", "ProcessId"):
                self.runs[note.host, pid] = note
            case _:
                if recipe := _read_recipe(note):
                    self.recipes[note.host, recipe.thing.kind].append(recipe)

    def _index_logon(self, note: Note) -> None:
        fields = note.fields
        logon = word_logon(fields.get("TargetLogonId", fields.get("ses")))
        if logon:
            self.logons.setdefault((note.host, logon), note)
        if _list_source(note)[0]:
            self.remote_logons[note.host].add(note.time, note)
            if pid := read_pid(fields, "pid"):
                # sshd's own process, where audit or syslog tell it.
                self.logons.setdefault((note.host, f"pid:{pid}"), note)

    def _index_connection(self, note: Note) -> None:
        fields = note.fields
        if str(fields.get("Initiated", "true")).lower() == "false":
            return
        self.outward[note.host].add(note.time, note)
        address, port = read_text(fields, "SourceIp"), str(fields.get("SourcePort", ""))
        if address and port:
            self.connects.setdefault((address, port), note)

    def _merge_recipes(self) -> None:
        """4697 and 7045 of one installation are one: the first, with the notes of all and the
        logon of any."""
        for key, recipes in self.recipes.items():
            merged: dict[tuple[str, str], _Recipe] = {}
            for recipe in recipes:
                mark = (recipe.name.lower(), recipe.folded)
                known = merged.get(mark)
                if known is None or recipe.time - known.time > SOON_S:
                    merged[mark] = recipe
                    continue
                notes = (*known.notes, *recipe.notes)[:MAX_TOLD]
                logon = known.logon or recipe.logon
                merged[mark] = msgspec.structs.replace(known, logon=logon, notes=notes)
            self.recipes[key] = list(merged.values())[-MAX_RECIPES:]

    # Links ----------------------------------------------------------------------------------

    def trace_logon(self, note: Note) -> tuple[Hop, ...]:
        """Where the logon that the note tells of came from; empty for one of the host itself."""
        origin = self._trace_logon(note)
        return () if origin is None else origin.hops

    def list_links(self) -> list[Link]:
        """Every link between processes, in order of the effect."""
        links: list[Link] = []
        tops = [
            process
            for process in self.table.all
            if process.recorded
            and not process.is_system
            and (process.parent is None or process.parent.is_system)
        ]
        # What a finding is on comes first, so that no flood uses up what may be spent.
        tops.sort(key=lambda top: not self._has_finding(top))
        for top in tops[:MAX_TOPS]:
            links.extend(self._link_top(top))
        for process in self.table.all:
            if process.recorded and not process.is_system:
                links.extend(self._link_files(process))
        links.extend(self._link_threads())
        return links

    def _has_finding(self, process: Process) -> bool:
        return any(note.event in self.found for note in (*process.notes, *process.acts))

    def _link_top(self, top: Process) -> Iterator[Link]:
        parent = top.parent.name if top.parent is not None else name_image(top.parent_image)
        found = False
        for link in self._link_recipes(top, parent):
            found = True
            yield link
        for told in (self._link_session(top), self._link_explicit(top)):
            if told is not None:
                found = True
                yield told
        if not found and (worded := self._link_by_words(top, parent)):
            yield worded

    def _link_recipes(self, top: Process, parent: str) -> Iterator[Link]:
        kinds: tuple[NodeKind, ...]
        if parent == "services.exe":
            kinds = ("service",)
        elif parent in _TASK_PARENTS or parent in _WMI_PARENTS or top.name == "scrcons.exe":
            kinds = ("task",)
        elif top.parent is None:
            kinds = ("service", "task")
        else:
            return
        run = self.runs.get((top.host, top.pid or 0))
        command = _fold_command(top.command)
        for kind in kinds:
            recipes = self.recipes.get((top.host, kind), ())
            self.comparisons += len(recipes)
            if self.comparisons > MAX_COMPARISONS:
                return
            fitting = [
                recipe
                for recipe in recipes
                if recipe.time <= top.begin + LATE_S and _is_run_by(recipe, top, command, run)
            ]
            if fitting:
                yield self._link_recipe(top, fitting[-1])
                return

    def _link_recipe(self, top: Process, recipe: _Recipe) -> Link:
        started = Hop(recipe.thing, top, "started", (*recipe.notes[:4], *top.notes[:2]))
        word = "registered" if recipe.thing.kind == "task" else "installed"
        how = f"the {recipe.thing.label} that was {word} with its command line"
        installer, strong = self._find_installer(recipe)
        if installer is not None:
            made = Hop(installer, recipe.thing, word, (*recipe.notes[:4], *installer.notes[:1]))
            return Link(top, installer, (made, started), strong, how)
        origin = self._trace_session(top.host, recipe.logon) if recipe.logon else None
        if origin is None and not recipe.logon:
            origin = self._find_recent_logon(top.host, recipe.time)
        if origin is not None:
            made = Hop(origin.session, recipe.thing, word, recipe.notes[:4])
            hops = (*origin.hops, made, started)
            return _make_link(top, origin, hops, how)
        return Link(top, None, (started,), True, how)

    def _find_installer(self, recipe: _Recipe) -> tuple[Process | None, bool]:
        """The process of the same host that made the service or task: its client where the event
        names it, else one that named it on its command line or in a script."""
        for note in recipe.notes:
            actor = self.table.actors.get(note.event)
            if actor is not None and not actor.is_system:
                return actor, True
        name = recipe.name.rpartition("\\")[2].lower()
        if len(name) < 3:
            return None, False
        host = recipe.thing.host
        if process := self._find_by_word(host, (name,), recipe.time - SOON_S, recipe.time + LATE_S):
            return process, True
        return self._find_by_script(host, (name,), recipe.time), True

    def _find_by_word(
        self, host: str, words: Iterable[str], since: float, until: float
    ) -> Process | None:
        """The last process of the host, started within that time, with a word on its command line.
        One that was started by another with the same word is left for that."""
        self.searches += 1
        if self.searches > MAX_SEARCHES:
            return None
        for process in reversed(self.by_host[host].list_between(since, until)):
            command = process.command[:MAX_COMPARED].lower()
            if any(_has_word(command, word) for word in words):
                return process
        return None

    def _find_by_script(self, host: str, words: Sequence[str], time: float) -> Process | None:
        self.searches += 1
        if self.searches > MAX_SEARCHES:
            return None
        for note in reversed(self.scripts[host].list_between(time - SOON_S, time + 5)):
            actor = self.table.actors.get(note.event)
            text = read_text(note.fields, "ScriptBlockText", "Payload")[:65536].lower()
            if actor is not None and any(_has_word(text, word) for word in words):
                return actor
        return None

    # Sessions -------------------------------------------------------------------------------

    def _link_session(self, top: Process) -> Link | None:
        """By the logon session that it runs in, or the sshd that it came from."""
        origin = self._trace_session(top.host, word_logon(top.logon))
        above = top.parent
        for _ in range(4):
            if origin is not None or above is None or not above.name.startswith("sshd"):
                break
            origin = self._trace_session(top.host, f"pid:{above.pid}")
            above = above.parent
        if origin is None:
            return None
        notes = (*origin.hops[-1].notes[:2], *top.notes[:2])
        started = Hop(origin.session, top, "started", notes)
        how = f"the {origin.session.label} that it runs in"
        return _make_link(top, origin, (*origin.hops, started), how)

    def _find_recent_logon(self, host: str, time: float) -> Origin | None:
        """The one remote account that logged on right before; None where there are several."""
        near = [
            note
            for note in self.remote_logons[host].list_between(time - VERY_SOON_S, time + 2)
            if not _is_machine(note.fields)
        ]
        if len(near) > MAX_LOGONS:
            return None
        origins = {
            origin.host or origin.session.id: origin
            for note in near
            if (origin := self._trace_logon(note)) is not None
        }
        if len(origins) != 1:
            return None
        return msgspec.structs.replace(next(iter(origins.values())), strong=False)

    def _trace_session(self, host: str, logon: str) -> Origin | None:
        key = (host, logon)
        if key not in self._origins:
            note = self.logons.get(key)
            self._origins[key] = None if note is None else self._trace_logon(note)
        return self._origins[key]

    def _trace_logon(self, note: Note) -> Origin | None:
        fields = note.fields
        address, port = _list_source(note)
        source = self.hosts.find_owner(address)
        if not source and not address:
            named = read_text(fields, "WorkstationName").partition(".")[0].lower()
            source = named if named in self.hosts.names else ""
        user = read_text(fields, "TargetUserName", "user")
        session = _make_session(note, user)
        if source == note.host or _is_local(note, address):
            return None
        cause: Process | None = None
        told: tuple[Note, ...] = ()
        sources = [source] if source else [] if address else sorted(self.hosts.names - {note.host})
        for name in sources:
            cause, told = self._find_client(note, name, address, port)
            if cause is not None:
                source = name
                break
        if not source and not address:
            return None
        did = "failed to log on" if note.kind == "failed" else "logged on"
        verb = f"{did} as {clean_text(user, 64)}" if user else did
        flows = self._find_flows(source, note, address)
        start: Ref
        if cause is not None:
            start = cause
        elif source:
            start = make_host_thing(source)
        else:
            start = make_address_thing(address)
        hop = Hop(start, session, verb, (note, *told, *flows))
        # Without an address it is the time and the name that tell which host it was.
        sure = bool(address) or any(client.kind == "explicit" for client in told)
        return Origin(session, cause, (hop,), source, sure, user.lower())

    def _find_client(
        self, logon: Note, source: str, address: str, port: str
    ) -> tuple[Process | None, tuple[Note, ...]]:
        """The process on the other host that logged on, and what tells so, the surest first."""
        names = self.hosts.list_names(logon.host)
        for note in self._list_client_notes(logon, source, names, address, port):
            actor = self.table.actors.get(note.event)
            if actor is not None and actor.host == source and not actor.is_system:
                return actor, (note,)
        if not address and _is_machine(logon.fields):
            return None, ()
        since, until = logon.time - CLIENT_S, logon.time + LATE_S
        user = read_text(logon.fields, "TargetUserName", "user").lower()
        process = self._find_by_word(source, names, since, until)
        if process is not None and _is_client(process, user):
            return process, tuple(process.notes[:1])
        return self._find_by_script(source, sorted(names), logon.time), ()

    def _list_client_notes(
        self, logon: Note, source: str, names: set[str], address: str, port: str
    ) -> Iterator[Note]:
        """The connection from the logon's own address and port; credentials used for the host;
        connections to it at that time."""
        if port and (note := self.connects.get((address, port))):
            yield note
        for note in self.explicit[source].list_around(logon.time, SOON_S):
            target = read_text(note.fields, "TargetServerName").lower()
            if target in names or target.partition(".")[0] in names:
                yield note
        for note in self.outward[source].list_around(logon.time, VERY_SOON_S):
            if read_text(note.fields, "DestinationIp") in names and _is_remote_port(
                note.fields.get("DestinationPort")
            ):
                yield note

    def _find_flows(self, source: str, note: Note, address: str) -> tuple[Note, ...]:
        flows = [
            flow
            for own in sorted(self.hosts.list_names(note.host))
            for flow in self.flows.get((address, own), ())
            if abs(flow.time - note.time) <= VERY_SOON_S
        ]
        return tuple(flows[:2]) if source else ()

    # Others ---------------------------------------------------------------------------------

    def _link_explicit(self, top: Process) -> Link | None:
        """Credentials that a process of this host used (4648), and what then ran as that user."""
        user = top.user.rpartition("\\")[2].lower()
        if not user:
            return None
        for note in self.explicit[top.host].list_between(top.begin - VERY_SOON_S, top.begin + 2):
            actor = self.table.actors.get(note.event)
            target = read_text(note.fields, "TargetServerName").lower()
            if (
                actor is not None
                and not actor.is_system
                and actor is not top
                and read_text(note.fields, "TargetUserName").lower() == user
                and (target == "localhost" or target in self.hosts.list_names(top.host))
            ):
                hop = Hop(actor, top, f"ran as {clean_text(user, 64)}", (note, *top.notes[:2]))
                return Link(top, actor, (hop,), True, "the credentials that it used for that user")
        return None

    def _link_by_words(self, top: Process, parent: str) -> Link | None:
        """A task or WMI call that only the command line of its maker tells."""
        word = top.name.removesuffix(".exe")
        # Where installations are recorded, a service without one was there before.
        unrecorded = parent == "services.exe" and not self.recipes.get((top.host, "service"))
        if unrecorded and (origin := self._find_recent_logon(top.host, top.begin)):
            hop = Hop(origin.session, top, "started", (*origin.hops[-1].notes[:2], *top.notes[:2]))
            how = f"the {origin.session.label} right before"
            return _make_link(top, origin, (*origin.hops, hop), how)
        if len(word) < 3 or parent not in _TASK_PARENTS | _WMI_PARENTS:
            return None
        self.searches += 1
        if self.searches > MAX_SEARCHES:
            return None
        is_wmi = parent in _WMI_PARENTS
        since = top.begin - (LATE_S if is_wmi else 86_400.0)
        for process in reversed(self.by_host[top.host].list_between(since, top.begin)):
            command = process.command[:MAX_COMPARED].lower()
            called = (
                any(name in command for name in _WMI_WORDS)
                if is_wmi
                else "schtasks" in command and "create" in command
            )
            if process is not top and called and _has_word(command, word):
                verb = "called by WMI" if is_wmi else "scheduled"
                hop = Hop(process, top, verb, (*process.notes[:1], *top.notes[:2]))
                return Link(top, process, (hop,), True, f"the command line that {verb} it")
        if is_wmi and (origin := self._find_recent_logon(top.host, top.begin)):
            hop = Hop(origin.session, top, "started", (*origin.hops[-1].notes[:2], *top.notes[:2]))
            how = f"the {origin.session.label} right before"
            return _make_link(top, origin, (*origin.hops, hop), how)
        return None

    def _link_files(self, process: Process) -> Iterator[Link]:
        """Files that something else wrote and that this is, or has on its command line."""
        paths = [process.image, *_PATH.findall(process.command[:MAX_PATHS])[:16]]
        seen: set[str] = set()
        for path in paths:
            folded = _fold_path(path)
            if folded in seen or not folded:
                continue
            seen.add(folded)
            written = self.files.get((process.host, folded))
            last = written and written.find_last(process.begin + 1)
            if last and (link := self._link_file(process, path, last)):
                yield link

    def _link_file(self, process: Process, path: str, note: Note) -> Link | None:
        writer = self.table.actors.get(note.event)
        thing = make_file_thing(process.host, path)
        ran = Hop(thing, process, "was run as", tuple(process.notes[:2]))
        if writer is process or writer is None:
            return None
        if not writer.is_system:
            wrote = Hop(writer, thing, "wrote", (note,))
            return Link(process, writer, (wrote, ran), True, "the file that it wrote")
        if writer.name != "system":
            return None
        # The system writes what comes over the network: whose share access was it?
        for share in self.shares.get((process.host, name_image(path)), ())[:MAX_RECIPES]:
            logon = word_logon(share.fields.get("SubjectLogonId"))
            if abs(share.time - note.time) <= SOON_S and (
                origin := self._trace_session(process.host, logon)
            ):
                wrote = Hop(origin.session, thing, "copied", (share, note))
                hops = (*origin.hops, wrote, ran)
                return _make_link(process, origin, hops, "the file copied here")
        return None

    def _link_threads(self) -> Iterator[Link]:
        for note in self.threads:
            actor = self.table.actors.get(note.event)
            target = self.table.find_target(note)
            if actor is None or target is None or actor is target or actor.is_system:
                continue
            hop = Hop(actor, target, "injected a thread into", (note,))
            yield Link(target, actor, (hop,), True, "the thread that it injected")


# Reading --------------------------------------------------------------------------------------


def _make_link(effect: Process, origin: Origin, hops: tuple[Hop, ...], how: str) -> Link:
    return Link(effect, origin.cause, hops, origin.strong, how, origin.host, origin.user)


def _list_source(note: Note) -> tuple[str, str]:
    """Address and port that a logon came from; "" for none or this host itself."""
    fields = note.fields
    address = read_text(fields, "IpAddress", "src_ip").removeprefix("::ffff:").lower()
    if not is_plain_address(address):
        return "", ""
    port = str(fields.get("IpPort", fields.get("src_port", "")))
    return address, "" if port in ("0", "-") else port


def _is_client(process: Process, user: str) -> bool:
    """True where a process with a host on its command line may have logged on there as the user:
    it runs as that user or names the account, and is not a program that opens people's files."""
    if process.name in ORDINARY_HOSTS:
        return False
    own = process.user.rpartition("\\")[2].lower()
    return not user or own == user or _has_word(process.command[:MAX_COMPARED].lower(), user)


def _is_local(note: Note, address: str) -> bool:
    """True for a logon of the host itself: only a network logon is another's without an address,
    and a loopback address is none."""
    fields = note.fields
    told = read_text(fields, "IpAddress", "src_ip")
    return not address and (bool(told) or str(fields.get("LogonType", "")) != "3")


def _is_machine(fields: Fields) -> bool:
    return read_text(fields, "TargetUserName").endswith("$")


def _is_remote_port(value: object) -> bool:
    number = int(value) if str(value).isdecimal() and len(str(value)) <= 5 else 0  # type: ignore[call-overload]
    return number in _REMOTE_PORTS or number >= 49_152


def _make_session(note: Note, user: str) -> Thing:
    fields = note.fields
    logon = word_logon(fields.get("TargetLogonId", fields.get("ses", fields.get("pid"))))
    address, _ = _list_source(note)
    kind = {"3": "network", "10": "remote desktop", "2": "interactive", "9": "new credentials"}
    other = "ssh" if "ses" in fields or fields.get("program") == "sshd" else "remote"
    word = kind.get(str(fields.get("LogonType", "")), other)
    if note.kind == "failed":
        word = f"failed {word}"
    label = f"{word} logon of {user or 'somebody'}" + (f" from {address}" if address else "")
    facts = tuple(
        (name, clean_text(str(fields[name])))
        for name in ("LogonType", "TargetLogonId", "ses", "IpAddress", "src_ip", "WorkstationName")
        if fields.get(name) is not None
    )
    identity = make_id("session", note.host, logon or note.event)
    return Thing("session", identity, clean_text(label, MAX_LABEL), note.host, facts)


def make_host_thing(host: str) -> Thing:
    """A host as a node."""
    label = clean_text(host, MAX_LABEL) or "an unnamed host"
    return Thing("host", make_id("host", host), label, host)


def make_address_thing(address: str) -> Thing:
    """An address that is no known host's, as a node."""
    return Thing("address", make_id("address", "", address), clean_text(address, MAX_LABEL), "")


def make_file_thing(host: str, path: str) -> Thing:
    """A file of a host as a node."""
    identity = make_id("file", host, _fold_path(path))
    return Thing("file", identity, clean_text(path, MAX_LABEL), host)


def _read_recipe(note: Note) -> _Recipe | None:
    """What a service, task or subscription runs, from the event that made it."""
    fields = note.fields
    kind: NodeKind = "task"
    if note.kind == "service":
        kind, name = "service", read_text(fields, "ServiceName")
        command = read_text(fields, "ImagePath", "ServiceFileName")
        word = "service"
    elif note.kind == "registry":
        match = _SERVICE_KEY.fullmatch(read_text(fields, "TargetObject")[:1024])
        if match is None:
            return None
        kind, name, word = "service", match[1], "service"
        command = read_text(fields, "Details")
    elif note.kind == "task":
        name, word = read_text(fields, "TaskName"), "scheduled task"
        command = _read_task(read_text(fields, "TaskContent", "TaskContentNew"))
    elif note.kind == "wmi":
        name = read_text(fields, "Name", "Consumer") or "without a name"
        word = "WMI subscription"
        command = read_text(fields, "Destination")
    else:
        return None
    if not name:
        return None
    thing = Thing(
        kind,
        make_id(kind, note.host, name.lower()),
        clean_text(f"{word} {name}", MAX_LABEL),
        note.host,
        (("Name", clean_text(name)), ("Command", clean_text(command))),
    )
    logon = word_logon(fields.get("SubjectLogonId"))
    logon = "" if logon == "0x3e7" else logon
    return _Recipe(thing, name, note.time, logon, (note,), _fold_command(command))


def _read_task(content: str) -> str:
    """Command and arguments of a task's XML ([MS-TSCH] section 2.5), escaped or not."""
    text = content[:65536]
    if "<" not in text:
        text = text.replace("&lt;", "<").replace("&gt;", ">")
    command, arguments = _COMMAND.search(text), _ARGUMENTS.search(text)
    joined = f"{command[1] if command else ''} {arguments[1] if arguments else ''}".strip()
    for escaped, plain in _ENTITIES:
        joined = joined.replace(escaped, plain)
    return joined


def _fold_path(path: str) -> str:
    path = path[:MAX_COMPARED].strip().strip('"')
    return path.lower() if "\\" in path else path


def _fold_command(command: str) -> str:
    """A command line as it is compared: lower case, variables filled in, without quotes."""
    text = command[:MAX_COMPARED].lower().replace('"', "")
    for variable, value in _VARIABLES:
        text = text.replace(variable, value)
    return " ".join(text.split())


def _is_run_by(recipe: _Recipe, process: Process, command: str, run: Note | None) -> bool:
    """True where the process is what the service, task or subscription runs."""
    if run is not None and read_text(run.fields, "TaskName").lower() == recipe.name.lower():
        return abs(run.time - process.begin) <= SOON_S
    if process.name == "scrcons.exe":
        return recipe.thing.label.startswith("WMI")
    wanted = recipe.folded
    if not wanted:
        return False
    if wanted == command or (len(wanted) > 8 and (wanted in command or command in wanted)):
        return bool(command)
    program, _, arguments = wanted.partition(" ")
    same = program.rpartition("\\")[2].removesuffix(".exe") == process.name.removesuffix(".exe")
    return same and (arguments in command if arguments else "\\" not in program or not command)


def _has_word(text: str, word: str) -> bool:
    """True where the word stands in the text with no letter or digit beside it."""
    at = text.find(word)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(word) : at + len(word) + 1]
        if not before.isalnum() and not after.isalnum():
            return True
        at = text.find(word, at + 1)
    return False
