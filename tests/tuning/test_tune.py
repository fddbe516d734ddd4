"""`recap tune`: trials in their own processes, their record, and what continues after a stop."""

import csv
import multiprocessing
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import feed_values
from typer.testing import CliRunner

from recap.cli.main import app
from recap.cli.terminal.tuning import ALL_TRIED, counts_text, ended_text, plan_text, short_names
from recap.config.file.load import Template, load_config
from recap.errors import CheckpointError, CommandStopped, ConfigError, InputError, RunError
from recap.runs import Run
from recap.tuning.space import SearchSpace
from recap.tuning.study import BEST, JOURNAL, TABLE, Study, Tried, open_study
from recap.tuning.trial import End
from recap.tuning.tune import Progress, gpu_of, tune

RATE = "optimizer.backbone.learning_rate"
SIZES = "model.backbone.layer_sizes"
ACCUMULATION, BATCH = "training.gradient_accumulation", "train_data.global_batch_size"
SPACE: dict[str, Any] = {
    RATE: {"range": [0.001, 0.1], "log": True, "also": ["optimizer.towers.default.learning_rate"]},
    SIZES: {"choices": [[8], [8, 4]]},
}


def write_config(folder: Path, feed: Path, space: Mapping[str, Any] = SPACE, **tuning: Any) -> Path:
    """A configuration whose validation set `secret`, which is not watched, has no files."""
    values = feed_values(feed, folder / "run")
    values["training"] |= {"watch": {"metric": "log_loss", "split": "validation"}, "eval_log_every_n": 4}
    values["model"]["backbone"] = {"kind": "mlp", "layer_sizes": [8]}
    values["model"]["tasks"] = {task: {"tower": {"kind": "mlp"}} for task in ("like", "share")}
    values["validation_data"]["secret"] = {"source": {"inputs": str(folder / "nowhere.parquet")}}
    values["tuning"] = {"space": space, **tuning}
    file = folder / "ranker.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def search(
    file: Path,
    folder: Path,
    trials: int,
    jobs: int = 1,
    progress: Progress = Progress(),  # noqa: B008
) -> list[Tried]:
    config = load_config(file)
    assert config.tuning is not None
    with open_study(config, SearchSpace(Template.read(file), config.tuning), folder) as study:
        tune(study, trials, jobs, progress)
        return study.trials


def outcomes(trials: list[Tried]) -> list[Any]:
    """What a repeated search finds again: all but the time."""
    return [(trial.number, trial.state, trial.value, trial.best_step, trial.steps, trial.values) for trial in trials]


