"""Web servers' and proxies' records: views, readings of a target, entities, forgeries, sizes."""

import contextlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode import access_error, decode, detect_format
from appliance.detect.sigma.match import IsNull
from appliance.detect.sigma.values import ViewValues
from appliance.errors import DecodeError
from appliance.normalise import feeds, normalise
from appliance.normalise.request import decode_text, list_readings, split_request
from appliance.schema import Cursor, Event, LogSource, RawRecord

RECEIVED = 1_790_000_000.0
MOMENT = datetime(2026, 3, 1, 8, 0, tzinfo=UTC).timestamp()
START = '192.0.2.3 - - [01/Mar/2026:09:00:00 +0100] "'
NGINX_ERROR = "2026/03/01 08:00:00 [error] 3#0: *3 "
APACHE_ERROR = "[Sun Mar 01 08:00:00 2026] [error] [client 192.0.2.3] "
SQUID = "1772352000.000    123 192.0.2.1 TCP_MISS/200 1024 GET "
IIS_HEADER = (
    "#Software: Microsoft Internet Information Services 10.0\n#Fields: date time s-computername"
    " s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) cs(Referer)"
    " sc-status sc-win32-status\n"
)
FIREWALL_HEADER = (
    "#Software: Microsoft Windows Firewall\n#Time Format: Local\n#Fields: date time action protocol"
    " src-ip dst-ip src-port dst-port size tcpflags tcpsyn tcpack tcpwin icmptype icmpcode info"
    " path\n"
)
BLUECOAT_HEADER = (
    "#Software: SGOS 6.7\n#Fields: date time time-taken c-ip cs-username s-action sc-status"
    " cs-method cs-uri-scheme cs-host cs-uri-port cs-uri-path cs-uri-query cs(User-Agent) r-ip\n"
)


def read(line: str | bytes, *, path: str = "x.log", header: str = "", fmt: str = "auto") -> Event:
    data = line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")
    cursor = Cursor("test", "x", 0, len(data))
    record = RawRecord(data, "test", path, "x", cursor, RECEIVED, fmt, header=header.encode())
    return normalise(record, decode(record), zone=UTC).event


def fields_of(line: str, **options: str) -> dict[str, object]:
    return read(line, **options).views[0].fields


def entities_of(event: Event) -> set[str]:
    return {f"{entity.kind}:{entity.value}" for entity in event.entities}


# Access logs


def test_combined_line() -> None:
    line = (
        '192.0.2.3 - ann [01/Mar/2026:09:00:00 +0100] "GET /a/b.php?x=1 HTTP/1.1" 200 5'
        ' "http://r.test/" "Mozilla/5.0"'
    )
    event = read(line)
    fields = event.views[0].fields
    assert event.views[0].logsource == LogSource(category="webserver")
    assert event.time == MOMENT and event.time_known and event.mapped
    assert fields["message"] == line
    assert {name: fields[name] for name in fields if name.startswith(("c", "s", "u", "r"))} == {
        "c-ip": "192.0.2.3",
        "cs-username": "ann",
        "request": "GET /a/b.php?x=1 HTTP/1.1",
        "sc-status": 200,
        "sc-bytes": 5,
        "cs-referer": "http://r.test/",
        "cs-user-agent": "Mozilla/5.0",
        "src_ip": "192.0.2.3",
        "user": "ann",
        "cs-method": "GET",
        "cs-version": "HTTP/1.1",
        "cs-uri": "/a/b.php?x=1",
        "cs-uri-stem": "/a/b.php",
        "cs-uri-query": ["x=1", "/a/b.php?x=1"],
        "result": "success",
    }
    assert entities_of(event) == {"address:192.0.2.3", "user:ann"}
    assert event.host == ""


