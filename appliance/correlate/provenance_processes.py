"""Beside the line, when somebody asks where an incident came from: which process is which.

A process is known by its GUID where there is one, else by host, process id and start. What only has
a process id means the last process with that id that had started by then and not ended, so that an
id used again is another process. A start that Sysmon and the Security log (or two others) both
recorded is one process. One that acted, or started something, without its own start being
recorded stands here as well, marked as recorded by nobody.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from appliance.correlate.provenance_notes import Note
from appliance.correlate.provenance_rules import is_system_image
from appliance.correlate.provenance_text import (
    make_id,
    name_image,
    read_guid,
    read_guid_time,
    read_pid,
    read_text,
)
from appliance.schema import Fields

#: How far two records of one start may lie apart, in seconds: collectors stamp late. With the same
#: process id and image, and, for the larger, the same command line.
SAME_START_S: Final = 30.0
SAME_COMMAND_S: Final = 180.0
#: Time zones differ by this at least, and by this at most, in seconds.
ZONE_STEP_S: Final = 900.0
MAX_ZONE_S: Final = 93_600.0
#: Most processes with one id that are looked at, before and after a time.
MAX_SAME_ID: Final = 32
#: How far behind its effect a cause may be recorded, in seconds.
LATE_S: Final = 15.0
#: On Linux a process may become another program; one id used again that fast by the same parent
#: is the same process.
EXECUTES_AGAIN_S: Final = 600.0
SCRIPT_HOSTS: Final = frozenset({"powershell.exe", "pwsh.exe", "wsmprovhost.exe"})
#: Deepest way up that is walked to tell what a process is.
_MAX_DEPTH: Final = 64

_NO_LOGON: Final = frozenset({"", "0x0", "0"})


class Process:
    """One process. `start` is None where nobody recorded it and no GUID tells it; `notes` are those
    of its start, `acts` those of what it did."""

    __slots__ = (
        "acts", "children", "command", "end", "guid", "host", "id", "image", "integrity",
        "is_system", "logon", "name", "names", "notes", "parent", "parent_command", "parent_guid",
        "parent_image", "parent_pid", "pid", "recorded", "seen", "start", "user",
    )  # fmt: skip

    def __init__(self, host: str, guid: str, pid: int | None, image: str) -> None:
        self.host = host
        self.guid = guid
        self.pid = pid
        self.image = image
        self.name = name_image(image)
        self.names = {self.name} if image else set()
        self.start: float | None = None
        self.end: float | None = None
        self.seen = 0.0
        self.recorded = False
        self.command = ""
        self.user = ""
        self.logon = ""
        self.integrity = ""
        self.parent: Process | None = None
        self.parent_guid = ""
        self.parent_pid: int | None = None
        self.parent_image = ""
        self.parent_command = ""
        self.children: list[Process] = []
        self.notes: list[Note] = []
        self.acts: list[Note] = []
        self.is_system = False
        self.id = ""

    @property
    def order(self) -> tuple[float, str, str, int]:
        """Where it stands among others: by its start, else when it was first seen."""
        return (self.begin, self.host, self.guid, self.pid or 0)

    @property
    def begin(self) -> float:
        """Its start, or, unknown, when it was first heard of."""
        return self.seen if self.start is None else self.start


def read_logon(fields: Fields) -> str:
    """The logon session that a started process runs in: in 4688 the target's, where it has one."""
    for name in ("TargetLogonId", "LogonId", "SubjectLogonId"):
        if (value := fields.get(name)) is not None and (text := word_logon(value)):
            return text
    return ""


def word_logon(value: object) -> str:
    """A logon id in one form; "" for none."""
    text = str(value).strip().lower() if type(value) in (str, int) else ""
    return "" if text in _NO_LOGON or len(text) > 24 else text


