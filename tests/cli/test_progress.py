"""The output of a run, on a terminal of 80 columns and without a terminal."""

import math
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import rich.console
import yaml
from processes import run_recap
from support import feed_values, write_feed

from recap.cli.terminal.console import Console
from recap.cli.terminal.progress import LiveProgress, Pace, smoothed
from recap.cli.terminal.tables import loss_table, shortened
from recap.text import duration

TASKS = [f"is_engaged_with_in_some_way_or_other_{number}" for number in range(10)]
"""Ten names that differ only at their ends."""


def config_file(folder: Path, **training: Any) -> Path:
    values = feed_values(write_feed(folder), folder / "a run")
    values["training"] |= training
    file = folder / "ranker.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def on_a_terminal(*arguments: str | Path) -> str:
    """The output of a command on a terminal of 80 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, 80))
    command = [sys.executable, "-m", "recap", *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # at the end, on Linux
                break
            written += piece
    os.close(master)
    assert process.returncode == 0, written
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines left on the screen after all cursor movements and erasures."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif move := re.fullmatch(r"\x1b\[(\d*)A", piece):
            row = max(0, row - int(move[1] or 1))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif not piece.startswith(("\x1b", "\r")):
            lines[row] += piece
    return [line.rstrip() for line in lines]


def test_on_a_terminal_progress_vanishes_at_the_end(tmp_path: Path) -> None:
    written = on_a_terminal("train", config_file(tmp_path, watch={"metric": "auc", "split": "validation"}))
    assert "step 12/12 " in written
    assert re.search(r"loss [\d.]+  [\d,]+ examples/s  data wait \d+%", written)
    assert re.search(r"step +6  validation  auc 0\.\d+ \(best so far\)", written)
    lines = screen(written)
    assert not [line for line in lines if "━" in line]
    assert [line for line in lines if line.startswith("training 12 steps")]
    assert max(map(len, lines[2:-2])) <= max(80, len(f"best checkpoint: {tmp_path}/a run/checkpoints/step_00000012"))
    assert "…" not in "".join(lines[1:-2]), "no number is cut off"
    folder = shlex.quote(f"{tmp_path}/a run")
    assert lines[-2] == f"next: recap predict {folder} INPUT… --output DIR --step best"


def test_without_a_terminal_lines_are_plain_and_end_with_a_summary(tmp_path: Path) -> None:
    done = run_recap("train", config_file(tmp_path))
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    setup = next(line for line in lines if " parameters, " in line)
    assert re.fullmatch(r"[\d,]+ parameters, on \w+, (\d+ threads?, )?(float32|tf32|bf16)", setup)
    logged = [line for line in lines if re.match(r"step +\d+  epoch", line)]
    assert len(logged) == 4
    assert all(re.search(r"loss [\d.]+  [\d,]+ examples/s  data wait \d+%$", line) for line in logged)
    end = lines[lines.index("") :]
    assert [line.split(" ")[0] for line in end[1:5]] == ["validation,", "task", "like", "share"]
    assert [line.split(":")[0] for line in end[-3:]] == [
        re.match(r"12 steps in [\d.]+ s", end[-3])[0],  # type: ignore[index]
        "last checkpoint",
        "next",
    ]
    assert re.search(r": [\d,]+ examples/s, waiting for data \d+% of the time, evaluations not counted$", end[-3])
    assert end[-2].endswith("/a run/checkpoints/step_00000012")


@pytest.mark.parametrize(("options", "steps"), [(["--profile"], 20), (["--profile-steps", "3"], 3)])
def test_a_profile_is_written_on_request(tmp_path: Path, options: list[str], steps: int) -> None:
    file = config_file(tmp_path, num_train_steps=26, eval_log_every_n=26)
    done = run_recap("train", file, *options)
    assert done.returncode == 0, done.stderr
    # Torch announces its tracer there, which no setting silences.
    assert all(re.search(r"(profiler_st(art|op)|…)$", line) for line in done.stderr.splitlines()), done.stderr
    assert f"\nprofile of {steps} steps " in done.stdout
    assert f"\nprofile written: {tmp_path}/a run/profile/operators.txt, and trace.json" in done.stdout


def test_profiling_zero_steps_is_refused(tmp_path: Path) -> None:
    done = run_recap("train", "x.yaml", "--profile-steps", "0")
    assert done.returncode == 2
    assert "--profile-steps" in done.stderr


def rendered(width: int, show: Any) -> list[str]:
    out = rich.console.Console(width=width, record=True, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with out.file:
        out.print(show)
        return [line.rstrip() for line in out.export_text().splitlines()]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_the_losses_of_all_tasks_fit_a_terminal_under_distinct_names(width: int, count: int) -> None:
    lines = rendered(width, loss_table({task: float(number) for number, task in enumerate(TASKS[:count])}, width))
    assert max(map(len, lines)) <= width
    shown = re.findall(r"(\S+) +(\d\.\d{4})", "\n".join(lines))
    assert [float(value) for _, value in shown] == list(range(count))
    assert len({name for name, _ in shown}) == count
    assert len(lines) <= 10


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_table_of_metrics_drops_columns_before_it_cuts_numbers(
    count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"positives": 1408, "ctr": 0.0133, "calibration": 1.02, "log_loss": 0.05, "rce": 12.3, "auc": 0.78}
    metrics |= {"pr_auc": 0.3, "grouped_auc": 0.7}
    console = Console()
    monkeypatch.setattr(console._out, "width", 80)
    console.table("validation", dict.fromkeys(TASKS[:count], metrics))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert max(map(len, map(str.rstrip, lines))) <= 80
    assert {"task", "rce", "auc", "calibration"} <= set(lines[0].split())
    assert all(line.split()[lines[0].split().index("auc")] == "0.7800" for line in lines[1:])
    assert len({line.split()[0] for line in lines[1:]}) == count


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_table_shows_half_the_width_of_intervals_as_far_as_they_fit(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"positives": 1408, "ctr": 0.0133, "calibration": 1.02, "log_loss": 0.05, "rce": 12.3, "auc": 0.78}
    intervals = {TASKS[0]: {"calibration": (0.99, 1.05), "rce": (math.nan, 14.0), "auc": (0.7762, 0.7838)}}
    console = Console()
    monkeypatch.setattr(console._out, "width", width)
    console.table("validation", dict.fromkeys(TASKS[:2], metrics), intervals)
    _, header, one, other = capsys.readouterr().out.splitlines()
    assert max(map(len, map(str.rstrip, (header, one, other)))) <= width
    assert ("0.7800 ± 0.0038" in one) == (width > 60)
    assert ("1.0200 ± 0.0300" in one) == (width > 80)
    assert "12.30 ±" not in one
    assert other.index("0.7800") == one.index("0.7800")
    assert ("0.7800 ±      -" in other) == (width > 60)


def test_before_the_first_step_the_live_view_is_only_a_bar() -> None:
    out = rich.console.Console(width=80, force_terminal=True)
    lines = rendered(80, LiveProgress(out, Pace(), 0, 100)._render())
    assert lines[0].startswith("step 0/100 ")
    assert "".join(lines[1:]) == ""


def test_moving_averages_skip_non_finite_values() -> None:
    nan, inf = float("nan"), float("inf")
    assert smoothed(0.5, nan) == smoothed(0.5, inf) == smoothed(nan, 0.5) == smoothed(0.5, 0.5) == 0.5


def test_a_long_name_is_shortened_in_its_middle() -> None:
    assert shortened("is_good_clicked_convo_desc_v1", 12) == "is_goo…sc_v1"
    assert shortened("short", 5) == "short"


def test_a_run_without_steps_ends_without_a_speed(capsys: pytest.CaptureFixture[str]) -> None:
    Console().ended(Path("run/checkpoints/step_00000012"), None)
    assert re.fullmatch(
        r"\n0 steps in [\d.]+ s\nlast checkpoint: run/checkpoints/step_00000012\n", capsys.readouterr().out
    )


def test_durations_have_at_most_two_units() -> None:
    durations = [duration(seconds) for seconds in (0.04, 59.94, 60, 3599.4, 3600, 18_123)]
    assert durations == ["0.0 s", "59.9 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "5 h 02 min"]


def test_the_largest_bound_of_each_estimate_stands_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {
        "like": {"auc": 0.7, "auc_bound": 0.0, "grouped_auc": 0.6, "grouped_auc_bound": 0.00412},
        "share": {"auc": 0.8, "auc_bound": 0.0, "grouped_auc": 0.5, "grouped_auc_bound": 0.0121},
    }
    Console().table("validation", tasks)
    assert capsys.readouterr().out.endswith("\nestimates: grouped_auc ± 0.012\n")
