"""The labelled captures of attacks: that the labels are well formed and true to the data, and what
the line makes of three of them."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import Config
from appliance.places import default_rules
from appliance.schema import Event, LogSource, View
from benchmarks.captures import (
    LABELS,
    Identities,
    Label,
    Process,
    Result,
    list_captures,
    measure_capture,
    name_host,
    read_guid,
    read_labels,
    read_pid,
)
from tests.builders import make_event

ALL = read_labels(LABELS)
GUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?")
#: Event ids of the records that say that a process started: Sysmon's and the Security log's.
STARTS = (1, 4688)
DATA = "security-datasets"

FindData = Callable[[str], Path]


def every_process(label: Label) -> list[Process]:
    return [*label.tree, *label.beside, *label.not_]


def read_record(file: bytes, at: int) -> dict[str, Any]:
    end = file.find(b"\n", at)
    record = json.loads(file[at : end if end >= 0 else len(file)])
    assert isinstance(record, dict)
    return record


def list_guids(record: dict[str, Any], parent: bool) -> set[str]:
    """GUIDs of the process that the record is about, or of its parent."""
    names = ("ParentProcessGuid",) if parent else ("ProcessGuid", "SourceProcessGUID")
    return {read_guid(record.get(name)) for name in (*names, "SourceProcessGuid")} - {""}


def list_pids(record: dict[str, Any]) -> set[int | None]:
    names = ("NewProcessId", "ProcessId", "SourceProcessId", "ExecutionProcessID")
    return {read_pid(record.get(name)) for name in names}


# The labels by themselves ------------------------------------------------------------------------


def test_there_are_25_of_which_5_tell_of_two_hosts() -> None:
    assert len(ALL) >= 25
    assert sum(len(label.hosts) > 1 for label in ALL.values()) >= 5
    assert len({label.sha256 for label in ALL.values()}) == len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_label_is_well_formed(name: str) -> None:
    label = ALL[name]
    assert label.file.endswith(".json")
    assert Path(label.file).name.startswith(f"{name}__")
    assert re.fullmatch("[0-9a-f]{64}", label.sha256)
    assert label.techniques
    assert all(TECHNIQUE.fullmatch(technique) for technique in label.techniques)
    assert len(label.what) > 100
    assert label.tree
    assert {process.host for process in label.tree} <= set(label.hosts)
    keys = [(p.host, p.guid or p.pid) for p in every_process(label)]
    assert len(set(keys)) == len(keys), "a process stands in one list, once"


@pytest.mark.parametrize("name", ALL)
def test_every_process_is_told(name: str) -> None:
    label = ALL[name]
    for process in every_process(label):
        assert process.records
        assert process.guid or process.pid
        assert not process.guid or GUID.fullmatch(process.guid)
        assert not process.pid or re.fullmatch("0x[0-9a-f]+", process.pid)
        started = any(place.event in STARTS for place in process.records)
        assert process.created == (started and not process.as_)
        assert process.as_ in ("", "parent")
    assert all(process.role and not process.as_ for process in label.tree)
    assert all(process.why for process in (*label.beside, *label.not_))


# The labels and the data -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captures(request: pytest.FixtureRequest) -> Path:
    find: FindData = request.getfixturevalue("shared_data")
    return find("windows") / DATA


@pytest.mark.parametrize("name", ALL)
def test_records_are_there_and_of_that_process(name: str, captures: Path) -> None:
    label = ALL[name]
    file = (captures / label.file).read_bytes()
    assert hashlib.sha256(file).hexdigest() == label.sha256
    begins = [0, *(match.end() for match in re.finditer(b"\n", file))]
    for process in every_process(label):
        for place in process.records:
            assert begins[place.line] == place.at
            record = read_record(file, place.at)
            assert int(record["EventID"]) == place.event
            assert (record.get("Hostname") or record.get("Computer")) == process.host
            guids = list_guids(record, bool(process.as_))
            if process.guid and guids:
                assert guids == {process.guid}
            else:
                assert read_pid(process.pid) in list_pids(record)
            if place.event == 1 and not process.as_:
                assert record["Image"] == process.image


@pytest.mark.parametrize("name", ALL)
def test_the_tree_hangs_together(name: str, captures: Path) -> None:
    """A process of the tree was started by another of it, by one that is named beside it, or is
    one of those at which a tree may begin on a host."""
    label = ALL[name]
    file = (captures / label.file).read_bytes()
    known = {process.guid for process in (*label.tree, *label.beside)} - {""}
    loose = []
    for process in label.tree:
        if not process.guid or not process.created:
            continue
        at = next(place.at for place in process.records if place.event == 1)
        record = read_record(file, at)
        parent = str(record["ParentImage"]).rpartition("\\")[2].lower()
        if read_guid(record["ParentProcessGuid"]) not in known:
            loose.append(parent)
    assert set(loose) <= {"services.exe", "svchost.exe", "explorer.exe"}


def test_same_content_is_one_capture(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / f"{name}.json").write_text(content)
    assert [path.stem for path in list_captures(tmp_path)] == ["a", "b"]


# Which process is which --------------------------------------------------------------------------

GUID_A = "b34bc01c-7dfc-5f67-de11-000000000400"
IMAGE = "C:\\Windows\\System32\\net.exe"


def tell(number: int, category: str | None, service: str | None = None, **fields: Any) -> Event:
    view = View(LogSource("windows", category, service), fields)
    return msgspec.structs.replace(make_event(number), host="ws5", views=(view,))


def test_sysmon_and_the_security_log_mean_one_process() -> None:
    sysmon = tell(
        1, "process_creation", EventID=1, ProcessGuid=f"{{{GUID_A.upper()}}}", ProcessId=3492,
        Image=IMAGE,
    )  # fmt: skip
    security = tell(2, "process_creation", EventID=4688, NewProcessId="0xda4", NewProcessName=IMAGE)
    names = Identities([security, sysmon], None)
    assert names.name_subject(sysmon) == names.name_subject(security) == GUID_A


def test_a_start_without_a_process_id_is_found_by_its_command_line() -> None:
    fields = {"Image": IMAGE, "CommandLine": "net user"}
    sysmon = tell(1, "process_creation", EventID=1, ProcessGuid=GUID_A, **fields)
    same = tell(2, "process_creation", EventID=4688, NewProcessId="0xda4", **fields)
    other = tell(3, "process_creation", EventID=4688, NewProcessId="0xda8", NewProcessName=IMAGE)
    script = tell(4, None, "powershell", EventID=4104, ExecutionProcessID=0xDA4)
    names = Identities([sysmon, same, other, script], None)
    assert names.name_subject(script) == GUID_A
    assert names.name_subject(other) == "ws5:3496:net.exe"


def test_a_logon_is_about_no_process() -> None:
    logon = tell(1, None, "security", EventID=4624, ProcessId="0x2c0", ProcessName=IMAGE)
    assert Identities([logon], None).name_subject(logon) == ""


@pytest.mark.parametrize(
    ("text", "number"), [("0x1f", 31), ("31", 31), (31, 31), ("-", None), (None, None), (0, None)]
)
def test_process_ids_are_read(text: object, number: int | None) -> None:
    assert read_pid(text) == number


def test_hosts_are_compared_by_their_first_label() -> None:
    assert name_host("WORKSTATION5.theshire.local") == "workstation5"


# What is counted ---------------------------------------------------------------------------------


def test_ten_times_fewer() -> None:
    def reduced(findings: int, shown: int, minor: int = 0, routine: int = 0) -> bool:
        return Result("x", 100, findings, shown, minor, routine).reduced

    assert reduced(20, 2)
    assert reduced(20, 1, 1, 5)
    assert not reduced(20, 2, 1)
    assert not reduced(19, 2)
    assert reduced(3, 1)
    assert not reduced(3, 2)
    assert reduced(0, 0)


def test_recall_and_precision() -> None:
    result = Result("x", 1, 1, 1, 0, 0, tree=5, held=4, consoles=(0, 1), others=["a"])
    assert result.recall == result.precision == 0.8
    assert result.recall_without_consoles == 1.0
    assert Result("x", 1, 0, 0, 0, 0, tree=5).precision == 0.0


# What the line makes of them ---------------------------------------------------------------------

QUICK = (
    "empire_shell_net_localgroup_administrators",
    "empire_shell_rubeus_asktgt_createnetonly",
    "covenant_lolbin_wuauclt_createremotethread",
)


@pytest.mark.parametrize("name", QUICK)
def test_first_incident_holds_the_attack(name: str, captures: Path) -> None:
    """With the rules that come with the appliance alone: the benchmark has all."""
    label = ALL[name]
    config = Config(rules=(str(default_rules()),))
    result = measure_capture(captures / label.file, name, label, config)
    assert result.findings
    assert result.recall >= 0.6, result.missed
    assert result.precision >= 0.6, result.others
