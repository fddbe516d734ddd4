"""The line at the start of a run."""

import torch
from model.rankers import make_config, make_ranker

from recap.distributed import Ranks
from recap.runtime import Runtime, restored_threads
from recap.training.log import describe_setup


def test_several_ranks_are_named_with_their_threads() -> None:
    ranker = make_ranker(make_config("mlp-share_all"))
    count = sum(parameter.numel() for parameter in ranker.parameters())
    device = torch.device("cpu")
    with restored_threads():
        torch.set_num_threads(1)
        alone, together = (describe_setup(Runtime(device, ranks), ranker) for ranks in (Ranks(), Ranks(1, 2, 1, 2)))
    assert alone == f"{count:,} parameters, on cpu, 1 thread, float32"
    assert together == f"{count:,} parameters, on cpu, 2 ranks of 1 thread, float32"
