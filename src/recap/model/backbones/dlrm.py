"""DLRM (Naumov et al., arXiv:1906.00091): inner products of embeddings and an MLP's output for the numbers."""

import torch
from torch import Tensor, nn

from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp, product


class Dlrm(nn.Module):
    """Bottom MLP of the numbers; products of all pairs of its output and the embeddings; top MLP of both.

    [B, layout.width] → [B, out_features]. The embeddings and the output of `bottom_mlp` have the same width d.
    """

    def __init__(self, layout: InputLayout, bottom_mlp: Mlp, top_mlp: Mlp | None) -> None:
        """`top_mlp` reads [B, top_mlp_width]."""
        super().__init__()
        # Checked when the configuration is read: recap.config.checks.networks.
        assert layout.numbers
        assert set(layout.embeddings) == {bottom_mlp.out_features}
        self.numbers = layout.numbers
        self.bottom_mlp = bottom_mlp
        self.top_mlp = top_mlp if top_mlp is not None else nn.Identity()
        self.out_features = (
            top_mlp.out_features if top_mlp is not None else self.top_mlp_width(layout, bottom_mlp.out_features)
        )
        fields = 1 + len(layout.embeddings)
        self.pairs: Tensor
        self.register_buffer("pairs", torch.triu_indices(fields, fields, offset=1), persistent=False)  # [2, F(F-1)/2]

    @staticmethod
    def top_mlp_width(layout: InputLayout, width: int) -> int:
        """Width of the bottom MLP's output, `width`, plus that of the products."""
        fields = 1 + len(layout.embeddings)
        return width + fields * (fields - 1) // 2

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, layout.width] → [B, out_features]."""
        numbers = self.bottom_mlp(inputs[:, : self.numbers])  # [B, d]
        embeddings = torch.unflatten(inputs[:, self.numbers :], 1, (-1, self.bottom_mlp.out_features))
        fields = torch.cat([numbers.unsqueeze(1), embeddings], dim=1)  # [B, F, d]
        products = product(fields, fields.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]  # [B, F(F-1)/2]
        output: Tensor = self.top_mlp(torch.cat([numbers, products], dim=1))
        return output
