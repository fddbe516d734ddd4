"""All histories of a batch: what stands in their columns becomes events, and each goes through its encoder."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.discrete import SharedTable
from recap.config.features import FeaturesConfig
from recap.config.histories import HistoryColumns, HistoryModelConfig, NumberEvents, PoolingConfig
from recap.data.batch import Batch
from recap.model.histories import build_history_encoder
from recap.model.inputs.embeddings import DiscreteEmbeddings
from recap.model.inputs.featurization import finite, signed_log
from recap.model.layers import linear
from recap.model.names import NamedModules


class Events(nn.Module):
    """The vector of each event: the embedding of its id, and to that is added what its attributes say.

    A discrete attribute adds an embedding of the same width; one that shares a table that embedding, projected; a
    number x adds sign(x) · log1p|x|, projected. So an event keeps the width of the ids, and can be compared to them.
    """

    def __init__(self, name: str, history: HistoryColumns, features: FeaturesConfig, widths: Mapping[str, int]) -> None:
        """`widths` of the tables."""
        super().__init__()
        self.name = name
        self.ids = features.table_of(f"{name}/ids", history.ids)
        self.width = widths[self.ids]
        self.tables: dict[str, str] = {}
        projections: dict[str, nn.Module] = {}
        for key, attribute in history.attributes.items():
            if isinstance(attribute, NumberEvents):
                projections[key] = linear(1, self.width)
                continue
            self.tables[key] = features.table_of(f"{name}/attributes/{key}", attribute)
            if isinstance(attribute, SharedTable):
                projections[key] = linear(widths[attribute.table], self.width)
        self.attributes = list(history.attributes)
        self.projections = NamedModules(projections)
        self.projected = set(projections)

    def forward(self, histories: Mapping[str, Tensor], embeddings: DiscreteEmbeddings) -> Tensor:
        """What `encode_history` gives → [B, L, width]."""
        events = embeddings.rows(self.ids, histories[f"{self.name}/ids"])
        for key in self.attributes:
            values = histories[f"{self.name}/attributes/{key}"]
            if key in self.tables:
                said = embeddings.rows(self.tables[key], values)
            else:
                said = signed_log(finite(values))[..., None]
            events = events + (self.projections.named(key)(said) if key in self.projected else said)
        return events


class Histories(nn.Module):
    """`Batch` → [B, Σ widths], histories in the order of the configuration; the tables are those of `embeddings`."""

    def __init__(
        self, features: FeaturesConfig, models: Mapping[str, HistoryModelConfig], embeddings: DiscreteEmbeddings
    ) -> None:
        """`models` by the name of the history, or `default`."""
        super().__init__()
        self.names = list(features.histories)
        self.targets: dict[str, str] = {}
        events, encoders = {}, {}
        for name, history in features.histories.items():
            config = (models[name] if name in models else models[DEFAULT]).encoder
            events[name] = Events(name, history, features, embeddings.width_of)
            encoders[name] = build_history_encoder(config, events[name].width, history.max_length)
            if not isinstance(config, PoolingConfig):
                self.targets[name] = config.target
        self.events, self.encoders = NamedModules(events), NamedModules(encoders)
        self.out_features = sum(encoder.out_features for encoder in encoders.values())

    def forward(self, batch: Batch, embeddings: DiscreteEmbeddings) -> Tensor:
        """The vectors of all histories side by side; `embeddings` own the tables, so they are given, not held."""
        found = []
        for name in self.names:
            target = self.targets.get(name)
            candidate = embeddings.of_feature(target, batch.discrete).squeeze(1) if target is not None else None
            events = self.events.named(name)(batch.histories, embeddings)
            found.append(self.encoders.named(name)(events, batch.histories[f"{name}/length"], candidate))
        return torch.cat(found, dim=1)
