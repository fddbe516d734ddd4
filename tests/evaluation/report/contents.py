"""Contents of reports, made up, for tests of the page."""

import math
from typing import Any

import numpy as np

from recap.evaluation.checks.finding import finding
from recap.evaluation.metrics.estimate import Difference
from recap.evaluation.report.content import Content, Measured, TaskResult, Verdict
from recap.evaluation.report.training import training_curves
from recap.evaluation.result import SCORE

HOSTILE = "<script>alert(1)</script>"
POINTS = 200


def content(
    tasks: int = 4, *, hostile: bool = True, regression: bool = True, baseline: bool = True, groups: int = 6
) -> Content:
    """A report in which every section is filled, with as many points as a curve may have."""
    random = np.random.default_rng(0)
    names = [f"is_task_{number}" for number in range(tasks - hostile)] + ([HOSTILE] if hostile else [])
    results = [TaskResult(name, is_regression=False, metrics=_metrics(random, baseline=baseline)) for name in names]
    curves = {name: _curves(random) for name in names}
    if regression:
        results.append(TaskResult("watch time", is_regression=True, metrics=_regression()))
        curves["watch time"] = _regression_curves()
    score = {
        "lists": Measured(500.0),
        "ndcg": Measured(0.69, 0.68, 0.70),
        "uplift_10": Measured(0.43, 0.41, 0.45),
        **{f"contribution/{name}": Measured(0.1, 0.09, 0.11) for name in names},
        **{f"share/{name}": Measured(1 / len(names)) for name in names},
    }
    run = _training(random, names)
    return Content(
        title=f"run {HOSTILE}" if hostile else "wide",
        model="step_00002400",
        split="validation",
        rows=100_000,
        users=12_345,
        verdict=Verdict(
            "better",
            "Better than the baseline",
            f"Mean AUC +0.0031 [+0.0012, +0.0050] on 12,345 users; better: {names[-1]} (+0.0055).",
        ),
        tasks=results,
        score=TaskResult(SCORE, is_regression=False, metrics=score),
        baseline="base, step_00002400" if baseline else "",
        remarks=["Only this model predicts a.b[0]; the comparison is of the other tasks."],
        findings=[finding("R003", names[-1], "Predictions are 1.33 times the rate.")],
        checked=True,
        uncalibrated={names[-1]: {"calibration": 0.8, "log_loss": 0.31}},
        value_importance={
            name: {HOSTILE: [[f"{HOSTILE}[{number}]", 1 / (number + 1)] for number in range(20)]} for name in names
        },
        training={"model": run, **({"baseline": run} if baseline else {})},
        curves={"model": curves, **({"baseline": curves} if baseline else {})},
        strata={f"language is {HOSTILE}": {name: {"positives": 20.0, "auc": 0.8, "rce": 3.0} for name in names}},
        importance={
            f"feature[{number}].{HOSTILE}": {name: [float(random.random()), 0.1, 0.9] for name in names}
            for number in range(groups)
        },
        gates={f"{name} gate": {f"expert {number}": 0.25 for number in range(4)} for name in names},
        conflicts={name: {other: float(random.normal() / 3) for other in names} for name in names},
        slices={
            "slices": [
                {
                    "kind": "calibration",
                    "task": name,
                    "feature": HOSTILE,
                    "values": "en",
                    "rows": 4000,
                    "positives": 300,
                    "calibration": 1.4,
                    "calibration_interval": [1.2, 1.6],
                    "calibration_of_others": 1.01,
                    "rce": 7.5,
                    "rce_interval": [5.0, 10.0],
                    "rce_of_others": math.nan,
                    "p": 0.0,
                }
                for name in names
            ],
            "looks": 400,
            "more": 2,
            "left_out": 0,
        },
        drift={
            "rows": [50_000, 50_000],
            "tasks": [
                {"task": name, "psi": 0.3, "mean_prediction": [0.1, 0.12], "mean_label": [0.1, math.nan]}
                for name in names
            ],
            "features": [
                {
                    "feature": f"feature[{number}].{HOSTILE}",
                    "psi": 0.01 * number,
                    "missing": [0.0, 0.5],
                    "bins": [{"values": "1 to 1,240", "reference": 0.1, "rows": 0.2}],
                }
                for number in range(groups)
            ],
            "vectors": [{"feature": "user", "cosine": 0.98, "norm": [1.0, 1.1]}],
        },
        config_changes=[("model.backbone", "{kind: mlp}", HOSTILE)],
        facts={"Data": {"evaluated": HOSTILE, "rows": "100,000"}, "Versions": {"recap": "0.1.0"}},
    )


