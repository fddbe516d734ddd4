"""A study: the trials of one search, in its folder. Optuna chooses their values, and its journal is their record."""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from recap.config.evaluation.metrics import LOWER_IS_BETTER
from recap.config.file.diff import check_unchanged
from recap.config.file.load import dump_config
from recap.config.file.yaml import render_inline
from recap.config.recap import RecapConfig
from recap.config.training import WatchConfig
from recap.config.tuning import HyperbandPruningConfig, MedianPruningConfig, TuningConfig
from recap.errors import InputError
from recap.runs import Run
from recap.storage import locked, remove_directory, replace_text, writing
from recap.tuning.draws import Combination, Sampler, combinations, distributions
from recap.tuning.space import SearchSpace
from recap.tuning.trial import End

CONFIG, JOURNAL, TABLE, BEST, TRIALS = "tuning.yaml", "optuna.jsonl", "trials.csv", "best.yaml", "trials"
"""The files of a study in its folder, and the folder of the runs of its trials."""
_FREE = (
    *(("training", name) for name in ("save_dir", "threads", "mlflow", "preemption_grace_seconds")),
    ("train_data", "readers"),
)
"""What may change in the configuration of a study: no value of a trial depends on it."""
FEW = 200
"""Positives or negatives below which the difference of two trials is mostly noise: the standard error of an AUC of 0.8
is then about 0.02 (Hanley & McNeil, Radiology 1982)."""
_ROWS = "train_data.global_batch_size"
_NAME = "recap"
"""The name of the study in the journal."""


