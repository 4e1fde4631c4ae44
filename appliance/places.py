"""Where things lie when the configuration does not say: one documented order for all commands.

Configuration  /etc/appliance/appliance.yaml
Overrides      /etc/appliance/overrides.yaml, the operator's levels and suppressions
Rules          the default set: inside the installed package, or `rules/` of a checkout
Sentinel       models/sentinel in one of those folders, else the one that comes with the appliance
Models, base   the folder named by APPLIANCE_DATA, then /var/lib/appliance, then share/appliance of
               the Python installation (a virtual environment's own); the first that has them
"""

import os
import sys
from pathlib import Path

CONFIG = Path("/etc/appliance/appliance.yaml")
#: The operator's word on rules; no update writes it.
OVERRIDES = Path("/etc/appliance/overrides.yaml")

#: What the operator's own builds and imports are kept in.
_STATE = Path("/var/lib/appliance")

_PACKAGE = Path(__file__).resolve().parent


def default_rules() -> Path:
    """The rules that come with the appliance."""
    packed = _PACKAGE / "defaults" / "rules"
    return packed if packed.is_dir() else _PACKAGE.parent / "rules"


def own_rules() -> Path:
    """The rules about the appliance itself, which no configuration replaces."""
    return _PACKAGE / "own_rules"


def shipped_manifest() -> Path:
    """The manifest of what models may be built from."""
    packed = _PACKAGE / "defaults" / "models" / "manifest.json"
    return packed if packed.is_file() else _PACKAGE.parent / "models" / "manifest.json"


def data_folders() -> list[Path]:
    """Folders that may hold `models/` and `knowledge/`, the first to be asked first."""
    named = os.environ.get("APPLIANCE_DATA")
    folders = [Path(named)] if named else []
    return [*folders, _STATE, Path(sys.prefix) / "share" / "appliance"]


def build_folder() -> Path:
    """Where `model build` and `kb build` put what they build, when not told."""
    return Path(os.environ.get("APPLIANCE_DATA") or Path(sys.prefix) / "share" / "appliance")


def find_models(configured: str = "") -> Path | None:
    """The folder that holds `encoder/encoder.gguf`, or None."""
    return _find(configured, "models", "encoder/manifest.json")


def find_sentinel(configured: str = "") -> Path | None:
    """The sentinel's GGUF file, with its other files beside it, or None."""
    if configured:
        named = Path(configured)
        return named / "sentinel.gguf" if named.is_dir() else named
    folders = [folder / "models" / "sentinel" for folder in data_folders()]
    folders.append(shipped_manifest().parent / "sentinel")
    found = (folder for folder in folders if (folder / "sentinel.json").is_file())
    return next((folder / "sentinel.gguf" for folder in found), None)


def find_knowledge(configured: str = "") -> Path | None:
    """The folder of the knowledge base, or None."""
    return _find(configured, "knowledge", "manifest.json")


def import_folder(in_use: Path) -> Path:
    """Where an import goes, when not told: into the base that is in use, but not into one below
    /usr, which belongs to a package and is replaced with it. One in /var/lib/appliance is found
    before that."""
    owned = in_use.resolve()
    if owned.is_relative_to("/usr") and not owned.is_relative_to("/usr/local"):
        return _STATE / "knowledge"
    return in_use


def _find(configured: str, name: str, proof: str) -> Path | None:
    if configured:
        return Path(configured)
    found = (folder / name for folder in data_folders() if (folder / name / proof).is_file())
    return next(found, None)
