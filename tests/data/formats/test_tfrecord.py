"""TFRecord: framing, tf.train.Example in the wire format, and reports of damage."""

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.data.formats.format import Format, list_chunks
from recap.data.formats.tables import TableFiles
from recap.data.formats.tfrecord.example import (
    BYTES,
    FLOATS,
    INTEGERS,
    Span,
    byte_values,
    decode_varints,
    find_features,
    loose_numbers,
    write_example,
)
from recap.data.formats.tfrecord.records import index_records, masked_crc, record_spans
from recap.data.formats.tfrecord.spans import find_spans
from recap.errors import DataError


def parse(record: bytes, *names: bytes) -> dict[bytes, list[Any]]:
    """The values of the features present."""
    spans: list[Span | None] = [None] * len(names)
    find_features(record, {name: index for index, name in enumerate(names)}, spans)
    found: dict[bytes, list[Any]] = {}
    for name, span in zip(names, spans, strict=True):
        content = record[span[1] : span[2]] if span is not None else b""
        if span is not None and span[0] == BYTES:
            found[name] = byte_values(content)
        elif span is not None:
            bytes_ = np.frombuffer(content if span[0] > 0 else loose_numbers(content), np.uint8)
            found[name] = list(bytes_.view("<f4") if abs(span[0]) == FLOATS else decode_varints(bytes_)[0])
    return found


features = st.dictionaries(
    st.text(max_size=5).map(str.encode),
    st.tuples(st.just(BYTES), st.lists(st.binary(max_size=5), min_size=1, max_size=3))
    | st.tuples(st.just(FLOATS), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4))
    | st.tuples(st.just(INTEGERS), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)),
    max_size=4,
)


@given(features)
def test_an_example_reads_back_unchanged(written: dict[bytes, tuple[int, list[Any]]]) -> None:
    assert parse(write_example(written), *written) == {name: values for name, (_, values) in written.items()}


@given(st.binary(max_size=60))
def test_bytes_that_are_not_an_example_are_refused(record: bytes) -> None:
    try:
        parse(record, b"")
    except ValueError as error:
        assert str(error)


def test_numbers_may_be_packed_or_not() -> None:
    unpacked = b"".join(b"\x08" + bytes([value]) for value in (1, 2, 3))  # field 1, varint, three times
    feature = b"\x1a" + bytes([len(unpacked)]) + unpacked
    entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
    inner = b"\x0a" + bytes([len(entry)]) + entry
    record = b"\x0a" + bytes([len(inner)]) + inner
    assert parse(record, b"x")[b"x"] == [1, 2, 3]


def test_varints_of_every_length_are_read() -> None:
    values = [0, 127, 128, 300, 2**35, 2**63 - 1, -1]
    assert parse(write_example({b"x": (INTEGERS, values)}), b"x")[b"x"] == values
    with pytest.raises(ValueError, match="cut short"):
        decode_varints(np.array([128], np.uint8))
    with pytest.raises(ValueError, match="more than 64 bits"):
        decode_varints(np.array([128] * 10 + [1], np.uint8))


def message(number: int, content: bytes) -> bytes:
    """A field with a length, up to 2^14."""
    size = len(content)
    return bytes([number << 3 | 2]) + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + content


NAMES = [b"a", b"b", b"ab", b"", b"\xff" * 130]
"""The names that are looked up; c is not one of them."""


@st.composite
def odd_features(draw: st.DrawFn) -> bytes:
    """A Feature in any form that the format allows, and some that it does not."""
    kind = draw(st.sampled_from([BYTES, FLOATS, INTEGERS]))
    packed = message(1, draw(st.binary(max_size=9)))
    loose = b"".join(b"\x08" + bytes([value]) for value in draw(st.lists(st.integers(0, 127), max_size=3)))
    content = draw(
        st.sampled_from([packed, packed, loose, packed + loose, b"", message(2, b"x"), b"\x0a\x80\0", b"\xff"])
    )
    feature = message(kind, content)
    return draw(st.sampled_from([feature, feature, feature, b"", feature + feature, message(4, b"x"), feature + b"\0"]))


@st.composite
def odd_records(draw: st.DrawFn) -> bytes:
    """A record of entries in any order, some repeated, some cut short."""
    entries = b""
    for name in draw(st.lists(st.sampled_from([*NAMES, b"c"]), max_size=6)):
        key, value = message(1, name), message(2, draw(odd_features()))
        usual = key + value
        entry = draw(
            st.sampled_from([usual, usual, usual, value + key, key, value, usual + value, message(3, b"") + usual])
        )
        entries += draw(st.sampled_from([message(1, entry)] * 9 + [message(2, entry), entry]))
    record = message(1, entries)
    made = [record] * 6 + [entries, record + message(2, b"x"), message(1, b"") + record, record[:-1], b""]
    return draw(st.sampled_from(made))


