"""What bf16 costs in quality: mean AUC of a recipe over several seeds, in float32 and in bf16.

    python benchmarks/precision.py recipes/kuairand/ranker.yaml [section.key=value …] [--seeds 3]

Its data must be there (`make run`, `make recipe-kuairand`).
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, pstdev

from train import Clock

from recap.config.load import load_config
from recap.evaluation.job import evaluate_run
from recap.training.trainer import train

PRECISIONS = ("float32", "bf16")
WARM_UP = 20


def main() -> None:
    """Train with every seed in each precision, in turn, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as made:
        for seed in range(options.seeds):
            for precision in PRECISIONS:
                run = Path(made) / f"{precision}-{seed}"
                changes = [f"training.save_dir={run}", f"training.seed={seed}", f"training.precision={precision}"]
                config = load_config(options.recipe, [*options.overrides, *changes, "training.eval_log_every_n=null"])
                clock = Clock(WARM_UP)
                train(config, clock)
                splits = evaluate_run(config, run).splits
                aucs = [metrics["auc"] for tasks in splits.values() for metrics in tasks.values() if "auc" in metrics]
                found[precision].append((mean(auc for auc in aucs if auc == auc), clock.speed))
                print(f"seed {seed}, {precision}: mean AUC {found[precision][-1][0]:.5f}", flush=True)
    means = {precision: mean(auc for auc, _ in each) for precision, each in found.items()}
    for precision, each in found.items():
        deviation = pstdev(auc for auc, _ in each)
        speed = mean(speed for _, speed in each)
        print(f"{precision:<8} mean AUC {means[precision]:.5f} ± {deviation:.5f}, {speed:,.0f} examples/s")
    print(f"difference {means['bf16'] - means['float32']:+.5f} (asked: within 0.001)")


if __name__ == "__main__":
    main()
