"""Third station of the line, web proxies: Squid's native access log.

Fields are those of the Sigma taxonomy's category proxy, beside the record's own. The destination is
the proxy's own knowledge: it connected there. `dst_ip` is the peer's address where the proxy went
to the server itself, and not a parent proxy's.
"""

from typing import Final

from appliance.normalise.reading import Context, Reading
from appliance.normalise.request import collect, is_address, put_client, put_proxied, put_status
from appliance.normalise.times import read_time
from appliance.schema import Decoded, Fields, LogSource, View

SQUID: Final = LogSource(category="proxy", product="squid", service="squid")
#: Every log source that this normaliser can produce.
SOURCES: Final = (SQUID,)

_DIRECT: Final = frozenset({"HIER_DIRECT", "DIRECT", "ORIGINAL_DST", "HIER_ORIGINAL_DST"})


def read_proxy(decoded: Decoded, context: Context) -> Reading | None:
    """Read a line of Squid's native log; None for other records."""
    if decoded.format != "squid":
        return None
    fields: Fields = decoded.fields.copy()
    put_client(fields)
    put_status(fields, with_user="user" in fields)
    peer = fields.get("s-ip", "")
    if fields.get("s-hierarchy") in _DIRECT and is_address(peer):
        fields["dst_ip"] = peer
    destination = None
    uri = fields.get("c-uri")
    if uri is not None and not uri.startswith("error:"):
        destination = put_proxied(fields, uri, fields.get("cs-method", ""))
    if (kind := fields.get("rs-content-type")) is not None:
        fields["sc-content-type"] = kind
    return Reading(
        views=(View(SQUID, fields),),
        entities=collect(fields, context.host, destination),
        host=context.host,
        time=read_time(fields["timestamp"], context),
    )