@given(st.lists(odd_records() | st.binary(max_size=12), max_size=25), st.sampled_from(["all", "first", "none"]))
def test_many_records_parse_as_one_by_one(records: list[bytes], same: str) -> None:
    """`find_spans` agrees with `find_features`, which is slow and simple, on any record."""
    if same != "none":
        records = records[:1] * 5 + (records if same == "first" else [])
    starts = np.cumsum([0] + [len(record) + 16 for record in records[:-1]])[: len(records)] + 12
    ends = starts + np.array([len(record) for record in records], np.int64)
    data = np.frombuffer(b"".join(b"\x0a" * 12 + record + b"\x0a" * 4 for record in records), np.uint8)
    names = {name: index for index, name in enumerate(NAMES)}
    spans, wrong = find_spans(data, starts, ends, names)
    for row, record in enumerate(records):
        expected: list[Span | None] = [None] * len(names)
        try:
            find_features(record, names, expected)
        except ValueError as error:
            assert wrong[row] == str(error)
            continue
        assert row not in wrong
        for index, span in enumerate(expected):
            kind = spans.kinds[index, row]
            found = (kind, spans.starts[index, row] - starts[row], spans.ends[index, row] - starts[row])
            assert (found if kind else None) == span


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50), st.integers(1, 200))
def test_records_are_indexed_from_pieces_of_any_size(records: list[bytes], piece: int, block: int) -> None:
    data = b"".join(framed(record) for record in records)
    cut = index_records([data[at : at + piece] for at in range(0, len(data), piece)], block)
    assert (cut.rows, cut.torn) == (len(records), None)
    found: list[bytes] = []
    for part in cut.blocks:
        assert part.first_row == len(found)
        content = data[part.offset : part.offset + part.length]
        found += [content[start:end] for start, end in record_spans(np.frombuffer(content, np.uint8), part.rows)]
    assert found == records


def test_the_masked_crc_matches_the_format() -> None:
    assert masked_crc(b"") == 0xA282EAD8
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    head = struct.pack("<Q", len(record))
    return head + struct.pack("<I", masked_crc(head)) + record + struct.pack("<I", masked_crc(record))


