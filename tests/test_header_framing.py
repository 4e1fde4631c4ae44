"""Header lines of Zeek and W3C logs: with every record, after any restart, never lost."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.schema import RawRecord
from appliance.sources.framing import is_undecided, sniff_content
from appliance.sources.header_framing import HEADER_BYTES, HeaderFormat, HeaderFramer
from appliance.sources.streams import StreamLimits, StreamName, Want, open_stream
from tests.test_files_source import Reader, append
from tests.test_framing import chunk_sizes, frame_all

ZEEK = (
    b"#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    b"#open\t2024-01-01-00-00-00\n#fields\tts\tuid\n#types\ttime\tstring\n"
)
IIS = (
    b"#Software: Microsoft Internet Information Services 10.0\r\n#Version: 1.0\r\n"
    b"#Date: 2024-01-01 00:00:00\r\n#Fields: date time c-ip\r\n"
)


def headers(data: bytes, form: HeaderFormat) -> list[tuple[bytes, bytes]]:
    frames = frame_all(HeaderFramer(0, 1000, 100, form=form), data, [len(data)])
    return [(frame.data, frame.header) for frame in frames]


def read_records(reader: Reader) -> list[RawRecord]:
    reader.clock.now += 10
    records: list[RawRecord] = []
    for _ in range(20):
        batch = reader.source.poll(1000)
        reader.store(batch)
        records += batch.records
        if not reader.source.has_more:
            break
    return records


def test_every_record_has_its_header() -> None:
    data = ZEEK + b"1\ta\n2\tb\n#close\t2024-01-01-01-00-00\n"
    assert headers(data, "zeek") == [(b"1\ta", ZEEK.rstrip()), (b"2\tb", ZEEK.rstrip())]
    iis = IIS.replace(b"\r", b"").rstrip()
    assert headers(IIS + b"2024-01-01 00:00:01 198.51.100.1\r\n", "w3c") == [
        (b"2024-01-01 00:00:01 198.51.100.1", iis)
    ]


def test_a_header_in_the_middle_takes_the_place_of_the_one_before() -> None:
    again = IIS.replace(b"c-ip", b"c-ip cs-method").replace(b"00:00:00", b"05:00:00")
    first, second = headers(IIS + b"1\n" + again + b"2\n", "w3c")
    assert b"#Fields: date time c-ip\n" in first[1] + b"\n"
    assert second[1] == again.replace(b"\r", b"").rstrip()
    data = ZEEK + b"1\n#close\tx\n" + ZEEK.replace(b"conn", b"dns") + b"2\n"
    assert headers(data, "zeek")[1] == (b"2", ZEEK.replace(b"conn", b"dns").rstrip())


def test_what_only_looks_like_a_header_is_a_record() -> None:
    data = ZEEK + b"#fieldsx\ta\n#Fields: x\n# text\n#\n#close\tx\n"
    assert [text for text, _ in headers(data, "zeek")] == [
        b"#fieldsx\ta",
        b"#Fields: x",
        b"# text",
        b"#",
    ]
    data = IIS + b"#Fieldsx: a\n#fields\tts\n"
    assert [text for text, _ in headers(data, "w3c")] == [b"#Fieldsx: a", b"#fields\tts"]


def test_without_a_header_records_have_none() -> None:
    assert headers(b"1\t2\n", "zeek") == [(b"1\t2", b"")]


def test_a_header_over_the_cap_ends_the_stream() -> None:
    framer = HeaderFramer(0, 1 << 20, 100, form="zeek")
    data = b"#separator \\x09\n1\n#fields\t" + b"x" * HEADER_BYTES + b"\n2\n"
    frames = framer.feed(data)
    assert [frame.data for frame in frames] == [b"1"]
    assert "header of" in framer.broken
    assert framer.position == 18
    assert framer.feed(b"3\n") == framer.finish() == []


def test_headers_do_not_grow_for_ever() -> None:
    framer = HeaderFramer(0, 1000, 100, form="w3c")
    for number in range(5000):
        framer.feed(b"#Remark: %d\n#Date: %d\n" % (number, number))
    assert len(framer.header) < 100
    assert not framer.broken


pieces = st.lists(
    st.sampled_from([b"1\n", b"#Fields: a\n", b"#Fields: b\n", b"#x\n", b"\n", b"#Date: 1\n", b"2"])
)


@given(pieces, chunk_sizes)
def test_records_and_headers_do_not_depend_on_chunks_or_restarts(
    parts: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(parts)
    whole = frame_all(HeaderFramer(0, 50, 9, form="w3c"), data, [len(data) or 1])
    assert frame_all(HeaderFramer(0, 50, 9, form="w3c"), data, cuts) == whole
    for cut in range(len(data) + 1):
        first = HeaderFramer(0, 50, 9, form="w3c")
        before = first.feed(data[:cut])
        again = HeaderFramer(first.position, 50, 9, form="w3c", header=first.header)
        assert before + again.feed(data[first.position :]) + again.finish() == whole


def test_what_such_a_log_begins_with() -> None:
    assert sniff_content(ZEEK) == "zeek"
    assert sniff_content(b"# a comment\n" + ZEEK) == "zeek"
    assert sniff_content(b"\xef\xbb\xbf" + IIS) == sniff_content(IIS) == "w3c"
    assert sniff_content(b"#Version: 1.0\n#Fields: date\n") == "w3c"
    assert sniff_content(b"# x\n#Version: 1\nText\n") == "lines"
    for part in (b"#", b"#Soft", b"#separator", IIS[:60], IIS[:-3]):
        assert is_undecided(part)
    for part in (b"#!/bin/sh\n", b"# Fields\n", IIS, ZEEK):
        assert not is_undecided(part)


@pytest.mark.parametrize(("head", "row"), [(ZEEK, b"1\tx\n"), (IIS, b"d t 1\r\n")])
def test_growth_restart_and_rotation(tmp_path: Path, head: bytes, row: bytes) -> None:
    log = tmp_path / "conn.log"
    log.write_bytes(head[:20])
    reader = Reader(str(tmp_path / "conn*"))
    assert read_records(reader) == []
    log.write_bytes(head + row)
    header = head.replace(b"\r", b"").rstrip()
    assert [r.header for r in read_records(reader)] == [header]
    reader.restart()
    append(log, row.decode().strip() + "\n")
    assert [r.header for r in read_records(reader)] == [header]
    assert reader.source.describe()["header_lines"] == 0  # of this life
    log.rename(tmp_path / "conn.log.1")
    other = head.replace(b"#Version: 1.0", b"#Version: 2.0").replace(b"conn", b"http")
    log.write_bytes(other + row)
    (record,) = read_records(reader)
    assert record.header == other.replace(b"\r", b"").rstrip()
    assert record.data == row.strip()
    assert reader.source.describe()["header_lines"] == head.count(b"\n")


def test_what_was_not_stored_comes_again_with_its_header(tmp_path: Path) -> None:
    log = tmp_path / "u.log"
    log.write_bytes(IIS + b"1\n")
    reader = Reader(str(log))
    read_records(reader)
    again = IIS.replace(b"c-ip", b"cs-method")
    append(log, again.decode().replace("\r", "") + "2\n")
    reader.clock.now += 10
    first = reader.source.poll(100).records
    reader.source.rewind()
    assert reader.source.poll(100).records == first
    assert first[0].header.endswith(b"cs-method")


def test_beginning_at_the_end_knows_the_header(tmp_path: Path) -> None:
    log = tmp_path / "u.log"
    log.write_bytes(IIS + b"1\n" * 100_000 + IIS.replace(b"c-ip", b"cs-method") + b"2\n" * 100_000)
    reader = Reader(str(log), start_at="end")
    assert read_records(reader) == []
    append(log, "3\n")
    (record,) = read_records(reader)
    assert record.data == b"3"
    assert record.header.endswith(b"#Fields: date time cs-method")


def test_a_copy_is_followed_with_the_header(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    rows = b"".join(b"%d\tx\n" % number for number in range(200))
    log.write_bytes(ZEEK + rows)
    reader = Reader(str(tmp_path / "conn.log*"))
    assert len(read_records(reader)) == 200
    (tmp_path / "conn.log.1").write_bytes(ZEEK + rows + b"last\tx\n")
    log.write_bytes(b"")
    (record,) = read_records(reader)
    assert (record.data, record.header) == (b"last\tx", ZEEK.rstrip())


def test_a_stream_that_is_refused_for_its_header(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_bytes(ZEEK + b"1\n#fields\t" + b"x\t" * HEADER_BYTES + b"\n2\n")
    reader = Reader(str(log))
    reader.clock.now += 10
    batch = reader.source.poll(100)
    assert [r.data for r in batch.records] == [b"1"]
    assert ["header of" in r.reason for r in batch.rejected] == [True]
    reader.store(batch)
    append(log, "3\n")
    reader.restart()
    assert reader.read() == []
    reader.clock.now += 10
    assert reader.source.poll(100).rejected == []  # said once


@pytest.mark.parametrize("name", ["auto", "zeek"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_file(tmp_path: Path, packed: bool, name: str) -> None:
    data = ZEEK + b"1\n#odd\n2"
    path = tmp_path / "conn"
    path.write_bytes(gzip.compress(data) if packed else data)
    stream = open_stream(StreamName("s", "k", "k", str(path), name), StreamLimits())
    batch = stream.read(Want(100, final=True), 0.0)
    assert [r.data for r in batch.records] == [b"1", b"#odd", b"2"]
    assert {r.header for r in batch.records} == {ZEEK.rstrip()}
    assert stream.header_lines == 8
    stream.close()


def test_another_configured_format_reads_lines(tmp_path: Path) -> None:
    path = tmp_path / "conn"
    path.write_bytes(ZEEK + b"1\n")
    stream = open_stream(StreamName("s", "k", "k", str(path), "text"), StreamLimits())
    assert len(stream.read(Want(100, final=True), 0.0).records) == 9
    stream.close()
