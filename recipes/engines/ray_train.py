"""Train with Ray Train: `recap.train` in each worker of a `TorchTrainer`.

    pip install 'ray[train]'
    python recipes/engines/ray_train.py ranker.yaml --workers 16 --gpu --cpus 8

Each worker is a rank, as under torchrun. All machines see the folder in which this is started, and the data. Ray starts
all workers again when one fails; they resume from the last checkpoint. Ray kills workers without a signal, so what
stopping it loses are the steps since that checkpoint.
"""

import argparse
import os
from typing import Any

import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import recap


def train_loop(options: dict[str, Any]) -> None:
    """One rank."""
    os.chdir(options["folder"])
    torch.distributed.destroy_process_group()  # recap makes its own, from the variables that Ray sets as torchrun does
    recap.train(recap.load_config(options["config"], options["overrides"]))
    torch.distributed.init_process_group("gloo")  # Ray expects a group that it can end


def main() -> None:
    """Start the workers, and wait for the end of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--workers", type=int, default=1, help="ranks")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--cpus", type=int, default=1, help="threads of a worker, its readers included")
    parser.add_argument("--max-failures", type=int, default=3)
    options = parser.parse_args()
    TorchTrainer(
        train_loop,
        train_loop_config={"folder": os.getcwd(), "config": options.config, "overrides": options.overrides},
        scaling_config=ScalingConfig(
            num_workers=options.workers, use_gpu=options.gpu, resources_per_worker={"CPU": options.cpus}
        ),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=options.max_failures)),
    ).fit()


if __name__ == "__main__":
    main()
