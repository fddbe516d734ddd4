"""Rows of a table → `Batch`. Checks what the columns hold; errors name file, column and row."""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recap.config.data import DataConfig, DataTaskConfig, RectifyLabelsConfig
from recap.config.discrete import Vocabulary, VocabularySpace
from recap.config.features import Column, FeaturesConfig, VectorColumn
from recap.config.loss import RegressionConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.encoding.codes import arrow_type, codes_of
from recap.data.encoding.columns import as_text, is_number, milliseconds, rows_where, spread, values_of
from recap.data.encoding.hashing import hash_texts
from recap.data.encoding.histories import encode_history, event_types
from recap.data.formats.location import Location
from recap.text import suggest

Floats = npt.NDArray[np.float32]
_TOO_MUCH = 3.3961776e38
"""What bfloat16 would round to infinity."""


class RowEncoder:
    """Turns tables into batches, as one configuration describes the columns."""

    def __init__(
        self,
        features: FeaturesConfig,
        assets: Assets,
        tasks: list[str] | None = None,
        labels: Mapping[str, DataTaskConfig] | None = None,
        rectify: RectifyLabelsConfig | None = None,
        *,
        weigh_samples: bool = False,
        unread: Collection[str] = (),
        regressions: Mapping[str, RegressionConfig] | None = None,
    ) -> None:
        """`labels` given, those of some of `tasks`: batches carry labels [B, T].

        `rectify`: which of their positives came too late. `weigh_samples`: weights undo the sampling they tell.
        `unread`: discrete features that are not read; all their codes are 0.
        `regressions`: the tasks whose labels are numbers, those of the others are 0 or 1.
        """
        self.features = features
        read = {name: discrete for name, discrete in features.discrete.items() if name not in unread}
        self.read = features.model_copy(update={"discrete": read})
        self.assets = assets
        self.tasks = tasks or []
        self.labels = labels
        self.label_columns = {task: said.column or task for task, said in (labels or {}).items()}
        self.rectify = rectify
        self.weigh_samples = weigh_samples
        self.regressions = regressions or {}

    @classmethod
    def for_job(
        cls, config: RecapConfig, assets: Assets, mode: JobMode, data: DataConfig | None = None
    ) -> "RowEncoder":
        """The encoder of a job: labels of `data` to train on or to evaluate with, none for inference.

        Evaluation undoes sampling by weights; training by what `sampling_correction` says.
        """
        if mode is JobMode.INFERENCE:
            return cls(config.features, assets, unread=_unread(config))
        labels, rectify = (data.labels, data.rectify_labels) if data is not None else (None, None)
        weigh_samples = config.train_data.sampling_correction == "weights" if mode is JobMode.TRAIN else True
        unread: set[str] = set()
        if mode is JobMode.EVALUATE:
            unread = _unread(config) - {stratum.feature for stratum in config.strata.values()}
        regressions = {
            name: task.objective
            for name, task in config.model.tasks.items()
            if isinstance(task.objective, RegressionConfig)
        }
        return cls(
            config.features,
            assets,
            config.tasks,
            labels,
            rectify,
            weigh_samples=weigh_samples,
            unread=unread,
            regressions=regressions,
        )

    @property
    def columns(self) -> list[str]:
        """The columns this encoder reads, each once."""
        names = list(self.read.columns)
        if self.labels is not None:
            names += [self.label_columns[task] for task in self.tasks if task in self.labels]
            names += self._times
            names += [self.features.user] if self.features.user is not None else []
        return list(dict.fromkeys(names))

    @property
    def _times(self) -> list[str]:
        """The columns of milliseconds by which labels are rectified."""
        if self.rectify is None:
            return []
        engaged = [column for task, column in self.rectify.engaged_at.items() if task in (self.labels or ())]
        return [self.rectify.served_at, self.rectify.impressed_at, *engaged] if engaged else []

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The types to read columns as, for formats that do not tell them themselves."""
        features = self.features
        numeric = [column for column in (*features.continuous, *features.binary) if column.of is None]
        numbers = [(column.name, column.length, pa.float64()) for column in numeric]
        numbers += [(name, vector.length, pa.float32()) for name, vector in features.vectors.items()]
        spaces = features.code_spaces
        owners = {name: features.table_of(name, each) for name, each in self.read.discrete.items()}
        numbers += [
            (name, features.discrete[name].length, arrow_type(spaces[table], self.assets.get(table)))
            for name, table in owners.items()
            if name in self.read.columns
        ]
        numbers += [
            (column, -1, kind)
            for name in features.histories
            for column, kind in event_types(name, features, self.assets)
        ]
        numbers += [(column, 1, pa.float64()) for column in self.label_columns.values()]
        numbers += [(name, 1, pa.int64()) for name in self._times]
        known = [(name, length, kind) for name, length, kind in numbers if kind is not None]
        return {name: kind if length == 1 else pa.list_(kind) for name, length, kind in known}

    def empty(self) -> Batch:
        """A batch of no rows."""
        kinds, discrete = self.types, self.features.discrete
        scalars = {name for name, each in discrete.items() if each.length == 1} | {self.features.user}
        others = pa.list_(pa.int64())  # a column of which single values are read, or lists that are hashed
        fields = [(name, kinds.get(name, pa.int64() if name in scalars else others)) for name in self.columns]
        return self.encode(pa.schema(fields).empty_table(), Location("nothing"))

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raise DataError for the first column that `schema` lacks, or whose type cannot serve."""
        for name in self.columns:
            if schema.names.count(name) > 1:
                raise Location(file).error(name, "stands there twice; which one is meant cannot be told")
            if name not in schema.names:
                known = suggest(name, schema.names)
                raise Location(file).error(name, f"is missing; the configuration reads it. {known}")
        empty = schema.empty_table().select(self.columns)
        self.encode(empty, Location(file))

    def encode(self, table: pa.Table, place: Location) -> Batch:
        """The rows of `table` as a batch. Raises DataError for a wrong type or value, with all rows that hold one."""
        features = self.features
        rows = table.num_rows
        discrete = [torch.from_numpy(self._codes(table, name, place)) for name in features.discrete]
        histories = [encode_history(table, name, features, self.assets, place) for name in features.histories]
        labels = self._labels(table, place) if self.labels is not None else None
        return Batch(
            continuous=self._block(table, features.continuous, place),
            binary=self._block(table, features.binary, place, binary=True),
            discrete=_join(discrete, rows, torch.int64),
            vectors={name: self._vector(table, name, vector, place) for name, vector in features.vectors.items()},
            labels=torch.from_numpy(np.nan_to_num(labels)) if labels is not None else None,
            weights=torch.from_numpy(self._weights(labels)) if labels is not None else None,
            user=self._user(table, place) if self.labels is not None and features.user is not None else None,
            histories={name: tensor for history in histories for name, tensor in history.items()},
        )

    def _block(self, table: pa.Table, columns: Sequence[Column], place: Location, *, binary: bool = False) -> Tensor:
        """[B, Σ width] of the widest dtype of its columns."""
        parts: list[Tensor] = []
        for column in columns:
            values = self._numbers(table, column, place, null=0.0 if binary else np.nan)
            if binary:
                _check_zero_or_one(values, column.name, place, "list it under continuous or discrete instead")
            if column.mask is not None:
                values = values[:, self.assets[column.name].to_numpy(zero_copy_only=False)]
            if column.masked_mantissa_bits is not None:
                values = _mask_mantissa(values, column.masked_mantissa_bits)
            parts.append(_held_as(values, column.dtype, column.name, place))
        dtypes = [part.dtype for part in parts]
        return _join(parts, table.num_rows, reduce(torch.promote_types, dtypes) if dtypes else torch.float32)

    def _vector(self, table: pa.Table, name: str, vector: VectorColumn, place: Location) -> Tensor:
        """[B, E]; zeros where a row is null."""
        values = self._numbers(table, Column(name=name, length=vector.length), place, null=0.0)
        if vector.masked_mantissa_bits is not None:
            values = _mask_mantissa(values, vector.masked_mantissa_bits)
        return _held_as(values, vector.dtype, name, place)

    def _numbers(self, table: pa.Table, column: Column, place: Location, null: float) -> Floats:
        """[B, values read] float32, `null` where a value or its whole row is null; memory of the table if it can be."""
        values, valid = values_of(table, column.name, column.length, place, column.of)
        if not is_number(values.type):
            raise place.error(column.name, f"holds {values.type}; numbers are expected here")
        flat = values.cast(pa.float32(), safe=False)
        if flat.null_count:
            flat = flat.fill_null(null)
        if valid is not None:
            return spread(flat.to_numpy(zero_copy_only=False), valid, column.length, null)[:, : column.read]
        # The same memory; of Arrow's own view, which may not be written to, torch would want a copy.
        shared: Floats = torch.utils.dlpack.from_dlpack(flat).numpy()
        return shared.reshape(-1, column.length)[:, : column.read]

    def _codes(self, table: pa.Table, name: str, place: Location) -> npt.NDArray[np.int64]:
        """[B, length · codes of a value] int64: 0 for unknown, code + 1 for the others."""
        discrete = self.features.discrete[name]
        owner = self.features.table_of(name, discrete)
        space = self.features.code_spaces[owner]
        if name not in self.read.discrete:
            return np.zeros((table.num_rows, discrete.length * space.codes), np.int64)
        of = None if isinstance(discrete, Vocabulary) else discrete.of
        values, valid = values_of(table, name, discrete.length, place, of)
        rows = None
        if isinstance(space, VocabularySpace) and (discrete.length > 1 or valid is not None):
            there = np.arange(table.num_rows) if valid is None else np.flatnonzero(valid)
            rows = np.repeat(there, discrete.length)
        codes = codes_of(values, space, self.assets.get(owner), name, place, rows)
        return spread(codes, valid, discrete.length * space.codes, 0)

    def _labels(self, table: pa.Table, place: Location) -> Floats:
        """[B, T] float32; NaN where a label is missing, for all rows of tasks that have none in this data set."""
        assert self.labels is not None
        labels = np.full((table.num_rows, len(self.tasks)), np.nan, np.float32)
        for position, task in enumerate(self.tasks):
            if task in self.labels:
                column = self.label_columns[task]
                values = self._numbers(table, Column(name=column), place, null=np.nan)
                if task in self.regressions:
                    _check_numbers(values, self.regressions[task], column, place)
                else:
                    _check_zero_or_one(values, column, place, "a label must be 0 or 1, or null", nan=True)
                labels[:, position] = self._rectified(values[:, 0], task, table, place)
        return labels

    def _rectified(
        self, label: npt.NDArray[np.float32], task: str, table: pa.Table, place: Location
    ) -> npt.NDArray[np.float32]:
        """[B]: positives that came too late as negatives."""
        if self.rectify is None or task not in self.rectify.engaged_at:
            return label
        positive = label == 1
        window = int(self.rectify.window_hours * 3_600_000)
        served, impressed, engaged = (
            milliseconds(table, name, positive, place)
            for name in (self.rectify.served_at, self.rectify.impressed_at, self.rectify.engaged_at[task])
        )
        late = positive & ~((impressed - served < window) & (engaged - served < window))
        return np.where(late, np.float32(0), label)

    def _weights(self, labels: Floats) -> Floats:
        """[B, T] float32: 1, or what undoes the sampling of this data set; 0 where a label is missing."""
        assert self.labels is not None
        weights = np.ones_like(labels)
        for position, task in enumerate(self.tasks):
            if self.weigh_samples and task in self.labels and task not in self.regressions:
                rates = self.labels[task]
                label = labels[:, position]
                weights[:, position] = label / rates.pos_downsampling_rate + (1 - label) / rates.neg_downsampling_rate
        weights[np.isnan(labels)] = 0
        return weights

    def _user(self, table: pa.Table, place: Location) -> Tensor:
        """[B] int64: integer ids as they are, strings hashed."""
        name = self.features.user
        assert name is not None
        values, _ = values_of(table, name, 1, place)
        if values.null_count:
            nulls = values.is_null().to_numpy(zero_copy_only=False)
            raise place.error(name, "is null; every row needs a user", rows_where(nulls))
        values = as_text(values, name, place)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            users = hash_texts(values)
        elif pa.types.is_integer(values.type):
            users = values.to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            raise place.error(name, f"holds {values.type}; users are integers or strings")
        return torch.from_numpy(users)


