"""Frozen modules: their weights and running statistics do not change."""

from collections.abc import Sequence

from recap.errors import ConfigError
from recap.model.layers import row_norms
from recap.model.names import nearest
from recap.model.ranker import Ranker


def freeze(ranker: Ranker, paths: Sequence[str]) -> None:
    """Freeze the weights of the modules at `paths`, and the running statistics of the BatchNorms in them.

    Raises ConfigError for an unknown path, or if no weight is left to learn.
    """
    modules = {name: module for name, module in ranker.named_modules() if name and module.state_dict()}
    for index, path in enumerate(paths):
        if path not in modules:
            raise ConfigError(
                f"optimizer.frozen.{index}: no module with weights is named {path!r}. {nearest(path, modules)}"
            )
        modules[path].requires_grad_(False)
        ranker.keep_in_evaluation(row_norms(modules[path]))
    if paths and not any(parameter.requires_grad for parameter in ranker.parameters()):
        raise ConfigError("optimizer.frozen: all modules with weights are frozen, so nothing would be learned")
