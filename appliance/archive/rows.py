"""What the store keeps of the archive: one row a segment. Written in the line's transaction."""

from typing import Literal

import msgspec

#: open: being written; parquet: converted, the segment is gone.
SegmentState = Literal["open", "parquet"]


class Growth(msgspec.Struct, frozen=True):
    """What a batch added to a segment: `bytes` is the length up to which it is now good, all else
    is the whole segment's so far. Times are event times (epoch seconds)."""

    name: str
    hour: int
    bytes: int
    events: int
    first: float
    last: float


class Flushed(msgspec.Struct, frozen=True):
    """What became of a batch's records: what the store is to record, how many events that is, and
    how many could not be written."""

    growths: list[Growth]
    archived: int = 0
    lost: int = 0


class SegmentRow(msgspec.Struct, frozen=True):
    """A segment as the store knows it. `bytes` is its committed length, `stored` the size of the
    Parquet file that it became (0: none yet); `first` and `last` are event times."""

    name: str
    hour: int
    bytes: int
    events: int
    first: float
    last: float
    state: SegmentState
    stored: int = 0
