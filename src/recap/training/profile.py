"""Where the time of a step goes: `span` names the parts of training, a `Profile` measures them over some steps.

A profile is two files in `profile/` of the run, `trace.json` (Chrome's format) and `operators.txt`, and a table.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

SPANS = ("data wait", "forward", "backward", "optimizer", "logging", "evaluation", "checkpoint")
"""The parts of training; `backward` has the losses in it, `forward` the copy of a batch to the device."""
WARM_UP = 5
"""Steps before those that are measured."""


def span(name: str) -> AbstractContextManager[Any]:
    """A part of training, of `SPANS`; costs next to nothing where nothing is profiled."""
    assert name in SPANS
    profiling = torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    return record_function(_key(name)) if profiling else nullcontext()


class Profile:
    """Profiles `steps` steps after `WARM_UP`, then writes what it found and is over."""

    def __init__(self, steps: int, folder: Path, say: Callable[[str], None]) -> None:
        """`say` is told what was found. Nothing is measured before `start`."""
        self.steps, self.folder, self.say = steps, folder, say
        self._profiler: profile | None = None

    def start(self) -> None:
        """The run begins."""
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=WARM_UP, active=self.steps, repeat=1),
            on_trace_ready=self._write,
            acc_events=True,  # or torch warns of events that it forgets, though there is one window only
        )
        with _quiet():
            self._profiler.start()
        self._left = WARM_UP + self.steps

    def step(self) -> None:
        """A step, and what belongs to it, is done."""
        if self._profiler is None:
            return
        self._left -= 1
        with _quiet():
            self._profiler.step()
        if not self._left:
            self._profiler.stop()
            self._profiler = None

    def stop(self) -> None:
        """The run ends; a window that is not over is written as far as it came."""
        if self._profiler is None:
            return
        if self._left >= self.steps:
            self.say(f"profile: the run ended within the first {WARM_UP} steps, which are not measured")
        with _quiet():
            self._profiler.stop()
        self._profiler = None

    def _write(self, profiler: profile) -> None:
        """Tell the table and write the files; a disk that takes none stops no run."""
        if self._left >= self.steps:
            return
        averages = profiler.key_averages()
        self.say(table({event.key: event for event in averages}, self.steps - self._left))
        try:
            self.folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(self.folder / "trace.json"))
            by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            text = averages.table(sort_by=by, row_limit=50, max_name_column_width=60)
            (self.folder / "operators.txt").write_text(text, encoding="utf-8")
        except (OSError, RuntimeError) as error:
            self.say(f"profile: {self.folder} cannot be written ({error})")
            return
        self.say(f"profile written: {self.folder}/operators.txt, and trace.json (open it in https://ui.perfetto.dev)")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch's tracer writes to standard error as it starts and stops: it tears a progress bar."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def table(events: Mapping[str, Any], steps: int) -> str:
    """A line for each part of training: milliseconds a step on the CPU, and their share; the rest beside them."""
    whole = events["ProfilerStep*"].cpu_time_total
    found = {name: events[_key(name)].cpu_time_total for name in SPANS if _key(name) in events}
    found["the rest"] = max(0.0, whole - sum(found.values()))
    lines = [f"{'profile of ' + str(steps) + ' steps':<20}{'ms a step':>12}{'share':>8}"]
    for name, microseconds in [*found.items(), ("in all", whole)]:
        lines.append(f"{name:<20}{microseconds / 1000 / steps:>12.3f}{microseconds / whole:>8.1%}")
    return "\n".join(lines)


def _key(name: str) -> str:
    return f"recap: {name}"
