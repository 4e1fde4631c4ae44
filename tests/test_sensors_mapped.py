"""A format of the configuration whose records are findings: read, refused with file, line and key,
scanned; and the mapping that the benchmarks use, over the real alerts."""

import csv
import json
from collections import Counter
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.assembly import build_formats, build_mappings
from appliance.cli import main
from appliance.config import Config, dump_config, load_config, parse_config
from appliance.decode import decode
from appliance.decode.custom import build_csv_decoder
from appliance.detect.sensors import SENSORS, SensorDetector
from appliance.detect.sensors.mapped import RESERVED, Pick, Row, build_map, check_sensor
from appliance.errors import ConfigError, DecodeError
from appliance.normalise import normalise
from appliance.pipeline import Reader, read_event, read_records
from appliance.schema import (
    LEVELS,
    Checkpoint,
    Detection,
    LogSource,
    RawRecord,
    Rejected,
    SourceBatch,
)
from appliance.sources.files import FilesSource
from appliance.sources.header_framing import HEADER_BYTES, HeaderFramer
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream
from tests.formats import QUICK, RECEIVED, list_entities, make_line, measure

AIT = Path(__file__).resolve().parent.parent / "benchmarks" / "ait_mapping.yaml"
CONFIG = """
sources:
  - {name: edr, paths: [/var/log/edr.csv], format: edr}
  - {name: cloud, paths: [/var/log/cloud.json], format: cloud}
formats:
  - name: edr
    csv: {when: Time, title: Alert, severity: Severity, node: Host, ip: Address, login: User, tags: Tags, sum: SHA256, path: File}
    delimiter: semicolon
    logsource: {product: edr}
    time: when
    host: node
    entities: {address: [ip], user: [login], hash: [sum], file: [path]}
    finding:
      sensor: {otherwise: acme-edr}
      title: {field: title}
      techniques: {field: tags}
      level: {field: severity, table: {Bad: high, Worst: critical}, otherwise: low}
      signatures:
        - {match: '(?i)mimikatz', level: critical, techniques: [T1003.001], tactics: [credential-access]}
        - {match: 'Scan', level: medium}
  - name: cloud
    json: {what: alert.name, rule: alert.id, sev: alert.score, kind: type, by: engine, user: actor}
    logsource: {product: cloud, service: alert}
    finding:
      where: {kind: [alert, detection]}
      sensor: {field: by, table: {wz: wazuh}, patterns: [{match: '^x', give: xdr}], otherwise: cloud}
      rule_id: {field: rule}
      title: {field: what}
      level: {field: sev, at_least: {low: 10, medium: 40, high: 70, critical: 90}}
      tactics: {field: tactic, otherwise: 'discovery, made up'}
      evidence: [what, user]
"""  # noqa: E501 - as the file has it
HEADER = b"Time;Alert;Severity;Host;Address;User;Tags;SHA256;File;Label"
ROW = (
    b'2026-01-21T00:02:27Z;"Mimikatz; found";Bad;WS5.example.com;192.0.2.7;EXAMPLE\\ann;'
    b'"T1055, t1003.001";' + b"c" * 64 + b";C:\\Temp\\m.exe;attack"
)
CLOUD: dict[str, Any] = {
    "alert": {"name": "Odd sign-in", "id": "R-7", "score": 75}, "type": "alert", "engine": "wz",
    "actor": "ann", "tactic": ["Initial Access", "nonsense"],
}  # fmt: skip


def load(text: str = CONFIG) -> Config:
    return parse_config(text, "a.yaml")


def detect(line: bytes, name: str, config: Config | None = None) -> list[Detection]:
    config = config or load()
    record = make_line(line, name)
    if name == "edr":
        record = RawRecord(
            line, "t", "/x", "x", record.cursor, RECEIVED, "edr", header=HEADER
        )  # fmt: skip
    result = read_event(record, UTC, build_formats(config))
    assert not isinstance(result, Rejected), result.reason
    return SensorDetector(build_mappings(config)).detect(result[0])


# -- findings --------------------------------------------------------------------------------------