@pytest.mark.parametrize(
    ("status", "user", "result"),
    [
        ("401", "-", "failure"),
        ("403", "ann", "failure"),
        ("407", "-", "failure"),
        ("200", "ann", "success"),
        ("200", "-", None),
        ("404", "ann", None),
        ("500", "-", None),
    ],
)
def test_result_is_a_refusal_or_a_named_success(status: str, user: str, result: str | None) -> None:
    line = f'192.0.2.3 - {user} [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" {status} 5'
    assert fields_of(line).get("result") == result


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/var/log/nginx/access.log", "nginx"),
        ("/var/log/apache2/access.log", "apache"),
        ("/var/log/httpd/access_log", "apache"),
        ("/srv/access.log", None),
    ],
)
def test_the_path_names_the_server(path: str, service: str | None) -> None:
    source = read(START + 'GET / HTTP/1.1" 200 5', path=path).views[0].logsource
    assert (source.category, source.service) == ("webserver", service)


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ('www.a.test:80 192.0.2.3 - - [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" 200 5', "ip"),
        ('host7.a.test - - [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" 200 5', None),
        ('- - - [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" 200 5', None),
    ],
)
def test_only_an_address_is_src_ip(line: str, client: str | None) -> None:
    assert fields_of(line).get("src_ip") == ("192.0.2.3" if client else None)


def test_what_the_client_asked_for_is_never_the_host() -> None:
    for line in (
        'www.a.test:80 192.0.2.3 - - [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" 200 5',
        NGINX_ERROR + 'x, client: 192.0.2.3, server: s.test, request: "GET / HTTP/1.1", host: "h"',
        json.dumps({"remote_addr": "192.0.2.3", "request": "GET / HTTP/1.1", "status": 200}
                   | {"host": "dc1", "http_host": "dc1", "hostname": "dc1"}),
    ):  # fmt: skip
        event = read(line)
        assert event.host == "" and not any(e.kind == "host" for e in event.entities)


def test_garbage_is_a_request_without_a_target() -> None:
    for request in ("\\x16\\x03\\x01", "", "HELP", "\\x03\\x00/*\\xE0 Cookie: x"):
        fields = fields_of(f'{START}{request}" 400 5 "-" "-"')
        assert fields["request"] == request
        assert not {"cs-method", "cs-uri", "cs-uri-query"} & fields.keys()
        assert fields["sc-status"] == 400


def test_an_absolute_target_is_no_proxy_by_itself() -> None:
    event = read(START + 'GET http://127.0.0.1/admin?x HTTP/1.1" 403 5')
    assert event.views[0].logsource == LogSource(category="webserver")
    assert event.views[0].fields["cs-uri-stem"] == "/admin"
    assert "r-dns" not in event.views[0].fields


# Readings of a target


@pytest.mark.parametrize(
    ("target", "name", "readings"),
    [
        ("/", "cs-uri-query", [None, "/"]),
        ("/?", "cs-uri-query", [None, "/?"]),
        ("/a?b", "cs-uri-query", ["b", "/a?b"]),
        ("/a%2fb", "cs-uri-stem", ["/a%2fb", "/a/b"]),
        ("/%252e%252e/", "cs-uri-stem", ["/%252e%252e/", "/%2e%2e/", "/../"]),
        ("/%25252e", "cs-uri-stem", ["/%25252e", "/%252e", "/%2e"]),
        ("/%2e%2e", "cs-uri-query", [None, "/%2e%2e", "/.."]),
        ("/?q=a+b%2Bc", "cs-uri-query", ["q=a+b%2Bc", "q=a b+c", "/?q=a+b%2Bc", "/?q=a b+c"]),
        ("/a+b", "cs-uri-stem", "/a+b"),
        ("/%c0%af", "cs-uri-stem", ["/%c0%af", "/\\xc0\\xaf"]),
        ("/%u002e%u2215", "cs-uri-stem", ["/%u002e%u2215", "/.\u2215"]),
        ("/%ud800%zz%", "cs-uri-stem", "/%ud800%zz%"),
        ("/%E2%82%AC", "cs-uri-stem", ["/%E2%82%AC", "/\u20ac"]),
    ],
)
def test_readings(target: str, name: str, readings: object) -> None:
    assert fields_of(f'{START}GET {target} HTTP/1.1" 200 5')[name] == readings


