"""Knowledge, reading: lists of indicators, as CSV with a header or one value a line.

There is no standard for such lists; the headers are those of common feeds (abuse.ch, AlienVault
OTX, MISP's CSV, spreadsheets). Values may be "defanged" (hxxp, [.]), as reports print them.
"""

import csv
import io
import ipaddress
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Indicator
from appliance.knowledge.readers.cleaning import (
    HASH_KINDS,
    MAX_URL,
    clean_title,
    parse_time,
    quote_value,
    refang,
    settle_indicator,
)

#: Most links of an indicator.
MAX_LINKS: Final = 50
#: Longest line, in characters: a longer one is dropped.
MAX_LINE: Final = 65_536

#: What a column says, by its name in lower case with "_" for what isn't a letter or digit.
_COLUMNS: Final = {
    **dict.fromkeys(
        ("indicator", "value", "ioc", "ioc_value", "indicator_value", "observable", "artifact"),
        "value",
    ),
    **dict.fromkeys(
        ("type", "kind", "ioc_type", "indicator_type", "observable_type", "attribute_type"), "kind"
    ),
    **dict.fromkeys(
        ("description", "name", "comment", "title", "threat", "malware", "malware_printable",
         "signature"),
        "name",
    ),
    **dict.fromkeys(
        ("valid_from", "first_seen", "first_seen_utc", "firstseen", "dateadded", "date_added",
         "created", "added"),
        "valid_from",
    ),
    **dict.fromkeys(("valid_until", "expires", "expiration", "expiry", "valid_to"), "valid_until"),
    **dict.fromkeys(("confidence", "confidence_level"), "confidence"),
    **dict.fromkeys(("source", "reporter", "provider", "feed", "reference"), "source"),
    "to_ids": "to_ids",
    **dict.fromkeys(("attack", "technique", "techniques", "mitre", "attack_id"), "links"),
}  # fmt: skip
#: Words for a kind, also as the name of a column that holds values of it.
_KINDS: Final = {
    **dict.fromkeys(
        ("address", "ip", "ipv4", "ipv6", "ipv4_addr", "ipv6_addr", "ip_address", "ipaddress",
         "ip_src", "ip_dst", "dst_ip", "src_ip", "dest_ip"),
        "address",
    ),
    **dict.fromkeys(("ip_port", "ip_dst_port", "ip_src_port"), "address:port"),
    **dict.fromkeys(("network", "cidr", "netblock", "subnet", "ip_range"), "network"),
    **dict.fromkeys(("domain", "hostname", "host", "fqdn", "domain_name"), "domain"),
    **dict.fromkeys(("url", "uri"), "url"),
    **dict.fromkeys(("md5", "md5_hash", "filehash_md5", "hash_md5"), "md5"),
    **dict.fromkeys(("sha1", "sha_1", "sha1_hash", "filehash_sha1", "hash_sha1"), "sha1"),
    **dict.fromkeys(
        ("sha256", "sha_256", "sha256_hash", "filehash_sha256", "hash_sha256"), "sha256"
    ),
    **dict.fromkeys(("hash", "file_hash", "filehash"), ""),
    **dict.fromkeys(("file", "filename", "file_name"), "file"),
    **{f"filename_{kind}": f"name|{kind}" for kind in HASH_KINDS.values()},
}  # fmt: skip
#: Words for a confidence, STIX 2.1 appendix A, "Low/Medium/High".
_CONFIDENCES: Final = {"low": 15, "medium": 50, "med": 50, "high": 85}

_NOT_WORD: Final = re.compile(r"[^a-z0-9]++")
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_ADDRESS_PORT: Final = re.compile(r"([0-9.]{7,15}):[0-9]{1,5}")
_BRACKETED_PORT: Final = re.compile(r"\[([0-9a-fA-F:.]{2,45})\]:[0-9]{1,5}")
#: A line of a hosts file: the address is where the name is to be sent, not what is meant.
_HOSTS_LINE: Final = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|::1?)[ \t]+(\S.*)")
_FIRST_WORD: Final = re.compile(r"\"([^\"]{1,8192})\"|([^\s,;\"]{1,8192})")
_URL_START: Final = re.compile(r"[A-Za-z]{2,8}\[?:\]?(?://|\[//\])")
_NAME_LEAD: Final = " \t,;#|\"'"
#: Endings that are no top-level domains and that programs and documents have.
_FILE_ENDINGS: Final = frozenset(
    {"exe", "dll", "sys", "scr", "bat", "cmd", "ps1", "psm1", "vbs", "vbe", "js", "jse", "wsf"}
    | {"hta", "lnk", "iso", "img", "rar", "7z", "doc", "docx", "docm", "xls", "xlsx", "xlsm"}
    | {"ppt", "pptx", "rtf", "pdf", "jar", "msi", "cab", "elf", "bin", "dat", "tmp", "cpl", "ocx"}
    | {"php", "jsp", "jspx", "asp", "aspx", "ashx", "txt", "log", "dmp", "apk", "deb", "rpm"}
)
_ATTACK_ID: Final = re.compile(r"\b(?:T[0-9]{4}(?:\.[0-9]{3})?|[GSC][0-9]{4})\b")


