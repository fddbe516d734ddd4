"""The cost of bf16 in quality: AUC of a recipe's tasks over several seeds, in float32 and in bf16.

    python benchmarks/precision.py recipes/kuairand/ranker.yaml [section.key=value …] [--seeds 3]

The data of the recipe must exist (`make run`, `make recipe-kuairand`).
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from train import Clock

from recap.config.file.load import load_config
from recap.evaluation.run import evaluate_run
from recap.training.trainer import train

WARM_UP = 20
AUCS = dict[tuple[str, str], float]
"""(Validation set, task) → AUC."""


def main() -> None:
    """Train with every seed in both precisions, and print the differences in AUC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, list[AUCS]] = {"float32": [], "bf16": []}
    for seed in range(options.seeds):
        for precision, runs in results.items():
            aucs, speed = trained(options.recipe, options.overrides, seed, precision)
            runs.append(aucs)
            print(f"seed {seed}, {precision}: mean AUC {mean(aucs.values()):.5f}, {speed:,.0f} examples/s", flush=True)
    print("bf16 − float32, mean over the seeds ± its standard error:")
    for name in results["float32"][0]:
        print(f"  {' '.join(name):<32} {difference([[aucs[name] for aucs in runs] for runs in results.values()])}")
    means = [[mean(aucs.values()) for aucs in runs] for runs in results.values()]
    print(f"  {'mean of all (target: 0.001)':<32} {difference(means)}")


def trained(recipe: Path, overrides: list[str], seed: int, precision: str) -> tuple[AUCS, float]:
    """The AUCs of a run, and its speed in examples/s."""
    with tempfile.TemporaryDirectory() as run:
        changes = [f"training.save_dir={run}/run", f"training.seed={seed}", f"training.precision={precision}"]
        config = load_config(recipe, [*overrides, *changes, "training.eval_log_every_n=null"])
        clock = Clock(WARM_UP)
        train(config, clock)
        splits = evaluate_run(config, Path(run) / "run").splits
    aucs = {
        (split, task): metrics.get("auc", math.nan)
        for split, result in splits.items()
        for task, metrics in result.metrics.items()
    }
    return {name: auc for name, auc in aucs.items() if not math.isnan(auc)}, clock.speed


def difference(pairs: Sequence[Sequence[float]]) -> str:
    """The mean difference of the second from the first, seed by seed, and its standard error."""
    differences = [rounded - exact for exact, rounded in zip(*pairs, strict=True)]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{mean(differences):+.5f} ± {error:.5f}"


if __name__ == "__main__":
    main()
