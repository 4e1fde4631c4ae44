"""Knowledge, asked for vulnerabilities: what each affects, without encoder and vectors.

Reads what the readers of KEV catalogues and CVE records have put into the base: links "affects" to
`software:<vendor>/<product>` whose text is a version statement (see `readers/cve`), and entries of
type vulnerability, where a KEV entry's lines tell its due date and its use in ransomware campaigns.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import KnowledgeEntry
from appliance.knowledge.entry_file import EntryFile
from appliance.knowledge.generation import Generation, read_generation, verify_file
from appliance.knowledge.readers.kev import KEV_SOURCE

_SOFTWARE: Final = "software:"
_DAY: Final = r"(\d{4}-\d\d-\d\d)"
_DUE: Final = re.compile(rf"^Due: {_DAY}$", re.MULTILINE)
_SINCE: Final = re.compile(rf"^Known exploited since: {_DAY}$", re.MULTILINE)
_RANSOMWARE: Final = re.compile(r"^Used in ransomware campaigns: Known$", re.MULTILINE)


class Vulnerability(msgspec.Struct, frozen=True):
    """What is known of a vulnerability. `exploited` when a catalogue of known exploited ones has
    it, `since` and `due` are that catalogue's days (ISO 8601, "" where not told), `sources` the
    knowledge sources that speak of it."""

    id: str
    title: str
    url: str
    sources: tuple[str, ...]
    exploited: bool = False
    since: str = ""
    due: str = ""
    ransomware: bool = False


class Affected(msgspec.Struct, frozen=True):
    """A vulnerability (its id) and software that it affects; `statement` says which versions (see
    `readers/cve`), `origin` which knowledge source says so."""

    vulnerability: str
    vendor: str
    product: str
    statement: str
    origin: str


class VulnerabilityBase:
    """The vulnerabilities of a knowledge base. Use `open`. Methods raise ModelError when the file
    cannot be read."""

    def __init__(self, generation: Generation, entries: EntryFile) -> None:
        self._entries = entries
        #: Name, version and day (epoch seconds, 0: none) of what was imported into the base.
        self.sources: Final = tuple(
            (source.name, source.version, source.read_at) for source in generation.manifest.sources
        )
        self._count = len(self.sources)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the base at the folder. Raises ModelError when it is none, or is damaged."""
        generation = read_generation(folder)
        try:
            verify_file(generation.entries, generation.manifest)
        except ModelError:
            # An import may have put another generation in its place meanwhile.
            generation = read_generation(folder)
            verify_file(generation.entries, generation.manifest)
        return cls(generation, EntryFile.open(generation.entries))

    def close(self) -> None:
        """Close the file; nothing can be asked afterwards."""
        self._entries.close()

    def list_affected(self) -> Iterator[Affected]:
        """All that is said to be affected by something, source by source."""
        for number in range(self._count):
            for link in self._entries.list_links(number):
                if link.kind == "affects" and link.target.startswith(_SOFTWARE):
                    vendor, _, product = link.target[len(_SOFTWARE) :].partition("/")
                    yield Affected(link.source, vendor, product, link.text, link.origin)

    def describe(self, id: str) -> Vulnerability | None:  # noqa: A002 - the field's name
        """What the base says of a vulnerability; None where it has none of the id, or a revoked
        one."""
        versions = [self._entries.read_entry(place) for place in self._entries.find_versions(id)]
        if not versions or versions[0].type != "vulnerability":
            return None
        if any(entry.revoked for entry in versions):
            return None
        return _describe(versions)


def _describe(versions: list[KnowledgeEntry]) -> Vulnerability:
    """The entry that is shown comes first; a KEV catalogue's own has the dates."""
    shown = versions[0]
    listed = next((entry for entry in versions if entry.source == KEV_SOURCE), None)
    text = listed.text if listed is not None else ""
    return Vulnerability(
        id=shown.id,
        title=(listed or shown).title,
        url=shown.url,
        sources=tuple(dict.fromkeys(entry.source for entry in versions)),
        exploited=listed is not None,
        since=_find_last(_SINCE, text),
        due=_find_last(_DUE, text),
        ransomware=_RANSOMWARE.search(text) is not None,
    )


def _find_last(form: re.Pattern[str], text: str) -> str:
    """The last line of the form: those before may be the description's own."""
    found = form.findall(text)
    return str(found[-1]) if found else ""
