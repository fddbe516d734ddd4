"""Wukong (Zhang et al., ICML 2024, arXiv:2403.02545): stacked factorization machines over fields of one width."""

import torch
from torch import Tensor, nn

from recap.config.backbones import WukongConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp, linear, product


class Fields(nn.Module):
    """[B, layout.width] → [B, N, width]: fields of the numbers, then embeddings, projected if their width differs."""

    def __init__(self, layout: InputLayout, width: int, dense_fields: int) -> None:
        super().__init__()
        self.width = width
        self.parts = [layout.numbers, *layout.embeddings]
        self.dense = linear(layout.numbers, dense_fields * width) if layout.numbers else nn.Identity()
        self.projections = nn.ModuleList(
            linear(part, width) if part != width else nn.Identity() for part in layout.embeddings
        )
        self.count = (dense_fields if layout.numbers else 0) + len(layout.embeddings)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, layout.width] → [B, N, width]."""
        numbers, *embeddings = torch.split(inputs, self.parts, dim=1)
        projected = [project(part) for project, part in zip(self.projections, embeddings, strict=True)]
        return torch.unflatten(torch.cat([self.dense(numbers), *projected], dim=1), 1, (self.count, self.width))


class FactorizationMachineBlock(nn.Module):
    """reshape(MLP(LayerNorm(flatten(X Xᵀ Y)))), Y [N, rank] learned: [B, N, d] → [B, num_fmb_fields, d]."""

    def __init__(self, config: WukongConfig, fields: int) -> None:
        """`fields`: N, their number."""
        super().__init__()
        self.projection = linear(fields, config.rank, bias=False)  # Yᵀ
        products = fields * config.rank
        self.norm = nn.LayerNorm(products)
        self.mlp = Mlp(products, [*config.fmb_hidden_sizes, config.num_fmb_fields * config.width])
        self.shape = (config.num_fmb_fields, config.width)

    def forward(self, fields: Tensor) -> Tensor:
        """[B, N, d] → [B, num_fmb_fields, d]."""
        compressed = self.projection(fields.transpose(1, 2))  # Xᵀ Y: [B, d, rank], without the N × N matrix X Xᵀ
        products = product(fields, compressed).flatten(1)  # [B, N · rank]
        output: Tensor = torch.unflatten(self.mlp(self.norm(products)), 1, self.shape)
        return output


class WukongLayer(nn.Module):
    """LayerNorm(join(FMB(X), LCB(X)) + X): [B, N, d] → [B, num_fmb_fields + num_lcb_fields, d].

    If the number of fields changes, a linear layer compresses X before the sum.
    """

    def __init__(self, config: WukongConfig, fields: int) -> None:
        """`fields`: N, their number."""
        super().__init__()
        self.machine = FactorizationMachineBlock(config, fields)
        self.compression = linear(fields, config.num_lcb_fields, bias=False)
        self.out_fields = config.num_fmb_fields + config.num_lcb_fields
        self.residual = linear(fields, self.out_fields, bias=False) if fields != self.out_fields else nn.Identity()
        self.norm = nn.LayerNorm(config.width)

    def forward(self, fields: Tensor) -> Tensor:
        """[B, N, d] → [B, out_fields, d]."""
        columns = fields.transpose(1, 2)  # [B, d, N]
        joined = torch.cat([self.machine(fields), self.compression(columns).transpose(1, 2)], dim=1)
        output: Tensor = self.norm(joined + self.residual(columns).transpose(1, 2))
        return output


class Wukong(nn.Module):
    """Fields, layers of interactions, an optional MLP: [B, layout.width] → [B, out_features]."""

    def __init__(self, config: WukongConfig, layout: InputLayout, mlp: Mlp | None) -> None:
        """`mlp` reads [B, fields_width]."""
        super().__init__()
        self.fields = Fields(layout, config.width, config.num_dense_fields)
        layers: list[WukongLayer] = []
        for _ in range(config.num_layers):
            layers.append(WukongLayer(config, layers[-1].out_fields if layers else self.fields.count))
        self.layers = nn.Sequential(*layers)
        self.mlp = mlp if mlp is not None else nn.Identity()
        self.out_features = mlp.out_features if mlp is not None else self.fields_width(config)

    @staticmethod
    def fields_width(config: WukongConfig) -> int:
        """Width of the fields of the last layer, concatenated."""
        return (config.num_fmb_fields + config.num_lcb_fields) * config.width

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, layout.width] → [B, out_features]."""
        output: Tensor = self.mlp(self.layers(self.fields(inputs)).flatten(1))
        return output
