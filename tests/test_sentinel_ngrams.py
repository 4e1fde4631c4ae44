"""The sentinel's n-grams: what a column is, what a log-odds is, and which files are refused."""

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.assembly import open_sentinel
from appliance.config import Config, Sentinel
from appliance.errors import ModelError
from appliance.inference.client import SentinelClient
from appliance.inference.manifest import SENTINEL_NGRAMS, SENTINEL_TECHNIQUES, verify_sentinel
from appliance.inference.ngrams import (
    COLUMNS,
    FOLD,
    GRAMS,
    ORDINARY,
    TECHNIQUE_COLUMNS,
    Ngrams,
    TechniqueNgrams,
    list_columns,
)
from appliance.inference.worker import serve
from tests.sentinel_models import write_manifest, write_sentinel

MASK = (1 << 64) - 1


def hash_gram(gram: bytes) -> int:
    """The definition, in whole numbers."""
    key = int.from_bytes(gram, "big") | len(gram) << 48
    return (key * 0x9E37_79B9_7F4A_7C15 & MASK) >> 44


def make_arrays(**changed: Any) -> bytes:
    rng = np.random.default_rng(5)
    arrays: dict[str, Any] = {
        "frequencies": rng.uniform(1, 9, COLUMNS).astype(np.float16),
        "coefficients": rng.normal(0, 2, COLUMNS).astype(np.float16),
        "constant": np.float32(-0.25),
        "ordinary": np.zeros(0, np.uint64),
    } | changed
    held = io.BytesIO()
    np.savez(held, **{name: value for name, value in arrays.items() if value is not None})
    return held.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "process cmd.exe : whoami /all",
        "ab",
        "abababababab",
        "caf\u00e9 \U0001f600",
        "\ud800x\0y  z",
    ],
)
def test_columns_are_those_of_the_distinct_grams_of_the_tidied_bytes(text: str) -> None:
    plain = " ".join(text.replace("\ud800", "").replace("\0", "").split()).encode()
    grams = {plain[at : at + n] for n in GRAMS for at in range(len(plain) - n + 1)}
    assert list_columns(text).tolist() == sorted({hash_gram(gram) for gram in grams})


@pytest.mark.parametrize("text", ["", " ", "x", "\0"])
def test_a_text_without_grams_has_the_constant(text: str) -> None:
    assert list_columns(text).tolist() == []
    assert Ngrams.parse(make_arrays(), "n").weigh(text) == -0.25


def test_log_odds_are_a_weighted_mean_over_the_rows_length() -> None:
    raw = make_arrays()
    arrays = np.load(io.BytesIO(raw))
    columns = list_columns("net user /add")
    values = arrays["frequencies"][columns].astype(np.float64)
    weights = arrays["coefficients"][columns].astype(np.float64)
    expected = float(values @ weights) / math.sqrt(float(values @ values)) - 0.25
    assert Ngrams.parse(raw, "n").weigh("net user /add") == pytest.approx(expected, rel=1e-5)


def test_ordinary_texts_are_known_by_heart() -> None:
    text = "process explorer.exe > calc.exe : calc"
    hashed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    known = np.array([int.from_bytes(hashed, "big"), 7], np.uint64)
    found = Ngrams.parse(make_arrays(ordinary=known), "n")
    plain = Ngrams.parse(make_arrays(), "n")
    assert found.weigh(text) == found.weigh(f"  {text}\0") == ORDINARY
    assert plain.weigh(text) > ORDINARY
    assert found.weigh(f"{text} ") == ORDINARY  # tidied
    assert found.weigh(f"{text}s") == plain.weigh(f"{text}s")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"PK\x03\x04 no archive",
        make_arrays(constant=None),
        make_arrays(constant=np.float32("nan")),
        make_arrays(frequencies=np.zeros(COLUMNS, np.float16)),
        make_arrays(frequencies=np.ones(12, np.float16)),
        make_arrays(coefficients=np.full(COLUMNS, np.inf, np.float16)),
        make_arrays(coefficients=np.array([{}, 1], object)),
        make_arrays()[:-40],
        make_arrays(ordinary=None),
        make_arrays(ordinary=np.zeros(3, np.int64)),
        make_arrays(ordinary=np.zeros((3, 1), np.uint64)),
    ],
    ids=range(12),
)
def test_what_is_no_such_file_is_refused(raw: bytes) -> None:
    with pytest.raises(ModelError, match=r"ngrams\.npz: not the sentinel's n-grams"):
        Ngrams.parse(raw, "ngrams.npz")