class ProcessTable:
    """All processes that the notes tell of."""

    def __init__(self, notes: Iterable[Note]) -> None:
        notes = list(notes)
        self.all: list[Process] = []
        #: Who did what an event says, by the event's id.
        self.actors: dict[str, Process] = {}
        self._guids: dict[tuple[str, str], Process] = {}
        self._pids: dict[tuple[str, int], list[Process]] = defaultdict(list)
        self._starts: dict[tuple[str, int], list[float]] = {}
        self._nameless: dict[str, list[Process]] = defaultdict(list)
        #: How far, in seconds, the clock of a host's records without GUID is behind that of Sysmon,
        #: where it has another time zone.
        self._zones: dict[str, float] = {}
        self._unseen: dict[tuple[str, int, int, str], Process] = {}
        starts = [note for note in notes if note.kind == "start"]
        for note in starts:
            if read_guid(note.fields, "ProcessGuid"):
                self._add_start_by_guid(note)
        self._add_starts_by_pid([n for n in starts if not read_guid(n.fields, "ProcessGuid")])
        self._learn_guids(notes)
        self._index_pids()
        for note in notes:
            if note.kind == "end":
                self._add_end(note)
        for process in list(self.all):
            self._find_parent(process)
        _open_circles(self.all)
        for note in notes:
            if note.kind not in ("start", "end") and (actor := self.find_actor(note)):
                actor.acts.append(note)
                self.actors[note.event] = actor
        self._finish()

    # Starts -------------------------------------------------------------------------------

    def _add_start_by_guid(self, note: Note) -> None:
        guid = read_guid(note.fields, "ProcessGuid")
        process = self._guids.get((note.host, guid))
        if process is None:
            process = self._make(note.host, guid, None, read_text(note.fields, "Image"))
        self._tell_start(process, note)

    def _tell_start(self, process: Process, note: Note) -> None:
        """Take from the note what the process does not tell yet."""
        fields = note.fields
        process.notes.append(note)
        process.recorded = True
        if process.start is None or not process.guid:
            # Sysmon's time is that of the start, others' that of their writing or collecting.
            process.start = note.time if process.start is None else min(process.start, note.time)
        image = read_text(fields, "Image", "NewProcessName")
        if image and not process.image:
            process.image, process.name = image, name_image(image)
        if image:
            process.names.add(name_image(image))
        process.pid = process.pid or read_pid(fields, "ProcessId")
        process.command = process.command or read_text(fields, "CommandLine")
        process.user = process.user or read_text(fields, "User", "user")
        process.logon = process.logon or read_logon(fields)
        process.integrity = process.integrity or read_text(fields, "IntegrityLevel")
        process.parent_guid = process.parent_guid or read_guid(fields, "ParentProcessGuid")
        process.parent_pid = process.parent_pid or read_pid(fields, "ParentProcessId")
        process.parent_image = process.parent_image or read_text(fields, "ParentImage")
        process.parent_command = process.parent_command or read_text(fields, "ParentCommandLine")

    def _add_starts_by_pid(self, starts: list[Note]) -> None:
        """Each is the start of one that a GUID tells, or of another process."""
        told: dict[tuple[str, int], list[Process]] = defaultdict(list)
        nameless: dict[tuple[str, str, int | None], list[Process]] = defaultdict(list)
        for process in self.all:
            if process.pid is not None:
                told[process.host, process.pid].append(process)
            else:
                nameless[process.host, process.name, process.parent_pid].append(process)
        for processes in (*told.values(), *nameless.values()):
            processes.sort(key=_by_start)
        taken: set[int] = set()
        latest: dict[tuple[str, int], Process] = {}
        for note in starts:
            pid = read_pid(note.fields, "ProcessId")
            name = name_image(read_text(note.fields, "Image", "NewProcessName"))
            parent = read_pid(note.fields, "ParentProcessId")
            candidates = (
                *(_list_near(told.get((note.host, pid), []), note.time) if pid else ()),
                *_list_near(nameless.get((note.host, name, parent), []), note.time),
            )
            twin = _find_twin(note, name, candidates, taken)
            if twin is not None:
                taken.add(id(twin))
                if twin.start is not None and abs(twin.start - note.time) > SAME_COMMAND_S:
                    self._zones[note.host] = twin.start - note.time
                self._tell_start(twin, note)
                continue
            if pid is None:
                continue
            before = latest.get((note.host, pid))
            if before is None or not _executes_again(before, note):
                before = self._make(note.host, "", pid, read_text(note.fields, "Image"))
                latest[note.host, pid] = before
            elif image := read_text(note.fields, "Image"):
                before.image, before.name = image, name_image(image)
                before.command = read_text(note.fields, "CommandLine") or before.command
            self._tell_start(before, note)

    def _make(self, host: str, guid: str, pid: int | None, image: str) -> Process:
        process = Process(host, guid, pid, image)
        self.all.append(process)
        if guid:
            self._guids[host, guid] = process
        return process

    # Processes that nobody saw start ----------------------------------------------------------

    def _learn_guids(self, notes: list[Note]) -> None:
        """Processes that are named by their GUID only by what they did, suffered or started."""
        for note in notes:
            for guid, pid, image in _list_mentions(note):
                process = self._guids.get((note.host, guid))
                if process is None:
                    process = self._make(note.host, guid, pid, image)
                    process.start = read_guid_time(guid, note.time)
                    process.seen = note.time
                process.pid = process.pid or pid
                if image and not process.image:
                    process.image, process.name = image, name_image(image)
                    process.names.add(process.name)
                if not process.recorded and guid == read_guid(note.fields, "ParentProcessGuid"):
                    command = read_text(note.fields, "ParentCommandLine")
                    process.command = process.command or command
                    process.user = process.user or read_text(note.fields, "ParentUser")

    def _index_pids(self) -> None:
        for process in self.all:
            if process.pid is not None:
                self._pids[process.host, process.pid].append(process)
            elif process.name in SCRIPT_HOSTS:
                self._nameless[process.host].append(process)
        for key, processes in self._pids.items():
            processes.sort(key=_by_start)
            self._starts[key] = [_start_or_first(process) for process in processes]
            for process, after in pairwise(processes):
                # The id was free again by then, whether the end was recorded or not.
                if process.end is None and after.start is not None and process.start is not None:
                    process.end = after.start

    def _add_end(self, note: Note) -> None:
        process = self.find_actor(note)
        if process is not None and (process.start is None or process.start <= note.time):
            process.end = note.time if process.end is None else min(process.end, note.time)

    # Who is meant ---------------------------------------------------------------------------

    def find_actor(self, note: Note) -> Process | None:
        """Who did what the note says; None where it does not say."""
        fields = note.fields
        if note.kind in ("access", "thread"):
            return self.find(
                note,
                read_guid(fields, "SourceProcessGuid", "SourceProcessGUID"),
                read_pid(fields, "SourceProcessId"),
                read_text(fields, "SourceImage"),
            )
        if note.kind == "script":
            return self._find_script_host(note)
        if note.kind in ("service", "task"):
            return self.find(note, "", read_pid(fields, "ClientProcessId"), "")
        if note.kind in ("logon", "failed", "privilege", "share", "flow", "run", "wmi"):
            return None
        return self.find(
            note,
            read_guid(fields, "ProcessGuid"),
            read_pid(fields, "ProcessId", "ProcessID"),
            read_text(fields, "Image", "ProcessName"),
        )

    def _find_script_host(self, note: Note) -> Process | None:
        """The PowerShell process by its id; where Sysmon's records lack ids, the only one of the
        host that has none."""
        pid = read_pid(note.fields, "ExecutionProcessID")
        if pid is None:
            return None
        if (note.host, pid) not in self._pids and len(self._nameless[note.host]) == 1:
            return self._nameless[note.host][0]
        return self.find(note, "", pid, "")

    def find_target(self, note: Note) -> Process | None:
        """Whose memory was opened or written."""
        fields = note.fields
        guid = read_guid(fields, "TargetProcessGuid", "TargetProcessGUID")
        pid = read_pid(fields, "TargetProcessId")
        return self.find(note, guid, pid, read_text(fields, "TargetImage"))

    def find(self, note: Note, guid: str, pid: int | None, image: str) -> Process | None:
        """The process by its GUID, else by its id at the note's time."""
        if guid and (process := self._guids.get((note.host, guid))):
            return process
        if not pid:
            return None
        shift = 0.0 if guid else self._zones.get(note.host, 0.0)
        return self.find_by_pid(note.host, pid, note.time + shift, image)

    def find_by_pid(self, host: str, pid: int, time: float, image: str) -> Process:
        """The process that had this id at this time: the last one started before and not ended;
        where none was recorded, one that is recorded by nobody."""
        name = name_image(image)
        processes = self._pids.get((host, pid), [])
        place = bisect_right(self._starts.get((host, pid), []), time)
        before = processes[max(0, place - MAX_SAME_ID) : place]
        for process in reversed(before):
            if (process.end is None or process.end >= time) and _may_be(process, name):
                return process
        if name:
            # Recorded a little late, by another recorder or behind its end.
            for process in reversed(before):
                if process.end is not None and process.end >= time - 1 and name in process.names:
                    return process
            for process in processes[place : place + MAX_SAME_ID]:
                if process.begin <= time + LATE_S and name in process.names:
                    return process
        return self._find_unseen(host, pid, place, image, time)

    def _find_unseen(self, host: str, pid: int, place: int, image: str, time: float) -> Process:
        key = (host, pid, place, name_image(image))
        process = self._unseen.get(key) or self._unseen.get((*key[:3], ""))
        if process is None:
            process = self._make(host, "", pid, image)
            process.seen = time
        elif image and not process.image:
            process.image, process.name = image, name_image(image)
            process.names.add(process.name)
        self._unseen[key] = process
        self._unseen.setdefault((*key[:3], ""), process)
        process.seen = min(process.seen, time)
        return process

    # Trees ----------------------------------------------------------------------------------

    def _find_parent(self, process: Process) -> None:
        if not process.recorded or process.start is None:
            return
        parent = None
        if process.parent_guid:
            parent = self._guids.get((process.host, process.parent_guid))
        if parent is None and process.parent_pid and process.parent_pid != process.pid:
            image = process.parent_image
            parent = self.find_by_pid(process.host, process.parent_pid, process.start, image)
            if not parent.recorded and not parent.command:
                parent.command = process.parent_command
        if parent is not process:
            process.parent = parent

    def _finish(self) -> None:
        self.all.sort(key=lambda process: process.order)
        for process in self.all:
            if process.parent is not None:
                process.parent.children.append(process)
            start = "" if process.start is None else f"{process.start:.3f}"
            process.id = (
                make_id("process", process.host, process.guid)
                if process.guid
                else make_id("process", process.host, f"{process.pid}@{start or process.name}")
            )
        ids: set[str] = set()
        for number, process in enumerate(self.all):
            if process.id in ids:
                process.id = make_id("process", process.host, f"{process.id}#{number}")
            ids.add(process.id)
        for process in self.all:
            process.is_system = _judge_system(process)


