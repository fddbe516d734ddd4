"""Checks of sharded tables on several ranks; a test runs this file.

Usage: ranks.py FOLDER, which holds what `write_inputs` writes, and the runs with whole tables in a single process.
"""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from support import Recorder
from torch import Tensor
from training.runs import records
from training.sharded_tables.cases import SHORT, STEPS, assert_equal_runs, open_trainer, run_values, table_values
from training.sharded_tables.forked import run_ranks
from training.sharded_tables.zero_collision import check_zero_collision

from recap.config.file.load import config_of
from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.errors import ConfigError
from recap.model.inputs.tables import initial_rows
from recap.training.sharded_tables.tables import ShardedTables
from recap.training.trainer import Trainer

COMBINATIONS = (
    ("rowwise_adagrad", "row_wise", STEPS),
    ("sgd", "table_wise", SHORT),
    ("adagrad", "column_wise", SHORT),
)


def check_losses(folder: Path, ranks: Ranks) -> None:
    """Losses, metrics and weights are those of whole tables in a single process."""
    for algorithm, sharding, steps in COMBINATIONS:
        run = folder / f"{algorithm}-{sharding}-{ranks.world_size}"
        recorder = run_values(table_values(folder / "feed", run, sharding, algorithm, steps), ranks, Recorder())
        if ranks.is_first:
            assert_equal_runs(folder / f"{algorithm}-whole", run, steps)
            plans = [message for message in recorder.messages if message.startswith("sharded table ")]
            assert len(plans) == 5
            assert sharding == "auto" or all(sharding in plan for plan in plans)


def compare(
    folder: Path,
    ranks: Ranks,
    name: str,
    algorithm: str,
    sharding: str,
    change: Callable[[dict[str, Any]], None] = lambda values: None,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
    **training: Any,
) -> None:
    """Runs of whole and of sharded tables on these ranks are equal.

    `change`: of the values of the runs. `prepare`: as in `run_values`.
    """
    runs = [folder / f"{name}-{kind}-{ranks.world_size}" for kind in ("whole", sharding)]
    for run, kind in zip(runs, (None, sharding), strict=True):
        values = table_values(folder / "feed", run, kind, algorithm, SHORT, train_log_every_n=2, **training)
        change(values)
        run_values(values, ranks, prepare=prepare)
    if ranks.is_first:
        assert_equal_runs(runs[0], runs[1], SHORT)


def check_features(folder: Path, ranks: Ranks) -> None:
    """What training offers besides works with sharded tables as with whole ones."""

    def with_batch_norm(values: dict[str, Any]) -> None:
        values["model"]["featurization"] = {"kind": "double_norm_log"}

    def fail_on_one_rank(trainer: Trainer) -> None:
        """The third step is not finite on the last rank alone."""
        passes, raw_outputs = count(1), trainer.train_step.raw_outputs

        def outputs(batch: Batch) -> list[Tensor]:
            bad = next(passes) == 3 and ranks.rank == ranks.world_size - 1
            return [output * (torch.nan if bad else 1.0) for output in raw_outputs(batch)]

        trainer.train_step.raw_outputs = outputs

    def pretrained(values: dict[str, Any]) -> None:
        rows = {"path": str(folder / "feed" / "vectors.parquet"), "id": "word", "vector": "row"}
        values["model"]["embeddings"]["language"] = {"width": 4, "pretrained": rows}

    def other_vocabulary(values: dict[str, Any]) -> None:
        values["features"]["discrete"]["language"] = {"vocabulary": str(folder / "feed" / "other.parquet")}

    back: dict[str, Any] = {
        "precision": "float16",
        "non_finite": {"kind": "rollback", "budget": 1},
        "checkpoint_every_n": 2,
    }
    compare(folder, ranks, "back", "adagrad", "row_wise", prepare=fail_on_one_rank, **back)
    watch = {"metric": "auc", "split": "validation", "cut_rates": {"after": 1}}
    skip: dict[str, Any] = {"non_finite": {"kind": "skip", "budget": 1}, "batch_norm_rows": 200, "watch": watch}
    compare(folder, ranks, "skipped", "sgd", "table_wise", with_batch_norm, fail_on_one_rank, **skip)
    if ranks.is_first:
        for run, number in (("back-row_wise", "rollbacks"), ("skipped-table_wise", "skipped_steps")):
            steps = records(folder / f"{run}-{ranks.world_size}")
            assert [record[number] for record in steps if record["split"] == "train"][-1] == 1
    compare(folder, ranks, "pretrained", "adagrad", "column_wise", pretrained, gradient_accumulation=3)
    warm: dict[str, Any] = {"initial_checkpoint_dir": str(folder / "rowwise_adagrad-whole")}
    compare(folder, ranks, "warm", "rowwise_adagrad", "row_wise", other_vocabulary, **warm)


def check_parts(folder: Path, ranks: Ranks) -> None:
    """Each rank holds a part of the rows, which are those of a whole table; a plan that does not fit is refused."""
    values = table_values(folder / "feed", folder / "parts", "row_wise", "sgd", SHORT)
    values["features"]["discrete"]["user_id"] = {"hash": {"buckets": 3 << 19, "hashes": 1}}  # drawn in two blocks
    (folder / "parts").mkdir(exist_ok=True)
    tables = open_trainer(config_of(values), ranks).model.ranker.inputs.embeddings
    assert isinstance(tables, ShardedTables)
    assert not list(tables.parameters())
    spec = tables.specs["user_id"]
    rows = torch.cat([rows for _, rows in initial_rows(spec, 0, [(0, spec.num_embeddings)])])
    (part,) = tables.parts["user_id"]
    assert len(part.weight) <= -(-spec.num_embeddings // ranks.world_size)
    assert torch.equal(part.weight, rows[part.rows])
    values["training"]["sharded_tables"]["memory_gib"] = 0.001
    try:
        open_trainer(config_of(values), ranks)
    except ConfigError as error:
        assert "no plan fits" in str(error)
        assert "Most of it is 'user_id': 1,572,865 rows of width 8" in str(error)
    else:
        raise AssertionError


def check_all(ranks: Ranks) -> None:
    for check in (check_losses, check_features, check_parts, check_zero_collision):
        check(Path(sys.argv[1]), ranks)
        ranks.barrier()


if __name__ == "__main__":
    assert run_ranks(2, check_all) == [0, 0]
