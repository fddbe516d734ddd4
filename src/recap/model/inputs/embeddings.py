"""Discrete values → embeddings, learned with the rest of the model; it owns every table, also those of histories."""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.discrete import SharedTable
from recap.config.features import FeaturesConfig
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets, discrete_columns
from recap.data.encoding.pretrained import pretrained_rows
from recap.model.names import NamedModules

INITIAL_DEVIATION = 0.01
"""Rows start close to zero, so that a rarely seen code says little until it has been learned."""


class _Feature(NamedTuple):
    """Which columns of [B, D] are the codes of a feature, and of which table."""

    table: str
    columns: slice
    length: int
    codes: int
    """Of each of its values."""


def embedding_table(codes: int, width: int) -> nn.Embedding:
    """A row for each code, 1 to `codes`, and row 0 for what is unknown, which starts at zero."""
    table = nn.Embedding(codes + 1, width)
    nn.init.normal_(table.weight, std=INITIAL_DEVIATION)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table


class DiscreteEmbeddings(nn.Module):
    """One table a code space, with a row for each code and row 0 for everything unknown, which starts at zero.

    [B, D] int64 codes → [B, Σ length · width] float32, features in the order of the configuration.
    """

    def __init__(self, features: FeaturesConfig, widths: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """`widths` by feature name or `default`; 0 leaves a feature out. `sizes`: known codes of each table.

        The events of a history are of one width: that of the table of its ids.
        """
        super().__init__()
        self.widths: list[int] = []
        self.width_of: dict[str, int] = {}
        tables: dict[str, nn.Module] = {}
        for name in features.code_spaces:
            width = self.width_of[name] = _width(features, widths, name)
            if width:
                tables[name] = embedding_table(sizes[name], width)
        self.tables = NamedModules(tables)
        self.features: dict[str, _Feature] = {}
        for name, columns in discrete_columns(features).items():
            discrete = features.discrete[name]
            owner = features.table_of(name, discrete)
            if self.width_of[owner]:
                codes = features.codes_of_a_value(owner)
                self.features[name] = _Feature(owner, columns, discrete.length, codes)
                self.widths += [self.width_of[owner]] * discrete.length

    def make_gradients_sparse(self) -> None:
        """From now on the gradient of a table holds only the rows that were looked up."""
        for table in self.tables.values():
            assert isinstance(table, nn.Embedding)
            table.sparse = True

    def rows(self, table: str, codes: Tensor) -> Tensor:
        """[…, codes of a value] int64 → […, width] float32: the sum of the rows that a value stands for."""
        found: Tensor = self.tables.named(table)(codes)
        return found.squeeze(-2) if codes.shape[-1] == 1 else found.sum(dim=-2)

    def of_feature(self, name: str, discrete: Tensor) -> Tensor:
        """One feature that has an embedding, [B, D] → [B, length, width]."""
        table, columns, length, codes = self.features[name]
        return self.rows(table, discrete[:, columns].reshape(-1, length, codes))

    def forward(self, discrete: Tensor) -> Tensor:
        """[B, D] → [B, Σ widths]."""
        return torch.cat([self.of_feature(name, discrete).flatten(1) for name in self.features], dim=1)


def load_pretrained(embeddings: DiscreteEmbeddings, config: RecapConfig, assets: Assets) -> None:
    """Have the rows that `model.embeddings` has from elsewhere stand in their tables. Raises DataError."""
    spaces = config.features.code_spaces
    for name, said in config.model.embeddings.items():
        if said.pretrained is None:
            continue
        table = config.features.own_table(name)
        weight = cast(Tensor, embeddings.tables.named(table).weight)
        vocabulary, size = assets.get(table), len(weight) - 1
        for rows in pretrained_rows(said.pretrained, name, said.width, size, spaces[table], vocabulary):
            with torch.no_grad():
                weight[torch.from_numpy(rows.codes)] = torch.from_numpy(rows.vectors)


def _width(features: FeaturesConfig, widths: Mapping[str, int], table: str) -> int:
    """The width of a table; one that only a history has is as wide as that of its ids."""
    if table in features.discrete:
        return widths[table] if table in widths else widths[DEFAULT]
    history, _, _ = table.partition("/")
    ids = features.histories[history].ids
    if isinstance(ids, SharedTable):
        return _width(features, widths, ids.table)
    return widths[history] if history in widths else widths[DEFAULT]
