"""The Linux packet filter's log lines as Sigma's category firewall: real shapes, forged lines."""

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.decode import detect_format
from appliance.normalise import FED
from appliance.normalise.netfilter import find_action
from tests.formats import QUICK, decode_line, find_view, list_entities, measure, read_line

FindData = Callable[[str], Path]
PACKET = (
    "IN=eth0 OUT= MAC=00:11:22:33:44:55:66:77:88:99:aa:bb:08:00 SRC=203.0.113.9 DST=192.0.2.7"
    " LEN=60 TOS=0x00 PREC=0x00 TTL=50 ID=1 DF PROTO=TCP SPT=40000 DPT=22 WINDOW=1024 RES=0x00"
    " SYN URGP=0 "
)


def test_ufw_in_syslog() -> None:
    event = read_line(f"Nov 22 10:00:00 fw kernel: [12345.678901] [UFW BLOCK] {PACKET}")
    view = find_view(event, product="linux", category="firewall")
    assert {
        "src_ip": "203.0.113.9", "src_port": "40000", "dst_ip": "192.0.2.7", "dst_port": "22",
        "protocol": "tcp", "action": "blocked", "blocked": "true", "prefix": "[UFW BLOCK]",
    }.items() <= view.items()  # fmt: skip
    assert event.host == "fw"
    assert event.time_known
    assert list_entities(event) == {"host:fw", "address:203.0.113.9", "address:192.0.2.7"}
    assert {v.logsource for v in event.views} <= set(FED)
    assert find_view(event, service="syslog")["program"] == "kernel"


@pytest.mark.parametrize(
    "line",
    [
        f"<4>Nov 22 10:00:00 fw kernel: DROP:{PACKET}",
        f"<4>1 2026-11-22T10:00:00Z fw kernel - - - DROP {PACKET}",
        f"2026-11-22T10:00:00.123456+00:00 fw kernel: filter_IN_public_DROP: {PACKET}",
        f"Nov 22 10:00:00 fw kernel: Shorewall:net2fw:DROP:{PACKET}",
        f"Nov 22 10:00:00 fw ulogd[7]: DROP {PACKET}",
        f"[12345.678901] nft DROP {PACKET}",
        f'Nov 22 10:00:00 fw kernel: [WAN_LOCAL-DROP] DESCR="no rule" {PACKET}',
    ],
)
def test_shapes(line: str) -> None:
    view = find_view(read_line(line), product="linux", category="firewall")
    assert (view["src_ip"], view["dst_port"], view["action"]) == ("203.0.113.9", "22", "blocked")


@pytest.mark.parametrize(
    ("prefix", "action"),
    [
        ("[UFW BLOCK]", "blocked"),
        ("[UFW LIMIT BLOCK]", "blocked"),
        ("[UFW ALLOW]", "accept"),
        ("[UFW AUDIT]", ""),
        ("FINAL_REJECT:", "blocked"),
        ("STATE_INVALID_DROP:", "blocked"),
        ("denied:", "blocked"),
        ("nft#ACCEPT", "accept"),
        ("accept or drop", ""),
        ("dropbox", ""),
        ("", ""),
    ],
)
def test_action_is_what_the_prefix_says_in_a_word(prefix: str, action: str) -> None:
    assert find_action(prefix) == action


def test_nothing_is_made_up() -> None:
    view = find_view(read_line(f"[12345.678901] new: {PACKET}"), category="firewall")
    assert not {"action", "blocked", "result"} & view.keys()
    view = find_view(
        read_line(
            "IN=eth0 OUT= ARP HTYPE=1 PTYPE=0x0800 OPCODE=1 MACSRC=00:11:22:33:44:55"
            " IPSRC=192.0.2.4 MACDST=00:00:00:00:00:00 IPDST=192.0.2.1"
        ),
        category="firewall",
    )
    assert (view["src_ip"], view["dst_ip"]) == ("192.0.2.4", "192.0.2.1")
    assert "src_port" not in view


