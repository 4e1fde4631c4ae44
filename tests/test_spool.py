"""The spool on disk: blocks, torn and damaged ones, the cap, and what a full disk does."""

import contextlib
import errno
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import SourceError
from appliance.sources.spool import (
    Block,
    Damage,
    Place,
    SpoolFull,
    SpoolReader,
    SpoolUnsynced,
    SpoolWriter,
    decode_block,
    encode_block,
    list_segments,
    read_block,
)

MARKER = bytes(range(8))


def write(
    writer: SpoolWriter, *records: bytes, peer: str = "tcp 192.0.2.7", at: float = 5.0
) -> int:
    return writer.append([(at, peer, records, {})])


def read_all(reader: SpoolReader, limit: int = 1000) -> list[bytes]:
    """Every record up to the end, each asked for once; damages are left out."""
    found: list[bytes] = []
    while True:
        pieces = reader.read(limit, 1 << 20)
        for piece in pieces:
            if isinstance(piece.found, Block):
                found += piece.found.records[piece.start : piece.until]
        if not pieces and not reader.more:
            return found


def read_damages(reader: SpoolReader) -> tuple[list[bytes], list[Damage]]:
    records: list[bytes] = []
    damages: list[Damage] = []
    while pieces := reader.read(1000, 1 << 20):
        for piece in pieces:
            if isinstance(piece.found, Damage):
                damages.append(piece.found)
            else:
                records += piece.found.records[piece.start : piece.until]
    return records, damages


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    opened = SpoolWriter(tmp_path / "s", cap=1 << 30)
    yield opened
    opened.close()


# -- blocks ------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=50), max_size=20),
    st.floats(0, 1e10),
    st.text(max_size=30),
)
def test_a_block_comes_back_as_it_was(records: list[bytes], received: float, peer: str) -> None:
    peer = peer.encode("utf-8", "replace").decode()
    cut = dict.fromkeys(range(0, len(records), 3), 1 << 40)
    data = encode_block(MARKER, received, peer, records, cut)
    block = decode_block(MARKER, b"..." + data + b"more", 3, 100)
    assert isinstance(block, Block)
    assert (block.records, block.received, block.peer, block.cut) == (records, received, peer, cut)
    assert (block.offset, block.end) == (103, 103 + len(data))
    joined = b"".join(records)
    at = block.begin - 100
    assert (b"..." + data)[at : at + len(joined)] == joined


def test_every_flipped_byte_of_a_block_is_noticed() -> None:
    data = encode_block(MARKER, 1.0, "udp 192.0.2.1", [b"one", b"two"], {1: 900})
    for place in range(len(data)):
        for bit in (1, 0x80):
            bad = bytearray(data)
            bad[place] ^= bit
            found = decode_block(MARKER, bytes(bad), 0, 0)
            assert not isinstance(found, Block), place


def test_every_beginning_of_a_block_is_no_block() -> None:
    data = encode_block(MARKER, 1.0, "udp 192.0.2.1", [b"one", b"two"])
    for length in range(len(data)):
        needed = decode_block(MARKER, data[:length], 0, 0)
        assert isinstance(needed, int)
        assert needed > length, "more bytes are asked for"


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_raise(data: bytes) -> None:
    assert isinstance(decode_block(MARKER, MARKER + data, 0, 0), (Block, int))


def test_a_block_whose_sum_is_right_but_whose_lengths_are_not_is_refused() -> None:
    import struct
    import zlib

    body = struct.pack("<dIIH", 1.0, 1 << 31, 0, 0) + b"xxxx"
    head = struct.pack("<I", len(body))
    data = MARKER + head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body
    assert decode_block(MARKER, data, 0, 0) == -1


# -- write and read ----------------------------------------------------------------------------


def test_what_is_written_is_read_in_order(writer: SpoolWriter, tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path / "s", Place())
    assert reader.read(10, 1000) == []
    write(writer, b"a", b"b")
    write(writer, b"c", peer="udp 2001:db8::1", at=6.0)
    pieces = reader.read(10, 1000)
    blocks = [piece.found for piece in pieces]
    assert all(isinstance(block, Block) for block in blocks)
    assert [(b.peer, b.received, b.records) for b in blocks if isinstance(b, Block)] == [
        ("tcp 192.0.2.7", 5.0, [b"a", b"b"]),
        ("udp 2001:db8::1", 6.0, [b"c"]),
    ]
    assert not reader.more
    assert reader.read(10, 1000) == []
    assert reader.measure()[1] == 0


