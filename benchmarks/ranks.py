"""The speed of a run in one process and in several, on the same cores, and of summing gradients over ranks.

    python benchmarks/ranks.py [--steps 300] [--batch-rows 1024 8192] [--ranks 1 2 4]
    python benchmarks/ranks.py --sums [--ranks 2 4] [--batch-rows 1024 8192] [--layer-sizes 2048 1024 512]

Trains the simulated MaskNet with the cores divided among the ranks. The speed is the median of the examples/s that the
run logs, without the first line.

With `--sums`, the time of a forward and backward pass of an MLP, all three in turn so that other load meets each alike:
without sums, with sums after the backward pass, and with `DistributedDataParallel`, which sums during it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from recap.config.file.load import load_config
from recap.config.recap import JobMode
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.distributed import Ranks
from recap.model.directory import new_ranker
from recap.model.ranker import Ranker
from recap.rendezvous import joined_ranks
from recap.runs import Run
from recap.training.parallel import DataParallel

RECIPE = Path(__file__).parents[1] / "recipes" / "simulated" / "mask_net.yaml"
LINES = 6
ROUNDS = 15


def main() -> None:
    """Run the benchmark and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-rows", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--sums", action="store_true")
    parser.add_argument("--layer-sizes", type=int, nargs="+", default=[2048, 1024, 512])
    parser.add_argument("--data", type=Path, help="of the ranks that --sums starts")
    arguments = parser.parse_args()
    if arguments.data is not None:
        time_sums(arguments.data, arguments.batch_rows, arguments.layer_sizes)
        return
    cores = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as name:
        data = Path(name) / "data"
        simulate = [sys.executable, "-m", "recap", "data", "simulate", "--output", str(data), "--rows"]
        subprocess.run([*simulate, str(arguments.rows)], check=True, stdout=subprocess.DEVNULL)
        for ranks in arguments.ranks:
            if arguments.sums:
                sizes = ["--layer-sizes", *map(str, arguments.layer_sizes), "--batch-rows"]
                worker = [__file__, "--data", str(data), *sizes, *map(str, arguments.batch_rows)]
                threads = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // ranks))}
                subprocess.run([sys.executable, *launch(ranks), *worker], check=True, env=threads)
                continue
            for rows in arguments.batch_rows:
                run = Path(name) / f"{rows}-{ranks}"
                speed = examples_per_second(data, run, ranks, cores, rows, arguments.steps)
                print(f"{rows:>6} rows per step, {ranks} rank(s) on {cores} cores: {speed:>9,.0f} examples/s")


def launch(ranks: int) -> list[str]:
    """What follows the name of Python to start `ranks` processes."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []


def time_sums(data: Path, batch_rows: list[int], layer_sizes: list[int]) -> None:
    """Print, on one of the ranks, the times of a step's passes for each way to sum gradients."""
    with joined_ranks() as ranks:
        for rows in batch_rows:
            backbone = f"{{kind: mlp, layer_sizes: {layer_sizes}, final_layer_activation: true}}"
            config = load_config(RECIPE, [*overrides(data, data / "unused", rows, 1), f"model.backbone={backbone}"])
            assets = load_assets(config.features)
            batch = next(iter(open_stream(config, assets, JobMode.TRAIN, ranks=ranks)))
            torch.manual_seed(0)
            ranker, strategy = new_ranker(config, assets), DataParallel(ranks)
            overlapping = strategy.sum_in_backward(ranker, ranker.raw_outputs)

            ways = {
                "no sums": (ranker.raw_outputs, False),
                "after": (ranker.raw_outputs, True),
                "during": (overlapping, False),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    times[name].append(seconds(ranks, ranker, batch, *way))
            if ranks.is_first:
                medians = {name: 1000 * statistics.median(taken[1:]) for name, taken in times.items()}
                shown = "  ".join(f"{name} {taken:.1f} ms" for name, taken in medians.items())
                size = sum(parameter.numel() for parameter in ranker.parameters()) * 4 / 2**20
                print(f"{rows:>6} rows per step, {ranks.world_size} ranks, {size:.0f} MiB of gradients: {shown}")


def seconds(
    ranks: Ranks, ranker: Ranker, batch: Batch, raw_outputs: Callable[[Batch], list[Tensor]], sums_after: bool
) -> float:
    """The time of a forward and backward pass on all ranks."""
    ranker.zero_grad()
    ranks.barrier()
    started = time.perf_counter()
    outputs = raw_outputs(batch)
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    if sums_after:
        parameters = list(ranker.parameters())
        ranks.all_reduce_gradients([parameter.grad for parameter in parameters], parameters)
    ranks.barrier()
    return time.perf_counter() - started


def examples_per_second(data: Path, run: Path, ranks: int, cores: int, rows: int, steps: int) -> float:
    """The speed of a run."""
    command = [sys.executable, *launch(ranks), "-m", "recap", "train", str(RECIPE), *overrides(data, run, rows, steps)]
    threads = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // ranks))}
    subprocess.run(command, check=True, env=threads, capture_output=True)
    speeds = [float(record["examples_per_second"]) for record in Run(run).metrics if record["split"] == "train"]
    return statistics.median(speeds[1:])


def overrides(data: Path, run: Path, rows: int, steps: int) -> list[str]:
    """What a run changes in the recipe."""
    changes = {
        "training.save_dir": run,
        "training.num_train_steps": steps,
        "training.train_log_every_n": max(1, steps // LINES),
        "training.num_eval_steps": 1,
        "features.discrete.language.vocabulary": data / "languages.parquet",
        "train_data.source.inputs": data / "train" / "*.parquet",
        "train_data.global_batch_size": rows,
        "validation_data.validation.source.inputs": data / "validation" / "*.parquet",
    }
    return [f"{key}={value}" for key, value in changes.items()]


if __name__ == "__main__":
    main()
