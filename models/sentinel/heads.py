"""The heads: small linear maps from a text's pooled vector h to what the sentinel says of it.

malicious (one logit, divided by the temperature), technique and tactic (softmax over the names in
the metadata), project (into the 384 dimensions of MiniLM, for the knowledge base). All float32.
The product reads them with `appliance.detect.sentinel.heads`; this writes what it reads, and reads
the names of techniques that the heads are about.
File format: safetensors (https://github.com/huggingface/safetensors, "Format"): a little-endian
uint64 length, a JSON header of that length, then the tensors' bytes.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.detect.sentinel.heads import About, Heads

Matrix = NDArray[np.float32]

#: Dimensions of the space of frozen MiniLM that `project` maps into.
PROJECTED: Final = 384
#: Key of the JSON text in the file's `__metadata__`.
_METADATA_KEY: Final = "sentinel"
_LENGTH: Final = struct.Struct("<Q")
_ATTACK: Final = Path("knowledge", "mitre-attack", "enterprise-attack.json")


class Technique(msgspec.Struct, frozen=True):
    """One ATT&CK technique: its id, what is embedded of it, and its tactics' short names."""

    id: str
    text: str
    tactics: tuple[str, ...]


def read_techniques(data: Path) -> list[Technique]:
    """The live techniques of ATT&CK Enterprise in the data sets' STIX 2.1 bundle, by id. Raises
    OSError, ValueError when the file is no such bundle."""
    bundle = json.loads((data / _ATTACK).read_bytes())
    found: dict[str, Technique] = {}
    for item in bundle["objects"]:
        if (
            item["type"] != "attack-pattern"
            or item.get("revoked")
            or item.get("x_mitre_deprecated")
        ):
            continue
        technique = _read_technique(item)
        found[technique.id] = technique
    if not found:
        raise ValueError(f"{data / _ATTACK}: names no technique")
    return [found[name] for name in sorted(found)]


def _read_technique(item: dict[str, Any]) -> Technique:
    references = item["external_references"]
    name = next(ref["external_id"] for ref in references if ref["source_name"] == "mitre-attack")
    phases = item.get("kill_chain_phases", [])
    # The encoder reads 256 tokens: what is behind this many characters would be cut anyway.
    text = f"{item['name']}: {item.get('description', '')}"[:1_200]
    return Technique(name, text, tuple(phase["phase_name"] for phase in phases))


def list_tactics(techniques: list[Technique]) -> list[str]:
    """Every tactic's short name, sorted."""
    return sorted({tactic for technique in techniques for tactic in technique.tactics})


def write_heads(path: Path, tensors: Mapping[str, Matrix], about: About) -> Heads:
    """Write the file in whole or not at all, and give it as the product reads it; the same heads
    give the same bytes. Raises OSError, ModelError where the product would refuse them."""
    metadata = msgspec.json.encode(about).decode()
    header: dict[str, Any] = {"__metadata__": {_METADATA_KEY: metadata}}
    parts: list[bytes] = []
    at = 0
    for name in sorted(tensors):
        part = np.ascontiguousarray(tensors[name], "<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + len(part)],
        }
        at += len(part)
        parts.append(part)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the format wants the tensors aligned
    content = b"".join([_LENGTH.pack(len(head)), head, *parts])
    read = Heads.parse(content, path.name)
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)
    return read
