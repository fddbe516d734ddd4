"""Where the numbers of a run go: files, TensorBoard and MLflow (trackers), and the person watching (reporter).

A record is one flat mapping: `step`, `split`, `task` for metrics of one, and named values.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from recap.config.recap import RecapConfig
from recap.errors import InputError
from recap.reporting import Record, Tracker
from recap.runs import Run
from recap.tracking.guarded import Guarded
from recap.tracking.jsonl import JsonLines
from recap.tracking.mlflow import Mlflow
from recap.tracking.tensorboard import TensorBoard


def open_trackers(config: RecapConfig, step: int, say: Callable[[str], None]) -> "Trackers":
    """The trackers of a run, continued after `step`; `say` is told of those that fail.

    Raises InputError where the package of one is not installed.
    """
    run, mlflow = Run(Path(config.training.save_dir)), config.training.mlflow
    opened: dict[str, Callable[[], Tracker]] = {
        "metrics.jsonl": lambda: JsonLines(run.metrics_file, step),
        "TensorBoard": lambda: TensorBoard(run.tensorboard, step),
    }
    if mlflow is not None:
        if find_spec("mlflow") is None:
            raise InputError(
                "training.mlflow: the package mlflow is not installed; pip install 'recap[mlflow]', or leave it out"
            )
        opened["MLflow"] = lambda: Mlflow(mlflow, config, run)
    return Trackers([Guarded(name, each, say) for name, each in opened.items()])


class Trackers:
    """Several trackers as one; none of them raises."""

    def __init__(self, trackers: Sequence[Guarded]) -> None:
        self._trackers = trackers

    def log(self, record: Record) -> None:
        """Hand the record to each."""
        for tracker in self._trackers:
            tracker.log(record)

    def close(self, *, finished: bool) -> None:
        """Close each; `finished`: no step of the run is left."""
        for tracker in self._trackers:
            tracker.close(finished=finished)
