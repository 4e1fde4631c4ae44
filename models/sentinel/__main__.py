"""Runs stages of the recipe: `python -m models.sentinel STAGE... --data DIR --work DIR`.

Exit codes: 0 done, 1 failed as said, 2 usage.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from models.sentinel.options import SEED, Options, Stage

#: Every stage, in the order of the recipe. `all` runs them one after another, but for EXTRA.
STAGES: Final[dict[str, Stage]] = {
    "corpus": Stage("models.sentinel.corpus", (), ("corpus.jsonl",)),
    "life": Stage("models.sentinel.life", (), ("life.jsonl",)),
    "examples": Stage(
        "models.sentinel.examples",
        ("corpus.jsonl", "life.jsonl"),
        ("examples.jsonl", "data_card.json", "data_card.md"),
    ),
    "tokenizer": Stage(
        "models.sentinel.tokenizer", ("examples.jsonl",), ("vocab.txt",), ("tokenizers",)
    ),
    "teacher": Stage(
        "models.sentinel.teacher",
        ("examples.jsonl", "vocab.txt"),
        (
            "teacher.ngrams.npz",
            "sentinel.ngrams.npz",
            "sentinel.techniques.npz",
            "teacher.anchors.npz",
        ),
        ("torch",),
    ),
    "student": Stage(
        "models.sentinel.student",
        ("examples.jsonl", "vocab.txt", "teacher.ngrams.npz", "teacher.anchors.npz"),
        ("student.safetensors", "student.scores.npz", "student.reference.json"),
        ("torch",),
    ),
    "export": Stage(
        "models.sentinel.export",
        (
            "examples.jsonl",
            "vocab.txt",
            "student.safetensors",
            "sentinel.ngrams.npz",
            "sentinel.techniques.npz",
        ),
        ("sentinel.gguf", "sentinel.heads.safetensors", "sentinel.json"),
        ("gguf", "safetensors"),
    ),
    "evaluate": Stage(
        "models.sentinel.evaluate",
        (
            "examples.jsonl",
            "sentinel.gguf",
            "sentinel.heads.safetensors",
            "sentinel.ngrams.npz",
            "sentinel.techniques.npz",
        ),
        ("evaluation.json",),
    ),
    "candidates": Stage(
        "models.sentinel.candidates",
        ("examples.jsonl", "vocab.txt", "sentinel.ngrams.npz", "export.json"),
        ("candidates.json",),
        ("torch", "gguf", "safetensors"),
    ),
}
#: Stages that `all` leaves out.
EXTRA: Final = ("candidates",)


def is_done(stage: Stage, work: Path) -> bool:
    """True when every output is there and none is older than an input or the stage's module."""
    outputs = [work / name for name in stage.outputs]
    if not all(path.is_file() for path in outputs):
        return False
    made_from = [work / name for name in stage.inputs]
    made_from += _list_sources(stage.module)
    newest = max((path.stat().st_mtime for path in made_from if path.is_file()), default=0.0)
    return min(path.stat().st_mtime for path in outputs) >= newest


def _list_sources(module: str) -> list[Path]:
    root = Path(__file__).resolve().parents[2]
    path = root.joinpath(*module.split("."))
    # A stage may be a module, a package, and have a folder of its own beside it.
    return [path.with_suffix(".py"), *(sorted(path.iterdir()) if path.is_dir() else ())]


def run_stage(name: str, options: Options, *, again: bool) -> bool:
    """Run one stage unless it is done; True when it ran. Raises what the stage raises, and
    ModuleNotFoundError where a library of the extra `train` is missing."""
    stage = STAGES[name]
    if not again and is_done(stage, options.work):
        print(f"{name}: done before, outputs are newer than inputs (--again runs it)")
        return False
    missing = [item for item in stage.inputs if not (options.work / item).is_file()]
    if missing:
        raise FileNotFoundError(f"{name} needs {', '.join(missing)} in {options.work}")
    began = time.perf_counter()
    importlib.import_module(stage.module).run(options)
    print(f"{name}: {time.perf_counter() - began:.0f} s")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.sentinel", description=__doc__)
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "all"], metavar="STAGE")
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of the stages' files")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--small", action="store_true", help="a quick run that shows it works")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--again", action="store_true", help="run also what is done")
    given = parser.parse_args(arguments)
    # Two threads that share a core with anything else wait for each other most of the time, and on
    # quiet cores matrices this small gain nothing by a second one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given.work.mkdir(parents=True, exist_ok=True)
    options = Options(given.data, given.work, given.device, given.small, given.seed)
    every = [name for name in STAGES if name not in EXTRA]
    names = every if "all" in given.stages else given.stages
    for name in names:
        try:
            run_stage(name, options, again=given.again)
        except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
