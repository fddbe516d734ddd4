"""What the ranks of a run must know alike, so that all of them stop after the same step."""

import signal

import torch
from torch import Tensor

from recap.ranks import Ranks
from recap.training.signals import Signals


class Agreement:
    """Adds numbers up over all ranks, and with them tells each which signals reached any."""

    def __init__(self, ranks: Ranks, received: Signals) -> None:
        """`received`: the signals that this process got, and will get."""
        self.ranks, self.received = ranks, received
        self.signals: list[int] = received if ranks.is_alone else []
        """Those that all ranks know of; alone, all."""

    def sum(self, values: Tensor) -> Tensor:
        """[N] float64 of each rank → [N], their sums on all ranks."""
        if self.ranks.is_alone:
            return values
        flags = torch.zeros(signal.NSIG, dtype=torch.float64)
        flags[list(self.received)] = 1
        (sums,) = self.ranks.sum([torch.cat([values, flags])])
        arrived = sums[len(values) :].nonzero().flatten().tolist()
        self.signals += [number for number in arrived if number not in self.signals]
        return sums[: len(values)]
