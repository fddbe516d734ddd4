"""The columns of a batch as one row of numbers, and where each feature stands in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recap.config.featurization import BINARY
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, column_width, discrete_columns, discrete_sizes
from recap.model.histories.inputs import Histories
from recap.model.inputs.embeddings import DiscreteEmbeddings
from recap.model.inputs.featurization import build_featurization
from recap.model.inputs.position import PositionDebias
from recap.model.names import NamedModules


@dataclass(frozen=True)
class InputLayout:
    """What the columns of [B, width] are: first numbers, then embeddings end to end."""

    numbers: int
    """Columns that are featurized numbers, vectors, the position and histories, or anything else without fields."""
    embeddings: Sequence[int] = ()
    """Width of each embedding, in order."""

    @classmethod
    def of_numbers(cls, width: int) -> "InputLayout":
        """That of `width` columns which are no embeddings, such as the output of another network."""
        return cls(width)

    @property
    def width(self) -> int:
        """All columns."""
        return self.numbers + sum(self.embeddings)


class Inputs(nn.Module):
    """Featurized columns, vectors, the position, histories and embeddings: `Batch` → [B, layout.width] float32."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        super().__init__()
        features, model = config.features, config.model
        lengths = {name: vector.length for name, vector in features.vectors.items()}
        binary = sum(column_width(column, assets) for column in features.binary)
        joined = model.featurization.join
        self.joins_binary = BINARY in joined
        self.joined_vectors = [name for name in lengths if name in joined]
        self.vector_names = [name for name in lengths if name not in joined]
        self.featurization = build_featurization(
            model.featurization,
            sum(column_width(column, assets) for column in features.continuous),
            binary * self.joins_binary + sum(lengths[name] for name in self.joined_vectors),
        )
        self.vector_norms = NamedModules({name: nn.LayerNorm(lengths[name]) for name in self.vector_names})
        sizes, widths = discrete_sizes(features, assets), model.widths
        self.position: PositionDebias | None = None
        if model.position_debias is not None:
            feature = model.position_debias.feature
            self.position = PositionDebias(model.position_debias, sizes[feature])
            self.position_column = discrete_columns(features)[feature].start
            widths[feature] = 0
        self.embeddings = DiscreteEmbeddings(features, widths, sizes)
        self.histories = Histories(features, model.histories, self.embeddings) if features.histories else None
        numbers = self.featurization.out_features + sum(lengths[name] for name in self.vector_names)
        numbers += binary * (not self.joins_binary)
        numbers += self.position.out_features if self.position is not None else 0
        numbers += self.histories.out_features if self.histories is not None else 0
        self.layout = InputLayout(numbers, self.embeddings.widths)

    def forward(self, batch: Batch) -> Tensor:
        """The inputs of every row of `batch`."""
        binary = batch.binary.float()
        joined = [binary] if self.joins_binary else []
        joined += [batch.vectors[name].float() for name in self.joined_vectors]
        beside = torch.cat(joined, dim=1) if joined else binary[:, :0]
        parts = [self.featurization(batch.continuous.float(), beside)]
        if not self.joins_binary:
            parts.append(binary)
        parts += [self.vector_norms.named(name)(batch.vectors[name].float()) for name in self.vector_names]
        if self.position is not None:
            parts.append(self.position(batch.discrete[:, self.position_column]))
        if self.histories is not None:
            parts.append(self.histories(batch, self.embeddings))
        if self.layout.embeddings:
            parts.append(self.embeddings(batch.discrete))
        return torch.cat(parts, dim=1)
