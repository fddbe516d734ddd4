"""Modules by the names of features and tasks, which may be anything; torch allows no dot in a module's name."""

from collections.abc import Iterable, Mapping

from torch import nn

from recap.text import suggest


class NamedModules(nn.ModuleDict):
    """A ModuleDict whose keys may be any names; parameter names stay readable."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({_key(name): module for name, module in modules.items()})

    def named(self, name: str) -> nn.Module:
        """The module of `name`."""
        return self[_key(name)]

    def ordered(self) -> Iterable[nn.Module]:
        """The modules in the order they were given."""
        return self.values()


def is_below(name: str, path: str) -> bool:
    """Whether `name`, of a module or weight, is the one at `path` or stands below it."""
    return name == path or name.startswith(f"{path}.")


def nearest(path: str, names: Iterable[str]) -> str:
    """What is known where `path` leaves the `names` of modules or weights, of which none stands at it or below it."""
    names, found = list(names), path
    while found and not any(is_below(name, found) for name in names):
        found = found.rpartition(".")[0]
    depth = found.count(".") + 2 if found else 1
    inside = [name for name in names if not found or (name != found and is_below(name, found))]
    return suggest(path, list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in inside)))


def _key(name: str) -> str:
    """`name` with its dots replaced, and apart from the attributes that every ModuleDict has."""
    safe = name.replace("%", "%25").replace(".", "%2E")
    return f"{safe}%" if hasattr(nn.ModuleDict, safe) or safe == "training" else safe
