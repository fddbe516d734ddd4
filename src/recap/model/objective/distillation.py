"""Distillation: the loss of a task towards the predictions of a teacher."""

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recap.config.loss import DistillationConfig
from recap.config.recap import RecapConfig
from recap.model.calibration import sampling_ratios
from recap.model.objective.losses import PointwiseLoss, RegressionLoss


class Distillation:
    """weight · mean over the rows of T² · BCE(σ(z / T), σ(t / T)), for logits z of the student and t of the teacher.

    Soft targets of Hinton et al., arXiv:1503.02531, section 2; T² keeps the size of the gradient. A regression has its
    own loss, with the teacher's value as the label.
    """

    def __init__(
        self, config: DistillationConfig, *, ratio: float = 1.0, regression: RegressionLoss | None = None
    ) -> None:
        """`ratio`: that of `Calibration`, since a teacher predicts for the population, and a student for the sample."""
        self.config, self.regression, self.shift = config, regression, -math.log(ratio)

    def __call__(self, output: Tensor, teacher: Tensor, weight: Tensor, pos_weight: Tensor) -> Tensor:
        """Raw outputs, predictions of the teacher and weights of the rows [B], and a scalar → a scalar.

        Rows where `teacher` is NaN count 0.
        """
        known = ~teacher.isnan()
        teacher = teacher.where(known, 0.5)
        if self.regression is not None:
            losses = self.regression(output, teacher, pos_weight)
        else:
            temperature = self.config.temperature
            soft = ((teacher.logit() + self.shift) / temperature).sigmoid()
            losses = temperature**2 * binary_cross_entropy_with_logits(
                output / temperature, soft, pos_weight=pos_weight, reduction="none"
            )
        return self.config.weight * (losses * weight * known).mean()


def distillations_of(config: RecapConfig, pointwise: Mapping[int, PointwiseLoss]) -> dict[int, Distillation]:
    """Task index → its distillation, for the tasks that have one. `pointwise`: the losses that are not BCE."""
    ratios = sampling_ratios(config)
    distillations: dict[int, Distillation] = {}
    for index, (name, task) in enumerate(config.model.tasks.items()):
        if task.distillation is not None:
            loss = pointwise.get(index)
            regression = loss if isinstance(loss, RegressionLoss) else None
            distillations[index] = Distillation(task.distillation, ratio=ratios[name], regression=regression)
    return distillations
