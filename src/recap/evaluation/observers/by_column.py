"""What `metrics.fields` and `slices` of a configuration ask for: Field-RCE, and the slices that do worse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.stream.source import Source
from recap.distributed import Ranks
from recap.evaluation.metrics.estimate import Estimates
from recap.evaluation.observers.columns import Columns, bins_of, field_estimates
from recap.evaluation.slices import Slices, find_slices
from recap.model.scorer import Scorer, Scores


@dataclass(frozen=True)
class ColumnResult:
    """What the values of columns show."""

    fields: Estimates = field(default_factory=dict)
    """Task → `field_rce_FEATURE` → estimate."""
    uncalibrated_fields: Estimates = field(default_factory=dict)
    """The same of probabilities before calibration; empty where it changes no task."""
    slices: Slices | None = None


class ByColumn:
    """Sums by the values of the columns that are asked for; nothing, at no cost, where none are."""

    def __init__(
        self, config: RecapConfig, split: str, assets: Assets, source: Source, scorer: Scorer, ranks: Ranks
    ) -> None:
        self._parts: dict[str, Columns] = {}
        if config.metrics.fields:
            bins = bins_of(config, assets, source, config.metrics.fields)
            self._parts["fields"] = Columns(config, split, bins, ranks)
            if scorer.fitted is not None or bool((scorer.calibration.ratios != 1).any()):
                self._parts["uncalibrated"] = Columns(config, split, bins, ranks, attrgetter("probabilities"))
        if config.slices is not None:
            self._parts["slices"] = Columns(config, split, bins_of(config, assets, source), ranks)

    def update(self, batch: Batch, scores: Scores) -> None:
        for columns in self._parts.values():
            columns.update(batch, scores)

    def result(self) -> ColumnResult:
        sums = {name: columns.result() for name, columns in self._parts.items()}
        fields: Mapping[str, Estimates] = {
            name: field_estimates(self._parts[name], sums[name]) for name in sums if name != "slices"
        }
        columns = self._parts.get("slices")
        slices = None if columns is None else find_slices(columns.bins, sums["slices"], columns.tasks)
        return ColumnResult(fields.get("fields", {}), fields.get("uncalibrated", {}), slices)
