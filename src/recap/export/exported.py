"""`Exported`: an exported model, opened to score tables as `recap.Scorer` does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch

from recap.config.checks.common import SCORE
from recap.config.file.load import STORED, load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.coverage import Coverage
from recap.data.encoding.assets import Assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.errors import CheckpointError
from recap.export.formats import FORMATS, Format
from recap.export.inputs import inputs_of
from recap.export.program import Run
from recap.export.write import SIGNATURE
from recap.inference.predictor import ROWS_AT_ONCE, Predictions
from recap.inference.table_scorer import Table, TableScorer
from recap.model.directory import check_hashes, read_assets
from recap.storage import check_format, read_manifest, read_regular, verify

_MAX_SIGNATURE_BYTES = 1 << 26


class Exported:
    """The encoder of a model and its exported program: tables in, predictions out.

    >>> exported = Exported.open(Path("exported"), calls=4)
    >>> exported([{"age_hours": 2.0, "language": "en"}])
    [{'is_favorited': 0.031, 'is_reported': 0.0002, 'score': 0.0165}]
    """

    def __init__(self, config: RecapConfig, assets: Assets, run: Run) -> None:
        self.config, self._run = config, run
        self.encoder = RowEncoder.for_job(config, assets, JobMode.INFERENCE)
        self.inputs = inputs_of(config, assets)
        self._tables = TableScorer(self)

    @classmethod
    def open(cls, folder: Path, calls: int = 1) -> Self:
        """Open what `recap export` wrote. `calls`: threads that call it at once; others wait, in the format `aoti`.

        The format `aoti` is machine code, which is run: open only a folder that you trust. Raises CheckpointError if
        the folder is missing or damaged, InputError for a package that is not installed.
        """
        if not (folder / SIGNATURE).is_file():
            raise CheckpointError(f"{folder}: no {SIGNATURE}, so this is not an exported model; see 'recap export'")
        manifest = verify(folder, STORED, SIGNATURE)
        check_format(folder, manifest)
        functions = FORMATS[_format(_content(folder), folder)]
        if functions.file not in manifest.files:
            raise CheckpointError(f"{folder}: its manifest does not list {functions.file}; export the model again")
        config = load_config(folder / STORED, stored=True)
        check_hashes(folder, manifest, config)
        assets = read_assets(folder, manifest, config)
        names = [each.name for each in inputs_of(config, assets)]
        return cls(config, assets, functions.load(folder, names, calls))

    def __call__(self, table: Table) -> Table:
        """Score every row of `table`: a value of any kind that `recap.Scorer` takes; the result is of that kind."""
        return self._tables(table)

    def predict(self, table: pa.Table, location: Location, coverage: Coverage | None = None) -> Predictions:
        """As `Predictor.predict`."""
        batch = self.encoder.encode(table, location)
        if coverage is not None:
            coverage.add(batch, table)
        probabilities, scores = [torch.zeros((0, len(self.config.tasks)))], [torch.zeros(0, dtype=torch.float64)]
        for block in batch.blocks(ROWS_AT_ONCE):
            outputs = self._run({each.name: each.of_batch(block) for each in self.inputs})
            probabilities.append(torch.stack([outputs[task] for task in self.config.tasks], dim=1))
            scores.append(outputs[SCORE])
        return Predictions(torch.cat(probabilities), torch.cat(scores))


def format_of(folder: Path) -> Format | None:
    """The format of an exported model; None for a model directory. Raises CheckpointError if it is damaged."""
    return _format(_content(folder), folder) if SIGNATURE in read_manifest(folder).files else None


def _content(folder: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_regular(folder / SIGNATURE, _MAX_SIGNATURE_BYTES))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / SIGNATURE}: damaged; export the model again")
    return content


def _format(content: Mapping[str, Any], folder: Path) -> Format:
    known = [kind.value for kind in Format]
    if content.get("format") not in known:
        raise CheckpointError(
            f"{folder / SIGNATURE}: format: expected one of {', '.join(known)}, found "
            f"{str(content.get('format'))[:60]!r}; export the model again"
        )
    return Format(content["format"])
