"""Ranks that are forked from one process: TorchRec takes longer to load than most checks take to run."""

import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable

from recap.distributed import Ranks
from recap.rendezvous import joined_ranks
from recap.training.sharded_tables.loading import load_torchrec


def run_ranks(size: int, check: Callable[[Ranks], None]) -> list[int]:
    """Run `check` on `size` new ranks, in a group; their exit statuses, negative for a signal that killed one.

    This process must have no threads, so it only loads what the ranks need.
    """
    load_torchrec()
    sys.stdout.flush()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = [os.fork() or _run_rank(rank, size, port, check) for rank in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def _run_rank(rank: int, size: int, port: int, check: Callable[[Ranks], None]) -> int:
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in names.items()}
    warnings.filterwarnings("error", module="recap")
    status = 1
    try:
        with joined_ranks() as joined:
            check(joined)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
