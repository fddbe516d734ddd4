"""Discrete columns → embeddings, learned with the rest of the model."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.features import FeaturesConfig
from recap.config.optimizer import DEFAULT
from recap.data.assets import discrete_columns
from recap.model.names import NamedModules

INITIAL_DEVIATION = 0.01
"""Rows start close to zero, so that a rarely seen code says little until it has been learned."""


def embedding_table(codes: int, width: int) -> nn.Embedding:
    """A row for each code, 1 to `codes`, and row 0 for what is unknown, which starts at zero."""
    table = nn.Embedding(codes + 1, width)
    nn.init.normal_(table.weight, std=INITIAL_DEVIATION)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table


class DiscreteEmbeddings(nn.Module):
    """One table a feature, with a row for each code and row 0 for everything unknown, which starts at zero.

    [B, D] int64 codes → [B, Σ length · width] float32, features in the order of the configuration.
    """

    def __init__(self, features: FeaturesConfig, widths: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """`widths` by feature name or `default`; 0 leaves a feature out. `sizes`: known codes of each."""
        super().__init__()
        tables: dict[str, nn.Module] = {}
        self.columns: list[slice] = []
        self.widths: list[int] = []
        for name, columns in discrete_columns(features).items():
            width = widths[name] if name in widths else widths[DEFAULT]
            if width:
                tables[name] = embedding_table(sizes[name], width)
                self.columns.append(columns)
                self.widths += [width] * features.discrete[name].length
        self.tables = NamedModules(tables)

    def forward(self, discrete: Tensor) -> Tensor:
        """[B, D] → [B, Σ widths]."""
        tables = self.tables.ordered()
        parts = [table(discrete[:, columns]).flatten(1) for table, columns in zip(tables, self.columns, strict=True)]
        return torch.cat(parts, dim=1)
