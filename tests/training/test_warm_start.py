"""A warm start from another model: mapped names, fresh modules, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import Recorder, at_half, feed_config, feed_values
from torch import Tensor
from training.runs import files

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.errors import CheckpointError, ConfigError
from recap.model.directory import SavedModel, new_ranker
from recap.runs import find_model_directory
from recap.runtime import seed_torch
from recap.training.start.warm_start import start_from
from recap.training.trainer import train

WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def old(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose weights are loaded."""
    run = tmp_path_factory.mktemp("old") / "run"
    train(feed_config(feed, run, training={"num_train_steps": 2}), Recorder())
    return run


def warm(feed: Path, run: Path, old: Path, mapping: dict[str, Any] | None, **model: Any) -> RecapConfig:
    """A run that starts from `old` and takes one step, which changes no weights."""
    values = feed_values(feed, run)
    still = {"kind": "constant", "learning_rate": 0.0}
    values["training"] |= {"num_train_steps": 1, "initial_checkpoint_dir": str(old), "initial_weights": mapping}
    values["optimizer"] |= {"backbone": still, "towers": {"default": still}}
    values["model"] |= model
    return config_of(values)


def started(config: RecapConfig, recorder: Recorder | None = None) -> dict[str, Tensor]:
    """The weights, without running statistics, after a step that changes none of them."""
    train(config, recorder or Recorder())
    weights = files(Path(config.training.save_dir), 1, WEIGHTS)
    return {name: value for name, value in weights.items() if "running" not in name and "num_batches" not in name}


def fresh(config: RecapConfig) -> dict[str, Tensor]:
    seed_torch(config.training.seed, 0)
    return new_ranker(config, load_assets(config.features)).state_dict()


def test_mapped_modules_load_from_their_old_names(feed: Path, tmp_path: Path, old: Path) -> None:
    mapping = {"map": {"towers.like": "towers.share", "towers.share": "towers.like"}}
    weights, before = started(warm(feed, tmp_path / "run", old, mapping)), files(old, 2, WEIGHTS)
    swapped = {"towers.like.": "towers.share.", "towers.share.": "towers.like."}
    for name, value in weights.items():
        prefix = next((path for path in swapped if name.startswith(path)), "")
        assert torch.equal(value, before[swapped.get(prefix, "") + name[len(prefix) :]]), name


def test_fresh_modules_start_as_in_a_new_model(feed: Path, tmp_path: Path, old: Path) -> None:
    config = at_half(
        warm(
            feed,
            tmp_path / "run",
            old,
            {"map": {"towers.like": "towers.share"}, "fresh": ["inputs.embeddings.tables", "sharing", "towers.share"]},
            embeddings={"default": 6},
        )
    )
    recorder = Recorder()
    weights, before, new = started(config, recorder), files(old, 2, WEIGHTS), fresh(config)
    started_fresh = ("inputs.embeddings.tables.", "sharing.", "towers.share.")
    assert any(name.startswith(started_fresh) for name in weights)
    for name, value in weights.items():
        source = new[name] if name.startswith(started_fresh) else before[name.replace("towers.like", "towers.share")]
        assert torch.equal(value, source), name
    taken = sum(not name.startswith(started_fresh) for name in new)
    assert recorder.messages[0].startswith(
        f"{taken} of {len(new)} weights come from {find_model_directory(old)}, the others"
    )
    unused = f"unused weights of {find_model_directory(old)}: inputs.embeddings.tables.hour.weight, "
    assert recorder.messages[1].startswith(unused)
    assert "towers.like.network.layers.0.weight" in recorder.messages[1]


def test_the_longest_matching_path_wins(feed: Path, tmp_path: Path, old: Path) -> None:
    mapping = {
        "map": {
            "towers.like": "towers.share",
            "towers.like.network.layers.0.bias": "towers.like.network.layers.0.bias",
        },
        "fresh": ["towers", "towers.like.network.layers.0.weight"],
    }
    config = warm(feed, tmp_path / "run", old, mapping)
    weights, before, new = started(config), files(old, 2, WEIGHTS), fresh(config)
    assert torch.equal(weights["towers.share.network.layers.0.weight"], new["towers.share.network.layers.0.weight"])
    assert torch.equal(weights["towers.like.network.layers.0.weight"], new["towers.like.network.layers.0.weight"])
    assert torch.equal(weights["towers.like.network.layers.0.bias"], before["towers.like.network.layers.0.bias"])
    last = [name for name in weights if name.startswith("towers.like.network.")][-1]
    assert torch.equal(weights[last], before[last.replace("like", "share")])


