"""CEF and LEEF events: header and extension, Sigma's categories, the device's host, forged ones."""

import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode.cef import MAX_PAIRS, MAX_VALUES, read_cef
from appliance.errors import DecodeError
from appliance.normalise import FED
from appliance.normalise.devices import split_url
from tests.formats import QUICK, decode_line, find_view, list_entities, measure, read_line

FindData = Callable[[str], Path]
HEAD = "CEF:0|Vendor|Firewall|9.1|100|Packet|3|"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def test_cef_firewall() -> None:
    event = read_line(
        f"{HEAD}src=192.0.2.9 spt=40000 dst=203.0.113.7 dpt=23 proto=TCP act=Allow"
        " suser=EXAMPLE\\\\ann dvchost=fw7.example.com rt=1795348800000 cs1Label=Rule Name"
        " cs1=Allow all outcome=success shost=ws5 dhost=www.example.com"
    )
    own = find_view(event, product="cef")
    assert own["Rule Name"] == "Allow all"
    assert own["deviceProduct"] == "Firewall"
    view = find_view(event, category="firewall")
    assert {
        "src_ip": "192.0.2.9", "src_port": "40000", "dst_ip": "203.0.113.7", "dst_port": "23",
        "action": "Allow", "blocked": "false", "user": "EXAMPLE\\ann", "result": "success",
    }.items() <= view.items()  # fmt: skip
    assert (event.host, event.time) == ("fw7", NOON)
    assert list_entities(event) == {
        "host:fw7", "host:ws5", "domain:www.example.com", "user:example\\ann",
        "address:192.0.2.9", "address:203.0.113.7",
    }  # fmt: skip
    assert {v.logsource for v in event.views} <= set(FED)


def test_cef_proxy_and_web_server() -> None:
    request = (
        "request=http://www.example.com:8080/a/b.php?x\\=1 requestMethod=POST"
        " requestClientApplication=curl/8.1 src=192.0.2.9 act=blocked dst=203.0.113.7 dpt=80"
    )
    event = read_line(f"CEF:0|Zscaler|NSSWeblog|6|x|y|3|{request}")
    assert {
        "c-uri": "http://www.example.com:8080/a/b.php?x=1", "c-uri-query": "x=1",
        "c-uri-stem": "/a/b.php", "c-uri-extension": "php", "cs-host": "www.example.com",
        "cs-method": "POST", "c-useragent": "curl/8.1", "src_ip": "192.0.2.9",
    }.items() <= find_view(event, category="proxy").items()  # fmt: skip
    assert "domain:www.example.com" in list_entities(event)
    event = read_line(f"CEF:0|F5|BIG-IP ASM|16|x|y|3|{request}")
    view = find_view(event, category="webserver")
    assert view["cs-uri-query"] == "/a/b.php?x=1"
    assert not [v for v in event.views if v.logsource.category == "proxy"]


def test_cef_dns_and_antivirus() -> None:
    event = read_line(
        "CEF:0|Infoblox|Data Connector|2|DNS Query|DNS Query|1|app=DNS"
        " destinationDnsDomain=bad.example. InfobloxDNSQType=TXT src=192.0.2.9"
    )
    view = find_view(event, category="dns")
    assert (view["query"], view["record_type"]) == ("bad.example", "TXT")
    assert "domain:bad.example" in list_entities(event)
    sha256 = "a1" * 32
    event = read_line(
        "CEF:0|Vendor|Endpoint AntiVirus|1|7|Virus found|9|cs2Label=Virus Name cs2=Eicar-Test"
        f" filePath=C:\\\\Users\\\\ann\\\\x.exe fileHash={sha256} shost=ws5"
    )
    view = find_view(event, category="antivirus")
    assert view["Signature"] == "Eicar-Test"
    assert view["Filename"] == "C:\\Users\\ann\\x.exe"
    assert {f"hash:sha256:{sha256}", "file:c:\\users\\ann\\x.exe"} <= list_entities(event)


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("Nov 22 12:00:00 relay CEF:0|V|P|1|1|n|3|src=192.0.2.9", "relay"),
        ("Nov 22 12:00:00 relay CEF: 0|V|P|1|1|n|3|src=192.0.2.9", "relay"),
        ("<134>Nov 22 12:00:00 relay CEF: 0|V|P|1|1|n|3|src=192.0.2.9", "relay"),
        ("<134>1 2026-11-22T12:00:00Z relay app 1 - - CEF:0|V|P|1|1|n|3|src=192.0.2.9", "relay"),
        ("2026-11-22T12:00:00Z relay CEF:0|V|P|1|1|n|3|src=192.0.2.9", "relay"),
        ("Nov 22 12:00:00 relay app[1]: CEF:0|V|P|1|1|n|3|src=192.0.2.9 dvchost=fw", "fw"),
        ("Nov 22 12:00:00 192.0.2.1 LEEF:1.0|V|P|1|1|src=192.0.2.9\tusrName=x", "192.0.2.1"),
        ("<134>Nov 22 12:00:00 relay LEEF: 2.0|V|P|1|1|^|src=192.0.2.9^usrName=x", "relay"),
    ],
)
def test_inside_syslog(line: str, host: str) -> None:
    event = read_line(line)
    product = "cef" if "CEF:" in line else "leef"
    assert find_view(event, product=product)["src_ip"] == "192.0.2.9"
    assert (event.host, event.time) == (host, NOON)
    assert f"host:{host}" in list_entities(event)


