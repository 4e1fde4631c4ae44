"""Events at random, each made for one rule: from what its tests ask, then attacked."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address
from random import Random
from typing import Any, Final

from appliance.detect.sigma.load import covers
from appliance.detect.sigma.match import (
    AllOf,
    AnyOf,
    CompiledRule,
    Exists,
    FieldTest,
    IsNull,
    Node,
    Not,
    RefersTo,
)
from appliance.detect.sigma.patterns import (
    AnyTest,
    Compares,
    Contains,
    EndsWith,
    Equals,
    InNetwork,
    IsNumber,
    Matches,
    StartsWith,
    TimePartCompares,
    ValueTest,
    Wildcards,
)
from appliance.schema import Cursor, LogSource, RawRecord, Sighting, View
from tests.referee.texts import PIECES, WORDS, change_case, change_text

#: What views are of: what rules state, more than that, and what no rule reads.
VIEWS: Final = (
    LogSource("windows"),
    LogSource("windows", "process_creation"),
    LogSource("windows", None, "x"),
    LogSource("linux", "process_creation"),
    LogSource("linux"),
    LogSource(),
)
#: Flags and anchors that the loader puts around an expression.
_AROUND: Final = (
    re.compile(r"\(\?[ims]+\)(.*)", re.DOTALL),
    re.compile(r"\\A\(\?:(.*)\)", re.DOTALL),
    re.compile(r"\(\?:(.*)\)\\z", re.DOTALL),
)
_ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 15, 4688, 4688.0, 1.5, 2**70, 1e300, float("inf"), float("nan"),
    b"x\xff", b"kelvin", [], {}, [None], [[]], "", -0.0, 10**40, 2**4200, (), ("kelvin", "ab"),
)  # fmt: skip

Fields = dict[str, Any]


class EventMaker:
    """Makes events for the rules of one set. `samples` are texts for their expressions."""

    def __init__(
        self, random: Random, fields: Sequence[str], samples: Mapping[str, Sequence[str]]
    ) -> None:
        self._random = random
        self._names = fields
        self._samples = samples
        self._last: Fields = {}
        # Each shape of an event is an index of its own, so a set has few.
        self._shapes = [
            tuple(random.choice(VIEWS) for _ in range(random.choice((1, 1, 2, 3))))
            for _ in range(4)
        ]

    def make(self, rule: CompiledRule, name: str) -> Sighting:
        """An event that the rule may well match, of views that the rule as a rule reads."""
        random = self._random
        fields = self._make_fields(rule.condition)
        stated = rule.info.logsource
        shapes = [s for s in self._shapes if any(covers(stated, view) for view in s)]
        shape = random.choice(shapes or [(stated,)])
        if random.random() < 0.03:
            shape = random.choice(self._shapes)
        read = [place for place, view in enumerate(shape) if covers(stated, view)] or [0]
        mine = random.choice(read)
        held = [fields for _ in shape]
        if len(shape) > 1 and random.random() < 0.4:  # views that do not share their fields
            other: Fields = random.choice((dict(fields), self._last, {}, {"f": "x"}))
            held = [fields if place == mine else other for place in range(len(shape))]
        self._last = fields
        views = tuple(View(source, own) for source, own in zip(shape, held, strict=True))
        record = RawRecord(b"{}", "made", name, name, Cursor("made", name, 0, 1), 0.0)
        return Sighting(0.0, 0.0, "h", views, record, "json")

    def _make_fields(self, condition: Node) -> Fields:
        random = self._random
        asked: dict[str, list[Any]] = {}
        self._meet(condition, True, asked)
        fields: Fields = {name: self._join(values) for name, values in asked.items()}
        if random.random() < 0.55:
            for name in random.choices(list(fields), k=random.choice((1, 1, 2))) if fields else ():
                fields[name] = self._attack(fields[name])
        if random.random() < 0.12 and fields:
            self._rearrange(fields)
        for _ in range(random.choice((0, 0, 1, 2, 6))):  # what no test asked for
            fields.setdefault(random.choice((*self._names, "other", "Message")), self._make_value())
        if random.random() < 0.3:
            fields = dict(random.sample(list(fields.items()), len(fields)))
        return fields

    def _meet(self, node: Node, wanted: bool, asked: dict[str, list[Any]]) -> None:
        """Ask for values with which the node holds, or doesn't."""
        random = self._random
        match node:
            case AllOf() | AnyOf():
                every = isinstance(node, AllOf) is wanted
                for child in node.children if every else [random.choice(node.children)]:
                    self._meet(child, wanted, asked)
            case Not():
                if random.random() < 0.85:
                    self._meet(node.child, not wanted, asked)
            case FieldTest() if wanted:
                name = (
                    random.choice((*self._names, "Message")) if node.field is None else node.field
                )
                tests = node.tests if node.every else [random.choice(node.tests)]
                asked.setdefault(name, []).extend(self._sample(test) for test in tests)
            case FieldTest() if node.field is not None and random.random() < 0.4:
                near = change_text(str(self._sample(random.choice(node.tests))), random)
                asked.setdefault(node.field, []).append(near)
            case IsNull():
                values = [None, [], [None, "x"]] if wanted else [self._make_text()]
                if not wanted or random.random() < 0.5:
                    asked.setdefault(node.field, []).append(random.choice(values))
            case Exists() if node.present is wanted:
                asked.setdefault(node.field, []).append(self._make_value())
            case RefersTo() if wanted:
                self._refer(node, asked)
            case _:
                pass

    def _refer(self, node: RefersTo, asked: dict[str, list[Any]]) -> None:
        random = self._random
        other = random.choice(asked.get(node.other) or [self._make_text()])
        asked.setdefault(node.other, [other])
        text = change_case(str(other), random) if random.random() < 0.5 else str(other)
        head = self._make_text() if node.relation in ("endswith", "contains") else ""
        tail = self._make_text() if node.relation in ("startswith", "contains") else ""
        asked.setdefault(node.field, []).append(f"{head}{text}{tail}")

    def _sample(self, test: ValueTest) -> Any:
        """A value that the test holds for, or nearly."""
        random = self._random
        match test:
            case AnyTest():
                return self._sample(random.choice(test.tests))
            case Equals() | StartsWith() | EndsWith() | Contains():
                head = tail = ""
                if isinstance(test, EndsWith | Contains):
                    head = random.choice(("", "", "C:\\x\\", self._make_text()))
                if isinstance(test, StartsWith | Contains):
                    tail = random.choice(("", "", " -y", self._make_text()))
                return head + self._vary(test.literal, test.cased) + tail
            case Wildcards():
                return self._fill(test)
            case Matches():
                return self._find_sample(test.expression)
            case InNetwork():
                return self._make_address(test)
            case IsNumber():
                return self._write_number(test.number)
            case Compares():
                return self._write_number(test.number + random.choice((-1, 0, 0, 1, 0.5)))
            case TimePartCompares():
                return self._make_time(test)
            case _:
                raise AssertionError(f"the referee does not know {test!r}")

    def _vary(self, literal: str, cased: bool) -> str:
        if cased and self._random.random() < 0.9:
            return literal
        return change_case(literal, self._random) if self._random.random() < 0.6 else literal

    def _fill(self, test: Wildcards) -> str:
        random = self._random
        written = []
        for chunk in test.chunks:
            letters = [random.choice("xA\xdf\n") for _ in range(chunk.length)]
            for offset, literal in chunk.literals:
                letters[offset : offset + len(literal)] = literal
            written.append(self._vary("".join(letters), test.cased))
        text = written[0]
        for chunk_text in written[1:]:
            text += random.choice(("", "", "z", self._make_text())) + chunk_text
        return text

    def _find_sample(self, expression: str) -> str:
        random = self._random
        found = self._samples.get(expression)
        for around in _AROUND:
            if found is None and (inner := around.fullmatch(expression)) is not None:
                expression = inner[1]
                found = self._samples.get(expression)
        if found is None:  # with a placeholder's value in it
            return random.choice((expression, *WORDS))
        head = random.choice(("", "", "", "x ", "\n", self._make_text()))
        tail = random.choice(("", "", "", " y", "\n", self._make_text()))
        return head + random.choice(found) + tail

    def _make_address(self, test: InNetwork) -> str:
        random = self._random
        network = test.network
        size = min(network.num_addresses, 2**64)
        address = network[random.choice((0, size - 1, random.randrange(size)))]
        if isinstance(address, IPv4Address) and random.random() < 0.2:
            return f"::ffff:{address}"
        if random.random() < 0.1:
            return str(ip_address(random.getrandbits(32)))
        return random.choice((str(address), address.exploded, f"{address}%eth0", f" {address}"))

    def _write_number(self, number: float) -> Any:
        return self._random.choice(
            (number, number, str(number), f"{number:.1f}", f"+{number}", [number], f"{number:e}")
        )

    def _make_time(self, test: TimePartCompares) -> Any:
        random = self._random
        part = int(min(max(test.number, 1), 9999)) + random.choice((-1, 0, 0, 1))
        time = datetime(2024, 3, 4, 5, 6, 7, tzinfo=UTC)
        limits = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12)}
        if test.part in limits:
            low, high = limits[test.part]
            time = time.replace(**{test.part: min(max(part, low), high)})  # type: ignore[arg-type]
        elif test.part == "year":
            time = time.replace(year=min(max(part, 1), 9999))
        else:
            time = datetime.fromisocalendar(2024, min(max(part, 1), 52), 3).replace(tzinfo=UTC)
        return random.choice((time.isoformat(), time.timestamp(), str(int(time.timestamp()))))

    def _make_text(self) -> str:
        random = self._random
        return "".join(random.choice((*PIECES, *WORDS)) for _ in range(random.choice((0, 1, 1, 3))))

    def _make_value(self) -> Any:
        random = self._random
        return self._make_text() if random.random() < 0.7 else random.choice(_ODD_VALUES)

    def _join(self, values: list[Any]) -> Any:
        """The values asked of one field, as one: the only one, a list, or one text of all."""
        random = self._random
        if len(values) == 1:
            return values[0]
        way = random.randrange(3)
        if way == 0:
            return " ".join(map(str, values))
        return values if way == 1 else random.choice(values)

    def _attack(self, value: Any) -> Any:
        random = self._random
        if isinstance(value, str) and random.random() < 0.75:
            return change_text(value, random)
        match random.randrange(9):
            case 0:
                return [value, self._make_value()]
            case 1:
                return [self._make_value(), value]
            case 2:
                return {"k": value, "l": [self._make_value()]}
            case 3:
                return [[[value]], {"k": {"k": value}}]
            case 4:
                return [value, None]
            case 5:
                return _read_number(value)
            case 6:
                return (value,)
            case 7:
                return str(value).encode("utf-8", "replace")
            case _:
                return random.choice(_ODD_VALUES)

    def _rearrange(self, fields: Fields) -> None:
        """Values in other fields than they were asked of."""
        random = self._random
        one = random.choice(list(fields))
        match random.randrange(4):
            case 0:
                del fields[one]
            case 1:
                fields[random.choice((*self._names, one.upper(), f"{one} "))] = fields.pop(one)
            case 2:
                other = random.choice(list(fields))
                fields[one], fields[other] = fields[other], fields[one]
            case _:
                fields["other"] = fields.pop(one)


def _read_number(value: Any) -> Any:
    """The value as a number where it is one's text."""
    try:
        return int(str(value))
    except ValueError:
        return [value, value]
