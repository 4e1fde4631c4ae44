"""The knowledge base: what is in it, what is found, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import ModelError, ModelUnavailable
from appliance.inference.client import EncoderClient
from appliance.knowledge.attack import (
    ATTACK_FILES,
    Attack,
    Passages,
    clean_text,
    find_attack_data,
    read_attack,
)
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import encode_passages, write_base
from appliance.knowledge.entries import EntryType, KnowledgeEntry, SearchResult
from appliance.knowledge.search import search_text
from tests.fixtures_models import ensure_models

DIMS = 8


class LetterEncoder:
    """Counts letters: a small deterministic encoder for tests that need no meaning."""

    model_hash = "ab" * 32
    dims = DIMS

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.ones((len(texts), DIMS), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text.lower():
                row[ord(letter) % DIMS] += 1
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def make_entry(external_id: str, title: str, **changes: object) -> KnowledgeEntry:
    entry = KnowledgeEntry(
        id=external_id,
        external_id=external_id,
        type="technique",
        title=title,
        text=f"About {title}.",
        source="test",
        version="1",
        licence="none",
        tactics=("execution",),
        platforms=("Linux",),
        url=f"https://example.org/{external_id}",
    )
    return msgspec.structs.replace(entry, **changes)


def make_attack() -> Attack:
    entries = (
        make_entry("T0001", "aaaa"),
        make_entry("T0002", "bbbb"),
        make_entry("T0003", "cccc", revoked=True, revoked_by="T0002"),
        make_entry("T0004", "dddd", deprecated=True),
    )
    passages = {
        "T0001": Passages("aaaa", ("aaaa a",), ()),
        "T0002": Passages("bbbb", (), ("bb", "bbb")),
    }
    return Attack(entries, passages, {"file": "00"})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A base of four entries, two of them searchable."""
    write_base(tmp_path / "base", make_attack(), LetterEncoder(), lambda step: None)
    return tmp_path / "base"


@pytest.fixture(scope="module")
def client() -> Iterator[EncoderClient]:
    encoder = EncoderClient(ensure_models() / "models" / "encoder" / "encoder.gguf")
    encoder.start()
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def base(client: EncoderClient) -> KnowledgeBase:
    return KnowledgeBase.open(ensure_models() / "knowledge", client.model_hash)


# --- ATT&CK as read -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attack() -> Attack:
    ensure_models()
    return read_attack(find_attack_data())


def test_attack_is_read_whole(attack: Attack) -> None:
    assert len(attack.entries) == 835
    assert len(attack.passages) == 691
    gone = [entry for entry in attack.entries if entry.revoked or entry.deprecated]
    assert len(gone) == 144
    assert not {entry.id for entry in gone} & set(attack.passages)


def test_sub_technique_carries_its_parents_name(attack: Attack) -> None:
    entries = {entry.id: entry for entry in attack.entries}
    assert entries["T1059.001"].title == "Command and Scripting Interpreter: PowerShell"
    assert entries["T1059"].title == "Command and Scripting Interpreter"
    assert entries["T1059.001"].tactics == ("execution",)
    assert entries["T1059.001"].version == "18.1"


def test_revoked_technique_names_its_successor(attack: Attack) -> None:
    entries = {entry.id: entry for entry in attack.entries}
    assert entries["T1086"].revoked
    assert entries["T1086"].revoked_by == "T1059.001"


def test_texts_carry_no_markup(attack: Attack) -> None:
    texts = [entry.text for entry in attack.entries]
    texts += [text for words in attack.passages.values() for text in words.procedures]
    assert texts
    marks = ("(Citation", "(Cit...", "](http", "<code", "</co", "\n")
    assert not [text for text in texts if any(mark in text for mark in marks)]


def test_markup_is_removed_even_when_cut_off() -> None:
    raw = "Uses [PowerShell](https://x/y) and <code>cmd</code>.(Citation: A B)\n\n[Net](https://a.b/c..."
    assert clean_text(raw) == "Uses PowerShell and cmd. Net"
    assert clean_text("It does.(Citatio...") == "It does...."
    assert clean_text("It runs <code>cmd</co...") == "It runs cmd..."
    assert clean_text("Like [Power...") == "Like Power..."


