"""Files in the published form: what they become here, and what is refused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.config.base import BaseConfig
from recap.config.keys import is_model, members
from recap.config.load import load_config
from recap.config.published.convert import Imported, import_config
from recap.config.published.form import PublishedConfig
from recap.config.published.section import Refused
from recap.config.recap import RecapConfig
from recap.errors import ConfigError

WHOLE = Path(__file__).parent / "published" / "whole.yaml"
SCHEMA = {"home__continuous": 60, "home__binary": 12, "author.follow": 5, "user.follow": 6, "user.engagement": 7}


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The whole file as plain values to change at will, its schema at hand."""
    schema = tmp_path / "schema.json"
    entries = [{"feature_name": name, "dtype": "float_list", "length": length} for name, length in SCHEMA.items()]
    schema.write_text(json.dumps({"schema": entries}))
    values: dict[str, Any] = yaml.safe_load(WHOLE.read_text().replace("SCHEMA", str(schema)).replace("1e-4", "1.0e-4"))
    return values


def imported(folder: Path, values: Any) -> Imported:
    file = folder / "published.yaml"
    file.write_text(values if isinstance(values, str) else yaml.dump(values, sort_keys=False))
    return import_config(str(file))


def read_back(folder: Path, found: Imported) -> RecapConfig:
    ours = folder / "ours.yaml"
    ours.write_text(found.text)
    return load_config(ours)


