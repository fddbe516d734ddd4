"""The inputs of an exported program: one tensor for each feature, and several for a history."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recap.config.checks.common import is_position
from recap.config.discrete import HashSpace, SharedCodes, Vocabulary, VocabularySpace, ZeroCollisionSpace
from recap.config.features import Column
from recap.config.histories import NumberEvents
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import (
    Assets,
    asset_path,
    discrete_columns,
    discrete_sizes,
    largest_codes,
    numeric_columns,
)

ROWS = "rows"
"""The dimension that all inputs share."""


@dataclass(frozen=True)
class Input:
    """One tensor that a program reads, and its place in `Batch`."""

    name: str
    dtype: torch.dtype
    """float32 or int64."""
    shape: tuple[str | int, ...]
    """`ROWS`, then widths; the number of events of a history is a dimension of its own, `events of NAME`."""
    source: Mapping[str, Any]
    """How its values arise from the data, for `signature.json`."""
    part: str
    """A name of `Batch.tensors`."""
    columns: slice | None = None
    """Its columns in that tensor; None: all of it."""
    largest: int | None = None
    """The largest code, or the largest number of events."""

    @property
    def dimensions(self) -> dict[int, str]:
        """The index of each dimension of any size → its name."""
        return {index: size for index, size in enumerate(self.shape) if isinstance(size, str)}

    def of_batch(self, batch: Batch) -> Tensor:
        """The values of an encoded batch."""
        values = batch.tensors()[self.part]
        if self.columns is not None:
            values = values[:, self.columns]
        if values.dim() > len(self.shape):
            values = values.squeeze(-1)
        return values.to(self.dtype)


def inputs_of(config: RecapConfig, assets: Assets) -> list[Input]:
    """The inputs of the program of a model, in the order of `config.features`.

    The position of `model.position_debias` is none of them, because scores do not depend on it.
    """
    histories = (each for name in config.features.histories for each in _history(config, assets, name))
    return [*_numbers(config, assets), *_discrete(config, assets), *_vectors(config), *histories]


def tables_of(config: RecapConfig, assets: Assets) -> dict[str, dict[str, Any]]:
    """Table → how its values become codes, for `signature.json`."""
    tables: dict[str, dict[str, Any]] = {}
    for name, size in discrete_sizes(config.features, assets).items():
        space = config.features.code_spaces[name]
        if is_position(config.model, name):
            continue
        if isinstance(space, VocabularySpace):
            tables[name] = {"kind": "vocabulary", "file": asset_path(Path(), name).as_posix(), "values": size}
        elif isinstance(space, HashSpace):
            tables[name] = {"kind": "hash", "buckets": size, "hashes": space.hash.hashes, "seed": space.hash.seed}
        elif isinstance(space, ZeroCollisionSpace):
            tables[name] = {"kind": "zero_collision"}
        else:
            tables[name] = {"kind": "integers", "size": size}
    return tables


def batch_of(values: Mapping[str, Tensor], inputs: Sequence[Input], discrete: int) -> Batch:
    """The `Batch` of input values. `discrete`: its columns of codes, of which those without an input are 0."""
    first = next(iter(values.values()))
    rows = first.shape[0]
    numbers: dict[str, list[Tensor]] = {"continuous": [], "binary": []}
    codes = [torch.zeros((rows, 1), dtype=torch.int64, device=first.device)] * discrete
    parts: dict[str, dict[str, Tensor]] = {"vectors": {}, "histories": {}}
    for each in inputs:
        value = values[each.name]
        if each.columns is None:
            part, _, key = each.part.partition("/")
            one_code = each.source["kind"] == "event codes" and value.dim() == 2
            parts[part][key] = value.unsqueeze(2) if one_code else value
            continue
        columns = value.reshape(rows, each.columns.stop - each.columns.start)
        if each.part == "discrete":
            codes[each.columns] = [columns[:, index : index + 1] for index in range(columns.shape[1])]
        else:
            numbers[each.part].append(columns)
    empty = torch.zeros((rows, 0), dtype=torch.float32, device=first.device)
    return Batch(
        continuous=torch.cat(numbers["continuous"], dim=1) if numbers["continuous"] else empty,
        binary=torch.cat(numbers["binary"], dim=1) if numbers["binary"] else empty,
        discrete=torch.cat(codes, dim=1) if codes else empty.long(),
        vectors=parts["vectors"],
        histories=parts["histories"],
    )


def _numbers(config: RecapConfig, assets: Assets) -> Iterator[Input]:
    for column, part, columns in numeric_columns(config.features, assets):
        shape = (ROWS,) if column.length == 1 else (ROWS, len(columns))
        source = {"kind": part, "null": 0 if part == "binary" else "NaN", **_column(column, assets)}
        yield Input(column.name, torch.float32, shape, source, part, slice(columns.start, columns.stop))


def _column(column: Column, assets: Assets) -> dict[str, Any]:
    """The steps from a numeric column to its values."""
    steps: dict[str, Any] = {"column": column.name}
    if column.of is not None:
        steps = {"column": column.of.column, "element": column.of.index}
    if column.mask is not None:
        steps["elements"] = np.flatnonzero(assets[column.name].to_numpy(zero_copy_only=False)).tolist()
    elif column.first is not None:
        steps["elements"] = list(range(column.first))
    return steps | _rounding(column.masked_mantissa_bits, column.dtype)


def _rounding(masked_mantissa_bits: int | None, dtype: str) -> dict[str, Any]:
    bits = {} if masked_mantissa_bits is None else {"masked_mantissa_bits": masked_mantissa_bits}
    return bits | ({} if dtype == "float32" else {"stored_as": dtype})


def _discrete(config: RecapConfig, assets: Assets) -> Iterator[Input]:
    features = config.features
    for name, columns in discrete_columns(features).items():
        discrete = features.discrete[name]
        if is_position(config.model, name):
            continue
        of = None if isinstance(discrete, Vocabulary) else discrete.of
        column = {"column": name} if of is None else {"column": of.column, "element": of.index}
        table = features.table_of(name, discrete)
        width = columns.stop - columns.start
        shape = (ROWS,) if width == 1 else (ROWS, width)
        source = {"kind": "codes", "null": 0, **column, "length": discrete.length, "table": table}
        yield Input(name, torch.int64, shape, source, "discrete", columns, _size(config, assets, table))


def _vectors(config: RecapConfig) -> Iterator[Input]:
    for name, vector in config.features.vectors.items():
        rounding = _rounding(vector.masked_mantissa_bits, vector.dtype)
        source = {"kind": "vector", "null": 0, "column": name, **rounding}
        yield Input(name, torch.float32, (ROWS, vector.length), source, f"vectors/{name}")


def _history(config: RecapConfig, assets: Assets, name: str) -> Iterator[Input]:
    features, history = config.features, config.features.histories[name]
    events = f"events of {name}"

    def codes(key: str, column: str, coded: SharedCodes) -> Input:
        table = features.table_of(key, coded)
        hashes = features.codes_per_value(table)
        shape = (ROWS, events) if hashes == 1 else (ROWS, events, hashes)
        source = {"kind": "event codes", "null": 0, "column": column, "table": table, "keep": history.keep}
        return Input(key, torch.int64, shape, source, f"histories/{key}", largest=_size(config, assets, table))

    key, column = f"{name}/length", history.ids.column
    source = {"kind": "events", "column": column, "keep": history.keep, "max": history.max_length}
    yield Input(key, torch.int64, (ROWS,), source, f"histories/{key}", largest=history.max_length)
    yield codes(f"{name}/ids", column, history.ids)
    for attribute, events_of in history.attributes.items():
        key, column = f"{name}/attributes/{attribute}", events_of.column
        if isinstance(events_of, NumberEvents):
            source = {"kind": "event numbers", "null": "NaN", "column": column, "keep": history.keep}
            yield Input(key, torch.float32, (ROWS, events), source, f"histories/{key}")
        else:
            yield codes(key, column, events_of)


def _size(config: RecapConfig, assets: Assets, table: str) -> int:
    return largest_codes(config.features, assets)[table]
