"""Embedding tables: their specification (`TableSpec`) and the lookup of codes (`Tables`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import cast

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.discrete import ZeroCollisionConfig, ZeroCollisionSpace
from recap.config.features import FeaturesConfig
from recap.config.histories import NumberEvents
from recap.config.model import NarrowConfig
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets, discrete_sizes
from recap.data.encoding.pretrained import pretrained_rows
from recap.errors import ConfigError
from recap.model.inputs.row_ids import RowIds
from recap.model.names import NamedModules

INITIAL_DEVIATION = 0.01
"""Rows start close to zero, so that a rarely seen code has little effect until it has been learned."""
BLOCK_ROWS = 1 << 20
"""The initial rows of a larger table are drawn in blocks of this many, each by itself."""


@dataclass(frozen=True)
class TableSpec:
    """One embedding table and the features that read it, like TorchRec's `EmbeddingBagConfig`.

    A history has a feature for its ids and one for each attribute that has codes. With

        features:
          discrete: {hour: {size: 24}, post: {hash: {buckets: 1000}}}
          histories: {watched: {ids: {column: watched, table: post}}}
        model:
          embeddings: {hour: 8, post: 16}

    `table_specs` returns

        [TableSpec(name="hour", num_embeddings=25, width=8, features=("hour",)),
         TableSpec(name="post", num_embeddings=1001, width=16, features=("post", "watched/ids"))]
    """

    name: str
    """The discrete feature, `HISTORY/ids` or `HISTORY/attributes/KEY` that defines the codes."""
    num_embeddings: int
    """Rows: one for each known code, and row 0 for unknown values."""
    width: int
    features: tuple[str, ...]
    """Every feature whose codes are rows of this table, the defining one first."""
    zero_collision: ZeroCollisionConfig | None = None
    """Set if codes name ids, which have rows only while they are frequent."""
    std: float = INITIAL_DEVIATION
    """The standard deviation of new rows."""
    block_of: str | None = None
    """The table whose rarer values these are, if not all of its rows have one width."""
    before: int = 0
    """The number of values before those of this block: row r is that of code `before` + r."""


def table_specs(config: RecapConfig, assets: Assets) -> list[TableSpec]:
    """The tables of a model: those of discrete features, then those of histories, in the order of the configuration.

    A width of 0 leaves a table out. The position has its own table (`PositionDebias`). A table with `narrow` rows is
    several, for values from frequent to rare. Raises ConfigError for a vocabulary with fewer values than it needs.
    """
    features, widths = config.features, config.model.widths
    if config.model.position_debias is not None:
        widths[config.model.position_debias.feature] = 0
    specs: list[TableSpec] = []
    spaces = features.code_spaces
    readers = _features_by_table(features)
    for name, codes in discrete_sizes(features, assets).items():
        owner = features.width_name(name)
        width = widths[owner] if owner in widths else widths[DEFAULT]
        if width:
            space = spaces[name]
            zero_collision = space.zero_collision if isinstance(space, ZeroCollisionSpace) else None
            std = config.model.initialization.embeddings.std
            spec = TableSpec(name, codes + 1, width, tuple(readers[name]), zero_collision, std)
            specs += _blocks(spec, config.model.embeddings[name].narrow if name in widths else [])
    return specs


def _blocks(spec: TableSpec, narrow: Sequence[NarrowConfig]) -> Iterator[TableSpec]:
    """The table of the frequent values and those of rarer ones, each with its own row 0."""
    values, starts = spec.num_embeddings - 1, [block.after for block in narrow]
    if starts and starts[-1] >= values:
        raise ConfigError(
            f"model.embeddings.{spec.name}.narrow.{len(starts) - 1}.after: must be below the number of values of the "
            f"vocabulary, {values:,}; found {starts[-1]:,}. Set it lower, or remove this entry"
        )
    ends = [*starts, values]
    yield replace(spec, num_embeddings=ends[0] + 1)
    for number, (block, end) in enumerate(zip(narrow, ends[1:], strict=True), start=1):
        yield replace(
            spec,
            name=f"{spec.name}/narrow_{number}",
            num_embeddings=end - block.after + 1,
            width=block.width,
            features=tuple(f"{feature}/narrow_{number}" for feature in spec.features),
            block_of=spec.name,
            before=block.after,
        )


def _features_by_table(features: FeaturesConfig) -> dict[str, list[str]]:
    tables = {name: features.table_of(name, column) for name, column in features.discrete.items()}
    for name, history in features.histories.items():
        tables[f"{name}/ids"] = features.table_of(f"{name}/ids", history.ids)
        for key, attribute in history.attributes.items():
            if not isinstance(attribute, NumberEvents):
                feature = f"{name}/attributes/{key}"
                tables[feature] = features.table_of(feature, attribute)
    readers: dict[str, list[str]] = {table: [table] for table in tables.values()}
    for feature, table in tables.items():
        if feature != table:
            readers[table].append(feature)
    return readers


class Tables(nn.Module, ABC):
    """Codes by feature → vectors by feature.

    The rest of a model sees only this interface, so replacing `ranker.inputs.embeddings` is enough to shard them.

        >>> tables = LocalTables([TableSpec("post", num_embeddings=1001, width=16, features=("post", "watched/ids"))])
        >>> codes = {
        ...     "post": torch.tensor([[[7, 12]], [[0, 0]]]),  # [B = 2, 1 value, 2 codes per value]
        ...     "watched/ids": torch.tensor([[[7, 12], [3, 9]], [[0, 0], [0, 0]]]),  # [B = 2, L = 2, 2 codes per value]
        ... }
        >>> {feature: vectors.shape for feature, vectors in tables(codes).items()}
        {'post': torch.Size([2, 1, 16]), 'watched/ids': torch.Size([2, 2, 16])}
    """

    is_sharded = False
    """Whether each rank holds a part of each table, which the tables' own optimizer moves in the backward pass."""

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self.by_feature = {feature: spec for spec in specs for feature in spec.features}
        self.row_ids: NamedModules | None = None
        """The ids of the rows of tables whose codes name ids; None if there are none, or ranks keep them."""

    @abstractmethod
    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of `by_feature`, each [B, N, codes per value] int64 → the same features, each [B, N, width].

        The vector of a value is the sum of the rows of its codes.
        """

    def rows_of(self, table: str, codes: Tensor) -> Tensor:
        """[…] codes of a table → […] rows, which differ for a zero-collision hash."""
        if self.row_ids is None or self.specs[table].zero_collision is None:
            return codes
        rows: Tensor = self.row_ids.named(table)(codes)
        return rows

    @abstractmethod
    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        """Overwrite rows: `codes` [N] int64, `vectors` [N, width] float32."""

    @abstractmethod
    def make_gradients_sparse(self) -> None:
        """Make the gradients of all tables sparse: they hold only the rows that were looked up."""


class LocalTables(Tables):
    """Every rank holds all tables."""

    def __init__(self, specs: Sequence[TableSpec], seed: int = 0) -> None:
        """`seed`: of the rows of tables of more than `BLOCK_ROWS`; others are drawn from torch's random state."""
        super().__init__(specs)
        self.tables = NamedModules({spec.name: _initial_table(spec, seed) for spec in specs})
        if row_ids := {spec.name: RowIds(spec.num_embeddings) for spec in specs if spec.zero_collision is not None}:
            self.row_ids = NamedModules(row_ids)

    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {feature: self._vectors(self.by_feature[feature].name, codes[feature]) for feature in codes}

    def _vectors(self, table: str, codes: Tensor) -> Tensor:
        rows: Tensor = self.tables.named(table)(self.rows_of(table, codes))  # [B, N, codes per value, width]
        return rows.squeeze(-2) if codes.shape[-1] == 1 else rows.sum(dim=-2)

    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        with torch.no_grad():
            self.weight(table)[codes] = vectors

    def weight(self, table: str) -> Tensor:
        """The rows of a table, [N, width]."""
        return cast(Tensor, self.tables.named(table).weight)

    def make_gradients_sparse(self) -> None:
        for table in self.tables.values():
            assert isinstance(table, nn.Embedding)
            table.sparse = True


