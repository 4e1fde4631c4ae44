"""Stage `student`: distils the teachers into an encoder small enough for every event.

Its head `malicious` reads the n-grams' log-odds beside what the encoder pooled. The encoder is
trained without them, and the two are added up by a logistic regression on `valid`: on rows that
neither was trained on. Trained together the encoder learns to overrule the n-grams, and loses on
sources that training never saw (abilities of stockpile flagged at 1 in 100 process starts: 59 %,
instead of 92 %).

examples.jsonl, vocab.txt, the teachers' files -> student.safetensors (weights under Hugging Face's
names and heads), student.scores.npz (logit of each labelled valid and test row),
student.reference.json (vectors of some texts, for the parity of what is exported).
"""

import datetime
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.inference.gguf_encoder import BertConfig
from models.sentinel.augment import augment_text
from models.sentinel.bert import (
    TokenIds,
    Weights,
    group_by_length,
    make_config,
    make_weights,
    pad_batch,
    pool_texts,
)
from models.sentinel.heads import PROJECTED, list_tactics, read_techniques
from models.sentinel.measures import fit_sum, is_measured, list_figures, show_figures
from models.sentinel.options import Options
from models.sentinel.rows import Example, read_rows
from models.sentinel.teacher import (
    NGRAMS_FILE,
    SHARPNESS,
    Soft,
    embed_pieces,
    hash_rows,
    read_anchors,
    read_soft,
)
from models.sentinel.tokenizer import (
    MAX_TOKENS,
    VOCABULARY_FILE,
    encode_texts,
    open_tokenizer,
    read_vocabulary,
)
from models.sentinel.training import (
    choose_techniques,
    share_techniques,
    train_weights,
    weigh_rows,
    write_weights,
)

STUDENT_FILE: Final = "student.safetensors"
SCORES_FILE: Final = "student.scores.npz"
REFERENCE_FILE: Final = "student.reference.json"

#: Share of the label in what a labelled row's score is drawn to; the rest is the teachers'.
_LABEL_SHARE: Final = 0.7
#: Share of the teacher's techniques beside the label's.
_SOFT_SHARE: Final = 0.25
#: An ordinary row that the n-grams take for an attack counts this many times.
_HARD: Final = 2.0
_DROPOUT: Final = 0.1
_EMBEDDINGS: Final = "embeddings.word_embeddings.weight"
#: Deviation of the embeddings that training starts from.
_START: Final = 0.05
_REFERENCE_TEXTS: Final = 200
_PADDING_TEXTS: Final = 2_000


class Plan(msgspec.Struct, frozen=True):
    """How much is done, and the shape. `passes` over the training rows, at most `max_rows` of
    them (rows without a label first to go)."""

    layers: int = 2
    width: int = 128
    passes: float = 4.0
    max_rows: int = 200_000
    batch: int = 64
    rate: float = 1.2e-3


PLAN: Final = Plan()
SMALL: Final = Plan(passes=6.0, max_rows=2_000, batch=32)


class Reference(msgspec.Struct):
    """What the float model gives for some texts: token ids, pooled vector with the n-grams'
    log-odds behind it, logit."""

    text: str
    ids: list[int]
    vector: list[float]
    logit: float


class Goals(msgspec.Struct):
    """What each training row is drawn to, by row."""

    chance: NDArray[np.float32]
    balance: NDArray[np.float32]
    index: NDArray[np.int64]
    share: NDArray[np.float32]
    anchor_index: NDArray[np.int64]
    anchor_share: NDArray[np.float32]
    known: NDArray[np.bool_]
    vectors: NDArray[np.float16]


def run(options: Options) -> None:
    """The stage. Raises OSError, ValueError when its files do not fit each other."""
    train_student(options, SMALL if options.small else PLAN)


