"""Files with a wrong extension or none: read if their first bytes are unmistakable, else described."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recap.config.data import CsvConfig, JsonLinesConfig, ParquetConfig, TfRecordConfig
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.tables import TableFiles
from recap.data.stream.source import Source
from recap.data.tools.convert import convert_files
from recap.data.tools.inspect import inspect_files
from recap.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows in every format, without extensions."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "made.csv").write_text("x,y\n1,2\n3,4\n")
    for kind in ("parquet", "arrow", "csv", "jsonl", "tfrecord"):
        (file,), _ = convert_files([str(folder / "made.csv")], folder / "out", kind)  # type: ignore[arg-type]
        file.rename(folder / kind)
    (folder / "gzip").write_bytes(gzip.compress((folder / "jsonl").read_bytes()))
    (folder / "tabs").write_text("x\ty\n1\t2\n")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "tfrecord", "gzip"])
def test_unmistakable_files_need_no_extension(kind: str, folder: Path) -> None:
    schema = str(folder / "out" / "schema.json")
    assert inspect_files([str(folder / kind)], schema).rows == 2


def test_a_file_that_may_be_anything_is_described(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    np.savez(tmp_path / "array.npz", x=[1])
    (tmp_path / "array.json").write_text('[{"x": 1}]')
    for file, message in (
        (
            folder / "csv",
            r"It looks like CSV with commas between values: rename it so that it ends in .csv, or set 'kind",
        ),
        (folder / "tabs", r"It looks like CSV with tabs between values"),
        (tmp_path / "bytes", r"nor its first bytes are those of a known format$"),
        (tmp_path / "array.npz", "It looks like a zip archive, as Excel and NumPy write: convert it to Parquet"),
        (tmp_path / "array.json", "It looks like a JSON array; write one object per line instead"),
    ):
        with pytest.raises(DataError, match=rf"{file.name}: neither its extension \(.parquet, .*{message}"):
            TableFiles.open([str(file)])


def test_a_file_of_another_format_than_the_configured_one_is_described(folder: Path) -> None:
    encoder = RowEncoder(FeaturesConfig(continuous=["x"]), {})
    schema = str(folder / "out" / "schema.json")
    parquet, arrow, jsonl = ([str(folder / name)] for name in ("parquet", "arrow", "jsonl"))
    for config, message in (
        (
            ParquetConfig(inputs=jsonl),
            r"not readable as Parquet \(.*\). It looks like JSON lines: rename it .* 'kind: jsonl'",
        ),
        (
            CsvConfig(kind="csv", inputs=parquet),
            "is read as CSV, but it looks like Parquet; rename it so that it ends in",
        ),
        (CsvConfig(kind="csv", inputs=jsonl), "is read as CSV, but it looks like JSON lines; .* set 'kind: jsonl'"),
        (JsonLinesConfig(kind="jsonl", inputs=arrow), "is read as JSON lines, but it looks like Arrow IPC"),
        (TfRecordConfig(kind="tfrecord", inputs=parquet, schema_path=schema), "is read as TFRecord, but it looks like"),
    ):
        with pytest.raises(DataError, match=message):
            Source(config, encoder)


def test_one_command_reads_files_of_several_formats_in_order(folder: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(("csv", "parquet", "jsonl", "arrow", "tsv")):
        content = (folder / ("tabs" if kind == "tsv" else kind)).read_bytes()
        (tmp_path / f"{number}.{kind}").write_bytes(content)
    files = TableFiles.open([str(tmp_path / "*")], types={"x": pa.int64()})
    assert [table.column("x").to_pylist() for _, table in files.tables(["x"])] == [[1, 3]] * 4 + [[1]]
    with pytest.raises(DataError, match=r"0.csv and .*1.parquet are of different formats \(CSV and Parquet\), but the"):
        _ = files.source
