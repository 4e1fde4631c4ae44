"""Inference, the child process: the only importer of llama_cpp.

`python -m appliance.inference.worker --model FILE` reads `Embed` frames on stdin and answers with
`Vectors` on stdout (see `frames`). It checks the model's SHA-256 before native code sees the file,
says `Hello`, and goes on until stdin ends. It dies with its parent.

One context, one thread. Texts are encoded one at a time: measured on 48 tokens, a batch of four
sequences is about 8 % faster, but then a text's vector depends (in the fourth digit) on its
neighbours, and the same rule would not always cite the same entries. The sentinel (`--sentinel`)
likewise: of two layers 128 wide, several sequences a batch are 1 % faster at 64 tokens and 15 % at
12, and move its vectors by a thousandth, so that the same event would be over the threshold in one
batch and under it in another.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError
from appliance.inference.frames import (
    MAX_FRAME_BYTES,
    MAX_TEXTS,
    MAX_TOKENS,
    PREFIX,
    Embed,
    Hello,
    Refused,
    Vectors,
    pack_frame,
    tidy_text,
)
from appliance.inference.manifest import (
    SENTINEL_NGRAMS,
    BuiltModel,
    SentinelModel,
    read_checked,
    verify_built,
    verify_sentinel,
)
from appliance.inference.ngrams import Ngrams

#: prctl(2): signal this process when the thread that started it ends.
_PR_SET_PDEATHSIG: Final = 1

_CONTEXT_TOKENS: Final = 512

#: Below 64 tokens, where rule texts lie, plain attention is about 1.4 times as fast. For the
#: sentinel it is 5 % slower, but what the recipe measured and chose thresholds with.
_FLASH_ATTENTION_OFF: Final = 0

#: What the sentinel's process gives way by to the line's on a full core (nice(2)).
_YIELD: Final = 10


class Model(Protocol):
    """What `serve` needs of a model."""

    dims: int

    def encode(self, text: str) -> NDArray[np.float32]:
        """The text's vector. May raise ModelError."""
        ...


class Encoder:
    """A sentence encoder in llama.cpp. Not thread-safe. Raises ModelError when the file cannot be
    loaded or is no encoder with mean pooling. `tokens` are read of a text at the most."""

    def __init__(self, model: Path, tokens: int = MAX_TOKENS) -> None:
        try:
            import llama_cpp  # noqa: PLC0415 - after the hash was checked
        except (ImportError, OSError, RuntimeError) as error:  # its shared library may be missing
            raise ModelError(f"llama.cpp cannot be loaded: {error}") from error
        self._llama: Any = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = self._load_model(model)
        self._tokens = min(tokens, int(llama_cpp.llama_model_n_ctx_train(self._model)))
        self._context = self._open_context()
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.dims = self._width = int(llama_cpp.llama_model_n_embd(self._model))
        if llama_cpp.llama_pooling_type(self._context) != llama_cpp.LLAMA_POOLING_TYPE_MEAN:
            raise ModelError(f"{model}: not a sentence encoder with mean pooling")
        self._batch = llama_cpp.llama_batch_init(self._tokens, 0, 1)
        self._prepare_batch()

    def encode(self, text: str) -> NDArray[np.float32]:
        """Unit vector of shape (dims,) of the text's first tokens. Raises ModelError when llama.cpp
        refuses or gives no finite vector."""
        vector = self.pool(text)
        length = float(np.linalg.norm(vector))
        if length == 0.0:
            raise ModelError("the vector is not finite")
        unit: NDArray[np.float32] = vector / np.float32(length)
        return unit

    def pool(self, text: str) -> NDArray[np.float32]:
        """The mean of the last layer over the text's first tokens, shape (dims,), as it is. Raises
        ModelError as `encode`."""
        tokens = self._tokenize(text)
        self._fill_batch(tokens)
        if status := self._llama.llama_encode(self._context, self._batch):
            raise ModelError(f"llama.cpp cannot encode {len(tokens)} tokens: {status}")
        row = self._llama.llama_get_embeddings_seq(self._context, 0)
        if not row:
            raise ModelError("llama.cpp gave no vector")
        vector = np.ctypeslib.as_array(row, (self._width,)).astype(np.float32)
        if not np.isfinite(vector).all():
            raise ModelError("the vector is not finite")
        return vector

    def _load_model(self, model: Path) -> Any:
        options = self._llama.llama_model_default_params()
        options.n_gpu_layers = 0
        loaded = self._llama.llama_model_load_from_file(os.fsencode(model), options)
        if not loaded:
            raise ModelError(f"{model}: llama.cpp cannot load it")
        return loaded

    def _open_context(self) -> Any:
        options = self._llama.llama_context_default_params()
        options.n_ctx = _CONTEXT_TOKENS
        options.n_batch = _CONTEXT_TOKENS
        options.n_ubatch = _CONTEXT_TOKENS  # an encoder needs a whole text in one micro-batch
        options.n_seq_max = 1
        options.n_threads = 1
        options.n_threads_batch = 1
        options.embeddings = True
        options.flash_attn_type = _FLASH_ATTENTION_OFF
        context = self._llama.llama_init_from_model(self._model, options)
        if not context:
            raise ModelError("llama.cpp cannot open a context")
        return context

    def _tokenize(self, text: str) -> list[int]:
        raw = tidy_text(text).encode("utf-8")
        room = len(raw) + 2  # [CLS] and [SEP]; no token is shorter than a byte
        buffer = (self._llama.llama_token * room)()
        # parse_special is off: "[SEP]" in a log is text, not a command to the model.
        count = self._llama.llama_tokenize(
            self._vocabulary, raw, len(raw), buffer, room, True, False
        )
        if count < 2:
            raise ModelError(f"llama.cpp cannot tokenize the text: {count}")
        tokens: list[int] = list(buffer[:count])
        if count > self._tokens:
            tokens = [*tokens[: self._tokens - 1], tokens[-1]]  # keep [SEP]
        return tokens

    def _prepare_batch(self) -> None:
        """What is the same for every text."""
        batch = self._batch
        for position in range(self._tokens):
            batch.pos[position] = position
            batch.n_seq_id[position] = 1
            batch.seq_id[position][0] = 0
            batch.logits[position] = 1  # mean pooling reads every token

    def _fill_batch(self, tokens: Sequence[int]) -> None:
        for position, token in enumerate(tokens):
            self._batch.token[position] = token
        self._batch.n_tokens = len(tokens)


