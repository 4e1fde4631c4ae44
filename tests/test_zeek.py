r"""Zeek logs, tab-separated and JSON: every line is typed, mapped, and can't be forged.

The lines have the shape that Zeek 4 to 6 writes; addresses are of the documentation's ranges.
"""

import json
import time
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode import decode, detect_format
from appliance.decode.zeek import is_zeek_header
from appliance.errors import DecodeError
from appliance.normalise import FED, feeds, normalise
from appliance.normalise.zeek import SERVICES, SOURCES
from appliance.schema import Cursor, Decoded, Event, LogSource, RawRecord

RECEIVED = 1_790_000_000.0
TS = 1_700_000_000.25
ENDS = "id.orig_h:addr id.orig_p:port id.resp_h:addr id.resp_p:port"
CONNECTION = f"ts:time uid:string {ENDS}"
START = "1700000000.250000\tCabc123\t192.0.2.7\t49152\t198.51.100.9\t{port}"
PROXY, WEBSERVER = LogSource(category="proxy"), LogSource(category="webserver")


def make_header(path: str, columns: str, separator: str = "\\x09") -> bytes:
    """The header of a log; `columns` are name:type words."""
    between = separator.replace("\\x09", "\t").replace("\\x7c", "|")
    pairs = [word.rpartition(":") for word in columns.split()]
    lines = [
        f"#separator {separator}",
        between.join(("#set_separator", ",")),
        between.join(("#empty_field", "(empty)")),
        between.join(("#unset_field", "-")),
        between.join(("#path", path)),
        between.join(("#open", "2023-11-14-22-13-20")),
        between.join(("#fields", *(name for name, _, _ in pairs))),
        between.join(("#types", *(kind for _, _, kind in pairs))),
    ]
    return "\n".join(lines).encode()


def make_record(
    data: bytes | str, header: bytes = b"", *, name: str = "zeek.txt", form: str = "auto"
) -> RawRecord:
    raw = data.encode() if isinstance(data, str) else data
    cursor = Cursor("sensor", name, 0, len(raw))
    path = f"/var/log/zeek/{name}"
    return RawRecord(raw, "sensor", path, name, cursor, RECEIVED, form, header=header)


def read_line(path: str, columns: str, line: str, *, name: str = "zeek.txt") -> Event:
    record = make_record(line, make_header(path, columns), name=name)
    return normalise(record, decode(record), zone=UTC).event


def read_json(fields: dict[str, Any], *, name: str = "zeek.txt") -> Event:
    record = make_record(json.dumps(fields), name=name)
    return normalise(record, decode(record), zone=UTC).event


def sources(event: Event) -> list[LogSource]:
    return [view.logsource for view in event.views]


def entities(event: Event) -> set[str]:
    return {f"{entity.kind}:{entity.value}" for entity in event.entities}


# Decode: the tab-separated form -----------------------------------------------------------------

CONN = (
    f"{CONNECTION} proto:enum service:string duration:interval orig_bytes:count resp_bytes:count "
    "conn_state:string local_orig:bool local_resp:bool missed_bytes:count history:string "
    "orig_pkts:count tunnel_parents:set[string]"
)
CONN_LINE = START.format(port=443) + "\ttcp\tssl\t0.510000\t120\t-\tSF\tT\tF\t0\tShADad\t5\t(empty)"


