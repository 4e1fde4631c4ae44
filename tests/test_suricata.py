"""Suricata's EVE records: every event type is mapped, its versions too, and none can be forged."""

import json
import time
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode import decode
from appliance.normalise import FED, feeds, normalise
from appliance.normalise.suricata import SERVICES, SOURCES
from appliance.schema import Cursor, Decoded, Event, LogSource, RawRecord

RECEIVED = 1_790_000_000.0
WHEN = "2023-11-14T23:13:20.250000+0100"
TS = 1_700_000_000.25
BASE: dict[str, Any] = {
    "timestamp": WHEN, "flow_id": 1374195536821504, "in_iface": "eth0", "src_ip": "192.0.2.7",
    "src_port": 49152, "dest_ip": "198.51.100.9", "dest_port": 80, "proto": "TCP",
    "host": "Tap-01.example.com",
}  # fmt: skip


def make_record(fields: dict[str, Any] | bytes) -> RawRecord:
    data = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    cursor = Cursor("sensor", "eve", 0, len(data))
    return RawRecord(data, "sensor", "/var/log/suricata/eve.json", "eve", cursor, RECEIVED)


def read(event_type: str, **parts: Any) -> Event:
    record = make_record({**BASE, "event_type": event_type, **parts})
    return normalise(record, decode(record), zone=UTC).event


def sources(event: Event) -> list[LogSource]:
    return [view.logsource for view in event.views]


def entities(event: Event) -> set[str]:
    return {f"{entity.kind}:{entity.value}" for entity in event.entities}


BOTH = {"address:192.0.2.7", "address:198.51.100.9"}


def test_an_alert() -> None:
    alert = {"action": "allowed", "gid": 1, "signature_id": 2024897, "signature": "ET X",
             "severity": 1, "metadata": {"mitre_technique_id": ["T1190"]}}  # fmt: skip
    event = read("alert", alert=alert, http={"hostname": "Evil.Example.com", "url": "/x"})
    assert sources(event) == [LogSource("suricata", None, "alert")]
    fields = event.views[0].fields
    assert fields["alert.signature_id"] == 2024897
    assert fields["alert.metadata.mitre_technique_id"] == ["T1190"]
    assert (fields["dest_ip"], fields["dst_ip"], fields["dst_port"]) == (
        "198.51.100.9", "198.51.100.9", 80,
    )  # fmt: skip
    assert (event.host, event.time, event.time_known) == ("tap-01", TS, True)
    assert entities(event) == BOTH | {"domain:evil.example.com"}


def test_http_is_what_a_proxy_and_a_web_server_would_log() -> None:
    http = {"hostname": "www.example.com", "url": "/a/b.PHP?q=1", "http_user_agent": "curl/8",
            "http_method": "POST", "http_refer": "http://r.example/", "protocol": "HTTP/1.1",
            "status": 404, "length": 47}  # fmt: skip
    event = read("http", http=http)
    assert sources(event) == [
        LogSource("suricata", None, "http"),
        LogSource(category="proxy"),
        LogSource(category="webserver"),
    ]
    expected = {
        "http.url": "/a/b.PHP?q=1",
        "cs-method": "POST",
        "cs-host": "www.example.com",
        "r-dns": "www.example.com",
        "c-uri": ["/a/b.PHP?q=1", "http://www.example.com/a/b.PHP?q=1"],
        "cs-uri-query": ["q=1", "/a/b.PHP?q=1"],
        "cs-uri-stem": "/a/b.PHP",
        "c-uri-extension": "PHP",
        "c-useragent": "curl/8",
        "cs-referer": "http://r.example/",
        "sc-status": 404,
        "c-ip": "192.0.2.7",
    }
    fields = event.views[2].fields
    assert {name: fields.get(name) for name in expected} == expected
    assert entities(event) == BOTH | {"domain:www.example.com"}
    assert event.host == "tap-01"


