"""`recap tune`: search the values of a configuration that give the best watched metric."""

import shlex
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles
from recap.errors import ConfigError, InputError, Problem

if TYPE_CHECKING:
    from recap.config.file.load import Resolved
    from recap.tuning.space import SearchSpace

Trials = Annotated[
    int,
    typer.Option(
        "--trials", metavar="N", min=1, help="Trials of the study, with those of earlier calls.", show_default=False
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="J", min=1, help="Trials at the same time, each in its process.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder to write to; default: training.save_dir with -tuning behind it.",
        show_default=False,
    ),
]


def tune(
    config: ConfigFile,
    trials: Trials,
    overrides: Overrides = None,
    jobs: Jobs = 1,
    output: Output = None,
    set_files: SetFiles = None,
) -> None:
    """Search the values in the section tuning that give the best watched metric.

    Trains a run per trial, and reads no validation set but the one of training.watch. Writes trials.csv and best.yaml,
    a configuration for recap train. Run the same command again to continue.
    """
    from recap.cli.terminal.messages import print_warnings

    resolved, space = _resolved(config, overrides or [], set_files or [])
    loaded = resolved.config
    save_dir = Path(loaded.training.save_dir)
    folder = save_dir.with_name(f"{save_dir.name}-tuning") if output is None else output

    from recap.cli.terminal.console import Console
    from recap.cli.terminal.tuning import ALL_TRIED, counts_text, ended_text, plan_text, trial_table, values_text
    from recap.data.tools.outputs import check_folder
    from recap.tuning.study import BEST, TABLE, Tried, open_study
    from recap.tuning.tune import Progress
    from recap.tuning.tune import tune as run

    check_folder(folder)
    print_warnings(resolved.warnings)
    console = Console()
    with open_study(loaded, space, folder) as study:
        watch, before = study.watch, study.begun()
        possible = study.limited(trials)
        left = plan_text(study.trials, trials, possible)
        console.say(f"tuning for {watch.metric} of {watch.split} into {folder}: {left}")

        def warn(texts: Iterable[str]) -> None:
            for text in texts:
                console.say(f"warning: {text}")

        def began(number: int, values: Mapping[str, object]) -> None:
            console.say(f"trial {number} {'continues' if number < before else 'begins'}: {values_text(values)}")

        def ended(trial: Tried, is_best: bool) -> None:
            console.say(ended_text(trial, watch.metric, is_best=is_best))
            if trial.number == 0:
                warn(study.rare_tasks())

        warn(study.unequal_steps())
        run(study, trials, jobs, Progress(began, ended))
        console.say("")
        console.show(trial_table(study.trials, watch.metric, lower_is_better=study.lower_is_better))
        console.say(f"{counts_text(study.trials)}; all are in {folder / TABLE}")
        if possible < trials:
            console.say(ALL_TRIED)
        warn([*study.rare_tasks(), *study.edges()])
        if study.best is not None:
            console.next(f"recap train {shlex.quote(str(folder / BEST))}")


def _resolved(config: Path, overrides: list[str], set_files: list[str]) -> "tuple[Resolved, SearchSpace]":
    """The configuration and its search space. Raises ConfigError, InputError without Optuna."""
    from recap.config.file.load import Template, resolve

    resolved = resolve(config, overrides, set_files)
    if resolved.config.tuning is None:
        example = "tuning: {space: {optimizer.backbone.learning_rate: {range: [1e-4, 1e-2], log: true}}}"
        text = f"the section tuning is missing, which holds the values to try; add it, such as {example}"
        raise ConfigError([Problem(resolved.root.origin, "", text)])
    from recap.tuning.space import checked_space

    space = checked_space(resolved, Template.read(config, overrides, set_files))
    if find_spec("optuna") is None:
        raise InputError("recap tune: not installed: optuna; run pip install 'recap-ranker[tune]'")
    return resolved, space
