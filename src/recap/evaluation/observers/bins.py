"""The values of every column in a few groups, so that one count or one sum for each describes how a model treats it.

A numeric column has ten ranges with about equally many rows of a sample, and missing values apart; a binary column its
two values; a discrete column its most frequent values, the unknown ones, and all others.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recap.config.discrete import HashSpace, ZeroCollisionSpace
from recap.config.features import FeaturesConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, discrete_columns, numeric_columns
from recap.data.encoding.value_names import value_names

RANGES = 10
"""Ranges of a numeric column; fewer where it has few values."""
CODES = 64
"""The most frequent values of a discrete column that stand for themselves."""
MISSING, UNKNOWN, OTHERS = "missing", "unknown or missing", "others"
Stratum = Mapping[str, Any]


@dataclass(frozen=True)
class Bin:
    """The rows in which a column has some values."""

    text: str
    """The values, as a person writes them: `8`, `en`, `1 to 24`, `missing`."""
    stratum: Stratum | None = None
    """The same rows as an entry of `strata`; None if none selects them."""


@dataclass(frozen=True, eq=False)
class BinnedColumn:
    """One column, and the bins of its values."""

    feature: str
    """Its name; `NAME[2]` for the third value of a list, or `NAME[weekday]` if `features.names` names it."""
    role: str
    """The tensor of `Batch` that holds it."""
    index: int
    """Its column there."""
    bins: Sequence[Bin]
    known: Tensor
    """Ascending: the lower ends of all ranges but the first [N] float32, or the codes of the first bins [N] int64."""

    def of(self, batch: Batch) -> Tensor:
        """[B] int64, the bin of each row."""
        values = getattr(batch, self.role)[:, self.index].contiguous()
        known = self.known.to(values.device)
        if self.role == "discrete":
            position = torch.searchsorted(known, values).clamp(max=len(known) - 1)
            return torch.where(known[position] == values, position, len(known))
        values = values.float()
        return torch.where(torch.isfinite(values), torch.searchsorted(known, values, right=True), len(known) + 1)


@dataclass(frozen=True, eq=False)
class Bins:
    """The bins of some columns, one after the other."""

    columns: Sequence[BinnedColumn]
    left_out: int = 0
    """Columns that were left out, because there are too many."""

    @classmethod
    def of(
        cls,
        features: FeaturesConfig,
        assets: Assets,
        sample: Sequence[Batch],
        chosen: Collection[str] | None = None,
        limit: int | None = None,
    ) -> "Bins":
        """Bins that fit the rows of `sample`.

        `chosen`: the features to bin; default: all but vectors and histories. `limit`: leave out columns
        beyond this number of bins.
        """
        columns: list[BinnedColumn] = []
        total = left_out = 0
        for name, column in _columns(features, assets, sample):
            if chosen is not None and name not in chosen:
                continue
            if limit is not None and total + len(column.bins) > limit:
                left_out += 1
                continue
            columns.append(column)
            total += len(column.bins)
        return cls(columns, left_out)

    def __len__(self) -> int:
        return sum(len(column.bins) for column in self.columns)

    @property
    def starts(self) -> list[int]:
        """The first bin of each column."""
        sizes = [len(column.bins) for column in self.columns]
        return np.cumsum([0, *sizes[:-1]]).tolist() if sizes else []

    def index(self, batch: Batch) -> Tensor:
        """[columns, B] int64, the bin of each row, counted over all columns."""
        parts = [column.of(batch) + start for column, start in zip(self.columns, self.starts, strict=True)]
        return torch.stack(parts) if parts else torch.zeros((0, len(batch)), dtype=torch.int64)

    def without_hashed(self, features: FeaturesConfig) -> "Bins":
        """The columns whose values have names, for which hashes leave only numbers."""
        hashed = {name for name in features.discrete if _is_hashed(features, name)}
        columns = [column for column in self.columns if column.feature.partition("[")[0] not in hashed]
        return replace(self, columns=columns)


def _columns(features: FeaturesConfig, assets: Assets, sample: Sequence[Batch]) -> Iterator[tuple[str, BinnedColumn]]:
    """The feature and the bins of every column, in the order of the configuration."""
    numeric = value_names(features, assets)
    for column, role, positions in numeric_columns(features, assets):
        for position, name in enumerate(numeric[column.name], positions.start):
            yield column.name, _numeric(name, role, position, sample, is_list=column.length > 1)
    for feature, codes in discrete_columns(features).items():
        table = features.table_of(feature, features.discrete[feature])
        names = _ValueNames(table, assets, hashed=_is_hashed(features, feature))
        length = features.discrete[feature].length
        for number, position in enumerate(range(codes.start, codes.stop, features.codes_per_value(table))):
            name = feature if length == 1 else f"{feature}[{number}]"
            yield feature, _discrete(name, position, sample, names, is_list=length > 1)


def _is_hashed(features: FeaturesConfig, name: str) -> bool:
    space = features.code_spaces.get(features.table_of(name, features.discrete[name]))
    return isinstance(space, HashSpace | ZeroCollisionSpace)


def _values(sample: Sequence[Batch], role: str, index: int) -> Tensor:
    parts = [getattr(batch, role)[:, index] for batch in sample]
    return torch.cat(parts) if parts else torch.zeros(0)


def _numeric(name: str, role: str, index: int, sample: Sequence[Batch], *, is_list: bool) -> BinnedColumn:
    values = _values(sample, role, index).float()
    ends = range_ends(values[torch.isfinite(values)].numpy()) if role == "continuous" else [1.0]
    feature = {"feature": name}
    if role == "binary":
        bins = [Bin(str(value), feature | {"value": value}) for value in (0, 1)]
    else:
        bounds = [*zip([None, *ends], [*ends, None], strict=True)]
        texts = range_texts(ends)
        bins = [Bin(text, feature | _range(*bound)) for text, bound in zip(texts, bounds, strict=True)]
        bins = bins if ends else [Bin(bins[0].text)]  # which is all rows
    if is_list:
        bins = [Bin(item.text) for item in bins]
    return BinnedColumn(name, role, index, [*bins, Bin(MISSING)], torch.tensor(ends, dtype=torch.float32))


def range_ends(values: Any) -> list[float]:
    """The inner ends of at most `RANGES` ranges with about equally many of the `values` [N], ascending.

    Each is one of the values and begins a range; fewer where values repeat, none below two distinct values.
    """
    if not len(values):
        return []
    ends = np.quantile(values, np.arange(1, RANGES) / RANGES, method="higher")
    return [float(end) for end in np.unique(ends) if end > values.min()]


def _range(low: float | None, high: float | None) -> dict[str, float]:
    bounds = {"at_least": low, "below": high}
    return {key: bound for key, bound in bounds.items() if bound is not None}


def range_texts(ends: Sequence[float]) -> list[str]:
    """The ranges between `ends`, ascending, for a person, with as few digits as tell the ends apart, but three."""
    if not ends:
        return ["any value"]
    digits = next((count for count in range(3, 9) if len({_number(end, count) for end in ends}) == len(ends)), 9)
    texts = [_number(end, digits) for end in ends]
    return [f"below {texts[0]}", *(f"{low} to {high}" for low, high in pairwise(texts)), f"{texts[-1]} or more"]


def _number(value: float, digits: int) -> str:
    """`0.0123`, `1,230` or `1.23 M` with `digits` digits; whole below a million."""
    size = abs(float(f"{value:.{digits}g}"))
    if size < 1000:
        return f"{value:.{digits}g}"
    if size < 1e6:
        return f"{value:,.{max(digits - len(str(int(size))), 0)}f}"
    return f"{value / 1e6:,.{digits}g} M" if size < 1e9 else f"{value / 1e9:.{digits}g} G"


@dataclass(frozen=True)
class _ValueNames:
    """The values that the codes of a table stand for."""

    table: str
    assets: Assets
    hashed: bool

    def __getitem__(self, code: int) -> str | int:
        if self.table in self.assets:
            return str(self.assets[self.table][code - 1].as_py())
        return code - 1


def _discrete(name: str, index: int, sample: Sequence[Batch], names: _ValueNames, *, is_list: bool) -> BinnedColumn:
    codes, counts = np.unique(_values(sample, "discrete", index).numpy().astype(np.int64), return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:CODES]
    known = sorted({0, *codes[frequent].tolist()})
    bins = [Bin(MISSING if names.hashed else UNKNOWN)]
    for code in known[1:]:
        value = names[code]
        named = not (is_list or names.hashed)
        text = f"hash {code}" if names.hashed else str(value)
        bins.append(Bin(text, {"feature": name, "value": value} if named else None))
    return BinnedColumn(name, "discrete", index, [*bins, Bin(OTHERS)], torch.tensor(known, dtype=torch.int64))
