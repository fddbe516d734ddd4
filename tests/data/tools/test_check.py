"""`recap config check --data` compares a configuration with its data."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from config.corpus import VALID
from support import write_feed, write_formats

from recap.config.file.load import resolve
from recap.data.tools.check import check_data
from recap.errors import ConfigError


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feed that the valid configurations read."""
    monkeypatch.chdir(write_formats(write_feed(tmp_path, histories=True)))
    return tmp_path


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_data(resolve(VALID[0], overrides))
    return str(caught.value).replace(f"{VALID[0].parent}/", "").splitlines()


@pytest.mark.usefixtures("feed")
def test_valid_data_has_no_problems() -> None:
    for file in VALID:
        check_data(resolve(file))


def test_missing_files_columns_and_vocabularies_are_reported_with_their_origin(feed: Path) -> None:
    (feed / "languages.parquet").unlink()
    table = pq.read_table(feed / "validation" / "part-0.parquet")
    pq.write_table(table.drop_columns(["age", "hour", "like"]), feed / "validation" / "part-0.parquet")
    inputs = "validation_data.train.source.inputs=[nowhere/*.parquet, 'train/*']"
    found = problems(inputs, "features.vectors={vectro: 4}")
    validation, train = "validation/part-0.parquet: column", "train/part-0.parquet: column"
    starts = [
        f"whole.yaml:15:16: features.continuous.0: {validation} 'age': is missing, but the configuration reads it. ",
        f"whole.yaml:18:5: features.discrete.hour: {validation} 'hour': is missing",
        "whole.yaml:19:16: features.discrete.language.vocabulary: languages.parquet: vocabulary of 'language': no such",
        f"whole.yaml:77:13: validation_data.validation.tasks.like: {validation} 'like': is missing",
        f"override 'features.vectors={{vectro: 4}}': features.vectors.vectro: {train} 'vectro': is missing",
        f"override 'features.vectors={{vectro: 4}}': features.vectors.vectro: {validation} 'vectro': is missing",
        f"override {inputs!r}: validation_data.train.source.inputs.0: nowhere/*.parquet: matches no file",
    ]
    assert [line[: len(start)] for line, start in zip(sorted(found), sorted(starts), strict=True)] == sorted(starts)


def test_wrong_types_and_damaged_files_are_reported(feed: Path) -> None:
    file = feed / "train" / "part-1.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index("hour"), "hour", pa.array(["x"] * len(table))), file)
    (feed / "train" / "part-2.parquet").write_text("no parquet")
    found = problems()
    wrong_type = "features.discrete.hour: train/part-1.parquet: column 'hour': holds string, expected integer codes"
    assert any(wrong_type in line for line in found)
    assert any("train_data.source.inputs: train/part-2.parquet: not readable as Parquet" in line for line in found)


def test_a_duplicate_column_is_reported(feed: Path) -> None:
    file = feed / "train" / "part-0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("age", table.column("age")), file)
    assert "column 'age': appears twice in the file, so it is ambiguous; rename one" in problems()[0]


def test_files_without_rows_are_reported(feed: Path) -> None:
    file = feed / "validation" / "part-0.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert problems()[0].endswith("validation_data.validation.source.inputs: no rows in 1 files")


@pytest.mark.usefixtures("feed")
def test_a_stratum_of_a_feature_with_a_shared_vocabulary_is_checked() -> None:
    found = problems("features.discrete.word={table: language}", "strata.xx={feature: word, value: xx}")
    message = "strata.xx.value: 'xx' is not in the vocabulary of 'word'. Known:"
    assert any(message in line for line in found), found


def test_problems_of_histories_and_shared_tables_have_their_origin(feed: Path) -> None:
    file = next(file for file in VALID if file.stem == "histories")
    table = pq.read_table(feed / "train" / "part-0.parquet")
    index = table.schema.get_field_index("watched_gap")
    table = table.set_column(index, "watched_gap", pa.array([["x"]] * len(table)))
    pq.write_table(table.drop_columns(["watched_language"]), feed / "train" / "part-0.parquet")
    override = "features.histories.languages.ids.vocabulary=nowhere.parquet"
    with pytest.raises(ConfigError) as caught:
        check_data(resolve(file, [override]))
    lines = str(caught.value).replace(f"{file.parent}/", "").splitlines()
    train = "train/part-0.parquet: column"
    assert [line.partition(". Known")[0] for line in lines] == [
        "histories.yaml:10:5: features.histories.languages: nowhere.parquet: vocabulary of 'languages/ids': no such "
        "file; see features.histories.languages.ids.vocabulary",
        f"histories.yaml:12:5: features.histories.watched: {train} 'watched_language': is missing, but the "
        "configuration reads it",
    ]

    pq.write_table(table, feed / "train" / "part-0.parquet")
    with pytest.raises(ConfigError, match="column 'watched_gap': holds lists of string, expected numbers"):
        check_data(resolve(file))

    pq.write_table(table.drop_columns(["topics", "watched_gap"]), feed / "train" / "part-0.parquet")
    with pytest.raises(ConfigError) as caught:
        check_data(resolve(file))
    assert "histories.yaml:6:5: features.discrete.author: train/part-0.parquet: column 'topics'" in str(caught.value)


def test_pretrained_rows_that_are_missing_or_do_not_fit_have_their_origin(feed: Path) -> None:
    file = next(file for file in VALID if file.stem == "pretrained")
    for override, message in (
        ("model.embeddings.language.width=3", "column 'row', row 0: holds a list of length 2, expected 3"),
        ("model.embeddings.language.pretrained.path=nowhere.parquet", "nowhere.parquet: matches no file"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_data(resolve(file, [override]))
        assert "model.embeddings.language.pretrained: " in str(caught.value)
        assert message in str(caught.value)
    (feed / "ordered.parquet").unlink()
    with pytest.raises(ConfigError, match=r"language\.vocabulary: ordered\.parquet: .*no such file") as caught:
        check_data(resolve(file))
    assert "pretrained: " not in str(caught.value)