def test_an_absent_query_is_null_to_a_rule() -> None:
    for target, absent in (("/a", True), ("/a%20b", True), ("/a?", True), ("/a?b", False)):
        view = ViewValues(fields_of(f'{START}GET {target} HTTP/1.1" 200 5'))
        assert (IsNull("cs-uri-query").match(view) is not None) is absent


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("GET / HTTP/1.1", ("GET", "/", "HTTP/1.1")),
        ("GET /a b HTTP/1.1", ("GET", "/a b", "HTTP/1.1")),
        ("GET /", ("GET", "/", "")),
        ("GET  HTTP/1.1", ("GET", "HTTP/1.1", "")),
        ("VERSION-CONTROL /a HTTP/2.0", ("VERSION-CONTROL", "/a", "HTTP/2.0")),
        ("\\x16 a", ("", "", "")),
        ("GET", ("", "", "")),
    ],
)
def test_split_request(line: str, parts: tuple[str, str, str]) -> None:
    method, target, version = split_request(line)
    assert (method, target.strip(), version) == parts


@given(st.text(max_size=200))
def test_decoding_raises_nothing_and_can_be_written(text: str) -> None:
    for plus in (False, True):
        for reading in list_readings([text], plus=plus)[1:]:
            reading.encode("utf-8", "surrogatepass")
    decode_text(text)


# Inside syslog


def test_nginx_access_inside_syslog() -> None:
    event = read("<190>Mar  1 09:00:00 web nginx: " + START + 'GET /?a=%2e HTTP/1.1" 200 5')
    assert event.host == "web" and event.time == MOMENT
    assert LogSource(category="webserver") in [view.logsource for view in event.views]
    assert LogSource(product="linux", service="nginx") in [view.logsource for view in event.views]
    assert event.views[0].fields["src_ip"] == "192.0.2.3"
    assert entities_of(event) == {"host:web", "address:192.0.2.3"}


def test_haproxy_inside_syslog() -> None:
    line = (
        "<134>Mar  1 09:00:00 lb haproxy[760]: 2001:db8::1:58430 [01/Mar/2026:08:00:00.611] main~"
        ' app/a1 1/0/1/0/2 403 248 - - ---- 0/0/0/0/0 0/0 {a|b} "GET /x HTTP/1.1"'
    )
    event = read(line)
    fields = event.views[0].fields
    assert (fields["src_ip"], fields["src_port"], fields["sc-status"]) == (
        "2001:db8::1",
        58430,
        403,
    )
    assert (fields["frontend"], fields["backend"]) == ("main", "app/a1")
    assert fields["cs-uri-stem"] == "/x" and fields["result"] == "failure"
    assert event.host == "lb" and event.time == pytest.approx(MOMENT + 0.611)


def test_apache_error_inside_syslog() -> None:
    event = read(
        "Mar  1 08:00:00 srv httpd/backend1[9]: [authz_core:error] [pid 9] [client 192.0.2.1:58585]"
        " AH01630: client denied by server configuration: /home/"
    )
    assert event.host == "srv" and event.views[0].logsource.service == "apache"
    assert event.views[0].fields["src_ip"] == "192.0.2.1"
    assert event.views[0].fields["result"] == "failure"


def test_an_access_line_of_another_program_is_only_a_message() -> None:
    for program in ("sshd[9]", "logger", "sudo"):
        event = read(f'<14>Mar  1 09:00:00 web {program}: {START}GET / HTTP/1.1" 200 5')
        assert event.format == "syslog3164"
        assert all(view.logsource.category is None for view in event.views)


def test_json_of_nginx_inside_syslog() -> None:
    body = {"remote_addr": "192.0.2.3", "request": "GET / HTTP/1.1", "status": "401"}
    event = read("<190>Mar  1 09:00:00 web nginx: " + json.dumps(body))
    assert event.views[0].logsource.service == "nginx"
    assert event.host == "web" and event.views[0].fields["result"] == "failure"
    sshd = read("<190>Mar  1 09:00:00 web sshd: " + json.dumps(body))
    assert all(view.logsource.category is None for view in sshd.views)