def test_the_child_gives_them_behind_the_vector(tmp_path: Path) -> None:
    texts = ["process : whoami /all", "log sshd : failed password", ""]
    found = []
    for ngrams in (False, True):
        client = SentinelClient(write_sentinel(tmp_path / str(ngrams), ngrams=ngrams))
        client.start()
        try:
            found.append(client.embed(texts))
        finally:
            client.close()
    alone, beside = found
    assert (alone.shape, beside.shape) == ((3, 128), (3, 129))
    np.testing.assert_array_equal(alone, beside[:, :-1])
    path = tmp_path / "True" / SENTINEL_NGRAMS
    product = Ngrams.parse(path.read_bytes(), path.name)
    np.testing.assert_allclose(beside[:, -1], [product.weigh(text) for text in texts], rtol=1e-6)


def make_techniques(**changed: Any) -> bytes:
    rng = np.random.default_rng(6)
    arrays: dict[str, Any] = {
        "frequencies": rng.uniform(1, 9, TECHNIQUE_COLUMNS).astype(np.float16),
        "weights": rng.integers(-127, 128, (TECHNIQUE_COLUMNS, 3), np.int8),
        "step": np.float32(0.05),
    } | changed
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


def test_techniques_are_told_apart_by_folded_columns() -> None:
    raw = make_techniques()
    arrays = np.load(io.BytesIO(raw))
    columns = sorted({int(column) // FOLD for column in list_columns("net user /add")})
    values = arrays["frequencies"][columns].astype(np.float64)
    weights = arrays["weights"][columns].astype(np.float64) * 0.05
    expected = values @ weights / math.sqrt(float(values @ values))
    found = TechniqueNgrams.parse(raw, "t")
    assert found.count == 3
    np.testing.assert_allclose(found.weigh("net user /add"), expected, rtol=1e-5)
    assert found.weigh("").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "raw",
    [
        b"PK",
        make_techniques(weights=np.zeros((TECHNIQUE_COLUMNS, 3), np.float32)),
        make_techniques(weights=np.zeros((12, 3), np.int8)),
        make_techniques(weights=np.zeros(TECHNIQUE_COLUMNS, np.int8)),
        make_techniques(step=np.float32("inf")),
        make_techniques(frequencies=np.zeros(TECHNIQUE_COLUMNS, np.float16)),
    ],
    ids=range(6),
)
def test_what_tells_no_techniques_apart_is_refused(raw: bytes) -> None:
    with pytest.raises(ModelError, match=r"t\.npz: not the sentinel's n-grams"):
        TechniqueNgrams.parse(raw, "t.npz")


def test_techniques_of_another_model_are_refused(tmp_path: Path) -> None:
    model = write_sentinel(tmp_path, ngrams=True)
    parts = open_sentinel(Config(sentinel=Sentinel(model=str(tmp_path))), None)
    assert parts.why_not == ""
    (tmp_path / SENTINEL_TECHNIQUES).write_bytes(
        make_techniques(weights=np.zeros((TECHNIQUE_COLUMNS, 2), np.int8))
    )
    write_manifest(tmp_path, dims=129)
    parts = open_sentinel(Config(sentinel=Sentinel(model=str(model))), None)
    assert "of 2 techniques, the heads have 3" in parts.why_not


def test_a_changed_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    model = write_sentinel(tmp_path, ngrams=True)
    path = tmp_path / SENTINEL_NGRAMS
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"sentinel\.ngrams\.npz: SHA-256 is"):
        verify_sentinel(model)
    path.write_bytes(b"PK no archive, and the manifest knows it")
    write_manifest(tmp_path, dims=129)
    answers = io.BytesIO()
    with pytest.raises(ModelError, match="not the sentinel's n-grams"):
        serve(model, io.BytesIO(), answers, sentinel=True)
    assert b"not the sentinel's n-grams" in answers.getvalue()