def test_columns_have_the_types_that_the_header_says() -> None:
    record = make_record(CONN_LINE, make_header("conn", CONN))
    assert decode(record) == Decoded(
        "zeek",
        {
            "_path": "conn",
            "ts": TS,
            "uid": "Cabc123",
            "id.orig_h": "192.0.2.7",
            "id.orig_p": 49152,
            "id.resp_h": "198.51.100.9",
            "id.resp_p": 443,
            "proto": "tcp",
            "service": "ssl",
            "duration": 0.51,
            "orig_bytes": 120,
            "conn_state": "SF",
            "local_orig": True,
            "local_resp": False,
            "missed_bytes": 0,
            "history": "ShADad",
            "orig_pkts": 5,
            "tunnel_parents": [],
        },
    )


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "(empty)", ""),
        ("string", "a\\x09b\\\\c", "a\tb\\c"),
        ("string", "caf\\xc3\\xa9 é", "café é"),
        ("string", "\\xff\\xfe", "\\xff\\xfe"),
        ("string", "\\\\xff", "\\xff"),
        ("string", "\\q\\x4", "\\q\\x4"),
        ("enum", "Notice::ACTION_LOG", "Notice::ACTION_LOG"),
        ("addr", "2001:db8::1", "2001:db8::1"),
        ("set[string]", "a\\x2cb,-,c", ["a,b", None, "c"]),
        ("vector[count]", "1,0,1", [1, 0, 1]),
        ("vector[interval]", "60.000000,5.5", [60.0, 5.5]),
        ("vector[string]", "(empty)", []),
        ("set[bool]", "T", [True]),
        ("int", "-12", -12),
        ("count", "18446744073709551615", 2**64 - 1),
        ("count", "99999999999999999999", "99999999999999999999"),
        ("count", "80/tcp", "80/tcp"),
        ("count", "9" * 5000, "9" * 5000),
        ("time", "XXXXXXXXXX.XXXXXX", "XXXXXXXXXX.XXXXXX"),
        ("double", "nan", "nan"),
        ("double", "1e999", "1e999"),
        ("bool", "maybe", "maybe"),
        ("unheard_of", "x", "x"),
    ],
)
def test_each_value_is_read_or_stays_text(kind: str, text: str, value: Any) -> None:
    record = make_record(f"{text}\tend", make_header("x", f"v:{kind} last:string"))
    assert decode(record).fields == {"_path": "x", "v": value, "last": "end"}


def test_an_unset_column_is_absent_and_another_sign_for_it_is_heeded() -> None:
    header = make_header("x", "a:string b:set[string] c:string").replace(
        b"#unset_field\t-", b"#unset_field\tNIL"
    )
    assert decode(make_record("NIL\tNIL\t-", header)).fields == {"_path": "x", "c": "-"}


def test_another_separator_is_heeded() -> None:
    header = make_header("x", "a:count b:string", separator="\\x7c")
    assert decode(make_record("7|x\ty", header)).fields == {"_path": "x", "a": 7, "b": "x\ty"}


def test_the_last_of_two_headers_holds() -> None:
    header = make_header("x", "a:count") + b"\n" + make_header("y", "b:string c:bool")
    assert decode(make_record("1\tT", header)).fields == {"_path": "y", "b": "1", "c": True}


