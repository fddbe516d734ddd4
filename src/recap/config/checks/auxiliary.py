"""Checks of losses on parts of the network."""

from typing import Any, assert_never

from recap.config.backbones import DcnV3Config, RankMixerConfig
from recap.config.base import BaseConfig, Problems
from recap.config.checks.networks import networks
from recap.config.loss import SelfEnsembleConfig, TriBceConfig
from recap.config.model import ModelConfig, TaskConfig
from recap.config.network import DropoutConfig, MlpTowerConfig
from recap.config.optimizer import GradNormConfig, OptimizerConfig, PcGradConfig
from recap.config.sharing import AitmConfig, DbmtlConfig, EsmmConfig


def auxiliary_problems(model: ModelConfig) -> Problems:
    """The parts that `model.auxiliary_loss` is about exist."""
    match model.auxiliary_loss:
        case None:
            return
        case TriBceConfig():
            for name, task in model.tasks.items():
                yield from _tri_bce_problems(model, name, task)
        case SelfEnsembleConfig():
            if not _has_dropout([model.backbone, model.tasks]):
                yield (
                    ("model", "auxiliary_loss"),
                    "self_ensemble makes two passes that differ by dropout, but backbone and towers have none; add "
                    "dropout, or remove auxiliary_loss",
                )
        case _:
            assert_never(model.auxiliary_loss)


def _tri_bce_problems(model: ModelConfig, name: str, task: TaskConfig) -> Problems:
    """The task's output is the mean of those of two networks, which is so if one Linear reads both."""
    linked = model.cascade.linked if model.cascade is not None else []
    tower = ("model", "tasks", name, "tower")
    if isinstance(model.cascade, EsmmConfig) and name in linked:
        yield (*tower[:3],), "tri_bce cannot follow a product of probabilities; take the task out of the esmm chain"
    elif isinstance(task.tower, DcnV3Config):
        return
    elif not isinstance(model.backbone, DcnV3Config):
        yield tower, "tri_bce needs dcn_v3 as the backbone, or as this tower; use it, or remove model.auxiliary_loss"
    elif not isinstance(task.tower, MlpTowerConfig) or task.tower.layer_sizes:
        yield (
            tower,
            "tri_bce needs a tower of one Linear, which gives each network of the backbone its own logit; use "
            "'{kind: mlp}' without layer_sizes",
        )
    elif isinstance(model.cascade, AitmConfig | DbmtlConfig) and name in linked:
        text = f"{model.cascade.kind} mixes the two networks that tri_bce tells apart; take the task out of the cascade"
        yield (*tower[:3],), text


def _has_dropout(value: Any) -> bool:
    """Whether any layer drops values in training."""
    if isinstance(value, DropoutConfig):
        return any(value.rates) if value.rates is not None else value.rate != 0
    if getattr(value, "dropout_rate", 0):
        return True
    below: Any = vars(value) if isinstance(value, BaseConfig) else value
    items = below.values() if isinstance(below, dict) else below if isinstance(below, list) else ()
    return any(_has_dropout(item) for item in items)


def expert_problems(model: ModelConfig, optimizer: OptimizerConfig) -> Problems:
    """The penalty of RankMixer's experts belongs to no task."""
    balancing = optimizer.balancing
    if not isinstance(balancing, PcGradConfig | GradNormConfig):
        return
    for path, network, _ in networks(model):
        if isinstance(network, RankMixerConfig) and network.experts is not None:
            yield (
                (*path, "experts"),
                f"adds a loss that belongs to no task, which {balancing.kind} cannot balance; remove it, or use "
                "another balancing",
            )
