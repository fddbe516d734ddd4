"""Checks of scenarios, and of sharings that read certain embeddings, against features and towers."""

from collections.abc import Sequence

from recap.config.base import KeyPath, Problems
from recap.config.checks.common import twice
from recap.config.checks.networks import embedding_widths, ensemble_path, shared_path
from recap.config.discrete import IntegerSpace, VocabularySpace, kind_of
from recap.config.features import FeaturesConfig
from recap.config.loss import TriBceConfig
from recap.config.model import ModelConfig
from recap.config.network import MlpTowerConfig
from recap.config.sharing import DeepEnsembleConfig, PepnetConfig, PosoConfig, StarConfig, StemConfig
from recap.text import suggest


def scenario_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """The features of a scenario have embeddings, and the towers have hidden units to scale."""
    scenario = model.scenario
    if isinstance(scenario, StarConfig):
        yield from _star_problems(scenario, features, model)
    if not isinstance(scenario, PepnetConfig):
        return
    for field, names in (("domain", scenario.domain), ("personal", scenario.personal)):
        yield from _name_problems(("model", "scenario", field), names or (), features, model)
    if scenario.personal is None:
        return
    towers = {name: task.tower for name, task in model.tasks.items() if isinstance(task.tower, MlpTowerConfig)}
    if not any(tower.layer_sizes for tower in towers.values()):
        text = "scales the hidden units of MLP towers, and no tower has any; set layer_sizes of one, or remove it"
        yield ("model", "scenario", "personal"), text
    for path in dict.fromkeys(ensemble_path(model, name) for name in towers if model.ensemble_of(name) is not None):
        yield path, "its members do not share hidden units, which scenario.personal scales; remove one"


def _star_problems(star: StarConfig, features: FeaturesConfig, model: ModelConfig) -> Problems:
    """The domain is one of a fixed number, and every tower consists of layers that may have weights of each."""
    at, domain = ("model", "scenario", "domain"), star.domain
    known = list(embedding_widths(features, model))
    if domain not in known:
        yield at, f"no discrete feature {domain!r} has an embedding. {suggest(domain, known)}"
    else:
        discrete = features.discrete[domain]
        space = features.code_spaces[features.table_of(domain, discrete)]
        if not isinstance(space, IntegerSpace | VocabularySpace):
            text = f"{domain!r} is {kind_of(space)}, which has no fixed number of values"
            yield at, f"{text}; give it a size or a vocabulary, or use another feature"
        elif discrete.length > 1:
            yield (
                at,
                f"{domain!r} has {discrete.length} values per row, and a row is of one domain; use another feature",
            )
    if model.shared_ensemble is not None:
        yield shared_path(model), "an ensemble cannot have weights for each domain, as star needs; remove one"
    for name, task in model.tasks.items():
        path = ("model", "tasks", name, "tower")
        if not isinstance(task.tower, MlpTowerConfig):
            text = f"star needs MLPs, whose layers have weights of each domain; found {task.tower.kind}"
            yield path, f"{text}; use mlp, or remove model.scenario"
        elif task.tower.ensemble is not None:
            yield (*path, "ensemble"), "an ensemble cannot have weights for each domain, as star needs; remove one"
    if isinstance(model.auxiliary_loss, TriBceConfig):
        text = "tri_bce divides a tower's Linear among two networks, and star has one for each domain"
        yield ("model", "auxiliary_loss"), f"{text}; remove one"


def sharing_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """The gate of POSO reads embeddings; STEM and deep ensembles divide every embedding."""
    if isinstance(model.sharing, PosoConfig):
        yield from _name_problems(("model", "sharing", "features"), model.sharing.features, features, model)
    if not isinstance(model.sharing, StemConfig | DeepEnsembleConfig):
        return
    parts, widths = model.embedding_parts, embedding_widths(features, model)
    if model.numbers is not None and features.continuous:
        widths["model.numbers"] = model.numbers.width
    is_stem = isinstance(model.sharing, StemConfig)
    if is_stem and not widths:
        yield ("model", "sharing"), "stem divides embeddings, but the model has none; use cgc"
    if odd := {name: width for name, width in widths.items() if width % parts}:
        listed = ", ".join(f"{name}: {width}" for name, width in odd.items())
        readers = "each task and one for all" if is_stem else "each member"
        text = f"{model.sharing.kind} needs widths that are multiples of {parts}, a part for {readers}"
        yield ("model", "embeddings"), f"{text}; found {listed}"


def _name_problems(at: KeyPath, names: Sequence[str], features: FeaturesConfig, model: ModelConfig) -> Problems:
    """Each of `names` is a discrete feature with an embedding, listed once."""
    known = list(embedding_widths(features, model))
    for index, name in enumerate(names):
        if name not in known:
            yield (*at, index), f"no discrete feature {name!r} has an embedding. {suggest(name, known)}"
        elif name in names[:index]:
            yield (*at, index), twice(name)
