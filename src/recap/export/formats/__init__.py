"""The formats of exported programs: each module checks what it needs, writes a program, and loads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from torch.export import ExportedProgram

from recap.export.formats import aoti, onnx, torch_export
from recap.export.program import Program, Run


class Format(Enum):
    """The kinds of programs."""

    TORCH = "torch"
    AOTI = "aoti"
    ONNX = "onnx"


@dataclass(frozen=True)
class Functions:
    """What a format does."""

    file: str
    """The file of the program."""
    check: Callable[[], None]
    """Raises InputError if something is not installed that `write` needs."""
    write: Callable[[Program, ExportedProgram, Path], None]
    """Write the program into a folder."""
    load: Callable[[Path, Sequence[str], int], Run]
    """Load the program of a folder, with these inputs, for this many calls at once. Raises CheckpointError, and
    InputError for a package that is not installed."""


FORMATS = {
    Format.TORCH: Functions(torch_export.FILE, torch_export.check, torch_export.write, torch_export.load),
    Format.AOTI: Functions(aoti.FILE, aoti.check, aoti.write, aoti.load),
    Format.ONNX: Functions(onnx.FILE, onnx.check, onnx.write, onnx.load),
}