# JSON


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(
            {"time_iso8601": "2026-03-01T08:00:00+00:00", "remote_addr": "192.0.2.3",
             "remote_user": "ann", "request": "GET /a?b=%41 HTTP/1.1", "status": "200",
             "body_bytes_sent": "5", "http_user_agent": "ua", "http_referer": "-"},
            {"src_ip": "192.0.2.3", "user": "ann", "cs-method": "GET", "sc-status": 200,
             "sc-bytes": 5, "cs-user-agent": "ua", "cs-uri-stem": "/a", "result": "success"},
            id="nginx, request line",
        ),
        pytest.param(
            {"msec": "1772352000.000", "remote_addr": "192.0.2.3", "request_method": "POST",
             "request_uri": "/a?b", "status": 403, "bytes_sent": 9},
            {"cs-method": "POST", "cs-uri-query": ["b", "/a?b"], "result": "failure"},
            id="nginx, parts",
        ),
        pytest.param(
            {"level": "info", "ts": 1772352000.0, "logger": "http.log.access.log0",
             "request": {"remote_ip": "192.0.2.3", "remote_port": "41342", "method": "GET",
                         "host": "h.test", "uri": "/x", "headers": {"User-Agent": ["curl/8"]}},
             "user_id": "", "size": 10900, "status": 200},
            {"src_ip": "192.0.2.3", "src_port": 41342, "cs-uri-stem": "/x", "cs-host": "h.test",
             "cs-user-agent": "curl/8", "sc-bytes": 10900},
            id="Caddy",
        ),
        pytest.param(
            {"request": {"remote_addr": "[2001:db8::1]:4000", "method": "GET", "uri": "/"},
             "status": 200, "ts": 1772352000.0},
            {"src_ip": "2001:db8::1", "src_port": 4000},
            id="Caddy before 2.5",
        ),
        pytest.param(
            {"ClientAddr": "192.0.2.3:51000", "ClientHost": "192.0.2.3", "ClientUsername": "-",
             "RequestMethod": "GET", "RequestPath": "/api", "RequestHost": "h.test",
             "DownstreamStatus": 401, "StartUTC": "2026-03-01T08:00:00Z"},
            {"src_ip": "192.0.2.3", "cs-uri-stem": "/api", "result": "failure"},
            id="Traefik",
        ),
        pytest.param(
            {"timestamp": "01/Mar/2026:08:00:00 +0000", "client_ip": "192.0.2.3",
             "http_method": "GET", "http_uri": "/a", "http_query": "?q=1", "status_code": 200},
            {"cs-uri": "/a?q=1", "cs-uri-query": ["q=1", "/a?q=1"]},
            id="HAProxy",
        ),
    ],
)  # fmt: skip
def test_json_access_logs(record: dict[str, object], expected: dict[str, object]) -> None:
    event = read(json.dumps(record))
    assert event.views[0].logsource.category == "webserver"
    assert event.time == MOMENT
    fields = event.views[0].fields
    assert {name: fields.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "record",
    [
        {"remote_addr": "192.0.2.3", "request": "GET / HTTP/1.1"},
        {"remote_addr": "192.0.2.3", "request": "GET / HTTP/1.1", "status": "ok"},
        {"request": "GET / HTTP/1.1", "status": 200},
        {"remote_addr": ["a", "b"], "request": "GET / HTTP/1.1", "status": 200},
        {"remote_addr": {"a": 1}, "request": {"uri": {}}, "status": 200},
        {"client_ip": "192.0.2.3", "uri": "/", "status": 200},
        {"event_type": "http", "src_ip": "192.0.2.3", "http": {"url": "/"}, "status": 200},
        {"remoteAddr": "192.0.2.3", "method": "GET", "url": "/x", "message": "Login failed"},
    ],
)
def test_json_that_is_no_access_log(record: dict[str, object]) -> None:
    assert all(v.logsource.category != "webserver" for v in read(json.dumps(record)).views)


# Error logs


def test_a_clock_behind_a_blank_is_in_the_zone_of_the_configuration() -> None:
    event = read('192.0.2.3 - - [01/Mar/2026 08:00:00] "GET / HTTP/1.1" 200 -')
    assert event.time == MOMENT


def test_nginx_error_names_client_server_and_request() -> None:
    event = read(
        NGINX_ERROR + 'user "ann": password mismatch, client: 192.0.2.3, server: www.own.test,'
        ' request: "GET /a?b HTTP/1.1", host: "other.test"'
    )
    fields = event.views[0].fields
    assert event.views[0].logsource == LogSource("nginx", "webserver", "nginx")
    assert event.time == MOMENT
    assert (fields["user"], fields["result"], fields["cs-uri-query"]) == (
        "ann", "failure", ["b", "/a?b"],
    )  # fmt: skip
    assert entities_of(event) == {"address:192.0.2.3", "user:ann", "domain:www.own.test"}


