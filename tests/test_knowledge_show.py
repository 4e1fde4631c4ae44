"""`kb show` and `kb search`: what is told once, what took over, questions without sense."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from appliance.cli import main
from appliance.commands import knowledge
from appliance.emit.render import render_finding
from appliance.errors import ModelError
from appliance.knowledge.entries import Item, Link
from appliance.schema import Finding, Verdict, digest
from appliance.store import FindingRow, Store
from tests.builders import T0, make_batch, make_finding
from tests.knowledge_samples import LetterEncoder, build_sample, make_entry

Command = Callable[..., tuple[int, str, str]]
ORIGIN = "Test ATT&CK"


class FakeClient(LetterEncoder):
    """An encoder as the commands use it."""

    def __init__(self, model: Path) -> None:
        super().__init__()

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to end."""


def make_knowledge() -> list[Item]:
    """A technique that took over from another, whose links are told twice."""
    return [
        make_entry("T1059.001", "Command and Scripting Interpreter: PowerShell"),
        make_entry("T1086", "PowerShell", revoked=True, revoked_by="T1059.001"),
        make_entry("TA0002", "Execution", type="tactic", tactics=()),
        make_entry("S0001", "Old Tool", type="software", tactics=()),
        make_entry("sigma:r1", "It is run", type="rule", source="Rules", tactics=()),
        Link("T1059.001", "in", "TA0002", ORIGIN),
        Link("T1086", "in", "TA0002", ORIGIN),
        Link("T1086", "revoked_by", "T1059.001", ORIGIN),
        Link("S0001", "uses", "T1059.001", ORIGIN, "It runs scripts."),
        Link("S0001", "uses", "T1086", ORIGIN, "It runs scripts."),
        Link("S0001", "uses", "T1059.001", ORIGIN, "It hides them."),
        Link("sigma:r1", "watches", "T1059.001", "Rules"),
        Link("sigma:r1", "watches", "T1059.001", "Other rules"),
    ]


@pytest.fixture
def kb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs `appliance kb` over a base of these entries, without a configuration."""
    folder = tmp_path / "data"
    build_sample(folder / "knowledge", make_knowledge())
    monkeypatch.setenv("APPLIANCE_DATA", str(folder))
    monkeypatch.setattr(knowledge, "CONFIG", tmp_path / "none.yaml")
    monkeypatch.setattr(knowledge, "EncoderClient", FakeClient)
    monkeypatch.setattr(knowledge, "need_encoder", lambda configured="": Path("encoder.gguf"))
    built = SimpleNamespace(sha256=LetterEncoder.model_hash)
    monkeypatch.setattr(knowledge, "verify_built", lambda path: built)

    def command(*words: str | Path) -> tuple[int, str, str]:
        code = main(["kb", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield command


def make_row(number: int, technique: str) -> FindingRow:
    finding = make_finding(number, T0 + number, title=f"Finding {number}")
    detection = msgspec.structs.replace(finding.detection, techniques=(technique,), level="high")
    verdict = Verdict("knowledge", "suspicious", 1.0, "known", ())
    key = digest("row", str(number))
    body = render_finding(Finding(key, detection, (verdict,)), None)
    return FindingRow(key, T0 + number, 3, "sigma", "other", body, False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A store with three findings of the new id and two of the old."""
    folder = tmp_path / "state"
    folder.mkdir()
    store = Store(folder / "store.db", durable=False)
    ids = ["T1059.001"] * 3 + ["T1086"] * 2
    store.write_batch(make_batch([make_row(number, id_) for number, id_ in enumerate(ids, 1)]))
    store.close()
    return folder


def test_show_tells_what_it_took_over_from(kb: Command) -> None:
    code, said, _ = kb("show", "T1059.001")
    assert code == 0
    assert "\ntook over from (1)\n  T1086  PowerShell (revoked or deprecated)\n" in said
    _, said, _ = kb("show", "T1086")
    assert "\nreplaced by (1)\n" in said


@pytest.mark.parametrize(("asked", "count"), [("T1059.001", 5), ("T1086", 2)])
def test_findings_of_what_it_took_over_from_count(
    kb: Command, state: Path, asked: str, count: int
) -> None:
    code, said, _ = kb("show", asked, "--state", state, "--json")
    assert (code, json.loads(said)["findings"]["count"]) == (0, count)


def test_rows_that_say_the_same_are_one(kb: Command) -> None:
    code, said, _ = kb("show", "T1059.001")
    assert code == 0
    assert "\nin the tactics (1)\n  TA0002  Execution (says T1086)\n" in said
    assert "\nrules that watch for it (1)\n" in said
    assert "It is run (by Other rules, Rules)" in said
    # Another text is another row.
    assert "\nused by software (2)\n" in said
    assert "\nseen in attacks (2)\n" in said
    assert said.count("It runs scripts.") == 1
    _, raw, _ = kb("show", "T1059.001", "--json")
    tactics = [n for n in json.loads(raw)["neighbours"] if n["section"] == "in the tactics"]
    assert [n["says"] for n in tactics] == [[], ["T1086"]]


def test_hostile_id_is_cleaned_once(kb: Command) -> None:
    code, said, complaint = kb("show", "x\x1b[2J\nappliance: forged")
    assert (code, said) == (1, "")
    assert "has no 'x\\x1b[2J\\x0aappliance: forged'" in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize("asked", ["", " \t\n"])
def test_empty_id_is_called_so(kb: Command, asked: str) -> None:
    code, said, complaint = kb("show", asked)
    assert (code, said) == (1, "")
    assert complaint == "appliance: kb show: the knowledge base has no entry under an empty id\n"


@pytest.mark.parametrize("words", [("",), (" \t\n",), ("", "--json"), ("", "--type", "rule")])
def test_search_for_nothing_is_a_usage_error(kb: Command, words: tuple[str, ...]) -> None:
    code, said, complaint = kb("search", *words)
    assert (code, said) == (2, "")
    assert "the text to search for is empty" in complaint


@pytest.mark.parametrize("with_encoder", [True, False])
def test_filter_that_no_entry_fits_is_named(
    kb: Command, monkeypatch: pytest.MonkeyPatch, *, with_encoder: bool
) -> None:
    def fail(configured: str = "") -> Path:
        raise ModelError("no encoder is built")

    if not with_encoder:
        monkeypatch.setattr(knowledge, "need_encoder", fail)
    code, said, complaint = kb("search", "scripts", "--platform", "Ami\x1bga", "--json")
    assert (code, json.loads(said)) == (1, [])
    assert "nothing found for 'scripts': no entry fits --platform 'Ami\\x1bga'\n" in complaint
    code, _, complaint = kb("search", "scripts", "--tactic", "TA0099", "--platform", "Linux")
    assert code == 1
    assert "no entry fits --tactic 'TA0099'" in complaint
    assert "--platform" not in complaint
    # What is named by its id is found all the same, and the filter is told.
    code, said, complaint = kb("search", "T1059.001", "--platform", "Amiga", "--json")
    assert (code, [row["id"] for row in json.loads(said)]) == (0, ["T1059.001"])
    assert "kb search: no entry fits --platform 'Amiga'\n" in complaint
    _, _, complaint = kb("search", "T1059.001", "--platform", "Linux", "--tactic", "execution")
    assert "no entry fits" not in complaint
