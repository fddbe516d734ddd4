"""Modules whose weights stay as they start."""

from collections.abc import Sequence

from torch.nn.modules.batchnorm import _BatchNorm

from recap.errors import ConfigError
from recap.model.layers import BatchRenorm
from recap.model.names import nearest
from recap.model.ranker import Ranker


def freeze(ranker: Ranker, paths: Sequence[str]) -> None:
    """Keep the weights of the modules at `paths` as they are, and the running statistics of normalisations in them.

    Raises ConfigError for a path that is no module with weights, and where nothing is left to learn.
    """
    modules = {name: module for name, module in ranker.named_modules() if name and module.state_dict()}
    for index, path in enumerate(paths):
        if path not in modules:
            raise ConfigError(
                f"optimizer.frozen.{index}: {path!r} is no module with weights of this model. {nearest(path, modules)}"
            )
        modules[path].requires_grad_(False)
        ranker.in_evaluation += [each for each in modules[path].modules() if isinstance(each, _BatchNorm | BatchRenorm)]
    if paths and not any(parameter.requires_grad for parameter in ranker.parameters()):
        raise ConfigError("optimizer.frozen: all modules with weights are frozen, so nothing would be learned")