def train_student(options: Options, plan: Plan) -> dict[str, Any]:
    """Train, calibrate, write; gives what is written about it."""
    import torch  # noqa: PLC0415 - only in the extra train

    torch.manual_seed(options.seed)
    rows = list(read_rows(options.work / "examples.jsonl"))
    soft = read_soft(options, rows)
    tokens = read_vocabulary(options.work / VOCABULARY_FILE)
    tokenizer = open_tokenizer(tokens)
    techniques = read_techniques(options.data)
    tactics = list_tactics(techniques)
    names = choose_techniques(rows, {technique.id for technique in techniques})
    belongs = np.zeros((len(names), len(tactics)), np.float32)
    for technique in techniques:
        if technique.id in names:
            for tactic in technique.tactics:
                place = names.index(technique.id), tactics.index(tactic)
                belongs[place] = 1.0 / len(technique.tactics)
    chosen = _choose_rows(rows, plan.max_rows, options.seed)
    anchor_names, anchors = read_anchors(options)
    goals = _set_goals(rows, chosen, soft, names, anchor_names)
    config = make_config(plan.layers, plan.width, len(tokens), MAX_TOKENS)
    weights = make_weights(config, options.seed)
    weights[_EMBEDDINGS] = torch.from_numpy(embed_pieces(tokens, plan.width)) * _START
    weights |= _make_heads(plan.width, len(names), len(tactics))
    weights = {name: tensor.to(options.device) for name, tensor in weights.items()}
    _train(
        options,
        plan,
        config,
        weights,
        tokenizer=tokenizer,
        rows=[rows[at] for at in chosen],
        goals=goals,
        belongs=belongs,
        anchors=anchors,
    )
    about = _calibrate(options, config, weights, tokenizer, rows)
    about |= {
        "config": msgspec.to_builtins(config),
        "techniques": names,
        "tactics": tactics,
        "tokens": MAX_TOKENS,
        "trained": _read_date(),
        "recipe": hashlib.sha256(f"{hash_rows(rows)} {plan} {options.seed}".encode()).hexdigest(),
    }
    write_weights(options.work / STUDENT_FILE, weights, about)
    return about


def _read_date() -> str:
    """Today, or that of SOURCE_DATE_EPOCH, for a build that is to be the same again."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.now(datetime.UTC)
    when = datetime.datetime.fromtimestamp(int(given), datetime.UTC) if given else now
    return when.date().isoformat()


def _make_heads(width: int, techniques: int, tactics: int) -> Weights:
    import torch  # noqa: PLC0415 - only in the extra train

    return {
        "head.malicious.weight": torch.zeros(1, width),
        "head.malicious.bias": torch.zeros(1),
        "head.technique.weight": torch.zeros(techniques, width),
        "head.technique.bias": torch.zeros(techniques),
        "head.tactic.weight": torch.zeros(tactics, width),
        "head.tactic.bias": torch.zeros(tactics),
        "head.project.weight": torch.randn(PROJECTED, width) * 0.05,
    }


def _choose_rows(rows: Sequence[Example], most: int, seed: int) -> NDArray[np.int64]:
    order = np.random.default_rng(seed).permutation(len(rows))
    train = [at for at in order if rows[at].split == "train"]
    train.sort(key=lambda at: rows[at].label is None)
    return np.sort(np.array(train[:most], np.int64))


def _set_goals(
    rows: Sequence[Example],
    chosen: NDArray[np.int64],
    soft: Soft,
    names: list[str],
    anchor_names: list[str],
) -> Goals:
    picked = [rows[at] for at in chosen]
    labels = np.array([-1.0 if row.label is None else row.label for row in picked], np.float32)
    chance = soft.chance[chosen]
    mixed = _LABEL_SHARE * labels + (1.0 - _LABEL_SHARE) * chance
    balance = weigh_rows(rows)[chosen]
    hard = (labels == 0) & (chance > 0.5)
    index, share = share_techniques(picked, names)
    anchor_index, anchor_share = share_techniques(picked, anchor_names)
    if soft.names:
        index, share = _mix_techniques(index, share, soft, chosen, names)
    return Goals(
        chance=np.where(labels < 0, chance, mixed).astype(np.float32),
        balance=np.where(hard, balance * _HARD, balance).astype(np.float32),
        index=index,
        share=share,
        anchor_index=anchor_index,
        anchor_share=anchor_share,
        known=soft.known[chosen],
        vectors=soft.vectors[chosen],
    )


def _mix_techniques(
    index: NDArray[np.int64],
    share: NDArray[np.float32],
    soft: Soft,
    chosen: NDArray[np.int64],
    names: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The label's techniques and the teacher's where there are both; the teacher's alone, by its
    chance of an attack, where there is no label's."""
    places = {name: place for place, name in enumerate(names)}
    translate = np.array([places.get(name, -1) for name in soft.names])
    theirs = translate[soft.techniques[chosen]]
    given = np.where(theirs >= 0, soft.shares[chosen], 0.0)
    given = given / np.maximum(given.sum(1, keepdims=True), 1e-9)
    named = share.sum(1) > 0
    known = soft.known[chosen]
    chance = soft.chance[chosen]
    ours = np.where(known & named, 1.0 - _SOFT_SHARE, 1.0)
    alone = np.where(chance > 0.5, _SOFT_SHARE * chance, 0.0)
    teachers = np.where(named, _SOFT_SHARE, alone) * known
    return (
        np.concatenate([index, np.maximum(theirs, 0)], axis=1),
        np.concatenate([share * ours[:, None], given * teachers[:, None]], axis=1).astype(
            np.float32
        ),
    )


