"""The device of these tests: a GPU, or the CPU that plays one."""

from collections.abc import Iterator

import pytest
import torch
from device.played_gpu import played_gpu


@pytest.fixture(autouse=True)
def gpu() -> Iterator[torch.device]:
    """`cuda`: of the machine, or played. What a test opens in its body is on it."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    with played_gpu():
        yield torch.device("cuda")
