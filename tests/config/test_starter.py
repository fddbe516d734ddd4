from pathlib import Path

import pytest

from recap.config.data import ParquetConfig
from recap.config.file.load import load_config
from recap.config.file.starter import EXAMPLE, Columns, Guess, Label, StarterData, starter


def test_the_starter_is_a_valid_configuration_of_its_example(tmp_path: Path) -> None:
    file = tmp_path / "ranker.yaml"
    file.write_text(starter())
    config = load_config(file)
    assert config.tasks == [label.name for label in EXAMPLE.labels]
    assert config.features.inputs == [
        "author_followers",
        "post_age_hours",
        "is_in_network",
        "hour",
        "post_id",
        "user_embedding",
        "topics",
    ]
    assert list(config.validation_data) == ["validation"]


@pytest.mark.parametrize("name", ["no", "a: b", "a#b", "*x", "1", "true", "日本", "a\nb", '"'])
def test_any_column_name_is_written_so_that_it_reads_back(name: str, tmp_path: Path) -> None:
    columns = Columns(continuous=[Guess(name, "a word")], labels=[Label(f"{name} label", "a word", 2.0)])
    file = tmp_path / "ranker.yaml"
    file.write_text(starter(columns, StarterData(ParquetConfig(inputs=["a.parquet", "b c.parquet"]), rows=500)))
    config = load_config(file)
    assert config.features.continuous[0].name == name
    assert config.tasks == [f"{name} label"]
    assert config.scoring.weights == {f"{name} label": 2.0}
    assert config.train_data.source.inputs == ["a.parquet", "b c.parquet"]
