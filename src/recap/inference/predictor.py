"""`Predictor`: a model directory, opened to score Arrow tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import torch
from torch import Tensor

from recap.config.recap import JobMode
from recap.config.training import InferencePrecision
from recap.data.batch import Batch
from recap.data.coverage import Coverage
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.distributed import ONE_RANK, Ranks
from recap.model.directory import SavedModel, model_checksum, open_model
from recap.model.precision import lower_precision, resolve_precision
from recap.model.score_rows import score_rows
from recap.runtime import Runtime, start_runtime

ROWS_AT_ONCE = 8192
"""Rows per forward pass, which bounds memory."""


class Predictions(NamedTuple):
    """The predictions for B rows, tasks in the order of `model.tasks`, on the CPU."""

    probabilities: Tensor  # [B, T] float32, calibrated; for a regression the value, in the unit of its label
    scores: Tensor  # [B] float64

    def columns(self) -> list[pa.Array]:
        """A column for each task, then the score."""
        by_task = self.probabilities.T.contiguous()
        return [pa.array(column.numpy()) for column in (*by_task, self.scores)]


class Predictor:
    """The encoder and the `Scorer` of one model: Arrow tables in, predictions out.

    `recap predict` (files) and `recap.Scorer` (tables in memory) are built on it.

        >>> predictor = Predictor.open(Path("runs/simulated/checkpoints/step_00003000"))
        >>> predictions = predictor.predict(table, Location("table"))
        >>> predictions.probabilities.shape, predictions.scores.shape
        (torch.Size([250, 2]), torch.Size([250]))
    """

    def __init__(
        self, model: SavedModel, runtime: Runtime, checksum: str = "", precision: InferencePrecision = "float32"
    ) -> None:
        """`checksum`: of the files of the model; "" if it was not opened from files."""
        self.config, self.runtime, self.checksum = model.config, runtime, checksum
        self.precision = resolve_precision(precision, runtime.device)  # never `auto`
        self.scorer = model.scorer(model.config, runtime.device).eval()
        lower_precision(self.scorer.ranker, self.precision)
        self.encoder = RowEncoder.for_job(model.config, model.assets, JobMode.INFERENCE)

    @classmethod
    def open(
        cls,
        folder: Path,
        overrides: Sequence[str] = (),
        set_files: Sequence[str] = (),
        *,
        precision: InferencePrecision = "float32",
        ranks: Ranks = ONE_RANK,
    ) -> Self:
        """Open a model directory, with `overrides` and `set_files` merged over its configuration.

        `precision`: float32 agrees with evaluation bit for bit; docs/precision.md has the trade-offs of the others.
        `ranks`: this process among those of the job, each of which uses a GPU of its own.

        Raises CheckpointError if the directory is missing or damaged, ConfigError for overrides that would give its
        weights another meaning, and InputError for a precision that is unknown or that the hardware lacks.
        """
        runtime = start_runtime(ranks)
        resolved = resolve_precision(precision, runtime.device)  # before anything is read
        return cls(open_model(folder, overrides, set_files), runtime, model_checksum(folder), resolved)

    def predict(self, table: pa.Table, location: Location, coverage: Coverage | None = None) -> Predictions:
        """Score every row of `table`, and count its unknown values in `coverage`.

        `location`: where it comes from, for the DataError of a wrong value.
        """
        batch = self.encoder.encode(table, location)
        if coverage is not None:
            coverage.add(batch, table)
        return self.score(batch)

    def score(self, batch: Batch) -> Predictions:
        """Score every row of `batch`."""
        blocks = batch.blocks(ROWS_AT_ONCE) if len(batch) > ROWS_AT_ONCE else [batch]
        parts = [self._score(block) for block in blocks]
        probabilities, scores = zip(*parts, strict=True)
        return Predictions(torch.cat(probabilities), torch.cat(scores))

    def _score(self, batch: Batch) -> Predictions:
        scores = score_rows(self.scorer, batch.to(self.runtime.device))
        return Predictions(scores.calibrated_probabilities.cpu(), scores.score.cpu())
