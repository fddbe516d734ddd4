"""What bf16 costs in quality: the AUC of a recipe's tasks over several seeds, in float32 and in bf16.

    python benchmarks/precision.py recipes/kuairand/ranker.yaml [section.key=value …] [--seeds 3]

Its data must be there (`make run`, `make recipe-kuairand`).
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
    """Train with every seed in each precision, in turn, and print how far the AUC of bf16 is from that of float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[AUCS]] = {"float32": [], "bf16": []}
    for seed in range(options.seeds):
        for precision, each in found.items():
            aucs, speed = trained(options.recipe, options.overrides, seed, precision)
            each.append(aucs)
            print(f"seed {seed}, {precision}: mean AUC {mean(aucs.values()):.5f}, {speed:,.0f} examples/s", flush=True)
    print("bf16 − float32, mean over the seeds ± its standard error:")
    for name in found["float32"][0]:
        print(f"  {' '.join(name):<32} {difference([[aucs[name] for aucs in each] for each in found.values()])}")
    means = [[mean(aucs.values()) for aucs in each] for each in found.values()]
    print(f"  {'mean of all (asked: 0.001)':<32} {difference(means)}")


def trained(recipe: Path, overrides: list[str], seed: int, precision: str) -> tuple[AUCS, float]:
    """What a run reaches, and its speed in examples/s."""
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
    """Of the second from the first, seed by seed."""
    found = [rounded - exact for exact, rounded in zip(*pairs, strict=True)]
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return f"{mean(found):+.5f} ± {error:.5f}"


if __name__ == "__main__":
    main()
