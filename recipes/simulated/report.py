"""Compares a run on the simulated feed with the true probabilities, which no model can beat."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recap.errors import InputError
from recap.evaluation.result import EvaluationReport
from recap.runs import Run

RELIABLE_POSITIVES = 200


def report(data: Path, run: Path) -> Table:
    """A table with a row for each task. Raises InputError if the feed or the evaluation is missing."""
    truth = _truth(data / "truth.json")["validation"]
    reached = EvaluationReport.read(Run(run)).splits["validation"].metrics
    table = Table(title="validation: this run, and the truth (the best possible)", title_justify="left", box=None)
    for name in ("task", "positives", "log loss", "truth", "AUC", "truth", "gap"):
        table.add_column(name, justify="left" if name == "task" else "right")
    gaps = []
    for task, best in truth.items():
        metrics = reached[task]
        gap = best["auc"] - metrics["auc"]
        if best["positives"] >= RELIABLE_POSITIVES:
            gaps.append(gap)
        table.add_row(
            task,
            f"{best['positives']:,.0f}",
            f"{metrics['log_loss']:.5f}",
            f"{best['log_loss']:.5f}",
            f"{metrics['auc']:.4f}",
            f"{best['auc']:.4f}",
            f"{gap:.4f}",
        )
    table.add_section()
    table.add_row(f"mean gap, tasks of ≥ {RELIABLE_POSITIVES} positives", *[""] * 5, f"{sum(gaps) / len(gaps):.4f}")
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
