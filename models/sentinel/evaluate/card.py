"""Stage `evaluate`, the model card: README.md, written from evaluation.json and nothing else.

The words are ours, every number is read from the figures; a bar stands beside each figure it is
for, and "missed" where it is missed.
"""
# ruff: noqa: E501 - the card's sentences

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from appliance.config import Sentinel
from models.sentinel.evaluate.plots import CALIBRATION_FILE, SPEED_FILE

CARD_FILE: Final = "README.md"
#: The budget that the product is configured with unless told.
SHIPPED_BUDGET: Final = f"{Sentinel().budget:g}"
_EVTX: Final = "evtx-attack-samples"
#: Sources of other kinds (not all wholly unseen) that the same bars are asked of: source, kind, system.
_OTHER_BARS: Final = (
    ("stockpile", "process", "windows"),
    ("stockpile", "script", "windows"),
    (_EVTX, "registry", "windows"),
    ("stockpile", "process", "linux"),
    ("cowrie", "process", "linux"),
    ("gtkcyber", "log", "linux"),
    ("libinjection", "url", "network"),
    ("coreruleset", "url", "network"),
    ("dga", "dns", "network"),
    ("tunnel", "dns", "network"),
)
#: Findings in 10,000 ordinary events that the bar of files without a rule allows.
_FINDINGS_BAR: Final = 5.0
#: With fewer files, abilities or captures than this the bar is asked of texts.
_FEWEST_GROUPS: Final = 20
Row = Mapping[str, Any]


def write_card(results: Mapping[str, Any], folder: Path) -> None:
    """Write the card into the folder, whole or not at all. Raises OSError."""
    text = render_card(results, lambda name: (folder / name).is_file())
    new = folder / f"{CARD_FILE}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(folder / CARD_FILE)


def render_card(results: Mapping[str, Any], has_file: Any = lambda _name: False) -> str:
    """The card's text. `has_file` tells which plots are there."""
    parts = [
        _frame(results),
        _bars(results),
        _windows(results),
        _kinds(results),
        _slices(results),
        _thresholds(results),
        _files(results),
        _attribution(results),
        _parity(results),
        _calibration(results, has_file),
        _evasion(results),
        _speed(results),
        _limits(),
        _data(results),
        _rebuild(),
    ]
    return "\n".join(part for part in parts if part)


