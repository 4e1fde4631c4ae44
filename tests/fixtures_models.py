"""The built encoder and knowledge base for tests: built once into the environment, then reused.

They lie where `make demo` puts them: `{sys.prefix}/share/appliance/{models,knowledge}`.
"""

import fcntl
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.errors import ModelError
from appliance.inference.client import EncoderClient
from appliance.inference.gguf_encoder import (
    ENCODER_FILE,
    SOURCE_PACKAGE,
    build_encoder,
    find_encoder_source,
)
from appliance.inference.manifest import read_pinned, verify_built
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import build_base
from appliance.knowledge.readers.package import PACKAGE

SHIPPED = Path(__file__).resolve().parent.parent / "models" / "manifest.json"


def models_root() -> Path:
    """Folder that holds `models/` and `knowledge/`."""
    return Path(sys.prefix) / "share" / "appliance"


def encoder_path() -> Path:
    """The encoder's GGUF file."""
    return models_root() / "models" / "encoder" / ENCODER_FILE


def ensure_encoder() -> Path:
    """The encoder's file, built when it is absent or damaged (a second)."""
    _require_packages(SOURCE_PACKAGE, "gguf", "safetensors")
    with _only_one_builder():
        try:
            verify_built(encoder_path())
        except ModelError:
            pinned = read_pinned(SHIPPED, "encoder")
            build_encoder(find_encoder_source(pinned), encoder_path().parent, pinned, _say)
    return encoder_path()


def ensure_models() -> Path:
    """`models_root()`, with the encoder and a base made with it (about a minute when absent).

    Skips the test when the packages that carry weights and knowledge are not installed; with
    CI=true that is a failure.
    """
    encoder = ensure_encoder()
    _require_packages(PACKAGE)
    folder = models_root() / "knowledge"
    with _only_one_builder():
        client = EncoderClient(encoder)
        try:
            KnowledgeBase.open(folder, client.model_hash)
        except ModelError:
            client.start()
            build_base(folder, client, _say)
        finally:
            client.close()
    return models_root()


def _require_packages(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)} (extra 'build')"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def _only_one_builder() -> Iterator[None]:
    root = models_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(step: str) -> None:
    print(step, file=sys.stderr)
