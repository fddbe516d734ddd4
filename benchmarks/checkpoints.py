"""The cost of saving during training: a MaskNet on simulated data, and the same with a table of 47 million weights.

    python benchmarks/checkpoints.py [--every 200] [--every-large 30] [--saves 4]

Of each `2 · every` steps, a checkpoint is written during the first `every` and none during the others, alternating in
one process, so that other load on the machine affects both. It prints steps/s of both, their ratio, the duration of
`save` (the first call, which allocates the copies, and the median of the others), the duration of writing, and the
share of training time that saving takes with a checkpoint every 1000 steps.

    torchrun --standalone --nproc-per-node 2 benchmarks/checkpoints.py [--rows 100000] [--parts]

trains the recipe with a sharded table of `rows` × 32 and prints, for checkpoints of whole tables or (`--parts`) of the
parts that the ranks wrote: their bytes, how long training waits for `save`, and how long writing takes.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from recap.config.file.load import load_config
from recap.config.recap import RecapConfig
from recap.data.simulate import simulate
from recap.native.allocator import tune_process
from recap.reporting import Reporter
from recap.runs import Run
from recap.training import trainer
from recap.training.checkpoints import Checkpoints
from recap.training.state import TrainState

ROOT = Path(__file__).parents[1]
DEFAULT_EVERY = 1000
LARGE = ["features.discrete.user_id={hash: {buckets: 1450000}}", "model.embeddings.user_id=32"]


class Stopwatch(Reporter):
    """Records when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def advance(self, *_: Any) -> None:
        """Record the time."""
        self.ends.append(time.perf_counter())

    def say(self, text: str) -> None:
        """Print the message."""
        print(text)


class TimedCheckpoints(Checkpoints):
    """Measures each save and each write."""

    saves: list[float] = []
    writes: list[float] = []

    def save(self, state: TrainState) -> None:
        started = time.perf_counter()
        super().save(state)
        self.saves.append(time.perf_counter() - started)

    def _write(self, snapshot: Any) -> None:
        started = time.perf_counter()
        super()._write(snapshot)
        self.writes.append(time.perf_counter() - started)


def main() -> None:
    """Run the benchmark and print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--every-large", type=int, default=30)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    tune_process()
    trainer.__dict__["Checkpoints"] = TimedCheckpoints
    if "RANK" in os.environ:
        sharded(options.rows, options.parts, options.saves)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        simulate(folder / "feed", rows=200_000, validation_rows=2_000)
        for name, every, overrides in (("small", options.every, []), ("large", options.every_large, LARGE)):
            print(f"{name:<6} {measure(folder, name, every, options.saves, overrides)}", flush=True)


def measure(folder: Path, name: str, every: int, saves: int, overrides: Sequence[str]) -> str:
    """The results for one model, on one line."""
    TimedCheckpoints.saves.clear()
    TimedCheckpoints.writes.clear()
    steps = 2 * every * (saves + 1) + 1
    stopwatch, run = Stopwatch(), folder / name
    trainer.train(configured(folder, run, steps, 2 * every, overrides), stopwatch)
    # The two spans of `every` steps after each save, with and without writing; not after the first, which allocates.
    durations = np.diff(stopwatch.ends)[4 * every - 1 : 2 * every * (saves + 1) - 1].reshape(-1, 2, every)
    saving, alone = (float(durations[:, part].sum()) / durations[:, part].size for part in (0, 1))
    cost = max(saving - alone, 0) * every  # seconds a save
    size = sum(file.stat().st_size for file in Run(run).checkpoint_path(steps).glob("*.safetensors"))
    first, *others = TimedCheckpoints.saves
    return (
        f"{size / 2**20:,.0f} MiB a checkpoint: {1 / alone:.2f} steps/s without, {1 / saving:.2f} saving every {every} "
        f"(ratio {alone / saving:.3f}); save() {first * 1e3:.1f} ms at first, then {median(others) * 1e3:.1f} ms; "
        f"written in {median(TimedCheckpoints.writes) * 1e3:.0f} ms; saving every {DEFAULT_EVERY}: "
        f"{cost / (cost + DEFAULT_EVERY * alone):.2%} of the time"
    )


def configured(folder: Path, run: Path, steps: int, every: int, overrides: Sequence[str]) -> RecapConfig:
    """The recipe on the simulated data in `folder`, with a checkpoint `every` so many steps."""
    feed = folder / "feed"
    settings = {
        "training.save_dir": run,
        "training.num_train_steps": steps,
        "training.checkpoint_every_n": every,
        "training.checkpoint_max_to_keep": 2,
        "training.train_log_every_n": steps,
        "training.eval_log_every_n": "null",
        "train_data.source.inputs": feed / "train" / "*.parquet",
        "validation_data.validation.source.inputs": feed / "validation" / "*.parquet",
        "features.discrete.language.vocabulary": feed / "languages.parquet",
    }
    recipe = ROOT / "recipes" / "simulated" / "mask_net.yaml"
    return load_config(recipe, [*(f"{key}={value}" for key, value in settings.items()), *overrides])


def sharded(rows: int, parts: bool, saves: int) -> None:
    """Run the part of a rank, and on rank 0 print the results."""
    folder = Path(tempfile.gettempdir()) / f"recap-checkpoints-{os.getppid()}"  # torchrun starts all ranks
    first, ready, every = os.environ["RANK"] == "0", folder / "ready", 20
    if first:
        simulate(folder / "feed", rows=50_000, validation_rows=2_000)
        ready.touch()
    while not ready.exists():
        time.sleep(0.1)
    overrides = [
        f"features.discrete.user_id={{hash: {{buckets: {rows}}}}}",
        "model.embeddings.user_id=32",
        "optimizer.tables={algorithm: {kind: rowwise_adagrad}, sparse: true, "
        "learning_rate: {kind: constant, learning_rate: 0.01}}",
        f"training.sharded_tables={{consolidate: {str(not parts).lower()}}}",
    ]
    run, steps = folder / "run", every * (saves + 1)
    trainer.train(configured(folder, run, steps, every, overrides), Stopwatch())
    if not first:
        return
    files = list(Run(run).checkpoint_path(steps).rglob("*.safetensors"))
    print(
        f"{sum(file.stat().st_size for file in files) / 2**20:,.0f} MiB a checkpoint in {len(files)} files: save() "
        f"{TimedCheckpoints.saves[0] * 1e3:.1f} ms at first, then {median(TimedCheckpoints.saves[1:]) * 1e3:.1f} ms; "
        f"written in {median(TimedCheckpoints.writes) * 1e3:.0f} ms",
        flush=True,
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
