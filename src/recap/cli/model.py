"""`recap model`: look at a model without training it."""

from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles

if TYPE_CHECKING:
    from rich.tree import Tree

    from recap.model.summary import ModelSummary, ModuleSummary

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a model without training it.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def summary(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all levels, instead of a tree.")] = False,
) -> None:
    """Print the modules of a model, what each gives, its parameters and FLOPs, and the memory it takes to train it.

    Reads no data but vocabularies and masks.
    """
    import json

    from recap.config.file.load import load_config
    from recap.data.encoding.assets import load_assets
    from recap.model.summary import summarise

    loaded = load_config(config, overrides or [], set_files or [])
    found = summarise(loaded, load_assets(loaded.features))
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
        return
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_tree(found.model, depth))
    for line in _totals(found):
        console.print(line)


def _tree(module: "ModuleSummary", depth: int) -> "Tree":
    """A module and, `depth` levels deep, those below it that hold parameters."""
    from rich.text import Text
    from rich.tree import Tree

    shapes = ["×".join(map(str, shape)) or "1" for shape in module.output]
    output = f"{len(shapes)} of {shapes[0]}" if len(shapes) > 1 and len(set(shapes)) == 1 else ", ".join(shapes)
    parts = [f"{module.name}  {module.kind}", f"→ {output}" if output else ""]
    parts += [f"{module.parameters:,} parameters", f"{module.flops:,} FLOPs" if module.flops else ""]
    tree = Tree(Text("  ".join(filter(None, parts))))
    for child in module.children if depth else ():
        if child.parameters:
            tree.children.append(_tree(child, depth - 1))
    return tree


def _totals(found: "ModelSummary") -> list[str]:
    return [
        f"parameters: {found.parameters:,}",
        f"FLOPs an example, forward: {found.flops:,} (matrix products)",
        f"memory: weights {_mib(found.weight_bytes)}, gradients {_mib(found.gradient_bytes)}, "
        f"moments of the optimizer {_mib(found.moment_bytes)}, "
        f"{f'average of the weights {_mib(found.average_bytes)}, ' if found.average_bytes else ''}"
        f"activations {found.activation_bytes / 2**10:,.1f} KiB an example",
    ]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"
