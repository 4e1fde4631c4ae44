"""A small sentinel with random weights, written as the recipe's export writes a trained one: so
that what the tests run is really run through llama.cpp."""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.inference.gguf_encoder import BertConfig, name_tensors, write_gguf
from appliance.inference.manifest import (
    SENTINEL_FILE,
    SENTINEL_HEADS,
    SENTINEL_MANIFEST,
    SENTINEL_NGRAMS,
    SENTINEL_TECHNIQUES,
    hash_file,
)
from appliance.inference.ngrams import COLUMNS, TECHNIQUE_COLUMNS

WORDS = (
    "process", "script", "registry", "service", "task", "file", "network", "dns", "url", "log",
    "powershell", "cmd", "exe", "whoami", "net", "user", "add", "svchost", "services", "notepad",
    "chrome", "wget", "curl", "bash", "sshd", "failed", "password", "root",
)  # fmt: skip
TECHNIQUES = ("T1003.001", "T1059.001", "T1105")
TACTICS = ("credential-access", "execution", "command-and-control")


def list_tokens() -> list[str]:
    """A vocabulary that spells any ASCII text."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, *letters, *(f"##{letter}" for letter in letters), *WORDS]


def write_sentinel(
    folder: Path,
    *,
    dims: int = 128,
    layers: int = 2,
    tokens: int = 96,
    seed: int = 7,
    bias: float = 0.0,
    scale: float = 1.0,
    about: Mapping[str, Any] | None = None,
    ngrams: bool = False,
) -> Path:
    """Write its files into the folder; give the GGUF's path. `bias` is that of the head
    `malicious`, `scale` spreads its scores, `about` is put over the heads' metadata. With `ngrams`
    it has those, too."""
    pytest.importorskip("gguf")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    vocabulary = list_tokens()
    config = BertConfig(dims, 4 * dims, max(tokens, 96), 2, layers, 1e-12, 2, len(vocabulary))
    model = folder / SENTINEL_FILE
    tensors = name_tensors(_draw_weights(config, rng))
    write_gguf(model, config, vocabulary, tensors, name="random", licence="Apache-2.0")
    _write_heads(folder / SENTINEL_HEADS, dims, tokens, rng, bias, scale, about or {}, ngrams)
    if ngrams:
        _write_ngrams(folder / SENTINEL_NGRAMS, rng)
        _write_techniques(folder / SENTINEL_TECHNIQUES, rng)
    write_manifest(folder, dims=dims + ngrams, tokens=tokens)
    return model


def write_manifest(folder: Path, *, dims: int = 128, tokens: int = 96) -> None:
    """The manifest of what lies in the folder now."""
    names = (SENTINEL_FILE, SENTINEL_HEADS, SENTINEL_NGRAMS, SENTINEL_TECHNIQUES)
    files = {name: hash_file(folder / name) for name in names if (folder / name).is_file()}
    body = {"format": 1, "name": "random", "dims": dims, "tokens": tokens, "files": files}
    (folder / SENTINEL_MANIFEST).write_bytes(msgspec.json.encode(body))


def _draw_weights(config: BertConfig, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Weights of a Hugging Face BertModel."""
    wide, inner = config.hidden_size, config.intermediate_size

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.5 / np.sqrt(shape[-1]), shape).astype(np.float32)

    def norm(stem: str) -> dict[str, NDArray[np.float32]]:
        return {f"{stem}.weight": np.ones(wide, np.float32), f"{stem}.bias": draw(wide)}

    weights = {
        "embeddings.word_embeddings.weight": draw(config.vocab_size, wide) * 8,
        "embeddings.position_embeddings.weight": draw(config.max_position_embeddings, wide),
        "embeddings.token_type_embeddings.weight": draw(2, wide),
        **norm("embeddings.LayerNorm"),
    }
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layer.{number}"
        for name, shape in (
            ("attention.self.query", (wide, wide)),
            ("attention.self.key", (wide, wide)),
            ("attention.self.value", (wide, wide)),
            ("attention.output.dense", (wide, wide)),
            ("intermediate.dense", (inner, wide)),
            ("output.dense", (wide, inner)),
        ):
            weights[f"{layer}.{name}.weight"] = draw(*shape)
            weights[f"{layer}.{name}.bias"] = draw(shape[0])
        weights |= norm(f"{layer}.attention.output.LayerNorm")
        weights |= norm(f"{layer}.output.LayerNorm")
    return weights


def _write_heads(
    path: Path,
    dims: int,
    tokens: int,
    rng: np.random.Generator,
    bias: float,
    scale: float,
    about: Mapping[str, Any],
    ngrams: bool,
) -> None:
    from safetensors.numpy import save_file

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 1 / np.sqrt(dims), shape).astype(np.float32)

    said = {
        "techniques": TECHNIQUES,
        "tactics": TACTICS,
        "temperature": 1.0,
        "thresholds": {"0.1": 0.9, "1": 0.8, "10": 0.5},
        "kinds": {},
        "tokens": tokens,
        "trained": "2026-01-01",
        "recipe": "test",
        **about,
    }
    save_file(
        {
            "malicious.weight": draw(1, dims + ngrams) * np.float32(8 * scale),
            "malicious.bias": np.array([bias], np.float32),
            "technique.weight": draw(len(TECHNIQUES), dims),
            "technique.bias": np.zeros(len(TECHNIQUES), np.float32),
            "tactic.weight": draw(len(TACTICS), dims),
            "tactic.bias": np.zeros(len(TACTICS), np.float32),
            "project.weight": draw(384, dims),
        },
        path,
        metadata={"sentinel": msgspec.json.encode(said).decode()},
    )


def _write_ngrams(path: Path, rng: np.random.Generator) -> None:
    np.savez_compressed(
        path,
        frequencies=np.resize(rng.uniform(1, 9, 64), COLUMNS).astype(np.float16),
        coefficients=np.resize(rng.normal(0, 1, 64), COLUMNS).astype(np.float16),
        constant=np.float32(0.1),
        ordinary=np.zeros(0, np.uint64),
    )


def _write_techniques(path: Path, rng: np.random.Generator) -> None:
    shape = TECHNIQUE_COLUMNS, len(TECHNIQUES)
    np.savez_compressed(
        path,
        frequencies=np.resize(rng.uniform(1, 9, 64), TECHNIQUE_COLUMNS).astype(np.float16),
        weights=np.resize(rng.integers(-127, 128, 99), shape).astype(np.int8),
        step=np.float32(0.05),
    )
