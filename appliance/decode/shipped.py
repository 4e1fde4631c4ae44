"""Second station of the line: lines of log files that a shipper wrapped into JSON unread.

Filebeat and Elastic Agent without a module send each line as `message`, with the file that it is
from as `log.file.path` (Elastic Common Schema reference 8.x, "Log fields"). The line is read as
what it looks like, as if it came from that file.
"""

from typing import Any


def find_line(fields: dict[str, Any]) -> str | None:
    """The line that a shipper's object holds; None when it is no such object."""
    line = fields.get("message")
    if not isinstance(line, str) or "@timestamp" not in fields:
        return None
    path = fields.get("log.file.path")
    if path is None and isinstance(log := fields.get("log"), dict):
        file = log.get("file")
        path = file.get("path") if isinstance(file, dict) else None
    return line if isinstance(path, str) and path else None
