"""Stage `evaluate`, speed: the product's own client and child process, timed."""

import os
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from appliance.inference.client import SentinelClients
from models.sentinel.tokenizer import read_vocabulary

_TOKENS: Final = 64
_TEXTS: Final = 512
_ROUNDS: Final = 5
_SMALL_ROUNDS: Final = 1
_SMALL_TEXTS: Final = 64
_LOAD_S: Final = 60.0


class Speed(msgspec.Struct, frozen=True):
    """Of `processes` children: seconds from start to hello, distinct texts of 64 tokens a second
    (best and median of some rounds), the largest resident memory of one child in MiB, and how busy
    the machine was (load average of a minute, and its processors)."""

    processes: int
    load_seconds: float
    best_per_second: float
    median_per_second: float
    child_mib: float
    machine_load: float
    processors: int


def write_timed_texts(vocabulary: Path, count: int, seed: int) -> list[str]:
    """Distinct texts of 64 tokens, [CLS] and [SEP] included: whole words of the vocabulary."""
    words = [
        word
        for word in read_vocabulary(vocabulary)
        if word.isascii() and word.isalpha() and word.islower()
    ]
    random = np.random.default_rng(seed)
    return [
        " ".join(words[at] for at in random.integers(len(words), size=_TOKENS - 2))
        for _ in range(count)
    ]


def measure_speed(
    model: Path, vocabulary: Path, processes: int, seed: int, *, small: bool = False
) -> Speed:
    """Start the children, let each read every text of a round, end them. Raises ModelError,
    ModelUnavailable, OSError, ValueError."""
    rounds, size = (_SMALL_ROUNDS, _SMALL_TEXTS) if small else (_ROUNDS, _TEXTS)
    texts = write_timed_texts(vocabulary, size * processes, seed)
    clients = SentinelClients(model, processes)
    began = time.perf_counter()
    clients.start()
    try:
        clients.wait_ready(_LOAD_S)
        loaded = time.perf_counter() - began
        clients.embed(texts[: 16 * processes])
        rates = []
        for _ in range(rounds):
            began = time.perf_counter()
            clients.embed(texts)
            rates.append(len(texts) / (time.perf_counter() - began))
        memory = max(_read_peak(state.pid) for state in clients.states() if state.pid)
    finally:
        clients.close()
    return Speed(
        processes,
        loaded,
        max(rates),
        float(np.median(rates)),
        memory,
        os.getloadavg()[0],
        len(os.sched_getaffinity(0)),
    )


def _read_peak(pid: int) -> float:
    """VmHWM of a process in MiB (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
