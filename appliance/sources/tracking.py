"""First step of the line: which file is which. Names change, files are cut, copied and deleted;
what is known of each is kept here, and told from what lies on the disk now.

Nothing here follows a link to a folder, and nothing raises for what a folder holds.
"""

import glob
import gzip
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from appliance.schema import digest
from appliance.sources.framing import EVTX_MAGIC, GZIP_MAGIC

#: First bytes that tell a file from another that got its inode.
FINGERPRINT_BYTES = 256
#: Last bytes that were read, to tell that what lies before a position is still the same.
TAIL_BYTES = 256
#: No copy is compared over more than this: its beginning would be unpacked for nothing.
LARGEST_COPY_BYTES = 1 << 30

#: What became of a file: there as it was, there with other contents, or another or none there.
Fate = Literal["same", "rewritten", "elsewhere"]


class StreamState(msgspec.Struct):
    """What a checkpoint holds of one file. `position` and `overlong_from` are the stream's;
    `size` is the file's size when it was read to its end for good (EVTX, gzip, a renamed or
    deleted file), else -1; `refused` says that it is no log; `gone` that it was deleted, and only
    keeps its generation from being given again; `fresh` that nothing of it has been read. `header`
    are the lines that name the columns at `position`, each byte as one character."""

    logical: str
    generation: int
    path: str
    device: int
    inode: int
    fingerprint: str
    fingerprinted: int
    packed: bool
    position: int = 0
    overlong_from: int = -1
    tail: str = ""
    size: int = -1
    refused: bool = False
    gone: bool = False
    fresh: bool = True
    header: str = ""

    @property
    def key(self) -> str:
        """The stream's name in ids and checkpoints; one to one also for names that are no
        UTF-8."""
        name = self.logical.replace("\\", "\\\\")
        name = os.fsencode(name).decode("utf-8", "backslashreplace")
        return f"{name}#{self.generation}"

    @property
    def renamed(self) -> bool:
        """True when the file no longer has the name under which it was found."""
        return self.path != self.logical


def encode_state(state: StreamState) -> bytes:
    """As JSON in ASCII: a file's name may hold bytes that are no UTF-8 (as lone surrogates)."""
    return json.dumps(msgspec.to_builtins(state)).encode("ascii")


def decode_state(raw: bytes) -> StreamState:
    """Back from `encode_state`."""
    return msgspec.convert(json.loads(raw), StreamState)


def read_status(path: str) -> os.stat_result | None:
    """stat, or None when there is nothing to see."""
    try:
        return os.stat(path)  # noqa: PTH116 - Path raises for names that are too long
    except (OSError, ValueError):
        return None


def begin_state(path: str, status: os.stat_result, generation: int) -> StreamState:
    """What is known of a file that was not seen before. Raises OSError when it can't be read."""
    with Path(path).open("rb") as file:
        head = file.read(FINGERPRINT_BYTES)
    packed = head.startswith((EVTX_MAGIC, GZIP_MAGIC))
    # An EVTX file's header counts its chunks: only its magic stays as it is.
    known = head[: len(EVTX_MAGIC)] if head.startswith(EVTX_MAGIC) else head
    return StreamState(
        logical=path,
        generation=generation,
        path=path,
        device=status.st_dev,
        inode=status.st_ino,
        fingerprint=digest(known),
        fingerprinted=len(known),
        packed=packed,
    )


def note_progress(state: StreamState, descriptor: int) -> None:
    """Keep the first bytes (a young file has few) and the last ones read, from an open file."""
    if state.packed:
        return
    if state.fingerprinted < FINGERPRINT_BYTES:
        head = os.pread(descriptor, FINGERPRINT_BYTES, 0)
        state.fingerprint, state.fingerprinted = digest(head), len(head)
    length = min(TAIL_BYTES, state.position)
    state.tail = digest(os.pread(descriptor, length, state.position - length))


def find_fate(state: StreamState, path: str) -> Fate:
    """What the file at `path` is to the known one."""
    status = read_status(path)
    if status is None or (status.st_dev, status.st_ino) != (state.device, state.inode):
        return "elsewhere"
    read = 0 if state.packed or state.refused else state.position
    if status.st_size < max(state.fingerprinted, read):
        return "rewritten"
    try:
        with Path(path).open("rb") as file:
            same = digest(file.read(state.fingerprinted)) == state.fingerprint
            if same and read and state.tail:
                same = _read_tail(file, read) == state.tail
    except (OSError, ValueError):
        return "same"  # not readable now is no reason to begin anew
    return "same" if same else "rewritten"


