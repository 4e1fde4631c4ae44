"""Regular expressions at random, each with texts that it was made to find."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

#: Texts made of each expression.
_SAMPLES: Final = 4


class Part(NamedTuple):
    """An expression and how to make a text that it finds (as a rule; anchors may forbid it)."""

    text: str
    make: Callable[[Random], str]


def _fixed(text: str, *samples: str) -> Part:
    return Part(text, lambda random: random.choice(samples))


#: Atoms that the index searches for itself.
_PLAIN: Final = (
    _fixed("a", "a"), _fixed("Kel", "Kel"), _fixed("cmd", "cmd"), _fixed(r"\.exe", ".exe"),
    _fixed(r"\\", "\\"), _fixed(r"\x41", "A"), _fixed(r"\t", "\t"), _fixed(r"\n", "\n"),
    _fixed(r"\d", "0", "7"), _fixed(r"\D", "x", "\xe9"), _fixed(r"\w", "w", "_", "9"),
    _fixed(r"\W", "-", " ", "\xe9"), _fixed(r"\s", " ", "\t", "\n", "\r", "\f"),
    _fixed(r"\S", "x", "\x0b", "\xa0"), _fixed(".", "x", "\r", "\x0b", "\u6f22"),
    _fixed("[a-c]", "a", "c"), _fixed("[^x]", "y", "\n"), _fixed("[A-Z0-9_]", "Q", "5"),
    _fixed(r"[\s\S]", "\n", "z"), _fixed(r"[\]\-a]", "]", "-"),
    _fixed(r"[^\w]", "-", "\xdf"), _fixed(" ", " "), _fixed("-", "-"), _fixed("/", "/"),
    _fixed(r"\x0b", "\x0b"), _fixed("\x01", "\x01"), _fixed(r"\x00", "\x00"), _fixed("k", "k"),
    _fixed("a{,3}", "a{,3}"), _fixed("x{2", "x{2"), _fixed("[]a]", "]", "a"), _fixed("[^]a]", "b"),
    _fixed(r"\_", "_"), _fixed(r"\<", "<"), _fixed("[[:space:]]", " ", "\x0b"), _fixed("}", "}"),
    _fixed("powershell", "powershell"), _fixed(r"https?://", "http://", "https://"),
)  # fmt: skip
#: All atoms, with those that the index leaves to RE2.
_ATOMS: Final = (
    *_PLAIN, _fixed("\xe9", "\xe9"), _fixed("\xdf", "\xdf"), _fixed(r"\x{e9}", "\xe9"),
    _fixed(r"\pL", "a", "\xe9"), _fixed(r"\p{Greek}", "\u03c3"), _fixed(r"\Qa.b\E", "a.b"),
    _fixed("[[:alpha:]]", "q"), _fixed(r"\C", "a"),
)  # fmt: skip
_ANCHORS: Final = ("^", "$", r"\b", r"\B", r"\A", r"\z")
_REPEATS: Final = (
    ("*", 0, 3), ("+", 1, 3), ("?", 0, 1), ("{2}", 2, 2), ("{1,3}", 1, 3), ("{2,}", 2, 4),
    ("*?", 0, 2), ("+?", 1, 2), ("??", 0, 1), ("{0}", 0, 0), ("{0,200}", 0, 4), ("{3,260}", 3, 5),
)  # fmt: skip


def make_expression(random: Random) -> tuple[str, tuple[str, ...]]:
    """An expression in RE2's syntax, and texts for it."""
    atoms = _ATOMS if random.random() < 0.25 else _PLAIN
    part = _make_choice(random, atoms, random.choice((0, 0, 1, 1, 2, 3)))
    if random.random() < 0.02:
        part = _join([part, _fixed("y" * 1030, "y" * 1030)])
    text = part.text
    if random.random() < 0.3:
        text = random.choice(_ANCHORS) + text
    if random.random() < 0.3:
        text += random.choice(_ANCHORS)
    if random.random() < 0.2:
        text = (
            random.choice(("(?i)", "(?m)", "(?s)", "(?is)", "(?i-s)", "(?U)", "(?-m)", "(?s-m)"))
            + text
        )
    return text, tuple(part.make(random) for _ in range(_SAMPLES))


def _make_choice(random: Random, atoms: Sequence[Part], depth: int) -> Part:
    parts = [_make_row(random, atoms, depth) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    if len(parts) == 1:
        return parts[0]
    return Part(
        "|".join(part.text for part in parts), lambda random: random.choice(parts).make(random)
    )


def _make_row(random: Random, atoms: Sequence[Part], depth: int) -> Part:
    parts = [_make_piece(random, atoms, depth) for _ in range(random.choice((1, 1, 2, 3, 4)))]
    if random.random() < 0.1:
        parts.insert(random.randrange(len(parts) + 1), _fixed(random.choice(_ANCHORS), ""))
    return _join(parts)


def _join(parts: list[Part]) -> Part:
    return Part(
        "".join(part.text for part in parts),
        lambda random: "".join(part.make(random) for part in parts),
    )


def _make_piece(random: Random, atoms: Sequence[Part], depth: int) -> Part:
    if depth and random.random() < 0.3:
        inner = _make_choice(random, atoms, depth - 1)
        opened = random.choice(
            ("(", "(?:", f"(?P<n{random.randrange(10**9)}>", "(?i:", "(?s-i:", "(?i-m:", "(?m:")
        )
        part = Part(f"{opened}{inner.text})", inner.make)
    else:
        part = random.choice(atoms)
        if part.text in ("cmd", "Kel", "powershell") or part.text.startswith("http"):
            return part
    return _repeat(part, random) if random.random() < 0.35 else part


def _repeat(part: Part, random: Random) -> Part:
    sign, low, high = random.choice(_REPEATS)
    text = part.text
    if len(text.removeprefix("\\")) > 1 and text[0] not in "([" and text[:2] not in (r"\x", r"\p"):
        text = f"(?:{text})"
    return Part(
        text + sign,
        lambda random: "".join(part.make(random) for _ in range(random.randint(low, high))),
    )