@pytest.mark.parametrize(
    ("line", "header", "reason"),
    [
        ("1\t2", b"", "without the #fields line"),
        ("1\t2", b"#separator \\x09\n#path\tx", "without a #fields line"),
        ("1\t2", b"#fields\ta\tb\n#types\tcount", "2 columns and 1 types"),
        ("1\t2", b"#fields\t" + b"a" * 70_000, "over the limit"),
        ("1\t2\t3", make_header("x", "a:count b:count"), "3 columns, its header has 2"),
        ("1", make_header("x", "a:count b:count"), "1 columns, its header has 2"),
        ("#close\t2023", make_header("x", "a:count b:count"), "not a record"),
        ("", make_header("x", "a:count b:count"), "1 columns, its header has 2"),
    ],
)
def test_what_cannot_be_read_says_why(line: str, header: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(make_record(line, header, form="zeek"))


def test_a_record_that_was_cut_is_rejected_and_not_read_short() -> None:
    whole = make_record(CONN_LINE[:60], make_header("conn", CONN))
    cut = RawRecord(**{name: getattr(whole, name) for name in whole.__struct_fields__}
                    | {"truncated": 9000})  # fmt: skip
    with pytest.raises(DecodeError, match="9000 bytes was cut"):
        decode(cut)


def test_bytes_that_are_no_utf8_are_escaped_and_counted() -> None:
    record = make_record(b"a\xffb\t1", make_header("x", "a:string b:count"))
    assert decode(record) == Decoded("zeek", {"_path": "x", "a": "a\\xffb", "b": 1}, repaired=True)


def test_the_header_decides_and_not_what_a_value_looks_like() -> None:
    """An attacker writes the first column of few logs, but a log's columns may be sorted anew."""
    for value in ('{"event_type":"alert"}', "<13>Jan  1 00:00:00 h p: m", "CEF:0|a|b|c|d|e|9|"):
        record = make_record(f"{value}\t1", make_header("x", "a:string b:count"))
        assert decode(record).fields == {"_path": "x", "a": value, "b": 1}


def test_without_its_header_a_line_is_only_text() -> None:
    record = make_record(CONN_LINE)
    assert detect_format(record.data) == "text"
    assert not normalise(record, decode(record), zone=UTC).event.mapped


def test_the_formats_name_is_that_of_both_writers() -> None:
    record = make_record(json.dumps(JSON_CONN), form="zeek")
    assert decode(record) == Decoded("json", JSON_CONN)
    with pytest.raises(DecodeError, match="not JSON"):
        decode(make_record("{1\t2", form="zeek"))


def test_other_headers_are_not_zeeks() -> None:
    assert is_zeek_header(make_header("conn", CONN))
    assert not is_zeek_header(b"#Software: Microsoft IIS\n#Fields: date time cs-method")
    assert not is_zeek_header(b"")


@pytest.mark.parametrize("unit", ["\t", "\\", "\\x", "\\x09", ",", "a", "\xe9", "-\t"])
def test_a_long_line_ends_quickly(unit: str) -> None:
    line = unit * (100_000 // len(unit))
    began = time.perf_counter()
    for columns in ("a:string", "a:set[string]", "a:count", "a:time", "a:string b:string"):
        record = make_record(line, make_header("dns", columns), form="zeek")
        try:
            assert normalise(record, decode(record), zone=UTC).event
        except DecodeError as error:
            assert "columns" in str(error)
    assert time.perf_counter() - began < 2.0


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes, tail: bytes) -> None:
    columns = "a:string b:set[string] c:count d:time e:bool"
    for header in (make_header("dns", columns), make_header("dns", columns) + b"\n" + tail, tail):
        record = make_record(data, header, form="zeek")
        try:
            event = normalise(record, decode(record), zone=UTC).event
        except DecodeError:
            continue
        json.dumps([view.fields for view in event.views]).encode()


# Normalise: each log ----------------------------------------------------------------------------

DNS = (
    f"{CONNECTION} proto:enum trans_id:count rtt:interval query:string qclass:count "
    "qclass_name:string qtype:count qtype_name:string rcode:count rcode_name:string AA:bool "
    "TC:bool RD:bool RA:bool Z:count answers:vector[string] TTLs:vector[interval] rejected:bool"
)
DNS_LINE = (
    START.format(port=53) + "\tudp\t4711\t0.010000\t{query}\t1\tC_INTERNET\t16\tTXT\t0\tNOERROR"
    "\tF\tF\tT\tT\t0\tTXT 3 IEX,203.0.113.5\t60.0,60.0\tF"
)
HTTP = (
    f"{CONNECTION} trans_depth:count method:string host:string uri:string referrer:string "
    "version:string user_agent:string request_body_len:count response_body_len:count "
    "status_code:count status_msg:string tags:set[enum] username:string password:string "
    "resp_filenames:vector[string] resp_mime_types:vector[string]"
)
HTTP_LINE = (
    START.format(port=80) + "\t1\tGET\twww.example.com:8080\t{uri}\thttp://ref.example/\t1.1"
    "\t{agent}\t0\t5120\t200\tOK\t(empty)\tCORP\\\\eve\t-\ta.exe\tapplication/x-dosexec"
)


def test_conn_is_zeeks_and_a_firewalls() -> None:
    event = read_line("conn", CONN, CONN_LINE)
    assert sources(event) == [LogSource("zeek", None, "conn"), LogSource(category="firewall")]
    fields = event.views[1].fields
    assert (fields["src_ip"], fields["src_port"]) == ("192.0.2.7", 49152)
    assert (fields["dst_ip"], fields["dst_port"]) == ("198.51.100.9", 443)
    assert "action" not in fields  # Zeek sees what passes, and does not say what a rule let pass
    assert fields["id.orig_h"] == "192.0.2.7"
    assert (event.time, event.time_known, event.mapped) == (TS, True, True)
    assert (event.host, event.format) == ("", "zeek")
    assert entities(event) == {"address:192.0.2.7", "address:198.51.100.9"}


def test_dns_has_the_taxonomys_names() -> None:
    event = read_line("dns", DNS, DNS_LINE.format(query="Evil.Example.com"))
    assert sources(event) == [LogSource("zeek", None, "dns"), LogSource(category="dns")]
    fields = event.views[1].fields
    assert fields["query"] == "Evil.Example.com"
    assert (fields["record_type"], fields["response_code"]) == ("TXT", "NOERROR")
    assert fields["answer"] == ["TXT 3 IEX", "203.0.113.5"]
    # The resolver is everyone's: it would join all who ask into one incident.
    assert entities(event) == {"address:192.0.2.7", "domain:evil.example.com"}


@pytest.mark.parametrize(
    "query", ["9.100.51.198.in-addr.arpa", "_homekit._tcp.local", "WORKGROUP", "a b.example"]
)
def test_names_that_are_no_domain_join_nothing(query: str) -> None:
    event = read_line("dns", DNS, DNS_LINE.format(query=query))
    assert event.views[0].fields["query"] == query
    assert entities(event) == {"address:192.0.2.7"}


def test_http_is_what_a_proxy_and_a_web_server_would_log() -> None:
    event = read_line("http", HTTP, HTTP_LINE.format(uri="/a/b.php?q=1&x=2", agent="curl/8"))
    assert sources(event) == [LogSource("zeek", None, "http"), PROXY, WEBSERVER]
    fields = event.views[1].fields
    expected = {
        "method": "GET",
        "uri": "/a/b.php?q=1&x=2",
        "cs-method": "GET",
        "host": "www.example.com:8080",
        "cs-host": "www.example.com",
        "r-dns": "www.example.com",
        "c-uri": ["/a/b.php?q=1&x=2", "http://www.example.com:8080/a/b.php?q=1&x=2"],
        "cs-uri": "/a/b.php?q=1&x=2",
        "cs-uri-query": ["q=1&x=2", "/a/b.php?q=1&x=2"],
        "cs-uri-stem": "/a/b.php",
        "c-uri-query": ["q=1&x=2", "/a/b.php?q=1&x=2"],
        "c-uri-extension": "php",
        "c-useragent": "curl/8",
        "cs-user-agent": "curl/8",
        "cs-referrer": "http://ref.example/",
        "cs-referer": "http://ref.example/",
        "sc-status": 200,
        "sc-bytes": 5120,
        "cs-username": "CORP\\eve",
        "user": "CORP\\eve",
        "c-ip": "192.0.2.7",
        "dst_ip": "198.51.100.9",
    }
    assert {name: fields.get(name) for name in expected} == expected
    assert entities(event) == {
        "address:192.0.2.7", "address:198.51.100.9", "domain:www.example.com", "user:corp\\eve",
        "file:a.exe",
    }  # fmt: skip


def test_an_encoded_uri_is_read_as_written_and_decoded() -> None:
    line = HTTP_LINE.format(uri="/%252e%252e/x?q=%3Cscript%3E", agent="-")
    fields = read_line("http", HTTP, line).views[0].fields
    assert {"/%252e%252e/x", "/%2e%2e/x", "/../x"} <= set(fields["cs-uri-stem"])
    assert "q=<script>" in fields["cs-uri-query"]
    assert "http://www.example.com:8080/%252e%252e/x?q=%3Cscript%3E" in fields["c-uri"]
    # No user agent was sent: rules for proxies ask for an empty one.
    assert (fields["c-useragent"], "cs-user-agent" in fields) == ("", False)


def test_a_long_uri_ends_quickly() -> None:
    began = time.perf_counter()
    for unit in ("a", "%25", "%u0041", "?", "/", ".", "+"):
        uri = "/x?" + unit * (100_000 // len(unit))
        fields = read_line("http", HTTP, HTTP_LINE.format(uri=uri, agent="-")).views[0].fields
        assert fields["uri"] == uri
    assert time.perf_counter() - began < 3.0


# path, columns behind those of a connection (or all, with ts first), values, fields, entities
LOGS: tuple[tuple[str, str, str, dict[str, Any], set[str]], ...] = (
    (
        "ssl",
        "version:string server_name:string resumed:bool established:bool ja3:string",
        "TLSv12\tC2.example.net\tF\tT\te7d705a3286e19ea42f587b344ee6865",
        {"server_name": "C2.example.net", "established": True},
        {"domain:c2.example.net"},
    ),
    (
        "ssh",
        "version:count auth_success:bool auth_attempts:count client:string server:string",
        "2\tF\t6\tSSH-2.0-libssh\tSSH-2.0-OpenSSH_9",
        {"result": "failure", "auth_attempts": 6},
        set(),
    ),
    (
        "rdp",
        "cookie:string result:string security_protocol:string cert_count:count",
        "eve\tencrypted\tHYBRID\t0",
        {"result": "encrypted", "user": "eve"},
        {"user:eve"},
    ),
    (
        "smb_files",
        "fuid:string action:enum path:string name:string size:count",
        "-\tSMB::FILE_OPEN\t\\\\\\\\198.51.100.9\\\\IPC$\t\\\\svcctl\t0",
        {"path": "\\\\198.51.100.9\\IPC$", "name": "\\svcctl"},
        {"file:\\svcctl"},
    ),
    (
        "smb_mapping",
        "path:string service:string native_file_system:string share_type:string",
        "\\\\\\\\198.51.100.9\\\\ADMIN$\t-\t-\tDISK",
        {"path": "\\\\198.51.100.9\\ADMIN$"},
        set(),
    ),
    (
        "kerberos",
        "request_type:string client:string service:string success:bool cipher:string",
        "TGS\teve/CORP.EXAMPLE\tkrbtgt/CORP.EXAMPLE\tT\trc4-hmac",
        {"user": "eve", "result": "success", "cipher": "rc4-hmac"},
        {"user:corp\\eve"},
    ),
    (
        "ntlm",
        "username:string hostname:string domainname:string success:bool",
        "Eve\tWS1\tCORP\tF",
        {"user": "Eve", "result": "failure"},
        {"user:corp\\eve"},
    ),
    (
        "ftp",
        "user:string password:string command:string arg:string reply_code:count",
        "<unknown>\t-\tRETR\tftp://198.51.100.9/x\t226",
        {"user": "<unknown>", "reply_code": 226},
        set(),
    ),
    (
        "dce_rpc",
        "rtt:interval named_pipe:string endpoint:string operation:string",
        "0.0004\t\\\\pipe\\\\svcctl\tsvcctl\tCreateServiceW",
        {"operation": "CreateServiceW"},
        set(),
    ),
    (
        "radius",
        "username:string mac:string result:string",
        "eve\t-\tfailed",
        {"result": "failed", "user": "eve"},
        {"user:eve"},
    ),
    (
        "socks",
        "version:count user:string status:string request.host:addr request.name:string",
        "5\teve\tsucceeded\t203.0.113.80\t-",
        {"user": "eve"},
        {"user:eve", "address:203.0.113.80"},
    ),
    (
        "mysql",
        "cmd:string arg:string success:bool rows:count",
        "query\tselect 1\tT\t1",
        {"result": "success"},
        set(),
    ),
    (
        "smtp",
        "trans_depth:count helo:string mailfrom:string rcptto:set[string] x_originating_ip:addr",
        "1\tmail\ta@example.org\tb@example.com,c@example.com\t203.0.113.77",
        {"rcptto": ["b@example.com", "c@example.com"]},
        {"address:203.0.113.77"},
    ),
    (
        "modbus",
        "tid:count unit:count func:string pdu_type:string exception:string",
        "1\t4\tWRITE_SINGLE_COIL\tREQ\t-",
        {"func": "WRITE_SINGLE_COIL"},
        set(),
    ),
    (
        "dnp3_control",
        "is_orig:bool block_type:string function_code:string index_number:count",
        "T\tControl Relay Output Block\tSELECT\t8",
        {"is_orig": True, "index_number": 8},
        set(),
    ),
    (
        "s7comm",
        "rosctr_name:string function_name:string",
        "Job-Request\tPLC Stop",
        {"function_name": "PLC Stop"},
        set(),
    ),
    ("bacnet", "pdu_service:string", "write_property", {"pdu_service": "write_property"}, set()),
    ("cip", "cip_service:string", "Stop", {"cip_service": "Stop"}, set()),
    (
        "intel",
        "seen.indicator:string seen.indicator_type:enum sources:set[string]",
        "bad.example.org\tIntel::DOMAIN\tfeed",
        {"seen.indicator": "bad.example.org"},
        {"domain:bad.example.org"},
    ),
    (
        "open_conn",
        "proto:enum conn_state:string",
        "tcp\tS1",
        {"conn_state": "S1", "_path": "open_conn"},
        set(),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "columns", "values", "fields", "found"), LOGS, ids=[row[0] for row in LOGS]
)
def test_each_log_keeps_its_names_and_gives_its_entities(
    path: str, columns: str, values: str, fields: dict[str, Any], found: set[str]
) -> None:
    line = f"{START.format(port=4000)}\t{values}"
    event = read_line(path, f"{CONNECTION} {columns}", line)
    assert event.views[0].logsource == LogSource("zeek", None, path.removeprefix("open_"))
    own = event.views[0].fields
    assert {name: own.get(name) for name in fields} == fields
    assert (own["src_ip"], own["dst_ip"], own["dst_port"]) == ("192.0.2.7", "198.51.100.9", 4000)
    assert entities(event) == {"address:192.0.2.7", "address:198.51.100.9"} | found


SHA256 = "ab" * 32
#: JSON records of logs that are about no connection, without `_path`.
OTHERS: tuple[tuple[str, dict[str, Any], set[str]], ...] = (
    (
        "files",
        {"fuid": "F1", "tx_hosts": ["198.51.100.9"], "rx_hosts": ["192.0.2.7"], "source": "HTTP",
         "depth": 0, "seen_bytes": 9, "filename": "a.exe", "md5": "cd" * 16, "sha256": SHA256},
        {"address:198.51.100.9", "address:192.0.2.7", "file:a.exe", f"hash:md5:{'cd' * 16}",
         f"hash:sha256:{SHA256}"},
    ),
    (
        "notice",
        {"note": "Scan::Port_Scan", "msg": "x scanned", "src": "203.0.113.4", "dst": "192.0.2.7",
         "p": 22, "actions": ["Notice::ACTION_LOG"]},
        {"address:203.0.113.4", "address:192.0.2.7"},
    ),
    (
        "dhcp",
        {"uids": ["C1"], "client_addr": "192.0.2.7", "server_addr": "192.0.2.1",
         "host_name": "dc01", "msg_types": ["REQUEST", "ACK"]},
        {"address:192.0.2.7", "address:192.0.2.1"},
    ),
    ("x509", {"certificate.version": 3, "certificate.serial": "8BB00EE"}, set()),
    ("pe", {"id": "F1", "machine": "I386", "subsystem": "WINDOWS_GUI"}, set()),
    (
        "software",
        {"host": "192.0.2.7", "software_type": "HTTP::BROWSER", "unparsed_version": "x"},
        {"address:192.0.2.7"},
    ),
    (
        "known_services",
        {"host": "192.0.2.7", "port_num": 22, "port_proto": "tcp", "service": ["SSH"]},
        {"address:192.0.2.7"},
    ),
    ("capture_loss", {"ts_delta": 60.0, "peer": "zeek", "gaps": 3, "acks": 9}, set()),
    ("stats", {"peer": "zeek", "mem": 1, "pkts_proc": 2}, set()),
    ("packet_filter", {"node": "zeek", "filter": "ip", "init": True, "success": True}, set()),
    ("ocsp", {"id": "F1", "hashAlgorithm": "sha1", "serialNumber": "01"}, set()),
)  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "found"), OTHERS, ids=[row[0] for row in OTHERS])
def test_json_without_a_path_is_told_by_its_fields(
    path: str, fields: dict[str, Any], found: set[str]
) -> None:
    event = read_json({"ts": TS, **fields})
    assert (event.format, event.mapped, event.time) == ("json", True, TS)
    assert event.views[0].logsource == LogSource("zeek", None, path)
    assert entities(event) == found


