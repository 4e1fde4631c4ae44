"""Takes the words out that only laboratories write: with them in a text, the place would be the
label. Runs over raw fields, before they are masked as the product masks them."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

#: Words of test frameworks and of the laboratories in which the captures were made, with what
#: stands for them. Longer ones first.
_PLACE: Final = r"C:\\Users\\Public\\"
_WORDS: Final[tuple[tuple[str, str], ...]] = (
    (r"[a-z]:\\atomicredteam\\atomics\\t\d{4}(?:\.\d{3})?\\(?:bin|src)\\", _PLACE),
    (r"[a-z]:\\atomicredteam\\(?:atomics\\)?(?:t\d{4}(?:\.\d{3})?\\)?", _PLACE),
    (r"pathtoatomicsfolder[\\/](?:t\d{4}(?:\.\d{3})?[\\/])?(?:(?:bin|src)[\\/])?", _PLACE),
    (r"\$pathtoatomicsfolder[\\/](?:t\d{4}(?:\.\d{3})?[\\/])?(?:(?:bin|src)[\\/])?", "/tmp/"),
    (r"pathtoatomicsfolder", r"C:\\Users\\Public"),
    (
        r"[a-z]:\\(?:users\\[^\\\s\"']{1,32}\\(?:desktop|downloads|documents)\\)?"
        r"(?:eqllib\\)?rta(?:-master)?\\(?:red_ttp\\|bin\\)?",
        _PLACE,
    ),
    (r"[a-z]:\\eventlogs-?(?:[a-z]+)?\\", _PLACE),
    (
        r"https?://(?:raw\.)?github(?:usercontent)?\.com/(?:redcanaryco|atomic-red-team)"
        r"[^\s\"')]{0,200}",
        "https://site.example/file",
    ),
    (r"invoke-atomic(?:test|redteam)?", "invoke-run"),
    (
        r"atomic[ _-]?red[ _-]?team|redcanary(?:co)?|red[ _-]?canary|atomic[ _-]?test|"
        r"(?<![a-z])art-(?=t\d|[a-z]{3})",
        "local",
    ),
    (
        r"(?:purple|blue)sharp|attack[ _-]?range|detection[ _-]?lab|splunk-ansible|caldera|sandcat|"
        r"mordor(?:dataset)?|theshire|shire|stockpile",
        "corp",
    ),
    (r"(?<![a-z0-9])t1\d{3}(?:[._]\d{3})?(?=[^0-9a-z]|_|$)", "file"),
    (r"(?<![a-z])atomic[a-z]{0,12}", "local"),
    (r"(?<![a-z])(?:atomic|art)(?=service|marker|user|test|file)|artmarker", "local"),
    (
        r"(?<![a-z0-9])(?:workstation\d|mordordc|hr001|it001|acct001|exec001|file001|azhr\d{3}|"
        r"scranton|nashua|newyork|utica|wec)(?:\.(?:mordor|corp|theshire|dmevals)\.local)?"
        r"(?![a-z0-9])",
        "host1",
    ),
    (
        r"(?:iewin7|ms(?:edge|ie)win10|pc0\d|win-77lth[a-z0-9]+|insecurebank(?:\.local)?|"
        r"offsec(?:\.lan)?|fs03vuln|rootdc\d|jump01|srvdefender01|exchange01\.sec\.lab|"
        r"threebeesco(?:\.com)?|alice\.insecurebank|lab\d+\.local|wecserver|dmevals|"
        r"cyberpartners|rta-desktop)(?![a-z0-9])",
        "host1",
    ),
    (
        r"(?<![a-z])(?:ieuser|vagrant|bouss|a-jbrown|samir|lgrove|pbeesly|nmartha|pgustavo|wardog|"
        r"sbeavers|dschrute|mscott|lrodriguez|mmidge)(?![a-z])",
        "person",
    ),
    (r"eicar|(?<![a-z])redteam(?![a-z])|pentest(?:er)?lab", "word"),
)
_PATTERNS: Final = tuple((re.compile(word, re.IGNORECASE), to) for word, to in _WORDS)
#: A text without one of these has none of the words.
_HINT: Final = re.compile(
    "|".join(f"(?:{word})" for word, _ in _WORDS),
    re.IGNORECASE,
)


@lru_cache(1 << 17)
def has_lab_word(text: str) -> bool:
    """True when a short text (an event's, masked or not) has a word that `scrub_text` takes out."""
    return _HINT.search(text) is not None


def scrub_text(text: str) -> str:
    """The text without the laboratories' words. Takes any text; the work is linear in it."""
    text = text[:20_000]
    if _HINT.search(text) is None:
        return text
    for pattern, to in _PATTERNS:
        text = pattern.sub(to, text)
    return text


def scrub_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, each text scrubbed."""
    return {name: scrub_text(v) if isinstance(v, str) else v for name, v in fields.items()}
