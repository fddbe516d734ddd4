"""`recap data convert` writes every file once, completely, or not at all."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.encoders import LOCATION

from recap.config.data import SourceKind
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.tables import TableFiles
from recap.data.tools.convert import convert_files
from recap.errors import DataError, InputError


@pytest.fixture
def lists(tmp_path: Path) -> str:
    """A glob of two files with lists."""
    (tmp_path / "made").mkdir()
    rows = {
        "post_id": [1, 2, 3],
        "vector": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
        "topics": [[1], [], [2]],
    }
    for part in range(2):
        pq.write_table(pa.table(rows), tmp_path / "made" / f"part-{part}.parquet", row_group_size=2)
    return str(tmp_path / "made" / "*.parquet")


def test_conversion_continues_after_a_stop_and_keeps_existing_files(lists: str, tmp_path: Path) -> None:
    inputs = [lists]
    written, present = convert_files(inputs, tmp_path / "out", "arrow")
    assert ([path.name for path in written], present) == (["part-0.arrow", "part-1.arrow"], [])
    written[1].unlink()
    again, present = convert_files(inputs, tmp_path / "out", "arrow")
    assert ([path.name for path in again], [path.name for path in present]) == (["part-1.arrow"], ["part-0.arrow"])
    assert len(convert_files(inputs, tmp_path / "out", "arrow", overwrite=True)[0]) == 2
    assert not list((tmp_path / "out").glob("*.unfinished"))


def test_columns_a_format_cannot_hold_are_refused_and_leave_no_file(lists: str, tmp_path: Path) -> None:
    inputs = [lists]
    with pytest.raises(DataError, match="CSV cannot hold lists, such as vector, topics; choose another format"):
        convert_files(inputs, tmp_path / "out", "csv")
    pq.write_table(pa.table({"when": pa.array([0], pa.timestamp("s"))}), tmp_path / "time.parquet")
    with pytest.raises(DataError, match=r"TFRecord cannot hold column 'when' of type timestamp\[ms\]"):
        convert_files([str(tmp_path / "time.parquet")], tmp_path / "out", "tfrecord")
    assert list((tmp_path / "out").iterdir()) == []


def test_outputs_neither_collide_nor_replace_their_inputs(lists: str, tmp_path: Path) -> None:
    made = Path(lists).parent / "part-0.parquet"
    shutil.copy(made, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="would be overwritten by its own output"):
        convert_files([str(tmp_path / "a.parquet")], tmp_path, "parquet", overwrite=True)
    shutil.copy(made, tmp_path / "a.feather")
    with pytest.raises(InputError, match=r"would become .*a.csv, as .*a.feather would"):
        convert_files([str(tmp_path / "a.*")], tmp_path / "out", "csv")


def test_values_that_would_read_back_differently_are_not_written(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "two\nlines"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"text.parquet: column 'text' holds text with a line break"):
        convert_files([str(tmp_path / "text.parquet")], tmp_path / "out", "csv")
    pq.write_table(pa.table({"two\nlines": [1]}), tmp_path / "name.parquet")
    with pytest.raises(
        DataError, match=r"name.parquet: column 'two\\nlines': CSV cannot hold a name with a line break"
    ):
        convert_files([str(tmp_path / "name.parquet")], tmp_path / "out", "csv")
    pq.write_table(pa.table({"late": pa.array([2**50], pa.timestamp("ms"))}), tmp_path / "late.parquet")
    with pytest.raises(DataError, match=r"late.parquet: cannot be written as jsonl"):
        convert_files([str(tmp_path / "late.parquet")], tmp_path / "out", "jsonl")
    pq.write_table(pa.table({"id": pa.array([2**63], pa.uint64())}), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match=r"ids.parquet: column 'id' holds integers of 2\^63 or more"):
        convert_files([str(tmp_path / "ids.parquet")], tmp_path / "out", "tfrecord")
    for name, column, text in (
        (
            "labels",
            pa.array([1, None]),
            "column 'x' holds null, which TFRecord does not tell from 0; fill it, or choose",
        ),
        (
            "doubles",
            pa.array([2.0**24 + 1, None]),
            r"whole numbers beyond 2\^24, which TFRecord's float32 would change",
        ),
        ("items", pa.array([[1, None]]), "holds null inside a list, which TFRecord has only for floats"),
    ):
        pq.write_table(pa.table({"x": column}), tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match=text):
            convert_files([str(tmp_path / f"{name}.parquet")], tmp_path / "out", "tfrecord")
    pq.write_table(pa.table({"x": [1, 2], "nothing": pa.nulls(2, pa.int64())}), tmp_path / "nulls.parquet")
    convert_files([str(tmp_path / "nulls.parquet")], tmp_path / "out", "jsonl")
    file = str(tmp_path / "out" / "nulls.jsonl")
    assert TableFiles.open([file]).format.schema(file).names == ["x", "nothing"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tfrecord", "arrow", "parquet"])
def test_numbers_and_ids_are_the_same_in_the_converted_file(kind: SourceKind, tmp_path: Path) -> None:
    whole, ids = [123456789012, None, -7], ["007", 'é,"', ""]
    table = pa.table(
        {
            "double": pa.array([0.1, None, float("inf")]),
            "short": pa.array([0.1, 1.5, None], pa.float32()),
            "view": pa.array(ids, pa.string_view()),
            "dictionary": pa.array(ids).dictionary_encode(),
        }
    )
    if kind != "tfrecord":
        table = table.append_column("id", pa.array(whole, pa.float64()))
        table = table.append_column("decimal", pa.array(whole, pa.decimal128(30, 3)))
    pq.write_table(table, tmp_path / "rows.parquet")
    written, _ = convert_files([str(tmp_path / "rows.parquet")], tmp_path / "out", kind)
    schema = str(tmp_path / "out" / "schema.json") if kind == "tfrecord" else None
    types = {"double": pa.float64(), "short": pa.float64()}  # other columns are ids
    files = TableFiles.open([str(written[0])], schema, types)
    read = next(files.tables())[1]
    encoder = RowEncoder(
        FeaturesConfig.model_validate(
            {
                "continuous": list(types),
                "discrete": {name: {"hash": {"buckets": 10**9}} for name in table.column_names if name not in types},
            }
        ),
        {},
    )
    expected, converted = encoder.encode(table, LOCATION), encoder.encode(read, LOCATION)
    assert torch.equal(expected.continuous.nan_to_num(-1), converted.continuous.nan_to_num(-1))
    assert torch.equal(expected.discrete, converted.discrete)


def test_the_schema_of_other_records_is_not_replaced(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({name: [1.0]}), tmp_path / f"{name}.parquet")
    convert_files([str(tmp_path / "a.parquet")], tmp_path / "out", "tfrecord")
    before = (tmp_path / "out" / "schema.json").read_text()
    with pytest.raises(InputError, match=r"schema.json: lists other columns; add --overwrite to replace it"):
        convert_files([str(tmp_path / "b.parquet")], tmp_path / "out", "tfrecord")
    assert (tmp_path / "out" / "schema.json").read_text() == before
    assert not (tmp_path / "out" / "b.tfrecord.gz").exists()
