"""Towers of a new run start at the rates of their tasks."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.kinds import CASES
from model.rankers import make_batch, make_config, make_ranker
from support import Recorder, at_half, feed_values, write_feed
from torch import Tensor
from training.runs import assert_same_run, files, interrupt

from recap.config.file.load import config_of
from recap.config.model import ModelConfig, TaskConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.distributed import ONE_RANK
from recap.errors import ConfigError, Interrupted
from recap.model.directory import SavedModel, new_ranker
from recap.model.frozen import freeze
from recap.model.objective.initial_outputs import MAX_CONDITIONAL, best_constant, initial_outputs
from recap.model.objective.losses import MultiTaskLoss
from recap.model.ranker import Ranker
from recap.runs import Run
from recap.runtime import seed_torch
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.start.initial_rates import InitialRates
from recap.training.trainer import train

ROWS = 3072
RATE = 3 / ROWS


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed whose `share` happens in 3 of 3,072 rows; `seconds` is a number, `never` is 0, `unknown` is null."""
    folder = write_feed(tmp_path_factory.mktemp("rare"), train_rows=ROWS)
    for number, file in enumerate(sorted((folder / "train").glob("*.parquet"))):
        table = pq.read_table(file)
        columns = {
            "share": pa.array([0] * 500 + [1] + [0] * (len(table) - 501), pa.int8()),
            "seconds": pa.array([float(row % 5) for row in range(len(table))]),
            "never": pa.array([0] * len(table), pa.int8()),
            "unknown": pa.nulls(len(table), pa.int8()),
            "heavy": pa.array([3.0 if number else 1.0] * len(table)),
        }
        for name, values in columns.items():
            if name in table.schema.names:
                table = table.drop_columns([name])
            table = table.append_column(name, values)
        pq.write_table(table, file, row_group_size=70)
    return folder


def config_for(folder: Path, run: Path, tasks: dict[str, Any], **sections: dict[str, Any]) -> RecapConfig:
    """A configuration of `tasks`, fields over a linear tower."""
    values = feed_values(folder, run)
    values["model"]["tasks"] = {name: {"tower": {"kind": "mlp"}, **task} for name, task in tasks.items()}
    values["train_data"]["tasks"] = {name: {} for name in tasks}
    values |= {"validation_data": {}, "scoring": {}}
    for name, section in sections.items():
        values[name] = {**values[name], **section}
    return config_of(values)


def started(config: RecapConfig, warm: tuple[str, ...] = ()) -> tuple[Ranker, dict[str, float], list[str]]:
    """The ranker of a new run, the rates that were set, and the messages."""
    assets = load_assets(config.features)
    seed_torch(config.training.seed, 0)
    ranker = new_ranker(config, assets)
    freeze(ranker, config.optimizer.frozen)
    stream, rates, messages = open_stream(config, assets, JobMode.TRAIN), InitialRates(), list[str]()
    before = stream.state_dict()
    rates.start(SavedModel(config, assets, ranker), stream, warm, ONE_RANK, messages.append)
    assert stream.state_dict() == before
    return ranker, rates.rates, messages


def bias(ranker: Ranker, task: str) -> float:
    return ranker.last_bias(task).item()


def log_odds(rate: float) -> float:
    return math.log(rate / (1 - rate))


def test_a_rare_task_starts_at_its_rate_and_not_at_a_half(rare: Path, tmp_path: Path) -> None:
    config = config_for(rare, tmp_path, {"like": {}, "share": {}})
    ranker, rates, messages = started(config)
    assert rates["share"] == RATE
    assert messages == [f"initial rates of 3,072 rows: like {rates['like']:.3g}, share 0.000977"]
    batch = next(iter(open_stream(config, load_assets(config.features), JobMode.TRAIN)))
    at_rate = ranker(batch).logits[:, 1]
    half, none, _ = started(at_half(config))
    assert none == {}
    assert torch.allclose(at_rate, half(batch).logits[:, 1] + log_odds(RATE), atol=1e-4)
    tower = ranker.towers.named("share")
    torch.nn.init.zeros_(next(parameter for parameter in tower.parameters() if parameter.ndim == 2))
    assert ranker(batch).probabilities[:, 1].mean().item() == pytest.approx(RATE)
    number = started(config_for(rare, tmp_path, {"like": {}, "share": {"initial_rate": RATE}}))[0]
    assert bias(number, "share") == bias(ranker, "share")