@contextmanager
def open_study(config: RecapConfig, space: SearchSpace, folder: Path) -> Iterator["Study"]:
    """Open the study in `folder`, or start it; no other process can open it meanwhile.

    Raises InputError for a folder that holds something else or that another process has, CheckpointError for a study
    of another configuration.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "another process tunes here; wait for it, or choose another --output"):
        _open_folder(config, folder)
        yield Study(config, space, folder)


@dataclass(frozen=True)
class Tried:
    """A trial that has ended, or is to be continued."""

    number: int
    state: Literal["complete", "pruned", "failed", "interrupted"]
    value: float | None
    """The best value of the watched metric; None before it is defined."""
    best_step: int | None
    """The step of `value`."""
    steps: int
    """Steps that were trained."""
    seconds: float
    """Time of its process, reading and evaluations included."""
    values: Mapping[str, Any]
    """Key of the space → value."""
    reason: str
    """Why it failed; empty if it did not."""


class Study:
    """The trials in a folder."""

    def __init__(self, config: RecapConfig, space: SearchSpace, folder: Path) -> None:
        """See `open_study`."""
        assert config.training.watch is not None
        assert config.tuning is not None
        self.space, self.folder = space, folder
        self.watch: WatchConfig = config.training.watch
        self.tuning: TuningConfig = config.tuning
        self.lower_is_better = self.watch.metric in LOWER_IS_BETTER
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = distributions(space)
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            pruner=build_pruner(config, self.tuning),
            study_name=_NAME,
            direction="minimize" if self.lower_is_better else "maximize",
            load_if_exists=True,
        )
        if not self._all() and (written := space.written()) is not None:
            self._study.enqueue_trial(dict(written))

    def begun(self) -> int:
        """The number of trials that have values."""
        return sum(trial.state is not TrialState.WAITING for trial in self._all())

    def limited(self, trials: int) -> int:
        """The number of trials that the study can have, at most `trials`: no combination of values is tried twice."""
        return int(min(trials, self.begun() + combinations(self._distributions) - len(self._tried_combinations())))

    def interrupted(self) -> list[optuna.Trial]:
        """The trials that have begun and not ended; to be called before any begins."""
        return [
            optuna.Trial(self._study, trial._trial_id) for trial in self._all() if trial.state is TrialState.RUNNING
        ]

    def begin(self) -> optuna.Trial:
        """A new trial, of a combination of values that no trial has. It depends on the seed, its number, and those."""
        self._study.sampler = Sampler(self.tuning, self.begun(), self._distributions, self._tried_combinations())
        return self._study.ask(self._distributions)

    def config_of(self, trial: optuna.Trial) -> RecapConfig:
        """The configuration of a trial; of the validation sets it has the watched one alone.

        Raises ConfigError if the values do not fit together.
        """
        fixed = {"training.save_dir": str(self._run(trial.number).path), "training.checkpoint_max_to_keep": 1}
        config, split = self.space.config(trial.params, fixed), self.watch.split
        alone = config.model_copy(update={"validation_data": {split: config.validation_data[split]}, "tuning": None})
        alone.remember_secrets(
            {
                path: reference
                for path, reference in config.secrets.items()
                if path[0] != "validation_data" or path[1] == split
            }
        )
        return alone

    def add_value(self, trial: optuna.Trial, step: int, value: float) -> bool:
        """Record the watched value at a step; return whether the trial should end early."""
        if step not in self._frozen(trial).intermediate_values:  # else evaluated again after a kill
            trial.report(value, step)
        return trial.should_prune()

    def add_seconds(self, trial: optuna.Trial, seconds: float) -> None:
        """Record the time of a process of a trial."""
        trial.set_user_attr("seconds", self._frozen(trial).user_attrs.get("seconds", 0.0) + seconds)

    def end(self, trial: optuna.Trial, end: End) -> Tried:
        """Record how a trial ended, and write what follows from it."""
        state, steps, reason = end
        values = self._frozen(trial).intermediate_values
        if state == "complete" and not values:
            state, reason = "failed", f"{self.watch.metric} of {self.watch.split} was never defined"
        trial.set_user_attr("steps", steps)
        trial.set_user_attr("reason", reason)
        match state:
            case "complete":
                self._study.tell(trial, (min if self.lower_is_better else max)(values.values()))
            case "pruned":
                self._study.tell(trial, state=TrialState.PRUNED)
            case "failed":
                self._study.tell(trial, state=TrialState.FAIL)
            case "interrupted" | "refused":
                raise AssertionError("the trial has not ended")
            case _:
                assert_never(state)
        self.write()
        return self._tried(self._frozen(trial))

    def write(self) -> None:
        """Write the table and the best configuration, and delete the checkpoints of all ended trials but the best.

        All of it each time, for a process may have been killed in the middle.
        """
        best = self.best
        for trial in self.trials:
            if trial.state != "interrupted" and (best is None or trial.number != best.number):
                self._delete_checkpoints(trial.number)
        if best is not None:
            self._write_best(best)
        self._write_table()

    @property
    def trials(self) -> list[Tried]:
        """All trials that have begun."""
        return [self._tried(trial) for trial in self._all() if trial.state is not TrialState.WAITING]

    @property
    def best(self) -> Tried | None:
        """The complete trial of the best value, the first of several; None if none is complete."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        sign = 1 if self.lower_is_better else -1
        return min(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def edges(self) -> list[str]:
        """A warning for each value of the best trial at an edge of its values."""
        trial = None if self.best is None else self._all()[self.best.number]
        return [] if trial is None else list(self.space.edges(trial.params))

    def unequal_steps(self) -> list[str]:
        """A warning if trials are compared at the same step, which is not the same number of rows in all of them."""
        if self.tuning.pruning is None or _ROWS not in [key for _, key in self.tuning.searched()]:
            return []
        text = "is tuned, so trials of small batches have seen less at a step, and pruning ends them too early"
        return [f"{_ROWS} {text}; set tuning.pruning: null"]

    def rare_tasks(self) -> list[str]:
        """A warning for each watched task with few positives or negatives, as the first evaluation counted them."""
        for trial in self.trials:
            counted = {record["task"]: record for record in self._run(trial.number).metrics if self._is_watched(record)}
            if counted:
                return [text for task, record in counted.items() for text in self._rare(task, record)]
        return []

    def _is_watched(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is that of a watched task."""
        is_watched = not self.watch.tasks or record.get("task") in self.watch.tasks
        return is_watched and record.get("split") == self.watch.split and self.watch.metric in record

    def _rare(self, task: str, record: Mapping[str, Any]) -> Iterator[str]:
        positives = record.get("positives")  # none of a regression
        if positives is None or min(positives, record["count"] - positives) >= FEW:
            return
        noun, count = min(
            ("positives", positives), ("negatives", record["count"] - positives), key=lambda pair: pair[1]
        )
        yield (
            f"{task} has {count:,.0f} {noun} in {self.watch.split}, so its {self.watch.metric} is partly luck, and so "
            "is the best trial; leave it out of training.watch.tasks, or evaluate more rows"
        )

    def _write_table(self) -> None:
        """Write all trials as CSV."""
        text, keys = io.StringIO(), list(self.space.values)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["trial", "state", "value", "best_step", "steps", "seconds", *keys, "reason"])
        for trial in self.trials:
            values = [render_inline(trial.values[key]) if key in trial.values else "" for key in keys]
            seconds = f"{trial.seconds:.1f}"
            table.writerow(
                [trial.number, trial.state, trial.value, trial.best_step, trial.steps, seconds, *values, trial.reason]
            )
        replace_text(self.folder / TABLE, text.getvalue())

    def _write_best(self, best: Tried) -> None:
        """Write the configuration of the best trial, complete, with the values that were searched marked."""
        parameters = self._all()[best.number].params
        config = self.space.config(parameters, {"training.save_dir": str(self.folder / "best")})
        comments = dict.fromkeys(self.space.marks(parameters), "tuned")
        where = f"{self.watch.metric} of {self.watch.split}: {best.value:.6g} at step {best.best_step}"
        head = f"# Written by recap tune: trial {best.number}, the best by {where}\n"
        text = dump_config(config.model_copy(update={"tuning": None}), comments)
        replace_text(self.folder / BEST, head + text)

    def _run(self, number: int) -> Run:
        return Run(self.folder / TRIALS / f"{number:04d}")

    def _delete_checkpoints(self, number: int) -> None:
        folder = self._run(number).checkpoints_folder
        if folder.exists():
            remove_directory(folder)

    def _tried(self, trial: FrozenTrial) -> Tried:
        states: dict[TrialState, Literal["complete", "pruned", "failed", "interrupted"]] = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "failed",
            TrialState.RUNNING: "interrupted",
        }
        values = trial.intermediate_values
        choose = min if self.lower_is_better else max
        best_step = choose(values, key=lambda step: (values[step], -step if choose is max else step), default=None)
        return Tried(
            trial.number,
            states[trial.state],
            None if best_step is None else values[best_step],
            best_step,
            trial.user_attrs.get("steps", max(values, default=0)),
            trial.user_attrs.get("seconds", 0.0),
            self.space.values_of(trial.params),
            trial.user_attrs.get("reason", ""),
        )

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _tried_combinations(self) -> set[Combination]:
        """Those of all trials, but for one that a kill left without some of its values."""
        keys = self._distributions
        return {tuple(trial.params[key] for key in keys) for trial in self._all() if trial.params.keys() == keys.keys()}

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self._all()[trial.number]


def build_pruner(config: RecapConfig, tuning: TuningConfig) -> BasePruner:
    """What ends trials early. Resources are optimizer steps."""
    match tuning.pruning:
        case None:
            return NopPruner()
        case MedianPruningConfig(full_trials=full, warmup_steps=warmup):
            return MedianPruner(n_startup_trials=full, n_warmup_steps=warmup)
        case HyperbandPruningConfig(factor=factor):
            steps, every = config.training.num_train_steps, config.training.eval_log_every_n
            if config.train_data.num_epochs is not None:  # whose steps the first complete trial tells
                return HyperbandPruner(every or steps, "auto", factor)
            return HyperbandPruner(min(every or steps, steps), steps, factor)
        case _:
            assert_never(tuning.pruning)


def _open_folder(config: RecapConfig, folder: Path) -> None:
    """Start a new study in an empty folder, or check that the one in it has this configuration."""
    file = folder / CONFIG
    if not file.exists():
        if any(folder.iterdir()):
            raise InputError(f"--output: {folder} is not empty, and holds no {CONFIG}; choose another --output")
        replace_text(file, dump_config(config))
        return
    problem = "this study began with another configuration, so its trials cannot be compared with new ones"
    check_unchanged(config, file, _FREE, f"{problem}; restore it, or choose another --output")
    _mend(folder / JOURNAL)


def _mend(journal: Path) -> None:
    """Remove what a killed process left: its lock, and an incomplete last line, behind which Optuna would write."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            with journal.open("r+b") as file:
                file.truncate(end)
