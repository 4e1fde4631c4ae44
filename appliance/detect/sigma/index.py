"""The few rules that a view may meet (detect stage, between `engine` and the plain matcher).

One index serves the rules that read the same view. The view's texts are written into one buffer,
which Hyperscan searches once for every literal and regular expression of the rules; what it finds
says which of them are worth asking. The answer may hold a rule too many, never one too few:

- A rule that has several ways to fire is one entry for each (`needs.list_branches`).
- An entry's need (see `needs`) is cut down to at most CLAUSES clauses, each a set of literals and
  expressions of which one must be found; the clauses that seem rarest are taken.
- The buffer has each value of the fields that the rules name, on lines of its own between two tags
  of its field. So `equals`, `startswith` and `endswith` are literals with a tag at their ends, and
  one search does them all; a value that holds a tag's characters can only add a candidate.
- A value of ASCII alone stays as it is, and literals are searched for without case; any other is
  folded first.
- A rule's bars (see `needs`) take it out again where the buffer's own tags prove that what was
  found is there.
- Keywords are searched for in that buffer and, by themselves, in the values of all other fields.
- Expressions see the same buffer: its lines end where values do, as `^`, `$` and `\\b` ask.
  Hyperscan and RE2 agree on plain ASCII; in any other value of the fields that expressions read
  every expression counts as found.
- A lone surrogate is written as `?` on both sides, as RE2's tests do, so that the buffer is UTF-8.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log2
from operator import itemgetter
from typing import Any, Final

import hyperscan
import orjson

from appliance.detect.sigma.needs import (
    Atom,
    Every,
    Expression,
    Literal,
    Need,
    list_atoms,
    list_branches,
)
from appliance.detect.sigma.values import flatten, fold, write_text

#: Clauses asked of a rule, at most; none more once they are so rare together (`_guess_rarity`).
CLAUSES: Final = 3
_RARE: Final = 60.0
#: A rule with a clause of literals as rare as this needs none of expressions.
_RARE_LITERAL: Final = 10.0
#: Expressions that are longer, or repeat more often, are left to the plain matcher: Hyperscan
#: would take long to compile them.
_MAX_EXPRESSION: Final = 1024
_MAX_REPEAT: Final = 255

#: Digits of the tags: control characters, which are rare in values and have no case. Without NUL,
#: and without those at which lines end.
_DIGITS: Final = [chr(code) for code in range(1, 32) if code not in (9, 10, 11, 12, 13, 28, 29, 30)]
_TAG_DIGIT: Final = re.compile(f"[{''.join(_DIGITS)}]")
#: Sets of field names whose layout is remembered at once: a log chooses its own names.
_MAX_LAYOUTS: Final = 512
#: Literals of a rule's `not` parts that are looked for, where its clauses are not as rare as this
#: (`_guess_rarity`), and the fewest code points of one that may stand anywhere in a value.
_MAX_BARS: Final = 64
_SELDOM: Final = 4.0
_MIN_INNER: Final = 4
#: What orjson would write in a way of its own is left to `write_text`.
_AS_PLAIN: Final = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
#: Parts of texts that most values have: a literal within one of them says little.
_COMMON: Final = (
    ":\\windows\\system32\\", "c:\\windows\\syswow64\\", ":\\program files (x86)\\", ".exe\" ",
    "microsoft corporation", "microsoft® windows® operating system", "\\powershell.exe",
    "\\software\\microsoft\\windows\\currentversion\\", "\\appdata\\local\\microsoft\\windows\\",
    "hklm\\system\\currentcontrolset\\services\\", "hku\\s-1-5-21-", "\\appdata\\roaming\\",
    "\\microsoft\\windows nt\\currentversion\\", ":\\windows\\system32\\ntdll.dll+",
    ":\\windows\\system32\\kernelbase.dll+", ":\\users\\", "nt authority\\system",
    "https://www.", ".dll", "true", "false", "\\svchost.exe",
    "\\appdata\\local\\temp\\", "\\windowspowershell\\v1.0\\", "(empty)", "binary data",
)  # fmt: skip
_LITERAL_FLAGS: Final = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_CASELESS
_EXPRESSION_FLAGS: Final = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_MULTILINE

#: A literal that the text of a number or of a bool could hold.
_NUMERAL: Final = re.compile(r"[-+.0-9a-fxintrulsy]*")
#: UTF-8 of the only characters beyond ASCII whose folded form is in it: U+017F (s), U+212A (k).
_FOLDS_PLAIN: Final = re.compile(b"\xc5\xbf|\xe2\x84\xaa")

Clause = frozenset[Atom]
#: Patterns with their flags, as Hyperscan compiles them; a pattern's place is its number.
Patterns = tuple[tuple[bytes, int], ...]
#: Gives the database of patterns: compiled, or as it was stored when it was.
OpenDatabase = Callable[[Patterns], Any]


def compile_database(patterns: Patterns) -> Any:
    """Hyperscan's block-mode database of the patterns. Raises hyperscan.error."""
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=[pattern for pattern, _ in patterns],
        ids=list(range(len(patterns))),
        flags=[flags for _, flags in patterns],
    )
    return database


