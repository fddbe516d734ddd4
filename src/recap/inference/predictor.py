"""`Predictor`: a model directory, opened to score Arrow tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import torch
from torch import Tensor

from recap.config.recap import JobMode
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.model.directory import SavedModel, open_model
from recap.model.scorer import Scorer
from recap.runtime import Runtime, start_runtime


class Predictions(NamedTuple):
    """The predictions for B rows, tasks in the order of `model.tasks`."""

    probabilities: Tensor  # [B, T] float32 on the CPU, calibrated; for a regression the value, in the unit of its label
    scores: Tensor  # [B] float64 on the CPU


class Predictor:
    """The encoder and the `Scorer` of one model: Arrow tables in, predictions out.

    `recap predict` (files) and `recap.Scorer` (tables in memory) are built on it.

        >>> predictor = Predictor.open(Path("runs/simulated/checkpoints/step_00003000"))
        >>> predictions = predictor.predict(table, Location("table"), rows_at_once=8192)
        >>> predictions.probabilities.shape, predictions.scores.shape
        (torch.Size([250, 2]), torch.Size([250]))
    """

    def __init__(self, model: SavedModel, runtime: Runtime) -> None:
        self.config, self.runtime = model.config, runtime
        self.scorer = Scorer.of(model.config, model.ranker.to(runtime.device)).eval()
        self.encoder = RowEncoder.for_job(model.config, model.assets, JobMode.INFERENCE)

    @classmethod
    def open(cls, folder: Path, overrides: Sequence[str] = (), set_files: Sequence[str] = ()) -> Self:
        """Open a model directory, with `overrides` and `set_files` merged over its configuration.

        Raises CheckpointError if it is missing or damaged, ConfigError for overrides that would give its weights
        another meaning.
        """
        return cls(open_model(folder, overrides, set_files), start_runtime())

    def predict(self, table: pa.Table, location: Location, rows_at_once: int) -> Predictions:
        """Score every row of `table`, `rows_at_once` in one forward pass, which bounds memory.

        `location` is where `table` comes from. Raises DataError for wrong values, with their location.
        """
        batch = self.encoder.encode(table, location)
        starts = range(0, max(len(batch), 1), rows_at_once)
        parts = [self._score(batch.rows(slice(start, start + rows_at_once))) for start in starts]
        probabilities, scores = zip(*parts, strict=True)
        return Predictions(torch.cat(probabilities), torch.cat(scores))

    def _score(self, batch: Batch) -> Predictions:
        with torch.inference_mode():
            scores = self.scorer(batch.to(self.runtime.device))
            return Predictions(scores.calibrated_probabilities.cpu(), scores.score.cpu())