def test_limits_stop_inside_a_block_and_go_on_there(writer: SpoolWriter, tmp_path: Path) -> None:
    write(writer, *(b"%d" % n for n in range(10)))
    reader = SpoolReader(tmp_path / "s", Place())
    got = []
    for size in (3, 4, 10):
        (piece,) = reader.read(size, 1 << 20)
        assert isinstance(piece.found, Block)
        got.append(piece.found.records[piece.start : piece.until])
    assert got == [[b"0", b"1", b"2"], [b"3", b"4", b"5", b"6"], [b"7", b"8", b"9"]]


def test_rewind_gives_the_same_again_and_commit_does_not(
    writer: SpoolWriter, tmp_path: Path
) -> None:
    write(writer, b"a", b"b", b"c")
    reader = SpoolReader(tmp_path / "s", Place())
    reader.read(2, 1000)
    reader.commit()
    assert read_all(reader) == [b"c"]
    reader.rewind()
    assert read_all(reader) == [b"c"]
    again = SpoolReader(tmp_path / "s", Place(1, 0, 2))
    assert read_all(again) == [b"c"]


def test_segments_follow_one_another_and_go_when_they_are_committed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 20)  # segments of 64 KiB
    expected = []
    for number in range(500):
        record = b"%d-" % number + b"x" * 1000
        expected.append(record)
        write(writer, record)
    segments = list_segments(folder)
    assert len(segments) > 5
    reader = SpoolReader(folder, Place())
    assert read_all(reader) == expected
    assert len(list_segments(folder)) == len(segments), "nothing is deleted before it is committed"
    reader.commit()
    (left,) = list_segments(folder)
    assert left.number == segments[-1].number
    writer.close()


def test_a_block_larger_than_a_window_is_read(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "s", cap=1 << 30)
    large = os.urandom(3 << 20)
    write(writer, b"before")
    write(writer, large)
    write(writer, b"after")
    assert read_all(SpoolReader(tmp_path / "s", Place())) == [b"before", large, b"after"]
    writer.close()


def test_a_new_writer_begins_a_new_segment_with_a_number_never_used(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    first = SpoolWriter(folder, cap=1 << 30)
    write(first, b"a")
    with pytest.raises(SourceError, match="another receiver"):
        SpoolWriter(folder, cap=1 << 30)
    first.close()
    second = SpoolWriter(folder, cap=1 << 30)
    write(second, b"b")
    second.close()
    assert [segment.number for segment in list_segments(folder)] == [1, 2]
    for segment in list_segments(folder):
        segment.path.unlink()
    third = SpoolWriter(folder, cap=1 << 30, first=3)
    write(third, b"c")
    third.close()
    assert [segment.number for segment in list_segments(folder)] == [3]


def test_an_end_lost_in_a_power_cut_is_passed(tmp_path: Path) -> None:
    """The store may have committed what the disk then lost."""
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 30)
    write(writer, b"a")
    reader = SpoolReader(folder, Place())
    read_all(reader)
    place = reader.place
    writer.close()
    os.truncate(list_segments(folder)[0].path, 3)
    writer = SpoolWriter(folder, cap=1 << 30)
    write(writer, b"b")
    assert read_all(SpoolReader(folder, place)) == [b"b"]
    writer.close()


# -- torn and damaged --------------------------------------------------------------------------


def test_a_last_block_torn_at_any_byte_is_cut_off(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    writer = SpoolWriter(whole, cap=1 << 30)
    length = write(writer, b"first", b"second")
    torn = write(writer, b"third", b"fourth")
    writer.close()
    (segment,) = list_segments(whole)
    data = segment.path.read_bytes()
    assert len(data) == length + torn
    for cut in range(torn):
        for filler in (b"", b"\0" * (torn - cut)):  # what was not written: missing, or zeros
            folder = tmp_path / f"s{cut}-{len(filler)}"
            folder.mkdir()
            path = folder / segment.path.name
            path.write_bytes(data[: length + cut] + filler)
            before = SpoolReader(folder, Place())
            assert read_all(before) == [b"first", b"second"], "a torn end may still grow"
            writer = SpoolWriter(folder, cap=1 << 30)
            expected = 0 if cut == 0 and not filler else 1
            assert writer.torn == expected
            assert path.stat().st_size == length
            write(writer, b"fifth")
            writer.close()
            assert read_all(before) == [b"fifth"]
            assert read_damages(SpoolReader(folder, Place())) == (
                [b"first", b"second", b"fifth"],
                [],
            )


def test_a_damaged_block_in_the_middle_is_told_and_passed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 30)
    sizes = [write(writer, b"%d" % n) for n in range(5)]
    writer.close()
    (segment,) = list_segments(folder)
    data = bytearray(segment.path.read_bytes())
    begin = sum(sizes[:2])
    for place in range(begin, begin + sizes[2]):
        bad = bytearray(data)
        bad[place] ^= 0x10
        segment.path.write_bytes(bad)
        records, damages = read_damages(SpoolReader(folder, Place()))
        assert records == [b"0", b"1", b"3", b"4"], place
        assert [(d.offset, d.end) for d in damages] == [(begin, begin + sizes[2])]
        assert damages[0].head == bytes(bad[begin : begin + sizes[2]])
    # A writer leaves it as it is: it is no torn end.
    writer = SpoolWriter(folder, cap=1 << 30)
    assert writer.torn == 0
    assert segment.path.stat().st_size == len(data)
    writer.close()


