"""`kb build|import|search|show|info`, over a small base made by an encoder without meaning."""

import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from appliance.cli import KNOWLEDGE_TYPES, main
from appliance.commands import knowledge, knowledge_import
from appliance.commands.knowledge import Progress
from appliance.commands.knowledge_entry import SECTIONS, spell_nearly
from appliance.commands.knowledge_import import reload_daemon
from appliance.commands.knowledge_sources import (
    ATTACK_RELEASES,
    DAY,
    describe_source,
    find_release,
)
from appliance.commands.paragraphs import cut_prose, wrap_prose
from appliance.config import Config
from appliance.control import ControlServer
from appliance.emit.render import render_finding
from appliance.errors import ApplianceError, ModelError, ModelUnavailable
from appliance.knowledge.base import KnowledgeBase, KnowledgeSource
from appliance.knowledge.entries import ENTRY_TYPES, Indicator, Item, Link
from appliance.knowledge.generation import lock_base
from appliance.places import import_folder
from appliance.schema import Citation, Finding, Verdict, digest
from appliance.store import FindingRow, Store
from tests.builders import T0, make_batch, make_finding
from tests.knowledge_samples import LetterEncoder, build_sample, gather, make_entry, make_note

RULE = "0f06a3a5-6a09-413f-8743-e6cf35561297"


class FakeClient(LetterEncoder):
    """An encoder as the commands use it. `down` has every question fail."""

    down = False
    alive = 0

    def __init__(self, model: Path) -> None:
        super().__init__()

    def start(self) -> None:
        FakeClient.alive += 1

    def close(self) -> None:
        FakeClient.alive -= 1

    def embed(self, texts: Sequence[str]) -> Any:
        if self.down:
            raise ModelUnavailable("the encoder is down")
        return super().embed(texts)


def make_knowledge() -> list[Item]:
    """A technique with everything around it, under real ids."""
    origin = "Test ATT&CK"

    def link(source: str, kind: str, target: str, text: str = "") -> Link:
        return Link(source, kind, target, origin, text)

    return [
        make_entry("T1003", "OS Credential Dumping", tactics=("credential-access",)),
        make_entry(
            "T1003.001",
            "OS Credential Dumping: LSASS Memory",
            text="Adversaries may read the memory of LSASS.\n" + "A long sentence of words. " * 20,
            tactics=("credential-access",),
            platforms=("Windows",),
        ),
        make_entry("T1003.002", "OS Credential Dumping: Security Account Manager"),
        make_entry("T1070.001", "Indicator Removal: Clear Windows Event Logs"),
        make_entry("T1086", "PowerShell", revoked=True, revoked_by="T1059.001"),
        make_entry("T1059.001", "Command and Scripting Interpreter: PowerShell"),
        make_entry("TA0006", "Credential Access", type="tactic", tactics=()),
        make_entry("G0016", "APT29", type="group", aliases=("Cozy Bear",), tactics=()),
        make_entry("S0002", "Mimikatz", type="software", tactics=()),
        make_entry("M1043", "Credential Access Protection", type="mitigation", tactics=()),
        make_entry("DET0363", "Detection of Credential Dumping", type="strategy", tactics=()),
        make_entry("AN1030", "Analytic 1030", type="analytic", tactics=()),
        make_entry("CVE-2021-44228", "Log4Shell", type="vulnerability", tactics=()),
        make_entry(
            f"sigma:{RULE}", "LSASS is read", type="rule", external_id=RULE, source="Our rules"
        ),
        make_entry("playbook:dumping", "Passwords are taken", type="playbook", tactics=()),
        msgspec.structs.replace(
            make_note("evil", "Ordinary words."), title="\u202ereversed\u2028 \u200btitle"
        ),
        link("T1003.001", "subtechnique_of", "T1003"),
        link("T1003.002", "subtechnique_of", "T1003"),
        link("T1003.001", "in", "TA0006"),
        link("G0016", "uses", "T1003.001", "APT29 has read the memory of LSASS."),
        link("S0002", "uses", "T1003.001", "Mimikatz reads it."),
        link("G0016", "uses", "S0002"),
        link("M1043", "mitigates", "T1003.001", "Turn on Credential Guard."),
        link("DET0363", "detects", "T1003.001"),
        link("DET0363", "has", "AN1030"),
        Link(f"sigma:{RULE}", "watches", "T1003.001", "Our rules"),
        Link("sigma:of-another", "watches", "T1685.005", "SigmaHQ"),
        link("playbook:dumping", "answers", "T1003.001"),
        Link("note:evil", "about", "G0016", "Notes", "Seen\nin \u202ewinter."),
        Link("note:evil", "wonders_about", "T9998", "Notes"),
        Indicator("sha256", "ab" * 32, origin, "bad", links=("G0016",)),
    ]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with such a base; no configuration, and an encoder that answers."""
    folder = tmp_path / "data"
    build_sample(folder / "knowledge", make_knowledge())
    monkeypatch.setenv("APPLIANCE_DATA", str(folder))
    monkeypatch.setattr(knowledge, "CONFIG", tmp_path / "none.yaml")
    monkeypatch.setattr(knowledge, "EncoderClient", FakeClient)
    monkeypatch.setattr(knowledge, "need_encoder", lambda configured="": Path("encoder.gguf"))
    built = SimpleNamespace(sha256=LetterEncoder.model_hash)
    monkeypatch.setattr(knowledge, "verify_built", lambda path: built)
    monkeypatch.setattr(FakeClient, "down", False)
    monkeypatch.setattr(FakeClient, "alive", 0)
    return folder


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kb(data: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs `appliance kb`; no process of an encoder may be left."""

    def command(*words: str | Path) -> tuple[int, str, str]:
        code = main(["kb", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield command
    assert FakeClient.alive == 0


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "knowledge").iterdir()}


