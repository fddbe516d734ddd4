"""`recap data vocabulary` counts the values of columns."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.config.features import FeaturesConfig
from recap.data.encoding.assets import load_assets
from recap.data.tools import vocabulary
from recap.data.tools.vocabulary import count_values, write_table
from recap.errors import DataError

WORDS = ["b", "a", None, "c", "b", "a", "b"]


def counts(inputs: str | Path, column: str, **options: Any) -> dict[Any, int]:
    table = count_values([str(inputs)], [column], **options)[column].to_pydict()
    return dict(zip(table["value"], table["count"], strict=True))


@pytest.fixture
def words(tmp_path: Path) -> str:
    for number, values in enumerate((pa.array(WORDS), pa.array(WORDS).dictionary_encode())):
        lists = [["x", "y"], None, *[["x"]] * 5]
        table = pa.table({"word": values, "number": range(len(WORDS)), "list": lists, "time": [0.5] * len(WORDS)})
        pq.write_table(table, tmp_path / f"part-{number}.parquet", row_group_size=3)
    return str(tmp_path / "part-*.parquet")


def test_values_of_several_columns_are_counted_over_all_files_the_most_frequent_first(words: str) -> None:
    tables = count_values([words], ["word", "list", "number"], min_count=2)
    assert [list(table.to_pydict().values()) for table in tables.values()] == [
        [["b", "a", "c"], [6, 4, 2]],
        [["x", "y"], [12, 2]],
        [[0, 1, 2, 3, 4, 5, 6], [2] * 7],
    ]


@given(st.lists(st.lists(st.none() | st.sampled_from(["a", "b", "日本", "", "1"]) | st.integers(0, 3)), max_size=9))
def test_counts_are_those_of_all_chunks_and_integers_among_text_count_as_text(chunks: list[list[Any]]) -> None:
    counter = vocabulary._Counter()
    for chunk in chunks:
        integers = all(isinstance(value, int) for value in chunk)
        counter.add(pa.array(chunk, pa.int64()) if integers else pa.array(map_text(chunk), pa.large_string()))
        counter._count()
    table = counter.result(1)
    expected = Counter(value for chunk in chunks for value in map_text(chunk) if value is not None)
    found = zip(map_text(table["value"].to_pylist()), table["count"].to_pylist(), strict=True)
    assert dict(found) == expected


def map_text(values: list[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def test_text_formats_give_strings_and_lists_of_them(tmp_path: Path) -> None:
    rows = [{"id": 7, "tags": [1, 2]}, {"id": 7, "tags": []}, {"id": 12, "tags": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.csv").write_text("id,x\n7,1\n07,1\n7,1\n")
    assert counts(tmp_path / "rows.jsonl", "id") == {"7": 2, "12": 1}
    assert counts(tmp_path / "rows.jsonl", "tags") == {"1": 1, "2": 1}
    assert counts(tmp_path / "rows.csv", "id") == {"7": 2, "07": 1}


def test_rare_values_are_left_out(words: str) -> None:
    assert counts(words, "word", min_count=4) == {"b": 6, "a": 4}
    with pytest.raises(DataError, match="column 'word': no value occurs 1,000 times or more"):
        counts(words, "word", min_count=1000)


def test_the_file_written_is_a_vocabulary(words: str, tmp_path: Path) -> None:
    for column, values in (("word", ["b", "a", "c"]), ("number", list(range(7)))):
        file = tmp_path / "new" / f"{column}.parquet"
        write_table(count_values([words], [column])[column], file)
        features = FeaturesConfig.model_validate({"discrete": {column: {"vocabulary": str(file)}}})
        assert load_assets(features)[column].to_pylist() == values


def test_a_column_that_is_missing_or_holds_neither_strings_nor_integers_is_refused(words: str) -> None:
    with pytest.raises(DataError, match=r"column 'wrod': is missing. Known: word, number, list, time. Did you mean"):
        counts(words, "wrod")
    with pytest.raises(DataError, match=r"part-0.parquet: column 'time', row 0: found 0.5, expected a whole number"):
        counts(words, "time")
