"""Linux audit over real records, against what other readers of the format say of them.

go-libaudit's golden files state each line's type, time and fields; laurel's JSON files each event's
records; fail2ban's comments the address that a line is about. Needs the set `linux`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from appliance.decode import decode
from appliance.errors import DecodeError
from appliance.normalise import normalise
from appliance.normalise.auditd import AUDITD, PROCESS
from appliance.schema import Cursor, Event, RawRecord
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream

FindData = Callable[[str], Path]
RECEIVED = 1_790_000_000.0

#: Where we say something else on purpose than go-libaudit: its field, and why.
OTHERWISE = {
    "exit": "it replaces the error number by its name; the record's own number stays here",
    "sig": "it replaces the signal's number by its name; the number stays here",
    "old_auid": "RHEL 5's `old auid=` is named old-auid, as later kernels do",
    "new_auid": "RHEL 5's `new auid=` is named auid, as later kernels do",
}
#: Lines that are none of the format.
NO_RECORD = {"type=UNKNOWN[1329] msg=?": "no id: golden is null too"}


def make(data: bytes) -> RawRecord:
    return RawRecord(data, "test", "x", "x", Cursor("test", "x", 0, len(data)), RECEIVED)


def read(data: bytes) -> Event:
    record = make(data)
    return normalise(record, decode(record), zone=UTC).event


def list_records(path: Path) -> list[RawRecord]:
    stream = open_stream(StreamName("test", "k", path.name, str(path)), StreamLimits())
    records: list[RawRecord] = []
    while not stream.ended:
        batch = stream.read(Want(1000, final=True), RECEIVED)
        assert batch.rejected == []
        records += batch.records
    stream.close()
    return records


def list_golden(folder: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    for path in sorted(folder.glob("go-libaudit/auparse/testdata/*.golden")):
        lines = [line for line in path.with_suffix("").read_bytes().split(b"\n") if line.strip()]
        expected = json.loads(path.read_text("utf-8"))
        assert len(lines) == len(expected)
        yield from zip(lines, expected, strict=True)


def name_ours(name: str, fields: dict[str, Any]) -> Any:
    """Our value of go-libaudit's field, in its words."""
    if name in ("arch", "syscall"):
        return fields.get({"arch": "ARCH", "syscall": "SYSCALL"}[name])
    value = fields.get(name)
    if name == "result":
        return {"failure": "fail"}.get(str(value), value)
    if name == "family":
        return {"inet": "ipv4", "inet6": "ipv6"}.get(str(value), str(value))
    if value == "4294967295" and name in ("auid", "ses", "old-auid"):
        return "unset"
    return str(value) if isinstance(value, int) else value


def compare_golden(event: Event, want: dict[str, Any]) -> set[str]:
    """Names of what is not as go-libaudit says."""
    fields = event.views[0].fields
    wrong = set()
    if fields["type"] != want["record_type"].upper():
        wrong.add("type")
    if abs(event.time - datetime.fromisoformat(want["@timestamp"]).timestamp()) > 0.001:
        wrong.add("time")
    if want.get("keys"):
        key = fields.get("key")
        if (key if isinstance(key, list) else [key]) != want["keys"]:
            wrong.add("keys")
    for name, value in (want.get("data") or {}).items():
        # It cuts the security context into parts.
        if not name.startswith(("subj_", "obj_")) and name_ours(name, fields) != value:
            wrong.add(name)
    return wrong


