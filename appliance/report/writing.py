"""Behind the store: a report into its file, whole or not at all.

Reports hold log text and names of people: the file's mode is 0640 (owner writes, group reads). It
is written under another name beside its place, flushed to the disk, and put there in one step.
What is there already is kept unless the operator says otherwise.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from appliance.errors import ApplianceError

MODE: Final = 0o640


def write_report(path: Path, data: bytes, *, force: bool) -> None:
    """Write `data` to `path`, over a file that is there only with `force`.

    Raises ApplianceError when something is there, or the folder does not take it.
    """
    if path.is_dir():
        raise ApplianceError(f"{path}: is a folder; name a file")
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        if not force and os.path.lexists(path):
            raise ApplianceError(f"{path}: is there already; --force writes over it")
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        # A link that somebody put there is not followed (CWE-59).
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE)
        try:
            with os.fdopen(number, "wb") as out:
                with contextlib.suppress(OSError):  # a stick's file system has no modes
                    os.fchmod(out.fileno(), MODE)
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            _put(part, path, force=force)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ApplianceError(f"{path}: {error.strerror or error}") from error


def _put(part: Path, path: Path, *, force: bool) -> None:
    """Give the file its name, not over one that came meanwhile unless `force`."""
    if not force:
        try:
            os.link(part, path)
            return
        except FileExistsError as error:
            raise ApplianceError(f"{path}: is there already; --force writes over it") from error
        except OSError:  # a file system without links: the look before has to do
            pass
    part.replace(path)
