"""A run: everything that lies under `training.save_dir`. No other module knows a file name of it."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap.config.file.load import STORED, load_config
from recap.config.recap import RecapConfig
from recap.errors import CheckpointError, InputError
from recap.storage import MANIFEST

STATE = "state.json"
"""What a checkpoint holds besides the files of a model directory and its tensors."""
BEST: Literal["best"] = "best"
Step = int | Literal["best"]
"""A step of a run, or the one at which the metric that `training.watch` names was best."""


@dataclass(frozen=True)
class Run:
    """The run in folder `path`, which need not exist yet."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved configuration of the run as it was last started."""
        return self.path / STORED

    @property
    def metrics_file(self) -> Path:
        """One record per line: training losses and evaluations."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation_file(self) -> Path:
        """The result of the last `recap evaluate`."""
        return self.path / "evaluation.json"

    @property
    def evaluations_file(self) -> Path:
        """One line per checkpoint that `recap evaluate --follow` evaluated."""
        return self.path / "evaluations.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files."""
        return self.path / "tensorboard"

    @property
    def mlflow_file(self) -> Path:
        """The id of the MLflow run."""
        return self.path / "mlflow.json"

    @property
    def profile(self) -> Path:
        """The folder that `recap train --profile` writes."""
        return self.path / "profile"

    @property
    def checkpoints_folder(self) -> Path:
        """Where checkpoints are written."""
        return self.path / "checkpoints"

    @property
    def config(self) -> RecapConfig:
        """The resolved configuration. Raises ConfigError."""
        return load_config(self.config_file, stored=True)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of `metrics_file` so far; a line that is still being written is left out."""
        text = self.metrics_file.read_text(encoding="utf-8") if self.metrics_file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The content of `evaluation_file`; None before the first `recap evaluate`."""
        if not self.evaluation_file.exists():
            return None
        content: dict[str, Any] = json.loads(self.evaluation_file.read_text(encoding="utf-8"))
        return content

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step → checkpoint, in ascending order."""
        folders = (path for path in self.checkpoints_folder.glob("step_*") if path.is_dir())
        steps = {path.name.removeprefix("step_"): path for path in folders}
        return {int(step): steps[step] for step in sorted(filter(str.isdigit, steps), key=int)}

    @property
    def latest(self) -> Path | None:
        """The latest checkpoint."""
        return next(reversed(self.checkpoints.values()), None)

    @property
    def best(self) -> Path | None:
        """The checkpoint at which the watched metric was best; None if none was watched or it was never defined.

        Raises CheckpointError where the latest checkpoint is damaged, since it knows.
        """
        step = self.state(max(self.checkpoints)).get("best_step", ...)
        if step is ...:
            raise self._damaged(max(self.checkpoints))
        return self.checkpoint_path(step) if isinstance(step, int) else None

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or will be."""
        return self.checkpoints_folder / f"step_{step:08d}"

    def checkpoint(self, step: Step | None = None) -> Path:
        """The checkpoint of `step`, by default the latest. Raises CheckpointError that says which there are."""
        checkpoints = self.checkpoints
        if not checkpoints:
            raise CheckpointError(f"{self.path}: holds no checkpoint; train first with 'recap train'")
        if step is None:
            return checkpoints[max(checkpoints)]
        if step == BEST:
            best = self.best
            if best is None:
                raise CheckpointError(
                    f"{self.path}: no checkpoint is the best, since no metric was watched; give a step, or train with "
                    "training.watch"
                )
            return best
        if step not in checkpoints:
            raise CheckpointError(
                f"{self.path}: no checkpoint of step {step}; there are {', '.join(map(str, checkpoints))}"
            )
        return checkpoints[step]

    def state(self, step: int) -> dict[str, Any]:
        """The run state in the checkpoint of `step`. Raises CheckpointError where it is missing or damaged."""
        try:
            state = json.loads((self.checkpoint_path(step) / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise self._damaged(step) from None
        if not isinstance(state, dict):
            raise self._damaged(step)
        return state

    def _damaged(self, step: int) -> CheckpointError:
        return CheckpointError(
            f"{self.checkpoint_path(step) / STATE}: missing or damaged; give a step instead of 'best'"
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process alone; the lock is released when the process ends, however it ends.

        Raises InputError where the folder cannot be written, CheckpointError where another process trains into it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise InputError(f"training.save_dir: {self.path} cannot be written ({error.strerror})") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(
                    f"{self.path}: another process is training into it; wait for it, or choose another "
                    "training.save_dir"
                ) from None
            yield


def find_model_directory(path: Path, step: Step | None = None) -> Path:
    """The model directory at `path`: itself, or a checkpoint of the run there, by default the latest.

    `step` "best": the checkpoint whose watched metric was best (`training.watch`). Raises CheckpointError.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a run (its training.save_dir), a checkpoint or a model")
    if not (path / MANIFEST).exists():
        return Run(path).checkpoint(step)
    if step is not None:
        raise CheckpointError(f"{path}: is a model, not a run, so it has no step {step}; give the run's folder")
    return path