def check_width(text: str) -> None:
    assert text
    assert max(len(line) for line in text.splitlines()) <= 80, text
    assert all(line.isprintable() for line in text.splitlines())


# -- show ------------------------------------------------------------------------------------------


def test_show_tells_all_that_is_known(kb: Command) -> None:
    code, said, complaint = kb("show", "T1003.001")
    assert (code, complaint) == (0, "")
    check_width(said)
    assert said.startswith("T1003.001  OS Credential Dumping: LSASS Memory\n")
    for part in (
        "\n  Adversaries may read the memory of LSASS.\n",
        "\npart of (1)\n  T1003  OS Credential Dumping\n",
        "\nin the tactics (1)\n  TA0006  Credential Access\n",
        "\nplaybooks that answer it (1)\n  Passwords are taken [playbook:dumping]\n",
        f"\nrules that watch for it (1)\n  LSASS is read (by Our rules) [sigma:{RULE}]\n",
        "\nhow to detect it (1)\n  DET0363  Detection of Credential Dumping\n",
        "\nanalytics (1)\n  AN1030  Analytic 1030\n",
        "\ncountermeasures (1)\n  M1043  Credential Access Protection\n"
        "         Turn on Credential Guard.\n",
        "\nused by groups (1)\n  G0016 APT29\n",
        "\nused by software (1)\n  S0002 Mimikatz\n",
        "\nseen in attacks (2)\n  G0016 APT29: APT29 has read the memory of LSASS.\n",
        "\nfindings here: not known: there is no configuration here\n",
    ):
        assert part in said, part


def test_show_as_json_has_every_neighbour(kb: Command) -> None:
    code, said, _ = kb("show", "t1003.001", "--json")
    assert code == 0
    facts = json.loads(said)
    assert (facts["id"], facts["type"], facts["asked"]) == ("T1003.001", "technique", "t1003.001")
    assert facts["findings"]["count"] is None
    found = {(n["section"], n["id"]) for n in facts["neighbours"]}
    assert found == {
        ("part of", "T1003"),
        ("in the tactics", "TA0006"),
        ("used by groups", "G0016"),
        ("used by software", "S0002"),
        ("countermeasures", "M1043"),
        ("how to detect it", "DET0363"),
        ("analytics", "AN1030"),
        ("rules that watch for it", f"sigma:{RULE}"),
        ("playbooks that answer it", "playbook:dumping"),
    }
    uses = next(n for n in facts["neighbours"] if n["id"] == "G0016")
    assert uses["text"] == "APT29 has read the memory of LSASS."
    assert (uses["kind"], uses["forward"], uses["known"], uses["says"]) == ("uses", False, True, [])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("t1003.001", "T1003.001"),
        ("cve-2021-44228", "CVE-2021-44228"),
        (f"SIGMA:{RULE.upper()}", f"sigma:{RULE}"),
        (RULE, f"sigma:{RULE}"),
        ("T1685.005", "T1070.001"),
        ("mimikatz", "S0002"),
        ("cozy  BEAR", "G0016"),
        ("lsass memory", "T1003.001"),
    ],
)
def test_show_takes_any_id_and_a_name(kb: Command, asked: str, found: str) -> None:
    code, said, _ = kb("show", asked, "--json")
    assert code == 0
    assert json.loads(said)["id"] == found


def test_renumbered_technique_shows_both_numbers(kb: Command) -> None:
    code, said, _ = kb("show", "T1685.005")
    assert code == 0
    assert "\n  T1685.005 in another release of ATT&CK\n" in said
    assert "\n  also       T1685.005\n" in said
    # A rule that nobody imported, which calls the technique by its new number.
    assert "(not in this base) (says T1685.005) [sigma:of-another]" in said
    assert "another release" not in kb("show", "T1070.001")[1]


