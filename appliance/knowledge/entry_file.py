"""Knowledge, on disk: the SQLite file of a base, with its full-text index.

Written once, in one go, the same content giving the same bytes; then only read, as a file that
nobody changes (https://www.sqlite.org/uri.html, "immutable"). Entries are read when they are asked
for. Tables:

- `entries`: every source's entries; of one id exactly one has `shown` = 1.
- `names`: ids, titles and aliases, case folded. `facets`: type, platforms, tactics.
- `links`: as the sources state them, and what their ends stand for today.
- `passages`: row of the vector -> entry; `words`: what each passage says, in FTS5.
- `indicators`, and `facts`: one array.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError
from appliance.knowledge.content import Content, NameKind, PlacedEntry
from appliance.knowledge.entries import Indicator, KnowledgeEntry, Link
from appliance.knowledge.lexical import TOKENIZER, join_words, write_facet
from appliance.knowledge.passages import Passage, is_searchable

#: Entries kept in memory after they were read.
CACHED_ENTRIES: Final = 2_000

#: Weights of the columns of `words`: name, title, aliases, text; facets only filter.
_SELECT_WORDS: Final = (
    "SELECT rowid, -bm25(words, 6.0, 4.0, 4.0, 1.0, 0.0) AS fit FROM words WHERE words MATCH ?"
    " ORDER BY fit DESC, rowid LIMIT ?"
)

_SCHEMA: Final = f"""
CREATE TABLE entries(place INTEGER PRIMARY KEY, id TEXT NOT NULL, source INTEGER NOT NULL,
    shown INTEGER NOT NULL, type TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE names(name TEXT NOT NULL, place INTEGER NOT NULL, kind TEXT NOT NULL,
    PRIMARY KEY(name, place)) WITHOUT ROWID;
CREATE TABLE facets(facet TEXT NOT NULL, place INTEGER NOT NULL,
    PRIMARY KEY(facet, place)) WITHOUT ROWID;
CREATE TABLE links(place INTEGER PRIMARY KEY, source INTEGER NOT NULL, shown INTEGER NOT NULL,
    from_id TEXT NOT NULL, to_id TEXT NOT NULL, said_from TEXT NOT NULL, kind TEXT NOT NULL,
    said_to TEXT NOT NULL, origin TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE passages(row INTEGER PRIMARY KEY, place INTEGER NOT NULL, kind TEXT NOT NULL,
    hash BLOB NOT NULL);
CREATE TABLE indicators(place INTEGER PRIMARY KEY, source INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE facts(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(name, title, aliases, text, facets, content='',
    tokenize="{TOKENIZER}");
"""
_INDEXES: Final = """
CREATE INDEX entries_id ON entries(id);
CREATE INDEX links_from ON links(from_id);
CREATE INDEX links_to ON links(to_id);
CREATE INDEX links_said_from ON links(said_from) WHERE said_from <> from_id;
CREATE INDEX links_said_to ON links(said_to) WHERE said_to <> to_id;
"""
_SELECT_LINK: Final = "SELECT said_from, kind, said_to, origin, text FROM links"


class NamedPlace(NamedTuple):
    """An entry's place, and what kind of name of it was asked for."""

    place: int
    kind: NameKind


def write_entry_file(path: Path, content: Content, passages: Sequence[Passage]) -> None:
    """Write the file for this content, its passages in the order of their vectors. Raises
    ModelError when it cannot be written."""
    try:
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            # The file is synced and named when it is whole: nothing half done is ever read.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -65536")
            connection.execute("BEGIN")
            _create(connection, _SCHEMA)
            _fill_tables(connection, content)
            _fill_passages(connection, content, passages)
            _create(connection, _INDEXES)
            connection.execute("INSERT INTO words(words) VALUES ('optimize')")
            connection.execute("COMMIT")
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise ModelError(f"{path}: cannot be written: {error}") from error


def _create(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def _fill_tables(connection: sqlite3.Connection, content: Content) -> None:
    encode = msgspec.json.Encoder().encode
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
        (
            (place, p.entry.id, p.source, p.shown, p.entry.type, encode(p.entry))
            for place, p in enumerate(content.entries)
        ),
    )
    connection.executemany(
        "INSERT INTO names VALUES (?, ?, ?)", ((n.name, n.place, n.kind) for n in content.names)
    )
    connection.executemany(
        "INSERT INTO facets VALUES (?, ?)",
        sorted(
            (facet, place)
            for place, placed in enumerate(content.entries)
            if placed.shown and is_searchable(placed)
            for facet in list_facets(placed)
        ),
    )
    connection.executemany(
        "INSERT INTO links VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (place, p.source, p.shown, p.from_id, p.to_id, p.link.source, p.link.kind,
             p.link.target, p.link.origin, p.link.text)
            for place, p in enumerate(content.links)
        ),
    )  # fmt: skip
    connection.executemany(
        "INSERT INTO indicators(source, body) VALUES (?, ?)",
        (
            (number, body)
            for number, source in enumerate(content.sources)
            for body in source.indicators
        ),
    )


def _fill_passages(
    connection: sqlite3.Connection, content: Content, passages: Sequence[Passage]
) -> None:
    owners = np.array([passage.owner for passage in passages], "<i4")
    connection.execute("INSERT INTO facts VALUES ('owners', ?)", (owners.tobytes(),))
    connection.executemany(
        "INSERT INTO passages VALUES (?, ?, ?, ?)",
        (
            (row, p.owner, p.kind, b"" if p.kind == "mean" else p.hash)
            for row, p in enumerate(passages)
        ),
    )
    connection.executemany(
        "INSERT INTO words(rowid, name, title, aliases, text, facets) VALUES (?, ?, ?, ?, ?, ?)",
        (
            (row, *_list_words(content.entries[p.owner], p))
            for row, p in enumerate(passages)
            if p.kind != "mean"
        ),
    )


def _list_words(placed: PlacedEntry, passage: Passage) -> tuple[str, str, str, str, str]:
    entry = placed.entry
    facets = " ".join(list_facets(placed))
    if passage.kind != "lead":
        return "", "", "", join_words([passage.text.removeprefix(f"{entry.title}. ")]), facets
    name = join_words(dict.fromkeys([entry.id, entry.external_id]))
    text = passage.text.removeprefix(f"{entry.title}. ")
    return name, join_words([entry.title]), join_words(entry.aliases), join_words([text]), facets


def list_facets(placed: PlacedEntry) -> list[str]:
    """What the entry can be filtered by, each as one word."""
    entry = placed.entry
    facets = [write_facet("type", entry.type)]
    facets += [write_facet("platform", platform) for platform in entry.platforms]
    facets += [write_facet("tactic", tactic) for tactic in entry.tactics]
    return list(dict.fromkeys(facets))


class EntryFile:
    """The file, opened to be read. Use `open`. Safe to share between threads."""

    def __init__(self, connection: sqlite3.Connection, owners: NDArray[np.int32]) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._decode = msgspec.json.Decoder(KnowledgeEntry).decode
        self._cache: OrderedDict[int, KnowledgeEntry] = OrderedDict()
        #: Place of the entry of each passage, by row.
        self.owners: Final = owners

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file whose bytes were verified. Raises ModelError when it is not such a file."""
        try:
            address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            try:
                (raw,) = connection.execute(
                    "SELECT value FROM facts WHERE name = 'owners'"
                ).fetchone()
                connection.execute(
                    "CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, words, row)"
                )
            except BaseException:
                connection.close()
                raise
            return cls(connection, np.frombuffer(raw, "<i4"))
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: not the entries of a base: {error}") from error

    def close(self) -> None:
        """Close the file; nothing can be asked afterwards."""
        with self._lock:
            self._connection.close()

    def read_entry(self, place: int) -> KnowledgeEntry:
        """The entry at this place, which must be there."""
        with self._lock:
            entry = self._cache.get(place)
            if entry is not None:
                self._cache.move_to_end(place)
                return entry
        ((body,),) = self._ask("SELECT body FROM entries WHERE place = ?", place)
        try:
            entry = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"the knowledge base: entry {place} is none: {error}") from error
        with self._lock:
            self._cache[place] = entry
            if len(self._cache) > CACHED_ENTRIES:
                self._cache.popitem(last=False)
        return entry

    def find_id(self, id: str) -> int | None:  # noqa: A002 - the field's name
        """Place of the shown entry with this id."""
        rows = self._ask("SELECT place FROM entries WHERE id = ? AND shown = 1", id)
        return rows[0][0] if rows else None

    def find_versions(self, id: str) -> list[int]:  # noqa: A002
        """Places of all sources' entries with this id, the shown one first."""
        rows = self._ask("SELECT place FROM entries WHERE id = ? ORDER BY shown DESC, place", id)
        return [place for (place,) in rows]

    def find_name(self, name: str) -> list[NamedPlace]:
        """Entries with this name, in any case, ids first."""
        folded = " ".join(name.casefold().split())
        rows = self._ask("SELECT place, kind FROM names WHERE name = ?", folded)
        order = ("id", "external", "renumbered", "title", "alias")
        return sorted(
            (NamedPlace(place, kind) for place, kind in rows),
            key=lambda found: (order.index(found.kind), found.place),
        )

    def find_other_ids(self, place: int) -> list[str]:
        """Ids, in lower case, under which others know the entry."""
        asked = "SELECT name FROM names WHERE place = ? AND kind = 'renumbered' ORDER BY name"
        return [name for (name,) in self._ask(asked, place)]

    def find_links(self, id: str) -> list[Link]:  # noqa: A002
        """Links from and to this id, also those that name it by another of its ids."""
        asked = (
            f"{_SELECT_LINK} WHERE shown = 1 AND (from_id = ?1 OR to_id = ?1 OR"
            " (said_from = ?1 AND said_from <> from_id) OR (said_to = ?1 AND said_to <> to_id))"
            " ORDER BY place"
        )
        return [_make_link(row) for row in self._ask(asked, id)]

    def find_neighbours(self, id: str) -> list[tuple[str, str, Link]]:  # noqa: A002
        """As `find_links`, each with what its two ends stand for today."""
        asked = (
            "SELECT from_id, to_id, said_from, kind, said_to, origin, text FROM links"
            " WHERE shown = 1 AND (from_id = ?1 OR to_id = ?1 OR"
            " (said_from = ?1 AND said_from <> from_id) OR (said_to = ?1 AND said_to <> to_id))"
            " ORDER BY place"
        )
        return [(row[0], row[1], _make_link(row[2:])) for row in self._ask(asked, id)]

    def list_ends(self, kind: str) -> list[tuple[str, str]]:
        """(from, to) of all links of this kind, as both ends stand today, each pair once."""
        asked = "SELECT DISTINCT from_id, to_id FROM links WHERE shown = 1 AND kind = ?"
        return self._ask(asked, kind)

    def list_shown(self, type: str) -> Iterator[KnowledgeEntry]:  # noqa: A002
        """All shown entries of one type by id, also revoked and deprecated ones."""
        asked = "SELECT body FROM entries WHERE shown = 1 AND type = ? ORDER BY id"
        return (self._decode(body) for (body,) in self._ask(asked, type))

    def find_facet(self, facet: str) -> NDArray[np.bool_]:
        """Which passages belong to entries with this facet, by row."""
        places = [
            place for (place,) in self._ask("SELECT place FROM facets WHERE facet = ?", facet)
        ]
        found: NDArray[np.bool_] = np.isin(self.owners, np.array(places, np.int32))
        return found

    def count_word(self, word: str) -> int:
        """In how many passages a word stands."""
        rows = self._ask("SELECT doc FROM temp.terms WHERE term = ?", word)
        return rows[0][0] if rows else 0

    def find_words(self, match: str, most: int) -> list[tuple[int, float]]:
        """Rows of passages for an FTS5 expression with how well each fits (more is better), best
        first."""
        return self._ask(_SELECT_WORDS, match, most)

    def count_types(self) -> dict[str, int]:
        """How many entries of each type search can find."""
        asked = (
            "SELECT substr(facet, 6), count(*) FROM facets WHERE facet >= 'type='"
            " AND facet < 'type>' GROUP BY facet"
        )
        return {name.replace("-", "_"): count for name, count in self._ask(asked)}

    def list_indicators(self, source: int | None = None) -> Iterator[bytes]:
        """All indicators as JSON, of one source or of all."""
        asked = "SELECT body FROM indicators WHERE place > ? {} ORDER BY place LIMIT 20000"
        which = "" if source is None else f"AND source = {int(source)}"
        asked = asked.replace("body", "place, body", 1).format(which)
        last = 0
        while rows := self._ask(asked, last):
            last = rows[-1][0]
            yield from (body for _, body in rows)

    def list_entries(self, source: int) -> Iterator[KnowledgeEntry]:
        """All entries of one source, shown or not."""
        rows = self._ask("SELECT body FROM entries WHERE source = ? ORDER BY place", source)
        return (self._decode(body) for (body,) in rows)

    def list_links(self, source: int) -> Iterator[Link]:
        """All links of one source, shown or not."""
        rows = self._ask(f"{_SELECT_LINK} WHERE source = ? ORDER BY place", source)
        return (_make_link(row) for row in rows)

    def list_hashes(self) -> Iterator[tuple[int, bytes]]:
        """Row and text hash of every passage that has a text."""
        rows = self._ask("SELECT row, hash FROM passages WHERE kind <> 'mean' ORDER BY row")
        return iter(rows)

    def _ask(self, asked: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        """All rows of an answer. Values of text that SQLite can't take (a lone surrogate) have no
        row. Raises ModelError when the file cannot be read."""
        try:
            with self._lock:
                return self._connection.execute(asked, values).fetchall()
        except UnicodeEncodeError:
            return []
        except sqlite3.Error as error:
            raise ModelError(f"the knowledge base cannot be read: {error}") from error


def _make_link(row: Sequence[str]) -> Link:
    return Link(row[0], row[1], row[2], row[3], row[4])


def decode_indicators(bodies: Iterable[bytes]) -> Iterator[Indicator]:
    """Indicators from their JSON. Raises ModelError when one is none."""
    decode = msgspec.json.Decoder(Indicator).decode
    try:
        yield from map(decode, bodies)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"the knowledge base: an indicator is none: {error}") from error
