"""Bad lines are found one by one, and the others can be read without them."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.data.formats.format import Format
from recap.data.formats.tables import TableFiles
from recap.errors import DataError


def open_text(file: Path) -> Format:
    return TableFiles.open([str(file)]).format


@pytest.mark.parametrize(
    ("name", "header", "fine", "wrong"),
    [
        ("x.csv", "a,b\n", "{},7", ["1", "1,2,3", ",,,,,"]),
        ("x.jsonl", "", '{{"a": {}}}', ['{"a": ', "", "7", "nothing"]),
    ],
)
@given(st.data())
def test_all_bad_lines_are_reported_and_the_others_can_be_read(
    name: str, header: str, fine: str, wrong: list[str], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = data.draw(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
    lines = [fine.format(row) if good[row] else data.draw(st.sampled_from(wrong)) for row in range(len(good))]
    file = tmp_path_factory.mktemp("text") / name
    file.write_text(header + "".join(line + "\n" for line in lines))
    format_, bad = open_text(file), [row for row in range(len(good)) if not good[row]]
    columns = format_.schema(str(file)).names
    if bad:
        with pytest.raises(DataError, match=rf"{name}: row {bad[0]}: ") as raised:
            format_.read(str(file), 0, columns)
        assert raised.value.rows == tuple(bad)
        with pytest.raises(DataError, match=rf"row {bad[-1]}: ") as raised:
            format_.read(str(file), 0, columns, bad[:-1])
        assert raised.value.rows == (bad[-1],)
    assert format_.read(str(file), 0, ["a"], bad).column("a").to_pylist() == [
        row for row in range(len(good)) if good[row]
    ]


def test_lines_that_only_fail_together_are_reported_as_a_block(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}\n{"a": "x"}\n')
    with pytest.raises(DataError, match="rows 0 to 1: not readable as JSON lines") as raised:
        open_text(file).schema(str(file))
    assert raised.value.rows == ()


def test_a_block_of_bad_lines_is_reported_as_a_block(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,b\n" + "1;2\n" * 5000)
    with pytest.raises(DataError, match="rows 0 to 4999: not readable as CSV") as raised:
        open_text(file).schema(str(file))
    assert raised.value.rows == ()


def test_only_an_empty_value_of_csv_is_null(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('country,age\nNA,1\nnull,\n"",2\n,3\n')
    format_ = TableFiles.open([str(file)], types={"country": pa.string(), "age": pa.float64()}).format
    table = format_.read(str(file), 0, ["country", "age"])
    assert table.column("country").to_pylist() == ["NA", "null", "", None]
    assert table.column("age").to_pylist() == [1, None, 2, 3]


def test_an_empty_line_between_rows_of_several_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n\n3,4\n")
    format_ = TableFiles.open([str(file)]).format
    with pytest.raises(DataError, match=r"x.csv: row 1: the line parses as 0 rows; write a row per line"):
        format_.read(str(file), 0, ["a"])


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,a\n1,2\n")
    format_ = TableFiles.open([str(file)]).format
    with pytest.raises(DataError, match="column 'a': appears twice in the file"):
        format_.read(str(file), 0, format_.schema(str(file)).names)


def test_an_unused_key_may_hold_values_of_several_types(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"l": 1, "x": 1, "meta": 1}\n{"l": 0, "x": 2, "meta": "a"}\n')
    format_ = TableFiles.open([str(file)], types={"l": pa.float64(), "x": pa.float64(), "absent": pa.float64()}).format
    assert format_.schema(str(file)).names == ["l", "x"]
    assert format_.read(str(file), 0, ["x"]).column("x").to_pylist() == [1, 2]


def test_a_value_of_the_wrong_type_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"l": 1, "x": 1}\n{"l": 0, "x": "bad"}\n{"l": 1, "x": 2}\n')
    format_ = TableFiles.open([str(file)], types={"l": pa.float64(), "x": pa.float64()}).format
    with pytest.raises(DataError, match=r"x.jsonl: row 1: not readable as JSON lines") as caught:
        format_.read(str(file), 0, ["l", "x"])
    assert caught.value.rows == (1,)
    assert format_.read(str(file), 0, ["x"], [1]).column("x").to_pylist() == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_column_names_that_are_not_utf8_are_refused(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes("größe,b\n1,2\n".encode(encoding))
    with pytest.raises(DataError, match=r"rows.csv: the names of its columns are not UTF-8 text .*; save the file as"):
        open_text(file).schema(str(file))
