"""Following a run: a separate process evaluates each checkpoint once, until the run is finished."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import Recorder, feed_config, feed_values
from training.runs import interrupt, records

from recap.config.file.load import config_of
from recap.errors import CommandStopped, ConfigError, InputError, Interrupted, RunError
from recap.evaluation import follow as following
from recap.evaluation.follow import follow
from recap.model.directory import SavedModel
from recap.runs import Run
from recap.tracking.open import open_evaluation_tracker
from recap.training.trainer import train

NO_EVALUATION = {"eval_log_every_n": None}


def evaluations(run: Path) -> list[dict[str, Any]]:
    file = run / "evaluations.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps(run: Path) -> list[int]:
    return [record["step"] for record in evaluations(run)]


def test_the_last_checkpoint_of_a_finished_run_is_evaluated_once(feed: Path, tmp_path: Path) -> None:
    run, trained, recorder = tmp_path / "run", Recorder(), Recorder()
    train(feed_config(feed, run, training=NO_EVALUATION), trained)
    assert trained.evaluated_at == []
    assert {record["split"] for record in records(run)} == {"train"}
    config = feed_config(feed, run)
    assert follow(lambda: config, run, recorder) == run / "evaluations.jsonl"
    assert recorder.evaluated_at == [(12, "validation")]
    assert recorder.messages == ["skipped, because step 12 is newer: step 4, 8"]
    train(feed_config(feed, tmp_path / "both"), Recorder())
    assert evaluations(run) == [
        record for record in records(tmp_path / "both") if record["split"] == "validation" and record["step"] == 12
    ]
    again = Recorder()
    follow(lambda: config, run, again)
    assert again.evaluated_at == []
    assert steps(run) == [12, 12]


def test_tensorboard_shows_the_values_of_the_file(feed: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = feed_config(feed, tmp_path / "run", training=NO_EVALUATION)
    train(config, Recorder())
    recorder = Recorder()
    follow(
        lambda: config,
        tmp_path / "run",
        recorder,
        open_tracker=lambda run, step: open_evaluation_tracker(run, step, recorder.say),
    )
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "evaluations")).Reload()
    for record in evaluations(tmp_path / "run"):
        (shown,) = events.Scalars(f"validation/{record['task']}/auc")
        assert (shown.step, shown.value) == (12, pytest.approx(record["auc"]))


def stopped_after_5(feed: Path, run: Path) -> None:
    """A run with checkpoints of steps 4 and 5 that is not finished."""
    with pytest.raises(Interrupted):
        train(feed_config(feed, run), Recorder({5: interrupt}))


def test_following_stops_after_its_timeout_and_continues_when_started_again(feed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", feed_config(feed, tmp_path / "run")
    with pytest.raises(RunError, match=r"no new checkpoint for 0 s \(--timeout\); no checkpoint was evaluated"):
        follow(lambda: config, run, Recorder(), timeout=0)
    assert not run.exists()
    stopped_after_5(feed, run)
    with pytest.raises(RunError, match=r"no new checkpoint for 0 s .*; the last .* evaluated is step 5"):
        follow(lambda: config, run, Recorder(), timeout=0)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 9, "spl')
    train(config, Recorder())
    follow(lambda: config, run, Recorder())
    assert steps(run) == [5, 5, 12, 12]


def test_a_signal_stops_following_and_no_step_is_partly_written(feed: Path, tmp_path: Path) -> None:
    class Interrupting(Recorder):
        def evaluated(self, *arguments: Any) -> None:
            interrupt()

    stopped_after_5(feed, tmp_path / "run")
    config = feed_config(feed, tmp_path / "run")
    with pytest.raises(CommandStopped, match=r"stopped by SIGTERM; .* is step 5") as caught:
        follow(lambda: config, tmp_path / "run", Interrupting())
    assert caught.value.exit_code == 128 + signal.SIGTERM
    two = config.model_dump(exclude_unset=True)
    two["validation_data"]["again"] = two["validation_data"]["validation"]
    train(config, Recorder())
    with pytest.raises(CommandStopped):  # after the first set of step 12
        follow(lambda: config_of(two), tmp_path / "run", Interrupting())
    assert steps(tmp_path / "run") == [5, 5]


def test_a_checkpoint_deleted_while_it_is_opened_is_skipped(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, open_model = tmp_path / "run", following.open_model

    def open_and_lose(folder: Path) -> SavedModel:
        if folder == Run(run).checkpoint_path(12):
            shutil.rmtree(folder)
        return open_model(folder)

    config = feed_config(feed, run)
    train(config, Recorder())
    monkeypatch.setattr(following, "open_model", open_and_lose)
    recorder = Recorder()
    with pytest.raises(RunError, match="is step 8"):
        follow(lambda: config, run, recorder, timeout=0)
    assert recorder.evaluated_at == [(8, "validation")]


def test_a_damaged_checkpoint_is_reported_once_and_evaluated_once_rewritten(feed: Path, tmp_path: Path) -> None:
    run, config, recorder = tmp_path / "run", feed_config(feed, tmp_path / "run"), Recorder()
    train(config, Recorder())
    os.truncate(Run(run).checkpoint_path(12) / "weights.safetensors", 100)
    with pytest.raises(RunError, match="no checkpoint was evaluated"):
        follow(lambda: config, run, recorder, timeout=0.1)
    shown = [text for text in recorder.messages if "weights.safetensors: damaged" in text]
    assert len(shown) == 1
    assert shown[0].endswith("; it is not evaluated")
    train(config, Recorder())
    follow(lambda: config, run, Recorder())
    assert steps(run) == [12, 12]


def test_unknown_splits_a_second_follower_and_damaged_results_are_refused(feed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", feed_config(feed, tmp_path / "run")
    train(config, Recorder())
    with pytest.raises(ConfigError, match="split: unknown split 'test'"):
        follow(lambda: config, run, Recorder(), split="test")
    with following._results(run / "evaluations.jsonl"), pytest.raises(InputError, match="another process follows"):
        follow(lambda: config, run, Recorder())
    (run / "evaluations.jsonl").write_text("not ours\n")
    with pytest.raises(InputError, match=r"evaluations.jsonl: damaged; delete it"):
        follow(lambda: config, run, Recorder())
    assert (run / "evaluations.jsonl").read_text() == "not ours\n"
    with pytest.raises(ConfigError, match=r"training.watch: needs evaluations in training"):
        feed_config(feed, run, training=NO_EVALUATION | {"watch": {"metric": "auc", "split": "validation"}})


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_may_be_followed_before_it_starts(feed: Path, tmp_path: Path) -> None:
    """Checkpoints are deleted quickly, and training waits so that it does not run ahead."""
    run, config = tmp_path / "run", tmp_path / "ranker.yaml"
    values = feed_values(feed, run)
    values["training"] |= {"eval_log_every_n": 4, "checkpoint_max_to_keep": 1}
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "recap", "evaluate", "--follow"]
    followers = [
        subprocess.Popen([*command, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for source in (config, tmp_path / "not-begun")
    ]
    waits = {4 * n + 3: lambda n=n: wait_until(lambda: steps(run)[-1:] == [4 * n]) for n in (1, 2)}
    assert followers[1].stdout is not None
    assert followers[1].stdout.readline() == f"waiting for the first checkpoint of {tmp_path}/not-begun\n"
    followers[1].send_signal(signal.SIGINT)
    train(config_of(values), Recorder(waits))
    shown, errors = followers[0].communicate(timeout=60)
    assert (followers[0].returncode, errors) == (0, "")
    assert shown.splitlines()[-1] == f"finished: {run}; written: {run}/evaluations.jsonl"
    assert evaluations(run) == [record for record in records(run) if record["split"] == "validation"]
    assert list(Run(run).checkpoints) == [12]
    _, errors = followers[1].communicate(timeout=60)
    assert (followers[1].returncode, errors) == (130, "stopped by SIGINT; no checkpoint was evaluated\n")
    assert not (tmp_path / "not-begun").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--timeout", "3"], "--timeout: requires --follow"),
        (["run", "--follow", "--step", "3"], "--step: --follow evaluates every checkpoint"),
        (["missing.yaml", "--follow"], "missing.yaml: no such file"),
    ],
)
def test_conflicting_options_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recap", "evaluate", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
