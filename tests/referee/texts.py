"""Texts that rules and events are made up of: what is likely to be read in two ways."""

from random import Random
from typing import Final

#: Words with cases, look-alikes, control characters and encodings that a matcher may get wrong.
PIECES: Final = (
    "x", "X", "kelvin", "\u212aelvin", "KELVIN", "\u017f", "S", "s", "\u0130", "i\u0307",
    "\u0131", "stra\xdfe", "STRASSE", "STRA\u1e9eE", "\xdf", "ab", "AB", ".exe", ".EXE", "c:",
    "\x01", "\x02", "\x00", "\n", "\x0b", "\t", "\r", "\x1f", "\ud800", "\udfff\ud800", "\ufffd",
    "?", "*", "\\", '"', 'a"b', "c\\d", "aXXbYc", " -a", " /a", " \u2013a", "4688", "1", "1.5",
    "true", "10.1.2.3", "Zm9v", "cABpAG4AZwA", "2024-01-01T00:05:00Z", "", "15",
)  # fmt: skip
#: What rules ask for: pieces that a rule's file can hold, and the words of real rules.
WORDS: Final = (
    *(piece for piece in PIECES if piece and not any("\ud800" <= c <= "\udfff" for c in piece)),
    "cmd.exe", "\\powershell.exe", "C:\\Windows\\System32\\", "powershell -enc ", " /c ", " -nop ",
    "HKLM\\Software\\", "rundll32", "/bin/sh", "wget http://", "../../etc/passwd", "${jndi:",
    "' or 1=1", "<script>", "NT AUTHORITY\\SYSTEM", "S-1-5-18", "admin", "root", "%00", "\\\\",
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u041c\u043e\u0441\u043a\u0432\u0430",
    "\u6f22\u5b57", "\U0001f600", "\xe9", "e\u0301", "\xb5", "\u01c5", "\ufb01n", "\u0149",
    "\u2028", "\x85", "\xa0", "\xad", "\u200b", "\ufeff", "{a}", "[b]", "(c)", "$", "^", "|",
    "a b", "e", "-1", "0", "0x1f", "1e3", "false", "null", "None", "\u1e9e", "\u212b", "\u2126",
)  # fmt: skip
#: A character and one that looks like it, or folds to it.
LOOK_ALIKES: Final = {
    "k": "\u212a", "s": "\u017f", "i": "\u0130", "I": "\u0131", "\xdf": "\u1e9e", "e": "\u0435",
    "a": "\u0430", "o": "\uff4f", "c": "\u0441", "\u03c3": "\u03c2", "\u03c2": "\u03a3",
    "\xe5": "\u212b", "\xb5": "\u03bc", "-": "\u2013", "/": "\u2215", "\\": "\uff3c", ".": "\u2024",
    " ": "\xa0", "1": "\u0661",
}  # fmt: skip
#: Put before, behind or into a value.
ODD: Final = (
    *(chr(code) for code in range(0x20)),
    "\x7f", "\x85", "\xa0", "\u2028", "\u200b", "\ud800", "\udfff", "\ud83d", "\ufffd", "\ufeff",
    "\xe9", "\u0301", "\u0307", "\U0001f600", "\u0130", "\xdf", "\U0010ffff", "?", "*", "\\", '"',
)  # fmt: skip
#: The first of the index's tags begin with these.
_TAG_DIGITS: Final = "\x01\x02\x03\x04\x05\x06\x07\x08\x0e"


def forge_tag(random: Random) -> str:
    """What the index may write before and behind a field's value."""
    return "".join(random.choice(_TAG_DIGITS) for _ in range(random.choice((1, 1, 2, 2, 3))))


def change_case(text: str, random: Random) -> str:
    """The text in another case, in one of the ways in which there are cases."""
    way = random.randrange(5)
    if way == 0:
        return text.upper()
    if way == 1:
        return text.lower()
    if way == 2:
        return text.swapcase()
    if way == 3:
        return text.title()
    return "".join(random.choice((c.upper(), c.lower())) for c in text)


def change_text(text: str, random: Random) -> str:
    """The text after one attack on the matcher; now and then one that changes nothing."""
    at = random.randint(0, len(text))
    match random.randrange(14):
        case 0 | 1:
            return change_case(text, random)
        case 2:
            return random.choice((*PIECES, *WORDS)) + text
        case 3:
            return text + random.choice((*PIECES, *WORDS))
        case 4:
            return "".join(LOOK_ALIKES.get(c, c) if random.random() < 0.6 else c for c in text)
        case 5:
            return text[:at] if random.random() < 0.5 else text[at:]
        case 6:
            return text[: max(0, at - 1)] + text[at:]
        case 7:
            return text[:at] + random.choice(ODD) + text[at:]
        case 8:
            odd = random.choice(ODD)
            return random.choice((odd + text, text + odd, odd + text + odd))
        case 9:
            return f"{forge_tag(random)}\n{text}\n{forge_tag(random)}"
        case 10:
            tag = forge_tag(random)
            return random.choice((f"{tag}\n{text}", f"{text}\n{tag}", f"x\n{tag}{tag}\n{text}"))
        case 11:
            filler = random.choice(("x", "\xdf", "\x01", "\ud800", "A ", text or "y"))
            size = random.choice((60, 64, 65, 300, 300, 1100, 5000))
            return random.choice((filler * size + text, text + filler * size))
        case 12:
            return random.choice((text * 2, f"{text}\n{text}", text[::-1], f" {text} "))
        case _:
            return text.replace(text[at : at + 1], random.choice(ODD)) if text[at:] else text
