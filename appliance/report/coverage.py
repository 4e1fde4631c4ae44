"""Beside the line, for `rules coverage`: which ATT&CK techniques the rules see, and which fired.

The layer is in the format 4.5 of the ATT&CK Navigator (github.com/mitre-attack/attack-navigator,
layers/spec). A technique's colour says the best that can be said of it: fired, fed (a rule could
fire on what the configured sources give), unfed (only rules that nothing feeds).
"""

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Final, Literal

import orjson

State = Literal["fired", "fed", "unfed"]
COLOURS: Final[Mapping[State, str]] = {"fired": "#c7530a", "fed": "#5aa469", "unfed": "#c9ced2"}
WORDS: Final[Mapping[State, str]] = {
    "fired": "a rule has fired",
    "fed": "a rule could fire: its log source is fed",
    "unfed": "only rules whose log source or fields nothing feeds",
}
#: Techniques of ATT&CK for industrial control systems are T0800 and above, all others below T2000.
_ICS: Final = "T0"


def sum_up_techniques(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By technique id: how many rules are `fed` and `unfed`, how often they `fired`, and the
    `state`. Rows are those of `list_rule_rows`."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for technique in row["techniques"]:
            counts = found.setdefault(technique, {"fed": 0, "unfed": 0, "fired": 0})
            counts["fed" if row["fed"] else "unfed"] += 1
            counts["fired"] += row["fired"]
    for counts in found.values():
        counts["state"] = "fired" if counts["fired"] else "fed" if counts["fed"] else "unfed"
    return dict(sorted(found.items()))


def build_layer(techniques: Mapping[str, Mapping[str, Any]], *, industrial: bool) -> dict[str, Any]:
    """One domain's layer: a Navigator layer holds one of `enterprise-attack` and `ics-attack`."""
    return {
        "name": "Rules of the appliance" + (" (ICS)" if industrial else ""),
        "versions": {"attack": "18", "navigator": "5.1.0", "layer": "4.5"},
        "domain": "ics-attack" if industrial else "enterprise-attack",
        "description": "Techniques that the loaded rules name: fired, fed, unfed",
        "techniques": [
            {
                "techniqueID": technique,
                "score": counts["fed"] + counts["unfed"],
                "color": COLOURS[counts["state"]],
                "comment": f"{counts['fed']} rules fed, {counts['unfed']} unfed, "
                f"fired {counts['fired']} times",
                "metadata": [
                    {"name": name, "value": str(counts[name])}
                    for name in ("state", "fed", "unfed", "fired")
                ],
            }
            for technique, counts in techniques.items()
            if technique.startswith(_ICS) is industrial
        ],
        "legendItems": [{"label": WORDS[s], "color": COLOURS[s]} for s in COLOURS],
    }


def write_layer(layer: Mapping[str, Any], out: BinaryIO) -> None:
    """The layer as indented JSON."""
    out.write(orjson.dumps(layer, option=orjson.OPT_INDENT_2) + b"\n")