def refusals(folder: Path, values: Any) -> list[str]:
    """The lines of the error, without file and place."""
    with pytest.raises(ConfigError) as caught:
        imported(folder, values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


def set_at(values: Any, path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        values = values[int(key) if isinstance(values, list) else key]
    values[last] = value


def test_every_section_is_taken_over_in_its_order(tmp_path: Path, published: dict[str, Any]) -> None:
    text = WHOLE.read_text().replace("SCHEMA", published["train_data"]["seg_dense_schema"]["schema_path"])
    found = imported(tmp_path, text)
    config = read_back(tmp_path, found)
    assert config.training.save_dir == f"{os.environ['HOME']}/runs/{os.environ.get('USER', 'root')}"
    assert 'save_dir: "${HOME}/runs/${USER}"' in found.text
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
    assert config.which_metrics == ["rce", "auc", "ctr"]
    assert config.train_data.shuffle_window_rows == 2048


def test_what_a_validation_set_says_is_what_it_said(tmp_path: Path, published: dict[str, Any]) -> None:
    """Whatever of it is inherited from `train_data` in our form, and was not in the published one."""
    config = read_back(tmp_path, imported(tmp_path, published))
    for name, said in published["validation_data"].items():
        ours = config.validation_data[name]
        assert ours.source.inputs == [said["inputs"].replace("${USER}", os.environ.get("USER", "root"))]
        assert ours.global_batch_size == said["global_batch_size"]
        evaluated = said.get("evaluation_tasks") or list(said["tasks"])
        assert list(ours.labels) == [task for task in config.tasks if task in evaluated]
        for task, rates in ours.labels.items():
            assert rates.model_dump() == {"pos_downsampling_rate": 1, "neg_downsampling_rate": 1} | said["tasks"][task]


def test_remarks_name_what_changes_in_meaning_in_the_order_of_the_file(
    tmp_path: Path, published: dict[str, Any]
) -> None:
    remarks = imported(tmp_path, published).remarks
    lines = [remark.origin.line for remark in remarks]
    assert lines == sorted(lines)
    said = {remark.path: remark.text for remark in remarks}
    assert said["model.tasks"] == "heads and labels are matched by name; the published code matched by position"
    assert said["optimizer.adam.epsilon"].startswith("0 becomes 1e-12, the smallest accepted")
    assert said["train_data.map_num_parallel_calls"].startswith("left out, it means nothing here")
    assert {remark.text for remark in remarks if remark.path == "train_data.tasks"} == {
        "labels that no head predicts are left out: is_bookmarked",
        "sampling rates calibrate the probabilities; they do not weigh examples too, which corrects twice",
    }


def sections(model: type[BaseConfig], path: str = "") -> Iterator[tuple[str, type[BaseConfig]]]:
    """Every section of the published form that is not refused whole, with a path of it in the whole file."""
    yield path, model
    for name, field in model.model_fields.items():
        for each in members(field.annotation):
            below = {dict: "is_favorited", list: "0"}.get(getattr(each, "__origin__", None))  # type: ignore[arg-type]
            inner = members(each.__args__[-1])[0] if below is not None else each
            if is_model(inner):
                yield from sections(inner, "/".join(filter(None, (path, name, below))))


FORM = {model: path for path, model in reversed(list(sections(PublishedConfig)))}
"""Every section, with the first path it has in the whole file."""
REFUSED = {
    f"{path}/{name}": mark.why
    for model, path in FORM.items()
    for name, field in model.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, Refused)
}
NOT_DEFAULT: dict[str, Any] = {
    "feature_names_to_concat": ["binary", "discrete"],
    "mask_mantissa_features": {"continuous": 8},
    "stratifiers": [{"name": "tab", "index": 3, "value": 1}],
    "data_service_dispatcher": "grpc://reader:5000",
    "num_files_to_keep": 3,
    "axis": 1,
    "cache": True,
    "ignore_data_errors": True,
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_taken_over_is_refused_with_the_reason(
    path: str, tmp_path: Path, published: dict[str, Any]
) -> None:
    name = path.rpartition("/")[2]
    published["train_data"]["preprocess"] = {"truncate_and_slice": {}}
    set_at(published, path, NOT_DEFAULT.get(name, {"some": "values"}))
    found = refusals(tmp_path, published)
    assert any(line.endswith(f"{name}: {REFUSED[path]}") for line in found), found
    assert REFUSED[path].startswith(("not built yet: ", "deprecated; ", "means nothing here: "))


def test_all_refusals_and_mistakes_are_told_at_once(tmp_path: Path, published: dict[str, Any]) -> None:
    published["train_data"] |= {"cache": True, "sampler": {"name": "half"}, "global_batch_size": "many"}
    published["model"]["tasks"]["is_favorited"]["mlp_config"] = {"layer_sizes": [8, 2], "layers": []}
    published["model"]["position_debias_config"] = {"position_feature_index": 51}
    published["optimizer"]["single_task_learning_rate"] = {"constant": 0.1, "piecewise_constnat": None}
    found = {line.split(": ")[0] for line in refusals(tmp_path, published)}
    assert found >= {
        "train_data.cache",
        "train_data.sampler",
        "train_data.global_batch_size",
        "model.tasks.is_favorited.mlp_config.layers",
        "model.position_debias_config",
        "optimizer.single_task_learning_rate.piecewise_constnat",
        "optimizer",
    }


WRONG = {
    "a key that is not known": ("training/sed", 1, "training.sed: 'sed' is unknown. Known: save_dir"),
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
        "layer_sizes: a tower must end in an mlp whose last layer is 1, its logit; found 32",
    ),
    "ReLU of a logit": (
        "model/tasks/is_favorited/mlp_config",
        {"layer_sizes": [32, 1], "final_layer_activation": True},
        "final_layer_activation: means nothing here: ReLU of a logit keeps every probability at 0.5 or more",
    ),
    "a MaskNet tower without a logit": (
        "model/tasks/is_reported/mask_net_config/mlp",
        None,
        "mask_net_config.mlp: a tower must end in an mlp whose last layer is 1, its logit; found none",
    ),
    "BatchNorm that would be lost": (
        "model/tasks/is_reported/mask_net_config/mlp/batch_norm",
        {},
        "batch_norm: not built yet: BatchNorm behind the mask blocks of a tower",
    ),
    "a logit of a backbone": (
        "model/backbone/pos_weight",
        2.0,
        "backbone.pos_weight: means nothing here: a backbone",
    ),
    "a dropout of one layer": (
        "model/tasks/is_favorited/mlp_config",
        {"layers": [{"layer_size": 8, "dropout": {"rate": 0.1}}, {"layer_size": 1}]},
        "mlp_config.layers.0.dropout: not built yet: a dropout of its own for one layer",
    ),
    "a shift without a scale": (
        "model/featurization_config/double_norm_log_config/layer_norm_config",
        {"center": True, "scale": False},
        "layer_norm_config.scale: must be what center is",
    ),
    "a metric that is not built": (
        "which_metrics",
        "RCE, precision",
        "which_metrics: 'precision' is not built yet",
    ),
    "training on each row once": ("train_data/repeat_files", False, "train_data.repeat_files: not built yet: training"),
    "a layout of its own": (
        "validation_data/d9/seg_dense_schema",
        {"schema_path": "other.json"},
        "validation_data.d9.seg_dense_schema: not built yet: a layout of its own for a validation set",
    ),
    "an unknown task to evaluate": (
        "validation_data/d9/evaluation_tasks",
        ["is_bookmarked"],
        "validation_data.d9.evaluation_tasks: 'is_bookmarked' is no task of it. Known: is_reported, is_shared",
    ),
    "a backbone without a rate": (
        "optimizer/multi_task_learning_rates/backbone_learning_rate",
        None,
        "optimizer.multi_task_learning_rates: no backbone_learning_rate, but there is a backbone; add one",
    ),
    "sharing without a backbone": (
        "model/backbone",
        None,
        "model.sharing: share_partial needs model.backbone",
    ),
    "a head without a label": (
        "train_data/tasks",
        {"is_favorited": {}},
        "train_data.tasks: no label for task 'recap.engagement.is_replied'",
    ),
    "a rate for no tower": (
        "optimizer/multi_task_learning_rates/tower_learning_rates/is_liked",
        {"constant": 0.1},
        "optimizer.towers.is_liked: 'is_liked' is no task of this configuration.",
    ),
    "a renamed label": (
        "train_data/seg_dense_schema/renamed_features/is_favorited",
        "label.favorite",
        "renamed_features.is_favorited: not built yet: a label column has the name of its task",
    ),
    "a column the schema lacks": (
        "train_data/seg_dense_schema/renamed_features/continuous",
        "home__cont",
        "schema_path: 'home__cont' is not there in the schema; continuous needs numbers of a fixed length",
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


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_its_reason(case: str, tmp_path: Path, published: dict[str, Any]) -> None:
    path, value, expected = WRONG[case]
    set_at(published, path, value)
    published = json.loads(json.dumps(published))  # what was one anchor is now each by itself
    if path.startswith("train_data/seg_dense_schema"):
        for data in published["validation_data"].values():
            data["seg_dense_schema"] = published["train_data"]["seg_dense_schema"]
    found = refusals(tmp_path, published)
    assert any(expected in line for line in found), found


def test_a_schema_that_is_not_at_hand_gives_the_published_lengths(tmp_path: Path, published: dict[str, Any]) -> None:
    for data in (published["train_data"], *published["validation_data"].values()):
        data["seg_dense_schema"]["schema_path"] = "nowhere/schema.json"
    found = imported(tmp_path, published)
    assert any("nowhere/schema.json cannot be read (No such file" in remark.text for remark in found.remarks)
    features = read_back(tmp_path, found).features
    assert features.continuous[0].length == 6000
    assert list(features.vectors.values()) == [200, 200, 200]


def test_a_schema_that_is_no_schema_is_refused(tmp_path: Path, published: dict[str, Any]) -> None:
    (tmp_path / "schema.json").write_text('{"columns": []}')
    assert "expected JSON {" in refusals(tmp_path, published)[0]


def test_one_rate_for_everything_is_that_of_backbone_and_towers(tmp_path: Path, published: dict[str, Any]) -> None:
    published["optimizer"] = {"single_task_learning_rate": {"constant": 0.25}}
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.optimizer.backbone.model_dump() == {"kind": "constant", "learning_rate": 0.25}
    assert list(config.optimizer.towers) == ["default"]


def test_share_none_without_a_backbone_rate_leaves_the_inputs_as_they_start(
    tmp_path: Path, published: dict[str, Any]
) -> None:
    published["model"] |= {"backbone": None, "multi_task_type": "share_none", "featurization_config": None}
    published["optimizer"]["multi_task_learning_rates"]["backbone_learning_rate"] = None
    found = imported(tmp_path, published)
    assert read_back(tmp_path, found).optimizer.backbone.model_dump() == {"kind": "constant", "learning_rate": 0.0}
    assert any("what is no tower stays as it starts" in remark.text for remark in found.remarks)
    assert any("double_norm_log between BatchNorm and LayerNorm" in remark.text for remark in found.remarks)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_stands_in_a_published_file_is_taken_over_or_refused(data: st.DataObject) -> None:
    import tempfile

    values: Any = yaml.safe_load(WHOLE.read_text())
    where: Any = values
    while isinstance(where, dict | list) and where:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(where[key], dict | list):
            where[key] = data.draw(
                st.none()
                | st.integers(-2, 2)
                | st.text(max_size=3)
                | st.lists(st.integers(), max_size=1)
                | st.dictionaries(st.text(max_size=3), st.none(), max_size=1)
            )
            break
        where = where[key]
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = imported(Path(folder), values)
        except ConfigError as error:
            assert str(error)
        else:
            read_back(Path(folder), found)


def test_refusals_of_both_forms_are_told_at_once(tmp_path: Path, published: dict[str, Any]) -> None:
    published["train_data"] |= {"cache": True, "global_batch_size": 0}
    published["train_data"]["tasks"].pop("is_shared")
    published["model"]["tasks"]["is_reported"] = {"dcn_config": {"poly_degree": 2}}
    published["optimizer"]["adam"]["beta_1"] = 1.5
    found = {line.split(": ")[0] for line in refusals(tmp_path, published)}
    assert found == {
        "train_data.cache",
        "model.tasks.is_reported.dcn_config",
        "train_data.tasks",
        "train_data.global_batch_size",
        "optimizer.algorithm.beta_1",
    }


def test_what_only_happens_to_be_alike_today_is_said_of_each_set(
    tmp_path: Path, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAIN_GLOB", "data")
    monkeypatch.setenv("TEST_GLOB", "data")
    published["train_data"]["inputs"] = "${TRAIN_GLOB}"
    published["validation_data"]["same"]["inputs"] = "${TEST_GLOB}"
    found = imported(tmp_path, json.loads(json.dumps(published)))
    monkeypatch.setenv("TEST_GLOB", "elsewhere")
    config = read_back(tmp_path, found)
    assert config.train_data.source.inputs == ["data"]
    assert config.validation_data["same"].source.inputs == ["elsewhere"]


def test_folders_by_hour_and_by_day_are_taken_over(tmp_path: Path, published: dict[str, Any]) -> None:
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


@pytest.mark.parametrize(
    ("name", "said", "message"),
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
def test_a_date_that_is_none_is_refused(
    name: str, said: dict[str, Any], message: str, tmp_path: Path, published: dict[str, Any]
) -> None:
    published["train_data"] |= {"inputs": None, name: said}
    assert any(message in line for line in refusals(tmp_path, json.loads(json.dumps(published))))


def test_rectifying_is_taken_over_for_each_set(tmp_path: Path, published: dict[str, Any]) -> None:
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
    said = {
        name: data.rectify_labels and data.rectify_labels.model_dump() for name, data in config.validation_data.items()
    }
    assert config.train_data.rectify_labels is not None
    assert config.train_data.rectify_labels.model_dump() == ours == said["same"]
    assert said["validation"] == ours | {"window_hours": 1.5}
    assert said["d1"] is None


def test_small_embeddings_are_of_positions_of_the_discrete_column(tmp_path: Path, published: dict[str, Any]) -> None:
    tables = [{"name": "hour", "num_embeddings": 24, "embedding_dim": 4, "index": 7}]
    published["model"]["small_embeddings"] = {"tables": tables}
    found = imported(tmp_path, published)
    config = read_back(tmp_path, found)
    assert config.features.model_dump(exclude_unset=True)["discrete"] == {
        "hour": {"size": 24, "of": {"column": "home__discrete", "index": 7}}
    }
    assert config.model.embeddings == {"hour": 4}
    assert not any("discrete is left out" in remark.text for remark in found.remarks)


def test_truncation_is_that_of_the_columns(tmp_path: Path, published: dict[str, Any]) -> None:
    cut = {"truncate_and_slice": {"continuous_feature_truncation": 50, "binary_feature_truncation": 100}}
    for data in (published["train_data"], *published["validation_data"].values()):
        data["preprocess"] = cut
    features = read_back(tmp_path, imported(tmp_path, published)).features
    assert (features.continuous[0].first, features.binary[0].first) == (50, None)
    published["validation_data"]["d9"] = {**published["validation_data"]["d9"], "preprocess": None}
    assert any("a truncation of its own for a validation set" in line for line in refusals(tmp_path, published))


def test_a_column_has_one_role(tmp_path: Path, published: dict[str, Any]) -> None:
    features = ["meta.tweet_id", "home__continuous", "is_favorited", "meta.user_id", "other.embedding"]
    published["train_data"]["seg_dense_schema"]["features"] = features
    published["validation_data"] = {}
    found = imported(tmp_path, published)
    ours = read_back(tmp_path, found).features
    assert ours.ids == ["meta.tweet_id", "other.embedding"]
    assert ours.user == "meta.user_id"
    assert any(remark.text.endswith("reads them: meta.tweet_id, other.embedding") for remark in found.remarks)


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


@pytest.mark.parametrize(("path", "key"), [("training", "seed"), ("optimizer/adam", "kind"), ("model", "loss_weight")])
def test_our_own_keys_are_unknown_there(path: str, key: str, tmp_path: Path, published: dict[str, Any]) -> None:
    set_at(published, f"{path}/{key}", 1)
    assert any(f"{key!r} is unknown" in line for line in refusals(tmp_path, published))


def test_a_rate_for_all_other_towers_cannot_be_said_there(tmp_path: Path, published: dict[str, Any]) -> None:
    published["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]["default"] = {"constant": 0.1}
    assert "default: 'default' is no task. Known: recap.engagement.is_replied" in refusals(tmp_path, published)[0]


def test_a_set_without_a_head_is_refused(tmp_path: Path, published: dict[str, Any]) -> None:
    published["validation_data"]["d9"]["tasks"] = {"is_bookmarked": {}}
    assert refusals(tmp_path, json.loads(json.dumps(published))) == [
        "validation_data.d9.tasks: no head predicts any task of it; take the set out"
    ]


def test_the_name_of_the_file_adds_nothing(tmp_path: Path, published: dict[str, Any]) -> None:
    file = tmp_path / "a\nb: 1 #.yaml"
    file.write_text(yaml.dump(published))
    assert import_config(str(file)).text.splitlines()[1] == "training:"
