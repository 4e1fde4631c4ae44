"""Knowledge, reading: what a file is, told from its bytes.

The answers are cheap and may be wrong in one direction only: a file that is recognised may still be
refused by its reader, with the reason.
"""

import re
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final

import msgspec

from appliance.knowledge.readers.cleaning import refang
from appliance.knowledge.readers.gtfobins import FUNCTIONS
from appliance.knowledge.readers.indicators import guess_kind

#: Bytes in which the keys of a YAML document are looked for, and the lines of a table.
_LOOK: Final = 4 << 20
_HEAD: Final = 8 << 10
#: Lines of a table that are looked at.
_LINES: Final = 40

_TOP: Final = re.compile(rb"^[\"']?([A-Za-z_][\w-]{0,40})[\"']?[ ]{0,4}:(?=\s|\Z)", re.MULTILINE)
_KEY: Final = re.compile(rb"^(?:- |  )([A-Za-z_]\w{0,40})[ ]{0,4}:(?=\s|\Z)", re.MULTILINE)
_FIRST_KEY: Final = re.compile(rb"\s*\[\s*\{\s*\"(\w{1,40})\"")
_NEXT_KEY: Final = re.compile(rb"\"(\w{1,40})\"\s{0,20}:")
_FUNCTION: Final = re.compile(rb"^ {0,4}(?:" + "|".join(FUNCTIONS).encode() + rb"):", re.MULTILINE)
_FRONT: Final = (b"---\n", b"---\r\n")
_WORD: Final = re.compile(r"[^\s,;|\"']{1,2048}")
_COLUMNS: Final = frozenset(
    {
        "indicator", "indicators", "ioc", "iocs", "ioc_value", "value", "observable", "md5", "sha1",
        "sha256", "sha256_hash", "md5_hash", "sha1_hash", "hash", "domain", "url", "ip", "ipv4",
        "ipv6", "ip_address", "address", "dst_ip", "filename", "file_name", "cidr", "network",
    }
)  # fmt: skip


class _Shape(msgspec.Struct):
    """The keys of a JSON object that tell what it is; values are not read."""

    type: msgspec.Raw = msgspec.Raw()
    objects: msgspec.Raw = msgspec.Raw()
    dataType: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the format's name
    cveMetadata: msgspec.Raw = msgspec.Raw()  # noqa: N815
    vulnerabilities: msgspec.Raw = msgspec.Raw()
    Event: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    info: msgspec.Raw = msgspec.Raw()
    Attribute: msgspec.Raw = msgspec.Raw()
    Object: msgspec.Raw = msgspec.Raw()