@pytest.fixture(scope="module")
def finished(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tried]]:
    """A study of three trials, one after the other, none of which is ended early."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, search(write_config(folder, feed, pruning=None), folder / "study", 3)


def test_a_trial_has_the_best_watched_value_of_its_run_and_reads_no_other_split(
    finished: tuple[Path, list[Tried]],
) -> None:
    folder, trials = finished
    assert [trial.state for trial in trials] == ["complete"] * 3
    for trial in trials:
        run = Run(folder / "study" / "trials" / f"{trial.number:04d}")
        evaluations = [record for record in run.metrics if record["split"] != "train"]
        assert {record["split"] for record in evaluations} == {"validation"}
        watched = {
            step: sum(record["log_loss"] for record in evaluations if record["step"] == step) / 2 for step in (4, 8, 12)
        }
        assert trial.value == min(watched.values()) == watched[trial.best_step or 0]
        assert (trial.steps, trial.reason) == (12, "")
        config = run.config
        assert config.optimizer.backbone.learning_rate == trial.values[RATE]
        assert config.optimizer.towers["default"].learning_rate == trial.values[RATE]
        assert config.model.backbone.layer_sizes == trial.values[SIZES]  # type: ignore[union-attr]
        assert list(config.validation_data) == ["validation"]


def test_the_first_trial_is_the_configuration_as_it_is_written(finished: tuple[Path, list[Tried]]) -> None:
    assert finished[1][0].values == {RATE: 0.01, SIZES: [8]}
    assert len({trial.values[RATE] for trial in finished[1]}) == 3


def test_the_best_configuration_can_be_trained_and_only_its_run_has_checkpoints(
    finished: tuple[Path, list[Tried]],
) -> None:
    folder, trials = finished
    best = min(trials, key=lambda trial: trial.value or 0.0)
    config = load_config(folder / "study" / BEST)
    assert config.optimizer.backbone.learning_rate == best.values[RATE]
    assert config.model.backbone.layer_sizes == best.values[SIZES]  # type: ignore[union-attr]
    assert config.training.save_dir == str(folder / "study" / "best")
    assert config.training.checkpoint_max_to_keep is None
    assert config.tuning is None
    assert list(config.validation_data) == ["validation", "secret"]
    text = (folder / "study" / BEST).read_text()
    assert text.startswith(f"# Written by recap tune: trial {best.number}, the best by log_loss of validation: ")
    assert text.count("# tuned") == 3
    with_checkpoints = [path.parent.name for path in (folder / "study" / "trials").glob("*/checkpoints")]
    assert with_checkpoints == [f"{best.number:04d}"]
    assert Run(folder / "study" / "trials" / with_checkpoints[0]).best is not None


def test_what_a_killed_process_did_not_write_is_written_by_the_next(finished: tuple[Path, list[Tried]]) -> None:
    folder, trials = finished
    study = folder / "study"
    best = min(trials, key=lambda trial: trial.value or 0.0)
    written = {name: (study / name).read_text() for name in (BEST, TABLE)}
    left = Run(study / "trials" / f"{1 - min(best.number, 1):04d}").checkpoints_folder
    left.mkdir()
    for name in written:
        (study / name).unlink()
    search(folder / "ranker.yaml", study, 3, progress=Progress(began=pytest.fail))
    assert {name: (study / name).read_text() for name in written} == written
    assert not left.exists()


def test_watched_tasks_with_few_positives_are_named(finished: tuple[Path, list[Tried]]) -> None:
    folder, _ = finished
    output, _ = invoke(folder / "ranker.yaml", "--trials", 3, "--output", folder / "study")
    lines = [line for line in output.splitlines() if "partly luck" in line]
    assert [line.split(" has ")[0] for line in lines] == ["warning: like", "warning: share"]
    assert re.search(
        r" has \d+ positives in validation, so its log_loss is partly luck, and so is the best trial; leave it out of "
        r"training\.watch\.tasks, or evaluate more rows$",
        lines[1],
    )


def test_the_table_lists_every_trial(finished: tuple[Path, list[Tried]]) -> None:
    folder, trials = finished
    rows = list(csv.DictReader((folder / "study" / TABLE).read_text().splitlines()))
    assert [row["state"] for row in rows] == ["complete"] * 3
    assert [float(row["value"]) for row in rows] == [trial.value for trial in trials]
    assert [yaml.safe_load(row[SIZES]) for row in rows] == [trial.values[SIZES] for trial in trials]
    assert [float(row[RATE]) for row in rows] == [trial.values[RATE] for trial in trials]


def test_a_stopped_study_continues_as_if_it_had_not_stopped(
    finished: tuple[Path, list[Tried]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = finished
    file, stops = folder / "ranker.yaml", iter([True])
    add_value = Study.add_value

    def stopped(self: Study, trial: Any, step: int, value: float) -> bool:
        if trial.number == 1 and next(stops, False):  # within the second trial
            signal.raise_signal(signal.SIGTERM)
        return add_value(self, trial, step, value)

    monkeypatch.setattr(Study, "add_value", stopped)
    with pytest.raises(
        CommandStopped, match=r"stopped by SIGTERM; 1 trial of 2 ended, .* run the same command"
    ) as stop:
        search(file, tmp_path / "study", 2)
    assert stop.value.exit_code == 143
    assert Run(tmp_path / "study" / "trials" / "0001").latest is not None
    lines = (tmp_path / "study" / TABLE).read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["0", "complete"], ["1", "interrupted"]]
    with (tmp_path / "study" / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 4, "wor')  # as a power cut leaves it
    began: list[int] = []
    search(file, tmp_path / "study", 2, progress=Progress(began=lambda number, _: began.append(number)))
    assert began == [1]
    assert outcomes(search(file, tmp_path / "study", 3)) == outcomes(whole)
    assert search(file, tmp_path / "study", 3, progress=Progress(began=pytest.fail))


def test_a_signal_before_a_trial_trains_loses_nothing(feed: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, feed)
    signalled = Progress(began=lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(CommandStopped, match="0 trials of 1 ended") as stop:
        search(file, tmp_path / "study", 1, progress=signalled)
    assert stop.value.exit_code == 130
    (trial,) = search(file, tmp_path / "study", 1)
    assert trial.state == "complete"


def test_failed_trials_are_recorded_and_the_study_goes_on(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that do not fit together, that run out of memory, and that train."""
    space = {ACCUMULATION: {"choices": [1, 32]}, BATCH: {"choices": [64, 16]}}
    file = write_config(tmp_path, feed, space, random_trials=100)
    add_value, ended = Study.add_value, list[int | None]()

    def killed(self: Study, trial: Any, step: int, value: float) -> bool:
        for process in multiprocessing.active_children() if trial.number > 0 and not ended else ():
            process.kill()
            ended.append(process.pid)
        return add_value(self, trial, step, value)

    monkeypatch.setattr(Study, "add_value", killed)
    trials = search(file, tmp_path / "study", 6, jobs=2)
    reasons = {trial.reason for trial in trials if trial.state == "failed"}
    assert any("its process was ended by SIGKILL, as when the memory is exhausted" in reason for reason in reasons)
    assert any("the values do not fit together" in reason and "gradient_accumulation" in reason for reason in reasons)
    complete = [trial for trial in trials if trial.state == "complete"]
    assert complete
    assert all(trial.values != {ACCUMULATION: 32, BATCH: 16} for trial in complete)
    assert counts_text(trials) == f"{len(complete)} complete, {4 - len(complete)} failed"


