"""Vocabularies of string columns: code of a string = its row + 1; code 0 is the unknown bucket."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.features import FeaturesConfig, Vocabulary
from recap.data.sources.files import open_file
from recap.data.sources.filesystem import is_remote
from recap.errors import DataError

Vocabularies = Mapping[str, pa.Array]
"""Feature name → its known strings in order of code (string array)."""


def load_vocabularies(features: FeaturesConfig, model_dir: Path | None = None) -> Vocabularies:
    """The vocabulary of every feature that has one: from the files the config names, or those a model carries."""
    return {
        name: _load(str(vocabulary_path(model_dir, name)) if model_dir else discrete.vocabulary, name)
        for name, discrete in features.discrete.items()
        if isinstance(discrete, Vocabulary)
    }


def discrete_sizes(features: FeaturesConfig, vocabularies: Vocabularies) -> dict[str, int]:
    """Known codes of every discrete feature, without the unknown bucket."""
    return {
        name: len(vocabularies[name]) if isinstance(discrete, Vocabulary) else discrete.size
        for name, discrete in features.discrete.items()
    }


def vocabulary_path(model_dir: Path, name: str) -> Path:
    """Where a model directory keeps the vocabulary of feature `name`."""
    return model_dir / "vocabularies" / f"{quote(name, safe='')}.parquet"


def save_vocabulary(values: pa.Array, path: Path) -> None:
    """Write a vocabulary that `load_vocabularies` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"value": values}), path)


def _read(file: str) -> pa.Table:
    if not is_remote(file):
        return pq.read_table(file)
    with open_file(file) as stream:
        return pq.read_table(stream)


def _load(file: str, name: str) -> pa.Array:
    where = f"{file}: vocabulary of {name!r}"
    try:
        table = _read(file)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; see features.discrete.{name}.vocabulary") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}: not readable as Parquet ({error})") from None
    if table.num_columns == 0:
        raise DataError(f"{where}: has no column; its first column must list the known strings")
    try:
        values = table.column(0).cast(pa.string()).combine_chunks()
    except pa.ArrowException:
        raise DataError(f"{where}: column 0 is {table.schema.types[0]}; it must hold strings") from None
    if values.null_count:
        raise DataError(f"{where}: row {values.is_null().to_pylist().index(True)} is null; every row is a string")
    if len(values.unique()) != len(values):
        seen: set[str] = set()
        for row, value in enumerate(values.to_pylist()):
            if value in seen:
                raise DataError(f"{where}: row {row} repeats {value!r}; each string may stand once")
            seen.add(value)
    return values
