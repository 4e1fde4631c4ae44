"""DuckDB, closed in: the only home of `duckdb`.

An in-memory database that may touch the files below one folder and nothing else: no extension is
loaded or fetched, nothing may be attached, and its settings can't be changed once it is open.
Values reach it as bound parameters.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from appliance.errors import ArchiveError

#: Folder below the archive where DuckDB puts what does not fit into its memory.
SCRATCH: Final = "scratch"
MEMORY_BYTES: Final = 1 << 30
THREADS: Final = 2
#: Rows that are held at once.
FETCH_ROWS: Final = 512


class Database:
    """One database; each question has a cursor of its own. Raises ArchiveError."""

    def __init__(self, folder: Path, *, memory: int = MEMORY_BYTES, threads: int = THREADS) -> None:
        # Not with the module: the line's processes know the archive and never ask DuckDB.
        import duckdb  # noqa: PLC0415

        scratch = folder / SCRATCH
        with duckdb_errors():
            self._db = duckdb.connect(
                ":memory:",
                config={
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                    "allow_community_extensions": "false",
                    "allow_unsigned_extensions": "false",
                    "memory_limit": f"{memory >> 20}MiB",
                    "threads": str(threads),
                },
            )
            try:
                # SET takes no parameters; the texts are quoted as SQL quotes them.
                self._db.execute(f"SET temp_directory = {quote_text(str(scratch))}")
                self._db.execute(f"SET allowed_directories = [{quote_text(str(folder))}]")
                self._db.execute("SET enable_external_access = false")
                self._db.execute("SET enable_progress_bar = false")
                self._db.execute("SET lock_configuration = true")
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Let go of it."""
        self._db.close()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, a few held at a time. FileNotFoundError where a file is gone."""
        with duckdb_errors():
            cursor = self._db.cursor()
            cursor.execute(statement, list(values))
        try:
            while True:
                with duckdb_errors():
                    rows = cursor.fetchmany(FETCH_ROWS)
                if not rows:
                    return
                yield from rows
        finally:
            cursor.close()

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """A statement that gives nothing."""
        with duckdb_errors():
            self._db.execute(statement, list(values))


@contextmanager
def duckdb_errors() -> Iterator[None]:
    """The doorway where DuckDB's errors become ours."""
    import duckdb  # noqa: PLC0415

    try:
        yield
    except duckdb.Error as error:
        text = str(error).partition("\n")[0][:500]
        if isinstance(error, duckdb.IOException) and "No files found" in text:
            raise FileNotFoundError(text) from error
        raise ArchiveError(f"archive: {text}") from error
    except (UnicodeError, OverflowError) as error:
        raise ArchiveError(f"archive: {error}") from error


def quote_text(text: str) -> str:
    """The text as a literal of SQL; for what takes no parameters."""
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """A column's name."""
    return '"' + name.replace('"', '""') + '"'
