"""Scenarios: how the inputs and towers of a ranker depend on the place where a row was shown."""

from typing import assert_never

from recap.config.network import MlpBackboneConfig, MlpTowerConfig
from recap.config.recap import RecapConfig
from recap.config.sharing import PepnetConfig, ShareAllConfig, SharePartialConfig, StarConfig
from recap.data.encoding.assets import Assets, discrete_columns, discrete_sizes
from recap.model.inputs.layout import InputLayout
from recap.model.scenarios.pepnet import Pepnet
from recap.model.scenarios.scenario import Context, Scenario
from recap.model.scenarios.star import Star

__all__ = ["Context", "Scenario", "build_scenario"]


def build_scenario(config: RecapConfig, assets: Assets, layout: InputLayout) -> Scenario | None:
    """The scenario that `config` describes, with inputs [B, layout.width]; None without one."""
    model, features = config.model, config.features
    towers = [task.tower for task in model.tasks.values()]
    match model.scenario:
        case None:
            return None
        case PepnetConfig():
            sizes = [tower.layer_sizes if isinstance(tower, MlpTowerConfig) else [] for tower in towers]
            return Pepnet(model.scenario, layout, sizes)
        case StarConfig(domain=domain):
            column = discrete_columns(features)[domain].start
            domains = discrete_sizes(features, assets)[features.table_of(domain, features.discrete[domain])]
            outputs = [1 if task.jrc is None else 2 for task in model.tasks.values()]
            shares = isinstance(model.backbone, MlpBackboneConfig)
            shares &= isinstance(model.sharing, ShareAllConfig | SharePartialConfig)
            return Star(model.scenario, layout, column, domains, outputs, shares=shares)
        case _:
            assert_never(model.scenario)