def _unread(config: RecapConfig) -> set[str]:
    """Features that are hidden from the model wherever it does not learn."""
    debias = config.model.position_debias
    return {debias.feature} if debias is not None else set()


def _held_as(values: Floats, dtype: str, name: str, place: Location) -> Tensor:
    """[B, width] float32 as another type. Raises DataError for what that cannot hold."""
    if dtype == "float32":
        return torch.from_numpy(values)
    if dtype == "bfloat16":
        _refuse(np.isfinite(values) & (np.abs(values) >= _TOO_MUCH), values, name, place, "take float32")
        return torch.from_numpy(values).to(torch.bfloat16)
    if dtype == "float16":
        wrong = np.isfinite(values) & (np.abs(values) >= 65520)  # what is below is rounded to 65504
        _refuse(wrong, values, name, place, "float16 ends at 65504; take bfloat16")
        return torch.from_numpy(values.astype(np.float16))
    known = np.where(np.isnan(values), np.float32(0), values)  # what is missing counts as 0, as it does in the model
    if dtype == "bool":
        return torch.from_numpy(known != 0)
    _refuse((known <= -1) | (known >= 256), values, name, place, "uint8 holds 0 to 255")
    return torch.from_numpy(known.astype(np.uint8))


def _refuse(wrong: npt.NDArray[np.bool_], values: Floats, name: str, place: Location, text: str) -> None:
    rows = rows_where(np.any(wrong, axis=1))
    if rows:
        raise place.error(name, f"holds {values[rows[0]][wrong[rows[0]]][0]:g}; {text}", rows)


