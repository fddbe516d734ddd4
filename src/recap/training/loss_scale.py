"""The loss scale of float16 training, without which small gradients underflow to 0.

Micikevicius et al., ICLR 2018 (arXiv:1710.03740), section 3.2: losses are multiplied by the scale before the backward
pass, and gradients are divided by it afterwards. Scales are powers of two, so that float32 digits do not change.
"""

from collections.abc import Mapping
from typing import Any


class LossScale:
    """The scale: halved, and the step repeated, when a gradient overflows; doubled after `GROW_AFTER` good steps."""

    GROW_AFTER, MAX = 2000, 2.0**24

    def __init__(self, *, enabled: bool) -> None:
        """`enabled=False` fixes the scale at 1."""
        self.enabled = enabled
        self._factor, self._good_steps = 2.0**16, 0

    @property
    def factor(self) -> float:
        """The factor that losses are multiplied by."""
        return self._factor if self.enabled else 1.0

    def halve(self) -> bool:
        """Halve the scale after an overflow; return False if it is 1 already."""
        if self.factor <= 1:
            return False
        self._factor, self._good_steps = self._factor / 2, 0
        return True

    def step(self) -> None:
        """Count a step without overflow, and double the scale after `GROW_AFTER` of them."""
        if self.enabled:
            self._good_steps += 1
            if self._good_steps >= self.GROW_AFTER and self._factor < self.MAX:
                self._factor, self._good_steps = self._factor * 2, 0

    def state_dict(self) -> Mapping[str, Any]:
        return {"factor": self._factor, "good_steps": self._good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._factor, self._good_steps = state["factor"], state["good_steps"]
