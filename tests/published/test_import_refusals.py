"""Files in the published form that cannot be imported: every reason, with its origin."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from published.files import COMPLETE, complete_values, imported, read_back, refusals, set_at

from recap.config.base import BaseConfig
from recap.config.file.keys import is_model, members
from recap.errors import ConfigError
from recap.published.form.config import PublishedConfig
from recap.published.form.section import Refused


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change."""
    return complete_values(tmp_path)


def sections(model: type[BaseConfig], path: str = "") -> Iterator[tuple[str, type[BaseConfig]]]:
    """Every section of the published form: its path in the complete file, and its class."""
    yield path, model
    for name, field in model.model_fields.items():
        for member in members(field.annotation):
            below = {dict: "is_favorited", list: "0"}.get(getattr(member, "__origin__", None))  # type: ignore[arg-type]
            inner = members(member.__args__[-1])[0] if below is not None else member
            if is_model(inner):
                yield from sections(inner, "/".join(filter(None, (path, name, below))))


FORM = {model: path for path, model in reversed(list(sections(PublishedConfig)))}
"""Class of a section → its first path in the complete file."""
REFUSED = {
    f"{path}/{name}": mark.reason
    for model, path in FORM.items()
    for name, field in model.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, Refused)
}
NOT_DEFAULT: dict[str, Any] = {"axis": 1, "use_bq_stats": True}


@pytest.mark.parametrize("path", REFUSED)
def test_a_refused_field_is_reported_with_the_reason(path: str, tmp_path: Path, published: dict[str, Any]) -> None:
    name = path.rpartition("/")[2]
    published["train_data"]["preprocess"] = {"truncate_and_slice": {}}
    published["model"]["featurization_config"]["z_score_log_config"] = {"analysis_path": "a.parquet"}
    set_at(published, path, NOT_DEFAULT.get(name, {"some": "values"}))
    found = refusals(tmp_path, published)
    assert any(line.endswith(f"{name}: {REFUSED[path]}") for line in found), found
    assert REFUSED[path].startswith(("deprecated; ", "not supported: "))


def test_all_refusals_and_mistakes_are_reported_together(tmp_path: Path, published: dict[str, Any]) -> None:
    published["train_data"] |= {
        "data_service_dispatcher": 1,
        "sampler": {"name": "half"},
        "global_batch_size": "many",
    }
    published["model"]["tasks"]["is_favorited"]["mlp_config"] = {"layer_sizes": [8, 2], "layers": []}
    published["model"]["position_debias_config"] = {"position_feature_indx": 51}
    published["optimizer"]["single_task_learning_rate"] = {"constant": 0.1, "piecewise_constnat": None}
    found = {line.split(": ")[0] for line in refusals(tmp_path, published)}
    assert found >= {
        "train_data.data_service_dispatcher",
        "train_data.sampler",
        "train_data.global_batch_size",
        "model.tasks.is_favorited.mlp_config.layers",
        "model.position_debias_config.position_feature_indx",
        "optimizer.single_task_learning_rate.piecewise_constnat",
        "optimizer",
    }


