"""Every file of the public sets through the real source, decoder and normaliser: how many of the
records can be read, and why the rest can't. What is no log in these folders (readmes, licences,
rules, lists of attack strings, templates) is text to us and no reason to reject."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest

from appliance.pipeline import read_event
from appliance.scan import list_files
from appliance.schema import Rejected
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream

FindData = Callable[[str], Path]
RECEIVED = 1_790_000_000.0

#: Least records of a set, what is rejected of it by reason, and least mapped records of the folders
#: that hold logs which this version claims to know.
SETS: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "linux": (
        90_000,
        {},
        {"cowrie": 15_530, "gtkcyber": 10_566, "loghub/OpenSSH": 2_000, "loghub/Linux": 1_900},
    ),
    "web": (170_000, {}, {"access-logs": 10_000}),
    "network": (
        460_000,
        {"Zeek line of 23 columns, its header has 26": 1},
        {"rita": 257_000, "zeek-wrccdc": 158_000, "stratosphere": 9_000, "icsnpp": 25_000},
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_at_least_98_of_100_records_decode(
    shared_data: FindData, tmp_path: Path, name: str
) -> None:
    least, expected, known = SETS[name]
    rejected: Counter[str] = Counter()
    mapped: Counter[str] = Counter()
    records = 0
    for logical, path in list_files([str(shared_data(name))], tmp_path).files:
        stream = open_stream(StreamName("s", logical, logical, str(path)), StreamLimits())
        while not stream.ended:
            batch = stream.read(Want(2000, final=True), RECEIVED)
            records += len(batch.records) + len(batch.rejected)
            rejected.update(refused.reason for refused in batch.rejected)
            for record in batch.records:
                result = read_event(record, UTC)
                if isinstance(result, Rejected):
                    rejected[result.reason] += 1
                elif result[0].mapped:
                    mapped.update(family for family in known if logical.startswith(family))
        stream.close()
    assert records >= least
    assert rejected.total() <= records * 0.02
    assert rejected == expected
    assert {family: mapped[family] >= count for family, count in known.items()} == dict.fromkeys(
        known, True
    ), mapped
