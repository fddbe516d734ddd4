"""The histories of a batch: columns → events → one vector per history, by its encoder."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.features import FeaturesConfig
from recap.config.histories import HistoryColumns, HistoryModelConfig, PoolingConfig
from recap.data.batch import Batch
from recap.model.histories import build_history_encoder
from recap.model.inputs.featurization import finite, signed_log
from recap.model.inputs.tables import TableSpec
from recap.model.layers import linear
from recap.model.names import NamedModules


class Events(nn.Module):
    """The vector of an event: the embedding of its id plus a term for each attribute.

    The term of a discrete attribute is an embedding of the same width; if the attribute shares a table, it is projected
    to that width. The term of a number x is sign(x) · log1p|x|, projected. An event is therefore as wide as the
    embedding of an id, such as the candidate's, and comparable to it.
    """

    def __init__(self, name: str, history: HistoryColumns, tables: Mapping[str, TableSpec]) -> None:
        """`tables`: by feature."""
        super().__init__()
        self.ids = f"{name}/ids"
        self.width = tables[self.ids].width
        self.attributes = {key: f"{name}/attributes/{key}" for key in history.attributes}
        projections: dict[str, nn.Module] = {}
        for key, feature in self.attributes.items():
            if feature not in tables:  # numbers
                projections[key] = linear(1, self.width)
            elif tables[feature].name != feature:  # the table of another feature
                projections[key] = linear(tables[feature].width, self.width)
        self.projections = NamedModules(projections)
        self.projected = set(projections)

    def forward(self, histories: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]) -> Tensor:
        """`Batch.histories` and embeddings by feature → [B, L, width]."""
        events = embeddings[self.ids]
        for key, feature in self.attributes.items():
            term = embeddings[feature] if feature in embeddings else _numbers(histories[feature])
            if key in self.projected:
                term = self.projections.named(key)(term)
            events = events + term
        return events


def _numbers(values: Tensor) -> Tensor:
    """[B, L] → [B, L, 1]."""
    return signed_log(finite(values))[..., None]


class Histories(nn.Module):
    """`Batch` and embeddings by feature → [B, out_features], histories in the order of the configuration."""

    def __init__(
        self, features: FeaturesConfig, models: Mapping[str, HistoryModelConfig], tables: Mapping[str, TableSpec]
    ) -> None:
        """`models`: by name of the history, or `default`; `tables`: by feature."""
        super().__init__()
        self.names = list(features.histories)
        self.targets: dict[str, str] = {}
        events, encoders = {}, {}
        for name, history in features.histories.items():
            config = (models[name] if name in models else models[DEFAULT]).encoder
            events[name] = Events(name, history, tables)
            encoders[name] = build_history_encoder(config, events[name].width, history.max_length)
            if not isinstance(config, PoolingConfig):
                self.targets[name] = config.target
        self.events, self.encoders = NamedModules(events), NamedModules(encoders)
        self.out_features = sum(encoder.out_features for encoder in encoders.values())

    def forward(self, batch: Batch, embeddings: Mapping[str, Tensor]) -> Tensor:
        """The outputs of the encoders, concatenated."""
        outputs = []
        for name in self.names:
            target = self.targets.get(name)
            candidate = embeddings[target].squeeze(1) if target is not None else None  # [B, width]
            events = self.events.named(name)(batch.histories, embeddings)
            outputs.append(self.encoders.named(name)(events, batch.histories[f"{name}/length"], candidate))
        return torch.cat(outputs, dim=1)
