import math
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import Recorder, feed_config, write_feed
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.errors import CheckpointError, DataError, Interrupted, RunError
from recap.model.directory import build_ranker, open_model
from recap.runs import Run, find_model_directory
from recap.runtime import seed_torch
from recap.training.trainer import train


def test_intervals_are_independent_and_the_last_step_logs_evaluates_and_saves(feed: Path, tmp_path: Path) -> None:
    intervals = {"train_log_every_n": 2, "eval_log_every_n": 3, "checkpoint_every_n": 5, "num_train_steps": 7}
    recorder = Recorder()
    assert train(feed_config(feed, tmp_path / "run", training=intervals), recorder).trained
    assert recorder.steps == [1, 2, 3, 4, 5, 6, 7]
    assert recorder.logged_at == [2, 4, 6, 7]
    assert [step for step, _ in recorder.evaluated_at] == [3, 6, 7]
    assert list(Run(tmp_path / "run").checkpoints) == [5, 7]


def test_a_finished_run_resumes_when_num_train_steps_is_raised(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run")
    train(config, Recorder())
    recorder = Recorder()
    assert not train(config, recorder).trained
    assert recorder.steps == []
    longer = feed_config(feed, tmp_path / "run", training={"num_train_steps": 15})
    assert train(longer, recorder).trained
    assert recorder.steps == [13, 14, 15]


def test_a_cosine_without_an_end_ends_with_the_epochs_also_after_a_resume(feed: Path, tmp_path: Path) -> None:
    cosine = {"kind": "linear_ramp_to_cosine", "learning_rate": 0.01, "final_learning_rate": 0.001, "num_ramp_steps": 1}
    schedules = {"backbone": cosine, "towers": {"default": cosine}}
    data = {"num_epochs": 1, "global_batch_size": 64}
    training = {"num_train_steps": 1000, "train_log_every_n": 1}

    def config(name: str) -> RecapConfig:
        return feed_config(feed, tmp_path / name, training=training, optimizer=schedules, train_data=data)

    last = train(config("whole"), Recorder()).steps
    with pytest.raises(Interrupted):
        train(config("stopped"), Recorder({2: interrupt}))
    train(config("stopped"), Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", last)
    rates = [record["rate/backbone"] for record in records(tmp_path / "whole") if record["split"] == "train"]
    assert len(rates) == last < 1000
    assert rates[-1] == pytest.approx(0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * (last - 2) / (last - 1))))


@pytest.mark.parametrize("stops", [[1], [4], [5, 6], [3, 7, 11]])
def test_a_stopped_run_resumes_bit_for_bit(feed: Path, tmp_path: Path, stops: list[int]) -> None:
    whole, stopped = (feed_config(feed, tmp_path / name) for name in ("whole", "stopped"))
    train(whole, Recorder())
    for step in stops:
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {step}, which is saved") as caught:
            train(stopped, Recorder({step: interrupt}))
        assert caught.value.exit_code == 128 + signal.SIGTERM
    recorder = Recorder()
    assert train(stopped, recorder).trained
    assert recorder.started_after == stops[-1]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


