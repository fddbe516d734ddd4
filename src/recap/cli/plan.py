"""`recap plan`: what a run needs on given ranks, and how long a step takes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles
from recap.errors import InputError

_GPUS_PER_NODE = 8


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks of the run: GPUs, or processes on a CPU.")] = 1,
    memory_gib: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Memory of a rank, in GiB; default: that of the GPU.", show_default=False),
    ] = None,
    device: Annotated[Literal["cpu", "a100", "h100", "h200"], typer.Option(help="What a rank computes on.")] = "h100",
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs of a machine; default: 8.", show_default=False)
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Constants of your CPU, which benchmarks/plan.py writes; default: those of a machine of 2 cores.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Plan a run: what goes on which ranks, whether it fits, and the expected time of a step.

    Computes with the configuration alone: reads vocabularies, masks and models of teachers, but no data, and allocates
    no tables. Exits with 1 if the memory of a rank does not suffice.
    """
    if gpus_per_node is not None and device == "cpu":
        raise InputError("--gpus-per-node: has no effect on a CPU, whose ranks share one machine; leave it out")

    from recap.config.file.load import load_config
    from recap.planning.machines import machine_for

    machine = machine_for(device, measured, memory_gib)  # before torch, which takes long to import
    loaded = load_config(config, overrides or [], set_files or [])

    from recap.data.encoding.assets import load_assets
    from recap.planning.plan import make_plan

    per_node = world_size if device == "cpu" else gpus_per_node or _GPUS_PER_NODE
    planned = make_plan(loaded, load_assets(loaded.features), world_size, per_node, machine)
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps(asdict(planned), indent=1, ensure_ascii=False))
    else:
        from recap.cli.terminal.console import Console
        from recap.cli.terminal.plan import show_plan

        show_plan(planned, Console())
    if not planned.fit.fits:
        raise typer.Exit(1)
