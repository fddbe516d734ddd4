"""Checks of scenarios against the features and towers of the model."""

from recap.config.base import Problems
from recap.config.checks.common import twice
from recap.config.checks.networks import embedding_widths
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.network import MlpTowerConfig
from recap.text import suggest


def scenario_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """The features of a scenario have embeddings, and the towers have hidden units to scale."""
    scenario = model.scenario
    if scenario is None:
        return
    known = list(embedding_widths(features, model))
    for field, names in (("domain", scenario.domain), ("personal", scenario.personal)):
        for index, name in enumerate(names or ()):
            at = ("model", "scenario", field, index)
            if name not in known:
                yield at, f"no discrete feature {name!r} has an embedding. {suggest(name, known)}"
            elif name in (names or ())[:index]:
                yield at, twice(name)
    if scenario.personal is None:
        return
    towers = {name: task.tower for name, task in model.tasks.items() if isinstance(task.tower, MlpTowerConfig)}
    if not any(tower.layer_sizes for tower in towers.values()):
        text = "scales the hidden units of MLP towers, and no tower has any; set layer_sizes of one, or remove it"
        yield ("model", "scenario", "personal"), text
    for name, tower in towers.items():
        if tower.ensemble is not None:
            text = "its members share weights but not hidden units, which scenario.personal scales; remove one"
            yield ("model", "tasks", name, "tower", "ensemble"), text
