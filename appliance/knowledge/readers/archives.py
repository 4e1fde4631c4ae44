"""Knowledge, reading: the files inside a zip or tar archive from a stick.

Nothing is unpacked to a name of the archive's choosing: a zip is read where it lies, a tar from one
temporary file that has no name. An archive is refused as a whole for what no honest one has: names
that lead out of it, a member larger than its archive can hold, an encrypted or broken directory.
"""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped
from appliance.knowledge.readers.cleaning import quote_value

#: Bytes of one file, of an archive as it lies, and of all that one archive holds.
MAX_FILE_BYTES: Final = 256 << 20
MAX_ARCHIVE_BYTES: Final = 2 << 30
MAX_UNPACKED: Final = 2 << 30
#: Members of an archive, and folders above one.
MAX_MEMBERS: Final = 400_000
MAX_DEPTH: Final = 32
#: An archive of more than _SMALL bytes once unpacked may not hold more than this many times its
#: own size. Text is packed 5 to 30 times; a bomb of deflate (RFC 1951) reaches 1,030 times.
MAX_RATIO: Final = 200
_SMALL: Final = 16 << 20
#: Memory that unpacking xz may ask for: `xz -9` asks for 65 MB.
_XZ_MEMORY: Final = 256 << 20
#: Bytes that one read of a directory or a header may ask for.
_MAX_READ: Final = 64 << 20
_MAX_TAR_READ: Final = 2 << 20
_CHUNK: Final = 1 << 20

#: First bytes of archives: those that are read, and those that are known by sight only.
_PACKERS: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
_UNREAD: Final = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"MSCF": "cab",
}
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_ENTRY: Final = b"PK\x01\x02"
_DRIVE: Final = re.compile(r"[A-Za-z]:")
#: Longest head that tells what a file is: a tar's mark stands at 257 (POSIX.1-2017, pax, ustar).
HEAD: Final = 264

#: All that the readers of archives raise on broken ones, by experiment with random damage.
_BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    TypeError,
    AssertionError,
)


class SourceFile(msgspec.Struct, frozen=True):
    """A file with its name relative to what was given, in printing characters, and its bytes."""

    name: str
    raw: bytes


def name_archive(head: bytes) -> str:
    """What sort of archive the first HEAD bytes begin, "" for none."""
    if head.startswith(_ZIP):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    for magic, name in (_PACKERS | _UNREAD).items():
        if head.startswith(magic):
            return name
    return ""


def read_archive(
    file: IO[bytes], size: int, kind: str, name: str
) -> Iterator[SourceFile | Dropped]:
    """The files of an archive of `size` bytes, opened for reading, whose kind `name_archive` told,
    in the order of their names; links, devices, archives in it and what is too large as Dropped,
    hidden files not at all. Raises ModelError, before the first file where the archive's
    directory tells, when it is refused."""
    if size > MAX_ARCHIVE_BYTES:
        raise ModelError(f"{name}: an archive of more than {MAX_ARCHIVE_BYTES >> 20} MB")
    try:
        if kind == "zip":
            yield from _read_zip(file, size, name)
        elif kind in _UNREAD.values():
            raise ModelError(f"{name}: {kind} archives are not read, only zip and tar")
        else:
            with _unpack(file, size, kind, name) as (plain, unpacked):
                yield from _read_unpacked(plain, unpacked, kind, name)
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror or 'broken'}") from error
    except _BROKEN as error:
        raise ModelError(f"{name}: a broken {kind} archive ({type(error).__name__})") from error


def tell_name(name: str) -> str:
    """A file's name in printing characters: bytes that are no UTF-8 and characters that do not
    print are escaped, since names go to terminals and into ids."""
    if not name.isprintable():
        name = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in name)
    return name if len(name) <= 400 else f"{name[:190]}...{name[-200:]}"


class _Bounded:
    """A file whose single reads are bounded, and all of them together: a header's own word for its
    length is worth nothing."""

    def __init__(self, file: IO[bytes], most: int, budget: int) -> None:
        self._file = file
        self._most = most
        self._budget = budget

    def read(self, size: int = -1) -> bytes:
        """As a file's; ValueError over the bounds."""
        data = self._file.read(min(size, self._most + 1) if size >= 0 else self._most + 1)
        if len(data) > self._most:
            raise ValueError("a header of this length")
        self._budget -= len(data) + 64
        if self._budget < 0:
            raise ValueError("reads in circles")
        if len(data) > _CHUNK and data.count(_ZIP_ENTRY) > MAX_MEMBERS:
            raise ValueError("too many members")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Left to who opened the file."""


class _Totals:
    """What an archive's members come to; `add` raises ModelError over a bound."""

    def __init__(self, size: int, name: str) -> None:
        self._most = min(MAX_UNPACKED, max(_SMALL, MAX_RATIO * size))
        self._name = name
        self._members = self._bytes = 0

    def add(self, size: int) -> None:
        """One member more, of so many bytes."""
        self._members += 1
        self._bytes += size
        if size < 0 or self._bytes > self._most:
            raise ModelError(f"{self._name}: would unpack to more than {self._most >> 20} MB")
        if self._members > MAX_MEMBERS:
            raise ModelError(f"{self._name}: more than {MAX_MEMBERS} files")


def _read_zip(file: IO[bytes], size: int, name: str) -> Iterator[SourceFile | Dropped]:
    bounded = _Bounded(file, _MAX_READ, 4 * size + 64 * MAX_MEMBERS)
    with zipfile.ZipFile(bounded) as archive:
        totals = _Totals(size, name)
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        for member in members:
            _check_zip_member(member, name)
            totals.add(member.file_size)
        for member in members:
            inner = _inner_name(name, member.filename)
            mode = member.external_attr >> 16
            if member.is_dir() or _is_hidden(member.filename):
                continue
            reason = _refuse_member(member.filename, member.file_size)
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                reason = "a link or a device"
            if reason:
                yield Dropped(inner, reason)
                continue
            with archive.open(member) as opened:
                yield _check_nested(inner, _read_all(opened, member.file_size))


