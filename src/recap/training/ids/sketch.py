"""How often ids without a row occurred: a count-min sketch, whose size does not depend on how many ids there are.

Cormode & Muthukrishnan, J. Algorithms 2005. An id has a counter in each of four rows of the sketch, which other ids may
share; the least of the four is never below the true number. After as many occurrences as a row has counters, all are
halved, so that the sketch neither fills up nor remembers what is long past (TinyLFU, arXiv:1512.00727, section 3.3).
"""

import torch
from torch import Tensor

_FACTORS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15, 0x165667B19E3779F9)
"""Odd numbers, which multiply a code for each row of the sketch."""
_COUNTERS, _LEAST = 4, 1024
"""Counters in a row of the sketch for each row of a part, and the least of them, before rounding up to a power of 2."""


class Sketch:
    """Counts of codes of ids. Each part of a table has counters of its own, so they do not depend on the ranks."""

    def __init__(self, rows: int, parts: int, device: torch.device) -> None:
        self.bits = (max(_COUNTERS * -(-rows // parts), _LEAST) - 1).bit_length()
        self.width = 1 << self.bits
        """Counters of a part in each row of the sketch."""
        self.counters = torch.zeros(len(_FACTORS), parts, self.width, dtype=torch.int32, device=device)
        self.occurrences = torch.zeros(parts, dtype=torch.int64, device=device)
        """Those of each part since its counters were halved."""
        self._factors = torch.tensor(_FACTORS, device=device)[:, None]

    def add(self, part: int, codes: Tensor, counts: Tensor) -> Tensor:
        """Count `counts` [N] more occurrences of different `codes` [N] of a part; the estimates of all so far, [N]."""
        counters = self.counters[:, part]  # [4, width]
        index = (codes * self._factors >> (63 - self.bits)) & (self.width - 1)  # [4, N]
        counters.scatter_add_(1, index, counts.to(torch.int32).expand_as(index))
        estimates = counters.gather(1, index).amin(dim=0).long()
        self.occurrences[part] += counts.sum()
        if self.occurrences[part] >= self.width:
            counters.bitwise_right_shift_(1)
            self.occurrences[part] = 0
        return estimates