def test_attack_files_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    ensure_models()
    for name in ATTACK_FILES:
        shutil.copy(find_attack_data() / name, tmp_path / name)
    assert len(read_attack(tmp_path).entries) == 835
    with (tmp_path / sorted(ATTACK_FILES)[0]).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ModelError, match="SHA-256"):
        read_attack(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_attack(tmp_path / "none")


# --- build and open -------------------------------------------------------------------------


def test_build_is_the_same_every_time(small: Path, tmp_path: Path) -> None:
    write_base(tmp_path / "again", make_attack(), LetterEncoder(), lambda step: None)
    for name in ("entries.jsonl", "vectors.faiss", "manifest.json"):
        assert (small / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_build_replaces_an_older_base_and_leaves_nothing_beside_it(small: Path) -> None:
    (small / "stray").write_text("old")
    write_base(small, make_attack(), LetterEncoder(), lambda step: None)
    assert sorted(path.name for path in small.iterdir()) == [
        "entries.jsonl",
        "manifest.json",
        "vectors.faiss",
    ]
    assert [path.name for path in small.parent.iterdir()] == ["base"]


def test_failing_encoder_leaves_the_older_base(small: Path) -> None:
    class DeadEncoder(LetterEncoder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            raise ModelUnavailable("dead")

    before = (small / "manifest.json").read_bytes()
    with pytest.raises(ModelUnavailable):
        write_base(small, make_attack(), DeadEncoder(), lambda step: None)
    assert (small / "manifest.json").read_bytes() == before
    KnowledgeBase.open(small, LetterEncoder.model_hash)


def test_base_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="empty"):
        write_base(tmp_path / "b", Attack((), {}, {}), LetterEncoder(), lambda step: None)


def test_vector_is_the_unit_mean_of_its_kinds_of_passages() -> None:
    encoder = LetterEncoder()
    words = Passages("lead", ("one", "two"), ("three",))
    (vector,) = encode_passages([words], encoder, lambda step: None)

    def unit(row: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = row / np.linalg.norm(row)
        return scaled

    lead, one, two, three = encoder.embed(["lead", "one", "two", "three"])
    expected = unit(lead + unit((one + two) / 2) + three)
    np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_small_base_answers_by_id_and_by_nearness(small: Path) -> None:
    opened = KnowledgeBase.open(small, LetterEncoder.model_hash)
    vector = LetterEncoder().embed(["bbbbb"])[0]
    hits = opened.search(vector, 10)
    assert [hit.entry.id for hit in hits] == ["T0002", "T0001"]
    assert hits[0].score > hits[1].score
    assert [hit.entry.id for hit in opened.search(vector, 1, "technique")] == ["T0002"]
    assert opened.search(vector, 0) == []
    assert opened.search(vector, -1) == []
    known = [opened.technique(f"T000{number}") for number in range(1, 6)]
    assert [entry.title if entry else None for entry in known] == [
        "aaaa",
        "bbbb",
        "cccc",
        "dddd",
        None,
    ]
    info = opened.info()
    assert (info.types, info.manifest.entries, info.manifest.vectors) == ({"technique": 2}, 4, 2)
    assert info.hash == opened.hash


def test_type_that_the_base_does_not_hold_finds_nothing(small: Path) -> None:
    opened = KnowledgeBase.open(small, LetterEncoder.model_hash)
    other: EntryType = "software"  # type: ignore[assignment]
    assert opened.search(LetterEncoder().embed(["a"])[0], 5, other) == []


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros((1, DIMS), np.float32),
        np.zeros(DIMS + 1, np.float32),
        np.full(DIMS, np.nan, np.float32),
        np.full(DIMS, np.inf, np.float32),
    ],
    ids=["two axes", "too long", "nan", "inf"],
)
def test_vector_of_another_shape_is_refused(small: Path, vector: NDArray[np.float32]) -> None:
    opened = KnowledgeBase.open(small, LetterEncoder.model_hash)
    with pytest.raises(ModelError, match="finite numbers"):
        opened.search(vector, 1)


def test_base_made_with_another_encoder_is_refused(small: Path) -> None:
    with pytest.raises(ModelError, match="build the base again"):
        KnowledgeBase.open(small, "cd" * 32)


@pytest.mark.parametrize("name", ["entries.jsonl", "vectors.faiss"])
def test_damaged_file_is_refused(small: Path, name: str) -> None:
    raw = bytearray((small / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (small / name).write_bytes(raw)
    with pytest.raises(ModelError, match=f"{name}: SHA-256"):
        KnowledgeBase.open(small, LetterEncoder.model_hash)


@pytest.mark.parametrize("name", ["entries.jsonl", "vectors.faiss", "manifest.json"])
def test_missing_file_is_refused(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        KnowledgeBase.open(small, LetterEncoder.model_hash)


def _change_manifest(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "manifest.json").write_bytes(b"{"), "not a manifest"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "not a manifest"),
        (_change_manifest(lambda manifest: manifest.update(extra=1)), "not a manifest"),
        (_change_manifest(lambda manifest: manifest.update(format=2)), "not a manifest"),
        (_change_manifest(lambda manifest: manifest.update(files={})), "pins"),
        (_change_manifest(lambda manifest: manifest.update(entries=3)), "do not fit"),
        (_change_manifest(lambda manifest: manifest.update(vectors=9)), "do not fit"),
        (_change_manifest(lambda manifest: manifest.update(dims=9)), "do not fit"),
    ],
)
def test_manifest_that_does_not_fit_is_refused(
    small: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(small)
    with pytest.raises(ModelError, match=said):
        KnowledgeBase.open(small, LetterEncoder.model_hash)


def test_pinned_content_that_is_no_index_or_entries_is_refused(small: Path) -> None:
    import hashlib

    for name, content, said in (
        ("vectors.faiss", b"not an index", "not a faiss index"),
        ("entries.jsonl", b'{"id":1}\n', "not entries"),
    ):
        (small / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()

        def pin(manifest: dict[str, object], name: str = name, digest: str = digest) -> None:
            files = manifest["files"]
            assert isinstance(files, dict)
            files[name] = digest

        _change_manifest(pin)(small)
        with pytest.raises(ModelError, match=said):
            KnowledgeBase.open(small, LetterEncoder.model_hash)


def test_importing_the_package_does_not_load_faiss() -> None:
    code = (
        "import sys, appliance.knowledge.base, appliance.knowledge.build, "
        "appliance.knowledge.search; sys.exit('faiss' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- search, with the real encoder ----------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("encoded powershell command", "T1059.001"),
        ("dump lsass memory", "T1003.001"),
        ("delete volume shadow copies", "T1490"),
        ("clear windows event logs", "T1070.001"),
        ("persistence with a scheduled task", "T1053.005"),
        ("web shell on a server", "T1505.003"),
        ("guess ssh passwords", "T1110.001"),
        ("kerberoasting service tickets", "T1558.003"),
        ("cron job", "T1053.003"),
        ("data hidden in dns queries", "T1071.004"),
    ],
)
def test_search_finds_what_is_meant(
    base: KnowledgeBase, client: EncoderClient, query: str, wanted: str
) -> None:
    results = search_text(base, client.embed, query, 5)
    assert len(results) == 5
    assert wanted in [result.external_id for result in results]
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)


def test_id_in_the_query_comes_first(base: KnowledgeBase, client: EncoderClient) -> None:
    first, second, *rest = search_text(base, client.embed, "is t1059.001 like T1003?", 5)
    assert (first.external_id, first.score) == ("T1059.001", 1.0)
    assert (second.external_id, second.score) == ("T1003", 1.0)
    assert len(rest) == 3
    assert len({first.id, second.id, *(result.id for result in rest)}) == 5


def test_id_alone_finds_its_neighbours_too(base: KnowledgeBase, client: EncoderClient) -> None:
    results = search_text(base, client.embed, "T1003.001", 5)
    assert [result.external_id for result in results[:2]] == ["T1003.001", "T1003"]


def test_revoked_technique_is_found_by_id_only(base: KnowledgeBase, client: EncoderClient) -> None:
    by_id = search_text(base, client.embed, "T1086", 3)
    assert by_id[0].external_id == "T1086"
    by_text = search_text(base, client.embed, "PowerShell", 50)
    assert "T1086" not in [result.external_id for result in by_text]


def test_id_that_nobody_knows_is_only_text(base: KnowledgeBase, client: EncoderClient) -> None:
    results = search_text(base, client.embed, "T9999.999 lsass", 3)
    assert len(results) == 3
    assert all(result.score < 1.0 for result in results)


def test_result_is_the_object_of_the_contract(base: KnowledgeBase, client: EncoderClient) -> None:
    (result,) = search_text(base, client.embed, "T1059.001", 1)
    assert msgspec.to_builtins(result) == {
        "id": "T1059.001",
        "external_id": "T1059.001",
        "type": "technique",
        "title": "Command and Scripting Interpreter: PowerShell",
        "score": 1.0,
        "source": "MITRE ATT&CK Enterprise",
        "version": "18.1",
    }
    assert isinstance(result, SearchResult)


@pytest.mark.parametrize("query", ["", "\0", "\ud800", "x" * 100_000, "T1059.001 " * 10_000])
def test_hostile_query_gets_an_answer(
    base: KnowledgeBase, client: EncoderClient, query: str
) -> None:
    results = search_text(base, client.embed, query, 3, "technique")
    assert len(results) == 3
    assert all(np.isfinite(result.score) for result in results)


def test_search_without_the_model_says_so(base: KnowledgeBase) -> None:
    def fail(texts: Sequence[str]) -> NDArray[np.float32]:
        raise ModelUnavailable("down")

    with pytest.raises(ModelUnavailable):
        search_text(base, fail, "lsass", 3)
    assert search_text(base, fail, "lsass", 0) == []
