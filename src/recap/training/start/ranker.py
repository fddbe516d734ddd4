"""The ranker that a run trains, before weights are restored or a warm start sets them."""

from functools import partial

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets
from recap.distributed import Ranks
from recap.model.directory import new_ranker
from recap.model.frozen import freeze
from recap.model.ranker import Ranker
from recap.model.summary import forward_flops
from recap.reporting import Say
from recap.runtime import Runtime, seed_torch, use_threads
from recap.training.optimizer.memory import check_memory
from recap.training.optimizer.one_pass import keep_rounded
from recap.training.sharded_tables.tables import ShardedTables


def open_ranker(config: RecapConfig, assets: Assets, runtime: Runtime, ranks: Ranks, say: Say) -> Ranker:
    """A ranker on the device, with whole or sharded tables and frozen weights; sets the threads that suit its steps.

    Raises ConfigError if training it does not fit into memory.
    """
    seed_torch(config.training.seed, 0)
    sharded = partial(ShardedTables, config=config, runtime=runtime, say=say)
    build_tables = None if config.training.sharded_tables is None else sharded
    ranker = new_ranker(config, assets, build_tables).to(runtime.device)
    step_flops = 3 * forward_flops(ranker, config, assets) * config.train_data.global_batch_size / ranks.world_size
    use_threads(config.training.threads, step_flops / (config.training.gradient_accumulation or 1))
    freeze(ranker, config.optimizer.frozen)
    keep_rounded(config, runtime, ranker)
    check_memory(config, ranker)
    return ranker
