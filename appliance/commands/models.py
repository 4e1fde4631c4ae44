"""`model info|build` and `kb build|search|info`: the models and the knowledge base."""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from appliance.assembly import load_heads
from appliance.errors import ApplianceError, Exit, ModelError
from appliance.inference.client import EncoderClient
from appliance.inference.gguf_encoder import build_encoder, find_encoder_source
from appliance.inference.manifest import read_pinned, verify_built, verify_sentinel
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.build import build_base
from appliance.knowledge.search import search_text
from appliance.places import (
    build_folder,
    data_folders,
    find_knowledge,
    find_models,
    find_sentinel,
    shipped_manifest,
)
from appliance.view import View, clean

ENCODER = Path("encoder") / "encoder.gguf"


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def need_encoder() -> Path:
    """The built encoder's file. Raises ModelError when there is none."""
    models = find_models()
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


def kb_build(args: argparse.Namespace) -> Exit:
    """`appliance kb build`."""
    target = (Path(args.to) if args.to else build_folder()) / "knowledge"
    model = (Path(args.to) / "models" / ENCODER) if args.to else need_encoder()
    encoder = EncoderClient(model)
    if target.is_dir() and not args.force:
        try:
            KnowledgeBase.open(target, encoder.model_hash)
        except ModelError as error:
            say(f"building again: {error}")
        else:
            say(f"{target}: built already")
            return Exit.DONE
    encoder.start()
    try:
        build_base(target, encoder, say)
    finally:
        encoder.close()
    return Exit.DONE


def need_base(encoder_hash: str) -> KnowledgeBase:
    """The knowledge base. Raises ModelError when there is none."""
    folder = find_knowledge()
    if folder is None:
        looked = ", ".join(str(data / "knowledge") for data in data_folders())
        raise ModelError(
            f"no knowledge base is built (looked in {looked}): run `appliance kb build`"
        )
    return KnowledgeBase.open(folder, encoder_hash)


def kb_info(args: argparse.Namespace) -> Exit:
    """`appliance kb info`."""
    base = need_base(verify_built(need_encoder()).sha256)
    facts: dict[str, Any] = msgspec.to_builtins(base.info())
    view = View()
    if args.json:
        view.json(facts)
        return Exit.DONE
    for name, value in facts.items():
        view.line(f"{name:<12} {clean(value, 2000)}")
    return Exit.DONE


def kb_search(args: argparse.Namespace) -> Exit:
    """`appliance kb search`: exit 1 when nothing is found."""
    encoder = EncoderClient(need_encoder())
    base = need_base(encoder.model_hash)
    encoder.start()
    try:
        results = search_text(base, encoder.embed, args.query, args.k, args.type)
    finally:
        encoder.close()
    view = View()
    if args.json:
        view.json([msgspec.to_builtins(result) for result in results])
    else:
        view.table(
            ["id", "type", "score", "title", "source"],
            [
                [r.external_id, r.type, f"{r.score:.3f}", r.title, f"{r.source} {r.version}"]
                for r in results
            ],
        )
    if not results:
        raise ApplianceError(f"nothing found for {args.query!r}")
    return Exit.DONE
