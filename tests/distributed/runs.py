"""Trains one configuration after another in the ranks that `torchrun` started, as `recap train` does.

A test reads what they print. The arguments are the files, so that one start of the processes shows many runs.
"""

import sys

import torch.distributed as dist

from recap.cli.main import main

for file in sys.argv[1:]:
    sys.argv = ["recap", "train", file]
    try:
        main()
    except SystemExit as end:
        sys.stdout.write(f"{file} ended with {end.code}\n")
        sys.stdout.flush()
    if dist.is_initialized():  # a run that fails leaves that to the end of its process
        dist.destroy_process_group()
