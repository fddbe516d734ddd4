"""The columns of a batch as one row of numbers, and where each feature stands in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.assets import Assets, column_width, discrete_sizes
from recap.data.batch import Batch
from recap.model.embeddings import DiscreteEmbeddings
from recap.model.featurization import DoubleNormLog
from recap.model.histories.inputs import Histories
from recap.model.names import NamedModules


@dataclass(frozen=True)
class InputLayout:
    """What the columns of [B, width] are: first numbers, then embeddings end to end."""

    numbers: int
    """Columns that are featurized numbers, normalised vectors and histories, or anything else without fields."""
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
    """Featurized columns, normalised vectors, histories and embeddings, joined: `Batch` → [B, layout.width] float32."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        super().__init__()
        features, model = config.features, config.model
        self.featurization = DoubleNormLog(
            sum(column_width(column, assets) for column in features.continuous),
            sum(column_width(column, assets) for column in features.binary),
            model.featurization,
        )
        lengths = {name: vector.length for name, vector in features.vectors.items()}
        self.vector_names = list(lengths)
        self.vector_norms = NamedModules({name: nn.LayerNorm(length) for name, length in lengths.items()})
        self.embeddings = DiscreteEmbeddings(features, model.embeddings, discrete_sizes(features, assets))
        self.histories = Histories(features, model.histories, self.embeddings) if features.histories else None
        numbers = self.featurization.out_features + sum(lengths.values())
        numbers += self.histories.out_features if self.histories is not None else 0
        self.layout = InputLayout(numbers, self.embeddings.widths)

    def forward(self, batch: Batch) -> Tensor:
        """The inputs of every row of `batch`."""
        parts = [self.featurization(batch.continuous.float(), batch.binary.float())]
        parts += [self.vector_norms.named(name)(batch.vectors[name].float()) for name in self.vector_names]
        if self.histories is not None:
            parts.append(self.histories(batch, self.embeddings))
        if self.layout.embeddings:
            parts.append(self.embeddings(batch.discrete))
        return torch.cat(parts, dim=1)
