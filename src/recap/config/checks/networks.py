"""Checks of networks against their inputs and batches."""

from collections.abc import Iterator
from typing import Any

from recap.config.backbones import DlrmConfig
from recap.config.base import DEFAULT, BaseConfig, KeyPath, Problems
from recap.config.checks.common import is_position
from recap.config.data import TrainDataConfig
from recap.config.features import FeaturesConfig
from recap.config.model import ModelConfig
from recap.config.network import BatchNormConfig
from recap.config.sharing import AitmConfig, PleConfig, ShareNoneConfig
from recap.config.training import TrainingConfig

_PRODUCTS = "dlrm multiplies embeddings"


def product_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """DLRM reads embeddings of one width, which is also the width of its bottom MLP."""
    widths = _embedding_widths(features, model)
    networks = [(path, network, reads) for path, network, reads in _networks(model) if isinstance(network, DlrmConfig)]
    if len(set(widths.values())) > 1 and any(reads_inputs for _, _, reads_inputs in networks):
        listed = ", ".join(f"{name}: {width}" for name, width in widths.items())
        yield ("model", "embeddings"), f"{_PRODUCTS}, which must have the same width; found {listed}"
    for path, network, reads_inputs in networks:
        last = network.bottom_mlp.layer_sizes[-1]
        if not reads_inputs:
            is_linked = isinstance(model.cascade, AitmConfig) and path[1] == "tasks"
            under = "aitm" if is_linked else model.sharing.kind
            advice = "cgc" if path[1] == "backbone" else "share_none"
            yield path, f"{_PRODUCTS}, but does not read them under {under}; use {advice}"
            continue
        if not widths:
            yield path, f"{_PRODUCTS}, but the model has none; add columns under features.discrete"
        elif last not in widths.values():
            listed = " or ".join(str(width) for width in dict.fromkeys(widths.values()))
            at = (*path, "bottom_mlp", "layer_sizes")
            yield at, f"the last layer must be as wide as the embeddings, {listed}; found {last}"
        if not (features.continuous or features.binary or features.vectors):
            text = "has no inputs; add columns under features.continuous, binary or vectors"
            yield (*path, "bottom_mlp"), text


def _networks(model: ModelConfig) -> Iterator[tuple[KeyPath, Any, bool]]:
    """Path and configuration of backbone and towers, and whether the network, or each expert, reads the inputs."""
    if model.backbone is not None:
        yield ("model", "backbone"), model.backbone, not isinstance(model.sharing, PleConfig)
    linked = model.cascade.chain if isinstance(model.cascade, AitmConfig) else []
    for name, task in model.tasks.items():
        reads_inputs = isinstance(model.sharing, ShareNoneConfig) and name not in linked
        yield ("model", "tasks", name, "tower"), task.tower, reads_inputs


def _embedding_widths(features: FeaturesConfig, model: ModelConfig) -> dict[str, int]:
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
    return any(_contains_batch_norm(part) for part in parts)


def _contains_batch_norm(value: Any) -> bool:
    if isinstance(value, BatchNormConfig):
        return True
    below: Any = vars(value) if isinstance(value, BaseConfig) else value
    items = below.values() if isinstance(below, dict) else below if isinstance(below, list) else ()
    return any(_contains_batch_norm(item) for item in items)
