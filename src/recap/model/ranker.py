"""The ranker: a `Batch` in, a probability for every task out. The one path that every job uses."""

from collections.abc import Iterator
from typing import NamedTuple, assert_never

import torch
from torch import Tensor, nn

from recap.config.model import ShareAllConfig, ShareNoneConfig, SharePartialConfig
from recap.config.recap import RecapConfig
from recap.data.assets import Assets, column_width, discrete_sizes
from recap.data.batch import Batch
from recap.model.backbones import build_backbone
from recap.model.calibration import calibrate, sampling_ratios
from recap.model.embeddings import DiscreteEmbeddings
from recap.model.featurization import DoubleNormLog
from recap.model.names import NamedModules
from recap.model.towers import Tower


class RankerOutput(NamedTuple):
    """What the ranker says of B rows, tasks in the order of `model.tasks`."""

    logits: Tensor  # [B, T] float32
    probabilities: Tensor  # [B, T] float32, of the data as it was sampled for training
    calibrated_probabilities: Tensor  # [B, T] float32, of the population


class Ranker(nn.Module):
    """features → backbone → towers → logits → probabilities → calibrated probabilities."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        """`assets`: what the files that the configuration names say of its features."""
        super().__init__()
        features, model = config.features, config.model
        self.sharing = model.sharing
        self.featurization = DoubleNormLog(
            sum(column_width(column, assets) for column in features.continuous),
            sum(column_width(column, assets) for column in features.binary),
            model.featurization,
        )
        self.embeddings = DiscreteEmbeddings(features, model.embeddings, discrete_sizes(features, assets))
        lengths = {name: vector.length for name, vector in features.vectors.items()}
        self.vector_names = list(lengths)
        self.vector_norms = NamedModules({name: nn.LayerNorm(length) for name, length in lengths.items()})
        width = self.featurization.out_features + self.embeddings.out_features + sum(lengths.values())
        self.backbone: nn.Module | None = None
        tower_width = width
        if model.backbone is not None:
            backbone = build_backbone(model.backbone, width)
            self.backbone = backbone
            tower_width = backbone.out_features
            if isinstance(model.sharing, SharePartialConfig):
                tower_width += width
        self.towers = NamedModules({name: Tower(task, tower_width) for name, task in model.tasks.items()})
        self.sampling_ratios: Tensor
        ratios = sampling_ratios(config.train_data, config.tasks)
        self.register_buffer("sampling_ratios", ratios, persistent=False)  # [T], told by the configuration

    def forward(self, batch: Batch) -> RankerOutput:
        """Score the rows of `batch`; its labels are not read."""
        shared = self._shared(self._inputs(batch))
        logits = torch.stack([tower(shared) for tower in self.towers.ordered()], dim=1)  # [B, T]
        probabilities = logits.sigmoid()
        return RankerOutput(logits, probabilities, calibrate(probabilities, self.sampling_ratios))

    def tower_parameters(self, task: str) -> Iterator[nn.Parameter]:
        """The parameters of a task's own tower, its affine map included."""
        return self.towers.named(task).parameters()

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        for name, module in self.named_children():
            if name != "towers":
                yield from module.parameters()

    def _inputs(self, batch: Batch) -> Tensor:
        """What the network reads, [B, inputs] float32: featurized columns, embeddings, normalised vectors."""
        parts = [self.featurization(batch.continuous.float(), batch.binary.float())]
        if self.embeddings.out_features:
            parts.append(self.embeddings(batch.discrete))
        parts += [self.vector_norms.named(name)(batch.vectors[name].float()) for name in self.vector_names]
        return torch.cat(parts, dim=1)

    def _shared(self, inputs: Tensor) -> Tensor:
        """What every tower reads."""
        match self.sharing:
            case ShareNoneConfig():
                return inputs
            case ShareAllConfig():
                assert self.backbone is not None
                return self.backbone(inputs)  # type: ignore[no-any-return]
            case SharePartialConfig():
                assert self.backbone is not None
                return torch.cat([inputs, self.backbone(inputs)], dim=1)
            case _:
                assert_never(self.sharing)