JSON_CONN = {
    "ts": TS, "uid": "C1", "id.orig_h": "192.0.2.7", "id.orig_p": 1, "id.resp_h": "198.51.100.9",
    "id.resp_p": 2, "proto": "tcp", "conn_state": "SF",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "service"),
    [
        ("x.json", JSON_CONN, "conn"),
        ("conn.log", JSON_CONN, "conn"),
        ("dns.log", JSON_CONN, "conn"),  # a name against what the fields say
        ("conn.12:00:00-13:00:00.log.gz", {**JSON_CONN, "conn_state": None}, "conn"),
        ("tunnel_20240101.json", {**JSON_CONN, "action": "Tunnel::DISCOVER"}, "conn"),
        ("snmp_20240101.json", {k: v for k, v in JSON_CONN.items() if k != "conn_state"}, "snmp"),
        ("snmp-2024-01-01.log", {k: v for k, v in JSON_CONN.items() if k != "conn_state"}, "snmp"),
        ("s7comm_plus.log", {k: v for k, v in JSON_CONN.items() if k != "conn_state"},
         "s7comm_plus"),
        ("open_conn.log", {k: v for k, v in JSON_CONN.items() if k != "conn_state"}, "conn"),
        ("x.json", {k: v for k, v in JSON_CONN.items() if k != "conn_state"}, None),
        ("x.json", {**JSON_CONN, "_path": "dns"}, "dns"),
        ("x.json", {**JSON_CONN, "_path": "my_own_script"}, None),
        ("x.json", {**JSON_CONN, "_path": ["conn"]}, "conn"),
        ("known_hosts.log", {"ts": TS, "host": "192.0.2.7"}, "known_hosts"),
        ("weird.log", {"ts": TS, "name": "bad_TCP", "notice": False, "peer": "zeek"}, "weird"),
        ("reporter.log", {"ts": TS, "level": "Reporter::INFO", "message": "m"}, "reporter"),
        ("loaded_scripts.log", {"name": "/opt/zeek/share/x.zeek"}, "loaded_scripts"),
    ],
)  # fmt: skip
def test_which_log_a_json_record_is_of(
    name: str, fields: dict[str, Any], service: str | None
) -> None:
    event = read_json(fields, name=name)
    assert event.mapped
    assert event.views[0].logsource == LogSource("zeek", None, service)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("app.json", {"ts": TS, "level": "info", "message": "m"}),
        ("app.json", {"ts": TS, "host": "web", "name": "x"}),
        ("conn.log", {"ts": TS, "msg": "connection lost", "uid": "1000"}),
        ("dns.log", {"name": "zone", "query": "x"}),
        ("app.json", {"_path": "/api/v1", "status": 200}),
        ("app.json", {"id": {"orig_h": "192.0.2.7"}, "ts": TS}),
        ("loaded_scripts.log", {"title": "x"}),
    ],
)
def test_other_products_json_is_not_zeeks(name: str, fields: dict[str, Any]) -> None:
    assert not read_json(fields, name=name).mapped


