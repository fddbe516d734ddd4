"""Checks of the checkpoints of sharded tables; a test runs this file.

Usage: resharding.py FOLDER, which holds the feed and the run `changing` of one process, stopped at step 4.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from support import Recorder
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from training.runs import assert_same_run
from training.sharded_tables.cases import run_values, table_values
from training.sharded_tables.forked import run_ranks

from recap.distributed import Ranks
from recap.errors import RunError
from recap.runs import Run
from recap.training.sharded_tables import checkpoints
from recap.training.sharded_tables.checkpoints import JointWriter, Shards, fill_shards
from recap.training.sharded_tables.shards import BlockFiles, index_text, read_index

Boxes = list[tuple[int, list[int], list[int]]]
"""Rank, offsets and shape of each shard."""
END = 16
"""The last step of the runs."""


def values(folder: Path, run: str, sharding: str | None, steps: int, **sharded: Any) -> dict[str, Any]:
    changes = {"checkpoint_every_n": 4, "train_log_every_n": 4, "eval_log_every_n": 4}
    made = table_values(folder / "feed", folder / run, sharding, "rowwise_adagrad", steps, **changes)
    if sharding is not None:
        made["training"]["sharded_tables"] |= sharded
    return made


# Tensors of torch.


def sharded(whole: torch.Tensor, boxes: Boxes, rank: int) -> ShardedTensor:
    shards = [ShardMetadata(offsets, shape, f"rank:{holder}/cpu") for holder, offsets, shape in boxes]
    local = [
        Shard(whole[_slices(shard)].clone(), shard)
        for shard, (holder, _, _) in zip(shards, boxes, strict=True)
        if holder == rank
    ]
    properties = TensorProperties(dtype=whole.dtype)
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        local, ShardedTensorMetadata(shards, whole.size(), properties)
    )


def _slices(shard: ShardMetadata) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(shard.shard_offsets, shard.shard_sizes, strict=True))


def check_any_division_is_written_and_read(folder: Path, ranks: Ranks) -> None:
    """Among them 5 rows on 4 ranks, the last of which has none, and several shards of a table on one rank."""
    size, rank, wide = ranks.world_size, ranks.rank, torch.arange(40.0).view(5, 8)
    rows = -(-5 // size)
    starts = [min(rows * holder, 5) for holder in range(size + 1)]
    tables: Mapping[str, tuple[torch.Tensor, Boxes]] = {
        "rows": (wide, [(of, [starts[of], 0], [starts[of + 1] - starts[of], 8]) for of in range(size)]),
        "columns": (wide + 100, [(of % size, [0, 2 * of], [5, 2]) for of in range(4)]),
        "one": (wide + 200, [(size - 1, [0, 0], [5, 8])]),
        "sums": (wide[:, 0] + 300, [(of, [starts[of]], [starts[of + 1] - starts[of]]) for of in range(size)]),
    }
    if size == 4:
        assert tables["rows"][1][-1] == (3, [5, 0], [0, 8])
    state = {name: sharded(whole, boxes, rank) for name, (whole, boxes) in tables.items()}
    pieces, checkpoints.PIECE_BYTES = checkpoints.PIECE_BYTES, 64  # two rows
    shards, writer = Shards.of({"weights": state}), JointWriter(ranks)
    checkpoints.PIECE_BYTES = pieces
    copies = {key: tensor.contiguous() for key, tensor in shards.local.items()}
    path = folder / f"written-{size}"
    with writer.directory(path) as made:
        writer.write(made, shards, copies)
        if ranks.is_first:
            (made / "shards" / "index.json").write_text(index_text(shards.located(made)))
    with ExitStack() as stack:
        files, index = BlockFiles(path, stack), read_index(path)["weights"]
        for name, (whole, boxes) in tables.items():
            assert torch.equal(files.read(index[name]), whole), name
            others: Boxes = [((holder + 1) % size, offsets, shape) for holder, offsets, shape in boxes]
            for division in (boxes, others, [(size - 1, [0] * whole.dim(), list(whole.shape))]):
                target = sharded(torch.full_like(whole, torch.nan), division, rank)
                fill_shards(target, index[name], files, name)
                for shard in target.local_shards():
                    assert torch.equal(shard.tensor, whole[_slices(shard.metadata)]), name

    with raises("rank 0 and rank 1 do not see the same folder"), writer.directory(folder / "apart") as made:
        writer.write(folder / "elsewhere" if rank == 1 else made, shards, copies)
    with raises("rank 0 cannot write its part of the tables"), writer.directory(folder / "apart") as made:
        if ranks.is_first:
            (made / "shards").write_text("in the way")
        ranks.barrier()
        writer.write(made, shards, copies)
    with raises("rank 0 and rank 1 do not see the same folder"), writer.directory(folder / "apart") as made:
        writer.write(made, shards, copies)
        if ranks.is_first:
            for file in (made / "shards").glob("shard-00002-*"):  # as if rank 1 had a folder of the same name
                file.unlink()
            shards.located(made)
    (folder / "file").touch()
    with raises("cannot be written"), writer.directory(folder / "file" / "below"):
        raise AssertionError
    ranks.barrier()
    assert not [file.name for file in folder.iterdir() if file.name.startswith("apart")]
    writer.close()


class raises:  # noqa: N801 - as pytest.raises, which this process need not load
    """The block raises RunError on every rank, with the text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, RunError), error
        assert self.text in str(error), error
        return True


