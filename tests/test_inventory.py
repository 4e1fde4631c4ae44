"""The inventory: what records reveal, what hostile ones don't, what is kept, and when."""

import json
import math
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from appliance.inventory.banners import read_agent, read_named, read_server, read_ssh
from appliance.inventory.ledger import KEEP_SECONDS, STEP_SECONDS, Caps, SoftwareLedger
from appliance.inventory.observe import MAX_SIGHTS, Inventory
from appliance.inventory.packages import (
    read_apt,
    read_dpkg,
    read_pacman,
    read_rpm,
    read_zypper,
    split_rpm,
)
from appliance.inventory.seen import (
    MAX_NAME,
    MAX_VERSION,
    Sight,
    Software,
    clean_name,
    clean_version,
)
from appliance.inventory.windows import read_boot, read_installer, read_resource
from appliance.pipeline import Line, Reader, process, read_event, read_records
from appliance.schema import Cursor, RawRecord, Sighting, SourceBatch
from appliance.store import Store, StoreLimits
from appliance.worker_frames import Did, pack_work
from tests.test_pipeline import make_line

T0 = 1_790_000_000.0
DAY = 86_400.0


def see(text: str | bytes, name: str = "x.log", *, received: float = T0) -> Sighting:
    data = text if isinstance(text, bytes) else text.encode()
    record = RawRecord(data, "scan", f"/logs/{name}", name, Cursor("scan", name, 0, 1), received)
    read = read_event(record, UTC)
    assert isinstance(read, tuple), read
    return read[0]


def reveal(*texts: str | bytes, name: str = "x.log") -> list[tuple[str, str, str, str, str]]:
    """(host, vendor, product, version, how) of each, "-" before what is gone."""
    inventory = Inventory()
    for text in texts:
        inventory.note(see(text, name), UTC)
    sights, counts = inventory.take()
    assert counts.get("faults", 0) == 0
    return [
        (s.host, s.vendor, ("-" if s.gone else "") + s.product, s.version, s.how) for s in sights
    ]


def sysmon(**fields: Any) -> str:
    body = {
        "EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Computer": "ws1",
        "UtcTime": "2026-09-01 10:00:00.000", "Image": "C:\\x.exe", **fields,
    }  # fmt: skip
    return json.dumps(body)


def application(event_id: int, *data: str, provider: str = "MsiInstaller") -> str:
    system = {
        "EventID": event_id, "Channel": "Application", "Computer": "ws1",
        "Provider": {"#attributes": {"Name": provider}},
        "TimeCreated": {"#attributes": {"SystemTime": "2026-09-01T10:00:00Z"}},
    }  # fmt: skip
    return json.dumps({"Event": {"System": system, "EventData": {"Data": list(data)}}})


# --- package managers -----------------------------------------------------------------------


def test_dpkg_lines() -> None:
    found = reveal(
        "2026-09-01 10:00:00 upgrade openssh-server:amd64 1:8.4p1-5 1:8.4p1-5+deb11u1",
        "2026-09-01 10:00:01 install curl:amd64 <none> 7.74.0-1.3",
        "2026-09-01 10:00:01 status half-configured curl:amd64 7.74.0-1.3",
        "2026-09-01 10:00:01 status installed libc6:amd64 2.31-13",
        "2026-09-01 10:00:02 remove nano:amd64 5.4-2 <none>",
        "2026-09-01 10:00:02 startup archives unpack",
        name="var/log/dpkg.log.1",
    )
    how = "dpkg.log: line"
    host = "log:var/log/dpkg.log"
    assert found == [
        (host, "", "openssh-server", "1:8.4p1-5+deb11u1", how),
        (host, "", "curl", "7.74.0-1.3", how),
        (host, "", "libc6", "2.31-13", how),
        (host, "", "-nano", "", how),
    ]


def test_a_package_line_in_another_log_says_nothing() -> None:
    line = "2026-09-01 10:00:00 upgrade openssh-server:amd64 1:8.4p1-5 1:8.4p1-5+deb11u1"
    assert reveal(line, "Nov 22 09:00:00 web sshd[1]: " + line, name="app.log") == []


