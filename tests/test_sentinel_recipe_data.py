"""The sentinel's recipe, its data stages: templates, readers, splits, conflicts."""

import base64
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from appliance.detect.sentinel.texts import KINDS
from models.sentinel.__main__ import STAGES, is_done, main
from models.sentinel.corpus.commands import split_pipeline, write_cmd, write_shell
from models.sentinel.corpus.deeds import derive_deeds
from models.sentinel.corpus.fill import fill_arguments
from models.sentinel.corpus.logs import list_fail2ban
from models.sentinel.corpus.trees import Step, find_tree, judge_step, list_started, name_node
from models.sentinel.corpus.windows import build_detector, label_capture, read_capture
from models.sentinel.examples import (
    cap_kinds,
    enforce_splits,
    make_card,
    select_examples,
    write_card,
)
from models.sentinel.life import (
    TEMPLATES,
    Filler,
    expand_file,
    expand_traced,
    read_common,
    split_parts,
)
from models.sentinel.near import NearIndex
from models.sentinel.options import Options, Stage
from models.sentinel.rows import (
    UNSEEN_PERCENT,
    Example,
    Split,
    draw,
    find_techniques,
    is_unseen,
    read_rows,
    write_rows,
)
from models.sentinel.scrub import scrub_text
from models.sentinel.shapes import find_image, render_process, vary_program
from models.sentinel.trace import parse_trace
from tests.conftest import FindData

SEEN = next(f"T{n}" for n in range(1100, 1300) if not is_unseen([f"T{n}"]))
HELD_BACK = next(f"T{n}" for n in range(1100, 1300) if is_unseen([f"T{n}"]))


def make_row(
    text: str, label: int | None, *, split: Split = "train", source: str = "x", **more: object
) -> Example:
    row = Example(
        text=text,
        kind="process",
        label=label,
        source=source,
        group="g",
        shape="sysmon1",
        os="windows",
        split=split,
    )
    for name, value in more.items():
        setattr(row, name, value)
    return row


def fill(line: str, **slots: list[str]) -> str:
    return Filler(slots, random.Random(1)).fill(line)


# --- templates


def test_fills_exactly() -> None:
    assert fill(r"C:\a.exe -k [[group]] [[n:7-7]]", group=["netsvcs"]) == r"C:\a.exe -k netsvcs 7"


def test_a_name_has_one_value_within_a_line() -> None:
    many = [str(number) for number in range(1000)]
    first, second = fill("[[word]] [[word]]", word=many).split()
    assert first == second
    first, second = fill("[[hex:12]] [[hex:12]]").split()
    assert first != second


def test_fills_from_the_inside_out() -> None:
    assert fill("[[[[a]]|[[a]]]]", a=["x"]) == "x"
    assert fill("[[outer]]", outer=["<[[inner]]>"], inner=["deep"]) == "<deep>"


def test_encodes_what_was_filled() -> None:
    filled = fill("-enc [[b64:Get-Item [[name]]]]", name=["C:"])
    assert base64.b64decode(filled.removeprefix("-enc ")).decode("utf-16-le") == "Get-Item C:"
    assert fill("[[b64u:[[lbr]]int]1]]") == base64.b64encode(b"[int]1").decode()


def test_brackets_that_are_no_slot_stay() -> None:
    assert fill("if [[ -f /etc/x ]]; then") == "if [[ -f /etc/x ]]; then"
    assert fill("$a[[lbr]][[n:3-3]]]") == "$a[3]"


@pytest.mark.parametrize("line", ["[[nothing]]", "[[odd:1]]"])
def test_unknown_slot_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="unknown slot"):
        fill(line)


def test_slots_without_an_end_are_an_error() -> None:
    with pytest.raises(ValueError, match="without an end"):
        fill("[[a]]", a=["[[b]][[b]]"], b=["[[c]]"], c=["[[a]]-[[hex:1]]"])