def test_every_client_that_an_nginx_line_can_be_read_to_name_is_kept() -> None:
    event = read(
        NGINX_ERROR + "access forbidden by rule, client: 192.0.2.3, server: s, request:"
        ' "GET / HTTP/1.1", host: "h", referrer: "x", client: 198.51.100.1, server: s, request:'
        ' "GET / HTTP/1.1", host: "h"'
    )
    assert set(event.views[0].fields["src_ip"]) == {"192.0.2.3", "198.51.100.1"}
    assert {"address:192.0.2.3", "address:198.51.100.1"} <= entities_of(event)


USERS = {
    "apache": (
        'user an n: authentication failure for "/a": Password Mismatch',
        "Digest: user an n: password mismatch: /a",
        "user `an n' in realm `r' not found: /a",
        "Authorization of user an n to access /a failed, reason: x",
        "user an n not found: /a",
    ),
    "nginx": (
        'user "an n": password mismatch',
        'user "an n" was not found in "/etc/p"',
        "PAM: user 'an n' - not authenticated: Authentication failure",
    ),
    "lighttpd": (
        "password doesn't match for /a username: an n, IP: 192.0.2.3",
        "digest: auth failed for  an n : wrong password, IP: 192.0.2.3",
    ),
}


def test_every_form_of_a_failed_login_has_a_line() -> None:
    assert {name: len(lines) for name, lines in USERS.items()} == {
        name: len(forms) for name, forms in access_error.USERS.items()
    }
    starts = {
        "apache": APACHE_ERROR,
        "nginx": NGINX_ERROR,
        "lighttpd": "2026-03-01 08:00:00: (a.c.1) ",
    }
    for server, lines in USERS.items():
        for line, form in zip(lines, access_error.USERS[server], strict=True):
            assert form.match(line), (form.pattern, line)
            end = ", client: 192.0.2.3, server: s" if server == "nginx" else ""
            event = read(starts[server] + line + end)
            assert event.views[0].fields["result"] == "failure"
            assert entities_of(event) >= {"address:192.0.2.3", "user:an n"}


def test_apache_error_reads_its_client_from_the_left() -> None:
    event = read(APACHE_ERROR + "File does not exist: /x/[client 198.51.100.1] user root not found")
    assert entities_of(event) == {"address:192.0.2.3"}
    assert "user" not in event.views[0].fields


def test_modsecurity_has_its_target() -> None:
    fields = fields_of(
        APACHE_ERROR + 'ModSecurity: Access denied with code 403 (phase 2). [id "9"] [msg "m"]'
        ' [uri "/a%2fb"] [id "10"]'
    )
    assert fields["modsecurity.id"] == "9"
    assert fields["cs-uri-stem"] == ["/a%2fb", "/a/b"]
    assert fields["result"] == "failure"


# Proxies


def test_squid_native() -> None:
    event = read(SQUID + "http://bad.test:8080/a%2eexe?q=1 ann HIER_DIRECT/198.51.100.4 text/html")
    fields = event.views[0].fields
    assert event.views[0].logsource == LogSource("squid", "proxy", "squid")
    assert event.time == MOMENT
    assert fields["c-uri"] == [
        "http://bad.test:8080/a%2eexe?q=1", "http://bad.test:8080/a.exe?q=1",
    ]  # fmt: skip
    expected = {
        "cs-host": "bad.test", "r-dns": "bad.test", "dst_port": 8080, "dst_ip": "198.51.100.4",
        "c-uri-extension": "exe", "sc-status": 200, "user": "ann", "result": "success",
    }  # fmt: skip
    assert {name: fields.get(name) for name in expected} == expected
    assert entities_of(event) == {"address:192.0.2.1", "user:ann", "domain:bad.test"}