def test_apt_stanza_has_the_date_above_it() -> None:
    inventory = Inventory()
    lines = (
        "Upgrade: lost:amd64 (1, 2)",
        "Start-Date: 2026-09-01  10:00:00",
        "Commandline: apt upgrade",
        "Install: tree:amd64 (1.8.0-1, automatic), jq:amd64 (1.6-2)",
        "Upgrade: bash:amd64 (5.0-4, 5.1-2)",
        "Remove: nano:amd64 (5.4-2)",
        "End-Date: 2026-09-01  10:00:09",
    )
    for line in lines:
        inventory.note(see(line, "apt/history.log"), ZoneInfo("Europe/Berlin"))
    sights, counts = inventory.take()
    assert [(s.product, s.version, s.gone) for s in sights] == [
        ("tree", "1.8.0-1", False), ("jq", "1.6-2", False), ("bash", "5.1-2", False),
        ("nano", "", True),
    ]  # fmt: skip
    assert {s.first for s in sights} == {1_788_249_600.0}  # 08:00 UTC
    assert counts == {"sights": 4, "undated": 1}


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("bash-4.2.46-34.el7.x86_64", "bash", "4.2.46-34.el7"),
        ("1:openssl-libs-1.0.2k-21.el7_9.x86_64", "openssl-libs", "1:1.0.2k-21.el7_9"),
        ("openssl-libs-1:1.0.2k-21.el7_9.x86_64", "openssl-libs", "1:1.0.2k-21.el7_9"),
        ("vim-minimal-2:8.2.2637-16.el9.x86_64", "vim-minimal", "2:8.2.2637-16.el9"),
        ("tzdata-2023c-1.el9.noarch", "tzdata", "2023c-1.el9"),
        ("nano", "nano", ""),
    ],
)
def test_rpm_names(text: str, name: str, version: str) -> None:
    assert split_rpm(text) == (name, version)


@pytest.mark.parametrize("text", ["", "../../x", "a b", "\x00", ";rm -rf", "-1-2-3"])
def test_what_is_no_rpm(text: str) -> None:
    assert split_rpm(text) is None


def test_rpm_logs_and_syslog_and_audit() -> None:
    assert reveal(
        "Sep 01 10:00:00 Updated: 1:openssl-libs-1.0.2k-21.el7_9.x86_64",
        "Sep 01 10:00:00 Erased: nano",
        name="yum.log",
    ) == [
        ("log:yum.log", "", "openssl-libs", "1:1.0.2k-21.el7_9", "yum.log: line"),
        ("log:yum.log", "", "-nano", "", "yum.log: line"),
    ]
    assert reveal(
        "2026-09-01T10:00:00+0000 SUBDEBUG Upgrade: bash-5.1.8-4.el9.x86_64",
        "2026-09-01T10:00:00+0000 SUBDEBUG Upgraded: bash-5.1.8-2.el9.x86_64",
        name="dnf.rpm.log",
    ) == [("log:dnf.rpm.log", "", "bash", "5.1.8-4.el9", "dnf.rpm.log: line")]
    assert reveal("Sep  1 10:00:00 web yum[12]: Installed: bash-4.2.46-34.el7.x86_64") == [
        ("web", "", "bash", "4.2.46-34.el7", "yum: message")
    ]
    audit = (
        "type=SOFTWARE_UPDATE msg=audit(1788249600.123:45): pid=1 uid=0 auid=0 ses=1 msg='op={} "
        'sw="bash-5.1.8-4.el9.x86_64" sw_type=rpm key_enforce=0 gpg_res=1 root_dir="/" comm="dnf" '
        'exe="/usr/bin/python3.9" hostname=web addr=? terminal=? res={}\''
    )
    how = "auditd SOFTWARE_UPDATE: sw"
    assert reveal(audit.format("update", "success"), audit.format("update", "failed")) == [
        ("log:x.log", "", "bash", "5.1.8-4.el9", how)
    ]
    assert reveal(audit.format("remove", "success"))[0][2:4] == ("-bash", "")


def test_other_package_managers() -> None:
    assert list(
        read_pacman("[2026-09-01T10:00:00+0000] [ALPM] upgraded bash (5.1-1 -> 5.2-1)")
    ) == [("bash", "5.2-1", False)]
    assert list(read_pacman("[2026-09-01T10:00:00+0000] [ALPM] removed bash (5.2-1)")) == [
        ("bash", "", True)
    ]
    line = "2026-09-01 10:00:00|install|bash|5.1-1|x86_64|root|repo|sha|"
    assert list(read_zypper(line)) == [("bash", "5.1-1", False)]


