"""Parquet: packed columns read back as their lists, and files have the settings that read fastest."""

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from data.stream_law import assert_same
from hypothesis import given
from hypothesis import strategies as st

from recap.config.data import ParquetConfig
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.parquet.packed import KEY, can_pack, narrowest, pack, pack_field, unpack, unpack_schema
from recap.data.formats.parquet.reader import ParquetFormat
from recap.data.formats.writers import ROW_GROUP_BYTES, open_writer
from recap.data.stream.source import Source
from recap.data.tools.convert import convert_files
from recap.data.tools.guess.columns import guess_columns
from recap.data.tools.inspect import inspect_files
from recap.errors import DataError

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
NUMBERS = [*INTEGERS, pa.float16(), pa.float32(), pa.float64()]


@st.composite
def columns(draw: st.DrawFn) -> pa.ChunkedArray:
    """Lists of numbers of one length, some rows null, in chunks that are slices of longer arrays."""
    kind, size = draw(st.sampled_from(NUMBERS)), draw(st.integers(1, 5))
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        rows = draw(st.integers(0, 12))
        bytes_ = draw(st.binary(min_size=(width := rows * size * kind.bit_width // 8), max_size=width))
        values = pa.Array.from_buffers(kind, rows * size, [None, pa.py_buffer(bytes_)])
        null = pa.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), pa.bool_())
        lists = pa.FixedSizeListArray.from_arrays(values, size, mask=null if draw(st.booleans()) else None)
        chunks.append(lists.slice(draw(st.integers(0, rows))))
    return pa.chunked_array(chunks, pa.list_(kind, size))


def packed_of(table: pa.Table, *, sparse: bool) -> pa.Table:
    return pack(table, pa.schema([pack_field(field, sparse=sparse) for field in table.schema]))


def same_bytes(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Equal, including NaN."""

    def bytes_of(column: pa.ChunkedArray) -> bytes:
        return b"".join(chunk.flatten().to_numpy(zero_copy_only=False).tobytes() for chunk in column.chunks)

    return (one.type, one.is_null(), bytes_of(one)) == (other.type, other.is_null(), bytes_of(other))


@given(columns(), st.booleans())
def test_packed_columns_unpack_to_the_same_values(column: pa.ChunkedArray, sparse: bool) -> None:
    table = pa.table({"x": column})
    packed = packed_of(table, sparse=sparse)
    assert unpack_schema(packed.schema, "") == table.schema
    assert same_bytes(unpack(packed, "").column("x"), column)
    part = packed.slice(len(column) // 3)
    assert same_bytes(unpack(part, "").column("x"), column.slice(len(column) // 3))


@given(columns())
def test_a_packed_row_is_the_little_endian_values_end_to_end(column: pa.ChunkedArray) -> None:
    table = pa.table({"x": column})
    packed = packed_of(table, sparse=False).column("x")
    kind = np.dtype(column.type.value_type.to_pandas_dtype()).newbyteorder("<")
    for bytes_, values in zip(packed.to_pylist(), column.to_numpy(), strict=True):
        assert (bytes_ is None) == (values is None)
        assert bytes_ is None or np.asarray(values, kind).tobytes() == bytes_ or np.isnan(values.astype(float)).any()


@given(columns(), st.booleans())
def test_packed_columns_survive_a_file(column: pa.ChunkedArray, sparse: bool) -> None:
    packed = packed_of(pa.table({"x": column}), sparse=sparse)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.parquet"
        with open_writer("parquet", file, packed.schema) as writer:
            writer.write(packed)
        assert same_bytes(unpack(pq.read_table(file), "").column("x"), column)


def test_sparse_packing_drops_zeros_but_not_minus_zero() -> None:
    table = pa.table({"x": pa.array([[0.0, -0.0, 1.5], None, [0, 0, 0]], pa.list_(pa.float32(), 3))})
    packed = packed_of(table, sparse=True)
    bitmaps, values = (packed.column("x").chunk(0).field(name).to_pylist() for name in ("there", "values"))
    assert (bitmaps[0], bitmaps[2]) == (b"\x06", b"\x00")
    assert (values[0], values[2]) == (np.array([-0.0, 1.5], "<f4").tobytes(), b"")


def test_floats_with_more_than_a_quarter_zeros_are_packed_sparse(tmp_path: Path) -> None:
    columns = {
        name: pa.array([[0.0] * zeros + [1.0] * (8 - zeros)], pa.list_(pa.float32(), 8))
        for name, zeros in (("two", 2), ("three", 3), ("eight", 8))
    }
    pq.write_table(pa.table(columns | {"code": pa.array([[0] * 8], pa.list_(pa.int64(), 8))}), tmp_path / "x.parquet")
    convert_files([str(tmp_path / "x.parquet")], tmp_path / "out", "parquet", packed=True)
    kinds = pq.read_schema(tmp_path / "out" / "x.parquet").types
    assert [pa.types.is_struct(kind) for kind in kinds] == [False, True, True, False]
    assert read(tmp_path / "out" / "x.parquet").to_pylist() == read(tmp_path / "x.parquet").to_pylist()


def test_values_that_do_not_fit_their_bitmap_are_reported() -> None:
    schema = pa.schema([pack_field(pa.field("x", pa.list_(pa.float32(), 8)), sparse=True)])
    rows = pa.array([{"there": b"\x03", "values": b"\0" * 4}], schema.field("x").type)
    with pytest.raises(DataError, match=r"f: column 'x': holds 1 nonzero values, but its bitmap 2; write"):
        unpack(pa.table([rows], schema=schema), "f")
    rows = pa.array([{"there": b"\x01", "values": b"\0" * 3}], schema.field("x").type)
    with pytest.raises(DataError, match=r"f: column 'x': "):
        unpack(pa.table([rows], schema=schema), "f")


def test_unpacking_copies_nothing() -> None:
    table = pa.table({"x": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2))})
    packed = packed_of(table, sparse=False)
    (chunk,), (lists,) = packed.column("x").chunks, unpack(packed, "").column("x").chunks
    assert lists.values.buffers()[1].address == chunk.buffers()[1].address


def test_only_numbers_in_lists_of_one_length_are_packed() -> None:
    assert all(can_pack(pa.list_(kind, 3)) for kind in NUMBERS)
    others = [pa.list_(pa.int8()), pa.list_(pa.bool_(), 3), pa.list_(pa.string(), 3), pa.list_(pa.int8(), 0)]
    assert not any(can_pack(kind) for kind in [*others, pa.int64(), pa.binary(4), pa.date32()])


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**64 - 1))
def test_narrowest_is_the_smallest_type_that_holds_the_values(one: int, other: int) -> None:
    low, high = sorted((one, other))
    if low < 0 and high >= 2**63:
        return

    def holds(kind: pa.DataType) -> bool:
        bounds = np.iinfo(kind.to_pandas_dtype())
        return int(bounds.min) <= low and high <= int(bounds.max)

    found = narrowest(low, high)
    assert holds(found)
    assert not any(holds(kind) for kind in INTEGERS[:4] if kind.bit_width < found.bit_width)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder of two files with lists of each kind, with and without nulls, and an id; packed/ beside it."""
    random = np.random.default_rng(0)
    for part in range(2):
        rows = 50
        vector = pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=rows * 4).astype(np.float32)), 4)
        codes = random.integers(0, 300 if part else 100, (rows, 3)).tolist()
        loose: list[list[int]] = [[1] * (row % 3) for row in range(rows)]
        columns = {
            "vector": pc.if_else(pa.array(np.arange(rows) % 7 != 0), vector, None) if part else vector,
            "codes": pa.array(codes, pa.list_(pa.int64(), 3)),
            "loose": pa.array(loose, pa.list_(pa.int32())),
            "is_liked": pa.array(np.arange(rows) % 5 == 0).cast(pa.int8()),
            "language": pa.array(["en", "ja"] * (rows // 2)),
        }
        (tmp_path / "plain").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "plain" / f"part-{part}.parquet", row_group_size=20)
    convert_files([str(tmp_path / "plain" / "*")], tmp_path / "packed", "parquet", packed=True)
    return tmp_path / "plain"


def read(file: Path) -> pa.Table:
    format_ = ParquetFormat()
    names = format_.schema(str(file)).names
    chunks = range(len(format_.chunk_rows(str(file))))
    return pa.concat_tables([format_.read(str(file), chunk, names) for chunk in chunks])


def test_packed_files_hold_the_same_rows_as_plain_files(plain: Path) -> None:
    packed = plain.with_name("packed")
    for name, codes in (("part-0.parquet", pa.int8()), ("part-1.parquet", pa.int16())):
        expected, found = read(plain / name), read(packed / name)
        assert found.to_pylist() == expected.to_pylist()
        assert found.schema.types == [pa.list_(pa.float32(), 4), pa.list_(codes, 3), *expected.schema.types[2:]]
        assert found.schema == ParquetFormat().schema(str(packed / name))
        assert pq.read_schema(packed / name).types[:2] == [pa.binary(16), pa.binary(3 * codes.bit_width // 8)]


def test_packed_and_plain_files_can_be_mixed(plain: Path) -> None:
    values = {"vectors": {"vector": 4}, "discrete": {"codes": {"size": 200, "length": 3}}}
    encoder = RowEncoder(FeaturesConfig.model_validate(values), {})
    (plain.with_name("packed") / "part-0.parquet").rename(plain / "part-0-packed.parquet")
    source = Source(ParquetConfig(inputs=[str(plain / "part-0*.parquet")]), encoder)
    assert len(source.files) == 2
    packed, unpacked = (
        [source.loader.load([chunk]).batches[0] for chunk in source.chunks if chunk.file == file]
        for file in source.files
    )
    for one, other in zip(packed, unpacked, strict=True):
        assert_same(one, other)
    assert inspect_files([str(plain / "*")]).rows == 150
    assert [guess.name for guess in guess_columns([str(plain / "*")]).columns.vectors] == ["vector"]


def test_packed_files_convert_to_the_same_files_as_plain_files(plain: Path, tmp_path: Path) -> None:
    for kind in ("parquet", "jsonl", "arrow"):
        for name in ("plain", "packed"):
            convert_files([str(tmp_path / name / "*")], tmp_path / kind / name, kind)  # type: ignore[arg-type]
    assert read(tmp_path / "parquet" / "packed" / "part-1.parquet") == read(tmp_path / "packed" / "part-1.parquet")
    assert pq.read_schema(tmp_path / "parquet" / "packed" / "part-1.parquet").types[0] == pa.list_(pa.float32(), 4)
    for name in ("part-0.jsonl", "part-1.jsonl"):
        assert (tmp_path / "jsonl" / "packed" / name).read_text() == (tmp_path / "jsonl" / "plain" / name).read_text()


def test_a_null_inside_a_list_cannot_be_packed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([[1, None]], pa.list_(pa.float32(), 2))}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet: column 'x' holds null inside a list.*convert without --pack"):
        convert_files([str(tmp_path / "x.parquet")], tmp_path / "out", "parquet", packed=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("list_type", "message"),
    [
        (b"float[3]", r"float\[3\], but its type is fixed_size_binary\[16\]"),
        (b"string[2]", r"'string\[2\]' is not a list type such as"),
        (b"float[0]", "is not a list type such as"),
        (b"\xff", "is not a list type such as"),
    ],
)
def test_invalid_packing_metadata_is_reported(list_type: bytes, message: str, tmp_path: Path) -> None:
    schema = pa.schema([pa.field("x", pa.binary(16), metadata={KEY: list_type})])
    pq.write_table(schema.empty_table(), tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=f"x.parquet: column 'x': is declared packed{' ' if b'3' in list_type else '.*'}{message}"
    ):
        ParquetFormat().schema(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("packed", [False, True])
def test_row_groups_are_bounded_by_their_size_in_memory(packed: bool, tmp_path: Path) -> None:
    rows, width = 100, ROW_GROUP_BYTES // 4 // 30
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * width, np.float32)), width)
    table = pa.table({"wide": zeros, "code": pa.array(np.arange(rows) % 3)})
    written = packed_of(table.select(["wide"]), sparse=True) if packed else table
    with open_writer("parquet", tmp_path / "x.parquet", written.schema) as writer:
        writer.write(written)
    assert list(ParquetFormat().chunk_rows(str(tmp_path / "x.parquet")))[:3] == ([30, 30, 30] if packed else [29] * 3)
    assert read(tmp_path / "x.parquet") == (table.select(["wide"]) if packed else table)


def test_neither_floats_nor_packed_bytes_have_a_dictionary(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([[0.0, 1.0]] * 9, pa.list_(pa.float32(), 2)), "code": [1, 2, 3] * 3})
    sparse = pack_field(table.schema.field("x"), sparse=True)
    for schema, expected in ((table.schema, [False, True]), (table.schema.set(0, sparse), [False, False, True])):
        with open_writer("parquet", tmp_path / "x.parquet", schema) as writer:
            writer.write(pack(table, schema))
        group = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0)
        assert ["RLE_DICTIONARY" in group.column(at).encodings for at in range(group.num_columns)] == expected


def test_a_flipped_byte_is_an_error_or_another_value(plain: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    whole = (plain.with_name("packed") / "part-1.parquet").read_bytes()
    file = tmp_path / "x.parquet"
    errors = 0
    for number in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        os.utime(file, (0, number))
        try:
            read(file)
        except DataError as error:
            assert str(error).startswith(str(file))
            errors += 1
    assert errors > 100
