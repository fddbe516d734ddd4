"""Metrics for each task: weighted, mergeable, in constant memory, whatever the order of the rows."""

from recap.evaluation.metrics.ranking import auc_standard_error
from recap.evaluation.metrics.suite import MetricSuite

__all__ = ["MetricSuite", "auc_standard_error"]