# -- cells ----------------------------------------------------------------------------------------


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _within(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    if interval is None:
        return _number(value, digits)
    return f"{value:.{digits}f} ({interval[0]:.{digits}f}-{interval[1]:.{digits}f})"


def _share(share: Row | None) -> str:
    """`0.62 (0.55-0.69), 63 of 101`."""
    if share is None or not share["total"]:
        return "-"
    value = share["hits"] / share["total"]
    digits = 4 if value < 0.02 and share["total"] >= 1_000 else 2
    return f"{_within(value, share['interval'], digits)}, {share['hits']} of {share['total']}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _rate(cell: Row, name: str) -> Row:
    found: Row = next((rate for rate in cell["rates"] if rate["rate"] == name), {})
    return found


def _find(rows: Iterable[Row], **wanted: str) -> Row | None:
    return next((r for r in rows if all(r[key] == value for key, value in wanted.items())), None)


def _value(share: Row | None) -> float | None:
    return share["hits"] / share["total"] if share and share["total"] else None


# -- the parts ------------------------------------------------------------------------------------


def _frame(results: Mapping[str, Any]) -> str:
    model = results["model"]
    manifest = results["manifest"]
    size = sum(model["bytes"].values())
    small = "\n**This is a small run that shows that the recipe works, not a result.**\n"
    return f"""# The sentinel

A small encoder, and n-grams beside it, that judge single events: how likely each is part of an
attack, which ATT&CK technique and tactic it resembles, and where it lies among the knowledge base's
entries. One forward pass, three answers. It sees what no rule names; it adds findings and never
takes one away.
{small if results["small"] else ""}
| | |
|---|---|
| what | BERT encoder, {manifest.get("layers", "?")} layers, {model["dims"] - 1} wide, \
{manifest.get("quantization", "?")}, vocabulary of {manifest.get("vocabulary", "?")}, mean pooling; \
linear heads in float32; logistic regression over n-grams of 2 to 6 bytes, hashed into 2^20 columns, \
in float16, whose log-odds the head `malicious` reads beside the vector (ordinary texts of training \
that it takes for attacks it knows by their hash); a softmax regression over \
2^14 columns, in int8, whose opinion on techniques counts as much as the head's |
| files | `sentinel.gguf`, `sentinel.heads.safetensors`, `sentinel.ngrams.npz`, \
`sentinel.techniques.npz`, `sentinel.json` with the SHA-256 of all four: {size:,} bytes |
| heads | malicious (temperature {model["temperature"]:.2f}), {model["techniques"]} techniques, \
{model["tactics"]} tactics, projection into the encoder's 384 dimensions |
| reads | the first {model["tokens"]} tokens of one masked line an event: process starts, script \
blocks, registry, services, tasks, files, modules, network, pipes, access, threads, WMI, DNS, URLs, \
log lines. Names, ids, addresses and times are masked; Sysmon's RuleName is never read |
| runs on | llama.cpp in a child process, one context of one thread |
| trained | {model["trained"] or "?"}, recipe {model["recipe"][:16] or "?"}, seed {results["seed"]} |
| licence | {manifest.get("licence", "?")}, ours; data's licences below |
| not for | proof. A finding says "unlike ordinary events, like attacks": an operator decides |

It was distilled: the regression over n-grams (and a fine-tuned MiniLM, where the recipe runs on an
accelerator) scores every training text by a fit that did not see the text's group; the student
learns what these scores leave open, beside labels and techniques, and its projected vectors are
drawn to the frozen MiniLM's vectors of technique texts.
Ordinary life in training is the set `ordinary`, the background of captures, and templates of our
own of what healthy systems do.

How to read the tables: training saw nothing at all of `evtx-attack-samples`, `stockpile` and
`gtkcyber`. Of `security-datasets` it saw other captures, of `cowrie`, `coreruleset`, `libinjection`,
`dga`, `tunnel` and `fail2ban-logs` other sessions, files, families or domains; of `atomic-red-team`,
`lolbas` and `gtfobins` the test has only techniques that training never saw. Texts are distinct after masking. *New to training* leaves
out what is nearly a copy of a training text, on both sides; *whole stream* has all. Intervals are
95 %: by drawing files, captures and abilities anew for texts, Wilson's for files. A rate that the
background is too small for is "-"."""


def _bars(results: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    _add_attack_bars(results, rows)
    _add_other_bars(results, rows)
    _add_file_bars(results, rows)
    _add_parity_bars(results, rows)
    for speed in results.get("speed", []):
        if speed["processes"] == 2:
            rate = speed["median_per_second"]
            text = f"{rate:,.0f} (median)"
            _add(rows, "distinct texts of 64 tokens a second, two processes", 1_000, rate, text)
    return "\n## Bars\n\n" + _table(("what", "bar", "measured", ""), rows)


def _add(rows: list[list[str]], what: str, bar: float, value: float | None, text: str) -> None:
    verdict = "not measured" if value is None else "met" if value >= bar else "**missed**"
    rows.append([what, f"{bar:g}", text, verdict])


def _add_share(rows: list[list[str]], what: str, bar: float, share: Row | None) -> None:
    _add(rows, what, bar, _value(share), _share(share))


def _add_attack_bars(results: Mapping[str, Any], rows: list[list[str]]) -> None:
    for against in ("new to training", "whole stream"):
        cell = _find(results["cells"], source=_EVTX, kind="process", os="windows", against=against)
        if cell is not None:
            text = _within(cell["auroc"], cell["auroc_interval"])
            what = f"process starts of attack files, AUROC ({against})"
            _add(rows, what, 0.95, cell["auroc"], text)
        for kind, event in (("process", "a process start"), ("all", "an event")):
            line = _find(
                results["pooled"],
                source=_EVTX,
                kind=kind,
                os="windows",
                against=f"{against}, all kinds",
            )
            for name, bar in (("1 in 1,000", 0.60), ("1 in 100", 0.75)) if line else ():
                what = f"attack files flagged by {event} of the attack at {name} ({against})"
                _add_share(rows, what, bar, _rate(line or {}, name).get("groups"))


def _add_other_bars(results: Mapping[str, Any], rows: list[list[str]]) -> None:
    for source, kind, os in _OTHER_BARS:
        wanted = {"source": source, "kind": kind, "os": os}
        cell = _find(results["cells"], **wanted, against="new to training")
        cell = cell or _find(results["cells"], **wanted, against="whole stream")
        if cell is not None:
            name = f"{kind} ({os}), {source}, {cell['against']}"
            text = _within(cell["auroc"], cell["auroc_interval"])
            _add(rows, f"{name}: AUROC", 0.95, cell["auroc"], text)
            # One file of a thousand lines is no rate of files.
            part = "groups" if cell["groups"] >= _FEWEST_GROUPS else "texts"
            what = f"{name}: {part} flagged at 1 in 100 of the kind"
            _add_share(rows, what, 0.75, _rate(cell, "1 in 100").get(part))


def _add_file_bars(results: Mapping[str, Any], rows: list[list[str]]) -> None:
    allowed = {
        f"budget {line['budget']}": line["per_10_000"]
        for line in results["thresholds"]["on"]["test"]["budgets"]
        if line["per_10_000"] <= _FINDINGS_BAR
    }
    widest = list(allowed)[-1:]
    for line in results.get("files", {}).get("recall", []):
        name = line["limit"]
        if "in 10,000" in name or name in (f"budget {SHIPPED_BUDGET}", *widest):
            what = f"files without a rule at medium, flagged at {name}"
            if name in allowed:
                what += f" ({allowed[name]:.1f} in 10,000 ordinary events of the test)"
            _add_share(rows, what, 0.5, line["blind_of_all"])
            _add_share(rows, "the same, of those with a text to judge", 0.5, line["blind_by_any"])
    for guess in results["attribution"]:
        if guess["techniques"] == "all" and guess["budget"] in (SHIPPED_BUDGET, "none"):
            where = f"{guess['source']} at budget {guess['budget']}"
            if guess["budget"] == "none":
                where = f"all files of {guess['source']}, over all texts"
            _add_share(rows, f"parent technique right at first, {where}", 0.5, guess["first"])
            _add_share(rows, f"parent technique among five, {where}", 0.75, guess["among_five"])


def _add_parity_bars(results: Mapping[str, Any], rows: list[list[str]]) -> None:
    for line in results.get("parity", []):
        shipped, others = line["auroc"]["shipped"], line["auroc"]
        where = "all kinds together" if line["kind"] == "all" else line["kind"]
        teachers = {name: others[name] for name in _TEACHERS if others.get(name) is not None}
        if teachers:
            best = max(teachers, key=lambda name: float(teachers[name]))
            what = f"AUROC lost from the best teacher ({best}) to the shipped model, {where}"
            _add_loss(rows, what, 0.015, teachers[best], shipped)
        if line["kind"] == "all" and others.get("float student") is not None:
            what = "AUROC lost by quantizing, all kinds together"
            _add_loss(rows, what, 0.005, others["float student"], shipped)


def _add_loss(rows: list[list[str]], what: str, most: float, before: float, after: float) -> None:
    lost = before - after
    text = f"{lost:+.4f} ({before:.4f} to {after:.4f})"
    rows.append([what, f"at most {most:g}", text, "met" if lost <= most else "**missed**"])


#: The teachers, as `compared` names them.
_TEACHERS: Final = ("both teachers", "n-grams", "MiniLM teacher")
_CELL_HEADS: Final = (
    "source", "kind", "attacks", "files", "background", "AUROC", "texts at 1 in 1,000",
    "files at 1 in 1,000", "texts at 1 in 100", "files at 1 in 100",
)  # fmt: skip


def _cell_row(cell: Row) -> list[str]:
    row = [
        cell["source"], f"{cell['kind']} ({cell['os']})", str(cell["attacks"]), str(cell["groups"]),
        f"{cell['background']}: {cell['against']}", _within(cell["auroc"], cell["auroc_interval"]),
    ]  # fmt: skip
    for name in ("1 in 1,000", "1 in 100"):
        rate = _rate(cell, name)
        row += [_share(rate.get("texts")), _share(rate.get("groups"))]
    return row


def _windows(results: Mapping[str, Any]) -> str:
    if not results["pooled"]:
        return ""
    return (
        "\n## Against all background of unseen captures\n\n"
        "The threshold is that which flags so many of *all* distinct ordinary events of the test "
        "(captures' background and the set `ordinary`), as in use. An attack's files are those with "
        "a text that is plausibly the attack's: by process tree and rules, so files that rules do "
        "not see are mostly missing here, and are counted below.\n\n"
        + _table(_CELL_HEADS, map(_cell_row, results["pooled"]))
        + _baseline(results, "pooled")
    )


def _baseline(results: Mapping[str, Any], part: str) -> str:
    text = ""
    for name, found in results["baselines"].items():
        lines = [cell for cell in found[part] if cell["source"] in (_EVTX, "stockpile")]
        if lines:
            text += f"\nThe same of the teacher by {name}:\n\n" + _table(
                _CELL_HEADS, map(_cell_row, lines)
            )
    return text


def _kinds(results: Mapping[str, Any]) -> str:
    return (
        "\n## Kind by kind\n\nAgainst background of the same kind and system alone. *No telemetry*: "
        "there is no real background of this kind that training did not see; read it as form, not "
        "as malice.\n\n"
        + _table(_CELL_HEADS, map(_cell_row, results["cells"]))
        + _baseline(results, "cells")
    )


def _slices(results: Mapping[str, Any]) -> str:
    rows = [
        [row["source"], f"{row['kind']} ({row['os']})", row["what"], _share(row["attacks"]),
         _share(row["background"])]
        for row in results["slices"]
    ]  # fmt: skip
    if not rows:
        return ""
    return (
        "\n## By form, and by techniques seen and unseen\n\nAt the threshold that flags 1 in 100 of "
        "the background of the kind, new to training.\n\n"
        + _table(("source", "kind", "what", "attacks flagged", "background flagged"), rows)
    )


def _thresholds(results: Mapping[str, Any]) -> str:
    found = results["thresholds"]
    text = (
        "\n## Budgets\n\nA budget (findings per host and day) becomes scores so: a host and day are "
        "**supposed, not measured**, to hold so many distinct texts of a kind, and the kind may use "
        "a share of the budget; the score is that which budget x share / texts of the ordinary texts "
        "of validation (captures' background and templates) are over, drawn on from the tail where "
        "that is less than ten texts. The budget counts distinct texts: one that comes hourly is "
        "found hourly. How the budget is divided among kinds was set once, after the test's figures "
        "of an earlier model had been seen; the scores are of validation alone.\n\n"
    )
    rows = []
    for kind, (day, part) in found["days"].items():
        table = found["scores"] if kind == "others" else found["kinds"].get(kind)
        mine = found["chosen_on"].get(kind)
        if kind == "others":
            mine = sum(n for name, n in found["chosen_on"].items() if name not in found["kinds"])
        scores = (
            [f"{score:.4f}" for score in table.values()]
            if table
            else ["as others"] * len(found["scores"])
        )
        rows.append([kind, str(day), f"{part:.2f}", str(mine or 0), *scores])
    text += _table(
        (
            "kind",
            "texts a day, supposed",
            "share",
            "texts of validation",
            *(f"score at {b}" for b in found["scores"]),
        ),
        rows,
    )
    text += "\nCaptures cannot tell a host's day:\n\n"
    rows = []
    for split in ("valid", "test"):
        seen = found["on"][split]
        rows.append([split, str(seen["captures"]), str(seen["hosts"]), f"{seen['active_days']:.3f}",
                     f"{seen['span_days']:.1f}", str(seen["events"]), str(seen["texts"]),
                     str(seen["left_out"])])  # fmt: skip
    text += _table(
        ("split", "captures", "hosts", "host-days without silences", "first to last event",
         "background events", "distinct texts", "events left out (attack or unclear)"), rows,
    )  # fmt: skip
    text += (
        "\nFirst to last event is mostly time zones that the set mixes. A tenth of a host-day is "
        "little, and it is the busiest: Sysmon's full log while an attack runs. So findings in "
        "10,000 events tell more than findings a day.\n\n"
    )
    rows = []
    for split in ("valid", "test"):
        for line in found["on"][split]["budgets"]:
            rows.append([line["budget"], split, _share(line["texts"]),
                         f"{line['events']['hits']} of {line['events']['total']}",
                         f"{line['per_10_000']:.1f}", _number(line["per_active_day"], 0)])  # fmt: skip
    text += _table(
        ("budget", "on", "distinct texts flagged", "events flagged", "in 10,000 events",
         "a host-day without silences"), rows,
    )  # fmt: skip
    if found["on"].get("valid_limit_on_test"):
        text += (
            "\nThe threshold that 5 in 10,000 events of validation's captures are over gives on the "
            f"test's: {_share(found['on']['valid_limit_on_test'])} events.\n"
        )
    rows = [
        [row["source"], f"{row['kind']} ({row['os']})", str(row["texts"])]
        + [str(row["over"][budget]) for budget in found["scores"]]
        for row in found["on"]["ordinary_set"]
    ]
    if rows:
        heads = (
            "texts of",
            "kind",
            "distinct texts",
            *(f"over {budget}" for budget in found["scores"]),
        )
        text += "\nLists of ordinary texts over each budget's score:\n\n"
        text += _table(heads, rows)
    return text


def _files(results: Mapping[str, Any]) -> str:
    found = results.get("files")
    if not found:
        return ""
    rows = [
        [line["limit"], _share(line["by_attack"]), _share(line["by_any"]), _share(line["of_all"]),
         _share(line["blind_by_any"]), _share(line["blind_of_all"]),
         _share(line["rules_or_sentinel"])]
        for line in found["recall"]
    ]  # fmt: skip
    return (
        f"\n## Files of attacks, and what rules do not see\n\n{_EVTX}: {found['files']} files, "
        f"{found['events']} events; {found['with_texts']} files have a text that the sentinel can "
        f"judge, {found['with_attack']} one that is plausibly the attack's. SigmaHQ's Windows rules "
        f"(single events, the product's matcher) are silent at medium on {found['blind']} files, of "
        f"which {found['blind_with_texts']} have a text to judge and {found['blind_with_attack']} a "
        "text plausibly the attack's. In a file without rules' help any text counts: some of its "
        "flagged texts may be ordinary.\n\n"
        + _table(
            ("threshold", "files by an event of the attack", "files by any text", "of all files",
             "no rule: by any text", "no rule: of all such files", "rule or sentinel, of all files"),
            rows,
        )
    )  # fmt: skip


def _attribution(results: Mapping[str, Any]) -> str:
    rows = [
        [row["source"], row["techniques"], row["budget"], str(row["files"]), str(row["flagged"]),
         _share(row["first"]), _share(row["among_five"])]
        for row in results["attribution"]
    ]  # fmt: skip
    if not rows:
        return ""
    return (
        "\n## Which technique\n\nParent technique over the texts flagged at the budget (*none*: over "
        "all texts, weighted by score); a file without a flagged text is counted wrong. Truth is "
        "the capture's metadata, or the words of the file's name read by a table of ours (one of "
        "several techniques where a name stands for several). *Unseen*: no attack of the technique was in training, so it can hardly be "
        "named.\n\n"
        + _table(
            ("source", "techniques", "budget", "files", "flagged", "first guess", "among five"),
            rows,
        )
    )


def _parity(results: Mapping[str, Any]) -> str:
    text = ""
    if results.get("parity"):
        names = list(results["parity"][0]["auroc"])
        rows = [
            [row["kind"], str(row["attacks"]), str(row["ordinary"]),
             _within(row["auroc"]["shipped"], row["interval"], 4),
             *(_number(row["auroc"][name], 4) for name in names[1:])]
            for row in results["parity"]
        ]  # fmt: skip
        text += (
            "\n## Teachers, float student, shipped model\n\nAUROC on the labelled test rows.\n\n"
        )
        text += _table(("kind", "attacks", "ordinary", *names), rows)
    if results.get("quantizations"):
        rows = [
            [row["weights"], f"{row['bytes']:,}", f"{row['lowest_cosine']:.4f}",
             f"{row['mean_cosine']:.4f}", f"{row['largest_difference']:.4f}", str(row["scored"]),
             f"{row['auroc']:.4f}", f"{row['float_auroc']:.4f}", f"{row['texts_per_second']:,.0f}"]
            for row in results["quantizations"]
        ]  # fmt: skip
        text += (
            "\nQuantizations against the float student (labelled rows of validation and test):\n\n"
        )
        text += _table(
            ("weights", "bytes", "lowest cosine", "mean cosine", "largest difference of the score",
             "rows", "AUROC", "float AUROC", "texts/s, one thread"), rows,
        )  # fmt: skip
    if results.get("candidates"):
        rows = [
            [f"{row['layers']} x {row['width']}", f"{row['bytes']:,}", str(row["scored"]),
             f"{row['auroc']:.4f}", f"{row['texts_per_second']:,.0f}"]
            for row in results["candidates"]
        ]  # fmt: skip
        text += "\nCandidates, layers x width (stage `candidates`):\n\n"
        text += _table(("shape", "bytes", "rows", "AUROC", "texts/s, one thread"), rows)
        best = max(results["candidates"], key=lambda row: float(row["auroc"]))
        text += (
            f"\nThe best of them is {best['layers']} x {best['width']}. What is shipped is to be the "
            "best that reads 1,000 texts of 64 tokens a second in two processes.\n"
        )
    return text


def _calibration(results: Mapping[str, Any], has_file: Any) -> str:
    text = "\n## Calibration\n\n"
    rows = []
    for curve in results["calibration"]:
        cells = [
            "-" if score is None else f"{share:.2f} at {score:.2f} ({count})"
            for score, share, count in zip(
                curve["scores"], curve["attacks"], curve["counts"], strict=True
            )
        ]
        rows.append([curve["split"], f"{curve['error']:.3f}", *cells])
    text += "Share of attacks at the bin's mean score (texts); ECE is the expected calibration error.\n\n"
    text += _table(("split", "ECE", *(f"0.{bin_}-" for bin_ in range(10))), rows)
    text += (
        "\nThe share of attacks in a test set is nobody's network: a score of 0.9 is no chance of "
        "nine in ten there.\n"
    )
    for name, what in ((CALIBRATION_FILE, "Calibration"), (SPEED_FILE, "Quality against speed")):
        if has_file(name):
            text += f"\n![{what}]({name})\n"
    return text


def _evasion(results: Mapping[str, Any]) -> str:
    rows = [
        [row["rewrite"], str(row["commands"]), _share(row["before"]), _share(row["after"])]
        for row in results.get("evasion", [])
    ]
    if not rows:
        return ""
    return (
        f"\n## Evasion\n\nRaw command lines of {_EVTX}' attacks, rewritten, masked again by the "
        "product; at the threshold that flags 1 in 100 of all distinct Windows background.\n\n"
        + _table(("rewriting", "commands changed", "flagged before", "flagged after"), rows)
    )


def _speed(results: Mapping[str, Any]) -> str:
    rows = [
        [str(row["processes"]), f"{row['median_per_second']:,.0f}", f"{row['best_per_second']:,.0f}",
         f"{row['load_seconds']:.2f}", f"{row['child_mib']:.0f}",
         f"{row['machine_load']:.1f} on {row['processors']}"]
        for row in results.get("speed", [])
    ]  # fmt: skip
    if not rows:
        return ""
    return (
        "\n## Speed\n\nThrough the product's client and child processes, distinct texts of 64 tokens, "
        "nothing cached. A machine load above the number of processors means that others ran "
        "beside it.\n\n"
        + _table(
            ("processes", "texts/s, median", "texts/s, best", "load, s", "MiB a child",
             "machine load"), rows,
        )
    )  # fmt: skip


def _limits() -> str:
    return """
## Limits

- Background is the weak point: a fraction of a host-day of captures from laboratories, and lists of
  ordinary commands. A false positive rate on your network is not in these tables; start with a low
  budget and look.
- Labels are partly made by rules and process trees: background holds some attack, an attack's tree
  some ordinary child. What rules cannot see is under-represented among labelled attacks.
- Kinds with few attacks here (service, task, pipe, threads, WMI) were hardly tested. Ordinary log lines
  are of a few calm systems, ordinary URLs and names of few sites: read those figures as form as much
  as malice.
- Calibration is towards a balance of the labels, not towards your network's.
- A text is judged alone: what is ordinary for one host and not for another, it cannot know.
- Somebody who knows the model can write around it (see Evasion). Rules beside it do not care.
- Only the first tokens are read; scripts are cut into parts, of which the last may not be judged.
"""


def _data(results: Mapping[str, Any]) -> str:
    data = results.get("data")
    if not data:
        return ""
    rows = []
    for name in sorted(data["sources"]):
        about = data["about"].get(name, {})
        cells = []
        for split in ("train", "valid", "test"):
            cell = data["sources"][name].get(split, {})
            cells.append(
                " / ".join(str(cell.get(key, 0)) for key in ("attack", "ordinary", "unlabelled"))
                if cell
                else "-"
            )
        rows.append([name, *cells, about.get("licence", "?"), about.get("noise", "")])
    return (
        f"\n## Training data\n\n{data['examples']:,} distinct texts: "
        + ", ".join(f"{split} {count:,}" for split, count in data["splits"].items())
        + f". {len(data['unseen_parents'])} parent techniques are held back from training: "
        + ", ".join(data["unseen_parents"])
        + ". None of the data is in the repository or in the product: only weights learned from it. "
        "Attack / ordinary / unlabelled:\n\n"
        + _table(("source", "train", "valid", "test", "licence", "known noise"), rows)
    )


def _rebuild() -> str:
    return """
## Rebuild

```
pip install -e '.[build,train]'
python -m models.sentinel all --data DIR --work DIR
```

`DIR` of `--data` holds the unpacked public sets. Every stage writes files that can be read, is seeded, goes
on where it was stopped, and is skipped when it is done; `--small` shows in minutes that all of it
works. This card is `evaluate`'s; do not edit it.
"""