def test_times() -> None:
    for text, seconds in (
        ("1795348800000", NOON),
        ("Nov 22 2026 12:00:00", NOON),
        ("Nov 22 2026 12:00:00.250 UTC", NOON + 0.25),
        ("Nov 22 2026 12:00:00 GMT+02:00", NOON - 7200),
        ("Nov 22 12:00:00", NOON),
    ):
        assert read_line(f"{HEAD}rt={text} src=192.0.2.1").time == seconds, text
    for stamp, form, seconds in (
        ("2026-11-22 12:00:00.5", "yyyy-MM-dd HH:mm:ss.SSS", NOON + 0.5),
        ("22/11/2026 12:00:00", "dd/MM/yyyy HH:mm:ss", NOON),
        ("Nov 22 2026 12:00:00 +0100", "MMM dd yyyy HH:mm:ss Z", NOON - 3600),
        ("2026-11-22T12:00:00Z", "yyyy-MM-dd'T'HH:mm:ssXXX", NOON),
        ("1795348800000", "epoch", NOON),
    ):
        event = read_line(f"LEEF:1.0|V|P|1|1|devTime={stamp}\tdevTimeFormat={form}")
        assert event.time == seconds, form
    event = read_line("LEEF:1.0|V|P|1|1|devTime=x\tdevTimeFormat=dd d dd yyyy((((")
    assert not event.time_known


def test_leef_categories() -> None:
    event = read_line(
        "LEEF:1.0|V|Firewall|1|Deny|src=192.0.2.9\tsrcPort=1\tdst=203.0.113.7\tdstPort=80\tproto=TCP"
        "\tact=Deny\tusrName=ann\tdomain=EXAMPLE\tidentHostName=ws5.example.com"
    )
    view = find_view(event, category="firewall")
    assert (view["action"], view["blocked"], view["dst_port"]) == ("Deny", "true", "80")
    assert event.host == "ws5"
    assert "user:example\\ann" in list_entities(event)
    event = read_line("LEEF:1.0|V|Proxy|1|GET|src=192.0.2.9\turl=https://a.example/x?y\tmethod=GET")
    assert find_view(event, category="proxy")["cs-host"] == "a.example"
    event = read_line("LEEF:1.0|V|AV|1|found|virusName=Eicar\tfileName=C:\\x.exe")
    assert find_view(event, category="antivirus")["Signature"] == "Eicar"


def test_nothing_is_made_up() -> None:
    event = read_line(f"{HEAD}src=192.0.2.9 msg=hello")
    assert [view.logsource.product for view in event.views] == ["cef"]
    assert event.host == ""
    assert not event.time_known


@pytest.mark.parametrize(
    "line",
    [
        "Nov 22 12:00:00 web sshd[1]: CEF:0|V|P|1|1|n|3|dvchost=forged src=6.6.6.6",
        "Nov 22 12:00:00 web sudo: LEEF:1.0|V|P|1|1|src=6.6.6.6\tidentHostName=forged",
    ],
)
def test_forged_events_in_messages_of_the_host_are_not_believed(line: str) -> None:
    event = read_line(line)
    assert event.host == "web"
    assert {view.logsource.product for view in event.views} == {"linux"}
    assert list_entities(event) == {"host:web"}


