"""Web formats over the real data sets: every line of a web server or proxy is read as what it is.

Needs the sets `web` and `linux`; skips without them (see conftest).
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from appliance.decode import decode
from appliance.normalise import normalise
from appliance.schema import Cursor, Event, RawRecord

FindData = Callable[[str], Path]
RECEIVED = 1_790_000_000.0
#: The zone in which fail2ban's own suite runs.
ZONE = ZoneInfo("Europe/Zurich")
WEB = {"webserver", "proxy"}
#: fail2ban's files of web servers and proxies whose lines are logs of the servers themselves.
FAIL2BAN = (
    "apache-auth", "apache-badbots", "apache-botsearch", "apache-fakegooglebot",
    "apache-modsecurity", "apache-nohome", "apache-noscript", "apache-overflows", "apache-pass",
    "apache-shellshock", "nginx-bad-request", "nginx-botsearch", "nginx-forbidden",
    "nginx-http-auth", "nginx-limit-req", "squid", "lighttpd-auth", "traefik-auth",
    "haproxy-http-auth", "php-url-fopen", "openhab", "zoneminder",
)  # fmt: skip
#: The journal's short output without its time: no format that a file has.
JOURNAL = re.compile(rb"host nginx\[\d+\]: ")


def read(data: bytes, received: float = RECEIVED, header: bytes = b"") -> Event:
    cursor = Cursor("test", "x", 0, len(data))
    record = RawRecord(data, "test", "x", "x", cursor, received, header=header)
    return normalise(record, decode(record), zone=ZONE).event


def list_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line.strip()]


def is_web(event: Event) -> bool:
    return any(view.logsource.category in WEB for view in event.views)


def test_every_line_of_an_access_log_is_read(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    for line in list_lines(shared_data("web") / "access-logs" / "apache_logs"):
        event = read(line)
        fields = event.views[0].fields
        counts["lines"] += 1
        counts["web"] += is_web(event) and event.format == "access"
        counts["timed"] += event.time_known
        counts["address"] += fields.get("src_ip") == line.split(b" ")[0].decode()
        counts["status"] += f'" {fields.get("sc-status")} ' in line.decode()
        counts["method"] += fields.get("cs-method") in ("GET", "HEAD", "POST", "OPTIONS")
        counts["target"] += "cs-uri-stem" in fields and "cs-uri-query" in fields
        counts["agent"] += "cs-user-agent" in fields or line.rstrip().endswith(b'"-"')
    assert counts["lines"] == 10_000
    assert {counts[name] for name in counts if name != "lines"} == {10_000}, counts


def test_attack_queries_stay_inside_their_field(shared_data: FindData) -> None:
    """Attack queries as an escaping server would log them: none changes another field."""
    counts: Counter[str] = Counter()
    start = b'192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET '
    for query in list_lines(shared_data("web") / "fwaf" / "badqueries.txt")[:5_000]:
        escaped = query.replace(b'"', b'\\"')
        fields = read(start + escaped + b' HTTP/1.1" 404 5 "-" "ua"').views[0].fields
        counts["lines"] += 1
        counts["whole"] += (
            fields["src_ip"] == "192.0.2.7"
            and fields.get("cs-user-agent") == "ua"
            and fields["sc-status"] == 404
            and fields["cs-method"] == "GET"
        )
    assert counts["lines"] == 5_000
    # Queries that end in a backslash escape the quote that should end the request.
    assert counts["whole"] >= 4_990, counts


def read_fail2ban(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    expected: dict[str, Any] = {}
    for line in list_lines(path):
        if line.startswith(b"#"):
            _, sign, text = line.partition(b"failJSON:")
            expected = json.loads(text) if sign else expected
        else:
            yield expected, line
            expected = {}


def test_fail2ban_hosts_and_times(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    now = datetime(2005, 8, 14, 12, tzinfo=ZONE)
    for name in FAIL2BAN:
        for expected, line in read_fail2ban(shared_data("linux") / "fail2ban-logs" / name):
            if JOURNAL.match(line):
                counts["journal"] += 1
                continue
            received = RECEIVED
            want = None
            if expected.get("match") and expected.get("time"):
                want = datetime.fromisoformat(expected["time"]).replace(tzinfo=ZONE)
                received = (now if want.year in (2004, 2005) else want).timestamp() + 60
            event = read(line, received)
            counts["lines"] += 1
            counts["web"] += is_web(event)
            if not expected.get("match"):
                continue
            counts["expected"] += 1
            client = event.views[0].fields.get("src_ip")
            first = client[0] if isinstance(client, list) else client
            if first != expected["host"]:
                wrong.append((name, "host", line))
            if want is not None and abs(event.time - want.timestamp()) > 1.01:
                wrong.append((name, "time", line))
    assert wrong == []
    assert counts["web"] == counts["lines"] == 180, counts
    assert counts["expected"] == 166, counts
    assert counts["journal"] == 5


def test_wazuh_lines_are_web_records(shared_data: FindData) -> None:
    counts: Counter[str] = Counter()
    for name in ("apache", "nginx", "squid_rules", "web_appsec", "modsecurity"):
        path = shared_data("linux") / "wazuh-ruleset" / f"{name}.ini"
        for line in list_lines(path):
            if found := re.match(rb"log \d+ (?:pass|fail) = ?(.+)", line):
                counts[name] += 1
                counts[f"{name} web"] += is_web(read(found[1]))
    assert counts == {
        # Without a time and a client "[notice] Apache configured" could be anybody's.
        "apache": 12, "apache web": 11,
        # "[yadda]" is no level of nginx.
        "nginx": 12, "nginx web": 11,
        "squid_rules": 2, "squid_rules web": 2,
        "web_appsec": 31, "web_appsec web": 31,
        "modsecurity": 6, "modsecurity web": 6,
    }  # fmt: skip


#: IIS' columns, under which Wazuh's samples were written: some with the referer, some without.
IIS_HEADER = (
    b"#Software: Microsoft Internet Information Services 8.5\n#Fields: date time s-ip cs-method"
    b" cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent)%s sc-status sc-substatus"
    b" sc-win32-status time-taken\n"
)


def test_wazuh_iis_lines_under_their_header(shared_data: FindData) -> None:
    clients = []
    for line in list_lines(shared_data("linux") / "wazuh-ruleset" / "web_rules.ini"):
        if found := re.match(rb"log \d+ pass = ?(2015-\d\d-\d\d .+)", line):
            referer = b" cs(Referer)" if len(found[1].split(b" ")) == 15 else b""
            event = read(found[1], header=IIS_HEADER % referer)
            assert event.views[0].logsource.service == "iis"
            assert event.time_known
            clients.append(event.views[0].fields["src_ip"])
    assert clients == ["31.3.3.7"] * 3


def test_loghub_apache_errors(shared_data: FindData) -> None:
    lines = list_lines(shared_data("linux") / "loghub" / "Apache" / "Apache_2k.log")
    counts: Counter[str] = Counter()
    for line in lines:
        event = read(line)
        counts["apache"] += event.views[0].logsource.service == "apache"
        counts["timed"] += event.time_known
    assert len(lines) == 2_000
    assert counts == {"apache": 2_000, "timed": 2_000}


def test_no_other_line_is_taken_for_a_web_format(shared_data: FindData) -> None:
    """Logs of other programs, none of which is a web server's."""
    counts: Counter[str] = Counter()
    folder = shared_data("linux")
    for path in [*folder.glob("loghub/*/*_2k.log"), folder / "gtkcyber" / "auth.log"]:
        if path.parent.name == "Apache":
            continue
        for line in list_lines(path)[:2_000]:
            event = read(line)
            counts["lines"] += 1
            counts["web"] += event.format in ("access", "access_error", "squid", "w3c")
    assert counts["lines"] > 20_000, counts
    assert counts["web"] == 0, counts
