"""A run: everything under `training.save_dir`. No other module knows its file names."""

import fcntl
import filecmp
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap.config.file.load import STORED, dump_config, load_config
from recap.config.recap import RecapConfig
from recap.errors import CheckpointError, ConfigError, InputError
from recap.storage import MANIFEST

STATE = "state.json"
"""The part of a checkpoint that is neither model directory nor tensors: step, stream position, sums."""
BEST: Literal["best"] = "best"
Step = int | Literal["best"]
"""A step of a run, or "best": the step at which the metric of `training.watch` was best."""


@dataclass(frozen=True)
class Run:
    """The run in the folder `path`, which may not exist yet."""

    path: Path

    def __init__(self, path: "str | Path | Run") -> None:
        """Raises InputError for a value of another type."""
        if not isinstance(path, str | Path | Run):
            raise InputError(f"run: expected the folder of a run, found a value of type {type(path).__name__}")
        object.__setattr__(self, "path", path.path if isinstance(path, Run) else Path(path))

    @property
    def config_file(self) -> Path:
        """The resolved configuration of the last start of the run."""
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
        """Results of `recap evaluate --follow`, one line per checkpoint, split and task."""
        return self.path / "evaluations.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard event files."""
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
    def report(self) -> Path:
        """The folder that `recap report` writes."""
        return self.path / "report"

    @property
    def checkpoints_folder(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def config(self) -> RecapConfig:
        """The resolved configuration. Raises CheckpointError if there is no run, ConfigError if it is damaged."""
        return self.config_with()

    def config_with(self, overrides: Sequence[str] = ()) -> RecapConfig:
        """As `config`, with overrides such as `training.seed=2`. Raises CheckpointError and ConfigError."""
        if not self.config_file.exists():
            raise CheckpointError(f"{self.path}: no run; give the folder of one (its training.save_dir)")
        return load_config(self.config_file, overrides, stored=True)

    def check_files(self) -> None:
        """Raise InputError if training would replace files that no run wrote, or cannot make its folder."""
        self._check_config_file()
        if os.path.lexists(self.checkpoints_folder) and not self.checkpoints_folder.is_dir():
            raise InputError(f"{self.checkpoints_folder}: is not a folder; choose another training.save_dir")
        with suppress(OSError):
            text = self.metrics_file.read_text(encoding="utf-8", errors="replace")
            if text and not any('"step"' in line for line in text.splitlines()):
                raise InputError(
                    f"{self.metrics_file}: the run would replace this file, which recap did not write; rename it, or "
                    "choose another training.save_dir"
                )

    def _check_config_file(self) -> None:
        file = self.config_file
        if not os.path.lexists(file):
            return
        saved = [path / STORED for path in self.checkpoints.values()]
        with suppress(OSError, ValueError, ConfigError):
            if any(path.is_file() and filecmp.cmp(path, file, shallow=False) for path in saved):
                return
            if dump_config(load_config(file, stored=True)) == file.read_text(encoding="utf-8"):
                return
        raise InputError(
            f"{file}: the run would replace this file, which recap did not write, by its resolved configuration; "
            "rename it, or choose another training.save_dir"
        )

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of `metrics_file`, without a line that is still being written. Raises CheckpointError."""
        text = self.metrics_file.read_text(encoding="utf-8") if self.metrics_file.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [_parse(line, f"{self.metrics_file}:{number}") for number, line in enumerate(lines, start=1)]

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The content of `evaluation_file`; None before the first `recap evaluate`. Raises CheckpointError."""
        if not self.evaluation_file.exists():
            return None
        return _parse(self.evaluation_file.read_text(encoding="utf-8"), str(self.evaluation_file))

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step → checkpoint, in ascending order. Folders with other names are ignored."""
        steps = {}
        for path in self.checkpoints_folder.glob("step_*"):
            match = re.fullmatch(r"step_([0-9]{8,18})", path.name)
            if match is not None and path == self.checkpoint_path(int(match[1])) and path.is_dir():
                steps[int(match[1])] = path
        return dict(sorted(steps.items()))

    @property
    def latest(self) -> Path | None:
        """The latest checkpoint; None before the first."""
        return next(reversed(self.checkpoints.values()), None)

    @property
    def best(self) -> Path | None:
        """The checkpoint at which the metric of `training.watch` was best; None if there is none.

        The latest checkpoint records it. Raises CheckpointError if that one is damaged.
        """
        latest = max(self.checkpoints, default=None)
        if latest is None:
            return None
        state = self.state(latest)
        if "best_step" not in state:
            raise self._damaged(latest)
        step = state["best_step"]
        return self.checkpoint_path(step) if isinstance(step, int) else None

    def checkpoint_path(self, step: int) -> Path:
        """The path of the checkpoint of `step`, which may not exist."""
        return self.checkpoints_folder / f"step_{step:08d}"

    def checkpoint(self, step: Step | None = None) -> Path:
        """The checkpoint of `step`, by default the latest. Raises CheckpointError, which lists the existing steps."""
        checkpoints = self.checkpoints
        if not checkpoints:
            raise CheckpointError(f"{self.path}: no checkpoint yet; run 'recap train' first")
        if step is None:
            return checkpoints[max(checkpoints)]
        if step == BEST:
            best = self.best
            if best is None:
                raise CheckpointError(
                    f"{self.path}: no best checkpoint, because no metric was watched; choose a step, or train with "
                    "training.watch"
                )
            return best
        if not isinstance(step, int):
            raise CheckpointError(f"step: expected a whole number or {BEST!r}, found {step!r}")
        if step not in checkpoints:
            raise CheckpointError(
                f"{self.path}: no checkpoint of step {step}; available: {', '.join(map(str, checkpoints))}"
            )
        return checkpoints[step]

    def state(self, step: int) -> dict[str, Any]:
        """The run state in the checkpoint of `step`. Raises CheckpointError if it is missing or damaged."""
        try:
            state = json.loads((self.checkpoint_path(step) / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise self._damaged(step) from None
        if not isinstance(state, dict):
            raise self._damaged(step)
        return state

    def _damaged(self, step: int) -> CheckpointError:
        return CheckpointError(
            f"{self.checkpoint_path(step) / STATE}: missing or damaged; choose a step instead of 'best'"
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for the block; a killed process releases the lock too.

        Raises InputError if the folder cannot be written or holds files that no run wrote in the place of its own,
        CheckpointError if another process trains this run.
        """
        self.check_files()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise InputError(
                f"training.save_dir: {self.path} cannot be written ({error.strerror}); choose another"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(
                    f"{self.path}: another process is training this run; wait for it, or choose another "
                    "training.save_dir"
                ) from None
            yield


@dataclass(frozen=True)
class RunResult:
    """A run after `train`, and its checkpoints."""

    run: Run
    steps: int
    """Finished optimizer steps of the run, including those of earlier processes."""
    trained: bool
    """Whether this call trained; False if the run was finished already."""
    finished: bool
    """Whether no step of the run is left."""
    last: Path | None
    """The latest checkpoint."""
    best: Path | None
    """The checkpoint at which the metric of `training.watch` was best; None without one."""


def _parse(text: str, origin: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError that names `origin`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{origin}: damaged, not a JSON object; restore it from a copy, or delete it")
    return content


def find_model_directory(path: Path, step: Step | None = None) -> Path:
    """The model directory at `path`: `path` itself, or a checkpoint of the run at `path`, by default the latest.

    `step` "best" is the checkpoint at which the metric of `training.watch` was best. Raises CheckpointError.
    """
    expected = "expected a run (its training.save_dir) or a model directory"
    if not os.path.isdir(path):
        raise CheckpointError(f"{path}: {'is a file' if os.path.exists(path) else 'no such folder'}; {expected}")
    if not (path / MANIFEST).exists():
        inside = Run(path.parent)
        run = inside if path == inside.checkpoints_folder and inside.checkpoints else Run(path)
        if not run.checkpoints and not run.config_file.exists():
            raise CheckpointError(f"{path}: holds no model; {expected}")
        return run.checkpoint(step)
    if step is not None:
        raise CheckpointError(f"{path}: a model directory has no step {step}; use the folder of the run")
    return path


def better_checkpoint(path: Path, used: Path, choice: str = "--step best") -> str | None:
    """A remark that another checkpoint of the run at `path` was better by the watched metric than `used`, if so.

    `choice`: the argument that uses that one.
    """
    with suppress(CheckpointError):
        best = Run(path).best
        if best is not None and best.exists() and best.name != used.name:
            step = int(best.name.removeprefix("step_"))
            return f"{path}: using {used.name}, the latest; the watched metric was best at step {step}: {choice}"
    return None
