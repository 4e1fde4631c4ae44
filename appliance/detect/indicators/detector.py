"""The indicators detector of the detect stage: Sighting -> Detections, stateless but for counters.

Each field that can hold an indicator (see `fields`) is looked up, exactly: a domain also by the
domains above it, an address also by the networks around it, a URL also by its host. A value is
valid at an event's time t when valid_from <= t < valid_until (STIX 2.1, section 4.7).

One finding an event and value, however many fields hold it and sources name it. Its `rule_id` is
`indicator:<kind>:<value>`, so that the same indicator is one rule to whoever suppresses or counts
it. Level, by the greatest confidence (0..100) that a valid source states: high from 80 on, medium
from 50 on and where none is stated, else low; one step lower for a file's name, which whoever
writes the file chooses. Its score is that confidence as a share, 0.5 where none is stated.
Techniques are the ATT&CK ids that the indicator is linked to.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from appliance.detect.indicators.fields import FIELDS, LETTERS, Holds
from appliance.detect.indicators.file import Entry, Origin
from appliance.detect.indicators.values import (
    Address,
    find_urls,
    list_suffixes,
    make_key,
    number_ipv4,
    read_address,
    read_domain,
    read_file_name,
    read_hashes,
    read_url,
    refang,
    split_key,
    write_url,
)
from appliance.errors import ModelError
from appliance.schema import Detection, Level, Match, RuleInfo, Sighting, View, digest

DETECTOR: Final = "indicators"

#: Values whose answers are remembered, of all kinds of field together, and the longest of them in
#: characters: a log chooses its values.
MAX_REMEMBERED: Final = 65_536
MAX_VALUE: Final = 256
#: Sets of field names whose layout is remembered, and the longest of them.
MAX_LAYOUTS: Final = 512
MAX_FIELDS: Final = 512
#: Parts of a value that is a list which are looked up.
MAX_PARTS: Final = 64
#: Longest value in a rule's id, in characters; a longer one ends in a digest.
MAX_NAMED: Final = 160
#: Longest title, and most fields and sources that a finding names.
MAX_TITLE: Final = 300
MAX_PLACES: Final = 8
MAX_SOURCES: Final = 4
#: Most findings of one event.
MAX_FOUND: Final = 32

_HIGH: Final = 80
_MEDIUM: Final = 50
_LEVELS: Final[tuple[Level, ...]] = ("informational", "low", "medium", "high")
_TECHNIQUE: Final = re.compile(r"T\d{4}(?:\.\d{3})?", re.ASCII)
#: Longest text that can be an address or a name, in characters.
_MAX_HOST: Final = 512

#: What is known of a value: empty for most.
Found = tuple[Entry, ...]
_NOTHING: Final[Found] = ()


class Tables(Protocol):
    """What is needed of a file of indicators (see `file`)."""

    @property
    def letters(self) -> str:
        """Letters of the keys that it holds."""

    def find(self, key: bytes) -> Entry | None:
        """The entry of the key. May raise ModelError."""

    def find_networks(self, version: int, number: int) -> tuple[Entry, ...]:
        """The entries of the networks around the address. May raise ModelError."""

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""

    def close(self) -> None:
        """Close the file."""


class _Field(NamedTuple):
    """A field to be looked up: by its name, in what is remembered, and how."""

    name: str
    known: dict[str, Found]
    find: Callable[[str], Found]


class _Layout(NamedTuple):
    """Of views with the same field names: the fields to be looked up, and those in whose text URLs
    are looked for."""

    fields: tuple[_Field, ...]
    texts: tuple[str, ...]


class _Place(NamedTuple):
    """Where a value was seen."""

    view: View
    field: str
    value: str


class IndicatorDetector:
    """Looks events up in files of indicators. Not for use by several threads at once.

    `remember` is how many values' answers are kept (0: none; the findings are the same). `missing`
    says why something that should be looked for is not; "" when all is there. `rules` is empty: an
    indicator is no rule that is loaded.
    """

    rules: Mapping[str, RuleInfo] = MappingProxyType({})

    def __init__(
        self, tables: Sequence[Tables], *, remember: int = MAX_REMEMBERED, missing: str = ""
    ) -> None:
        self.missing: Final = missing
        self._tables = tuple(tables)
        self._finds = tuple(table.find for table in self._tables)
        self._letters = frozenset("".join(table.letters for table in self._tables))
        self._remember = remember
        self._remembered = 0
        self._forgotten = 0
        self._known: dict[Holds, dict[str, Found]] = {holds: {} for holds in LETTERS}
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._readers: dict[Holds, Callable[[str], Found]] = {
            "hashes": self._find_hashes,
            "address": self._find_address,
            "host": self._find_host,
            "hosts": self._find_hosts,
            "url": self._find_url,
            "file": self._find_file,
        }
        self._counts = dict.fromkeys(("events", "fields", "matched", "early", "expired"), 0)
        self._counts["faults"] = 0
        self._fault = ""

    def detect(self, sighting: Sighting) -> list[Detection]:
        """A detection of each indicator that the event shows. Raises nothing."""
        counts = self._counts
        counts["events"] += 1
        seen: list[tuple[_Place, Found]] = []
        last = None
        for view in sighting.views:
            fields = view.fields
            if fields is last:  # most views of an event share them
                continue
            last = fields
            names = tuple(fields)
            layout = self._layouts.get(names) or self._learn_layout(names)
            counts["fields"] += len(layout.fields)
            for name, known, find in layout.fields:
                value = fields[name]
                if type(value) is str:
                    found = known.get(value)
                    if found is None:
                        found = self._look_up(value, known, find)
                    if found:
                        seen.append((_Place(view, name, value), found))
                elif type(value) is list:
                    self._look_up_parts(view, value, seen, name, known=known, find=find)
            for name in layout.texts:
                value = fields[name]
                if type(value) is str and "://" in value:
                    found = self._look_up(value, {}, self._find_in_text)
                    if found:
                        seen.append((_Place(view, name, value), found))
        return self._make_detections(sighting, seen) if seen else []

    def take_counts(self) -> dict[str, int]:
        """For the ledger, since it was last asked: events looked at, fields looked up, detections
        (`matched`), values found at a time before or behind their validity (`early`, `expired`),
        and look-ups that failed (`faults`)."""
        counts = self._counts
        self._counts = dict.fromkeys(counts, 0)
        return counts

    def describe(self) -> dict[str, Any]:
        """Facts for `status`."""
        return {
            "files": [table.describe() for table in self._tables],
            "cache": {
                "depth": self._remembered,
                "cap": self._remember,
                "dropped": self._forgotten,
            },
            "fault": self._fault,
            "missing": self.missing,
        }

    def close(self) -> None:
        """Close the files; nothing can be looked up afterwards."""
        for table in self._tables:
            table.close()

    def _learn_layout(self, names: tuple[str, ...]) -> _Layout:
        fields = []
        texts = []
        for name in names:
            holds = FIELDS.get(name)
            if holds is None or self._letters.isdisjoint(LETTERS[holds]):
                continue
            if holds == "text":
                texts.append(name)
            else:
                fields.append(_Field(name, self._known[holds], self._readers[holds]))
        layout = _Layout(tuple(fields), tuple(texts))
        if len(names) <= MAX_FIELDS:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[names] = layout
        return layout

    def _look_up(self, value: str, known: dict[str, Found], find: Callable[[str], Found]) -> Found:
        """What is known of a value that is not remembered."""
        try:
            found = find(value)
        except ModelError as error:  # the file: the line goes on, `status` says so
            self._counts["faults"] += 1
            self._fault = str(error)
            return _NOTHING
        if self._remember and len(value) <= MAX_VALUE:
            if self._remembered >= self._remember:
                self._forget()
            known[value] = found
            self._remembered += 1
        return found

    def _forget(self) -> None:
        self._forgotten += self._remembered
        self._remembered = 0
        for known in self._known.values():
            known.clear()

    def _look_up_parts(
        self,
        view: View,
        values: Sequence[Any],
        seen: list[tuple[_Place, Found]],
        name: str,
        *,
        known: dict[str, Found],
        find: Callable[[str], Found],
    ) -> None:
        for value in values[:MAX_PARTS]:
            if type(value) is str:
                found = known.get(value)
                if found is None:
                    found = self._look_up(value, known, find)
                if found:
                    seen.append((_Place(view, name, value), found))

    # --- what a field's text holds

    def _get(self, letter: str, text: str) -> Found:
        key = make_key(letter, text)
        found = _NOTHING
        for find in self._finds:
            entry = find(key)
            if entry is not None:
                found += (entry,)
        return found

    def _find_hashes(self, text: str) -> Found:
        found = _NOTHING
        for digits in read_hashes(text):
            found += self._get("h", digits)
        return found

    def _find_file(self, text: str) -> Found:
        name = read_file_name(text)
        return self._get("f", name) if name else _NOTHING

    def _find_address(self, text: str) -> Found:
        number = number_ipv4(text)
        if number is not None:  # the quick way for most
            return self._find_known(text, 4, number)
        address = read_address(refang(text).strip())
        return _NOTHING if address is None else self._find_parsed(address)

    def _find_parsed(self, address: Address) -> Found:
        return self._find_known(str(address), address.version, int(address))

    def _find_known(self, text: str, version: int, number: int) -> Found:
        """Of an address in the compared form, and as a number."""
        found = self._get("a", text)
        if "n" in self._letters:
            for table in self._tables:
                found += table.find_networks(version, number)
        return found

    def _find_host(self, text: str) -> Found:
        text = refang(text[-_MAX_HOST:]).strip()
        address = read_address(text)
        if address is not None:
            return self._find_parsed(address)
        name, colon, port = text.rpartition(":")
        return self._find_domain(name if colon and port.isdecimal() else text)

    def _find_domain(self, text: str) -> Found:
        if "d" not in self._letters:
            return _NOTHING
        found = _NOTHING
        for name in list_suffixes(read_domain(text)):
            found += self._get("d", name)
        return found

    def _find_hosts(self, text: str) -> Found:
        """Sysmon's answers to a query: `type:  5 cdn.example;::ffff:192.0.2.7;`."""
        found: dict[Entry, None] = {}
        for part in text[: MAX_PARTS * 256].split(";")[:MAX_PARTS]:
            words = part.split()
            if words:
                found.update(dict.fromkeys(self._find_host(words[-1])))
        return tuple(found)

    def _find_url(self, text: str) -> Found:
        if text[:1] == "/":  # a path alone
            return _NOTHING
        parts = read_url(text)
        return _NOTHING if parts is None else self._find_url_parts(parts)

    def _find_url_parts(self, parts: tuple[str, str, str]) -> Found:
        host = parts[0]
        found = self._get("u", write_url(parts)) if "u" in self._letters else _NOTHING
        address = read_address(host)
        return found + (self._find_domain(host) if address is None else self._find_parsed(address))

    def _find_in_text(self, text: str) -> Found:
        found: dict[Entry, None] = {}
        for parts in find_urls(text):
            found.update(dict.fromkeys(self._find_url_parts(parts)))
        return tuple(found)

    # --- what is said of it

    def _make_detections(
        self, sighting: Sighting, seen: list[tuple[_Place, Found]]
    ) -> list[Detection]:
        places: dict[bytes, list[_Place]] = {}
        origins: dict[bytes, dict[Origin, None]] = {}
        for place, found in seen:
            for entry in found:
                places.setdefault(entry.key, []).append(place)
                origins.setdefault(entry.key, {}).update(dict.fromkeys(entry.origins))
        time = sighting.time if math.isfinite(sighting.time) else sighting.received
        detections: list[Detection] = []
        for key, said in origins.items():
            valid = [origin for origin in said if _is_valid(origin, time)]
            if not valid:
                # None began yet, or some are over.
                early = all(
                    origin.valid_from is not None and time < origin.valid_from for origin in said
                )
                self._counts["early" if early else "expired"] += 1
            elif len(detections) < MAX_FOUND:
                detections.append(_make_detection(sighting, key, valid, places[key]))
        self._counts["matched"] += len(detections)
        return detections