def test_a_line_of_columns() -> None:
    (found,) = detect(ROW, "edr")
    assert (found.detector, found.rule_id) == ("acme-edr", "acme-edr:Mimikatz; found")
    assert (found.title, found.level) == ("Mimikatz; found", "high")  # the field's word first
    assert found.techniques == ("T1055", "T1003.001")
    assert found.tactics == ("credential-access",)
    assert found.logsource == LogSource(product="edr")
    assert (found.event.host, found.event.time) == ("ws5", 1768953747.0)
    assert list_entities(found.event) == {
        "host:ws5", "address:192.0.2.7", "user:example\\ann", "hash:sha256:" + "c" * 64,
        "file:c:\\temp\\m.exe",
    }  # fmt: skip
    # What no mapping names is not read: neither a field nor the line as a whole.
    (view,) = found.event.views
    assert "attack" not in json.dumps(view.fields)
    assert view.fields.keys() == {
        "when", "title", "severity", "node", "ip", "login", "tags", "sum", "path",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("severity", "title", "level"),
    [
        (b"", b"Mimikatz", "critical"), (b"", b"Port Scan", "medium"), (b"", b"Other", "low"),
        (b"Worst", b"Port Scan", "critical"), (b"HIGH", b"Port Scan", "high"),
        (b"unheard-of", b"Port Scan", "medium"), (b"7", b"Other", "low"),
    ],
)  # fmt: skip
def test_levels_by_word_then_signature_then_default(
    severity: bytes, title: bytes, level: str
) -> None:
    line = ROW.replace(b"Bad", severity).replace(b'"Mimikatz; found"', title)
    assert detect(line, "edr")[0].level == level


@pytest.mark.parametrize(
    ("score", "level"),
    [
        (75, "high"), (90, "critical"), (39.9, "low"), (10, "low"), (9, "informational"),
        ("71", "high"), ("nan", "low"), ("9" * 40, "low"), (None, "low"), ({}, "low"),
        (["95"], "critical"), (True, "low"),
    ],
)  # fmt: skip
def test_levels_by_number(score: Any, level: str) -> None:
    record = {**CLOUD, "alert": {**CLOUD["alert"], "score": score}}
    assert detect(json.dumps(record).encode(), "cloud")[0].level == level


def test_an_object() -> None:
    (found,) = detect(json.dumps(CLOUD).encode(), "cloud")
    assert (found.detector, found.rule_id, found.title) == ("wazuh", "wazuh:R-7", "Odd sign-in")
    assert found.tactics == ("initial-access",)
    assert [(match.field, match.value) for match in found.matched] == [
        ("what", "Odd sign-in"), ("user", "ann"),
    ]  # fmt: skip
    plain = {key: value for key, value in CLOUD.items() if key != "tactic"}
    assert detect(json.dumps(plain).encode(), "cloud")[0].tactics == ("discovery",)


def test_where_says_which_records_are_findings() -> None:
    for kind, count in (("alert", 1), ("detection", 1), ("login", 0), (None, 0), (["alert"], 1)):
        assert len(detect(json.dumps({**CLOUD, "type": kind}).encode(), "cloud")) == count


def test_a_record_that_tells_nothing_is_still_a_finding() -> None:
    (found,) = detect(json.dumps({"type": "alert"}).encode(), "cloud")
    assert (found.rule_id, found.title) == ("cloud:unnamed", "cloud unnamed")


@pytest.mark.parametrize(
    "engine", ["sigma", "indicators", "sentinel", "health", "wz2", "WZ", "", 7, ["sigma"]]
)
def test_a_record_only_chooses_among_the_operators_names(engine: Any) -> None:
    (found,) = detect(json.dumps({**CLOUD, "engine": engine}).encode(), "cloud")
    assert found.detector == "cloud"
    assert found.rule_id == "cloud:R-7"


def test_a_record_cannot_name_a_rule_that_is_loaded() -> None:
    loaded = "3f6d7c1e-0f0b-4a5e-9d55-0c5ab19ec001"
    record = {**CLOUD, "alert": {"id": loaded, "name": "x" * 5000 + "\x1b[31m\n"}}
    (found,) = detect(json.dumps(record).encode(), "cloud")
    assert found.rule_id == f"wazuh:{loaded}"
    assert "\n" not in found.title


