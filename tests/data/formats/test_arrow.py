"""Damaged and rewritten Arrow files are errors; none of them ends the process."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recap.config.data import ArrowConfig
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.arrow import ArrowFormat
from recap.data.stream.source import Source
from recap.errors import DataError


def write(path: Path, columns: dict[str, pa.Array], batches: int = 1) -> str:
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        for _ in range(batches):
            writer.write_table(table)
    return str(path)


@pytest.mark.parametrize("offsets", [[0, 2**30, 3], [0, 2, 2**30], [0, -5, 3]])
@pytest.mark.parametrize("values", [pa.array(["ab", "c"]), pa.array([[1, 2], [3]]), pa.array([["a", "b"], ["c"]])])
def test_offsets_beyond_the_values_are_an_error(offsets: list[int], values: pa.Array, tmp_path: Path) -> None:
    file = Path(write(tmp_path / "x.arrow", {"x": values, "y": pa.array([1, 2])}))
    right, wrong = (np.array(numbers, np.int32).tobytes() for numbers in ([0, 2, 3], offsets))
    assert file.read_bytes().count(right) == 1
    file.write_bytes(file.read_bytes().replace(right, wrong))
    assert_only_x_is_damaged(str(file))


def test_an_index_beyond_the_dictionary_is_an_error(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 9_000_000], pa.int32()), pa.array(["a"]), safe=False)
    assert_only_x_is_damaged(write(tmp_path / "x.arrow", {"x": column, "y": pa.array([1, 2])}))


def assert_only_x_is_damaged(file: str) -> None:
    assert ArrowFormat().chunk_rows(file) == [2]
    with pytest.raises(DataError, match=r"x.arrow: record batch 0 cannot be read \("):
        ArrowFormat().read(file, 0, ["x"])
    assert ArrowFormat().read(file, 0, ["y"]).to_pydict() == {"y": [1, 2]}


def test_a_flipped_byte_is_an_error_or_another_value(tmp_path: Path) -> None:
    columns = {"x": pa.array([1, 2]), "w": pa.array(["a", None]), "l": pa.array([[1], []])}
    whole = Path(
        write(tmp_path / "whole.arrow", columns | {"d": pa.array(["a", "b"]).dictionary_encode()})
    ).read_bytes()
    chance = random.Random(0)
    for number in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file = tmp_path / f"{number}.arrow"
        file.write_bytes(content)
        format_ = ArrowFormat()
        try:
            for chunk in range(len(format_.chunk_rows(str(file)))):
                format_.read(str(file), chunk, format_.schema(str(file)).names)
        except DataError as error:
            assert str(error).startswith(str(file))


def test_a_file_rewritten_in_place_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "x.arrow", {"x": pa.array(range(1000))}, batches=3)
    source = Source(ArrowConfig(kind="arrow", inputs=[file]), RowEncoder(FeaturesConfig(continuous=["x"]), {}))
    source.loader.load(source.chunks[:1])
    with open(file, "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(DataError, match="changed since this job started: it holds 100 bytes instead of"):
        source.loader.load(source.chunks[1:])
