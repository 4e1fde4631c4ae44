"""What was compiled once, kept on disk (detect stage, at load time).

A cache file's name is the digest of all that it was made from, so a changed rule, library or
version looks for another file; its first line holds the digest of the rest. What is not as these
say, or belongs to somebody else, counts as absent and is made anew: a cache can be deleted at any
time. Nothing in it is code, and whoever can write into the folder as the appliance's user could as
well change the rules.
"""

import gc
import os
import platform
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import hyperscan
import msgspec

from appliance.detect.sigma.index import Index, Patterns, compile_database, open_scan
from appliance.schema import digest


@contextmanager
def hold_collector() -> Iterator[None]:
    """Look for no garbage meanwhile. Rules are many objects and all of them stay: to look through
    them again and again while they are made takes as long as making them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_MAGIC: Final = b"appliance cache 1 "
#: Bytes of one file. The largest database of SigmaHQ's rules has 3 MB.
MAX_BYTES: Final = 256 << 20
#: Files kept: the oldest go first. SigmaHQ's rules and ours together make 270.
MAX_FILES: Final = 768


class Cache:
    """A folder of files that can be lost. Raises nothing for what the file system refuses: then
    nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> bytes | None:
        """The content under the key; None when there is none, or none to be trusted."""
        try:
            with (self._folder / key).open("rb") as file:
                about = os.fstat(file.fileno())
                if not _is_ours(about) or about.st_size > MAX_BYTES:
                    return None
                content = file.read()
        except OSError:
            return None
        head, _, body = content.partition(b"\n")
        return body if head == _write_head(key, body) else None

    def write(self, key: str, body: bytes) -> None:
        """Keep the content under the key, whole or not at all."""
        if len(body) > MAX_BYTES // 2:
            return
        part = self._folder / f".{key}.{secrets.token_hex(4)}"
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(opened, "wb") as file:
                    file.write(_write_head(key, body) + b"\n" + body)
                part.replace(self._folder / key)
            finally:
                part.unlink(missing_ok=True)
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        files = [path for path in self._folder.iterdir() if path.is_file()]
        if len(files) > MAX_FILES:
            files.sort(key=lambda path: path.stat().st_mtime)
            for path in files[: len(files) - MAX_FILES]:
                path.unlink(missing_ok=True)


class IndexCache:
    """Hyperscan's databases in a cache. They are made for one kind of processor: another's is
    refused by Hyperscan itself, and by the key."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def read_index(self, key: str) -> Index | None:
        """The index that was kept under the key; None when there is none."""
        stored = self._cache.read(_name_index(key))
        return None if stored is None else restore_index(stored)

    def write_index(self, key: str, index: Index) -> None:
        """Keep an index that has searched nothing yet, whole as it is: to make it again from its
        rules takes ten times as long as to read it."""
        body = dump_index(index)
        if body is not None:
            self._cache.write(_name_index(key), body)

    def open_database(self, patterns: Patterns) -> Any:
        """The database of the patterns, from the cache or compiled. Raises hyperscan.error."""
        key = _name_database(patterns)
        stored = self._cache.read(key)
        if stored is not None:
            with suppress(hyperscan.error):
                return hyperscan.loadb(stored, mode=hyperscan.HS_MODE_BLOCK)
        database = compile_database(patterns)
        self._cache.write(key, hyperscan.dumpb(database))
        return database


def _name_database(patterns: Patterns) -> str:
    parts = [part for pattern, flags in patterns for part in (pattern, str(flags))]
    return digest("hyperscan", *_name_machine(), *parts)


def _name_index(key: str) -> str:
    return digest("index", *_name_machine(), key)


@cache
def _name_machine() -> tuple[str, ...]:
    return (version("hyperscan"), platform.machine(), platform.system())


def dump_index(index: Index) -> bytes | None:
    """An index that has searched nothing yet as bytes; None where a part of it can't be written."""
    try:
        return msgspec.msgpack.encode(_write_part(vars(index)))
    except (TypeError, hyperscan.error):
        return None


def restore_index(stored: bytes) -> Index | None:
    """The index of `dump_index`; None where the bytes are none, or of another processor."""
    try:
        parts = _read_part(msgspec.msgpack.decode(stored))
    except (TypeError, ValueError, KeyError, hyperscan.error):
        return None
    if not isinstance(parts, dict) or "_scan" not in parts:
        return None
    index = Index.__new__(Index)
    vars(index).update(parts)
    return index


def _write_part(value: Any) -> Any:
    """A part of an index as msgpack has it: what is no plain scalar is a list that begins with its
    kind; numbers can be masks of thousands of bits."""
    kind = type(value)
    if value is None or kind in (bool, str, bytes, float):
        return value
    if kind is int:
        return ["ints", _write_number(value)]
    if kind is list and value and all(type(part) is int for part in value):
        return ["list of ints", *map(_write_number, value)]
    if kind in (list, tuple, frozenset, set):
        return [kind.__name__, *map(_write_part, value)]
    if kind is dict:
        return ["dict", *(_write_part(part) for pair in value.items() for part in pair)]
    if kind is partial and isinstance(database := value.func.__self__, hyperscan.Database):
        return ["scan", hyperscan.dumpb(database)]
    raise TypeError(f"{kind.__name__} cannot be kept")


def _write_number(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)


def _read_number(stored: bytes) -> int:
    return int.from_bytes(stored, "little", signed=True)


def _read_scan(stored: bytes) -> Any:
    return open_scan(hyperscan.loadb(stored, mode=hyperscan.HS_MODE_BLOCK))


_PLAIN: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "list": list,
    "tuple": tuple,
    "frozenset": frozenset,
    "set": set,
    "dict": lambda parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    "scan": lambda parts: _read_scan(*parts),
    "ints": lambda parts: _read_number(*parts),
    "list of ints": lambda parts: list(map(_read_number, parts)),
}


def _read_part(value: Any) -> Any:
    if type(value) is not list:
        return value
    name, *rest = value
    return _PLAIN[name]([_read_part(part) if type(part) is list else part for part in rest])


def _write_head(key: str, body: bytes) -> bytes:
    return _MAGIC + digest(key, body).encode()


def _is_ours(about: os.stat_result) -> bool:
    """Written by this user or by root, and by nobody else since."""
    writable = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return about.st_uid in (os.geteuid(), 0) and not writable and stat.S_ISREG(about.st_mode)
