"""Stage `corpus`: public data becomes examples. The table below is all that is read; which set is
for which split is said where it is read and checked once more by the stage `examples`."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from models.sentinel.corpus.commands import read_commands
from models.sentinel.corpus.dns import read_dns
from models.sentinel.corpus.logs import read_logs
from models.sentinel.corpus.ordinary import read_ordinary
from models.sentinel.corpus.sigma import read_sigma
from models.sentinel.corpus.web import read_web
from models.sentinel.corpus.windows import read_windows
from models.sentinel.options import Options
from models.sentinel.rows import Example, write_rows

Reader = Callable[[Options], Iterator[Example]]
#: Every kind of source, with what reads it and the folder of the data that it needs.
READERS: Final[dict[str, tuple[str, Reader]]] = {
    "windows": ("windows", read_windows),
    "commands": ("commands", read_commands),
    "ordinary": ("ordinary", read_ordinary),
    "sigma": ("sigma", read_sigma),
    "logs": ("linux", read_logs),
    "web": ("web", read_web),
    "dns": ("dns", read_dns),
}


def run(options: Options) -> None:
    """Write corpus.jsonl. Raises FileNotFoundError when a set is not there, ValueError when one
    gives nothing."""
    for folder, _ in READERS.values():
        if not (options.data / folder).is_dir():
            raise FileNotFoundError(f"no data set {folder} in {options.data}")
    total = write_rows(options.work / "corpus.jsonl", _read_all(options))
    print(f"corpus: {total} examples")


def _read_all(options: Options) -> Iterator[Example]:
    for name, (_, read) in READERS.items():
        began, count = time.perf_counter(), 0
        for row in read(options):
            count += 1
            yield row
        print(f"corpus: {name}: {count} in {time.perf_counter() - began:.0f} s", flush=True)
        if not count:
            raise ValueError(f"the set {name} gave no example")
