"""The names of the single values that a model reads, for reports."""

import re
from collections.abc import Mapping

import numpy as np

from recap.config.features import Column, FeaturesConfig
from recap.data.encoding.assets import Assets
from recap.data.formats.files import read_bytes
from recap.errors import DataError
from recap.text import shorten

MAX_BYTES = 16 << 20
"""Of a file of names."""
_MAX_LENGTH = 100
"""Characters of a name; the rest is cut."""


def value_names(features: FeaturesConfig, assets: Assets) -> Mapping[str, list[str]]:
    """Numeric column or vector → a name for each of its values that the model reads, in their order.

    The column, or NAME[0], NAME[1], … if it has several; with a file in `features.names`, NAME[weekday], …. Raises
    DataError for a file that cannot be read or has another number of names.
    """
    names = {}
    for column in (*features.continuous, *features.binary):
        listed = _names(column.name, column.length, features)
        names[column.name] = [listed[index] for index in _read(column, assets)]
    return names | {name: _names(name, vector.length, features) for name, vector in features.vectors.items()}


def _names(feature: str, length: int, features: FeaturesConfig) -> list[str]:
    """A name for each of the `length` values of a column."""
    file = features.names.get(feature)
    if file is None:
        return [feature] if length == 1 else [f"{feature}[{index}]" for index in range(length)]
    where = f"{file}: names of {feature!r}"
    try:
        content = read_bytes(file)
        text = content.decode("utf-8-sig") if len(content) <= MAX_BYTES else ""
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; see features.names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not readable as UTF-8 text ({error})") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{where}: found {len(content):,} bytes, expected at most {MAX_BYTES:,}; give one name a line")
    lines = [shorten(line.strip(), _MAX_LENGTH) for line in re.split("\r\n|\n|\r", text)]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) != length:
        raise DataError(f"{where}: found {len(lines):,} lines, expected {length:,}, one for each value of the column")
    if "" in lines:
        raise DataError(f"{where}:{lines.index('') + 1}: empty; every value needs a name")
    return [f"{feature}[{line}]" for line in lines]


def _read(column: Column, assets: Assets) -> list[int]:
    """The positions of the values of a numeric column that the model reads."""
    if column.mask is None:
        return list(range(column.read))
    return np.flatnonzero(assets[column.name].to_numpy(zero_copy_only=False)).tolist()
