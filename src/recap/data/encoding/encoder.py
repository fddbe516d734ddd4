"""Rows of a table → `Batch`, with checks of types and values; errors name file, column and row."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recap.config.data import DataConfig
from recap.config.discrete import CodeSpace, IntegerSpace, ListElement, Vocabulary
from recap.config.evaluation.strata import feature_of
from recap.config.features import Column, FeaturesConfig, VectorColumn
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, discrete_columns
from recap.data.encoding.codes import arrow_type, codes_of
from recap.data.encoding.columns import (
    Floats,
    check_zero_or_one,
    empty_table,
    fill_rows,
    numbers_of,
    rows_where,
    values_of,
)
from recap.data.encoding.histories import encode_history, event_types
from recap.data.encoding.kinds import is_list
from recap.data.encoding.labels import LabelEncoder
from recap.data.encoding.plain import plain_codes, plain_numbers
from recap.data.formats.format import check_unique
from recap.data.formats.location import Location
from recap.text import suggest

_BFLOAT16_OVERFLOW = 3.3961776e38
"""Smallest magnitude that bfloat16 rounds to infinity."""
_FLOAT16_OVERFLOW = 65520
"""Smallest magnitude that float16 rounds to infinity; smaller ones become at most 65504."""


@dataclass(frozen=True, eq=False)
class RowEncoder:
    """Turns the rows of tables into batches."""

    features: FeaturesConfig
    assets: Assets
    labels: LabelEncoder | None = None
    """Encodes labels, weights, users and lists; None for inference."""
    unread: Collection[str] = ()
    """Discrete features that are not read; their codes are 0."""
    teachers: Sequence["RowEncoder"] = ()
    """Encoders of what teachers read, for inference each; their rows become `Batch.teacher_inputs`."""

    @classmethod
    def for_job(
        cls,
        config: RecapConfig,
        assets: Assets,
        mode: JobMode,
        data: DataConfig | None = None,
        teachers: Sequence["RowEncoder"] = (),
    ) -> "RowEncoder":
        """The encoder of a job; with the labels of `data` in training and evaluation, and in training with `teachers`.

        Outside training the position feature of `model.position_debias` is not read, unless a stratum of an evaluation
        needs it.
        """
        debias = config.model.position_debias
        unread = {debias.feature} if debias is not None and mode is not JobMode.TRAIN else set[str]()
        if mode is JobMode.EVALUATE:
            unread -= {name for name in map(feature_of, config.strata.values()) if name is not None}
        if mode is JobMode.INFERENCE or data is None:
            return cls(config.features, assets, unread=unread)
        labels = LabelEncoder.for_job(config, mode, data)
        return cls(config.features, assets, labels, unread, teachers if mode is JobMode.TRAIN else ())

    def labels_only(self) -> "RowEncoder":
        """An encoder of labels and weights alone, without features and users; for data sets with labels."""
        assert self.labels is not None
        none: dict[str, Any] = {"continuous": [], "binary": [], "discrete": {}, "vectors": {}, "histories": {}}
        labels = replace(self.labels, teachers={}, user=None, request=None)
        return RowEncoder(self.features.model_copy(update=none), {}, labels)

    def part(self, names: Collection[str]) -> "RowEncoder":
        """An encoder of the features `names` alone, for inference: its batches have no columns of other features.

        Only `Batch.discrete` has all columns, with codes of 0.
        """
        features = self.features
        part: dict[str, Any] = {
            role: [column for column in getattr(features, role) if column.name in names]
            for role in ("continuous", "binary")
        }
        part |= {
            role: {name: value for name, value in getattr(features, role).items() if name in names}
            for role in ("vectors", "histories")
        }
        unread = {*self.unread, *(name for name in features.discrete if name not in names)}
        return RowEncoder(features.model_copy(update=part), self.assets, unread=unread)

    @cached_property
    def _spaces(self) -> Mapping[str, CodeSpace]:
        """Table → its code space."""
        return self.features.code_spaces

    @cached_property
    def _discrete_columns(self) -> Mapping[str, slice]:
        return discrete_columns(self.features)

    @cached_property
    def _plain_sizes(self) -> dict[str, int]:
        """The discrete features that hold an integer, each with its number of values."""
        sizes = {}
        for name, discrete in self.read_features.discrete.items():
            space = self._spaces[self.features.table_of(name, discrete)]
            of = None if isinstance(discrete, Vocabulary) else discrete.of
            if isinstance(space, IntegerSpace) and discrete.length == 1 and of is None:
                sizes[name] = space.size
        return sizes

    @cached_property
    def read_features(self) -> FeaturesConfig:
        """The features without the `unread` ones."""
        read = {name: discrete for name, discrete in self.features.discrete.items() if name not in self.unread}
        return self.features.model_copy(update={"discrete": read})

    @property
    def columns(self) -> list[str]:
        """The columns this encoder reads, each once."""
        labels = self.labels.columns if self.labels is not None else []
        teachers = [column for teacher in self.teachers for column in teacher.columns]
        return list(dict.fromkeys([*self.read_features.columns, *labels, *teachers]))

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Column → the type to read it as, in formats that do not store types."""
        types: dict[str, pa.DataType] = {}
        for name, kind in self._readers():
            types[name] = _common_type(types[name], kind) if name in types else kind
        return types

    def _readers(self) -> Iterator[tuple[str, pa.DataType]]:
        """The type in which each reader of a column wants it; a list may have several readers."""
        features, spaces = self.read_features, self._spaces
        for column in (*features.continuous, *features.binary):
            yield _column_type(column.name, column.of, column.length, pa.float64())
        for name in features.vectors:
            yield name, pa.list_(pa.float64())
        for name, discrete in features.discrete.items():
            table = features.table_of(name, discrete)
            of = None if isinstance(discrete, Vocabulary) else discrete.of
            yield _column_type(name, of, discrete.length, arrow_type(spaces[table], self.assets.get(table)))
        for history in features.histories:
            yield from ((name, pa.list_(kind)) for name, kind in event_types(history, self.features, self.assets))
        if self.labels is not None:
            yield from self.labels.types.items()
        else:
            yield from (_column_type(column.name, column.of, 1, pa.string()) for column in features.carried)
        for teacher in self.teachers:
            yield from teacher._readers()

    @cached_property
    def row_bytes(self) -> int:
        """Bytes per encoded row."""
        return self.empty().row_bytes

    def empty(self) -> Batch:
        """A batch without rows."""
        types = self.types
        return self.encode(empty_table({name: types[name] for name in self.columns}), Location("empty"))

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raise DataError for the first column that `schema` lacks, or that has an unusable type."""
        self.check_columns(schema, file)
        self.encode(empty_table({name: schema.field(name).type for name in self.columns}), Location(file))

    def check_columns(self, schema: pa.Schema, file: str) -> None:
        """Raise DataError for the first column that `schema` lacks or holds twice, whatever their types."""
        check_unique(schema, self.columns, file)
        names = set(schema.names)
        own = set(replace(self, teachers=()).columns)
        for name in self.columns:
            if name in names:
                continue
            hint = suggest(name, schema.names)
            if name in own:
                raise Location(file).error(name, f"is missing, but the configuration reads it. {hint}")
            missing = ", ".join(other for other in self.columns if other not in names)
            raise Location(file).error(
                name,
                f"is missing, but a teacher reads it (missing: {missing}). Add what is missing to the files, or write "
                f"the teacher's predictions to a column, and use 'distillation: {{column: NAME}}'. {hint}",
            )

    def encode(self, table: pa.Table, location: Location) -> Batch:
        """The rows of `table` as a batch. Raises DataError for wrong types and values, with all bad rows."""
        features = self.features
        histories = [encode_history(table, name, self.features, self.assets, location) for name in features.histories]
        labels, weights = self.labels.encode(table, location) if self.labels is not None else (None, None)
        return Batch(
            continuous=self._numbers(table, features.continuous, location),
            binary=self._numbers(table, features.binary, location, binary=True),
            discrete=self._discrete(table, location),
            vectors={name: self._vector(table, name, vector, location) for name, vector in features.vectors.items()},
            labels=labels,
            weights=weights,
            user=self.labels.encode_users(table, location) if self.labels is not None else None,
            teacher=self.labels.encode_teachers(table, location) if self.labels is not None else None,
            request=self.labels.encode_requests(table, location) if self.labels is not None else None,
            lists=self.labels.encode_lists(table, location) if self.labels is not None else None,
            times=self.labels.encode_times(table, location) if self.labels is not None else None,
            histories={name: tensor for history in histories for name, tensor in history.items()},
            teacher_inputs=self._teacher_inputs(table, location),
        )

    def _teacher_inputs(self, table: pa.Table, location: Location) -> dict[str, Tensor] | None:
        """The tensors of what each teacher reads, by its number and name; None without teachers."""
        batches = [teacher.encode(table, location) for teacher in self.teachers]
        if not batches:
            return None
        return {
            f"{number}/{name}": tensor
            for number, batch in enumerate(batches)
            for name, tensor in batch.tensors().items()
        }

    def _numbers(
        self, table: pa.Table, columns: Sequence[Column], location: Location, *, binary: bool = False
    ) -> Tensor:
        """Numeric columns side by side, [B, Σ width], in the widest dtype of the columns."""
        names, matrix = plain_numbers(table, [column.name for column in columns if _is_plain(column)])
        if binary and names:
            if not ((matrix == 0) | (matrix == 1) | np.isnan(matrix)).all():
                names = []  # read one by one, the wrong column is found
            matrix = np.nan_to_num(matrix, copy=False)
        if names == [column.name for column in columns]:
            return torch.from_numpy(matrix)
        plain = {name: torch.from_numpy(matrix[:, index : index + 1]) for index, name in enumerate(names)}
        parts: list[Tensor] = []
        for column in columns:
            if column.name in plain:
                parts.append(plain[column.name])
                continue
            values = numbers_of(table, column, location, null=0.0 if binary else np.nan)
            if binary:
                check_zero_or_one(values, column.name, location, "list it under continuous or discrete instead")
                values = np.where(np.isnan(values), np.float32(0), values) if np.isnan(values.sum()) else values
            if column.mask is not None:
                values = values[:, self.assets[column.name].to_numpy(zero_copy_only=False)]
            if column.masked_mantissa_bits is not None:
                values = _mask_mantissa(values, column.masked_mantissa_bits)
            parts.append(_cast(values, column.dtype, column.name, location))
        dtypes = [part.dtype for part in parts]
        return _join(parts, table.num_rows, reduce(torch.promote_types, dtypes) if dtypes else torch.float32)

    def _vector(self, table: pa.Table, name: str, vector: VectorColumn, location: Location) -> Tensor:
        """[B, E]; null rows, null values and values that are not finite are zeros."""
        values = numbers_of(table, Column(name=name, length=vector.length), location, null=0.0)
        values = _with_finite_squares(values, name, location)
        if vector.masked_mantissa_bits is not None:
            values = _mask_mantissa(values, vector.masked_mantissa_bits)
        return _cast(values, vector.dtype, name, location)

    def _discrete(self, table: pa.Table, location: Location) -> Tensor:
        """The codes of the discrete features side by side, [B, Σ length · codes of a value] int64; 0 if not read."""
        names, matrix = plain_codes(table, self._plain_sizes)
        if names == list(self.features.discrete):
            return torch.from_numpy(matrix)
        columns = self._discrete_columns
        codes = np.zeros((table.num_rows, max((column.stop for column in columns.values()), default=0)), np.int64)
        if names:
            codes[:, [columns[name].start for name in names]] = matrix
        for name in self.read_features.discrete:
            if name not in names:
                codes[:, columns[name]] = self._codes(table, name, location)
        return torch.from_numpy(codes)

    def _codes(self, table: pa.Table, name: str, location: Location) -> npt.NDArray[np.int64]:
        """The codes of a discrete feature, [B, length · codes of a value] int64."""
        discrete = self.features.discrete[name]
        table_name = self.features.table_of(name, discrete)
        space = self._spaces[table_name]
        of = None if isinstance(discrete, Vocabulary) else discrete.of
        values, valid = values_of(table, name, discrete.length, location, of)
        rows = None
        if not pa.types.is_integer(values.type) and (discrete.length > 1 or valid is not None):  # integers never fail
            present = np.arange(table.num_rows) if valid is None else np.flatnonzero(valid)
            rows = np.repeat(present, discrete.length)
        codes = codes_of(values, space, self.assets.get(table_name), name, location, rows)
        return fill_rows(codes, valid, discrete.length * space.codes, 0)


def _is_plain(column: Column) -> bool:
    """Whether a column is read as float32 as it is, one number per row."""
    changed = column.mask is not None or column.masked_mantissa_bits is not None or column.dtype != "float32"
    return column.length == 1 and column.of is None and not changed


def _column_type(name: str, of: ListElement | None, length: int, kind: pa.DataType) -> tuple[str, pa.DataType]:
    """The column that holds a value of type `kind`, or a list of them, and its type."""
    return (name, kind if length == 1 else pa.list_(kind)) if of is None else (of.column, pa.list_(kind))


def _common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that serves two readers of a column: text only if no reader wants floats."""
    if is_list(first) or is_list(second):
        values = [kind.value_type if is_list(kind) else kind for kind in (first, second)]
        return pa.list_(_common_type(*values))
    if first == second:
        return first
    return pa.float64() if pa.types.is_floating(first) or pa.types.is_floating(second) else pa.string()


