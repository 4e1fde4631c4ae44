"""What `teacher` and `student` train with: weights of rows, the loop, its checkpoints."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.sentinel.bert import Weights
from models.sentinel.rows import Example

#: One side of a kind of text is weighted up by no more than this to meet the other.
_MAX_BALANCE: Final = 8.0
#: Rare kinds are weighted up by no more than this.
_MAX_KIND: Final = 4.0
#: Share of the steps in which the learning rate rises; it falls to zero in the rest.
_WARM_SHARE: Final = 0.06
_CLIP: Final = 1.0
#: A technique is a class of its own from this many attack rows on.
_FEWEST_ROWS: Final = 4
_DECAY: Final = 0.01
#: Seconds from checkpoint to checkpoint, and steps from progress line to progress line.
_CHECKPOINT_S: Final = 120.0
_REPORT_S: Final = 30.0


def weigh_rows(rows: Sequence[Example]) -> NDArray[np.float32]:
    """Weight of each row's loss: its own, times what makes both labels of a kind count alike and
    kinds by the square root of their size; mean about 1. Rows without a label: their own."""
    sums: Counter[tuple[str, int]] = Counter()
    for row in rows:
        if row.label is not None:
            sums[row.kind, row.label] += row.weight  # type: ignore[assignment]
    totals = {kind: sums[kind, 0] + sums[kind, 1] for kind, _ in sums}
    largest = max(totals.values(), default=1.0)
    weights = np.ones(len(rows), np.float32)
    for index, row in enumerate(rows):
        if row.label is None:
            weights[index] = row.weight
            continue
        share = totals[row.kind] / (2 * max(sums[row.kind, row.label], 1e-9))
        rare = float(np.sqrt(largest / totals[row.kind]))
        weights[index] = row.weight * min(share, _MAX_BALANCE) * min(rare, _MAX_KIND)
    return weights / max(float(weights.mean()), 1e-9)


def train_weights(
    weights: Weights,
    rates: dict[str, float],
    batches: Iterable[Any],
    measure_loss: Callable[[int, Any], Any],
    *,
    steps: int,
    checkpoint: Path,
    stamp: str,
    say: Callable[[str], None],
) -> None:
    """AdamW over the weights named in `rates` (learning rate each), in place, one step a batch.

    `measure_loss(step, batch)` gives a scalar tensor. The state lies in `checkpoint` every two
    minutes; a checkpoint of the same `stamp` is gone on from, and deleted at the end.
    `batches` must be the same at every call.
    """
    import torch  # noqa: PLC0415 - only in the extra train

    groups: dict[tuple[float, float], list[str]] = {}
    for name, rate in rates.items():
        decay = _DECAY if weights[name].ndim == 2 else 0.0
        groups.setdefault((rate, decay), []).append(name)
        weights[name].requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [weights[name] for name in names], "lr": rate, "weight_decay": decay}
            for (rate, decay), names in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
    ordered = [name for names in groups.values() for name in names]
    begun = _read_checkpoint(checkpoint, stamp, weights, ordered, optimizer)
    if begun:
        say(f"going on from step {begun} of {steps}")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _scale_rate(step + begun, steps)
    )
    saved = reported = time.monotonic()
    total, count = 0.0, 0
    for step, batch in enumerate(batches):
        if step < begun:
            continue
        if step >= steps:
            break
        loss = measure_loss(step, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([weights[name] for name in ordered], _CLIP)
        optimizer.step()
        schedule.step()
        total, count = total + float(loss.detach()), count + 1
        now = time.monotonic()
        if now - reported > _REPORT_S:
            say(f"step {step + 1} of {steps}, loss {total / count:.4f}")
            reported, total, count = now, 0.0, 0
        if now - saved > _CHECKPOINT_S:
            _write_checkpoint(
                checkpoint, stamp, step + 1, weights=weights, ordered=ordered, optimizer=optimizer
            )
            saved = now
    for name in ordered:
        weights[name].requires_grad_(False)
    checkpoint.unlink(missing_ok=True)


def _scale_rate(step: int, steps: int) -> float:
    warm = max(1, int(_WARM_SHARE * steps))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def _write_checkpoint(
    path: Path, stamp: str, step: int, *, weights: Weights, ordered: Sequence[str], optimizer: Any
) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415 - only in the extra train

    tensors: Weights = {}
    for name in ordered:
        state = optimizer.state[weights[name]]
        if "exp_avg" not in state:  # no loss has reached it yet
            continue
        tensors[f"w.{name}"] = weights[name].detach()
        tensors[f"m.{name}"] = state["exp_avg"]
        tensors[f"v.{name}"] = state["exp_avg_sq"]
    new = path.with_name(f"{path.name}.new")
    save_file(tensors, new, metadata={"stamp": stamp, "step": str(step)})
    new.replace(path)


def _read_checkpoint(
    path: Path, stamp: str, weights: Weights, ordered: Sequence[str], optimizer: Any
) -> int:
    """Put the state in place; the steps done, 0 where there is no checkpoint of this stamp."""
    import torch  # noqa: PLC0415 - only in the extra train
    from safetensors import safe_open  # noqa: PLC0415 - only in the extra train

    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        about = file.metadata()
        if about.get("stamp") != stamp:
            return 0
        step = int(about["step"])
        with torch.no_grad():
            saved = set(file.keys())
            for name in ordered:
                if f"w.{name}" not in saved:
                    continue
                tensor = weights[name]
                tensor.copy_(file.get_tensor(f"w.{name}"))
                optimizer.state[tensor] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"m.{name}").to(tensor.device),
                    "exp_avg_sq": file.get_tensor(f"v.{name}").to(tensor.device),
                }
    return step


def write_weights(path: Path, weights: Weights, about: dict[str, Any]) -> None:
    """A safetensors file with `about` as JSON in its metadata, whole or not at all."""
    from safetensors.torch import save_file  # noqa: PLC0415 - only in the extra train

    new = path.with_name(f"{path.name}.new")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, new, metadata={"sentinel": json.dumps(about, sort_keys=True)})
    new.replace(path)


def choose_techniques(rows: Sequence[Example], live: set[str]) -> list[str]:
    """The techniques that heads tell apart: of `live` ones, those of enough attack rows of the
    training split, by id. Raises ValueError when there is none."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.split == "train" and row.label == 1:
            for name in set(row.techniques) & live:
                counts[name] = counts.get(name, 0) + 1
    names = sorted(name for name, count in counts.items() if count >= _FEWEST_ROWS)
    if not names:
        raise ValueError("examples.jsonl: no technique has enough attack rows")
    return names


def share_techniques(
    rows: Sequence[Example], names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Up to four techniques a row as indices into `names`, with their shares (rows sum to one, or
    to zero where the row names none). Both (rows, 4)."""
    places = {name: index for index, name in enumerate(names)}
    index = np.zeros((len(rows), 4), np.int64)
    share = np.zeros((len(rows), 4), np.float32)
    for row, example in enumerate(rows):
        if example.label != 1:
            continue
        known = list(dict.fromkeys(places[name] for name in example.techniques if name in places))
        for at, place in enumerate(known[:4]):
            index[row, at] = place
            share[row, at] = 1.0 / min(len(known), 4)
    return index, share
