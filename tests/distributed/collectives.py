"""Checks of the collectives on three ranks; `torchrun` runs this file, and a test reads its output."""

import math
import sys

import torch

from recap import distributed as module
from recap.distributed import Consensus, Ranks, joined_ranks
from recap.errors import InputError
from recap.signals import Signals


def check_sums(ranks: Ranks) -> None:
    module.BUCKET_BYTES = 64  # several buckets, and a tensor larger than one
    shapes = [(3,), (), (2, 2), (40,), (0,), (5, 1)]
    given = [torch.full(shape, float(ranks.rank + 1)) for shape in shapes]
    given.insert(2, torch.tensor([1, ranks.rank]))  # of another type
    sums = ranks.all_reduce(given)
    assert [tensor.shape for tensor in sums] == [tensor.shape for tensor in given]
    assert all(bool((total == 6).all()) for total in (*sums[:2], *sums[3:]))
    assert sums[2].tolist() == [3, 3]
    ranks.all_reduce_mean_(given[:1])
    assert given[0].tolist() == [2, 2, 2]


def check_gradients(ranks: Ranks) -> None:
    table, other = torch.nn.Embedding(6, 2, sparse=True), torch.nn.Parameter(torch.zeros(2))
    parameters = [table.weight, other, other, other, table.weight]
    rows = torch.tensor([[0, 1, 1], [1, 5, 5], []][ranks.rank], dtype=torch.int64)
    if len(rows):
        table(rows).sum().backward()
    some = torch.ones(2) if ranks.rank == 1 else None
    sums = ranks.all_reduce_gradients([table.weight.grad, some, None, torch.ones(2), None], parameters)
    assert sums[0] is not None
    assert sums[0].is_sparse
    assert sums[0].to_dense()[:, 0].tolist() == [1, 3, 0, 0, 0, 2]
    assert sums[1] is not None
    assert sums[1].tolist() == [1, 1]
    assert sums[2] is None
    assert sums[3] is not None
    assert sums[3].tolist() == [3, 3]
    assert sums[4] is None


def check_gathered(ranks: Ranks) -> None:
    rows = torch.arange(7)[ranks.share(7)]
    numbers, pairs = ranks.all_gather([rows, torch.stack([rows, -rows], dim=1).float()])
    assert numbers.tolist() == list(range(7))
    assert pairs.tolist() == [[row, -row] for row in range(7)]
    (one,) = ranks.all_gather([torch.arange(1)[ranks.share(1)]])
    assert one.tolist() == [0]
    value = ranks.broadcast_object({"auc": math.nan, "rank": ranks.rank, "text": "é" * 9})
    assert math.isnan(value.pop("auc"))
    assert value == {"rank": 0, "text": "é" * 9}
    tensor = torch.full((2,), float(ranks.rank))
    ranks.broadcast_([tensor])
    assert tensor.tolist() == [0, 0]


def check_consensus(ranks: Ranks) -> None:
    received = Signals(30.0)
    consensus = Consensus(ranks, received)
    assert consensus.all_reduce(torch.tensor([1.0, 0.5], dtype=torch.float64)).tolist() == [3, 1.5]
    assert not consensus.signals
    if ranks.rank == 2:
        received.received.append(15)
    assert not consensus.signals
    for _ in range(2):
        consensus.all_reduce(torch.zeros(1, dtype=torch.float64))
        assert consensus.signals == [15]


def check_facts(ranks: Ranks) -> None:
    ranks.check_equal({"the data": "same"})
    try:
        ranks.check_equal({"the data": "same", "the latest checkpoint": str(ranks.rank % 2)})
    except InputError as error:
        assert ranks.rank == 1
        assert str(error).startswith("rank 1 differs from rank 0 in: the latest checkpoint. ")
    else:
        assert ranks.rank != 1


if __name__ == "__main__":
    with joined_ranks() as joined:
        for check in (check_sums, check_gradients, check_gathered, check_consensus, check_facts):
            check(joined)
            joined.barrier()
        sys.stdout.write(f"rank {joined.rank} of {joined.world_size} is done\n")  # in one piece