def test_revoked_technique_names_its_successor(kb: Command) -> None:
    code, said, _ = kb("show", "T1086")
    assert code == 0
    assert "\n  revoked: T1059.001 took over\n" in said


def test_unknown_id_names_those_spelled_alike(kb: Command) -> None:
    for asked, found in (
        ("T1003.01", "T1003.001"),
        ("T1030.001", "T1003.001"),
        ("CVE-2021-4428", "CVE-2021-44228"),
        ("mimicatz", "S0002"),
        ("Mimikat", "S0002"),
    ):
        code, said, complaint = kb("show", asked)
        assert (code, said) == (1, ""), asked
        assert f"the knowledge base has no '{asked}'; spelled alike: " in complaint
        first = complaint.partition("spelled alike: ")[2]
        assert first.startswith(found), complaint
    code, said, complaint = kb("show", "zzzzqqqq")
    assert (code, said) == (1, "")
    assert "spelled alike" not in complaint


def test_name_of_several_asks_for_the_id(kb: Command, data: Path) -> None:
    items = [*make_knowledge(), make_entry("S0999", "Mimikatz", type="software", tactics=())]
    build_sample(data / "knowledge", items)
    code, _, complaint = kb("show", "mimikatz")
    assert code == 1
    assert "is the name of several: S0002 (Mimikatz), S0999 (Mimikatz): give the id" in complaint


@pytest.mark.parametrize("asked", ["", " ", "\x1b[2J", "x" * 5000, "\udcff", "*", '"', "a" * 64])
def test_hostile_question_gets_an_answer(kb: Command, asked: str) -> None:
    code, said, complaint = kb("show", asked)
    assert (code, said) == (1, "")
    assert "the knowledge base has no" in complaint
    assert "\x1b" not in complaint


def test_hostile_texts_stay_on_their_lines(kb: Command) -> None:
    code, said, _ = kb("show", "note:evil")
    assert code == 0
    check_width(said)
    assert "\\u202ereversed\\u2028 \\u200btitle" in said
    assert "\nwonders about (1)\n  (not in this base) [T9998]\n" in said or "T9998  (not" in said
    code, said, _ = kb("show", "G0016")
    check_width(said)
    assert "Seen in \\u202ewinter." in said


def test_long_lists_are_cut_unless_all_is_asked_for(kb: Command, data: Path) -> None:
    groups = [make_entry(f"G1{n:03}", f"Group number {n}", type="group") for n in range(60)]
    links = [Link(g.id, "uses", "T1003.001", "Test ATT&CK", f"{g.title} did.") for g in groups]
    notes = [make_note(f"n{n:02}", "Words.") for n in range(15)]
    about = [Link(note.id, "about", "T1003.001", "Notes", "long " * 300) for note in notes]
    build_sample(data / "knowledge", [*make_knowledge(), *groups, *links, *notes, *about])
    _, said, _ = kb("show", "T1003.001")
    check_width(said)
    assert "used by groups (61)\n" in said
    assert "... and 41 more (--all)" in said
    assert "... and 5 more (--all)" in said
    assert "... and 59 more (--all)" in said  # examples: 62, three of them shown
    _, whole, _ = kb("show", "T1003.001", "--all")
    check_width(whole)
    assert "more (--all)" not in whole
    assert whole.count("did.") == 60
    assert all(group.id in whole for group in groups)


def test_versions_of_other_sources_are_shown(kb: Command, tmp_path: Path) -> None:
    (tmp_path / "kev.json").write_text(json.dumps(make_kev("CVE-2021-44228")))
    assert kb("import", tmp_path / "kev.json")[0] == 0
    _, said, _ = kb("show", "CVE-2021-44228", "--json")
    facts = json.loads(said)
    assert [facts["source"], *(v["source"] for v in facts["versions"])].count("CISA KEV") == 1
    _, said, _ = kb("show", "CVE-2021-44228")
    assert "\nas Test ATT&CK has it\n" in said or "\nas CISA KEV has it\n" in said


def make_kev(*ids: str) -> dict[str, Any]:
    """A catalogue of CISA's form."""
    return {
        "title": "CISA Catalog of Known Exploited Vulnerabilities",
        "catalogVersion": "2026.01.15",
        "dateReleased": "2026-01-15T15:00:00.0000Z",
        "count": len(ids),
        "vulnerabilities": [
            {
                "cveID": each,
                "vendorProject": "Vendor",
                "product": "Product",
                "vulnerabilityName": f"Name of {each}",
                "dateAdded": "2026-01-10",
                "shortDescription": "It lets others in.",
                "requiredAction": "Apply updates.",
                "dueDate": "2026-01-31",
                "knownRansomwareCampaignUse": "Unknown",
                "notes": "",
                "cwes": [],
            }
            for each in ids
        ],
    }


# -- findings in the store -------------------------------------------------------------------------


