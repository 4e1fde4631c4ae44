"""The correlator and its store: a million findings over 100,000 entities."""

import argparse
import random
import resource
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from appliance.correlate.incidents import CorrelationLimits, Correlator, Sign, Stored
from appliance.schema import LEVELS, Entity, digest
from appliance.store import Batch, FindingRow, Store
from benchmarks.figures import Report

NAME: Final = "correlation_speed"
TEXT: Final = "findings/s and memory of joining findings into incidents, storing them included"
BATCH: Final = 2_000
START: Final = 1_700_000_000.0
MIB: Final = 2**20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    group = parser.add_argument_group(NAME, TEXT)
    group.add_argument(
        "--findings", type=int, default=1_000_000, metavar="N", help="findings (1,000,000)"
    )
    group.add_argument(
        "--entities", type=int, default=100_000, metavar="N", help="entities (100,000)"
    )


def generate(findings: int, entities: int, seed: int = 1) -> Iterator[Sign]:
    """Findings of ten days: half of all entities are processes, a fifth each users and addresses, a
    tenth hosts; some entities are seen all the time, most now and then."""
    rng = random.Random(seed)
    hosts, users, addresses = entities // 10, entities // 5, entities // 5
    processes = entities - hosts - users - addresses
    for number in range(findings):
        host = int(hosts * rng.random() ** 2)
        named = [Entity("host", f"ws{host}")]
        if rng.random() < 0.8:
            named.append(Entity("process", f"p{int(processes * rng.random())}"))
        if rng.random() < 0.6:
            named.append(Entity("user", f"u{int(users * rng.random() ** 2)}"))
        if rng.random() < 0.4:
            named.append(Entity("address", f"a{int(addresses * rng.random() ** 2)}"))
        rule = int(300 * rng.random() ** 3)
        yield Sign(
            id=digest("finding", str(number)),
            time=START + 864_000 * number / findings,
            host=f"ws{host}",
            detector="sigma",
            rule_id=f"rule-{rule}",
            title=f"Rule {rule}",
            level=LEVELS[min(4, rule % 7)],
            techniques=("T1059",),
            tactics=("execution",),
            entities=tuple(named),
        )


def measure(args: argparse.Namespace, report: Report, folder: Path) -> None:
    """Join and store them, batch after batch, as the daemon does."""
    signs = generate(args.findings, args.entities)
    store = Store(folder / "correlation.db")
    correlator = Correlator(CorrelationLimits(), Stored(load=store.incident, load_fold=store.fold))
    joining = storing = 0.0
    while batch := list(islice(signs, BATCH)):
        began = time.perf_counter()
        for sign in batch:
            correlator.join(sign)
        correlator.evict()
        change = correlator.changes()
        joined = time.perf_counter()
        rows = [
            FindingRow(sign.id, sign.time, 0, "sigma", sign.rule_id, {"id": sign.id})
            for sign in batch
        ]
        store.write_batch(Batch([], rows, change, [], {}, {}, []))
        correlator.commit()
        joining += joined - began
        storing += time.perf_counter() - joined
    sizes = store.sizes()
    store.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    count = args.findings
    report.begin(
        NAME, f"{count:,} findings over {args.entities:,} entities",
        f"python -m benchmarks {NAME} --findings {count} --entities {args.entities}",
    )  # fmt: skip
    report.add("joined", count / joining, "findings/s", count, "findings")
    report.add("joined and stored", count / (joining + storing), "findings/s", count, "findings")
    report.add("peak memory of the whole process", memory / MIB, "MiB", 1, "run")
    report.add("database", sizes["bytes"] / MIB, "MiB", 1, "run")
    report.note(f"{sizes['incidents']:,} incidents, {correlator.keys:,} keys held")