def test_lines_as_go_libaudit_reads_them(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    deviations: Counter[str] = Counter()
    for line, want in list_golden(shared_data("linux")):
        if want is None:
            assert line.decode() in NO_RECORD
            continue
        counts["lines"] += 1
        event = read(line)
        assert event.format == "auditd"
        assert event.time_known
        wrong = compare_golden(event, want)
        counts["as stated"] += not wrong
        deviations.update(wrong)
    assert counts["lines"] == 83
    assert counts["as stated"] == 79
    assert set(deviations) == set(OTHERWISE), deviations


def test_events_are_joined_whatever_the_order_of_their_lines(shared_data: FindData) -> None:
    """go-libaudit's logs for its reassembler: in order, out of order, interleaved."""
    folder = shared_data("linux") / "go-libaudit"
    joined = {}
    for name in ("normal", "out_of_order"):
        records = list_records(folder / "testdata" / f"{name}.log")
        joined[name] = {decode(r).fields["id"]: sorted(r.data.split(b"\n")) for r in records}
        assert len(joined[name]) == len(records) == 5
    assert joined["normal"] == joined["out_of_order"]
    text = (folder / "auparse" / "testdata" / "test3.log").read_bytes()
    records = list_records(folder / "auparse" / "testdata" / "test3.log")
    identities = re.findall(rb"audit\((.*?)\)", text)
    assert [len(record.data.split(b"\n")) for record in records] == [
        identities.count(key) for key in dict.fromkeys(identities)
    ]


def test_programs_records_say_who_and_from_where(shared_data: FindData) -> None:
    """The neutral fields, where go-libaudit's fields state them."""
    counts: Counter[str] = Counter()
    for line, want in list_golden(shared_data("linux")):
        data = (want or {}).get("data") or {}
        fields = read(line).views[0].fields
        for theirs, ours in (("acct", "user"), ("addr", "src_ip"), ("result", "result")):
            value = data.get(theirs)
            if value is None or data.get("family") or value in ("?", "(invalid user)"):
                continue
            counts[theirs] += 1
            expected = {"fail": "failure"}.get(value, value)
            assert fields.get(ours) == expected, (theirs, line)
    assert counts["acct"] >= 12
    assert counts["addr"] >= 12
    assert counts["result"] >= 45


def compare_laurel(record: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    for name, value in record.items():
        mine: Any = own.get(name)
        expected: Any = str(value) if isinstance(value, int) else value
        if name == "ARGV" and own["type"] == "SYSCALL":
            mine = ["0x" + own[f"a{place}"] for place in range(4)]
        elif name == "ARGV":
            mine = own["argv"]
        elif name == "saddr":
            expected = unquote_to_bytes(value).hex().upper()
        elif name == "SADDR":
            mine = mine.replace("{ ", "{").replace(" }", "}")
        elif name.startswith("cap_"):
            mine, expected = int(mine, 16), int(expected, 16)
        elif name == "mode":
            mine, expected = int(mine, 8), int(value, 8)
        elif name == "arch":
            mine = "0x" + mine
        if mine != expected:
            yield name


def test_events_as_laurel_joins_and_reads_them(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    for path in sorted((shared_data("linux") / "laurel").glob("record-*.json")):
        expected = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
        joined = list_records(path.with_suffix(".txt"))
        assert len(joined) == len(expected), path.name
        for record, want in zip(joined, expected, strict=True):
            fields = decode(record).fields
            assert (fields["id"], fields.get("node")) == (want.pop("ID"), want.pop("NODE", None))
            wanted = [
                (kind, child)
                for kind, value in want.items()
                for child in (value if isinstance(value, list) else [value])
            ]
            order = {kind: place for place, kind in enumerate(want)}
            own = sorted(fields["records"], key=lambda child: order[child["type"]])
            assert [child["type"] for child in own] == [kind for kind, _ in wanted]
            for (kind, child), mine in zip(wanted, own, strict=True):
                assert list(compare_laurel(child, mine)) == [], (path.name, kind)
                counts["records"] += 1
            counts["events"] += 1
    assert counts["events"] == 18
    assert counts["records"] >= 45


def test_laurels_objects_say_what_the_lines_say(shared_data: FindData) -> None:
    """The same event, from the lines and from laurel's JSON: the same process, time, host, entities
    and kinds of views."""
    compared = 0
    for path in sorted((shared_data("linux") / "laurel").glob("record-*.json")):
        for one, other in zip(
            list_records(path.with_suffix(".txt")), list_records(path), strict=True
        ):
            ours, theirs = read(one.data), read(other.data)
            assert (ours.time, ours.host) == (theirs.time, theirs.host)
            assert set(ours.entities) == set(theirs.entities), path.name
            assert Counter(view.logsource for view in ours.views) == Counter(
                view.logsource for view in theirs.views
            )
            for view, its in zip(ours.views, theirs.views, strict=False):
                if view.logsource == its.logsource == PROCESS:
                    for name in ("Image", "CommandLine", "CurrentDirectory", "User"):
                        assert view.fields.get(name) == its.fields.get(name)
                    assert view.fields["ProcessId"] == str(its.fields["ProcessId"])
            compared += 1
    assert compared == 18


def test_fail2bans_lines_have_their_address_and_result(shared_data: FindData) -> None:
    want: dict[str, Any] = {}
    met = 0
    for record in list_records(shared_data("linux") / "fail2ban-logs" / "selinux-ssh"):
        _, comment, text = record.data.partition(b"failJSON:")
        if comment:
            want = json.loads(text)
            continue
        fields = read(record.data).views[0].fields
        assert fields["src_ip"] == want["host"]
        assert fields["result"] == "failure"
        met += 1
    assert met == 11


def test_every_audit_record_of_the_sets_is_read(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    folder = shared_data("linux")
    for path in sorted(folder.glob("**/*")):
        if path.suffix not in ("", ".log", ".txt") or not path.is_file():
            continue
        if b"audit(" not in path.read_bytes():
            continue
        for record in list_records(path):
            if not re.search(rb"type=\S+ msg=audit\(", record.data):
                continue
            counts["events"] += 1
            counts["lines"] += record.data.count(b"\n") + 1
            try:
                event = normalise(record, decode(record), zone=UTC).event
            except DecodeError:
                counts["rejected"] += 1
                continue
            counts["read"] += any(view.logsource == AUDITD for view in event.views)
            counts["timed"] += event.time_known
            counts["processes"] += any(view.logsource == PROCESS for view in event.views)
    assert counts["events"] >= 250, counts
    assert counts["lines"] >= 500, counts
    assert counts["read"] == counts["timed"] == counts["events"], counts
    assert counts["rejected"] == 0
    assert counts["processes"] >= 60, counts


def test_the_kernels_messages_in_syslog_are_read(shared_data: FindData) -> None:
    """AppArmor's records as wazuh's tests have them: `log 1 pass = <syslog line>`."""
    text = (shared_data("linux") / "wazuh-ruleset" / "apparmor.ini").read_text("utf-8")
    met = 0
    for line in re.findall(r"^log \d+ (?:pass|fail) = (.*)$", text, re.MULTILINE):
        event = read(line.encode())
        (fields,) = [view.fields for view in event.views if view.logsource == AUDITD]
        assert fields["type"] == "AVC"
        assert fields["apparmor"] in ("ALLOWED", "DENIED", "STATUS")
        assert (event.host, event.time_known) == ("hostname", True)
        met += 1
    assert met == 5
