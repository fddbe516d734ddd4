"""The interface of history encoders, and the padding mask."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Encoded = tuple[Tensor, ...]
"""What an encoder computes from the events alone; its tensors are its own business."""


class HistoryEncoder(nn.Module, ABC):
    """Events [B, L, E], oldest first, `lengths` [B] of them valid in each row → [B, out_features].

    Padding never changes a result, rows are independent, and a row without events works. An encoder that reads `ages`
    needs them: [B, L] float32, finite, seconds from each event to the impression.
    """

    out_features: int

    @abstractmethod
    def forward(self, events: Tensor, lengths: Tensor, target: Tensor | None, ages: Tensor | None = None) -> Tensor:
        """[B, L, E] float32, [B] int64, and `target` for encoders that use the candidate → [B, out_features].

        `target`: the embedding of the candidate [B, E], or all other inputs of the row, for an encoder that reads them.
        """


class CandidateEncoder(HistoryEncoder):
    """An encoder that uses the candidate, and can encode the events of a user once for many candidates.

    `attend(encode(events), targets)` equals `forward` of the same events, repeated for each target, to rounding: at
    most 1e-5 of the largest output in float32, since sums are taken in another order.
    """

    @abstractmethod
    def encode(self, events: Tensor, ages: Tensor | None = None) -> Encoded:
        """The events of one user without padding, [L, E] float32, L ≥ 0 → what does not depend on the candidate."""

    @abstractmethod
    def attend(self, encoded: Encoded, targets: Tensor) -> Tensor:
        """What `encode` returned and the `target` of N candidates, [N, …] → [N, out_features].

        Computed with the candidates in the last dimension of every product, as in `score_rows`: the result for a
        candidate does not depend on the others if N is a multiple of `score_rows.ALIGNMENT`.
        """


def padding_mask(events: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, E], [B] → [B, L] bool: True for events, False for padding."""
    return torch.arange(events.shape[1], device=events.device) < lengths[:, None]
