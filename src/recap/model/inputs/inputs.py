"""`Inputs`: the columns of a batch → one vector per row."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recap.config.featurization import BINARY
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, column_width, discrete_columns, discrete_sizes
from recap.model.histories.inputs import Histories
from recap.model.inputs.featurization import build_featurization
from recap.model.inputs.layout import InputLayout
from recap.model.inputs.position import PositionDebias
from recap.model.inputs.tables import LocalTables, Tables, table_specs
from recap.model.names import NamedModules


class _DiscreteFeature(NamedTuple):
    """A discrete feature that has a table."""

    columns: slice
    """Its columns in `Batch.discrete`."""
    length: int
    """Values per row; each has one code or, if hashed, several."""


class Inputs(nn.Module):
    """`Batch` → [B, layout.width] float32: featurized numbers, vectors, the position, histories, embeddings."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        super().__init__()
        features, model = config.features, config.model
        lengths = {name: vector.length for name, vector in features.vectors.items()}
        self.joins_binary = BINARY in model.featurization.join
        self.joined_vectors = [name for name in lengths if name in model.featurization.join]
        self.vector_names = [name for name in lengths if name not in model.featurization.join]
        continuous = sum(column_width(column, assets) for column in features.continuous)
        binary = sum(column_width(column, assets) for column in features.binary)
        joined = sum(lengths[name] for name in self.joined_vectors)
        numbers = sum(lengths[name] for name in self.vector_names)
        if self.joins_binary:
            joined += binary
        else:
            numbers += binary
        self.featurization = build_featurization(model.featurization, continuous, joined)
        numbers += self.featurization.out_features
        self.vector_norms = NamedModules({name: nn.LayerNorm(lengths[name]) for name in self.vector_names})
        columns = discrete_columns(features)
        self.position: PositionDebias | None = None
        if model.position_debias is not None:
            feature = model.position_debias.feature
            self.position = PositionDebias(model.position_debias, discrete_sizes(features, assets)[feature])
            self.position_column = columns[feature].start
            numbers += self.position.out_features
        self.embeddings: Tables = LocalTables(table_specs(config, assets))
        tables = self.embeddings.by_feature
        self.discrete = {
            name: _DiscreteFeature(columns[name], discrete.length)
            for name, discrete in features.discrete.items()
            if name in tables
        }
        self.history_features = [feature for feature in tables if feature not in features.discrete]
        self.histories: Histories | None = None
        if features.histories:
            self.histories = Histories(features, model.histories, tables)
            numbers += self.histories.out_features
        widths = [tables[name].width for name, feature in self.discrete.items() for _ in range(feature.length)]
        self.layout = InputLayout(numbers, widths)

    def forward(self, batch: Batch) -> Tensor:
        """The input vectors of `batch`; labels, weights and users are not read."""
        binary = batch.binary.float()
        joined = [binary] if self.joins_binary else []
        joined += [batch.vectors[name].float() for name in self.joined_vectors]
        appended = torch.cat(joined, dim=1) if joined else binary[:, :0]
        parts = [self.featurization(batch.continuous.float(), appended)]
        if not self.joins_binary:
            parts.append(binary)
        parts += [self.vector_norms.named(name)(batch.vectors[name].float()) for name in self.vector_names]
        if self.position is not None:
            parts.append(self.position(batch.discrete[:, self.position_column]))
        embeddings = self.embeddings(self._codes(batch))  # feature → [B, N, width]
        if self.histories is not None:
            parts.append(self.histories(batch, embeddings))
        parts += [embeddings[name].flatten(1) for name in self.discrete]
        return torch.cat(parts, dim=1)

    def _codes(self, batch: Batch) -> dict[str, Tensor]:
        """Feature → its codes, [B, N, codes per value], for every feature that has a table."""
        codes = {
            name: torch.unflatten(batch.discrete[:, columns], 1, (length, -1))
            for name, (columns, length) in self.discrete.items()
        }
        return codes | {feature: batch.histories[feature] for feature in self.history_features}