def make_row(number: int, *techniques: str, rule: str = "r1", cites: str = "") -> FindingRow:
    finding = make_finding(number, T0 + number, title=f"Finding\x1b {number}")
    detection = msgspec.structs.replace(
        finding.detection, techniques=techniques, rule_id=rule, level="high"
    )
    cited = (Citation(cites, "Title", 1.0, "tag"),) if cites else ()
    verdict = Verdict("knowledge", "suspicious", 1.0, "known", cited)
    key = digest("row", str(number))
    body = render_finding(Finding(key, detection, (verdict,)), None)
    return FindingRow(key, T0 + number, 3, "sigma", rule, body, False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    store = Store(folder / "store.db", durable=False)
    rows = [
        *(make_row(number, "T1003.001") for number in range(1, 8)),
        make_row(8, "T1003"),
        make_row(9, "T1685.005"),
        make_row(10, "T1070.001", rule=RULE),
        make_row(11, "T1999", cites="G0016"),
    ]
    store.write_batch(make_batch(rows))
    store.close()
    return folder


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ("T1003.001", 7),
        ("T1003", 8),
        ("T1070.001", 2),
        (f"sigma:{RULE}", 1),
        ("G0016", 1),
        ("S0002", 0),
    ],
)
def test_findings_here_are_counted(kb: Command, state: Path, asked: str, count: int) -> None:
    code, said, _ = kb("show", asked, "--state", state, "--json")
    assert code == 0
    found = json.loads(said)["findings"]
    assert (found["count"], found["why_not"]) == (count, "")
    assert len(found["last"]) == min(5, count)
    times = [body["time"] for body in found["last"]]
    assert times == sorted(times, reverse=True)


def test_findings_here_are_shown(kb: Command, state: Path) -> None:
    before = (state / "store.db").read_bytes()
    _, said, _ = kb("show", "T1003.001", "--state", state)
    check_width(said)
    assert "\nfindings here (7)\n  2023-11-14 22:13:27  high" in said
    assert "web: Finding\\x1b 7" in said
    assert "... and 2 older ones (`appliance findings`)" in said
    assert (state / "store.db").read_bytes() == before


def test_without_a_store_the_entry_is_shown_all_the_same(kb: Command, tmp_path: Path) -> None:
    code, said, _ = kb("show", "T1003.001", "--state", tmp_path / "nowhere")
    assert code == 0
    assert "findings here: not known:" in said
    (tmp_path / "store.db").write_bytes(b"no database at all")
    code, said, _ = kb("show", "T1003.001", "--state", tmp_path, "--json")
    assert code == 0
    assert json.loads(said)["findings"]["count"] is None


def test_configuration_that_is_named_and_bad_is_exit_3(kb: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("bogus: 1\n")
    for words in (["show", "T1003"], ["search", "x"], ["info"], ["import", "x"]):
        assert kb(*words, "--config", tmp_path / "bad.yaml")[0] == 3, words


def test_bad_configuration_of_the_system_is_said_and_left_out(
    kb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.yaml").write_text("bogus: 1\n")
    monkeypatch.setattr(knowledge, "CONFIG", tmp_path / "bad.yaml")
    monkeypatch.setattr("appliance.commands.settings.CONFIG", tmp_path / "bad.yaml")
    code, said, complaint = kb("show", "T1003")
    assert code == 0
    assert said.startswith("T1003  ")
    assert "appliance: kb show: left out: " in complaint
    # What is changed must be the right one.
    assert kb("import", "x")[0] == 3


def test_an_import_leaves_the_package_its_base(tmp_path: Path) -> None:
    state = Path("/var/lib/appliance/knowledge")
    assert import_folder(Path("/usr/share/appliance/knowledge")) == state
    link = tmp_path / "share"
    link.symlink_to("/usr/share")
    assert import_folder(link / "appliance" / "knowledge") == state
    for own in (tmp_path / "knowledge", Path("/usr/local/share/appliance/knowledge"), state):
        assert import_folder(own) == own


def test_configured_folder_of_the_base_is_taken(kb: Command, tmp_path: Path) -> None:
    build_sample(tmp_path / "other", [make_entry("T1111", "Elsewhere")])
    (tmp_path / "good.yaml").write_text(
        f"state_dir: {tmp_path}/s\nknowledge_dir: {tmp_path}/other\n"
        "sources:\n  - name: a\n    paths: [/var/log/*]\n"
    )
    assert kb("show", "T1111", "--config", tmp_path / "good.yaml")[0] == 0
    assert kb("show", "T1111")[0] == 1


# -- search ----------------------------------------------------------------------------------------


def test_search_prints_the_contract(kb: Command) -> None:
    code, said, complaint = kb("search", "credential dumping", "-k", "3", "--json")
    assert (code, complaint) == (0, "")
    rows = json.loads(said)
    assert len(rows) == 3
    keys = {"id", "external_id", "type", "title", "score", "source", "version"}
    assert all(row.keys() == keys for row in rows)


def test_search_reads_well(kb: Command) -> None:
    code, said, _ = kb("search", "T1003.001 and LSASS", "-k", "20")
    assert code == 0
    check_width(said)
    assert said.startswith("1.000  T1003.001")
    assert "technique, Test ATT&CK 1\n" in said


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--type", "rule"), {f"sigma:{RULE}"}),
        (("--platform", "windows"), {"T1003.001"}),
        (("--tactic", "TA0006"), {"T1003", "T1003.001"}),
        (("--tactic", "Credential Access", "--platform", "Linux"), {"T1003"}),
    ],
)
def test_search_filters(kb: Command, words: tuple[str, ...], found: set[str]) -> None:
    code, said, _ = kb("search", "memory", *words, "-k", "50", "--json")
    assert code == 0
    assert {row["id"] for row in json.loads(said)} == found


