"""The archive's speed: what it costs the line, bytes per event, and how long hunts take.

    python -m benchmarks.archive_speed [--events 10000000] [--made 1000000] [--folder DIR]

Events are made like those of hosts and networks (Sysmon, Windows security, auditd, Zeek, syslog),
`--made` of them go through the line's own writer and conversion, and their Parquet files are copied
until `--events` are there: what a hunt reads is all of it, but for that the copies hold the same.
"""

import argparse
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from appliance.archive.convert import convert_segment
from appliance.archive.reader import Archive
from appliance.archive.rows import Growth
from appliance.archive.writer import (
    PARQUET,
    PARQUET_SUFFIX,
    SEGMENT_SUFFIX,
    SEGMENTS,
    ArchiveWriter,
)
from appliance.archiving import build_read, fold_texts
from appliance.assembly import build_detectors, build_reader, load_configured_rules, settle_memory
from appliance.config import Config, FilesSource
from appliance.hunting import Quarry, seek_indicator, seek_query, seek_rules
from appliance.pipeline import Reader, read_records
from appliance.schema import Cursor, RawRecord, SourceBatch

BEGAN = 1_795_000_000.0
BATCH = 2000
RARE_ADDRESS = "198.51.100.77"
RARE_HASH = "5f4dcc3b5aa765d61d8327deb882cf99" * 2
RARE_DOMAIN = "update.rare-domain.example"

PROGRAMS = [
    ("C:\\Windows\\System32\\svchost.exe",
     "C:\\Windows\\system32\\svchost.exe -k netsvcs -p -s {w}"),
    ("C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
     '"C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe" --type=renderer --id={n}'),
    ("C:\\Windows\\System32\\conhost.exe", "\\??\\C:\\Windows\\system32\\conhost.exe 0xffffffff"),
    ("C:\\Windows\\System32\\cmd.exe", "cmd.exe /c dir C:\\Users\\{w}\\Documents\\{n}"),
    ("C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe",
     "powershell.exe -NoProfile -File C:\\Scripts\\{w}.ps1 -Run {n}"),
    ("C:\\Program Files\\Microsoft Office\\root\\Office16\\WINWORD.EXE",
     '"WINWORD.EXE" /n "C:\\Users\\{w}\\Documents\\report-{n}.docx"'),
    ("C:\\Windows\\System32\\taskhostw.exe", "taskhostw.exe {{{n:08x}-0000}}"),
]  # fmt: skip
WORDS = ["anna", "ben", "carla", "dieter", "erik", "fatma", "gita", "hugo", "ines", "jan"]


