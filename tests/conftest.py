"""Fixtures of the whole suite."""

import atexit
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import settings
from support import write_feed

from recap.config.file import environment

# What is remembered of files between runs is kept out of the user's home.
os.environ["XDG_CACHE_HOME"] = mkdtemp(prefix="recap-cache-")
atexit.register(rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# The models are small, and tests run side by side; commands that tests start do the same, to the bit.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small feed on disk, never to be changed."""
    return write_feed(tmp_path_factory.mktemp("feed"))


@pytest.fixture(autouse=True)
def forget_secrets() -> Iterator[None]:
    """Forget the secrets of a test: a short one, such as -7, would be hidden in the paths that later tests print."""
    before = dict(environment._SECRETS)
    yield
    environment._SECRETS.clear()
    environment._SECRETS.update(before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Fail a test that leaves torch with more threads: later tests of its process would sum in another order."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1, f"the test left torch with {left} threads"


settings.register_profile("recap", deadline=None, max_examples=50)  # nothing is timed in a test; CI has limited time
settings.load_profile("recap")
