"""`recap data vocabulary` counts the strings of a column."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.config.features import FeaturesConfig
from recap.data.encoding.assets import load_assets
from recap.data.tools.vocabulary import count_values, write_table
from recap.errors import DataError

WORDS = ["b", "a", None, "c", "b", "a", "b"]


@pytest.fixture
def words(tmp_path: Path) -> str:
    for number, values in enumerate((pa.array(WORDS), pa.array(WORDS).dictionary_encode())):
        table = pa.table({"word": values, "number": range(len(WORDS)), "list": [["x", "y"]] * len(WORDS)})
        pq.write_table(table, tmp_path / f"part-{number}.parquet", row_group_size=3)
    return str(tmp_path / "part-*.parquet")


def test_strings_are_counted_over_all_files_the_most_frequent_first(words: str) -> None:
    assert count_values([words], "word").to_pydict() == {"value": ["b", "a", "c"], "count": [6, 4, 2]}
    assert count_values([words], "list").to_pydict() == {"value": ["x", "y"], "count": [14, 14]}


def test_rare_strings_are_left_out(words: str) -> None:
    assert count_values([words], "word", min_count=4).column("value").to_pylist() == ["b", "a"]
    with pytest.raises(DataError, match="column 'word': no string occurs 1,000 times or more"):
        count_values([words], "word", min_count=1000)


def test_the_file_written_is_a_vocabulary(words: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / "words.parquet"
    write_table(count_values([words], "word"), file)
    features = FeaturesConfig.model_validate({"discrete": {"word": {"vocabulary": str(file)}}})
    assert load_assets(features)["word"].to_pylist() == ["b", "a", "c"]


def test_a_column_that_is_missing_or_holds_no_strings_is_refused(words: str) -> None:
    with pytest.raises(DataError, match=r"column 'wrod': is missing. Known: word, number, list. Did you mean 'word'"):
        count_values([words], "wrod")
    with pytest.raises(DataError, match="column 'number': holds int64, expected strings"):
        count_values([words], "number")
