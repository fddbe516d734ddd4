"""The types of the request log: however clients send a column, its values have one type for each version."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recap.data.encoding.kinds import decoded, integers_of, is_bytes, is_list, is_text, texts_of
from recap.data.formats.location import Location
from recap.errors import DataError
from recap.inference.requests import RequestScorer

_LOG = Location("request log")


def log_types(scorer: RequestScorer) -> Mapping[str, pa.DataType]:
    """Column → its type in the log: that in which training reads it; text for ids, which no feature reads."""
    features = scorer.config.features
    carried = {column.name: pa.string() for column in features.carried if column.of is None}
    if features.timestamp is not None:
        carried[features.timestamp] = pa.int64()
    return {**carried, **scorer.schema}


def uniform(columns: Mapping[str, pa.Array], types: Mapping[str, pa.DataType], rows: int) -> dict[str, pa.Array]:
    """Columns of a request in the order and the types of `types`, with nulls for those that it lacks.

    A model predicts the same from them, bit for bit. Values that do not fit, such as integers beyond 64 bits, keep the
    type in which they came; columns without a type do so too, and are last.
    """
    typed = {
        name: _as_type(columns[name], kind) if name in columns else pa.nulls(rows, kind) for name, kind in types.items()
    }
    return typed | {name: values for name, values in columns.items() if name not in types}


def _as_type(values: pa.Array, kind: pa.DataType) -> pa.Array:
    values = decoded(values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values)
    if values.type == kind:
        return values
    try:
        if is_list(kind) and is_list(values.type):
            lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            mask = values.is_null() if values.null_count else None
            return pa.ListArray.from_arrays(offsets, _converted(values.flatten(), kind.value_type), mask=mask)
        return _converted(values, kind)
    except (DataError, pa.ArrowException):
        return values


def _converted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Raises DataError and ArrowException for values that do not fit."""
    if values.type == kind:
        return values
    if is_text(kind):
        if pa.types.is_floating(values.type) and not _is_whole(values):
            return values.cast(kind)
        is_known = is_text(values.type) or is_bytes(values.type) or pa.types.is_null(values.type)
        numbers = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        return (texts_of(values, "", _LOG, "text") if is_known or numbers else values).cast(kind)
    if pa.types.is_integer(kind):
        return integers_of(values, "", _LOG, "integers").cast(kind)
    return values.cast(kind, safe=False)


def _is_whole(values: pa.Array) -> bool:
    numbers = values.cast(pa.float64()).drop_null().to_numpy()
    return bool((np.isnan(numbers) | (numbers == np.trunc(numbers))).all())
