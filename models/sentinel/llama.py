"""Runs a sentinel's GGUF file with llama.cpp, as the product's child process does: several texts a
batch, one thread. For parity and speed (stages `export` and `evaluate`)."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from appliance.inference.frames import tidy_text
from models.sentinel.heads import Matrix

#: Texts in one call of llama.cpp, unless told.
SEQUENCES: Final = 8


class Runner:
    """One context of one thread. Raises ValueError when llama.cpp refuses file or batch."""

    def __init__(self, model: Path, max_tokens: int, sequences: int = SEQUENCES) -> None:
        import llama_cpp  # noqa: PLC0415 - the parts of the recipe that train do not need it

        self._llama: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(_say_nothing)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.max_tokens = max_tokens
        self.sequences = sequences
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(model), options)
        if not self._model:
            raise ValueError(f"{model}: llama.cpp cannot load it")
        self._context = self._open_context()
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.dims = int(llama_cpp.llama_model_n_embd(self._model))
        self._batch = llama_cpp.llama_batch_init(max_tokens * sequences, 0, 1)

    def close(self) -> None:
        """Give the memory back."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Ids of the text, [CLS] and [SEP] included, at most `max_tokens`."""
        raw = tidy_text(text).encode("utf-8")
        room = len(raw) + 2
        buffer = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(
            self._vocabulary, raw, len(raw), buffer, room, True, False
        )
        if count < 2:
            raise ValueError(f"llama.cpp cannot tokenize: {count}")
        tokens: list[int] = list(buffer[:count])
        if count > self.max_tokens:
            tokens = [*tokens[: self.max_tokens - 1], tokens[-1]]
        return tokens

    def pool_texts(self, texts: Sequence[str]) -> Matrix:
        """Mean-pooled vectors, not normalised, (texts, dims)."""
        return self.pool_tokens([self.tokenize(text) for text in texts])

    def pool_tokens(self, texts: Sequence[Sequence[int]]) -> Matrix:
        """The same for texts that are tokens already."""
        found = np.zeros((len(texts), self.dims), np.float32)
        # Texts of one length together: the batch's attention is over all of its tokens.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), self.sequences):
            rows = order[start : start + self.sequences]
            for row, vector in zip(rows, self._encode([texts[row] for row in rows]), strict=True):
                found[row] = vector
        return found

    def _encode(self, texts: Sequence[Sequence[int]]) -> Iterator[Matrix]:
        batch = self._batch
        at = 0
        for sequence, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                batch.token[at] = token
                batch.pos[at] = position
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = 1
                at += 1
        batch.n_tokens = at
        if status := self._llama.llama_encode(self._context, batch):
            raise ValueError(f"llama.cpp cannot encode {at} tokens: {status}")
        for sequence in range(len(texts)):
            row = self._llama.llama_get_embeddings_seq(self._context, sequence)
            yield np.ctypeslib.as_array(row, (self.dims,)).copy()

    def _open_context(self) -> Any:
        options = self._llama.llama_context_default_params()
        tokens = self.max_tokens * self.sequences
        options.n_ctx = tokens
        options.n_batch = tokens
        options.n_ubatch = tokens
        options.n_seq_max = self.sequences
        options.n_threads = 1
        options.n_threads_batch = 1
        options.embeddings = True
        options.pooling_type = self._llama.LLAMA_POOLING_TYPE_MEAN
        options.flash_attn_type = 0  # off: slower below some hundred tokens
        options.kv_unified = True
        context = self._llama.llama_init_from_model(self._model, options)
        if not context:
            raise ValueError("llama.cpp cannot open a context")
        return context


def _say_nothing(_level: int, _text: bytes, _data: Any) -> None:
    """llama.cpp's log, thrown away: it is long, and errors are statuses."""
