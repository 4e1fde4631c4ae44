"""Stage `candidates`: encoders of other shapes, trained and exported in the same way, for the plot
that the choice is explained on. Not part of `all`: it takes as long as all else together.

What the stage `student` reads -> candidates.json, and a folder for each shape under candidates/.
"""

from pathlib import Path
from typing import Final

import msgspec

from appliance.inference.manifest import write_durably
from models.sentinel import export, student
from models.sentinel.options import Options

CANDIDATES_FILE: Final = "candidates.json"
#: (layers, width) of what is compared; the shipped one among them.
SHAPES: Final = ((1, 128), (2, 64), (2, 128))
_INPUTS: Final = (
    "examples.jsonl",
    "vocab.txt",
    "teacher.ngrams.npz",
    "teacher.anchors.npz",
    "teacher.soft.npz",
    "sentinel.ngrams.npz",
    "sentinel.techniques.npz",
)


class Candidate(msgspec.Struct, frozen=True):
    """One shape at the shipped quantization: size in bytes, AUROC of `scored` labelled rows of
    validation and test, and those rows a second on one thread, tokenizing included."""

    layers: int
    width: int
    bytes: int
    scored: int
    auroc: float
    texts_per_second: float


def run(options: Options) -> None:
    """The stage. Raises what `student` and `export` raise."""
    plan = student.SMALL if options.small else student.PLAN
    found = []
    for layers, width in SHAPES:
        folder = options.work  # which holds the one of the stage `student`
        if (layers, width) != (plan.layers, plan.width):
            folder = options.work / "candidates" / f"{layers}x{width}"
            own = msgspec.structs.replace(plan, layers=layers, width=width)
            _train(msgspec.structs.replace(options, work=folder), own, options.work.resolve())
        parities = msgspec.json.decode(
            (folder / "export.json").read_bytes(), type=list[export.Parity]
        )
        shipped = next(parity for parity in parities if parity.weights == export.SHIPPED)
        found.append(
            Candidate(
                layers, width, shipped.bytes, shipped.scored, shipped.auroc,
                shipped.texts_per_second,
            )
        )  # fmt: skip
        print(f"candidates: {found[-1]}", flush=True)
    content = msgspec.json.format(msgspec.json.encode(found)) + b"\n"
    write_durably(options.work / CANDIDATES_FILE, content)


def _train(options: Options, plan: student.Plan, inputs: Path) -> None:
    """Train and export into a folder of its own, unless that was done."""
    if (options.work / "export.json").is_file():
        return
    options.work.mkdir(parents=True, exist_ok=True)
    for name in _INPUTS:
        link = options.work / name
        link.unlink(missing_ok=True)
        if (inputs / name).exists():
            link.symlink_to(inputs / name)
    student.train_student(options, plan)
    export.run(options)
