"""What metrics and their intervals cost beside the model, how much memory they take, and whether intervals cover.

    python benchmarks/evaluation.py [simulated] [production] [memory] [--coverage] [--rows 100000]

`simulated` and `production`: the processor time of scoring rows and of their metrics, with and without intervals, on
one thread, for the simulated MaskNet and for the published production shape. `memory`: the peak of a process that
evaluates 8 tasks on 1 and on 10 million synthetic rows. `--coverage`: how often 95 % intervals contain the true value,
over `--draws` draws of rows from a known truth, for users of one row and of many; rows of a user are alike.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from train import TASKS, production_values, write_production

from recap.config.file.load import config_of, load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.data.simulate import simulate
from recap.distributed import ONE_RANK
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.metrics import Metrics
from recap.model.directory import new_ranker
from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer, Scores
from recap.native.allocator import tune_process

ROOT = Path(__file__).parents[1]
TRUTH_ROWS = 20_000_000
SPLIT = "validation"
COVERED = ("auc", "log_loss", "calibration", "pr_auc", "nrce", "rce")
T = TypeVar("T")


def main() -> None:
    """Run the chosen parts, by default all but the coverage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="simulated, production, memory")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print_peak(options.child)
        return
    parts = options.parts or ([] if options.coverage else ["simulated", "production", "memory"])
    torch.set_num_threads(1)
    tune_process()
    with tempfile.TemporaryDirectory() as folder:
        if "simulated" in parts:
            print_cost("simulated MaskNet", *simulated(Path(folder), options.rows))
        if "production" in parts:
            print_cost("production shape", *production(Path(folder), options.rows // 4))
    if "memory" in parts:
        for rows in (1_000_000, 10_000_000):
            subprocess.run([sys.executable, __file__, "--child", str(rows)], check=True)
    if options.coverage:
        print_coverage(options.draws)


# Cost.


def simulated(folder: Path, rows: int) -> tuple[RecapConfig, list[Batch]]:
    """The simulated MaskNet and its validation rows."""
    simulate(folder / "feed", rows=20_000, validation_rows=rows)
    overrides = [
        f"train_data.source.inputs={folder}/feed/train/*.parquet",
        f"validation_data.validation.source.inputs={folder}/feed/validation/*.parquet",
        f"features.discrete.language.vocabulary={folder}/feed/languages.parquet",
    ]
    config = load_config(ROOT / "recipes" / "simulated" / "mask_net.yaml", overrides)
    return config, list(open_stream(config, load_assets(config.features), JobMode.EVALUATE, SPLIT))


def production(folder: Path, rows: int) -> tuple[RecapConfig, list[Batch]]:
    """The production shape, and its rows again and again, of users of 20 rows."""
    write_production(folder / "production")
    values = production_values(folder, 1024, 1)
    values["validation_data"] = {SPLIT: {"source": values["train_data"]["source"]}}
    config = config_of(values)
    batches = list(open_stream(config, load_assets(config.features), JobMode.EVALUATE, SPLIT))
    users = iter(torch.arange(rows + 1024) // 20)
    many = islice(cycle(batches), -(-rows // len(batches[0])))
    return config, [replace(batch, user=torch.stack(list(islice(users, len(batch))))) for batch in many]


def print_cost(name: str, config: RecapConfig, batches: Sequence[Batch]) -> None:
    """Print the processor time of the model and of the metrics."""
    scorer = Scorer.of(config, new_ranker(config, load_assets(config.features))).eval()
    score_rows(scorer, batches[0])
    model, scores = timed(lambda: [score_rows(scorer, batch) for batch in batches])
    plain, full = (metrics_time(config, batches, scores, intervals=intervals) for intervals in (False, True))
    rows = sum(map(len, batches))
    print(f"{name}, {rows:,} rows, {len(config.tasks)} tasks, {len(batches[0]):,} rows a batch, one thread:")
    print(f"  model                 {model:7.2f} s   {model / rows * 1e6:6.1f} µs a row")
    print(f"  metrics               {plain:7.2f} s   {plain / model:6.1%} of the model")
    print(f"  metrics and intervals {full:7.2f} s   {full / model:6.1%} of the model (target: 10%)", flush=True)


def metrics_time(config: RecapConfig, batches: Sequence[Batch], scores: Sequence[Scores], *, intervals: bool) -> float:
    """The shortest processor time of three runs, in seconds."""

    def run() -> None:
        metrics = Metrics(config, SPLIT, ONE_RANK, intervals=intervals)
        for batch, batch_scores in zip(batches, scores, strict=True):
            metrics.update(batch, batch_scores)
        metrics.result()

    return min(timed(run)[0] for _ in range(3))


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds, and the result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


# Memory.


def print_peak(rows: int) -> None:
    """Evaluate 8 tasks of `rows` synthetic rows; print time and peak memory."""
    torch.set_num_threads(1)
    suite = MetricSuite(TASKS[:8])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    started, batch = time.process_time(), 8192
    for start in range(0, rows, batch):
        generator = torch.Generator().manual_seed(start)
        logits = torch.randn(min(batch, rows - start), 8, generator=generator) - 3
        labels = (torch.rand(logits.shape, generator=generator) < logits.sigmoid()).float()
        users = torch.arange(start, start + len(logits)) * 7919 % (rows // 20)
        suite.update(logits.sigmoid(), labels, torch.ones_like(labels), users)
    suite.compute()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{rows:>10,} rows: {peak:,.0f} MiB at most, {before:,.0f} before; {seconds / rows * 1e6:.1f} µs a row")


# Coverage.


def print_coverage(draws: int) -> None:
    """Print how often intervals contain the truth."""
    print(f"95 % intervals that contain the true value, of {draws:,} draws (target: 93 to 97 %):")
    for name, sizes in (("users of one row", one_row), ("users of many rows", many_rows)):
        truth = metrics_of(draw(np.random.default_rng(0), sizes, TRUTH_ROWS), intervals=False).compute()["like"]
        hits = dict.fromkeys(COVERED, 0)
        for seed in range(draws):
            rows = draw(np.random.default_rng(seed + 1), sizes, 20_000)
            estimates = metrics_of(rows, intervals=True).result().estimates["like"]
            for metric in hits:
                low, high = estimates[metric].interval()
                hits[metric] += low <= truth[metric] <= high
        print(
            f"  {name:<20}" + "  ".join(f"{metric} {count / draws:.1%}" for metric, count in hits.items()), flush=True
        )


Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Sizes = Callable[[np.random.Generator, int], Integers]
Rows = tuple[Tensor, Tensor, Tensor, Tensor]


def one_row(random: np.random.Generator, rows: int) -> Integers:
    """The number of rows of each user."""
    return np.ones(rows, np.int64)


def many_rows(random: np.random.Generator, rows: int) -> Integers:
    """The number of rows of each user: 20 at the median, 33 at the mean, more than 200 for one in a hundred."""
    return 1 + random.lognormal(3, 1, rows // 33).astype(np.int64)


def draw(random: np.random.Generator, sizes: Sizes, rows: int) -> Rows:
    """Predictions, labels, weights and users.

    The log-odds of a row are −2.5 + x + u + v: x is known to the model, u is a taste of its user that it does not know,
    and v one that it does. The model predicts σ(−2.4 + 0.8 (x + v)).
    """
    of_user = sizes(random, rows)
    users = np.repeat(random.integers(0, 2**62, len(of_user)), of_user)
    unknown, known = (np.repeat(random.normal(size=len(of_user)) * scale, of_user) for scale in (0.7, 0.5))
    numbers = random.normal(size=len(users))
    labels = random.random(len(users)) < sigmoid(-2.5 + numbers + unknown + known)
    predictions = sigmoid(-2.4 + 0.8 * (numbers + known))
    columns = [torch.from_numpy(column.astype(np.float32))[:, None] for column in (predictions, labels)]
    return columns[0], columns[1], torch.ones_like(columns[1]), torch.from_numpy(users)


def sigmoid(values: Floats) -> Floats:
    """σ."""
    return 1 / (1 + np.exp(-values))


def metrics_of(rows: Rows, *, intervals: bool) -> MetricSuite:
    """A suite with the rows."""
    suite = MetricSuite(["like"], COVERED, max_rows=1_000_000, intervals=intervals)
    for part in parts_of(len(rows[0])):
        suite.update(*(column[part] for column in rows))
    return suite


def parts_of(rows: int) -> Iterator[slice]:
    """Slices of a million rows."""
    return (slice(start, start + 1_000_000) for start in range(0, rows, 1_000_000))


if __name__ == "__main__":
    main()
