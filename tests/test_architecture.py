"""The import rules that keep the parts apart, read from the source itself."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "appliance"

#: Folders that stand side by side on the line: none may know another.
STAGES = (
    "sources",
    "decode",
    "normalise",
    "detect",
    "archive",
    "knowledge",
    "judge",
    "correlate",
    "inference",
    "emit",
)
SHARED = {"appliance", "appliance.schema", "appliance.errors", "appliance.incident"}

#: Where each heavy library may be imported.
HOMES = {
    "llama_cpp": {"inference/worker.py"},
    "faiss": {"knowledge/index.py"},
    "sqlite3": {
        "store/cases.py",
        "store/database.py",
        "store/digest.py",
        "store/migrations.py",
        "store/ranking.py",
        "store/rows.py",
        "store/segments.py",
        "store/upkeep.py",
        "store/writing.py",
        "knowledge/entry_file.py",
    },
    "watchdog": {"sources/files.py"},
    "duckdb": {"archive/database.py"},
    "evtx": {"sources/streams.py"},
    "systemd": {"sources/journal.py", "service.py"},
    "gguf": {"inference/gguf_encoder.py"},
    "hyperscan": {"detect/sigma/cache.py", "detect/sigma/index.py"},
    "sigma": {
        "detect/sigma/compile.py",
        "detect/sigma/correlation_compile.py",
        "detect/sigma/load.py",
        "detect/sigma/documents.py",
        "detect/sigma/overrides.py",
        "detect/sigma/pipelines.py",
    },
}

#: What no part of the appliance may use: ways out, ways to run data, ways to leave torch in.
FORBIDDEN = {
    "pickle",
    "marshal",
    "shelve",
    "requests",
    "urllib",
    "urllib3",
    "http",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "telnetlib",
    "xmlrpc",
    "torch",
    "transformers",
    "sentence_transformers",
}

#: Who may open sockets: what the configuration names, and the local control socket.
SOCKETS = {
    "control.py",
    "engine.py",
    "emit/syslog_tcp.py",
    "emit/syslog_udp.py",
    "emit/syslog_unix.py",
    "sources/receiver.py",
}


def modules() -> list[Path]:
    """Every module of the package."""
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 50
    return found


def imported(module: Path) -> Iterator[str]:
    """Names of all modules that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield node.module or ""


def place(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_know_one_another(stage: str) -> None:
    own = f"appliance.{stage}"
    files = [m for m in modules() if place(m).startswith(f"{stage}/")]
    assert files
    for module in files:
        for name in imported(module):
            if name.split(".")[0] == "appliance":
                assert name in SHARED or name == own or name.startswith(own + "."), (
                    f"{place(module)} imports {name}"
                )


@pytest.mark.parametrize("library", HOMES)
def test_each_heavy_library_has_one_home(library: str) -> None:
    users = {place(m) for m in modules() if library in {n.split(".")[0] for n in imported(m)}}
    assert users, f"nothing imports {library}"
    assert users <= HOMES[library]


def test_nothing_forbidden_is_imported() -> None:
    for module in modules():
        found = {name.split(".")[0] for name in imported(module)} & FORBIDDEN
        assert not found, f"{place(module)} imports {found}"


def test_sockets_are_opened_only_where_they_are_meant_to_be() -> None:
    users = {place(m) for m in modules() if "socket" in set(imported(m))}
    assert users == SOCKETS


def test_schema_and_errors_know_nobody() -> None:
    for name in ("schema.py", "errors.py"):
        own = [i for i in imported(PACKAGE / name) if i.startswith("appliance")]
        assert own == []


def test_the_clock_is_read_only_at_the_edges() -> None:
    """`time.time()` in a stage would make its results depend on when it ran."""
    allowed = {
        "daemon.py", "scan.py", "commands/casework.py", "commands/dossier.py", "commands/hunt.py",
        "commands/knowledge.py", "commands/knowledge_import.py", "commands/look.py",
        "commands/report.py", "commands/rules.py", "commands/selftest.py", "commands/sinks.py",
        "commands/store.py",
    }  # fmt: skip
    for module in modules():
        calls = [
            node
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("time.time", "datetime.now", "datetime.utcnow")
        ]
        assert not calls or place(module) in allowed, place(module)


def test_no_eval_and_no_shell() -> None:
    for module in modules():
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "compile", "os.system", "os.popen"), module
                assert not any(keyword.arg == "shell" for keyword in node.keywords), module


#: What stands at the top of the repository; nothing else does.
TOP = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "appliance",
    "benchmarks", "docs", "models", "packaging", "pyproject.toml", "rules", "tests",
}  # fmt: skip


def test_the_top_level_stays_as_it_is() -> None:
    """A folder that some command left behind is easily committed."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        pytest.skip("no repository here: these files were unpacked")
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files"], check=True, capture_output=True, text=True
    )
    found = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert found == TOP