class _Header(msgspec.Struct, frozen=True):
    """What each column says: a field of the indicator, or "=" and the kind of the value in it."""

    columns: tuple[str, ...]
    delimiter: str


def read_indicator_csv(raw: bytes, name: str) -> Iterator[Indicator | Dropped]:
    """Indicators of a list in UTF-8, or UTF-16 with a byte order mark.

    With a header (also one behind "#"), columns are known by their names, in any order; without,
    a line's first word is the value and the rest its name, also in the form of a hosts file. The
    kind is what the list says, else guessed by form. Lines that begin with "#", ";" or "//" are
    comments. A source that a row names is told in the indicator's name: the source of all is
    "CSV: <name>", by which the list is replaced when it is imported again. Repeated values come
    again. ModelError, raised by the first step, when the bytes are no text.
    """
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding == "utf-8-sig" and b"\x00" in raw[:4_096]:
        raise ModelError(f"{name}: no list of indicators: it is no text")
    source = clean_title(f"CSV: {name}")
    header: _Header | None = None
    is_begun = False
    lines = io.TextIOWrapper(io.BytesIO(raw), encoding, errors="replace", newline=None)
    for number, line in enumerate(_read_lines(lines), 1):
        where, text = f"{name}: line {number}", line.strip()
        if not text:
            continue
        is_comment = text.startswith(("#", ";", "//"))
        found = None if is_begun else _read_header(text.lstrip("#;/ "), is_comment=is_comment)
        if found:
            header, is_begun = found, not is_comment
        elif is_comment:
            continue
        elif len(text) > MAX_LINE:
            yield Dropped(where, f"the line is longer than {MAX_LINE} characters")
        else:
            is_begun = True
            read = _read_row(text, header, source) if header else _read_plain(text, source)
            yield from _tell_where(read, where)


def _read_lines(lines: io.TextIOWrapper) -> Iterator[str]:
    """The lines, each cut a little over MAX_LINE: one line may be the whole file."""
    while line := lines.readline(MAX_LINE + 2):
        yield line
        while not line.endswith("\n") and (line := lines.readline(MAX_LINE + 2)):
            pass


def _tell_where(
    read: Iterator[Indicator | ValueError], where: str
) -> Iterator[Indicator | Dropped]:
    for found in read:
        yield Dropped(where, str(found)) if isinstance(found, ValueError) else found


def _read_header(line: str, *, is_comment: bool) -> _Header | None:
    """The header in the line; None when no column of it holds values. Behind "#" it needs three
    known columns: a comment may well be "IP, domain"."""
    if len(line) > MAX_LINE:
        return None
    for delimiter in (",", ";", "\t", "|"):
        cells = _split_row(line, delimiter)
        names = [_name_column(cell) for cell in cells]
        columns = tuple(_COLUMNS.get(name) or _name_kind(name) for name in names)
        has_value = "value" in columns or any(column.startswith("=") for column in columns)
        is_sure = not is_comment or len(columns) - columns.count("") >= 3
        # A row of values may hold a word such as "ip:port" too.
        if has_value and is_sure and not any(map(_is_value, cells)):
            return _Header(columns, delimiter)
    return None


def _is_value(cell: str) -> bool:
    try:
        return bool(guess_kind(refang(cell)))
    except ValueError:
        return False


def _name_column(cell: str) -> str:
    return _NOT_WORD.sub("_", cell.strip().lower()[:64]).strip("_")


def _name_kind(name: str) -> str:
    return f"={_KINDS[name]}" if name in _KINDS else ""


