"""What `status` says: from the running daemon when there is one, from the store when there is not.

"No alert" and "no data" must never look the same: every source is listed with what it gave, also
when that is nothing.
"""

from typing import Any

from appliance.archive.upkeep import sum_up
from appliance.audit import Head
from appliance.config import Config
from appliance.errors import StoreError
from appliance.inventory.ledger import MAX_ROWS
from appliance.store import Store
from appliance.suppression import describe_suppression

#: Why rows of a table went: over its cap in rows, too old, over the database's cap in bytes.
_WHY_GONE = ("over_cap", "expired", "over_bytes")
SOURCE_COUNTS = (
    "seen",
    "decoded",
    "rejected",
    "unmapped",
    "repaired",
    "evaluated",
    "findings",
    "untimed",
    "ahead",
    "late",
)


def build_status(store: Store, config: Config, live: dict[str, Any]) -> dict[str, Any]:
    """One JSON object: the store's counts, and what only the running daemon knows (`live`)."""
    counts = store.counts()
    sizes = store.sizes()
    limits = config.limits
    caps = {
        "findings": limits.findings_rows,
        "incidents": limits.incidents_rows,
        "folds": limits.findings_rows,
        "rejected": limits.rejected_rows,
        "outbox": limits.outbox_rows,
    }
    over = counts.get("store", {})
    tables = {
        name: {
            "depth": sizes[name],
            "cap": cap,
            "dropped": sum(int(over.get(f"{name}_{why}", 0)) for why in _WHY_GONE),
        }
        for name, cap in caps.items()
    }
    facts = live.get("sinks", {})
    sentinel = _sum_up_sentinel(counts.get("sentinel", {}), live.get("sentinel", {}))
    if "queue_cap" in sentinel:
        depth, cap = sentinel["waiting"], sentinel["queue_cap"]
        tables["sentinel"] = {"depth": depth, "cap": cap, "dropped": sentinel["skipped"]}
    inventory = _sum_up_inventory(counts.get("inventory", {}), sizes["software"])
    tables["software"] = {
        "depth": inventory["software"],
        "cap": MAX_ROWS,
        "dropped": inventory["dropped"],
    }
    return {
        **live,
        "state_dir": config.state_dir,
        "store_bytes": sizes["bytes"],
        "sources": [_source_row(s.name, counts, live) for s in config.sources],
        "detectors": {
            scope.partition(":")[2]: int(values.get("fired", 0))
            for scope, values in sorted(counts.items())
            if scope.startswith("detector:")
        },
        "levels": {
            scope.partition(":")[2]: int(values.get("findings", 0))
            for scope, values in counts.items()
            if scope.startswith("level:")
        },
        "rules": {**live.get("rules", {}), **_sum_up_rules(counts)},
        "sentinel": sentinel,
        "indicators": {
            **live.get("indicators", {}),
            **{name: int(count) for name, count in counts.get("indicators", {}).items()},
        },
        "inventory": inventory,
        "suppressions": _list_suppressions(store, counts),
        "audit": live.get("audit") or _read_head(store),
        "archive": {
            **live.get("archive", {}),
            **sum_up(store.segments(), counts.get("archive", {})),
        },
        "queues": {**live.get("queues", {}), **tables},
        "sinks": [{**row, **facts.get(row["name"], {})} for row in store.sinks()],
        "last_findings": store.finding_bodies(limit=5),
    }


def _list_suppressions(store: Store, counts: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Suppressions that hold for what comes in: the newest receipt is the clock that counts."""
    newest = max((values.get("last_received", 0.0) for values in counts.values()), default=0.0)
    return [
        describe_suppression(row, store.count_suppressed(row.because))
        for row in store.suppressions()
        if row.holds(newest)
    ]


def _read_head(store: Store) -> dict[str, Any]:
    """The audit log's newest entry, as it is remembered beside it."""
    head = store.audit_head() or Head()
    return {"number": head.number, "hash": head.hash}


def _sum_up_rules(counts: dict[str, dict[str, float]]) -> dict[str, int]:
    """How many rules have fired, ever, and how many findings the operator suppressed."""
    rows = [row for key, row in counts.items() if key.startswith("rule:")]
    return {
        "fired": sum(1 for row in rows if row.get("fired")),
        "suppressed": int(sum(row.get("suppressed", 0) for row in rows)),
    }


def _sum_up_sentinel(counts: dict[str, float], live: dict[str, Any]) -> dict[str, Any]:
    """What the sentinel was given and what came of it, ever. What was put into its queue, was never
    judged and waits no more is what a crash took: `unjudged`."""
    names = ("events", "texts", "known", "at_once", "queued", "judged", "failed", "skipped")
    row = {name: int(counts.get(name, 0)) for name in (*names, "repeated", "faults")}
    left = row["queued"] - row["judged"] - row["failed"] - int(live.get("waiting", 0))
    share = row["known"] / row["texts"] if row["texts"] else 0.0
    return {**live, **row, "unjudged": max(0, left), "known_share": round(share, 4)}


def _sum_up_inventory(counts: dict[str, float], rows: int) -> dict[str, int]:
    """How much software logs revealed, and what of it is not kept: over the caps of a batch
    (`over_batch`) or of the inventory (`dropped`), or without a time (`undated`)."""
    names = ("sights", "over_batch", "dropped", "undated", "faults")
    return {"software": rows, **{name: int(counts.get(name, 0)) for name in names}}


def _source_row(
    name: str, counts: dict[str, dict[str, float]], live: dict[str, Any]
) -> dict[str, Any]:
    values = counts.get(f"source:{name}", {})
    row: dict[str, Any] = {"name": name}
    row.update({key: int(values.get(key, 0)) for key in SOURCE_COUNTS})
    row["last_event"] = values.get("last_event")
    row["last_received"] = values.get("last_received")
    row.update(live.get("sources", {}).get(name, {}))
    # What never became a record: datagrams that the kernel or a full spool dropped, ever.
    row["dropped"] = int(values.get("dropped", 0))
    return row


def read_stopped_status(config: Config) -> dict[str, Any]:
    """The status of an appliance that is not running, from its store.

    Raises StoreError when there is no store either.
    """
    if not config.store_path.is_file():
        raise StoreError(f"{config.store_path}: no store there: the appliance has never run")
    store = Store(config.store_path, read_only=True)
    try:
        return build_status(store, config, {"running": False})
    finally:
        store.close()