def _check_zip_member(member: zipfile.ZipInfo, name: str) -> None:
    _check_name(member.orig_filename, name)
    _check_name(member.filename, name)
    if member.flag_bits & 0x1:  # APPNOTE.TXT 6.3.10, section 4.4.4
        raise ModelError(f"{name}: encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        raise ModelError(f"{name}: packed by a method that is not read")


def _check_name(member: str, name: str) -> None:
    """ModelError for a name that leads out of the archive."""
    parts = member.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or _DRIVE.match(member):
        raise ModelError(f"{name}: {quote_value(member)} leads out of the archive")


def _is_hidden(member: str) -> bool:
    parts = member.replace("\\", "/").split("/")
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in parts)


def _refuse_member(member: str, size: int) -> str:
    if member.replace("\\", "/").count("/") > MAX_DEPTH:
        return f"in folders deeper than {MAX_DEPTH}"
    return f"larger than {MAX_FILE_BYTES >> 20} MB" if size > MAX_FILE_BYTES else ""


def _inner_name(archive: str, member: str) -> str:
    return tell_name(f"{archive}/{member.replace(chr(92), '/').removeprefix('./')}")


def _check_nested(name: str, raw: bytes) -> SourceFile | Dropped:
    kind = name_archive(raw[:HEAD])
    if kind:
        return Dropped(name, f"an archive ({kind}) in an archive is not read")
    return SourceFile(name, raw)


def _read_all(opened: IO[bytes], size: int) -> bytes:
    """All bytes of a member that says to have `size`; ValueError when it has more or fewer."""
    parts: list[bytes] = []
    left = size
    while left >= 0:
        part = opened.read(min(_CHUNK, left + 1))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    if left:
        raise ValueError("not of the size it says")
    return b"".join(parts)


@contextmanager
def _unpack(file: IO[bytes], size: int, kind: str, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """The archive without its packing, and its size then."""
    if kind == "tar":
        yield file, size
        return
    most = min(MAX_UNPACKED, max(_SMALL, MAX_RATIO * size))
    with tempfile.TemporaryFile() as plain:
        unpacked = 0
        for part in _read_packed(file, kind):
            unpacked += len(part)
            if unpacked > most:
                raise ModelError(f"{name}: would unpack to more than {most >> 20} MB")
            plain.write(part)
        plain.seek(0)
        yield plain, unpacked


def _read_packed(file: IO[bytes], kind: str) -> Iterator[bytes]:
    if kind == "xz":
        yield from _read_xz(file)
        return
    opened: gzip.GzipFile | bz2.BZ2File = (
        gzip.GzipFile(fileobj=file, mode="rb") if kind == "gzip" else bz2.BZ2File(file, "rb")
    )
    with opened:
        while part := opened.read(_CHUNK):
            yield part


def _read_xz(file: IO[bytes]) -> Iterator[bytes]:
    """Streams one after the other, with a bound on memory that lzma.open does not take."""
    data = b""
    while True:
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not reader.eof:
            if reader.needs_input and not data:
                data = file.read(_CHUNK)
                if not data:
                    raise EOFError
            yield reader.decompress(data, _CHUNK)
            data = b""
        # Padding between streams is of zeros (the .xz file format, 2.2).
        data = reader.unused_data.lstrip(b"\0") or file.read(_CHUNK).lstrip(b"\0")
        if not data:
            return


def _read_unpacked(
    plain: IO[bytes], size: int, kind: str, name: str
) -> Iterator[SourceFile | Dropped]:
    """The tar's members; what is no tar was one packed file."""
    head = plain.read(HEAD)
    plain.seek(0)
    if name_archive(head) == "tar":
        yield from _read_tar(plain, size, name)
    elif size > MAX_FILE_BYTES:
        yield Dropped(name, f"larger than {MAX_FILE_BYTES >> 20} MB")
    elif kind == "tar":
        raise ModelError(f"{name}: a broken tar archive")
    else:
        yield _check_nested(name, _read_all(plain, size))


def _read_tar(plain: IO[bytes], size: int, name: str) -> Iterator[SourceFile | Dropped]:
    bounded = _Bounded(plain, _MAX_TAR_READ, 3 * size + 2048 * MAX_MEMBERS)
    totals = _Totals(size, name)
    members: list[tarfile.TarInfo] = []
    with tarfile.TarFile(fileobj=bounded, errorlevel=2) as archive:  # type: ignore[arg-type]
        last = -1
        while (member := archive.next()) is not None:
            if member.offset_data <= last:
                raise ValueError("leads back")
            last = member.offset_data
            _check_name(member.name, name)
            totals.add(member.size if member.isreg() else 0)
            members.append(member)
    for member in sorted(members, key=lambda member: member.name):
        if member.isdir() or _is_hidden(member.name):
            continue
        inner = _inner_name(name, member.name)
        reason = _refuse_member(member.name, member.size)
        if not member.isreg() or member.issparse():
            reason = "a link, a device or a file with holes"
        if reason:
            yield Dropped(inner, reason)
            continue
        plain.seek(member.offset_data)
        yield _check_nested(inner, _read_part(plain, member.size))


def _read_part(plain: IO[bytes], size: int) -> bytes:
    raw = plain.read(size)
    if len(raw) != size:
        raise EOFError
    return raw