def test_weights_of_a_removed_task_are_reported_as_unused(feed: Path, tmp_path: Path, old: Path) -> None:
    values = warm(feed, tmp_path / "run", old, {}).model_dump(exclude_unset=True)
    for tasks in (values["model"]["tasks"], values["train_data"]["tasks"], values["scoring"]["weights"]):
        del tasks["share"]
    values["validation_data"] = {}
    recorder = Recorder()
    started(config_of(values), recorder)
    assert "towers.share.network.layers.0.weight" in recorder.messages[1]
    values["training"] |= {"save_dir": str(tmp_path / "other"), "initial_weights": None}
    text = (
        r"These have no place in this model; any training.initial_weights, such as {}, leaves them out:\n  towers.share"
    )
    with pytest.raises(CheckpointError, match=text) as caught:
        train(config_of(values), Recorder())
    assert "training.initial_weights.fresh" not in str(caught.value)  # which names weights of this model


def test_missing_and_misshapen_weights_are_listed_and_nothing_is_loaded(feed: Path, tmp_path: Path, old: Path) -> None:
    affine = {"tower": {"kind": "mlp", "layer_sizes": [9]}, "affine_map": {}}
    tasks = {"like": affine, "share": {"tower": affine["tower"]}}
    config = warm(feed, tmp_path / "run", old, {"map": {"towers.like": "towers.share"}}, tasks=tasks)
    ranker = new_ranker(config, load_assets(config.features))
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        start_from(find_model_directory(old), SavedModel(config, load_assets(config.features), ranker))
    text = str(caught.value)
    assert "towers.like.affine_map.scale is missing" in text
    assert "towers.like.network.layers.0.weight is 8×16, this model needs 9×16" in text
    assert "Give their old names in training.initial_weights.map, or list them" in text
    assert all(torch.equal(value, before[name]) for name, value in ranker.state_dict().items())


def test_unknown_weight_names_are_refused_with_the_nearest(feed: Path, tmp_path: Path, old: Path) -> None:
    mapping = {
        "map": {"towers.like.netwrok": "towers.like", "towers.like": "towers.liek"},
        "fresh": ["inputs.embeddings.table"],
    }
    with pytest.raises(ConfigError) as caught:
        train(warm(feed, tmp_path / "run", old, mapping), Recorder())
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    key = 'training.initial_weights.map."towers.like.netwrok"'
    assert lines[0].startswith(f"{key}: no weights of this model are named 'towers.like.netwrok'. ")
    assert "Did you mean 'towers.like.network'?" in lines[0]
    key = "training.initial_weights.fresh.0"
    assert lines[1].startswith(f"{key}: no weights of this model are named 'inputs.embeddings.table'. ")
    assert "Did you mean 'inputs.embeddings.tables'?" in lines[1]
    assert "are named 'towers.liek'." in lines[2]
    assert "Did you mean 'towers.like'?" in lines[2]


def test_a_warm_started_run_resumes_without_its_origin(feed: Path, tmp_path: Path, old: Path) -> None:
    config = warm(feed, tmp_path / "run", old, {"fresh": ["towers.like"]})
    train(config, Recorder())
    values = feed_values(feed, tmp_path / "run")
    values["training"] |= {"num_train_steps": 2}
    values["optimizer"] = config.model_dump(exclude_unset=True)["optimizer"]
    recorder = Recorder()
    assert train(config_of(values), recorder).trained
    assert recorder.steps == [2]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"initial_weights": {}}, r"training.initial_weights: needs training.initial_checkpoint_dir"),
        (
            {"initial_weights": {"map": {"towers.x": "towers.y"}}, "initial_checkpoint_dir": "x"},
            r'initial_weights.map."towers.x": unknown tower .towers.x.. Known: towers.like, towers.share',
        ),
        (
            {"initial_weights": {"fresh": ["tower"]}, "initial_checkpoint_dir": "x"},
            r"initial_weights.fresh.0: unknown module .tower.. Known: .* mean 'towers'",
        ),
        (
            {"initial_weights": {"map": {"inputs": "inputs"}, "fresh": ["inputs"]}, "initial_checkpoint_dir": "x"},
            r"fresh.0: 'inputs' is also in map; remove one",
        ),
        (
            {"initial_weights": {"fresh": ["inputs", "inputs"]}, "initial_checkpoint_dir": "x"},
            r"fresh.1: 'inputs' is listed twice; remove one",
        ),
    ],
)
def test_contradictory_initial_weights_are_refused(tmp_path: Path, training: dict[str, Any], message: str) -> None:
    values = feed_values(tmp_path, tmp_path / "run")
    values["training"] |= training
    with pytest.raises(ConfigError, match=message):
        config_of(values)