@dataclass(frozen=True, slots=True)
class _Layout:
    """Of views with the same field names in the same order: the fields with a tag, with it and with
    whether expressions read them, and what gets the values of the others (None where nobody asks
    for them)."""

    tagged: tuple[tuple[str, str, bool], ...]
    others: Callable[[Mapping[str, Any]], Any] | None


class Index:
    """Finds the candidates among rules that read one view. Not for several threads at once:
    Hyperscan's scratch space is the index's own."""

    def __init__(
        self,
        needs: Sequence[Need | None],
        bars: Sequence[frozenset[Literal]] = (),
        open_database: OpenDatabase = compile_database,
    ) -> None:
        self._every = (1 << len(needs)) - 1
        entries = [
            (number, branch) for number, need in enumerate(needs) for branch in list_branches(need)
        ]
        # The rule of each entry, as a bit.
        self._rules = [1 << number for number, _ in entries]
        wanted = [need for _, need in entries]
        barred = [bars[number] for number, _ in entries] if bars else ()
        plan = _Plan(wanted, barred)
        try:
            self._scan = _open_scan(plan.patterns, open_database)
        except hyperscan.error:  # an expression that it does not take: which one?
            plan = _Plan(wanted, barred, careful=True)
            self._scan = _open_scan(plan.patterns, open_database)
        self._scan_others = _open_scan(list(plan.keywords), open_database)
        self._plain_keywords = all(
            atom.text.isascii() for atom in plan.places if atom.field is None
        )
        self._keyword_places = list(plan.keywords.values())
        self._size = size = len(entries)
        self._all = (1 << size) - 1
        # The clauses' masks side by side in one number, and the bars' behind: one step a find.
        self._always = _join_masks(plan.always, size)
        self._masks = [_join_masks(row, size) for row in plan.masks]
        self._bars = [row[CLAUSES] for row in plan.masks]
        self._tags = {
            name: plan.tags[name]
            for name in sorted({atom.field for atom in plan.places if atom.field is not None})
        }
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._digits = bytes(sorted(set("".join(self._tags.values()).encode())))
        self._tag_digits = 2 * len(next(iter(self._tags.values()), ""))
        expressions = {a: place for a, place in plan.places.items() if isinstance(a, Expression)}
        self._expressions = list(expressions.values())
        #: The fields that expressions read.
        self._read = {atom.field for atom in expressions}
        self._numerals = any(
            atom.field is None and _NUMERAL.fullmatch(atom.text) is not None
            for atom in plan.places
            if isinstance(atom, Literal)
        )
        self._inner = {
            number: (plan.tags[atom.field], atom.text)
            for atom, number in plan.places.items()
            if isinstance(atom, Literal)
            and atom.field is not None
            and not (atom.starts or atom.ends)
        }

    def find(self, fields: Mapping[str, Any]) -> int:
        """The candidates: bit n is set when rule n may match the fields."""
        if self._scan is None:
            return self._every  # nothing to be found is asked of any rule
        found: list[int] = []
        names = tuple(fields)
        layout = self._layouts.get(names) or self._lay_out(names)
        if layout.others is not None and self._scan_others is not None:
            others = self._write_others(layout.others(fields))
            self._scan_others(others, _note, context=found)
            if found:
                found = [place for number in found for place in self._keyword_places[number]]
        parts: list[str] = []
        if self._write(fields, layout, parts):
            found += self._expressions
        text = "".join(parts)
        try:
            buffer, whole = text.encode(), True
        except UnicodeEncodeError:  # lone surrogates
            buffer, whole = text.encode("utf-8", "replace"), False
        self._scan(buffer, _note, context=found)
        masks = self._masks
        total = self._always
        for number in found:
            total |= masks[number]
        size = self._size
        candidates = total & (total >> size) & (total >> 2 * size) & self._all
        if not candidates:
            return 0
        barred = total >> CLAUSES * size
        if candidates & barred and whole and self._is_sure(buffer, len(parts)):
            candidates = self._bar(candidates, found, text)
        rules = 0
        for entry in list_bits(candidates):
            rules |= self._rules[entry]
        return rules

    def _bar(self, candidates: int, found: list[int], text: str) -> int:
        """The candidates that nothing found refuses. What was found without a tag at its end may
        be in another field, so it is looked for once more, in its own."""
        folded = ""
        for number in found:
            refused = self._bars[number] & candidates
            if refused:
                inner = self._inner.get(number)
                if inner is not None:
                    tag, literal = inner
                    folded = folded or fold(text)
                    start = folded.find(tag)
                    if folded.find(literal, start, folded.rfind(tag)) < 0:
                        continue
                candidates ^= refused
        return candidates

    def _write(self, fields: Mapping[str, Any], layout: "_Layout", parts: list[str]) -> bool:
        """Put each value that is searched for literals between its field's tags. Gives whether
        Hyperscan and RE2 may read one of them in two ways."""
        doubtful = False
        for name, tag, is_read in layout.tagged:
            raw = fields[name]
            if raw is None:
                continue
            for value in (raw,) if type(raw) is str else map(write_text, flatten(raw)):
                if value.isascii():
                    parts.append(f"{tag}\n{value}\n{tag}")
                    doubtful |= is_read and "\v" in value  # white space to one of the two alone
                else:
                    parts.append(f"{tag}\n{fold(value)}\n{tag}")
                    doubtful |= is_read
        return doubtful

    def _lay_out(self, names: tuple[str, ...]) -> "_Layout":
        """What becomes of the fields of a view that has these."""
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        tagged = tuple(
            (name, self._tags[name], name in self._read) for name in names if name in self._tags
        )
        others = [name for name in names if name not in self._tags]
        searched = others and self._scan_others is not None
        layout = _Layout(tagged, itemgetter(*others) if searched else None)
        self._layouts[names] = layout
        return layout

    def _is_sure(self, encoded: bytes, parts: int) -> bool:
        """Whether each tag in the text is one of the two that were written around a part: then,
        where no surrogate was replaced, every literal with a tag that was found is there."""
        digits = len(encoded) - len(encoded.translate(None, self._digits))
        return digits == parts * self._tag_digits

    def _write_others(self, others: Any) -> bytes:
        """The values of the fields without a tag, for keywords: as JSON, which writes each code
        point in its own way, as in the literals that are searched for."""
        if not self._numerals:
            try:
                data = orjson.dumps(others, option=_AS_PLAIN)
            except TypeError:  # a lone surrogate, a number over 64 bits
                pass
            else:
                if data.isascii() or (self._plain_keywords and not _FOLDS_PLAIN.search(data)):
                    return data
                return fold(data.decode()).encode()
        text = fold("\0".join(map(write_text, flatten([others]))))
        return orjson.dumps(_replace_surrogates(text))


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _note(number: int, start: int, end: int, flags: int, found: list[int]) -> None:
    """Hyperscan's callback."""
    found.append(number)