class Look:
    """A file as far as a recogniser needs it. `raw` is UTF-8 without a byte order mark where the
    file is text, whatever its own form of Unicode was."""

    def __init__(self, name: str, raw: bytes) -> None:
        self.name = name
        self.raw = _settle_encoding(raw)
        self.suffix = PurePosixPath(name).suffix.lower()

    @cached_property
    def first(self) -> bytes:
        """The first byte that is no white space."""
        return self.raw[:_HEAD].lstrip()[:1]

    @cached_property
    def is_text(self) -> bool:
        """Whether it can be text at all."""
        return b"\0" not in self.raw[:_HEAD] and bool(self.first)

    @cached_property
    def json_error(self) -> str:
        """Why a file that begins as a JSON object is none; "" when it is one or does not."""
        return self._json[1]

    @cached_property
    def json_keys(self) -> frozenset[str]:
        """Which telling keys the JSON object has; those of the first element for a list."""
        return self._json[0]

    @cached_property
    def _json(self) -> tuple[frozenset[str], str]:
        if not self.is_text or self.first not in (b"{", b"["):
            return frozenset(), ""
        if self.first == b"[":
            head = self.raw[:_HEAD]
            if _FIRST_KEY.match(head):
                return frozenset(key.decode() for key in _NEXT_KEY.findall(head)), ""
            return frozenset(), ""
        try:
            shape = msgspec.json.decode(self.raw, type=_Shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = str(error) if isinstance(error, msgspec.DecodeError) else "nested too deep"
            return frozenset(), reason
        keys = {key for key in _Shape.__struct_fields__ if bytes(getattr(shape, key))}
        if bytes(shape.type) == b'"bundle"':
            keys.add("bundle")
        return frozenset(keys), ""

    @cached_property
    def top_keys(self) -> frozenset[str]:
        """Keys at the start of a line, as YAML's outermost are."""
        if not self.is_text:
            return frozenset()
        return frozenset(key.decode() for key in _TOP.findall(self.raw[:_LOOK]))

    @cached_property
    def list_keys(self) -> frozenset[str]:
        """Keys of a YAML list of mappings."""
        if not self.is_text or not re.search(rb"^- ", self.raw[:_HEAD], re.MULTILINE):
            return frozenset()
        return frozenset(key.decode() for key in _KEY.findall(self.raw[:_LOOK]))

    @cached_property
    def lines(self) -> list[str]:
        """The first lines that are neither empty nor comments."""
        text = self.raw[: 64 << 10].decode("utf-8", "replace") if self.is_text else ""
        lines = (line.strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith(("#", "//"))][:_LINES]


def _settle_encoding(raw: bytes) -> bytes:
    """Text as PowerShell writes it is UTF-16 with a mark; no reader need know."""
    if raw.startswith(b"\xef\xbb\xbf"):
        return raw[3:]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16").encode("utf-8")
        except UnicodeError:
            return raw
    return raw


def is_stix(look: Look) -> bool:
    """A JSON object of type "bundle", or one with a list of objects (TAXII 2.1, section 3.7)."""
    return bool(look.json_keys & {"bundle", "objects"}) and look.first == b"{"


def is_kev_json(look: Look) -> bool:
    """A JSON object with a list of vulnerabilities."""
    return look.first == b"{" and "vulnerabilities" in look.json_keys


def is_kev_csv(look: Look) -> bool:
    """A table whose first line has the columns cveID and vendorProject."""
    head = look.lines[0].lower() if look.lines else ""
    return "cveid" in head and "vendorproject" in head


def is_cve(look: Look) -> bool:
    """A CVE record of JSON 5, or a list of them."""
    return "cveMetadata" in look.json_keys


def is_misp(look: Look) -> bool:
    """A MISP event, a list of them, or the answer of a MISP server."""
    keys = look.json_keys
    is_bare = "info" in keys and bool(keys & {"Attribute", "Object"})
    return is_bare or bool(keys & {"Event", "response"})


def is_atomic(look: Look) -> bool:
    """YAML with the keys attack_technique and atomic_tests."""
    return {"attack_technique", "atomic_tests"} <= look.top_keys


def is_lolbas(look: Look) -> bool:
    """YAML with the keys Name and Commands."""
    return {"Name", "Commands"} <= look.top_keys


def is_sigma(look: Look) -> bool:
    """YAML with a title and a detection, a correlation or a filter."""
    keys = look.top_keys
    return "title" in keys and bool(keys & {"detection", "correlation", "filter"})


def is_stockpile(look: Look) -> bool:
    """A YAML list of mappings with an id, and a technique or technique_id."""
    keys = look.list_keys
    return {"id", "name"} <= keys and bool(keys & {"technique_id", "technique"})


def is_gtfobins(look: Look) -> bool:
    """Front matter with a known function of GTFOBins, or with an alias and nothing else."""
    if not look.raw.startswith(_FRONT):
        return False
    keys = look.top_keys
    if "functions" in keys:
        return _FUNCTION.search(look.raw[:_LOOK]) is not None
    return "alias" in keys and keys <= {"alias", "comment"}


def is_markdown(look: Look) -> bool:
    """A text file that is called .md or .markdown."""
    return look.is_text and look.suffix in (".md", ".markdown")


def is_indicators(look: Look) -> bool:
    """A table or list most of whose first lines hold a hash, address, network, domain or URL, or
    whose first line names such columns; not what a program's suffix says it is otherwise."""
    if not look.lines or look.suffix not in ("", ".csv", ".tsv", ".txt", ".ioc", ".lst", ".list"):
        return False
    head = {word.lower() for word in _WORD.findall(look.lines[0][:4096])}
    if look.suffix in (".csv", ".tsv") and head & _COLUMNS:
        return True
    telling = sum(_holds_indicator(line) for line in look.lines)
    return telling * 2 > len(look.lines)


def _holds_indicator(line: str) -> bool:
    """Prose has domains in it, too: so a line counts whose words are few, or whose fields are."""
    words = _WORD.findall(line[:4096])
    if "," not in line and "\t" not in line and ";" not in line and len(words) > 3:
        return False
    return any(_is_indicator(word) for word in words[:64])


def _is_indicator(word: str) -> bool:
    try:
        kind, _ = guess_kind(refang(word))
    except ValueError:
        return False
    return kind != "file"
