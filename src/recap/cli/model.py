"""`recap model`: inspect a model, import its weights, or make its tables whole, without training it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import (
    ConfigFile,
    ModelDirectory,
    Overrides,
    Overwrite,
    SchemaFile,
    SetFiles,
    StepOption,
    parse_step,
)
from recap.errors import InputError

if TYPE_CHECKING:
    from rich.tree import Tree

    from recap.model.summary import ModelSummary, ModuleSummary
    from recap.training.optimizer.memory import TrainingMemory

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Inspect a model, or import its weights.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def summary(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print all levels as JSON instead of a tree.")] = False,
) -> None:
    """Print the modules of a model and their costs.

    Shows output shapes, parameters, FLOPs, and memory for training. Reads vocabularies and masks, but no other data.
    """
    import json
    from dataclasses import asdict

    from recap.config.file.load import load_config
    from recap.data.encoding.assets import load_assets
    from recap.model.directory import build_ranker
    from recap.model.frozen import freeze
    from recap.model.summary import summarise
    from recap.training.optimizer.memory import training_memory

    loaded = load_config(config, overrides or [], set_files or [])
    assets = load_assets(loaded.features)
    ranker = build_ranker(loaded, assets)
    freeze(ranker, loaded.optimizer.frozen)
    model, memory = summarise(ranker, loaded, assets), training_memory(loaded, ranker)
    if as_json:
        print(json.dumps({**asdict(model), **asdict(memory)}, indent=1, ensure_ascii=False))
        return
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_tree(model.model, depth))
    for line in _totals(model, memory):
        console.print(line)


@app.command()
def golden(
    model: ModelDirectory,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Files, URLs, or globs of them; labels are not needed.", show_default=False
        ),
    ],
    step: StepOption = None,
    schema: SchemaFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the predictions for the first 100 rows of INPUT into a model directory, as golden.json.

    'recap serve' serves the model only if it predicts the same, within 1e-5 + 0.01%.
    """
    from recap.runs import find_model_directory
    from recap.serving.models.golden import GOLDEN, write_golden
    from recap.storage import read_manifest
    from recap.text import plural

    folder = find_model_directory(model, parse_step(step))
    if GOLDEN in read_manifest(folder).files and not overwrite:
        raise InputError(f"{folder / GOLDEN}: already exists; add --overwrite to replace it")
    rows = write_golden(folder, inputs, schema)
    print(f"written: {folder / GOLDEN} with {plural(rows, 'row')}")


@app.command("import")
def import_(
    config: ConfigFile,
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="State dict of the published code: .safetensors or .pt."),
    ],
    overrides: Overrides = None,
    set_files: SetFiles = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Model directory to write.", show_default=False)
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="PUBLISHED=OURS",
            help="Name of a module or weight that differs in another way than the known ones. May be repeated.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Bring trained weights of the published code into a model directory.

    CONFIG is what 'recap config import' made of its configuration. Weights are matched by name and checked by shape.
    """
    from recap.config.file.load import load_config

    if output is None:
        raise InputError("--output: missing; name the model directory to write")
    mapping = dict(_renamed(text) for text in names or [])
    loaded = load_config(config, overrides or [], set_files or [])

    from recap.model.published_weights import import_weights

    _check_output(output, overwrite)
    imported = import_weights(loaded, weights, output, mapping)
    print(f"all {imported.weights} weights of the model come from {weights}")
    if imported.configured:
        print(f"set by the configuration, not by the weights: {', '.join(imported.configured)}")
    print(f"written: {output}")


@app.command()
def consolidate(
    model: ModelDirectory,
    step: StepOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Model directory to write.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model directory of a checkpoint whose tables are in parts.

    A run with 'training.sharded_tables.consolidate: false' leaves such checkpoints. Needs no memory for whole tables.
    """
    from recap.runs import find_model_directory

    if output is None:
        raise InputError("--output: missing; name the model directory to write")
    folder = find_model_directory(model, parse_step(step))
    _check_output(output, overwrite)

    from recap.training.sharded_tables.consolidate import consolidate as write_whole_tables

    weights = write_whole_tables(folder, output)
    print(f"written: {output} with {weights} weights of {folder}")


def _check_output(output: Path, overwrite: bool) -> None:
    """Raise InputError unless a model directory may be written to `output`."""
    from recap.storage import MANIFEST, check_local

    check_local(output)
    if output.exists() and not (overwrite and (output / MANIFEST).is_file()):
        advice = (
            "add --overwrite to replace it"
            if (output / MANIFEST).is_file()
            else "it is not a model directory, so choose another"
        )
        raise InputError(f"--output: {output} already exists; {advice}")


def _renamed(text: str) -> tuple[str, str]:
    published, _, ours = text.partition("=")
    if not published or not ours:
        raise InputError(
            f"--map: expected PUBLISHED=OURS, such as _backbone.cross=sharing.backbone.cross, found {text!r}"
        )
    return published, ours


def _tree(module: "ModuleSummary", depth: int) -> "Tree":
    """A module, and the modules below it that have parameters, down to `depth` levels."""
    from collections import Counter

    from rich.text import Text
    from rich.tree import Tree

    shapes = Counter("×".join(map(str, shape)) or "1" for shape in module.output)
    output = ", ".join(f"{count} of {shape}" if count > 1 else shape for shape, count in shapes.items())
    parts = [f"{module.name}  {module.kind}", f"→ {output}" if output else ""]
    parts += [f"{module.parameters:,} parameters", f"{module.flops:,} FLOPs" if module.flops else ""]
    tree = Tree(Text("  ".join(filter(None, parts))))
    for child in module.children if depth else ():
        if child.parameters:
            tree.children.append(_tree(child, depth - 1))
    return tree


def _totals(model: "ModelSummary", memory: "TrainingMemory") -> list[str]:
    sizes = {
        "weights": model.weight_bytes,
        "gradients": memory.gradient_bytes,
        "optimizer state": memory.moment_bytes,
        **({"averaged weights": memory.average_bytes} if memory.average_bytes else {}),
    }
    listed = ", ".join(f"{name} {size / 2**20:,.2f} MiB" for name, size in sizes.items())
    return [
        f"parameters: {model.parameters:,}",
        f"FLOPs per example, forward: {model.flops:,} (matrix products)",
        f"memory: {listed}, activations {model.activation_bytes / 2**10:,.1f} KiB per example",
    ]
