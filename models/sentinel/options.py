"""What every stage of the recipe is told, and what the table of stages says of one."""

from pathlib import Path
from typing import Final, Literal

import msgspec

#: The seed of all that is drawn in the recipe.
SEED: Final = 20_260_704


class Options(msgspec.Struct, frozen=True):
    """`data` holds the unpacked data sets, `work` the stages' files. `small` asks for a run of
    minutes that shows that the stage works, not for its best result."""

    data: Path
    work: Path
    device: Literal["cpu", "cuda"] = "cpu"
    small: bool = False
    seed: int = SEED


class Stage(msgspec.Struct, frozen=True):
    """A stage is a module with `run(options: Options) -> None`. `inputs` and `outputs` are names in
    Options.work (a stage is skipped when every output is newer than every input and than the
    stage's own module); `needs` are libraries that only this stage imports."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
