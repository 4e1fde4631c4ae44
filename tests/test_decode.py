"""Decode: every format against real-shaped and forged lines, and against any bytes at all."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.decode import FORMATS, decode, detect_format, text
from appliance.decode.json_object import MAX_BYTES, MAX_DEPTH
from appliance.decode.syslog5424 import MAX_ELEMENTS, MAX_PARAMS, REST
from appliance.errors import DecodeError
from appliance.schema import RECORD_FORMATS, Cursor, RawRecord

SAMPLES = Path(__file__).parent / "samples" / "decode"


def make_record(
    data: bytes, format_name: str = "auto", truncated: int = 0, header: bytes = b""
) -> RawRecord:
    cursor = Cursor("test", "sample.log", 0, len(data))
    return RawRecord(
        data=data,
        source="test",
        path="/var/log/sample.log",
        logical="sample.log",
        cursor=cursor,
        received=1_790_000_000.0,
        format=format_name,
        truncated=truncated,
        header=header,
    )


def load_samples() -> list[Any]:
    found = []
    for path in sorted(SAMPLES.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            sample = json.loads(line)
            found.append(pytest.param(path.stem, sample, id=f"{path.stem}: {sample['name']}"))
    return found


def encode_line(sample: dict[str, Any]) -> bytes:
    """A lone surrogate in a sample stands for the bad byte that it escapes (PEP 383)."""
    return str(sample["line"]).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(("format_name", "sample"), load_samples())
def test_sample(format_name: str, sample: dict[str, Any]) -> None:
    header = str(sample.get("header", "")).encode()
    record = make_record(encode_line(sample), sample.get("format", "auto"), header=header)
    if "reject" in sample:
        with pytest.raises(DecodeError, match=re.escape(sample["reject"])):
            decode(record)
        return
    decoded = decode(record)
    assert decoded.format == format_name
    assert {name: decoded.fields.get(name) for name in sample["fields"]} == sample["fields"]
    assert not set(sample.get("absent", ())) & decoded.fields.keys()
    assert decoded.repaired == sample.get("repaired", False)


def test_every_format_has_a_sample_and_a_forged_line() -> None:
    for name in FORMATS:
        samples = [
            json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text().splitlines()
        ]
        assert any("fields" in sample for sample in samples), name
        assert any(sample.get("forged") for sample in samples), name


def test_every_leading_time_form_has_a_sample() -> None:
    lines = [json.loads(line)["line"] for line in (SAMPLES / "text.jsonl").read_text().splitlines()]
    for form in text.TIME_FORMS:
        assert any(re.match(rf"\W{{0,2}}(?:{form})", line) for line in lines), form


@given(st.binary(max_size=400), st.sampled_from([*FORMATS, "auto"]))
@example(b"<14>1 - - - - - [", "syslog5424")
@example(b"Mar  1 09:00:01 \xff \xfe[1]: \xed\xa0\x80", "auto")
def test_any_bytes_decode_or_are_rejected(data: bytes, format_name: str) -> None:
    try:
        decoded = decode(make_record(data, format_name))
    except DecodeError as error:
        assert str(error)
    else:
        # What was decoded can be written again: no lone surrogate, no NaN.
        json.dumps(decoded.fields, allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(
    st.sampled_from(["<13>", "<13>1 2026-03-01T09:00:00Z ", "Mar  1 09:00:00 ", "{", '{"a":', "["]),
    st.binary(max_size=200),
)
def test_any_bytes_behind_a_real_beginning(start: str, rest: bytes) -> None:
    data = start.encode() + rest
    assert detect_format(data) in FORMATS
    try:
        decoded = decode(make_record(data))
    except DecodeError:
        return
    json.dumps(decoded.fields, allow_nan=False, ensure_ascii=False).encode("utf-8")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_both_json_readers_agree(value: dict[str, Any]) -> None:
    """A NaN sends the same object through the tolerant reader: the rest must come out the same."""
    plain = json.dumps(value).encode()
    marked = json.dumps({**value, "marker": float("nan")}).encode()
    fast = decode(make_record(plain, "json")).fields
    slow = decode(make_record(marked, "json")).fields
    assert slow.pop("marker") == "NaN"
    fast.pop("marker", None)
    assert {k: v for k, v in fast.items() if k != "marker"} == slow


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1200, 200_000])
def test_nesting_bomb_is_rejected(opening: str, depth: int) -> None:
    closing = "]" if opening == "[" else "}"
    data = ('{"x":' + opening * depth + "1" + closing * depth + "}").encode()
    with pytest.raises(DecodeError, match="nests deeper"):
        decode(make_record(data, "json"))


def test_many_shallow_objects_are_no_bomb() -> None:
    data = json.dumps({"rows": [{"n": n} for n in range(1000)]}).encode()
    assert len(decode(make_record(data)).fields["rows"]) == 1000


def test_size_limit() -> None:
    with pytest.raises(DecodeError, match="over the limit"):
        decode(make_record(b'{"a":"' + b"x" * MAX_BYTES + b'"}', "json"))


def test_cut_record_says_so() -> None:
    with pytest.raises(DecodeError, match="record of 9999 bytes was cut"):
        decode(make_record(b'{"a":"b', truncated=9999))


def test_unknown_format_is_named() -> None:
    with pytest.raises(DecodeError, match="unknown format 'cobol'"):
        decode(make_record(b"x", "cobol"))


@pytest.mark.parametrize(
    "data",
    [
        b'{"Event":"Login","Category":"System","user":"x"}',
        b'{"Event":{"x":1},"Source":"System","user":"x"}',
        b" " * 5000 + b'{"user":"x"}',
        b"\0" * 5000 + b'{"user":"x"}',
        b'{"user":"x"}\0\r\n',
        b"{" + b" " * 5000 + b'"user":"x"}',
    ],
)
def test_object_is_read_as_json_whatever_surrounds_it(data: bytes) -> None:
    decoded = decode(make_record(data))
    assert (decoded.format, decoded.fields["user"]) == ("json", "x")


def test_configured_evtx_holds_an_event() -> None:
    with pytest.raises(DecodeError, match=r"Event.System is missing"):
        decode(make_record(b'{"Event":"Login","Category":"System"}', "evtx"))


def test_client_can_not_make_a_line_binary() -> None:
    line = b'192.0.2.3 - - [01/Mar/2026:09:00:00 +0100] "GET / HTTP/1.1" 200 5 "-" "' + b"\1" * 90
    assert decode(make_record(line)).fields["message"] == line.decode()


@pytest.mark.parametrize("marker", ["NaN", "1e999"])
@pytest.mark.parametrize("number", ["1" * 400, "-" + "9" * 25, "1e400", "18446744073709551616"])
def test_tolerant_reader_reads_numbers_as_the_fast_one(number: str, marker: str) -> None:
    value = decode(make_record(f'{{"n":{number},"m":{marker}}}'.encode())).fields["n"]
    assert value == number if "e" in number or len(number) > 300 else float(number)


def test_structured_data_of_one_id_twice_keeps_both() -> None:
    line = b'<14>1 2026-03-01T09:00:00Z h a - - [x a="1" b="2"][x a="3"] m'
    fields = decode(make_record(line)).fields
    assert fields["structured_data"] == {"x": {"a": ["1", "3"], "b": "2"}}
    assert fields["message"] == "m"


def test_structured_data_beyond_the_caps_is_kept_as_text() -> None:
    params = "".join(f' p{number}="{number}"' for number in range(MAX_PARAMS + 2))
    more = "".join(f"[e{number}]" for number in range(MAX_ELEMENTS))
    line = f"<14>1 2026-03-01T09:00:00Z h a - - [x{params}]{more} the message"
    fields = decode(make_record(line.encode())).fields
    data = fields["structured_data"]
    assert len(data["x"]) == MAX_PARAMS + 1
    assert data["x"][REST] == f'p{MAX_PARAMS}="{MAX_PARAMS}" p{MAX_PARAMS + 1}="{MAX_PARAMS + 1}"'
    assert data[REST] == {REST: f"[e{MAX_ELEMENTS - 1}]"}
    assert fields["message"] == "the message"


def test_configured_format_wins_over_looks() -> None:
    assert decode(make_record(b'{"a":1}', "text")).fields == {"message": '{"a":1}'}


@pytest.mark.parametrize(
    "line",
    [
        b"2026-03-01T09:00:00Z INFO main: started",
        b"2026-03-01T09:00:00Z ERROR worker[3]: died",
        b"2026-03-01T09:00:00.110+0100 [conn1] end connection",
        b"Mar  1 09:00:00 2026 - OK - [192.0.2.1]",
    ],
)
def test_application_log_is_not_taken_for_syslog(line: bytes) -> None:
    assert detect_format(line) == "text"


@pytest.mark.parametrize(
    "data",
    [
        b'<14>1 2026-03-01T09:00:00Z h a - - [x@1 a="' + b'\\"' * 200_000,
        b"<14>1 2026-03-01T09:00:00Z h a - - " + b'[x@1 a="b"]' * 40_000 + b"[",
        b"Mar  1 09:00:01 " + b"a" * 500_000,
        b"Mar  1 09:00:01 h " + b"a.b/" * 100_000 + b"[",
        b"[" * 500_000,
        b"1 " * 250_000 + b"[",
    ],
)
@pytest.mark.timeout(5)
def test_long_hostile_line_is_read_in_time(data: bytes) -> None:
    assert decode(make_record(data)).fields


def test_every_format_but_the_two_of_sources_can_be_configured() -> None:
    assert set(RECORD_FORMATS) == {"auto", *FORMATS} - {"evtx", "journal"}