def _split_row(line: str, delimiter: str) -> list[str]:
    """The cells of one line (RFC 4180). A quoted line end is not followed: one stray quote would
    swallow the lines below it."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _read_row(line: str, header: _Header, source: str) -> Iterator[Indicator | ValueError]:
    cells = _split_row(line, header.delimiter)
    fields = dict(zip(header.columns, cells, strict=False))
    kind_word = _name_column(fields.get("kind", ""))
    if kind_word and kind_word not in _KINDS:
        yield ValueError(f"{quote_value(fields['kind'])} is nothing that is looked up")
        return
    if fields.get("to_ids", "").lower() in ("0", "false"):
        yield ValueError("context, which is not to be matched (to_ids is not true)")
        return
    values = [
        (column[1:] if column.startswith("=") else _KINDS.get(kind_word, ""), cell)
        for column, cell in zip(header.columns, cells, strict=False)
        if cell and (column == "value" or column.startswith("="))
    ]
    if not values:
        yield ValueError("the row has no value")
    for kind, value in values:
        try:
            yield _make_indicator(kind, value, fields, source)
        except ValueError as error:
            yield error


def _read_plain(line: str, source: str) -> Iterator[Indicator | ValueError]:
    """The first word of the line, or the name that a line of a hosts file blocks."""
    found = _HOSTS_LINE.fullmatch(line)
    text = found[1] if found else line
    is_url = _URL_START.match(text)
    value = text.split(maxsplit=1)[0] if is_url else _first_word(text)
    name = text[text.find(value) + len(value) :].strip(_NAME_LEAD)
    try:
        yield _make_indicator("", value, {"name": name}, source)
    except ValueError as error:
        yield error


def _first_word(text: str) -> str:
    found = _FIRST_WORD.match(text)
    return (found[1] or found[2]) if found else text


def _make_indicator(kind: str, value: str, fields: dict[str, str], source: str) -> Indicator:
    """ValueError with the reason when the value is none, or a time of the row is none."""
    plain = refang(value.strip().strip("\"'"))
    if kind == "address:port":
        kind, plain = "address", _cut_port(plain.replace("|", ":"))
    elif kind == "address":
        plain = _cut_port(plain)
    elif kind.startswith("name|"):
        kind, plain = kind.removeprefix("name|"), plain.rpartition("|")[2]
    settled_kind, settled = settle_indicator(*((kind, plain) if kind else guess_kind(plain)))
    valid_from, valid_until = _read_bound(fields, "valid_from"), _read_bound(fields, "valid_until")
    if valid_from is not None and valid_until is not None and valid_until <= valid_from:
        raise ValueError("its validity ends before it begins")
    return Indicator(
        kind=settled_kind,
        value=settled,
        source=source,
        name=_join_name(fields),
        valid_from=valid_from,
        valid_until=valid_until,
        confidence=_read_confidence(fields.get("confidence", "")),
        links=tuple(dict.fromkeys(_ATTACK_ID.findall(fields.get("links", "").upper())))[:MAX_LINKS],
    )


def guess_kind(value: str) -> tuple[str, str]:
    """Kind and value by form: digests by their length, addresses (a port behind them is cut off),
    networks, URLs, file names by their ending, domains. ValueError when it looks like none."""
    if len(value) in HASH_KINDS and _HEX.fullmatch(value):
        return HASH_KINDS[len(value)], value
    if _URL_START.match(value):
        return "url", value
    plain = _cut_port(value)
    if _is_network(plain):
        return "network" if "/" in plain else "address", plain
    if "@" in value or len(value) > MAX_URL:
        raise ValueError(f"{quote_value(value)} is nothing that is looked up")
    host, slash, _ = value.partition("/")
    ending = host.rpartition(".")[2].lower()
    if not slash and "." in host and ending in _FILE_ENDINGS:
        return "file", value
    if "." in host and ending.isalnum() and not ending.isdigit():
        return ("url" if slash else "domain"), value
    raise ValueError(f"{quote_value(value)} looks like no kind of indicator")


def _cut_port(value: str) -> str:
    found = _ADDRESS_PORT.fullmatch(value) or _BRACKETED_PORT.fullmatch(value)
    return found[1] if found else value


def _is_network(value: str) -> bool:
    try:
        if len(value) > 64:
            return False
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def _read_bound(fields: dict[str, str], key: str) -> float | None:
    text = fields.get(key, "")
    return parse_time(text.removesuffix(" UTC")) if text else None


def _read_confidence(text: str) -> int | None:
    word = text.strip().lower().removesuffix("%").strip()
    if word in _CONFIDENCES:
        return _CONFIDENCES[word]
    is_number = word.isascii() and word.isdigit() and len(word) <= 3
    return int(word) if is_number and int(word) <= 100 else None


def _join_name(fields: dict[str, str]) -> str:
    """The row's words for it, and who says so in brackets."""
    name, told_by = clean_title(fields.get("name", "")), clean_title(fields.get("source", ""))
    return clean_title(f"{name[:150]} ({told_by[:45]})".strip() if told_by else name)
