"""Stage `export`: the student as the product loads it.

student.safetensors, vocab.txt and the n-grams' two files -> sentinel.gguf (Q8_0),
sentinel.heads.safetensors, sentinel.json (the SHA-256 of all four), export.json (parity of each
quantization with the float student) and the other quantizations beside it. Runs without torch.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.detect.sentinel.heads import About, Heads
from appliance.inference.gguf_encoder import BertConfig, name_tensors, write_gguf
from appliance.inference.manifest import (
    SENTINEL_FILE,
    SENTINEL_HEADS,
    SENTINEL_MANIFEST,
    SENTINEL_NGRAMS,
    SENTINEL_TECHNIQUES,
    hash_file,
    write_durably,
)
from appliance.inference.ngrams import Ngrams
from models.sentinel.heads import Matrix, write_heads
from models.sentinel.llama import Runner
from models.sentinel.measures import list_figures, measure_auroc, show_figures
from models.sentinel.options import Options
from models.sentinel.rows import Example, read_rows
from models.sentinel.student import REFERENCE_FILE, SCORES_FILE, STUDENT_FILE, Reference
from models.sentinel.tokenizer import VOCABULARY_FILE, read_vocabulary

#: The quantization that is shipped, and those it is compared with.
SHIPPED: Final = "Q8_0"
COMPARED: Final = ("F32", "Q8_0", "Q5_0", "Q4_0")
LICENCE: Final = "Apache-2.0"
#: Distinct texts of one host and day that the first thresholds suppose; `evaluate` measures.
TEXTS_PER_DAY: Final = 2_000
BUDGETS: Final = ("0.5", "1", "2", "5", "10")
#: Labelled rows of valid and test that every quantization scores, at most.
_SCORED: Final = 8_000
_SMALL_SCORED: Final = 500


class Parity(msgspec.Struct):
    """How near a quantization is to the float student: on `texts` reference texts the lowest and
    mean cosine of the vectors, the largest and mean difference of P(malicious), and texts
    whose token ids differ; on `scored` rows both AUROCs. `texts_per_second` of the scored rows, one
    thread, tokenizing included."""

    weights: str
    bytes: int
    texts: int
    lowest_cosine: float
    mean_cosine: float
    largest_difference: float
    mean_difference: float
    other_ids: int
    scored: int
    auroc: float
    float_auroc: float
    texts_per_second: float


def run(options: Options) -> None:
    """The stage. Raises OSError, ValueError, ModelError where the extra `build` is missing."""
    work = options.work
    tensors, about = read_student(work / STUDENT_FILE)
    tokens = read_vocabulary(work / VOCABULARY_FILE)
    config = msgspec.convert(about["config"], BertConfig)
    encoder = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    for kind in COMPARED:
        path = work / (SENTINEL_FILE if kind == SHIPPED else f"sentinel.{kind}.gguf")
        new = path.with_name(f"{path.name}.new")
        write_gguf(
            new, config, tokens, name_tensors(encoder), name="sentinel", licence=LICENCE,
            weights=kind,
        )  # fmt: skip
        new.replace(path)
    known = About(
        techniques=tuple(about["techniques"]),
        tactics=tuple(about["tactics"]),
        thresholds={"1": 0.5},  # until it was measured
        temperature=about["temperature"],
        tokens=about["tokens"],
        trained=about["trained"],
        recipe=about["recipe"],
    )
    parts = {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}
    heads = write_heads(work / SENTINEL_HEADS, parts, known)
    rows = list(read_rows(work / "examples.jsonl"))
    parities, thresholds = _measure_all(options, heads, rows)
    write_heads(work / SENTINEL_HEADS, parts, msgspec.structs.replace(known, thresholds=thresholds))
    write_durably(work / "export.json", msgspec.json.format(msgspec.json.encode(parities)) + b"\n")
    write_manifest(work, config, known)


def read_student(path: Path) -> tuple[dict[str, Matrix], dict[str, Any]]:
    """The tensors by name, and what the stage `student` wrote about them."""
    from safetensors import safe_open  # noqa: PLC0415 - only in the extra build

    with safe_open(path, "np") as file:
        about: dict[str, Any] = json.loads(file.metadata()["sentinel"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def _measure_all(
    options: Options, heads: Heads, rows: list[Example]
) -> tuple[list[Parity], dict[str, float]]:
    """Parity of each quantization, and the thresholds of the one that is shipped."""
    work = options.work
    references = msgspec.json.decode((work / REFERENCE_FILE).read_bytes(), type=list[Reference])
    with np.load(work / SCORES_FILE) as file:
        places, logits = file["rows"], file["logits"]
    most = _SMALL_SCORED if options.small else _SCORED
    if len(places) > most:
        picked = np.sort(np.random.default_rng(options.seed).permutation(len(places))[:most])
        places, logits = places[picked], logits[picked]
    shown = [rows[at] for at in places]
    logits = logits.astype(np.float64) / heads.about.temperature
    scores: dict[str, NDArray[np.float64]] = {"float": logits}
    parities = []
    for kind in COMPARED:
        path = work / (SENTINEL_FILE if kind == SHIPPED else f"sentinel.{kind}.gguf")
        parity, scores[kind] = _measure_parity(
            path, kind, heads, references=references, shown=shown, logits=logits
        )
        parities.append(parity)
        print(f"parity {parity}")
    print(show_figures(list_figures(shown, scores), list(scores)))
    return parities, _choose_thresholds(shown, scores[SHIPPED])


def _measure_parity(
    path: Path,
    kind: str,
    heads: Heads,
    *,
    references: list[Reference],
    shown: list[Example],
    logits: NDArray[np.float64],
) -> tuple[Parity, NDArray[np.float64]]:
    runner = Runner(path, heads.about.tokens, 1)
    grams = path.parent / SENTINEL_NGRAMS
    ngrams = Ngrams.parse(grams.read_bytes(), grams.name)
    texts = [reference.text for reference in references]
    wanted = np.array([reference.vector for reference in references], np.float32)
    found = _put_beside(runner.pool_texts(texts), ngrams, texts)
    other = sum(runner.tokenize(ref.text) != ref.ids for ref in references)
    cosines = (found * wanted).sum(1) / (
        np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    )
    differences = np.abs(heads.score(found) - heads.score(wanted))
    began = time.perf_counter()
    asked = [row.text for row in shown]
    vectors = _put_beside(runner.pool_texts(asked), ngrams, asked)
    seconds = time.perf_counter() - began
    runner.close()
    scores = heads.weigh(vectors)
    labels = np.array([-1 if row.label is None else row.label for row in shown])
    parity = Parity(
        weights=kind,
        bytes=path.stat().st_size,
        texts=len(texts),
        lowest_cosine=round(float(cosines.min()), 6),
        mean_cosine=round(float(cosines.mean()), 6),
        largest_difference=round(float(differences.max()), 5),
        mean_difference=round(float(differences.mean()), 5),
        other_ids=other,
        scored=len(shown),
        auroc=round(measure_auroc(scores, labels), 5),
        float_auroc=round(measure_auroc(logits, labels), 5),
        texts_per_second=round(len(shown) / seconds, 1),
    )
    return parity, scores


def _put_beside(pooled: Matrix, ngrams: Ngrams, texts: Sequence[str]) -> Matrix:
    """Vectors as the product's child process gives them."""
    weighed = np.array([ngrams.weigh(text) for text in texts], np.float32)
    return np.column_stack([pooled, weighed]).astype(np.float32)


