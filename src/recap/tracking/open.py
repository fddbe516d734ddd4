"""The trackers of a run: `metrics.jsonl`, TensorBoard and MLflow, each guarded."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from recap.config.recap import RecapConfig
from recap.errors import InputError
from recap.reporting import Record, Say, Tracker
from recap.runs import Run
from recap.tracking.guarded import Guarded
from recap.tracking.jsonl import JsonLines
from recap.tracking.mlflow import Mlflow
from recap.tracking.tensorboard import TensorBoard


def open_trackers(config: RecapConfig, step: int, say: Say) -> "Trackers":
    """The trackers of a run, continued after `step`; failures are reported to `say`.

    Raises InputError if the package of one is not installed.
    """
    run, mlflow = Run(Path(config.training.save_dir)), config.training.mlflow
    openers: dict[str, Callable[[], Tracker]] = {
        "metrics.jsonl": lambda: JsonLines(run.metrics_file, step),
        "TensorBoard": lambda: TensorBoard(run.tensorboard, step),
    }
    if mlflow is not None:
        if find_spec("mlflow") is None:
            raise InputError(
                "training.mlflow: the package mlflow is not installed; run pip install 'recap-ranker[mlflow]', or "
                "remove training.mlflow"
            )
        openers["MLflow"] = lambda: Mlflow(mlflow, config, run)
    return Trackers([Guarded.open(name, opener, say) for name, opener in openers.items()])


def open_evaluation_tracker(run: Run, step: int, say: Say) -> Tracker:
    """The tracker of `recap evaluate --follow`, continued after `step`."""
    return Guarded.open("TensorBoard", lambda: TensorBoard(run.tensorboard / "evaluations", step), say)


class Trackers:
    """Several trackers as one; none of them raises."""

    def __init__(self, trackers: Sequence[Guarded]) -> None:
        self._trackers = trackers

    def log(self, record: Record) -> None:
        for tracker in self._trackers:
            tracker.log(record)

    def close(self, *, finished: bool) -> None:
        for tracker in self._trackers:
            tracker.close(finished=finished)
