"""Non-finite numbers never reach weights, moments, running statistics or a checkpoint."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import Recorder, feed_config, feed_values, write_feed
from training.runs import assert_same_run, files, interrupt, records, with_overflow

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.errors import Interrupted, NotFinite, RunError
from recap.model.directory import build_ranker
from recap.runs import Run
from recap.training.balancing.build import build_balancing
from recap.training.step_guard import StepGuard
from recap.training.trainer import train

SKIP, ROLLBACK = ({"kind": kind, "budget": 5} for kind in ("skip", "rollback"))
BAD_ROW = ("part-1.parquet", 17)
EVERY_STEP = {"checkpoint_every_n": 1, "train_log_every_n": 1}


@pytest.fixture(scope="module")
def bad_feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed with weights, one of which is so large that the losses of its row overflow."""
    return with_overflow(write_feed(tmp_path_factory.mktemp("bad")), *BAD_ROW)


def configured(feed: Path, run: Path, policy: dict[str, Any] | None = None, **sections: dict[str, Any]) -> RecapConfig:
    values = feed_values(feed, run)
    values["training"] |= {"non_finite": policy or {"kind": "raise"}, **sections.pop("training", {})}
    for name, section in sections.items():
        values[name] |= section
    if "weight" in pq.read_schema(feed / "train" / "part-0.parquet").names:
        values["train_data"]["weight"] = "weight"
        values["validation_data"]["validation"]["weight"] = None
        for task in values["model"]["tasks"].values():
            task |= {"pos_weight": 10.0, "initial_rate": "none"}  # the rate would be that of the heavy row
    return config_of(values)


def bad_step(feed: Path, run: Path) -> int:
    """The step whose batch has the bad row."""
    with pytest.raises(RunError) as caught:
        train(configured(feed, run), Recorder())
    match = re.match(r"step (\d+): ", str(caught.value))
    assert match is not None
    return int(match[1])


def state_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = files(run, step, "weights.safetensors")
    for name in ("optimizer.safetensors", "balancing.safetensors"):
        if (Run(run).checkpoint_path(step) / name).exists():
            tensors |= files(run, step, name)
    return tensors


def logged(run: Path, name: str) -> list[tuple[int, int]]:
    """(step, value) of each training record."""
    return [(record["step"], record[name]) for record in records(run) if record["split"] == "train"]