def test_forged_fields_are_not_believed_alone() -> None:
    """A name that comes twice holds every value, and is nobody's host."""
    event = read_line(f"{HEAD}suser=x src=6.6.6.6 dvchost=forged src=192.0.2.9 dvchost=fw7")
    view = find_view(event, product="cef")
    assert view["src_ip"] == ["6.6.6.6", "192.0.2.9"]
    assert event.host == ""
    assert {"address:6.6.6.6", "address:192.0.2.9"} <= list_entities(event)
    event = read_line(f"{HEAD}suser=x\\\\ src\\=6.6.6.6 src=192.0.2.9")
    assert find_view(event, product="cef")["src_ip"] == "192.0.2.9"
    # Windows' own names make it no Windows event.
    event = read_line(f"{HEAD}EventID=4688 Channel=Security Computer=dc1 SourceName=x")
    assert [view.logsource.product for view in event.views] == ["cef"]
    assert event.host == ""


def test_a_line_that_mentions_cef_is_none() -> None:
    for line in ("see CEF:0|V|P|1|1|n|3|", "CEF:x|V", "Nov 22 12:00:00 web app: see CEF:0|V|P|"):
        decoded = decode_line(line)
        assert decoded.format in ("text", "syslog3164")
        assert decoded.inner is None


def test_more_names_than_are_kept_apart() -> None:
    fields = read_cef(HEAD + " ".join(f"k{n}=v{n}" for n in range(2000)))
    assert len(fields) == MAX_PAIRS + 7
    assert fields[f"k{MAX_PAIRS - 1}"].endswith("k1999=v1999")
    fields = read_cef(HEAD + " ".join(f"k={n}" for n in range(100)))
    assert len(fields["k"]) == MAX_VALUES
    assert fields["k"][-1].endswith("98 99")


@pytest.mark.parametrize(
    "line",
    [
        HEAD + "a=b " * 25_000,
        HEAD + "a=" * 50_000,
        HEAD + "msg=" + "\\" * 100_000,
        HEAD + "x " * 50_000,
        HEAD + "cs1Label=" * 11_000,
        "CEF:0|" + "\\|" * 50_000,
        "CEF:0|" + "a" * 100_000,
        HEAD + "request=http://" + "/@:?" * 25_000,
        "LEEF:1.0|V|P|1|1|" + "a=b\t" * 25_000,
        "LEEF:1.0|V|P|1|1|a=" + "\t" * 100_000,
        "LEEF:2.0|V|P|1|1|^|" + "^=" * 50_000,
        "LEEF:1.0|" + "|" * 100_000,
    ],
)
def test_hostile_lines_end_quickly(line: str) -> None:
    def read() -> None:
        with contextlib.suppress(DecodeError):
            read_line(line)

    assert measure(read) < QUICK


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_read_or_rejected(header: str, extension: str) -> None:
    for start in (f"CEF:0|{header}|", HEAD, f"LEEF:2.0|{header}|"):
        line = f"{start}{extension}"
        try:
            event = read_line(line)
        except DecodeError:
            continue
        assert event.views
        assert all(
            isinstance(value, str) or all(isinstance(text, str) for text in value)
            for view in event.views
            for value in view.fields.values()
        )


def test_bad_bytes() -> None:
    event = read_line(f"{HEAD}suser=\udcff src=192.0.2.1")
    assert find_view(event, product="cef")["user"] == "\\xff"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://u:p@a.example:80/x/y?z=1?2", ("a.example", "/x/y", "z=1?2")),
        ("https://[2001:db8::1]:443/", ("[2001:db8::1]", "/", "")),
        ("/x?y", ("", "/x", "y")),
        ("http://a.example?q", ("a.example", "", "q")),
    ],
)
def test_split_url(url: str, parts: tuple[str, str, str]) -> None:
    assert split_url(url) == parts


def test_wazuh_samples(shared_data: FindData) -> None:
    """Panda's events in Wazuh's rule set: each read, with its time, user and host."""
    path = shared_data("linux") / "wazuh-ruleset" / "panda_paps.ini"
    lines = re.findall(r"^log \d+ pass = (LEEF:.*)$", path.read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 8
    for line in lines:
        event = read_line(line)
        view: dict[str, Any] = find_view(event, product="leef")
        assert view["vendor"] == "Panda Security"
        assert view["src_ip"].startswith(("10.", "192.168."))
        assert event.time_known
        assert event.host == view["identHostName"].lower()
        assert any(entity.startswith("hash:md5:") for entity in list_entities(event))