def _choose_thresholds(shown: list[Example], logits: NDArray[np.float64]) -> dict[str, float]:
    """Scores that so many of TEXTS_PER_DAY ordinary texts of `valid` are above: a first guess.
    Raises ValueError where `valid` has none."""
    ordinary = np.array([row.split == "valid" and row.label == 0 for row in shown])
    if not ordinary.any():
        raise ValueError("examples.jsonl has no ordinary rows to choose thresholds by")
    chances = 0.5 + 0.5 * np.tanh(0.5 * logits[ordinary])
    return {
        budget: round(float(np.quantile(chances, 1.0 - float(budget) / TEXTS_PER_DAY)), 6)
        for budget in BUDGETS
    }


def write_manifest(work: Path, config: BertConfig, known: About) -> None:
    """sentinel.json: what the model is, and the SHA-256 of its files."""
    names = (SENTINEL_FILE, SENTINEL_HEADS, SENTINEL_NGRAMS, SENTINEL_TECHNIQUES)
    files = {name: hash_file(work / name) for name in names}
    about = {
        "format": 1,
        "name": "sentinel",
        "dims": config.hidden_size + 1,  # the n-grams' log-odds behind what was pooled
        "layers": config.num_hidden_layers,
        "tokens": known.tokens,
        "vocabulary": config.vocab_size,
        "quantization": SHIPPED,
        "trained": known.trained,
        "recipe": known.recipe,
        "licence": LICENCE,
        "files": files,
        "sizes": {name: (work / name).stat().st_size for name in files},
    }
    write_durably(work / SENTINEL_MANIFEST, json.dumps(about, indent=2).encode() + b"\n")
