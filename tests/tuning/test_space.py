"""The search space: what the schema accepts, and the configurations that its values make."""

from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner
from support import feed_values

from recap.config.file.load import Template, load_config
from recap.config.tuning import HyperbandPruningConfig, MedianPruningConfig, TuningConfig
from recap.errors import ConfigError
from recap.tuning.draws import combinations, distributions, next_combination
from recap.tuning.space import SearchSpace
from recap.tuning.study import build_pruner

BASE = Path("base.yaml")
TUNED = "base: base.yaml\ntuning:\n  space:\n"
RATE = "optimizer.backbone.learning_rate"
TOWERS = "optimizer.towers.default.learning_rate"
BATCH = "train_data.global_batch_size"
MASK = "model.backbone.mask_blocks"
DROP = "model.backbone.mlp.dropout.rate"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a valid configuration to build on."""
    monkeypatch.chdir(tmp_path)
    BASE.write_text(yaml.safe_dump(feed_values(tmp_path, tmp_path / "run")))
    return tmp_path


def space_of(entries: str) -> SearchSpace:
    file = Path("ranker.yaml")
    file.write_text(TUNED + entries)
    tuning = load_config(file).tuning
    assert tuning is not None
    return SearchSpace(Template.read(file), tuning)


def problems(entries: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        space_of(entries)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "optimizer.backbone.learning_rat: {range: [0.1, 0.2]}",
            "ranker.yaml:4:5: optimizer.backbone.learning_rat: 'learning_rat' is unknown. Known: kind, learning_rate, "
            "num_ramp_steps. Did you mean 'learning_rate'?",
        ),
        (
            "model.tasks.lik.loss_weight: {range: [0.1, 0.2]}",
            "ranker.yaml:4:5: model.tasks has no 'lik'. Known: like, share. Did you mean 'like'? To add it, set its "
            "complete value: model.tasks.lik=…",
        ),
        (
            f"{RATE}: {{range: [-1, 0.2]}}",
            f"ranker.yaml:4:48: {RATE}: must be at least 0, found -1",
        ),
        (
            f"{BATCH}: {{range: [0.5, 64]}}",
            f"ranker.yaml:4:44: {BATCH}: expected a whole number, found 0.5",
        ),
        (
            f"{BATCH}: {{choices: [32, many]}}",
            f"ranker.yaml:4:50: {BATCH}: expected a whole number, found 'many'",
        ),
        (
            f"{RATE}: {{range: [0.1, 0.2], also: [optimizer.towers.default.rate]}}",
            "ranker.yaml:4:66: optimizer.towers.default.rate: 'rate' is unknown. Known: kind, learning_rate.",
        ),
        (
            "model.backbone: {choices: [{kind: mlp, layer_sizes: [8]}, {kind: mlp, layer_sizs: [8]}]}",
            "ranker.yaml:4:75: model.backbone.layer_sizs: 'layer_sizs' is unknown.",
        ),
        (f"{RATE}: {{range: [0.2, 0.1]}}", "must be ascending, found 0.2 and 0.1"),
        (f"{RATE}: {{range: [0.1]}}", "needs the lowest and the highest number, found 1"),
        (f"{RATE}: {{range: [0, 0.1], log: true}}", "must be above 0, because log is true; found 0"),
        (f"{RATE}: {{choices: [0.1]}}", "needs at least two values, found 1"),
        (f"{RATE}: {{choices: [0.1, 0.2, 0.1]}}", "is listed twice; remove one"),
        (f"{RATE}: {{}}", "needs exactly one of range and choices"),
        (f"{RATE}: {{range: [0.1, 0.2], choices: [1, 2]}}", "needs exactly one of range and choices"),
        (f"{RATE}: {{rnage: [0.1, 0.2]}}", "'rnage' is unknown. Known: range, log, also. Did you mean 'range'?"),
        ("training.seed: {range: [0, 9]}", '"training.seed": cannot be tuned: its best value is luck; remove it'),
        (
            "training: {choices: [{}, {seed: 3}]}",
            "tuning.space.training: contains training.seed, which cannot be tuned: its best value is luck; remove it",
        ),
        ("scoring.weights.like: {range: [0, 9]}", "cannot be tuned: it changes no metric of a task"),
        (
            "validation_data.validation.global_batch_size: {range: [1, 9]}",
            "cannot be tuned: all trials are measured alike; remove it",
        ),
        (f"{RATE}: {{range: [0, 1], also: [tuning.seed]}}", ".also.0: 'tuning.seed' cannot be tuned: a search does"),
        (f"{RATE}: {{range: [0, 1], also: [{RATE}]}}", f"'{RATE}' is in the space twice; remove one"),
        (
            f"{RATE}: {{range: [0, 1]}}\n    optimizer.backbone: {{choices: [1, 2]}}",
            f'tuning.space."optimizer.backbone": contains {RATE}, which is in the space too; remove one',
        ),
        (
            f"optimizer.backbone: {{choices: [1, 2]}}\n    {RATE}: {{range: [0, 1]}}",
            f'tuning.space."{RATE}": is part of optimizer.backbone, which is in the space too; remove one',
        ),
        (f"{RATE}: {{choices: ['${{secret:HOME}}', 2]}}", "a study records its values; a secret cannot be one"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_advice(entry: str, message: str) -> None:
    lines = problems(f"    {entry}\n")
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert lines[0].startswith("ranker.yaml:")


def test_a_range_has_whole_numbers_where_the_key_takes_no_others() -> None:
    space = space_of(
        f"    {RATE}: {{range: [0, 1]}}\n"
        f"    {BATCH}: {{range: [32, 64], log: true}}\n"
        f"    {MASK}.0.output_size: {{choices: [8, 16]}}\n"
    )
    assert distributions(space) == {
        RATE: FloatDistribution(0.0, 1.0),
        BATCH: IntDistribution(32, 64, log=True),
        f"{MASK}.0.output_size": CategoricalDistribution(["8", "16"]),
    }


def test_the_next_combinations_are_all_others_in_turn() -> None:
    drawn = distributions(
        space_of(f"    {BATCH}: {{range: [32, 35]}}\n    {MASK}.0.output_size: {{choices: [8, 16, 4]}}\n")
    )
    visited = [(33, "4")]
    while len(visited) <= combinations(drawn):
        visited.append(next_combination(drawn, visited[-1]))
    assert visited[:3] == [(33, "4"), (34, "8"), (34, "16")]
    assert visited[-1] == visited[0]
    assert set(visited) == {(batch, size) for batch in range(32, 36) for size in ("8", "16", "4")}
    assert combinations(distributions(space_of(f"    {RATE}: {{range: [0, 1]}}\n"))) == inf


@given(rate=st.floats(1e-4, 1e-2), batch=st.integers(32, 64), sizes=st.sampled_from([[4], [8, 4]]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_drawn_values_are_those_of_the_configuration_and_of_what_inherits_them(
    rate: float, batch: int, sizes: list[int]
) -> None:
    space = space_of(
        f"    {RATE}: {{range: [1e-4, 1e-2], also: [{TOWERS}]}}\n"
        f"    {BATCH}: {{range: [32, 64]}}\n"
        "    model.backbone.mlp.layer_sizes: {choices: [[4], [8, 4]]}\n"
    )
    parameters = {RATE: rate, BATCH: batch, "model.backbone.mlp.layer_sizes": str(sizes)}
    config: Any = space.config(parameters, {"training.save_dir": "elsewhere"})
    assert config.optimizer.backbone.learning_rate == config.optimizer.towers["default"].learning_rate == rate
    assert config.train_data.global_batch_size == config.validation_data["validation"].global_batch_size == batch
    assert config.model.backbone.mlp.layer_sizes == sizes
    assert config.training.save_dir == "elsewhere"


def test_the_configuration_has_parameters_only_if_all_its_values_are_in_the_space() -> None:
    inside = space_of(
        f"    {RATE}: {{range: [0.001, 0.1], also: [{TOWERS}]}}\n    {MASK}.0.output_size: {{choices: [8, 16]}}\n"
    )
    assert inside.written() == {RATE: 0.01, f"{MASK}.0.output_size": "8"}
    for entry in (
        f"{RATE}: {{range: [0.1, 0.2]}}",
        f"{RATE}: {{choices: [0.1, 0.2]}}",
        f"{BATCH}: {{range: [32, 64], also: [model.tasks.like.pos_weight]}}",
    ):
        assert space_of(f"    {entry}\n").written() is None


def test_a_value_at_an_edge_is_named_unless_there_is_nothing_beyond() -> None:
    space = space_of(
        f"    {RATE}: {{range: [1e-4, 1e-2], log: true}}\n"
        f"    {BATCH}: {{range: [2, 64]}}\n"
        f"    {DROP}: {{range: [0, 0.5]}}\n"
        f"    {MASK}.0.output_size: {{choices: [8, 16]}}\n"
        "    training.precision: {choices: [float32, bf16]}\n"
    )
    inner = {RATE: 1e-3, BATCH: 30, DROP: 0.2, "training.precision": "bf16"}
    assert list(space.edges(inner)) == []
    assert list(space.edges({**inner, RATE: 1.1e-4, DROP: 0.5})) == [
        f"{RATE}: the best value, 0.00011, is near the lowest edge of 0.0001 to 0.01; try values beyond it in another "
        "--output",
        f"{DROP}: the best value, 0.5, is near the highest edge of 0 to 0.5; try values beyond it in another --output",
    ]
    assert list(space.edges({**inner, BATCH: 2, DROP: 0.0})) == []  # the lowest of all
    assert len(list(space.edges({BATCH: 64, f"{MASK}.0.output_size": "16"}))) == 2


def test_pruning_compares_optimizer_steps() -> None:
    config = load_config(BASE, ["training.num_train_steps=900", "training.eval_log_every_n=100"])
    space: Any = {RATE: {"range": [0.0, 1.0]}}
    median = TuningConfig(space=space, pruning=MedianPruningConfig(full_trials=2, warmup_steps=50))
    hyperband = TuningConfig(space=space, pruning=HyperbandPruningConfig(kind="hyperband", factor=2))
    pruner = build_pruner(config, median)
    assert isinstance(pruner, MedianPruner)
    assert (pruner._n_startup_trials, pruner._n_warmup_steps) == (2, 50)
    pruner = build_pruner(config, hyperband)
    assert isinstance(pruner, HyperbandPruner)
    assert (pruner._min_resource, pruner._max_resource, pruner._reduction_factor) == (100, 900, 2)
    epochs = load_config(BASE, ["train_data.num_epochs=2", "training.eval_log_every_n=100"])
    pruner = build_pruner(epochs, hyperband)  # the default of num_train_steps is no length
    assert isinstance(pruner, HyperbandPruner)
    assert (pruner._min_resource, pruner._max_resource) == (100, "auto")
    assert isinstance(build_pruner(config, TuningConfig(space=space, pruning=None)), NopPruner)
