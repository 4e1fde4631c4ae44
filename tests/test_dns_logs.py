"""Query logs of BIND, Unbound and dnsmasq as Sigma's category dns: real shapes, forged lines."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.decode import detect_format
from appliance.normalise import FED
from tests.formats import QUICK, decode_line, find_view, list_entities, measure, read_line

FindData = Callable[[str], Path]
TIME = "22-Nov-2026 10:00:00.123"
SECONDS = datetime(2026, 11, 22, 10, 0, 0, 123000, tzinfo=UTC).timestamp()

LINES: list[tuple[str, dict[str, Any], set[str]]] = [
    (
        f"{TIME} queries: info: client @0x7f64 192.0.2.1#5353 (Mail.example.com):"
        " query: Mail.example.com IN MX +E(0)K (192.0.2.53)",
        {"query": "Mail.example.com", "record_type": "MX", "src_ip": "192.0.2.1",
         "src_port": "5353", "dst_ip": "192.0.2.53", "action": "query"},
        {"address:192.0.2.1", "domain:mail.example.com"},
    ),
    (
        f"{TIME} client 192.0.2.9#1036: query (cache) 'evil.example/NS/IN' denied",
        {"query": "evil.example", "record_type": "NS", "result": "failure"},
        {"address:192.0.2.9", "domain:evil.example"},
    ),
    (
        f"{TIME} query-errors: info: client @0x1 192.0.2.9#1 (a.example): query failed (SERVFAIL)"
        " for a.example/IN/A at query.c:7836",
        {"query": "a.example", "response_code": "SERVFAIL", "result": "failure"},
        {"address:192.0.2.9", "domain:a.example"},
    ),
    (
        f"{TIME} responses: info: client @0x1 192.0.2.9#1 (a.example): response: a.example IN A"
        " NOERROR +E(0)K 1 0 1 56",
        {"query": "a.example", "response_code": "NOERROR", "result": "success"},
        {"address:192.0.2.9", "domain:a.example"},
    ),
    (
        f"{TIME} rpz: info: disabled rpz x",
        {},
        set(),
    ),
    (
        f"{TIME} rpz: info: client @0x1 192.0.2.9#1 (b.example): rpz QNAME NXDOMAIN rewrite"
        " b.example via b.example.rpz",
        {"query": "b.example", "policy": "NXDOMAIN", "action": "rpz"},
        {"address:192.0.2.9", "domain:b.example"},
    ),
    (
        "Nov 22 10:00:00 ns1 named[31]: client @0x7f64 192.0.2.1#5353 (.): view external:"
        " query: . IN NS -E(0) (192.0.2.53)",
        {"query": ".", "record_type": "NS", "view": "external"},
        {"host:ns1", "address:192.0.2.1"},
    ),
    (
        "[1795341600] unbound[12:0] info: 192.0.2.1 a.example. TXT IN",
        {"query": "a.example", "record_type": "TXT", "src_ip": "192.0.2.1"},
        {"address:192.0.2.1", "domain:a.example"},
    ),
    (
        "Nov 22 10:00:00 gw unbound: [12:0] info: 192.0.2.1 a.example. A IN NXDOMAIN 0.001 0 40",
        {"query": "a.example", "response_code": "NXDOMAIN", "cached": "0"},
        {"host:gw", "address:192.0.2.1", "domain:a.example"},
    ),
    (
        "Nov 22 10:00:00 unbound[12:0] info: a.example. inform 192.0.2.1@53 x.a.example. A IN",
        {"query": "x.a.example", "policy": "inform", "src_port": "53"},
        {"address:192.0.2.1", "domain:x.a.example"},
    ),
    (
        "Nov 22 10:00:00 gw dnsmasq[9]: query[AAAA] a.example from 192.0.2.1",
        {"query": "a.example", "record_type": "AAAA", "action": "query"},
        {"host:gw", "address:192.0.2.1", "domain:a.example"},
    ),
    (
        "Nov 22 10:00:00 gw dnsmasq[9]: 7 192.0.2.1/4000 reply a.example is 203.0.113.7",
        {"query": "a.example", "answer": "203.0.113.7", "src_ip": "192.0.2.1"},
        {"host:gw", "address:192.0.2.1", "address:203.0.113.7", "domain:a.example"},
    ),
    (
        "Nov 22 10:00:00 gw dnsmasq[9]: cached b.example is NXDOMAIN",
        {"query": "b.example", "response_code": "NXDOMAIN"},
        {"host:gw", "domain:b.example"},
    ),
    (
        "Nov 22 10:00:00 gw dnsmasq[9]: forwarded b.example to 192.0.2.53#53",
        {"query": "b.example", "dst_ip": "192.0.2.53", "action": "forwarded"},
        {"host:gw", "domain:b.example"},
    ),
    (
        "Nov 22 10:00:00 gw dnsmasq[9]: /etc/hosts b.example is 192.0.2.7",
        {"query": "b.example", "answer": "192.0.2.7", "action": "hosts"},
        {"host:gw", "address:192.0.2.7", "domain:b.example"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("line", "fields", "entities"), LINES)
def test_line(line: str, fields: dict[str, Any], entities: set[str]) -> None:
    event = read_line(line)
    if not fields:
        assert not event.mapped
        return
    view = find_view(event, category="dns")
    assert {name: view.get(name) for name in fields} == fields
    assert list_entities(event) == entities
    assert event.mapped
    assert event.time_known
    assert {v.logsource for v in event.views} <= set(FED)
    assert event.time in (SECONDS, int(SECONDS))


def test_the_message_of_named_is_also_syslog() -> None:
    event = read_line("Nov 22 10:00:00 ns1 named[1]: client 192.0.2.1#1: query: a.example IN A +")
    assert [view.logsource.category for view in event.views] == ["dns", None]
    assert find_view(event, service="syslog")["program"] == "named"


def test_forged_names_choose_no_client() -> None:
    """dnsmasq writes a name with blanks as it is: the client is the last address."""
    event = read_line("Nov 22 10:00:00 gw dnsmasq[9]: query[A] x from 6.6.6.6 from 192.0.2.1")
    view = find_view(event, category="dns")
    assert view["src_ip"] == "192.0.2.1"
    assert view["query"] == "x from 6.6.6.6"
    assert "address:6.6.6.6" not in list_entities(event)
    event = read_line(
        f"{TIME} queries: info: client @0x1 192.0.2.1#5 (client\\0326.6.6.6#1:):"
        " query: client\\0326.6.6.6#1: IN A + (192.0.2.53)"
    )
    view = find_view(event, category="dns")
    assert (view["src_ip"], view["src_port"]) == ("192.0.2.1", "5")
    assert view["query"] == "client\\0326.6.6.6#1:"


@pytest.mark.parametrize(
    "line",
    [
        # Words of another program, and of one of the host's own.
        "Nov 22 10:00:00 web app[1]: client 192.0.2.1#5353: query: a.example IN A +",
        "Nov 22 10:00:00 web sshd[1]: query[A] a.example from 192.0.2.1",
        "Nov 22 10:00:00 web sshd[1]: Invalid user client 192.0.2.1#1: query from 192.0.2.9",
        "Nov 22 10:00:00 ns named[1]: zone a.example/IN: loaded serial 7",
        "Nov 22 10:00:00 gw dnsmasq[9]: started, version 2.90 cachesize 150",
    ],
)
def test_ordinary_messages_stay_messages(line: str) -> None:
    decoded = decode_line(line)
    assert (decoded.format, decoded.inner) == ("syslog3164", None)


@pytest.mark.parametrize(
    "line",
    [
        "my client 192.0.2.1#53: query: a IN A +",
        "error: the client 192.0.2.1 left",
        "[1795341600] nsd[7745]: info: axfr refused",
        "22-Nov-2026 10:00:00.123 general: notice: running",
    ],
)
def test_ordinary_lines_are_not_taken_for_query_logs(line: str) -> None:
    assert detect_format(line.encode()) == "text"


@pytest.mark.parametrize(
    "line",
    [
        f"{TIME} client 192.0.2.1#5 (" + "a" * 100_000,
        f"{TIME} client 192.0.2.1#5: query: " + "a/" * 50_000,
        f"{TIME} client 192.0.2.1#5: query '" + "a/A/" * 25_000,
        "Nov 22 10:00:00 gw dnsmasq[9]: reply " + " is" * 33_000,
        "Nov 22 10:00:00 gw dnsmasq[9]: query[A] " + " from 1" * 14_000,
        "[1795341600] unbound[12:0] info: " + "a. " * 33_000,
        "[1795341600] unbound[12:0] info: SERVFAIL <" + "a A IN>" * 14_000,
    ],
)
def test_hostile_lines_end_quickly(line: str) -> None:
    assert measure(lambda: read_line(line)) < QUICK


def test_bad_bytes() -> None:
    event = read_line(f"{TIME} client 192.0.2.1#5: query: \udcfe.example IN A +")
    assert find_view(event, category="dns")["query"] == "\\xfe.example"


def test_fail2ban_samples(shared_data: FindData) -> None:
    """Its lines of named: each names the client that fail2ban's own suite expects."""
    text = (shared_data("linux") / "fail2ban-logs" / "named-refused").read_text("utf-8")
    found = re.findall(r'"host": "([^"]+)"[^\n]*\n([^\n#][^\n]*)', text)
    # The one without a time is what journalctl prints, and no log file's line.
    found = [(host, line) for host, line in found if not line.startswith("atom ")]
    assert len(found) == 15
    formats: Counter[str] = Counter()
    for host, line in found:
        event = read_line(line)
        view = find_view(event, category="dns")
        assert view["src_ip"] == host
        assert view["result"] == "failure"
        assert f"address:{host}" in list_entities(event)
        assert view["query"]
        formats[event.format] += 1
    assert formats == {"syslog3164": 9, "bind": 6}


def test_wazuh_samples(shared_data: FindData) -> None:
    """Wazuh's lines of named and Unbound, as far as they are about a client or a name."""
    folder = shared_data("linux") / "wazuh-ruleset"
    counts: Counter[str] = Counter()
    for name in ("named", "unbound"):
        text = (folder / f"{name}.ini").read_text("utf-8")
        for line in re.findall(r"^;?log \d+ (?:pass|fail) = (.*)$", text, re.MULTILINE):
            event = read_line(line)
            views = [v.fields for v in event.views if v.logsource.category == "dns"]
            counts[name] += 1
            counts[f"{name} dns"] += len(views)
            counts["addresses"] += sum(bool(fields.get("src_ip")) for fields in views)
    assert counts == {"named": 5, "named dns": 4, "unbound": 4, "unbound dns": 1, "addresses": 5}
