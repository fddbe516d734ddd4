"""A trained model, opened to score rows: the same path from rows to probabilities that training used."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
    """What a model says of B rows."""

    probabilities: Tensor  # [B, T] float32, calibrated; of a regression the value, in the unit of its label
    scores: Tensor  # [B] float64


class Predictor:
    """Scores rows with a model directory."""

    def __init__(self, model: SavedModel, runtime: Runtime) -> None:
        self.config, self.runtime = model.config, runtime
        self.scorer = Scorer.of(model.config, model.ranker.to(runtime.device)).eval()
        self.encoder = RowEncoder.for_job(model.config, model.assets, JobMode.INFERENCE)

    @classmethod
    def open(cls, folder: Path, overrides: Sequence[str] = (), set_files: Sequence[str] = ()) -> "Predictor":
        """Open a model directory, `overrides` and `set_files` laid over its configuration.

        Raises CheckpointError where it is missing or damaged, ConfigError for overrides that cannot be.
        """
        return cls(open_model(folder, overrides, set_files), start_runtime())

    def predict(self, table: pa.Table, place: Location, rows_at_once: int) -> Predictions:
        """Predictions for every row of `table`, computed `rows_at_once`. Raises DataError for bad values."""
        batch = self.encoder.encode(table, place)
        starts = range(0, max(len(batch), 1), rows_at_once)
        parts = [self._forward(batch.rows(slice(start, start + rows_at_once))) for start in starts]
        return Predictions(
            torch.cat([part.probabilities for part in parts]), torch.cat([part.scores for part in parts])
        )

    def _forward(self, batch: Batch) -> Predictions:
        with torch.inference_mode():
            scores = self.scorer(batch.to(self.runtime.device))
            return Predictions(scores.calibrated_probabilities.cpu(), scores.score.cpu())
