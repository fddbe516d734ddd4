"""The seconds that `recap config check` takes for the largest recipe, including the start of the interpreter.

python benchmarks/config.py
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 15


def main() -> None:
    """Print the median and the maximum of several runs."""
    recipe = max(ROOT.glob("recipes/*/ranker.yaml"), key=lambda path: path.stat().st_size)
    command = [str(Path(sys.executable).with_name("recap")), "config", "check", str(recipe)]
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    middle, worst = statistics.median(seconds), max(seconds)
    print(f"{recipe.relative_to(ROOT)}: median {middle:.3f} s, worst {worst:.3f} s of {RUNS} (target: below 0.5 s)")


if __name__ == "__main__":
    main()
