"""Modules named after features and tasks. Names are escaped, since torch allows no dot in the name of a module."""

from collections.abc import Iterable, Mapping

from torch import nn

from recap.text import suggest


class NamedModules(nn.ModuleDict):
    """A ModuleDict whose keys may be any string; parameter names stay readable."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({key_of(name): module for name, module in modules.items()})

    def named(self, name: str) -> nn.Module:
        """The module of `name`; `values()` gives all of them, in their original order."""
        return self[key_of(name)]


def is_below(name: str, path: str) -> bool:
    """Whether the module or weight `name` is at `path` or below it."""
    return name == path or name.startswith(f"{path}.")


def nearest(path: str, names: Iterable[str]) -> str:
    """A hint for an unknown `path`: the names below its longest known prefix, and the nearest of them."""
    names, prefix = list(names), path
    while prefix and not any(is_below(name, prefix) for name in names):
        prefix = prefix.rpartition(".")[0]
    depth = prefix.count(".") + 2 if prefix else 1
    inside = [name for name in names if not prefix or (name != prefix and is_below(name, prefix))]
    return suggest(path, list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in inside)))


def key_of(name: str) -> str:
    """`name` with dots escaped, and with a suffix if it is an attribute of ModuleDict."""
    safe = name.replace("%", "%25").replace(".", "%2E")
    return f"{safe}%" if hasattr(nn.ModuleDict, safe) or safe == "training" else safe
