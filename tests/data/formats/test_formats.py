"""Every format gives the same rows, resumes at every batch and reports damage with its rows."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from data.stream_law import assert_resumes_everywhere, assert_same
from pydantic import TypeAdapter
from support import feed_config, feed_table

from recap.config.data import SourceConfig, SourceKind
from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats import blocks
from recap.data.formats.content import pieces, read_range
from recap.data.formats.tables import TableFiles
from recap.data.formats.text import lines as text_format
from recap.data.formats.tfrecord import reader
from recap.data.open import open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.source import Source
from recap.data.tools.convert import convert_files
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


def clear_indexes() -> None:
    """Clear the block indexes in memory."""
    text_format._index.cache_clear()
    reader._index.cache_clear()


def source(folder: Path, name: str, kind: SourceKind) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": kind, "inputs": str(folder / name / kind / "part-*")}
    return values | ({"schema_path": str(folder / name / kind / "schema.json")} if kind == "tfrecord" else {})


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
def test_every_format_reads_the_same_rows_as_parquet(kind: SourceKind, formats: Path) -> None:
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
    clear_indexes()
    assert_resumes_everywhere(lambda: open_data(formats, "scalars", kind, window_rows=70), batches=20)
    clear_indexes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_may_be_read_by_several_threads_at_once(kind: SourceKind, formats: Path) -> None:
    source = open_data(formats, "scalars", kind).source
    file, chunks = source.files[0], range(len(source.loader.format.chunk_rows(source.files[0])))

    def read(_: int) -> list[list[int]]:
        return [source.loader.format.read(file, chunk, ["post_id"]).column("post_id").to_pylist() for chunk in chunks]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read, range(64)))
    assert all(rows == found[0] for rows in found)


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
    format_ = TableFiles.open([str(file)], schema).format
    assert sum(format_.chunk_rows(str(file))) == 150
    table = format_.read(str(file), 0, ["post_id", "like"])
    assert table.column("post_id").to_pylist() == list(range(150))


def test_blocks_of_lines_hold_every_line_once(tmp_path: Path) -> None:
    for text, rows in (("a\n1\n22\n333\n4444\n", 4), ("a\n1\n22\n333\n4444", 4), ("a\n", 0), ("a", 0), ("", 0)):
        file = tmp_path / f"{rows}-{len(text)}.csv"
        file.write_text(text)
        for piece in (1, 3, 10):
            found = blocks.index_lines(pieces(str(file), piece), 10, header=True)
            assert found.rows == rows
            content = b"".join(read_range(str(file), block.offset, block.length) for block in found.blocks)
            assert content.decode() == text.partition("\n")[2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b\n1,2\n3\n", "3: row 1: found 1 value, expected 2, one for each column"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "2: row 1: not readable as JSON"),
        ("x.jsonl", '{"a": 1}\n\n{"a": 2}\n', "2: row 1: the line is empty, expected a JSON object"),
        ("x.arrow", "no arrow", "not readable as Arrow IPC"),
        ("x.parquet", "no parquet", "not readable as Parquet"),
        ("x.csv.gz", "no gzip at all", "rows 0 to -1: "),
    ],
)
def test_damage_is_reported_with_its_rows(name: str, text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    if name.endswith(".gz"):
        whole = gzip.compress(b"a,b\n1,2\n" * 100)
        file.write_bytes(whole[: len(whole) // 2])
        message = "cannot be read"
    with pytest.raises(DataError, match=f"{name}: ?{message}"):
        next(TableFiles.open([str(file)]).tables())


def test_text_is_read_as_the_configured_types(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("age,word,like\n1,7,0\n,8,1\n")
    (tmp_path / "x.jsonl").write_text('{"age": 1, "word": "7", "like": 0}\n{"word": "8", "like": 1}\n')
    types = {"age": pa.float64(), "word": pa.string(), "absent": pa.float64()}
    for name in ("x.csv", "x.jsonl"):
        file = str(tmp_path / name)
        format_ = TableFiles.open([file], types=types).format
        assert format_.schema(file).names == ["age", "word", "like"]
        assert format_.read(file, 0, ["word", "age"]).to_pydict() == {"word": ["7", "8"], "age": [1.0, None]}


def test_a_flipped_byte_of_a_compressed_file_is_reported(tmp_path: Path) -> None:
    """Checksums cover every byte, except some of the header that do not affect the rows."""
    whole = gzip.compress(b'{"x": 1}\n{"x": 22}\n', mtime=0)
    file = tmp_path / "rows.jsonl.gz"
    errors = 0
    for index in range(len(whole)):
        file.write_bytes(whole[:index] + bytes([whole[index] ^ 128]) + whole[index + 1 :])
        clear_indexes()
        try:
            format_ = TableFiles.open([str(file)]).format
            assert format_.read(str(file), 0, ["x"]).column("x").to_pylist() == [1, 22]
        except DataError as error:
            assert str(error).startswith(str(file))
            errors += 1
    assert errors > len(whole) - 10


@pytest.mark.parametrize("kind", KINDS)
def test_files_without_rows_are_passed_by_unless_all_are(kind: SourceKind, formats: Path, tmp_path: Path) -> None:
    full = next((formats / "scalars" / kind).glob("part-0*"))
    extension = "".join(full.suffixes)
    (tmp_path / f"0{extension}").touch()
    if kind in ("parquet", "arrow"):
        empty = pa.table({"followers": pa.nulls(0)})
        pq.write_table(empty, tmp_path / "1.parquet") if kind == "parquet" else pa.feather.write_feather(
            empty, tmp_path / "1.arrow"
        )
    else:
        (tmp_path / f"1.{kind}.gz").write_bytes(gzip.compress(b"followers\n" if kind == "csv" else b""))
    values = source(formats, "scalars", kind) | {"inputs": [str(tmp_path / "*")]}
    config = TypeAdapter(SourceConfig).validate_python(values)
    encoder = RowEncoder(FeaturesConfig(continuous=["followers"]), {})
    with pytest.raises(DataError, match=r"and 1 other file of the same inputs hold no rows$"):
        Source(config, encoder)
    (tmp_path / f"2{extension}").write_bytes(full.read_bytes())
    assert sum(chunk.rows for chunk in Source(config, encoder).chunks) == 150
    written, _ = convert_files([str(tmp_path / "*")], tmp_path / "out", "csv", values.get("schema_path"))
    assert [file.read_text().count("\n") for file in written] == [1, 1, 151]
