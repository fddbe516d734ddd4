"""Backbones: the networks that tasks share, or the experts that they mix."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Check, DropRate, Name, PositiveFloat, PositiveInt, Problems
from recap.config.network import BatchNormConfig, MlpBackboneConfig, MlpConfig


class MaskBlockConfig(BaseConfig):
    """An instance-guided mask block."""

    output_size: PositiveInt
    """Width of the block's output."""
    aggregation_size: PositiveInt | None = None
    """Width of the mask's hidden layer; set this or `reduction_factor`."""
    reduction_factor: PositiveFloat | None = None
    """Width of the mask's hidden layer, as a multiple of the width of the inputs."""
    input_layer_norm: bool = False
    """Whether to apply LayerNorm to the block's input before the mask."""
    relu: bool = False
    """Whether a ReLU follows the block's LayerNorm, as in the paper; the published ranker has none."""
    dropout_rate: DropRate = 0.0
    """Probability of dropping an output of the block in training; 0 for none, as in the paper."""

    def checks(self) -> tuple[Check, ...]:
        return (self._one_width,)

    def _one_width(self) -> Problems:
        if (self.aggregation_size is None) == (self.reduction_factor is None):
            stated = "none" if self.aggregation_size is None else "both"
            yield (), f"needs exactly one of aggregation_size and reduction_factor, found {stated}"


class MaskNetConfig(BaseConfig):
    """MaskNet (arXiv:2102.07619): mask blocks in parallel or in sequence, then an optional MLP."""

    kind: Literal["mask_net"]
    mask_blocks: Annotated[list[MaskBlockConfig], Field(min_length=1)]
    """The blocks, in order."""
    use_parallel: bool = False
    """True: all blocks read the input, and their outputs are concatenated. False: each block reads the previous one."""
    mlp: MlpConfig | None = None
    """An MLP on the output of the blocks. Optional; off by default."""


class DcnConfig(BaseConfig):
    """DCN-v2 (arXiv:2008.13535): cross layers x ← x₀ ⊙ (W x + b) + x, with an MLP beside or after them."""

    kind: Literal["dcn"]
    poly_degree: PositiveInt
    """Number of cross layers; n layers multiply up to n + 1 inputs."""
    projection_dim: PositiveInt | None = None
    """Rank r of every W = U Vᵀ, with r columns in U and V. Optional; default: full rank."""
    use_parallel: bool = True
    """True: `parallel_mlp` reads the inputs, and its output is joined to that of the cross layers. False: it reads the
    output of the cross layers."""
    parallel_mlp: MlpConfig | None = None
    """The MLP beside or after the cross layers. Optional; off by default."""
    output_mlp: MlpConfig | None = None
    """An MLP on the output of all of these. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: _stack_problems(self.use_parallel, self.parallel_mlp, "parallel_mlp"),)


class GdcnConfig(BaseConfig):
    """Gated DCN (arXiv:2311.04635): cross layers c ← c₀ ⊙ (W c + b) ⊙ σ(G c) + c, with an MLP beside or after them."""

    kind: Literal["gdcn"]
    num_layers: PositiveInt
    """Number of gated cross layers."""
    use_parallel: bool = True
    """True: `mlp` reads the inputs, and its output is joined to that of the cross layers. False: it reads the output of
    the cross layers."""
    mlp: MlpConfig | None = None
    """The MLP beside or after the cross layers. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: _stack_problems(self.use_parallel, self.mlp, "mlp"),)


class CrossNetworkConfig(BaseConfig):
    """One of the two cross networks of DCNv3."""

    num_layers: PositiveInt
    """Number of layers."""
    dropout_rate: DropRate = 0.0
    """Probability of dropping a value of a layer's output in training."""


class DcnV3Config(BaseConfig):
    """DCNv3 (arXiv:2407.13349): an exponential and a linear cross network, whose outputs are joined.

    A layer is a ⊙ ([c ‖ c ⊙ max(0, LayerNorm(c))] + b) + x with c = W x, half as wide as x; a is x in the exponential
    network, and the inputs in the linear one."""

    kind: Literal["dcn_v3"]
    exponential: CrossNetworkConfig
    """The network in which every layer doubles the degree."""
    linear: CrossNetworkConfig
    """The network in which every layer adds 1 to the degree."""


class QnnConfig(BaseConfig):
    """QNN-α (arXiv:2505.17999): layers x + Σᵣ hᵣ ⊙ x with h = ReLU(W x + b), which has several rows hᵣ as wide as x."""

    kind: Literal["qnn"]
    num_layers: PositiveInt
    """Number of layers; n layers have degree 2ⁿ."""
    num_rows: PositiveInt = 2
    """Number of rows of h, each as wide as the inputs."""
    batch_norm: BatchNormConfig | None = None
    """BatchNorm before every ReLU. Optional; off by default."""
    dropout_rate: DropRate = 0.0
    """Probability of dropping a value of h, and of a layer's output, in training."""


def _stack_problems(use_parallel: bool, mlp: MlpConfig | None, name: str) -> Problems:
    if not use_parallel and mlp is None:
        yield (
            ("use_parallel",),
            f"false puts {name} after the cross layers, but {name} is not set; set it, or remove use_parallel",
        )


