"""The store: one SQLite database, one transaction a batch, and its upkeep as a file."""

from appliance.store.database import (
    EXPIRE_AGAIN_SECONDS,
    EXPIRE_ROWS,
    EXPIRE_SECONDS,
    PAGE_FINDINGS,
    Store,
)
from appliance.store.migrations import MIGRATIONS
from appliance.store.rows import (
    Batch,
    FindingDelivery,
    FindingRow,
    Outgoing,
    SinkProgress,
    StoreLimits,
)
from appliance.store.upkeep import (
    Restorer,
    StoreFacts,
    backup_store,
    inspect_store,
    restore_store,
    vacuum_store,
)

__all__ = [
    "EXPIRE_AGAIN_SECONDS",
    "EXPIRE_ROWS",
    "EXPIRE_SECONDS",
    "MIGRATIONS",
    "PAGE_FINDINGS",
    "Batch",
    "FindingDelivery",
    "FindingRow",
    "Outgoing",
    "Restorer",
    "SinkProgress",
    "Store",
    "StoreFacts",
    "StoreLimits",
    "backup_store",
    "inspect_store",
    "restore_store",
    "vacuum_store",
]
