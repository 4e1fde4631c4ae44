"""Second station of the line, format `evtx`: one Windows event as the JSON of the evtx library.

The source reads the .evtx file and hands over one record's JSON text: `Event` with `System` and
`EventData` or `UserData`, XML attributes under `#attributes`, text beside them under `#text`
(Windows event schema, [MS-EVEN6] section 2.2.13).
"""

from appliance.decode.json_object import read_object
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord


def decode_evtx(record: RawRecord) -> Decoded:
    """Read the record as one Windows event. Raises DecodeError."""
    fields, repaired = read_object(record.data)
    event = fields.get("Event")
    if not isinstance(event, dict) or not isinstance(event.get("System"), dict):
        raise DecodeError("JSON holds no Windows event: Event.System is missing")
    return Decoded("evtx", fields, repaired)