def test_squid_names_no_destination_of_a_parent_or_of_an_error() -> None:
    fields = fields_of(SQUID + "http://bad.test/ - FIRSTUP_PARENT/10.0.0.9 text/html")
    assert "dst_ip" not in fields and fields["r-dns"] == "bad.test"
    event = read(SQUID + "error:invalid-request - HIER_NONE/- text/html")
    assert entities_of(event) == {"address:192.0.2.1"}


def test_squid_tunnel_and_address() -> None:
    line = SQUID.replace("GET", "CONNECT")
    fields = fields_of(line + "example.test:443 - HIER_DIRECT/198.51.100.4 -")
    assert (fields["r-dns"], fields["dst_port"]) == ("example.test", 443)
    assert "c-uri-extension" not in fields
    event = read(line + "[2001:db8::9]:443 - HIER_DIRECT/2001:db8::9 -")
    assert event.views[0].fields["dst_ip"] == "2001:db8::9"
    assert "address:2001:db8::9" in entities_of(event)


def test_squid_combined_is_a_proxy_and_an_absent_agent_is_empty() -> None:
    line = (
        '192.0.2.3 - bob [01/Mar/2026:09:00:00 +0100] "GET http://bad.test/a.zip HTTP/1.1" 200 12'
    )
    event = read(line + ' "-" "-" TCP_MISS:HIER_DIRECT')
    fields = event.views[0].fields
    assert event.views[0].logsource == LogSource(category="proxy")
    assert (fields["c-useragent"], fields["c-uri-extension"]) == ("", "zip")
    assert fields["r-dns"] == "bad.test"
    # A client cannot make a web server's line a proxy's: what it sends stands in quotes.
    forged = read(line + ' "-" "x\\" TCP_MISS:HIER_DIRECT"')
    assert forged.views[0].logsource == LogSource(category="webserver")


def test_bluecoat() -> None:
    event = read(
        "2026-03-01 08:00:00 5 192.0.2.3 ann TCP_DENIED 403 GET https bad.test 443 /a.hta ?x=1"
        ' "A B" 198.51.100.4',
        header=BLUECOAT_HEADER,
        fmt="w3c",
    )
    fields = event.views[0].fields
    assert event.views[0].logsource == LogSource(category="proxy")
    assert fields["c-uri"] == "https://bad.test:443/a.hta?x=1"
    assert (fields["c-useragent"], fields["dst_ip"], fields["result"]) == (
        "A B", "198.51.100.4", "failure",
    )  # fmt: skip
    assert "domain:bad.test" in entities_of(event)


# W3C


def test_iis() -> None:
    event = read(
        "2026-03-01 08:00:00 WEB01 10.0.0.1 GET /a.aspx x=%27+or 443 CORP\\ann 192.0.2.3"
        " Mozilla/5.0+(X) - 200 0",
        header=IIS_HEADER,
    )
    fields = event.views[0].fields
    assert event.format == "w3c" and event.time == MOMENT and event.host == "web01"
    assert event.views[0].logsource == LogSource(category="webserver", service="iis")
    assert fields["cs-user-agent"] == ["Mozilla/5.0 (X)", "Mozilla/5.0+(X)"]
    assert fields["cs-uri-query"] == [
        "x=%27+or", "x=' or", "/a.aspx?x=%27+or", "/a.aspx?x=' or",
    ]  # fmt: skip
    assert (fields["dst_ip"], fields["dst_port"], fields["sc-status"]) == ("10.0.0.1", 443, 200)
    assert "cs-referer" not in fields
    assert entities_of(event) == {"host:web01", "address:192.0.2.3", "user:corp\\ann"}


def test_windows_firewall() -> None:
    event = read(
        "2026-03-01 08:00:00 DROP TCP 192.0.2.3 10.0.0.1 50000 445 52 S 1 0 8192 - - - RECEIVE",
        header=FIREWALL_HEADER,
    )
    fields = event.views[0].fields
    assert event.views[0].logsource == LogSource("windows", "firewall")
    expected = {
        "src_ip": "192.0.2.3", "dst_ip": "10.0.0.1", "src_port": 50000, "dst_port": 445,
        "blocked": True, "result": "failure", "action": "DROP",
    }  # fmt: skip
    assert {name: fields.get(name) for name in expected} == expected
    assert entities_of(event) == {"address:192.0.2.3", "address:10.0.0.1"}


