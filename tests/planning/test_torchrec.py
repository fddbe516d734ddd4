"""The plan of divided tables agrees with TorchRec's planner, which plans for any number of ranks in one process."""

from collections import Counter

import pytest
import torch
from planning.test_plan import tables_config

from recap.distributed import Ranks
from recap.errors import ConfigError
from recap.planning.machines import GIB
from recap.planning.memory import examples_of_rank, placement_of
from recap.planning.network import network_costs

torchrec = pytest.importorskip("torchrec", exc_type=ImportError)

ROWS, WIDTH = 3_000_000, 16
FITS, TOO_SMALL = 8.0, 0.001


@pytest.mark.parametrize("ranks", [2, 8, 64])
@pytest.mark.parametrize("sharding", ["row_wise", "table_wise", "column_wise"])
def test_torchrec_plans_the_same_bytes_and_agrees_on_what_fits(ranks: int, sharding: str) -> None:
    from recap.training.sharded_tables.loading import load_torchrec
    from recap.training.sharded_tables.plan import Planner

    load_torchrec()
    config = tables_config({"default": sharding}, rows=ROWS, width=WIDTH, batch=64 * ranks)
    sharded, tables = config.training.sharded_tables, config.optimizer.tables
    assert sharded is not None
    assert tables is not None
    network = network_costs(config, {}, "float32")
    placement = placement_of(config, network, ranks, sharded)
    specs = {table.spec.name: table.spec for table in network.tables}
    configs = [
        torchrec.EmbeddingConfig(
            name=spec.name,
            num_embeddings=spec.num_embeddings,
            embedding_dim=spec.width,
            feature_names=list(spec.features),
        )
        for spec in specs.values()
    ]
    collection = torchrec.EmbeddingCollection(tables=configs, device=torch.device("meta"))
    module = torch.nn.ModuleDict({str(WIDTH): collection})
    sharder = torchrec.distributed.embedding.EmbeddingCollectionSharder()
    for memory_gib in (FITS, TOO_SMALL):
        planner = Planner(
            config=sharded,
            algorithm=tables.algorithm,
            ranks=Ranks(0, ranks, 0, min(ranks, 8)),
            device_type="cpu",
            memory_bytes=round(memory_gib * GIB),
            batch_size=examples_of_rank(config, ranks),
            values={name: [1] * len(spec.features) for name, spec in specs.items()},
        )
        if placement.sharded_bytes > memory_gib * GIB:
            assert memory_gib == TOO_SMALL
            with pytest.raises(ConfigError, match=r"training\.sharded_tables: no plan fits"):
                planner(module, sharder, specs)
            continue
        _, plans = planner(module, sharder, specs)
        loads = Counter[int]()
        for plan in plans:
            loads.update(dict(enumerate(plan.bytes_by_rank)))
            part = next(part for part in placement.parts if part.name == plan.spec.name)
            assert plan.sharding == sharding
            assert max(plan.bytes_by_rank) == part.bytes.weights + part.bytes.optimizer
            assert sum(size > 0 for size in plan.bytes_by_rank) == part.ranks
        assert max(loads.values()) == placement.sharded_bytes