BuildTables = Callable[[Sequence[TableSpec]], Tables]
"""Builds the tables of a model."""


def embedding_table(num_embeddings: int, width: int, std: float = INITIAL_DEVIATION) -> nn.Embedding:
    """A table with normal rows around zero; row 0, for unknown values, is zero."""
    table = nn.Embedding(num_embeddings, width)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table


def initial_rows(spec: TableSpec, seed: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
    """The first row and the rows [N, width] of each block of a new table that overlaps any [start, end) of `ranges`.

    A table of up to `BLOCK_ROWS` rows is one block, always drawn, from torch's random state. Every other block depends
    on `seed`, its table and its place alone, so that no process must draw those of others.
    """
    count, ranges = spec.num_embeddings, list(ranges)
    if count <= BLOCK_ROWS:
        yield 0, embedding_table(count, spec.width, spec.std).weight.detach()
        return
    for start in range(0, count, BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, count)
        if any(first < end and start < last for first, last in ranges):
            digest = blake2b(f"{seed}/{start}/{spec.name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
            rows = torch.empty(end - start, spec.width).normal_(std=spec.std, generator=generator)
            if start == 0:
                rows[0] = 0.0
            yield start, rows


def _initial_table(spec: TableSpec, seed: int) -> nn.Embedding:
    if spec.num_embeddings <= BLOCK_ROWS:
        return embedding_table(spec.num_embeddings, spec.width, spec.std)
    weight = torch.empty(spec.num_embeddings, spec.width)
    if not weight.is_meta:
        for start, rows in initial_rows(spec, seed, [(0, spec.num_embeddings)]):
            weight[start : start + len(rows)] = rows
    return nn.Embedding(spec.num_embeddings, spec.width, _weight=weight)


def load_pretrained(tables: Tables, config: RecapConfig, assets: Assets) -> None:
    """Copy the rows of `model.embeddings.NAME.pretrained` into their tables. Raises DataError."""
    spaces = config.features.code_spaces
    for name, embedding in config.model.embeddings.items():
        if embedding.pretrained is None:
            continue
        spec = tables.specs[config.features.own_table(name)]
        vocabulary, known = assets.get(spec.name), spec.num_embeddings - 1
        parts = pretrained_rows(embedding.pretrained, name, spec.width, known, spaces[spec.name], vocabulary)
        for codes, vectors in parts:
            tables.set_rows(spec.name, torch.from_numpy(codes), torch.from_numpy(vectors))
