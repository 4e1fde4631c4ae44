"""Knowledge, reading: the files at a path that an operator gives, one after the other.

A stick is a stranger's. So links are not followed, pipes and devices are not opened, and numbers,
depths and sizes have bounds. Archives are opened where they lie (see `archives`).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped
from appliance.knowledge.readers.archives import (
    HEAD,
    MAX_DEPTH,
    MAX_FILE_BYTES,
    SourceFile,
    name_archive,
    read_archive,
    tell_name,
)

#: Files and folders below one path, and bytes of all its files together, archives unpacked.
MAX_FILES: Final = 1_000_000
MAX_TOTAL: Final = 16 << 30


class Tree(msgspec.Struct, frozen=True):
    """What was given: its absolute path without links, whether it is a single plain file, and the
    names of the folders around it, outermost first, with its own."""

    path: Path
    is_file: bool
    folders: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name of what was given, in printing characters."""
        return tell_name(self.path.name)


def open_tree(path: Path) -> Tree:
    """The tree at a path, which itself may be a link. Raises ModelError when there is nothing that
    can be read."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
        is_archive = stat.S_ISREG(mode) and bool(_read_kind(real))
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such path"
        raise ModelError(f"{tell_name(str(path))}: cannot be read: {reason}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ModelError(f"{tell_name(str(path))}: neither a file nor a folder")
    folders = tuple(tell_name(part) for part in real.parts)
    return Tree(real, stat.S_ISREG(mode) and not is_archive, folders)


def walk_files(tree: Tree) -> Iterator[SourceFile | Dropped]:
    """Every file of the tree in the order of the names, those of archives as "archive/member";
    Dropped for what is left out, except what is hidden (names that begin with a dot). A single
    file or archive that cannot be read raises ModelError, and so does what is over the bounds."""
    total = 0
    for found in _walk_tree(tree):
        if isinstance(found, SourceFile):
            total += len(found.raw)
            if total > MAX_TOTAL:
                raise ModelError(f"{tree.label}: more than {MAX_TOTAL >> 30} GB to read")
        yield found


def _walk_tree(tree: Tree) -> Iterator[SourceFile | Dropped]:
    if tree.path.is_dir():
        yield from _walk_folder(tree)
        return
    for found in _read_any(tree.path, tree.label):
        if tree.is_file and isinstance(found, Dropped):
            raise ModelError(f"{found.where}: {found.reason}")
        yield found


def _walk_folder(tree: Tree) -> Iterator[SourceFile | Dropped]:
    """Depth first, without recursion: the stack holds what is still to be read, last first."""
    count = 0
    stack: list[tuple[Path, str, int]] = [(tree.path, "", 0)]
    while stack:
        path, name, depth = stack.pop()
        kind = "folder" if not name else _tell_kind(path)
        if kind == "file":
            try:
                yield from _read_any(path, name)
            except ModelError as error:
                yield Dropped(name, _cut_name(str(error), name))
            continue
        if kind != "folder" or depth > MAX_DEPTH:
            reason = f"in folders deeper than {MAX_DEPTH}" if kind == "folder" else kind
            yield Dropped(name, reason)
            continue
        try:
            inner = sorted(entry for entry in os.listdir(path) if not entry.startswith("."))  # noqa: PTH208
        except OSError as error:
            yield Dropped(name or tree.label, f"cannot be read: {error.strerror}")
            continue
        count += len(inner)
        if count > MAX_FILES:
            raise ModelError(f"{tree.label}: more than {MAX_FILES} files")
        lead = f"{name}/" if name else ""
        stack += [(path / entry, lead + tell_name(entry), depth + 1) for entry in reversed(inner)]
    if not count:
        raise ModelError(f"{tree.label}: an empty folder")


def _tell_kind(path: Path) -> str:
    """ "file", "folder", or why it is neither."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISLNK(mode):
        return "a link is not followed"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "a pipe, socket or device"


def _cut_name(reason: str, name: str) -> str:
    return reason.removeprefix(f"{name}: ")


def _open_plain(path: Path) -> int:
    """A descriptor of the file. Whoever replaces it by a link or a pipe in between gains nothing:
    neither is opened to wait on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return descriptor


def _read_kind(path: Path) -> str:
    with open(_open_plain(path), "rb") as file:
        return name_archive(file.read(HEAD))


def _read_any(path: Path, name: str) -> Iterator[SourceFile | Dropped]:
    """The file, or the files of the archive that it is. Raises ModelError for a refused archive."""
    try:
        with open(_open_plain(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            kind = name_archive(file.read(HEAD))
            file.seek(0)
            if kind:
                yield from read_archive(file, size, kind, name)
            elif size > MAX_FILE_BYTES:
                yield Dropped(name, f"larger than {MAX_FILE_BYTES >> 20} MB")
            else:
                yield _read_bounded(file.read(MAX_FILE_BYTES + 1), name)
    except OSError as error:
        yield Dropped(name, f"cannot be read: {error.strerror}")


def _read_bounded(raw: bytes, name: str) -> SourceFile | Dropped:
    if len(raw) > MAX_FILE_BYTES:  # it grew meanwhile
        return Dropped(name, f"larger than {MAX_FILE_BYTES >> 20} MB")
    return SourceFile(name, raw)
