"""Score Parquet files with Ray Data: `recap.Scorer` in `map_batches`.

    pip install 'ray[data]'
    python recipes/engines/ray_map_batches.py runs/simulated data/candidates --output scored --workers 2 --cpus 4

Each worker opens the model once and computes with `--cpus` threads, since Ray sets OMP_NUM_THREADS. Ray keeps no order
of rows; list the columns of a key under `features.ids` (`--set 'features.ids=[request_id, item_id]'`) to join by.
"""

import argparse
from collections.abc import Sequence
from typing import Literal, get_args

import pyarrow as pa
import ray

import recap

Precision = Literal["auto", "float32", "bf16", "int8"]


class Score:
    """The function of `map_batches`, made once in each worker."""

    def __init__(self, model: str, overrides: Sequence[str], precision: Precision) -> None:
        self.scorer = recap.Scorer.open(model, overrides=overrides, precision=precision)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Carried columns, a column for each task, and `score`."""
        return self.scorer(batch)


def main() -> None:
    """Read, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory, checkpoint or run; a path that all workers can read")
    parser.add_argument("inputs", help="folder or file of Parquet")
    parser.add_argument("--output", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--precision", default="float32", choices=get_args(Precision))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=1, help="threads of a worker")
    options = parser.parse_args()
    scored = ray.data.read_parquet(options.inputs).map_batches(
        Score,
        fn_constructor_args=(options.model, options.overrides, options.precision),
        batch_format="pyarrow",
        batch_size=8192,
        concurrency=options.workers,
        num_cpus=options.cpus,
    )
    scored.write_parquet(options.output)


if __name__ == "__main__":
    main()
