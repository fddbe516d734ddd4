"""The format `torch`: a program of `torch.export`, which runs wherever torch does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from recap.errors import CheckpointError
from recap.export.program import Program, Run

FILE = "model.pt2"


def check() -> None:
    """It needs torch alone."""


def write(program: Program, traced: ExportedProgram, folder: Path) -> None:
    """Write `FILE`: the graph as JSON and the weights as plain numbers, in a zip file."""
    example = traced.example_inputs
    traced.example_inputs = None  # torch would store it as Python objects
    try:
        torch.export.save(traced, folder / FILE)
    finally:
        traced.example_inputs = example


def load(folder: Path, inputs: Sequence[str], calls: int) -> Run:
    """The program of `folder`; it holds no state, so any number of threads may call it."""
    try:
        module = torch.export.load(folder / FILE).module()
    except Exception as error:  # of many classes
        raise CheckpointError(f"{folder / FILE}: torch cannot open it ({str(error)[:300]})") from None

    def run(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            outputs: dict[str, Tensor] = module(*(values[name] for name in inputs))
        return outputs

    return run
