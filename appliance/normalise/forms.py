"""Third station of the line: what the tables of message forms are made of.

A form says what one kind of message tells of address, user and result. Part of a message is what a
peer chose (user name, HELO name, file name), so each form holds from the first character to the
last, and its address stands either before every text of the peer (then all before it is fixed) or
behind it (then the text is greedy, and the last address counts). Where the peer has text on both
sides a form holds only for a message in which the fixed words occur once.

No form needs more than linear time: texts of unknown length do not stand beside each other.
"""

import re
from typing import Final

import msgspec

#: A numeric address; an IPv4-mapped one is given as IPv4.
ADDRESS: Final = (
    r"(?:::[fF]{4}:(?=\d{1,3}\.))?"
    r"(?P<src_ip>\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:.]{2,45})"
)  # fmt: skip
#: An address or, where the daemon looks it up, a name.
NAMED: Final = r"(?:::[fF]{4}:(?=\d{1,3}\.))?(?P<src_ip>[0-9A-Za-z:._-]{1,255})"
PORT: Final = r"(?P<src_port>\d{1,5})"
#: `192.0.2.1:55`, `2001:db8::1:55`, `[2001:db8::1]:55`; the port may be missing.
PEER: Final = rf"\[?{ADDRESS}\]?(?::{PORT})?"
#: What a resolver said of the peer, where daemons write it: no blank, bracket or parenthesis.
HOST: Final = r"[^\s()\[\]<>,]{1,255}"

#: Longest message that is read for its form, in characters.
MAX_MESSAGE: Final = 4096


class Form(msgspec.Struct, frozen=True):
    """One kind of message: how it begins ("" for anything), the result that it tells ("success",
    "failure" or "" for none), and the pattern with groups named as fields."""

    start: str
    result: str
    pattern: re.Pattern[str]


class Forms(msgspec.Struct, frozen=True):
    """The forms of one program. `starts` are the beginnings of all of them, so that most messages
    are passed over in one look."""

    forms: tuple[Form, ...]
    starts: tuple[str, ...]


def make_forms(*rows: tuple[str, str, str]) -> Forms:
    """Compile rows of start, result and pattern; a pattern holds up to white space at the end."""
    forms = tuple(
        Form(start, result, re.compile(rf"(?:{pattern})\s*\Z", re.DOTALL))
        for start, result, pattern in rows
    )
    return Forms(forms, tuple(dict.fromkeys(form.start for form in forms)))


def join_forms(*groups: Forms) -> Forms:
    """The forms of several programs that share a name."""
    forms = tuple(form for group in groups for form in group.forms)
    return Forms(forms, tuple(dict.fromkeys(form.start for form in forms)))


def read_form(forms: Forms, message: str) -> dict[str, str] | None:
    """What the first form that holds tells, by field name; None when none does. A user may be
    empty (a peer that gave no name); other empty parts are left out."""
    if not message.startswith(forms.starts) or len(message) > MAX_MESSAGE:
        return None
    for form in forms.forms:
        if message.startswith(form.start) and (match := form.pattern.match(message)):
            found = {
                name: value
                for name, value in match.groupdict().items()
                if value or (name == "user" and value is not None)
            }
            if form.result:
                found["result"] = form.result
            return found
    return None
