"""recap: an open heavy ranker, from one configuration file to scored candidates.

>>> import recap
>>> config = recap.load_config("ranker.yaml", ["training.num_train_steps=1000"])
>>> result = recap.train(config)
>>> recap.evaluate(result.run).splits["validation"]
>>> scorer = recap.Scorer.open(result.run.path)
>>> scorer(table)

The names in `__all__` are the stable Python API; everything else may move between versions. Each is loaded when first
used, so that importing recap is fast.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recap.config.file.load import load_config
    from recap.config.recap import RecapConfig
    from recap.errors import CheckpointError, ConfigError, DataError, InputError, Interrupted, RecapError, RunError
    from recap.evaluation.result import EvaluationReport
    from recap.inference.table_scorer import TableScorer as Scorer
    from recap.reporting import Reporter
    from recap.runs import Run, RunResult, Step

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EvaluationReport",
    "InputError",
    "Interrupted",
    "RecapConfig",
    "RecapError",
    "Reporter",
    "Run",
    "RunError",
    "RunResult",
    "Scorer",
    "evaluate",
    "load_config",
    "train",
]
_HOMES = {
    "load_config": "recap.config.file.load:load_config",
    "RecapConfig": "recap.config.recap:RecapConfig",
    "Reporter": "recap.reporting:Reporter",
    "Run": "recap.runs:Run",
    "RunResult": "recap.runs:RunResult",
    "EvaluationReport": "recap.evaluation.result:EvaluationReport",
    "Scorer": "recap.inference.table_scorer:TableScorer",
    "Interrupted": "recap.errors:Interrupted",
} | {name: f"recap.errors:{name}" for name in __all__ if name.endswith("Error")}


def train(config: "RecapConfig | str | Path", *, reporter: "Reporter | None" = None) -> "RunResult":
    """Train a configuration, or a configuration file, into its `training.save_dir`; resume a run that exists there.

    `reporter` shows the progress: by default as `recap train` does, on a terminal, in a notebook or as plain lines;
    `recap.Reporter()` shows nothing. Raises ConfigError, DataError, CheckpointError and RunError. In the main thread,
    Ctrl-C and SIGTERM save a checkpoint and then raise Interrupted.
    """
    from recap.cli.terminal.console import Console
    from recap.config.file.load import load_config
    from recap.config.recap import RecapConfig
    from recap.errors import InputError
    from recap.reporting import Reporter
    from recap.training.trainer import train

    if not isinstance(config, RecapConfig | str | Path):
        raise InputError(
            f"config: expected a RecapConfig or the path of a configuration file, found a value of type "
            f"{type(config).__name__}; write one with recap config new"
        )
    if isinstance(reporter, type):
        raise InputError(f"reporter: expected an object, found the class {reporter.__name__}; add ()")
    if reporter is not None and not isinstance(reporter, Reporter):
        raise InputError(f"reporter: expected a recap.Reporter, found a value of type {type(reporter).__name__}")
    loaded = config if isinstance(config, RecapConfig) else load_config(config)
    return train(loaded, Console() if reporter is None else reporter)


def evaluate(
    run: "Run | str | Path",
    *,
    split: str | None = None,
    step: "Step | None" = None,
    overrides: Sequence[str] = (),
    data: Sequence[str] = (),
) -> "EvaluationReport":
    """Evaluate a run on all its validation sets, or on `split` alone, and write its `evaluation.json`.

    `step` selects the checkpoint, by default the latest; "best" is the one at which the watched metric was best.
    `overrides` change the validation sets and metrics of its configuration. `data`: files or globs to evaluate instead,
    as split "data"; they are read as `split`, by default as the first validation set. With overrides or data nothing is
    written. Raises ConfigError, DataError and CheckpointError.
    """
    from recap.evaluation.asked import Asked, check_overrides
    from recap.evaluation.run import evaluate_run
    from recap.runs import Run
    from recap.text import as_texts

    run = Run(run)
    overrides, data = as_texts(overrides, "overrides"), as_texts(data, "data")
    config = run.config_with(overrides)
    if overrides:
        check_overrides(run.config, config, chooses_run=False)
    asked = Asked(tuple(data), overrides=tuple(overrides))
    return evaluate_run(config, run.path, split=split, step=step, asked=asked)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recap' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