def test_a_search_in_which_all_trials_fail_fails(feed: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, feed, {RATE: {"choices": [1e30, 1e31]}})
    with pytest.raises(RunError, match=r"all 2 trials failed, the last one: step \d+: .* not finite") as caught:
        search(file, tmp_path / "study", 2)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "study" / BEST).exists()
    assert list((tmp_path / "study").glob("trials/*/checkpoints")) == []


def test_a_trial_that_does_worse_than_the_others_ends_early(feed: Path, tmp_path: Path) -> None:
    file = write_config(
        tmp_path,
        feed,
        {RATE: {"choices": [0.01, 0.0, 1e-9, 1e-8], "also": SPACE[RATE]["also"]}},
        pruning={"kind": "median", "full_trials": 1},
    )
    trials = search(file, tmp_path / "study", 3)
    assert [trial.state for trial in trials] == ["complete", "pruned", "pruned"]
    assert [trial.steps for trial in trials] == [12, 4, 4]
    assert trials[0].values[RATE] == 0.01


@pytest.mark.parametrize("random_trials", [0, 4, 100])
def test_no_combination_of_values_is_tried_twice(random_trials: int, feed: Path, tmp_path: Path) -> None:
    space = {BATCH: {"range": [62, 65]}, SIZES: {"choices": [[8], [8, 4], [4]]}}
    file = write_config(tmp_path, feed, space, random_trials=random_trials)
    config = load_config(file)
    assert config.tuning is not None
    searched = SearchSpace(Template.read(file), config.tuning)

    def draw(folder: Path, count: int) -> list[Tried]:
        with open_study(config, searched, folder) as study:
            for _ in range(count):
                trial = study.begin()
                study.add_value(trial, 4, abs(trial.params[BATCH] - 64) + len(trial.params[SIZES]))
                study.end(trial, End("failed", 4, "") if trial.number == 3 else End("complete", 12))
            assert study.limited(50) == 12
            return study.trials

    trials = draw(tmp_path / "study", 12)
    assert trials[0].values == {BATCH: 64, SIZES: [8]}
    assert len({str(trial.values) for trial in trials}) == 12
    draw(tmp_path / "stopped", 5)
    assert outcomes(draw(tmp_path / "stopped", 7)) == outcomes(trials)


def test_the_command_says_that_every_combination_of_values_was_tried(feed: Path, tmp_path: Path) -> None:
    arguments = (write_config(tmp_path, feed, {SIZES: SPACE[SIZES]}), "--trials", 3, "--output", tmp_path / "study")
    output, error = invoke(*arguments)
    assert error is None
    assert ": 2 trials in all, 0 begun; --trials 3 asks for more than there are combinations of values\n" in output
    assert f"2 complete; all are in {tmp_path / 'study' / TABLE}\n{ALL_TRIED}\n" in output
    assert f": 2 trials ended, and {ALL_TRIED}: nothing is left to do\n" in invoke(*arguments)[0]