def test_forged_what_an_icmp_error_quotes_is_not_the_packet() -> None:
    event = read_line(
        "[12345.678901] D IN=eth0 OUT= SRC=203.0.113.9 DST=192.0.2.7 LEN=88 PROTO=ICMP TYPE=3"
        " CODE=1 [SRC=10.0.0.1 DST=198.51.100.66 LEN=60 PROTO=UDP SPT=1 DPT=2 ]"
    )
    view = find_view(event, category="firewall")
    assert (view["src_ip"], view["protocol"]) == ("203.0.113.9", "icmp")
    assert "dst_port" not in view
    assert "address:198.51.100.66" not in list_entities(event)


@pytest.mark.parametrize(
    "line",
    [
        f"Nov 22 10:00:00 web sshd[1]: Invalid user {PACKET} from 192.0.2.1 port 9",
        f"Nov 22 10:00:00 web app[1]: [UFW BLOCK] {PACKET}",
        f"Nov 22 10:00:00 web kernel: usb 1-1: Product: {PACKET}",
        f'Nov 22 10:00:00 web kernel: audit: type=1400 comm="{PACKET}"',
        "Nov 22 10:00:00 web kernel: [1.000001] eth0: link up",
    ],
)
def test_forged_packets_of_others_are_not_believed(line: str) -> None:
    decoded = decode_line(line)
    assert (decoded.format, decoded.inner) == ("syslog3164", None)
    assert not [v for v in read_line(line).views if v.logsource.category == "firewall"]


@pytest.mark.parametrize(
    "line",
    [f"user said {PACKET}", f"sshd[1]: Invalid user {PACKET}", f"2026-11-22 10:00:00 {PACKET}"],
)
def test_lines_with_any_words_before_a_packet_are_text(line: str) -> None:
    assert detect_format(line.encode()) == "text"


def test_any_prefix_in_a_file_that_is_said_to_hold_packets() -> None:
    event = read_line(f"Nov 22 10:00:00 fw kernel: nft drop {PACKET}", "netfilter")
    assert find_view(event, category="firewall")["action"] == "blocked"
    assert event.time_known


@pytest.mark.parametrize(
    "line",
    [
        "[12345.678901] IN=eth0 OUT= SRC=1.1.1.1 " + "A=b " * 25_000,
        "[12345.678901] IN=eth0 OUT= SRC=1.1.1.1 " + "A" * 100_000,
        "[12345.678901] " + "IN=" * 33_000,
        "Nov 22 10:00:00 fw kernel: " + "IN=a OUT= " * 10_000,
        "IN= OUT= " + "MAC=a " * 16_000,
    ],
)
def test_hostile_lines_end_quickly(line: str) -> None:
    assert measure(lambda: read_line(line)) < QUICK


def test_bad_bytes() -> None:
    event = read_line(f"Nov 22 10:00:00 fw kernel: [\udcff DROP] {PACKET}")
    assert find_view(event, category="firewall")["action"] == "blocked"


def test_no_line_of_the_sets_is_taken_for_a_packet(shared_data: FindData) -> None:
    """None of fail2ban's and LogHub's lines is one; so none may be read as one."""
    folder = shared_data("linux")
    count = 0
    paths = [path for path in sorted(folder.glob("fail2ban-logs/**/*")) if path.is_file()]
    for path in (*paths, folder / "loghub/Linux/Linux_2k.log"):
        for line in path.read_bytes().splitlines():
            if not line.strip():
                continue
            count += 1
            assert detect_format(line) != "netfilter"
    assert count > 3_000


def test_forged_names_in_an_audit_record_do_not_hide_it() -> None:
    """The kernel's other records keep their reader when a file's name looks like a packet."""
    decoded = decode_line(
        'Nov 22 10:00:00 web kernel: audit: type=1400 audit(1787000000.123:45): apparmor="DENIED"'
        ' operation="open" name="/tmp/IN=a OUT=b SRC=1.1.1.1 " pid=1 comm="cat"'
    )
    assert decoded.inner is not None
    assert decoded.inner.format == "auditd"