class Maker:
    """Makes records; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._time = BEGAN
        self._number = 0
        shapes = {
            self._sysmon_process: 14, self._sysmon_network: 12, self._sysmon_file: 10,
            self._sysmon_registry: 12, self._sysmon_dns: 8, self._logon: 6, self._process: 6,
            self._auditd: 8, self._conn: 10, self._dns: 6, self._http: 4, self._syslog: 8,
        }  # fmt: skip
        self._shapes, self._weights = list(shapes), list(shapes.values())

    def records(self, count: int) -> Iterator[RawRecord]:
        """So many records of all shapes, each a little later than the one before."""
        rng = self._rng
        for shape in rng.choices(self._shapes, self._weights, k=count):
            self._number += 1
            self._time += rng.random() * 0.02
            text, form = shape()
            data = text.encode()
            cursor = Cursor("made", "made.log", self._number, self._number + 1)
            yield RawRecord(data, "made", "/log/made.log", "made.log", cursor, self._time, form)

    def _when(self) -> datetime:
        return datetime.fromtimestamp(self._time, UTC)

    def _host(self) -> str:
        return f"ws{self._rng.randrange(1, 400):03}.corp.example"

    def _guid(self) -> str:
        rng = self._rng
        first, second = rng.getrandbits(32), rng.getrandbits(16)
        return f"{{{first:08x}-{second:04x}-6543-0000-{rng.getrandbits(48):012x}}}"

    def _windows(
        self, channel: str, provider: str, number: int, fields: Mapping[str, object]
    ) -> str:
        when = self._when().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({
            "@timestamp": when, "EventTime": when, "Hostname": self._host(), "Channel": channel,
            "SourceName": provider, "EventID": number, "RecordNumber": self._number,
            "Severity": "INFO", "ProviderGuid": "{5770385F-C22A-43E0-BF4C-06F5698FFBD9}",
            **fields,
        })  # fmt: skip

    def _sysmon(self, number: int, fields: dict[str, object]) -> tuple[str, str]:
        common = {
            "UtcTime": self._when().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            "ProcessGuid": self._guid(), "ProcessId": self._rng.randrange(400, 65000),
            "User": f"CORP\\{self._rng.choice(WORDS)}",
        }  # fmt: skip
        text = self._windows(
            "Microsoft-Windows-Sysmon/Operational", "Microsoft-Windows-Sysmon", number,
            {**common, **fields},
        )  # fmt: skip
        return text, "json"

    def _program(self) -> tuple[str, str]:
        rng = self._rng
        image, line = rng.choices(PROGRAMS, (30, 20, 15, 5, 3, 3, 10))[0]
        return image, line.format(w=rng.choice(WORDS), n=rng.randrange(1 << 28))

    def _sysmon_process(self) -> tuple[str, str]:
        rng = self._rng
        image, line = self._program()
        parent, parent_line = self._program()
        if self._number % 100_000 in range(77_000, 77_040):
            line = "powershell.exe -nop -w hidden -enc SQBFAFgAIAAoAE4AZQB3AC0ATwBiAGoAZQBjAHQA"
            image = PROGRAMS[4][0]
        digest = f"{rng.getrandbits(40):040x}" + "ab" * 12
        if self._number % 100_000 in range(99_900, 99_940):
            digest = RARE_HASH
        return self._sysmon(1, {
            "Image": image, "CommandLine": line, "ParentImage": parent,
            "ParentCommandLine": parent_line, "CurrentDirectory": "C:\\Windows\\system32\\",
            "Hashes": f"SHA256={digest.upper()}", "IntegrityLevel": "Medium",
            "OriginalFileName": image.rpartition("\\")[2], "ParentProcessGuid": self._guid(),
            "LogonId": f"0x{rng.getrandbits(24):x}", "Company": "Microsoft Corporation",
        })  # fmt: skip

    def _address(self) -> str:
        rng = self._rng
        if self._number % 100_000 in range(50_000, 50_020):
            return RARE_ADDRESS
        return f"203.0.{rng.randrange(256)}.{rng.randrange(1, 255)}"

    def _sysmon_network(self) -> tuple[str, str]:
        rng = self._rng
        return self._sysmon(3, {
            "Image": self._program()[0], "Protocol": "tcp", "Initiated": "true",
            "SourceIp": f"10.1.{rng.randrange(4)}.{rng.randrange(1, 255)}",
            "SourcePort": rng.randrange(49152, 65535), "DestinationIp": self._address(),
            "DestinationPort": rng.choice((443, 443, 80, 445, 53)),
            "DestinationHostname": f"edge{rng.randrange(900)}.cdn.example",
        })  # fmt: skip

    def _sysmon_file(self) -> tuple[str, str]:
        rng = self._rng
        name = f"C:\\Users\\{rng.choice(WORDS)}\\AppData\\Local\\Temp\\{rng.getrandbits(40):x}.tmp"
        return self._sysmon(11, {
            "Image": self._program()[0], "TargetFilename": name,
            "CreationUtcTime": self._when().strftime("%Y-%m-%d %H:%M:%S.000"),
        })  # fmt: skip

    def _sysmon_registry(self) -> tuple[str, str]:
        rng = self._rng
        user = f"HKU\\S-1-5-21-1-2-3-{rng.randrange(1000, 1400)}"
        key = f"{user}\\Software\\App\\Recent\\{rng.randrange(999)}"
        return self._sysmon(13, {
            "EventType": "SetValue", "Image": self._program()[0], "TargetObject": key,
            "Details": f"DWORD (0x{rng.getrandbits(32):08x})",
        })  # fmt: skip

    def _sysmon_dns(self) -> tuple[str, str]:
        rng = self._rng
        name = f"n{rng.randrange(20000)}.site{rng.randrange(900)}.example"
        if self._number % 100_000 in range(25_000, 25_060):
            name = RARE_DOMAIN
        return self._sysmon(22, {
            "Image": self._program()[0], "QueryName": name, "QueryStatus": "0",
            "QueryResults": f"::ffff:{self._address()};",
        })  # fmt: skip

    def _logon(self) -> tuple[str, str]:
        rng = self._rng
        fields = {
            "SubjectUserSid": "S-1-5-18", "SubjectUserName": "WS$", "SubjectLogonId": "0x3e7",
            "TargetUserName": rng.choice(WORDS), "TargetDomainName": "CORP",
            "TargetLogonId": f"0x{rng.getrandbits(24):x}", "LogonType": rng.choice((2, 3, 3, 5, 7)),
            "LogonProcessName": "Kerberos", "AuthenticationPackageName": "Kerberos",
            "IpAddress": f"10.1.{rng.randrange(4)}.{rng.randrange(1, 255)}",
            "IpPort": rng.randrange(49152, 65535), "WorkstationName": "-",
        }  # fmt: skip
        provider = "Microsoft-Windows-Security-Auditing"
        return self._windows("Security", provider, 4624, fields), "json"

    def _process(self) -> tuple[str, str]:
        image, line = self._program()
        fields = {
            "SubjectUserName": self._rng.choice(WORDS), "SubjectDomainName": "CORP",
            "NewProcessName": image, "CommandLine": line, "ParentProcessName": PROGRAMS[0][0],
            "NewProcessId": f"0x{self._rng.getrandbits(14):x}", "TokenElevationType": "%%1938",
        }  # fmt: skip
        provider = "Microsoft-Windows-Security-Auditing"
        return self._windows("Security", provider, 4688, fields), "json"

    def _auditd(self) -> tuple[str, str]:
        rng = self._rng
        stamp = f"{self._time:.3f}:{self._number}"
        pid = rng.randrange(400, 65000)
        exe = rng.choice(("/usr/bin/ls", "/usr/bin/grep", "/usr/bin/python3.11", "/usr/bin/curl"))
        node = f"srv{rng.randrange(60):02}"
        text = (
            f"node={node} type=SYSCALL msg=audit({stamp}): arch=c000003e"
            f" syscall=59 success=yes exit=0 a0=7ffd a1=7ffe a2=7fff items=2 ppid={pid - 1}"
            f" pid={pid} auid=1000 uid=1000 gid=1000 euid=1000 tty=pts0 ses={rng.randrange(90)}"
            f' comm="{exe.rpartition("/")[2]}" exe="{exe}" key="exec"\n'
            f"node={node} type=EXECVE msg=audit({stamp}): argc=2"
            f' a0="{exe.rpartition("/")[2]}" a1="/srv/data/{rng.randrange(1 << 20)}"'
        )
        return text, "auditd"

    def _zeek(self, path: str, fields: dict[str, object]) -> tuple[str, str]:
        rng = self._rng
        return json.dumps({
            "_path": path, "ts": round(self._time, 6), "uid": f"C{rng.getrandbits(60):x}",
            "id.orig_h": f"10.1.{rng.randrange(4)}.{rng.randrange(1, 255)}",
            "id.orig_p": rng.randrange(49152, 65535), "id.resp_h": self._address(), **fields,
        }), "json"  # fmt: skip

    def _conn(self) -> tuple[str, str]:
        rng = self._rng
        return self._zeek("conn", {
            "id.resp_p": 443, "proto": "tcp", "service": "ssl", "duration": rng.random() * 9,
            "orig_bytes": rng.randrange(9000), "resp_bytes": rng.randrange(900000),
            "conn_state": "SF", "history": "ShADadFf", "orig_pkts": rng.randrange(90),
            "resp_pkts": rng.randrange(900), "missed_bytes": 0,
        })  # fmt: skip

    def _dns(self) -> tuple[str, str]:
        rng = self._rng
        return self._zeek("dns", {
            "id.resp_p": 53, "proto": "udp", "qtype_name": "A", "rcode_name": "NOERROR",
            "query": f"n{rng.randrange(20000)}.site{rng.randrange(900)}.example", "AA": False,
        })  # fmt: skip

    def _http(self) -> tuple[str, str]:
        rng = self._rng
        return self._zeek("http", {
            "id.resp_p": 80, "method": "GET", "host": f"www{rng.randrange(900)}.example",
            "uri": f"/assets/{rng.getrandbits(32):x}.js?v={rng.randrange(99)}", "status_code": 200,
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0",
        })  # fmt: skip

    def _syslog(self) -> tuple[str, str]:
        rng = self._rng
        when = self._when().strftime("%b %e %H:%M:%S")
        text = (
            f"<86>{when} srv{rng.randrange(60):02} sshd[{rng.randrange(400, 65000)}]: Accepted"
            f" publickey for {rng.choice(WORDS)} from 10.1.{rng.randrange(4)}.{rng.randrange(255)}"
            f" port {rng.randrange(49152, 65535)} ssh2"
        )
        return text, "syslog3164"


def measure_line(rounds: int, batches: int) -> None:
    """The line's stateless half over the same batches, with and without the archive, in turns."""
    config = Config(sources=(FilesSource("made", ("/log/made.log",)),))
    rules = load_configured_rules(config)
    reader = build_reader(config, build_detectors(rules), rules)
    settle_memory()
    made = list(Maker(1).records(BATCH * batches))
    groups = [
        [SourceBatch(made[first : first + BATCH], [], [])] for first in range(0, len(made), BATCH)
    ]
    times: dict[bool, list[float]] = {True: [], False: []}
    waited: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="archive-speed-") as folder:
        writer = ArchiveWriter(Path(folder), 0, clock=lambda: BEGAN)
        for number in range(rounds + 1):
            for archived in (True, False):
                reader.archive = writer if archived else None
                used, seconds = _run(reader, groups)
                if number:  # the first builds the indexes
                    times[archived].append(used)
                    waited[archived].append(seconds)
        writer.close()
    for name, measured in (("processor", times), ("clock", waited)):
        speeds = {archived: len(made) / statistics.median(s) for archived, s in measured.items()}
        print(
            f"line, median of {rounds}, {name}: {speeds[False]:,.0f} events/s without the archive,"
            f" {speeds[True]:,.0f} with it: {1 - speeds[True] / speeds[False]:.1%} slower"
        )