def test_every_row_counts_once_whatever_the_size_of_a_batch(rare: Path, tmp_path: Path) -> None:
    for size in (64, 1000, 3 * ROWS):
        config = config_for(rare, tmp_path, {"share": {}, "never": {}}, train_data={"global_batch_size": size})
        _, rates, messages = started(config)
        assert rates == {"share": RATE, "never": 0.5 / (ROWS + 1)}
        assert messages[0].startswith("initial rates of 3,072 rows: ")


def test_rates_follow_weights_thresholds_and_label_kinds(rare: Path, tmp_path: Path) -> None:
    regression = {"objective": {"kind": "regression"}}
    tasks = {
        "share": {"affine_map": {}},
        "seconds": regression,
        "never": {},
        "unknown": {},
        "high": {},
        "logs": {"objective": {"kind": "regression", "transform": "log1p"}},
    }
    labels = {
        "share": {"weight": "heavy"},
        "high": {"column": "seconds", "at_least": 3.0},
        "logs": {"column": "seconds"},
    }
    values = {"tasks": {name: labels.get(name, {}) for name in tasks}, "shuffle_window_rows": 0}
    ranker, rates, messages = started(config_for(rare, tmp_path, tasks, train_data=values))
    assert rates["share"] == pytest.approx(RATE, rel=0.05)
    assert bias(ranker, "share") == pytest.approx(log_odds(rates["share"]))
    assert (rates["seconds"], rates["high"]) == (pytest.approx(2, abs=0.02), pytest.approx(0.4, abs=0.01))
    assert rates["logs"] == pytest.approx(math.log(120) / 5, abs=0.01)
    assert bias(ranker, "seconds") == pytest.approx(rates["seconds"])
    assert rates["never"] == pytest.approx(0.5 / 3073)
    assert "unknown" not in rates
    assert bias(ranker, "unknown") == 0
    assert "never 0.00016 (no positives), unknown unknown (no labels)" in messages[0]


def test_towers_with_weights_of_their_own_are_left_alone(rare: Path, tmp_path: Path) -> None:
    tasks = {"like": {}, "share": {"affine_map": {"bias": -3.0}}}
    frozen = config_for(rare, tmp_path, tasks, optimizer={"frozen": ["towers.like"]})
    ranker, rates, messages = started(frozen)
    assert (bias(ranker, "like"), bias(ranker, "share"), rates, messages) == (0, -3, {}, [])
    warm = started(config_for(rare, tmp_path, {"like": {}, "share": {}}), ("towers.like.network.layers.0.bias",))
    assert bias(warm[0], "like") == 0
    assert warm[1].keys() == {"share"}


def test_down_sampled_negatives_are_counted_as_they_are_trained_on(rare: Path, tmp_path: Path) -> None:
    sampling = {"downsample_negatives": {"batch_multiplier": 3, "keep_positives_of": ["like"]}}
    config = config_for(rare, tmp_path, {"like": {}}, train_data={"tasks": {"like": {}}, **sampling})
    plain = started(config_for(rare, tmp_path, {"like": {}}))[1]
    assert started(config)[1] == plain  # weights undo the sampling


@pytest.mark.parametrize("case", ["mlp-share_all", "esmm", "aitm", "mask_net-share_none", "gdcn-share_none"])
def test_every_task_starts_at_its_rate_with_every_kind_of_tower_and_chain(case: str) -> None:
    assert case in CASES
    config = make_config(case)
    ranker, batch, rates = make_ranker(config), make_batch(config), {"like": 0.02, "share": 0.005}
    starts = initial_outputs(config.model, rates)
    with torch.no_grad():
        for task, output in starts.items():
            for parameter in ranker.tower_parameters(task):
                parameter.zero_()
            ranker.last_bias(task).fill_(output)
    weights = torch.tensor([task.pos_weight for task in config.model.tasks.values()])
    odds = torch.tensor(list(rates.values())) / (1 - torch.tensor(list(rates.values()))) * weights
    expected = (odds / (1 + odds)).expand(len(batch), 2)
    torch.testing.assert_close(ranker.eval()(batch).probabilities, expected)


