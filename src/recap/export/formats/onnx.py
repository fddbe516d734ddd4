"""The format `onnx`: a graph that onnxruntime runs, float32 with scores in float64."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from recap.errors import CheckpointError, InputError, RunError
from recap.export.formats.quiet import quiet
from recap.export.program import Program, Run

FILE = "model.onnx"
_TO_RUN = ("onnxruntime",)
_TO_WRITE = ("onnx", "onnxscript", *_TO_RUN)


def check() -> None:
    """Raise InputError unless the packages are installed."""
    _require(_TO_WRITE)


def _require(packages: Sequence[str]) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"format onnx: not installed: {', '.join(missing)}; run pip install 'recap-ranker[onnx]'")


def write(program: Program, traced: ExportedProgram, folder: Path) -> None:
    """Write `FILE`; beyond 2 GiB its weights are in a file beside it. Raises RunError."""
    dimensions = tuple(each.dimensions for each in program.inputs)
    try:
        with quiet():
            converted = torch.onnx.export(
                traced,
                input_names=program.names,
                output_names=program.outputs,
                dynamic_shapes=(dimensions,),
                custom_translation_table={torch.ops.aten.searchsorted.Tensor: _searchsorted},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise RunError(f"torch cannot write the model as ONNX ({str(error)[-300:]}); choose --format torch") from error
    assert converted is not None
    converted.save(str(folder / FILE))


def load(folder: Path, inputs: Sequence[str], calls: int) -> Run:
    """The program in `folder`; any number of threads may call it."""
    _require(_TO_RUN)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no other class
        raise CheckpointError(f"{folder / FILE}: onnxruntime cannot open it ({str(error)[:300]})") from None
    names = [output.name for output in session.get_outputs()]

    def run(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: values[name].contiguous().numpy() for name in inputs}
        return dict(zip(names, map(torch.from_numpy, session.run(None, arrays)), strict=True))

    return run


def _searchsorted(sorted_sequence: Any, self: Any, **options: Any) -> Any:
    """The number of values in `sorted_sequence` [V] below each of `self` [B]: a binary search, which ONNX lacks."""
    from onnxscript import opset18 as op

    assert not any(options.values())
    count = sorted_sequence.shape[0]

    def number(value: int) -> Any:
        return op.Constant(value_ints=[value])

    below = op.Mul(self, number(0))
    for power in reversed(range(count.bit_length())):
        further = op.Add(below, number(1 << power))
        last = op.Gather(sorted_sequence, op.Sub(op.Min(further, number(count)), number(1)))
        holds = op.And(op.LessOrEqual(further, number(count)), op.Less(last, self))
        below = op.Where(holds, further, below)
    return below
