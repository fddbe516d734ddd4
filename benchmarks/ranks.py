"""The speed of a run in one process and in several, on the same cores.

    python benchmarks/ranks.py [--steps 300] [--batch-rows 1024 8192]

Trains the simulated recipe with all cores in one process, and with the cores divided among 2, 4, … ranks. The speed is
the median of the examples/s that the run logs, without the first line.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from recap.runs import Run

RECIPE = Path(__file__).parents[1] / "recipes" / "simulated" / "ranker.yaml"
LINES = 6


def main() -> None:
    """Run the benchmark and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-rows", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as name:
        data = Path(name) / "data"
        simulate = [sys.executable, "-m", "recap", "data", "simulate", "--output", str(data), "--rows"]
        subprocess.run([*simulate, str(arguments.rows)], check=True, stdout=subprocess.DEVNULL)
        for rows in arguments.batch_rows:
            ranks = 1
            while ranks <= cores:
                speed = examples_per_second(data, Path(name) / f"{rows}-{ranks}", ranks, cores, rows, arguments.steps)
                print(
                    f"{rows:>6} rows per step, {ranks} rank(s) of {cores // ranks} thread(s): {speed:>9,.0f} examples/s"
                )
                ranks *= 2


def examples_per_second(data: Path, run: Path, ranks: int, cores: int, rows: int, steps: int) -> float:
    """The speed of a run."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    changes = {
        "training.save_dir": run,
        "training.num_train_steps": steps,
        "training.train_log_every_n": steps // LINES,
        "training.num_eval_steps": 1,
        "features.discrete.language.vocabulary": data / "languages.parquet",
        "train_data.source.inputs": data / "train" / "*.parquet",
        "train_data.global_batch_size": rows,
        "validation_data.validation.source.inputs": data / "validation" / "*.parquet",
    }
    command = [sys.executable, *launch, "-m", "recap", "train", str(RECIPE)]
    threads = os.environ | {"OMP_NUM_THREADS": str(cores // ranks)}
    overrides = [f"{key}={value}" for key, value in changes.items()]
    subprocess.run([*command, *overrides], check=True, env=threads, capture_output=True)
    speeds = [float(record["examples_per_second"]) for record in Run(run).metrics if record["split"] == "train"]
    return statistics.median(speeds[1:])


if __name__ == "__main__":
    main()
