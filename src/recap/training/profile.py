"""Profiling: `span` names the parts of training, `Profile` measures them over some steps.

The result is a table and two files in `profile/` of the run: `trace.json` (Chrome's format) and `operators.txt`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from recap.native.torch_private import profiler_enabled
from recap.reporting import Say

SPANS = ("data wait", "forward", "backward", "optimizer", "logging", "evaluation", "checkpoint")
"""The parts of training; `backward` includes the losses, `forward` the copy of a batch to the device."""
WARM_UP = 5
"""Steps before the measured ones."""


def span(name: str) -> AbstractContextManager[Any]:
    """Mark a part of training, one of `SPANS`, for the profiler; almost free while no profiler runs."""
    assert name in SPANS
    return record_function(_key(name)) if profiler_enabled() else nullcontext()


class Profile:
    """A context that profiles `steps` steps after `WARM_UP`, then reports and writes the result; 0 turns it off.

    torch's tracer prints a line to standard error when it starts and when it stops, which no setting silences. It may
    break a progress bar; redirecting the file descriptor instead would lose what other threads print.
    """

    def __init__(self, steps: int, folder: Path, say: Say) -> None:
        self.steps, self.folder, self.say = steps, folder, say
        self._profiler: profile | None = None
        self._left = 0

    def __enter__(self) -> Self:
        self._left = WARM_UP + self.steps
        if self.steps:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(
                activities=activities,
                schedule=schedule(wait=0, warmup=WARM_UP, active=self.steps, repeat=1),
                on_trace_ready=self._write,
                acc_events=True,  # else torch warns about dropped events, even with a single window
            )
            self._profiler.start()
        return self

    def step(self) -> None:
        """A step, with its logging, evaluation and saving, is finished."""
        if self._profiler is None:
            return
        self._left -= 1
        self._profiler.step()
        if not self._left:
            self._profiler.stop()
            self._profiler = None

    def __exit__(self, *_: object) -> None:
        """Write the measured steps if the run ends before the profile does."""
        if self._profiler is None:
            return
        if self._left >= self.steps:
            self.say(f"profile: the run ended within the first {WARM_UP} steps, which are not measured")
        self._profiler.stop()
        self._profiler = None

    def _write(self, profiler: profile) -> None:
        """Report the table and write the files. A failed write is reported and does not stop the run."""
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


def table(events: Mapping[str, Any], steps: int) -> str:
    """One line per part of training: milliseconds per step on the CPU, and the share of the total."""
    total = events["ProfilerStep*"].cpu_time_total
    times = {name: events[_key(name)].cpu_time_total for name in SPANS if _key(name) in events}
    times["other"] = max(0.0, total - sum(times.values()))
    lines = [f"{'profile of ' + str(steps) + ' steps':<20}{'ms/step':>12}{'share':>8}"]
    for name, microseconds in [*times.items(), ("total", total)]:
        lines.append(f"{name:<20}{microseconds / 1000 / steps:>12.3f}{microseconds / total:>8.1%}")
    return "\n".join(lines)


def _key(name: str) -> str:
    return f"recap: {name}"