def test_long_names_stay_apart_and_visible() -> None:
    def rule(name: str) -> str:
        record = {**CLOUD, "alert": {"id": name}}
        return detect(json.dumps(record).encode(), "cloud")[0].rule_id

    one, two = rule("x" * 5000 + "a"), rule("x" * 5000 + "b")
    assert one != two
    assert max(len(one), len(two)) < 160
    assert rule("a\x1b[31mb\nc").isprintable()


def test_another_formats_record_is_no_finding() -> None:
    """The format is the source's, whatever fields a record has."""
    record = make_line(json.dumps({**CLOUD, "format": "cloud", "what": "x"}))
    config = load()
    sighting = normalise(record, decode(record), zone=UTC, custom=build_formats(config).sources)
    assert SensorDetector(build_mappings(config)).detect(sighting) == []
    # Nor does a mapped record become another sensor's alert.
    mapped = {**CLOUD, "type": "x", "event_type": "alert", "flow_id": 1, "timestamp": "x"}
    assert detect(json.dumps(mapped).encode(), "cloud") == []
    assert LogSource(product="cloud", service="alert") not in SENSORS


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["alert", "engine", "actor", "tactic", "type"]), JSON))
def test_no_record_raises_anything(record: dict[str, Any]) -> None:
    for found in detect(json.dumps({**record, "type": "alert"}).encode(), "cloud"):
        assert found.level in LEVELS
        assert len(found.title) <= 200


def test_names_that_no_sensor_may_have() -> None:
    for name in (*RESERVED, "", "A", "a b", "a/b", "é", "a" * 33, "1a", "a\n", "-a"):
        assert check_sensor(name)
        pick = Pick(otherwise=name)
        with pytest.raises(ValueError, match=r"must be|itself"):
            build_map(
                sensor=pick, rule_id=Pick(), title=Pick(), level=Pick(), techniques=Pick(),
                tactics=Pick(), at_least={},
            )  # fmt: skip
    assert not check_sensor("acme-edr_2")


def test_hostile_text_against_many_expressions_ends_quickly() -> None:
    rows = tuple(Row(f"(a+)+b{n}|(x|x)*y{n}", "high") for n in range(60))
    mapping = build_map(
        sensor=Pick(otherwise="x"), rule_id=Pick(), title=Pick("user"), level=Pick(),
        techniques=Pick("user", {}, (("(a*)*c", "T1055"),)), tactics=Pick(), at_least={}, rows=rows,
    )  # fmt: skip
    record = make_line(json.dumps({"alert": {"name": "x"}, "actor": "a" * 100_000}), "cloud")
    result = read_event(record, UTC, build_formats(load()))
    assert not isinstance(result, Rejected)
    assert measure(lambda: mapping.read_finding(result[0])) < QUICK


# -- columns ---------------------------------------------------------------------------------------


def decode_columns(line: bytes, header: bytes, delimiter: str = "comma") -> dict[str, Any]:
    decoder = build_csv_decoder("f", {"a": "A", "b": "B c"}, delimiter)
    record = make_line(line, "f")
    return decoder(
        RawRecord(line, "t", "/x", "x", record.cursor, RECEIVED, "f", header=header)
    ).fields  # fmt: skip


@pytest.mark.parametrize(
    ("line", "header", "delimiter", "fields"),
    [
        (b"1,2,3", b"A,x,B c", "comma", {"a": "1", "b": "3"}),
        (b'"1,1","2 ""q""",3', b'"A","B c",x', "comma", {"a": "1,1", "b": '2 "q"'}),
        (b"1\t2", b"B c\tA", "tab", {"a": "2", "b": "1"}),
        (b"1;2;", b"A; B c ;x", "semicolon", {"a": "1", "b": "2"}),
        (b"1||", b"A|B c|x", "pipe", {"a": "1"}),
        (b'it "is",2', b"A,B c", "comma", {"a": 'it "is"', "b": "2"}),
        (b"\xff,2\r\n", b"\xef\xbb\xbfA,B c\r\n", "comma", {"a": "\\xff", "b": "2"}),
    ],
)
def test_columns(line: bytes, header: bytes, delimiter: str, fields: dict[str, str]) -> None:
    assert decode_columns(line, header, delimiter) == fields


