"""`completion` and `man`: made from the parser, understood by shells and by groff."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import appliance
from appliance.cli import build_parser, main
from appliance.commands.completion import SHELLS
from appliance.commands.manual import ENVIRONMENT, EXITS, LINE, escape, fill, write_manual
from appliance.commands.tree import Command, read_tree
from appliance.errors import Exit
from appliance.schema import LEVELS

TREE = read_tree(build_parser())


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(*words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, input=text, capture_output=True, text=True, timeout=30, check=False
    )


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    program = f"""
source {shlex.quote(str(script))}
COMP_WORDS=({shlex.join(("appliance", *words))})
COMP_CWORD={len(words)}
_appliance
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = run(need("bash"), "--norc", "-c", program)
    assert done.stderr == "", done.stderr
    return sorted(filter(None, done.stdout.split("\n")))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "appliance.bash"
    path.write_text(SHELLS["bash"](TREE))
    return path


def command_ids(command: Command) -> str:
    return " ".join(command.words) or "appliance"


@pytest.mark.parametrize("command", list(TREE.walk()), ids=command_ids)
def test_bash_offers_all_that_the_parser_takes(command: Command, script: Path) -> None:
    flags = sorted(flag for option in command.options for flag in option.flags)
    assert complete(script, *command.words, "-") == flags
    if command.commands:
        names = sorted(below.words[-1] for below in command.commands)
        assert complete(script, *command.words, "") == names
    for option in command.options:
        for flag in option.flags if option.choices else ():
            assert complete(script, *command.words, flag, "") == sorted(option.choices)


def test_bash_completes_values(script: Path, tmp_path: Path) -> None:
    assert complete(script, "kb", "s") == ["search", "show"]
    assert complete(script, "findings", "--level", "h") == ["high"]
    assert complete(script, "findings", "--since", "2h", "--level", "") == sorted(LEVELS)
    assert complete(script, "findings", "--limit", "") == []
    assert complete(script, "findings", "--level", "=", "h") == ["high"]
    assert complete(script, "findings", "--level", "=") == sorted(LEVELS)
    assert complete(script, "completion", "") == ["bash", "fish", "zsh"]
    (tmp_path / "a b").mkdir()
    (tmp_path / "a c.yaml").touch()
    begin = f"{tmp_path}/a"
    assert complete(script, "run", "--config", begin) == [f"{begin} b", f"{begin} c.yaml"]
    assert complete(script, "scan", "--rules", begin) == [f"{begin} b"]
    assert complete(script, "scan", "--quiet", begin) == [f"{begin} b", f"{begin} c.yaml"]
    # A value that is called as a command is none.
    assert complete(script, "show", "--state", "run", "--st") == ["--state"]


def test_an_option_added_to_the_parser_is_completed_and_documented() -> None:
    parser = build_parser()
    parser.add_argument("--brand-new", metavar="FILE", help="something it's new for")
    tree = read_tree(parser)
    for write in SHELLS.values():
        assert "brand-new" in write(tree)
        assert "brand-new" not in write(TREE)


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_reads_its_script(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    path = tmp_path / f"appliance.{shell}"
    path.write_text(capsys.readouterr().out)
    done = run(need(shell), "-n", str(path))
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_completes(tmp_path: Path) -> None:
    fish = need("fish")
    path = tmp_path / "appliance.fish"
    path.write_text(SHELLS["fish"](TREE))
    for line, wanted in (
        ("appliance kb ", {"build", "info", "search"}),
        ("appliance findings --level ", set(LEVELS)),
    ):
        done = run(fish, "--no-config", "-c", f"source {path}; complete -C'{line}'")
        assert {row.partition("\t")[0] for row in done.stdout.splitlines()} >= wanted, done.stderr


# -- the manual ----------------------------------------------------------------------------------


def test_man_is_clean_roff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["man"]) == 0
    page = tmp_path / "appliance.8"
    page.write_text(capsys.readouterr().out)
    assert page.read_bytes().isascii()
    assert max(map(len, page.read_text().splitlines())) <= LINE + 20
    done = run(need("groff"), "-man", "-ww", "-Tascii", "-P-cbou", str(page))
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    for command in TREE.walk():
        if not command.commands:
            assert " ".join(("appliance", *command.words)) in shown
            for option in command.options:
                assert set(option.flags) <= {"-h", "--help"} or option.flags[0] in shown
    for title in ("NAME", "SYNOPSIS", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert re.search(rf"^{title}$", done.stdout, re.MULTILINE), title
    assert "/etc/appliance/appliance.yaml" in shown


def test_every_exit_code_is_documented() -> None:
    assert set(EXITS) == set(Exit)


def test_every_variable_that_is_read_is_documented() -> None:
    """PYTHONPATH is handed on to our own child processes, not read; SYSTEMD_EXEC_PID and
    WATCHDOG_PID say whom systemd meant by its other variables."""
    read: set[str] = set()
    for path in Path(appliance.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("environ.get", "os.environ.get", "os.getenv")
                and isinstance(node.args[0], ast.Constant)
            ):
                read.add(str(node.args[0].value))
    assert "APPLIANCE_DATA" in read
    assert read - {"PYTHONPATH", "SYSTEMD_EXEC_PID", "WATCHDOG_PID"} <= set(ENVIRONMENT)


def test_text_cannot_become_a_request() -> None:
    assert escape(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert escape("'br") == "\\(aqbr"
    assert escape("a\\fB\n.b-c") == "a\\efB .b\\-c"
    assert not any(line.startswith((".", "'")) for line in fill("word .br 'x " * 40).split("\n"))


def test_the_page_follows_the_parser() -> None:
    parser = build_parser()
    parser.add_argument("--unheard-of", help="says nothing")
    assert "unheard" not in write_manual(TREE)
    assert "unheard" in write_manual(read_tree(parser))
    names = {option.flags[-1] for command in TREE.walk() for option in command.options}
    assert {"--config", "--json", "--fail-on"} <= names
    page = write_manual(TREE)
    for name in names:
        assert name.replace("-", "\\-") in page, name
