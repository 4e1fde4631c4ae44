"""Stage `tokenizer`: learns the sentinel's own WordPiece vocabulary from the training texts.

examples.jsonl -> vocab.txt, one token a line, the line number is the id. Lower case. The product
tokenizes with llama.cpp from the same vocabulary inside the GGUF file; `encode_texts` gives the
same ids here (a test compares them). WordPiece: Wu et al. 2016, arXiv:1609.08144; the
splitting into words is BERT's (Devlin et al. 2018).
"""

import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from appliance.inference.frames import tidy_text
from models.sentinel.bert import TokenIds
from models.sentinel.options import Options
from models.sentinel.rows import read_rows

#: Where the vocabulary lies in Options.work.
VOCABULARY_FILE: Final = "vocab.txt"
#: Tokens of the vocabulary, special ones included.
VOCABULARY: Final = 8_000
SMALL_VOCABULARY: Final = 2_000
#: Longest text the model reads, in tokens with [CLS] and [SEP]; the product cuts at the same.
MAX_TOKENS: Final = 96
#: In the order of their ids.
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNKNOWN: Final = SPECIAL[1]
_CLS: Final = 2
_SEP: Final = 3
_MIN_COUNT: Final = 3
#: BERT reads longer words as [UNK]; the product's `tidy_text` sees to the same.
_MAX_WORD: Final = 100
#: Characters of other scripts that get a token of their own, at most.
_ALPHABET: Final = 300


def run(options: Options) -> None:
    """The stage. Raises OSError, ValueError where there is no text to learn from."""
    size = SMALL_VOCABULARY if options.small else VOCABULARY
    rows = read_rows(options.work / "examples.jsonl")
    texts = dict.fromkeys(row.text for row in rows if row.split == "train")
    if not texts:
        raise ValueError("examples.jsonl has no training rows")
    tokens = learn_vocabulary(texts, size)
    write_vocabulary(options.work / VOCABULARY_FILE, tokens)
    print(f"vocabulary: {len(tokens)} tokens from {len(texts)} texts")


def learn_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """At most `size` tokens, the special ones first. Every printable ASCII character is among
    them, alone and (letters and digits) as a word's continuation, so that no ASCII word is
    [UNK]."""
    from tokenizers import Tokenizer, models, trainers  # noqa: PLC0415 - only in the extra train

    tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    _add_words(tokenizer)
    singles = _list_singles()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size - len(singles),
        min_frequency=_MIN_COUNT,
        limit_alphabet=_ALPHABET,
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator((tidy_text(text) for text in texts), trainer)
    learned = tokenizer.get_vocab()
    ordered = sorted(learned, key=lambda token: (learned[token], token))
    # llama.cpp marks word starts by U+2581: a token that has it would be read as another.
    ordered = [token for token in ordered if "\u2581" not in token]
    return [*ordered, *(single for single in singles if single not in learned)]


def _list_singles() -> list[str]:
    printable = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    return printable + [f"##{char}" for char in string.ascii_lowercase + string.digits]


def _add_words(tokenizer: Any) -> None:
    from tokenizers import normalizers, pre_tokenizers  # noqa: PLC0415 - only in the extra train

    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def write_vocabulary(path: Path, tokens: Sequence[str]) -> None:
    """One token a line. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.write_text("\n".join(tokens) + "\n", "utf-8")
    new.replace(path)


def read_vocabulary(path: Path) -> list[str]:
    """The tokens in the order of their ids. Raises OSError, ValueError when it is no vocabulary
    of this recipe."""
    tokens = path.read_text("utf-8").removesuffix("\n").split("\n")
    if tuple(tokens[: len(SPECIAL)]) != SPECIAL or len(set(tokens)) != len(tokens):
        raise ValueError(f"{path}: not a vocabulary of this recipe")
    return tokens


def open_tokenizer(tokens: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer`. The special tokens are not registered: "[SEP]" in a text is text,
    as it is in the product."""
    from tokenizers import Tokenizer, models  # noqa: PLC0415 - only in the extra train

    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=_UNKNOWN, max_input_chars_per_word=_MAX_WORD)
    )
    _add_words(tokenizer)
    return tokenizer


def encode_texts(
    tokenizer: Any, texts: Sequence[str], max_tokens: int = MAX_TOKENS
) -> list[TokenIds]:
    """Token ids of each text, [CLS] first and [SEP] last, at most `max_tokens`."""
    return list(_encode(tokenizer, texts, max_tokens))


def _encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Iterator[TokenIds]:
    tidy = [tidy_text(text) for text in texts]
    for encoding in tokenizer.encode_batch_fast(tidy, add_special_tokens=False):
        yield np.array([_CLS, *encoding.ids[: max_tokens - 2], _SEP], np.int32)
