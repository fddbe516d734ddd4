"""Pretrained rows of embedding tables; vocabularies of integers or ordered by a column."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import feed_config, feed_values

from recap.config.file.load import config_of, dump_config, load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets, save_asset
from recap.data.open import open_stream
from recap.errors import ConfigError, DataError
from recap.model.directory import build_ranker, new_ranker

WIDE = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]


def config_with(feed: Path, table: dict[str, Any], features: dict[str, Any] | None = None) -> RecapConfig:
    values = feed_values(feed, feed / "run")
    values["features"]["discrete"] |= features or {}
    values["model"]["embeddings"] |= table
    return config_of(values)


def weights(config: RecapConfig, table: str, *, fresh: bool = True) -> torch.Tensor:
    torch.manual_seed(0)
    make = new_ranker if fresh else build_ranker
    ranker = make(config, load_assets(config.features))
    return ranker.state_dict()[f"inputs.embeddings.tables.{table}.weight"]


def write(file: Path, ids: list[Any], vectors: list[Any]) -> Path:
    pq.write_table(pa.table({"id": ids, "vector": vectors}), file, row_group_size=1)
    return file


def test_pretrained_rows_follow_the_vocabulary_and_others_are_drawn(feed: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", ["pt", "xx", "en"], [*WIDE, [9.0, 9.5, 9.75, 10.0]])
    plain = weights(config_with(feed, {}), "language")
    config = config_with(feed, {"language": {"width": 4, "pretrained": {"path": str(file)}}})
    loaded = weights(config, "language")
    assert loaded[[3, 1]].tolist() == [WIDE[0], [9.0, 9.5, 9.75, 10.0]]
    assert torch.equal(loaded[[0, 2]], plain[[0, 2]])
    assert torch.equal(weights(config, "language", fresh=False), plain)


def test_pretrained_rows_of_integer_codes_may_be_in_several_files(feed: Path, tmp_path: Path) -> None:
    write(tmp_path / "rows-0.parquet", [23], WIDE[:1])
    write(tmp_path / "rows-1.parquet", [0, 24], [WIDE[1], WIDE[1]])
    config = config_with(feed, {"hour": {"width": 4, "pretrained": {"path": f"{tmp_path}/rows-*.parquet"}}})
    assert weights(config, "hour")[[24, 1]].tolist() == WIDE


WRONG: dict[str, tuple[list[Any], list[Any], str]] = {
    "another width": (["en"], [[1.0]], "column 'vector', row 0: holds a list of length 1, expected 4"),
    "a repeated value": (["en", "en"], WIDE, "column 'id', row 1: repeats a value; each may appear once"),
    "a null value": (["en", None], WIDE, "column 'id', row 1: is null"),
    "a null vector": (["en", "ja"], [WIDE[0], None], "column 'vector', row 1: is null"),
    "non-finite numbers": (
        ["en"],
        [[1.0, 2.0, 3.0, float("inf")]],
        "row 0: holds a number that is not finite",
    ),
    "strings instead of vectors": (["en"], [["a", "b", "c", "d"]], "holds string, expected lists of 4 numbers"),
    "values of another kind": ([True, False], WIDE, "holds bool, expected strings, as in its vocabulary"),
    "unknown values only": (["xx", "yy"], WIDE, "none of its values is in the table of 'language'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_pretrained_rows_are_refused_with_their_location(case: str, feed: Path, tmp_path: Path) -> None:
    ids, vectors, message = WRONG[case]
    file = write(tmp_path / "rows.parquet", ids, vectors)
    config = config_with(feed, {"language": {"width": 4, "pretrained": {"path": str(file)}}})
    with pytest.raises(DataError) as caught:
        weights(config, "language")
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_missing_files_and_columns_of_pretrained_rows_are_reported(feed: Path, tmp_path: Path) -> None:
    config = config_with(feed, {"language": {"width": 4, "pretrained": {"path": "nowhere.parquet"}}})
    with pytest.raises(DataError, match=r"nowhere\.parquet: matches no file.*; see model\.embeddings\.language\.pretr"):
        weights(config, "language")
    file = write(tmp_path / "rows.parquet", ["en"], WIDE[:1])
    pretrained = {"path": str(file), "vector": "vectr"}
    with pytest.raises(DataError, match=r"column 'vectr': is missing.*Did you mean 'vector'"):
        weights(config_with(feed, {"language": {"width": 4, "pretrained": pretrained}}), "language")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"hashed": {"width": 4, "pretrained": {"path": "a"}}},
            "hashed.pretrained: 'hashed' is hashed, so several values",
        ),
        ({"default": {"width": 4, "pretrained": {"path": "a"}}}, "default.pretrained: 'default' applies to several"),
        ({"hour": {"width": 0, "pretrained": {"path": "a"}}}, "hour.pretrained: needs a table, but width 0"),
        ({"hour": "wide"}, "hour: expected a width, or a mapping with 'width'"),
    ],
)
def test_settings_that_cannot_be_pretrained_are_refused(table: dict[str, Any], message: str, feed: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(feed, table, {"hashed": {"hash": {"buckets": 10}}})
    assert message in str(caught.value)


def test_a_bare_width_is_stored_as_a_bare_width(feed: Path, tmp_path: Path) -> None:
    table = {"width": 4, "pretrained": {"path": "a.parquet"}}
    config = config_with(feed, {"language": table})
    text = dump_config(config)
    assert config_of(feed_values(feed, feed / "run")).model.widths == {"default": 4}
    assert config.model.model_dump(mode="json")["embeddings"] == {"default": 4, "language": table}
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == config


def codes(feed: Path, config: RecapConfig) -> list[int]:
    stream = open_stream(config, load_assets(config.features), JobMode.EVALUATE, "validation")
    return next(iter(stream)).discrete[:, 0].tolist()


def test_a_vocabulary_may_hold_integers_and_have_several_files(feed: Path, tmp_path: Path) -> None:
    hours = pq.read_table(feed / "validation" / "part-0.parquet").column("hour").to_pylist()[:64]
    pq.write_table(pa.table({"id": [7, 3]}), tmp_path / "known-0.parquet")
    pq.write_table(pa.table({"id": [11]}), tmp_path / "known-1.parquet")
    config = feed_config(feed, feed / "run", features={"discrete": {"hour": {"vocabulary": f"{tmp_path}/known-*"}}})
    expected = {7: 1, 3: 2, 11: 3}
    assert codes(feed, config) == [expected.get(hour, 0) for hour in hours]
    save_asset(load_assets(config.features)["hour"], tmp_path / "assets" / "hour.parquet")
    assert load_assets(config.features, tmp_path)["hour"].to_pylist() == [7, 3, 11]


def test_a_column_may_order_the_values_of_a_vocabulary(feed: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"row": [30, 10, 20], "name": ["ja", "pt", "en"]}), file)
    features = {"discrete": {"language": {"vocabulary": str(file), "row": "row"}}}
    config = feed_config(feed, feed / "run", features=features)
    assert load_assets(config.features)["language"].to_pylist() == ["pt", "en", "ja"]


BROKEN: dict[str, tuple[dict[str, list[Any]], str]] = {
    "a missing column": (
        {"name": ["a"], "rwo": [1]},
        "must have exactly one column 'row'; see features.discrete.language.row. Known",
    ),
    "a repeated row": ({"name": ["a", "b"], "row": [1, 1]}, "column 'row' must hold a distinct integer for each value"),
    "a null row": ({"name": ["a", "b"], "row": [1, None]}, "column 'row' must hold a distinct integer"),
    "strings instead of rows": ({"name": ["a"], "row": ["b"]}, "column 'row' must hold a distinct integer"),
    "no column besides the rows": ({"row": [1]}, "has no columns; its first column must list"),
    "fractions": ({"name": [[0.5]], "row": [1]}, "expected strings or integers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_invalid_order_of_a_vocabulary_is_refused(case: str, feed: Path, tmp_path: Path) -> None:
    columns, message = BROKEN[case]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), file)
    features = {"discrete": {"language": {"vocabulary": str(file), "row": "row"}}}
    with pytest.raises(DataError) as caught:
        load_assets(feed_config(feed, feed / "run", features=features).features)
    assert message in str(caught.value)
