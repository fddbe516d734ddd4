"""Norms: over the features of a row, or over the rows of a micro-batch."""

import torch
from torch import Tensor, nn

from recap.config.network import BatchNormConfig, LayerNormConfig


def batch_norm(config: BatchNormConfig, features: int) -> nn.BatchNorm1d:
    """BatchNorm over the rows of a micro-batch, [B, features]."""
    return nn.BatchNorm1d(features, affine=config.affine, momentum=config.momentum)


def layer_norm(config: LayerNormConfig, features: int) -> nn.LayerNorm:
    """LayerNorm over the features of a row, [B, features]."""
    norm = nn.LayerNorm(features, config.epsilon, config.affine is not False, bias=config.affine != "scale")
    if config.affine == "shift":
        norm.register_parameter("weight", None)
    return norm


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe 2017, arXiv:1702.03275, algorithm 1), [B, features] → [B, features].

    In training a micro-batch is normalised by its own mean and deviation, then corrected towards the running ones by r
    and d, which have no gradient: within their bounds the result equals that of evaluation. The bounds widen as in
    section 4 of the paper: BatchNorm (r = 1, d = 0) for 5000 micro-batches, then r up to 3 at 40000 and d up to 5 at
    25000.
    """

    EPSILON, START, END_R, END_D, MAX_R, MAX_D = 1e-5, 5_000, 40_000, 25_000, 3.0, 5.0

    def __init__(self, config: BatchNormConfig, features: int) -> None:
        super().__init__()
        self.momentum = config.momentum
        self.running_mean: Tensor
        self.running_deviation: Tensor
        self.batches: Tensor
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_deviation", torch.ones(features))
        self.register_buffer("batches", torch.tensor(0))
        self.weight = nn.Parameter(torch.ones(features)) if config.affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if config.affine else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, features] → [B, features]."""
        if self.training:
            mean = inputs.mean(dim=0)
            deviation = (inputs.var(dim=0, unbiased=False) + self.EPSILON).sqrt()
            with torch.no_grad():
                max_r, max_d = self._bounds()
                r = (deviation / self.running_deviation).clamp(1 / max_r, max_r)
                d = ((mean - self.running_mean) / self.running_deviation).clamp(-max_d, max_d)
            normal = (inputs - mean) / deviation * r + d
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_deviation.lerp_(deviation, self.momentum)
                self.batches += 1
        else:
            normal = (inputs - self.running_mean) / self.running_deviation
        return normal if self.weight is None or self.bias is None else normal * self.weight + self.bias

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """R and D for the current micro-batch: r is clamped to [1 / R, R], d to [−D, D]."""
        batches = self.batches.float() - self.START
        progress_r = (batches / (self.END_R - self.START)).clamp(0, 1)
        progress_d = (batches / (self.END_D - self.START)).clamp(0, 1)
        return 1 + (self.MAX_R - 1) * progress_r, self.MAX_D * progress_d


class PartitionedNorm(nn.Module):
    """BatchNorm with statistics, scales and shifts of each domain (STAR, arXiv:2101.11427, equations 3 and 4).

    γ · γ_d · (x − μ_d) / √(σ²_d + ε) + β + β_d for a row of domain d. In training μ_d and σ²_d are of the rows of d in
    the micro-batch; there all rows are of one domain in the paper. A row of an unknown domain, and the only row of its
    domain in a micro-batch, have the statistics of all rows; γ_d is 1 and β_d is 0 for unknown domains. γ_d is stored
    as its difference from 1.
    """

    EPSILON = 1e-5

    def __init__(self, features: int, domains: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.domain_weights = nn.Parameter(torch.zeros(domains, features))  # γ_d − 1
        self.domain_biases = nn.Parameter(torch.zeros(domains, features))
        self.running_mean: Tensor  # [domains + 1, features]; the first row is of all rows
        self.running_variance: Tensor
        self.register_buffer("running_mean", torch.zeros(domains + 1, features))
        self.register_buffer("running_variance", torch.ones(domains + 1, features))

    def forward(self, inputs: Tensor, domain: Tensor) -> Tensor:
        """[B, features], and the domains of the rows [B] int64, from 1, 0 if unknown → [B, features]."""
        if not torch.is_autocast_enabled(inputs.device.type):
            return self._normal(inputs, domain)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._normal(inputs.float(), domain).to(inputs.dtype)

    def _normal(self, inputs: Tensor, domain: Tensor) -> Tensor:
        means, variances = (
            self._of_batch(inputs, domain) if self.training else (self.running_mean, self.running_variance)
        )
        normal = (inputs - means[domain]) / (variances[domain] + self.EPSILON).sqrt()
        weights = torch.cat([self.weight.unsqueeze(0), self.weight * (1 + self.domain_weights)])
        biases = torch.cat([self.bias.unsqueeze(0), self.bias + self.domain_biases])
        return normal * weights[domain] + biases[domain]

    def _of_batch(self, inputs: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of all rows and of those of each domain, [domains + 1, N]; moves the running ones."""
        members = torch.nn.functional.one_hot(domain, len(self.running_mean)).to(inputs.dtype)  # [B, domains + 1]
        counts = members.sum(dim=0).unsqueeze(1)
        means = members.T @ inputs / counts.clamp(min=1)
        variances = members.T @ (inputs - means[domain]).square() / counts.clamp(min=1)
        is_all = torch.arange(len(counts), device=inputs.device).unsqueeze(1) == 0
        own = (counts > 1) & ~is_all
        means = means.where(own, inputs.mean(dim=0))
        variances = variances.where(own, inputs.var(dim=0, unbiased=False))
        with torch.no_grad():
            share = (self.momentum * (own | is_all)).expand_as(means)
            self.running_mean.lerp_(means, share)
            self.running_variance.lerp_(variances, share)
        return means, variances


def row_norms(module: nn.Module) -> list[nn.BatchNorm1d | BatchRenorm | PartitionedNorm]:
    """The layers in `module` that normalise over the rows of a micro-batch."""
    kinds = nn.BatchNorm1d | BatchRenorm | PartitionedNorm
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances of the layers in `module` that normalise over rows."""
    return [
        buffer for layer in row_norms(module) for buffer in layer.buffers(recurse=False) if buffer.is_floating_point()
    ]