def _train(
    options: Options,
    plan: Plan,
    config: BertConfig,
    weights: Weights,
    *,
    tokenizer: Any,
    rows: Sequence[Example],
    goals: Goals,
    belongs: NDArray[np.float32],
    anchors: NDArray[np.float32],
) -> None:
    import torch  # noqa: PLC0415 - only in the extra train

    plain = encode_texts(tokenizer, [row.text for row in rows])
    lengths = np.array([len(text) for text in plain])
    ordinary = [row.text for row in rows if row.label == 0][:_PADDING_TEXTS]
    per_pass = -(-len(rows) // plan.batch)
    steps = max(1, int(per_pass * plan.passes))
    batches = (
        batch
        for number in range(int(np.ceil(plan.passes)))
        for batch in group_by_length(lengths, plan.batch, options.seed + number)
    )
    shares = torch.from_numpy(belongs).to(options.device)
    places = torch.from_numpy(anchors).to(options.device)

    def measure_loss(step: int, batch: NDArray[np.int64]) -> Any:
        random = np.random.default_rng([options.seed, step])
        texts = [augment_text(rows[at].text, ordinary, random) for at in batch]
        ids, mask = pad_batch(encode_texts(tokenizer, texts), options.device)
        with torch.autocast(options.device, torch.bfloat16):
            pooled = pool_texts(weights, config, ids, mask, dropout=_DROPOUT)
        return _measure_loss(pooled.float(), weights, goals, batch, belongs=shares, anchors=places)

    train_weights(
        weights,
        dict.fromkeys(weights, plan.rate),
        batches,
        measure_loss,
        steps=steps,
        checkpoint=options.work / "student.checkpoint.safetensors",
        stamp=f"{hash_rows(rows)} {plan} {options.seed} {float(goals.chance.sum()):.3f}",
        say=lambda line: print(f"student: {line}", flush=True),
    )


def _measure_loss(
    pooled: Any,
    weights: Weights,
    goals: Goals,
    batch: NDArray[np.int64],
    *,
    belongs: Any,
    anchors: Any,
) -> Any:
    import torch  # noqa: PLC0415 - only in the extra train
    from torch.nn import functional  # noqa: PLC0415

    def put(values: NDArray[Any]) -> Any:
        return torch.from_numpy(values[batch]).to(pooled.device)

    logits = functional.linear(
        pooled, weights["head.malicious.weight"], weights["head.malicious.bias"]
    )[:, 0]
    loss = functional.binary_cross_entropy_with_logits(
        logits, put(goals.chance), put(goals.balance)
    )
    share = put(goals.share)
    wanted = torch.zeros(len(batch), belongs.shape[0], device=pooled.device)
    wanted.scatter_add_(1, put(goals.index), share)
    technique = functional.linear(
        pooled, weights["head.technique.weight"], weights["head.technique.bias"]
    )
    tactic = functional.linear(pooled, weights["head.tactic.weight"], weights["head.tactic.bias"])
    # Both goals are shares, but a row without techniques has none: its sum is zero.
    count = share.sum().clamp(min=1.0)
    loss = loss - 0.3 * (wanted * functional.log_softmax(technique, 1)).sum() / count
    loss = loss - 0.1 * (wanted @ belongs * functional.log_softmax(tactic, 1)).sum() / count
    projected = functional.normalize(functional.linear(pooled, weights["head.project.weight"]))
    share = put(goals.anchor_share)
    wanted = torch.zeros(len(batch), anchors.shape[0], device=pooled.device)
    wanted.scatter_add_(1, put(goals.anchor_index), share)
    near = functional.log_softmax(projected @ anchors.T * SHARPNESS, 1)
    loss = loss - 0.2 * (wanted * near).sum() / share.sum().clamp(min=1.0)
    known = put(goals.known)
    if bool(known.any()):
        theirs = put(goals.vectors)[known].float()
        loss = loss + 0.3 * (1.0 - (projected[known] * theirs).sum(1)).mean()
    return loss


def pool_all(
    config: BertConfig, weights: Weights, tokens: Sequence[TokenIds], size: int = 256
) -> NDArray[np.float32]:
    """Pooled vectors of texts in float32, (texts, width)."""
    import torch  # noqa: PLC0415 - only in the extra train

    device = weights["embeddings.LayerNorm.weight"].device.type
    found = np.zeros((len(tokens), config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in tokens], kind="stable")
    with torch.no_grad():
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            ids, mask = pad_batch([tokens[at] for at in batch], device)
            found[batch] = pool_texts(weights, config, ids, mask).cpu().numpy()
    return found


def _calibrate(
    options: Options, config: BertConfig, weights: Weights, tokenizer: Any, rows: Sequence[Example]
) -> dict[str, Any]:
    """Add up encoder and n-grams, score the labelled rows of valid and test, print figures, and
    write scores and reference."""
    asked = [at for at, row in enumerate(rows) if is_measured(row)]
    shown = [rows[at] for at in asked]
    tokens = encode_texts(tokenizer, [row.text for row in shown])
    with np.load(options.work / NGRAMS_FILE) as file:
        beside = file["logits"][asked]
    pooled = pool_all(config, weights, tokens)
    logits = _add_ngrams(weights, pooled, beside, shown, weigh_rows(rows)[asked])
    vectors = np.column_stack([pooled, beside])
    np.savez(options.work / SCORES_FILE, rows=np.array(asked), logits=logits)
    picked = np.random.default_rng(options.seed).permutation(len(shown))[:_REFERENCE_TEXTS]
    references = [
        Reference(shown[at].text, tokens[at].tolist(), vectors[at].tolist(), float(logits[at]))
        for at in picked
    ]
    (options.work / REFERENCE_FILE).write_bytes(msgspec.json.encode(references))
    figures = list_figures(shown, {"student": logits})
    return {"temperature": 1.0, "figures": figures}


def _add_ngrams(
    weights: Weights,
    pooled: NDArray[np.float32],
    beside: NDArray[np.float32],
    shown: Sequence[Example],
    balance: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Make the head `malicious` one that reads the n-grams' log-odds `beside` what was pooled, by
    the rows of `valid`; gives its logits, which are calibrated there."""
    import torch  # noqa: PLC0415 - only in the extra train

    head = weights["head.malicious.weight"].cpu().numpy()[0]
    constant = float(weights["head.malicious.bias"][0])
    both = np.column_stack([pooled @ head + constant, beside]).astype(np.float64)
    valid = np.array([row.split == "valid" and row.label is not None for row in shown], bool)
    labels = np.array([float(row.label or 0) for row in shown])
    shares, added = fit_sum(both[valid], labels[valid], balance[valid].astype(np.float64))
    print(f"student: {shares[0]:.3f} of the encoder, {shares[1]:.3f} of the n-grams", flush=True)
    joined = np.append(head * shares[0], shares[1])[None].astype(np.float32)
    weights["head.malicious.weight"] = torch.from_numpy(joined)
    weights["head.malicious.bias"] = torch.tensor([constant * shares[0] + added])
    logits: NDArray[np.float64] = both @ shares + added
    scores = {"encoder": both[:, 0], "n-grams": both[:, 1], "both": logits}
    print(show_figures(list_figures(shown, scores), list(scores)))
    return logits
