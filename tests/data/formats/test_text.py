"""Text is read as the configured types, or refused with file, line and column; inferred types lose nothing."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.config.base import all_problems
from recap.config.data import CsvConfig
from recap.data.formats import blocks
from recap.data.formats.format import Format
from recap.data.formats.tables import TableFiles
from recap.data.formats.text.csv import CsvFormat
from recap.data.formats.text.jsonl import JsonLinesFormat
from recap.data.formats.text.lines import _index
from recap.data.formats.writers import open_writer
from recap.errors import DataError, InputError

TEXT, FLOAT, INTEGER = pa.string(), pa.float64(), pa.int64()


def open_text(file: Path, types: dict[str, pa.DataType]) -> Format:
    return CsvFormat(types) if file.suffix == ".csv" else JsonLinesFormat(types)


def read(file: Path, **types: pa.DataType) -> dict[str, list[Any]]:
    """The columns of `types`, or all with inferred types; every chunk."""
    format_ = open_text(file, types)
    names = list(types) or format_.schema(str(file)).names
    tables = [format_.read(str(file), chunk, names) for chunk in range(len(format_.chunk_rows(str(file))))]
    columns: dict[str, list[Any]] = pa.concat_tables(tables).to_pydict()
    return columns


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Blocks of a line or two."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8)
    _index.cache_clear()
    yield
    _index.cache_clear()


@pytest.mark.parametrize(
    ("name", "header", "fine", "wrong"),
    [
        ("x.csv", "a,b\n", "{},7", ["1", "1,2,3", ",,,,,", "", "x,7"]),
        ("x.jsonl", "", '{{"a": {}}}', ['{"a": ', "", "7", "null", "[1]", '{"a": "x"}', '{"a": 1, "a": 2}', "{}{}"]),
    ],
)
@settings(max_examples=40)
@given(st.data())
def test_all_bad_lines_are_reported_and_the_others_can_be_read(
    name: str, header: str, fine: str, wrong: list[str], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = data.draw(st.lists(st.booleans(), min_size=1, max_size=12).filter(any))
    lines = [fine.format(row) if good[row] else data.draw(st.sampled_from(wrong)) for row in range(len(good))]
    file = tmp_path_factory.mktemp("text") / name
    file.write_text(header + "".join(line + "\n" for line in lines))
    format_, bad = open_text(file, {"a": FLOAT}), [row for row in range(len(good)) if not good[row]]
    if bad:
        line = bad[0] + 1 + header.count("\n")
        with pytest.raises(DataError, match=rf"{name}:{line}: (column 'a', )?row {bad[0]}: ") as raised:
            format_.read(str(file), 0, ["a"])
        assert raised.value.rows == tuple(bad)
        with pytest.raises(DataError, match=rf"row {bad[-1]}: ") as raised:
            format_.read(str(file), 0, ["a"], bad[:-1])
        assert raised.value.rows == (bad[-1],)
    assert format_.read(str(file), 0, ["a"], bad).column("a").to_pylist() == [
        row for row in range(len(good)) if good[row]
    ]


NUMBERS = [" 1.5 ", "1.0", "7e0", "true", "False", "+3", '"2"', '""', '"NA"', "nan", "NULL", "\\N", ""]
IDS = ["007", "1E5", "18446744073709551616", "2024-01-02", " x ", '"NA"', '""']


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(IDS)), min_size=1, max_size=8))
def test_values_of_csv_do_not_depend_on_their_neighbours(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    """Read together, each is what it is alone."""
    file = tmp_path_factory.mktemp("csv") / "x.csv"

    def read_rows(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
        file.write_text("number,id\n" + "".join(f"{number},{id_}\n" for number, id_ in rows))
        format_ = CsvFormat({"number": FLOAT, "id": TEXT})
        found: list[dict[str, Any]] = format_.read(str(file), 0, ["number", "id"]).to_pylist()
        return [{**row, "number": None if row["number"] != row["number"] else row["number"]} for row in found]

    assert read_rows(rows) == [read_rows([row])[0] for row in rows]


def test_integers_of_csv_may_be_written_as_pandas_writes_them(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("code,word\n1.0,a\n 2,b\n,c\n-3e0,d\nTrue,e\n")
    assert read(tmp_path / "x.csv", code=INTEGER)["code"] == [1, 2, None, -3, 1]


def test_null_values_of_csv_are_those_of_the_configuration_and_never_quoted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('country,age\nNA,1\nnull,-\n"",2\n"NA",3\n,4\n')
    assert read(tmp_path / "x.csv", country=TEXT)["country"] == [None, None, "", "NA", None]
    format_ = CsvFormat({"country": TEXT, "age": FLOAT}, null_values=["-"])
    assert format_.read(str(tmp_path / "x.csv"), 0, ["country", "age"]).to_pydict() == {
        "country": ["NA", "null", "", "NA", ""],
        "age": [1, None, 2, 3, 4],
    }


JSON_IDS = [
    "1",
    '"1"',
    '"007"',
    "1.50",
    "18446744073709551616",
    '"2024-01-02T00:00:00"',
    "null",
    "NaN",
    "true",
    '"\\u00e9"',
]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(JSON_IDS), min_size=1, max_size=8))
def test_ids_of_json_lines_are_the_text_of_numbers_and_strings(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    file = tmp_path_factory.mktemp("jsonl") / "x.jsonl"
    file.write_text("".join(f'{{"id": {id_}, "list": [{id_}]}}\n' for id_ in ids))
    texts = [None if id_ in ("null", "NaN") else json.loads(id_) if id_.startswith('"') else id_ for id_ in ids]
    assert read(file, id=TEXT, list=pa.list_(TEXT)) == {"id": texts, "list": [[text] for text in texts]}


def test_numbers_of_json_lines_may_be_booleans_and_not_finite(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"a": true, "n": 1}\n{"a": 2, "n": 2.0}\n{"a": -Infinity, "n": "3"}\n{"n": 4e0}\n{"n": NaN}\n{"n": true}\n'
    )
    assert read(tmp_path / "x.jsonl", a=FLOAT, n=INTEGER) == {
        "a": [1, 2, -float("inf"), None, None, None],
        "n": [1, 2, 3, 4, None, 1],
    }


def test_objects_of_very_many_keys_are_text_without_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    counts = [{f"{row}-{number}": number for number in range(300)} for row in range(5)]  # more keys than have a type
    file.write_text("".join(json.dumps({"counts": keys, "x": row}) + "\n" for row, keys in enumerate(counts)))
    assert [json.loads(text) for text in read(file)["counts"]] == counts
    file.write_text(json.dumps(dict.fromkeys(map(str, range(100_001)), 1)) + "\n")
    with pytest.raises(DataError, match=r"x.jsonl: its lines have more than 100,000 keys, the limit"):
        read(file)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("compressed", [False, True])
def test_the_first_block_does_not_decide_what_later_blocks_hold(compressed: bool, tmp_path: Path) -> None:
    rows = {"x.csv": "a,b\n,1\n1,1\nx,1\n07,1.5\n", "x.jsonl": '{"b":1}\n{"a":1}\n{"a":"x"}\n{"a":"07","b":1.5}\n'}
    for name, text in rows.items():
        file = tmp_path / name
        file.write_bytes(gzip.compress(text.encode(), mtime=0) if compressed else text.encode())
        expected = {"a": [None, "1", "x", "07"], "b": [1, 1, 1, 1.5] if name == "x.csv" else [1, None, None, 1.5]}
        assert read(file, a=TEXT, b=FLOAT) == expected
        assert read(file) in (expected, {"b": expected["b"], "a": expected["a"]})


@pytest.mark.parametrize(
    ("name", "text", "kinds"),
    [
        ("x.csv", "a,b,c,d,e\n1,1,True,2024-01-02,\n2,1.5,false,x,\n", "int64 double bool string null"),
        ("x.csv", 'a,b,c,d\n"1","0.5","","x"\n"","NA",,""\n', "int64 double string string"),
        ("x.csv", "a,b,c,d\n07,18446744073709551616,1,1\n7,1,x,true\n", "string string string string"),
        ("x.jsonl", '{"a": 1, "b": "2024-01-02"}\n{"a": 1.5, "c": [1, "x"]}\n', "double string list<item: string>"),
        ("x.jsonl", '{"a": 18446744073709551616, "b": 1}\n{"b": {"c": 1}}\n', "string string"),
        ("x.jsonl", '{"a": {"b": 1}}\n{"a": {"b": null, "c": true}}\n', "struct<b: int64, c: bool>"),
    ],
)
def test_inferred_types_lose_nothing(name: str, text: str, kinds: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert " ".join(map(str, open_text(tmp_path / name, {}).schema(str(tmp_path / name)).types)) == kinds


DEEP = '{"z": ' + "[" * 10_000 + "]" * 10_000 + "}"


@pytest.mark.parametrize("types", [{}, {"a": FLOAT}])
@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["null", '{"a": 1}'], ":1: row 0: found null, expected a JSON object"),
        (["[1]", "null"], ":1: row 0: found a list, expected a JSON object"),
        (['{"a": 1}', "null"], ":2: row 1: found null, expected a JSON object"),
        (['{"a": 1}', DEEP], ":2: row 1: lists and objects are nested too deeply"),
        ([DEEP], ":1: row 0: lists and objects are nested too deeply"),
    ],
)
def test_lines_that_end_the_process_in_arrow_are_refused(
    lines: list[str], error: str, types: dict[str, pa.DataType], tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"x.jsonl{error}"):
        read(tmp_path / "x.jsonl", **types)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("x.csv", "a,id\n1,2\nx,3\n", r"x.csv:3: column 'a', row 1: found 'x', expected a number; if .* `null_values`"),
        (
            "x.csv",
            'a,id\n"-1.018,49",2\n',
            r"found '-1.018,49', expected a number; if its .* decimal comma, write -1018.49$",
        ),
        ("x.csv", 'a,id\n1,"2\n3"\n4,5\n', "x.csv:2: row 0: a quoted value does not end in its line"),
        ("x.csv", 'a,id\n1,2\n4,"5\n', "x.csv:3: row 1: a quoted value does not end in its line"),
        ("x.csv", "a,id\n1,2\r3,4\n", "x.csv:2: row 0: the line holds a carriage return outside quotes"),
        ("x.csv", b"a,id\n1,2\n1,gr\xf6\xdfe\n", "x.csv:3: column 'id', row 1: the value is not UTF-8 text"),
        (
            "x.csv",
            "größe,id\n1,2\n".encode("latin-1"),
            "x.csv: the names of its columns are not UTF-8 text .*; save the file",
        ),
        ("x.csv", "a,id\n1,2\n".encode("utf-16"), "x.csv: is not UTF-8 text, but starts like UTF-16; save the file"),
        ("x.csv", "a;id\n1;2\n", 'x.csv:1: the first line, \'a;id\', holds no ",".* `delimiter: ";"`'),
        ("x.csv", "a\tid\n1\t2\n", r"x.csv:1: the first line, 'a\\tid', holds no \",\".* `delimiter: \"\\t\"`"),
        ("x.csv", "a,id\r1,2\r", "x.csv:1: lines end with a carriage return alone"),
        ("x.csv", "\n1,2\n", "x.csv:1: the first line is empty; it must name the columns"),
        ("x.csv", "a,a\n1,2\n", "x.csv: column 'a': appears twice in the file"),
        (
            "x.jsonl",
            '{"a":1,"id":2}\n{"a":"x","id":"y"}\n',
            "x.jsonl:2: column 'a', row 1: found the text 'x', expected",
        ),
        (
            "x.jsonl",
            '{"a":1,"id":{"b":1}}\n',
            "x.jsonl:1: column 'id', row 0: found an object, expected a string or a n",
        ),
        ("x.jsonl", b'{"a":1,"id":"\xf6"}\n', "x.jsonl:1: column 'id', row 0: .* expected Unicode text; save the file"),
        ("x.jsonl", '{"a":1,"a":2,"id":1}\n', "x.jsonl:1: column 'a', row 0: the key appears twice in the line"),
    ],
)
def test_an_error_names_file_line_and_column(name: str, text: str | bytes, error: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=error):
        read(tmp_path / name, a=FLOAT, id=TEXT)


def test_values_that_are_not_read_may_be_anything(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(
        b'{"l": 1, "x": 1, "meta": "\xf6"}\n{"l": 0, "x": 2, "meta": {"a": []}}\n{"x": "3", "meta": 1e999}\n'
    )
    assert read(file, x=INTEGER)["x"] == [1, 2, 3]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    for name, text in (("x.csv", "a,b\n1,2\n"), ("x.jsonl", '{"a": 1}\n')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read(tmp_path / name, a=FLOAT)["a"] == [1]


def test_files_without_rows_have_the_configured_columns(tmp_path: Path) -> None:
    for name, text in (("x.csv", "a,b\n"), ("x.csv", ""), ("x.jsonl", "")):
        (tmp_path / name).write_text(text)
        format_ = open_text(tmp_path / name, {"a": FLOAT})
        assert (
            list(format_.chunk_rows(str(tmp_path / name))),
            format_.schema(str(tmp_path / name)).field("a").type,
        ) == (
            [],
            FLOAT,
        )


def test_long_lines_are_refused_with_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 100_000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    texts = {"x.csv": "a\n1\n2\n" + "x" * 200_000, "y.csv": "a" * 200_000, "z.jsonl": '{"a": 1}\n' + " " * 200_000}
    for (name, text), line in zip(texts.items(), (4, 1, 2), strict=True):
        (tmp_path / name).write_text(text)
        with pytest.raises(
            DataError, match=f"{name}:{line}: the line is longer than 100,000 bytes, which is the limit"
        ):
            read(tmp_path / name, a=TEXT)


def test_gzip_files_are_read_in_blocks_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "GZIP_BLOCK_BYTES", 1000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    monkeypatch.setattr("recap.data.formats.content._PIECE_BYTES", 64)
    for name, header, line in (("x.csv", "a,b\n", "{},x"), ("x.jsonl", "", '{{"a": {}}}')):
        text = header + "".join(line.format(row) + "\n" for row in range(1000))
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert len(open_text(tmp_path / name, {}).chunk_rows(str(tmp_path / name))) > 2
        assert read(tmp_path / name, a=INTEGER)["a"] == list(range(1000))


def test_csv_without_a_configuration_has_the_delimiter_of_its_first_line(tmp_path: Path) -> None:
    for name, text, delimiter in (
        ("a.csv", "a;b\n", ";"),
        ("b.csv", "a,b;c\n", ","),
        ("c.csv", "a\n", ","),
        ("d.tsv", "a\n", "\t"),
    ):
        (tmp_path / name).write_text(text)
        assert TableFiles.open([str(tmp_path / name)]).source.delimiter == delimiter


def test_csv_to_predict_is_read_like_that_of_training(tmp_path: Path) -> None:
    training = CsvConfig(kind="csv", inputs=["train/*.csv"], delimiter="|", null_values=["-"], num_files_to_keep=1)
    for name, text in (("a.csv", "a|b\n-|1\n"), ("b.tsv", "a\tb\n-\t1\n")):
        (tmp_path / name).write_text(text)
        files = TableFiles.open([str(tmp_path / name)], types={"a": TEXT, "b": TEXT}, like=training)
        assert [table.to_pylist() for _, table in files.tables()] == [[{"a": None, "b": "1"}]]
        more = TableFiles.open([str(tmp_path / name)], types={"a": TEXT, "b": TEXT}, like=training, null_values=["1"])
        assert [table.to_pylist() for _, table in more.tables()] == [[{"a": None, "b": None}]]
    with pytest.raises(InputError, match=r"--null-value: '1\|2' cannot occur"):
        TableFiles.open([str(tmp_path / "a.csv")], like=training, null_values=["1|2"])


@pytest.mark.parametrize(
    ("key", "value", "error"), [("delimiter", '"', "cannot separate values"), ("null_values", ["a,b"], "cannot occur")]
)
def test_csv_settings_that_cannot_work_are_refused(key: str, value: Any, error: str) -> None:
    config = CsvConfig.model_validate({"kind": "csv", "inputs": ["x.csv"], key: value})
    assert [error in text for _, text in all_problems(config)] == [True]


def test_an_empty_chunk_adds_nothing_to_csv(tmp_path: Path) -> None:
    table = pa.table({"a": pa.chunked_array([pa.array([], pa.float64()), pa.array([1.5])])})
    with open_writer("csv", tmp_path / "x.csv", table.schema) as writer:
        writer.write(table)
    assert (tmp_path / "x.csv").read_bytes() == b'"a"\n1.5\n'