def _read_tail(file: BinaryIO, position: int) -> str:
    length = min(TAIL_BYTES, position)
    file.seek(position - length)
    return digest(file.read(length))


def find_original(state: StreamState, known: Iterable[StreamState]) -> StreamState | None:
    """The file of which `state` is a copy, packed or not, as copytruncate and gzip make them:
    it begins alike and is alike up to where the original was read.

    Only for originals long enough to be told from files that begin with the same header. Raises
    OSError, EOFError or zlib.error when the copy can't be read.
    """
    if state.packed and state.fingerprinted == len(EVTX_MAGIC):
        return None
    candidates = [
        other
        for other in known
        if other is not state
        and not other.packed
        and not other.refused
        and other.fingerprinted == FINGERPRINT_BYTES
        and 2 * TAIL_BYTES <= other.position <= LARGEST_COPY_BYTES
        and other.tail
    ]
    if not candidates:
        return None
    with Path(state.path).open("rb") as raw:
        file: BinaryIO = gzip.GzipFile(fileobj=raw) if state.packed else raw  # type: ignore[assignment]
        head = digest(file.read(FINGERPRINT_BYTES))
        for other in candidates:
            if other.fingerprint == head and _read_tail(file, other.position) == other.tail:
                return other
    return None


#: What find_original may raise for a copy that is damaged or not whole yet.
COPY_ERRORS = (OSError, EOFError, zlib.error)


class Listing(msgspec.Struct):
    """What the patterns name now: files with their status, folders to watch, and (path, reason) of
    what can't be looked into."""

    files: dict[str, os.stat_result]
    folders: set[str]
    problems: dict[str, str]


def list_files(patterns: Iterable[str], cap: int) -> Listing:
    """Regular files that the patterns name; a folder stands for all files below it that do not
    begin with a dot. Looks at no more than ten times `cap` names."""
    found = Listing({}, set(), {})
    for pattern in patterns:
        status = read_status(pattern)
        if status is not None and stat.S_ISDIR(status.st_mode):
            _walk(pattern, None, found, cap)
        elif "**" in pattern:
            _walk(static_folder(pattern), translate_pattern(pattern), found, cap)
        else:
            folder = static_folder(pattern)
            found.folders.add(folder)
            _check_folder(folder, found)
            for name in sorted(glob.glob(pattern)):  # follows no loop: its depth is the pattern's
                _add(name, found, cap)
    return found


def _walk(folder: str, wanted: re.Pattern[str] | None, found: Listing, cap: int) -> None:
    def note(error: OSError) -> None:
        found.problems[str(error.filename)] = f"cannot be looked into: {error.strerror or error}"

    looked = 0
    for inside, folders, names in os.walk(folder, onerror=note):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.folders.add(inside)
        for name in sorted(names):
            looked += 1
            path = os.path.join(inside, name)  # noqa: PTH118 - names may be no UTF-8
            if wanted.fullmatch(path) if wanted else not name.startswith("."):
                _add(path, found, cap)
        if looked > 10 * cap:
            found.problems[folder] = f"more than {looked} files below it: the rest is not read"
            return


def _check_folder(folder: str, found: Listing) -> None:
    status = read_status(folder)
    if status is not None and not os.access(folder, os.R_OK | os.X_OK):
        found.problems[folder] = "cannot be looked into: Permission denied"


def _add(path: str, found: Listing, cap: int) -> None:
    status = read_status(path)
    if status is not None and stat.S_ISREG(status.st_mode) and len(found.files) < 10 * cap:
        found.files[path] = status
        found.folders.add(os.path.dirname(path))  # noqa: PTH120


def static_folder(pattern: str) -> str:
    """The deepest folder of a pattern that holds no wildcard."""
    folder = os.path.dirname(pattern)  # noqa: PTH120
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)  # noqa: PTH120
    return folder or "/"


def translate_pattern(pattern: str) -> re.Pattern[str]:
    """A glob with `**` (any folders, or none) as a regular expression on whole paths."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            parts.append("(?:[^/]+/)*")
            at += 3
            continue
        if pattern.startswith("**", at):
            parts.append(".*")
            at += 2
            continue
        end = pattern.find("]", at + 2) if char == "[" else -1
        if end > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("^", "\\^")
            parts.append("[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]")
            at = end + 1
            continue
        parts.append({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)))
        at += 1
    return re.compile("".join(parts), re.DOTALL)


def names_path(pattern: str, path: str) -> bool:
    """True when a source with this pattern would follow a file at this path."""
    if not glob.has_magic(pattern):
        folder = os.path.normpath(pattern)
        return path == folder or path.startswith(folder.rstrip("/") + "/")
    return translate_pattern(pattern).fullmatch(path) is not None
