"""Backbones: the networks that tasks share, or that are the experts they mix."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Disagreements, PositiveFloat, PositiveInt
from recap.config.network import MlpConfig


class MaskBlockConfig(BaseConfig):
    """One instance-guided mask block (MaskNet, arXiv:2102.07619)."""

    output_size: PositiveInt
    """Width of what the block gives."""
    aggregation_size: PositiveInt | None = None
    """Width of the mask's hidden layer."""
    reduction_factor: PositiveFloat | None = None
    """The same as a multiple of the width of the mask's input."""
    input_layer_norm: bool = False
    """LayerNorm of what is masked, before it is."""
    relu: bool = False
    """ReLU after the block's LayerNorm, as in the paper; the published ranker has none."""

    def checks(self) -> tuple[Disagreements, ...]:
        """Two widths, or none."""
        return (self._one_width(),)

    def _one_width(self) -> Disagreements:
        if (self.aggregation_size is None) == (self.reduction_factor is None):
            found = "none" if self.aggregation_size is None else "both"
            yield (), f"exactly one of aggregation_size and reduction_factor must be set; found {found}"


class MaskNetConfig(BaseConfig):
    """MaskNet: mask blocks side by side or one after the other, then an optional MLP."""

    kind: Literal["mask_net"]
    mask_blocks: Annotated[list[MaskBlockConfig], Field(min_length=1)]
    """The blocks, in order."""
    use_parallel: bool = False
    """Blocks side by side on the input, outputs concatenated; otherwise each reads the one before it."""
    mlp: MlpConfig | None = None
    """What reads the blocks together; none given: their output is the output."""


BackboneConfig = Annotated[MlpConfig | MaskNetConfig, Field(discriminator="kind")]
