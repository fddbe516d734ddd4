"""The Census-Income recipe: preparing the data, and no label among the features."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import RECIPES, Recorder, load_script

from recap.config.file.load import load_config
from recap.errors import DataError
from recap.training.trainer import train

RECIPE = RECIPES / "census_income"
census = load_script(RECIPE / "prepare.py")


def source_table(rows: int = 6) -> pa.Table:
    columns: dict[str, Any] = {
        name: [(row + shift) % 2 for row in range(rows)] for shift, name in enumerate(census.LABELS)
    }
    columns |= {name: [0, 1, 7688, 15024, 99999, 0][:rows] for name in census.AMOUNTS}
    columns |= {name: [row % 3 for row in range(rows)] for name in census.CODES}
    columns |= {name: [f" {name[:2]}{row % 2} " for row in range(rows)] for name in census.CATEGORIES}
    columns |= {"year": [94 + row % 2 for row in range(rows)], "instance_weight": [1.0] * rows}
    return pa.table(columns | {"marital_stat": ["Never married"] * rows})


def write_source(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(source_table(), folder / "train.parquet")
    pq.write_table(source_table(4), folder / "validation.parquet")
    return folder


def test_columns_are_written_as_the_configurations_read_them(tmp_path: Path) -> None:
    assert census.prepare(write_source(tmp_path / "source"), tmp_path / "out") == {"train": 6, "validation": 4}
    row = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[3]
    assert (row["label_income"], row["label_never_married"], row["year"], row["education"]) == (1, 0, 1, "ed1")
    assert (row["capital_gains"], row["capital_gains_value"], row["wage_per_hour_bucket"]) == (15024.0, 15024, 111)
    assert (row["weeks_worked"], row["weeks_worked_number"]) == (0, 0.0)
    assert pq.read_table(tmp_path / "out" / "vocabularies" / "sex.parquet").to_pydict() == {"value": ["se0", "se1"]}
    values = pq.read_table(tmp_path / "out" / "vocabularies" / "capital_losses_value.parquet")["value"].to_pylist()
    assert values == [0, 1, 7688, 15024, 99999]
    buckets = pq.read_table(tmp_path / "out" / "train.parquet")["stock_dividends_bucket"].to_pylist()
    assert buckets == [0, 8, 103, 111, 133, 0]


@pytest.mark.parametrize(("pair", "hidden"), [("income", "income_50k"), ("college", "education")])
def test_columns_that_reveal_a_label_are_not_features(pair: str, hidden: str) -> None:
    config = load_config(RECIPE / f"{pair}.yaml")
    read = set(config.features.columns)
    assert set(config.tasks) == {"label_never_married", f"label_{pair}"}
    assert not read & {hidden, "marital_stat", "instance_weight", *census.LABELS}
    other = {"income_50k", "education"} - {hidden}
    assert set(census.CATEGORIES) - read == {hidden}
    assert other <= read


@pytest.mark.parametrize(
    ("pair", "names"),
    [
        ("income", []),
        ("income", ["qnn", "qnn_income", "deep_ensemble"]),
        ("college", []),
        ("college", ["qnn"]),
    ],
)
def test_both_pairs_train_on_the_prepared_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: str, names: list[str]
) -> None:
    census.prepare(write_source(tmp_path / "source"), tmp_path / "data" / "census_income")
    monkeypatch.chdir(tmp_path)
    few = ["training.num_train_steps=2", "train_data.global_batch_size=4", "train_data.shuffle_window_rows=4"]
    recorder = Recorder()
    train(
        load_config(RECIPE / f"{pair}.yaml", few, [str(RECIPE / "models" / f"{name}.yaml") for name in names]), recorder
    )
    assert recorder.evaluated_at == [(2, "validation")]


def test_a_missing_file_or_column_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.parquet: no such file; --source must be the folder"):
        census.prepare(tmp_path, tmp_path / "out")
    source = write_source(tmp_path / "source")
    pq.write_table(source_table().drop_columns(["sex"]), source / "validation.parquet")
    with pytest.raises(DataError, match=r"validation\.parquet: lacks column 'sex'"):
        census.prepare(source, tmp_path / "out")
