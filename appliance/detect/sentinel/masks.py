"""What a text of an event is reduced to before the model sees it (detect stage, below `texts`).

Two things are taken out: what differs from site to site and says nothing of intent (names, ids,
addresses, times), and what a writer can change at will without changing what is done (case,
carets, quotes inside words, blanks). Each becomes one word of WORDS, so that the same act gives the
same text everywhere, is scored once, and cannot be told by its place.

Every expression is linear: no nested repeats, and texts are cut to MAX_INPUT first.
"""

import base64
import binascii
import re
import unicodedata
from typing import Final

#: Longest text that is looked at, in characters; the rest is cut before anything else is done.
MAX_INPUT: Final = 16_384
#: Longest text that the model gets, in characters.
MAX_TEXT: Final = 512
#: Times that one text's base64 is decoded, and the longest that is.
_MAX_DECODED: Final = 2
_MAX_BASE64: Final = 65_536
#: The words that stand for what was taken out.
WORDS: Final = (
    "xxip", "xxlan", "xxguid", "xxsid", "xxhex", "xxnum", "xxb64", "xxuser", "xxhost", "xxsite",
    "xxtime", "xxsys", "xxodd", "xxmail",
)  # fmt: skip

#: Letters that look like ASCII ones and are not: Cyrillic and Greek; full-width forms go by NFKC.
_LOOKALIKES: Final = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u0442\u043a\u043c\u043d\u0432"
    "\u03b1\u03bf\u03c1\u03bd\u03b9\u03ba\u03c4\u03c5\u2013\u2014\u2015\u2212\u2018\u2019\u201c\u201d",
    "aeopcyxisjtkmhb" "aopvikty" "----" "''\"\"",
)  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")
#: Escapes inside a word: the caret of cmd, the backtick of PowerShell, an empty pair of quotes.
_SPLIT: Final = re.compile(r"(?<=\w)(?:[\^`]|\"\"|'')(?=\w)|\^(?=[\w&|<>\"])")
_JOINED: Final = re.compile(r"(?<=[\w)])['\"]\s?\+\s?['\"](?=\w)")
_GUID: Final = re.compile(r"\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?")
_SID: Final = re.compile(r"s-1-5-(?:21|80|12|99|111)(?:-\d{1,10}){2,8}")
_MAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,5}")
_URL: Final = re.compile(
    r"(?P<scheme>https?|ftp|ldaps?|wss?)://(?:[^\s/@\"'<>]{1,64}@)?(?P<host>[^\s/:\"'<>)?\]]{1,255})"
)
_LAN: Final = re.compile(
    r"(?<![\w.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\w.]\d)"
)
_IP: Final = re.compile(r"(?<![\w.])(?!127\.0\.0\.1|0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d)")
_IP6: Final = re.compile(r"(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}(?::?[0-9a-f]{1,4}){1,4}(?![\w:])")
_TIME: Final = re.compile(
    r"(?<![\d.])\d{4}[-/.]\d{2}[-/.]\d{2}(?:[t ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?z?)?(?![\d.])"
    r"|(?<![\w.])\d{1,2}[/.]\d{1,2}[/.]\d{4}(?![\d.])|(?<!\d)\d{1,2}:\d{2}:\d{2}(?!\d)"
)
_SHARE: Final = re.compile(r"(?<![\\\w:])\\\\(?![.?]\\)[\w.$-]{1,64}\\")
_NAME: Final = r"[^\\\s\"'<>|:*?/]{1,32}"
_WINDOWS_USER: Final = re.compile(
    r"\\(?:users|documents and settings|profiles)\\(?!public\\|default\\|all users\\)"
    rf"(?:{_NAME} {_NAME}(?=\\)|{_NAME})"
)
_LINUX_USER: Final = re.compile(r"(?<![\w.])/(?:home|users)/[\w.-]{1,64}")
_SYSTEM: Final = re.compile(
    r"(?:[a-z]:\\windows|%systemroot%|%windir%|\\systemroot|[a-z]:\\winnt)\\(?:system32|sysnative|syswow64)\\"
)
_HEX: Final = re.compile(r"(?<![\w])(?:0x)?(?=[0-9a-f]*\d)[0-9a-f]{12,}(?![\w])")
#: Zeros in front of a number, as registry values have them.
_ZEROS: Final = re.compile(r"0x0+(?=[0-9a-f])")
#: What the expressions for numbers need at least, and what base64 does.
_DIGITS: Final = re.compile(r"\d{2}|\d[.:/-]\d|0x0|[0-9a-f]{8}")
_LONG: Final = re.compile(r"[\w+/]{32}")
#: Numbers, and hexadecimal ones that are kept: access masks, flags, status codes.
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,8}(?![0-9a-z])|\d{5,}")
#: A run of base64 that holds small and capital letters.
_BASE64: Final = re.compile(
    r"(?<![\w+/])(?=[A-Z0-9+/]*[a-z])(?=[a-z0-9+/]*[A-Z])[A-Za-z0-9+/]{32,}={0,2}"
)
_DIGIT: Final = re.compile(r"\d")
_NOT_TEXT: Final = re.compile(r"[^\t\n\r\x20-\x7e]")
_INTEGRITY: Final = re.compile(r"\xad|[\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
#: So many splits in one text are somebody hiding words.
_ODD: Final = 3


def decode_base64(text: str) -> list[str]:
    """What the base64 in a text says, where that is text: UTF-16LE, as PowerShell's
    -EncodedCommand is, or UTF-8. At most two parts, the first ones."""
    found: list[str] = []
    if _LONG.search(text) is None:
        return found
    for match in _BASE64.finditer(text):
        data = match[0]
        if not _is_base64(data) or len(data) > _MAX_BASE64:
            continue
        try:
            raw = base64.b64decode(data + "=" * (-len(data) % 4))
        except (ValueError, binascii.Error):
            continue
        if (decoded := _read_plain(raw)) is not None:
            found.append(decoded)
            if len(found) == _MAX_DECODED:
                break
    return found


def _is_base64(data: str) -> bool:
    """Not a path, which has more slashes than one character in 64, nor a long name, which has
    neither digits nor the padding's sign nor the many A of UTF-16."""
    if data.count("/") * 16 > len(data):
        return False
    return data[-1] == "=" or data.count("A") * 6 > len(data) or _DIGIT.search(data) is not None


def _read_plain(raw: bytes) -> str | None:
    """The bytes as text; None when they are none."""
    if raw[1:2] == b"\0" and len(raw) % 2 == 0:
        text = raw.decode("utf-16-le", "replace")
    else:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return None
    odd = len(_NOT_TEXT.findall(text[:MAX_INPUT]))
    return text if len(text) >= 4 and odd * 8 <= min(len(text), MAX_INPUT) else None


def mask_text(text: str, host: str = "") -> str:
    """The text in one line, in lower case, with what the module names taken out. `host` is the
    event's own host, in the form of its entity. Any text is taken; none raises anything."""
    text = text[:MAX_INPUT]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _INTEGRITY.sub("", text)).translate(_LOOKALIKES)
    if not text.isprintable():
        text = _CONTROL.sub(" ", text)
    text = " ".join(text.split())
    if _LONG.search(text) is not None:
        text = _BASE64.sub(_mask_base64, text)
    text = text.lower()
    # Each expression is asked only where a mark of what it finds is there: most texts have few.
    changed = 0
    if "^" in text or "`" in text or '""' in text or "''" in text:
        text, changed = _SPLIT.subn("", text)
    if "+" in text:
        text, joins = _JOINED.subn("", text)
        changed += joins
    text = _mask_names(text, host)
    if _DIGITS.search(text) is not None:
        text = _mask_numbers(text)
    return f"xxodd {text}" if changed >= _ODD else text