def _is_valid(origin: Origin, time: float) -> bool:
    begins, ends = origin.valid_from, origin.valid_until
    return (begins is None or time >= begins) and (ends is None or time < ends)


def _make_detection(
    sighting: Sighting, key: bytes, origins: list[Origin], places: list[_Place]
) -> Detection:
    kind, value = split_key(key)
    stated = [origin.confidence for origin in origins if origin.confidence is not None]
    confidence = min(max(stated), 100) if stated else None
    techniques = dict.fromkeys(
        link for origin in origins for link in origin.links if _TECHNIQUE.fullmatch(link)
    )
    best = max(origins, key=_rank)
    about = f"{best.source}: {best.name}" if best.name else best.source
    return Detection(
        detector=DETECTOR,
        rule_id=name_rule(kind, value),
        title=_cap(f"Known indicator: {kind} {value} ({about})", MAX_TITLE),
        level=choose_level(kind, confidence),
        techniques=tuple(techniques),
        tactics=(),
        event=sighting.event,
        logsource=places[0].view.logsource,
        matched=tuple(_list_evidence(kind, value, origins, places)),
        score=0.5 if confidence is None else max(confidence, 0) / 100,
    )


def _rank(origin: Origin) -> int:
    return _MEDIUM if origin.confidence is None else origin.confidence