def _cast(values: Floats, dtype: str, name: str, location: Location) -> Tensor:
    """[B, width] float32 → `dtype`. Raises DataError for values outside its range."""
    if dtype == "float32":
        return torch.from_numpy(values)
    if dtype == "bfloat16":
        wrong = np.isfinite(values) & (np.abs(values) >= _BFLOAT16_OVERFLOW)
        _refuse(wrong, values, name, location, "use float32")
        return torch.from_numpy(values).to(torch.bfloat16)
    if dtype == "float16":
        wrong = np.isfinite(values) & (np.abs(values) >= _FLOAT16_OVERFLOW)
        _refuse(wrong, values, name, location, "float16 ends at 65504; use bfloat16")
        return torch.from_numpy(values.astype(np.float16))
    known = np.where(np.isnan(values), np.float32(0), values)  # a missing value counts as 0, as in the model
    if dtype == "bool":
        return torch.from_numpy(known != 0)
    _refuse((known <= -1) | (known >= 256), values, name, location, "uint8 holds 0 to 255; use another dtype")
    return torch.from_numpy(known.astype(np.uint8))


def _with_finite_squares(values: Floats, name: str, location: Location) -> Floats:
    """[B, E] with 0 for values that are not finite. Raises DataError for rows whose squared length overflows float32.

    LayerNorm would turn such a row into NaN.
    """
    flat = values.reshape(-1)
    if np.isfinite(np.einsum("i,i->", flat, flat)):  # one pass, which suffices unless a value is huge
        return values
    values = np.where(np.isfinite(values), values, np.float32(0))
    wrong = ~np.isfinite(np.einsum("ij,ij->i", values, values))
    if wrong.any():
        rows = rows_where(wrong)
        largest = np.abs(values[rows[0]]).max()
        raise location.error(name, f"holds {largest:g}; the squared length of the vector overflows; scale it", rows)
    return values