def _list_near(processes: list[Process], time: float) -> list[Process]:
    """Those of a list in order of their start that started next to the time."""
    if len(processes) <= 2 * MAX_SAME_ID:
        return processes
    place = bisect_right(processes, time, key=_start_or_first)
    return processes[max(0, place - MAX_SAME_ID) : place + MAX_SAME_ID]


def _find_twin(
    note: Note, name: str, candidates: Iterable[Process], taken: set[int]
) -> Process | None:
    """The process whose start the note tells again; each start is told again once."""
    command = read_text(note.fields, "CommandLine")
    best: tuple[float, tuple[float, str, str, int]] | None = None
    twin = None
    for process in candidates:
        if id(process) in taken or process.name != name or process.start is None:
            continue
        if command and process.command and not _is_same_command(command, process.command):
            continue
        apart = abs(process.start - note.time)
        same = bool(command) and bool(process.command)
        if process.pid is None and not same:
            continue
        near = apart <= (SAME_COMMAND_S if same else SAME_START_S)
        if not near and not (same and _is_zone_apart(process, note, apart)):
            continue
        rank = (apart, process.order)
        if best is None or rank < best:
            best, twin = rank, process
    return twin


def _is_same_command(one: str, other: str) -> bool:
    """The Security log doubles percent signs, and either may end in blanks."""
    if one == other:
        return True
    return one.replace("%%", "%").strip() == other.replace("%%", "%").strip()