def write_records(file: Path, records: list[bytes]) -> None:
    file.write_bytes(b"".join(framed(record) for record in records))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Three records of an age, a vector, a word and a list of topics; the second has none of them."""
    entries = [
        ("age", "float_list", 1),
        ("vector", "float_list", 2),
        ("word", "bytes_list", 1),
        ("topics", "int64_list", -1),
    ]
    schema = [{"feature_name": name, "dtype": dtype, "length": length} for name, dtype, length in entries]
    (tmp_path / "schema.json").write_text(json.dumps({"schema": schema}))
    full = {
        b"age": (FLOATS, [1.5]),
        b"vector": (FLOATS, [1, 2]),
        b"word": (BYTES, [b"hi"]),
        b"topics": (INTEGERS, [5, 6]),
    }
    write_records(tmp_path / "rows.tfrecord", [write_example(full), write_example({}), write_example(full)])
    return tmp_path / "rows.tfrecord"


def open_records(file: Path) -> Format:
    return TableFiles.open([str(file)], str(file.with_name("schema.json"))).format


def read_records(file: Path, skip: Sequence[int] = ()) -> pa.Table:
    format_ = open_records(file)
    assert [chunk.rows for chunk in list_chunks(format_, str(file))] == [3]
    return format_.read(str(file), 0, format_.schema(str(file)).names, skip)


def test_absent_features_are_zeros_or_empty(records: Path) -> None:
    table = read_records(records)
    assert table.schema.types == [pa.float32(), pa.list_(pa.float32(), 2), pa.binary(), pa.list_(pa.int64())]
    assert table.column("age").to_pylist() == [1.5, 0, 1.5]
    assert table.column("vector").to_pylist() == [[1, 2], [0, 0], [1, 2]]
    assert table.column("word").to_pylist() == [b"hi", b"", b"hi"]
    assert table.column("topics").to_pylist() == [[5, 6], [], [5, 6]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], r"row 2: the file ends in the middle of the record"),
        (lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:], r"row 0: the record is damaged \(crc32c\)"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], r"row 0: the length of the record is damaged .*TFRecord file\?"),
        (lambda data: b"no records at all", r"row 0: the length of the record is damaged"),
    ],
)
def test_a_damaged_record_is_reported_with_its_row(damage: Any, message: str, records: Path) -> None:
    records.write_bytes(damage(records.read_bytes()))
    with pytest.raises(DataError, match=f"rows.tfrecord: {message}"):
        read_records(records)


def test_a_record_that_does_not_fit_the_schema_is_reported_with_column_and_row(records: Path) -> None:
    for feature, message in (
        ({b"age": (INTEGERS, [1])}, "column 'age', row 1: holds integers, but the schema has float"),
        ({b"vector": (FLOATS, [1.0] * 3)}, "column 'vector', row 1: holds 3 values, but the schema has 2"),
        ({b"word": (FLOATS, [1.0])}, "column 'word', row 1: holds floats, but the schema has binary"),
    ):
        write_records(records, [write_example({}), write_example(feature), write_example({})])  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message) as raised:
            read_records(records)
        assert raised.value.rows == (1,)
    write_records(records, [write_example({}), b"\x0a\xff", write_example({})])
    with pytest.raises(DataError, match=r"row 1: not a tf.train.Example"):
        read_records(records)


def test_an_error_lists_all_bad_rows_and_the_others_can_be_read(records: Path) -> None:
    fine, other, long = write_example({b"age": (FLOATS, [7])}), {b"age": (INTEGERS, [1])}, {b"age": (FLOATS, [1, 2])}
    rows = [fine, b"\x0a\xff", write_example(other), write_example(long), fine, write_example(other), fine]
    write_records(records, rows)
    data = bytearray(records.read_bytes())
    data[-6] ^= 1  # within the data of row 6
    records.write_bytes(data)
    format_, left_out, errors = open_records(records), list[int](), list[tuple[int, ...]]()
    while len(errors) < 10:
        try:
            table = format_.read(str(records), 0, ["age"], sorted(left_out))
            break
        except DataError as error:
            assert f"row {error.rows[0]}:" in str(error)
            errors.append(error.rows)
            left_out += error.rows
    assert errors == [(6,), (1,), (2, 5), (3,)]
    assert table.column("age").to_pylist() == [7, 7]


def test_numbers_that_are_cut_or_too_long_are_reported_with_their_rows(records: Path) -> None:
    def packed(name: bytes, kind: int, content: bytes) -> bytes:
        """A record whose numbers are these bytes."""
        return message(1, message(1, message(1, name) + message(2, message(kind, message(1, content)))))

    fine = write_example({})
    for record, text in (
        (packed(b"vector", FLOATS, b"\0" * 7), "'vector', row 1: a float is cut short"),
        (packed(b"topics", INTEGERS, b"\5\x80"), "'topics', row 1: an integer is cut short"),
        (packed(b"topics", INTEGERS, b"\5" + b"\x80" * 10 + b"\1"), "'topics', row 1: an integer of more than 64 bits"),
        (packed(b"word", BYTES, b"x")[:-3] + b"\x0a\x02x", "'word', row 1: not a list of bytes"),
    ):
        write_records(records, [fine, record, write_example({b"topics": (INTEGERS, [300, 5])}), record])
        with pytest.raises(DataError, match=text) as raised:
            open_records(records).read(str(records), 0, ["vector", "word", "topics"])
        assert raised.value.rows == (1, 3)


def test_rows_before_a_torn_end_can_be_read(records: Path) -> None:
    whole = records.read_bytes()
    ends = [0, *(int(end) + 4 for _, end in record_spans(np.frombuffer(whole, np.uint8), 3))]
    for cut in range(len(whole) + 1):
        records.write_bytes(whole[:cut])
        assert_torn(records, sum(end <= cut for end in ends[1:]), "" if cut in ends else "in the middle of the record")
    for row in range(3):
        records.write_bytes(whole[: ends[row]] + bytes([whole[ends[row]] ^ 1]) + whole[ends[row] + 1 :])
        assert_torn(records, row, "the length of the record is damaged")


def test_rows_before_damage_of_a_gzip_stream_can_be_read(records: Path) -> None:
    record = write_example({b"vector": (FLOATS, [1, 2])})
    write_records(records, [record] * 300)
    compressed = gzip.compress(records.read_bytes(), mtime=0, compresslevel=1)
    file = records.with_name("rows.tfrecord.gz")
    for cut in range(20, len(compressed), 7):
        file.write_bytes(compressed[:cut])
        rows = sum(open_records(file).chunk_rows(str(file)))
        assert_torn(file, rows, "the gzip stream is cut short")
    file.write_bytes(compressed[:-5] + bytes([compressed[-5] ^ 1]) + compressed[-4:])
    rows = sum(open_records(file).chunk_rows(str(file)))
    assert 280 < rows < 300
    assert_torn(file, rows, "the gzip stream is damaged")
    file.write_bytes(compressed + b"\0" * 9 + compressed)
    assert_torn(file, 600, "")


def assert_torn(file: Path, rows: int, text: str) -> None:
    """`rows` rows can be read, and the error after them is reported."""
    format_ = open_records(file)
    torn = format_.torn_end(str(file))
    assert (str(torn) if torn else "").startswith(f"{file}: row {rows}: " if text else "")
    assert text in str(torn) if text else torn is None
    counts = format_.chunk_rows(str(file))
    assert sum(counts) == rows
    for chunk, count in enumerate(counts):
        assert format_.read(str(file), chunk, ["vector"]).num_rows == count


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": [{"feature_name": "a"}]}', "[" * 100_000])
def test_an_invalid_schema_file_is_refused(text: str, records: Path) -> None:
    records.with_name("schema.json").write_text(text)
    with pytest.raises(DataError, match=r'schema.json: expected JSON \{"schema": '):
        read_records(records)
    records.with_name("schema.json").unlink()
    with pytest.raises(DataError, match="the schema cannot be read"):
        read_records(records)