def test_parts_of_a_line() -> None:
    assert split_parts("registry", r"HKLM\A|DWORD (0x1)|C:\reg.exe") == {
        "TargetObject": r"HKLM\A",
        "Details": "DWORD (0x1)",
        "Image": r"C:\reg.exe",
    }
    assert split_parts("url", "GET|h|/a?b=c|d|agent/1|200")["cs-uri"] == "/a?b=c|d"
    with pytest.raises(ValueError, match="2 parts"):
        split_parts("registry", "HKLM|x")


def test_every_template_can_be_expanded() -> None:
    faults: Counter[str] = Counter()
    common = read_common()
    files = [path for path in TEMPLATES.glob("*.yaml") if path.name != "common.yaml"]
    assert files
    for path in files:
        rows = list(expand_file(path, common, 1, faults, expansions=1))
        assert len(rows) > 500
        assert {row.label for row in rows} == {0}
        assert {row.kind for row in rows} <= set(KINDS)
        assert {row.split for row in rows} == {"train", "valid"}
        assert not any(
            "[[" in row.text and "[[ " not in row.text for row in rows if row.kind == "dns"
        )
    assert not faults


def test_expansion_is_the_same_each_time() -> None:
    path = TEMPLATES / "windows_system.yaml"
    common = read_common()
    first = [
        row.text for row, _ in zip(expand_file(path, common, 3, Counter()), range(50), strict=False)
    ]
    again = [
        row.text for row, _ in zip(expand_file(path, common, 3, Counter()), range(50), strict=False)
    ]
    other = [
        row.text for row, _ in zip(expand_file(path, common, 4, Counter()), range(50), strict=False)
    ]
    assert first == again != other


def test_traced_programs_are_ordinary() -> None:
    rows = list(expand_traced(TEMPLATES / "traced_linux.jsonl", 1))
    assert len(rows) > 150
    assert {(row.label, row.os, row.kind) for row in rows} == {(0, "linux", "process")}


def test_reads_a_trace() -> None:
    trace = (
        '10 execve("/bin/sh", ["sh", "-c", "a b"], 0x1 /* 3 vars */) = 0\n'
        "10 vfork() = 11\n"
        '11 execve("/usr/bin/nope", ["nope"], 0x1 /* 3 vars */) = -1 ENOENT (No such file)\n'
        '11 execve("/usr/bin/ls", ["ls", "/tmp/x/a"], 0x1 /* 3 vars */) = 0\n'
    )
    assert parse_trace(trace, "/tmp/x") == [
        {"image": "/bin/sh", "command": "sh -c 'a b'", "parent": ""},
        {"image": "/usr/bin/ls", "command": "ls /home/dev/work/a", "parent": "/bin/sh"},
    ]


# --- forms


@pytest.mark.parametrize(
    ("command", "system", "image"),
    [
        (r'"C:\Program Files\A B\c.exe" -x', "windows", "c.exe"),
        (r"C:\Program Files\A B\c.exe -x", "windows", "c.exe"),
        ("ping -n 1 host", "windows", "ping.exe"),
        ("A=1 /usr/bin/curl x", "linux", "curl"),
        ("", "windows", ""),
    ],
)
def test_finds_the_image(command: str, system: str, image: str) -> None:
    assert find_image(command, "windows" if system == "windows" else "linux") == image


def test_program_comes_in_every_form() -> None:
    rng = random.Random(1)
    typed = {vary_program("whoami /all", rng) for _ in range(60)}
    logged = {vary_program(r"C:\Windows\System32\whoami.exe /all", rng) for _ in range(60)}
    assert {"whoami /all", r'"C:\Windows\system32\whoami.exe" /all'} <= typed & logged
    assert vary_program("custom /all", rng) == "custom /all"


def test_forms_are_drawn_alike() -> None:
    rng = random.Random(2)
    forms = Counter(
        form
        for _ in range(400)
        for _, form in render_process("whoami", "windows", [r"C:\Windows\explorer.exe"], rng)
    )
    assert set(forms) == {"sysmon1", "4688", "4688-2012", "commandline"}
    texts = {
        text
        for _ in range(80)
        for text, _ in render_process("tool -a", "windows", [r"C:\p.exe"], rng)
    }
    assert texts == {
        "process p.exe > tool.exe : tool -a",
        "process tool.exe : tool -a",
        "process : tool -a",
    }


