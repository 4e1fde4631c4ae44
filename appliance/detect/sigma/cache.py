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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import hyperscan

from appliance.detect.sigma.index import Patterns, compile_database
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
#: Files kept: the oldest go first.
MAX_FILES: Final = 256


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
    machine = (version("hyperscan"), platform.machine(), platform.system())
    return digest("hyperscan", *machine, *parts)


def _write_head(key: str, body: bytes) -> bytes:
    return _MAGIC + digest(key, body).encode()


def _is_ours(about: os.stat_result) -> bool:
    """Written by this user or by root, and by nobody else since."""
    writable = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return about.st_uid in (os.geteuid(), 0) and not writable and stat.S_ISREG(about.st_mode)
