"""What became of every rule: fed or not, evaluated, fired, from the store's counts.

Apart from `status`, which must not wait until the rule engine is loaded.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from appliance.assembly import build_formats, load_configured_rules
from appliance.config import Config
from appliance.feeding import read_seen
from appliance.normalise import NO_CUSTOM, feeds, matches
from appliance.normalise.custom import CustomSource
from appliance.schema import RuleInfo
from appliance.store import Store


def list_ledger(config: Config) -> list[dict[str, Any]]:
    """The ledger of the rules that the configuration names. Raises StoreError, RuleError."""
    with closing(Store(config.store_path, read_only=True)) as store:
        counts = store.counts()
    loaded = load_configured_rules(config)
    return list_rule_rows(loaded.infos, counts, build_formats(config).sources)


def list_rule_rows(
    rules: Iterable[RuleInfo],
    counts: Mapping[str, Mapping[str, float]],
    custom: Mapping[str, CustomSource] = NO_CUSTOM,
) -> list[dict[str, Any]]:
    """The ledger of every rule: id, title, level, techniques, whether anything feeds it, on how
    many views of events it was evaluated, how often it fired, its share of all findings (0 to 1),
    how often it was suppressed, and when it fired last (epoch seconds, None: never)."""
    total = sum(row.get("fired", 0) for key, row in counts.items() if key.startswith("rule:"))
    views = read_seen(counts)
    rows = []
    for rule in rules:
        fired = counts.get(f"rule:{rule.id}", {})
        rows.append(
            {
                "id": rule.id,
                "title": rule.title,
                "level": rule.level,
                "techniques": list(rule.techniques),
                "fed": feeds(rule.logsource, custom) is None,
                "evaluated": sum(n for view, n in views.items() if matches(rule.logsource, view)),
                "fired": int(fired.get("fired", 0)),
                "share": fired.get("fired", 0) / total if total else 0.0,
                "suppressed": int(fired.get("suppressed", 0)),
                "last_fired": fired.get("last_fired"),
            }
        )
    return rows