# --- commands


def test_splits_a_pipeline_as_execve_sees_it() -> None:
    assert split_pipeline("cat a | grep 'x|y' > out && echo \"a;b\"") == [
        "cat a",
        "grep 'x|y'",
        'echo "a;b"',
    ]
    assert split_pipeline(r"find . -exec rm {} \;") == [r"find . -exec rm {} \;"]


def test_fills_arguments_that_name_arguments() -> None:
    arguments = {"path": {"default": "#{folder}\\x"}, "folder": {"default": "C:"}}
    assert fill_arguments("del #{path} #{unknown}", arguments) == r"del C:\x unknown"


def test_prompt_gives_itself_and_its_children() -> None:
    texts = [text for _, text, _ in write_cmd("whoami /all\necho done", random.Random(1))]
    assert any("cmd" in text and "echo done" in text for text in texts)
    assert any(text.rpartition(" : ")[2].endswith("/all") for text in texts)
    assert not any("echo" in text.partition(" : ")[0] for text in texts)  # it is no program
    assert (
        any("id" in text for _, text, _ in write_shell("uname -a; ls -la", random.Random(1)))
        is False
    )


def test_deeds_of_a_command() -> None:
    kind, fields, _ = next(
        derive_deeds(r'reg add "HKCU\Software\Run" /v a /t REG_SZ /d "C:\x.exe" /f', "")
    )
    assert kind == "registry"
    assert fields["TargetObject"].endswith(r"\Software\Run\a")
    assert fields["Details"] == r"C:\x.exe"
    kind, fields, _ = next(derive_deeds(r'sc.exe create s1 binPath= "C:\a b.exe" start=auto', ""))
    assert (kind, fields) == ("service", {"ServiceName": "s1", "ImagePath": r"C:\a b.exe"})
    assert not list(derive_deeds("reg query HKLM\\x /v y", ""))


def test_samples_that_ban_are_attacks(tmp_path: Path) -> None:
    (tmp_path / "sshd").write_text(
        '# failJSON: { "match": true }\nFeb 1 a sshd[1]: bad\n'
        '# failJSON: { "match": false }\nFeb 1 a sshd[1]: good\nFeb 1 a sshd[1]: alone\n'
    )
    assert [line.label for line in list_fail2ban(tmp_path)] == [1, None, None]


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (r"C:\AtomicRedTeam\atomics\T1218.007\bin\T1218.007.msi", "t1218"),
        ("PathToAtomicsFolder\\T1003\\src\\x.ps1", "atomic"),
        (r"python C:\eqllib\RTA-master\red_ttp\a.py", "rta"),
        ("https://github.com/redcanaryco/atomic-red-team/raw/master/x.ps1", "redcanary"),
        ("WORKSTATION5.theshire.local", "shire"),
    ],
)
def test_lab_words_are_taken_out(text: str, left_out: str) -> None:
    assert left_out not in scrub_text(text).lower()


def test_scrubbing_leaves_ordinary_words() -> None:
    for text in (
        r"C:\Windows\System32\svchost.exe -k netsvcs",
        "start /wait setup.exe",
        "anatomical arts",
    ):
        assert scrub_text(text) == text


# --- captures


def start(node: str, parent: str, image: str, parent_image: str, fired: int = 0) -> Step:
    return Step(node, image, fired, parent=parent, parent_image=parent_image, starts=True)


SYSTEM32 = "C:\\Windows\\System32\\"


