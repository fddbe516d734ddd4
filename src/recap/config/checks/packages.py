"""Packages that a configuration needs and that are not installed: `recap config check` warns of them.

It may run on another machine than the run, so they are no mistakes. Like checks, this yields paths and messages.
"""

from importlib.util import find_spec

from recap.config.base import KeyPath, Problems
from recap.config.training import TrainingConfig
from recap.config.tuning import TuningConfig

_ON_A_CPU = ", or on a CPU, in a checkout: pip install --no-deps --requirement torchrec-cpu.txt"


def missing_packages(training: TrainingConfig, tuning: TuningConfig | None) -> Problems:
    """What runs of this configuration import beyond what recap itself needs."""
    if training.sharded_tables is not None:
        yield from _missing(("torchrec", "fbgemm_gpu"), "torchrec", ("training", "sharded_tables"), _ON_A_CPU)
    if training.mlflow is not None:
        yield from _missing(("mlflow",), "mlflow", ("training", "mlflow"))
    if tuning is not None:
        yield from _missing(("optuna",), "tune", ("tuning",))


def _missing(packages: tuple[str, ...], extra: str, path: KeyPath, more: str = "") -> Problems:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        install = f"where this configuration runs, run pip install 'recap-ranker[{extra}]'{more}"
        yield path, f"needs packages that are not installed here: {', '.join(missing)}; {install}"
