"""Plain columns of a small table, all in one call: with few rows Arrow's cost is by column, not by value.

The results are those of reading column by column, bit for bit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.encoding.columns import Floats

_FEW_ROWS = 4096
"""In larger tables, columns are read one by one, without the copy."""
_INTEGERS = frozenset(kind.id for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16()))
"""uint32 and uint64 are left out: Arrow joins uint64 and int64 as floats."""
_NUMBERS = _INTEGERS | {pa.float32().id, pa.float64().id}
_BOOL = pa.bool_().id


def plain_numbers(table: pa.Table, names: Sequence[str]) -> tuple[list[str], Floats]:
    """Those of the columns `names` that hold integers, float32 or float64, or booleans without nulls, and [B, of them].

    Null is NaN.
    """
    types = _types(table, names)
    numbers = [name for name, kind in types.items() if kind in _NUMBERS]
    flags = [name for name, kind in types.items() if kind == _BOOL and not table.column(name).null_count]
    parts = [np.stack([table.column(name).to_numpy() for name in flags], axis=1)] if flags else []
    values = _matrix(table, numbers)
    if values is None:
        numbers = []
    elif values.dtype.kind == "f":
        parts.append(values)
    else:
        parts.append(values.astype(np.float64))  # as `floats_of`, which rounds twice
    with np.errstate(over="ignore"):  # to infinity, as Arrow does
        parts = [part.astype(np.float32, copy=False) for part in parts]
    if len(parts) == 1:
        return flags + numbers, parts[0]
    return flags + numbers, np.concatenate(parts, axis=1) if parts else np.empty((table.num_rows, 0), np.float32)


def plain_codes(table: pa.Table, sizes: dict[str, int]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Those of the columns of `sizes` that hold integers, and their codes [B, of them]: 0 for null and out of range.

    `sizes`: column → the number of its values, which count from 0.
    """
    names = [name for name, kind in _types(table, list(sizes)).items() if kind in _INTEGERS]
    values = _matrix(table, names)
    if values is None:
        return [], np.empty((table.num_rows, 0), np.int64)
    known = (values >= 0) & (values < np.array([sizes[name] for name in names]))  # False for NaN
    return names, np.where(known, values, -1).astype(np.int64) + 1


def _types(table: pa.Table, names: Sequence[str]) -> dict[str, int]:
    """Column → the id of its Arrow type; nothing for a large table."""
    if not names or table.num_rows > _FEW_ROWS:
        return {}
    schema = table.schema
    return {name: schema.field(name).type.id for name in names}


def _matrix(table: pa.Table, names: Sequence[str]) -> npt.NDArray[Any] | None:
    """The columns side by side, in the dtype that holds all of them, NaN where null; None if they are in chunks."""
    batches = table.select(names).to_batches() if names else []
    if len(batches) != 1:
        return None
    matrix: npt.NDArray[Any] = batches[0].to_tensor(null_to_nan=True).to_numpy()
    return matrix
