"""Every format of files: the same rows, resumable at every place, and damage told with its place."""

import gzip
import json
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.stream_law import assert_resumes_everywhere, assert_same
from hypothesis import given
from hypothesis import strategies as st
from support import feed_config, feed_table

from recap.config.data import SourceKind
from recap.config.recap import JobMode
from recap.data.assets import load_assets
from recap.data.convert import convert_files
from recap.data.sources import blocks
from recap.data.sources.example import (
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
from recap.data.sources.source import guess_source, open_format
from recap.data.sources.tfrecord import masked_crc
from recap.data.stream import BatchStream, open_stream
from recap.errors import DataError

KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
LISTS = [kind for kind in KINDS if kind != "csv"]


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small feed without nulls and lists, and one with lists, in every format; words.parquet beside it."""
    folder = tmp_path_factory.mktemp("formats")
    table = feed_table(300).drop_columns(["age"])
    for name, rows in (("scalars", table.drop_columns(["vector", "topics"])), ("lists", table)):
        (folder / "made" / name).mkdir(parents=True)
        for part in range(2):
            file = folder / "made" / name / f"part-{part}.parquet"
            pq.write_table(rows.slice(part * 150, 150), file, row_group_size=40)
        for kind in KINDS if name == "scalars" else LISTS:
            convert_files([str(folder / "made" / name / "*.parquet")], folder / name / kind, kind)
    pq.write_table(pa.table({"value": ["en", "ja", "pt"]}), folder / "words.parquet")
    return folder


def source(folder: Path, name: str, kind: SourceKind) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": kind, "inputs": str(folder / name / kind / "part-*")}
    return said | ({"schema_path": str(folder / name / kind / "schema.json")} if kind == "tfrecord" else {})


def open_data(folder: Path, name: str, kind: SourceKind, window_rows: int = 0) -> BatchStream:
    discrete = {"hour": {"size": 24}, "language": {"vocabulary": str(folder / "words.parquet")}}
    features: dict[str, Any] = {"continuous": ["followers"], "binary": ["in_network"], "discrete": discrete}
    config = feed_config(
        folder,
        folder / "run",
        features=features | {"vectors": {"vector": 4} if name == "lists" else {}, "user": "user_id"},
        train_data={
            "source": source(folder, name, kind),
            "global_batch_size": 32,
            "shuffle_window_rows": window_rows,
        },
        validation_data={},
    )
    return open_stream(config, load_assets(config.features), JobMode.TRAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_rows_of_parquet(kind: SourceKind, formats: Path) -> None:
    names = ["scalars"] if kind == "csv" else ["scalars", "lists"]
    for name in names:
        streams = (open_data(formats, name, "parquet"), open_data(formats, name, kind))
        for _, expected, found in zip(range(9), *streams, strict=False):
            assert_same(expected, found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_resumes_exactly_at_every_batch(
    kind: SourceKind, formats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2000)
    monkeypatch.setattr("recap.data.sources.tfrecord.BLOCK_BYTES", 2000)
    blocks.line_blocks.cache_clear()
    assert_resumes_everywhere(lambda: open_data(formats, "scalars", kind, window_rows=70), batches=20)
    blocks.line_blocks.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_may_be_read_by_several_threads_at_once(kind: SourceKind, formats: Path) -> None:
    source = open_data(formats, "scalars", kind).source
    file, chunks = source.files[0], range(len(source.loader.format.chunk_rows(source.files[0])))

    def read(_: int) -> list[list[int]]:
        return [source.loader.format.read(file, chunk, ["post_id"]).column("post_id").to_pylist() for chunk in chunks]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read, range(64)))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tfrecord"])
@pytest.mark.parametrize("compressed", [True, False])
def test_files_of_lines_and_records_may_be_compressed_or_not(
    kind: SourceKind, compressed: bool, formats: Path, tmp_path: Path
) -> None:
    plain = next((formats / "scalars" / kind).glob("part-0*"))
    data = gzip.decompress(plain.read_bytes()) if kind == "tfrecord" else plain.read_bytes()
    file = tmp_path / f"rows.{kind}{'.gz' if compressed else ''}"
    file.write_bytes(gzip.compress(data) if compressed else data)
    schema = str(formats / "scalars" / kind / "schema.json") if kind == "tfrecord" else None
    format_ = open_format(guess_source([str(file)], schema), {})
    assert sum(format_.chunk_rows(str(file))) == 150
    table = format_.read(str(file), 0, ["post_id", "like"])
    assert table.column("post_id").to_pylist() == list(range(150))


def test_blocks_of_lines_hold_every_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 10)
    for text, rows in (("a\n1\n22\n333\n4444\n", 4), ("a\n1\n22\n333\n4444", 4), ("a\n", 0), ("a", 0), ("", 0)):
        file = tmp_path / f"{rows}-{len(text)}.csv"
        file.write_text(text)
        status = file.stat()
        found = blocks.line_blocks(str(file), status.st_mtime_ns, status.st_size, True)
        assert sum(block.rows for block in found) == rows
        content = b"".join(blocks.read_bytes(str(file), block.offset, block.length) for block in found)
        assert content.decode() == text.partition("\n")[2]


def parse(record: bytes, *names: bytes) -> dict[bytes, list[Any]]:
    """The values of features that are there."""
    spans: list[Span | None] = [None] * len(names)
    find_features(record, {name: place for place, name in enumerate(names)}, spans)
    found: dict[bytes, list[Any]] = {}
    for name, span in zip(names, spans, strict=True):
        if span is not None and abs(span[0]) == BYTES:
            found[name] = byte_values(record, span)
        elif span is not None:
            packed = record[span[1] : span[2]] if span[0] > 0 else loose_numbers(record, span)
            bytes_ = np.frombuffer(packed, np.uint8)
            found[name] = list(bytes_.view("<f4") if abs(span[0]) == FLOATS else decode_varints(bytes_))
    return found


features = st.dictionaries(
    st.text(max_size=5).map(str.encode),
    st.tuples(st.just(BYTES), st.lists(st.binary(max_size=5), min_size=1, max_size=3))
    | st.tuples(st.just(FLOATS), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4))
    | st.tuples(st.just(INTEGERS), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)),
    max_size=4,
)


@given(features)
def test_an_example_reads_back_as_it_was_written(written: dict[bytes, tuple[int, list[Any]]]) -> None:
    assert parse(write_example(written), *written) == {name: values for name, (_, values) in written.items()}


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_refused(record: bytes) -> None:
    try:
        parse(record, b"")
    except (ValueError, IndexError) as error:
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


def test_the_masked_crc_is_that_of_the_format() -> None:
    assert masked_crc(b"") == 0xA282EAD8
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(file: Path, records: list[bytes]) -> None:
    data = b""
    for record in records:
        head = struct.pack("<Q", len(record))
        data += head + struct.pack("<I", masked_crc(head)) + record + struct.pack("<I", masked_crc(record))
    file.write_bytes(data)


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


def read_records(file: Path) -> pa.Table:
    format_ = open_format(guess_source([str(file)], str(file.with_name("schema.json"))), {})
    assert list(format_.chunk_rows(str(file))) == [3]
    return format_.read(str(file), 0, format_.schema(str(file)).names)


def test_what_is_absent_from_a_record_is_zeros_or_empty(records: Path) -> None:
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
def test_a_damaged_record_is_told_with_its_row(damage: Any, message: str, records: Path) -> None:
    records.write_bytes(damage(records.read_bytes()))
    with pytest.raises(DataError, match=f"rows.tfrecord: {message}"):
        read_records(records)


def test_a_record_that_is_not_as_the_schema_says_is_told_with_column_and_row(records: Path) -> None:
    for feature, message in (
        ({b"age": (INTEGERS, [1])}, "column 'age', row 1: holds integers, the schema says float"),
        ({b"vector": (FLOATS, [1.0] * 3)}, "column 'vector', row 1: holds 3 values, the schema says 2"),
        ({b"word": (FLOATS, [1.0])}, "column 'word', row 1: holds floats, the schema says binary"),
    ):
        write_records(records, [write_example({}), write_example(feature), write_example({})])  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            read_records(records)
    write_records(records, [write_example({}), b"\x0a\xff", write_example({})])
    with pytest.raises(DataError, match=r"row 1: no tf.train.Example"):
        read_records(records)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": [{"feature_name": "a"}]}', "[" * 100_000])
def test_a_schema_that_is_none_is_refused(text: str, records: Path) -> None:
    records.with_name("schema.json").write_text(text)
    with pytest.raises(DataError, match=r'schema.json: expected JSON \{"schema": '):
        read_records(records)
    records.with_name("schema.json").unlink()
    with pytest.raises(DataError, match="the schema cannot be read"):
        read_records(records)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b\n1,2\n3\n", "rows 0 to 1: not readable as CSV"),
        ("x.csv", 'a,b\n1,"2\n3"\n4,5\n', "rows 0 to 2: "),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "rows 0 to 1: not readable as JSON lines"),
        ("x.jsonl", '{"a": 1}\n\n{"a": 2}\n', "rows 0 to 2: 3 lines give 2 rows; a row is one line"),
        ("x.arrow", "no arrow", "not readable as an Arrow IPC file"),
        ("x.parquet", "no parquet", "not readable as Parquet"),
        ("x.csv.gz", "no gzip at all", "rows 0 to -1: "),
    ],
)
def test_a_damaged_file_is_told_with_its_rows(name: str, text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    if name.endswith(".gz"):
        whole = gzip.compress(b"a,b\n1,2\n" * 100)
        file.write_bytes(whole[: len(whole) // 2])
        message = "cannot be read"
    format_ = open_format(guess_source([str(file)]), {})
    with pytest.raises(DataError, match=f"{name}: {message}"):
        format_.read(str(file), 0, format_.schema(str(file)).names)


def test_text_is_read_as_the_types_the_configuration_asks_for(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("age,word,like\n1,7,0\n,8,1\n")
    (tmp_path / "x.jsonl").write_text('{"age": 1, "word": "7", "like": 0}\n{"word": "8", "like": 1}\n')
    types = {"age": pa.float64(), "word": pa.string(), "absent": pa.float64()}
    for name in ("x.csv", "x.jsonl"):
        file = str(tmp_path / name)
        format_ = open_format(guess_source([file]), types)
        assert format_.schema(file).names == ["age", "word", "like"]
        assert format_.read(file, 0, ["word", "age"]).to_pydict() == {"word": ["7", "8"], "age": [1.0, None]}


def test_converting_goes_on_where_it_was_stopped_and_keeps_what_is_there(formats: Path, tmp_path: Path) -> None:
    inputs = [str(formats / "made" / "lists" / "*.parquet")]
    written, kept = convert_files(inputs, tmp_path / "out", "arrow")
    assert ([path.name for path in written], kept) == (["part-0.arrow", "part-1.arrow"], [])
    written[1].unlink()
    again, kept = convert_files(inputs, tmp_path / "out", "arrow")
    assert ([path.name for path in again], [path.name for path in kept]) == (["part-1.arrow"], ["part-0.arrow"])
    assert len(convert_files(inputs, tmp_path / "out", "arrow", overwrite=True)[0]) == 2
    assert not list((tmp_path / "out").glob("*.unfinished"))


def test_what_a_format_cannot_hold_is_refused_and_nothing_is_left(formats: Path, tmp_path: Path) -> None:
    inputs = [str(formats / "made" / "lists" / "*.parquet")]
    with pytest.raises(DataError, match="CSV holds no lists, but vector, topics are; choose another format"):
        convert_files(inputs, tmp_path / "out", "csv")
    pq.write_table(pa.table({"when": pa.array([0], pa.timestamp("s"))}), tmp_path / "time.parquet")
    with pytest.raises(DataError, match=r"TFRecord holds no timestamp\[ms\], which column 'when' is"):
        convert_files([str(tmp_path / "time.parquet")], tmp_path / "out", "tfrecord")
    assert list((tmp_path / "out").iterdir()) == []


def test_two_inputs_never_become_one_file_nor_one_itself(formats: Path, tmp_path: Path) -> None:
    from recap.errors import InputError

    made = formats / "made" / "scalars" / "part-0.parquet"
    shutil.copy(made, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="would be written over itself"):
        convert_files([str(tmp_path / "a.parquet")], tmp_path, "parquet", overwrite=True)
    shutil.copy(made, tmp_path / "a.feather")
    with pytest.raises(InputError, match="would become the same file as another input"):
        convert_files([str(tmp_path / "a.*")], tmp_path / "out", "csv")


def test_a_flipped_byte_of_a_compressed_file_is_told(tmp_path: Path) -> None:
    """Each byte of it: but for the header's, which says nothing of the rows, the checksums find it."""
    whole = gzip.compress(b'{"x": 1}\n{"x": 22}\n', mtime=0)
    file = tmp_path / "rows.jsonl.gz"
    told = 0
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
        blocks.line_blocks.cache_clear()
        format_ = open_format(guess_source([str(file)]), {})
        try:
            assert format_.read(str(file), 0, ["x"]).column("x").to_pylist() == [1, 22]
        except DataError as error:
            assert str(error).startswith(str(file))
            told += 1
    assert told > len(whole) - 10
