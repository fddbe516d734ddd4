"""Fixtures of the model's tests."""

from collections.abc import Iterator

import pytest
import torch

from recap.runtime import restored_threads


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Let torch compute with three threads during a test."""
    with restored_threads():
        torch.set_num_threads(3)
        yield