# --- Windows --------------------------------------------------------------------------------


def test_sysmon_names_product_and_version() -> None:
    chrome = {"Company": "Google LLC", "Product": "Google Chrome", "FileVersion": "120.0.6099.62"}
    own = {
        "Company": "Microsoft Corporation", "Product": "Microsoft® Windows® Operating System",
        "FileVersion": "10.0.17763.1217 (WinBuild.160101.0800)",
    }  # fmt: skip
    how = "Sysmon: Product, FileVersion"
    assert reveal(
        sysmon(**chrome),
        sysmon(**own),
        sysmon(**{**own, "FileVersion": "7.8.18362.1"}),  # a Windows file, no Windows build
        sysmon(**{**own, "FileVersion": "6.1.7601.17514"}, EventID=7),  # a library from elsewhere
        sysmon(Product="-", Company="-", FileVersion="-"),
        sysmon(**chrome, EventID=7),
        sysmon(**chrome, EventID=3),
    ) == [
        ("ws1", "Google LLC", "Google Chrome", "120.0.6099.62", how),
        ("ws1", "Microsoft", "Windows", "10.0.17763", how),
    ]
    assert read_resource("x", "MicrosoftÂ® WindowsÂ® Operating System", "10.0.19041.1") is not None


def test_windows_installer() -> None:
    assert reveal(
        application(1033, "7-Zip 19.00 (x64 edition)", "19.00.00.0", "1033", "0", "Igor Pavlov"),
        application(1033, "Failed 1.0", "1.0", "1033", "1603", "X"),
        application(11707, "Product: Foo 2.1 -- Installation completed successfully."),
        application(1034, "7-Zip 19.00 (x64 edition)", "19.00.00.0", "1033", "0", "Igor Pavlov"),
        application(1033, "Fake 1.0", "1.0", "1033", "0", "X", provider="Other"),
    ) == [
        ("ws1", "Igor Pavlov", "7-Zip", "19.00.00.0", "MsiInstaller 1033: Data"),
        ("ws1", "", "Foo", "", "MsiInstaller 11707: Data"),
        ("ws1", "Igor Pavlov", "-7-Zip", "19.00.00.0", "MsiInstaller 1034: Data"),
    ]


@pytest.mark.parametrize("fields", [{}, {"Data": None}, {"Data": [1, 2]}, {"param1": ["x"]}])
def test_installer_without_its_data(fields: dict[str, Any]) -> None:
    assert read_installer(fields, 1033) is None
    assert read_boot(fields) is None


def test_boot_tells_the_build() -> None:
    product = read_boot({"Data": ["10.00.\n19041", "10.00.", "19041", "", "Multiprocessor Free"]})
    assert product is not None
    assert product.version == "10.0.19041"


# --- what goes over the network, and starts -------------------------------------------------

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0.0.0 Safari/537.36"
)


@pytest.mark.parametrize(
    ("agent", "products"),
    [
        (CHROME, ["Chrome 120", "Windows 10.0"]),
        (CHROME + " Edg/120.0.2210.61", ["Edge 120.0.2210.61", "Windows 10.0"]),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0",
            ["Firefox 115.0"],
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like "
            "Gecko) Version/17.1 Safari/605.1.15",
            ["Safari 17.1", "macOS "],
        ),
        (
            "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
            ["Internet Explorer 11.0", "Windows 6.1"],
        ),
        ("curl/7.88.1", ["curl 7.88.1"]),
        ("python-requests/2.28.1", ["Requests 2.28.1"]),
        ("Java/1.8.0_201", ["Java 1.8.0_201"]),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 16_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, "
            "like Gecko) CriOS/108.0.5359.52 Mobile/15E148 Safari/604.1",
            ["Chrome 108.0.5359.52", "iOS 16.1"],
        ),
        ("-", []),
        ("() { :;}; /bin/true", []),
    ],
)
def test_user_agents(agent: str, products: list[str]) -> None:
    assert [f"{p.product} {p.version}" for p in read_agent(agent)] == products


