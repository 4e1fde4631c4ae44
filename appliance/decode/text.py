"""Last table entry of the second station, format `text`: any line of text.

Fields: message, and timestamp (its text) when one of the common forms stands at the beginning, or
where an access log has it. A comment is text too: whether a line matters is no decoder's decision.
"""

import re
from typing import Final

from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: How much of a record is looked at to tell text from binary, in characters.
_SAMPLE: Final = 4096
_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK: Final = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ZONE: Final = r"(?: ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"

#: Forms of a leading time; the normaliser's table reads each of them.
TIME_FORMS: Final = (
    rf"\d{{4}}[-/.]\d\d[-/.]\d\d[T ]{{1,2}}{_CLOCK}{_ZONE}",
    rf"{_MONTH} {{1,2}}\d{{1,2}}(?: \d{{4}})? {_CLOCK}",
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} {{1,2}}\d{{1,2}} {_CLOCK}(?: [A-Z]{{3,4}})? "
    rf"\d{{4}}",
    rf"\d{{1,2}}[/-]{_MONTH}[/-]\d{{4}}[: ]{_CLOCK}{_ZONE}",
    rf"\d{{8}}[- ]{_CLOCK}",
    rf"\d\d-\d\d-\d{{4}} {_CLOCK}{_ZONE}",
    rf"{_MONTH}-\d\d-\d\d {_CLOCK}",
    rf"\d{{4}}:\d\d:\d\d-{_CLOCK}",
    r"(?:\d{6} {1,2}|\d{4}-\d\d-\d\d {2})\d{1,2}:\d\d:\d\d",
    rf"[A-Z]{{3,4}} {_MONTH} {{1,2}}\d{{1,2}} {_CLOCK}",
    rf"\d\d-\d\d {_CLOCK}",
    rf"L \d\d/\d\d/\d{{4}} - {_CLOCK}",
    r"@[0-9a-f]{24}",
    r"(?:0|[1-9]\d{0,2})?\d{9,10}(?:\.\d{1,9})?(?=[\s:\]])",
)
#: In front of it: brackets, a level in angle brackets (Murmur), a thread's number (Domino).
_LEADING: Final = re.compile(
    r'(?:[\s\["(<]{0,4}|<[A-Z]>|\[[0-9A-F]{1,12}:[0-9A-F-]{1,32}\] {1,2})'
    rf"({'|'.join(TIME_FORMS)})(?!\w|:\d)"
)
#: Combined log format: address, identity, user, [time] "request". The user is what the client says:
#: the time is the last one before the request, where servers write the user's quotes escaped.
_ACCESS: Final = re.compile(
    rf"\S{{1,255}} \S{{1,64}} (?:[^\"\\]|\\.){{1,256}}"
    rf"\[(\d\d/{_MONTH}/\d{{4}}:{_CLOCK}{_ZONE}) ?\](?= \"|$)"
)
#: Linux audit records carry the time behind their type.
_AUDIT: Final = re.compile(
    r"(?:node=\S{1,255} )?type=\S{1,64} msg=audit\((\d{9,10}\.\d{3}):\d{1,20}\)"
)


def decode_text(record: RawRecord) -> Decoded:
    """Read the record as text. Raises DecodeError when it is empty or binary (mostly characters
    that no text has; a NUL or two make no binary, or one would hide a whole line, and behind a
    time nothing does, or a client's name could)."""
    text = read_text(strip_frame(record.data))
    if not text.strip():
        raise DecodeError("empty record")
    head = text[:600]
    time = _LEADING.match(head) or _AUDIT.match(head) or _ACCESS.match(head)
    if time is None and is_binary(text):
        raise DecodeError("binary, not text")
    repaired = has_bad_bytes(text)
    if repaired:
        text = escape_bytes(text)
    fields = {"message": text}
    if time is not None:
        fields["timestamp"] = time[1]
    return Decoded("text", fields, repaired)


def is_binary(text: str) -> bool:
    """True for text (bad bytes as surrogates) of which over 30 % of the first _SAMPLE characters
    are neither printable nor white space."""
    sample = text[:_SAMPLE]
    if sample.isprintable():
        return False
    odd = sum(1 for char in sample if not char.isprintable() and not char.isspace())
    return odd * 10 > len(sample) * 3
