"""A file in the published form, with the published sections, fields and defaults."""

import re

from recap.config.base import DEFAULT, Check, Name, Problems
from recap.config.checks.common import unknown
from recap.config.evaluation.metrics import BINARY_METRICS, metrics_of
from recap.published.form.data import Data
from recap.published.form.model import Model
from recap.published.form.rates import LearningRate
from recap.published.form.section import PublishedSection


class Adam(PublishedSection):
    """Adam."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


class Sgd(PublishedSection):
    """SGD, as in the optimizer code that the published ranker shares with other projects."""

    lr: float | None = None
    momentum: float = 0.0


class Adagrad(PublishedSection):
    """Adagrad, as in the same shared code."""

    lr: float | None = None
    eps: float = 0.0


class MultiTaskRates(PublishedSection):
    """A learning rate for each tower, and one for the rest of the model."""

    tower_learning_rates: dict[Name, LearningRate]
    backbone_learning_rate: LearningRate | None = None


class Optimizer(PublishedSection):
    """The section `optimizer`."""

    one_of = (("single_task_learning_rate", "multi_task_learning_rates"),)
    adam: Adam | None = None
    sgd: Sgd | None = None
    adagrad: Adagrad | None = None
    single_task_learning_rate: LearningRate | None = None
    multi_task_learning_rates: MultiTaskRates | None = None

    def problems(self) -> Problems:
        """At most one algorithm."""
        given = [name for name in ("adam", "sgd", "adagrad") if getattr(self, name) is not None]
        if len(given) > 1:
            yield (), f"set one of adam, sgd, adagrad; found {' and '.join(given)}"


METRIC_ALIASES = {
    **{alias: spec.name for spec in metrics_of("binary") for alias in spec.aliases},
    **{name: name for name in BINARY_METRICS},
}
"""Published name of a metric, in lower case with underscores → our name."""
_HIT = re.compile(r"hit(?:_at_|@)([1-9][0-9]{0,8})")


def metric_names(text: str) -> list[str]:
    """The metrics in `which_metrics`, in lower case with underscores; a hit at any rank is `hit_at`."""
    names = [name.strip().lower().replace(" ", "_") for name in text.split(",")]
    return list(dict.fromkeys("hit_at" if _HIT.fullmatch(name) else name for name in names))


def hit_ranks(text: str) -> list[int]:
    """The ranks k of the metrics `hit_at_k` or `hit@k` in `which_metrics`, ascending."""
    matches = (_HIT.fullmatch(name.strip().lower().replace(" ", "_")) for name in text.split(","))
    return sorted({int(match[1]) for match in matches if match is not None})


class Training(PublishedSection):
    """The section `training`; ours has the same names and defaults."""

    save_dir: Name = "/tmp/model"
    num_train_steps: int = 1_000_000
    initial_checkpoint_dir: Name | None = None
    checkpoint_every_n: int = 1000
    checkpoint_max_to_keep: int | None = None
    train_log_every_n: int = 1000
    num_eval_steps: int = 16384
    eval_log_every_n: int = 5000
    eval_timeout_in_s: float = 3600
    gradient_accumulation: int | None = None


class PublishedConfig(PublishedSection):
    """A file in the published form."""

    training: Training = Training()
    model: Model
    train_data: Data
    validation_data: dict[Name, Data] = {}
    optimizer: Optimizer
    which_metrics: str | None = None

    def checks(self) -> tuple[Check, ...]:
        """The checks of a section, and those that compare sections."""
        return *super().checks(), self._metrics, self._schemas, self._rates

    def _metrics(self) -> Problems:
        for name in metric_names(self.which_metrics) if self.which_metrics is not None else []:
            if name not in METRIC_ALIASES:
                yield ("which_metrics",), unknown(name, "metric", METRIC_ALIASES)

    def _schemas(self) -> Problems:
        for name, data in self.validation_data.items():
            layout = data.seg_dense_schema.model_copy(
                update={"schema_path": self.train_data.seg_dense_schema.schema_path}
            )
            if layout != self.train_data.seg_dense_schema:
                text = "must equal that of train_data except for schema_path: all data sets have the same features"
                yield ("validation_data", name, "seg_dense_schema"), text
            for part, shape in data.shaping.items():
                if shape != self.train_data.shaping[part]:
                    text = "must equal that of train_data: all data sets have the same features"
                    yield ("validation_data", name, "preprocess", part), text

    def _rates(self) -> Problems:
        rates = self.optimizer.multi_task_learning_rates
        if rates is not None and rates.backbone_learning_rate is None and self.model.backbone is not None:
            text = "the model has a backbone; add backbone_learning_rate"
            yield ("optimizer", "multi_task_learning_rates"), text
        if rates is not None and DEFAULT in rates.tower_learning_rates:
            path = ("optimizer", "multi_task_learning_rates", "tower_learning_rates", DEFAULT)
            yield path, unknown(DEFAULT, "task", self.model.tasks)
