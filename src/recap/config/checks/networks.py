"""What networks and their inputs do not agree about."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from recap.config.backbones import DlrmConfig
from recap.config.base import DEFAULT, BaseConfig, KeyPath, Problems
from recap.config.checks.common import is_position
from recap.config.discrete import SharedTable
from recap.config.network import BatchNormConfig
from recap.config.sharing import AitmConfig, PleConfig, ShareNoneConfig

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


def product_problems(config: "RecapConfig") -> Problems:
    """DLRM where there are no embeddings to take products of, or where widths differ."""
    features, sharing = config.features, config.model.sharing
    widths = _embedding_widths(config)
    networks = [each for each in _networks(config) if isinstance(each[1], DlrmConfig)]
    if len(set(widths.values())) > 1 and any(reads_inputs for _, _, reads_inputs in networks):
        found = ", ".join(f"{name}: {width}" for name, width in widths.items())
        yield ("model", "embeddings"), f"dlrm takes products of embeddings, so all need one width; found {found}"
    for path, network, reads_inputs in networks:
        last = network.bottom_mlp.layer_sizes[-1]
        if not reads_inputs:
            under = "aitm" if isinstance(config.model.cascade, AitmConfig) and path[1] == "tasks" else sharing.kind
            advice = "cgc" if path[1] == "backbone" else "share_none"
            why = f"dlrm takes products of embeddings, which it does not read with {under}; use {advice}"
            yield path, why
            continue
        if not widths:
            yield path, "dlrm takes products of embeddings, but there are none; name columns under features.discrete"
        elif set(widths.values()).isdisjoint([last]):
            found = " or ".join(str(width) for width in dict.fromkeys(widths.values()))
            at = (*path, "bottom_mlp", "layer_sizes")
            yield at, f"the last layer must be as wide as the embeddings, {found}; found {last}"
        if not (features.continuous or features.binary or features.vectors):
            said = "has nothing to read; name columns under features.continuous, binary or vectors"
            yield (*path, "bottom_mlp"), said


def _networks(config: "RecapConfig") -> Iterator[tuple[KeyPath, Any, bool]]:
    """Backbone and towers, each with its path, and whether it, all copies of it, read the inputs themselves."""
    model = config.model
    if model.backbone is not None:
        yield ("model", "backbone"), model.backbone, not isinstance(model.sharing, PleConfig)
    transferred = model.cascade.chain if isinstance(model.cascade, AitmConfig) else []
    for name, task in model.tasks.items():
        reads_inputs = isinstance(model.sharing, ShareNoneConfig) and name not in transferred
        yield ("model", "tasks", name, "tower"), task.tower, reads_inputs


def _embedding_widths(config: "RecapConfig") -> dict[str, int]:
    """Of each discrete feature that has an embedding."""
    said = config.model.widths
    owners = {
        name: discrete.table if isinstance(discrete, SharedTable) else name
        for name, discrete in config.features.discrete.items()
        if not is_position(config, name)
    }
    widths = {name: said.get(owner, said.get(DEFAULT, 0)) for name, owner in owners.items()}
    return {name: width for name, width in widths.items() if width}


def batch_problems(config: "RecapConfig") -> Problems:
    """Micro-batches without rows, or of one row for BatchNorm."""
    parts, rows = config.training.gradient_accumulation or 1, config.train_data.global_batch_size
    if parts > rows:
        yield ("training", "gradient_accumulation"), f"{parts} micro-batches need at least as many rows, found {rows}"
    elif rows // parts < 2 and _has_batch_norm(config):
        yield (
            ("training", "gradient_accumulation") if parts > 1 else ("train_data", "global_batch_size"),
            f"BatchNorm needs at least 2 rows in a micro-batch; {rows} rows in {parts} parts leave 1",
        )


def _has_batch_norm(config: "RecapConfig") -> bool:
    """Whether any layer normalises over the rows of a micro-batch."""
    model = config.model
    featurization = getattr(model.featurization, "batch_norm", None) if config.features.continuous else None
    parts = (featurization, model.backbone, model.sharing, model.tasks)
    return any(_holds_batch_norm(part) for part in parts)


def _holds_batch_norm(value: Any) -> bool:
    if isinstance(value, BatchNormConfig):
        return True
    below: Any = vars(value) if isinstance(value, BaseConfig) else value
    items = below.values() if isinstance(below, dict) else below if isinstance(below, list) else ()
    return any(_holds_batch_norm(item) for item in items)