# Runs.


def check_two_go_on_from_one(folder: Path, ranks: Ranks) -> None:
    run_values(values(folder, "changing", "row_wise", 8), ranks)


def check_four_go_on_from_two(folder: Path, ranks: Ranks) -> None:
    run_values(values(folder, "changing", "table_wise", 12, consolidate=False), ranks)


def check_a_resume_is_exact(folder: Path, ranks: Ranks) -> None:
    """Whether checkpoints are in parts or whole."""
    run_values(values(folder, "straight", "auto", END), ranks)
    for run, consolidate in (("whole", True), ("parts", False)):
        run_values(values(folder, run, "auto", 8, consolidate=consolidate), ranks)
        run_values(values(folder, run, "auto", END), ranks)
        if ranks.is_first:
            assert_same_run(folder / "straight", folder / run, END)
            assert (Run(folder / run).checkpoint_path(8) / "shards").exists() != consolidate


class Killing(Recorder):
    """Kills the rank when it has finished a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.last = step

    def advance(self, step: int, *others: Any) -> None:
        super().advance(step, *others)
        if step == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(folder: Path, ranks: Ranks) -> None:
    """Rank 1 is killed before it writes its parts of step 8, and rank 0 cannot complete the checkpoint."""
    write = JointWriter.write

    def write_or_die(writer: JointWriter, made: Path, *others: Any) -> None:
        if ranks.rank == 1 and made.name.startswith("step_00000008"):
            os.kill(os.getpid(), signal.SIGKILL)
        write(writer, made, *others)

    JointWriter.write = write_or_die  # type: ignore[method-assign,assignment]
    run_values(values(folder, "killed", "auto", END), ranks)


def die_after_a_step(folder: Path, ranks: Ranks) -> None:
    assert list(Run(folder / "killed").checkpoints) == [4]
    run_values(values(folder, "killed", "auto", END), ranks, Killing(14))


def check_killed_ranks_resume(folder: Path, ranks: Ranks) -> None:
    assert list(Run(folder / "killed").checkpoints)[-1] in (8, 12)  # rank 0 may die while it completes that of step 12
    run_values(values(folder, "killed", "auto", END), ranks)
    if ranks.is_first:
        assert_same_run(folder / "straight", folder / "killed", END)


def run_checks(size: int, *checks: Callable[[Path, Ranks], None]) -> list[int]:
    """Their exit statuses, negative for a signal that killed a rank."""

    def check_all(ranks: Ranks) -> None:
        for check in checks:
            check(Path(sys.argv[1]), ranks)
            ranks.barrier()

    return run_ranks(size, check_all)


if __name__ == "__main__":
    checkpoints.PIECE_BYTES = 1024
    division = check_any_division_is_written_and_read
    assert run_checks(2, division, check_two_go_on_from_one, check_a_resume_is_exact) == [0, 0]
    assert run_checks(4, division, check_four_go_on_from_two) == [0, 0, 0, 0]
    assert run_checks(2, die_while_writing) == [1, -signal.SIGKILL]
    assert run_checks(2, die_after_a_step) == [-signal.SIGKILL, -signal.SIGKILL]
    assert run_checks(2, check_killed_ranks_resume) == [0, 0]
