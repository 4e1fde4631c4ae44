"""`model info|build`: the models."""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from appliance.assembly import load_heads
from appliance.errors import Exit, ModelError
from appliance.inference.gguf_encoder import build_encoder, find_encoder_source
from appliance.inference.manifest import read_pinned, verify_built, verify_sentinel
from appliance.places import (
    build_folder,
    data_folders,
    find_models,
    find_sentinel,
    shipped_manifest,
)
from appliance.view import View, clean

ENCODER = Path("encoder") / "encoder.gguf"


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def need_encoder(configured: str = "") -> Path:
    """The built encoder's file, in the `configured` folder of models or the first that has it.
    Raises ModelError when there is none."""
    models = find_models(configured)
    if models is None:
        looked = ", ".join(str(folder / "models") for folder in data_folders())
        raise ModelError(f"no encoder is built (looked in {looked}): run `appliance model build`")
    return models / ENCODER


def model_build(args: argparse.Namespace) -> Exit:
    """`appliance model build`."""
    target = Path(args.to) if args.to else build_folder()
    pinned = read_pinned(shipped_manifest(), "encoder")
    destination = target / "models" / ENCODER
    if destination.is_file() and not args.force:
        try:
            built = verify_built(destination)
            if built.source_sha256 == pinned.files["model.safetensors"]:
                say(f"{destination}: built already, sha256 {built.sha256[:16]}")
                return Exit.DONE
        except ModelError as error:
            say(f"building again: {error}")
    built = build_encoder(find_encoder_source(pinned), destination.parent, pinned, say)
    say(f"{destination}: {built.size / 1e6:.1f} MB, sha256 {built.sha256[:16]}")
    return Exit.DONE


def model_info(args: argparse.Namespace) -> Exit:
    """`appliance model info`: exit 1 when no model is built or it is not what its manifest says."""
    path = need_encoder()
    built = verify_built(path)
    view = View()
    facts = {"path": str(path), "verified": True, **msgspec.to_builtins(built)}
    facts["sentinel"] = describe_sentinel()
    if args.json:
        view.json(facts)
    else:
        sentinel = facts.pop("sentinel")
        for name, value in facts.items():
            view.line(f"{name:<16} {clean(value)}")
        for name, value in (sentinel or {"": "no model"}).items():
            view.line(f"{('sentinel ' + name).strip():<16} {clean(value, 2000)}")
    return Exit.DONE


def describe_sentinel() -> dict[str, Any] | None:
    """What the sentinel is, its files verified; None where there is none. Raises ModelError when
    they are not what its manifest says."""
    path = find_sentinel()
    if path is None:
        return None
    model = verify_sentinel(path)
    about = load_heads(path, model).about
    return {
        "path": str(path),
        "verified": True,
        "name": model.name,
        "sha256": model.sha256,
        "dims": model.dims,
        "tokens": model.tokens,
        "techniques": len(about.techniques),
        "thresholds": about.thresholds,
        "trained": about.trained,
        "recipe": about.recipe,
    }
