"""The knowledge base: what is in it, what is found, and what is refused."""

import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import ModelError, ModelUnavailable
from appliance.inference.client import EncoderClient
from appliance.knowledge import generation
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import OldBase, average_vectors, build_base, encode_texts, write_base
from appliance.knowledge.content import join_contributions
from appliance.knowledge.entries import Hit, SearchResult
from appliance.knowledge.generation import lock_base, read_generation
from appliance.knowledge.index import round_vectors
from appliance.knowledge.passages import PIECE_CHARS, cut_text, gather_passages
from appliance.knowledge.readers.package import read_package
from appliance.knowledge.search import answer_query, fuse_ranks, search_by_words, search_text
from tests.fixtures_models import ensure_models
from tests.knowledge_samples import (
    DIMS,
    DeadEncoder,
    LetterEncoder,
    build_sample,
    gather,
    make_entry,
    make_items,
    say_nothing,
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A base of eight entries, six of them searchable."""
    build_sample(tmp_path / "base")
    return tmp_path / "base"


def open_sample(folder: Path) -> KnowledgeBase:
    return KnowledgeBase.open(folder, LetterEncoder.model_hash)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def client() -> Iterator[EncoderClient]:
    encoder = EncoderClient(ensure_models() / "models" / "encoder" / "encoder.gguf")
    encoder.start()
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def base(client: EncoderClient) -> KnowledgeBase:
    return KnowledgeBase.open(ensure_models() / "knowledge", client.model_hash)


# --- build ----------------------------------------------------------------------------------


def test_build_is_the_same_every_time(small: Path, tmp_path: Path) -> None:
    build_sample(tmp_path / "again", list(reversed(make_items())))
    assert len(list_names(small)) == 3
    assert list_names(small) == list_names(tmp_path / "again")
    for name in list_names(small):
        assert (small / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_build_keeps_the_generation_before_and_no_older_one(small: Path) -> None:
    first = set(list_names(small))
    (small / "entries.jsonl").write_text("the first format")
    (small / "entries-000000000000.db").write_text("of a killed build")
    (small / ".fresh-entries").write_text("of a killed build")
    (small / "note.txt").write_text("not ours")
    build_sample(small, [*make_items(), make_entry("T0005", "eeee")])
    second = set(list_names(small))
    assert second > first
    assert len(second - first) == 3  # two new files and the one that is not ours
    build_sample(small, [*make_items(), make_entry("T0006", "ffff")])
    third = set(list_names(small))
    assert third & first == {"manifest.json"}
    assert second - first < third
    assert len(third) == 6


def test_process_that_has_the_base_open_goes_on(small: Path) -> None:
    opened = open_sample(small)
    for number in range(5, 9):
        build_sample(small, [*make_items(), make_entry(f"T000{number}", "x" * number)])
    assert opened.entry("T0008") is None
    assert opened.search_words("aaaa", 1)[0].entry.id == "T0001"
    fresh = open_sample(small)
    assert fresh.entry("T0008") is not None
    assert fresh.hash != opened.hash


def test_same_content_again_changes_no_file(small: Path) -> None:
    before = {path: path.stat().st_ino for path in small.iterdir() if path.suffix == ".json"}
    assert not build_sample(small).changed
    assert {path: path.stat().st_ino for path in before} == before


def test_failing_encoder_leaves_the_older_base(small: Path) -> None:
    before = (small / "manifest.json").read_bytes()
    with pytest.raises(ModelUnavailable):
        build_sample(small, encoder=DeadEncoder())
    assert (small / "manifest.json").read_bytes() == before
    open_sample(small)


@pytest.mark.parametrize("step", range(1, 6))
def test_full_disk_leaves_the_older_base_and_nothing_else(
    small: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before, first = list_names(small), read_generation(small).hash
    sync, steps = generation._sync, iter(range(1, 99))

    def fail(path: Path) -> None:
        if next(steps) == step:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(generation, "_sync", fail)
    with pytest.raises(ModelError, match="No space left"):
        build_sample(small, [*make_items(), make_entry("T0005", "eeee")])
    if step < 5:
        assert list_names(small) == before
    assert (read_generation(small).hash == first) == (step < 5)  # the fifth is after the rename
    open_sample(small)


@pytest.mark.parametrize("writer", ["write_entry_file", "write_index"])
@pytest.mark.parametrize("error", [ModelError("disk is full"), KeyboardInterrupt()], ids=repr)
def test_file_that_is_not_written_whole_is_deleted(
    small: Path, monkeypatch: pytest.MonkeyPatch, writer: str, error: BaseException
) -> None:
    def fail(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise error

    before = list_names(small)
    monkeypatch.setattr(f"appliance.knowledge.build.{writer}", fail)
    with pytest.raises(type(error)):
        build_sample(small, [*make_items(), make_entry("T0005", "eeee")])
    assert list_names(small) == before


def test_base_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="empty"):
        build_sample(tmp_path / "b", [])


def test_two_builds_at_once_are_refused(small: Path) -> None:
    with (
        lock_base(small),
        pytest.raises(ModelError, match="another build or import"),
        lock_base(small),
    ):
        pass
    with lock_base(small):
        pass


def test_only_what_changed_is_encoded(small: Path) -> None:
    encoder = LetterEncoder()
    items = [*make_items(), make_entry("T0005", "eeee")]
    with lock_base(small):
        old = OldBase.open(small, say_nothing)
        written = write_base(small, gather(items), encoder, say_nothing, old=old)
    assert encoder.texts == ["eeee. About eeee."]
    assert (written.encoded, written.reused) == (1, 8)
    build_sample(small.parent / "fresh", items)
    assert list_names(small.parent / "fresh") == sorted([*written.manifest.files, "manifest.json"])


def test_another_encoders_vectors_are_not_taken_over(small: Path) -> None:
    class Other(LetterEncoder):
        model_hash = "cd" * 32

    encoder = Other()
    with lock_base(small):
        old = OldBase.open(small, say_nothing)
        written = write_base(small, gather(make_items()), encoder, say_nothing, old=old)
    assert (written.encoded, written.reused) == (len(encoder.texts), 0)
    with pytest.raises(ModelError, match="build the base again"):
        open_sample(small)


def test_default_base_takes_imports_over_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_models()
    monkeypatch.setattr(  # a part of it, to be quick
        "appliance.knowledge.build.read_package", lambda folder: islice(read_package(folder), 3000)
    )
    imported = gather([make_entry("note:site", "ours", type="note")], "imported")
    encoder = LetterEncoder()
    with lock_base(tmp_path):
        write_base(tmp_path, imported, encoder, say_nothing)
    build_base(tmp_path, encoder, say_nothing)
    assert open_sample(tmp_path).entry("note:site") is not None
    assert open_sample(tmp_path).entry("G0016") is not None
    encoder.texts.clear()
    build_base(tmp_path, encoder, say_nothing, keep_imports=False)
    assert open_sample(tmp_path).entry("note:site") is None
    assert encoder.texts == []


def test_damaged_old_base_is_built_again(small: Path) -> None:
    for damaged in ("vectors", "entries"):
        (path,) = small.glob(f"{damaged}-*")
        path.write_bytes(path.read_bytes()[:-1])
        said: list[str] = []
        with lock_base(small):
            old = OldBase.open(small, said.append)
            assert (old is None) == (damaged == "entries")
            encoder = LetterEncoder()
            write_base(small, gather(make_items()), encoder, say_nothing, old=old)
        assert encoder.texts
        assert len(said) == 1
        open_sample(small)


def test_several_encoders_share_the_work_and_give_the_same() -> None:
    texts = [f"text {number}" for number in range(500)]
    one, two, three = LetterEncoder(), LetterEncoder(), LetterEncoder()
    ticks = iter(range(1000))
    said: list[str] = []
    shared = encode_texts(texts, [one, two], said.append, lambda: next(ticks))
    np.testing.assert_array_equal(shared, three.embed(texts))
    assert sorted(one.texts + two.texts) == sorted(texts)
    assert said[0] == "encoding 500 texts"
    assert any("a second" in line and "minutes left" in line for line in said[1:])


class SlowEncoder(LetterEncoder):
    """Takes its time for every block."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(0.01)
        return super().embed(texts)


class InterruptingEncoder(SlowEncoder):
    """Someone presses Ctrl-C while it works on its first block."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not self.texts:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return super().embed(texts)


@pytest.mark.parametrize(
    ("other", "error"),
    [(DeadEncoder, ModelUnavailable), (InterruptingEncoder, KeyboardInterrupt)],
)
def test_encoders_stop_when_one_fails_or_the_user_does_not_want_them(
    other: type[LetterEncoder], error: type[BaseException]
) -> None:
    texts = [f"text {number}" for number in range(64 * 200)]
    slow, ending = SlowEncoder(), other()
    # Who starts the tests in the background may have had SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error):
            encode_texts(texts, [slow, ending], say_nothing)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(slow.texts) + len(ending.texts) < len(texts) / 2


def test_encoder_that_gives_no_unit_vectors_is_refused() -> None:
    class Long(LetterEncoder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return super().embed(texts) * np.float32(2)

    class Short(LetterEncoder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return super().embed(texts)[1:]

    for wrong in (Long(), Short()):
        with pytest.raises(ModelError, match="the encoder"):
            encode_texts(["a", "b"], [wrong], say_nothing)


# --- passages -------------------------------------------------------------------------------


def test_passages_of_a_technique() -> None:
    content = join_contributions(gather(make_items()), {})
    passages = gather_passages(content)
    mine = [p for p in passages if content.entries[p.owner].entry.id in ("T0001", "T0002")]
    assert [(p.kind, p.text) for p in mine] == [
        ("lead", "aaaa. About aaaa."),
        ("analytic", "aaaa. zzzz zz"),
        ("mean", ""),
        ("lead", "bbbb. About bbbb."),
        # The procedure is told of the technique that this one took over from.
        ("procedure", "Blue Badger hid qqqq in certutil.exe."),
        ("mean", ""),
    ]
    owners = {content.entries[p.owner].entry.id for p in passages}
    assert owners == {"T0001", "T0002", "G0001", "DET0001", "AN0001", "TA0040"}


def test_mean_is_the_unit_mean_of_its_kinds_of_passages() -> None:
    def unit(row: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = row / np.linalg.norm(row)
        return scaled

    lead, one, two, three = LetterEncoder().embed(["lead", "one", "two", "three"])
    mean = average_vectors([lead[np.newaxis], np.stack([one, two]), three[np.newaxis]])
    np.testing.assert_allclose(mean, unit(lead + unit(one + two) + three), atol=1e-6)


def test_long_text_is_cut_between_sentences_and_none_is_lost() -> None:
    text = " ".join(f"Sentence number {number} says a thing." for number in range(200))
    pieces = cut_text(text, PIECE_CHARS)
    assert " ".join(pieces) == text
    assert all(PIECE_CHARS // 2 < len(piece) <= PIECE_CHARS for piece in pieces[:-1])
    assert all(piece.endswith(".") for piece in pieces)
    assert cut_text("x" * 2000, PIECE_CHARS) == ["x" * 900, "x" * 900, "x" * 200]
    assert cut_text("  ", 10) == []


def test_rounded_vectors_stay_what_they_are() -> None:
    vectors = LetterEncoder().embed(["some", "words"])
    once = round_vectors(vectors)
    np.testing.assert_array_equal(round_vectors(once), once)
    np.testing.assert_allclose(once, vectors, atol=1e-3)


# --- open and ask ---------------------------------------------------------------------------


def test_small_base_answers_by_id_and_by_nearness(small: Path) -> None:
    opened = open_sample(small)
    vector = LetterEncoder().embed(["bbbb. About bbbb."])[0]
    hits = opened.search(vector, 10)
    assert len(hits) == len({hit.entry.id for hit in hits}) == 6
    assert (hits[0].entry.id, round(hits[0].score, 3)) == ("T0002", 1.0)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert opened.search(vector, 1)[0] == hits[0]
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
    assert opened.technique("G0001") is None
    info = opened.info()
    assert info.types == {
        "technique": 2, "group": 1, "strategy": 1, "analytic": 1, "tactic": 1
    }  # fmt: skip
    assert (info.manifest.entries, info.manifest.vectors) == (8, 10)
    assert (info.manifest.links, info.manifest.indicators) == (3, 1)
    assert info.hash == opened.hash


def test_search_may_be_of_a_type_a_platform_and_a_tactic(small: Path) -> None:
    opened = open_sample(small)
    vector = LetterEncoder().embed(["anything"])[0]

    def found(**chosen: str) -> set[str]:
        by_vector = {hit.entry.id for hit in opened.search(vector, 9, **chosen)}  # type: ignore[arg-type]
        words = "aaaa bbbb blue badger impact about"
        by_words = {hit.entry.id for hit in opened.search_words(words, 9, **chosen)}  # type: ignore[arg-type]
        assert by_words <= by_vector
        return by_vector

    assert found(type="technique") == {"T0001", "T0002"}
    assert found(type="group") == {"G0001"}
    assert found(type="playbook") == set()
    assert found(platform="windows") == {"T0002"}
    assert found(platform="Office suite") == {"T0002"}
    assert found(type="technique", platform="Linux") == {"T0001"}
    assert found(tactic="impact") == found(tactic="TA0040") == found(tactic="Impact") == {"T0002"}
    assert found(tactic="impact", platform="Linux") == set()
    assert found(platform="\0' OR 1") == set()


@pytest.mark.parametrize(
    "asked",
    ["T0001", "t0001", "g0001", "TA0040", "an0001"],
)
def test_entry_is_found_by_its_id_in_any_case(small: Path, asked: str) -> None:
    entry = open_sample(small).entry(asked)
    assert entry is not None
    assert entry.id == asked.upper()


@pytest.mark.parametrize("asked", ["", "T9999", "aaaa", "Blue Badger", "\0", "\ud800", "x" * 10**5])
def test_what_is_no_id_has_no_entry(small: Path, asked: str) -> None:
    opened = open_sample(small)
    assert opened.entry(asked) is None
    assert opened.technique(asked) is None
    assert opened.links(asked) == []
    assert opened.neighbours(asked) == []


def test_links_are_found_from_both_ends_and_through_revocation(small: Path) -> None:
    opened = open_sample(small)
    assert [link.kind for link in opened.links("DET0001")] == ["detects", "has"]
    assert [link.source for link in opened.links("T0001")] == ["DET0001"]
    # G0001 uses T0003, which T0002 took over from.
    (uses,) = opened.links("T0002")
    assert (uses.source, uses.kind, uses.target) == ("G0001", "uses", "T0003")
    assert opened.links("T0003") == [uses]
    (group,) = opened.neighbours("T0002")
    assert (group.id, group.forward, group.entry and group.entry.title) == (
        "G0001",
        False,
        "Blue Badger",
    )
    (technique,) = opened.neighbours("g0001")
    assert (technique.id, technique.forward) == ("T0002", True)


def test_id_of_another_release_stands_for_the_entry(tmp_path: Path) -> None:
    items = make_items()
    items.append(type(items[8])("sigma:1", "watches", "T1685", "Rules"))  # type: ignore[call-arg, arg-type]
    with lock_base(tmp_path):
        write_base(
            tmp_path,
            gather(items),
            LetterEncoder(),
            say_nothing,
            renumbered={"T1685": "T0001", "T0009": "T8888"},
        )
    opened = open_sample(tmp_path)
    entry = opened.entry("t1685")
    assert entry is not None
    assert entry.id == "T0001"
    assert opened.technique("T1685") is None
    assert opened.other_ids("T0001") == ["T1685"]
    assert opened.other_ids("T0002") == []
    assert {link.source for link in opened.links("T0001")} == {"DET0001", "sigma:1"}
    assert opened.links("T1685") == opened.links("T0001")
    assert [n.entry for n in opened.neighbours("T0001") if n.id == "sigma:1"] == [None]


def test_revocations_in_a_circle_end(tmp_path: Path) -> None:
    items = [
        make_entry("T0001", "a", revoked=True, revoked_by="T0002"),
        make_entry("T0002", "b", revoked=True, revoked_by="T0001"),
        make_entry("T0003", "c"),
    ]
    build_sample(tmp_path, [*items, *make_items()[8:]])
    assert len(open_sample(tmp_path).links("T0003")) == 1


def test_indicators_are_given_back(small: Path) -> None:
    (indicator,) = open_sample(small).indicators()
    assert indicator == make_items()[-1]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("T0001", "T0001"),
        ("certutil.exe", "T0002"),
        ("CERTUTIL", "T0002"),
        ("hiding qqqq", "T0002"),
        ("apt 999", "G0001"),
        ("APT 999", "G0001"),
        ("grun", "G0001"),
        ("blue badgers", "G0001"),
        ("impact", "TA0040"),
        ("certu*", "T0002"),
    ],
)
def test_words_find(small: Path, query: str, wanted: str) -> None:
    hits = open_sample(small).search_words(query, 3)
    assert hits[0].entry.id == wanted
    assert all(np.isfinite(hit.score) for hit in hits)


@pytest.mark.parametrize(
    "query", ["", "the of", "\0", '"', "NEAR(", "a* OR", "-x", "qwxz", "T0003"]
)
def test_words_that_nothing_has_find_nothing(small: Path, query: str) -> None:
    assert open_sample(small).search_words(query, 3) == []


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
    with pytest.raises(ModelError, match="finite numbers"):
        open_sample(small).search(vector, 1)


# --- what is refused ------------------------------------------------------------------------


def test_base_made_with_another_encoder_is_refused(small: Path) -> None:
    with pytest.raises(ModelError, match="build the base again"):
        KnowledgeBase.open(small, "cd" * 32)


@pytest.mark.parametrize("kind", ["entries", "vectors"])
def test_damaged_file_is_refused(small: Path, kind: str) -> None:
    (path,) = small.glob(f"{kind}-*")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=f"{path.name}: SHA-256"):
        open_sample(small)


@pytest.mark.parametrize("pattern", ["entries-*", "vectors-*", "manifest.json"])
def test_missing_file_is_refused(small: Path, pattern: str) -> None:
    (path,) = small.glob(pattern)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        open_sample(small)


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
        (_change_manifest(lambda manifest: manifest.update(format="1")), "not a manifest"),
        (
            lambda folder: (folder / "manifest.json").write_bytes(b'{"format": 1, "model": "x"}'),
            "manifest.json: a base of an earlier format: run `appliance kb build`",
        ),
        (_change_manifest(lambda manifest: manifest.update(format=3)), "a base of a later format"),
        (_change_manifest(lambda manifest: manifest.update(files={})), "pins"),
        (
            _change_manifest(
                lambda manifest: manifest.update(
                    files={"../entries-000000000000.db": "", "vectors-000000000000.faiss": ""}
                )
            ),
            "pins",
        ),
        (_change_manifest(lambda manifest: manifest.update(vectors=9)), "do not fit"),
        (_change_manifest(lambda manifest: manifest.update(dims=9)), "do not fit"),
        (
            _change_manifest(lambda manifest: manifest.update(index={"kind": "ivf", "lists": 3})),
            "not an index of 3 lists",
        ),
    ],
)
def test_manifest_that_does_not_fit_is_refused(
    small: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(small)
    with pytest.raises(ModelError, match=said):
        open_sample(small)


def _empty_database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE facts(name, value)")
    return connection.serialize()


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("vectors", b"not an index", "not a faiss index"),
        ("entries", b"not a database", "not the entries"),
        ("entries", _empty_database(), "not the entries"),
    ],
)
def test_pinned_content_that_is_no_index_or_entries_is_refused(
    small: Path, kind: str, content: bytes, said: str
) -> None:
    (path,) = small.glob(f"{kind}-*")
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def pin(manifest: dict[str, object]) -> None:
        files = manifest["files"]
        assert isinstance(files, dict)
        files[path.name] = digest

    _change_manifest(pin)(small)
    with pytest.raises(ModelError, match=said):
        open_sample(small)


def test_importing_the_package_does_not_load_faiss() -> None:
    code = (
        "import sys, appliance.knowledge.base, appliance.knowledge.build, "
        "appliance.knowledge.imports, appliance.knowledge.search; sys.exit('faiss' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- search, without meaning ----------------------------------------------------------------


def test_fusion_prefers_what_both_lists_have() -> None:
    hits = {name: Hit(make_entry(name, name), 0.5) for name in "abcd"}
    fused = fuse_ranks([[hits["a"], hits["b"], hits["c"]], [hits["d"], hits["c"]]])
    assert [entry.id for entry in fused] == ["c", "a", "d", "b"]
    assert fuse_ranks([]) == []


def test_score_of_what_only_words_found_is_its_cosine(small: Path) -> None:
    opened, encoder = open_sample(small), LetterEncoder()
    results = search_text(opened, encoder.embed, "qqqq hidden with certutil", 6)
    assert {result.id for result in results} >= {"T0002", "G0001"}
    near = {
        hit.entry.id: hit.score
        for hit in opened.search(encoder.embed(["qqqq hidden with certutil"])[0], 9)
    }
    for result in results:
        assert result.score == pytest.approx(near[result.id], abs=1e-5)
    assert opened.score_entries(encoder.embed(["x"])[0], ["T0003", "nobody"]) == {}


def test_ids_are_named_in_any_case_and_only_of_the_type(small: Path) -> None:
    opened, encoder = open_sample(small), LetterEncoder()
    results = search_text(opened, encoder.embed, "has g0001 used t0003, or T0001?", 9)
    assert [(r.id, r.score) for r in results[:3]] == [
        ("G0001", 1.0),
        ("T0003", 1.0),
        ("T0001", 1.0),
    ]
    assert encoder.texts == ["has Blue Badger used cccc, or aaaa?"]
    assert len({result.id for result in results}) == len(results) == 7
    techniques = search_text(opened, encoder.embed, "has g0001 used t0003?", 9, "technique")
    assert techniques[0].id == "T0003"
    assert {result.id for result in techniques[1:]} == {"T0001", "T0002"}
    assert len(search_text(opened, encoder.embed, "G0001 T0001", 1)) == 1


def test_without_the_encoder_words_answer_and_it_is_said(small: Path) -> None:
    opened = open_sample(small)
    with pytest.raises(ModelUnavailable):
        search_text(opened, DeadEncoder().embed, "badger", 3)
    answer = answer_query(opened, DeadEncoder().embed, "T0001 badger", 3)
    assert answer.missing == "the encoder is down"
    assert [(r.id, r.score) for r in answer.results] == [
        ("T0001", 1.0),
        ("G0001", 0.0),
        ("T0002", 0.0),
    ]
    assert answer.results == search_by_words(opened, "T0001 badger", 3)
    whole = answer_query(opened, LetterEncoder().embed, "T0001 badger", 3)
    assert whole.missing == ""
    assert whole.results == search_text(opened, LetterEncoder().embed, "T0001 badger", 3)


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
    assert all(0.0 < result.score <= 1.0 for result in results)


def test_id_in_the_query_comes_first(base: KnowledgeBase, client: EncoderClient) -> None:
    first, second, *rest = search_text(base, client.embed, "is t1059.001 like T1003?", 5)
    assert (first.external_id, first.score) == ("T1059.001", 1.0)
    assert (second.external_id, second.score) == ("T1003", 1.0)
    assert len(rest) == 3
    assert len({first.id, second.id, *(result.id for result in rest)}) == 5


def test_id_alone_finds_its_neighbours_too(base: KnowledgeBase, client: EncoderClient) -> None:
    results = search_text(base, client.embed, "T1003.001", 5, "technique")
    assert results[0].external_id == "T1003.001"
    assert all(result.external_id.startswith("T1003") for result in results[:3])


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