def test_a_study_of_another_configuration_is_refused(
    finished: tuple[Path, list[Tried]], feed: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    file = write_config(tmp_path, feed, {RATE: {"range": [0.001, 0.2]}}, pruning=None)
    with pytest.raises(
        CheckpointError, match=r"began with another configuration.*or choose another --output"
    ) as caught:
        search(file, folder / "study", 3)
    assert f'tuning.space."{RATE}".range: [0.001, 0.1] → [0.001, 0.2]' in str(caught.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"is not empty, and holds no tuning\.yaml; choose another --output"):
        search(file, tmp_path / "other", 1)
    config = load_config(file)
    assert config.tuning is not None
    space = SearchSpace(Template.read(file), config.tuning)
    with (
        open_study(config, space, tmp_path / "study"),
        pytest.raises(InputError, match="another process tunes here; wait for it"),
        open_study(config, space, tmp_path / "study"),
    ):
        pass


def test_pruning_trials_of_different_batch_sizes_gets_a_warning(feed: Path, tmp_path: Path) -> None:
    def warnings(space: Mapping[str, Any], **tuning: Any) -> list[str]:
        config = load_config(write_config(tmp_path, feed, space, **tuning))
        assert config.tuning is not None
        folder = tmp_path / f"study-{len(list(tmp_path.iterdir()))}"
        with open_study(config, SearchSpace(Template.read(tmp_path / "ranker.yaml"), config.tuning), folder) as study:
            return study.unequal_steps()

    batches = {BATCH: {"choices": [16, 64]}}
    (warning,) = warnings(batches)
    assert warning.startswith("train_data.global_batch_size is tuned, so trials of small batches")
    assert warnings(batches, pruning=None) == warnings(SPACE) == []


def invoke(*arguments: Any) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(app, ["tune", *map(str, arguments)])
    return done.output, done.exception


def test_the_command_shows_a_finished_study(finished: tuple[Path, list[Tried]]) -> None:
    folder, trials = finished
    output, error = invoke(folder / "ranker.yaml", "--trials", 3, "--output", folder / "study")
    assert error is None
    best = min(trials, key=lambda trial: trial.value or 0.0)
    assert (
        f"tuning for log_loss of validation into {folder / 'study'}: 3 trials ended, and --trials 3 asks for no more: "
        in output
    )
    lines = output.split("best trials")[1].splitlines()[1:]
    assert lines[0].split() == ["trial", "log_loss", "step", "time", "learning_rate", "layer_sizes"]
    assert lines[1].split()[0] == str(best.number)
    assert f"3 complete; all are in {folder / 'study' / TABLE}" in output
    assert f"next: recap train {folder / 'study' / BEST}" in output


def test_the_command_refuses_what_it_cannot_tune(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_config(tmp_path, feed)

    def error(*arguments: str) -> BaseException | None:
        return invoke(file, "--trials", 1, *arguments)[1]

    for arguments, message in (
        (("tuning=null",), "the section tuning is missing, which holds the values to try; add it, such as tuning: {"),
        ((f"tuning.space={{{RATE}: {{choices: [a, b]}}}}",), f"{RATE}: expected a number, found 'a'"),
    ):
        refused = error(*arguments)
        assert isinstance(refused, ConfigError)
        assert message in str(refused)
    monkeypatch.setattr("recap.cli.experiments.tune.find_spec", lambda name: None)
    assert str(error()) == "recap tune: not installed: optuna; run pip install 'recap-ranker[tune]'"
    assert "Missing option '--trials'" in invoke(file)[0]


def test_config_check_looks_at_the_space(feed: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, feed, {"optimizer.backbone.learning_rat": {"range": [0.1, 0.2]}})
    done = CliRunner().invoke(app, ["config", "check", str(file)])
    assert isinstance(done.exception, ConfigError)
    assert "Did you mean 'learning_rate'?" in str(done.exception)


def test_config_check_and_tune_need_a_watched_metric(feed: Path, tmp_path: Path) -> None:
    arguments = [str(write_config(tmp_path, feed)), "training.watch=null"]
    check = CliRunner().invoke(app, ["config", "check", *arguments])
    assert isinstance(check.exception, ConfigError)
    assert "no metric is watched; add it, such as training.watch: {metric: auc, split: NAME}. " in str(check.exception)
    assert str(invoke(*arguments, "--trials", 1)[1]) == str(check.exception)


def test_what_is_left_to_do_counts_stopped_trials() -> None:
    done, stopped = (Tried(0, state, None, None, 0, 0.0, {}, "") for state in ("complete", "interrupted"))
    assert plan_text([done, stopped], 1, 1) == "1 trial in all, 2 begun"
    assert plan_text([done, done], 3, 3) == "3 trials in all, 2 begun"
    assert plan_text([done, done], 1, 1) == "2 trials ended, and --trials 1 asks for no more: nothing is left to do"


def test_a_long_reason_is_cut_on_the_terminal_and_says_where_the_rest_is() -> None:
    failed = Tried(0, "failed", None, None, 0, 1.0, {}, "short")
    assert ended_text(failed, "auc", is_best=False) == "trial 0 failed after 0 steps in 1.0 s: short"
    line = ended_text(replace(failed, reason="long " * 99), "auc", is_best=False)
    assert line.endswith("… (the full reason is in trials.csv)")


def test_short_names_are_the_last_steps_that_differ() -> None:
    keys = ["optimizer.backbone.learning_rate", "optimizer.towers.learning_rate", "model.backbone.dropout.rate"]
    assert list(short_names(keys).values()) == ["backbone.learning_rate", "towers.learning_rate", "rate"]


def test_trials_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert [gpu_of(slot) for slot in range(3)] == ["3", "GPU-5", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert gpu_of(1) is None
