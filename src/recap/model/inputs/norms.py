"""BatchNorm of continuous columns: of some of them alone, and without their missing values."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.network import BatchNormConfig
from recap.model.layers import BatchRenorm, batch_norm


def at(values: Tensor, indices: Tensor | None) -> Tensor:
    """The rows `indices` of `values`; None: all."""
    return values if indices is None else values[indices]


class ObservedBatchNorm(nn.BatchNorm1d):
    """BatchNorm in which missing values do not count: each column has the mean and variance of the others.

    A micro-batch that has fewer than two values of a column leaves its running statistics as they are.
    """

    def forward(self, input: Tensor, observed: Tensor | None = None) -> Tensor:  # noqa: A002 - its name in torch
        """[B, C], and which values count, [B, C] bool (None: all) → [B, C], with finite numbers for the others."""
        if observed is None or not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        counts = observed.sum(dim=0)  # [C]
        known = counts.clamp(min=1)
        mean = torch.where(observed, input, 0).sum(dim=0) / known
        distances = torch.where(observed, input - mean, 0)
        variance = distances.square().sum(dim=0) / known
        with torch.no_grad():
            weights = self.momentum * (counts > 1)
            self.running_mean += weights * (mean - self.running_mean)
            self.running_var += weights * (variance * counts / (counts - 1).clamp(min=1) - self.running_var)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        normal = distances / (variance + self.eps).sqrt()
        return normal if self.weight is None or self.bias is None else normal * self.weight + self.bias


def column_norm(config: BatchNormConfig, features: int, *, skips_missing: bool) -> nn.BatchNorm1d:
    """The BatchNorm of continuous columns, [B, features]."""
    if skips_missing:
        return ObservedBatchNorm(features, affine=config.affine, momentum=config.momentum)
    return batch_norm(config, features)


def norm_columns(norm: nn.Module, values: Tensor, observed: Tensor | None, indices: Tensor | None) -> Tensor:
    """`norm` of all columns, or in evaluation of the columns `indices` alone: [B, of them] → the same shape.

    `observed`, of the same shape: which values are not missing, for an `ObservedBatchNorm`.
    """
    if indices is None or isinstance(norm, nn.Identity):
        output: Tensor = norm(values, observed) if isinstance(norm, ObservedBatchNorm) else norm(values)
        return output
    if not len(indices):  # which batch_norm refuses
        return values
    assert isinstance(norm, BatchRenorm | nn.BatchNorm1d)
    weight, bias = (None if values is None else values[indices] for values in (norm.weight, norm.bias))
    if isinstance(norm, BatchRenorm):
        normal = (values - norm.running_mean[indices]) / norm.running_deviation[indices]
        return normal if weight is None or bias is None else normal * weight + bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean[indices], norm.running_var[indices]
    return functional.batch_norm(values, mean, variance, weight, bias, eps=norm.eps)
