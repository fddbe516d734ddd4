"""Checks of sharded tables on several ranks; `torchrun` runs this file, and a test reads its output.

Usage: ranks.py FOLDER CHECK…, where FOLDER holds the feed and the runs with whole tables.
"""

import sys
from pathlib import Path

from support import Recorder
from training.sharded_tables.cases import assert_equal_runs, run_values, table_values

from recap.distributed import Ranks, joined_ranks

COMBINATIONS = (
    ("sgd", "table_wise"),
    ("sgd", "row_wise"),
    ("adagrad", "column_wise"),
    ("adagrad", "auto"),
    ("rowwise_adagrad", "row_wise"),
    ("rowwise_adagrad", "auto"),
)


def check_losses(folder: Path, ranks: Ranks) -> None:
    for algorithm, sharding in COMBINATIONS:
        run = folder / f"{algorithm}-{sharding}-{ranks.world_size}"
        recorder = run_values(table_values(folder / "feed", run, sharding, algorithm), ranks, Recorder())
        if ranks.is_first:
            assert_equal_runs(folder / f"{algorithm}-whole", run)
            plans = [message for message in recorder.messages if message.startswith("sharded table ")]
            assert len(plans) == 5
            assert sharding == "auto" or all(sharding in plan for plan in plans)


CHECKS = {"losses": check_losses}


if __name__ == "__main__":
    with joined_ranks() as joined:
        for name in sys.argv[2:]:
            CHECKS[name](Path(sys.argv[1]), joined)
            joined.barrier()
        sys.stdout.write(f"rank {joined.rank} of {joined.world_size} is done\n")  # in one piece