def test_a_damaged_last_block_of_an_older_segment_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for text in (b"a", b"b"):
        writer = SpoolWriter(folder, cap=1 << 30)
        write(writer, text)
        writer.close()
    old = list_segments(folder)[0]
    reader = SpoolReader(folder, Place())
    old.path.write_bytes(old.path.read_bytes()[:-1] + b"?")
    records, damages = read_damages(reader)
    assert records == [b"b"]
    assert len(damages) == 1


def test_a_forged_block_in_a_message_is_never_read(tmp_path: Path) -> None:
    """Behind a damage reading goes on at the next marker, which no sender knows."""
    folder = tmp_path / "s"
    forged = encode_block(MARKER, 1.0, "tcp 10.0.0.1", [b"<34>forged"])
    writer = SpoolWriter(folder, cap=1 << 30)
    write(writer, b"before " + forged + b" behind")
    write(writer, b"after")
    writer.close()
    (segment,) = list_segments(folder)
    data = bytearray(segment.path.read_bytes())
    data[0] ^= 1
    segment.path.write_bytes(data)
    records, damages = read_damages(SpoolReader(folder, Place()))
    assert records == [b"after"]
    assert len(damages) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_whatever_is_damaged_the_rest_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(folder, cap=1 << 20)
    count = rng.randrange(1, 40)
    for number in range(count):
        write(writer, b"%d " % number + b"y" * rng.choice((0, 10, 5000)))
    writer.close()
    for segment in list_segments(folder):
        data = bytearray(segment.path.read_bytes())
        for _ in range(rng.randrange(3)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice((1, 100))] = b"\xaa"
        segment.path.write_bytes(data)
    SpoolWriter(folder, cap=1 << 20).close()
    reader = SpoolReader(folder, Place())
    numbers = [int(record.split()[0]) for record in read_damages(reader)[0]]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(range(count))


# -- the cap and the disk ----------------------------------------------------------------------


def test_a_full_spool_takes_nothing_until_the_reader_has_made_room(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 20)
    taken = 0
    with pytest.raises(SpoolFull, match="spool full"):
        for _ in range(2000):
            write(writer, b"z" * 1000)
            taken += 1
    assert 900 < taken < 1050
    assert sum(s.path.stat().st_size for s in list_segments(folder)) <= 1 << 20
    with pytest.raises(SpoolFull):
        write(writer, b"z" * 1000)
    reader = SpoolReader(folder, Place())
    assert len(read_all(reader)) == taken
    with pytest.raises(SpoolFull):
        write(writer, b"z" * 1000)  # read, but not committed
    reader.commit()
    write(writer, b"goes on")
    assert read_all(reader) == [b"goes on"]
    writer.close()


@pytest.mark.parametrize("cap", [1, 1000, 70_000])
def test_a_cap_smaller_than_a_block_still_lets_one_through(tmp_path: Path, cap: int) -> None:
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=cap)
    reader = SpoolReader(folder, Place())
    for number in range(20):
        record = b"%d" % number + b"w" * 60_000
        for _ in range(4):
            try:
                write(writer, record)
                break
            except SpoolFull:
                assert reader.read(10, 1 << 20) is not None
                reader.commit()
        else:
            pytest.fail("never any room")
        assert read_all(reader) == [record]
        reader.commit()
    writer.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, code: int) -> None:
    fail = False

    def put(descriptor: int, data: bytes) -> int:
        if fail:
            if len(data) > 10:
                return os.write(descriptor, data[: len(data) - 10])  # a short write first
            raise OSError(code, os.strerror(code))
        return os.write(descriptor, data)

    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 30, write=put)
    write(writer, b"a")
    size = list_segments(folder)[0].path.stat().st_size
    fail = True
    reader = SpoolReader(folder, Place())
    for _ in range(3):
        with pytest.raises(SourceError, match=f"spool can't be written: {os.strerror(code)}"):
            write(writer, b"b")
        assert list_segments(folder)[0].path.stat().st_size == size
        assert read_all(reader) in ([b"a"], [])
    fail = False
    write(writer, b"b")
    assert read_all(reader) == [b"b"]
    writer.close()


