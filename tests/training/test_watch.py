"""A watched metric keeps the best checkpoint, cuts rates and ends runs, and resumes bit for bit."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import Recorder, feed_config, feed_values
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.config.training import CutRatesConfig, WatchConfig
from recap.errors import CheckpointError, ConfigError, Interrupted
from recap.evaluation.run import evaluate_run
from recap.runs import Run, find_model_directory
from recap.training.trainer import train
from recap.training.watch import Watch

WATCH = {"metric": "auc", "split": "validation"}


def watched(feed: Path, run: Path, watch: dict[str, Any], **training: Any) -> RecapConfig:
    """A run that is evaluated every two steps, with rates too high to improve for long."""
    often = {"eval_log_every_n": 2, "num_train_steps": 24, "train_log_every_n": 3, "checkpoint_every_n": 5}
    constant = {"kind": "constant", "learning_rate": 0.1}
    optimizer = {"backbone": constant, "towers": {"default": constant}}
    return feed_config(feed, run, training={**often, **training, "watch": watch}, optimizer=optimizer)


def watched_values(run: Path, metric: str = "auc") -> dict[int, float]:
    """Step → the logged metric, averaged over tasks."""
    values_by_step: dict[int, list[float]] = {}
    for record in records(run):
        if record["split"] == "validation":
            values_by_step.setdefault(record["step"], []).append(record[metric])
    return {step: sum(values) / len(values) for step, values in values_by_step.items()}


def see(config: WatchConfig, values: list[float]) -> tuple[list[bool], Watch]:
    watch = Watch(config)
    return [watch.update({"v": {"t": {config.metric: value}}}) for value in values], watch


def test_the_metric_decides_whether_higher_is_better() -> None:
    assert see(WatchConfig(metric="auc", split="v"), [0.5, 0.6, 0.55, 0.6, 0.7])[0] == [True, True, False, False, True]
    assert see(WatchConfig(metric="log_loss", split="v"), [0.5, 0.6, 0.4, math.nan])[0] == [True, False, True, False]


def test_each_value_is_shown_beside_the_best_one() -> None:
    shown, watch = [], Watch(WatchConfig(metric="log_loss", split="v"))
    assert watch.describe() is None
    for value in (math.nan, 0.25, 0.3, 0.375):
        watch.update({"v": {"t": {"log_loss": value}}})
        shown.append(watch.describe())
    assert shown == [
        "v  log_loss undefined",
        "v  log_loss 0.25 (best so far)",
        "v  log_loss 0.3 (best: 0.25, 1 evaluation ago)",
        "v  log_loss 0.375 (best: 0.25, 2 evaluations ago)",
    ]
    watch.update({"another": {}})
    assert watch.describe() is None


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=30), st.integers(1, 4))
def test_a_wait_counts_evaluations_since_the_best_one(values: list[float], patience: int) -> None:
    config = WatchConfig(metric="auc", split="v", cut_rates=CutRatesConfig(after=patience), stop_after=patience)
    improved, watch = see(config, values)
    assert watch.waited == improved[::-1].index(True)
    assert watch.best == max(values)
    assert watch.ended == (watch.waited >= patience)
    waits = "".join("x" if better else "." for better in improved).split("x")
    assert watch.cuts == sum(len(wait) // patience for wait in waits)


def test_a_cut_stops_at_min_rate_and_never_raises_a_rate() -> None:
    cuts = CutRatesConfig(factor=0.1, min_rate=1e-5)
    watch = Watch(WatchConfig(metric="auc", split="v", cut_rates=cuts))
    watch.cuts = 2
    assert watch.cut(0.1) == pytest.approx(0.001)
    assert watch.cut(1e-4) == 1e-5
    assert watch.cut(1e-7) == 1e-7
    assert Watch(None).cut(0.1) == 0.1


def test_the_mean_of_the_named_tasks_is_watched() -> None:
    watch = Watch(WatchConfig(metric="auc", split="v", tasks=["a", "b"]))
    watch.update({"v": {"a": {"auc": 0.5}, "b": {"auc": 0.7}, "c": {"auc": 0.9}}, "other": {}})
    assert watch.best == pytest.approx(0.6)


def test_the_best_checkpoint_is_kept_and_opened_as_best(feed: Path, tmp_path: Path) -> None:
    run, recorder = tmp_path / "run", Recorder()
    config = watched(feed, run, WATCH, checkpoint_max_to_keep=1)
    train(config, recorder)
    values = watched_values(run)
    best = max(values, key=lambda step: values[step])
    assert best < 24, "the run must get worse for this to say anything"
    assert list(Run(run).checkpoints) == [best, 24]
    assert find_model_directory(run, "best") == Run(run).checkpoint_path(best)
    assert any(text.endswith(f"at step {best}") for text in recorder.messages)
    report = evaluate_run(config, run, step="best")
    assert report.model == f"step_{best:08d}"
    evaluated = [metrics["auc"] for metrics in report.splits["validation"].metrics.values()]
    assert sum(evaluated) / len(evaluated) == pytest.approx(values[best])


def test_a_run_that_stops_early_logs_and_saves_its_last_step(feed: Path, tmp_path: Path) -> None:
    run, recorder = tmp_path / "run", Recorder()
    train(watched(feed, run, {**WATCH, "stop_after": 2}, num_train_steps=200), recorder)
    values, last = watched_values(run), recorder.steps[-1]
    best = max(values, key=lambda step: values[step])
    assert last == best + 4 < 200
    assert recorder.logged_at[-1] == list(Run(run).checkpoints)[-1] == last
    assert recorder.messages[-1].startswith(f"stopped after step {last}: 2 evaluations without a better value")
    again = Recorder()
    assert not train(watched(feed, run, {**WATCH, "stop_after": 2}, num_train_steps=200), again).trained
    assert again.messages == [f"{run} is already finished: it reached training.watch.stop_after: 2; nothing to do"]
    assert train(watched(feed, run, {**WATCH, "stop_after": 3}, num_train_steps=last + 1), again).trained
    assert again.steps == [last + 1]


def test_rates_are_cut_when_nothing_improves(feed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(
        watched(
            feed,
            run,
            {**WATCH, "cut_rates": {"factor": 0.5, "min_rate": 0.02}},
            train_log_every_n=1,
            num_train_steps=60,
        ),
        Recorder(),
    )
    best, cuts = -1.0, 0
    values = watched_values(run)
    for record in records(run):
        if record["split"] == "train":
            assert record["rate/backbone"] == pytest.approx(max(0.1 * 0.5**cuts, 0.02)), record["step"]
            value = values.get(record["step"])
            if value is not None:
                cuts += value <= best
                best = max(best, value)
    assert cuts > 2


@pytest.mark.parametrize("stops", [[2], [9, 10], [5, 11, 13]])
def test_a_watched_run_resumes_bit_for_bit(feed: Path, tmp_path: Path, stops: list[int]) -> None:
    watch = {**WATCH, "metric": "log_loss", "tasks": ["like"], "cut_rates": {"after": 2}, "stop_after": 6}
    whole, stopped = (watched(feed, tmp_path / name, watch) for name in ("whole", "stopped"))
    train(whole, Recorder())
    for step in stops:
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    last = list(Run(tmp_path / "whole").checkpoints)[-1]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", last)
    state = json.loads((Run(tmp_path / "whole").checkpoint_path(last) / "state.json").read_text())
    assert state["watch"]["cuts"] > 0
    assert state["best_step"] in list(Run(tmp_path / "stopped").checkpoints)


def test_watching_does_not_change_training(feed: Path, tmp_path: Path) -> None:
    train(watched(feed, tmp_path / "watched", WATCH), Recorder())
    train(watched(feed, tmp_path / "not", {**WATCH, "metric": "ne"}), Recorder())
    left, right = (files(tmp_path / name, 24, "weights.safetensors") for name in ("watched", "not"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_without_a_watched_metric_has_no_best_checkpoint(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "run"), Recorder())
    with pytest.raises(CheckpointError, match="no best checkpoint, because no metric was watched"):
        find_model_directory(tmp_path / "run", "best")


@pytest.mark.parametrize(
    ("watch", "more", "message"),
    [
        ({"metric": "ctr"}, {}, "metric: 'ctr' is unknown. Known: ece, precision, recall, log_loss, brier"),
        (
            {"split": "validaton"},
            {},
            "split: unknown split 'validaton'. Known: validation. Did",
        ),
        ({"tasks": ["lik"]}, {}, "'lik' is not evaluated on validation. Known: like, share. Did you mean 'like'"),
        ({"tasks": ["like", "like"]}, {}, "'like' is listed twice; remove one"),
        ({}, {"which_metrics": ["log_loss"]}, "'auc' is not in which_metrics; add it"),
    ],
)
def test_an_unknown_metric_split_or_task_cannot_be_watched(
    tmp_path: Path, watch: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    values = feed_values(tmp_path, tmp_path / "run") | more
    values["training"]["watch"] = {**WATCH, **watch}
    with pytest.raises(ConfigError, match=r"training\.watch") as caught:
        config_of(values)
    assert message in str(caught.value)


def test_grouped_auc_can_be_watched_only_with_users(tmp_path: Path) -> None:
    values = feed_values(tmp_path, tmp_path / "run")
    values["training"]["watch"] = {**WATCH, "metric": "grouped_auc"}
    del values["features"]["user"]
    with pytest.raises(ConfigError, match=r"grouped_auc needs features.user"):
        config_of(values)


def test_l2_adds_the_scaled_weight_to_the_gradient(feed: Path, tmp_path: Path) -> None:
    """Against Adam's own weight decay, which is that addition, on parameters taken apart by hand."""
    from recap.data.encoding.assets import load_assets
    from recap.model.directory import build_ranker
    from recap.training.optimizer.scheduled import ScheduledOptimizer

    constant = {"kind": "constant", "learning_rate": 0.01}
    config = feed_config(feed, tmp_path / "run", optimizer={"backbone": constant, "towers": {"default": constant}})
    l2 = config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"embedding_l2": 0.3, "network_l2": 0.02})}
    )
    torch.manual_seed(0)
    ranker = build_ranker(config, load_assets(config.features))
    slow = build_ranker(config, load_assets(config.features))
    slow.load_state_dict(ranker.state_dict())
    tables = [name for name, _ in ranker.named_parameters() if ".tables." in name]
    assert len(tables) == 2
    groups = [
        {
            "params": [value for name, value in slow.named_parameters() if (name in tables) == is_table],
            "weight_decay": λ,
        }
        for is_table, λ in ((True, 0.3), (False, 0.02))
    ]
    adam = torch.optim.Adam(groups, lr=0.01, eps=config.optimizer.algorithm.epsilon)
    optimizer = ScheduledOptimizer(l2, ranker)
    for step in range(1, 4):
        for parameter, other in zip(ranker.parameters(), slow.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        optimizer.step(step)
        adam.step()
    for (name, left), right in zip(ranker.named_parameters(), slow.parameters(), strict=True):
        assert_close(left, right, msg=lambda text, name=name: f"{name}: {text}")


def test_a_penalty_on_embeddings_shrinks_only_them(feed: Path, tmp_path: Path) -> None:
    lengths = {}
    for name, strength in (("without", 0.0), ("with", 0.1)):
        config = feed_config(feed, tmp_path / name)
        optimizer = config.optimizer.model_dump() | {"embedding_l2": strength}
        train(feed_config(feed, tmp_path / name, optimizer=optimizer), Recorder())
        weights = files(tmp_path / name, 12, "weights.safetensors")
        lengths[name] = sum(value.norm() for key, value in weights.items() if ".tables." in key)
    assert lengths["with"] < lengths["without"]


def test_a_penalty_does_not_move_a_parameter_without_a_gradient() -> None:
    from recap.training.optimizer.scheduled import _add_to_gradients

    still, moved = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    moved.grad = torch.zeros(2)
    _add_to_gradients([still, moved], 0.5)
    assert still.grad is None
    assert_close(moved.grad, torch.full((2,), 0.5))


def test_the_state_of_a_watch_is_json() -> None:
    state = {"best": 0.5, "waited": 1, "cuts": 2}
    watch = Watch(None)
    watch.load_state_dict(state)
    assert json.loads(json.dumps(watch.state_dict())) == state
