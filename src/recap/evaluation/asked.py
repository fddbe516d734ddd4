"""What an evaluation is asked for: other data, and overrides of what an evaluation reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recap.config.base import KeyPath
from recap.config.data import TfRecordConfig, ValidationDataConfig
from recap.config.file.diff import describe_changes, differences
from recap.config.recap import RecapConfig
from recap.data.formats.files import find_files
from recap.data.formats.open import guess_source
from recap.errors import ConfigError, InputError

OTHER_DATA = "data"
"""The split that holds the files of `--data`."""


@dataclass(frozen=True)
class Asked:
    """What an evaluation reads besides the configuration of a run."""

    data: Sequence[str] = ()
    """Files, URLs or globs to evaluate instead of the validation sets."""
    schema: str | None = None
    """The JSON file that lists the columns of TFRecord files of `data`."""
    null_values: Sequence[str] = ()
    """Texts that mean null in CSV files of `data`, besides those of the configuration."""
    overrides: Sequence[str] = ()
    """The overrides that the configuration has already, to be recorded."""


PLAIN = Asked()
"""An evaluation as the configuration says."""
FREE_FEATURES = ("request", "max_unknown")
"""The fields of `features` that an evaluation reads from its configuration, not from the model."""
_SECTIONS = ("validation_data", "which_metrics", "metrics", "strata", "slices")
_READ = (*((name,) for name in _SECTIONS), *(("features", name) for name in FREE_FEATURES))
_READ_OF_TRAINING = ("num_eval_steps", "threads")


def check_overrides(
    plain: RecapConfig, asked: RecapConfig, *, chooses_run: bool, chooses_weights: bool = False
) -> None:
    """Raise ConfigError, which lists them, for overrides of what an evaluation does not read.

    `plain`: the configuration without the overrides. `chooses_run`: whether `training.save_dir` is read, as that of a
    configuration file. `chooses_weights`: whether `scoring.weights` are read.
    """
    read = [*_READ, *(("training", name) for name in (*_READ_OF_TRAINING, *(["save_dir"] if chooses_run else [])))]
    if chooses_weights:
        read.append(("scoring", "weights"))
    changes = differences(plain, asked)
    if any(path[0] == "validation_data" for path in changes):
        read.append(("train_data",))  # which validation sets inherit
    unread = {path: change for path, change in changes.items() if not any(_is_below(path, at) for at in read)}
    if unread:
        lines = "\n".join(f"  {line}" for line in describe_changes(unread))
        raise ConfigError(
            "an evaluation takes features, model and weights from the checkpoint, and reads only validation_data, "
            "which_metrics, metrics, strata, slices, features.max_unknown, features.request and "
            f"training.num_eval_steps; leave out these overrides:\n{lines}"
        )


def with_other_data(config: RecapConfig, asked: Asked, split: str | None = None) -> RecapConfig:
    """`config` with the files of `asked.data` as its only validation set, `OTHER_DATA`.

    Labels, rates and options of the format are those of validation set `split`, by default of the first one, or of
    `train_data` if there is none. Raises DataError for a glob without files, InputError for files of several formats.
    """
    name = split if split is not None else next(iter(config.validation_data), None)
    like = config.train_data if name is None else config.validation_data[name]
    inputs, schema_path = asked.data, asked.schema
    if schema_path is None and isinstance(like.source, TfRecordConfig):
        schema_path = like.source.schema_path
    files = find_files(inputs)
    sources = [guess_source(file, inputs, schema_path, like.source, asked.null_values) for file in files]
    for file, source in zip(files, sources, strict=True):
        if source.kind != sources[0].kind:
            raise InputError(
                f"--data: {files[0]} is {sources[0].kind} and {file} is {source.kind}; evaluate one format at a time"
            )
    values = {key: value for key, value in like.model_dump().items() if key in ValidationDataConfig.model_fields}
    values |= {"source": sources[0].model_dump(), "readers": {"kind": "threads"}, "cache": False}
    changed = config.model_dump() | {"validation_data": {OTHER_DATA: values}}
    changed["training"]["watch"] = None  # which names a validation set
    return validated(changed, "--data")


def validated(values: dict[str, Any], origin: str | Path) -> RecapConfig:
    """The configuration with these values. Raises ConfigError, which names `origin`, if they contradict each other."""
    try:
        return RecapConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(f"{origin}: the configuration does not fit the model trained there: {problems}") from None


def _is_below(path: KeyPath, at: Sequence[str]) -> bool:
    return path[: len(at)] == tuple(at)