def test_a_resumed_run_drops_records_after_its_checkpoint(feed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(feed_config(feed, run), Recorder({7: fail}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "split": "train"}\n{"step": 12, "spl')
    train(feed_config(feed, run), Recorder())
    train(feed_config(feed, tmp_path / "whole"), Recorder())
    assert_same_run(run, tmp_path / "whole", 12)


def no_batch_norm(feed: Path, run: Path, parts: int | None) -> RecapConfig:
    tower = {"kind": "mlp", "layer_sizes": [8]}
    model = {
        "featurization": {"kind": "double_norm_log", "batch_norm": None},
        "backbone": {"kind": "mlp", "layer_sizes": [16], "final_layer_activation": True},
        "tasks": {"like": {"tower": tower}, "share": {"tower": tower, "pos_weight": 2.0}},
    }
    training = {"gradient_accumulation": parts, "num_train_steps": 6, "num_eval_steps": 1}
    constant = {"kind": "constant", "learning_rate": 0.001}
    optimizer = {"backbone": constant, "towers": {"default": constant}}
    return feed_config(feed, run, model=model, training=training, optimizer=optimizer)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_accumulated_micro_batches_equal_the_big_batch(feed: Path, tmp_path: Path, parts: int) -> None:
    whole, accumulated = Recorder(), Recorder()
    train(no_batch_norm(feed, tmp_path / "whole", None), whole)
    train(no_batch_norm(feed, tmp_path / "parts", parts), accumulated)
    assert_close(accumulated.losses, whole.losses, atol=1e-5, rtol=1e-5)
    left, right = (files(tmp_path / run, 6, "weights.safetensors") for run in ("whole", "parts"))
    for name in left:
        # Adam divides by the root of tiny second moments, so rounding shows up to a share of the rate.
        assert_close(left[name], right[name], atol=2e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_tensorboard_shows_the_records_of_metrics_jsonl(feed: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(feed_config(feed, tmp_path / "run"), Recorder())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    logged = [record for record in records(tmp_path / "run") if record["split"] == "train"]
    shown = events.Scalars("train/loss")
    assert [event.step for event in shown] == [record["step"] for record in logged] == [3, 6, 9, 12]
    assert [event.value for event in shown] == pytest.approx([record["loss"] for record in logged])
    assert [event.step for event in events.Scalars("validation/like/auc")] == [6, 12]


def test_only_the_latest_checkpoints_are_kept(feed: Path, tmp_path: Path) -> None:
    keep = {"checkpoint_every_n": 2, "checkpoint_max_to_keep": 3, "num_train_steps": 11}
    train(feed_config(feed, tmp_path / "run", training=keep), Recorder())
    assert list(Run(tmp_path / "run").checkpoints) == [8, 10, 11]


def test_a_warm_start_takes_weights_and_counts_steps_from_zero(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "first"), Recorder())
    frozen = {"kind": "constant", "learning_rate": 0.0}
    warm = {"initial_checkpoint_dir": str(tmp_path / "first"), "num_train_steps": 1}
    config = feed_config(
        feed, tmp_path / "second", training=warm, optimizer={"backbone": frozen, "towers": {"default": frozen}}
    )
    recorder = Recorder()
    train(config, recorder)
    assert recorder.steps == [1]
    first, second = (
        files(tmp_path / "first", 12, "weights.safetensors"),
        files(tmp_path / "second", 1, "weights.safetensors"),
    )
    learned = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(first[name], second[name]) for name in learned)


def test_a_warm_start_from_another_model_lists_the_mismatches(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "first"), Recorder())
    warm = {"initial_checkpoint_dir": str(tmp_path / "first"), "num_train_steps": 1}
    other = feed_config(feed, tmp_path / "second", training=warm, model={"embeddings": {"default": 5}})
    with pytest.raises(CheckpointError, match=r"embeddings.tables.hour.weight is 25×4, this model needs 25×5"):
        train(other, Recorder())
    nowhere = {"initial_checkpoint_dir": str(tmp_path / "nowhere")}
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        train(feed_config(feed, tmp_path / "third", training=nowhere), Recorder())


def test_a_run_does_not_resume_with_another_configuration(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "run"), Recorder())
    changed = feed_config(feed, tmp_path / "run", training={"seed": 5, "train_log_every_n": 1})
    with pytest.raises(
        CheckpointError, match=r"need a new run:\n  training.seed: 0 → 5\nThese are allowed .*:\n  training"
    ):
        train(changed, Recorder())


def test_a_run_does_not_resume_with_features_in_another_order(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run")
    train(config, Recorder())
    discrete = dict(reversed(config.features.model_dump(exclude_unset=True)["discrete"].items()))
    changed = feed_config(feed, tmp_path / "run", features={"discrete": discrete})
    with pytest.raises(CheckpointError, match=r"features.discrete: \[hour, language\] → \[language, hour\]"):
        train(changed, Recorder())


def test_a_resumed_run_reports_allowed_changes(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "run"), Recorder())
    longer = feed_config(feed, tmp_path / "run", training={"num_train_steps": 14})
    recorder = Recorder()
    train(longer, recorder)
    assert "changed since step_00000012: training.num_train_steps: 12 → 14" in recorder.messages


def test_a_run_does_not_resume_with_a_changed_vocabulary(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    train(feed_config(feed, tmp_path / "run"), Recorder())
    pq.write_table(pa.table({"value": ["en", "pt", "ja"]}), feed / "languages.parquet")
    with pytest.raises(CheckpointError, match=r"features.discrete.language.vocabulary: its values changed"):
        train(feed_config(feed, tmp_path / "run"), Recorder())


def test_a_non_finite_loss_stops_before_the_weights_move(feed: Path, tmp_path: Path) -> None:
    constant = {"kind": "constant", "learning_rate": 1e38}
    config = feed_config(feed, tmp_path / "run", optimizer={"backbone": constant, "towers": {"default": constant}})
    with pytest.raises(RunError, match=r"step \d+: the loss of like, share is not finite; the weights were not"):
        train(config, Recorder())


def test_a_second_process_on_the_same_run_is_refused(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run")

    def again() -> None:
        with pytest.raises(CheckpointError, match="another process is training this run"):
            train(config, Recorder())

    train(config, Recorder({2: again}))


def test_an_evaluation_that_times_out_is_stopped_and_training_continues(feed: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(feed_config(feed, tmp_path / "run", training={"eval_timeout_in_s": 1e-6}), recorder)
    assert recorder.steps[-1] == 12
    assert recorder.evaluated_at == []
    assert recorder.messages[1].startswith("evaluation of validation at step 6 exceeded 1e-06 s and was stopped")


def test_evaluation_does_not_change_training(feed: Path, tmp_path: Path) -> None:
    often = {"eval_log_every_n": 1, "train_log_every_n": 12}
    never = {"eval_log_every_n": 1000, "train_log_every_n": 12}
    train(feed_config(feed, tmp_path / "often", training=often), Recorder())
    train(feed_config(feed, tmp_path / "never", training=never), Recorder())
    left, right = (files(tmp_path / run, 12, "weights.safetensors") for run in ("often", "never"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_invalid_labels_stop_the_run_with_file_and_row(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    file = feed / "train" / "part-0.parquet"
    table = pq.read_table(file)
    bad = pa.array([9, *table.column("like").to_pylist()[1:]])
    pq.write_table(table.set_column(table.schema.get_field_index("like"), "like", bad), file)
    with pytest.raises(DataError, match=r"part-0.parquet: column 'like', row 0: found 9"):
        train(feed_config(feed, tmp_path / "run"), Recorder())


def test_a_task_without_labels_does_not_train(tmp_path: Path) -> None:
    """A tower whose labels are all missing keeps its initial weights; the other learns as without it."""
    feed = write_feed(tmp_path / "feed")
    for file in (feed / "train").glob("*.parquet"):
        table = pq.read_table(file)
        index = table.schema.get_field_index("share")
        pq.write_table(table.set_column(index, "share", pa.nulls(len(table), pa.int8())), file, row_group_size=70)
    config = feed_config(feed, tmp_path / "run", validation_data={})
    train(config, Recorder())
    start, end = (
        {name: value.clone() for name, value in ranker.named_parameters()}
        for ranker in (fresh_ranker(config), open_model(find_model_directory(tmp_path / "run")).ranker)
    )
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert not any(name.startswith("towers.share.") for name in moved)
    assert any(name.startswith("towers.like.") for name in moved)


def fresh_ranker(config: RecapConfig) -> torch.nn.Module:
    seed_torch(config.training.seed, 0)
    return build_ranker(config, load_assets(config.features))


def test_training_minimises_the_chain_penalty_with_the_loss(feed: Path, tmp_path: Path) -> None:
    def weights_after_a_step(name: str, weight: float) -> dict[str, torch.Tensor]:
        cascade = {"kind": "aitm", "chain": ["share", "like"], "width": 4, "constraint_weight": weight}
        training = {"num_train_steps": 1, "gradient_accumulation": 2}
        config = feed_config(feed, tmp_path / name, training=training, model={"cascade": cascade})
        recorder = Recorder()
        train(config, recorder)
        losses.append(recorder.losses)
        return files(tmp_path / name, 1, "optimizer.safetensors")

    losses: list[list[float]] = []
    without, little, much = (weights_after_a_step(str(weight), weight) for weight in (0.0, 1.0, 3.0))
    assert losses[0] == losses[1] == losses[2]  # what is reported is the loss of the tasks
    moments = [name for name in without if name.endswith("/exp_avg")]
    parts = [torch.cat([weights[name].flatten() for name in moments]) for weights in (without, little, much)]
    assert (parts[1] - parts[0]).abs().max() > 1e-6
    assert_close(parts[2] - parts[0], 3 * (parts[1] - parts[0]), atol=1e-6, rtol=1e-3)
