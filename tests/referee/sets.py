"""Real sets: each file through the product's own reading, decoding and normalising."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from appliance.config import Config
from appliance.detect.sigma.load import RuleSet, load_rules
from appliance.normalise import feeds
from appliance.pipeline import read_event
from appliance.places import default_rules, own_rules
from appliance.scan import list_files, read_file
from appliance.schema import Rejected, Sighting
from appliance.sources.streams import StreamName
from tests.referee.compare import Referee, Tally


@dataclass(slots=True)
class SetTally(Tally):
    """What one set came to: also its files, its records and those that could not be read."""

    name: str = ""
    files: int = 0
    records: int = 0
    rejected: int = 0
    mapped: int = 0
    seconds: float = 0.0


def load_all_rules(folder: Path) -> RuleSet:
    """The folder's rules and our own, all whose log source an event can have. Raises RuleError."""
    return load_rules([folder, default_rules(), own_rules()], feeds=feeds)


def list_sets(data: Path) -> list[Path]:
    """The folders in the folder, each a set."""
    return sorted(path for path in data.iterdir() if path.is_dir())


def read_set(folder: Path, spool: Path, every: int, tally: SetTally) -> Iterator[Sighting]:
    """The events of each so-many-th record of each file of the set, the files front to back."""
    config = Config()
    sizes: list[int] = []
    listing = list_files([str(folder)], spool)
    tally.rejected += len(listing.refused)
    for logical, path in listing.files:
        tally.files += 1
        for batch in read_file(StreamName("referee", logical, logical, str(path)), config, sizes):
            tally.rejected += len(batch.rejected)
            for record in batch.records:
                tally.records += 1
                if (tally.records - 1) % every:
                    continue
                result = read_event(record, UTC)
                if isinstance(result, Rejected):
                    tally.rejected += 1
                else:
                    yield result[0]


def compare_set(referee: Referee, folder: Path, spool: Path, every: int = 1) -> SetTally:
    """Each so-many-th event of the set in both detectors, then their ledgers."""
    tally = SetTally(name=folder.name)
    began = time.monotonic()
    for sighting in read_set(folder, spool, every, tally):
        referee.compare(sighting, tally)
        tally.mapped += sighting.mapped
    referee.compare_ledgers(tally)
    tally.seconds = time.monotonic() - began
    return tally