def name_rule(kind: str, value: str) -> str:
    """The id under which findings of an indicator are counted and suppressed."""
    if len(value) > MAX_NAMED:
        value = f"{value[: MAX_NAMED - 17]}~{digest('indicator', value)[:16]}"
    return f"indicator:{kind}:{value}"


def choose_level(kind: str, confidence: int | None) -> Level:
    """The level of a finding (see the module's head)."""
    sure = _MEDIUM if confidence is None else confidence
    place = 3 if sure >= _HIGH else 2 if sure >= _MEDIUM else 1
    return _LEVELS[place - 1 if kind == "file" else place]


def _list_evidence(
    kind: str, value: str, origins: list[Origin], places: list[_Place]
) -> Iterator[Match]:
    """The fields that hold the value, then what its sources say."""
    told = dict.fromkeys((place.field, place.value) for place in places)
    for field, text in list(told)[:MAX_PLACES]:
        yield Match(field, _cap(text, 2 * MAX_VALUE), f"{kind} {value}")
    for origin in sorted(origins, key=_rank, reverse=True)[:MAX_SOURCES]:
        yield Match("indicator.source", origin.source, "")
        if origin.name:
            yield Match("indicator.name", origin.name, "")
        if origin.confidence is not None:
            yield Match("indicator.confidence", str(origin.confidence), "")
        if origin.links:
            yield Match("indicator.links", _cap(", ".join(origin.links), 2 * MAX_VALUE), "")


def _cap(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