def test_search_that_finds_nothing_is_exit_1(kb: Command) -> None:
    code, said, complaint = kb("search", "memory", "--platform", "Amiga", "--json")
    assert (code, json.loads(said)) == (1, [])
    assert "nothing found" in complaint


def test_type_that_there_is_not_is_a_usage_error(kb: Command) -> None:
    assert KNOWLEDGE_TYPES == ENTRY_TYPES
    with pytest.raises(SystemExit) as ended:
        kb("search", "x", "--type", "bogus")
    assert ended.value.code == 2


def test_without_the_encoder_words_alone_are_asked_and_it_is_said(
    kb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeClient, "down", True)
    code, said, complaint = kb("search", "mimikatz", "--json")
    assert code == 0
    assert json.loads(said)[0]["id"] == "S0002"
    assert "kb search: found by words alone, not by meaning: the encoder is down" in complaint
    code, said, _ = kb("search", "mimikatz")
    assert said.startswith("  -    S0002")

    def fail(configured: str = "") -> Path:
        raise ModelError("no encoder is built")

    monkeypatch.setattr(knowledge, "need_encoder", fail)
    code, said, complaint = kb("search", "mimikatz", "--json")
    assert code == 0
    assert json.loads(said)[0]["id"] == "S0002"
    assert "words alone, not by meaning: no encoder is built" in complaint


# -- info ------------------------------------------------------------------------------------------


def test_info_tells_sources_and_what_is_held(kb: Command) -> None:
    code, said, complaint = kb("info", "--json")
    assert (code, complaint) == (0, "")
    facts = json.loads(said)
    assert facts["types"]["technique"] == 5
    assert facts["manifest"]["indicators"] == 1
    assert facts["encoder"] == {
        "sha256": LetterEncoder.model_hash,
        "installed": True,
        "why_not": "",
    }
    assert facts["bytes"] > 10_000
    assert {source["name"] for source in facts["sources"]} == {
        "Notes", "Our rules", "SigmaHQ", "Test ATT&CK",
    }  # fmt: skip
    _, said, _ = kb("info")
    check_width("\n".join(line for line in said.splitlines() if not line.startswith("folder ")))
    assert "exact: every vector is compared" in said
    assert "licence: none" in said