def _is_zone_apart(process: Process, note: Note, apart: float) -> bool:
    """True where one recorder's clock has another time zone: whole quarters of an hour, and the
    same process id and parent."""
    off = (apart + ZONE_STEP_S / 2) % ZONE_STEP_S - ZONE_STEP_S / 2
    return (
        apart <= MAX_ZONE_S
        and abs(off) <= 2
        and process.pid is not None
        and process.parent_pid is not None
        and process.parent_pid == read_pid(note.fields, "ParentProcessId")
    )


def _executes_again(process: Process, note: Note) -> bool:
    """True where a process of a system that has exec became another program."""
    fields = note.fields
    if "NewProcessId" in fields or "\\" in read_text(fields, "Image") or not process.notes:
        return False
    last = process.notes[-1]
    return (
        note.time - last.time <= EXECUTES_AGAIN_S
        and read_pid(fields, "ParentProcessId") == process.parent_pid
        and fields.get("auid") == last.fields.get("auid")
    )


def _list_mentions(note: Note) -> Iterator[tuple[str, int | None, str]]:
    """GUID, process id and image of each process that a note names by GUID."""
    fields = note.fields
    if note.kind in ("access", "thread"):
        for side in ("Source", "Target"):
            if guid := read_guid(fields, f"{side}ProcessGuid", f"{side}ProcessGUID"):
                pid = read_pid(fields, f"{side}ProcessId")
                yield guid, pid, read_text(fields, f"{side}Image")
        return
    if guid := read_guid(fields, "ProcessGuid"):
        yield guid, read_pid(fields, "ProcessId"), read_text(fields, "Image")
    if note.kind == "start" and (guid := read_guid(fields, "ParentProcessGuid")):
        yield guid, read_pid(fields, "ParentProcessId"), read_text(fields, "ParentImage")


