"""What machines can do: published numbers of GPUs, and constants fitted to measurements on CPUs."""

from dataclasses import dataclass, replace
from math import isinf
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recap.errors import InputError
from recap.text import shorten

Device = Literal["cpu", "a100", "h100", "h200"]
GIB = 2**30
_MAX_BYTES = 1 << 20
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Machine:
    """The device of a rank, its links to other ranks, and how much of them a step reaches."""

    name: str
    source: str
    """Where the numbers are from."""
    flops: dict[str, float]
    """Precision → FLOP/s that matrix products reach."""
    bytes_per_second: float
    """Memory traffic that the rest of a step reaches."""
    link: float
    """Bytes/s of a rank to ranks of its node, in each direction."""
    network: float
    """Bytes/s of a rank to other nodes, in each direction; that of `link` on one machine."""
    seconds_per_operation: float
    """PyTorch's own time to run an operator."""
    seconds_per_round: float
    """Latency of a round of messages between ranks."""
    memory_gib: float | None
    """Memory of a rank; None if it must be given."""
    reserved_gib: float
    """Of it, what the driver, PyTorch and fragments of memory take."""
    cores: int | None = None
    """On a CPU: the cores that all ranks share. Computing, memory traffic and exchange are those of all cores."""

    @property
    def is_shared(self) -> bool:
        """Whether all ranks share one machine, and nothing overlaps."""
        return self.cores is not None


class Measured(BaseModel):
    """The file that `benchmarks/plan.py` writes: constants of a machine, for ranks on its CPU."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    machine: str
    """Kind of machine, such as `2 cores of an AMD EPYC`."""
    date: str
    cores: Annotated[int, Field(gt=0)]
    precision: str
    flops_per_second: Positive
    bytes_per_second: Positive
    exchange_bytes_per_second: Positive
    seconds_per_operation: Positive
    seconds_per_round: Positive
    median_error: Annotated[float, Field(ge=0)]
    """Of the predicted time of steps that the constants were not fitted to, relative to the measured one."""
    largest_error: Annotated[float, Field(ge=0)]

    def machine_of(self) -> Machine:
        """The machine with these constants."""
        return Machine(
            name=f"CPU, {self.machine}",
            source=(
                f"constants fitted to steps measured with 1, 2 and 4 processes ({self.date}); on other shapes the "
                f"model was off by {self.median_error:.0%} in the median, {self.largest_error:.0%} at most"
            ),
            flops={self.precision: self.flops_per_second},
            bytes_per_second=self.bytes_per_second,
            link=self.exchange_bytes_per_second,
            network=self.exchange_bytes_per_second,
            seconds_per_operation=self.seconds_per_operation,
            seconds_per_round=self.seconds_per_round,
            memory_gib=None,
            reserved_gib=0.5,
            cores=self.cores,
        )


MEASURED = Path(__file__).with_name("measured.json")
"""What `benchmarks/plan.py` found on a small machine; measure yours and pass `--measured`."""

MATRIX_SHARE, MEMORY_SHARE, LINK_SHARE = 0.5, 0.7, 0.7
"""Of the published peaks, what a step is assumed to reach."""
_OPERATION, _ROUND = 10e-6, 20e-6
"""Assumed seconds of PyTorch for an operator, and of NCCL for a round of messages."""
_RESERVED = 0.15
"""Share of a GPU's memory that is kept free, as TorchRec's planner does."""


def _gpu(
    name: str,
    tf32: float,
    bf16: float,
    float32: float,
    memory: tuple[float, float],
    link: float,
    network: float,
    source: str,
) -> Machine:
    """Peaks in TFLOP/s without sparsity, memory in GB and GB/s, links in GB/s in each direction."""
    gib = memory[0] * 1e9 / GIB
    peaks = {"float32": float32, "tf32": tf32, "bf16": bf16, "float16": bf16}
    return Machine(
        name=name,
        source=source,
        flops={precision: peak * 1e12 * MATRIX_SHARE for precision, peak in peaks.items()},
        bytes_per_second=memory[1] * 1e9 * MEMORY_SHARE,
        link=link * 1e9 * LINK_SHARE,
        network=network * 1e9 * LINK_SHARE,
        seconds_per_operation=_OPERATION,
        seconds_per_round=_ROUND,
        memory_gib=gib,
        reserved_gib=_RESERVED * gib,
    )


GPUS: dict[str, Machine] = {
    "a100": _gpu(
        "A100 SXM 80 GB",
        156,
        312,
        19.5,
        (80, 2039),
        300,
        25,
        "NVIDIA's data sheets of A100 and DGX A100: NVLink 600 GB/s both ways, 200 Gb/s of network for each GPU",
    ),
    "h100": _gpu(
        "H100 SXM 80 GB",
        494.5,
        989.5,
        67,
        (80, 3350),
        450,
        50,
        "NVIDIA's data sheets of H100 and DGX H100: NVLink 900 GB/s both ways, 400 Gb/s of network for each GPU",
    ),
    "h200": _gpu(
        "H200 SXM 141 GB",
        494.5,
        989.5,
        67,
        (141, 4800),
        450,
        50,
        "NVIDIA's data sheets of H200 and DGX H200: NVLink 900 GB/s both ways, 400 Gb/s of network for each GPU",
    ),
}


def machine_for(device: Device, measured: Path | None, memory_gib: float | None) -> Machine:
    """The machine of `device`, with the constants of the file `measured`. Raises InputError."""
    if device == "cpu":
        machine = read_measured(measured or MEASURED).machine_of()
        if memory_gib is None:
            raise InputError(
                "--memory-gib: missing; give the memory of a rank, that of the machine divided by its ranks"
            )
    elif measured is not None:
        raise InputError(f"--measured: holds constants of a CPU, but --device is {device}; leave out one of the two")
    else:
        machine = GPUS[device]
    if memory_gib is None:
        return machine
    if not memory_gib > 0 or isinf(memory_gib):
        raise InputError(f"--memory-gib: must be above 0 and finite, found {memory_gib:g}")
    reserved = machine.reserved_gib if device == "cpu" else _RESERVED * memory_gib
    if memory_gib <= reserved:
        raise InputError(
            f"--memory-gib: must be above {reserved:g}, which a process needs before it holds anything; found "
            f"{memory_gib:g}"
        )
    return replace(machine, memory_gib=memory_gib, reserved_gib=reserved)


def read_measured(file: Path) -> Measured:
    """The constants that `benchmarks/plan.py` wrote. Raises InputError."""
    advice = "write one with 'python benchmarks/plan.py --output FILE'"
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES)
        return Measured.model_validate_json(content)
    except OSError as error:
        raise InputError(f"--measured: {file}: cannot be read ({error.strerror}); {advice}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = shorten(f"{where}: {first['msg']}" if where else first["msg"], 200)
        raise InputError(f"--measured: {file}: is not a file of benchmarks/plan.py ({problem}); {advice}") from None
