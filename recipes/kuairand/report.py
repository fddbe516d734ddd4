"""A Markdown table for the runs of one configuration with several seeds: mean ± sample standard deviation of each task.

python recipes/kuairand/report.py RUN…
"""

import sys
from pathlib import Path
from statistics import mean

from recap.errors import InputError
from recap.evaluation.result import EvaluationReport
from recap.runs import Run
from recap.text import mean_deviation

FLOORS = {
    "is_click": (0.7417, 0.59030),
    "long_view": (0.7431, 0.53814),
    "is_like": (0.8601, 0.06487),
    "is_profile_enter": (0.7043, 0.08365),
    "is_comment": (0.6785, 0.02073),
    "is_follow": (0.7398, 0.01014),
    "is_forward": (0.5121, 0.00754),
    "is_hate": (0.6600, 0.00786),
}
"""AUC and log loss of LightGBM, one model per label, on user, video, context and history columns."""
MEAN_OVER = ("is_click", "long_view", "is_like")


def report(runs: list[Path]) -> str:
    """The table of the evaluations of `runs`."""
    evaluations = [EvaluationReport.read(Run(run)).splits["validation"].metrics for run in runs]
    lines = ["| task | positives | AUC | log loss | floor AUC | floor log loss |", "|---|---|---|---|---|---|"]
    for task, (floor_auc, floor_loss) in FLOORS.items():
        by_run = [evaluation[task] for evaluation in evaluations]
        auc, loss = ([metrics[name] for metrics in by_run] for name in ("auc", "log_loss"))
        positives = by_run[0]["positives"]
        # Below 200 positives the confidence interval is more informative than the spread over seeds.
        interval = f", 95% ± {1.96 * mean(metrics['auc_se'] for metrics in by_run):.3f}" if positives < 200 else ""
        lines.append(
            f"| {task} | {positives:,.0f} | {mean_deviation(auc, 4)}{interval} "
            f"| {mean_deviation(loss, 5)} | {floor_auc:.4f} | {floor_loss:.5f} |"
        )
    means = [mean(evaluation[task]["auc"] for task in MEAN_OVER) for evaluation in evaluations]
    floor = mean(FLOORS[task][0] for task in MEAN_OVER)
    named = ", ".join(MEAN_OVER)
    lines.append(f"| mean of {named} | | **{mean_deviation(means, 4)}** | | {floor:.4f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print("usage: python recipes/kuairand/report.py RUN…", file=sys.stderr)
        sys.exit(2)
    try:
        print(report([Path(argument) for argument in sys.argv[1:]]))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
