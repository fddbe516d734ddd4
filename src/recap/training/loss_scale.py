"""The scale of losses under float16, below whose smallest number gradients would vanish.

Micikevicius et al., ICLR 2018 (arXiv:1710.03740), section 3.2: losses are multiplied by it before the backward pass,
gradients are divided by it after. Powers of two change no digit of a float32.
"""

from dataclasses import dataclass, replace


@dataclass
class LossScaleState:
    """What a run remembers of it."""

    factor: float = 2.0**16
    """What losses are multiplied by."""
    good_steps: int = 0
    """Steps since it last changed."""


class LossScale:
    """Halved, and the step done again, when a gradient is too large for it; doubled after many good steps."""

    GROWS_AFTER, MOST = 2000, 2.0**24

    def __init__(self, state: LossScaleState, *, used: bool) -> None:
        """Not `used`, it is 1."""
        self.state, self.used = state, used

    @property
    def factor(self) -> float:
        """What losses are multiplied by."""
        return self.state.factor if self.used else 1.0

    def as_is(self) -> LossScaleState:
        """A copy of what is remembered."""
        return replace(self.state)

    def bring_back(self, state: LossScaleState) -> None:
        """Remember what a copy says."""
        self.state.factor, self.state.good_steps = state.factor, state.good_steps

    def halve(self) -> bool:
        """A gradient is not finite; whether there is a smaller factor to do the step again with."""
        if self.factor <= 1:
            return False
        self.state.factor, self.state.good_steps = self.state.factor / 2, 0
        return True

    def keep(self) -> None:
        """A step went well."""
        if self.used:
            self.state.good_steps += 1
            if self.state.good_steps >= self.GROWS_AFTER and self.state.factor < self.MOST:
                self.state.factor, self.state.good_steps = self.state.factor * 2, 0