INVALID = {
    "an unknown key": ("training/sed", 1, "training.sed: 'sed' is unknown. Known: save_dir"),
    "two of a group": (
        "train_data/explicit_date_inputs",
        {"data_root": "d", "end_date": "2023/04/05", "days": 3},
        "train_data: exactly one of inputs, explicit_datetime_inputs, explicit_date_inputs must be set; found inputs",
    ),
    "none of a group": (
        "model/tasks/is_favorited/mlp_config",
        None,
        "model.tasks.is_favorited: exactly one of mlp_config, dcn_config, dlrm_config, mask_net_config must be set",
    ),
    "a tower without a logit": (
        "model/tasks/is_favorited/mlp_config",
        {"layer_sizes": [32]},
        "layer_sizes: a tower must end in an MLP whose last layer is 1, its logit; found 32",
    ),
    "ReLU of a logit": (
        "model/tasks/is_favorited/mlp_config",
        {"layer_sizes": [32, 1], "final_layer_activation": True},
        "final_layer_activation: must be false for a tower: with a ReLU, no probability would be below 0.5",
    ),
    "a MaskNet tower without a logit": (
        "model/tasks/is_reported/mask_net_config/mlp",
        None,
        "mask_net_config.mlp: a tower must end in an MLP whose last layer is 1, its logit; found none",
    ),
    "large tables without a rate": (
        "model/large_embeddings",
        {"tables": [{"name": "a", "num_embeddings": 9, "embedding_dim": 2}], "optimizer": {}},
        "large_embeddings.optimizer: the tables need a learning rate; set learning_rate or init_learning_rate",
    ),
    "an unknown table to log": (
        "model/large_embeddings",
        {
            "tables": [{"name": "a", "num_embeddings": 9, "embedding_dim": 2}],
            "optimizer": {"init_learning_rate": 0.1},
            "tables_to_log": ["b"],
        },
        "large_embeddings.tables_to_log.0: unknown table 'b'. Known: a",
    ),
    "two large tables with one name": (
        "model/large_embeddings",
        {
            "tables": [{"name": "a", "num_embeddings": 9, "embedding_dim": 2}] * 2,
            "optimizer": {"init_learning_rate": 0.1},
        },
        "large_embeddings.tables.1.name: 'a' is used twice; give each table its own name",
    ),
    "a setting of a logit in a backbone": (
        "model/backbone/pos_weight",
        2.0,
        "backbone.pos_weight: not applicable: a backbone",
    ),
    "a dropout of a layer without a ReLU": (
        "model/tasks/is_favorited/mlp_config",
        {"layers": [{"layer_size": 8}, {"layer_size": 1, "dropout": {"rate": 0.1}}]},
        "mlp_config.layers.1.dropout: has no effect: dropout follows a ReLU, and the last layer has none",
    ),
    "two dropouts of one layer": (
        "model/tasks/is_favorited/mlp_config",
        {"layers": [{"layer_size": 8, "dropout": {"rate": 0.1}}, {"layer_size": 1}], "dropout": {"rate": 0.2}},
        "mlp_config.dropout: applies to all layers, but some have their own",
    ),
    "our own form of dropout": (
        "model/backbone/mask_net_config/mlp/dropout",
        {"rates": [0.1, 0.2]},
        "mlp.dropout.rates: 'rates' is unknown. Known: rate.",
    ),
    "a DCN tower that ends in its cross layers": (
        "model/tasks/is_favorited",
        {"dcn_config": {"poly_degree": 2, "parallel_mlp": {"layer_sizes": [1]}}},
        "dcn_config.output_mlp: a tower must end in an MLP whose last layer is 1, its logit; found none",
    ),
    "a stacked DCN tower without a logit": (
        "model/tasks/is_favorited",
        {"dcn_config": {"poly_degree": 2, "use_parallel": False, "parallel_mlp": {"layer_sizes": [8]}}},
        "dcn_config.parallel_mlp.layer_sizes: a tower must end in an MLP whose last layer is 1, its logit; found 8",
    ),
    "a DLRM tower without a logit": (
        "model/tasks/is_favorited",
        {"dlrm_config": {"bottom_mlp": {"layer_sizes": [8]}, "top_mlp": {"layer_sizes": [4]}}},
        "dlrm_config.top_mlp.layer_sizes: a tower must end in an MLP whose last layer is 1, its logit; found 4",
    ),
    "DLRM without embeddings": (
        "model/backbone",
        {"dlrm_config": {"bottom_mlp": {"layer_sizes": [8]}, "top_mlp": {"layer_sizes": [4]}}},
        "model.backbone: dlrm multiplies embeddings, but the model has none",
    ),
    "an unknown metric": (
        "which_metrics",
        "RCE, precsion",
        "which_metrics: unknown metric 'precsion'. Known: ",
    ),
    "joined codes": (
        "model/featurization_config/feature_names_to_concat",
        ["binary", "discrete"],
        "feature_names_to_concat.1: not applicable: discrete is not a vector",
    ),
    "an unknown joined feature": (
        "model/featurization_config/feature_names_to_concat",
        ["binary", "topics"],
        "feature_names_to_concat.1: unknown feature 'topics'; add it to seg_dense_schema",
    ),
    "two strata with one name": (
        "model/stratifiers",
        [{"name": "tab", "index": 3, "value": 1}, {"name": "tab", "index": 3, "value": 2}],
        "model.stratifiers.1.name: 'tab' is used twice; give each stratum its own name",
    ),
    "differently shaped features": (
        "validation_data/d9/preprocess",
        {"downcast": {"features": {"continuous": "float16"}}},
        "validation_data.d9.preprocess.downcast: must equal that of train_data",
    ),
    "more bits than a mantissa has": (
        "train_data/seg_dense_schema/mask_mantissa_features",
        {"continuous": 24},
        "mask_mantissa_features.continuous: must be at most 23, the bits of a float32's mantissa; found 24",
    ),
    "a mantissa of binary values": (
        "train_data/seg_dense_schema/mask_mantissa_features",
        {"binary": 8},
        "mask_mantissa_features.binary: not applicable: binary values are 0 or 1; leave it out",
    ),
    "an unknown type": (
        "train_data/preprocess",
        {"downcast": {"features": {"continuous": "int8"}}},
        "downcast.features.continuous: 'int8' is unknown. Known: float32, bfloat16, float16, uint8, bool",
    ),
    "sampling for tasks that the model does not predict": (
        "train_data/preprocess",
        {"downsample_negatives": {"batch_multiplier": 2, "engagements_list": ["is_bookmarked"], "num_engagements": 1}},
        "downsample_negatives.engagements_list: the model predicts none of these; name some of its tasks",
    ),
    "another layout": (
        "validation_data/d9/seg_dense_schema",
        {"schema_path": "other.json"},
        "validation_data.d9.seg_dense_schema: must equal that of train_data except for schema_path",
    ),
    "an unknown task to evaluate": (
        "validation_data/d9/evaluation_tasks",
        ["is_bookmarked"],
        "validation_data.d9.evaluation_tasks: unknown task 'is_bookmarked'. Known: is_reported, is_shared",
    ),
    "a backbone without a rate": (
        "optimizer/multi_task_learning_rates/backbone_learning_rate",
        None,
        "optimizer.multi_task_learning_rates: the model has a backbone; add backbone_learning_rate",
    ),
    "sharing without a backbone": (
        "model/backbone",
        None,
        "model.sharing: share_partial needs model.backbone",
    ),
    "a task without a label": (
        "train_data/tasks",
        {"is_favorited": {}},
        "train_data.tasks: no label for task 'recap.engagement.is_replied'",
    ),
    "a rate for an unknown task": (
        "optimizer/multi_task_learning_rates/tower_learning_rates/is_liked",
        {"constant": 0.1},
        "optimizer.towers.is_liked: unknown task 'is_liked'. Known: ",
    ),
    "a column that the schema lacks": (
        "train_data/seg_dense_schema/renamed_features/continuous",
        "home__cont",
        "schema_path: 'home__cont' is missing from the schema; continuous needs numbers of a fixed length",
    ),
    "a rate above 1": (
        "train_data/tasks/is_favorited/neg_downsampling_rate",
        1.5,
        "train_data.tasks.is_favorited.neg_downsampling_rate: must be at most 1, found 1.5",
    ),
    "an environment variable that is not set": (
        "training/save_dir",
        "${NO_SUCH_VARIABLE}/x",
        "training.save_dir: the environment variable 'NO_SUCH_VARIABLE' is not set",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_file_is_refused_with_the_reason(case: str, tmp_path: Path, published: dict[str, Any]) -> None:
    path, value, expected = INVALID[case]
    set_at(published, path, value)
    published = json.loads(json.dumps(published))  # aliases become copies
    if path.startswith("train_data/seg_dense_schema"):
        for data in published["validation_data"].values():
            data["seg_dense_schema"] = published["train_data"]["seg_dense_schema"]
    found = refusals(tmp_path, published)
    assert any(expected in line for line in found), found


def test_an_invalid_schema_file_is_refused(tmp_path: Path, published: dict[str, Any]) -> None:
    (tmp_path / "schema.json").write_text('{"columns": []}')
    assert "expected JSON {" in refusals(tmp_path, published)[0]


@settings(max_examples=150)
@given(st.data())
def test_any_published_file_is_converted_or_refused(data: st.DataObject) -> None:
    values: Any = yaml.safe_load(COMPLETE.read_text())
    section: Any = values
    while isinstance(section, dict | list) and section:
        keys = list(section) if isinstance(section, dict) else list(range(len(section)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(section[key], dict | list):
            section[key] = data.draw(
                st.none()
                | st.integers(-2, 2)
                | st.text(max_size=3)
                | st.lists(st.integers(), max_size=1)
                | st.dictionaries(st.text(max_size=3), st.none(), max_size=1)
            )
            break
        section = section[key]
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = imported(Path(folder), values)
        except ConfigError as error:
            assert str(error)
        else:
            read_back(Path(folder), result)


def test_refusals_of_both_forms_are_reported_together(tmp_path: Path, published: dict[str, Any]) -> None:
    published["train_data"] |= {"sampler": {"name": "half"}, "global_batch_size": 0}
    published["train_data"]["tasks"].pop("is_shared")
    published["model"]["tasks"]["is_reported"] = {"dcn_config": {"poly_degree": 2}}  # no logit
    published["optimizer"]["adam"]["beta_1"] = 1.5
    found = {line.split(": ")[0] for line in refusals(tmp_path, published)}
    assert found == {
        "train_data.sampler",
        "model.tasks.is_reported.dcn_config.output_mlp",
        "train_data.tasks",
        "train_data.global_batch_size",
        "optimizer.algorithm.beta_1",
    }


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        (
            "explicit_datetime_inputs",
            {"data_root": "d", "end_datetime": "2023/02/30/10", "hours": 3},
            "end_datetime: expected a date YYYY/MM/DD/HH, found '2023/02/30/10'",
        ),
        (
            "explicit_date_inputs",
            {"data_root": "d", "end_date": "2023-04-05", "days": 3},
            "end_date: expected a date YYYY/MM/DD, found '2023-04-05'",
        ),
    ],
)
def test_an_invalid_date_is_refused(
    name: str, inputs: dict[str, Any], message: str, tmp_path: Path, published: dict[str, Any]
) -> None:
    published["train_data"] |= {"inputs": None, name: inputs}
    assert any(message in line for line in refusals(tmp_path, json.loads(json.dumps(published))))


@pytest.mark.parametrize(("path", "key"), [("training", "seed"), ("optimizer/adam", "kind"), ("model", "loss_weight")])
def test_our_own_keys_are_unknown_in_the_published_form(
    path: str, key: str, tmp_path: Path, published: dict[str, Any]
) -> None:
    set_at(published, f"{path}/{key}", 1)
    assert any(f"{key!r} is unknown" in line for line in refusals(tmp_path, published))


def test_there_is_no_default_rate_for_towers_in_the_published_form(tmp_path: Path, published: dict[str, Any]) -> None:
    published["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]["default"] = {"constant": 0.1}
    assert "default: unknown task 'default'. Known: recap.engagement.is_replied" in refusals(tmp_path, published)[0]


def test_extracted_values_need_their_own_names(tmp_path: Path, published: dict[str, Any]) -> None:
    table = [{"name": "is_favorited", "source_tensor": "discrete", "index": 1}]
    shaped = {
        "extract_features": {"extract_feature_table": table},
        "downcast": {"features": {"user_embedding": "uint8"}},
    }
    for data in (published["train_data"], *published["validation_data"].values()):
        data["preprocess"] = shaped
    found = refusals(tmp_path, json.loads(json.dumps(published)))
    path = "train_data.preprocess.extract_features.extract_feature_table.0.name"
    assert f"{path}: 'is_favorited' is the name of another column; choose another name" in found
    path = "train_data.preprocess.downcast.features.user_embedding"
    assert f"{path}: not supported: a pretrained vector holds fractions, not uint8; use bfloat16 or float16" in found


def test_a_validation_set_without_predicted_tasks_is_refused(tmp_path: Path, published: dict[str, Any]) -> None:
    published["validation_data"]["d9"]["tasks"] = {"is_bookmarked": {}}
    assert refusals(tmp_path, json.loads(json.dumps(published))) == [
        "validation_data.d9.tasks: the model predicts none of its tasks; remove this data set"
    ]