def _mask_names(text: str, host: str) -> str:
    if "s-1-5-" in text:
        text = _SID.sub("xxsid", text)
    if "://" in text:
        text = _URL.sub(_mask_url, text)
    if "@" in text:
        text = _MAIL.sub("xxmail", text)
    if "\\" in text or "%" in text:
        if "\\sys" in text:
            text = _SYSTEM.sub("xxsys ", text)
        if "\\users\\" in text or "settings\\" in text or "\\profiles\\" in text:
            text = _WINDOWS_USER.sub(r"\\users\\xxuser", text)
        if "\\\\" in text:
            text = _SHARE.sub(r"\\\\xxhost\\", text)
    if "/home/" in text or "/users/" in text:
        text = _LINUX_USER.sub("/home/xxuser", text)
    if len(host) > 3 and (name := host.lower()) in text:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "xxhost", text)
    return text


def _mask_numbers(text: str) -> str:
    if text.count("-") >= 4:
        text = _GUID.sub("xxguid", text)
    if text.count(".") >= 3:
        text = _IP.sub("xxip", _LAN.sub("xxlan", text))
    if text.count(":") >= 3:
        text = _IP6.sub("xxip", text)
    text = _TIME.sub("xxtime", text)
    text = _ZEROS.sub("0x", text)
    return _NUMBER.sub(_mask_number, _HEX.sub("xxhex", text))


def _mask_number(match: re.Match[str]) -> str:
    return match[0] if match[0][:2] == "0x" else "xxnum"


def _mask_base64(match: re.Match[str]) -> str:
    return "xxb64" if _is_base64(match[0]) else match[0]


def _mask_url(match: re.Match[str]) -> str:
    host = match["host"]
    if _LAN.fullmatch(host):
        name = "xxlan"
    elif _IP.fullmatch(host) or host.startswith("["):
        name = "xxip"
    elif host in ("localhost", "127.0.0.1") or "." not in host:
        name = "xxhost"
    else:
        name = "xxsite"
    return f"{match['scheme']}://{name}"
