"""MaskNet (Wang et al., arXiv:2102.07619), as the published ranker builds it."""

import torch
from torch import Tensor, nn

from recap.config.backbones import MaskBlockConfig, MaskNetConfig
from recap.model.layers import Dropout, Mlp, linear


class MaskBlock(nn.Module):
    """LayerNorm(Linear(net · mask)), where the mask = Linear(ReLU(Linear(original input)))."""

    def __init__(self, config: MaskBlockConfig, in_features: int, mask_features: int) -> None:
        """`in_features`: width of `net`; `mask_features`: width of the original input."""
        super().__init__()
        if config.aggregation_size is not None:
            aggregation = config.aggregation_size
        else:
            assert config.reduction_factor is not None
            aggregation = max(1, int(config.reduction_factor * mask_features))
        self.input_norm = nn.LayerNorm(in_features) if config.input_layer_norm else nn.Identity()
        self.mask = nn.Sequential(linear(mask_features, aggregation), nn.ReLU(), linear(aggregation, in_features))
        self.hidden = linear(in_features, config.output_size)
        self.output_norm = nn.LayerNorm(config.output_size)
        self.activation = nn.ReLU() if config.relu else nn.Identity()
        self.dropout = Dropout(config.dropout_rate) if config.dropout_rate else nn.Identity()

    def forward(self, net: Tensor, original: Tensor) -> Tensor:
        """[B, in_features] and [B, mask_features] → [B, output_size]."""
        masked = self.input_norm(net) * self.mask(original)
        output: Tensor = self.dropout(self.activation(self.output_norm(self.hidden(masked))))
        return output


class MaskNet(nn.Module):
    """Mask blocks in parallel on the input, or stacked, then an optional MLP: [B, in_features] → [B, out_features]."""

    def __init__(self, config: MaskNetConfig, in_features: int, mlp: Mlp | None) -> None:
        super().__init__()
        self.parallel = config.use_parallel
        blocks: list[MaskBlock] = []
        width = in_features
        for block in config.mask_blocks:
            blocks.append(MaskBlock(block, width, in_features))
            if not self.parallel:
                width = block.output_size
        self.blocks = nn.ModuleList(blocks)
        self.mlp = mlp if mlp is not None else nn.Identity()
        self.out_features = mlp.out_features if mlp is not None else self.blocks_width(config)

    @staticmethod
    def blocks_width(config: MaskNetConfig) -> int:
        """Width of the output of all blocks."""
        sizes = [block.output_size for block in config.mask_blocks]
        return sum(sizes) if config.use_parallel else sizes[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        if self.parallel:
            net = torch.cat([block(inputs, inputs) for block in self.blocks], dim=1)
        else:
            net = inputs
            for block in self.blocks:
                net = block(net, inputs)
        output: Tensor = self.mlp(net)
        return output
