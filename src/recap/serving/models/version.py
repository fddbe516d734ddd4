"""`Version`: a model that is loaded, after it was verified, warmed and compared with its golden predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

from recap.config.discrete import Vocabulary
from recap.config.serving.server import ServedModelConfig
from recap.data.encoding.kinds import is_list
from recap.errors import CheckpointError, ConfigError, InputError, RecapError
from recap.export.exported import format_of
from recap.inference.requests import RequestScorer
from recap.serving.models.golden import check_golden, read_golden
from recap.serving.models.versions import State, state_of

Golden = Literal["required", "if_present", "off"]
_WARM = (1, 100, 1000)
"""Candidates of the requests that warm a model: memory is allocated and kernels are chosen before clients wait."""


@dataclass(frozen=True, eq=False)
class Version:
    """A version that answers requests."""

    model: str
    name: str
    folder: Path
    state: State
    """The files that were read."""
    scorer: RequestScorer

    @property
    def tasks(self) -> Sequence[str]:
        """The tasks, in the order of the columns of predictions."""
        return self.scorer.config.tasks

    @property
    def regressions(self) -> Sequence[str]:
        """The tasks that predict a value, not a probability."""
        return self.scorer.config.regressions

    @cached_property
    def columns(self) -> Mapping[str, pa.DataType]:
        """The columns that requests must have; lists of one length as `fixed_size_list`."""
        features = self.scorer.config.features
        lengths = {name: vector.length for name, vector in features.vectors.items()}
        lengths |= {
            column.name: column.length for column in (*features.continuous, *features.binary) if column.of is None
        }
        lengths |= {
            name: discrete.length
            for name, discrete in features.discrete.items()
            if isinstance(discrete, Vocabulary) or discrete.of is None
        }
        return {
            name: pa.list_(kind.value_type, lengths[name]) if is_list(kind) and name in lengths else kind
            for name, kind in self.scorer.schema.items()
        }

    @property
    def user(self) -> str | None:
        """The column of the user."""
        return self.scorer.config.features.user


def load_version(
    model: str, name: str, folder: Path, config: ServedModelConfig, golden: Golden, cache_bytes: int = 0
) -> Version:
    """Verify, open, check and warm a version. `cache_bytes`: bound of the memory for encoded histories.

    Raises CheckpointError if it is damaged, cannot score, or does not reproduce its golden predictions; InputError for
    overrides that do not fit it.
    """
    state = state_of(folder)
    if (kind := format_of(folder)) is not None:
        raise CheckpointError(
            f"{folder}: is an exported program ({kind.value}); serve the model directory or run that it came from"
        )
    try:
        scorer = RequestScorer.open(folder, config.overrides, precision=config.precision, cache_bytes=cache_bytes)
    except ConfigError as error:
        if not config.overrides:
            raise
        raise InputError(f"models.{model}.overrides: {error}") from error
    sample = read_golden(folder) if golden != "off" else None
    if sample is None and golden == "required":
        raise CheckpointError(f"{folder}: has no golden.json; write it with 'recap model golden {folder} INPUT'")
    try:
        if sample is not None:
            check_golden(scorer, sample, folder, coarse=scorer.predictor.precision != "float32")
        _warm(scorer)
    except RecapError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: cannot score a request ({type(error).__name__}: {error})") from error
    return Version(model, name, folder, state, scorer)


def _warm(scorer: RequestScorer) -> None:
    """Score requests of several sizes, with histories as columns of the candidates, and of the user."""
    histories = set(scorer.predictor.encoder.part(list(scorer.config.features.histories)).columns)
    for of_user in (set(), histories) if histories else (set(),):
        for rows in _WARM:
            user = {name: pa.nulls(1, kind) for name, kind in scorer.schema.items() if name in of_user}
            candidates = {name: pa.nulls(rows, kind) for name, kind in scorer.schema.items() if name not in of_user}
            if candidates:
                (predictions,) = scorer.score([scorer.encode(pa.table(user), pa.table(candidates))])
                if not predictions.probabilities.isfinite().all():
                    raise ValueError("predictions of rows without values are not finite")
