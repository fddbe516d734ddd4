"""Modules by the names of features and tasks, which may be anything; torch allows no dot in a module's name."""

from collections.abc import Iterable, Mapping

from torch import nn


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


def _key(name: str) -> str:
    """`name` with its dots replaced, and apart from the attributes that every ModuleDict has."""
    safe = name.replace("%", "%25").replace(".", "%2E")
    return f"{safe}%" if hasattr(nn.ModuleDict, safe) or safe == "training" else safe