def _join_masks(masks: Sequence[int], size: int) -> int:
    return sum(mask << place * size for place, mask in enumerate(masks))


def _open_scan(
    patterns: Sequence[tuple[bytes, int]], open_database: OpenDatabase
) -> Callable[..., None] | None:
    """What searches a buffer for the patterns, with a scratch space of its own."""
    if not patterns:
        return None
    return open_scan(open_database(tuple(patterns)))


def open_scan(database: Any) -> Callable[..., None]:
    """What searches a buffer with the database, with a scratch space of its own."""
    scan: Callable[..., None] = partial(database.scan, scratch=hyperscan.Scratch(database))
    return scan


def list_bits(mask: int) -> list[int]:
    """The places of the bits that are set, lowest first."""
    places = []
    while mask:
        low = mask & -mask
        places.append(low.bit_length() - 1)
        mask ^= low
    return places


class _Plan:
    """What is searched for, and what finding it says of which rules."""

    def __init__(
        self,
        needs: Sequence[Need | None],
        bars: Sequence[frozenset[Literal]] = (),
        *,
        careful: bool = False,
    ) -> None:
        self._careful = careful
        self.places: dict[Atom, int] = {}
        self.patterns: list[tuple[bytes, int]] = []
        #: Literals of any field as they stand in JSON, with the places of their patterns.
        self.keywords: dict[tuple[bytes, int], list[int]] = {}
        #: By pattern: for each clause the rules in whose clause it is, and those that it bars.
        self.masks: list[list[int]] = []
        self.always = [0] * CLAUSES
        self._usable: dict[Expression, bytes | None] = {}
        used = Counter(atom for need in needs if need for atom in set(list_atoms(need)))
        self._rarity = {atom: _guess_rarity(atom, count) for atom, count in used.items()}
        named = {atom.field for atom in used} | {atom.field for bar in bars for atom in bar}
        names = sorted(name for name in named if name is not None)
        self.tags = dict(zip(names, _make_tags(len(names)), strict=True))
        rarities = [self._add_rule(1 << number, need) for number, need in enumerate(needs)]
        for number, bar in enumerate(bars):
            if rarities[number] < _SELDOM:
                self._add_bars(1 << number, bar, rarities[number])

    def _add_bars(self, bit: int, bar: frozenset[Literal], rarity: float) -> None:
        """What refuses a rule that would often be a candidate. Something short inside a value is
        found so often that it is looked for only where the rule would always be one."""
        shortest = _MIN_INNER if rarity > 0.0 else 1
        useful = [
            literal
            for literal in bar
            if (literal.starts or literal.ends or len(literal.text) >= shortest)
            and not _TAG_DIGIT.search(literal.text)
            # A line's end at its ends could be the one beside a tag.
            and literal.text == literal.text.strip("\n")
        ]
        for literal in sorted(useful, key=repr)[:_MAX_BARS]:
            self.masks[self._place(literal)][CLAUSES] |= bit

    def _add_rule(self, bit: int, need: Need | None) -> float:
        """Gives how rare the rule's clauses are together, 0 where it has none."""
        clauses = [] if need is None else self._list_clauses(need)
        clauses = self._choose(sorted(dict.fromkeys(clauses), key=self._rate, reverse=True))
        for place in range(CLAUSES):
            if place >= len(clauses):
                self.always[place] |= bit
                continue
            for atom in sorted(clauses[place], key=repr):
                self.masks[self._place(atom)][place] |= bit
        return sum(max(self._rate(clause), 0.0) for clause in clauses)

    def _choose(self, clauses: list[Clause]) -> list[Clause]:
        """Of clauses, rarest first, as many as make the rule rare. Expressions cost most: they are
        left out where literals do."""
        literal = [c for c in clauses if not any(isinstance(atom, Expression) for atom in c)]
        if literal and self._rate(literal[0]) >= _RARE_LITERAL:
            clauses = literal
        chosen: list[Clause] = []
        rarity = 0.0
        for clause in clauses[:CLAUSES]:
            rate = self._rate(clause)
            if rarity >= _RARE:
                break
            chosen.append(clause)
            rarity += max(rate, 0.0)
        return chosen

    def _place(self, atom: Atom) -> int:
        place = self.places.get(atom)
        if place is None:
            place = self.places[atom] = len(self.patterns)
            row = [0] * (CLAUSES + 1)
            self.patterns.append(self._write_pattern(atom))
            self.masks.append(row)
            if isinstance(atom, Literal) and atom.field is None:
                text = orjson.dumps(_replace_surrogates(atom.text))[1:-1]
                self.keywords.setdefault((_escape(text), _LITERAL_FLAGS), []).append(place)
        return place

    def _list_clauses(self, need: Need) -> list[Clause]:
        """Sets of which one part each must be found; none when nothing can be searched for."""
        if isinstance(need, Expression):
            usable = need.field is not None and self._find_usable(need)
            return [frozenset([need])] if usable else []
        if isinstance(need, Literal):
            return [frozenset([need])]
        if isinstance(need, Every):
            return [clause for part in need.parts for clause in self._list_clauses(part)]
        lists = [
            sorted(self._list_clauses(part), key=self._rate, reverse=True) for part in need.parts
        ]
        if not all(lists):
            return []
        # Of each part any clause will do: the rarest of all make one, the next rarest another. A
        # part that has no more gives its last again.
        ranks = range(min(CLAUSES, max(map(len, lists))))
        return [
            frozenset().union(*(clauses[min(rank, len(clauses) - 1)] for clauses in lists))
            for rank in ranks
        ]

    def _rate(self, clause: Clause) -> float:
        return min(self._rarity[atom] for atom in clause) - log2(len(clause))

    def _find_usable(self, expression: Expression) -> bytes | None:
        if expression not in self._usable:
            pattern = _write_expression(expression.text)
            if pattern is not None and self._careful and not _can_compile(pattern):
                pattern = None
            self._usable[expression] = pattern
        return self._usable[expression]

    def _write_pattern(self, atom: Atom) -> tuple[bytes, int]:
        if isinstance(atom, Expression):
            return self._find_usable(atom) or b"", _EXPRESSION_FLAGS
        text = _replace_surrogates(atom.text)
        if atom.field is not None:
            tag = self.tags[atom.field]
            text = (f"{tag}\n" if atom.starts else "") + text + (f"\n{tag}" if atom.ends else "")
        return _escape(text.encode()), _LITERAL_FLAGS


