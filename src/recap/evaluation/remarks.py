"""Remarks on the metrics of a split: tasks that are too easy, tasks or watched metrics that are undefined, and
training files among those evaluated.
"""

import math
from collections.abc import Iterator

from recap.config.checks.warnings import is_training_split
from recap.config.recap import RecapConfig
from recap.config.training import WatchConfig
from recap.data.tools.shared import shared_with
from recap.evaluation.metrics.buckets import BUCKETS
from recap.evaluation.metrics.estimate import FEW_BUCKETS, Estimates
from recap.evaluation.result import TaskMetrics
from recap.text import plural

TOO_EASY = 0.995
"""AUC above which a feature most likely gives the label away."""
_MIN_ROWS = 20
"""Positives and negatives without which an AUC may be high by chance."""


def remarks(
    split: str,
    metrics: TaskMetrics,
    watch: WatchConfig | None = None,
    estimates: Estimates | None = None,
    *,
    fitted_here: bool = False,
) -> Iterator[tuple[str, str]]:
    """The subject and the text of each remark; none on metrics that were not computed.

    `watch`: the watched metric. `fitted_here`: whether the calibration was fitted on the rows of this split.
    """
    if fitted_here:
        text = (
            "the calibration was fitted on these rows, so log loss, RCE and calibration are better than on other rows"
        )
        yield "fitted", f"warning: {split}: {text}"
    yield from _few_users(split, estimates or {})
    for task, values in metrics.items():
        positives, count = values.get("positives", math.nan), values.get("count", math.nan)
        if values.get("auc", 0.0) > TOO_EASY and min(positives, count - positives) >= _MIN_ROWS:
            yield (
                f"easy {task}",
                f"warning: {split}: {task} has an AUC of {values['auc']:.4f}; a feature may give the label away: "
                "'recap config check --data' compares each feature with it",
            )
        elif count > 0 and (positives == 0 or positives == count):
            classes = "no positives" if not positives else "only positives"
            text = f"{task} has {classes} in {plural(round(count), 'row')}, so metrics such as its AUC are undefined"
            yield f"classes {task}", f"warning: {split}: {text}"
        elif count == 0:
            text = f"{task} has no row with a label and a weight, so its metrics are undefined"
            yield f"classes {task}", f"warning: {split}: {text}"
    if watch is not None and watch.split == split and _is_undefined(watch, metrics):
        text = f"{watch.metric} of {split} is undefined, so no checkpoint can be the best"
        yield "watch", f"warning: training.watch: {text}"


def training_files(config: RecapConfig, split: str, name: str) -> Iterator[str]:
    """A warning if `split` has training files of the model `name`, unless the split is named after them.

    `config`: with the `train_data` of that model.
    """
    shared = (
        [] if is_training_split(split) else shared_with(config.train_data.source, config.validation_data[split].source)
    )
    if shared:
        file = shared[0].rpartition("/")[2]
        which = (
            f"{file} is a training file"
            if len(shared) == 1
            else f"{file} and {plural(len(shared) - 1, 'other')} are training files"
        )
        yield f"warning: {split}: {which} of {name}; expect better values than on new rows"


def _few_users(split: str, estimates: Estimates) -> Iterator[tuple[str, str]]:
    buckets = {task: max(item.buckets for item in items.values()) for task, items in estimates.items() if items}
    few = {task: count for task, count in buckets.items() if 0 < count < FEW_BUCKETS}
    if few:
        fewest = min(few.values())
        tasks = "" if len(few) == len(buckets) else f" of {', '.join(few)}"
        text = (
            f"the users{tasks} fill {fewest} of {BUCKETS} buckets, too few for reliable intervals; evaluate more, "
            "some hundred users at least"
        )
        yield "buckets", f"warning: {split}: {text}"


def _is_undefined(watch: WatchConfig, metrics: TaskMetrics) -> bool:
    tasks = watch.tasks or [task for task, values in metrics.items() if watch.metric in values]
    return any(not math.isfinite(metrics[task].get(watch.metric, math.nan)) for task in tasks if task in metrics)
