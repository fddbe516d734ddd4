"""The markers of fields."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from recap.config.base import FreeOnResume, KeyPath, OrderMatters, ShapesWeights, dotted
from recap.config.file.keys import has_mark, is_below_mark, is_model, members
from recap.config.recap import RecapConfig


def fields(model: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every field whose path contains no name chosen by the user."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        for member in members(field.annotation):
            if is_model(member):
                yield from fields(member, (*path, name))


def marked(mark: object) -> list[str]:
    return list(dict.fromkeys(dotted(path) for path in fields(RecapConfig) if has_mark(RecapConfig, path, mark)))


def test_these_fields_may_change_on_resume() -> None:
    assert marked(FreeOnResume()) == [
        "training.save_dir",
        "training.num_train_steps",
        "training.initial_checkpoint_dir",
        "training.initial_weights",
        "training.checkpoint_every_n",
        "training.checkpoint_max_to_keep",
        "training.train_log_every_n",
        "training.log_norms",
        "training.num_eval_steps",
        "training.eval_log_every_n",
        "training.eval_timeout_in_s",
        "training.watch.stop_after",
        "training.mlflow",
        "training.batch_norm_rows",
        "training.non_finite",
        "training.preemption_grace_seconds",
        "training.threads",
        "training.sharded_tables",
        "training.sharded_tables.tables",
        "training.sharded_tables.memory_gib",
        "training.sharded_tables.consolidate",
        "features.request",
        "features.names",
        "features.groups",
        "features.max_unknown",
        "model.initialization",
        "train_data.source",
        "train_data.on_bad_data",
        "train_data.readers",
        "train_data.cache",
        "train_data.num_epochs",
        "validation_data",
        "scoring",
        "which_metrics",
        "metrics",
        "strata",
        "slices",
        "backtest",
        "tuning",
    ]


def test_trained_weights_depend_on_these_fields() -> None:
    inputs = [f"features.{role}" for role in ("continuous", "binary", "discrete", "vectors", "histories")]
    assert marked(ShapesWeights()) == [*inputs, "model"]


def test_the_order_of_these_mappings_is_that_of_inputs_and_outputs() -> None:
    assert marked(OrderMatters()) == ["features.discrete", "features.vectors", "features.histories", "model.tasks"]


@pytest.mark.parametrize(
    ("path", "free"),
    [
        (("training", "watch", "stop_after"), True),
        (("training", "watch", "metric"), False),
        (("training", "mlflow", "run_name"), True),
        (("validation_data", "recent", "tasks", "like", "neg_downsampling_rate"), True),
        (("train_data", "tasks", "like", "neg_downsampling_rate"), False),
        (("train_data", "source", "inputs", 0), True),
        (("nothing", "of", "this"), False),
        ((), False),
    ],
)
def test_a_mark_applies_to_everything_below_its_field(path: KeyPath, free: bool) -> None:
    assert is_below_mark(RecapConfig, path, FreeOnResume()) is free
