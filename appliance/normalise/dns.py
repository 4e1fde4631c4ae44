"""Third station of the line, query logs of BIND, Unbound and dnsmasq: Sigma's category dns.

Names of the category are those that SigmaHQ's rules use: query (without the final dot),
record_type, answer. A question that was refused or failed has result "failure".
"""

from typing import Final

from appliance.normalise.devices import DNS, collect_neutral
from appliance.normalise.reading import Context, Reading
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Fields, View

#: Every log source that this normaliser can produce.
SOURCES: Final = (DNS,)

_FORMATS: Final = frozenset({"bind", "unbound", "dnsmasq"})
#: The decoder's name -> the category's or the neutral one.
_NAMES: Final = (
    ("address", "src_ip"),
    ("port", "src_port"),
    ("server", "dst_ip"),
    ("type", "record_type"),
    ("class", "record_class"),
    ("rcode", "response_code"),
)
#: dnsmasq's answers that are response codes.
_CODES: Final = frozenset({"NXDOMAIN", "NODATA", "SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"})
_FAILURES: Final = frozenset({"denied", "failed"})


def read_dns(decoded: Decoded, context: Context) -> Reading | None:
    """Read a line of a DNS server about a client or a name; None for another record."""
    if decoded.format not in _FORMATS:
        return None
    record = decoded.fields
    if "name" not in record and "address" not in record:
        return None
    fields: Fields = dict(record)
    for name, new in _NAMES:
        if name in fields:
            fields[new] = fields.pop(name)
    if (question := record.get("name") or record.get("qname")) is not None:
        fields["query"] = question.rstrip(".") or "."
    answer = record.get("answer")
    if isinstance(answer, str) and answer.partition("-")[0] in _CODES:
        fields["response_code"] = answer
    if record.get("action") in _FAILURES:
        fields["result"] = "failure"
    elif fields.get("response_code") == "NOERROR":
        fields["result"] = "success"
    # The server asked is the same in each event: no entity that tells events apart.
    entities = collect_neutral({n: v for n, v in fields.items() if n != "dst_ip"}, context.host)
    return Reading(
        views=(View(DNS, fields),),
        entities=entities,
        host=context.host,
        time=read_time(record.get("timestamp"), context),
    )
