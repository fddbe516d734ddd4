"""Rows of a table → `Batch`. Checks what the columns hold; errors name file, column and row."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from recap.config.data import DataConfig, DataTaskConfig, RectifyLabelsConfig
from recap.config.features import Column, FeaturesConfig, IntegerCodes, Position
from recap.config.keys import suggest
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.place import Place
from recap.data.vocabulary import Vocabularies


class RowEncoder:
    """Turns tables into batches, as one configuration describes the columns."""

    def __init__(
        self,
        features: FeaturesConfig,
        vocabularies: Vocabularies,
        tasks: list[str] | None = None,
        labels: Mapping[str, DataTaskConfig] | None = None,
        rectify: RectifyLabelsConfig | None = None,
        *,
        weigh_samples: bool = False,
    ) -> None:
        """`labels` given, those of some of `tasks`: batches carry labels [B, T].

        `rectify`: which of their positives came too late. `weigh_samples`: weights undo the sampling they tell.
        """
        self.features = features
        self.vocabularies = vocabularies
        self.tasks = tasks or []
        self.labels = labels
        self.rectify = rectify
        self.weigh_samples = weigh_samples

    @classmethod
    def for_job(
        cls, config: RecapConfig, vocabularies: Vocabularies, mode: JobMode, data: DataConfig | None = None
    ) -> "RowEncoder":
        """The encoder of a job: labels of `data` to train on or to evaluate with, none for inference.

        Only evaluation undoes sampling by weights; for training the model's calibration does.
        """
        if mode is JobMode.INFERENCE:
            return cls(config.features, vocabularies)
        labels, rectify = (data.labels, data.rectify_labels) if data is not None else (None, None)
        weigh_samples = mode is JobMode.EVALUATE
        return cls(config.features, vocabularies, config.tasks, labels, rectify, weigh_samples=weigh_samples)

    @property
    def columns(self) -> list[str]:
        """The columns this encoder reads, each once."""
        names = list(self.features.columns)
        if self.labels is not None:
            names += [task for task in self.tasks if task in self.labels]
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
        numbers += [(name, width, pa.float32()) for name, width in features.vectors.items()]
        numbers += [
            (name, discrete.length, pa.int64() if isinstance(discrete, IntegerCodes) else pa.string())
            for name, discrete in features.discrete.items()
            if name in features.columns
        ]
        numbers += [(task, 1, pa.float64()) for task in self.labels or ()]
        numbers += [(name, 1, pa.int64()) for name in self._times]
        return {name: kind if length == 1 else pa.list_(kind) for name, length, kind in numbers}

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raise DataError for the first column that `schema` lacks, or whose type cannot serve."""
        for name in self.columns:
            if schema.names.count(name) > 1:
                raise Place(file).error(name, "stands there twice; which one is meant cannot be told")
            if name not in schema.names:
                known = suggest(name, schema.names)
                raise Place(file).error(name, f"is missing; the configuration reads it. {known}")
        empty = schema.empty_table().select(self.columns)
        self.encode(empty, Place(file))

    def encode(self, table: pa.Table, place: Place) -> Batch:
        """The rows of `table` as a batch. Raises DataError for a wrong type or value."""
        features = self.features
        continuous = [self._numeric(table, column, place, null=np.nan) for column in features.continuous]
        binary = [self._binary(table, column, place) for column in features.binary]
        discrete = [self._codes(table, name, place) for name in features.discrete]
        rows = table.num_rows
        vectors = {
            name: _join([self._numeric(table, Column(name=name, length=width), place, null=0.0)], rows, np.float32)
            for name, width in features.vectors.items()
        }
        labels = self._labels(table, place) if self.labels is not None else None
        return Batch(
            continuous=_join(continuous, rows, np.float32),
            binary=_join(binary, rows, np.float32),
            discrete=_join(discrete, rows, np.int64),
            vectors=vectors,
            labels=labels.nan_to_num() if labels is not None else None,
            weights=self._weights(labels) if labels is not None else None,
            user=self._user(table, place) if self.labels is not None and features.user is not None else None,
        )

    def _numeric(self, table: pa.Table, column: Column, place: Place, null: float) -> npt.NDArray[np.float32]:
        """[B, width] float32, `null` where a value or its whole row is null."""
        values, valid = _values(table, column.name, column.length, place, column.of)
        if not _is_number(values.type):
            raise place.error(column.name, f"holds {values.type}; numbers are expected here")
        flat = values.cast(pa.float32(), safe=False)
        if flat.null_count:
            flat = flat.fill_null(null)
        rows = _spread(flat.to_numpy(zero_copy_only=False), valid, column.length, null)
        return rows[:, : column.width]

    def _binary(self, table: pa.Table, column: Column, place: Place) -> npt.NDArray[np.float32]:
        values = self._numeric(table, column, place, null=0.0)
        _check_zero_or_one(values, column.name, place, "list it under continuous or discrete instead")
        return values

    def _codes(self, table: pa.Table, name: str, place: Place) -> npt.NDArray[np.int64]:
        """[B, length] int64: 0 for unknown, code + 1 for the others."""
        discrete = self.features.discrete[name]
        of = discrete.of if isinstance(discrete, IntegerCodes) else None
        values, valid = _values(table, name, discrete.length, place, of)
        if isinstance(discrete, IntegerCodes):
            if not pa.types.is_integer(values.type):
                hint = f"integer codes 0 to {discrete.size - 1} are expected; strings need a vocabulary"
                raise place.error(name, f"holds {values.type}; {hint}")
            codes = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            known = (codes >= 0) & (codes < discrete.size)
            if values.null_count:
                known &= values.is_valid().to_numpy(zero_copy_only=False)
            codes = np.where(known, codes + 1, 0)
        else:
            values = _as_text(values, name, place)
            if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
                raise place.error(name, f"holds {values.type}; it has a vocabulary, so strings are expected")
            vocabulary = self.vocabularies[name].cast(values.type)
            index = pc.index_in(values, value_set=vocabulary).fill_null(-1)
            codes = index.to_numpy(zero_copy_only=False).astype(np.int64) + 1
        return _spread(codes, valid, discrete.length, 0)

    def _labels(self, table: pa.Table, place: Place) -> Tensor:
        """[B, T] float32; NaN where a label is missing, for all rows of tasks that have none in this data set."""
        assert self.labels is not None
        labels = np.full((table.num_rows, len(self.tasks)), np.nan, np.float32)
        for position, task in enumerate(self.tasks):
            if task in self.labels:
                values = self._numeric(table, Column(name=task), place, null=np.nan)
                _check_zero_or_one(values, task, place, "a label must be 0 or 1, or null", nan=True)
                labels[:, position] = self._rectified(values[:, 0], task, table, place)
        return torch.from_numpy(labels)

    def _rectified(
        self, label: npt.NDArray[np.float32], task: str, table: pa.Table, place: Place
    ) -> npt.NDArray[np.float32]:
        """[B]: positives that came too late as negatives."""
        if self.rectify is None or task not in self.rectify.engaged_at:
            return label
        positive = label == 1
        window = int(self.rectify.window_hours * 3_600_000)
        served, impressed, engaged = (
            _milliseconds(table, name, positive, place)
            for name in (self.rectify.served_at, self.rectify.impressed_at, self.rectify.engaged_at[task])
        )
        late = positive & ~((impressed - served < window) & (engaged - served < window))
        return np.where(late, np.float32(0), label)

    def _weights(self, labels: Tensor) -> Tensor:
        """[B, T] float32: 1, or what undoes the sampling of this data set; 0 where a label is missing."""
        assert self.labels is not None
        weights = torch.ones_like(labels)
        for position, task in enumerate(self.tasks):
            if self.weigh_samples and task in self.labels:
                rates = self.labels[task]
                label = labels[:, position]
                weights[:, position] = label / rates.pos_downsampling_rate + (1 - label) / rates.neg_downsampling_rate
        return weights.masked_fill(labels.isnan(), 0.0)

    def _user(self, table: pa.Table, place: Place) -> Tensor:
        """[B] int64: integer ids as they are, strings hashed."""
        name = self.features.user
        assert name is not None
        values, _ = _values(table, name, 1, place)
        if values.null_count:
            nulls = values.is_null().to_numpy(zero_copy_only=False)
            raise place.error(name, "is null; every row needs a user", _where(nulls))
        values = _as_text(values, name, place)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            encoded = values.dictionary_encode()
            hashed = np.array([_hash(text) for text in encoded.dictionary.to_pylist()], np.int64)
            users = hashed[encoded.indices.to_numpy()] if len(values) else hashed
        elif pa.types.is_integer(values.type):
            users = values.to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            raise place.error(name, f"holds {values.type}; users are integers or strings")
        return torch.from_numpy(users)