def _make_tags(count: int) -> list[str]:
    """So many different texts of the same length, as short as possible."""
    width = 1
    while len(_DIGITS) ** width < count:
        width += 1
    tags = []
    for number in range(count):
        digits = []
        for _ in range(width):
            number, digit = divmod(number, len(_DIGITS))  # noqa: PLW2901
            digits.append(_DIGITS[digit])
        tags.append("".join(digits))
    return tags


def _guess_rarity(atom: Atom, rules: int) -> float:
    """How seldom it is found, as a guess: what is long and anchored is rare, what many rules name
    or most values have is common. Wrong guesses cost time only."""
    if isinstance(atom, Expression):
        return 8.0
    if not atom.text:
        return 0.0
    rarity = len(atom.text) + 3.0 * atom.starts + 3.0 * atom.ends - 2.5 * log2(rules)
    if any(atom.text in common for common in _COMMON):
        return min(rarity, 2.0)
    return rarity


#: Each byte as Hyperscan's expressions write it.
_ESCAPED: Final = [
    bytes([byte]) if byte < 128 and chr(byte).isalnum() else b"\\x%02x" % byte
    for byte in range(256)
]


def _escape(text: bytes) -> bytes:
    return b"".join(map(_ESCAPED.__getitem__, text))


#: What RE2 and Hyperscan read alike on plain ASCII text, character by character: escapes of
#: punctuation, classes, groups without or with a name, flags but `-m` (a value's ends are ends of
#: lines in the buffer), and anything that is no escape.
_ALIKE: Final = re.compile(
    r"(?:\\[dDwWsSbBtnrf]|\\x[0-9A-Fa-f]{2}|\\[!-/:-@\[-`{-~]|\\[Az]"
    r"|\(\?(?:P<\w+>|[ims]*(?:-[is]+)?[:)])|\((?!\?)|[^\\(])*+",
    re.ASCII,
)
_ANCHOR: Final = re.compile(r"(\\[^Az])|\\([Az])", re.DOTALL)
_REPEAT: Final = re.compile(r"\{(\d*),?(\d*)\}")


def _write_expression(expression: str) -> bytes | None:
    """The expression for Hyperscan, which finds at least what RE2 does; None when it cannot."""
    if len(expression) > _MAX_EXPRESSION or not expression.isascii():
        return None
    if _ALIKE.fullmatch(expression) is None:
        return None
    for low, high in _REPEAT.findall(expression):
        if any(len(times) > 3 or int(times or 0) > _MAX_REPEAT for times in (low, high)):
            return None
    # The ends of the text are ends of lines in the buffer.
    return _ANCHOR.sub(
        lambda match: match[1] or ("^" if match[2] == "A" else "$"), expression
    ).encode()


def _can_compile(pattern: bytes) -> bool:
    try:
        compile_database(((pattern, _EXPRESSION_FLAGS),))
    except hyperscan.error:
        return False
    return True
