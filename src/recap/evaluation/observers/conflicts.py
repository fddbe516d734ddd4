"""How strongly the gradients of the tasks conflict on shared parameters."""

from collections.abc import Iterable
from itertools import islice

import torch

from recap.config.optimizer import GradNormConfig, PcGradConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.evaluation.evaluate import evaluation_mode
from recap.evaluation.result import Conflicts
from recap.model.gradients import TaskGradients, cosines
from recap.model.objective.objective import Objective
from recap.model.ranker import Ranker
from recap.runtime import Runtime

MAX_BATCHES = 16


def measures_conflicts(config: RecapConfig) -> bool:
    """Whether to report conflicts: only for balancing that works on gradients."""
    return isinstance(config.optimizer.balancing, PcGradConfig | GradNormConfig)


def conflicts(ranker: Ranker, stream: Iterable[Batch], config: RecapConfig, split: str, runtime: Runtime) -> Conflicts:
    """The mean cosine similarity of the tasks' gradients with respect to all shared parameters.

    Over the first batches of `stream` (`MAX_BATCHES`, or `training.num_eval_steps` if that is less), in evaluation
    mode, for the tasks that `split` evaluates. A batch in which a task has no gradient does not count for its pairs.
    The mode and the gradients of `ranker` do not change.
    """
    steps = config.training.num_eval_steps
    objective = Objective(config).to(runtime.device)
    tasks = len(config.tasks)
    totals, counts = torch.zeros(2, tasks, tasks, dtype=torch.float64)
    with evaluation_mode(ranker):
        for batch in islice(stream, min(steps, MAX_BATCHES) if steps >= 0 else MAX_BATCHES):
            batch = batch.to(runtime.device)
            losses = objective(ranker.raw_outputs(batch), batch)
            gradients = TaskGradients(ranker.shared_parameters(), tasks)
            gradients.add(losses.outputs, losses.leaf, losses.losses)
            similarities = cosines(gradients.gram())
            totals += similarities.nan_to_num(0.0)
            counts += similarities.isfinite()
    means = (totals / counts).tolist()
    columns = {task: config.tasks.index(task) for task in config.evaluated_tasks(split)}
    return {one: {other: means[row][column] for other, column in columns.items()} for one, row in columns.items()}