def test_tree_takes_the_implant_and_all_below_it() -> None:
    steps = [
        start("shell", "explorer", SYSTEM32 + "cmd.exe", "C:\\Windows\\explorer.exe"),
        start("implant", "shell", "C:\\Users\\a\\x.exe", SYSTEM32 + "cmd.exe"),
        start("dump", "implant", SYSTEM32 + "rundll32.exe", "C:\\Users\\a\\x.exe", fired=2),
        start("other", "implant", SYSTEM32 + "whoami.exe", "C:\\Users\\a\\x.exe"),
        start("calm", "services", SYSTEM32 + "svchost.exe", SYSTEM32 + "services.exe"),
    ]
    tree = find_tree(steps)
    assert tree == {"shell", "implant", "dump", "other"}
    seen = list_started(steps)
    assert [judge_step(step, tree, seen) for step in steps] == [
        "tree",
        "tree",
        "attack",
        "tree",
        "background",
    ]


def test_what_is_not_known_is_unclear() -> None:
    assert judge_step(Step("p", SYSTEM32 + "powershell.exe", 0), set(), set()) == "unclear"
    assert judge_step(Step("p", "C:\\Users\\a\\tool.exe", 0), set(), set()) == "unclear"
    assert judge_step(Step("p", SYSTEM32 + "svchost.exe", 1), set(), set()) == "unclear"
    assert judge_step(Step("p", SYSTEM32 + "svchost.exe", 0), set(), set()) == "background"
    assert judge_step(Step("p", "<unknown process>", 0), set(), set()) == "unclear"


def test_processes_are_told_by_guid_or_host_and_number() -> None:
    assert name_node("h", "{AB-1}", 7, {}) == "ab-1"
    assert name_node("h", "{00000000-0000}", "0x10", {}) == "h:16"
    assert name_node("h", None, 16, {("h", 16): "ab-1"}) == "ab-1"
    assert name_node("h", None, None, {}) == ""


# --- splits and conflicts


def test_test_only_source_never_trains() -> None:
    rows = [
        make_row("process : a", None, source="evtx-attack-samples"),
        make_row("process : b", 1, source="stockpile"),
    ]
    assert [row.split for row in enforce_splits(rows)] == ["test", "test"]


def test_our_own_words_are_never_the_test() -> None:
    (row,) = enforce_splits([make_row("process : a", 0, split="test", source="life:x.yaml:g")])
    assert row.split == "valid"


def test_attacks_of_unseen_techniques_never_train() -> None:
    rows = [
        make_row(f"process : tool{number}", 1, group=f"g{number}", techniques=[technique])
        for number, technique in enumerate([HELD_BACK, f"{HELD_BACK}.001", SEEN] * 20)
    ]
    done = list(enforce_splits(rows))
    assert all((row.split != "train") == is_unseen(row.techniques) == row.unseen for row in done)
    assert {row.split for row in done} == {"train", "valid", "test"}


def test_share_of_unseen_techniques() -> None:
    share = sum(is_unseen([f"T{number}"]) for number in range(1000, 2000)) / 10
    assert abs(share - UNSEEN_PERCENT) < 4


def test_a_text_that_is_ordinary_is_no_attack() -> None:
    counts: Counter[str] = Counter()
    rows = [
        make_row("process : whoami", 0, source="life:a:b"),
        make_row("process : whoami", 1, source="atomic-red-team", techniques=[SEEN]),
        make_row("process : mimikatz", 1, source="atomic-red-team", techniques=[SEEN]),
    ]
    kept, _ = select_examples(rows, 1, counts)
    assert {(row.text, row.label) for row in kept} == {
        ("process : whoami", 0),
        ("process : mimikatz", 1),
    }


def test_an_explicit_attack_wins_over_background() -> None:
    rows = [
        make_row("process : odd one", 0, source="security-datasets"),
        make_row(
            "process : odd one", 1, source="security-datasets", explicit=True, techniques=[SEEN]
        ),
    ]
    kept, _ = select_examples(rows, 1, Counter())
    assert [row.label for row in kept] == [1]


