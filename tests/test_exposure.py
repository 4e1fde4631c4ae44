"""Exposure: versions, names, the join, the command, and the whole way from logs to an answer."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.config import Config, FilesSource
from appliance.exposure import BACKPORTS, ENGINE, REPLACED_SECONDS, find_exposure, list_current
from appliance.exposure.names import fold_product, fold_vendor, name_listed, name_seen
from appliance.exposure.versions import compare, compare_debian, cut_release, is_affected
from appliance.inventory.seen import Software
from appliance.knowledge.entries import Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cve import read_cve
from appliance.knowledge.readers.kev import read_kev_json
from appliance.knowledge.vulnerabilities import Affected, Vulnerability, VulnerabilityBase
from appliance.scan import run_scan
from appliance.status import read_stopped_status
from appliance.store import MIGRATIONS, Store
from tests.knowledge_samples import build_sample
from tests.test_daemon import Box, wait_for

T0 = 1_790_000_000.0

# --- versions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "bound", "possible"),
    [
        ("1.2.3", "1.2.3", {0}),
        ("1.2.10", "1.2.9", {1}),
        ("1.2.0", "1.2", {0}),
        ("1.2", "1.2.0", {0, 1}),
        ("10.0.17763", "10.0.17763.1697", {-1, 0, 1}),
        ("120", "120.0.6099.224", {-1, 0, 1}),
        ("119", "120.0.6099.224", {-1}),
        ("1.0.2k", "1.0.2", {1}),
        ("1.0.2k", "1.0.2l", {-1}),
        ("1.0.2", "1.0.10", {-1}),
        ("9.8p1", "9.8", {1}),
        ("2.0-rc1", "2.0", {-1}),
        ("2.0", "2.0-rc1", {-1, 0, 1}),
        ("2.15.0", "2.15.0-beta2", {-1, 0, 1}),
        ("19.00", "24.09", {-1}),
        ("", "1", {-1, 0, 1}),
    ],
)
def test_compare(seen: str, bound: str, possible: set[int]) -> None:
    assert compare(seen, bound) == possible


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("1:8.4p1-5", "1:8.4p1-5+deb11u1", -1),
        ("1:8.4p1-5", "9.0-1", 1),
        ("1.0~rc1-1", "1.0-1", -1),
        ("2.31-13+deb11u7", "2.31-13+deb11u11", -1),
        ("1.0-1", "1.0-1", 0),
        ("1.0a", "1.0+", -1),
        ("1.0", "1.0-0", 0),
        ("", "", 0),
    ],
)
def test_compare_debian(left: str, right: str, result: int) -> None:
    assert compare_debian(left, right) == result
    assert compare_debian(right, left) == -result


@pytest.mark.parametrize(
    ("version", "statement", "answer"),
    [
        ("2.4.49", "=2.4.49", True),
        ("2.4.49", ">=2.4.0,<2.4.49", False),
        ("2.4.48", ">=2.4.0,<2.4.49", True),
        ("2.14.1", ">=2.0,<2.15.0", True),
        ("2.17", "<2.15.0; =3.0", False),
        ("5.1", "*; !>=6.6.1; !<4.19", True),
        ("4.9", "*; !>=6.6.1; !<4.19", False),
        ("6.7", "*; !>=6.6.1; !<4.19", False),
        ("3.2.9", "=3.2.*", True),
        ("3.2.9", "<=3.2.*", True),
        ("3.3.0", "<=3.2.*", False),
        ("1.0", "?", None),
        ("1.0", "=2.0; ?", None),
        ("1.0", "=1.0; ?", True),
        ("1.0", "", None),
        ("", "<2", None),
        ("10.0.17763", ">=10.0.0,<10.0.17763.1697", None),
        ("1:8.4p1-5+deb11u1", ">=8.0,<9.3", True),
        ("7.4p1 Debian-10", "<7.5", True),
        ("1.0", "<1:2.0-3", None),
        ("1.0", "nonsense", None),
        ("1.0", "; ;; !", None),
    ],
)
def test_is_affected(version: str, statement: str, answer: bool | None) -> None:
    assert is_affected(version, statement) is answer


def test_debian_packages_are_compared_by_their_own_rules() -> None:
    statement = "<1:8.4p1-5+deb11u3"
    assert is_affected("1:8.4p1-5+deb11u1", statement, debian=True) is True
    assert is_affected("1:8.4p1-5+deb11u3", statement, debian=True) is False
    assert cut_release("1:8.4p1-5+deb11u1") == "8.4p1"


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "1." * 50_000, "a~" * 50_000, "!" * 9_999, "<" * 99]
)
def test_hostile_versions_and_statements_end_quickly(text: str) -> None:
    began = time.monotonic()
    compare(text, text[::-1])
    compare_debian(text, text[::-1])
    is_affected(text, text)
    is_affected(text, "; ".join([f"<{text[:90]}"] * 5_000))
    assert time.monotonic() - began < 1


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "listed"),
    [
        (("Google LLC", "Google Chrome"), ("google", "chrome")),
        (("Google LLC", "Google Chrome"), ("google", "chromium v8")),
        (("Microsoft Corporation", "Microsoft Edge"), ("microsoft", "edge and internet explorer")),
        (("Microsoft", "Windows"), ("microsoft", "win32k")),
        (("Microsoft", "Windows"), ("microsoft", "windows 10 version 1809")),
        (("Apache Software Foundation", "Apache HTTP Server"), ("apache", "http server")),
        (("", "apache2"), ("apache", "http server")),
        (("", "httpd"), ("apache software foundation", "apache http server")),
        (("", "openssh-server"), ("openbsd", "openssh")),
        (("", "libc6"), ("gnu", "gnu c library")),
        (("", "linux-image-5.10.0-8-amd64"), ("linux", "kernel")),
        (("", "kernel-core"), ("linux", "linux")),
        (("", "sudo"), ("sudo", "sudo")),
        (("", "policykit-1"), ("red hat", "polkit")),
        (("", "exim4-daemon-light"), ("exim", "exim")),
        (("Igor Pavlov", "7-Zip"), ("7-zip", "7-zip")),
        (("Alexander Roshal", "WinRAR"), ("rarlab", "winrar")),
        (("Simon Tatham", "PuTTY suite"), ("putty", "putty")),
        (("Mozilla Corporation", "Firefox"), ("mozilla", "firefox and thunderbird")),
        (("VMware, Inc.", "VMware Tools"), ("vmware", "tools")),
        (("Adobe Systems Incorporated", "Acrobat Reader DC"), ("adobe", "acrobat and reader")),
        (("PaperCut Software International Pty Ltd", "PaperCut NG/MF"), ("papercut", "ng/mf")),
        (("Atlassian", "Confluence"), ("atlassian", "confluence data center and server")),
        (("GitLab", "GitLab"), ("gitlab", "gitlab ce/ee")),
        (("", "samba"), ("samba", "samba")),
        (("Microsoft Corporation", "Microsoft Office 2010"), ("microsoft", "office")),
        (("Microsoft Corporation", "Exchange"), ("microsoft", "exchange server 2019")),
    ],
)  # fmt: skip
def test_one_thing_by_two_names(seen: tuple[str, str], listed: tuple[str, str]) -> None:
    assert set(name_seen(*seen)) & set(name_listed(*listed))


@pytest.mark.parametrize(
    ("seen", "listed"),
    [
        (("", "server"), ("mdaemon", "email server")),
        (("", "tools"), ("vmware", "tools")),
        (("", "kernel"), ("android", "kernel")),
        (("Evil", "Windows"), ("microsoft", "windows")),
        (("Evil", "Tools"), ("vmware", "tools")),
        (("Apple", "iOS"), ("cisco", "ios")),
        (("", ""), ("apple", "multiple products")),
        (("Apple", "macOS"), ("apple", "multiple products")),
        (("F5", "nginx"), ("f5", "big-ip")),
    ],
)
def test_two_things_with_one_name(seen: tuple[str, str], listed: tuple[str, str]) -> None:
    assert not set(name_seen(*seen)) & set(name_listed(*listed))


def test_folding() -> None:
    assert fold_vendor("The Apache Software Foundation") == "apache"
    assert fold_vendor("Unknown") == ""
    assert fold_product("Google Chrome (x64) 120.0.1", "google") == "chrome"
    assert fold_product("Foo & Bar 64-bit", "") == "foo and bar"


# --- the join -------------------------------------------------------------------------------


class FakeBase:
    """What is affected, by (id, vendor, product, statement); KEV has those in `listed`."""

    def __init__(self, *rows: tuple[str, str, str, str], listed: tuple[str, ...] = ()) -> None:
        self.rows = rows
        self.listed = listed

    def list_affected(self) -> Iterator[Affected]:
        for key, vendor, product, statement in self.rows:
            yield Affected(key, vendor, product, statement, "CVE" if statement else "CISA KEV")

    def describe(self, id: str) -> Vulnerability | None:  # noqa: A002
        if id.endswith("-404"):
            return None
        return Vulnerability(id, f"Title of {id}", "", ("CVE",), exploited=id in self.listed)


def seen(
    product: str, version: str, vendor: str = "", host: str = "h", *, how: str = "Sysmon: Product",
    last: float = T0, installed: bool = False, removed: float | None = None,
) -> Software:  # fmt: skip
    return Software(host, vendor, product, version, how, T0, last, removed, installed)


def package(product: str, version: str, **more: Any) -> Software:
    return seen(product, version, how="dpkg.log: line", installed=True, **more)


CHROME = ("google", "chrome")


def test_hit_out_of_range_and_unknown() -> None:
    base = FakeBase(
        ("CVE-2024-1", *CHROME, "<120.0.6099.224"),
        ("CVE-2024-2", *CHROME, "<100"),
        ("CVE-2024-3", *CHROME, ""),
        ("CVE-2024-4", "google", "chromium v8", ""),
        ("CVE-2024-404", *CHROME, ""),
        ("CVE-2024-5", "other", "thing", ""),
        listed=("CVE-2024-3",),
    )
    found = find_exposure([seen("Google Chrome", "120.0.6099.62", "Google LLC")], base)
    assert [(row.id, row.affected, row.exploited, row.note) for row in found] == [
        ("CVE-2024-1", "yes", False, ""),
        ("CVE-2024-3", "unknown", True, ""),
        ("CVE-2024-4", "unknown", False, ENGINE),
    ]


def test_a_range_decides_where_a_catalogue_tells_none() -> None:
    base = FakeBase(("CVE-2024-1", *CHROME, ""), ("CVE-2024-1", *CHROME, "<100"))
    assert find_exposure([seen("Chrome", "120.0.1.1", "Google")], base) == []
    (row,) = find_exposure([seen("Chrome", "99.0.1.1", "Google")], base)
    assert row.affected == "yes"


def test_a_distribution_may_have_fixed_it() -> None:
    base = FakeBase(("CVE-2021-3156", "sudo", "sudo", ">=1.8.2,<1.9.5p2"))
    (row,) = find_exposure([package("sudo", "1.8.31-1ubuntu1.2")], base)
    assert (row.affected, row.note) == ("yes", BACKPORTS)
    (row,) = find_exposure([seen("sudo", "1.8.31", "sudo")], base)
    assert row.note == ""


def test_windows_is_asked_by_its_build() -> None:
    base = FakeBase(
        ("CVE-2024-1", "microsoft", "windows 10 version 1809", ">=10.0.0,<10.0.17763.1697"),
        ("CVE-2024-2", "microsoft", "windows 11 version 22h2", ">=10.0.0,<10.0.22621.9"),
        ("CVE-2024-3", "microsoft", "win32k", ""),
    )
    found = find_exposure([seen("Windows", "10.0.17763", "Microsoft")], base)
    assert [(row.id, row.affected) for row in found] == [
        ("CVE-2024-3", "unknown"), ("CVE-2024-1", "unknown"),
    ]  # fmt: skip


def test_hosts_are_joined_and_counted() -> None:
    base = FakeBase(("CVE-2024-1", *CHROME, "<200"))
    rows = [seen("Chrome", "120.1", "Google", host=f"h{n:04}") for n in range(1_200)]
    (row,) = find_exposure(rows, base)
    assert (len(row.hosts), row.host_count, row.hosts[0]) == (1_000, 1_200, "h0000")


def test_only_what_is_there_counts() -> None:
    later = T0 + REPLACED_SECONDS + 1
    rows = [
        seen("Chrome", "119", "Google"),
        seen("Chrome", "120", "Google", last=later),
        seen("Chrome", "119", "Google", host="other"),
        seen("Windows", "6.1.7600", "Microsoft", last=later),
        seen("Windows", "6.1.7601", "Microsoft"),
        package("a", "1", removed=T0),
        package("b", "1"),
        package("b", "2", last=later),
    ]
    kept = [(row.host, row.product, row.version) for row in list_current(rows)]
    assert kept == [
        ("h", "Chrome", "120"), ("other", "Chrome", "119"), ("h", "Windows", "6.1.7601"),
        ("h", "b", "1"), ("h", "b", "2"),
    ]  # fmt: skip


# --- a real base, the command ---------------------------------------------------------------

KEV = {
    "title": "CISA Catalog of Known Exploited Vulnerabilities",
    "catalogVersion": "2026.09.01",
    "vulnerabilities": [
        {
            "cveID": "CVE-2021-3156", "vendorProject": "Sudo", "product": "Sudo",
            "vulnerabilityName": "Sudo Heap-Based Buffer Overflow", "dateAdded": "2022-04-06",
            "shortDescription": "Sudo contains\nDue: 1999-01-01", "requiredAction": "Apply",
            "dueDate": "2022-04-27", "knownRansomwareCampaignUse": "Unknown", "notes": "",
        },
        {
            "cveID": "CVE-2025-0411", "vendorProject": "7-Zip", "product": "7-Zip",
            "vulnerabilityName": "7-Zip Mark of the Web Bypass", "dateAdded": "2025-02-06",
            "shortDescription": "7-Zip contains", "requiredAction": "Apply",
            "dueDate": "2025-02-27", "knownRansomwareCampaignUse": "Known", "notes": "",
        },
    ],
}  # fmt: skip
CVE = {
    "dataType": "CVE_RECORD", "dataVersion": "5.1",
    "cveMetadata": {"cveId": "CVE-2021-3156", "state": "PUBLISHED",
                    "dateUpdated": "2024-01-01T00:00:00Z"},
    "containers": {"cna": {
        "title": "Baron Samedit",
        "descriptions": [{"lang": "en", "value": "Heap overflow"}],
        "affected": [{"vendor": "sudo", "product": "sudo", "versions": [
            {"version": "1.8.2", "lessThan": "1.9.5p2", "status": "affected",
             "versionType": "custom"}]}],
    }},
}  # fmt: skip


def read_feeds() -> list[Item]:
    items: list[Item] = [*read_kev_json(json.dumps(KEV).encode(), "kev.json")]
    items += read_cve(json.dumps(CVE).encode(), "cve.json")
    assert sum(isinstance(item, KnowledgeEntry) for item in items) == 3
    return items


def build_base(folder: Path, items: list[Item] | None = None) -> Path:
    build_sample(folder / "knowledge", read_feeds() if items is None else items)
    return folder / "knowledge"


def test_base_tells_what_the_readers_put_in(tmp_path: Path) -> None:
    base = VulnerabilityBase.open(build_base(tmp_path))
    said = {(a.vulnerability, a.vendor, a.product, a.statement) for a in base.list_affected()}
    assert said == {
        ("CVE-2021-3156", "sudo", "sudo", ""),
        ("CVE-2021-3156", "sudo", "sudo", ">=1.8.2,<1.9.5p2"),
        ("CVE-2025-0411", "7-zip", "7-zip", ""),
    }
    sudo, zipped = base.describe("CVE-2021-3156"), base.describe("CVE-2025-0411")
    assert sudo is not None
    assert zipped is not None
    assert (sudo.exploited, sudo.due, sudo.ransomware) == (True, "2022-04-27", False)
    assert set(sudo.sources) == {"CISA KEV", "CVE"}
    assert (zipped.since, zipped.due, zipped.ransomware) == ("2025-02-06", "2025-02-27", True)
    assert base.describe("CVE-1999-1") is None
    base.close()


DPKG = (
    "2026-09-01 10:00:00 install sudo:amd64 <none> 1.8.31-1\n"
    "2026-09-01 10:00:01 install nano:amd64 <none> 5.4-2\n"
)
FIXED = "2026-09-02 10:00:00 upgrade sudo:amd64 1.8.31-1 1.9.16p2-1\n"


def sysmon(host: str, **fields: str) -> str:
    body = {
        "EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Computer": host,
        "UtcTime": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()), "Image": "C:\\7z.exe",
        **fields,
    }  # fmt: skip
    return json.dumps(body) + "\n"


ZIP = {"Product": "7-Zip", "Company": "Igor Pavlov", "FileVersion": "19.00"}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        (box.folder / "dpkg.log").write_text(DPKG)
        (box.folder / "sysmon.json").write_text(sysmon("ws1", **ZIP) + sysmon("ws2", **ZIP))
        sources = tuple(
            FilesSource(name.partition(".")[0], (str(box.folder / name),))
            for name in ("dpkg.log", "sysmon.json")
        )
        box.config = replace(box.config, sources=sources, knowledge_dir=str(folder))
        yield box
        box.stop()


@pytest.fixture
def ask(box: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr("appliance.places.data_folders", lambda: [box.folder])

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["kb", "exposure", "--state", box.config.state_dir, *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def count_software(box: Box) -> int:
    if not box.config.store_path.is_file():
        return 0
    return int(box.ask()["inventory"]["software"])


@pytest.mark.parametrize("workers", [1, 2])
def test_from_logs_to_the_answer(box: Box, ask: Command, workers: int) -> None:
    build_base(box.folder)
    box.config = replace(box.config, workers=workers)
    box.start()
    wait_for(lambda: count_software(box) == 4)
    code, out, err = ask("--json")  # while the daemon runs
    assert code == 0, err
    facts = json.loads(out)
    found = {row["id"]: row for row in facts["exposures"]}
    assert set(found) == {"CVE-2021-3156", "CVE-2025-0411"}
    sudo, zipped = found["CVE-2021-3156"], found["CVE-2025-0411"]
    assert (sudo["affected"], sudo["version"], sudo["note"]) == ("yes", "1.8.31-1", BACKPORTS)
    assert sudo["hosts"][0].startswith("log:")
    assert (zipped["affected"], zipped["hosts"]) == ("unknown", ["ws1", "ws2"])
    assert zipped["how"] == ["Sysmon: Product, FileVersion"]
    assert zipped["ransomware"]
    assert facts["hosts"] == 3
    assert facts["limits"]
    box.stop()
    # A restart keeps it, and an upgrade takes the package out of the range.
    assert json.loads(ask("--json")[1])["exposures"] == facts["exposures"]
    assert read_stopped_status(box.config)["inventory"]["sights"] == 4
    with (box.folder / "dpkg.log").open("a") as log:
        log.write(FIXED)
    box.start()
    wait_for(lambda: count_software(box) == 5)
    ids = [row["id"] for row in json.loads(ask("--json")[1])["exposures"]]
    assert ids == ["CVE-2025-0411"]


def test_it_reads_well(box: Box, ask: Command) -> None:
    build_base(box.folder)
    box.start()
    wait_for(lambda: count_software(box) == 4)
    box.stop()
    code, out, _ = ask()
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    assert "CVE-2021-3156 exploited due 2022-04-27" in text
    assert "sudo 1.8.31-1 on log:" in text
    assert "Igor Pavlov 7-Zip 19.00 on ws1, ws2 (Sysmon: Product, FileVersion)" in text
    assert "1 known, 1 used by ransomware: CVE-2025-0411" in text
    assert "KEV names no versions" in text
    code, out, _ = ask("--host", "ws2")
    assert code == 0
    assert "CVE-2021-3156" not in out
    assert "on ws2 (" in out
    code, _, err = ask("--host", "nobody")
    assert code == 1
    assert "no software of host nobody was seen" in err


def test_it_says_what_is_missing(box: Box, ask: Command) -> None:
    code, _, err = ask()
    assert (code, "the appliance has never run" in err) == (1, True)
    (box.folder / "dpkg.log").write_text("")
    (box.folder / "sysmon.json").write_text("")
    box.start()
    box.stop()
    code, _, err = ask()
    assert (code, "no software was seen" in err) == (1, True)
    (box.folder / "sysmon.json").write_text(sysmon("ws1", **ZIP))
    box.start()
    wait_for(lambda: count_software(box) == 1)
    box.stop()
    code, _, err = ask()
    assert (code, "no knowledge base is built" in err) == (1, True)
    entries = [item for item in read_feeds() if isinstance(item, KnowledgeEntry)]
    build_base(box.folder, [entries[0]])
    code, _, err = ask()
    assert (code, "no vulnerabilities" in err) == (1, True)
    records: list[Item] = list(read_cve(json.dumps(CVE).encode(), "cve.json"))
    build_base(box.folder, records)
    code, out, _ = ask()
    assert code == 0
    assert "No KEV catalogue is imported" in out


def test_hostile_names_stay_on_their_lines(box: Box, ask: Command) -> None:
    evil = "7-Zip\x1b[31m\nCVE-2099-1  exploited\r" + "x" * 5_000
    (box.folder / "sysmon.json").write_text(
        sysmon("ws1", Product=evil, Company="Igor Pavlov", FileVersion="1\x1b[0m")
        + sysmon("ws1", **ZIP)
    )
    build_base(box.folder)
    box.start()
    wait_for(lambda: count_software(box) == 4)
    box.stop()
    _, out, _ = ask()
    assert "\x1b" not in out
    assert not re.search("^CVE-2099-1", out, re.MULTILINE)


def test_a_scan_keeps_it_in_its_store(box: Box) -> None:
    config = replace(Config(), model=False)
    paths = [str(box.folder / name) for name in ("dpkg.log", "sysmon.json")]
    scan = run_scan(paths, config, on_progress=lambda *_: None)
    try:
        assert scan.stats["inventory"] == {"software": 4, "sights": 4}
        base = VulnerabilityBase.open(build_base(box.folder))
        found = find_exposure(scan.store.software(), base)
        assert [(row.id, row.affected) for row in found] == [
            ("CVE-2021-3156", "yes"), ("CVE-2025-0411", "unknown"),
        ]  # fmt: skip
    finally:
        scan.close()


def test_real_catalogue_meets_common_software(
    shared_data: Callable[[str], Path],
) -> None:
    raw = next((shared_data("knowledge") / "cisa-kev").glob("*vulnerabilities.json")).read_bytes()
    items = list(read_kev_json(raw, "kev.json"))
    links = [item for item in items if isinstance(item, Link)]
    rows = [(link.source, *link.target[9:].split("/", 1), link.text) for link in links]
    base = FakeBase(*((a, b, c, d) for a, b, c, d in rows))
    for vendor, product, known in (
        ("", "sudo", "CVE-2021-3156"), ("", "libc6", "CVE-2023-4911"),
        ("Igor Pavlov", "7-Zip", "CVE-2025-0411"), ("win.rar GmbH", "WinRAR", "CVE-2023-38831"),
        ("", "apache2", "CVE-2021-41773"), ("", "bash", "CVE-2014-6271"),
        ("Google LLC", "Google Chrome", "CVE-2025-6554"), ("", "policykit-1", "CVE-2021-4034"),
        ("", "samba", "CVE-2017-7494"), ("Microsoft", "Windows", "CVE-2017-0144"),
        ("", "exim4", "CVE-2019-10149"), ("Microsoft Corporation", "Microsoft Office",
                                          "CVE-2017-11882"),
    ):  # fmt: skip
        found = {row.id for row in find_exposure([seen(product, "1", vendor)], base)}
        assert known in found, (vendor, product, sorted(found)[:5])
    for vendor, product in (("", "coreutils"), ("", "server"), ("", "openssh-server")):
        assert find_exposure([seen(product, "1", vendor)], base) == []


def test_real_windows_logs_reveal_software(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("windows") / "evtx-attack-samples"
    config = replace(Config(), model=False)
    scan = run_scan([str(folder)], config, on_progress=lambda *_: None)
    try:
        inventory = scan.stats["inventory"]
        assert inventory["sights"] > 1_000
        assert "faults" not in inventory
        rows = {(row.host, row.vendor, row.product, row.version) for row in scan.store.software()}
        assert inventory["software"] == len(scan.store.software())
    finally:
        scan.close()
    assert ("iewin7", "Apache Software Foundation", "Apache HTTP Server", "2.2.14") in rows
    assert ("msedgewin10", "Microsoft", "Windows", "10.0.17763") in rows
    assert ("iewin7", "Microsoft", "Windows", "6.1.7601") in rows


def test_store_of_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    Store(tmp_path / "s.db", migrations=MIGRATIONS[:-1]).close()
    store = Store(tmp_path / "s.db")
    assert store.software() == []
    store.close()