def _run(reader: Reader, groups: list[list[SourceBatch]]) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    began = time.process_time(), time.perf_counter()
    for group in groups:
        work = read_records(group, reader)
        if reader.archive is not None:
            assert work.segments
            reader.archive.commit()
    return time.process_time() - began[0], time.perf_counter() - began[1]


def make_archive(folder: Path, made: int, events: int) -> None:
    """Write, convert and copy."""
    writer = ArchiveWriter(folder, 0, clock=lambda: BEGAN)
    raw = 0
    known: dict[str, Growth] = {}
    began = time.perf_counter()
    for batch, record in enumerate(Maker(2).records(made), 1):
        raw += len(record.data)
        writer.add(record, record.received)
        if batch % BATCH == 0 or batch == made:
            flushed = writer.flush()
            assert not writer.error, writer.error
            known.update((growth.name, growth) for growth in flushed.growths)
            writer.commit()
    writer.close()
    packed = sum(growth.bytes for growth in known.values())
    print(f"made and wrote {made:,} events in {time.perf_counter() - began:.0f} s")
    read = build_read(Config())
    began = time.perf_counter()
    stored = 0
    for growth in known.values():
        done = convert_segment(folder, growth.name, growth.bytes, read=read, texts=fold_texts)
        assert done.events == growth.events and not done.unread
        stored += done.bytes
        (folder / SEGMENTS / (growth.name + SEGMENT_SUFFIX)).unlink()
    seconds = time.perf_counter() - began
    print(f"converted in {seconds:.0f} s: {made / seconds:,.0f} events/s")
    print(
        f"bytes per event: {raw / made:.0f} raw, {packed / made:.0f} in segments,"
        f" {stored / made:.0f} in Parquet"
    )
    files = sorted((folder / PARQUET).glob(f"*{PARQUET_SUFFIX}"))
    for copy in range(1, math.ceil(events / made)):
        for path in files:
            shutil.copyfile(path, path.with_name(f"{path.stem}-{copy:03}{PARQUET_SUFFIX}"))
    total = sum(path.stat().st_size for path in (folder / PARQUET).iterdir())
    print(f"archive: {made * math.ceil(events / made):,} events, {total / 1e6:,.0f} MB"
          f" ({math.ceil(events / made)} copies of what was made)")  # fmt: skip