def test_no_text_is_in_two_splits() -> None:
    long = "process cmd.exe > tool.exe : tool --first alpha --second beta --third gamma --last {}"
    rows = [
        make_row("process : same", 0, split="test"),
        make_row("process : same", 0),
        make_row(long.format(1), 0),
        make_row(long.format(2), 0, split="test"),
        make_row("process : entirely different words here", 0, split="test"),
    ]
    kept, seen = select_examples(rows, 1, Counter())
    assert [row.text for row in kept if row.split == "test"] == [
        "process : entirely different words here"
    ]
    assert {row.text for row in seen} == {"process : same", long.format(2)}


def test_near_copies_are_thinned() -> None:
    counts: Counter[str] = Counter()
    rows = [
        make_row(f"process a.exe : a.exe --number {n} of a long command line", 0) for n in range(50)
    ]
    kept, _ = select_examples(rows, 1, counts)
    assert len(kept) == 3
    assert counts["near copies: within train"] == 47


def test_signatures_estimate_similarity() -> None:
    index = NearIndex(0.8, 1)
    base = "powershell -noprofile -executionpolicy bypass -file c:\\scripts\\inventory.ps1 -verbose"
    number = index.add(index.sign(base))
    assert index.similar(index.sign(base + " 1")) == number
    assert (
        index.similar(index.sign("net user /domain | find administrator in another text")) is None
    )


def test_kinds_are_capped_but_life_is_not() -> None:
    rows = [
        make_row(f"process : {n}", 0, source=source)
        for n in range(30)
        for source in ("tldr", "life:a:b")
    ]
    kept = cap_kinds(rows, Counter(), limit=10)
    assert Counter(row.source for row in kept) == {"tldr": 10, "life:a:b": 30}


def test_card_counts_everything() -> None:
    rows = [
        make_row("process : a", 1, techniques=[SEEN]),
        make_row("process : b", 0),
        make_row("process : c", None),
    ]
    card = make_card(rows, [], Counter({"x": 1}))
    assert card["kinds"] == {"process": {"train": {"attack": 1, "ordinary": 1, "unlabelled": 1}}}
    assert "| process | train | 1 | 1 | 1 | 0 |" in write_card(card)


# --- files and stages


def test_rows_survive_a_file(tmp_path: Path) -> None:
    rows = [
        make_row(
            "process : ä\ud800".encode("utf-8", "replace").decode(),
            1,
            techniques=[SEEN],
            weight=0.5,
        )
    ]
    assert write_rows(tmp_path / "x.jsonl", rows) == 1
    assert list(read_rows(tmp_path / "x.jsonl")) == rows


def test_draws_are_of_the_name_alone() -> None:
    assert draw("a", "b") == draw("a", "b") != draw("ab")
    assert 0 <= min(draw(str(n)) for n in range(500)) < 5
    assert find_techniques("attack.t1059.001 attack.execution T1003") == ["T1059.001", "T1003"]


def test_a_stage_is_done_when_its_outputs_are_newer(tmp_path: Path) -> None:
    stage = Stage("models.sentinel.near", ("in",), ("out",))
    assert not is_done(stage, tmp_path)
    (tmp_path / "in").write_text("")
    (tmp_path / "out").write_text("")
    assert is_done(stage, tmp_path)
    os.utime(tmp_path / "out", (1, 1))
    assert not is_done(stage, tmp_path)


def test_a_missing_input_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "--data", str(tmp_path), "--work", str(tmp_path)]) == 1
    assert "corpus.jsonl" in capsys.readouterr().err
    assert main(["corpus", "--data", str(tmp_path), "--work", str(tmp_path)]) == 1
    assert list(STAGES)[:3] == ["corpus", "life", "examples"]


def test_a_real_capture(shared_data: FindData) -> None:
    data = shared_data("windows").parent
    shared_data("sigma")
    detector = build_detector(Options(data, data))
    folder = data / "windows" / "evtx-attack-samples" / "Lateral Movement"
    path = next(folder.glob("LM_impacket_docmexec*.evtx"))
    sides = Counter(side for _, side, _ in label_capture(read_capture(path, path.name, detector)))
    assert sides["attack"] + sides["tree"] >= 1
    assert sum(sides.values()) >= 5
