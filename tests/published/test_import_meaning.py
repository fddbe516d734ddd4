"""Values that mean something else in the published form than the same text in ours keep their published meaning."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from published.files import complete_values, imported, read_back, refusals

from recap.config.file.load import load_config
from recap.config.file.yaml import parse
from recap.errors import ConfigError


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change."""
    return complete_values(tmp_path)


def remarks(folder: Path, values: Any) -> dict[str, list[str]]:
    """Path → the remarks on it."""
    texts: dict[str, list[str]] = {}
    for remark in imported(folder, values).remarks:
        texts.setdefault(remark.path, []).append(remark.text)
    return texts


@pytest.mark.parametrize(("batches", "divisor"), [(None, 1), (1, 1), (4, 4), (7, 7)])
def test_accumulated_batches_become_one_batch_and_steps_count_updates(
    batches: int | None, divisor: int, tmp_path: Path, published: dict[str, Any]
) -> None:
    published["training"]["gradient_accumulation"] = batches
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.training.gradient_accumulation == batches
    assert config.train_data.global_batch_size == 128 * divisor
    assert {name: data.global_batch_size for name, data in config.validation_data.items()} == {
        name: data["global_batch_size"] for name, data in published["validation_data"].items()
    }
    steps = [config.training.num_train_steps, config.training.checkpoint_every_n, config.training.train_log_every_n]
    towers = config.optimizer.towers
    steps += [getattr(config.optimizer.backbone, "num_ramp_steps")]  # noqa: B009
    steps += [getattr(towers["is_reported"], name) for name in ("num_ramp_steps", "final_num_steps")]
    steps += getattr(towers["is_shared"], "learning_rate_boundaries")  # noqa: B009
    assert steps == [-(-batches // divisor) for batches in (1000, 100, 10, 100, 10, 900, 10, 20)]
    remarked = any(
        "make one update" in text for text in remarks(tmp_path, published).get("training.gradient_accumulation", [])
    )
    assert remarked is (divisor > 1)


def test_accumulation_also_divides_the_published_defaults(tmp_path: Path, published: dict[str, Any]) -> None:
    published["training"] = {"gradient_accumulation": 4}
    training = read_back(tmp_path, imported(tmp_path, published)).training
    assert (training.num_train_steps, training.checkpoint_every_n, training.train_log_every_n) == (250_000, 250, 250)


def test_training_reads_the_files_again_whatever_repeat_files_says(tmp_path: Path, published: dict[str, Any]) -> None:
    published["train_data"]["repeat_files"] = False
    assert read_back(tmp_path, imported(tmp_path, published)).train_data.num_epochs is None
    assert remarks(tmp_path, published)["train_data.repeat_files"] == [
        "left out: the published code ignored it; set num_epochs to end the run after that many passes"
    ]


def test_training_does_not_evaluate_and_runs_in_float32(tmp_path: Path, published: dict[str, Any]) -> None:
    published["training"]["eval_log_every_n"] = 1
    config = read_back(tmp_path, imported(tmp_path, published))
    assert (config.training.eval_log_every_n, config.training.precision) == (None, "tf32")
    del published["training"]
    config = read_back(tmp_path, imported(tmp_path, published))
    assert (config.training.eval_log_every_n, config.training.precision) == (None, "tf32")


def test_dollar_signs_are_those_of_string_template(
    tmp_path: Path, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBLISHED_ROOT", "root")
    published["training"]["save_dir"] = "$PUBLISHED_ROOT/$${x}/$$5/${PUBLISHED_ROOT}_$PUBLISHED_ROOT{y}"
    assert read_back(tmp_path, imported(tmp_path, published)).training.save_dir == "root/${x}/$5/root_root{y}"
    published["training"]["save_dir"] = "$PUBLISHED_MISSING"
    assert refusals(tmp_path, published)[0].startswith(
        "training.save_dir: the environment variable 'PUBLISHED_MISSING' is not set"
    )


@pytest.mark.parametrize("field", ["save_dir", "initial_checkpoint_dir"])
def test_a_folder_of_a_run_in_a_bucket_is_refused(field: str, tmp_path: Path, published: dict[str, Any]) -> None:
    published["training"][field] = "gs://bucket/run"
    assert refusals(tmp_path, published) == [
        f"training.{field}: must be a local folder; found 'gs://bucket/run'. Mount the store, or copy the folder"
    ]


def test_columns_of_rectify_labels_are_the_stored_ones(tmp_path: Path, published: dict[str, Any]) -> None:
    for data in (published["train_data"], *published["validation_data"].values()):
        data["seg_dense_schema"] = {
            **data["seg_dense_schema"],
            "renamed_features": {
                **data["seg_dense_schema"]["renamed_features"],
                "served": "meta.served",
                "fav": "m.fav",
            },
        }
    published["train_data"]["preprocess"] = {
        "rectify_labels": {
            "served_timestamp_field": "served",
            "impressed_timestamp_field": "seen",
            "label_to_engaged_timestamp_field": {"is_favorited": "fav"},
        }
    }
    rectify = read_back(tmp_path, imported(tmp_path, json.loads(json.dumps(published)))).train_data.rectify_labels
    assert rectify is not None
    assert (rectify.served_at, rectify.impressed_at, rectify.engaged_at) == (
        "meta.served",
        "seen",
        {"is_favorited": "m.fav"},
    )


def test_fields_that_the_published_code_ignored_are_remarked_on(tmp_path: Path, published: dict[str, Any]) -> None:
    published["train_data"]["seg_dense_schema"]["mask_mantissa_features"] = {"continuous": 8}
    for data in published["validation_data"].values():
        data["seg_dense_schema"] = published["train_data"]["seg_dense_schema"]
    published["model"]["featurization_config"]["feature_names_to_concat"] = ["binary", "user_embedding"]
    published["which_metrics"] = "Count, reciprocal rank, hit at 5"
    texts = remarks(tmp_path, json.loads(json.dumps(published)))
    ignored = "takes effect; the published code ignored it"
    for path in (
        "training.num_eval_steps",
        "training.checkpoint_max_to_keep",
        "model.featurization_config.feature_names_to_concat",
        "train_data.seg_dense_schema.mask_mantissa_features.continuous",
        "validation_data",
        "validation_data.d8.evaluation_tasks",
        "which_metrics",
    ):
        assert ignored in texts[path], path
    assert [text.split()[0] for text in texts["which_metrics"]] == ["takes", "count", "reciprocal_rank", "hit_at"]


def test_tables_to_log_may_be_names_of_published_weights(tmp_path: Path, published: dict[str, Any]) -> None:
    table = {"name": "tweet", "num_embeddings": 500, "embedding_dim": 4}
    weight = "model.embeddings.ebc.embedding_bags.tweet.weight"
    large = {"tables": [table], "optimizer": {"init_learning_rate": 0.1}, "tables_to_log": [weight]}
    published["model"]["large_embeddings"] = large
    assert read_back(tmp_path, imported(tmp_path, published)).training.log_norms
    large["tables_to_log"] = [weight.replace("tweet", "twet")]
    assert refusals(tmp_path, published)[0].startswith("model.large_embeddings.tables_to_log.0: unknown table")


def test_two_small_tables_of_one_name_are_refused(tmp_path: Path, published: dict[str, Any]) -> None:
    table = {"name": "hour", "num_embeddings": 24, "embedding_dim": 4, "index": 7}
    published["model"]["small_embeddings"] = {"tables": [table, table | {"index": 8}]}
    assert refusals(tmp_path, json.loads(json.dumps(published))) == [
        "model.small_embeddings.tables.1.name: 'hour' is used twice; give each table its own name"
    ]


def test_numbers_and_booleans_are_those_of_yaml_1_1(tmp_path: Path, published: dict[str, Any]) -> None:
    text = yaml.dump(published, sort_keys=False)
    for old, new in (
        ("num_train_steps: 1000", "num_train_steps: 1_000"),
        ("checkpoint_every_n: 100", "checkpoint_every_n: 0144"),
        ("checkpoint_max_to_keep: 3", 'checkpoint_max_to_keep: "3"'),
        ("train_log_every_n: 10", "train_log_every_n: 10.0"),
        ("gradient_accumulation: 2", "gradient_accumulation: ~"),
        ("cache: false", "cache: off"),
        ("use_parallel: true", "use_parallel: yes"),
        ("bias: -0.25", 'bias: "-25e-2"'),
    ):
        assert old in text
        text = text.replace(old, new)
    config = read_back(tmp_path, imported(tmp_path, text))
    before = read_back(
        tmp_path,
        imported(tmp_path, {**published, "training": {**published["training"], "gradient_accumulation": None}}),
    )
    assert config == before


@example("08")  # octal digits only: text
@example("09.5")
@given(st.from_regex(r"[-+]?[0-9_:.eEoOxXabf]{1,8}|yes|no|on|off|Yes|FALSE|~|null|2023-04-05|=", fullmatch=True))
def test_scalars_of_yaml_1_1_are_those_of_pyyaml_except_dates_and_exponents(text: str) -> None:
    try:
        expected = yaml.safe_load(f"[{text}]")[0]
    except (yaml.YAMLError, ValueError):
        return
    problems: list[Any] = []
    node = parse(f"[{text}]", "text", problems, yaml_1_1=True)
    if problems or node is None:
        assert isinstance(expected, dict | list), (text, problems)
        return
    (item,) = node.value
    if isinstance(expected, str) and isinstance(item.value, float):
        assert "e" in text.lower()
    elif not isinstance(expected, bool | int | float | str | None):
        assert item.value == text or isinstance(expected, dict | list)
    else:
        assert item.value == expected or item.value != item.value
        assert type(item.value) is type(expected)


def test_published_weights_of_the_score_are_filled_in(tmp_path: Path, published: dict[str, Any]) -> None:
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.scoring.weights == {"recap.engagement.is_replied": 13.5, "is_favorited": 0.5, "is_retweeted": 1.0}
    assert any("and 0 in the score: is_reported, is_shared" in text for text in remarks(tmp_path, published)["model"])


def test_the_remarks_stand_as_comments_in_the_file(tmp_path: Path, published: dict[str, Any]) -> None:
    result = imported(tmp_path, published)
    comments = " ".join(line.removeprefix("#").strip() for line in result.text.splitlines() if line.startswith("#"))
    for remark in result.remarks:
        assert f"{remark.origin.line}: {remark.path}: {remark.text}" in comments


def test_a_file_of_another_published_project_is_refused_in_one_line(tmp_path: Path) -> None:
    values = {
        "runtime": {},
        "training": {"save_dir": "${HOME}/twhin"},
        "model": {"embeddings": {"tables": []}, "relations": [{"name": "fav"}], "translation_optimizer": {}},
        "train_data": {"data_root": "x", "per_replica_batch_size": 500},
    }
    assert refusals(tmp_path, values) == [
        "model.relations: belongs to the published TwHIN project, which embeds a graph; "
        "recap imports files of the ranker"
    ]


def test_our_own_form_refuses_a_run_in_a_bucket(tmp_path: Path, published: dict[str, Any]) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(imported(tmp_path, published).text.replace("${HOME}/runs/${USER}", "s3://bucket/run"))
    with pytest.raises(ConfigError, match="must be a local folder; found 's3://bucket/run'"):
        load_config(file)
