"""Which layers of a ranker keep a bf16 copy of their weight during training in bf16 on a CPU."""

from collections.abc import Iterator

from torch import Tensor, nn

from recap.model.histories.din import Din
from recap.model.layers import Linear
from recap.model.ranker import Ranker
from recap.native.rounded_weight import RoundedWeight, usable

LARGE_WEIGHT = 1 << 16
"""Numbers in a weight from which a copy saves more than its bookkeeping costs."""


def keep_rounded_weights(ranker: Ranker) -> None:
    """Let large Linear layers keep copies; does nothing where copies are not `usable`.

    Logits are computed in float32, and DIN computes with the weights of its layers, so neither has copies.
    """
    if usable():
        for layer in _layers(ranker):
            if type(layer) is Linear and layer.weight.numel() >= LARGE_WEIGHT:
                layer.rounded = RoundedWeight(layer.weight)


def rounded_weights(ranker: Ranker) -> dict[Tensor, RoundedWeight]:
    """The weights that have a copy, and their copies."""
    layers = [layer for layer in ranker.modules() if isinstance(layer, Linear)]
    return {layer.weight: layer.rounded for layer in layers if layer.rounded is not None}


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    if not isinstance(module, Din):
        for child in module.children():
            yield from _layers(child)
