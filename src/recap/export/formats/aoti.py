"""The format `aoti`: machine code by AOTInductor, for the machine that compiles it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from recap.errors import CheckpointError, InputError, RunError
from recap.export.formats.quiet import quiet
from recap.export.program import Program, Run

FILE = "model.pt2"


def check() -> None:
    """Raise InputError unless there is a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise InputError(
            "format aoti: needs a C++ compiler, and found none; install g++ or clang++, name one in the environment "
            "variable CXX, or choose --format torch"
        ) from None


def write(program: Program, traced: ExportedProgram, folder: Path) -> None:
    """Compile into `FILE`: a zip file of a shared library, its source, and the weights. Raises RunError."""
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    try:
        with quiet(), fresh_cache():  # or copies of the weights would stay in the folder of temporary files
            aoti_compile_and_package(traced, package_path=str(folder / FILE))
    except RuntimeError as error:
        raise RunError(f"torch cannot compile the model ({str(error)[-300:]}); choose --format torch") from error


def load(folder: Path, inputs: Sequence[str], calls: int) -> Run:
    """The program of `folder`. A runner serves one call at a time, so there is one for each of `calls`."""
    from torch._inductor.package.package import load_package

    try:
        model = load_package(str(folder / FILE), num_runners=calls)
    except Exception as error:  # of many classes
        raise CheckpointError(
            f"{folder / FILE}: torch cannot open it ({str(error)[:300]}); it runs on machines such as the one that "
            "compiled it, with the same version of torch: export it here"
        ) from None

    def run(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            outputs: dict[str, Tensor] = model(*(values[name].contiguous() for name in inputs))
        return outputs

    return run
