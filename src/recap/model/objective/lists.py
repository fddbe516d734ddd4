"""Losses of lists: the rows of a group compete in a softmax."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def listwise_loss(logits: Tensor, labels: Tensor, groups: Tensor, known: Tensor) -> Tensor:
    """Mean of −log(exp l⁺ / Σ exp l) over the positives of groups of several rows; 0 without such positives.

    `logits` and `labels` (0 or 1) [B] float32, `groups` [B] int64, `known` [B] bool: True for rows with a label, over
    which the sum is → a scalar. ListNet's top-one loss (Cao et al., ICML 2007), one positive at a time.
    """
    rows, sizes = _by_group(groups, known)
    counted = (labels[rows] == 1) & (sizes > 1).repeat_interleave(sizes)  # [N]
    return -(_log_softmax(logits[rows], sizes) * counted).sum() / counted.sum().clamp(min=1)


def jrc_loss(logits: Tensor, labels: Tensor, groups: Tensor, known: Tensor) -> Tensor:
    """Σ −log(exp f[y] / Σ exp f[y]) / B: each row competes with all rows of its group in the logit of its label y.

    `logits` f [B, 2], of the labels 0 and 1; the rest as in `listwise_loss` → a scalar. Rows without a label count 0.
    The ranking term of JRC (Sheng et al., KDD 2023, arXiv:2208.06164).
    """
    rows, sizes = _by_group(groups, known)
    of_negative, of_positive = (_log_softmax(column, sizes) for column in logits[rows].unbind(dim=1))
    return -torch.where(labels[rows] == 1, of_positive, of_negative).sum() / max(len(logits), 1)


def _by_group(groups: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The N rows that are known, in the order of their groups, [N], and the sizes of the groups, [G]."""
    rows = known.nonzero().squeeze(1)
    rows = rows[groups[rows].argsort(stable=True)]
    _, sizes = groups[rows].unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    return rows, sizes


def _log_softmax(logits: Tensor, sizes: Tensor) -> Tensor:
    """Logits of groups that follow each other [N], of the sizes [G] → log(exp l / Σ exp l), the sum over a group."""
    result: Tensor = _LogSoftmax.apply(logits, sizes)  # type: ignore[no-untyped-call]
    return result


class _LogSoftmax(torch.autograd.Function):
    """Sums in a fixed order, also on a GPU, where the gradient of an index would be added in any order."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, sizes: Tensor) -> Tensor:
        top = torch.segment_reduce(logits, "max", lengths=sizes, unsafe=True).repeat_interleave(sizes)
        result = logits - top - _sums((logits - top).exp(), sizes).log()
        ctx.save_for_backward(result, sizes)
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor, None]:
        """upstream − softmax · Σ upstream."""
        result, sizes = ctx.saved_tensors  # type: ignore[attr-defined]
        return upstream[0] - result.exp() * _sums(upstream[0], sizes), None


def _sums(values: Tensor, sizes: Tensor) -> Tensor:
    """[N] → the sum over the group of each row, [N]."""
    return torch.segment_reduce(values, "sum", lengths=sizes, unsafe=True).repeat_interleave(sizes)
