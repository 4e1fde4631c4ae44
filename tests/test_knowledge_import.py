"""Import into the knowledge base: what it reports, what it replaces, and being killed meanwhile."""

import os
import random
import signal
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from appliance.errors import ModelError, ModelUnavailable
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.entries import Dropped, Indicator, Item, KnowledgeEntry, Link
from appliance.knowledge.generation import MANIFEST_FILE
from appliance.knowledge.imports import ImportReport, SourceReport, import_paths
from tests.knowledge_samples import (
    DeadEncoder,
    LetterEncoder,
    build_sample,
    make_entry,
    make_items,
    make_note,
    read_from,
    say_nothing,
)

#: Random kills of an import: 20 take a few seconds.
KILLS = int(os.environ.get("KB_KILLS", "20"))

NOTES: list[Item] = [make_note("one", "First."), make_note("two", "Second.")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base of the sample."""
    build_sample(tmp_path / "base")
    return tmp_path / "base"


def bring(
    folder: Path,
    items: Sequence[Item],
    encoder: LetterEncoder | None = None,
    paths: Sequence[Path] = (),
) -> ImportReport:
    """Import these items, as if they were read from the paths, by default from a folder."""
    stick = folder.parent / "stick"
    stick.mkdir(exist_ok=True)
    paths = paths or [stick]
    return import_paths(
        folder, paths, encoder or LetterEncoder(), say_nothing, read=read_from(items), now=5.0
    )


def open_base(folder: Path) -> KnowledgeBase:
    return KnowledgeBase.open(folder, LetterEncoder.model_hash)


def only(report: ImportReport) -> SourceReport:
    (source,) = report.sources
    return source


def count(report: ImportReport) -> tuple[int, int, int, int]:
    source = only(report)
    return source.new, source.changed, source.unchanged, source.gone


def text_of(folder: Path, id: str) -> str | None:  # noqa: A002
    entry = open_base(folder).entry(id)
    return None if entry is None else entry.text


# --- what is reported, what is replaced -----------------------------------------------------


def test_import_adds_and_encodes_only_what_is_new(folder: Path) -> None:
    encoder = LetterEncoder()
    report = bring(folder, NOTES, encoder)
    assert report.changed
    assert count(report) == (2, 0, 0, 0)
    assert only(report).new_ids == ("note:one", "note:two")
    assert encoder.texts == ["Note one. First.", "Note two. Second."]
    assert (report.encoded, report.reused, report.entries) == (2, 8, 10)
    assert text_of(folder, "note:one") == "First."
    assert text_of(folder, "T0001") == "About aaaa."
    source = next(s for s in open_base(folder).info().manifest.sources if s.name == "Notes")
    assert (source.kind, source.entries, source.read_at) == ("imported", 2, 5.0)


def test_import_repeated_changes_nothing(folder: Path) -> None:
    bring(folder, NOTES)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    encoder = LetterEncoder()
    report = import_paths(
        folder, [Path("x")], encoder, say_nothing, read=read_from(NOTES[::-1]), now=99.0
    )
    assert not report.changed
    assert count(report) == (0, 0, 2, 0)
    assert encoder.texts == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_import_again_replaces_what_the_source_brought(folder: Path) -> None:
    one, two = make_note("one", "First."), make_note("two", "Second.")
    link = Link("note:one", "about", "T0001", "Notes")
    bad = Indicator("domain", "evil.test", "Notes")
    bring(folder, [one, two, link, bad])
    assert len(open_base(folder).links("T0001")) == 2
    encoder = LetterEncoder()
    three = make_note("three", "Third.")
    worse = Indicator("domain", "worse.test", "Notes")
    report = bring(folder, [msgspec.structs.replace(two, text="New."), three, worse], encoder)
    assert count(report) == (1, 1, 0, 1)
    source = only(report)
    assert (source.new_ids, source.changed_ids, source.gone_ids) == (
        ("note:three",),
        ("note:two",),
        ("note:one",),
    )
    assert (source.links_new, source.links_gone) == (0, 1)
    assert (source.indicators, source.indicators_new, source.indicators_gone) == (1, 1, 1)
    assert sorted(encoder.texts) == ["Note three. Third.", "Note two. New."]
    opened = open_base(folder)
    assert opened.entry("note:one") is None
    assert len(opened.links("T0001")) == 1
    assert [indicator.value for indicator in opened.indicators()] == ["ab" * 32, "worse.test"]


def test_sources_do_not_touch_one_another(folder: Path) -> None:
    bring(folder, [make_note("one", "First.")])
    bring(folder, [make_note("two", "Second.", source="Other notes")])
    assert text_of(folder, "note:one") == "First."
    report = bring(folder, [make_note("three", "Third.", source="Other notes")])
    assert only(report).gone_ids == ("note:two",)
    assert text_of(folder, "note:one") == "First."


def test_one_file_of_a_tree_takes_nothing_away(folder: Path, tmp_path: Path) -> None:
    tree, single = tmp_path / "tree", tmp_path / "single.md"
    tree.mkdir()
    single.write_text("x")
    one, two, three, new = (
        make_note(name, text, source="Site notes")
        for name, text in (
            ("one", "First."), ("two", "Second."), ("three", "Third."), ("one", "New."),
        )
    )  # fmt: skip
    bring(folder, [one, two], paths=[tree])
    more = bring(folder, [three, new], paths=[single])
    assert count(more) == (1, 1, 1, 0)
    assert text_of(folder, "note:two") == "Second."
    whole = bring(folder, [three], paths=[tree])
    assert count(whole) == (0, 0, 1, 2)


def test_catalogue_with_a_file_for_each_entry_only_grows(folder: Path, tmp_path: Path) -> None:
    def cve(number: int, text: str = "A hole.") -> KnowledgeEntry:
        name = f"CVE-2024-{number:04d}"
        return make_entry(name, name, type="vulnerability", source="CVE", text=text, tactics=())

    bring(folder, [cve(1), Link(cve(1).id, "affects", "software:a/b", "CVE", "< 2")])
    report = bring(folder, [cve(2)], paths=[tmp_path])
    assert count(report) == (1, 0, 1, 0)
    assert [link.text for link in open_base(folder).links("CVE-2024-0001")] == ["< 2"]
    bring(
        folder, [cve(1, "A bigger hole."), Link(cve(1).id, "affects", "software:a/b", "CVE", "< 3")]
    )
    assert text_of(folder, "cve-2024-0001") == "A bigger hole."
    assert [link.text for link in open_base(folder).links("CVE-2024-0001")] == ["< 3"]


# --- whole folders, single files, and what could not be read ---------------------------------


LOLBAS = (
    "Name: {0}.exe\nDescription: Runs things.\nCommands:\n  - Command: {0}.exe /x\n"
    "    Description: Runs it.\n    MitreID: T1218\n"
)


def put(path: Path, text: str | bytes) -> Path:
    """The path, which holds this now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def bring_files(folder: Path, *paths: Path) -> dict[str, SourceReport]:
    """Import what really lies there: by the name of the source what became of it."""
    report = import_paths(folder, paths, LetterEncoder(), say_nothing)
    return {source.name: source for source in report.sources}


def files_of(folder: Path, name: str) -> set[str]:
    sources = open_base(folder).info().manifest.sources
    return set(next(source.files for source in sources if source.name == name))


def test_list_brought_beside_a_folder_is_replaced_later(folder: Path, tmp_path: Path) -> None:
    table = put(tmp_path / "p.csv", "indicator\nevil.test\nworse.test\n")
    put(tmp_path / "notes/a.md", "# One\n\nFirst.\n")
    bring_files(folder, table, tmp_path / "notes")
    assert files_of(folder, "CSV: p.csv") == {"p.csv"}
    assert files_of(folder, "Site notes: notes") == {"notes"}
    put(table, "indicator\nevil.test\n")
    assert bring_files(folder, table)["CSV: p.csv"].indicators_gone == 1


def test_catalogue_brought_as_a_folder_is_replaced_by_its_file(
    folder: Path, tmp_path: Path
) -> None:
    def write(*names: str) -> str:
        rows = (
            f'{{"cveID": "{name}", "vendorProject": "V", "product": "P", "vulnerabilityName": "N",'
            f' "dateAdded": "2024-01-02", "shortDescription": "S"}}'
            for name in names
        )
        return f'{{"catalogVersion": "1", "vulnerabilities": [{", ".join(rows)}]}}'

    put(tmp_path / "kev/known.json", write("CVE-2024-0001", "CVE-2024-0002"))
    bring_files(folder, tmp_path / "kev")
    single = put(tmp_path / "known.json", write("CVE-2024-0001"))
    source = bring_files(folder, single)["CISA KEV"]
    assert (source.unchanged, source.gone) == (1, 1)


def test_single_files_of_a_tree_only_add_however_many(folder: Path, tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path / f"lolbas/{name}.yml", LOLBAS.format(name))
    assert bring_files(folder, tmp_path / "lolbas")["LOLBAS"].new == 4
    one, two = (put(tmp_path / f"{name}.yml", LOLBAS.format(name)) for name in "ae")
    source = bring_files(folder, one, two)["LOLBAS"]
    assert (source.new, source.unchanged, source.gone) == (1, 3 + 1, 0)
    assert source.left_out == ()
    assert files_of(folder, "LOLBAS") == {"lolbas", "a.yml", "e.yml"}
    with zipfile.ZipFile(tmp_path / "lolbas.zip", "w") as archive:
        archive.write(one, "LOLBAS/a.yml")
    source = bring_files(folder, tmp_path / "lolbas.zip")["LOLBAS"]
    assert (source.unchanged, source.gone) == (1, 4)


@pytest.mark.parametrize(
    "broken", [b"\0" * 40, b"", b"Name: b\nCommands: [\n : :\n"], ids=["NULs", "empty", "YAML"]
)
def test_unreadable_file_of_a_folder_takes_nothing_away(
    folder: Path, tmp_path: Path, broken: bytes
) -> None:
    tree = tmp_path / "lolbas"
    for each in "abc":
        put(tree / f"{each}.yml", LOLBAS.format(each))
    bring_files(folder, tree)
    put(tree / "b.yml", broken)
    (tree / "c.yml").unlink()
    source = bring_files(folder, tree)["LOLBAS"]
    assert (source.unchanged, source.gone) == (3, 0)
    assert source.left_out[0] == Dropped(
        "lolbas", "nothing is taken away, because 1 file could not be read: b.yml"
    )
    put(tree / "b.yml", LOLBAS.format("b"))
    source = bring_files(folder, tree)["LOLBAS"]
    assert (source.unchanged, source.gone, source.left_out) == (2, 1, ())


def test_file_that_cannot_be_read_of_one_path_leaves_the_others_whole(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"notes/{name}.md", f"# {name}\n\nText.\n")
        put(tmp_path / f"lolbas/{name}.yml", LOLBAS.format(name))
    bring_files(folder, tmp_path / "notes", tmp_path / "lolbas")
    put(tmp_path / "notes/b.md", b"\0")
    (tmp_path / "lolbas/b.yml").unlink()
    sources = bring_files(folder, tmp_path / "notes", tmp_path / "lolbas")
    assert (sources["Site notes: notes"].gone, sources["LOLBAS"].gone) == (0, 1)


def test_files_of_no_format_do_not_keep_what_is_gone(folder: Path, tmp_path: Path) -> None:
    tree = tmp_path / "lolbas"
    for name in "ab":
        put(tree / f"{name}.yml", LOLBAS.format(name))
    put(tree / "LICENSE", "Do as you like.\n")
    put(tree / "README.md", "# LOLBAS\n")
    put(tree / "schema.json", '{"title": "a schema"}')
    put(tree / "logo.PNG", b"\x89PNG\r\n\x1a\n\0\0")
    bring_files(folder, tree)
    (tree / "b.yml").unlink()
    assert bring_files(folder, tree)["LOLBAS"].gone == 1


def test_same_entry_in_two_forms_is_not_left_out(folder: Path) -> None:
    one = make_note("one", "First.", version="2024-01-02", modified="2024-01-01")
    again = msgspec.structs.replace(one, version="2024.01.02")
    for items in ([one, again], [again, one], [one, again, one]):
        assert only(bring(folder, items)).left_out == ()
    older, newer = (make_note("two", "Same.", version=version) for version in "12")
    for items in ([older, newer], [newer, older]):
        assert only(bring(folder, items)).left_out == ()
        entry = open_base(folder).entry("note:two")
        assert entry is not None and entry.version == "2"
    source = only(bring(folder, [one, again, msgspec.structs.replace(one, text="Other.")]))
    assert "note:one: given twice" in source.left_out[0].reason
    assert text_of(folder, "note:one") == "Other."


# --- several sources ------------------------------------------------------------------------


def test_newer_of_two_sources_is_shown_and_the_other_comes_back(folder: Path) -> None:
    newer = make_entry("T0001", "aaaa", text="Whole text.", version="2", source="Test ATT&CK")
    older = make_entry("T0002", "bbbb", text="Old text.", version="0.9", source="Test ATT&CK")
    report = bring(folder, [newer, older])
    assert count(report) == (2, 0, 0, 0)
    assert (only(report).older, only(report).older_ids) == (1, ("T0002",))
    assert text_of(folder, "T0001") == "Whole text."
    assert text_of(folder, "T0002") == "About bbbb."
    texts = [entry.text for entry in open_base(folder).versions("T0001")]
    assert texts == ["Whole text.", "About aaaa."]
    bring(folder, [older])
    assert text_of(folder, "T0001") == "About aaaa."


@pytest.mark.parametrize(
    ("mine", "theirs", "shown"),
    [
        ({"modified": "2024-01-02"}, {"modified": "2024-01-01"}, "mine"),
        ({"modified": "2024-01-01"}, {"modified": "2024-01-02"}, "theirs"),
        ({"version": "10.1"}, {"version": "9.2"}, "mine"),
        ({"version": "9.2"}, {"version": "10.1"}, "theirs"),
        ({"version": "?"}, {"version": "10.1"}, "mine"),
        ({"version": "1", "source": "Another"}, {"version": "2"}, "mine"),
    ],
)
def test_which_source_is_newer(
    tmp_path: Path, mine: dict[str, object], theirs: dict[str, object], shown: str
) -> None:
    build_sample(tmp_path, [make_entry("T0001", "a", text="theirs", **theirs)])
    bring(tmp_path, [make_entry("T0001", "a", text="mine", **mine)])
    assert text_of(tmp_path, "T0001") == shown


def test_same_link_of_two_releases_is_shown_once(folder: Path) -> None:
    whole = Link("G0001", "uses", "T0003", "Test ATT&CK", "Blue Badger hid qqqq, and more.")
    bring(folder, [make_items()[4], whole])
    assert [link.text for link in open_base(folder).links("G0001")] == [whole.text]


def test_what_another_source_says_of_the_same_thing_is_found(folder: Path) -> None:
    bring(folder, [make_entry("CVE-2024-0001", "Hole", type="vulnerability", text="wwww")])
    bring(
        folder,
        [make_entry("CVE-2024-0001", "Hole", type="vulnerability", text="vvvv", source="KEV")],
    )
    for word in ("wwww", "vvvv"):
        (hit,) = open_base(folder).search_words(word, 3)
        assert hit.entry.id == "CVE-2024-0001"


def test_unknown_attack_ids_are_named_and_their_links_kept(folder: Path) -> None:
    rule = make_entry("sigma:1", "A rule", type="rule", source="Rules", tactics=())
    links = [
        Link("sigma:1", "watches", target, "Rules")
        for target in ("T0001", "T9999", "G9999", "T1685", "car:1")
    ]
    report = bring(folder, [rule, *links, Indicator("domain", "a.test", "Rules", links=("T9999",))])
    assert [(unknown.id, unknown.links) for unknown in report.unknown] == [
        ("T9999", 2),
        ("G9999", 1),
        ("T1685", 1),
    ]
    assert report.unknown_ids == 3
    assert [link.source for link in open_base(folder).links("T9999")] == ["sigma:1"]
    disabled = make_entry("T1562.001", "Disable tools", source="More ATT&CK")
    later = bring(folder, [disabled])
    assert later.unknown == ()
    assert [link.target for link in open_base(folder).links("T1562.001")] == ["T1685"]


# --- what is left out, what is refused ------------------------------------------------------


def test_left_out_things_are_counted_with_their_reasons(folder: Path) -> None:
    items: list[Item] = [
        *NOTES,
        *(Dropped(f"line {number}", "is broken") for number in range(30)),
        make_note("bad", "x\x1b[31m"),
        make_note("long", "x" * 8001),
        make_entry("G0001", "x", type="note", source="Notes"),
        make_note("lone", "\ud800"),
        Link("", "about", "T0001", "Notes"),
        Indicator("domain", "a\nb", "Notes"),
        Indicator("domain", "a.test", "Notes", valid_from=float("nan")),
    ]
    source = only(bring(folder, items))
    assert (source.new, source.dropped, len(source.left_out)) == (2, 37, 20)
    assert source.left_out[0] == Dropped("line 0", "is broken")
    reasons = [left.reason for left in only(bring(folder, items[:2] + items[32:])).left_out]
    assert len(reasons) == 7
    for words in ("control characters", "over 8000", "is a group by Test ATT&CK", "not a time"):
        assert any(words in reason for reason in reasons), (words, reasons)
    assert all(reason.isprintable() for reason in reasons)


def test_id_given_twice_is_told(folder: Path) -> None:
    source = only(bring(folder, [*NOTES, make_note("one", "Other."), make_note("two", "Second.")]))
    assert (source.new, source.dropped) == (2, 1)
    assert "note:one: given twice" in source.left_out[0].reason
    assert text_of(folder, "note:one") == "Other."


def test_files_that_brought_nothing_are_told_apart(folder: Path) -> None:
    def read(path: Path):  # type: ignore[no-untyped-def]
        yield "notes.md", NOTES[0]
        yield "photo.jpg", Dropped("photo.jpg", "nobody knows this format")

    report = import_paths(folder, [Path("s")], LetterEncoder(), say_nothing, read=read)
    assert only(report).dropped == 0
    assert (report.dropped, report.left_out) == (
        1,
        (Dropped("photo.jpg", "nobody knows this format"),),
    )


def refuse(path: Path):  # type: ignore[no-untyped-def]
    yield "a", NOTES[0]
    raise ModelError(f"{path}: is no bundle")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: bring(f, [Dropped("x.bin", "nobody knows it")]), "nothing to import.*x.bin"),
        (lambda f: bring(f, []), "nothing to import"),
        (lambda f: bring(f, NOTES, DeadEncoder()), "encoder is down"),
        (
            lambda f: import_paths(f, [Path("b")], LetterEncoder(), say_nothing, read=refuse),
            "b: is no bundle",
        ),
    ],
)
def test_refused_import_leaves_the_base(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((ModelError, ModelUnavailable), match=said):
        change(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_import_needs_a_sound_base_of_its_encoder(folder: Path, tmp_path: Path) -> None:
    class Other(LetterEncoder):
        model_hash = "cd" * 32

    with pytest.raises(ModelError, match="build the base again"):
        bring(folder, NOTES, Other())
    with pytest.raises(ModelError, match="kb build"):
        bring(tmp_path / "none", NOTES)
    (vectors,) = folder.glob("vectors-*")
    vectors.write_bytes(b"")
    with pytest.raises(ModelError, match=r"SHA-256.*kb build"):
        bring(folder, NOTES)


def test_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.knowledge.gathering.MAX_ENTRIES", 1)
    with pytest.raises(ModelError, match="more than a base may hold"):
        bring(folder, NOTES)


# --- being killed ---------------------------------------------------------------------------


def _fork(work: Callable[[], object]) -> int:
    """A child process that does this and ends."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def _import_forever(folder: Path) -> None:
    for number in range(10_000):
        bring(folder, [make_note(name, f"Text {number}.") for name in ("one", "two")])


def _check_whole(folder: Path) -> str | None:
    """The base opens, and is one generation from end to end."""
    opened = open_base(folder)
    one, two = opened.entry("note:one"), opened.entry("note:two")
    assert (one and one.text) == (two and two.text)
    assert opened.technique("T0001") is not None
    found = opened.search(LetterEncoder().embed(["Note one."])[0], 50)
    assert len(found) == 6 + 2 * (one is not None)
    assert len(opened.search_words("notes", 9)) == 2 * (one is not None)
    return one.text if one else None


def test_import_killed_at_any_moment_leaves_a_whole_base(folder: Path) -> None:
    chance = random.Random(20)
    seen = set()
    for _ in range(KILLS):
        child = _fork(lambda: _import_forever(folder))
        time.sleep(chance.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        seen.add(_check_whole(folder))
    assert len(seen) > KILLS // 4
    bring(folder, [make_note("one", "Last."), make_note("two", "Last.")])
    assert _check_whole(folder) == "Last."
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("step", range(1, 9))
def test_import_killed_at_each_step_on_the_disk_leaves_a_whole_base(
    folder: Path, step: int
) -> None:
    """Each sync and each rename is a step; the child kills itself before the chosen one."""
    bring(folder, [make_note(name, "Before.") for name in ("one", "two")])

    def work() -> None:
        steps = iter(range(1, step + 1))

        def die_at(real: Callable[..., object]) -> Callable[..., object]:
            def call(*values: object) -> object:
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*values)

            return call

        os.fsync = die_at(os.fsync)  # type: ignore[assignment]
        Path.replace = die_at(Path.replace)  # type: ignore[assignment, method-assign]
        bring(folder, [make_note(name, "After.") for name in ("one", "two")])

    child = _fork(work)
    _, status = os.waitpid(child, 0)
    # sync, rename for two files; sync file, sync folder, rename, sync folder for the manifest.
    assert os.WIFSIGNALED(status)
    assert _check_whole(folder) == ("After." if step == 8 else "Before.")
    bring(folder, [make_note(name, "Last.") for name in ("one", "two")])
    assert _check_whole(folder) == "Last."
    names = sorted(path.name for path in folder.iterdir())
    assert MANIFEST_FILE in names
    assert not [name for name in names if name.startswith(".")]
    assert len(names) == 5
