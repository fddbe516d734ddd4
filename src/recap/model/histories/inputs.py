"""The histories of a batch: columns → events → one vector per history, by its encoder."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.features import FeaturesConfig
from recap.config.histories import HistoryColumns, HistoryEncoderConfig, HistoryModelConfig, HstuConfig, target_of
from recap.model.histories import build_history_encoder
from recap.model.histories.encoder import CandidateEncoder, Encoded
from recap.model.inputs.featurization import finite, signed_log
from recap.model.inputs.requests import RequestBatch
from recap.model.inputs.tables import TableSpec
from recap.model.layers import linear
from recap.model.names import NamedModules


class Events(nn.Module):
    """The vector of an event: the embedding of its id plus a term for each attribute.

    The term of a discrete attribute is an embedding of the same width; if the attribute shares a table, it is projected
    to that width. The term of a number x is sign(x) · log1p|x|, projected. An event is therefore as wide as the
    embedding of an id, such as the candidate's, and comparable to it. An encoder may ask for one of the terms as an
    event of its own, which follows that of the id, and for an attribute that is the age of the events.
    """

    def __init__(
        self, name: str, history: HistoryColumns, encoder: HistoryEncoderConfig, tables: Mapping[str, TableSpec]
    ) -> None:
        """`tables`: by feature."""
        super().__init__()
        self.name = name
        asks = encoder if isinstance(encoder, HstuConfig) else None
        self.ages, self.interleave = (asks.ages, asks.interleave) if asks is not None else (None, None)
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

    def forward(
        self, histories: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`Batch.histories` and embeddings by feature → what an encoder reads.

        That is [B, L, width], the lengths [B], and the ages [B, L]. Interleaved, L is twice that of the batch.
        """
        events, separate = embeddings[self.ids], None
        for key, feature in self.attributes.items():
            term = embeddings[feature] if feature in embeddings else _numbers(histories[feature])
            if key in self.projected:
                term = self.projections.named(key)(term)
            if key == self.interleave:
                separate = term
            else:
                events = events + term
        lengths = histories[f"{self.name}/length"]
        ages = finite(histories[self.attributes[self.ages]]) if self.ages is not None else None
        if separate is None:
            return events, lengths, ages
        events = torch.stack([events, separate], dim=2).flatten(1, 2)
        return events, 2 * lengths, ages.repeat_interleave(2, dim=1) if ages is not None else None


def _numbers(values: Tensor) -> Tensor:
    """[B, L] → [B, L, 1]."""
    return signed_log(finite(values))[..., None]


class Histories(nn.Module):
    """The encoders of the histories by name, in the order of the configuration."""

    def __init__(
        self,
        features: FeaturesConfig,
        models: Mapping[str, HistoryModelConfig],
        tables: Mapping[str, TableSpec],
        row_width: int,
    ) -> None:
        """`models`: by name of the history, or `default`; `tables`: by feature; `row_width`: of all other inputs."""
        super().__init__()
        self.names = list(features.histories)
        self.targets: dict[str, str | None] = {}
        """The histories whose encoders use the candidate → the feature that they read; None: all other inputs."""
        events, encoders = {}, {}
        for name, history in features.histories.items():
            config = (models[name] if name in models else models[DEFAULT]).encoder
            events[name] = Events(name, history, config, tables)
            encoders[name] = build_history_encoder(config, events[name].width, history.max_length, row_width)
            if isinstance(encoders[name], CandidateEncoder):
                self.targets[name] = target_of(config)
        self.events, self.encoders = NamedModules(events), NamedModules(encoders)
        self.out_features = sum(encoder.out_features for encoder in encoders.values())

    def forward(
        self, name: str, histories: Mapping[str, Tensor], embeddings: Mapping[str, Tensor], target: Tensor | None
    ) -> Tensor:
        """One history: `Batch.histories`, embeddings by feature, and the target if its encoder uses the candidate.

        → [B, out_features of the encoder].
        """
        events, lengths, ages = self.events.named(name)(histories, embeddings)
        output: Tensor = self.encoders.named(name)(events, lengths, target, ages)
        return output

    def encode(
        self, name: str, histories: Mapping[str, Tensor], embeddings: Mapping[str, Tensor], max_length: int
    ) -> Encoded:
        """One history of one user, B = 1, without candidates; the events may be padded beyond `max_length`.

        → what the encoder computes of the events alone: the vector [1, out_features] if it does not use candidates.
        """
        events, lengths, ages = self.events.named(name)(histories, embeddings)
        encoder, length = self.encoders.named(name), int(lengths)
        if isinstance(encoder, CandidateEncoder):
            return encoder.encode(events[0, :length], ages[0, :length] if ages is not None else None)
        return (encoder(events[:, :max_length], lengths, None),)

    def attend(self, name: str, batch: RequestBatch, targets: Tensor) -> Tensor:
        """One history of the users of `batch`, for the targets of its candidates [M, …] → [M, out_features]."""
        encoder, encoded = self.encoders.named(name), batch.users.histories[name]
        assert isinstance(encoder, CandidateEncoder)
        outputs = targets.new_empty(len(targets), encoder.out_features)
        for user, rows, count in batch.by_user():
            if rows is None:
                return encoder.attend(encoded[user], targets)
            vectors = encoder.attend(encoded[user], targets.index_select(0, rows))[:count]
            outputs[rows[:count]] = vectors.to(outputs.dtype)
        return outputs
