"""How fast candidates of the student run in llama.cpp: `python -m models.sentinel.speed`.

Untrained weights of each shape, texts of 64 random tokens, one context of one thread; prints a
table. Speed does not depend on what the weights are, so a shape is chosen before it is trained.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from appliance.inference.gguf_encoder import name_tensors, write_gguf
from models.sentinel.bert import make_config, make_weights
from models.sentinel.llama import Runner
from models.sentinel.tokenizer import MAX_TOKENS, SPECIAL, VOCABULARY

#: Layers and width.
CANDIDATES: Final = ((2, 128), (3, 128), (2, 192), (3, 192), (4, 256))
QUANTIZATIONS: Final = ("F32", "Q8_0", "Q4_0")
BATCHES: Final = (1, 4, 8, 16)
TOKENS: Final = 64
_SECONDS: Final = 1.5
_ROUNDS: Final = 3


def main() -> int:
    """Print texts a second of each candidate, quantization and texts a batch; best of 3 rounds."""
    print(
        "| layers x width | weights | bytes | " + " | ".join(f"{n} a batch" for n in BATCHES) + " |"
    )
    print("|---" * (3 + len(BATCHES)) + "|")
    words = [*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))]
    with tempfile.TemporaryDirectory() as folder:
        for layers, width in CANDIDATES:
            config = make_config(layers, width, VOCABULARY, MAX_TOKENS)
            weights = {key: value.numpy() for key, value in make_weights(config, 1).items()}
            for kind in QUANTIZATIONS:
                path = Path(folder) / f"{layers}x{width}.{kind}.gguf"
                write_gguf(
                    path, config, words, name_tensors(weights), name="x", licence="x", weights=kind
                )
                rates = [f"{measure_speed(path, size):,.0f}" for size in BATCHES]
                size_text = f"{path.stat().st_size:,}"
                print(f"| {layers} x {width} | {kind} | {size_text} | " + " | ".join(rates) + " |")
                sys.stdout.flush()
    return 0


def measure_speed(model: Path, sequences: int, tokens: int = TOKENS) -> float:
    """Texts of `tokens` tokens a second, `sequences` of them a batch: the best of three rounds."""
    runner = Runner(model, MAX_TOKENS, sequences)
    random = np.random.default_rng(1)
    texts = [
        [int(token) for token in random.integers(len(SPECIAL), 1_000, tokens)]
        for _ in range(sequences)
    ]
    best = 0.0
    for _ in range(_ROUNDS):
        done = 0
        began = time.perf_counter()
        while time.perf_counter() - began < _SECONDS / _ROUNDS:
            runner.pool_tokens(texts)
            done += sequences
        best = max(best, done / (time.perf_counter() - began))
    runner.close()
    return best


if __name__ == "__main__":
    sys.exit(main())