def test_a_nested_connection_id_is_the_same() -> None:
    nested = {k: v for k, v in JSON_CONN.items() if not k.startswith("id.")}
    nested["id"] = {"orig_h": "192.0.2.7", "orig_p": 1, "resp_h": "198.51.100.9", "resp_p": 2}
    event = read_json(nested)
    assert sources(event)[0] == LogSource("zeek", None, "conn")
    assert event.views[0].fields["dst_ip"] == "198.51.100.9"


def test_both_forms_of_a_record_give_the_same_fields() -> None:
    one = read_line("conn", CONN, CONN_LINE).views[0].fields
    two = read_json(decode(make_record(CONN_LINE, make_header("conn", CONN))).fields)
    assert two.views[0].fields == one


@pytest.mark.parametrize("ts", ["XXXXXXXXXX.XXXXXX", 95.5, -1, None, [], True])
def test_a_time_that_is_none_is_not_known(ts: Any) -> None:
    event = read_json({**JSON_CONN, "ts": ts, "_path": "conn"})
    assert (event.time_known, event.time) == (False, RECEIVED)


def test_the_host_is_the_sensor_and_never_an_end() -> None:
    assert read_json({**JSON_CONN, "_system_name": "Tap-01.example.com"}).host == "tap-01"
    assert read_json({**JSON_CONN, "host": "victim", "_path": "http"}).host == ""
    event = read_json({**JSON_CONN, "_system_name": "tap-01"})
    assert "host:tap-01" not in entities(event)  # it would join everything that it sees


