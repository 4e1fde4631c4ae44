"""Exposure, versions: does a version that was seen lie in what a source states?

A statement is as the reader of CVE records writes it (knowledge/readers/cve.py):

    statement = "" / part *("; " part);  part = ["!"] range / "?"
    range = "*" / condition *("," condition);  condition = ("=" / ">=" / ">" / "<=" / "<") version

Answers are True, False, or None where that can't be said: of "10.0.17763" nobody knows whether it
is under 10.0.17763.1697. Versions are compared part by part, numbers as numbers, letters behind
them as later ("1.0.2k" is above "1.0.2") unless they say that a release is still to come ("rc1").
Versions of Debian's packages are compared by its own rules (Debian policy, section 5.6.12) where
the statement has such versions too.
"""

import re
from collections.abc import Iterable
from typing import Final

Answer = bool | None

#: Longest version that is compared, in characters, and most parts of a statement.
MAX_VERSION: Final = 120
MAX_PARTS: Final = 600

_TOKEN: Final = re.compile(r"\d{1,18}|[a-z]{1,20}|~")
#: What says that a release is still to come. A single letter does not: OpenSSL's "1.0.2k".
_EARLY: Final = frozenset({"alpha", "beta", "rc", "pre", "preview", "dev", "~"})
_CONDITION: Final = re.compile(r"(<=|>=|<|>|=)(\S{1,120})")
_EPOCH: Final = re.compile(r"\d{1,9}:")
_DEBIAN_RUN: Final = re.compile(r"(\D{0,120})(\d{0,120})")

#: Of a part: where it sorts (an early release, the end, letters, a number), and its value.
_Part = tuple[int, int, str]
_END: Final[_Part] = (1, 0, "")


def split_version(text: str) -> list[_Part]:
    """The parts of a version, to be compared in order."""
    parts: list[_Part] = []
    for token in _TOKEN.findall(text[:MAX_VERSION].lower()):
        if token[0].isdigit():
            parts.append((3, int(token), ""))
        else:
            parts.append((0 if token in _EARLY else 2, 0, token))
    return parts


def compare(seen: str, bound: str) -> frozenset[int]:
    """How the version may stand to the bound: of -1 (below), 0 and 1 those that are possible."""
    mine, other = split_version(seen), split_version(bound)
    for place in range(max(len(mine), len(other))):
        if place >= len(mine):
            rest = other[place:]
            if all(part == (3, 0, "") for part in rest):
                return frozenset((0, 1))
            return frozenset((-1, 0, 1))
        left = mine[place]
        right = other[place] if place < len(other) else _END
        if left == right or (place >= len(other) and left == (3, 0, "")):
            continue
        return frozenset((-1,)) if left < right else frozenset((1,))
    return frozenset((0,))


def cut_release(version: str) -> str:
    """The upstream part of a package's version: "1:8.4p1-5+deb11u1" is 8.4p1."""
    if epoch := _EPOCH.match(version):
        version = version[epoch.end() :]
    return version.partition(" ")[0].partition("-")[0].partition("+")[0]


def compare_debian(left: str, right: str) -> int:
    """Two versions of Debian packages: -1, 0 or 1."""
    for mine, other in zip(_split_debian(left), _split_debian(right), strict=True):
        if found := _compare_runs(mine, other):
            return found
    return 0


def _split_debian(version: str) -> tuple[str, str, str]:
    version = version[:MAX_VERSION]
    epoch = "0"
    if _EPOCH.match(version):
        epoch, _, version = version.partition(":")
    upstream, dash, revision = version.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, version, "0")


def _compare_runs(left: str, right: str) -> int:
    """Texts and numbers in turn, to the end of both."""
    while left or right:
        found, other = _DEBIAN_RUN.match(left), _DEBIAN_RUN.match(right)
        if found is None or other is None:  # never: both parts may be empty
            return 0
        mine, theirs = (_weigh(run[1]) for run in (found, other))
        if mine != theirs:
            return -1 if mine < theirs else 1
        number, another = int(found[2] or 0), int(other[2] or 0)
        if number != another:
            return -1 if number < another else 1
        left, right = left[found.end() :], right[other.end() :]
    return 0


def _weigh(text: str) -> list[int]:
    """Letters before other characters, "~" before the end of the text."""
    order = [-1 if char == "~" else ord(char) + (0 if char.isalpha() else 256) for char in text]
    return [*order, 0]


def is_affected(version: str, statement: str, *, debian: bool = False) -> Answer:
    """Whether the version is affected by the statement; with `debian` the version is that of a
    Debian package and the statement speaks of such versions. None also where either says
    nothing."""
    if not version or not statement:
        return None
    version = version[:MAX_VERSION]
    parts = statement.split("; ", MAX_PARTS)[:MAX_PARTS]
    inside = [_match_part(version, part, debian) for part in parts if part[:1] != "!"]
    outside = [_match_part(version, part[1:], debian) for part in parts if part[:1] == "!"]
    return _both(_any(inside), _not(_any(outside)))


def _match_part(version: str, part: str, debian: bool) -> Answer:
    if part == "?":
        return None
    if part == "*":
        return True
    answer: Answer = True
    for condition in part.split(",")[:20]:
        found = _CONDITION.fullmatch(condition)
        answer = _both(answer, _meets(version, found[1], found[2], debian) if found else None)
    return answer


def _meets(version: str, operator: str, bound: str, debian: bool) -> Answer:
    is_open = bound.endswith("*")
    bound = bound.rstrip("*").rstrip(".")
    if debian:
        possible = frozenset((compare_debian(version, bound),))
    elif _EPOCH.match(bound):
        return None  # a distribution's version, and ours is none
    else:
        if is_open:
            version = _cut_to(version, len(split_version(bound)))
        possible = compare(cut_release(version), bound)
    holds = {
        "=": {0}, "<": {-1}, "<=": {-1, 0}, ">": {1}, ">=": {0, 1},
    }[operator]  # fmt: skip
    if possible <= holds:
        return True
    return None if possible & holds else False


def _cut_to(version: str, count: int) -> str:
    """The first parts of a version."""
    parts = split_version(cut_release(version))[:count]
    return ".".join(str(value) if kind == 3 else text for kind, value, text in parts)


def _any(answers: Iterable[Answer]) -> Answer:
    found = set(answers)
    if True in found:
        return True
    return None if None in found else False


def _both(left: Answer, right: Answer) -> Answer:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def _not(answer: Answer) -> Answer:
    return None if answer is None else not answer
