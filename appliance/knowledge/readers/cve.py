"""Knowledge, reading: CVE records, JSON format 5 (https://github.com/CVEProject/cve-schema).

The text of a link "affects" is a **version statement**, made so that a program can read it back:

    statement = "" / part *("; " part)
    part      = ["!"] range / "?"
    range     = "*" / condition *("," condition)
    condition = ("=" / ">=" / ">" / "<=" / "<") version

A version is affected when it lies in some range without "!" and in no range with "!". In a range
all conditions hold; "*" holds for every version. "?" says that more is affected that the source
tells in no form that can be compared (words, commit hashes). The empty statement: the source tells
no versions. A version has no white space, ",", ";", "!", "<", ">" or "="; one that ends in ".*"
stands for all that begin with what is before the "*". Examples: ">=2.0,<2.15.0",
"=1.0; =1.1; <0.9", "*; !>=6.6.1; !<4.19".
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import (
    MAX_TEXT,
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
    keep_unique,
    read_object,
    read_objects,
    read_text,
    read_texts,
)

CVE_SOURCE: Final = "CVE"
CVE_LICENCE: Final = "CVE Terms of Use, (c) The MITRE Corporation"

#: Most products of a record, and most version ranges of a product.
MAX_PRODUCTS: Final = 2_000
MAX_RANGES: Final = 500

_CVE_ID: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_VERSION: Final = re.compile(r"(?:(?![,;!<>=*?])[!-~]){1,100}+\*?")
#: A range in words of the form that GitHub's advisories use: ">= 1.0, < 1.2.3".
_WORDS: Final = re.compile(r"(>=|<=|<|>|=)\s{0,4}((?:(?![,;!<>=*?])[!-~]){1,100}+\*?)")
#: Ways to say "from the beginning".
_FROM_START: Final = frozenset({"", "0", "*", "-", "0.0", "0.0.0", "unspecified", "n/a", "all"})
_NO_END: Final = frozenset({"*", "unspecified", "n/a"})
_UNTOLD: Final = "?"
#: Metrics, the newest first (CVSS specifications of FIRST).
_METRICS: Final = (
    ("cvssV4_0", "4.0"), ("cvssV3_1", "3.1"), ("cvssV3_0", "3.0"), ("cvssV2_0", "2.0"),
)  # fmt: skip


def read_cve(raw: bytes, name: str) -> Iterator[Item]:
    """One vulnerability a record, with a link "affects" for each product that it affects, whose
    text is a version statement (see above). A file holds one record or a list of them. Rejected
    records come as revoked, replaced by what the record names. The entry's version is the day of
    the record's last change. ModelError, raised by the first step, when no record is in the file.
    """
    value = decode_json(raw, name)
    records = value if isinstance(value, list) else [value]
    if not any(is_object(record) and "cveMetadata" in record for record in records):
        raise ModelError(f"{name}: no CVE record: it has no cveMetadata")
    known: set[str] = set()
    for place, record in enumerate(records, 1):
        where = name if record is value else f"{name}: record {place}"
        if not is_object(record):
            yield Dropped(where, f"{quote_value(record)} is no object")
            continue
        cve_id = read_text(read_object(record, "cveMetadata"), "cveId")
        if not _CVE_ID.fullmatch(cve_id):
            yield Dropped(where, f"{quote_value(cve_id)} is no CVE id")
        elif cve_id in known:
            yield Dropped(where, f"{cve_id} was told before")
        else:
            known.add(cve_id)
            yield from _read_record(record, f"{where}: {cve_id}", cve_id)


def _read_record(record: JsonObject, where: str, cve_id: str) -> Iterator[Item]:
    metadata = read_object(record, "cveMetadata")
    # The authority that numbered it speaks first, then those that added to it.
    holders = read_object(record, "containers")
    containers = [read_object(holders, "cna"), *read_objects(holders, "adp")[:20]]
    is_rejected = read_text(metadata, "state") == "REJECTED"
    changed = read_text(metadata, "dateUpdated") or read_text(metadata, "datePublished")
    products = [item for holder in containers for item in read_objects(holder, "affected")]
    replaced = [text for text in read_texts(containers[0], "replacedBy") if _CVE_ID.fullmatch(text)]
    yield KnowledgeEntry(
        id=cve_id,
        external_id=cve_id,
        type="vulnerability",
        title=_make_title(containers[0], products, cve_id),
        text=clean_prose("\n".join(_list_paragraphs(containers))),
        source=CVE_SOURCE,
        version=changed[:10] if _is_time(changed) else "",
        licence=CVE_LICENCE,
        platforms=_list_platforms(products),
        url=f"https://www.cve.org/CVERecord?id={cve_id}",
        modified=clean_title(changed) if _is_time(changed) else "",
        revoked=is_rejected,
        revoked_by=replaced[0] if is_rejected and replaced else None,
    )
    if not is_rejected:
        yield from _link_products(products, where, cve_id)


def _make_title(holder: JsonObject, products: list[JsonObject], cve_id: str) -> str:
    if title := clean_title(read_text(holder, "title")):
        return title
    for product in products:
        if told := clean_title(f"{read_text(product, 'vendor')} {read_text(product, 'product')}"):
            return clean_title(f"{told}: {cve_id}")
    return cve_id


def _list_paragraphs(containers: list[JsonObject]) -> Iterator[str]:
    own = containers[0]
    for key in ("descriptions", "rejectedReasons"):
        texts = read_objects(own, key)
        english = [text for text in texts if read_text(text, "lang").lower().startswith("en")]
        yield from (read_text(text, "value") for text in (english or texts)[:8])
    if score := next((told for holder in containers if (told := _tell_score(holder))), ""):
        yield score
    weaknesses = keep_unique(
        clean_title(read_text(told, "cweId"))
        for holder in containers
        for problem in read_objects(holder, "problemTypes")[:50]
        for told in read_objects(problem, "descriptions")[:50]
    )
    if weaknesses:
        yield f"Weaknesses: {', '.join(weaknesses)}"
    for lead, key in (("Workaround", "workarounds"), ("Solution", "solutions")):
        for advice in read_objects(own, key)[:2]:
            if text := clean_prose(read_text(advice, "value"), 1_000):
                yield f"{lead}: {text}"


def _tell_score(holder: JsonObject) -> str:
    """Base score and severity of the newest CVSS of the container; "" when it has none."""
    metrics = read_objects(holder, "metrics")[:50]
    for key, version in _METRICS:
        for metric in metrics:
            found = read_object(metric, key)
            score = found.get("baseScore")
            if isinstance(score, int | float) and 0 <= score <= 10:
                told = (f"CVSS {version} base score {score:.1f}", read_text(found, "baseSeverity"))
                vector = clean_title(read_text(found, "vectorString"))
                return clean_title(" ".join(told)) + (vector and f" ({vector})")
    return ""


def _list_platforms(products: list[JsonObject]) -> tuple[str, ...]:
    told = (text for item in products[:50] for text in read_texts(item, "platforms")[:20])
    return keep_unique(clean_title(text) for text in told)[:50]


def _link_products(products: list[JsonObject], where: str, cve_id: str) -> Iterator[Link | Dropped]:
    """One link for each different statement about a product; what only says "?" is left out where
    another statement about the same product can be compared."""
    statements: dict[str, list[str]] = {}
    for product in products[:MAX_PRODUCTS]:
        software = _name_product(product)
        statement = _state_versions(product)
        if not software:
            yield Dropped(where, "an affected product has no name: the entry stays")
        elif statement is not None and statement not in statements.setdefault(software, []):
            statements[software].append(statement)
    if len(products) > MAX_PRODUCTS:
        yield Dropped(where, f"it affects more than {MAX_PRODUCTS} products: the first are read")
    for software, found in statements.items():
        comparable = [statement for statement in found if statement not in ("", _UNTOLD)]
        for statement in comparable or found:
            yield Link(cve_id, "affects", software, CVE_SOURCE, statement)


def _name_product(product: JsonObject) -> str:
    """Its software id; a package without a vendor belongs to the host of its collection."""
    vendor, name = read_text(product, "vendor"), read_text(product, "product")
    if software := name_software(vendor, name):
        return software
    host = read_text(product, "collectionURL").partition("://")[2].partition("/")[0]
    return name_software(vendor or host, read_text(product, "packageName"))


def _state_versions(product: JsonObject) -> str | None:
    """The version statement of an affected product; None when nothing of it is affected."""
    is_affected = read_text(product, "defaultStatus") == "affected"
    parts = ["*"] if is_affected else []
    exceptions: list[str] = []
    versions = read_objects(product, "versions")
    for version in versions[:MAX_RANGES]:
        for status, told in _list_ranges(version):
            if status == "affected" and not is_affected:
                parts.append(told)
            elif status == "unaffected" and is_affected and told != _UNTOLD:
                exceptions.append(f"!{told}")
            elif status == "unaffected" and told == _UNTOLD and is_affected:
                parts.append(_UNTOLD)
    if len(versions) > MAX_RANGES:
        parts.append(_UNTOLD)
    if not parts and not versions:
        return ""
    return _join_parts(keep_unique([*parts, *exceptions])) if parts else None


def _join_parts(parts: tuple[str, ...]) -> str:
    """The statement, cut between its parts where it would be too long for a link, "?" last."""
    kept, length = [], 0
    for part in parts:
        if part != _UNTOLD:
            length += len(part) + 2
            if length > MAX_TEXT - 4:
                break
            kept.append(part)
    untold = [_UNTOLD] if len(kept) < len(parts) else []
    return "; ".join(kept + untold)


def _list_ranges(version: JsonObject) -> Iterator[tuple[str, str]]:
    """Status and range of one element of `versions`: several when its status changes inside."""
    first, status = read_text(version, "version").strip(), read_text(version, "status")
    if read_text(version, "versionType") == "git":
        yield status, _UNTOLD
        return
    end = _read_end(version)
    if end is None:
        yield status, _state_single(first)
        return
    start = "" if first.lower() in _FROM_START else f">={first}"
    for change in read_objects(version, "changes")[:50]:
        place = read_text(change, "at").strip()
        yield status, _join_conditions(start, f"<{place}")
        start, status = f">={place}", read_text(change, "status")
    yield status, _join_conditions(start, end)


def _read_end(version: JsonObject) -> str | None:
    """The upper condition, "" for none above; None when the element is a single version."""
    for key, operator in (("lessThan", "<"), ("lessThanOrEqual", "<=")):
        value = version.get(key)
        if isinstance(value, str) and value.strip():
            end = value.strip()
            return "" if end.lower() in _NO_END else f"{operator}{end}"
    return "" if read_objects(version, "changes") else None


def _state_single(text: str) -> str:
    """The range of a `version` that stands alone: one version, or conditions in words."""
    if text.lower() in ("*", "all", "all versions"):
        return "*"
    if _VERSION.fullmatch(text):
        return _UNTOLD if text.lower() in _FROM_START - {"0", "0.0", "0.0.0"} else f"={text}"
    conditions = [_WORDS.fullmatch(part.strip()) for part in text[:400].split(",")]
    if text and len(text) <= 400 and all(conditions):
        return ",".join(f"{found[1]}{found[2]}" for found in conditions if found)
    return _UNTOLD


def _join_conditions(start: str, end: str) -> str:
    conditions = [condition for condition in (start, end) if condition]
    if not all(_VERSION.fullmatch(condition.lstrip("<>=")) for condition in conditions):
        return _UNTOLD
    return ",".join(conditions) or "*"


def _is_time(text: Any) -> bool:
    try:
        return parse_time(text) >= 0
    except ValueError:
        return False