def _metrics(random: np.random.Generator, *, baseline: bool) -> dict[str, Measured]:
    def measured(value: float, width: float) -> Measured:
        change = float(random.normal() * width)
        difference = Difference(change, change - width / 2, change + width / 2, float(random.random() / 20), width)
        cell = Measured(value, value - width, value + width)
        return Measured(cell.value, cell.low, cell.high, value - change, difference) if baseline else cell

    return {
        "count": Measured(100_000.0),
        "positives": Measured(float(random.integers(100, 20_000))),
        "auc": measured(0.7 + 0.2 * float(random.random()), 0.004),
        "rce": measured(20 * float(random.random()), 0.6),
        "calibration": measured(1 + 0.1 * float(random.normal()), 0.03),
        "grouped_auc": Measured(math.nan),
    }


def _regression() -> dict[str, Measured]:
    change = Difference(-0.2, -0.3, -0.1, 0.001, 0.1)
    return {"count": Measured(100_000.0), "mae": Measured(2.1, 2.0, 2.2, 2.3, change), "rmse": Measured(4.0)}


def _regression_curves() -> dict[str, Any]:
    bins = {"prediction": [1.0, 2.0, 4.0], "label": [1.1, 2.1, 3.8], "low": [1.0, 2.0, 3.5], "high": [1.2, 2.2, 4.1]}
    return {
        "means": bins | {"count": [100.0, 100.0, 100.0]},
        "values": {"edges": [0.0, 2.0, 4.0, 6.0], "predictions": [0.2, 0.5, 0.3], "labels": [0.3, 0.4, 0.3]},
    }


def _training(random: np.random.Generator, names: list[str]) -> dict[str, Any]:
    """The curves of a run, from records as a run writes them."""
    records: list[dict[str, Any]] = []
    for number in range(POINTS):
        step, loss = 12 * (number + 1), 0.3 + 0.4 * math.exp(-number / 40)
        noisy = {f"loss/{name}": loss + 0.02 * float(random.normal()) for name in names}
        rates = {f"rate/towers/{name}": 2e-3 * (1 - number / POINTS) for name in names}
        records.append({"step": step, "split": "train", "loss": loss, **noisy, **rates, "rate/backbone": 1e-3})
        if number % 5 == 4:
            values = {"auc": 0.9 - loss / 3, "log_loss": loss + 0.02}
            records += [{"step": step, "split": "validation", "task": name, **values} for name in names]
    return training_curves(records, "validation")


def _curves(random: np.random.Generator) -> dict[str, Any]:
    line = [round(float(x), 4) for x in np.linspace(0, 1, 100)]
    rates = [float(f"{x:.4g}") for x in np.geomspace(0.001, 0.5, 20)]
    bins = {
        "prediction": rates,
        "rate": [float(f"{x * (1 + 0.2 * random.normal()):.4g}") for x in rates],
        "low": [float(f"{0.7 * x:.4g}") for x in rates],
        "high": [float(f"{1.4 * x:.4g}") for x in rates],
        "count": [5000.0] * 20,
        "positives": [float(round(5000 * x)) for x in rates],
    }
    edges = [float(f"{x:.4g}") for x in np.geomspace(1e-4, 1, 41)]
    bell = np.exp(-((np.arange(40) - 25) ** 2) / 40)
    shares = [float(f"{x:.4g}") for x in bell / bell.sum()]
    return {
        "roc": {"x": line, "y": [round(x**0.3, 4) for x in line]},
        "pr": {"x": line, "y": [round(0.6 * (1 - x) ** 0.7 + 0.05, 4) for x in line]},
        "reliability": {
            "calibrated": bins,
            "before calibration": bins | {"rate": [float(f"{0.6 * x:.4g}") for x in rates]},
        },
        "histogram": {"edges": edges, "positives": shares[5:] + shares[:5], "negatives": shares},
    }
