"""Checks of the collectives on three ranks; `torchrun` runs this file, and a test reads its output."""

import math
import os
import sys

import torch
from model.rankers import make_batch, make_config, make_ranker
from torch import Tensor
from torch.testing import assert_close

from recap import distributed as module
from recap.data.batch import Batch
from recap.distributed import ONE_RANK, Consensus, Ranks
from recap.errors import InputError, LostRank
from recap.model.ranker import Ranker
from recap.rendezvous import joined_ranks
from recap.signals import Signals
from recap.training.parallel import DataParallel, RawOutputs
from recap.training.start.fit import fit_numbers

CASES = ("mlp-share_all", "dlrm-cgc", "mask_net-share_none", "history_transformer", "aitm", "position_debias")


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


def check_fit(ranks: Ranks) -> None:
    """All ranks have the quantiles of the rows that rank 0 reads."""
    config = make_config("periodic")
    ranker, one = make_ranker(config), make_ranker(config)
    rows = make_batch(config, rows=60)
    fit_numbers(ranker, [rows] if ranks.is_first else [], (), ranks)
    fit_numbers(one, [rows], (), ONE_RANK)
    points = "inputs.featurization.points"
    assert torch.equal(ranker.get_buffer(points), one.get_buffer(points))
    assert not torch.equal(ranker.get_buffer(points), make_ranker(config).get_buffer(points))


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


def run_backward(raw_outputs: RawOutputs, batch: Batch) -> None:
    """Differentiate the sum of the squares of the outputs; the same dropout each time."""
    torch.manual_seed(3)
    outputs = raw_outputs(batch)
    torch.autograd.backward(outputs, [2 * output.detach() for output in outputs])


def gradients(ranker: Ranker) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in ranker.named_parameters()}


def check_backward(ranks: Ranks) -> None:
    """A backward pass sums the gradients of every kind of model."""
    for case in CASES:
        config = make_config(case)
        ranker, batch = make_ranker(config), make_batch(config, rows=40).rows(ranks.share(40))
        run_backward(ranker.raw_outputs, batch)
        own = {name: gradient for name, gradient in gradients(ranker).items() if gradient is not None}
        sums = dict(zip(own, ranks.all_reduce(list(own.values())), strict=True))
        strategy = DataParallel(ranks)
        raw_outputs = strategy.sum_in_backward(ranker, ranker.raw_outputs)
        for micro_batches in (1, 3, 1):
            ranker.zero_grad()
            for number in range(micro_batches):
                with strategy.micro_batch(is_last=number == micro_batches - 1):
                    run_backward(raw_outputs, batch)
            of_step = gradients(ranker)
            assert_close(of_step, {name: micro_batches * total for name, total in sums.items()}, rtol=1e-4, atol=1e-6)
            for gathered in ranks.all_gather([total[None] for total in of_step.values() if total is not None]):
                assert torch.equal(gathered, gathered[:1].expand_as(gathered)), "another sum on another rank"
            # Nothing is left to sum.
            parameters = list(ranker.parameters())
            kept = strategy.reduce_gradients([parameter.grad for parameter in parameters], parameters)
            assert all(left is right.grad for left, right in zip(kept, parameters, strict=True))


def check_unused(ranks: Ranks) -> None:
    """A parameter that some ranks use has the sum; one that none uses, a frozen one and sparse tables stay apart."""
    config = make_config("mlp-share_none")
    ranker, batch = make_ranker(config), make_batch(config, rows=40).rows(ranks.share(40))
    ranker.towers.named("like").requires_grad_(False)
    ranker.inputs.embeddings.make_gradients_sparse()

    def one_task(batch: Batch) -> list[Tensor]:
        """Rank 1 uses both towers, other ranks only the frozen one and the inputs."""
        outputs = ranker.raw_outputs(batch)
        return outputs if ranks.rank == 1 else outputs[:1]

    strategy = DataParallel(ranks)
    ranker.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    raw_outputs = strategy.sum_in_backward(ranker, one_task, sparse_tables=True)
    run_backward(one_task, batch)
    own = gradients(ranker)
    for _ in range(2):
        ranker.zero_grad()
        with strategy.micro_batch(is_last=True):
            run_backward(raw_outputs, batch)
        parameters = list(ranker.parameters())
        sums = strategy.reduce_gradients([parameter.grad for parameter in parameters], parameters)
        expected = ranks.all_reduce_gradients(list(own.values()), parameters)
        assert any(total is not None and total.is_sparse for total in sums)
        for name, total, right in zip(own, sums, expected, strict=True):
            assert (total is None) == (right is None) == (name == "unused" or name.startswith("towers.like.")), name
            if total is not None and right is not None:
                assert_close(total, right, msg=lambda text, name=name: f"{name}: {text}")


def check_lost(ranks: Ranks) -> None:
    """A rank that ends in a backward pass of the others is told apart from a failure of a layer. The last check."""
    config = make_config("mlp-share_all")
    ranker, batch = make_ranker(config), make_batch(config, rows=40)
    strategy = DataParallel(ranks)
    raw_outputs = strategy.sum_in_backward(ranker, ranker.raw_outputs)

    def failing(batch: Batch) -> list[Tensor]:
        raise RuntimeError("no memory")

    for function, error in ((failing, RuntimeError), (raw_outputs, LostRank)):
        if error is LostRank:
            ranks.barrier()
            if ranks.rank == 2:
                os._exit(0)
        try:
            with strategy.micro_batch(is_last=True):
                run_backward(function, batch)
        except RuntimeError as caught:
            assert type(caught) is error
        except LostRank as caught:
            assert error is LostRank
            assert str(caught).startswith("another process of this run ended or hangs ("), caught
        else:
            raise AssertionError("nothing was raised")


if __name__ == "__main__":
    with joined_ranks() as joined:
        checks = (check_sums, check_gradients, check_gathered, check_fit, check_consensus, check_facts, check_backward)
        for check in (*checks, check_unused):
            check(joined)
            joined.barrier()
        sys.stdout.write(f"rank {joined.rank} of {joined.world_size} is done\n")  # in one piece
        sys.stdout.flush()
        check_lost(joined)
        sys.stdout.write(f"rank {joined.rank} noticed\n")
        sys.stdout.flush()
        os._exit(0)
