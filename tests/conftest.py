"""Fixtures of the whole suite."""

from pathlib import Path

import pytest
import torch
from support import write_feed

torch.set_num_threads(1)  # the models are small, and tests run side by side


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small feed on disk, never to be changed."""
    return write_feed(tmp_path_factory.mktemp("feed"))