def assert_equal_states(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_non_finite_loss_ends_the_run_and_names_file_and_row(bad_feed: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        train(configured(bad_feed, tmp_path / "run"), Recorder())
    text = str(caught.value)
    assert "the loss of like, share is not finite; the weights were not changed" in text
    assert f"Rows whose own loss is not finite: {bad_feed}/train/part-1.parquet: row 17 (last checkpoint: " in text
    assert "training.non_finite: {kind: skip, budget: 10}" in text


def test_a_label_whose_square_overflows_is_named_by_its_row(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    for split in ("train", "validation"):
        for file in (feed / split).glob("*.parquet"):
            table = pq.read_table(file)
            seconds = np.arange(len(table), dtype=np.float32)
            seconds[5] = 1e30 if file.name == "part-2.parquet" else 5
            pq.write_table(table.append_column("seconds", pa.array(seconds)), file, row_group_size=70)
    values = feed_values(feed, tmp_path / "run")
    tower = {"kind": "mlp", "layer_sizes": [8]}
    values["model"]["tasks"]["seconds"] = {"tower": tower, "objective": {"kind": "regression", "loss": {"kind": "mse"}}}
    values["train_data"]["tasks"]["seconds"] = {}
    with pytest.raises(RunError, match=r"the loss of seconds is not finite; .*part-2.parquet: row 5 \(last checkpoint"):
        train(config_of(values), Recorder())


def test_if_the_weights_are_the_cause_the_message_summarizes_the_rows(feed: Path, tmp_path: Path) -> None:
    constant = {"kind": "constant", "learning_rate": 1e38}
    rates = {"backbone": constant, "towers": {"default": constant}}
    message = rf"Rows of the step: {feed}/train/part-\d.parquet: \d+ of rows \d+ to \d+"
    with pytest.raises(RunError, match=message):
        train(configured(feed, tmp_path / "run", optimizer=rates), Recorder())


@pytest.mark.parametrize("balancing", ["none", "uncertainty", "pcgrad", "grad_norm"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_skipped_step_changes_nothing_and_is_counted(
    bad_feed: Path, tmp_path: Path, balancing: str, parts: int
) -> None:
    bad, recorder = bad_step(bad_feed, tmp_path / "raising"), Recorder()
    training = {**EVERY_STEP, "num_train_steps": bad + 1, "gradient_accumulation": parts}
    optimizer = {"balancing": {"kind": balancing}}
    train(configured(bad_feed, tmp_path / "run", SKIP, training=training, optimizer=optimizer), recorder)
    assert recorder.steps == [step for step in range(1, bad + 2) if step != bad]
    assert_equal_states(state_of(tmp_path / "run", bad - 1), state_of(tmp_path / "run", bad))
    assert all(value.isfinite().all() for value in files(tmp_path / "run", bad + 1, "weights.safetensors").values())
    assert logged(tmp_path / "run", "skipped_steps")[-1] == (bad + 1, 1)
    assert "part-1.parquet: row 17" in recorder.messages[0]
    assert "skipped (1 of at most 5)" in recorder.messages[0]


def test_a_run_ends_when_its_budget_of_skipped_steps_is_spent(bad_feed: Path, tmp_path: Path) -> None:
    policy = {"kind": "skip", "budget": 1}
    config = configured(bad_feed, tmp_path / "run", policy, training={"num_train_steps": 30})
    with pytest.raises(RunError, match=r"1 steps were skipped before; training.non_finite.budget allows no more"):
        train(config, Recorder())
    train(configured(bad_feed, tmp_path / "run", SKIP, training={"num_train_steps": 30}), Recorder())


@pytest.mark.parametrize("policy", [SKIP, ROLLBACK], ids=["skip", "rollback"])
@pytest.mark.parametrize("after", [-1, 1])
def test_a_stopped_run_with_non_finite_steps_resumes_bit_for_bit(
    bad_feed: Path, tmp_path: Path, policy: dict[str, Any], after: int
) -> None:
    stop = bad_step(bad_feed, tmp_path / "raising") + after
    whole, stopped = (configured(bad_feed, tmp_path / name, policy) for name in ("whole", "stopped"))
    train(whole, Recorder())
    with pytest.raises(Interrupted, match=f"after step {stop}, which is saved"):
        train(stopped, Recorder({stop: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


def test_a_rolled_back_run_equals_one_that_never_saw_the_rows(bad_feed: Path, tmp_path: Path) -> None:
    """It may roll back to the previous step, to an older checkpoint, or to the initial weights."""
    bad = bad_step(bad_feed, tmp_path / "raising")
    ends, messages = [], []
    for every in (1, 2, 1000):
        recorder = Recorder()
        training = {"checkpoint_every_n": every, "num_train_steps": 8}  # an epoch
        train(configured(bad_feed, tmp_path / str(every), ROLLBACK, training=training), recorder)
        ends.append(state_of(tmp_path / str(every), 8))
        back_to = (bad - 1) // every * every
        assert recorder.steps[bad - 1 :] == list(range(back_to + 1, 9))
        messages.append([text for text in recorder.messages if "part-1.parquet: row 17" in text])
        assert logged(tmp_path / str(every), "rollbacks")[-1] == (8, 1)
    assert_equal_states(ends[0], ends[1])
    assert_equal_states(ends[0], ends[2])
    assert all(value.isfinite().all() for value in ends[0].values())
    assert messages[0][0].endswith("the rows of that step are skipped (1 of at most 5)")


def test_a_run_killed_after_a_rollback_resumes_bit_for_bit(bad_feed: Path, tmp_path: Path) -> None:
    bad = bad_step(bad_feed, tmp_path / "raising")
    training = {"checkpoint_every_n": 1000}

    def fail() -> None:
        if len(recorder.steps) > bad:
            raise ZeroDivisionError

    recorder = Recorder(dict.fromkeys(range(bad, 13), fail))
    train(configured(bad_feed, tmp_path / "whole", ROLLBACK, training=training), Recorder())
    with pytest.raises(ZeroDivisionError):
        train(configured(bad_feed, tmp_path / "killed", ROLLBACK, training=training), recorder)
    train(configured(bad_feed, tmp_path / "killed", ROLLBACK, training=training), Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 12)


def test_a_run_ends_when_its_budget_of_rollbacks_is_spent(feed: Path, tmp_path: Path) -> None:
    constant = {"kind": "constant", "learning_rate": 1e38}
    rates = {"backbone": constant, "towers": {"default": constant}}
    with pytest.raises(RunError, match=r"rolled back 5 times before; training.non_finite.budget allows no more"):
        train(configured(feed, tmp_path / "run", ROLLBACK, optimizer=rates), Recorder())


def test_a_non_finite_gradient_stops_a_step_with_finite_losses(feed: Path, tmp_path: Path) -> None:
    values = feed_values(feed, tmp_path / "run")
    values["model"]["tasks"]["like"]["loss_weight"] = 1e37
    with pytest.raises(
        RunError, match=r"step 1: the gradient of inputs.\S+, .* and \d+ more is not finite; the weights"
    ):
        train(config_of(values), Recorder())
    values["training"] |= {**EVERY_STEP, "num_train_steps": 2, "non_finite": SKIP}
    train(config_of(values), Recorder())
    assert_equal_states(state_of(tmp_path / "run", 1), state_of(tmp_path / "run", 2))


def test_non_finite_weights_are_never_saved(feed: Path, tmp_path: Path) -> None:
    constant = {"kind": "constant", "learning_rate": 1e39}  # infinite as a float32
    rates = {"backbone": constant, "towers": {"default": constant}}
    for policy in ({"kind": "raise"}, SKIP, ROLLBACK):
        with pytest.raises(RunError, match=r"after step 1 .* is not finite; the step was not saved"):
            train(configured(feed, tmp_path / "run", policy, training=EVERY_STEP, optimizer=rates), Recorder())
        assert list(Run(tmp_path / "run").checkpoints) == []


def test_overflowing_running_statistics_are_detected(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run")
    ranker = build_ranker(config, load_assets(config.features))
    guard = StepGuard(config.tasks, ranker, build_balancing(config, ranker.parameters(), torch.device("cpu")))
    name, statistic = next((name, buffer) for name, buffer in ranker.named_buffers() if name.endswith("running_var"))
    before = statistic.clone()
    guard.begin()
    statistic[0] = torch.inf
    with pytest.raises(NotFinite, match=f"the running statistic of {name} is not finite"):
        guard.check_losses(1, torch.zeros(2))
    guard.undo()
    assert torch.equal(statistic, before)
    statistic[0] = 1e30  # large, and its square no float32, but finite
    guard.check_losses(1, torch.zeros(2))


def test_sparse_gradients_are_checked_by_their_values(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run")
    ranker = build_ranker(config, load_assets(config.features))
    guard = StepGuard(config.tasks, ranker, build_balancing(config, ranker.parameters(), torch.device("cpu")))
    name, table = next((name, parameter) for name, parameter in ranker.named_parameters() if "tables" in name)
    for value, bad in ((1.0, False), (torch.nan, True), (torch.inf, True), (1e30, True)):
        values = torch.full((1, table.shape[1]), value)
        table.grad = torch.sparse_coo_tensor(torch.tensor([[2]]), values, table.shape, check_invariants=True)
        if bad:
            with pytest.raises(NotFinite, match=f"step 3: the gradient of {name} is not finite"):
                guard.check_gradients(3)
        else:
            guard.check_gradients(3)
