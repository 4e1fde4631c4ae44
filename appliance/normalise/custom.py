"""Third station of the line, formats that the configuration describes: it says their log source,
and which field holds the time and which the host. Field names are the operator's."""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec

from appliance.normalise.devices import collect_neutral, read_zoned_time
from appliance.normalise.entities import (
    collect_entities,
    make_address,
    make_file,
    make_hashes,
    make_host,
    make_process,
    make_service,
    make_user,
    name_host,
)
from appliance.normalise.flatten import flatten
from appliance.normalise.reading import Context, Reading
from appliance.normalise.traffic import MAX_EACH, make_name
from appliance.schema import Decoded, Entity, Fields, LogSource, View

#: Kinds of entities that the configuration may name fields for, with their makers.
_MAKERS: Final[dict[str, Any]] = {
    "host": make_host,
    "address": make_address,
    "user": make_user,
    "domain": make_name,
    "file": make_file,
    "service": make_service,
    "process": make_process,
}
#: The same, and those of which one text may tell several.
ENTITY_KINDS: Final = (*_MAKERS, "hash")


class CustomSource(msgspec.Struct, frozen=True):
    """What the configuration says of a format beside its shape. `time` and `host` are names of
    fields, "" where there is none; `entities` are kind -> fields that hold such."""

    logsource: LogSource
    time: str = ""
    host: str = ""
    entities: Mapping[str, tuple[str, ...]] = {}


def read_custom(decoded: Decoded, source: CustomSource, context: Context) -> Reading:
    """Read a record of a format that the configuration describes. Raises nothing."""
    fields = flatten(decoded.fields)
    named = fields.get(source.host) if source.host else None
    host = name_host(named) if isinstance(named, str) else context.host
    return Reading(
        views=(View(source.logsource, fields),),
        entities=partial(_collect, fields, host, source),
        host=host,
        time=read_zoned_time(fields.get(source.time), context) if source.time else None,
    )


def _collect(fields: Fields, host: str, source: CustomSource) -> tuple[Entity, ...]:
    """What the neutral names, those of Windows and the configuration say."""
    found: dict[Entity | None, None] = dict.fromkeys(
        (*collect_neutral(fields, host), *collect_entities(fields, host))
    )
    for kind, names in source.entities.items():
        for name in names:
            value = fields.get(name)
            for text in islice(value, MAX_EACH) if isinstance(value, list) else (value,):
                _add(found, kind, text)
    found.pop(None, None)
    return tuple(entity for entity in found if entity is not None)


def _add(found: dict[Entity | None, None], kind: str, text: Any) -> None:
    if not isinstance(text, str):
        return
    if kind == "hash":
        found.update(dict.fromkeys(make_hashes(text)))
    elif (make := _MAKERS.get(kind)) is not None:
        found[make(text)] = None