def _values(
    table: pa.Table, name: str, length: int, place: Place, of: Position | None = None
) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """The values of a column end to end, and which rows have any (None: all of them).

    Scalars when `length` is 1, unless the column is a list of one; else lists that all hold `length` values. `of`: they
    are one value of each list.
    """
    if of is not None:
        return _element(table.column(of.column), of, place), None
    column = table.column(name)
    if column.num_chunks == 1:
        array = column.chunk(0)  # as it is: joining would copy it
    else:
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    fixed = pa.types.is_fixed_size_list(array.type)
    if not (fixed or pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        if length != 1:
            raise place.error(name, f"holds {array.type}; lists of {length} values are expected")
        return array, None
    if fixed and array.type.list_size != length:
        expected = "a scalar is" if length == 1 else f"{length} are"
        raise place.error(name, f"holds lists of {array.type.list_size} values; {expected} expected")
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if not fixed:
        lengths = pc.list_value_length(array).fill_null(length).to_numpy(zero_copy_only=False)
        wrong = _where(lengths != length)
        if wrong:
            raise place.error(name, f"holds a list of {lengths[wrong[0]]} values; {length} are expected", wrong)
    return array.flatten(), valid


def _element(column: pa.ChunkedArray, of: Position, place: Place) -> pa.Array:
    """One value of every list; null where the list is. Raises DataError where a list is too short."""
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise place.error(of.column, f"holds {kind}; lists are expected, of which value {of.index} is read")
    lengths = pc.list_value_length(column).fill_null(of.index + 1).to_numpy()
    if pa.types.is_fixed_size_list(kind) and kind.list_size <= of.index:
        raise place.error(of.column, f"holds lists of {kind.list_size} values; there is no value {of.index}")
    short = _where(lengths <= of.index)
    if short:
        raise place.error(of.column, f"holds a list of {lengths[short[0]]} values; there is no value {of.index}", short)
    return pc.list_element(column, of.index).combine_chunks() if len(column) else pa.array([], kind.value_type)


def _milliseconds(table: pa.Table, name: str, needed: npt.NDArray[np.bool_], place: Place) -> npt.NDArray[np.int64]:
    """[B] int64; whatever where a time is not `needed`. Raises DataError where one that is needed is null."""
    values, _ = _values(table, name, 1, place)
    if not pa.types.is_integer(values.type):
        raise place.error(name, f"holds {values.type}; a time is an integer of milliseconds")
    missing = _where(values.is_null().to_numpy(zero_copy_only=False) & needed)
    if missing:
        raise place.error(name, "is null, but the label is 1; a positive needs its times", missing)
    milliseconds: npt.NDArray[np.int64] = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return milliseconds


def _as_text(values: pa.Array, name: str, place: Place) -> pa.Array:
    """Bytes as the text they are in UTF-8; anything else as it is."""
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowException:
        raise place.error(name, "holds bytes that are no UTF-8 text") from None


def _spread(flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, length: int, null: float) -> npt.NDArray[Any]:
    """`flat` values as [B, length], rows that are not `valid` filled with `null`."""
    values = flat.reshape(-1, length)
    if valid is None:
        return values
    rows = np.full((len(valid), length), null, values.dtype)
    rows[valid] = values
    return rows


def _join(parts: list[npt.NDArray[Any]], rows: int, dtype: type) -> Tensor:
    """Column blocks side by side, [B, Σ length]; no part at all gives [B, 0]."""
    width = sum(part.shape[1] for part in parts)
    joined = np.empty((rows, width), dtype)
    start = 0
    for part in parts:
        joined[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return torch.from_numpy(joined)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _check_zero_or_one(
    values: npt.NDArray[np.float32], column: str, place: Place, hint: str, *, nan: bool = False
) -> None:
    """Raise DataError for the first row that holds another value; `nan`: that is one that may be."""
    wrong = _where(~((values == 0) | (values == 1) | (nan & np.isnan(values))).all(axis=1))
    if wrong:
        bad = next(value for value in values[wrong[0]] if value not in (0, 1) and not (nan and np.isnan(value)))
        found = "null or NaN" if np.isnan(bad) else f"{bad:g}"
        raise place.error(column, f"found {found}, expected 0 or 1; {hint}", wrong)


def _where(wrong: npt.NDArray[np.bool_]) -> list[int]:
    """The rows that are wrong, rising."""
    return np.flatnonzero(wrong).tolist()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
