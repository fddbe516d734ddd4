"""Fixtures of the whole suite."""

from pathlib import Path

import pytest
from support import write_feed


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small feed on disk, never to be changed."""
    return write_feed(tmp_path_factory.mktemp("feed"))
