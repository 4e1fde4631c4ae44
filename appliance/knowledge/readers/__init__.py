"""Knowledge, reading: from a file or folder that an operator gives to what the base takes in.

Where `appliance kb import` begins. Each format has a reader; READERS is the list of them, asked in
this order, the surest first. What a file is, is told from its bytes, so a stick may be in any
disorder. Nothing here writes, and nothing that a file holds may end the import of the others.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from appliance.errors import ModelError
from appliance.knowledge.entries import Dropped, Item
from appliance.knowledge.readers import recognise
from appliance.knowledge.readers.archives import SourceFile
from appliance.knowledge.readers.atomic import read_atomic, read_stockpile
from appliance.knowledge.readers.cleaning import clean_title
from appliance.knowledge.readers.cve import read_cve
from appliance.knowledge.readers.documents import BrokenDocument, read_documents
from appliance.knowledge.readers.files import Tree, open_tree, walk_files
from appliance.knowledge.readers.gtfobins import read_gtfobins
from appliance.knowledge.readers.indicators import read_indicator_csv
from appliance.knowledge.readers.kev import read_kev_csv, read_kev_json
from appliance.knowledge.readers.lolbas import read_lolbas
from appliance.knowledge.readers.markdown import NOTES_SOURCE, read_markdown
from appliance.knowledge.readers.misp import read_misp
from appliance.knowledge.readers.recognise import Look
from appliance.knowledge.readers.sigma import name_sigma_source, read_sigma
from appliance.knowledge.readers.stix import read_stix

#: (bytes, name of the file) -> what it holds. Raises ModelError for what is no such file.
Read = Callable[[bytes, str], Iterator[Item]]


class Reader(msgspec.Struct, frozen=True):
    """A format: its name, how its files are known (the docstring of `is_of` says it), and its
    reader."""

    name: str
    is_of: Callable[[Look], bool]
    read: Read


#: Every format that can be imported.
READERS: Final[tuple[Reader, ...]] = (
    Reader("STIX 2.1 bundle", recognise.is_stix, read_stix),
    Reader("CISA KEV (JSON)", recognise.is_kev_json, read_kev_json),
    Reader("CVE record (JSON 5)", recognise.is_cve, read_cve),
    Reader("MISP event", recognise.is_misp, read_misp),
    Reader("Atomic Red Team", recognise.is_atomic, read_atomic),
    Reader("LOLBAS", recognise.is_lolbas, read_lolbas),
    Reader("Sigma", recognise.is_sigma, read_sigma),
    Reader("Caldera abilities", recognise.is_stockpile, read_stockpile),
    Reader("GTFOBins", recognise.is_gtfobins, read_gtfobins),
    Reader("Markdown notes", recognise.is_markdown, read_markdown),
    Reader("CISA KEV (CSV)", recognise.is_kev_csv, read_kev_csv),
    Reader("indicators (CSV or text)", recognise.is_indicators, read_indicator_csv),
)


def read_path(path: Path) -> Iterator[tuple[str, Item]]:
    """(name of the file, what it holds) for every file at the path, in the order of the names. The
    names are relative to a folder, "archive/member" in an archive, the file's own for a single
    file. A file that no reader knows, or that its reader refuses, gives one Dropped. Raises
    ModelError when the path cannot be read, or is a single file or archive that is refused as a
    whole, or a folder over the bounds of `files`."""
    tree = open_tree(path)
    for found in walk_files(tree):
        if isinstance(found, Dropped):
            yield found.where, found
            continue
        try:
            for item in read_file(found, tree):
                yield found.name, item
        except ModelError as error:
            if tree.is_file:
                raise
            yield found.name, Dropped(found.name, _cut_name(error, found.name))


def read_file(file: SourceFile, tree: Tree | None = None) -> Iterator[Item]:
    """What one file holds; `tree` tells where it was found, for the names of sources that do not
    name themselves. Raises ModelError when no reader knows it, or its reader refuses it."""
    look = Look(file.name, file.raw)
    for reader in READERS:
        if reader.is_of(look):
            yield from _name_source(reader.read, file, tree)(look.raw, file.name)
            return
    raise ModelError(f"{file.name}: {_tell_unknown(look)}")


def _name_source(read: Read, file: SourceFile, tree: Tree | None) -> Read:
    """The reader with the source that the place of the file tells, where the file does not."""
    if tree is None or read not in (read_sigma, read_markdown):
        return read
    if read is read_sigma:
        source = name_sigma_source((*tree.folders, *file.name.split("/")[:-1]), tree.label)
        return lambda raw, name: read_sigma(raw, name, source)
    source = clean_title(f"{NOTES_SOURCE}: {tree.label}")
    return lambda raw, name: read_markdown(raw, name, source)


def _cut_name(error: ModelError, name: str) -> str:
    return str(error).removeprefix(f"{name}: ")


def _tell_unknown(look: Look) -> str:
    """Why no reader knows the file, as near as its bytes tell."""
    if not look.raw.strip():
        return "empty"
    if not look.is_text:
        return "not text"
    if look.json_error:
        return clean_title(f"not valid JSON: {look.json_error}")
    if look.suffix in (".yml", ".yaml"):
        for document in read_documents(look.raw, look.name):
            if isinstance(document, BrokenDocument):
                return f"line {document.line}: {document.reason}"
    return "none of the formats that can be imported"
