"""Backbones: the networks that tasks share, or that are the experts they mix."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, PositiveFloat, PositiveInt, Problems
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

    def checks(self) -> tuple[Check, ...]:
        """Two widths, or none."""
        return (self._one_width,)

    def _one_width(self) -> Problems:
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


class DcnConfig(BaseConfig):
    """DCN-v2 (arXiv:2008.13535): a cross network, x ← x₀ ⊙ (W x + b) + x in each layer, and MLPs beside or after it."""

    kind: Literal["dcn"]
    poly_degree: PositiveInt
    """Number of cross layers; the output holds products of up to one more input than there are layers."""
    projection_dim: PositiveInt | None = None
    """Rank r of every W = U Vᵀ, U and V of r columns; none given: W is of full rank."""
    use_parallel: bool = True
    """`parallel_mlp` reads the inputs, its output joined to that of the cross layers; otherwise it reads theirs."""
    parallel_mlp: MlpConfig | None = None
    """The deep network; none given: cross layers alone."""
    output_mlp: MlpConfig | None = None
    """What reads all that; none given: it is the output."""

    def checks(self) -> tuple[Check, ...]:
        """Nothing to stack on the cross layers."""
        return (lambda: _something_is_stacked(self.use_parallel, self.parallel_mlp, "parallel_mlp"),)


class GdcnConfig(BaseConfig):
    """Gated DCN (arXiv:2311.04635): c ← c₀ ⊙ (W c + b) ⊙ σ(G c) + c in each layer, and an MLP beside or after them."""

    kind: Literal["gdcn"]
    num_layers: PositiveInt
    """Number of gated cross layers."""
    use_parallel: bool = True
    """`mlp` reads the inputs, its output joined to that of the cross layers; otherwise it reads theirs."""
    mlp: MlpConfig | None = None
    """The deep network; none given: cross layers alone."""

    def checks(self) -> tuple[Check, ...]:
        """Nothing to stack on the cross layers."""
        return (lambda: _something_is_stacked(self.use_parallel, self.mlp, "mlp"),)


def _something_is_stacked(use_parallel: bool, mlp: MlpConfig | None, name: str) -> Problems:
    if not use_parallel and mlp is None:
        yield (
            ("use_parallel",),
            f"false stacks {name} on the cross layers, but there is none; add one, or leave this out",
        )


class DlrmConfig(BaseConfig):
    """DLRM (arXiv:1906.00091): inner products of embeddings, and of what an MLP makes of the numbers."""

    kind: Literal["dlrm"]
    bottom_mlp: MlpConfig
    """Reads all inputs that are no embeddings; its last layer must be as wide as every embedding."""
    top_mlp: MlpConfig | None = None
    """Reads the output of `bottom_mlp` and all products; none given: these are the output."""


class InputsGateConfig(BaseConfig):
    """A gate on each input, 2σ(MLP(inputs)), which differs from row to row."""

    kind: Literal["inputs"]
    hidden_sizes: list[PositiveInt] = []
    """Hidden layers of the MLP: Linear → ReLU each."""


class LearnedGateConfig(BaseConfig):
    """A gate on each input, 2σ(MLP(v)) of a learned vector v, which is the same for every row."""

    kind: Literal["learned"]
    context_size: PositiveInt = 16
    """Length of the learned vector."""
    hidden_sizes: list[PositiveInt] = []
    """Hidden layers of the MLP: Linear → ReLU each."""


GateConfig = Annotated[InputsGateConfig | LearnedGateConfig, Field(discriminator="kind")]


class FinalMlpStreamConfig(BaseConfig):
    """One of the two streams of FinalMLP."""

    gate: GateConfig | None = None
    """What selects the inputs that the stream reads; none given: it reads all as they are."""
    mlp: MlpConfig
    """The stream's network."""


class FinalMlpConfig(BaseConfig):
    """FinalMLP (arXiv:2304.00902): two MLPs, each with input gates, joined by a bilinear fusion of many heads."""

    kind: Literal["final_mlp"]
    first: FinalMlpStreamConfig
    """One stream."""
    second: FinalMlpStreamConfig
    """The other one."""
    num_heads: PositiveInt = 1
    """Parts into which the outputs of both streams are cut; each pair of parts is fused by itself."""
    fusion_size: PositiveInt = 1
    """Fusions side by side, each one number: the width of the output. 1 is the paper's, whose number is the logit."""

    def checks(self) -> tuple[Check, ...]:
        """Outputs that cannot be cut into heads."""
        return (self._heads_divide,)

    def _heads_divide(self) -> Problems:
        for name, stream in (("first", self.first), ("second", self.second)):
            if stream.mlp.layer_sizes[-1] % self.num_heads:
                yield (
                    (name, "mlp", "layer_sizes"),
                    f"the last layer must be a multiple of num_heads, {self.num_heads}; "
                    f"found {stream.mlp.layer_sizes[-1]}",
                )


class WukongConfig(BaseConfig):
    """Wukong (arXiv:2403.02545): layers that join a factorization machine block and a linear compression of fields."""

    kind: Literal["wukong"]
    width: PositiveInt
    """Width of every field; an embedding of another width is projected to it."""
    num_dense_fields: PositiveInt = 1
    """Fields, beside the embeddings, that a Linear makes of all inputs that are no embeddings."""
    num_layers: PositiveInt
    """Number of layers; each doubles the highest order of interactions."""
    num_fmb_fields: PositiveInt
    """Fields that the factorization machine block of a layer gives."""
    num_lcb_fields: PositiveInt
    """Fields that the linear compression block of a layer gives."""
    rank: PositiveInt
    """Columns k of the projection Y in the factorization machine X Xᵀ Y."""
    fmb_hidden_sizes: list[PositiveInt] = []
    """Hidden layers of the MLP in the factorization machine block: Linear → ReLU each."""
    mlp: MlpConfig | None = None
    """What reads the fields of the last layer; none given: they are the output, end to end."""


class RankMixerConfig(BaseConfig):
    """RankMixer (arXiv:2507.15551): tokens that exchange parts, each with a feed-forward of its own."""

    kind: Literal["rank_mixer"]
    num_tokens: PositiveInt
    """Parts, as even as can be, that the inputs are cut into, a token each; also the heads of the mixing."""
    width: PositiveInt
    """Width of every token, and of the output; a multiple of `num_tokens`."""
    num_layers: PositiveInt
    """Number of layers: mixing, then feed-forward."""
    feed_forward_factor: PositiveInt = 4
    """Width of a feed-forward's hidden layer, as a multiple of `width`."""

    def checks(self) -> tuple[Check, ...]:
        """Tokens that cannot be cut into as many heads."""
        return (self._heads_divide,)

    def _heads_divide(self) -> Problems:
        if self.width % self.num_tokens:
            yield ("width",), f"must be a multiple of num_tokens, {self.num_tokens}; found {self.width}"


CrossConfig = MaskNetConfig | DcnConfig | DlrmConfig | GdcnConfig | FinalMlpConfig | WukongConfig | RankMixerConfig
"""Every network that is more than an MLP."""

BackboneConfig = Annotated[MlpConfig | CrossConfig, Field(discriminator="kind")]