def measure_hunts(folder: Path) -> None:
    """Seconds of each hunt, DuckDB with two threads and this process."""
    rules = load_configured_rules(Config(), unfed=True)
    by_name = {rule.info.title: rule for rule in rules.rules}

    def rule(*words: str) -> Quarry:
        title = next(t for t in by_name if all(word in t.lower() for word in words))
        one = rules.without({r.info.id for r in rules.rules} - {by_name[title].info.id})
        return seek_rules(one)

    hunts: dict[str, Callable[[], Quarry]] = {
        "indicator, address": lambda: seek_indicator(RARE_ADDRESS),
        "indicator, hash": lambda: seek_indicator(RARE_HASH),
        "indicator, domain": lambda: seek_indicator(RARE_DOMAIN),
        "indicator, not there": lambda: seek_indicator("192.0.2.99"),
        "indicator, file": lambda: seek_indicator("mimikatz.exe"),
        "sigma, encoded powershell": lambda: rule("powershell", "encoded"),
        "query, field": lambda: seek_query("CommandLine=*-enc* Image=*powershell*"),
        "query, word": lambda: seek_query("SQBFAFgAIAAo"),
        "query, field of no column": lambda: seek_query("QueryResults=*198.51.100.77*"),
    }
    archive = Archive(folder, build_read(Config()))
    for name, make in hunts.items():
        try:
            quarry = make()
        except StopIteration:
            print(f"{name}: no such rule")
            continue
        began = time.perf_counter()
        found = archive.hunt(quarry.condition, quarry.verify, limit=1000)
        seconds = time.perf_counter() - began
        print(
            f"{name} ({quarry.name[:40]}): {seconds:.1f} s, {len(found.hits)} found,"
            f" {found.compared:,} compared"
        )
    archive.close()
    everything = [
        (title, seek_rules(rules.without({r.info.id for r in rules.rules} - {one.info.id})))
        for title, one in sorted(by_name.items())[::12]
    ]
    times = []
    for title, quarry in everything:
        archive = Archive(folder, build_read(Config()))
        began = time.perf_counter()
        found = archive.hunt(quarry.condition, quarry.verify, limit=1000)
        times.append((time.perf_counter() - began, title, found.compared))
        archive.close()
    times.sort()
    print(
        f"sigma, {len(times)} of our own rules: median {times[len(times) // 2][0]:.1f} s, longest"
        f" {times[-1][0]:.1f} s ({times[-1][1]}, {times[-1][2]:,} compared)"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--made", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the archive there, or use it again")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    if asked.rounds:
        measure_line(asked.rounds, 10)
    with tempfile.TemporaryDirectory(prefix="archive-speed-") as scratch:
        folder = asked.folder or Path(scratch)
        if not (folder / PARQUET).is_dir():
            make_archive(folder, min(asked.made, asked.events), asked.events)
        measure_hunts(folder)


if __name__ == "__main__":
    main()
