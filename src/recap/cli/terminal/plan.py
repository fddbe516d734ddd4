"""The tables and sentences of `recap plan`."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from recap.cli.terminal.console import Console
from recap.cli.terminal.tables import plain_table, shortened
from recap.planning.memory import Bytes, Part
from recap.planning.plan import Plan
from recap.text import plural, size_text, wrapped

_WIDTH = 80
"""Columns that suffice for everything here, in a pipe too."""
_NAME_WIDTH = 20
_LEAST_SECONDS = 5e-7
"""Less is not shown: it would round to 0."""
_MAX_TABLES = 20
"""Tables that are shown, the largest."""
_SHARDING = {"data_parallel": "every rank", "row_wise": "rows", "table_wise": "whole", "column_wise": "columns"}


def show_plan(plan: Plan, console: Console) -> None:
    """Show a plan: what goes where and, if it fits, the work and time of a step, and what all of it assumes."""
    config_line = f"{plural(plan.ranks, 'rank')} on {plan.machine.name}, {plan.precision}"
    console.say(f"{config_line}, {plural(plan.work.examples, 'example')} a rank and step\n")
    console.show(_memory_table(plan))
    for line in _verdict(plan):
        console.say(wrapped(line, _WIDTH))
    if not plan.fit.fits:
        return
    console.say("")
    console.show(_work_table(plan))
    console.say("")
    console.show(_time_table(plan))
    console.say(f"{plan.examples_per_second:,.0f} examples/s\n\nassumptions")
    for line in plan.assumptions:
        console.say(wrapped(f"- {line}", _WIDTH))


def _memory_table(plan: Plan) -> Table:
    """The memory of a rank, by table and kind."""
    table = plain_table("memory of the fullest rank")
    table.add_column("", no_wrap=True)
    for name in ("divided", "weights", "gradients", "optimizer", "activations"):
        table.add_column(name, justify="right", no_wrap=True)
    *tables, dense = plan.placement.parts
    tables.sort(key=lambda part: -part.bytes.total)
    for part in (*tables[:_MAX_TABLES], dense):
        _add_part(table, part, plan.ranks)
    if len(tables) > _MAX_TABLES:
        table.add_row(f"and {plural(len(tables) - _MAX_TABLES, 'table')} more")
    _add_bytes(table, "all", "", plan.placement.fullest)
    return table


def _add_part(table: Table, part: Part, ranks: int) -> None:
    divided = _SHARDING[part.sharding] + (f" / {part.ranks:,}" if part.sharding in ("row_wise", "column_wise") else "")
    _add_bytes(table, shortened(part.name, _NAME_WIDTH), divided, part.bytes)
    if part.rows:
        empty = ranks - part.ranks if part.sharding == "row_wise" else 0  # all parts but the last have equal rows
        table.add_row(f"  {part.rows:,} × {part.width}", f"{empty:,} empty" if empty else "")


def _add_bytes(table: Table, name: str, divided: str, held: Bytes) -> None:
    sizes = (held.weights + held.average, held.gradients, held.optimizer, held.activations)
    table.add_row(escape(name), divided, *(size_text(count) if count else "-" for count in sizes))


def _verdict(plan: Plan) -> Iterator[str]:
    """Whether it fits, and what would fit."""
    fit, reserved = plan.fit, round(plan.machine.reserved_gib * 2**30)
    needs = (
        f"a rank needs {size_text(fit.needed)}, {size_text(reserved)} of it reserve; "
        f"there are {size_text(fit.available)}"
    )
    if fit.fits:
        spare = f"; {_ranks(plan, fit.smallest_world)} would do" if fit.smallest_world else ""
        yield f"fits: {needs}{spare if fit.smallest_world != plan.ranks else ''}"
        return
    if fit.needed > fit.available:
        missing = size_text(fit.needed - fit.available)
        yield f"does not fit: {needs}; {missing} are missing, and most is {fit.largest!r}"
    if fit.table_limit is not None and plan.placement.sharded_bytes > fit.table_limit:
        yield (
            f"does not fit: tables and their optimizer take {size_text(plan.placement.sharded_bytes)} of a rank, and "
            f"training.sharded_tables.memory_gib allows {size_text(fit.table_limit)}"
        )
    if fit.smallest_world is not None:
        yield f"would fit: {_ranks(plan, fit.smallest_world)}, with this configuration"
    row_wise = fit.smallest_world_row_wise
    if row_wise is not None and row_wise != fit.smallest_world:
        yield (
            f"would fit: {_ranks(plan, row_wise)}, with tables divided by rows: "
            "training.sharded_tables={tables: {default: row_wise}}"
        )
    if fit.smallest_world is None and row_wise is None:
        yield (
            f"no number of ranks fits: make {fit.largest!r} smaller, use ranks with more memory, or, if activations "
            "take most, more micro-batches (training.gradient_accumulation)"
        )


def _ranks(plan: Plan, ranks: int) -> str:
    """A number of ranks, in whole nodes if it takes several."""
    if ranks > plan.ranks_per_node and not plan.machine.is_shared:
        nodes = -(-ranks // plan.ranks_per_node)
        return f"--world-size {nodes * plan.ranks_per_node} ({plural(nodes, 'node')} of {plan.ranks_per_node})"
    return f"--world-size {ranks}"


def _work_table(plan: Plan) -> Table:
    """What a rank does in a step."""
    work = plan.work
    table = plain_table("work of a rank in a step")
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    rows = {
        "FLOPs of matrix products": _flops(work.flops),
        "FLOPs of teachers": _flops(work.teacher_flops) if work.teacher_flops else "0 ",
        "memory read and written": size_text(work.memory_bytes),
        "sent to sum gradients that every rank has": size_text(work.summed_bytes),
        "received of sparse gradients": size_text(work.gathered_bytes),
        "ids between ranks": size_text(work.ids_bytes),
        "vectors and their gradients between ranks": size_text(work.vectors_bytes),
    }
    for name, value in rows.items():
        if not value.startswith("0 "):
            table.add_row(name, value)
    lookups = sum(each.lookups for each in work.tables)
    if lookups:
        distinct = sum(each.distinct for each in work.tables)
        table.add_row("rows of tables looked up (distinct at most)", f"{lookups:,} ({distinct:,})")
    return table


def _flops(count: int) -> str:
    """In millions where they are few, such as `12.5 M`."""
    return f"{count / 1e9:,.1f} G" if count >= 1e9 else f"{count / 1e6:,.3f} M"


def _time_table(plan: Plan) -> Table:
    """The expected time of a step, by part."""
    time = plan.time
    table = plain_table("expected time of a step")
    table.add_column("", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    rows = {
        "matrix products": time.compute,
        "memory": time.memory,
        "exchange of ids, vectors and sparse gradients": time.exchange,
        "latency of messages": time.latency,
        "sum of gradients that every rank has": time.summing,
        "  hidden by the backward pass": -time.hidden,
        "PyTorch's own time" + ("" if plan.machine.is_shared else ", beyond the device's"): time.host,
    }
    for name, seconds in rows.items():
        if abs(seconds) >= _LEAST_SECONDS:
            table.add_row(name, f"{1000 * seconds:,.3f}")
    table.add_row("step", f"{1000 * time.total:,.3f}")
    return table
