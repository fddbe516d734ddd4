"""Where a run was trained: the machine, the commit and the versions."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import torch

import recap
from recap.runtime import available_cpus
from recap.text import plural, size_text

_PROCESSOR = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Environment:
    """What may explain a different speed, or a different number."""

    processor: str
    cpus: int
    """The CPUs that the process may use."""
    memory: int
    """Bytes of the machine."""
    gpu: str | None
    commit: str | None
    """That of the repository of the board file, with `-dirty` if tracked files had changed; None outside of one."""
    recap: str
    torch: str

    @classmethod
    def here(cls, file: Path) -> Self:
        """That of this process. `file`: the board file."""
        return cls(
            _processor(),
            available_cpus(),
            int(psutil.virtual_memory().total),
            torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            _commit(file.absolute().parent),
            recap.__version__,
            str(torch.__version__),
        )

    def text(self) -> str:
        """In one line."""
        machine = f"{self.processor}, {plural(self.cpus, 'CPU')}, {size_text(self.memory)}, {self.gpu or 'no GPU'}"
        return f"{machine}; commit {self.commit or 'unknown'}; recap {self.recap}, torch {self.torch}"


def _processor() -> str:
    """The name of the processor."""
    if _PROCESSOR.exists():
        for line in _PROCESSOR.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # no git
        return None
    return done.stdout.strip() or None
