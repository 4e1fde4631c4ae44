"""Detect, sensor aminer: anomalies of the log data anomaly miner (AMiner wiki, event output of the
JsonConverterHandler).

AMiner knows no severity: a new value or an unusual frequency is an observation, low, and while the
component still learns, informational. A component is known by its name, which its operator gave,
or by its type and the file that it keeps its model in; its number is only its place in a list.
"""

import re
from typing import Final

from appliance.detect.sensors.alert import list_evidence, name_title
from appliance.schema import Detection, Event, Fields, LogSource, Match, View

SOURCE: Final = LogSource(product="aminer", service="anomaly")

_NO_ID: Final = re.compile(r"[^A-Za-z0-9_.-]+")
#: Longest name of a component in a rule id, in characters.
_MAX_ID: Final = 96
_EVIDENCE: Final = (
    "AnalysisComponent.Message", "AnalysisComponent.AnalysisComponentType",
    "AnalysisComponent.AffectedLogAtomPaths", "AnalysisComponent.AffectedLogAtomValues",
    "AnalysisComponent.CriticalValue", "LogData.LogResources", "LogData.RawLogData",
)  # fmt: skip


def read_anomaly(event: Event, view: View) -> list[Detection]:
    """The anomaly of a record."""
    fields = view.fields
    kind = fields.get("AnalysisComponent.AnalysisComponentType")
    if type(kind) is not str or not kind:
        return []
    name = fields.get("AnalysisComponent.AnalysisComponentName")
    title = name_title(name, name_title(fields.get("AnalysisComponent.Message"), kind))
    known = _name_component(fields, kind)
    rule_id = f"aminer:{_NO_ID.sub('-', known[:_MAX_ID]).strip('-').lower() or 'unnamed'}"
    learns = fields.get("AnalysisComponent.TrainingMode") is True
    return [
        Detection(
            detector="aminer",
            rule_id=rule_id,
            title=title,
            level="informational" if learns else "low",
            techniques=(),
            tactics=(),
            event=event,
            logsource=view.logsource,
            matched=(
                Match("AnalysisComponent.AnalysisComponentName", title, rule_id),
                *list_evidence(fields, _EVIDENCE),
            ),
        )
    ]


def _name_component(fields: Fields, kind: str) -> str:
    name = fields.get("AnalysisComponent.AnalysisComponentName")
    if type(name) is str and name.strip():
        return name
    store = fields.get("AnalysisComponent.PersistenceFileName")
    return f"{kind}-{store}" if type(store) is str and store.strip() else kind
