"""Knowledge, reading: CISA's catalogue of known exploited vulnerabilities, as JSON and as CSV.

Format: https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities_schema.json;
the CSV has the same fields as columns. CISA publishes it under CC0 1.0.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Final

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import (
    clean_prose,
    clean_title,
    name_software,
    parse_time,
    quote_value,
)
from appliance.knowledge.readers.json_objects import (
    JsonObject,
    decode_json,
    is_object,
    read_list,
    read_text,
)

KEV_SOURCE: Final = "CISA KEV"
KEV_LICENCE: Final = "CC0 1.0"

_CVE_ID: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_WEAKNESS: Final = re.compile(r"CWE-[0-9]{1,6}")
#: Columns without which a CSV file is not this catalogue.
_COLUMNS: Final = frozenset({"cveID", "vendorProject", "product"})


def read_kev_json(raw: bytes, name: str) -> Iterator[Item]:
    """One vulnerability and one link "affects" to `software:<vendor>/<product>` a row; the link's
    text is "", since the catalogue names no versions. The version is the catalogue's. ModelError,
    raised by the first step, when the file is no such catalogue."""
    value = decode_json(raw, name)
    found = value.get("vulnerabilities") if is_object(value) else None
    if not is_object(value) or not isinstance(found, list):
        raise ModelError(f"{name}: no KEV catalogue: it has no list of vulnerabilities")
    if found and not any(is_object(row) and "cveID" in row for row in found):
        raise ModelError(f"{name}: no KEV catalogue: no vulnerability has a cveID")
    rows: Iterable[tuple[str, object]] = (
        (f"{name}: vulnerability {place}", row) for place, row in enumerate(found, 1)
    )
    yield from _read_rows(rows, clean_title(read_text(value, "catalogVersion")))


def read_kev_csv(raw: bytes, name: str) -> Iterator[Item]:
    """The same of the CSV form (RFC 4180, UTF-8). The version is the latest day on which a row
    was added."""
    lines = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", errors="replace", newline="")
    reader = csv.reader(lines)
    try:
        columns = next(reader, [])
    except csv.Error:
        columns = []
    if not _COLUMNS.issubset(columns):
        raise ModelError(
            f"{name}: no KEV catalogue: it has no columns cveID, vendorProject, product"
        )
    version = max(
        (row["dateAdded"] for _, row in _list_rows(raw, name) if _is_day(row.get("dateAdded"))),
        default="",
    )
    yield from _read_rows(_list_rows(raw, name), version)


def _list_rows(raw: bytes, name: str) -> Iterator[tuple[str, JsonObject]]:
    """The rows below the first, by column. A row that the CSV reader refuses is an empty one."""
    lines = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", errors="replace", newline="")
    reader = csv.reader(lines)
    columns = next(reader)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = [""]
        if cells:
            yield f"{name}: line {reader.line_num}", dict(zip(columns, cells, strict=False))


def _read_rows(rows: Iterable[tuple[str, object]], version: str) -> Iterator[Item]:
    known: set[str] = set()
    for where, row in rows:
        cve_id = read_text(row, "cveID").strip().upper() if is_object(row) else ""
        if not is_object(row):
            yield Dropped(where, f"{quote_value(row)} is no object")
        elif not _CVE_ID.fullmatch(cve_id):
            yield Dropped(where, f"{quote_value(row.get('cveID'))} is no CVE id")
        elif cve_id in known:
            yield Dropped(where, f"{cve_id} was told before")
        else:
            known.add(cve_id)
            yield from _read_row(row, where, cve_id, version)


def _read_row(row: JsonObject, where: str, cve_id: str, version: str) -> Iterator[Item]:
    vendor, product = read_text(row, "vendorProject"), read_text(row, "product")
    added = read_text(row, "dateAdded")
    yield KnowledgeEntry(
        id=cve_id,
        external_id=cve_id,
        type="vulnerability",
        title=clean_title(read_text(row, "vulnerabilityName"))
        or clean_title(f"{vendor} {product} {cve_id}"),
        text=clean_prose("\n".join(_list_paragraphs(row))),
        source=KEV_SOURCE,
        version=version,
        licence=KEV_LICENCE,
        url=f"https://nvd.nist.gov/vuln/detail/{cve_id}",
        modified=added if _is_day(added) else "",
    )
    software = name_software(vendor, product)
    if software:
        yield Link(cve_id, "affects", software, KEV_SOURCE)
    else:
        yield Dropped(where, f"{cve_id} names no product: the entry stays, without a link")


def _list_paragraphs(row: JsonObject) -> Iterator[str]:
    yield read_text(row, "shortDescription")
    for lead, key in (
        ("Product", "product"),
        ("Required action", "requiredAction"),
        ("Due", "dueDate"),
        ("Known exploited since", "dateAdded"),
        ("Used in ransomware campaigns", "knownRansomwareCampaignUse"),
    ):
        said = clean_prose(read_text(row, key))
        if said and key == "product":
            said = clean_title(f"{read_text(row, 'vendorProject')} {said}")
        if said:
            yield f"{lead}: {said}"
    listed = " ".join(text for text in read_list(row, "cwes") if isinstance(text, str))
    if weaknesses := _WEAKNESS.findall((read_text(row, "cwes") or listed)[:1_000]):
        yield f"Weaknesses: {', '.join(weaknesses)}"
    if notes := clean_prose(read_text(row, "notes")):
        yield f"Notes: {notes}"


def _is_day(text: object) -> bool:
    try:
        return isinstance(text, str) and len(text) == len("2025-08-25") and parse_time(text) >= 0
    except ValueError:
        return False