def _start_or_first(process: Process) -> float:
    return float("-inf") if process.start is None else process.start


def _by_start(process: Process) -> tuple[float, str]:
    return (_start_or_first(process), process.guid)


def _may_be(process: Process, name: str) -> bool:
    """Linux programs change their image; on Windows another image is another process."""
    return not name or not process.names or name in process.names or not name.endswith(".exe")


def _open_circles(processes: Iterable[Process]) -> None:
    """Take the parent from the first process of each circle: only forged records make one."""
    done: set[int] = set()
    for process in sorted(processes, key=lambda process: process.order):
        way: dict[int, Process] = {}
        above: Process | None = process
        while above is not None and id(above) not in done:
            if id(above) in way:
                above.parent = None
                break
            way[id(above)] = above
            above = above.parent
        done.update(way)


def _judge_system(process: Process) -> bool:
    """A system parent all the way up: what something else started is none, whatever its name."""
    above: Process | None = process
    for _ in range(_MAX_DEPTH):
        if above is None:
            return True
        if not above.image:
            # Nobody said what it is: process 1 is init, a parent without a name proves nothing.
            return above is not process or above.pid == 1
        if not is_system_image(above.image, above.command if above is process else ""):
            return False
        if above.parent is None:
            image = above.parent_image
            return not image or is_system_image(image, "")
        above = above.parent
    return True