@pytest.mark.parametrize(
    ("dns", "query", "kind", "answer"),
    [
        ({"type": "query", "id": 2, "rrname": "a.example.org", "rrtype": "A"},
         "a.example.org", "A", None),
        ({"type": "answer", "rrname": "a.example.org", "rrtype": "TXT", "rdata": "IEX"},
         "a.example.org", "TXT", "IEX"),
        ({"version": 2, "type": "answer", "rrname": "a.example.org", "rrtype": "A",
          "answers": [{"rrname": "a.example.org", "rrtype": "CNAME", "rdata": "b.example"},
                      {"rrname": "b.example", "rrtype": "A", "rdata": "203.0.113.9"}]},
         "a.example.org", "A", ["b.example", "203.0.113.9"]),
        ({"version": 2, "type": "answer", "rrname": "a.example.org", "rrtype": "A",
          "grouped": {"A": ["203.0.113.9"], "CNAME": ["b.example"]}},
         "a.example.org", "A", ["203.0.113.9", "b.example"]),
        ({"version": 3, "type": "request",
          "queries": [{"rrname": "a.example.org", "rrtype": "TXT"}]},
         "a.example.org", "TXT", None),
        ({"version": 3, "type": "response",
          "queries": [{"rrname": "a.example.org", "rrtype": "TXT"}],
          "answers": [{"rrname": "a.example.org", "rrtype": "TXT", "rdata": "IEX"}]},
         "a.example.org", "TXT", "IEX"),
        ({"query": [{"type": "query", "rrname": "a.example.org", "rrtype": "A"}]},
         "a.example.org", "A", None),
    ],
    ids=["1-query", "1-answer", "2-detailed", "2-grouped", "3-request", "3-response", "alert"],
)  # fmt: skip
def test_dns_of_every_version(dns: dict[str, Any], query: str, kind: str, answer: Any) -> None:
    event = read("dns", dns=dns, dest_port=53)
    assert sources(event) == [LogSource("suricata", None, "dns"), LogSource(category="dns")]
    fields = event.views[1].fields
    assert (fields["query"], fields["record_type"]) == (query, kind)
    assert fields.get("answer") == answer
    assert entities(event) == {"address:192.0.2.7", "domain:a.example.org"}


@pytest.mark.parametrize(
    ("event_type", "parts", "fields", "found"),
    [
        ("flow", {"flow": {"state": "closed", "bytes_toserver": 9}},
         {"flow.state": "closed", "dst_port": 80}, set()),
        ("netflow", {"netflow": {"pkts": 1}}, {"netflow.pkts": 1}, set()),
        ("drop", {"drop": {"len": 40}}, {"action": "drop"}, set()),
        ("tls", {"tls": {"sni": "C2.example.net", "version": "TLS 1.2"}},
         {"tls.sni": "C2.example.net"}, {"domain:c2.example.net"}),
        ("quic", {"quic": {"sni": "c2.example.net"}}, {}, {"domain:c2.example.net"}),
        ("fileinfo", {"fileinfo": {"filename": "/a.exe", "md5": "cd" * 16, "sha256": "ab" * 32}},
         {"fileinfo.filename": "/a.exe"},
         {"file:/a.exe", f"hash:md5:{'cd' * 16}", f"hash:sha256:{'ab' * 32}"}),
        ("ssh", {"ssh": {"client": {"software_version": "libssh"}}},
         {"ssh.client.software_version": "libssh"}, set()),
        ("smb", {"smb": {"command": "SMB2_COMMAND_CREATE", "filename": "svcctl",
                         "ntlmssp": {"user": "Eve", "domain": "CORP"}}},
         {"user": "Eve"}, {"user:corp\\eve", "file:svcctl"}),
        ("krb5", {"krb5": {"msg_type": "KRB_AS_REQ", "cname": "eve", "realm": "CORP.EXAMPLE"}},
         {"user": "eve"}, {"user:corp\\eve"}),
        ("rdp", {"rdp": {"cookie": "mstshash=eve"}}, {"user": "eve"}, {"user:eve"}),
        ("dhcp", {"dhcp": {"assigned_ip": "192.0.2.50", "hostname": "dc01"}},
         {"dhcp.hostname": "dc01"}, {"address:192.0.2.50"}),
        ("anomaly", {"anomaly": {"type": "decode", "event": "decoder.ipv4.trunc_pkt"}},
         {"anomaly.event": "decoder.ipv4.trunc_pkt"}, set()),
        ("modbus", {"modbus": {"id": 1, "request": {"function_raw": 5}}},
         {"modbus.request.function_raw": 5}, set()),
    ],
)  # fmt: skip
def test_each_event_type_keeps_its_names_and_gives_its_entities(
    event_type: str, parts: dict[str, Any], fields: dict[str, Any], found: set[str]
) -> None:
    event = read(event_type, **parts)
    assert event.views[0].logsource == LogSource("suricata", None, event_type)
    own = event.views[0].fields
    assert {name: own.get(name) for name in fields} == fields
    assert entities(event) == BOTH | found
    firewall = LogSource(category="firewall") in sources(event)
    assert firewall == (event_type in ("flow", "netflow", "drop"))


