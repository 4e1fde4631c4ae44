"""Stage `teacher`: what the student learns from, beside the labels.

examples.jsonl -> teacher.ngrams.npz (logits of the n-gram regressions), sentinel.ngrams.npz (the
one that is shipped), sentinel.techniques.npz (n-grams that tell techniques apart, shipped, too),
teacher.anchors.npz (frozen MiniLM's vectors of technique texts), teacher.safetensors (MiniLM,
fine-tuned, with heads), teacher.soft.npz (what it says of the rows). MiniLM's event vectors are
drawn to the *frozen* MiniLM's vectors of ATT&CK technique texts (InfoNCE: van den Oord et al. 2018,
arXiv:1807.03748), so that one index serves events and human text. Distillation: Hinton et al.
2015, arXiv:1503.02531.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.inference.gguf_encoder import BertConfig, find_encoder_source
from appliance.inference.manifest import SENTINEL_NGRAMS, SENTINEL_TECHNIQUES, read_pinned
from models.sentinel.bert import TokenIds, Weights, group_by_length, pad_batch, pool_texts
from models.sentinel.heads import PROJECTED, list_tactics, read_techniques
from models.sentinel.measures import fit_temperature, is_measured, list_figures, show_figures
from models.sentinel.ngrams import (
    ALL,
    Regressions,
    Table,
    cross_fit,
    divide_scores,
    fit_techniques,
    list_grams,
    write_ngrams,
    write_techniques,
)
from models.sentinel.options import Options
from models.sentinel.rows import Example, draw, read_rows
from models.sentinel.training import (
    choose_techniques,
    share_techniques,
    train_weights,
    weigh_rows,
    write_weights,
)

NGRAMS_FILE: Final = "teacher.ngrams.npz"
ANCHORS_FILE: Final = "teacher.anchors.npz"
TEACHER_FILE: Final = "teacher.safetensors"
SOFT_FILE: Final = "teacher.soft.npz"

#: Techniques of each row that are handed to the student, the likeliest first.
TOP_TECHNIQUES: Final = 8
_FOLDS: Final = 5
#: Ordinary training texts with log-odds over this are known by heart, but for those with a mask
#: that may hide anything: any but that of the system's folder.
_MISTAKEN: Final = 0.0
_HIDES: Final = re.compile(r"xx(?!sys\b)[a-z]+")
#: Lower blocks and embeddings stay as they are: they know English and cost a fifth of the time.
_FROZEN_LAYERS: Final = 2
_ENCODER_RATE: Final = 8e-5
_HEAD_RATE: Final = 1e-3
#: Cosines are multiplied by this before the softmax over techniques.
SHARPNESS: Final = 20.0
_TECHNIQUE_TOKENS: Final = 128
_DROPOUT: Final = 0.1
_SHIPPED: Final = Path(__file__).resolve().parents[1] / "manifest.json"


class Plan(msgspec.Struct, frozen=True):
    """How much is done. `max_examples` rows are trained on, at most, once each; `max_scored` rows
    of the training split are scored, and every labelled row of the others."""

    max_examples: int = 30_000
    max_scored: int = 120_000
    tokens: int = 64
    batch: int = 32


PLAN: Final = Plan()
SMALL: Final = Plan(max_examples=320, max_scored=1_000, tokens=48)


class Soft(msgspec.Struct):
    """What teachers say of the rows of examples.jsonl. `chance` is the calibrated P(malicious);
    `known` marks the rows for which the other three are there: the likeliest techniques (places in
    `names`) with their shares, (rows, 8), and the projected unit vectors, (rows, 384)."""

    chance: NDArray[np.float32]
    known: NDArray[np.bool_]
    names: list[str]
    techniques: NDArray[np.int64]
    shares: NDArray[np.float32]
    vectors: NDArray[np.float16]


def run(options: Options) -> None:
    """The stage. Raises OSError, ValueError where examples.jsonl cannot be learnt from.

    Without an accelerator MiniLM sees too few rows in an hour to teach much: after 10,000 of them
    it had an AUROC of 0.80 on `valid` where the n-grams had 0.95. There it is left out, but for a
    small run."""
    rows = list(read_rows(options.work / "examples.jsonl"))
    score_ngrams(options, rows)
    tell_techniques(options, rows)
    embed_anchors(options)
    if options.device == "cpu" and not options.small:
        print("teacher: no accelerator, so the n-grams teach alone")
        (options.work / SOFT_FILE).unlink(missing_ok=True)
        return
    train_teacher(options, rows, SMALL if options.small else PLAN)


def hash_rows(rows: Sequence[Example]) -> str:
    """A name for these rows, so that files about others are not taken for theirs."""
    state = hashlib.sha256()
    for row in rows:
        state.update(f"{row.split}\0{row.label}\0{row.text}\n".encode("utf-8", "surrogatepass"))
    return state.hexdigest()[:16]


def score_ngrams(options: Options, rows: Sequence[Example]) -> NDArray[np.float32]:
    """Logits of the n-gram regression for every row, calibrated on `valid`; written to a file, as
    is the regression itself."""
    labels = np.array([-1 if row.label is None else row.label for row in rows], np.float32)
    fitted = np.array([row.split == "train" for row in rows]) & (labels >= 0)
    if len(set(labels[fitted].tolist())) < 2:
        raise ValueError("examples.jsonl: both labels are needed in the training split")
    folds = list_folds(rows)
    table = list_grams([row.text for row in rows])
    found = cross_fit(table, np.maximum(labels, 0), weigh_rows(rows), fitted, folds)
    temperature = _find_temperature(rows, found.score(table, folds))
    found = divide_scores(found, temperature)
    logits = found.score(table, folds)
    np.savez(options.work / NGRAMS_FILE, logits=logits, rows=hash_rows(rows))
    ordinary = _list_mistaken(rows, table, found)
    print(f"teacher: {len(ordinary)} ordinary texts are known by heart")
    write_ngrams(options.work / SENTINEL_NGRAMS, found, ordinary)
    _report(rows, {"n-grams": logits})
    return logits


def _list_mistaken(rows: Sequence[Example], table: Table, regressions: Regressions) -> list[str]:
    """Ordinary texts of training to which the shipped regression gives log-odds over _MISTAKEN.
    Only whole ones: behind a mask any payload or address may stand, and in a script or a service's
    command anything may follow."""
    logits = regressions.score(table, np.full(len(rows), ALL))
    return [
        row.text
        for row, logit in zip(rows, logits, strict=True)
        if row.split == "train"
        and row.label == 0
        and logit > _MISTAKEN
        and row.kind == "process"
        and not _HIDES.search(row.text)
    ]


def tell_techniques(options: Options, rows: Sequence[Example]) -> None:
    """Fit the n-grams that tell techniques apart, and write what is shipped of them."""
    names = choose_techniques(rows, {item.id for item in read_techniques(options.data)})
    named = [row for row in rows if row.split == "train" and row.label == 1]
    index, share = share_techniques(named, names)
    kept = np.flatnonzero(share.sum(1) > 0)
    texts = [named[at].text for at in kept]
    found = fit_techniques(texts, index[kept], share[kept], len(names))
    write_techniques(options.work / SENTINEL_TECHNIQUES, *found)
    print(f"teacher: {len(names)} techniques told apart by the n-grams of {len(kept)} rows")


def list_folds(rows: Sequence[Example]) -> NDArray[np.int64]:
    """Which regression scores a row: the one that its group was left out of, or, for a row that
    none was fitted on, that of all folds."""
    return np.array(
        [
            draw("fold", row.group) % _FOLDS
            if row.split == "train" and row.label is not None
            else ALL
            for row in rows
        ],
        np.int64,
    )


def _calibrate(rows: Sequence[Example], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (logits / _find_temperature(rows, logits)).astype(np.float32)


def _find_temperature(rows: Sequence[Example], logits: NDArray[np.float32]) -> float:
    chosen = np.array([row.split == "valid" and row.label is not None for row in rows])
    labels = np.array([float(row.label or 0) for row in rows])
    return fit_temperature(
        logits[chosen].astype(np.float64), labels[chosen], weigh_rows(rows)[chosen]
    )


def _report(rows: Sequence[Example], scores: dict[str, NDArray[np.float32]]) -> None:
    figures = list_figures(rows, {name: s.astype(np.float64) for name, s in scores.items()})
    print(show_figures(figures, list(scores)))


def train_teacher(options: Options, rows: Sequence[Example], plan: Plan) -> None:
    """Fine-tune MiniLM, then let both teachers say what they think of the rows."""
    import torch  # noqa: PLC0415 - only in the extra train

    torch.manual_seed(options.seed)
    source = find_encoder_source(read_pinned(_SHIPPED, "encoder"))
    config, weights = _load_minilm(source, options.device)
    tokenizer = _open_minilm_tokenizer(source)
    techniques = read_techniques(options.data)
    names, vectors = read_anchors(options)
    anchors = torch.from_numpy(vectors)
    tactics = list_tactics(techniques)
    belongs = torch.zeros(len(names), len(tactics))
    for place, technique in enumerate(techniques):
        for tactic in technique.tactics:
            belongs[place, tactics.index(tactic)] = 1.0 / len(technique.tactics)
    weights |= {
        "head.malicious.weight": torch.zeros(1, config.hidden_size),
        "head.malicious.bias": torch.zeros(1),
        "head.technique.weight": torch.zeros(len(names), config.hidden_size),
        "head.technique.bias": torch.zeros(len(names)),
        "head.tactic.weight": torch.zeros(len(tactics), config.hidden_size),
        "head.tactic.bias": torch.zeros(len(tactics)),
        "head.project.weight": torch.eye(PROJECTED, config.hidden_size),
    }
    weights = {name: tensor.to(options.device) for name, tensor in weights.items()}
    chosen = _choose_rows(rows, plan.max_examples, options.seed)
    tokens = _encode_minilm(tokenizer, [rows[at].text for at in chosen], plan.tokens)
    index, share = share_techniques([rows[at] for at in chosen], names)
    balance = weigh_rows(rows)[chosen]
    labels = np.array([rows[at].label for at in chosen], np.float32)
    lengths = np.array([len(text) for text in tokens])
    batches = list(group_by_length(lengths, plan.batch, options.seed))
    rates = _choose_rates(weights)
    anchors, belongs = anchors.to(options.device), belongs.to(options.device)

    def measure_loss(_step: int, batch: NDArray[np.int64]) -> Any:
        ids, mask = pad_batch([tokens[at] for at in batch], options.device)
        with torch.autocast(options.device, torch.bfloat16):
            pooled = pool_texts(weights, config, ids, mask, tanh_gelu=False, dropout=_DROPOUT)
        return measure_heads(
            pooled.float(),
            weights,
            labels=torch.from_numpy(labels[batch]).to(options.device),
            balance=torch.from_numpy(balance[batch]).to(options.device),
            index=torch.from_numpy(index[batch]).to(options.device),
            share=torch.from_numpy(share[batch]).to(options.device),
            anchors=anchors,
            belongs=belongs,
        )

    stamp = f"{hash_rows(rows)} {plan} {options.seed}"
    train_weights(
        weights,
        rates,
        batches,
        measure_loss,
        steps=len(batches),
        checkpoint=options.work / "teacher.checkpoint.safetensors",
        stamp=stamp,
        say=lambda line: print(f"teacher: {line}", flush=True),
    )
    write_weights(options.work / TEACHER_FILE, weights, {"techniques": names, "tactics": tactics})
    _write_soft(
        options, rows, plan, config=config, weights=weights, tokenizer=tokenizer, names=names
    )


def measure_heads(
    pooled: Any,
    weights: Weights,
    *,
    labels: Any,
    balance: Any,
    index: Any,
    share: Any,
    anchors: Any,
    belongs: Any,
) -> Any:
    """The loss of labelled rows: malicious, technique, tactic, and the projected vector against
    the frozen vectors of all techniques (`anchors`). `index` and `share` are those of
    `share_techniques`; `belongs` is the share of each tactic in each technique."""
    import torch  # noqa: PLC0415 - only in the extra train
    from torch.nn import functional  # noqa: PLC0415

    logits = (
        functional.linear(pooled, weights["head.malicious.weight"]) + weights["head.malicious.bias"]
    )
    loss = functional.binary_cross_entropy_with_logits(logits[:, 0], labels, balance)
    named = share.sum(1) > 0
    if not bool(named.any()):
        return loss
    wanted = torch.zeros(int(named.sum()), anchors.shape[0], device=pooled.device)
    wanted.scatter_add_(1, index[named], share[named])
    pooled = pooled[named]
    technique = functional.linear(
        pooled, weights["head.technique.weight"], weights["head.technique.bias"]
    )
    tactic = functional.linear(pooled, weights["head.tactic.weight"], weights["head.tactic.bias"])
    projected = functional.normalize(functional.linear(pooled, weights["head.project.weight"]))
    near = projected @ anchors.T * SHARPNESS
    return (
        loss
        + 0.3 * functional.cross_entropy(technique, wanted)
        + 0.2 * functional.cross_entropy(tactic, wanted @ belongs)
        + 0.3 * functional.cross_entropy(near, wanted)
    )


def _choose_rates(weights: Weights) -> dict[str, float]:
    frozen = ("embeddings.", *(f"encoder.layer.{layer}." for layer in range(_FROZEN_LAYERS)))
    return {
        name: _HEAD_RATE if name.startswith("head.") else _ENCODER_RATE
        for name in weights
        if not name.startswith(frozen)
    }


def _choose_rows(rows: Sequence[Example], most: int, seed: int) -> NDArray[np.int64]:
    """Labelled training rows, at most `most`: as many attacks as ordinary ones where there are
    enough, and small kinds whole before large ones."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    cells: dict[tuple[str, int], list[int]] = {}
    for at in order:
        row = rows[at]
        if row.split == "train" and row.label is not None:
            cells.setdefault((row.kind, row.label), []).append(int(at))
    chosen: list[int] = []
    left = sorted(cells.values(), key=len)
    for done, cell in enumerate(left):
        chosen += cell[: (most - len(chosen)) // (len(left) - done)]
    return np.sort(np.array(chosen, np.int64))


def _load_minilm(source: Path, device: str) -> tuple[BertConfig, Weights]:
    from safetensors.torch import load_file  # noqa: PLC0415 - only in the extra train

    config = msgspec.json.decode((source / "config.json").read_bytes(), type=BertConfig)
    loaded = load_file(source / "model.safetensors", device=device)
    return config, {
        name: tensor.float()
        for name, tensor in loaded.items()
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids")
    }


def _open_minilm_tokenizer(source: Path) -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415 - only in the extra train

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def _encode_minilm(tokenizer: Any, texts: Sequence[str], most: int) -> list[TokenIds]:
    tokenizer.enable_truncation(most)
    return [
        np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch_fast(list(texts))
    ]


def embed_anchors(options: Options) -> None:
    """Unit vectors of the technique texts by MiniLM as it is, written to a file."""
    source = find_encoder_source(read_pinned(_SHIPPED, "encoder"))
    config, weights = _load_minilm(source, options.device)
    techniques = read_techniques(options.data)
    texts = [technique.text for technique in techniques]
    tokens = _encode_minilm(_open_minilm_tokenizer(source), texts, _TECHNIQUE_TOKENS)
    pooled = np.zeros((len(texts), config.hidden_size), np.float32)
    for batch, vectors in _pool_all(config, weights, tokens):
        pooled[batch.numpy()] = vectors.cpu().numpy()
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    names = np.array([technique.id for technique in techniques])
    np.savez(options.work / ANCHORS_FILE, names=names, vectors=pooled)


def read_anchors(options: Options) -> tuple[list[str], NDArray[np.float32]]:
    """Technique ids and their unit vectors, (techniques, 384). Raises OSError."""
    with np.load(options.work / ANCHORS_FILE) as file:
        return [str(name) for name in file["names"]], file["vectors"]


def embed_pieces(tokens: Sequence[str], width: int) -> NDArray[np.float32]:
    """A start for the embeddings of a vocabulary: the mean of MiniLM's own embeddings of each
    token's pieces, in their `width` widest directions, of deviation one; (tokens, width)."""
    source = find_encoder_source(read_pinned(_SHIPPED, "encoder"))
    _, weights = _load_minilm(source, "cpu")
    table = weights["embeddings.word_embeddings.weight"].numpy()
    tokenizer = _open_minilm_tokenizer(source)
    known = tokenizer.get_vocab()
    found = np.zeros((len(tokens), table.shape[1]), np.float32)
    for place, token in enumerate(tokens):
        inner = tokenizer.encode(token.removeprefix("##"), add_special_tokens=False).ids
        found[place] = table[[known[token]] if token in known else inner or [0]].mean(0)
    found -= found.mean(0)
    _, _, directions = np.linalg.svd(found, full_matrices=False)
    cut = found @ directions[:width].T
    return np.asarray(cut / cut.std(), np.float32)


def _pool_all(
    config: BertConfig, weights: Weights, tokens: Sequence[TokenIds], size: int = 64
) -> Iterator[tuple[Any, Any]]:
    import torch  # noqa: PLC0415 - only in the extra train

    device = weights["embeddings.LayerNorm.weight"].device.type
    order = np.argsort([len(text) for text in tokens], kind="stable")
    with torch.no_grad():
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            ids, mask = pad_batch([tokens[at] for at in batch], device)
            with torch.autocast(device, torch.bfloat16):
                pooled = pool_texts(weights, config, ids, mask, tanh_gelu=False)
            yield torch.from_numpy(batch), pooled.float()


def _write_soft(
    options: Options,
    rows: Sequence[Example],
    plan: Plan,
    *,
    config: BertConfig,
    weights: Weights,
    tokenizer: Any,
    names: list[str],
) -> None:
    """Score the rows and write what `read_soft` reads."""
    import torch  # noqa: PLC0415 - only in the extra train
    from torch.nn import functional  # noqa: PLC0415

    asked = _choose_scored(rows, plan.max_scored, options.seed)
    tokens = _encode_minilm(tokenizer, [rows[at].text for at in asked], plan.tokens)
    logits = np.zeros(len(rows), np.float32)
    likely = min(TOP_TECHNIQUES, len(names))
    techniques = np.zeros((len(rows), likely), np.int16)
    shares = np.zeros((len(rows), likely), np.float16)
    vectors = np.zeros((len(rows), PROJECTED), np.float16)
    for batch, pooled in _pool_all(config, weights, tokens):
        place = asked[batch.numpy()]
        score = functional.linear(pooled, weights["head.malicious.weight"])[:, 0]
        logits[place] = (score + weights["head.malicious.bias"]).cpu().numpy()
        chance = torch.softmax(
            functional.linear(
                pooled, weights["head.technique.weight"], weights["head.technique.bias"]
            ),
            1,
        )
        top = chance.topk(likely)
        techniques[place] = top.indices.cpu().numpy().astype(np.int16)
        shares[place] = top.values.cpu().numpy().astype(np.float16)
        projected = functional.normalize(functional.linear(pooled, weights["head.project.weight"]))
        vectors[place] = projected.cpu().numpy().astype(np.float16)
    known = np.zeros(len(rows), bool)
    known[asked] = True
    calibrated = _calibrate_known(rows, logits, known)
    np.savez(
        options.work / SOFT_FILE,
        rows=hash_rows(rows),
        known=known,
        logits=calibrated,
        techniques=techniques,
        shares=shares,
        vectors=vectors,
        names=np.array(names),
    )
    ngrams = np.load(options.work / NGRAMS_FILE)["logits"]
    shown = np.flatnonzero(known).tolist()
    share = choose_share(rows, ngrams, calibrated, known)
    print(f"MiniLM's share in the teachers' score, chosen on valid: {share}")
    _report(
        [rows[at] for at in shown],
        {
            "n-grams": ngrams[shown],
            "MiniLM": calibrated[shown],
            "both": (1 - share) * ngrams[shown] + share * calibrated[shown],
        },
    )


def _calibrate_known(
    rows: Sequence[Example], logits: NDArray[np.float32], known: NDArray[np.bool_]
) -> NDArray[np.float32]:
    shown = np.flatnonzero(known).tolist()
    found = np.zeros(len(rows), np.float32)
    found[shown] = _calibrate([rows[at] for at in shown], logits[shown])
    return found


def _choose_scored(rows: Sequence[Example], most: int, seed: int) -> NDArray[np.int64]:
    """Training rows, at most `most`, the labelled first; a labelled row of another split always,
    up to `most` of each."""
    order = np.random.default_rng(seed).permutation(len(rows))
    train = [at for at in order if rows[at].split == "train"]
    train.sort(key=lambda at: rows[at].label is None)
    others = [at for at in order if is_measured(rows[at])]
    return np.sort(np.array(train[:most] + others[:most], np.int64))


def read_soft(options: Options, rows: Sequence[Example]) -> Soft:
    """What the teachers that have run say of these rows: the n-grams at least. Raises OSError,
    ValueError when they were asked about other rows."""
    stamp = hash_rows(rows)
    with np.load(options.work / NGRAMS_FILE) as file:
        _check_rows(file, stamp, NGRAMS_FILE)
        logits = file["logits"]
    chance = _squash(logits)
    path = options.work / SOFT_FILE
    if not path.is_file():
        nothing = np.zeros((len(rows), 1), np.int64)
        return Soft(
            chance,
            np.zeros(len(rows), bool),
            [],
            nothing,
            nothing.astype(np.float32),
            np.zeros((len(rows), PROJECTED), np.float16),
        )
    with np.load(path) as file:
        _check_rows(file, stamp, SOFT_FILE)
        known = file["known"]
        share = choose_share(rows, logits, file["logits"], known)
        chance[known] = _squash((1 - share) * logits[known] + share * file["logits"][known])
        return Soft(
            chance,
            known,
            [str(name) for name in file["names"]],
            file["techniques"].astype(np.int64),
            file["shares"].astype(np.float32),
            file["vectors"],
        )


def choose_share(
    rows: Sequence[Example],
    logits: NDArray[np.float32],
    others: NDArray[np.float32],
    known: NDArray[np.bool_],
) -> float:
    """MiniLM's share (`others`) in the teachers' logit: the one of 0, 0.1, ... 1 with the least
    cross-entropy on the labelled rows of `valid`; 0 where there are none."""
    chosen = known & np.array([row.split == "valid" and row.label is not None for row in rows])
    if not chosen.any():
        return 0.0
    labels = np.array([float(row.label or 0) for row in rows])[chosen]
    weights = weigh_rows(rows)[chosen]

    def measure_loss(share: float) -> float:
        mixed = (1 - share) * logits[chosen] + share * others[chosen]
        chance = np.clip(_squash(mixed).astype(np.float64), 1e-6, 1 - 1e-6)
        return float(-(weights * np.log(np.where(labels == 1, chance, 1 - chance))).sum())

    return min((step / 10 for step in range(11)), key=measure_loss)


def _check_rows(file: Any, stamp: str, name: str) -> None:
    if str(file["rows"]) != stamp:
        raise ValueError(f"{name} is about other rows than examples.jsonl: run `teacher` again")


def _squash(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), np.float32)
