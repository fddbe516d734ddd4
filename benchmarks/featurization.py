"""What a ranker learns from few and many numeric columns, beside logistic regression.

    python benchmarks/featurization.py [--rows 50000] [--columns 1 2 3 5 10 40] [OVERRIDE ...]

Columns are lognormal, and labels are drawn from a logistic regression on their log1p, so that no model can beat that of
scikit-learn by more than chance. `sum` is a label that depends on the sum of three columns alone. The model is the one
that `recap config new` writes. It prints the AUC on as many other rows; OVERRIDE changes the configuration, for example
'model.featurization={kind: double_norm_log, layer_norm: {}}'.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

Floats = npt.NDArray[np.float64]
SUM = "sum"


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--columns", nargs="+", default=["1", "2", "3", "5", "10", "40", SUM])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    print("| columns | recap | logistic regression | difference |\n|---|---|---|---|")
    for case in arguments.columns:
        values, labels = make_rows(case, 2 * arguments.rows, arguments.seed)
        with tempfile.TemporaryDirectory() as folder:
            ours = auc_of_recap(Path(folder), values, labels, arguments.overrides)
        reference = auc_of_logistic_regression(values, labels)
        print(f"| {case} | {ours:.4f} | {reference:.4f} | {ours - reference:+.4f} |", flush=True)


def make_rows(case: str, rows: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Values [N, columns] and labels [N]: half for training, half for validation."""
    random = np.random.default_rng(seed)
    values = random.lognormal(size=(rows, 3 if case == SUM else int(case)))
    weights = np.ones(3) if case == SUM else random.normal(size=values.shape[1])
    logits = np.log1p(values) @ weights
    logits = 2 * (logits - logits.mean()) / logits.std()
    return values, (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int64)


def auc_of_recap(folder: Path, values: Floats, labels: npt.NDArray[np.int64], overrides: list[str]) -> float:
    """Train the configuration of `recap config new` on the first half; the AUC on the second."""
    table = pa.table({f"x{index}": column for index, column in enumerate(values.T)} | {"y": labels})
    half = len(labels) // 2
    pq.write_table(table.slice(0, half), folder / "train.parquet")
    pq.write_table(table.slice(half), folder / "validation.parquet")
    inputs = "--from-data train.parquet --validation validation.parquet --label y --output ranker.yaml"
    recap(folder, "config", "new", *inputs.split())
    recap(folder, "train", "ranker.yaml", *overrides)
    recap(folder, "evaluate", "ranker.yaml", *overrides)
    (file,) = folder.glob("**/evaluation.json")
    auc: float = json.loads(file.read_text())["splits"]["validation"]["y"]["auc"]
    return auc


def recap(folder: Path, *arguments: str) -> None:
    """Run a command in `folder`; exit with its errors if it fails."""
    command = [sys.executable, "-m", "recap", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")


def auc_of_logistic_regression(values: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The same of scikit-learn's logistic regression on log1p of the columns."""
    half, logs = len(labels) // 2, np.log1p(values)
    model = LogisticRegression(max_iter=1000).fit(logs[:half], labels[:half])
    return float(roc_auc_score(labels[half:], model.decision_function(logs[half:])))


if __name__ == "__main__":
    main()