def _refuse(wrong: npt.NDArray[np.bool_], values: Floats, name: str, location: Location, hint: str) -> None:
    """Raise DataError for the rows with `wrong` values, [B, width] both."""
    rows = rows_where(np.any(wrong, axis=1))
    if rows:
        raise location.error(name, f"holds {values[rows[0]][wrong[rows[0]]][0]:g}; {hint}", rows)


def _mask_mantissa(values: Floats, bits: int) -> Floats:
    """[B, width] float32 with the lowest `bits` of each mantissa set to 0; NaN stays NaN."""
    masked = np.ascontiguousarray(values).view(np.int32) & np.int32(-(1 << bits))
    return np.where(np.isnan(values), values, masked.view(np.float32))


def _join(parts: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    """Join tensors [B, width] of B = `rows` side by side, [B, Σ width]; a single one is not copied."""
    if len(parts) == 1:
        return parts[0].to(dtype)
    joined = torch.empty((rows, sum(part.shape[1] for part in parts)), dtype=dtype)
    equal = dtype != torch.bfloat16 and all(part.dtype == dtype for part in parts)
    start = 0
    for part in parts:
        columns = slice(start, start + part.shape[1])
        if equal:
            joined.numpy()[:, columns] = part.numpy()  # in this thread; torch would use the threads that train
        else:
            joined[:, columns] = part
        start += part.shape[1]
    return joined