def test_a_chain_whose_rates_are_equal_starts_just_below_certainty() -> None:
    model = make_config("esmm").model
    outputs = initial_outputs(model, {"like": 0.1, "share": 0.1})
    assert outputs["share"] == pytest.approx(log_odds(MAX_CONDITIONAL))
    assert initial_outputs(model, {"share": 0.1})["share"] == pytest.approx(log_odds(2 / 11 / 0.5))  # pos_weight: 2


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(1e-6, 0.999),
    pos_weight=st.floats(0.1, 50),
    loss=st.one_of(st.just({"kind": "bce"}), st.floats(0, 4).map(lambda gamma: {"kind": "focal", "gamma": gamma})),
)
def test_no_other_constant_has_less_loss(rate: float, pos_weight: float, loss: dict[str, Any]) -> None:
    values = {"tower": {"kind": "mlp"}, "pos_weight": pos_weight, "loss": loss}
    output = best_constant(TaskConfig.model_validate(values), rate)
    losses = MultiTaskLoss.of(ModelConfig.model_validate({"tasks": {"like": values}}))

    def mean_loss(constant: float) -> Tensor:
        logits = torch.full((2, 1), constant, dtype=torch.float64)
        labels = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        return losses.row_losses(logits, labels, torch.tensor([[rate], [1 - rate]], dtype=torch.float64)).sum()

    best = mean_loss(output)
    assert best <= min(mean_loss(output - 0.05), mean_loss(output + 0.05))


def test_weight_decay_leaves_the_started_bias_alone(rare: Path, tmp_path: Path) -> None:
    """With zero gradients only decay moves weights."""
    adamw = {"algorithm": {"kind": "adamw", "weight_decay": 0.1}, "network_l2": 0.1}
    config = config_for(rare, tmp_path, {"like": {}, "share": {"initial_rate": "none"}}, optimizer=adamw)
    ranker, rates, _ = started(config)
    with torch.no_grad():
        ranker.last_bias("share").fill_(-2)
    optimizer = ScheduledOptimizer(config, ranker)
    optimizer.spare_decay([ranker.last_bias(task) for task in rates])
    before = {name: parameter.detach().clone() for name, parameter in ranker.named_parameters()}
    for parameter in ranker.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(5)
    spared = {name for name, parameter in ranker.named_parameters() if torch.equal(parameter, before[name])}
    assert {name for name in spared if before[name].any()} == {"towers.like.network.layers.0.bias"}


@pytest.mark.slow
def test_a_resumed_run_keeps_its_rates_bit_for_bit(rare: Path, tmp_path: Path) -> None:
    decay = {"algorithm": {"kind": "adamw", "weight_decay": 0.1}, "network_l2": 0.01}
    whole, stopped = (
        config_for(rare, tmp_path / name, {"like": {}, "share": {}}, optimizer=decay) for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with pytest.raises(Interrupted):
        train(stopped, Recorder({5: interrupt}))
    resumed = Recorder()
    train(stopped, resumed)
    assert not [line for line in resumed.messages if line.startswith("initial rates")]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
    assert Run(tmp_path / "whole").state(12)["initial_rates"]["share"] == RATE
    assert files(tmp_path / "whole", 12, "weights.safetensors")["towers.share.network.layers.0.bias"] < -6


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"initial_rate": 0.1, "affine_map": {"bias": -2.0}}, "affine_map.bias: -2 also sets where the task starts"),
        ({"initial_rate": 0.1, "objective": {"kind": "regression"}}, "a regression task has no rate; use auto"),
        ({"initial_rate": 1.0}, "expected auto, none, or a number above 0 and below 1, found 1"),
    ],
)
def test_contradictions_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(Path("feed"), Path("run"), {"like": task})


def test_rates_that_rise_along_a_product_are_refused() -> None:
    tasks = {"like": {"initial_rate": 0.1}, "share": {"initial_rate": 0.2}}
    values = config_for(Path("feed"), Path("run"), tasks).model_dump()
    config_of(values)
    values["model"]["cascade"] = {"kind": "esmm", "chain": ["like", "share"]}
    with pytest.raises(ConfigError, match=r"0.2 is not below 0.1, the rate of 'like'"):
        config_of(values)
