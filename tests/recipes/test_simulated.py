"""A hundred steps of the recipe on simulated data give the recorded losses; its report compares a run with the truth.

`python tests/recipes/test_simulated.py` records new ones. They may move when the recipe, the simulator, the order of
rows or the arithmetic of a step is meant to change, and with a new version of torch; never by accident.
"""

import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import RECIPES, Recorder, load_script

import recap
from recap.config.file.load import load_config
from recap.config.recap import RecapConfig
from recap.data.simulate import simulate
from recap.errors import InputError
from recap.training.trainer import train

RECIPE = Path(__file__).parents[2] / "recipes" / "simulated" / "ranker.yaml"
GOLDEN = Path(__file__).parents[1] / "golden" / "simulated_losses.json"


def platform_facts() -> dict[str, str]:
    """The hardware and libraries that the bits of a float32 loss depend on."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = dict(line.split(":", 1) for line in cpu.split("\n\n")[0].splitlines() if ":" in line)
    model = {name.strip(): value.strip() for name, value in named.items()}
    kind = ", ".join(model.get(name, "") for name in ("vendor_id", "cpu family", "model"))
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "cpu": kind}


def losses(folder: Path) -> dict[str, list[float]]:
    """Task → the loss of each of 100 steps, on one thread."""
    simulate(folder / "feed", rows=30_000, validation_rows=1_000)
    recorder = Steps()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of summation depends on their number
    try:
        train(config(folder, num_train_steps=100, eval_log_every_n="null"), recorder)
    finally:
        torch.set_num_threads(threads)
    return recorder.by_task


def config(folder: Path, **training: object) -> RecapConfig:
    """The recipe on the feed in `folder`, in float32, with other values under `training`."""
    changes = {
        "training.save_dir": folder / "run",
        "training.precision": "float32",
        **{f"training.{name}": value for name, value in training.items()},
        "train_data.source.inputs": folder / "feed" / "train" / "*.parquet",
        "validation_data.validation.source.inputs": folder / "feed" / "validation" / "*.parquet",
        "features.discrete.language.vocabulary": folder / "feed" / "languages.parquet",
    }
    return load_config(RECIPE, [f"{path}={value}" for path, value in changes.items()])


class Steps(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.by_task: dict[str, list[float]] = {}

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        super().advance(step, loss, examples, losses, waited)
        for task, value in losses.items():
            self.by_task.setdefault(task, []).append(value)


@pytest.mark.slow
def test_the_losses_of_a_hundred_steps_equal_the_recorded_ones(tmp_path: Path) -> None:
    golden: dict[str, Any] = json.loads(GOLDEN.read_text())
    current = losses(tmp_path)
    assert current.keys() == golden["losses"].keys()
    for task, expected in golden["losses"].items():
        numbers = [float.fromhex(number) for number in expected]
        if golden["platform_facts"] == platform_facts():
            assert current[task] == numbers, (
                f"{task}: first differs at step {_first_difference(current[task], numbers)}"
            )
        else:  # other kernels round differently
            assert current[task] == pytest.approx(numbers, rel=1e-2, abs=1e-3), task


@pytest.mark.slow
def test_the_report_compares_a_run_with_the_truth(tmp_path: Path) -> None:
    simulate(tmp_path / "feed", rows=4_000, validation_rows=30_000)
    train(config(tmp_path, num_train_steps=4, eval_log_every_n="null"), Recorder())
    metrics = recap.evaluate(tmp_path / "run").splits["validation"].metrics
    table = load_script(RECIPES / "simulated" / "report.py").report(tmp_path / "feed", tmp_path / "run")
    rows = dict(
        zip(table.columns[0].cells, zip(*(column.cells for column in table.columns[1:]), strict=True), strict=True)
    )
    truth = json.loads((tmp_path / "feed" / "truth.json").read_text())["validation"]
    probabilities = pq.read_table(tmp_path / "feed" / "truth" / "validation")
    assert list(rows) == list(truth)
    ratios = []
    for task, best in truth.items():
        reached, rate = metrics[task], pc.mean(probabilities.column(task)).as_py()
        assert rows[task][0] == f"{best['positives']:,.0f}"
        assert rows[task][1:3] == (f"{reached['log_loss']:.5f}", f"{best['log_loss']:.5f}")
        assert rows[task][5] == f"{best['auc'] - reached['auc']:.4f}"
        assert rows[task][6:] == (f"{reached['pctr'] / reached['ctr']:.3f}", f"{rate / best['rate']:.3f}")
        ratios += [reached["pctr"] / rate] if best["positives"] >= 200 else []
    assert 1 < len(ratios) < len(truth)
    assert str(table.caption).endswith(f"PCTR / mean true probability {min(ratios):.3f} to {max(ratios):.3f}")


def test_a_report_without_a_feed_says_what_to_run(tmp_path: Path) -> None:
    report = load_script(RECIPES / "simulated" / "report.py").report
    with pytest.raises(InputError, match=r"truth.json: no such file; run 'recap data simulate' first"):
        report(tmp_path, tmp_path)


def _first_difference(left: list[float], right: list[float]) -> int | None:
    return next((step for step, pair in enumerate(zip(left, right, strict=True), start=1) if pair[0] != pair[1]), None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        recorded = losses(Path(made))
    assert all(math.isfinite(loss) for values in recorded.values() for loss in values)
    hexes = {task: [loss.hex() for loss in values] for task, values in recorded.items()}
    GOLDEN.write_text(json.dumps({"platform_facts": platform_facts(), "losses": hexes}, indent=1) + "\n")
    print(f"written: {GOLDEN}")
