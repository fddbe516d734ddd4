"""Compares a run on the simulated feed with the true probabilities, which no model can beat."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from recap.errors import InputError
from recap.evaluation.result import EvaluationReport
from recap.runs import Run

RELIABLE_POSITIVES = 200


def report(data: Path, run: Path) -> Table:
    """A table with a row for each task. Raises InputError if the feed or the evaluation is missing."""
    truth = _truth(data / "truth.json")["validation"]
    rates = _true_rates(data / "truth" / "validation")
    reached = EvaluationReport.read(Run(run)).splits["validation"].metrics
    title = "validation: this run, and the truth (the best possible)"
    table = Table(title=title, title_justify="left", caption_justify="left", box=None)
    for name in ("task", "positives", "log loss", "truth", "AUC", "truth", "gap", "PCTR/CTR", "truth"):
        table.add_column(name, justify="left" if name == "task" else "right")
    gaps, ratios = [], []
    for task, best in truth.items():
        metrics = reached[task]
        gap, expected = best["auc"] - metrics["auc"], rates[task]
        if best["positives"] >= RELIABLE_POSITIVES:
            gaps.append(gap)
            ratios.append(metrics["pctr"] / expected)
        table.add_row(
            task,
            f"{best['positives']:,.0f}",
            f"{metrics['log_loss']:.5f}",
            f"{best['log_loss']:.5f}",
            f"{metrics['auc']:.4f}",
            f"{best['auc']:.4f}",
            f"{gap:.4f}",
            f"{metrics['calibration']:.3f}",
            f"{expected / best['rate']:.3f}",
        )
    table.caption = (
        f"tasks of ≥ {RELIABLE_POSITIVES} positives: mean gap {sum(gaps) / len(gaps):.4f}; "
        f"PCTR / mean true probability {min(ratios):.3f} to {max(ratios):.3f}"
    )
    return table


def locations(data: Path, folder: Path) -> str:
    """The files of the feed and of the run in `folder`, with their content."""
    run = Run(folder)
    contents = {
        data: "the feed; truth/ and truth.json beside it",
        run.checkpoints_folder: "models, the latest last; any serves `recap predict`",
        run.metrics_file: "losses, rates and metrics by step",
        run.tensorboard: f"the same; tensorboard --logdir {folder}",
        run.evaluation_file: "all metrics of the latest model",
        folder / "predictions": "probabilities and scores of the validation rows",
    }
    return "\n".join(f"{path!s:32} {content}" for path, content in contents.items() if path.exists())


def _true_rates(folder: Path) -> Mapping[str, float]:
    """Task → the mean of its true probabilities: what PCTR would be without error, as CTR would be without chance."""
    truth = pq.read_table(folder)
    return {task: pc.mean(truth.column(task)).as_py() for task in truth.column_names}


def _truth(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run 'recap data simulate' first") from None
    return content


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("usage: python recipes/simulated/report.py DATA RUN", file=sys.stderr)
        sys.exit(2)
    try:
        data, run = Path(sys.argv[1]), Path(sys.argv[2])
        Console(highlight=False, width=100).print(report(data, run), locations(data, run), sep="\n")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
