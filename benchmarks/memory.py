"""The peak resident memory of training on a data set much larger than memory.

    python benchmarks/memory.py [--gigabytes 10] [--folder /tmp/recap-memory]

Simulates a feed with wide vectors of about that size on disk, trains the simulated MaskNet for one pass over it in a
separate process, and prints the peak resident set size of that process.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from recap.data.simulate import simulate

ROOT = Path(__file__).parents[1]
EMBEDDING_SIZE = 256
BYTES_A_ROW = 1090  # measured, compressed; 2,400 in memory
BATCH_ROWS = 2048


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/recap-memory"))
    options = parser.parse_args()
    rows = int(options.gigabytes * 1e9 / BYTES_A_ROW)
    started = time.monotonic()
    simulate(options.folder / "feed", rows=rows, validation_rows=10_000, embedding_size=EMBEDDING_SIZE)
    size = sum(file.stat().st_size for file in (options.folder / "feed" / "train").glob("*.parquet"))
    print(f"simulated: {rows:,} rows, {size / 1e9:.2f} GB on disk, {time.monotonic() - started:.0f} s", flush=True)
    started, steps = time.monotonic(), rows // BATCH_ROWS
    subprocess.run(_command(options.folder, steps), check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    seconds = time.monotonic() - started
    print(f"trained: {steps:,} steps, {rows / seconds:,.0f} examples/s; peak resident memory {peak:.2f} GiB")


def _command(folder: Path, steps: int) -> list[str]:
    feed = folder / "feed"
    overrides = {
        "training.save_dir": folder / f"run-{time.time_ns()}",
        "training.num_train_steps": steps,
        "training.train_log_every_n": max(steps // 10, 1),
        "training.checkpoint_every_n": steps,
        "training.eval_log_every_n": steps,
        "train_data.source.inputs": feed / "train" / "*.parquet",
        "train_data.global_batch_size": BATCH_ROWS,
        "validation_data.validation.source.inputs": feed / "validation" / "*.parquet",
        "features.vectors": f"{{user_embedding: {EMBEDDING_SIZE}, author_embedding: {EMBEDDING_SIZE}}}",
        "features.discrete.language.vocabulary": feed / "languages.parquet",
    }
    recipe = ROOT / "recipes" / "simulated" / "mask_net.yaml"
    return [
        sys.executable,
        "-m",
        "recap",
        "train",
        str(recipe),
        *(f"{key}={value}" for key, value in overrides.items()),
    ]


if __name__ == "__main__":
    main()
