"""Sigma rules at random, over every modifier and structure of the specification (2.1)."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.referee.expressions import make_expression
from tests.referee.texts import WORDS, change_case

#: Values of the placeholders that rules name.
PLACEHOLDERS: Final = {
    "users": ["alice", "ADM*", "b?b", "stra\xdfe"],
    "paths": ["C:\\\\Temp", "/tmp/", "*.tmp"],
    "words": ["kelvin", "a+b", "x.z"],
}
#: What rules state, and what events may be of.
SOURCES: Final = (
    {"product": "windows"},
    {"category": "process_creation"},
    {"product": "windows", "service": "x"},
    {"product": "windows", "category": "process_creation"},
)
#: Names of fields; a set of rules uses the first so many. More than the index's tags of one
#: character can name, and more than it takes for few.
FIELDS: Final = (
    "f", "g", "h", "Image", "CommandLine", "a.b", "F", "user name", "\xe9", "event[0]",
    *(f"field{number}" for number in range(50)),
)  # fmt: skip
_FIELD_COUNTS: Final = (1, 2, 3, 8, 18, 22, 30, 60)

_STRING: Final = (
    "", "", "", "contains", "contains", "contains", "startswith", "startswith", "endswith",
    "endswith", "contains|all", "contains|all", "startswith|all", "endswith|all", "all", "cased",
    "contains|cased", "startswith|cased", "endswith|cased", "cased|contains", "contains|all|cased",
    "windash", "contains|windash", "windash|contains", "startswith|windash", "endswith|windash",
    "contains|all|windash", "contains|windash|cased", "neq", "contains|neq", "startswith|neq",
    "endswith|neq", "cased|neq", "contains|all|neq",
)  # fmt: skip
_ENCODED: Final = (
    "base64", "base64|contains", "base64offset|contains", "base64offset", "wide|base64",
    "wide|base64offset|contains", "utf16le|base64offset|contains", "utf16|base64|contains",
    "utf16be|base64offset|contains", "wide|contains", "utf16be", "windash|base64offset|contains",
    "windash|wide|base64offset|contains", "base64offset|contains|cased", "base64|contains|all",
    "base64|neq",
)  # fmt: skip
_REGULAR: Final = (
    "re", "re", "re", "re|i", "re|i", "re|m", "re|s", "re|i|m", "re|i|m|s", "re|ignorecase",
    "re|multiline", "re|dotall", "re|all", "re|neq", "re|startswith", "re|endswith", "re|contains",
    "re|i|startswith", "re|i|endswith",
)  # fmt: skip
_EXPANDED: Final = (
    "expand", "contains|expand", "expand|contains", "startswith|expand", "endswith|expand",
    "cased|expand", "expand|neq", "contains|all|expand", "windash|expand",
)  # fmt: skip
_REFERRED: Final = (
    "fieldref", "fieldref", "fieldref|startswith", "fieldref|endswith", "fieldref|contains",
    "fieldref|neq",
)  # fmt: skip
_COMPARED: Final = (
    "gt", "gte", "lt", "lte", "gt|neq", "minute", "hour", "day", "week", "month", "year",
    "minute|gte", "hour|lt", "year|gt", "week|lte", "month|neq",
)  # fmt: skip
_NETWORKS: Final = (
    "10.0.0.0/8", "10.1.2.3/32", "192.168.0.0/16", "0.0.0.0/0", "::/0", "fe80::/10",
    "2001:db8::/32", "::1/128", "::ffff:0:0/96",
)  # fmt: skip
_NUMBERS: Final = (
    0, 1, -1, 3, 5, 15, 4688, 1.5, -0.5, 4688.0, 1e300, 2**63, 2**70, 10, 2024, 47, 7,
)  # fmt: skip
_CONDITIONS: Final = (
    "all of them", "1 of them", "any of them", "all of sel*", "1 of sel*", "not 1 of them",
    "not all of them", "1 of sel* and not 1 of fil*", "all of sel* and not all of fil*",
    "1 of sel* or not 1 of fil*",
)  # fmt: skip


def show_yaml(value: object) -> str:
    """The value as YAML that any reader takes: in flow style, texts in ASCII."""
    if isinstance(value, dict):
        inner = ", ".join(f"{show_yaml(key)}: {show_yaml(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(show_yaml, value))}]"
    if isinstance(value, str):
        return f'"{"".join(map(_show_character, value))}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _show_character(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if 0x20 <= code < 0x7F:
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\U{code:08x}"


class RuleWriter:
    """Writes the rules of one set: they share their fields and many of their values."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.fields = FIELDS[: random.choice(_FIELD_COUNTS)]
        self._texts = [self._make_text() for _ in range(40)]
        #: Texts that the expressions were made to find.
        self.samples: dict[str, tuple[str, ...]] = {}

    def write(self, number: int) -> str:
        """One rule as a YAML document; not each can be loaded."""
        random = self._random
        count = random.choice((1, 1, 1, 2, 2, 3, 4))
        names = [f"{random.choice(('sel', 'sel', 'fil', 'x'))}{place}" for place in range(count)]
        detection: dict[str, Any] = {name: self._make_detection() for name in names}
        condition: str | list[str] = self._make_condition(names, 2)
        if random.random() < 0.05:
            condition = [self._make_condition(names, 2), self._make_condition(names, 1)]
        rule = {
            "title": f"rule {number}",
            "id": f"00000000-0000-4000-8000-{number:012x}",
            "logsource": random.choice(SOURCES),
            "level": "low",
            "detection": {**detection, "condition": condition},
        }
        return show_yaml(rule)

    def _make_condition(self, names: list[str], depth: int) -> str:
        random = self._random
        if random.random() < 0.15:
            return random.choice(_CONDITIONS)
        if not depth or len(names) == 1 or random.random() < 0.1:
            name = random.choice(names)
            return f"not {name}" if random.random() < 0.1 else name
        cut = random.randrange(1, len(names))
        parts = (
            self._make_condition(names[:cut], depth - 1),
            self._make_condition(names[cut:], depth - 1),
        )
        joined = random.choice(("{} and {}", "{} and {}", "{} and not {}", "{} and not {}"))
        if random.random() < 0.35:
            joined = random.choice(("{} or {}", "{} or not {}", "not {} and not {}"))
        text = joined.format(*(part if " " not in part else f"({part})" for part in parts))
        return f"not ({text})" if random.random() < 0.05 else text

    def _make_detection(self) -> Any:
        random = self._random
        match random.randrange(12):
            case 0:
                return [self._make_fields() for _ in range(random.randint(1, 3))]
            case 1:
                return [self._choose_text() for _ in range(random.randint(1, 3))]
            case 2:
                return random.choice((self._choose_text(), [self._make_fields(), "kelvin", 15]))
            case _:
                return self._make_fields()

    def _make_fields(self) -> dict[str, Any]:
        return dict(self._make_item() for _ in range(self._random.choice((1, 1, 1, 2, 2, 3))))

    def _make_item(self) -> tuple[str, Any]:
        """A field (rarely none: keywords) with its modifiers, and what is asked of it."""
        random = self._random
        used, make = self._choose_kind()
        name = "" if random.random() < 0.07 else random.choice(self.fields)
        return (f"{name}|{used}" if used or not name else name), make()

    def _choose_kind(self) -> tuple[str, Callable[[], Any]]:
        random = self._random
        kinds: tuple[tuple[float, tuple[str, ...], Callable[[], Any]], ...] = (
            (0.44, _STRING, lambda: self._list(self._choose_text)),
            (0.08, ("",), lambda: self._list(self._make_plain)),
            (0.07, _ENCODED, lambda: self._list(self._make_word)),
            (0.15, _REGULAR, lambda: self._list(self._make_expression)),
            (0.04, ("cidr", "cidr", "cidr|neq"), lambda: self._list(self._make_network)),
            (0.05, _EXPANDED, lambda: self._list(self._make_placeholder)),
            (0.01, ("re|expand", "re|i|expand"), lambda: "%words%"),
            (0.06, _REFERRED, lambda: random.choice(self.fields)),
            (0.03, ("exists",), lambda: random.random() < 0.6),
            (0.08, _COMPARED, lambda: random.choice(_NUMBERS)),
        )
        _, chains, make = random.choices(kinds, [share for share, _, _ in kinds])[0]
        return random.choice(chains), make

    def _list(self, make: Callable[[], Any]) -> Any:
        count = self._random.choice((1, 1, 1, 2, 3, 5))
        if count == 1 and self._random.random() < 0.7:
            return make()
        return [make() for _ in range(count)]

    def _choose_text(self) -> str:
        """A value of the set, sometimes in another case; with wildcards, real and escaped."""
        random = self._random
        text = random.choice(self._texts)
        if random.random() < 0.2:
            text = change_case(text, random)
        if random.random() < 0.15:
            at = random.randint(0, len(text))
            signs = ("*", "?", "\\*", "\\?", "\\\\", "**", "?*", "\\\\*", "*?*", "??")
            text = text[:at] + random.choice(signs) + text[at:]
        if random.random() < 0.1:
            text = random.choice((f"*{text}*", f"*{text}", f"{text}*", f"?{text}", f"*{text}*x?"))
        return text

    def _make_text(self) -> str:
        random = self._random
        way = random.random()
        if way < 0.06:
            return random.choice(("x", "Ab", "\xdf", "-a ")) * random.choice((32, 63, 64, 65, 100))
        if way < 0.09:
            return ""
        count = random.choice((1, 1, 2, 2, 3))
        return "".join(random.choice(WORDS) for _ in range(count))

    def _make_word(self) -> str:
        word = "".join(self._random.choice(WORDS) for _ in range(self._random.choice((1, 2))))
        return word.replace("*", "").replace("?", "").replace("\\", "/") or "ping"

    def _make_plain(self) -> Any:
        random = self._random
        plain = (None, "", "*", True, False, *_NUMBERS, "null", "?", "\\*", random.choice(WORDS))
        return random.choice(plain)

    def _make_expression(self) -> str:
        text, samples = make_expression(self._random)
        self.samples[text] = samples
        return text

    def _make_network(self) -> str:
        return self._random.choice(_NETWORKS)

    def _make_placeholder(self) -> str:
        name = f"%{self._random.choice(tuple(PLACEHOLDERS))}%"
        return self._random.choice((name, name, f"a{name}", f"{name}.exe", f"{name} {name}"))
