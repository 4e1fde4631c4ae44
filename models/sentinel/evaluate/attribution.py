"""Stage `evaluate`, attribution: which technique a file or capture of attacks is said to be.

Truth is the capture's metadata, or what the file's name says: an ATT&CK id, or words that NAMED
reads (a tool or trick whose technique is common knowledge; made from the names alone, before any
guess was seen). It is never a rule's tag or a field in which a laboratory names it. The
guess is over the flagged texts together: the shares of techniques (softmax of the head), weighted
by each text's score, summed into parent techniques.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from appliance.detect.sentinel.heads import Heads
from models.sentinel.evaluate.figures import Share, share
from models.sentinel.evaluate.files import Limit
from models.sentinel.evaluate.reading import ReadFile
from models.sentinel.evaluate.scoring import squash
from models.sentinel.rows import find_techniques, is_unseen

#: Words in files' names -> the parent techniques that they may stand for.
NAMED: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (r"uacme|uac_?bypass|byeintegrity", ("T1548",)),
    (r"rundll32|regsvr32|mshta|_cpl_|cmstp|compiledhtml|msipackage|rogue_msi", ("T1218",)),
    (r"xsl(?![a-z])", ("T1220",)),
    (r"pcalua|zipexec|wuauclt|lolbas|lolbin", ("T1202", "T1218")),
    (r"psexec|remcom|remote_service0", ("T1569", "T1021", "T1543")),
    (r"wmi|commandlineeventconsumer", ("T1047", "T1546")),
    (r"sched(?:uled)?_?task|schtask|remote.task|atsvc", ("T1053",)),
    (r"sharp_?rdp|rdp_settings|tsclient|dcom|winrm", ("T1021",)),
    (r"powershell_?remoting|remotepowershell", ("T1021",)),
    (r"rdp_tunnel|rdp-tun|portforward|tunneling", ("T1572", "T1090")),
    (r"log_cleared|timestomp|mru_deletekey", ("T1070",)),
    (r"eventlog|psscriptblocklogging_disabled|uac_disabled|clm_disabled", ("T1562", "T1112")),
    (r"vba_security|execpolicy_changed", ("T1562", "T1112")),
    (r"attrib|hidden_local_account|hidden_run_key", ("T1564", "T1547")),
    (r"run_?key|startup|shell_folder", ("T1547",)),
    (r"winlogon", ("T1547",)),
    (r"bits", ("T1197",)),
    (r"dll_?hijack|sideloading|dll hijack|unquoted", ("T1574",)),
    (r"webshell|iis_web|xp_?cmdshell", ("T1505", "T1059")),
    (r"mimikatz|lsass|memdump|hashdump|dumper|ppldump|minidump|ntdsutil|sam_", ("T1003",)),
    (r"dcsync|dcshadow", ("T1003", "T1207")),
    (r"codeinj|hollowing|injection|migrate_to|psinject|doppelganging|herpaderping", ("T1055",)),
    (r"ppid_spoofing|potato|imperson|tokendup|token_manip|getsystem|runas|sidhistory", ("T1134",)),
    (r"chrome|firefox_opera|keepass|keefarce|credump", ("T1555",)),
    (r"spray", ("T1110",)),
    (r"net_group|local_users?_or_group|enumeration|userhunter", ("T1069", "T1087", "T1033")),
    (r"bloodhound", ("T1087", "T1069", "T1018", "T1482")),
    (r"enum_shares", ("T1135",)),
    (r"psloggedon", ("T1033",)),
    (r"process_listing", ("T1057",)),
    (r"accessibility|silentprocessexit|shime|comhijack", ("T1546",)),
    (r"local_account_creation", ("T1136",)),
    (r"desktopimgdownldr|file_?copy|_ftp", ("T1105", "T1570")),
    (r"jscript|vbs|emotet_ps|powershell_|powercat", ("T1059",)),
    (r"keylogger", ("T1056",)),
    (r"remote_?registry", ("T1112",)),
)
_NAMED: Final = tuple((re.compile(words), parents) for words, parents in NAMED)
#: Guesses that are looked at.
FIRST: Final = 5

Vectors = NDArray[np.float32]


class Guessed(msgspec.Struct, frozen=True):
    """One set of files: how many have a technique in their name or metadata, on how many of them
    something was flagged, and of *all* of them how often the right parent was the first guess and
    among five."""

    source: str
    techniques: str
    files: int
    flagged: int
    first: Share
    among_five: Share


class Guesser:
    """Guesses parent techniques from texts as the product does. `beside`: logits of n-grams."""

    def __init__(self, heads: Heads, beside: Callable[[str], NDArray[np.float64]] | None) -> None:
        self._heads, self._beside = heads, beside
        parents = {name: name.partition(".")[0] for name in heads.about.techniques}
        self.parents = sorted(set(parents.values()))
        self._member = {name: self.parents.index(parent) for name, parent in parents.items()}

    def rank(
        self, texts: Sequence[str], vectors: Vectors, logits: NDArray[np.float64]
    ) -> list[str]:
        """Parents, the likeliest first. Shapes (texts, dims) and (texts,)."""
        sums = np.zeros(len(self.parents))
        for text, vector, score in zip(texts, vectors, squash(logits), strict=True):
            beside = None if self._beside is None else self._beside(text)
            for name, chance in self._heads.guess_techniques(vector, beside):
                sums[self._member[name]] += chance * score
        return [self.parents[at] for at in np.argsort(-sums, kind="stable")]


def measure_attribution(
    source: str,
    files: Sequence[tuple[set[str], list[str]]],
    guesser: Guesser,
    *,
    weigh: Callable[[Sequence[str]], NDArray[np.float64]],
    get_vectors: Callable[[Sequence[str]], Vectors],
    limit: Limit,
) -> list[Guessed]:
    """Over files as (true parents, texts): all, those with a parent that training saw, the rest.
    A text is flagged over `limit`; a file without one is guessed wrong."""
    rows: list[tuple[bool, bool, int | None]] = []
    for truth, texts in files:
        logits = weigh(texts)
        # A text begins with its kind.
        kinds = [text.partition(" ")[0] for text in texts]
        over = logits > np.array([limit.kinds.get(kind, limit.logit) for kind in kinds])
        place: int | None = None
        if over.any():
            chosen = [text for text, hit in zip(texts, over, strict=True) if hit]
            ranked = guesser.rank(chosen, get_vectors(chosen), logits[over])
            place = min((ranked.index(name) for name in truth if name in ranked), default=None)
        rows.append((is_unseen(truth), bool(over.any()), place))
    found = []
    for name, keep in (("all", (False, True)), ("seen", (False,)), ("unseen", (True,))):
        mine = [row for row in rows if row[0] in keep]
        if not mine:
            continue
        places = [FIRST if place is None else place for *_, place in mine]
        found.append(
            Guessed(
                source,
                name,
                len(mine),
                sum(flagged for _, flagged, _ in mine),
                share(sum(place == 0 for place in places), len(mine)),
                share(sum(place < FIRST for place in places), len(mine)),
            )
        )
    return found


def list_named_files(files: Sequence[ReadFile]) -> list[tuple[set[str], list[str]]]:
    """(parents that the file's name tells, its texts) of the files that name one."""
    found = []
    for file in files:
        parents = read_name(file.name)
        if parents and file.events:
            found.append((parents, list_texts(file)))
    return found


def read_name(path: str) -> set[str]:
    """The parent techniques that a file's name stands for; none for most words."""
    name = path.rpartition("/")[2].lower()
    found = {technique.partition(".")[0] for technique in find_techniques(name.replace("_", " "))}
    for words, parents in _NAMED:
        if words.search(name):
            found.update(parents)
    return found


def list_texts(file: ReadFile) -> list[str]:
    """The file's distinct texts."""
    return list(dict.fromkeys(text for event in file.events for _, text in event.texts))


def list_described_captures(
    captures: Sequence[ReadFile], data: Path
) -> list[tuple[set[str], list[str]]]:
    """(parents that the metadata tells, its texts) of the test's captures."""
    known = read_mappings(data / "windows" / "security-datasets" / "_metadata")
    return [
        (known[capture.name], list_texts(capture))
        for capture in captures
        if capture.split == "test" and known.get(capture.name) and capture.events
    ]


def read_mappings(folder: Path) -> dict[str, set[str]]:
    """Parent techniques of each capture, by the name of its archive. Raises OSError,
    yaml.YAMLError."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        document: dict[str, Any] = yaml.safe_load(
            path.read_text(encoding="utf-8", errors="replace")
        )
        parents = {
            str(row["technique"]).partition(".")[0] for row in document.get("attack_mappings") or ()
        }
        for file in document.get("files") or ():
            stem = Path(str(file.get("link", ""))).name.split(".")[0]
            found.setdefault(stem, set()).update(parents)
    return found
