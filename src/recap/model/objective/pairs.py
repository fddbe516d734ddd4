"""The pairwise loss: the positives of a user should rank above their negatives."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import softplus

CHUNK_PAIRS = 1 << 20
"""Pairs in memory at the same time; all pairs count."""


def pairwise_loss(logits: Tensor, labels: Tensor, users: Tensor, known: Tensor) -> Tensor:
    """Mean of softplus(−(l⁺ − l⁻)) over all pairs of a positive and a negative of one user; 0 without pairs.

    `logits` and `labels` (0 or 1) [B] float32, `users` [B] int64, `known` [B] bool: True for rows with a label → a
    scalar. RankNet (Burges et al., ICML 2005, equation 3) with targets of 1; with one pair per user it is the loss of
    BPR (Rendle et al., UAI 2009).
    """
    known, labels = known.detach(), labels.detach()
    positives = (known & (labels == 1)).nonzero().squeeze(1)  # [P]
    negatives = (known & (labels == 0)).nonzero().squeeze(1)  # [N]
    negatives = negatives[users[negatives].argsort(stable=True)]
    owners = users[negatives]
    first = torch.searchsorted(owners, users[positives])  # [P] index of the first negative of its user
    count = torch.searchsorted(owners, users[positives], right=True) - first  # [P]
    loss: Tensor = _MeanOverPairs.apply(logits, positives, negatives, first, count)  # type: ignore[no-untyped-call]
    return loss


class _MeanOverPairs(torch.autograd.Function):
    """Sums loss and gradient over chunks of pairs, so that memory never holds all pairs."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: Tensor, positives: Tensor, negatives: Tensor, first: Tensor, count: Tensor
    ) -> Tensor:
        """Positive k is paired with the negatives first[k] … first[k] + count[k] − 1."""
        ends = count.cumsum(0)
        pairs = int(ends[-1]) if len(ends) else 0
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        gradient = torch.zeros_like(logits)
        for start in range(0, pairs, CHUNK_PAIRS):
            pair = torch.arange(start, min(start + CHUNK_PAIRS, pairs), device=logits.device)
            positive = torch.searchsorted(ends, pair, right=True)  # index into `positives`
            above = positives[positive]
            below = negatives[first[positive] + pair - (ends[positive] - count[positive])]
            difference = logits[below] - logits[above]
            total += softplus(difference).sum()
            slope = difference.sigmoid() / pairs
            gradient.index_add_(0, above, -slope)
            gradient.index_add_(0, below, slope)
        ctx.save_for_backward(gradient)
        return (total / max(pairs, 1)).to(logits.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Only the logits have a gradient."""
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return upstream[0] * gradient, None, None, None, None
