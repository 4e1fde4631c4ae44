"""Beside the line, before its start: from lists of indicators to the file that every process opens.

A list is compiled once, into a file that is named by the digest of all that it was made from. The
daemon does it before its worker processes start, which find it there. A file can be deleted at any
time: it is made again. A file that is compiled already is opened as it is.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from appliance.detect.indicators.file import (
    MAGIC,
    IndicatorFile,
    IndicatorLike,
    is_indicator_file,
    write_indicators,
)
from appliance.errors import ModelError
from appliance.schema import digest

#: Compiled files that are kept: those of the engine that runs, and of the one before it.
MAX_KEPT: Final = 8


def open_indicator_files(named: Sequence[str], folder: Path) -> list[IndicatorFile]:
    """The files that the operator names: those that are compiled as they are, all lists in one,
    which is kept in `folder`. Raises ModelError for one that can't be read or holds no indicator.
    """
    lists: list[Path] = []
    files: list[IndicatorFile] = []
    for path in map(Path, named):
        try:
            is_compiled = is_indicator_file(path)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        if is_compiled:
            files.append(IndicatorFile.open(path))
        else:
            lists.append(path)
    if lists:
        key = digest("indicator lists", *(part for path in lists for part in _name_list(path)))
        files.append(open_compiled(folder, key, lambda: read_lists(lists)))
    return files


def open_compiled(
    folder: Path, key: str, read: Callable[[], Iterable[IndicatorLike]]
) -> IndicatorFile:
    """The file that was compiled under the key, which is a digest of all that it is made from; made
    from what `read` gives where it is not there or is damaged. Raises ModelError."""
    name = f"indicators-{digest('compiled', MAGIC, key)[:32]}.bin"
    path = folder / name
    if path.is_file():
        with suppress(ModelError):
            return IndicatorFile.open(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_indicators(folder, read(), name)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error
    opened = IndicatorFile.open(path)
    _drop_oldest(folder)
    return opened


def open_base_indicators(base: Path, folder: Path) -> list[IndicatorFile]:
    """Those that were imported into a knowledge base; no encoder is needed. Raises ModelError for a
    base that can't be read."""
    from appliance.knowledge.entry_file import EntryFile, decode_indicators  # noqa: PLC0415
    from appliance.knowledge.generation import read_generation, verify_file  # noqa: PLC0415

    made = read_generation(base)
    if not made.manifest.indicators:
        return []

    def read() -> Iterator[IndicatorLike]:
        verify_file(made.entries, made.manifest)
        entries = EntryFile.open(made.entries)
        try:
            yield from decode_indicators(entries.list_indicators())
        finally:
            entries.close()

    return [open_compiled(folder, made.manifest.files[made.entries.name], read)]


def read_lists(paths: Sequence[Path]) -> Iterator[IndicatorLike]:
    """The indicators of lists in any form that the knowledge base takes in. Raises ModelError for a
    list without any."""
    # Not every start compiles: the readers and their libraries take a while to load.
    from appliance.knowledge.entries import Indicator  # noqa: PLC0415
    from appliance.knowledge.readers import read_path  # noqa: PLC0415

    for path in paths:
        is_empty = True
        for _, item in read_path(path):
            if isinstance(item, Indicator):
                is_empty = False
                yield item
        if is_empty:
            raise ModelError(f"{path}: holds no indicator")


def _name_list(path: Path) -> tuple[str, str]:
    """The file's name, which its indicators' source is called by, and the digest of its content."""
    try:
        with path.open("rb") as file:
            return path.name, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _drop_oldest(folder: Path) -> None:
    """Whoever has one of them open goes on reading it."""
    with suppress(OSError):
        files = sorted(folder.glob("indicators-*.bin"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MAX_KEPT]:
            path.unlink(missing_ok=True)
