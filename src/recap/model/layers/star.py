"""Linear layers of a centre and its domains (STAR: Sheng et al., CIKM 2021, arXiv:2101.11427)."""

import torch
from torch import Tensor, nn

from recap.model.layers.linear import affine, initialize


class StarLinear(nn.Module):
    """(W ⊙ W_d) x + b + b_d for a row of domain d (equations 5 and 6), and W x + b for one of an unknown domain.

    W_d is stored as its difference from 1, so every domain starts as the centre, and weight decay leads back to it.
    """

    def __init__(self, in_features: int, out_features: int, domains: int, *, exact: bool = False) -> None:
        """`exact`: compute in float32 under autocast."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.domain_weights = nn.Parameter(torch.zeros(domains, out_features, in_features))  # W_d − 1
        self.domain_biases = nn.Parameter(torch.zeros(domains, out_features))
        self.exact = exact
        initialize(self.weight)

    def forward(self, inputs: Tensor, domain: Tensor) -> Tensor:
        """[B, in_features], and the domains of the rows [B] int64, from 1, 0 if unknown → [B, out_features]."""
        if not (self.exact and torch.is_autocast_enabled(inputs.device.type)):
            return self._product(inputs, domain)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._product(inputs.float(), domain)

    def _product(self, inputs: Tensor, domain: Tensor) -> Tensor:
        weights = torch.cat([self.weight.unsqueeze(0), self.weight * (1 + self.domain_weights)])  # [D + 1, out, in]
        biases = torch.cat([self.bias.unsqueeze(0), self.bias + self.domain_biases])  # [D + 1, out]
        if self.training and not torch.compiler.is_compiling():  # by domain: each row is multiplied once
            order = domain.argsort(stable=True)
            rows = torch.split(inputs[order], domain.bincount(minlength=len(biases)).tolist())
            products = torch.cat([affine(*part) for part in zip(rows, weights, biases, strict=True)])
            return products[order.argsort()]
        # The products of all domains, of which each row keeps its own: a row's result depends on no other row.
        products = torch.unflatten(affine(inputs, weights.flatten(0, 1), biases.flatten()), 1, biases.shape)
        return products.gather(1, domain.view(-1, 1, 1).expand(-1, 1, biases.shape[1])).squeeze(1)
