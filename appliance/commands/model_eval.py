"""`model eval`: how well the sentinel tells attacks from ordinary records, over any labelled files,
in the table that its model card has (appliance/sentinel_metrics.py)."""

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.assembly import SentinelParts, open_sentinel
from appliance.config import Config, Sentinel
from appliance.detect.sentinel.examine import Examiner
from appliance.detect.sentinel.texts import KINDS, Text, list_texts
from appliance.errors import Exit, ModelError, UsageError
from appliance.pipeline import read_event
from appliance.scan import read_file
from appliance.schema import Rejected
from appliance.sentinel_metrics import COLUMNS, Row, describe_rows, measure_kinds, render_rows
from appliance.sources.streams import StreamName
from appliance.view import View

#: Longest file of labels, in bytes.
MAX_LABELS: Final = 1 << 30
#: Texts scored in one go.
CHUNK: Final = 1024
#: What a label may be called.
LABELS: Final = {
    "1": 1, "attack": 1, "malicious": 1, "true": 1,
    "0": 0, "ordinary": 0, "benign": 0, "false": 0,
}  # fmt: skip
#: The row over files, by each one's highest score.
FILES: Final = "files"


class Labelled(msgspec.Struct, frozen=True):
    """One row of the labels: a file (below the folder), or a text itself with its kind."""

    label: int
    path: str = ""
    kind: str = ""
    text: str = ""


class Collected(msgspec.Struct):
    """The texts to be scored, each once a label, and of which files they are."""

    texts: dict[tuple[Text, int], list[int]] = msgspec.field(default_factory=dict)
    files: list[int] = msgspec.field(default_factory=list)
    records: int = 0
    rejected: int = 0
    wordless: int = 0


def model_eval(args: argparse.Namespace) -> Exit:
    """`appliance model eval`: exit 1 when there is no model or nothing to judge."""
    folder, labels = Path(args.path), read_labels(Path(args.labels))
    parts = open_sentinel(Config(sentinel=Sentinel(model=args.model or "")), None)
    if parts.examiner is None or parts.clients is None:
        raise ModelError(f"sentinel: {parts.why_not}")
    collected = collect_texts(folder, labels)
    if not collected.texts:
        raise UsageError(f"{args.labels}: none of {len(labels)} rows has a text to judge")
    parts.clients.start()
    try:
        rows = measure(collected, parts.examiner)
    finally:
        parts.close()
    _print(View(as_json=args.json), collected, rows, parts)
    return Exit.DONE


def read_labels(path: Path) -> list[Labelled]:
    """The labels of a CSV file with a head line or of JSON lines: `path,label`, or
    `text,kind,label`. Raises UsageError with the line that is wrong, OSError."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_LABELS + 1)
    if len(raw) > MAX_LABELS:
        raise UsageError(f"{path}: longer than {MAX_LABELS} bytes")
    text = raw.decode("utf-8-sig", "surrogateescape")
    found = [_read_label(row, f"{path}:{line}") for line, row in _split_rows(text, path)]
    if not any(found):
        raise UsageError(f"{path}: no labels in it")
    return [row for row in found if row is not None]


def _split_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not text.lstrip().startswith("{"):
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
            yield number, dict(row)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line.encode(), type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeEncodeError) as error:
                raise UsageError(f"{path}:{number}: not a JSON object: {error}") from error


def _read_label(row: dict[str, Any], where: str) -> Labelled | None:
    """The row; None where nobody could say what it is (label null)."""
    given = row.get("label")
    if given is None and "label" in row:
        return None
    label = LABELS.get(str(given).strip().lower())
    path, kind, text = (row.get(name) for name in ("path", "kind", "text"))
    if label is None:
        raise UsageError(f"{where}: label must be one of {', '.join(LABELS)}")
    if isinstance(path, str) and path:
        return Labelled(label, path=path)
    if isinstance(text, str) and kind in KINDS:
        return Labelled(label, kind=str(kind), text=text)
    raise UsageError(f"{where}: names no path, and no text of a known kind")


def collect_texts(folder: Path, labels: Sequence[Labelled]) -> Collected:
    """What the line makes of every labelled file. A file that is not there is an error, not an
    ordinary one: raises UsageError."""
    collected = Collected()
    for row in labels:
        number = len(collected.files)
        collected.files.append(row.label)
        if not row.path:
            collected.texts.setdefault((Text(row.kind, row.text), row.label), []).append(number)
            continue
        path = folder / row.path
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        before = len(collected.texts)
        for text in _list_file(path, row.path, collected):
            collected.texts.setdefault((text, row.label), []).append(number)
        collected.wordless += len(collected.texts) == before
    return collected


def _list_file(path: Path, logical: str, collected: Collected) -> Iterator[Text]:
    name = StreamName("eval", logical, logical, str(path), "auto")
    for batch in read_file(name, Config(), []):
        collected.rejected += len(batch.rejected)
        for record in batch.records:
            collected.records += 1
            result = read_event(record, UTC)
            if isinstance(result, Rejected):
                collected.rejected += 1
            else:
                yield from list_texts(result[0].views, result[0].host)


def measure(collected: Collected, examiner: Examiner) -> list[Row]:
    """The table's rows: each kind, all, and the files by their highest score. Raises
    ModelUnavailable."""
    texts = list(collected.texts)
    scores: list[float] = []
    for first in range(0, len(texts), CHUNK):
        scores += examiner.score([text for text, _ in texts[first : first + CHUNK]])
    rows = measure_kinds([t.kind for t, _ in texts], [label for _, label in texts], scores)
    highest: dict[int, float] = {}
    for (text, label), score in zip(texts, scores, strict=True):
        for number in collected.texts[text, label]:
            highest[number] = max(score, highest.get(number, 0.0))
    judged = sorted(highest)
    labels = [collected.files[number] for number in judged]
    over = measure_kinds([FILES] * len(judged), labels, [highest[number] for number in judged])
    return [*rows, over[0]]


def _print(view: View, collected: Collected, rows: list[Row], parts: SentinelParts) -> None:
    model = parts.model
    facts = {
        "model": model.name if model else "",
        "hash": model.sha256 if model else "",
        "files": len(collected.files),
        "records": collected.records,
        "rejected": collected.rejected,
        "without_text": collected.wordless,
        "texts": len(collected.texts),
    }
    if view.as_json:
        view.json({**facts, "rows": describe_rows(rows)})
        return
    for name, value in facts.items():
        view.line(f"{name:<14} {value}")
    view.table([*COLUMNS], render_rows(rows))