def test_the_sender_in_a_syslog_header_is_the_sensor() -> None:
    body = json.dumps({**JSON_CONN, "_path": "conn"})
    record = make_record(f"<13>1 2023-11-14T22:13:20Z tap-02 zeek - - - {body}")
    event = normalise(record, decode(record), zone=UTC).event
    assert event.views[0].logsource == LogSource("zeek", None, "conn")
    assert (event.host, event.time) == ("tap-02", TS)


def test_a_message_of_a_host_program_is_no_zeek_record() -> None:
    body = json.dumps({**JSON_CONN, "_path": "notice", "note": "Intel::Notice"})
    record = make_record(f"<86>1 2023-11-14T22:13:20Z web sshd 1 - - {body}")
    event = normalise(record, decode(record), zone=UTC).event
    assert all(source.product == "linux" for source in sources(event))


# Forged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hostile",
    [
        "a\\x09F\\x09F\\x0a#fields\\x09ts",
        '{"_path":"notice"\\x2c"note":"Intel::Notice"}',
        "#fields",
        "\\x0a1700000000.0\\x09C2\\x09203.0.113.66",
        "\\\\x09-\\\\",
        "\\x1b[2J\\x00",
    ],
)
def test_a_clients_text_stays_in_its_column(hostile: str) -> None:
    """What Zeek escapes is the value's own; no column, record or log comes of it."""
    dns = read_line("dns", DNS, DNS_LINE.format(query=hostile))
    http = read_line("http", HTTP, HTTP_LINE.format(uri="/", agent=hostile))
    clean = read_line("dns", DNS, DNS_LINE.format(query="x"))
    assert sources(dns) == sources(clean)
    assert sources(http) == [LogSource("zeek", None, "http"), PROXY, WEBSERVER]
    same = dns.views[0].fields.keys() == clean.views[0].fields.keys()
    assert same and dns.views[0].fields["answers"] == ["TXT 3 IEX", "203.0.113.5"]
    assert http.views[0].fields["status_code"] == 200
    assert dns.views[0].fields["query"] == http.views[0].fields["user_agent"]
    assert (dns.host, dns.time) == ("", TS)
    for entity in dns.entities:
        assert entity.value.isprintable()


def test_a_client_that_writes_the_sign_for_unset_hides_only_its_own_field() -> None:
    event = read_line("http", HTTP, HTTP_LINE.format(uri="/", agent="-"))
    assert "user_agent" not in event.views[0].fields
    assert event.views[0].fields["cs-host"] == "www.example.com"


@given(
    st.dictionaries(
        st.sampled_from([*JSON_CONN, "_path", "query", "host", "uri", "client", "username",
                         "_system_name", "seen.indicator", "seen.indicator_type", "id", "success"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20),
                  st.lists(st.text(max_size=5), max_size=3),
                  st.sampled_from(["http", "dns", "kerberos", "intel", "ntlm", "files"]),
                  st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)),
    )
)  # fmt: skip
def test_no_fields_raise_anything(fields: dict[str, Any]) -> None:
    record = make_record(b"{}", name="conn.log")
    event = normalise(record, Decoded("json", fields), zone=UTC).event
    assert set(sources(event)) <= set(FED)


# What rules can rely on -------------------------------------------------------------------------


def test_every_log_source_is_fed() -> None:
    assert len(set(SERVICES)) == len(SERVICES)
    for source in SOURCES:
        assert feeds(source) is None
    assert feeds(LogSource("zeek", None, "no_such_log")) is not None