@pytest.mark.parametrize(
    ("line", "header", "reason"),
    [
        (b"1,2,3", b"A,B c", "3 columns where format f has 2"),
        (b"1", b"A,B c", "1 columns where format f has 2"),
        (b"", b"A,B c", "1 columns where"),
        (b'"1,2', b"A,B c", "not CSV"),
        (b'"1"x,2', b"A,B c", "not CSV"),
        (b",", b"A,B c", "none of the fields"),
        (b"1,2", b"", "no header line"),
        (b"1,2", b"A,B", "names no column 'B c'"),
        (b"1,2,3", b"A,B c,A", "names more than one column 'A'"),
        (b"1,2", b"A,B c," + b"," * 600, "over the limit"),
    ],
)
def test_lines_that_do_not_fit(line: bytes, header: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_columns(line, header)


def test_a_delimiter_that_a_record_smuggles_in_moves_no_column() -> None:
    forged = b"2026-01-21T00:02:27Z;x;Worst;victim;6.6.6.6;;;;;;" + ROW
    with pytest.raises(AssertionError, match="columns where format edr has 10"):
        detect(forged, "edr")


def test_hostile_lines_of_columns_end_quickly() -> None:
    for line in (b"," * 100_000, b'"' * 100_000, b'"a",' * 25_000, b'"' + b"a\n" * 50_000):

        def run(line: bytes = line) -> None:
            with pytest.raises(DecodeError):
                decode_columns(line, b"A,B c")

        assert measure(run) < QUICK


def frame(
    data: bytes, offset: int = 0, header: bytes = b""
) -> tuple[list[tuple[bytes, bytes]], str]:
    framer = HeaderFramer(offset, 1 << 20, 1 << 16, form="columns", header=header)
    frames = [*framer.feed(data), *framer.finish()]
    return [(found.data, found.header) for found in frames], framer.broken


def test_the_first_line_is_the_header() -> None:
    assert frame(b"\xef\xbb\xbf\na,b\r\n1,2\r\na,b\n3,4")[0] == [(b"1,2", b"a,b"), (b"3,4", b"a,b")]
    # Taken up again, no record becomes the header.
    assert frame(b"3,4\n", 9, b"a,b")[0] == [(b"3,4", b"a,b")]
    assert frame(b"3,4\n", 9)[0] == [(b"3,4", b"")]
    assert frame(b"#x,b\n#Fields: a\n")[0] == [(b"#Fields: a", b"#x,b")]
    records, broken = frame(b"a" * (HEADER_BYTES + 1) + b"\n1\n")
    assert records == []
    assert "longer than the cap" in broken


def test_a_file_that_was_read_as_something_else_before(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n3,4\n")
    name = StreamName("s", "k", "k", str(path), "f", columns=True)
    stream = open_stream(name, StreamLimits(), 8)
    (record,) = stream.read(Want(10, final=True), RECEIVED).records
    stream.close()
    assert (record.data, record.header) == (b"3,4", b"a,b")


def test_columns_that_the_configuration_names() -> None:
    config = load(
        CONFIG.replace("    delimiter: semicolon\n", "    columns: [Time, Alert, Severity, Host,"
                       " Address, User, Tags, SHA256, File]\n")
    )  # fmt: skip
    assert config.headed_formats == frozenset()
    line = b"2026-01-21T00:02:27Z,Port Scan,,ws5,,,,,"
    (found,) = detect(line, "edr", config)
    assert (found.level, found.event.host) == ("medium", "ws5")


def test_a_file_that_is_followed(tmp_path: Path) -> None:
    """The header is kept over restarts, and a new file has its own."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n")
    now = [RECEIVED]

    def follow(rows: list[Checkpoint]) -> tuple[list[tuple[bytes, bytes]], list[Checkpoint]]:
        source = FilesSource(
            "s", [str(tmp_path / "*.csv")], clock=lambda: now[0], checkpoints=rows,
            format="f", columns=True,
        )  # fmt: skip
        now[0] += 60
        batch = source.poll(100)
        source.commit()
        source.close()
        kept = {row.key: row for row in (*rows, *batch.checkpoints)}
        return [(record.data, record.header) for record in batch.records], list(kept.values())

    found, rows = follow([])
    assert found == [(b"1,2", b"a,b")]
    with path.open("ab") as file:
        file.write(b"3,4\n")
    found, rows = follow(rows)
    assert found == [(b"3,4", b"a,b")]
    (tmp_path / "b.csv").write_bytes(b"b,a\n5,6\n")
    assert follow(rows)[0] == [(b"5,6", b"b,a")]


# -- the configuration -----------------------------------------------------------------------------


def test_the_configuration_survives_a_dump() -> None:
    config = load()
    assert config.headed_formats == {"edr"}
    assert parse_config(dump_config(config), "b.yaml") == config
    assert build_mappings(config).keys() == {"edr", "cloud"}


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (("acme-edr}", "sigma}"), "formats[0].finding.sensor.otherwise", "of the appliance itself"),
        (("acme-edr}", "Acme}"), "formats[0].finding.sensor.otherwise", "must be 1 to 32"),
        (("{otherwise: acme-edr}", "{field: title}"), "formats[0].finding.sensor", "must name the"),
        (("{otherwise: acme-edr}", "{}"), "formats[0].finding.sensor", "must name the sensor"),
        (("wz: wazuh", "wz: health"), "formats[1].finding.sensor.table.wz", "appliance itself"),
        (("give: xdr", "give: anomaly"), "formats[1].finding.sensor.patterns[0].give", "itself"),
        (("'^x'", "'(x'"), "formats[1].finding.sensor.patterns[0].match", "not an RE2"),
        (("title: {field: title}", "title: {field: tite}"), "formats[0].finding.title.field",
         "gives no field 'tite'"),
        (("'(?i)mimikatz'", "'(?=a)'"), "formats[0].finding.signatures[0].match", "not an RE2"),
        (("level: medium}", "level: middling}"), "formats[0].finding.signatures[1].level",
         "must be one of informational"),
        (("Worst: critical", "Worst: dire"), "formats[0].finding.level.table.Worst", "one of"),
        (("low: 10", "lowest: 10"), "formats[1].finding.level.at_least.lowest", "one of"),
        (("low: 10", "low: ten"), "formats[1].finding.level.at_least.low", "must be a number"),
        (("field: severity, table", "table"), "formats[0].finding.level", "for no field"),
        (("otherwise: low}", "otherwise: lo}"), "formats[0].finding.level.otherwise", "one of"),
        (("delimiter: semicolon", "delimiter: ;"), "formats[0].delimiter", "one of comma"),
        (("delimiter: semicolon", "columns: [a]"), "formats[0].columns", "names no column"),
        (("time: when", "time: then"), "formats[0].time", "gives no field 'then'"),
        (("entities: {address", "entities: {adress"), "formats[0].entities.adress", "must be one"),
        (("where: {kind: [alert", "where: {kind: [1"), "formats[1].finding.where.kind[0]", "text"),
        (("      techniques: {field: tags}", "      technique: x"), "formats[0].finding.technique",
         "unknown key"),
        (("    csv: {", "    pattern: '(?P<a>x)'\n    csv: {"), "formats[0]", "must have either"),
        (("    json: {", "    columns: [a]\n    json: {"), "formats[1].columns", "only a csv"),
    ],
)  # fmt: skip
def test_every_mistake_has_its_key(change: tuple[str, str], key: str, reason: str) -> None:
    old, new = change
    assert CONFIG.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        load(CONFIG.replace(old, new, 1))
    said = [text for text in caught.value.problems if f": {key}: " in text]
    assert len(said) == 1, caught.value.problems
    assert reason in said[0]


def test_a_listener_has_no_header_line() -> None:
    text = CONFIG.replace(
        "{name: edr, paths: [/var/log/edr.csv], format: edr}",
        "{name: edr, type: syslog, transport: tcp, address: '127.0.0.1:5140', format: edr}",
    )
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert any("sources[0].format" in said and "header" in said for said in caught.value.problems)


# -- through the line ------------------------------------------------------------------------------


def test_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    log = tmp_path / "edr.csv"
    log.write_bytes(HEADER + b"\n" + ROW + b"\n" + ROW.replace(b"ann", b"eve") + b"\nbroken;line\n")
    assert main([
        "scan", str(log), "--no-model", "--config", str(tmp_path / "a.yaml"),
        "--input-format", "edr", "--quiet", "--out", "-",
    ]) == 0  # fmt: skip
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [body["detector"] for body in found] == ["acme-edr"] * 2
    starts = [len(HEADER) + 1, len(HEADER) + len(ROW) + 2]
    assert [body["source"]["record"] for body in found] == starts
    assert [body["entities"][0] for body in found] == [{"kind": "host", "value": "ws5"}] * 2


def read_ait(path: Path) -> tuple[list[Detection], int]:
    """What the mapping makes of the file, through the stateless half; and how many are rejected."""
    config = load_config(AIT)
    reader = Reader(
        detectors={"sensors": SensorDetector(build_mappings(config))},
        zones={"scan": UTC},
        formats=build_formats(config),
    )
    name = StreamName("scan", path.name, path.name, str(path), "ait-alerts", columns=True)
    stream = open_stream(name, StreamLimits())
    found: list[Detection] = []
    rejected = 0
    while not stream.ended:
        got = stream.read(Want(5000, final=True), RECEIVED)
        work = read_records([SourceBatch(got.records, got.rejected, [])], reader)
        found += work.detections
        rejected += len(work.rejected)
    stream.close()
    return found, rejected


def test_real_alerts_one_finding_a_row(shared_data: Any) -> None:
    path = next(shared_data("alerts").rglob("russellmitchell_alerts.csv"))
    found, rejected = read_ait(path)
    data = path.read_bytes()
    rows = list(csv.DictReader(data.decode().splitlines()))
    assert (len(found), rejected) == (len(rows), 0) == (45_544, 0)
    number, at = 0, 0
    for one, row in zip(found, rows, strict=True):
        position = one.event.record.cursor.position
        number += data.count(b"\n", at, position)
        at = position
        assert rows[number - 1] is row  # the row's number from the position alone
        assert one.title == row["name"]
        assert one.detector == row["name"].partition(":")[0].lower()
        assert one.event.time == float(row["time"])
        assert one.event.host == row["host"].lower()
        fields = one.event.views[0].fields
        assert fields.keys() <= {"time", "signature", "ip", "host", "short"}
        assert f"address:{row['ip']}" in list_entities(one.event)
    assert Counter(one.detector for one in found).keys() == {"wazuh", "suricata", "aminer"}


@pytest.mark.parametrize(
    ("name", "detector", "level"),
    [
        ("Wazuh: Some new rule nobody listed.", "wazuh", "low"),
        ("Wazuh: Host: brute force of something.", "wazuh", "medium"),
        ("Wazuh: Rootkit found.", "wazuh", "high"),
        ("Suricata: Alert - ET MALWARE Something", "suricata", "high"),
        ("Suricata: Alert - SURICATA STREAM x", "suricata", "low"),
        ("Suricata: Alert - something local", "suricata", "low"),
        ("AMiner: New anything.", "aminer", "low"),
        ("Sophos: x", "ait", "low"),
        ("Not Wazuh: x", "ait", "low"),
    ],
)
def test_names_that_the_mapping_does_not_list(name: str, detector: str, level: str) -> None:
    config = load_config(AIT)
    header = b"time,name,ip,host,short,time_label,event_label"
    line = f"1642723347,{name},192.0.2.1,mail,X,secret-a,secret-b".encode()
    record = RawRecord(
        line, "t", "/x", "x", make_line(line).cursor, RECEIVED, "ait-alerts", header=header
    )
    result = read_event(record, UTC, build_formats(config))
    assert not isinstance(result, Rejected)
    (found,) = SensorDetector(build_mappings(config)).detect(result[0])
    assert (found.detector, found.level, found.title) == (detector, level, name)
    assert "secret" not in repr((found.matched, result[0].views, found.event.entities))