def test_servers_and_ssh_banners() -> None:
    assert [(p.product, p.version) for p in read_server("Apache/2.4.49 (Unix) PHP/7.4.3")] == [
        ("HTTP Server", "2.4.49"), ("PHP", "7.4.3"),
    ]  # fmt: skip
    for banner, product, version in (
        ("SSH-2.0-OpenSSH_7.4p1 Debian-10+deb9u7", "OpenSSH", "7.4p1 Debian-10+deb9u7"),
        ("SSH-2.0-OpenSSH_for_Windows_8.1", "OpenSSH for Windows", "8.1"),
        ("SSH-2.0-PuTTY_Release_0.70", "PuTTY", "0.70"),
        ("SSH-2.0-dropbear_2019.78", "Dropbear SSH", "2019.78"),
        ("libssh-0.8.3", "libssh", "0.8.3"),
    ):
        (found,) = read_ssh(banner)
        assert (found.product, found.version) == (product, version)
    assert read_ssh("SSH-2.0-Go") == ()


def test_only_the_site_s_own_addresses_have_software() -> None:
    line = '{} - - [01/Sep/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 12 "-" "{}"'
    found = reveal(line.format("10.0.0.5", CHROME), line.format("8.8.8.8", CHROME))
    assert {row[0] for row in found} == {"10.0.0.5"}
    assert found[0][4] == "user agent: cs-user-agent"


def test_zeek_and_suricata() -> None:
    ends = {"id.orig_h": "10.0.0.9", "id.orig_p": 2, "id.resp_h": "10.0.0.8", "id.resp_p": 22}
    at = 1_788_249_600.0
    zeek_ssh = {"ts": at, "uid": "C1", **ends, "client": "SSH-2.0-OpenSSH_9.0",
                "server": "SSH-2.0-OpenSSH_7.4p1", "_path": "ssh"}  # fmt: skip
    zeek_software = {"ts": at, "host": "10.0.0.7", "host_p": 80, "software_type": "HTTP::SERVER",
                     "name": "Apache", "version.major": 2, "version.minor": 4,
                     "version.minor2": 49, "_path": "software"}  # fmt: skip
    flow = {"timestamp": "2026-09-01T10:00:00.000000+0000", "src_ip": "10.0.0.9", "src_port": 1,
            "dest_ip": "10.0.0.8", "dest_port": 22, "proto": "TCP"}  # fmt: skip
    eve_ssh = {**flow, "event_type": "ssh", "ssh": {
        "client": {"software_version": "PuTTY_Release_0.70"},
        "server": {"software_version": "dropbear_2019.78"}}}  # fmt: skip
    eve_http = {**flow, "event_type": "http", "http": {
        "hostname": "x", "url": "/", "http_user_agent": "curl/7.88.1", "http_method": "GET",
        "status": 200, "server": "nginx/1.18.0"}}  # fmt: skip
    found = reveal(*map(json.dumps, (zeek_ssh, zeek_software, eve_ssh, eve_http)))
    assert [(row[0], row[2], row[3], row[4]) for row in found] == [
        ("10.0.0.9", "OpenSSH", "9.0", "zeek ssh: client"),
        ("10.0.0.8", "OpenSSH", "7.4p1", "zeek ssh: server"),
        ("10.0.0.7", "HTTP Server", "2.4.49", "zeek software: name, version"),
        ("10.0.0.9", "PuTTY", "0.70", "suricata ssh: client"),
        ("10.0.0.8", "Dropbear SSH", "2019.78", "suricata ssh: server"),
        ("10.0.0.9", "curl", "7.88.1", "user agent: cs-user-agent"),
        ("10.0.0.8", "nginx", "1.18.0", "Server header: http.server"),
    ]


@pytest.mark.parametrize(
    ("line", "product", "version"),
    [
        ("kernel: [    0.000000] Linux version 5.10.0-8-amd64 (debian@x) (gcc)", "Kernel",
         "5.10.0-8-amd64"),
        ("systemd[1]: systemd 247.3-6 running in system mode. (+PAM)", "systemd", "247.3-6"),
        ("exim[9]: 2026-09-01 10:00:00 exim 4.92 daemon started: pid=9", "Exim", None),
        ("named[9]: starting BIND 9.16.1-Ubuntu (Stable Release)", "BIND", "9.16.1-Ubuntu"),
        ("smbd[9]:   smbd version 4.13.13-Debian started.", "Samba", "4.13.13-Debian"),
        ("postfix/master[9]: daemon started -- version 3.5.6, configuration /etc/postfix",
         "Postfix", "3.5.6"),
    ],
)  # fmt: skip
def test_services_that_start(line: str, product: str, version: str | None) -> None:
    found = reveal(f"Sep  1 10:00:00 web {line}")
    if version is None:
        assert found == []  # not the form that it has in syslog
        return
    ((host, _, name, told, _),) = found
    assert (host, name, told) == ("web", product, version)


