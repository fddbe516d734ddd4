"""Checks of networks against their inputs and batches."""

from collections.abc import Iterator
from typing import Any

from recap.config.backbones import DlrmConfig, FinalMlpConfig, InputsGateConfig
from recap.config.base import DEFAULT, BaseConfig, KeyPath, Problems, dotted
from recap.config.checks.common import is_position, twice
from recap.config.data import TrainDataConfig
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.network import BatchNormConfig, MlpBackboneConfig, MlpConfig, MlpTowerConfig
from recap.config.sharing import (
    AitmConfig,
    DbmtlConfig,
    DeepEnsembleConfig,
    EsmmConfig,
    PleConfig,
    ShareAllConfig,
    ShareNoneConfig,
    SharePartialConfig,
    StarConfig,
)
from recap.config.training import TrainingConfig
from recap.text import suggest

_PRODUCTS = "dlrm multiplies embeddings"
_NO_PRODUCT = "its members have no product of probabilities to learn from"


def product_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """DLRM reads embeddings of one width, which is also the width of its bottom MLP."""
    widths = embedding_widths(features, model)
    if model.numbers is not None:
        widths["model.numbers"] = model.numbers.width
    widths = {name: width // model.embedding_parts for name, width in widths.items()}
    dlrms = [(path, network, reads) for path, network, reads in networks(model) if isinstance(network, DlrmConfig)]
    if len(set(widths.values())) > 1 and any(reads_inputs for _, _, reads_inputs in dlrms):
        listed = ", ".join(f"{name}: {width}" for name, width in widths.items())
        yield ("model", "embeddings"), f"{_PRODUCTS}, which must have the same width; found {listed}"
    for path, network, reads_inputs in dlrms:
        last = network.bottom_mlp.layer_sizes[-1]
        if not reads_inputs:
            is_linked = isinstance(model.cascade, AitmConfig | DbmtlConfig) and path[1] == "tasks"
            under = model.cascade.kind if is_linked and model.cascade is not None else model.sharing.kind
            advice = "cgc" if path[1] == "backbone" else "share_none"
            yield path, f"{_PRODUCTS}, but does not read them under {under}; use {advice}"
            continue
        if not widths:
            yield path, f"{_PRODUCTS}, but the model has none; add columns under features.discrete"
        elif last not in widths.values():
            listed = " or ".join(str(width) for width in dict.fromkeys(widths.values()))
            at = (*path, "bottom_mlp", "layer_sizes")
            yield at, f"the last layer must be as wide as the embeddings, {listed}; found {last}"
        plain = model.numbers is None
        if not ((features.continuous and plain) or features.binary or features.vectors):
            columns = "features.continuous, binary or vectors" if plain else "features.binary or vectors"
            text = f"has no inputs; add columns under {columns}" + ("" if plain else ", or remove model.numbers")
            yield (*path, "bottom_mlp"), text


def gate_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """A gate of FinalMLP reads embeddings that its network reads."""
    known = list(embedding_widths(features, model))
    for path, network, reads_inputs in networks(model):
        if not isinstance(network, FinalMlpConfig):
            continue
        for name, stream in (("first", network.first), ("second", network.second)):
            if not isinstance(stream.gate, InputsGateConfig) or stream.gate.features is None:
                continue
            at = (*path, name, "gate", "features")
            if not reads_inputs:
                yield at, "needs a network that reads the inputs, and this one reads the output of another; remove it"
                continue
            for index, feature in enumerate(stream.gate.features):
                if feature not in known:
                    yield (*at, index), f"no discrete feature {feature!r} has an embedding. {suggest(feature, known)}"
                elif feature in stream.gate.features[:index]:
                    yield (*at, index), twice(feature)


def ensemble_problems(model: ModelConfig) -> Problems:
    """Members have losses of their own, which nothing else may replace; those of a backbone reach every tower."""
    yield from _shared_ensemble_problems(model)
    chain = model.cascade.chain if isinstance(model.cascade, EsmmConfig) else []
    for name, task in model.tasks.items():
        if (ensemble := model.ensemble_of(name)) is None:
            continue
        path, shared = ensemble_path(model, name), model.shared_ensemble
        if shared is None and model.auxiliary_loss is not None:
            yield path, _another_loss(model.auxiliary_loss.kind)
        if shared is None and name in chain:
            yield path, f"{_NO_PRODUCT}; remove it, or take the task out of the esmm chain"
        if shared is not None and shared != ensemble:
            text = f"continues the {shared.members} members of {dotted(shared_path(model)[:2])}, and cannot have others"
            yield path, f"{text}; remove it"
        for loss in task.ranking_losses:
            yield (
                ("model", "tasks", name, loss),
                "compares the logits of rows, but each member of the ensemble has its own; remove one",
            )


def ensemble_path(model: ModelConfig, task: str) -> KeyPath:
    """Where the ensemble is stated whose members the tower of a task has."""
    tower = model.tasks[task].tower
    own = isinstance(tower, MlpTowerConfig) and tower.ensemble is not None
    return ("model", "tasks", task, "tower", "ensemble") if own else shared_path(model)


def shared_path(model: ModelConfig) -> KeyPath:
    """Where the ensemble is stated whose members all towers continue."""
    return ("model", "sharing") if isinstance(model.sharing, DeepEnsembleConfig) else ("model", "backbone", "ensemble")


def _shared_ensemble_problems(model: ModelConfig) -> Problems:
    """What stands between a backbone and the logits keeps its members apart."""
    if (shared := model.shared_ensemble) is None:
        return
    path = shared_path(model)
    remove = "or use share_all" if isinstance(shared, DeepEnsembleConfig) else f"or remove {dotted(path)}"
    if isinstance(shared, DeepEnsembleConfig):
        if isinstance(model.backbone, MlpBackboneConfig) and model.backbone.ensemble is not None:
            text = "the members of model.sharing cannot have members of their own; remove it"
            yield ("model", "backbone", "ensemble"), f"{text}, {remove}"
    elif not isinstance(model.sharing, ShareAllConfig | SharePartialConfig | ShareNoneConfig):
        text = f"{model.sharing.kind} mixes its experts for a row, not for each member"
        yield ("model", "sharing"), f"{text}; use share_all or share_partial, {remove}"
    if model.auxiliary_loss is not None:
        yield path, _another_loss(model.auxiliary_loss.kind)
    if isinstance(model.cascade, EsmmConfig):
        yield path, f"{_NO_PRODUCT}; remove it, or remove model.cascade"
    for name, task in model.tasks.items():
        if not isinstance(task.tower, MlpTowerConfig):
            text = f"must continue the members of {dotted(path[:2])}, which {task.tower.kind} cannot"
            yield ("model", "tasks", name, "tower"), f"{text}; use mlp, {remove}"


def _another_loss(kind: str) -> str:
    text = f"its members have losses of their own, and {kind} would be another"
    return f"{text}; remove it, or remove model.auxiliary_loss"


def networks(model: ModelConfig) -> Iterator[tuple[KeyPath, Any, bool]]:
    """Path and configuration of backbone and towers, and whether the network, or each expert, reads the inputs."""
    if model.backbone is not None:
        yield ("model", "backbone"), model.backbone, not isinstance(model.sharing, PleConfig)
    linked = model.cascade.linked if isinstance(model.cascade, AitmConfig | DbmtlConfig) else []
    for name, task in model.tasks.items():
        reads_inputs = isinstance(model.sharing, ShareNoneConfig) and name not in linked
        yield ("model", "tasks", name, "tower"), task.tower, reads_inputs


def embedding_widths(features: FeaturesConfig, model: ModelConfig) -> dict[str, int]:
    """Width of each discrete feature that has an embedding."""
    owners = {
        name: features.table_of(name, codes)
        for name, codes in features.discrete.items()
        if not is_position(model, name)
    }
    widths = {name: model.widths.get(owner, model.widths.get(DEFAULT, 0)) for name, owner in owners.items()}
    return {name: width for name, width in widths.items() if width}


def batch_problems(
    training: TrainingConfig, train_data: TrainDataConfig, features: FeaturesConfig, model: ModelConfig
) -> Problems:
    """Every micro-batch has a row, or two if there is a BatchNorm."""
    parts, rows = training.gradient_accumulation or 1, train_data.global_batch_size
    if parts > rows:
        yield (
            ("training", "gradient_accumulation"),
            f"must be at most train_data.global_batch_size, {rows}; found {parts}",
        )
    elif rows // parts < 2 and _has_batch_norm(features, model):
        yield (
            ("training", "gradient_accumulation") if parts > 1 else ("train_data", "global_batch_size"),
            f"BatchNorm needs 2 rows per micro-batch; {rows} rows in {parts} micro-batches leave 1",
        )


def _has_batch_norm(features: FeaturesConfig, model: ModelConfig) -> bool:
    """Whether any layer normalizes over the rows of a micro-batch."""
    featurization = getattr(model.featurization, "batch_norm", None) if features.continuous else None
    parts = (featurization, model.backbone, model.sharing, model.tasks)
    return isinstance(model.scenario, StarConfig) or any(_contains_batch_norm(part) for part in parts)


def _contains_batch_norm(value: Any) -> bool:
    if isinstance(value, BatchNormConfig):
        return True
    if isinstance(value, MlpConfig | MlpTowerConfig) and value.activation == "dice":  # it holds a BatchNorm
        return True
    below: Any = vars(value) if isinstance(value, BaseConfig) else value
    items = below.values() if isinstance(below, dict) else below if isinstance(below, list) else ()
    return any(_contains_batch_norm(item) for item in items)