def test_info_says_when_the_vectors_are_of_another_encoder(
    kb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(sha256="cd" * 32)
    monkeypatch.setattr(knowledge, "verify_built", lambda path: other)
    code, said, _ = kb("info")
    assert code == 0
    assert "NOT here: encoder.gguf is cdcdcdcdcdcdcdcd" in " ".join(said.split())


def make_source(name: str, **changes: Any) -> KnowledgeSource:
    source = KnowledgeSource(
        kind="imported", name=name, version="", licence="", entries=1, links=0, indicators=0,
        files={}, read_at=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(source, **changes)


NOW = 1_780_000_000.0


@pytest.mark.parametrize(
    ("source", "age", "stale"),
    [
        (make_source("CISA KEV", read_at=NOW - 30.5 * DAY), 30, False),
        (make_source("CISA KEV", read_at=NOW - 31 * DAY), 31, True),
        # Read today, but of last year: the older of both counts.
        (make_source("CISA KEV", read_at=NOW, version="2025.01.01"), 512, True),
        (make_source("CISA KEV", read_at=NOW, version="2025.13.01"), 0, False),
        (make_source("MITRE ATT&CK ICS", read_at=NOW, version="99.0"), 0, False),
        (make_source("MITRE ATT&CK ICS", read_at=NOW - 271 * DAY), 271, True),
        (make_source("MITRE ATT&CK Enterprise", kind="package", version="17.1"), 401, True),
        (make_source("SigmaHQ", read_at=NOW - 181 * DAY), 181, True),
        (make_source("Sigma rules: mine", read_at=NOW - 180 * DAY), 180, False),
        (make_source("MISP: event", read_at=NOW - 31 * DAY, indicators=5), 31, True),
        (make_source("MISP: event", read_at=NOW - 31 * DAY), 31, None),
        (make_source("LOLBAS", read_at=NOW - 3000 * DAY), 3000, None),
        (make_source("Appliance", kind="own", version="0.1.0"), None, None),
        (make_source("Appliance rules", kind="rules"), None, None),
        (make_source("CISA KEV", read_at=NOW + 5 * DAY), 0, False),
    ],
    ids=lambda value: value.name if isinstance(value, KnowledgeSource) else str(value),
)
def test_source_is_stale_by_the_table(
    source: KnowledgeSource, age: int | None, stale: bool | None
) -> None:
    facts = describe_source(source, NOW)
    assert (facts["age_days"], facts["stale"]) == (age, stale)


def test_releases_are_days() -> None:
    for version in ATTACK_RELEASES:
        assert find_release("MITRE ATT&CK Enterprise", f"v{version}.1") is not None
    assert find_release("CISA KEV", "2026.02.30") is None


# -- import ----------------------------------------------------------------------------------------


def test_import_reports_and_is_found(kb: Command, data: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "kev.json").write_text(json.dumps(make_kev("CVE-2026-0001", "CVE-2026-0002")))
    (stick / "notes.md").write_text("# The hall\n\nThe door of T1003.001 is G0016's.\n")
    (stick / "strange.bin").write_bytes(bytes(range(256)))
    code, said, complaint = kb("import", stick)
    assert code == 0
    check_width(said)
    assert "CISA KEV (1 files)\n  entries: 2 new, 0 changed, 0 unchanged, 0 gone\n" in said
    assert "left out of files that brought nothing: 1\n" in said
    assert "strange.bin: " in said
    assert "a running daemon goes on with the base that it has opened" in said
    assert "encoding 3 texts" in complaint
    assert kb("show", "CVE-2026-0001")[0] == 0
    before = read_all(data)
    code, said, _ = kb("import", stick, "--json")
    assert code == 0
    report = json.loads(said)
    assert report["changed"] is False
    assert {s["name"]: s["unchanged"] for s in report["sources"]}["CISA KEV"] == 2
    assert read_all(data) == before
    (stick / "kev.json").write_text(json.dumps(make_kev("CVE-2026-0002", "CVE-2026-0003")))
    code, said, _ = kb("import", stick)
    assert code == 0
    assert "entries: 1 new, 0 changed, 1 unchanged, 1 gone\n" in said
    assert "\n  gone: CVE-2026-0001\n" in said


def test_unknown_technique_of_an_import_is_named(kb: Command, tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(
        f"title: A rule\nid: {RULE[:-1]}8\nstatus: test\nlogsource: {{product: windows}}\n"
        "tags: [attack.t9987]\ndetection: {s: {a: b}, condition: s}\n"
    )
    code, said, _ = kb("import", tmp_path / "rule.yml")
    assert code == 0
    assert "not in the base, but linked to: T9987 (1 links); the links are kept" in said


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x01\x02", b'{"type": "bundle", "objects": 7}', b"[" * 100_000, b"a: &x [*x]\n"],
    ids=["empty", "bytes", "not a bundle", "deep", "aliases"],
)
def test_refused_import_leaves_everything_as_it_was(
    kb: Command, data: Path, tmp_path: Path, content: bytes
) -> None:
    before = read_all(data)
    (tmp_path / "bad.json").write_bytes(content)
    for extra in ((), ("--json",), ("--reload", "--json")):
        code, said, complaint = kb("import", tmp_path / "bad.json", *extra)
        assert (code, said) == (1, "")
        assert "bad.json" in complaint
        assert "nothing was imported: the base is what it was" in complaint
    assert read_all(data) == before
    assert kb("import", tmp_path / "nowhere")[0] == 1


def test_import_whose_encoder_fails_leaves_everything_as_it_was(
    kb: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeClient, "down", True)
    before = read_all(data)
    (tmp_path / "kev.json").write_text(json.dumps(make_kev("CVE-2026-0001")))
    code, said, complaint = kb("import", tmp_path / "kev.json")
    assert (code, said) == (1, "")
    assert "the encoder is down" in complaint
    assert read_all(data) == before


@pytest.mark.parametrize("words", [["info"], ["search", "x"], ["show", "x"], ["import", "x"]])
def test_without_a_base_every_command_says_what_to_do(
    kb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(knowledge, "find_knowledge", lambda configured="": None)
    code, said, complaint = kb(*words)
    assert (code, said) == (1, "")
    assert "no knowledge base is built" in complaint
    assert "`appliance kb build`" in complaint


@pytest.mark.parametrize("words", [["info"], ["search", "x"], ["show", "x"], ["import", "x"]])
def test_damaged_base_is_refused(kb: Command, data: Path, words: list[str]) -> None:
    for path in (data / "knowledge").glob("entries-*.db"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    code, said, complaint = kb(*words)
    assert (code, said) == (1, "")
    assert "SHA-256" in complaint


def test_import_elsewhere_begins_from_the_base_in_use(
    kb: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_all(data)
    other = tmp_path / "other"
    kev = tmp_path / "kev.json"
    kev.write_text("no catalogue")
    assert kb("import", kev, "--to", other)[0] == 1
    assert list(other.glob("*")) == []
    for number in (1, 2):
        kev.write_text(json.dumps(make_kev(f"CVE-2026-000{number}")))
        assert kb("import", kev, "--to", other)[0] == 0
    assert read_all(data) == before
    assert kb("show", "CVE-2026-0002")[0] == 1
    monkeypatch.setenv("APPLIANCE_DATA", str(other))
    assert kb("show", "CVE-2026-0002")[0] == 0
    assert kb("show", "T1003.001")[0] == 0
    code, _, complaint = kb("import", kev, "--to", kev)  # no folder
    assert (code, "kev.json" in complaint) == (1, True)


def test_failing_import_elsewhere_deletes_its_own_copy_only(
    kb: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"

    def fail_after_another(folder: Path, *_: object, **__: object) -> None:
        build_sample(folder, [*make_knowledge(), make_entry("T1999", "Of another")])
        raise ModelError("the disk is full")

    monkeypatch.setattr(knowledge_import, "import_paths", fail_after_another)
    assert kb("import", "x", "--to", other)[0] == 1
    base = KnowledgeBase.open(other / "knowledge", LetterEncoder.model_hash)
    assert base.entry("T1999") is not None
    base.close()


def test_failing_import_elsewhere_leaves_the_copy_to_who_has_the_lock(
    kb: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    with ExitStack() as at_work:

        def fail_under_another(folder: Path, *_: object, **__: object) -> None:
            at_work.enter_context(lock_base(folder))
            raise ModelError("another build or import is at work")

        monkeypatch.setattr(knowledge_import, "import_paths", fail_under_another)
        code, _, complaint = kb("import", "x", "--to", other)
        assert (code, "another build or import is at work" in complaint) == (1, True)
        assert read_all(other) == read_all(data)


def test_base_that_another_makes_before_the_copy_is_imported_into(
    kb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"

    def lock_after_another(folder: Path) -> AbstractContextManager[None]:
        build_sample(folder, [*make_knowledge(), make_entry("T1999", "Of another")])
        return lock_base(folder)

    monkeypatch.setattr(knowledge_import, "lock_base", lock_after_another)
    (tmp_path / "kev.json").write_text(json.dumps(make_kev("CVE-2026-0001")))
    assert kb("import", tmp_path / "kev.json", "--to", other)[0] == 0
    base = KnowledgeBase.open(other / "knowledge", LetterEncoder.model_hash)
    assert base.entry("T1999") is not None
    base.close()


@pytest.mark.parametrize("start", ["entries-", "vectors-", "manifest"])
def test_copy_that_the_disk_does_not_take_is_deleted(
    kb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    copy = shutil.copyfile

    def fail(source: Path, target: Path) -> None:
        if not target.name.startswith(start):
            copy(source, target)
            return
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    code, _, complaint = kb("import", "x", "--to", tmp_path / "other")
    assert (code, "cannot be written: No space left" in complaint) == (1, True)
    assert list((tmp_path / "other").iterdir()) == []


# -- the running daemon ----------------------------------------------------------------------------


class FakeDaemon:
    """Answers `status` as a daemon does; SIGHUP has it take the base that is there."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._folder = folder
        self.hash = self._read()
        self.server = ControlServer(config.control_path, self._answer)

    def _read(self) -> str:
        base = KnowledgeBase.open(self._folder, LetterEncoder.model_hash)
        base.close()
        return base.hash

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "models": {"knowledge": {"hash": self.hash}}}

    def reload(self, *_: object) -> None:
        self.hash = self._read()


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    path = tmp_path / "appliance.yaml"
    (tmp_path / "state").mkdir(exist_ok=True)
    path.write_text(
        f"state_dir: {tmp_path}/state\nsources:\n  - name: a\n    paths: [/var/log/*]\n"
    )
    return path


@pytest.fixture
def daemon(tmp_path: Path, data: Path, configured: Path) -> Iterator[FakeDaemon]:
    running = FakeDaemon(Config(state_dir=str(tmp_path / "state")), data / "knowledge")
    before = signal.signal(signal.SIGHUP, running.reload)
    running.server.start()
    yield running
    running.server.close()
    signal.signal(signal.SIGHUP, before)


def test_running_daemon_takes_the_base_only_when_told(
    kb: Command, configured: Path, daemon: FakeDaemon, tmp_path: Path
) -> None:
    kev = tmp_path / "kev.json"
    kev.write_text(json.dumps(make_kev("CVE-2026-0001")))
    before = daemon.hash
    code, said, _ = kb("import", kev, "--config", configured)
    assert code == 0
    assert f"the daemon (pid {os.getpid()}) goes on with the base" in said
    assert daemon.hash == before
    kev.write_text(json.dumps(make_kev("CVE-2026-0002")))
    code, said, _ = kb("import", kev, "--config", configured, "--reload", "--json")
    assert code == 0
    assert json.loads(said)["daemon"] == f"the daemon (pid {os.getpid()}) has taken the new base"
    assert daemon.hash != before


def test_reload_that_does_not_come_is_said(daemon: FakeDaemon, tmp_path: Path) -> None:
    config = Config(state_dir=str(tmp_path / "state"))
    said = reload_daemon(config, {"pid": os.getpid()}, "another", seconds=0.3)
    assert "has not taken it yet" in said
    with pytest.raises(ApplianceError, match="can't be told"):
        reload_daemon(config, {"pid": 1 << 22}, "another")


def test_without_a_daemon_the_next_one_takes_it(
    kb: Command, configured: Path, tmp_path: Path
) -> None:
    (tmp_path / "kev.json").write_text(json.dumps(make_kev("CVE-2026-0001")))
    code, said, _ = kb("import", tmp_path / "kev.json", "--config", configured, "--reload")
    assert code == 0
    assert "no daemon is running: the next one starts with this base" in said


# -- build -----------------------------------------------------------------------------------------


def test_build_makes_a_base_and_keeps_imports(
    kb: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "appliance.knowledge.build._read_default", lambda rules, say: gather(make_knowledge())
    )
    (tmp_path / "kev.json").write_text(json.dumps(make_kev("CVE-2026-0001")))
    assert kb("import", tmp_path / "kev.json")[0] == 0
    code, _, complaint = kb("build")
    assert code == 0
    assert "built already" in complaint
    code, _, complaint = kb("build", "--force")
    assert code == 0
    assert f"built {data / 'knowledge'}" in complaint
    assert kb("show", "CVE-2026-0001")[0] == 0
    assert kb("build", "--without-imports")[0] == 0
    assert kb("show", "CVE-2026-0001")[0] == 1
    assert kb("build", "--to", tmp_path / "fresh")[0] == 0
    assert (tmp_path / "fresh" / "knowledge" / "manifest.json").is_file()


def test_build_without_the_encoder_fails_and_leaves_the_base(
    kb: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [*make_knowledge(), make_entry("T1999", "Something new")]
    monkeypatch.setattr("appliance.knowledge.build._read_default", lambda rules, say: gather(items))
    monkeypatch.setattr(FakeClient, "down", True)
    before = read_all(data)
    code, _, complaint = kb("build", "--force")
    assert code == 1
    assert "the encoder is down" in complaint
    assert read_all(data) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_overwrites_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress()
    progress("reading\x1b[2J")
    progress("encoding 64 of 200 texts, 32 a second, 0:04 minutes left")
    progress("encoding 128 of 200 texts, 32 a second, 0:02 minutes left")
    progress("writing")
    progress("encoding 1 of 2 texts")
    progress.end()
    assert terminal.getvalue() == (
        "reading\\x1b[2J\n"
        "encoding 64 of 200 texts, 32 a second, 0:04 minutes left"
        "\r\x1b[Kencoding 128 of 200 texts, 32 a second, 0:02 minutes left"
        "\r\x1b[Kwriting\n"
        "encoding 1 of 2 texts\n"
    )


def test_progress_is_a_few_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 2.0, 4.0, 11.0, 12.0])
    progress = Progress(lambda: next(times))
    for number in range(5):
        progress(f"encoding {number} of 5 texts")
    progress("writing")
    assert capsys.readouterr().err.splitlines() == [
        "encoding 0 of 5 texts",
        "encoding 3 of 5 texts",
        "writing",
    ]


# -- small parts -----------------------------------------------------------------------------------


def test_spelling_is_one_letter_away() -> None:
    near = set(spell_nearly("t1"))
    assert {"t", "1", "1t", "t12", "at1", "t.1", "x1", "t2"} <= near
    assert "t123" not in near


def test_every_section_has_its_own_place() -> None:
    keys = [(section.kind, section.forward, section.type) for section in SECTIONS]
    assert len(set(keys)) == len(keys)


def test_prose_is_cut_and_wrapped() -> None:
    assert cut_prose("one two three", 9) == "one ..."
    assert cut_prose(" one\n two ", 9) == "one two"
    assert cut_prose("", 9) == ""
    assert wrap_prose("a\n\nb\x1b", "  ") == ["  a", "  b\\x1b"]
    begin = time.monotonic()
    assert all(len(line) <= 80 for line in wrap_prose("x" * 100_000 + " y" * 100_000, "  "))
    assert time.monotonic() - begin < 5