def test_web_server_tells_itself_when_it_starts() -> None:
    line = (
        "[Tue Sep 01 10:00:00.000000 2026] [mpm_event:notice] [pid 1:tid 1] AH00489: Apache/2.4.49"
        " (Unix) configured -- resuming normal operations"
    )
    assert [row[2:4] for row in reveal(line)] == [("HTTP Server", "2.4.49")]


def test_w3c_header_tells_the_server() -> None:
    header = (
        b"#Software: Microsoft Internet Information Services 10.0\r\n#Version: 1.0\r\n"
        b"#Fields: date time s-ip cs-method cs-uri-stem s-port c-ip cs(User-Agent) sc-status\r\n"
    )
    line = f"2026-09-01 10:00:00 10.0.0.8 GET / 80 10.0.0.5 {CHROME.replace(' ', '+')} 200"
    record = RawRecord(
        line.encode(), "scan", "u.log", "u.log", Cursor("scan", "u", 0, 1), T0, header=header
    )
    read = read_event(record, UTC)
    assert isinstance(read, tuple)
    inventory = Inventory()
    inventory.note(read[0], UTC)
    assert [(s.host, s.vendor, s.product, s.version) for s in inventory.take()[0]] == [
        ("10.0.0.5", "Google", "Chrome", "120"),
        ("10.0.0.5", "Microsoft", "Windows", "10.0"),
        ("10.0.0.8", "Microsoft", "Internet Information Services", "10.0"),
    ]


# --- hostile ----------------------------------------------------------------------------------


def test_names_are_cleaned_and_cut() -> None:
    assert clean_name("a\x1b[31m\nb\u202ec\ud800") == "a [31m b c"
    assert len(clean_name("x" * 10_000)) == MAX_NAME
    assert clean_name(None) == clean_name(["x"]) == clean_name(" - ") == clean_name("N/A") == ""
    assert clean_version("1, 2, 3, 4") == "1.2.3.4"
    assert clean_version("no") == ""
    assert len(clean_version("1." * 10_000)) <= MAX_VERSION


HOSTILE: tuple[Any, ...] = (
    "x" * 100_000, "(" * 50_000, " " * 100_000, "A/1" * 40_000, "1" * 100_000, "\x00" * 5_000,
    "a-" * 50_000, "Mac OS X " * 20_000, "Installed: " * 20_000, "\u0663.\u0661", "\ud800", None,
    ["x"], {"a": 1}, 7, math.nan,
)  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_end_quickly_and_raise_nothing(value: Any) -> None:
    inventory = Inventory()
    began = time.monotonic()
    if isinstance(value, str):
        for read in (read_agent, read_server, read_ssh, read_named):
            read(value)
        readers: tuple[Callable[[str], Any], ...] = (
            read_dpkg, read_apt, read_rpm, read_pacman, read_zypper,
        )  # fmt: skip
        for line_reader in readers:
            for start in ("", "Install: ", "2026-09-01 10:00:00 install ", "x Installed: "):
                list(line_reader(start + value))
        split_rpm(value)
    shown = value if not isinstance(value, str) else value.encode("utf-8", "replace").decode()
    if not isinstance(value, float):
        for fields in (
            {"Product": shown, "Company": shown, "FileVersion": shown},
            {"Product": "X", "Company": shown, "FileVersion": shown},
        ):
            inventory.note(see(sysmon(**fields)), UTC)
        parts = [shown] * 5
        inventory.note(see(application(1033, *parts)), UTC)
        eve = {"timestamp": "2026-09-01T10:00:00.000000+0000", "event_type": "http",
               "src_ip": "10.0.0.1", "dest_ip": shown,
               "http": {"http_user_agent": shown, "server": shown, "url": "/"}}  # fmt: skip
        inventory.note(see(json.dumps(eve)), UTC)
    sights, counts = inventory.take()
    assert counts.get("faults", 0) == 0
    assert time.monotonic() - began < 2
    for sight in sights:
        assert sight.product.isprintable()
        assert len(sight.product) <= MAX_NAME
        assert len(sight.version) <= MAX_VERSION