def test_another_w3c_log_is_not_mapped() -> None:
    event = read("2026-03-01 08:00:00 a b", header="#Fields: date time x y\n")
    assert not event.mapped and event.time == MOMENT


# What is fed


@pytest.mark.parametrize(
    "source",
    [
        LogSource(category="webserver"),
        LogSource(category="proxy"),
        LogSource(category="firewall"),
        LogSource(service="apache"),
        LogSource(service="nginx"),
        LogSource(product="apache", service="apache"),
    ],
)
def test_rules_for_the_web_are_fed(source: LogSource) -> None:
    assert feeds(source) is None


# Hostile text


@pytest.mark.parametrize(
    "line",
    [
        "<190>Nov 22 10:00:00 web nginx: " + START + 'GET / HTTP/1.1" 200 5',
        "Nov 22 10:00:00 web nginx: " + START + 'GET / HTTP/1.1" 200 5',
        "2026-03-01T09:00:00.123+00:00 web nginx: " + START + 'GET / HTTP/1.1" 200 5',
        "2026-03-01T09:00:00Z web nginx[9]: " + START + 'GET / HTTP/1.1" 200 5',
        "Mar  1 09:00:00 web sshd[9]: Failed password for root from 192.0.2.3 port 1 ssh2",
        "fail2ban: found " + START + 'GET / HTTP/1.1" 200 5',
        "2026/03/01 09:00:00 [error] something in Go",
        "[2026-03-01 09:00:00] [error] x",
        "[error] x",
        "1772352000.000 a line with a number",
        '192.0.2.3 - hello [01/Mar/2026] "x"',
        '192.0.2.3 said "GET / HTTP/1.1" 200 5',
    ],
)
def test_other_lines_are_not_taken(line: str) -> None:
    assert detect_format(line.encode()) in ("text", "syslog3164", "syslog5424", "bind", "unbound")