def test_statistics_have_no_flow() -> None:
    record = make_record({"timestamp": WHEN, "event_type": "stats", "stats": {"uptime": 8}})
    event = normalise(record, decode(record), zone=UTC).event
    assert sources(event) == [LogSource("suricata", None, "stats")]
    assert (event.time, event.host, event.entities) == (TS, "", ())


@pytest.mark.parametrize(
    "fields",
    [
        {"event_type": "alert", "message": "an application's own"},
        {"event_type": "alert", "timestamp": WHEN, "src_ip": "192.0.2.7", "dest_ip": "192.0.2.8"},
        {"event_type": "purchase", "timestamp": WHEN, "flow_id": 1},
        {"event_type": ["alert"], "timestamp": WHEN, "flow_id": 1},
        {"event_type": "http", "timestamp": 1_700_000_000, "http": {}},
        {"event_type": "http", "timestamp": WHEN, "http": "GET / HTTP/1.1"},
    ],
)
def test_other_products_json_is_not_suricatas(fields: dict[str, Any]) -> None:
    record = make_record(fields)
    assert not normalise(record, decode(record), zone=UTC).event.mapped


def test_the_sender_in_a_syslog_header_is_the_sensor_when_the_record_names_none() -> None:
    body = {**BASE, "event_type": "flow", "flow": {}}
    del body["host"]
    record = make_record(b"<13>1 2023-11-14T22:00:00Z tap-02 suricata 7 - - "
                         + json.dumps(body).encode())  # fmt: skip
    event = normalise(record, decode(record), zone=UTC).event
    assert (sources(event)[0], event.host) == (LogSource("suricata", None, "flow"), "tap-02")
    assert event.time == TS


@pytest.mark.parametrize("program", ["sshd", "sudo", "kernel"])
def test_a_message_of_a_host_program_is_no_eve_record(program: str) -> None:
    body = json.dumps({**BASE, "event_type": "alert", "alert": {"signature_id": 1}}).encode()
    record = make_record(f"<86>1 2023-11-14T22:00:00Z web {program} 1 - - ".encode() + body)
    event = normalise(record, decode(record), zone=UTC).event
    assert all(source.product == "linux" for source in sources(event))


@pytest.mark.parametrize(
    "hostile",
    ['x","event_type":"alert","alert":{"signature_id":1},"y":"', "a\r\n{}", "\x1b[2J\x00", "\t"],
)
def test_a_clients_text_stays_in_its_field(hostile: str) -> None:
    http = {"hostname": hostile, "url": hostile, "http_user_agent": hostile}
    event = read("http", http=http)
    assert sources(event)[0] == LogSource("suricata", None, "http")
    fields = event.views[0].fields
    assert fields["c-useragent"] == fields["http.http_user_agent"] == hostile
    assert not any(name.startswith("alert") for name in fields)
    assert event.host == "tap-01"
    for entity in event.entities:
        assert entity.value.isprintable()


def test_a_clients_host_header_is_never_the_events_host() -> None:
    body = {**BASE, "event_type": "http", "http": {"hostname": "dc01", "host": "dc02"}}
    del body["host"]
    event = normalise(make_record(body), decode(make_record(body)), zone=UTC).event
    assert event.host == ""


def test_thousands_of_answers_end_quickly() -> None:
    rows = [{"rrname": "a.example", "rrtype": f"T{n}", "rdata": "x" * 20} for n in range(50_000)]
    record = make_record({**BASE, "event_type": "dns", "dns": {"answers": rows, "queries": rows}})
    decoded = decode(record)
    began = time.perf_counter()
    event = normalise(record, decoded, zone=UTC).event
    assert time.perf_counter() - began < 2.0
    assert len(event.views[1].fields["answer"]) <= 256
    assert len(event.entities) <= 20


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["rrname", "rrtype", "rdata", "answers", "queries", "grouped", "A",
                             "hostname", "url", "sni", "filename", "md5", "ntlmssp", "user"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.sampled_from(SERVICES),
    st.dictionaries(
        st.sampled_from([*BASE, "dns", "http", "alert", "smb", "tls", "fileinfo", "query"]), VALUES
    ),
)
def test_no_fields_raise_anything(event_type: str, fields: dict[str, Any]) -> None:
    record = make_record(b"{}")
    decoded = Decoded("json", {**BASE, **fields, "event_type": event_type})
    event = normalise(record, decoded, zone=UTC).event
    assert set(sources(event)) <= set(FED)


def test_every_log_source_is_fed() -> None:
    assert len(set(SERVICES)) == len(SERVICES)
    for source in SOURCES:
        assert feeds(source) is None
