"""Puts a measured model where the product finds it: `python -m models.sentinel.ship --work DIR`.

Copies the files of the model, their manifest, the card, its figures and plots from --work into
this folder, after the hashes were checked and the model was loaded as the product loads it. A small
run, or a model that was not measured, is refused.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from appliance.assembly import load_techniques
from appliance.detect.sentinel.heads import Heads
from appliance.errors import ModelError
from appliance.inference.manifest import (
    SENTINEL_FILE,
    SENTINEL_HEADS,
    SENTINEL_MANIFEST,
    SENTINEL_NGRAMS,
    SENTINEL_TECHNIQUES,
    check_hash,
    read_sentinel,
)
from appliance.inference.ngrams import Ngrams
from models.sentinel.evaluate import RESULTS_FILE
from models.sentinel.evaluate.card import CARD_FILE
from models.sentinel.evaluate.plots import CALIBRATION_FILE, SPEED_FILE

#: What is copied; the manifest last, so that a copy that was cut short is refused on load.
NEEDED: Final = (
    SENTINEL_FILE,
    SENTINEL_HEADS,
    SENTINEL_NGRAMS,
    SENTINEL_TECHNIQUES,
    CARD_FILE,
    RESULTS_FILE,
    SENTINEL_MANIFEST,
)
_WANTED: Final = (CALIBRATION_FILE, SPEED_FILE, "data_card.md")


def ship_model(work: Path, folder: Path) -> list[str]:
    """Copy; the names of the files. Raises ModelError when files and manifest differ, ValueError
    for a small run, OSError for what is missing."""
    model = work / SENTINEL_FILE
    about = read_sentinel(model)
    for name, expected in about.files.items():
        check_hash(work / name, expected)
    heads = Heads.parse((work / SENTINEL_HEADS).read_bytes(), SENTINEL_HEADS)
    Ngrams.parse((work / SENTINEL_NGRAMS).read_bytes(), SENTINEL_NGRAMS)
    load_techniques(model, about, len(heads.about.techniques))
    results = json.loads((work / RESULTS_FILE).read_bytes())
    if results["small"]:
        raise ValueError("a small run shows that the recipe works; it is not shipped")
    if _without_heads(results["manifest"]["files"]) != _without_heads(about.files):
        raise ValueError(f"{RESULTS_FILE} is about another model: run `evaluate` again")
    names = [name for name in _WANTED if (work / name).is_file()] + list(NEEDED)
    for name in names:
        new = folder / f"{name}.new"
        shutil.copyfile(work / name, new)
        new.replace(folder / name)
    return names


def _without_heads(files: Mapping[str, str]) -> dict[str, str]:
    """Evaluating writes thresholds into the heads: they are not what they were at its begin."""
    return {name: digest for name, digest in files.items() if name != SENTINEL_HEADS}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 refused, as said."""
    parser = argparse.ArgumentParser(prog="python -m models.sentinel.ship", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the stages' files")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder to put it")
    given = parser.parse_args(arguments)
    try:
        names = ship_model(given.work, given.to)
    except (ModelError, ValueError, OSError) as error:
        print(f"not shipped: {error}", file=sys.stderr)
        return 1
    print(f"shipped: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
