"""The section `training.sharded_tables`: embedding tables that no rank holds whole."""

from typing import Annotated, Literal

from recap.config.base import BaseConfig, FreeOnResume, Name, PositiveFloat

TableSharding = Literal["auto", "row_wise", "table_wise", "column_wise"]


class ShardedTablesConfig(BaseConfig):
    """Divides the embedding tables among the ranks with TorchRec (in a checkout, `pip install '.[torchrec]'`).

    Each rank holds and updates its part; the rest of the network stays data parallel. Losses equal those of whole
    tables up to rounding. Needs `optimizer.tables`, whose algorithm moves the rows of a batch in the backward pass."""

    tables: Annotated[dict[Name, TableSharding], FreeOnResume()] = {}
    """How each table is divided, by name; `default` applies to all others. `row_wise` gives every rank some rows,
    `column_wise` some columns, `table_wise` one rank the whole table, and `auto` leaves the choice to TorchRec's
    planner. Default: auto."""
    memory_gib: Annotated[PositiveFloat | None, FreeOnResume()] = None
    """Memory of a rank for tables, the state of their optimizer and the vectors of a batch, in GiB; the plan keeps
    within it. Optional; default: what is free of the GPU's memory, or of the machine's, divided by its ranks."""
    consolidate: Annotated[bool, FreeOnResume()] = True
    """Whether a checkpoint holds whole tables, as evaluation, prediction and serving read them. false leaves the parts
    as the ranks wrote them, which is faster: training resumes from them, and `recap model consolidate` makes a model
    directory."""
