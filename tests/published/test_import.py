"""Import of files in the published form."""

import getpass
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from published.files import COMPLETE, complete_values, imported, read_back, refusals

from recap.config.featurization import DoubleNormLogConfig
from recap.published.convert.config import import_config


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change."""
    return complete_values(tmp_path)


def test_every_section_is_converted_in_its_order(tmp_path: Path, published: dict[str, Any]) -> None:
    text = COMPLETE.read_text().replace("SCHEMA", published["train_data"]["seg_dense_schema"]["schema_path"])
    result = imported(tmp_path, text)
    config = read_back(tmp_path, result)
    assert config.training.save_dir == f"{os.environ['HOME']}/runs/{os.environ.get('USER') or getpass.getuser()}"
    assert 'save_dir: "${HOME}/runs/${USER}"' in result.text
    assert config.tasks == ["recap.engagement.is_replied", "is_favorited", "is_reported", "is_shared", "is_retweeted"]
    assert list(config.validation_data) == ["validation", "same", *(f"d{n}" for n in range(1, 10)), "is_favorited"]
    assert config.features.model_dump(mode="json", exclude_unset=True) == {
        "continuous": [{"name": "home__continuous", "length": 60}],
        "binary": [{"name": "home__binary", "length": 12}],
        "vectors": {"user.follow": 6, "user.engagement": 7, "author.follow": 5},
        "ids": ["meta.tweet_id"],
        "user": "meta.user_id",
    }
    towers = {name: task.tower for name, task in config.model.tasks.items()}
    assert [getattr(tower, "layer_sizes", None) for tower in towers.values()] == [[32, 16], [32], None, None, [32, 16]]
    assert [tower.kind for tower in towers.values()] == ["mlp", "mlp", "mask_net", "mask_net", "mlp"]
    assert config.which_metrics == ["rce", "auc", "ctr", "precision", "positive_rank", "hit_at"]
    assert config.metrics.hit_at == [1, 5]
    assert config.train_data.shuffle_window_rows == 2048


def test_a_validation_set_keeps_its_meaning_although_ours_inherits_from_train_data(
    tmp_path: Path, published: dict[str, Any]
) -> None:
    config = read_back(tmp_path, imported(tmp_path, published))
    for name, source in published["validation_data"].items():
        ours = config.validation_data[name]
        assert ours.source.inputs == [source["inputs"].replace("${USER}", os.environ.get("USER") or getpass.getuser())]
        assert ours.global_batch_size == source["global_batch_size"]
        evaluated = source.get("evaluation_tasks") or list(source["tasks"])
        assert list(ours.labels) == [task for task in config.tasks if task in evaluated]
        for task, rates in ours.labels.items():
            assert (
                rates.model_dump(exclude={"column"})
                == {"pos_downsampling_rate": 1, "neg_downsampling_rate": 1} | source["tasks"][task]
            )


def test_remarks_name_changed_meanings_in_the_order_of_the_file(tmp_path: Path, published: dict[str, Any]) -> None:
    remarks = imported(tmp_path, published).remarks
    lines = [remark.origin.line for remark in remarks]
    assert lines == sorted(lines)
    texts = {remark.path: remark.text for remark in remarks}
    assert texts["model.tasks"] == "tasks and labels are matched by name; the published code matched them by position"
    assert texts["optimizer.adam.epsilon"].startswith("0 becomes 1e-12, the minimum")
    assert texts["train_data.map_num_parallel_calls"].startswith("left out: it only tunes the published reader")
    assert {remark.text for remark in remarks if remark.path == "train_data.tasks"} == {
        "left out, since the model does not predict them: is_bookmarked",
        "sampling rates calibrate the probabilities; weighting examples as well would correct twice",
    }


def test_a_missing_schema_file_means_the_published_lengths(tmp_path: Path, published: dict[str, Any]) -> None:
    for data in (published["train_data"], *published["validation_data"].values()):
        data["seg_dense_schema"]["schema_path"] = "nowhere/schema.json"
    result = imported(tmp_path, published)
    assert any("nowhere/schema.json cannot be read (No such file" in remark.text for remark in result.remarks)
    features = read_back(tmp_path, result).features
    assert features.continuous[0].length == 6000
    assert [vector.length for vector in features.vectors.values()] == [200, 200, 200]


def test_a_single_rate_applies_to_backbone_and_towers(tmp_path: Path, published: dict[str, Any]) -> None:
    published["optimizer"] = {"single_task_learning_rate": {"constant": 0.25}}
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.optimizer.backbone.model_dump() == {"kind": "constant", "learning_rate": 0.25}
    assert list(config.optimizer.towers) == ["default"]


def test_without_a_backbone_rate_only_the_towers_learn(tmp_path: Path, published: dict[str, Any]) -> None:
    published["model"] |= {"backbone": None, "multi_task_type": "share_none", "featurization_config": None}
    published["optimizer"]["multi_task_learning_rates"]["backbone_learning_rate"] = None
    result = imported(tmp_path, published)
    config = read_back(tmp_path, result)
    assert config.optimizer.backbone.model_dump() == {"kind": "constant", "learning_rate": 0.0}
    assert isinstance(config.model.featurization, DoubleNormLogConfig)
    assert config.model.featurization.layer_norm is not None
    assert any("all weights outside the towers keep their initial values" in remark.text for remark in result.remarks)
    assert any("double_norm_log with BatchNorm and LayerNorm" in remark.text for remark in result.remarks)


def test_values_that_are_equal_only_in_this_environment_stay_separate(
    tmp_path: Path, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAIN_GLOB", "data")
    monkeypatch.setenv("TEST_GLOB", "data")
    published["train_data"]["inputs"] = "${TRAIN_GLOB}"
    published["validation_data"]["same"]["inputs"] = "${TEST_GLOB}"
    result = imported(tmp_path, json.loads(json.dumps(published)))
    monkeypatch.setenv("TEST_GLOB", "elsewhere")
    config = read_back(tmp_path, result)
    assert config.train_data.source.inputs == ["data"]
    assert config.validation_data["same"].source.inputs == ["elsewhere"]


def test_folders_by_hour_and_by_day_are_converted(tmp_path: Path, published: dict[str, Any]) -> None:
    hourly = {"data_root": "${ROOT:-data}", "end_datetime": "2023/04/05/23", "hours": 3, "num_missing_hours_tol": 1}
    published["train_data"] |= {"inputs": None, "explicit_datetime_inputs": hourly}
    daily = {"data_root": "data", "end_date": "2023/04/05", "days": 2}
    published["validation_data"]["same"] |= {"inputs": None, "explicit_date_inputs": daily}
    config = read_back(tmp_path, imported(tmp_path, json.loads(json.dumps(published))))
    assert config.train_data.source.inputs.model_dump(exclude_unset=True) == {  # type: ignore[union-attr]
        "kind": "hourly",
        **hourly,
        "data_root": "data",
    }
    assert config.validation_data["same"].source.inputs.model_dump(exclude_unset=True) == {  # type: ignore[union-attr]
        "kind": "daily",
        **daily,
    }


def test_rectify_labels_is_converted_for_each_data_set(tmp_path: Path, published: dict[str, Any]) -> None:
    rectify = {
        "served_timestamp_field": "served",
        "impressed_timestamp_field": "seen",
        "label_to_engaged_timestamp_field": {"is_favorited": "fav_at", "is_bookmarked": "mark_at"},
    }
    published["train_data"]["preprocess"] = {"rectify_labels": rectify}
    published["validation_data"]["same"]["preprocess"] = {"rectify_labels": rectify}
    other = rectify | {"label_rectification_window_in_hours": 1.5}
    published["validation_data"]["validation"]["preprocess"] = {"rectify_labels": other}
    config = read_back(tmp_path, imported(tmp_path, json.loads(json.dumps(published))))
    ours = {
        "window_hours": 3.0,
        "served_at": "served",
        "impressed_at": "seen",
        "engaged_at": {"is_favorited": "fav_at"},
    }
    converted = {
        name: data.rectify_labels and data.rectify_labels.model_dump() for name, data in config.validation_data.items()
    }
    assert config.train_data.rectify_labels is not None
    assert config.train_data.rectify_labels.model_dump() == ours == converted["same"]
    assert converted["validation"] == ours | {"window_hours": 1.5}
    assert converted["d1"] is None


def test_a_small_embedding_reads_one_value_of_the_discrete_column(tmp_path: Path, published: dict[str, Any]) -> None:
    tables = [{"name": "hour", "num_embeddings": 24, "embedding_dim": 4, "index": 7}]
    published["model"]["small_embeddings"] = {"tables": tables}
    result = imported(tmp_path, published)
    config = read_back(tmp_path, result)
    assert config.features.model_dump(exclude_unset=True)["discrete"] == {
        "hour": {"size": 24, "of": {"column": "home__discrete", "index": 7}}
    }
    assert config.model.widths == {"hour": 4}
    assert not any("discrete is left out" in remark.text for remark in result.remarks)


FEATURIZATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "log1p_abs": ({"log1p_abs_config": {}}, {"kind": "log1p_abs"}),
    "clip_log1p_abs": ({"clip_log1p_abs_config": {}}, {"kind": "clip_log1p_abs"}),
    "clip_log1p_abs at a magnitude": (
        {"clip_log1p_abs_config": {"clip_magnitude": 10.0}},
        {"kind": "clip_log1p_abs", "clip_magnitude": 10.0},
    ),
    "z_score_log": (
        {"z_score_log_config": {"analysis_path": "a.parquet", "schema_path": "s.json", "clip_magnitude": 4.0}},
        {"kind": "z_score_log", "analysis": "a.parquet", "clip_magnitude": 4.0},
    ),
    "z_score_log with BatchNorm": (
        {"z_score_log_config": {"analysis_path": "a.parquet", "use_batch_norm": True}},
        {"kind": "z_score_log", "analysis": "a.parquet", "batch_norm": {}},
    ),
    "z_score_log with renormalisation": (
        {"z_score_log_config": {"analysis_path": "a.parquet", "use_renorm": True}},
        {"kind": "z_score_log", "analysis": "a.parquet", "batch_norm": {}, "renorm": True},
    ),
    "log1p_abs that joins a vector": (
        {"log1p_abs_config": {}, "feature_names_to_concat": ["user_embedding"]},
        {"kind": "log1p_abs", "join": ["user.follow"]},
    ),
    "a LayerNorm that scales and does not shift": (
        {"double_norm_log_config": {"layer_norm_config": {"center": False}}},
        {"kind": "double_norm_log", "batch_norm": None, "layer_norm": {"affine": "scale"}},
    ),
    "a LayerNorm that shifts and does not scale": (
        {"double_norm_log_config": {"layer_norm_config": {"scale": False}}},
        {"kind": "double_norm_log", "batch_norm": None, "layer_norm": {"affine": "shift"}},
    ),
    "double_norm_log that joins a vector": (
        {"double_norm_log_config": {}, "feature_names_to_concat": ["binary", "user_embedding"]},
        {"kind": "double_norm_log", "batch_norm": None, "join": ["binary", "user.follow"]},
    ),
}


@pytest.mark.parametrize("case", FEATURIZATIONS)
def test_every_featurization_is_converted(case: str, tmp_path: Path, published: dict[str, Any]) -> None:
    source, ours = FEATURIZATIONS[case]
    published["model"]["featurization_config"] = source
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.model.featurization.model_dump(exclude_unset=True) == ours


def test_any_column_of_a_fixed_length_may_be_joined(tmp_path: Path, published: dict[str, Any]) -> None:
    published["model"]["featurization_config"]["feature_names_to_concat"] = ["binary", "topics"]
    for data in (published["train_data"], *published["validation_data"].values()):
        data["seg_dense_schema"]["renamed_features"]["topics"] = "home__binary2"
    published = json.loads(json.dumps(published))
    unknown = (
        "train_data.seg_dense_schema.schema_path: 'home__binary2' is missing from the schema; topics needs numbers"
    )
    assert any(line.startswith(unknown) for line in refusals(tmp_path, published))
    schema = Path(published["train_data"]["seg_dense_schema"]["schema_path"])
    entry = {"feature_name": "home__binary2", "dtype": "float_list", "length": 9}
    schema.write_text(json.dumps({"schema": [*json.loads(schema.read_text())["schema"], entry]}))
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.features.vectors["home__binary2"].length == 9
    assert getattr(config.model.featurization, "join", None) == ["binary", "home__binary2"]
    schema.unlink()
    message = "schema_path: cannot be read, and the published layout has no length for 'topics'"
    assert any(message in line for line in refusals(tmp_path, published))


def test_the_position_is_one_value_of_the_discrete_column(tmp_path: Path, published: dict[str, Any]) -> None:
    published["model"]["position_debias_config"] = {"position_feature_index": 51, "num_dims": 16}
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.features.model_dump(exclude_unset=True)["discrete"] == {
        "position": {"size": 65536, "of": {"column": "home__discrete", "index": 51}}
    }
    assert config.model.position_debias is not None
    assert config.model.position_debias.model_dump() == {
        "feature": "position",
        "max_position": 256,
        "num_dims": 16,
        "drop_probability": 0.5,
        "scored_at": "hidden",
    }
    tables = [{"name": "position", "num_embeddings": 24, "embedding_dim": 4, "index": 51}]
    published["model"]["small_embeddings"] = {"tables": tables}
    result = imported(tmp_path, published)
    assert list(read_back(tmp_path, result).features.discrete) == ["position", "position_0"]
    assert any("embeds the position too, and is never hidden" in remark.text for remark in result.remarks)


def test_strata_may_read_features_without_an_embedding(tmp_path: Path, published: dict[str, Any]) -> None:
    tables = [{"name": "hour", "num_embeddings": 24, "embedding_dim": 4, "index": 7}]
    published["model"] |= {
        "small_embeddings": {"tables": tables},
        "position_debias_config": {"position_feature_index": 51},
        "stratifiers": [
            {"name": "morning", "index": 7, "value": 8},
            {"name": "first", "index": 51, "value": 0},
            {"name": "home", "index": 3, "value": 1},
            {"name": "search", "index": 3, "value": 4},
        ],
    }
    config = read_back(tmp_path, imported(tmp_path, published))
    assert {name: (stratum.feature, stratum.value) for name, stratum in config.strata.items()} == {
        "morning": ("hour", 8),
        "first": ("position", 0),
        "home": ("discrete_3", 1),
        "search": ("discrete_3", 4),
    }
    assert config.features.discrete["discrete_3"].model_dump(exclude_unset=True) == {
        "size": 5,
        "of": {"column": "home__discrete", "index": 3},
    }
    assert config.model.widths == {"hour": 4, "discrete_3": 0}


def test_truncation_becomes_an_option_of_the_columns(tmp_path: Path, published: dict[str, Any]) -> None:
    cut = {"truncate_and_slice": {"continuous_feature_truncation": 50, "binary_feature_truncation": 100}}
    for data in (published["train_data"], *published["validation_data"].values()):
        data["preprocess"] = cut
    features = read_back(tmp_path, imported(tmp_path, published)).features
    assert (features.continuous[0].first, features.binary[0].first) == (50, None)
    published["validation_data"]["d9"] = {**published["validation_data"]["d9"], "preprocess": None}
    assert any("truncate_and_slice: must equal that of train_data" in line for line in refusals(tmp_path, published))


def test_options_that_shape_a_feature_become_options_of_that_feature(tmp_path: Path, published: dict[str, Any]) -> None:
    preprocess = {
        "truncate_and_slice": {"continuous_feature_truncation": 50, "continuous_feature_mask_path": "kept.npy"},
        "downcast": {
            "features": {"continuous": "bfloat16", "binary": "uint8", "user_embedding": "float16", "x": "bool"}
        },
        "extract_features": {"extract_feature_table": [{"name": "tab", "source_tensor": "discrete", "index": 51}]},
    }
    for data in (published["train_data"], *published["validation_data"].values()):
        data["preprocess"] = preprocess
        data["seg_dense_schema"]["mask_mantissa_features"] = {"continuous": 8, "author_embedding": 16}
    result = imported(tmp_path, published)
    features = read_back(tmp_path, result).features.model_dump(exclude_defaults=True)
    assert features["continuous"] == [
        {
            "name": "home__continuous",
            "length": 60,
            "first": 50,
            "mask": "kept.npy",
            "masked_mantissa_bits": 8,
            "dtype": "bfloat16",
        }
    ]
    assert features["binary"] == [{"name": "home__binary", "length": 12, "dtype": "uint8"}]
    assert features["vectors"] == {
        "user.follow": {"length": 6, "dtype": "float16"},
        "user.engagement": {"length": 7},
        "author.follow": {"length": 5, "masked_mantissa_bits": 16},
    }
    assert features["ids"][-1] == {"name": "tab", "of": {"column": "home__discrete", "index": 51}}
    assert any("since the model reads no numbers of them: x" in remark.text for remark in result.remarks)


def test_reading_options_are_converted(tmp_path: Path, published: dict[str, Any]) -> None:
    options = {"num_files_to_keep": 3, "repeat_files": False, "cache": True, "ignore_data_errors": True}
    sampling = {"batch_multiplier": 4, "engagements_list": ["is_favorited", "is_bookmarked"], "num_engagements": 2}
    published["train_data"] |= options | {"preprocess": {"downsample_negatives": sampling}}
    published["validation_data"]["same"] |= options | {"repeat_files": True}
    published["validation_data"]["d1"] |= {"num_files_to_keep": 2}
    result = imported(tmp_path, published)
    config = read_back(tmp_path, result)
    train = config.train_data
    assert (train.source.num_files_to_keep, train.num_epochs, train.cache) == (3, None, True)
    assert train.on_bad_data.model_dump() == {"kind": "skip", "budget": 1000}
    assert train.downsample_negatives is not None
    assert train.downsample_negatives.model_dump() == {"batch_multiplier": 4, "keep_positives_of": ["is_favorited"]}
    sets = config.validation_data
    num_files = {name: data.source.num_files_to_keep for name, data in sets.items()}
    assert (num_files["same"], num_files["d1"], num_files["d2"]) == (3, 2, None)
    assert (sets["same"].cache, sets["d2"].cache) == (True, False)
    assert (sets["same"].on_bad_data.kind, sets["d2"].on_bad_data.kind) == ("skip", "stop")
    texts = {remark.path: remark.text for remark in result.remarks}
    assert texts["train_data.ignore_data_errors"].startswith("at most 1,000 bad rows, chunks or files are skipped")
    path = "train_data.preprocess.downsample_negatives"
    assert texts[path].startswith("positives are sampled too if they leave no room for negatives")
    assert texts[f"{path}.engagements_list"] == "left out, since the model does not predict them: is_bookmarked"


def test_reading_on_other_hosts_is_converted(tmp_path: Path, published: dict[str, Any]) -> None:
    service = {"data_service_dispatcher": "grpc://reader:5000", "dataset_service_compression": "AUTO"}
    published["train_data"] |= service
    published["validation_data"]["same"] |= service
    published["validation_data"]["d1"] |= {"data_service_dispatcher": "other:6000"}
    result = imported(tmp_path, json.loads(json.dumps(published)))
    config = read_back(tmp_path, result)
    expected = {"kind": "service", "address": ["reader:5000"], "count": 2, "compression": "lz4", "wait_seconds": 60.0}
    assert config.train_data.readers.model_dump() == expected
    sets = config.validation_data
    assert sets["same"].readers.model_dump() == expected
    assert sets["d1"].readers.model_dump() == expected | {"address": ["other:6000"], "compression": "none"}
    assert sets["d2"].readers.kind == "threads"
    texts = {remark.path: remark.text for remark in result.remarks}
    assert texts["train_data.data_service_dispatcher"].startswith("must be the address of a 'recap data serve'")
    assert texts["train_data.dataset_service_compression"] == "AUTO becomes lz4"


def test_sampling_that_drops_nothing_is_left_out(tmp_path: Path, published: dict[str, Any]) -> None:
    sampling = {"batch_multiplier": 1, "engagements_list": ["is_favorited"], "num_engagements": 1}
    for name in ("train_data", "validation_data"):
        data = published[name] if name == "train_data" else published[name]["d1"]
        data["preprocess"] = {"downsample_negatives": sampling}
    result = imported(tmp_path, published)
    assert read_back(tmp_path, result).train_data.downsample_negatives is None
    texts = {remark.path: remark.text for remark in result.remarks}
    assert texts["train_data.preprocess.downsample_negatives"].startswith("left out: a batch_multiplier of 1")
    path = "validation_data.d1.preprocess.downsample_negatives"
    assert texts[path] == "left out: an evaluation uses every row it reads"


def test_labels_may_be_renamed_and_data_sets_may_have_their_own_schema_file(
    tmp_path: Path, published: dict[str, Any]
) -> None:
    for data in (published["train_data"], *published["validation_data"].values()):
        data["seg_dense_schema"]["renamed_features"]["is_favorited"] = "label.favorite"
    published = json.loads(json.dumps(published))
    published["validation_data"]["same"]["seg_dense_schema"]["schema_path"] = "other.json"
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.train_data.tasks["is_favorited"].column == "label.favorite"
    assert config.train_data.tasks["is_favorited"].neg_downsampling_rate == 0.01
    sets = config.validation_data
    assert sets["d8"].tasks["is_favorited"].model_dump(exclude_defaults=True) == {"column": "label.favorite"}
    assert [column.name for column in config.features.ids] == ["meta.tweet_id"]
    paths = {name: data.source.model_dump()["schema_path"] for name, data in sets.items()}
    assert paths["same"] == "other.json"
    assert paths["d1"] == published["train_data"]["seg_dense_schema"]["schema_path"]


def test_every_column_has_one_role(tmp_path: Path, published: dict[str, Any]) -> None:
    features = ["meta.tweet_id", "home__continuous", "is_favorited", "meta.user_id", "other.embedding"]
    published["train_data"]["seg_dense_schema"]["features"] = features
    published["validation_data"] = {}
    result = imported(tmp_path, published)
    ours = read_back(tmp_path, result).features
    assert [column.name for column in ours.ids] == ["meta.tweet_id", "other.embedding"]
    assert ours.user == "meta.user_id"
    assert any(remark.text.endswith("does not read them: meta.tweet_id, other.embedding") for remark in result.remarks)


def test_a_schedule_may_come_from_the_environment(
    tmp_path: Path, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATE", "0.5")
    rates = published["optimizer"]["multi_task_learning_rates"]
    rates["backbone_learning_rate"] = {"constant": "${RATE}", "linear_ramp_to_constant": "${RAMP:-null}"}
    assert read_back(tmp_path, imported(tmp_path, published)).optimizer.backbone.model_dump() == {
        "kind": "constant",
        "learning_rate": 0.5,
    }


def test_a_line_break_in_the_name_of_the_file_adds_no_line(tmp_path: Path, published: dict[str, Any]) -> None:
    file = tmp_path / "a\nb: 1 #.yaml"
    file.write_text(yaml.dump(published))
    lines = import_config(str(file)).text.splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "training:"
