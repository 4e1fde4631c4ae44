"""The network of teacher and student, in PyTorch (extra `train`): BERT's encoder, mean pooling.

Written as functions over a table of weights under Hugging Face's names (BertModel), so that what
is trained is what `appliance.inference.gguf_encoder.name_tensors` renames, and the arithmetic is
that of llama.cpp's `bert` graph: post-norm blocks, no causal mask, the mean over all tokens with
[CLS] and [SEP]. BERT: Devlin et al. 2018, arXiv:1810.04805.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from appliance.inference.gguf_encoder import BertConfig

#: Weights by name. torch.Tensor; torch is no dependency of the product and has no types here.
Weights = dict[str, Any]
#: One text as token ids, [CLS] and [SEP] included.
TokenIds = NDArray[np.int32]

#: Width of one attention head, as in MiniLM's relatives of this size.
HEAD_WIDTH: Final = 64
#: Batches are padded to a multiple of this many tokens: fewer shapes, faster kernels.
_STEP: Final = 8


def make_config(layers: int, width: int, vocabulary: int, positions: int) -> BertConfig:
    """The student's shape: `layers` blocks of `width`, four times that inside, heads of 64."""
    return BertConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        num_attention_heads=max(1, width // HEAD_WIDTH),
        num_hidden_layers=layers,
        layer_norm_eps=1e-12,
        type_vocab_size=2,
        vocab_size=vocabulary,
    )


def make_weights(config: BertConfig, seed: int) -> Weights:
    """Fresh weights of a whole encoder: normal with 0.02, norms at one, biases at zero."""
    import torch  # noqa: PLC0415 - only in the extra train

    draw = torch.Generator().manual_seed(seed)
    width, inner = config.hidden_size, config.intermediate_size
    weights: Weights = {}

    def add_matrix(name: str, rows: int, columns: int) -> None:
        weights[name] = torch.randn(rows, columns, generator=draw) * 0.02

    def add_linear(name: str, rows: int, columns: int) -> None:
        add_matrix(f"{name}.weight", rows, columns)
        weights[f"{name}.bias"] = torch.zeros(rows)

    def add_norm(name: str) -> None:
        weights[f"{name}.weight"] = torch.ones(width)
        weights[f"{name}.bias"] = torch.zeros(width)

    add_matrix("embeddings.word_embeddings.weight", config.vocab_size, width)
    add_matrix("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    add_matrix("embeddings.token_type_embeddings.weight", config.type_vocab_size, width)
    add_norm("embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        stem = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            add_linear(f"{stem}.attention.self.{part}", width, width)
        add_linear(f"{stem}.attention.output.dense", width, width)
        add_norm(f"{stem}.attention.output.LayerNorm")
        add_linear(f"{stem}.intermediate.dense", inner, width)
        add_linear(f"{stem}.output.dense", width, inner)
        add_norm(f"{stem}.output.LayerNorm")
    return weights


def pool_texts(
    weights: Weights,
    config: BertConfig,
    ids: Any,
    mask: Any,
    *,
    tanh_gelu: bool = True,
    dropout: float = 0.0,
) -> Any:
    """Mean-pooled, not normalised vectors, float32 of shape (texts, width).

    `ids` int64 and `mask` bool, both (texts, tokens). llama.cpp computes GELU by tanh, MiniLM was
    trained with erf: `tanh_gelu` chooses. `dropout` on what each block adds.
    """
    from torch.nn import functional  # noqa: PLC0415 - only in the extra train

    count, length = ids.shape
    heads = config.num_attention_heads
    eps = config.layer_norm_eps
    gelu = "tanh" if tanh_gelu else "none"

    def apply_linear(name: str, x: Any) -> Any:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def apply_norm(name: str, x: Any) -> Any:
        shape = (config.hidden_size,)
        return functional.layer_norm(
            x.float(), shape, weights[f"{name}.weight"], weights[f"{name}.bias"], eps
        )

    def drop(x: Any) -> Any:
        return functional.dropout(x, dropout) if dropout else x

    x = functional.embedding(ids, weights["embeddings.word_embeddings.weight"])
    x = x + weights["embeddings.position_embeddings.weight"][:length]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = drop(apply_norm("embeddings.LayerNorm", x))
    seen = None if bool(mask.all()) else mask[:, None, None, :]
    for layer in range(config.num_hidden_layers):
        stem = f"encoder.layer.{layer}"
        query, key, value = (
            apply_linear(f"{stem}.attention.self.{part}", x)
            .view(count, length, heads, -1)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed = mixed.transpose(1, 2).reshape(count, length, -1)
        mixed = drop(apply_linear(f"{stem}.attention.output.dense", mixed))
        x = apply_norm(f"{stem}.attention.output.LayerNorm", x + mixed)
        inner = functional.gelu(apply_linear(f"{stem}.intermediate.dense", x), approximate=gelu)
        x = apply_norm(
            f"{stem}.output.LayerNorm", x + drop(apply_linear(f"{stem}.output.dense", inner))
        )
    kept = mask[:, :, None].to(x.dtype)
    return (x * kept).sum(1) / kept.sum(1)


def pad_batch(texts: Sequence[TokenIds], device: str) -> tuple[Any, Any]:
    """`ids` and `mask` for `pool_texts`, padded to the longest text (a multiple of 8)."""
    import torch  # noqa: PLC0415 - only in the extra train

    longest = max(len(text) for text in texts)
    longest = -(-longest // _STEP) * _STEP
    ids = np.zeros((len(texts), longest), np.int64)
    mask = np.zeros((len(texts), longest), bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = True
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def group_by_length(
    lengths: NDArray[np.int64], size: int, seed: int, chunk: int = 64
) -> Iterator[NDArray[np.int64]]:
    """Indices of every text once, in shuffled batches of `size` texts of about one length: sorted
    within chunks of `chunk` batches, so that padding is little and order still random."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), size * chunk):
        part = order[start : start + size * chunk]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    for index in random.permutation(len(batches)):
        yield batches[index]
