"""Rivals of boards that are programs: what they say where their package is missing."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from support import RECIPES


@pytest.mark.skipif(find_spec("torch_rechub") is not None, reason="torch-rechub is installed")
def test_without_torch_rechub_the_program_says_what_to_install() -> None:
    command = [sys.executable, str(RECIPES / "rivals" / "rechub.py"), "--config", "c", "--split", "s", "--output", "o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "torch-rechub is not installed: pip install torch-rechub\n"
