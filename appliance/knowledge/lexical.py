"""Knowledge, found by its words: how texts and questions are cut into words for FTS5.

The full-text index (https://www.sqlite.org/fts5.html) gets words that were cut here, so that an id,
a file name, a hash or a path is one word and each of its parts another: "T1059.001" is found by
itself, by "T1059" and by "001". Both sides go through the same cut.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

#: Characters beside letters and digits that may stand inside a word; FTS5 is told the same.
WORD_CHARS: Final = "._-:/\\@$+%="

#: The tokenizer of the index (sqlite.org/fts5.html section 4.3.1): accents do not count.
TOKENIZER: Final = f"unicode61 remove_diacritics 2 tokenchars '{WORD_CHARS}'"

#: Longest word that is kept: a SHA-512 in hex.
MAX_WORD: Final = 128

#: Of a question are read this many characters, and asked this many words.
MAX_QUESTION: Final = 8_000
MAX_WORDS: Final = 24

#: Rows that one question may weigh: rare words first, common ones while there is room. It bounds
#: the time of a search (about a microsecond a row).
MAX_WEIGHED: Final = 4_000

_WORD: Final = re.compile(r"\w++(?:[._\-:/\\@$+%]{1,3}\w++)*+\*?", re.UNICODE)
_PARTS: Final = re.compile(r"[._\-:/\\@$+%]+")
_HASH_PART: Final = re.compile(r"[0-9a-f]{8,63}", re.ASCII)
_NAME_LIKE: Final = re.compile(r"[\d._\-:/\\]")
_LEAST_NAME: Final = 3
_PLAIN: Final = re.compile(r"[a-z]{4,}", re.ASCII)
_STOP: Final = frozenset(
    (  # noqa: SIM905 - a text is easier to read than seventy literals
        "a an and are as at be been but by can could did do does for from had has have he her his "
        "how i if in into is it its may me might more most my no not of on or our out she so some "
        "such than that the their them then there these they this those to was we were what when "
        "where which while who why will with would you your"
    ).split()
)


def cut_words(text: str) -> list[str]:
    """The words of a text in their order, compound ones followed by their parts, in the form in
    which they are indexed. Words over `MAX_WORD` characters are left out, their parts are not."""
    return [stem_word(word) for word in _cut(text)]


def _cut(text: str) -> Iterator[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    for found in _WORD.finditer(folded):
        whole = found[0].rstrip("*")
        parts = _PARTS.split(whole)
        if len(parts) > 1 and len(whole) <= MAX_WORD:
            yield whole
        yield from (part for part in parts if part and len(part) <= MAX_WORD)


def stem_word(word: str) -> str:
    """An English word without its common endings, so that "dumping", "dumped" and "dumps" meet.
    Words with anything but ASCII letters stay as they are."""
    if not _PLAIN.fullmatch(word):
        return word
    stem = word
    if stem.endswith("ies") and len(stem) > 4:
        stem = stem[:-3] + "y"
    elif stem.endswith("s") and not stem.endswith(("ss", "us", "is")):
        stem = stem[:-1]
    for ending in ("ing", "ed"):
        if stem.endswith(ending) and len(stem) - len(ending) >= 3:
            stem = stem[: -len(ending)]
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "lsz":
                stem = stem[:-1]
            break
    return stem[:-1] if len(stem) > 3 and stem.endswith("e") else stem


def write_facet(kind: str, value: str) -> str:
    """The one word for a filter: `write_facet("platform", "Office Suite")` is
    "platform=office-suite"."""
    plain = unicodedata.normalize("NFKC", value).casefold()
    return f"{kind}={'-'.join(re.findall(r'[a-z0-9]+', plain))[:MAX_WORD]}"


def make_match(
    question: str, count_rows: Callable[[str], int], facets: Sequence[str] = ()
) -> str | None:
    """The FTS5 expression for a question: any of its words, all of the facets; None when it has no
    word to ask for. `count_rows` says in how many rows a word stands.

    A word that ends in "*", and the first eight or more digits of a hash, also find what begins
    with them.
    """
    plain, prefixes = _read_question(question[:MAX_QUESTION])
    return _join_match("{name title aliases text}", plain, prefixes, count_rows, facets)


def make_name_match(
    question: str, count_rows: Callable[[str], int], facets: Sequence[str] = ()
) -> str | None:
    """As `make_match`, but for entries whose names have those words of the question that look like
    names themselves: an event's number, a file, a path."""
    plain, _ = _read_question(question[:MAX_QUESTION])
    names = [word for word in plain if _NAME_LIKE.search(word) and len(word) >= _LEAST_NAME]
    return _join_match("{name title aliases}", names, [], count_rows, facets)


def _join_match(
    columns: str,
    plain: Sequence[str],
    prefixes: Sequence[str],
    count_rows: Callable[[str], int],
    facets: Sequence[str],
) -> str | None:
    counted = sorted((count_rows(word), place, word) for place, word in enumerate(plain))
    asked: list[str] = []
    weighed = 0
    for rows, _, word in counted:
        if rows == 0:
            continue
        if asked and weighed + rows > MAX_WEIGHED:
            break
        weighed += rows
        asked.append(_quote(word))
        if len(asked) == MAX_WORDS:
            break
    asked.extend(_quote(word) + "*" for word in prefixes[:4])
    if not asked:
        return None
    match = f"{columns} : ({' OR '.join(asked)})"
    for facet in facets:
        match = f"({match}) AND facets : {_quote(facet)}"
    return match


def _read_question(question: str) -> tuple[list[str], list[str]]:
    plain: dict[str, None] = {}
    prefixes: dict[str, None] = {}
    folded = unicodedata.normalize("NFKC", question).casefold()
    for found in _WORD.finditer(folded):
        word = found[0]
        if word.endswith("*") and len(word) > 3:
            prefixes[word.rstrip("*")[:MAX_WORD]] = None
        elif _HASH_PART.fullmatch(word) and not word.isalpha():
            prefixes[word] = None
    for word in _cut(question):
        if word not in _STOP and len(plain) < 4 * MAX_WORDS:
            plain[stem_word(word)] = None
    return list(plain), list(prefixes)


def _quote(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'


def join_words(texts: Iterable[str]) -> str:
    """What the index is given for these texts."""
    return " ".join(word for text in texts for word in cut_words(text))
