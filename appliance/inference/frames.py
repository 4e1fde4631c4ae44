"""Inference, on the pipe between client and worker: the frames and the text that goes into them.

A frame is a 4-byte big-endian length and that many bytes of MessagePack (one tagged struct). Both
ends refuse a longer frame than `MAX_FRAME_BYTES` before they read it.
"""

import re
import struct
from typing import Final

import msgspec

#: A request holds at most `MAX_TEXTS` texts of `MAX_TEXT_CHARS`, each up to 4 bytes in UTF-8.
MAX_FRAME_BYTES: Final = 4 << 20

#: Texts in one request: the client splits longer lists, so that its timeout bounds little work.
MAX_TEXTS: Final = 16

#: Tokens the encoder reads of a text, [CLS] and [SEP] included: MiniLM's own max_seq_length.
MAX_TOKENS: Final = 256

#: Raw characters looked at. White space beyond this many hides the rest of a text.
MAX_RAW_CHARS: Final = 1 << 18

#: A token spans at most `_MAX_WORD` characters and one space once the text is tidied, so that
#: cutting here never changes the first `MAX_TOKENS` tokens.
MAX_TEXT_CHARS: Final = MAX_TOKENS * 101

#: BERT's WordPiece reads a longer word as [UNK]; llama.cpp would spell it out piece by piece. Not
#: for CJK ideographs: each of them is a word of its own.
_MAX_WORD: Final = 100
_LONG_WORD: Final = re.compile(rf"[^\W_\u3400-\u9fff\uf900-\ufaff]{{{_MAX_WORD + 1},}}")
_UNKNOWN: Final = "\N{MOYAI}"  # a character that is not in the vocabulary: becomes [UNK]
_SURROGATES: Final = re.compile("[\ud800-\udfff\0]+")

#: Length prefix of a frame.
PREFIX: Final = struct.Struct(">I")


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The worker's first frame: the model is loaded. `sha256` is that of the file it read, `dims`
    the length of its vectors."""

    sha256: str
    dims: int


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """The client's question. The answer carries the same `number`."""

    number: int
    texts: tuple[str, ...]


class Vectors(msgspec.Struct, frozen=True, tag="vectors"):
    """The answer: rows of little-endian float32, `dims` each, of length 1, one a text, in order."""

    number: int
    data: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The worker cannot serve: the model does not match, or a request failed (`number`; -1 when it
    was no request)."""

    number: int
    reason: str


FromWorker = Hello | Vectors | Refused


def pack_frame(message: msgspec.Struct) -> bytes:
    """Length prefix and MessagePack of one message."""
    body = msgspec.msgpack.encode(message)
    return PREFIX.pack(len(body)) + body


def tidy_text(text: str) -> str:
    """What the tokenizer would make of the text anyway, in bounded size: lone surrogates and NUL
    dropped, white space collapsed, words over 100 characters unknown, at most `MAX_TEXT_CHARS`
    characters. Never raises."""
    known = _SURROGATES.sub("", text[:MAX_RAW_CHARS])
    return _LONG_WORD.sub(_UNKNOWN, " ".join(known.split()))[:MAX_TEXT_CHARS]