class Sentinel(Encoder):
    """The sentinel's encoder: its heads want the mean as it is, not its direction alone, and, where
    it has `ngrams`, their log-odds behind it."""

    def __init__(self, model: Path, tokens: int, ngrams: Ngrams | None) -> None:
        super().__init__(model, tokens)
        self._ngrams = ngrams
        self.dims += ngrams is not None

    def encode(self, text: str) -> NDArray[np.float32]:
        """As `pool`, and the log-odds; shape (dims,)."""
        if self._ngrams is None:
            return self.pool(text)
        vector = np.empty(self.dims, np.float32)
        vector[:-1] = self.pool(text)
        vector[-1] = self._ngrams.weigh(text)
        return vector


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the thread that started us ends; leave at once when the
    parent (process id) is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        raise SystemExit(1)


def read_frame(stream: BinaryIO) -> bytes | None:
    """Body of the next frame, or None at the end of the stream. Raises ModelError on a frame that
    is too long or cut off."""
    prefix = stream.read(PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < PREFIX.size:
        raise ModelError("the stream ends inside a frame")
    (length,) = PREFIX.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise ModelError(f"a frame of {length} bytes")
    body = stream.read(length)
    if len(body) < length:
        raise ModelError("the stream ends inside a frame")
    return body


def answer_request(encoder: Model, request: Embed) -> Vectors | Refused:
    """Vectors of the request's texts, or why not: one bad text does not end the worker."""
    if len(request.texts) > MAX_TEXTS:
        return Refused(request.number, f"more than {MAX_TEXTS} texts")
    try:
        rows = [encoder.encode(text) for text in request.texts]
    except ModelError as error:
        return Refused(request.number, str(error))
    data = b"".join(row.astype("<f4").tobytes() for row in rows)
    return Vectors(request.number, data)


def serve(model: Path, questions: BinaryIO, answers: BinaryIO, *, sentinel: bool = False) -> None:
    """Verify and load the model, say hello, answer until `questions` ends. Raises ModelError."""
    try:
        built: BuiltModel | SentinelModel
        built = verify_sentinel(model) if sentinel else verify_built(model)
        encoder = _load_encoder(model, built)
    except ModelError as error:
        _send(answers, Refused(-1, str(error)))
        raise
    _send(answers, Hello(built.sha256, encoder.dims))
    decoder = msgspec.msgpack.Decoder(Embed)
    while (body := read_frame(questions)) is not None:
        try:
            request = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"not a request: {error}") from error
        _send(answers, answer_request(encoder, request))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process. Exit status 0 at the end of stdin, 1 when it cannot serve
    or its parent is gone."""
    parser = argparse.ArgumentParser(prog="appliance.inference.worker")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file with its manifest")
    parser.add_argument("--sentinel", action="store_true", help="the model is a sentinel")
    parser.add_argument("--parent", type=int, default=0, help="process id to die with")
    parser.add_argument("--verbose", action="store_true", help="llama.cpp's own log to stderr")
    options = parser.parse_args(arguments)
    # Ctrl-C goes to the whole foreground group: when we end is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(options.parent)
    answers = _take_stdout(options.verbose)
    if options.sentinel:
        with suppress(OSError):  # a sandbox may forbid it: then it is a process like any other
            os.nice(_YIELD)
    try:
        serve(options.model, sys.stdin.buffer, answers, sentinel=options.sentinel)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BrokenPipeError:
        return 1
    return 0


def _load_encoder(model: Path, built: BuiltModel | SentinelModel) -> Encoder:
    if isinstance(built, SentinelModel):
        encoder: Encoder = Sentinel(model, built.tokens or MAX_TOKENS, _load_ngrams(model, built))
    else:
        encoder = Encoder(model)
    if encoder.dims != built.dims:
        raise ModelError(f"{model}: {encoder.dims} dimensions, its manifest says {built.dims}")
    return encoder


def _load_ngrams(model: Path, built: SentinelModel) -> Ngrams | None:
    expected = built.files.get(SENTINEL_NGRAMS)
    if expected is None:
        return None
    path = model.parent / SENTINEL_NGRAMS
    return Ngrams.parse(read_checked(path, expected), str(path))


def _take_stdout(verbose: bool) -> BinaryIO:
    """Keep stdout for frames alone: what native code prints goes to stderr or nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    if verbose:
        os.dup2(2, 1)
        return answers
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return answers


def _send(stream: BinaryIO, message: msgspec.Struct) -> None:
    stream.write(pack_frame(message))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