def test_a_long_user_name_does_not_hide_the_request() -> None:
    for filler in ("x", "[01/Mar/2020:09:00:00 +0100] ", '\\"', "y "):
        user = filler * (6_000 // len(filler))
        event = read(f'192.0.2.3 - {user} [01/Mar/2026:09:00:00 +0100] "GET /evil HTTP/1.1" 401 5')
        assert event.format == "access" and event.time == MOMENT
        assert event.views[0].fields["cs-uri-stem"] == "/evil"
    endless = f'192.0.2.3 - {"x " * 20_000} [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" 401 5'
    with pytest.raises(DecodeError, match="no time in brackets"):
        read(endless)


def test_a_quote_in_the_user_of_a_server_that_escapes_nothing() -> None:
    fields = fields_of(
        '192.0.2.3 - x] "GET / [01/Mar/2026:09:00:00 +0100] "GET /evil HTTP/1.1" 200 5'
    )
    assert fields["cs-uri-stem"] == "/evil"


def test_readings_of_a_request_that_ends_twice() -> None:
    fields = fields_of(START + 'GET /evil" 200 0 "-" "x HTTP/1.1" 401 12 "-" "ua"')
    assert fields["sc-status"] == [200, 401]
    assert fields["cs-uri-stem"] == ["/evil", '/evil" 200 0 "-" "x']
    assert "result" not in fields


def test_a_decoded_newline_stays_inside_its_field() -> None:
    fields = fields_of(START + 'GET /%0a198.51.100.9%20-%20- HTTP/1.1" 200 5')
    assert fields["src_ip"] == "192.0.2.3"
    assert fields["cs-uri-stem"] == ["/%0a198.51.100.9%20-%20-", "/\n198.51.100.9 - -"]


def test_unicode_blanks_split_no_column() -> None:
    event = read(
        "2026-03-01 08:00:00 WEB01 10.0.0.1 GET / - 443 - 192.0.2.3 a\u00a0b\u2003c - 200 0",
        header=IIS_HEADER,
    )
    assert event.views[0].fields["cs-user-agent"] == "a\u00a0b\u2003c"


N = 100_000
HOSTILE: dict[str, str] = {
    "target": START + "GET /" + "a" * N + ' HTTP/1.1" 200 5',
    "encoded": START + "GET /?" + "%25" * (N // 3) + ' HTTP/1.1" 200 5',
    "bad bytes": START + "GET /?" + "%ff" * (N // 3) + ' HTTP/1.1" 200 5',
    "wide": START + "GET /?" + "%u0041" * (N // 6) + ' HTTP/1.1" 200 5',
    "escapes": START + "GET /?" + '\\"' * (N // 2) + ' HTTP/1.1" 200 5',
    "backslashes": START + "\\" * N,
    "quotes": START + '"' * N,
    "fields": START + 'GET / HTTP/1.1" 200 5' + ' "a"' * (N // 4),
    "ends": START + 'GET /"' + ' HTTP/1.1" 200 5' * (N // 16),
    "brackets": "192.0.2.3 - " + "[" * N,
    "times": "192.0.2.3 - " + "[01/Mar/2026:09:00:00 +0100] " * (N // 29),
    "dots": "a." * (N // 2),
    "colons": "1:" * (N // 2),
    "referers": APACHE_ERROR + ", referer: " * (N // 11),
    "ids": APACHE_ERROR + "ModSecurity: " + '[id "' * (N // 5),
    "clients": NGINX_ERROR + ", client: 192.0.2.1" * (N // 19),
    "users": NGINX_ERROR + 'user "' + '": password mismatch' * (N // 20) + ", client: 192.0.2.1",
    "open request": NGINX_ERROR + ', client: 192.0.2.1, server: s, request: "GET /' + "a" * N,
    "IPs": "2026-03-01 09:00:00: (mod_auth.c.5) " + ", IP: " * (N // 6),
    "hierarchies": SQUID + "A/a " * (N // 4),
    "userinfo": SQUID + "http://" + "a@" * (N // 2) + " - HIER_DIRECT/192.0.2.4 -",
    "haproxy": "<14>Mar  1 09:00:00 h haproxy[1]: 192.0.2.1:1 [01/Mar/2026:09:00:00.000] f b/s"
    " 1/1/1/1/1 200 5 - - ---- 1/1/1/1/1 0/0 {" + "a" * N,
    "json": json.dumps(
        {
            "remote_addr": "192.0.2.1",
            "status": 200,
            "request": "GET /" + "%25" * (N // 3) + " HTTP/1.1",
        }
    ),
}
HOSTILE_COLUMNS: dict[str, str] = {
    "quoted": '"" ' * (N // 3),
    "quote": '"a' * (N // 2) + " b",
    "value": "2026-03-01 08:00:00 W 10.0.0.1 GET /a "
    + "+%2525" * (N // 6)
    + " 1 - 192.0.2.3 a - 200 0",
}


def _time_of(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        with contextlib.suppress(DecodeError):
            work()
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", [*HOSTILE, *HOSTILE_COLUMNS])
def test_a_long_line_ends_quickly(name: str) -> None:
    line = HOSTILE.get(name) or HOSTILE_COLUMNS[name]
    header = IIS_HEADER if name in HOSTILE_COLUMNS else ""
    # At most 25 ms of processor time where nothing else runs.
    assert _time_of(lambda: read(line, header=header)) < 0.1


@given(
    st.sampled_from([START, START[:-1], NGINX_ERROR, APACHE_ERROR, SQUID, "192.0.2.3 - "]),
    st.text(alphabet='ab"\\[]:/ %+?,.{}0123456789-\n\x00\x1b\u00e9', max_size=120),
)
def test_any_text_behind_a_real_beginning(start: str, rest: str) -> None:
    try:
        event = read(start + rest)
    except DecodeError:
        return
    for view in event.views:
        json.dumps(view.fields, allow_nan=False).encode("utf-8")
    if event.format in ("access", "squid"):
        assert event.views[0].fields.get("c-ip", "192.0.2.3") in ("192.0.2.3", "192.0.2.1")


@given(
    st.binary(max_size=200),
    st.sampled_from([IIS_HEADER, "#Fields: a,b", "#Fields: a b", "#Fields: date-time,x", "#x"]),
)
def test_any_columns_decode_or_are_rejected(data: bytes, header: str) -> None:
    try:
        read(data, header=header, fmt="w3c")
    except DecodeError as error:
        assert str(error)
