"""`recap config check --data` compares a configuration with its data."""

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
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
    found = problems(inputs, "features.vectors={vectro: 4}", "model.featurization.join=[binary]")
    validation, train = "validation/part-0.parquet: column", "train/part-0.parquet: column"
    starts = [
        f"whole.yaml:16:16: features.continuous.0: {validation} 'age': is missing, but the configuration reads it. ",
        f"whole.yaml:19:5: features.discrete.hour: {validation} 'hour': is missing",
        "whole.yaml:20:16: features.discrete.language.vocabulary: languages.parquet: vocabulary of 'language': no such",
        f"whole.yaml:80:13: validation_data.validation.tasks.like: {validation} 'like': is missing",
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
    wrong_type = "features.discrete.hour: train/part-1.parquet: column 'hour', row 0: found 'x', expected integer codes"
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
    assert problems()[0].endswith("validation_data.validation.source.inputs: validation/part-0.parquet: holds no rows")


@pytest.mark.usefixtures("feed")
def test_a_stratum_of_a_feature_with_a_shared_vocabulary_is_checked() -> None:
    found = problems("features.discrete.word={table: language}", "strata.xx={feature: word, value: xx}")
    message = "strata.xx.value: 'xx' is not in the vocabulary of 'word'. Known:"
    assert any(message in line for line in found), found


@pytest.mark.usefixtures("feed")
def test_the_columns_of_lists_are_checked_in_validation_sets() -> None:
    found = problems("features.request=reqest_id")
    assert any("features.request: validation/part-0.parquet: column 'reqest_id': is missing" in line for line in found)
    found = problems("features.timestamp=language", "metrics.lists=user_day")
    assert any("features.timestamp: validation/part-0.parquet: column 'language'" in line for line in found), found


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
        "file; write it with: recap data vocabulary FILES --column watched_language --output nowhere.parquet",
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


def feed_table_of(rows: int, **columns: object) -> pa.Table:
    """Rows of the small run below, with other columns."""
    random = np.random.default_rng(rows)
    picked = random.integers(0, 50, rows)
    values = {
        "x": random.normal(size=rows),
        "item": picked,
        "word": [f"L{i}" for i in picked],
        "y": random.integers(0, 2, rows),
    }
    return pa.table({**values, "z": random.integers(0, 2, rows), **columns})


def small_run(folder: Path, **changes: object) -> str:
    """A configuration over train.parquet and words.parquet in `folder`."""
    rate = {"kind": "constant", "learning_rate": 0.02}
    tower = {"tower": {"kind": "mlp", "layer_sizes": []}}
    values = {
        "training": {"save_dir": "runs/small", "num_train_steps": 20, "eval_log_every_n": 5},
        "features": {
            "continuous": ["x"],
            "discrete": {"item": {"size": 50}, "word": {"vocabulary": "words.parquet"}},
        },
        "model": {
            "featurization": {"kind": "log1p_abs"},
            "embeddings": {"default": 4},
            "backbone": {"kind": "mlp", "layer_sizes": [8], "final_layer_activation": True},
            "sharing": {"kind": "share_all"},
            "tasks": {"y": tower, "z": tower},
        },
        "train_data": {"source": {"inputs": "train.parquet"}, "global_batch_size": 64, "tasks": {"y": {}, "z": {}}},
        "validation_data": {"validation": {"source": {"inputs": "validation.parquet"}}},
        "optimizer": {"backbone": rate, "towers": {"default": rate}},
    }
    values = {key: {**value, **changes.pop(key, {})} for key, value in values.items()}
    (folder / "small.yaml").write_text(yaml.safe_dump({**values, **changes}))
    pq.write_table(pa.table({"value": [f"L{i}" for i in range(50)]}), folder / "words.parquet")
    pq.write_table(feed_table_of(300), folder / "validation.parquet")
    return "small.yaml"


def report(file: str) -> list[str]:
    """The warnings or problems of a check, without their origins."""
    try:
        lines = [str(warning) for warning in check_data(resolve(file)).warnings]
    except ConfigError as error:
        lines = str(error).splitlines()
    return [re.sub(r"^\S+?: ", "", line) for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_feature_none_of_whose_values_is_known_is_a_problem(folder: Path) -> None:
    words = [f"L{i} " for i in range(2000)]
    pq.write_table(feed_table_of(2000, item=np.arange(2000) + 1_000_000, word=words), folder / "train.parquet")
    all_of_train = "in all 2,000 rows of train_data. Check the column, and its size or vocabulary; features.max_unknown"
    assert [line.partition(": 1 accepts")[0] for line in report(small_run(folder))] == [
        f"features.discrete.item: none of the 2,000 values of 'item' is known, such as 1000000, {all_of_train}",
        f"features.discrete.word: none of the 2,000 values of 'word' is known, such as 'L0 ', {all_of_train}",
    ]


def test_sizes_that_are_exceeded_constants_and_missing_values_are_warnings(folder: Path) -> None:
    item = np.where(np.arange(2000) % 50, 3, 60)
    pq.write_table(feed_table_of(2000, item=item, word=["L1"] * 2000, x=pa.nulls(2000)), folder / "train.parquet")
    assert report(small_run(folder)) == [
        "features.continuous.0: every value of 'x' is missing or not finite, in all 2,000 rows of train_data",
        "features.discrete.item: 2.0% of the values of 'item' are unknown, such as 60: beyond 0 to 49, in all 2,000 "
        "rows of train_data; the highest is 60, so raise size",
        "features.discrete.word: 'word' holds a single value in all 2,000 rows of train_data",
    ]


def test_leaks_equal_labels_and_labels_of_one_class_are_warnings(folder: Path) -> None:
    label = np.arange(2000) % 7 == 0
    columns = {"x": label * 2.0, "y": label, "z": label.astype(int)}
    pq.write_table(feed_table_of(2000, **columns), folder / "train.parquet")
    file = small_run(folder)
    pq.write_table(feed_table_of(300, z=[0] * 300), folder / "validation.parquet")
    rest = "in 2,000 rows of train_data; leave it out if it is known only after the impression"
    assert report(file) == [
        *(f"features.continuous.0: 'x' alone ranks {task} with an AUC of 1.0000, {rest}" for task in "yz"),
        "train_data.tasks.z: the labels of y and z are equal in all 2,000 rows of train_data",
        "validation_data.validation.tasks.z: z has no positives in all 300 rows of validation, so metrics such as AUC "
        "may be undefined",
    ]
    file = small_run(folder, training={"watch": {"metric": "auc", "split": "validation"}, "eval_log_every_n": 5})
    pq.write_table(feed_table_of(300, z=[0] * 300), folder / "validation.parquet")
    text = "training.watch: auc of z is undefined on validation, which has no positives; watch other tasks"
    assert report(file) == [text]


def test_columns_named_like_an_outcome_are_a_warning_already_when_they_tell_much_of_a_label(folder: Path) -> None:
    label = np.arange(2000) % 2
    some = label * 2 + np.random.default_rng(0).normal(size=2000)
    table = feed_table_of(2000, y=label, age=some, dwell_seconds=some, played=np.arange(2000) % 7 / 2)
    pq.write_table(table, folder / "train.parquet")
    file = small_run(folder, features={"continuous": ["x", "age", "dwell_seconds", "played"]})
    pq.write_table(table.slice(0, 300), folder / "validation.parquet")
    (warning,) = report(file)
    assert re.fullmatch(
        r"features.continuous.2: 'dwell_seconds' is named like an outcome, which is known only after the impression, "
        r"and alone ranks y with an AUC of 0\.9\d+, in 2,000 rows of train_data; leave it out if so",
        warning,
    )


def test_validation_rows_that_are_earlier_than_training_rows_are_a_warning(folder: Path) -> None:
    time = 1_714_521_600 + np.arange(2000)
    pq.write_table(feed_table_of(2000, time=time), folder / "train.parquet", row_group_size=500)
    for name, start in (("later", 2000), ("overlapping", 1990)):
        pq.write_table(feed_table_of(300, time=time[0] + start + np.arange(300)), folder / f"{name}.parquet")
    sets = {name: {"source": {"inputs": f"{name}.parquet"}} for name in ("later", "overlapping")}
    file = small_run(folder, features={"timestamp": "time"}, validation_data=sets)
    assert [line for line in report(file) if "begins" in line] == [
        "validation_data.overlapping.source.inputs: overlapping begins at 2024-05-01 00:33:10 UTC, before the training "
        "data end, at 2024-05-01 00:33:19 UTC, so the model knows the future of these rows, which flatters it; split "
        "by time: recap data split"
    ]


def test_validation_files_that_are_also_training_files_are_named(folder: Path) -> None:
    pq.write_table(feed_table_of(1500), folder / "train.parquet")
    shutil.copy(folder / "train.parquet", folder / "copy.parquet")
    (folder / "other").mkdir()
    pq.write_table(feed_table_of(1400), folder / "other" / "part.parquet")
    sets = {
        "one": {"source": {"inputs": ["train*.parquet"]}},
        "two": {"source": {"inputs": ["copy.parquet", "other/*"]}},
        "train": {"source": {"inputs": ["train*.parquet"]}},
    }
    assert report(small_run(folder, validation_data=sets))[-2:] == [
        "validation_data.one.source.inputs: train.parquet is a training file; hold rows out for validation",
        "validation_data.two.source.inputs: copy.parquet has the rows of train.parquet, a training file; hold rows out "
        "for validation",
    ]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            {"y": np.arange(400) % 10},
            "train_data.tasks.y: train.parquet: column 'y', row 2: found 2, expected 0 or 1; a label must be 0 or 1, "
            "or null. It holds 0 to 9, as the published script for random data writes; 'recap data simulate' writes "
            "0 and 1",
        ),
        ({"y": np.arange(400) % 6}, "It holds 0, 1, 2, 3, 4, 5; make it 0 and 1 by a threshold"),
        ({"y": np.arange(400)}, "column 'y', row 2: found 2, expected 0 or 1; a label must be 0 or 1, or null"),
        ({"x": ["a"] * 400}, "features.continuous.0: train.parquet: column 'x'"),
        ({"item": ["a"] * 400}, "features.discrete.item: train.parquet: column 'item', row 0: found 'a', expected"),
    ],
)
def test_bad_values_are_found_with_file_row_and_column(folder: Path, columns: dict[str, object], text: str) -> None:
    pq.write_table(feed_table_of(400, **columns), folder / "train.parquet")
    found = report(small_run(folder))
    assert len(found) == 1
    assert text in found[0]


def test_a_csv_column_of_text_under_continuous_is_found(folder: Path) -> None:
    table = feed_table_of(400, x=["1.5"] * 399 + ["a"])
    pyarrow.csv.write_csv(table, folder / "train.csv")
    data = {"source": {"kind": "csv", "inputs": "train.csv"}}
    found = report(small_run(folder, train_data={**data, "global_batch_size": 64, "tasks": {"y": {}, "z": {}}}))
    assert "'x'" in "".join(found)
    assert "train.csv" in found[0]


def test_a_check_says_how_many_rows_it_looked_at(folder: Path) -> None:
    pq.write_table(feed_table_of(60_000), folder / "train.parquet", row_group_size=10_000)
    checked = check_data(resolve(small_run(folder)))
    assert (checked.warnings, checked.files, checked.rows, checked.sampled) == ([], 2, 60_300, 6 * 8333 + 300)
