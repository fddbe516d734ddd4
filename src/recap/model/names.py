"""Modules named after features and tasks. Torch allows no dot in a module's name, so names are escaped."""

from collections.abc import Iterable, Mapping

from torch import nn

from recap.text import suggest


class NamedModules(nn.ModuleDict):
    """A ModuleDict whose keys may be any string; parameter names stay readable."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({_key(name): module for name, module in modules.items()})

    def named(self, name: str) -> nn.Module:
        """The module of `name`."""
        return self[_key(name)]

    def ordered(self) -> Iterable[nn.Module]:
        """The modules in the order they were given."""
        return self.values()


def is_below(name: str, path: str) -> bool:
    """Whether the module or weight `name` is at `path` or below it."""
    return name == path or name.startswith(f"{path}.")


def nearest(path: str, names: Iterable[str]) -> str:
    """A hint for a `path` that is not in `names`: the names below its longest known prefix."""
    names, prefix = list(names), path
    while prefix and not any(is_below(name, prefix) for name in names):
        prefix = prefix.rpartition(".")[0]
    depth = prefix.count(".") + 2 if prefix else 1
    inside = [name for name in names if not prefix or (name != prefix and is_below(name, prefix))]
    return suggest(path, list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in inside)))


def _key(name: str) -> str:
    """`name` with its dots escaped, and changed if it is an attribute of ModuleDict."""
    safe = name.replace("%", "%25").replace(".", "%2E")
    return f"{safe}%" if hasattr(nn.ModuleDict, safe) or safe == "training" else safe
