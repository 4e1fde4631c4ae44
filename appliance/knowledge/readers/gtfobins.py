"""Knowledge, reading: GTFOBins, programs of Unix that attackers borrow.

Format: a file per program, named as it is, of YAML front matter with `functions` (what the program
can be made to do, with examples and the contexts in which they work) or `alias`, as in
https://github.com/GTFOBins/GTFOBins.github.io, folder _gtfobins. The files name no techniques; the
table here does, and leaves out what no technique is.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from appliance.errors import ModelError
from appliance.knowledge.entries import Item, KnowledgeEntry, Link
from appliance.knowledge.readers.cleaning import clean_prose, clean_title
from appliance.knowledge.readers.documents import (
    BrokenDocument,
    Node,
    decode_text,
    read_front_matter,
    take_list,
    take_text,
)

GTFOBINS_SOURCE: Final = "GTFOBins"
GTFOBINS_LICENCE: Final = "GPL-3.0"

#: What each function is in ATT&CK; "" where it is no technique by itself. The longer names are
#: those of the format's first years, where the contexts were functions of their own.
FUNCTIONS: Final = {
    "shell": "T1059.004",
    "command": "T1059.004",
    "reverse-shell": "T1059.004",
    "non-interactive-reverse-shell": "T1059.004",
    "bind-shell": "T1059.004",
    "non-interactive-bind-shell": "T1059.004",
    "file-read": "T1005",
    "file-write": "",
    "file-upload": "T1048",
    "upload": "T1048",
    "file-download": "T1105",
    "download": "T1105",
    "library-load": "T1129",
    "privilege-escalation": "T1548",
    "inherit": "",
    "sudo": "T1548.003",
    "suid": "T1548.001",
    "limited-suid": "T1548.001",
    "capabilities": "T1548",
}
#: Techniques of the contexts in which a function works with more rights than its caller has.
CONTEXTS: Final = {"sudo": "T1548.003", "suid": "T1548.001", "capabilities": "T1548"}

#: Characters of an example that a text shows.
MAX_EXAMPLE: Final = 400

_NAME: Final = re.compile(r"[^/\\]+\Z")


def read_gtfobins(raw: bytes, name: str) -> Iterator[Item]:
    """One entry `gtfobins:<file's name>`, links "abuses" to the techniques of its functions and
    contexts with an example each, and "inherits" to the program that it stands for or runs. Raises
    ModelError for anything else."""
    front, _ = read_front_matter(_close_front(decode_text(raw, name)))
    if front is None or isinstance(front, BrokenDocument):
        raise ModelError(f"{name}: {front.reason if front else 'no front matter'}")
    found = _NAME.search(name)
    title = clean_title((found[0] if found else name).removesuffix(".md"))
    content = front.content
    alias = clean_title(take_text(content, "alias"))
    functions = content.get("functions") if isinstance(content, dict) else None
    if not title or not (alias or (isinstance(functions, dict) and functions)):
        raise ModelError(f"{name}: front matter without functions and without an alias")
    examples = _list_examples(functions) if isinstance(functions, dict) else []
    yield from _make_items(title, content, alias, examples)


def _close_front(text: str) -> str:
    """The format's own files end with `...`; one that ends without is whole all the same."""
    return text if "\n..." in text or "\n---" in text[3:] else f"{text}\n...\n"


def _list_examples(functions: dict[str, Node]) -> list[tuple[str, Node]]:
    """Function and example, in the file's order."""
    return [
        (function, example)
        for function in functions
        for example in take_list(functions, function) or [None]
    ]


def _make_items(
    title: str, content: Node, alias: str, examples: list[tuple[str, Node]]
) -> Iterator[Item]:
    entry_id = f"gtfobins:{title.lower()}"
    uses: defaultdict[str, dict[str, None]] = defaultdict(dict)
    heirs: dict[str, None] = {alias: None} if alias else {}
    lines = [take_text(content, "description"), take_text(content, "comment")]
    if alias:
        lines.append(f"{title} is another name of {alias}, or does what {alias} does.")
    for function, example in examples:
        told = _describe_example(function, example)
        lines.append(told)
        if technique := FUNCTIONS.get(function):
            uses[technique][told] = None
        for context in _list_contexts(example):
            if technique := CONTEXTS.get(context):
                uses[technique][f"{function} works with {context}."] = None
        if taken := clean_title(take_text(example, "from")):
            heirs[taken] = None
    yield KnowledgeEntry(
        id=entry_id,
        external_id=title,
        type="binary",
        title=title,
        text=clean_prose("\n".join(lines)),
        source=GTFOBINS_SOURCE,
        version="",
        licence=GTFOBINS_LICENCE,
        platforms=("Linux",),
        url=f"https://gtfobins.github.io/gtfobins/{title}/" if title.isascii() else "",
    )
    for technique, told_of in uses.items():
        yield Link(entry_id, "abuses", technique, GTFOBINS_SOURCE, clean_prose("\n".join(told_of)))
    for other in heirs:
        yield Link(entry_id, "inherits", f"gtfobins:{other.lower()}", GTFOBINS_SOURCE)


def _list_contexts(example: Node) -> list[str]:
    contexts = example.get("contexts") if isinstance(example, dict) else None
    return list(contexts) if isinstance(contexts, dict) else []


def _describe_example(function: str, example: Node) -> str:
    """ "file-read (sudo, suid): what to know of it. the command" in one line."""
    where = ", ".join(_list_contexts(example))
    taken = take_text(example, "from")
    words = [f"{function} ({where}):" if where else f"{function}:"]
    if taken:
        words.append(f"as {taken} does.")
    words += [
        take_text(example, "comment") or take_text(example, "description"),
        take_text(example, "code")[:MAX_EXAMPLE],
    ]
    return " ".join(" ".join(words).split())