def test_times_ahead_of_the_receipt_are_not_believed() -> None:
    inventory = Inventory()
    inventory.note(see(sysmon(Product="P", FileVersion="1", UtcTime="2099-01-01 00:00:00")), UTC)
    assert inventory.take()[0][0].last <= T0


def test_a_batch_gives_so_many() -> None:
    inventory = Inventory()
    sighting = see(sysmon(Product="P", FileVersion="1"))
    for number in range(MAX_SIGHTS + 5):
        sighting.views[0].fields["Product"] = f"P{number}"
        inventory.note(sighting, UTC)
    sights, counts = inventory.take()
    assert len(sights) == MAX_SIGHTS
    assert counts == {"sights": MAX_SIGHTS + 5, "over_batch": 5}
    assert inventory.take() == ([], {})


# --- the ledger -----------------------------------------------------------------------------


def sight(product: str = "bash", version: str = "1", at: float = T0, **more: Any) -> Sight:
    values = {"host": "h", "vendor": "", "how": "dpkg.log: line", "installed": True, **more}
    return Sight(product=product, version=version, first=at, last=at, **values)


SEEN: dict[str, Any] = {"installed": False, "how": "Sysmon"}


def tell(rows: list[Software]) -> dict[str, float | None]:
    return {row.version: row.removed for row in rows}


def test_only_what_changes_is_written() -> None:
    ledger = SoftwareLedger()
    assert len(ledger.join([sight(**SEEN)])) == 1
    assert ledger.join([sight(at=T0 + 60, **SEEN)]) == []
    (row,) = ledger.join([sight(at=T0 + STEP_SECONDS, **SEEN)])
    assert (row.first_seen, row.last_seen) == (T0, T0 + STEP_SECONDS)
    (row,) = ledger.join([sight(at=T0 - 5, **SEEN)])
    assert (row.first_seen, row.last_seen) == (T0 - 5, T0 + STEP_SECONDS)


def test_of_a_package_one_version_is_there() -> None:
    ledger = SoftwareLedger()
    ledger.join([sight(version="1")])
    assert tell(ledger.join([sight(version="2", at=T0 + 1)])) == {"1": T0 + 1, "2": None}
    # An older log, read later, changes nothing of that.
    assert tell(ledger.join([sight(version="0", at=T0 - 9)])) == {"0": T0 + 1}
    # Back to the first version, and away.
    assert tell(ledger.join([sight(version="1", at=T0 + 2)])) == {"1": None, "2": T0 + 2}
    assert tell(ledger.join([sight(version="", at=T0 + 3, gone=True)])) == {"1": T0 + 3}
    # A removal that is older than an installation takes nothing away.
    ledger.join([sight(version="3", at=T0 + 9)])
    assert ledger.join([sight(version="", at=T0 + 5, gone=True)]) == []


def test_kernels_and_what_runs_are_side_by_side() -> None:
    ledger = SoftwareLedger()
    rows = ledger.join([sight("kernel-core", "1"), sight("kernel-core", "2", T0 + 1)])
    assert tell(rows) == {"1": None, "2": None}
    rows = ledger.join([sight("java", "1", **SEEN), sight("java", "2", T0 + 1, **SEEN)])
    assert tell(rows) == {"1": None, "2": None}


def test_caps_hold_and_are_counted() -> None:
    ledger = SoftwareLedger(caps=Caps(hosts=2, rows=6, seen=2, installed=3))
    ledger.join([sight(f"p{n}", **SEEN) for n in range(5)])
    ledger.join([sight(f"p{n}") for n in range(5)])
    assert ledger.describe() == {"depth": 5, "cap": 6, "hosts": 1}
    ledger.join([sight(host=f"h{n}") for n in range(5)])
    assert ledger.describe() == {"depth": 6, "cap": 6, "hosts": 2}
    assert ledger.new_counts() == {"dropped": 3 + 2 + 4}
    assert ledger.new_counts() == {}


def test_rollback_forgets_and_commit_keeps() -> None:
    ledger = SoftwareLedger()
    ledger.join([sight(version="1")])
    ledger.commit()
    first = ledger.join([sight(version="2", at=T0 + 1), sight("new")])
    ledger.rollback()
    assert ledger.describe()["depth"] == 1
    assert ledger.join([sight(version="2", at=T0 + 1), sight("new")]) == first


