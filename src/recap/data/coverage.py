"""`Coverage`: how many values of each feature a model does not know, because they are unknown, missing or not finite.

Counted from encoded batches in constant memory: the code 0, NaN and infinity, and vectors of zeros, as which a null
vector is read. The tables of the batches, where they are at hand, separate unknown from missing values.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recap.config.base import KeyPath, dotted
from recap.config.discrete import Vocabulary
from recap.config.histories import NumberEvents
from recap.data.batch import Batch
from recap.data.encoding.assets import column_width, discrete_columns
from recap.data.encoding.columns import as_one_array, values_of
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.kinds import decoded, is_list, value_at
from recap.data.formats.location import Location
from recap.distributed import Ranks
from recap.errors import DataError
from recap.text import shorten

MIN_VALUES = 1000
"""Values of a feature before none of them known is an error: fewer may be the unknown values of one user."""
_MIN_VALUES_OF_LIMIT = 100
"""Values of a feature before its share is compared with `features.max_unknown`."""
_SHOWN = 5
"""Features listed in one line."""
_WORTH_SHOWING = 0.5
"""Share of values above which a feature is listed."""


@dataclass(frozen=True)
class Unknown:
    """The counts of one feature."""

    feature: str
    """Its name; `NAME/ids` and `NAME/attributes/KEY` of a history."""
    path: KeyPath
    """Where the configuration defines it."""
    values: int
    """Values of all rows. Empty lists have none; a vector is one."""
    blank: int
    """Values that are unknown, missing or not finite."""
    missing: int | None = None
    """Those that are missing or not finite; None if they were not counted separately."""
    example: Any = None
    """An unknown value, if one was seen."""

    @property
    def share(self) -> float:
        """The share of values that are unknown, missing or not finite; 0 without values."""
        return self.blank / self.values if self.values else 0.0

    @property
    def unknown(self) -> int:
        """Values that are present but unknown, or all blank ones if these were not separated."""
        return self.blank - (self.missing or 0)


class Coverage:
    """Counts the values of the features that `encoder` reads."""

    def __init__(self, encoder: RowEncoder) -> None:
        features = encoder.features
        self.encoder, self.features = encoder, features
        self._empty = encoder.empty()
        self.counts: dict[str, Tensor] = {  # float64: the blank values of each column of a tensor of `Batch`
            name: torch.zeros(tensor.shape[1] if name in ("continuous", "binary", "discrete") else 1).double()
            for name, tensor in self._empty.tensors().items()
            if name not in ("labels", "weights", "user") and not name.endswith("/length")
        }
        self.counts["rows"] = torch.zeros(1).double()
        for name in features.histories:
            self.counts[_events(name)] = torch.zeros(1).double()
        self._missing: dict[str, int] | None = None
        self._examples: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        """The number of rows counted."""
        return int(self.counts["rows"].item())

    def add(self, batch: Batch, table: pa.Table | None = None) -> None:
        """Add rows. `table`: the table they were encoded from; if it is given, it must be for every batch."""
        self._add("rows", torch.full((1,), len(batch)))
        for name, tensor in (("continuous", batch.continuous), ("binary", batch.binary)):
            if not _is_finite(tensor):
                self._add(name, (~torch.isfinite(tensor)).sum(dim=0))
        self._add("discrete", (batch.discrete == 0).sum(dim=0))
        for name, vectors in batch.vectors.items():
            known = torch.isfinite(vectors).all(dim=1) & (vectors != 0).any(dim=1)
            self._add(f"vectors/{name}", (~known).sum()[None])
        for name, history in self.features.histories.items():
            lengths = batch.histories[f"{name}/length"]
            event = torch.arange(history.max_length, device=lengths.device) < lengths[:, None]  # [B, L]
            self._add(_events(name), lengths.sum()[None])
            for key in (f"{name}/ids", *(f"{name}/attributes/{key}" for key in history.attributes)):
                values = batch.histories[key]  # [B, L] numbers, or [B, L, codes of a value]
                blank = ~torch.isfinite(values) if values.is_floating_point() else (values == 0).all(dim=2)
                self._add(f"histories/{key}", (blank & event).sum()[None])
        if table is not None:
            self._add_table(table, batch)

    def _add(self, name: str, counts: Tensor) -> None:
        self.counts[name] = self.counts[name].to(counts.device) + counts

    def all_reduce(self, ranks: Ranks) -> None:
        """Add the counts of all ranks; every rank must call it."""
        sums = ranks.all_reduce([count.cpu() for count in self.counts.values()])
        self.counts = dict(zip(self.counts, sums, strict=True))
        if ranks.is_distributed:
            names = self._separated()
            own = self._missing or {}
            counts = [self._missing is not None, *(own.get(name, 0) for name in names)]
            was_counted, *missing = ranks.all_reduce([torch.tensor(counts, dtype=torch.float64)])[0].tolist()
            self._missing = dict(zip(names, map(int, missing), strict=True)) if was_counted else None

    def _separated(self) -> list[str]:
        """The features whose missing values a table tells from unknown ones."""
        histories = self.features.histories.items()
        keys = (
            key
            for name, part in histories
            for key, _ in ((f"{name}/ids", part.ids), *_attributes(name, part.attributes))
        )
        return list(dict.fromkeys([*self._discrete(), *(column.name for column in self.features.binary), *keys]))

    def _add_table(self, table: pa.Table, batch: Batch) -> None:
        """Count the null values of codes, which `batch` does not tell from unknown ones."""
        self._missing = self._missing or {}
        for name, columns in self._discrete().items():
            discrete = self.features.discrete[name]
            of = None if isinstance(discrete, Vocabulary) else discrete.of
            values, valid = values_of(table, name, discrete.length, Location(""), of)
            null_rows = 0 if valid is None else int((~valid).sum())
            missing = values.null_count + null_rows * discrete.length
            self._missing[name] = self._missing.get(name, 0) + missing
            codes = batch.discrete[:, columns].numpy().reshape(len(batch) * discrete.length, -1)
            codes = codes if valid is None else codes[np.repeat(valid, discrete.length)]
            self._remember_unknown(name, values, codes.any(axis=1))
        for column in self.features.binary:
            values, _ = values_of(table, column.name, column.length, Location(""), column.of)
            self._missing[column.name] = self._missing.get(column.name, 0) + values.null_count
        for name, history in self.features.histories.items():
            for key, events in ((f"{name}/ids", history.ids), *_attributes(name, history.attributes)):
                lists = decoded(as_one_array(table.column(events.column)))
                missing = lists.flatten().null_count if is_list(lists.type) else 0
                self._missing[key] = self._missing.get(key, 0) + missing

    def _remember_unknown(self, name: str, values: pa.Array, known: Any) -> None:
        """Keep the first value that is present but unknown, as an example."""
        unknown = ~known & values.is_valid().to_numpy(zero_copy_only=False)
        if name not in self._examples and unknown.any():
            self._examples[name] = value_at(values, int(unknown.argmax()))

    def _discrete(self) -> dict[str, slice]:
        """The columns of `Batch.discrete` of each feature that is read."""
        columns = discrete_columns(self.features)
        return {name: columns[name] for name in self.encoder.read_features.discrete}

    def result(self) -> list[Unknown]:
        """The counts of each feature, in the order of the configuration."""
        return list(self._features())

    def _features(self) -> Iterator[Unknown]:
        rows, features = self.rows, self.features
        missing, separate = self._missing or {}, self._missing is not None
        for role, numeric in (("continuous", features.continuous), ("binary", features.binary)):
            start = 0
            for index, column in enumerate(numeric):
                end = start + column_width(column, self.encoder.assets)
                blank = int(self.counts[role][start:end].sum().item()) + missing.get(column.name, 0)
                yield Unknown(column.name, ("features", role, index), rows * (end - start), blank, blank)
                start = end
        for name, columns in self._discrete().items():
            discrete = features.discrete[name]
            codes = features.codes_per_value(features.table_of(name, discrete))
            blank = int(self.counts["discrete"][columns].sum().item()) // codes
            null = missing.get(name, 0) if separate else None
            path = ("features", "discrete", name)
            yield Unknown(name, path, rows * discrete.length, blank, null, self._examples.get(name))
        for name in features.vectors:
            blank = int(self.counts[f"vectors/{name}"].item())
            yield Unknown(name, ("features", "vectors", name), rows, blank, blank)
        for name, history in features.histories.items():
            events = int(self.counts[_events(name)].item())
            for key, column in ((f"{name}/ids", history.ids), *_attributes(name, history.attributes)):
                blank = int(self.counts[f"histories/{key}"].item())
                is_number = isinstance(column, NumberEvents)
                null = blank if is_number else min(blank, missing.get(key, 0)) if separate else None
                yield Unknown(key, ("features", "histories", name), events, blank, null)


def describe(counts: Sequence[Unknown], rows: int) -> str | None:
    """One line on the features with the largest shares; None if every share is small."""
    parts = []
    separate = any(count.missing is not None and count.missing < count.blank for count in counts)
    for words, numbers in _parts(counts, separate=separate):
        listed = sorted(numbers, key=lambda item: -item[1] / item[2])
        listed = [item for item in listed if item[1] / item[2] >= _WORTH_SHOWING]
        if listed:
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            shown = ", ".join(f"{name} {percent(part, whole)}" for name, part, whole in listed[:_SHOWN])
            parts.append(f"{words}: {shown}{more}")
    return f"{'; '.join(parts)} (of {rows:,} rows)" if parts else None


def _parts(counts: Sequence[Unknown], *, separate: bool) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    counts = [count for count in counts if count.values]
    if not separate:
        yield "unknown or missing values", [(count.feature, count.blank, count.values) for count in counts]
        return
    yield "unknown values", [(count.feature, count.unknown, count.values) for count in counts]
    yield "missing values", [(count.feature, count.missing or 0, count.values) for count in counts]


def percent(part: int, whole: int) -> str:
    """A share; 100% only if it is all."""
    return "100%" if part == whole else f"{min(part / whole, 0.999):.1%}"


def too_unknown(counts: Iterable[Unknown], limit: float | None) -> list[Unknown]:
    """The features with a larger share than `limit`; for None, those of whose present values none is known.

    Counts that do not separate unknown from missing values may be wrongly included.
    """
    if limit is not None:
        return [count for count in counts if count.values >= _MIN_VALUES_OF_LIMIT and count.share > limit]
    return [count for count in counts if count.unknown >= MIN_VALUES and count.blank == count.values]


def check_known(counts: Sequence[Unknown], limit: float | None, name: str) -> None:
    """Raise DataError for features that are `too_unknown`. `name`: the data set, for the message."""
    problems = too_unknown(counts, limit)
    if problems:
        listed = "; ".join(f"{dotted(item.path)}: {problem_text(item, limit)}" for item in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more features" if len(problems) > _SHOWN else ""
        raise DataError(f"{name}: {listed}{more}. {advice(limit)}")


def problem_text(count: Unknown, limit: float | None) -> str:
    """What is wrong with a feature that is `too_unknown`."""
    example = "" if count.example is None else f", such as {shorten(repr(count.example))}"
    if limit is None:
        return f"none of the {count.unknown:,} values of {count.feature!r} is known{example}"
    kinds = "unknown, missing or not finite"
    return f"{percent(count.blank, count.values)} of the values of {count.feature!r} are {kinds}{example}"


def advice(limit: float | None) -> str:
    """What to do about features that are `too_unknown`."""
    if limit is None:
        return "Check the column, and its size or vocabulary; features.max_unknown: 1 accepts it"
    return f"The limit is features.max_unknown: {limit:g}"


def _attributes(name: str, attributes: Any) -> Iterator[tuple[str, Any]]:
    return ((f"{name}/attributes/{key}", column) for key, column in attributes.items())


def _events(history: str) -> str:
    return f"{history}/events"


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are known to be finite, from one sum, on the CPU; on a GPU it would wait for the result."""
    if not tensor.is_floating_point():
        return True
    return tensor.device.type == "cpu" and bool(torch.isfinite(tensor.sum()))
