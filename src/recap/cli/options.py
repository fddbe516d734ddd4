"""Arguments and options that several commands share."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recap.errors import ConfigError, InputError

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig
    from recap.reporting import Say

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file.", show_default=False)]

Source = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG_OR_RUN",
        help="Configuration file, run, checkpoint or model directory.",
        show_default=False,
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Overrides of the configuration, in YAML, such as training.num_train_steps=100.",
        show_default=False,
    ),
]

ModelDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL_DIR",
        help="Model directory, checkpoint, or run (its latest checkpoint).",
        show_default=False,
    ),
]

ModelOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override of the model's configuration, such as scoring.weights.is_clicked=2. May be repeated.",
        show_default=False,
    ),
]

SetFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--set-file",
        metavar="FILE",
        help="YAML file merged over the configuration, or section.key=FILE for the value of one key; "
        "overrides take precedence. May be repeated.",
        show_default=False,
    ),
]

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files, URLs, or globs of them.", show_default=False)
]

SchemaFile = Annotated[
    str | None,
    typer.Option(
        "--schema", metavar="FILE", help="JSON file that lists the columns of TFRecord files.", show_default=False
    ),
]

NullValues = Annotated[
    list[str] | None,
    typer.Option(
        "--null-value",
        metavar="TEXT",
        help="Text that means null in CSV files, besides those of the configuration. May be repeated.",
        show_default=False,
    ),
]

StepOption = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Step of the checkpoint, or 'best' where training.watch is set; default: the latest.",
        show_default=False,
    ),
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def in_several_processes() -> bool:
    """Whether torchrun started this process and others."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def parse_step(text: str | None) -> int | Literal["best"] | None:
    """The value of `--step`. Raises InputError."""
    if text is None:
        return None
    if text == "best":
        return "best"
    if not text.isascii() or not text.isdigit():
        raise InputError(f"--step: expected a whole number or 'best', found {text!r}")
    return int(text)


def config_file(source: Path) -> Path:
    """The configuration file `source`, or the one of the run in folder `source`. Raises InputError."""
    from recap.runs import Run

    file = Run(source).config_file if source.is_dir() else source
    if not file.exists():
        state = f"not a run: it has no {file.name}" if source.is_dir() else "no such file or folder"
        raise InputError(f"{source}: {state}; expected a configuration file or the folder of a run")
    return file


def run_of(source: Path, config: "RecapConfig") -> Path:
    """The run or model directory `source`, or the run of the configuration file `source`."""
    return source if source.is_dir() else Path(config.training.save_dir)


def say_better_checkpoint(run: Path, step: "int | str | None", say: "Say") -> None:
    """Say that another checkpoint than the latest, which is used without `step`, was better by the watched metric."""
    from recap.runs import better_checkpoint, find_model_directory

    if step is None and (remark := better_checkpoint(run, find_model_directory(run))) is not None:
        say(remark)


def load_to_evaluate(
    source: Path, overrides: list[str], set_files: list[str], *, is_run: bool, chooses_weights: bool = False
) -> "RecapConfig":
    """The configuration with its overrides. Raises ConfigError for overrides that an evaluation does not read.

    `chooses_weights`: whether `scoring.weights` are read too.
    """
    from recap.config.file.load import load_config

    file = config_file(source)
    config = load_config(file, overrides, set_files, stored=is_run)
    plain = config
    if overrides or set_files:
        with suppress(ConfigError):  # a file that is valid only with its overrides
            plain = load_config(file, stored=is_run)

        from recap.evaluation.asked import check_overrides

        check_overrides(plain, config, chooses_run=not is_run, chooses_weights=chooses_weights)
    return config


def model_files(path: Path) -> list[Path]:
    """The files of a run, or of a model directory, without what others may have written beside them."""
    from recap.runs import Run
    from recap.storage import MANIFEST

    if (path / MANIFEST).exists():
        return [file for file in path.rglob("*") if file.is_file()]
    run = Run(path)
    return [run.config_file, run.metrics_file, run.evaluation_file, *run.checkpoints_folder.rglob("*.*")]


def check_output(file: Path, inputs: Sequence[str | Path] = (), *, overwrite: bool) -> None:
    """Raise InputError unless `file` can be written: it does not exist, or may be replaced and is none of `inputs`."""
    from recap.storage import check_local, check_not_an_input

    check_local(file)
    if os.path.lexists(file) and not os.path.isfile(file):
        raise InputError(f"--output: {file} exists and is not a regular file; choose another --output")
    check_not_an_input([file], inputs)
    if os.path.lexists(file) and not overwrite:
        raise InputError(f"--output: {file} already exists; add --overwrite to replace it")