def _mask_mantissa(values: Floats, bits: int) -> Floats:
    """[B, width] float32 with the lowest `bits` of the mantissa 0; NaN stays NaN."""
    masked = np.ascontiguousarray(values).view(np.int32) & np.int32(-(1 << bits))
    return np.where(np.isnan(values), values, masked.view(np.float32))


def _join(parts: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    """Column blocks side by side, [B, Σ width]; no part at all gives [B, 0]. One part is given as it is."""
    if len(parts) == 1:
        return parts[0].to(dtype)
    joined = torch.empty((rows, sum(part.shape[1] for part in parts)), dtype=dtype)
    alike = dtype != torch.bfloat16 and all(part.dtype == dtype for part in parts)
    start = 0
    for part in parts:
        columns = slice(start, start + part.shape[1])
        if alike:
            joined.numpy()[:, columns] = part.numpy()  # in this thread; torch would take those that train
        else:
            joined[:, columns] = part
        start += part.shape[1]
    return joined


def _check_zero_or_one(values: Floats, column: str, place: Location, hint: str, *, nan: bool = False) -> None:
    """Raise DataError for the rows that hold another value; `nan`: that is one that may be."""
    good = (values == 0) | (values == 1)
    if nan and not good.all():
        good |= np.isnan(values)
    if not good.all():
        wrong = rows_where(~np.all(good, axis=1))
        bad = float(values[wrong[0]][~good[wrong[0]]][0])
        found = "null or NaN" if np.isnan(bad) else f"{bad:g}"
        raise place.error(column, f"found {found}, expected 0 or 1; {hint}", wrong)


def _check_numbers(values: Floats, objective: RegressionConfig, column: str, place: Location) -> None:
    """Raise DataError for the rows whose label cannot be one of a regression; NaN is a label that is missing."""
    at_least_0 = objective.transform == "log1p"
    wrong = np.isinf(values) | ((values < 0) if at_least_0 else False)
    if wrong.any():
        rows = rows_where(wrong[:, 0])
        bound = ", at least 0 for log1p," if at_least_0 else ""
        text = f"found {float(values[rows[0], 0]):g}; the label of a regression must be a finite float32{bound} or null"
        raise place.error(column, text, rows)
