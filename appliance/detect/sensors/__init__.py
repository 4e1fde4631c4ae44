"""The detector of the detect stage for what an external sensor has found itself: a Suricata alert
and a Zeek notice are detections already, and so are Wazuh's alerts, Windows Defender's events,
AMiner's anomalies, and the records of the formats that the configuration maps.

Only a view that the sensor's own normaliser made counts, so that another product's record can't
raise one by a field that is called so; a mapped format is told by its name, which the operator gave
to a source. One file a sensor; the table below is all that can run.

A sensor's signatures are not loaded here: a detection's `rule_id` names one by the sensor's own
number or name, and what is known of it is what the alert says.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from appliance.detect.sensors import aminer, defender, suricata, wazuh, zeek
from appliance.detect.sensors.alert import MAX_TITLE, TACTICS, AlertReader
from appliance.detect.sensors.mapped import NO_MAPS, FindingMap
from appliance.detect.sensors.zeek import ATTACKS
from appliance.detect.sigma.engine import RuleFault
from appliance.schema import Detection, LogSource, RuleInfo, Sighting

__all__ = [
    "ATTACKS", "MAX_TITLE", "SENSORS", "SURICATA_ALERT", "TACTICS", "ZEEK_NOTICE",
    "SensorDetector",
]  # fmt: skip

SURICATA_ALERT: Final = suricata.SOURCE
ZEEK_NOTICE: Final = zeek.SOURCE

#: Every sensor, by the log source of the view that its normaliser makes of its alerts.
SENSORS: Final[Mapping[LogSource, AlertReader]] = MappingProxyType(
    {
        suricata.SOURCE: suricata.read_alert,
        zeek.SOURCE: zeek.read_notice,
        wazuh.SOURCE: wazuh.read_alert,
        defender.SOURCE: defender.read_event,
        aminer.SOURCE: aminer.read_anomaly,
    }
)
#: Their services, which few views have: asked first, since a log source takes longer to look up.
_SERVICES: Final = frozenset(source.service for source in SENSORS)


class SensorDetector:
    """Passes sensors' own alerts on. Holds no state. `mapped` are the formats of the configuration
    whose records are findings, by name.

    `rules` and `errors` are empty, as is what `counts` gives: a sensor's signatures are not known
    before they fire, and what fires is counted by its rule id.
    """

    rules: Mapping[str, RuleInfo] = MappingProxyType({})
    errors: Mapping[str, RuleFault] = MappingProxyType({})

    def __init__(self, mapped: Mapping[str, FindingMap] = NO_MAPS) -> None:
        self._mapped = mapped

    def counts(self) -> dict[str, dict[str, int]]:
        """Nothing: no rule is loaded."""
        return {}

    def detect(self, sighting: Sighting) -> list[Detection]:
        """The alert that the event is, if it is one. Raises nothing."""
        if self._mapped and (mapped := self._mapped.get(sighting.format)) is not None:
            return mapped.read_finding(sighting)
        for view in sighting.views:
            source = view.logsource
            if source.service in _SERVICES and (read := SENSORS.get(source)) is not None:
                return read(sighting.event, view)
        return []
