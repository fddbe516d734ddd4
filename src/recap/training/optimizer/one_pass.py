"""Adam in one pass over memory for weights that have a bf16 copy: it reads bf16 gradients and writes the copies.

The numbers are those of torch's Adam bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recap.config.optimizer import AdamConfig, AdamWConfig
from recap.config.recap import RecapConfig
from recap.model.ranker import Ranker
from recap.native.rounded_weight import RoundedWeight
from recap.native.torch_private import fused_adam_
from recap.runtime import Runtime
from recap.training.optimizer.rounded_weights import keep_rounded_weights, rounded_weights

_BLOCK = 1 << 18
"""Numbers of a weight that are updated at once: gradient, weight and moments stay in the cache meanwhile. A multiple of
64, so that torch computes all of them with vectors, as it does in a whole tensor."""


def keep_rounded(config: RecapConfig, runtime: Runtime, ranker: Ranker) -> None:
    """Let a ranker that Adam or AdamW trains in bf16 on a CPU keep copies; call it before the optimizer is made.

    The gradients of weights with copies are then bf16, as products compute them, if nothing adds to a gradient, scales
    it or sums it over ranks before Adam reads it. Otherwise they are float32, as with autocast.
    """
    optimizer, training = config.optimizer, config.training
    if runtime.precision != "bf16" or runtime.device.type != "cpu" or training.compile:
        return
    if not isinstance(optimizer.algorithm, AdamConfig | AdamWConfig):
        return
    keep_rounded_weights(ranker)
    if (
        optimizer.balancing.kind in ("none", "uncertainty")
        and optimizer.clip_gradients is None
        and not (optimizer.embedding_l2 or optimizer.network_l2)
        and (training.gradient_accumulation or 1) == runtime.ranks.world_size == 1
    ):
        for weight in rounded_weights(ranker):
            weight.grad_dtype = torch.bfloat16


class OnePassAdam(torch.optim.Adam):
    """Fused Adam or AdamW, at rate 0 until a group sets one, which also writes the bf16 copies of weights."""

    def __init__(
        self,
        parameters: list[dict[str, Any]],
        algorithm: AdamConfig | AdamWConfig,
        copies: Mapping[Tensor, RoundedWeight],
    ) -> None:
        """`copies`: of those weights among `parameters` that have one; their gradients are bf16 or float32."""
        decay = algorithm.weight_decay if isinstance(algorithm, AdamWConfig) else 0.0
        super().__init__(
            parameters,
            lr=0.0,
            betas=(algorithm.beta_1, algorithm.beta_2),
            eps=algorithm.epsilon,
            weight_decay=decay,
            decoupled_weight_decay=isinstance(algorithm, AdamWConfig),
            fused=True,
        )
        self._copies = copies

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        gradients = {weight: weight.grad for weight in self._copies if weight.grad is not None}
        for weight in gradients:
            weight.grad = None  # hidden from torch's step
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight in gradients:
                    weight.grad = gradients[weight]
                    self._update(group, weight, gradients[weight])

    def _update(self, group: Mapping[str, Any], weight: Tensor, gradient: Tensor) -> None:
        state = self.state[weight]
        if not state:  # as torch's step makes it
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        copy = self._copies[weight]
        whole = (weight.detach(), gradient, state["exp_avg"], state["exp_avg_sq"], copy.memory)
        widened = torch.empty(min(_BLOCK, weight.numel()), device=weight.device)
        for part, slopes, mean, square, rounded in zip(
            *(each.reshape(-1).split(_BLOCK) for each in whole), strict=True
        ):
            if slopes.dtype != torch.float32:
                slopes = widened[: len(slopes)].copy_(slopes)
            fused_adam_(part, slopes, mean, square, state["step"], group)
            rounded.copy_(part)
        copy.written()
