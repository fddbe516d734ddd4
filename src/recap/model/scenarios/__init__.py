"""Scenarios: how the inputs and towers of a ranker depend on the place where a row was shown."""

from recap.config.model import ModelConfig
from recap.config.network import MlpTowerConfig
from recap.model.inputs.layout import InputLayout
from recap.model.scenarios.pepnet import Pepnet
from recap.model.scenarios.scenario import Context, Scenario

__all__ = ["Context", "Scenario", "build_scenario"]


def build_scenario(config: ModelConfig, layout: InputLayout) -> Scenario | None:
    """The scenario that `config` describes, with inputs [B, layout.width]; None without one."""
    if config.scenario is None:
        return None
    towers = [task.tower for task in config.tasks.values()]
    return Pepnet(config.scenario, layout, [t.layer_sizes if isinstance(t, MlpTowerConfig) else [] for t in towers])