def test_what_the_store_forgets_makes_room() -> None:
    ledger = SoftwareLedger(caps=Caps(rows=2))
    ledger.join([sight("old", **SEEN), sight("kept")])
    later = T0 + KEEP_SECONDS + 1
    assert [row.product for row in ledger.join([sight("new", at=later, **SEEN)])] == ["new"]
    assert ledger.new_counts() == {}


# --- the line and the store -----------------------------------------------------------------

DPKG = b"2026-09-01 10:00:00 install curl:amd64 <none> 7.74.0-1.3"


def make_reader() -> Reader:
    return Reader(detectors={}, zones={"scan": UTC}, inventory=Inventory())


def make_batch(*lines: bytes, name: str = "dpkg.log") -> SourceBatch:
    records = [
        RawRecord(line, "scan", name, name, Cursor("scan", name, n, n + 1), T0)
        for n, line in enumerate(lines)
    ]
    return SourceBatch(records, [], [])


def open_line(store: Store) -> Line:
    line = make_line(store)
    line.software = SoftwareLedger(store.software())
    return line


def test_it_is_stored_with_its_batch_and_known_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    line = open_line(store)
    store.write_batch(process([make_batch(DPKG, DPKG)], make_reader(), line))
    line.commit()
    (row,) = store.software()
    assert (row.product, row.version, row.removed, row.installed) == (
        "curl", "7.74.0-1.3", None, True,
    )  # fmt: skip
    assert store.software("log:dpkg.log") == [row]
    assert store.software("other") == []
    assert store.counts()["inventory"] == {"sights": 2}
    store.close()
    again = Store(tmp_path / "s.db")
    line = open_line(again)
    batch = process([make_batch(DPKG)], make_reader(), line)
    assert batch.software == []  # known already
    upgrade = b"2026-09-02 10:00:00 upgrade curl:amd64 7.74.0-1.3 7.88.1-10"
    again.write_batch(process([make_batch(upgrade)], make_reader(), line))
    assert {r.version: r.removed is None for r in again.software()} == {
        "7.74.0-1.3": False, "7.88.1-10": True,
    }  # fmt: skip
    again.close()


def test_a_crash_before_the_commit_stores_nothing_and_the_work_gives_it_again(
    tmp_path: Path,
) -> None:
    class Crash(Exception):
        pass

    broken = [True]

    def step(name: str) -> None:
        if name == "store.commit.before" and broken[0]:
            raise Crash

    store = Store(tmp_path / "s.db", on_step=step)
    line, reader = open_line(store), make_reader()
    with pytest.raises(Crash):
        store.write_batch(process([make_batch(DPKG)], reader, line))
    line.rollback()
    assert (store.software(), store.counts()) == ([], {})
    broken[0] = False
    store.write_batch(process([make_batch(DPKG)], reader, line))
    line.commit()
    assert [row.product for row in store.software()] == ["curl"]
    store.close()


def test_it_crosses_the_pipe_of_a_worker() -> None:
    work = read_records([make_batch(DPKG)], make_reader())
    assert [s.product for s in work.software] == ["curl"]
    raw = msgspec.msgpack.encode(pack_work(work))
    assert msgspec.msgpack.decode(raw, type=Did).unpack().software == work.software


def test_old_rows_expire_but_not_what_is_installed(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", limits=StoreLimits(software_seconds=10 * DAY))
    ledger = SoftwareLedger()
    line = open_line(store)
    batch = process([make_batch(DPKG)], make_reader(), line)
    ledger.join([sight("there"), sight("gone"), sight("running", **SEEN)])
    batch.software = [
        *ledger.join([sight("gone", "", T0 + 1, gone=True)]),
        *SoftwareLedger().join([sight("there"), sight("running", **SEEN)]),
    ]
    store.write_batch(batch)
    assert len(store.software()) == 3
    store.expire(T0 + 11 * DAY)
    assert [row.product for row in store.software()] == ["there"]
    assert store.counts()["store"]["software_expired"] == 2
    store.close()


@pytest.mark.parametrize(
    "name", ["dpkg.log", "dpkg.log.1", "dpkg.log.2.gz", "dpkg.log-20260901", "dpkg.log#3"]
)
def test_a_rotated_log_is_the_log_of_the_same_host(name: str) -> None:
    ((host, *_),) = reveal("2026-09-01 10:00:01 status installed libc6:amd64 2.31-13", name=name)
    assert host == "log:dpkg.log"