class DlrmConfig(BaseConfig):
    """DLRM (arXiv:1906.00091): inner products of all embeddings and of an MLP's output for the other inputs."""

    kind: Literal["dlrm"]
    bottom_mlp: MlpConfig
    """The MLP of all inputs except embeddings; its last layer must be as wide as every embedding."""
    top_mlp: MlpConfig | None = None
    """An MLP on the output of `bottom_mlp` and all products. Optional; off by default."""


class InputsGateConfig(BaseConfig):
    """A gate on each input, 2σ(MLP(context)), computed for each row."""

    kind: Literal["inputs"]
    hidden_sizes: list[PositiveInt] = []
    """Hidden layers of the MLP: Linear → ReLU each."""
    features: Annotated[list[Name], Field(min_length=1)] | None = None
    """The discrete features whose embeddings are the context. Optional; default: all inputs."""


class LearnedGateConfig(BaseConfig):
    """A gate on each input, 2σ(MLP(v)), computed from a learned vector v and the same for every row."""

    kind: Literal["learned"]
    context_size: PositiveInt = 16
    """Length of the learned vector."""
    hidden_sizes: list[PositiveInt] = []
    """Hidden layers of the MLP: Linear → ReLU each."""


GateConfig = Annotated[InputsGateConfig | LearnedGateConfig, Field(discriminator="kind")]


class FinalMlpStreamConfig(BaseConfig):
    """One of the two streams of FinalMLP."""

    gate: GateConfig | None = None
    """The gates on the stream's inputs. Optional; off by default."""
    mlp: MlpConfig
    """The stream's MLP."""


class FinalMlpConfig(BaseConfig):
    """FinalMLP (arXiv:2304.00902): two MLPs, each with input gates, joined by a multi-head bilinear fusion."""

    kind: Literal["final_mlp"]
    first: FinalMlpStreamConfig
    """The first stream."""
    second: FinalMlpStreamConfig
    """The second stream."""
    num_heads: PositiveInt = 1
    """Number of parts that the output of each stream is split into; each pair of parts is fused separately."""
    fusion_size: PositiveInt = 1
    """Width of the output: the number of parallel fusions. The paper uses 1, the logit."""

    def checks(self) -> tuple[Check, ...]:
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
    """Wukong (arXiv:2403.02545): layers that join a factorization machine block and a linear compression block."""

    kind: Literal["wukong"]
    width: PositiveInt
    """Width of every field; embeddings of another width are projected to it."""
    num_dense_fields: PositiveInt = 1
    """Number of fields that a Linear makes from all inputs except embeddings; each embedding is another field."""
    num_layers: PositiveInt
    """Number of layers; each doubles the maximum order of interactions."""
    num_fmb_fields: PositiveInt
    """Number of output fields of a layer's factorization machine block."""
    num_lcb_fields: PositiveInt
    """Number of output fields of a layer's linear compression block."""
    rank: PositiveInt
    """Number of columns of the projection Y in the factorization machine X Xᵀ Y."""
    fmb_hidden_sizes: list[PositiveInt] = []
    """Hidden layers of the MLP in the factorization machine block: Linear → ReLU each."""
    mlp: MlpConfig | None = None
    """An MLP on the concatenated fields of the last layer. Optional; off by default."""


class SparseExpertsConfig(BaseConfig):
    """Several feed-forward networks for each token, mixed by gates ReLU(h(token)), most of which become 0."""

    num_experts: Annotated[int, Field(gt=1)]
    """Number of networks for each token."""
    active_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of the gates of evaluation that may be above 0; more are penalized in training."""
    penalty_weight: PositiveFloat = 10.0
    """Weight of this penalty relative to the mean loss of the tasks. The higher, the closer the share is kept."""


class RankMixerConfig(BaseConfig):
    """RankMixer (arXiv:2507.15551): tokens that exchange parts, each with its own feed-forward network."""

    kind: Literal["rank_mixer"]
    num_tokens: PositiveInt
    """Number of tokens: parts of nearly equal width that the inputs are split into. Also the number of mixing heads."""
    width: PositiveInt
    """Width of every token and of the output; must be a multiple of `num_tokens`."""
    num_layers: PositiveInt
    """Number of layers: mixing, then feed-forward."""
    feed_forward_factor: PositiveInt = 4
    """Width of the hidden layer of a feed-forward network, as a multiple of `width`."""
    experts: SparseExpertsConfig | None = None
    """A mixture of such networks for each token. Optional; default: one."""

    def checks(self) -> tuple[Check, ...]:
        return (self._heads_divide,)

    def _heads_divide(self) -> Problems:
        if self.width % self.num_tokens:
            yield ("width",), f"must be a multiple of num_tokens, {self.num_tokens}; found {self.width}"


CrossConfig = (
    MaskNetConfig
    | DcnConfig
    | DcnV3Config
    | DlrmConfig
    | GdcnConfig
    | FinalMlpConfig
    | QnnConfig
    | WukongConfig
    | RankMixerConfig
)
"""Every network except the plain MLP."""

BackboneConfig = Annotated[MlpBackboneConfig | CrossConfig, Field(discriminator="kind")]
