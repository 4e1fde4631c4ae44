"""Third station of the line, product appliance: the canary that a self-test sends through the line.

Known by its source, whose name no configuration may give to another: no log can hold one.
"""

from typing import Final

from appliance.normalise.reading import Context, Reading
from appliance.schema import OWN_SOURCE, Decoded, LogSource, View

CANARY: Final = LogSource(product="appliance", service="selftest")


def read_own(decoded: Decoded, context: Context) -> Reading | None:
    """Read a record of the appliance's own; None for every other source's."""
    if context.source != OWN_SOURCE:
        return None
    return Reading(
        views=(View(CANARY, dict(decoded.fields)),), entities=(), host="", time=context.received
    )
