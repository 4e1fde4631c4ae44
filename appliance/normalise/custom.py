"""Third station of the line, formats that the configuration describes: it says their log source,
and which field holds the time and which the host. Field names are the operator's."""

import msgspec

from appliance.normalise.devices import collect_neutral, read_zoned_time
from appliance.normalise.entities import collect_entities, name_host
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading
from appliance.schema import Decoded, LogSource, View


class CustomSource(msgspec.Struct, frozen=True):
    """What the configuration says of a format beside its shape. `time` and `host` are names of
    fields, "" where there is none."""

    logsource: LogSource
    time: str = ""
    host: str = ""


def read_custom(decoded: Decoded, source: CustomSource, context: Context) -> Reading:
    """Read a record of a format that the configuration describes. Raises nothing."""
    fields = flatten(decoded.fields)
    named = fields.get(source.host) if source.host else None
    host = name_host(named) if isinstance(named, str) else context.host
    entities = dict.fromkeys((*collect_neutral(fields, host), *collect_entities(fields, host)))
    return Reading(
        views=(View(source.logsource, fields),),
        entities=tuple(entities),
        host=host,
        time=read_zoned_time(fields.get(source.time), context) if source.time else None,
    )
