"""Beside the line, when somebody asks where an incident came from: what its processes touched.

Files that can run, connections outwards, names looked up, places in the registry by which something
starts again, memory of other processes; and everything that a finding is on. What a process does a
thousand times is one edge with a count.
"""

import re
from collections.abc import Iterator
from typing import Final

from appliance.correlate.provenance_hosts import HostMap, is_plain_address
from appliance.correlate.provenance_links import (
    Hop,
    Ref,
    Thing,
    make_address_thing,
    make_file_thing,
    make_host_thing,
)
from appliance.correlate.provenance_notes import Note
from appliance.correlate.provenance_processes import Process, ProcessTable
from appliance.correlate.provenance_text import (
    MAX_LABEL,
    clean_text,
    make_id,
    name_image,
    read_text,
)

_RUNNABLE: Final = re.compile(
    r".*\.(?:exe|dll|sys|scr|com|cpl|ocx|ps1|psm1|bat|cmd|vbs|vbe|js|jse|wsf|hta|sct|xsl|lnk|inf"
    r"|msi|jar|py|sh|pl|elf|so|aspx?|jsp|php|dmp|kirbi|zip|rar|7z|docm|xlsm|xll|chm|iso|img|evtx)"
    r"|/(?:tmp|dev/shm|var/tmp|etc)/.*|.*\\(?:ntds\.dit|sam|security|system)",
    re.IGNORECASE | re.DOTALL,
)
#: Folders in which the system keeps notes of its own.
_NOISE: Final = re.compile(
    r".*\\(?:prefetch|__psscriptpolicytest_[^\\]*|activitiescache[^\\]*)(?:\\.*|$)",
    re.IGNORECASE | re.DOTALL,
)
_PERSISTENCE: Final = re.compile(
    r".*\\(?:currentversion\\run(?:once)?\\|services\\[^\\]+\\(?:imagepath|parameters\\servicedll)"
    r"|image file execution options\\|winlogon\\(?:shell|userinit)|userinitmprlogonscript"
    r"|appinit_dlls|inprocserver32|shell\\open\\command|control\\lsa\\|silentprocessexit\\)",
    re.IGNORECASE,
)


class Touching:
    """What processes touched, as hops."""

    def __init__(self, table: ProcessTable, hosts: HostMap, found: frozenset[str]) -> None:
        self.table = table
        self.hosts = hosts
        self.found = found

    def list_hops(self, process: Process) -> Iterator[Hop]:
        """One hop for each act that counts, in order of time. A system parent's own acts count
        with a finding only."""
        for note in process.acts:
            has_finding = note.event in self.found
            if process.is_system and not has_finding:
                continue
            for target, verb in self._read_act(process, note, has_finding):
                yield Hop(process, target, verb, (note,))

    def _read_act(
        self, process: Process, note: Note, has_finding: bool
    ) -> Iterator[tuple[Ref, str]]:
        fields = note.fields
        match note.kind:
            case "file" if path := read_text(fields, "TargetFilename"):
                if has_finding or (_RUNNABLE.fullmatch(path) and not _NOISE.fullmatch(path)):
                    yield make_file_thing(note.host, path), "wrote"
            case "registry" if path := read_text(fields, "TargetObject"):
                if has_finding or _PERSISTENCE.match(path):
                    yield _make_key(note.host, path), "set"
            case "connect":
                yield from self._read_connection(note, has_finding)
            case "dns" if name := read_text(fields, "QueryName"):
                if has_finding or "." in name.rstrip("."):
                    yield _make_domain(name), "looked up"
            case "explicit" if user := read_text(fields, "TargetUserName"):
                if not user.endswith("$"):
                    yield _make_user(user), "used the credentials of"
            case _ if has_finding:
                yield from self._read_finding(process, note)

    def _read_finding(self, process: Process, note: Note) -> Iterator[tuple[Ref, str]]:
        """What counts only where a finding is on it."""
        fields = note.fields
        match note.kind:
            case "image" if path := read_text(fields, "ImageLoaded"):
                yield make_file_thing(note.host, path), "loaded"
            case "access" | "thread":
                target = self.table.find_target(note)
                if target is not None and target is not process:
                    opened = note.kind == "access"
                    yield target, "opened the memory of" if opened else "injected a thread into"
            case "pipe" if name := read_text(fields, "PipeName"):
                identity = make_id("pipe", note.host, name)
                label = clean_text(f"pipe {name}", MAX_LABEL)
                yield Thing("file", identity, label, note.host), "used the pipe"
            case _:
                return

    def _read_connection(self, note: Note, has_finding: bool) -> Iterator[tuple[Ref, str]]:
        fields = note.fields
        outward = str(fields.get("Initiated", "true")).lower() != "false"
        address = read_text(fields, "DestinationIp" if outward else "SourceIp").lower()
        if not is_plain_address(address) or not (outward or has_finding):
            return
        verb = "connected to" if outward else "was connected from"
        owner = self.hosts.find_owner(address)
        if owner and owner != note.host:
            yield make_host_thing(owner), verb
        elif not owner:
            yield make_address_thing(address), verb


def make_thing(note: Note, hosts: HostMap) -> Thing:
    """What a finding is on that no process did: a logon's account, a service, the end from which a
    sensor saw it come; else the host itself."""
    fields = note.fields
    if note.kind in ("logon", "failed", "explicit", "privilege"):
        user = read_text(fields, "TargetUserName", "SubjectUserName", "user")
        if user:
            return _make_user(user)
    if note.kind == "service" and (name := read_text(fields, "ServiceName")):
        identity = make_id("service", note.host, name.lower())
        return Thing("service", identity, clean_text(f"service {name}", MAX_LABEL), note.host)
    if note.kind in ("task", "wmi"):
        name = read_text(fields, "TaskName", "Name", "Consumer") or "without a name"
        word = "scheduled task" if note.kind == "task" else "WMI subscription"
        identity = make_id("task", note.host, name.lower())
        return Thing("task", identity, clean_text(f"{word} {name}", MAX_LABEL), note.host)
    if note.kind in ("flow", "seen") and (address := read_text(fields, "src_ip").lower()):
        owner = hosts.find_owner(address)
        return make_host_thing(owner) if owner else make_address_thing(address)
    return make_host_thing(note.host)


def _make_key(host: str, path: str) -> Thing:
    identity = make_id("registry", host, path.lower())
    return Thing("registry", identity, clean_text(path, MAX_LABEL), host)


def _make_user(name: str) -> Thing:
    return Thing("user", make_id("user", "", name.lower()), clean_text(name, MAX_LABEL), "")


def _make_domain(name: str) -> Thing:
    name = name.rstrip(".").lower()
    return Thing("domain", make_id("domain", "", name), clean_text(name, MAX_LABEL), "")


def label_process(process: Process) -> str:
    """Image and the beginning of the command line."""
    name = name_image(process.image) or f"process {process.pid}"
    return clean_text(f"{name}: {process.command}" if process.command else name, MAX_LABEL)