@pytest.mark.parametrize("synced", [True, False])
def test_a_failed_write_that_can_not_be_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    """What was written before must be on disk, or said not to be."""
    failing = False

    def put(descriptor: int, data: bytes) -> int:
        if failing:
            os.write(descriptor, data[:20])
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.write(descriptor, data)

    def sync(descriptor: int) -> None:
        if failing and not synced:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(descriptor)

    def cut(*_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 30, write=put, sync=sync)
    write(writer, b"a")
    failing = True
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", cut)
        with pytest.raises(SourceError) as caught:
            write(writer, b"b")
    assert isinstance(caught.value, SpoolUnsynced) != synced
    failing = False
    write(writer, b"b")
    records, damages = read_damages(SpoolReader(folder, Place()))
    assert records == [b"a", b"b"]
    assert [d.end - d.offset for d in damages] == [20]
    writer.close()


def test_a_block_of_very_many_records_is_read_in_parts(writer: SpoolWriter, tmp_path: Path) -> None:
    expected = [b"%d" % number for number in range(130_000)]
    write(writer, *expected)
    write(writer, b"next")
    reader = SpoolReader(tmp_path / "s", Place())
    began = time.perf_counter()
    reader.read(1000, 1 << 20)
    place = reader.place
    reader.commit()
    read_all(reader, 7)
    reader.rewind()
    assert reader.place == place
    assert read_all(reader, 7) == [*expected[1000:], b"next"]
    assert time.perf_counter() - began < 20


def test_after_a_failed_sync_a_new_segment_is_begun(tmp_path: Path) -> None:
    failing = [True]

    def sync(descriptor: int) -> None:
        if failing.pop() if failing else False:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(descriptor)

    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 30, sync=sync)
    write(writer, b"a")
    assert writer.unsynced
    with pytest.raises(SourceError, match="Input/output error"):
        writer.sync()
    write(writer, b"b")
    writer.sync()
    assert len(list_segments(folder)) == 2
    assert read_all(SpoolReader(folder, Place())) == [b"a", b"b"]
    writer.close()


def test_a_folder_that_can_not_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="spool can't be written: Not a directory"):
        SpoolWriter(tmp_path / "file" / "s", cap=1 << 30)


def test_other_files_in_the_folder_are_left_alone(writer: SpoolWriter, tmp_path: Path) -> None:
    for name in ("0000000001.spool", "notes.txt", "0000000009-xyz.spool"):
        (tmp_path / "s" / name).write_text("not ours")
    write(writer, b"a")
    reader = SpoolReader(tmp_path / "s", Place())
    assert read_all(reader) == [b"a"]
    reader.commit()
    assert (tmp_path / "s" / "notes.txt").exists()


def test_a_segment_that_can_not_be_read_is_an_error(
    writer: SpoolWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(writer, b"a")
    reader = SpoolReader(tmp_path / "s", Place())

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(SourceError, match="spool can't be read: Input/output error"):
            reader.read(10, 1000)
    assert read_all(reader) == [b"a"]


def test_a_deleted_folder_is_noticed_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 30)
    write(writer, b"a")
    reader = SpoolReader(folder, Place())
    shutil.rmtree(folder)
    with pytest.raises(SpoolUnsynced, match="its files were deleted"):
        writer.sync()
    write(writer, b"b")
    writer.sync()
    assert read_all(reader) == [b"b"]
    shutil.rmtree(folder)
    assert read_all(reader) == []
    writer.close()


def test_a_segment_deleted_before_it_was_read_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = SpoolWriter(folder, cap=1 << 20)
    for number in range(300):
        write(writer, b"%d" % number + b"x" * 1000)
    reader = SpoolReader(folder, Place())
    reader.read(1, 1000)
    list_segments(folder)[1].path.unlink()
    found = []
    for _ in range(3):
        with contextlib.suppress(SourceError):
            found += read_all(reader)
    assert found[-1].startswith(b"299x")
    writer.close()


def test_read_block_reads_no_further_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(MARKER + (1 << 27).to_bytes(4, "little") + b"abcd" * 10)
    descriptor = os.open(path, os.O_RDONLY)
    assert read_block(descriptor, MARKER, 0) is None
    os.close(descriptor)
