"""Archives for tests: records written by the line's writer, converted or not."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from appliance.archive.convert import ReadRecord, convert_segment
from appliance.archive.reader import Archive
from appliance.archive.rows import Growth
from appliance.archive.writer import SEGMENT_SUFFIX, SEGMENTS, ArchiveWriter, SegmentLimits
from appliance.archiving import build_read, fold_texts
from appliance.config import Config
from appliance.schema import Cursor, RawRecord

NOW = 1_800_000_000.0
READ = build_read(Config())


def make_raw(
    data: bytes | str, number: int, *, form: str = "auto", header: str = "", path: str = "/x.log"
) -> RawRecord:
    """A record of its own place in one stream."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    cursor = Cursor("test", "x.log", number, number + 1)
    return RawRecord(raw, "test", path, "x.log", cursor, NOW, form, 0, header.encode())


def write_archive(
    folder: Path, records: Iterable[RawRecord], *, events: int = 250_000, batch: int = 100
) -> list[Growth]:
    """Write the records as the line does; what the store would know of each segment."""
    writer = ArchiveWriter(folder, 0, clock=lambda: NOW, limits=SegmentLimits(events=events))
    known: dict[str, Growth] = {}
    rows = list(records)
    for first in range(0, len(rows), batch):
        for record in rows[first : first + batch]:
            event = READ(record)
            writer.add(record, event.time if event is not None else record.received)
        flushed = writer.flush()
        assert not writer.error
        known.update((growth.name, growth) for growth in flushed.growths)
        writer.commit()
    writer.close()
    return list(known.values())


def convert(folder: Path, growths: Sequence[Growth], read: ReadRecord = READ) -> None:
    """Convert the segments and delete them."""
    for growth in growths:
        done = convert_segment(folder, growth.name, growth.bytes, read=read, texts=fold_texts)
        assert done.events == growth.events
        (folder / SEGMENTS / (growth.name + SEGMENT_SUFFIX)).unlink()


def build_archive(
    folder: Path, records: Sequence[RawRecord], *, converted: str = "all", events: int = 250_000
) -> Archive:
    """An archive of the records: "all" of it converted, "none", or all but the newest ("some")."""
    growths = write_archive(folder, records, events=events)
    count = {"all": len(growths), "none": 0, "some": len(growths) - 1}[converted]
    convert(folder, growths[:count])
    return Archive(folder, READ)
