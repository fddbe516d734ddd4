"""Rows/s of inference at each precision, beside the limits of the machine and plain PyTorch, and what rounding costs.

python benchmarks/inference.py [speed|files|small|quality|tables] [--rounds 7] [--threads 2] [--cpu-time]

`speed`: the published production shape of `train.py`, batches of 1024, in one process whose rounds take turns: products
of 2048³ alone in float32, bf16 and int8; the same network in plain PyTorch in float32; the scorer of `recap predict` at
each precision. The share of a limit counts 2 FLOPs a parameter and example. `files`: all of `recap predict`, with
reading and writing. `small`: the scorer of the simulated MaskNet. `quality`: rank correlation with float32 and
differences in AUC on the simulated MaskNet (`--steps`, `--rows`, `--held-out`). `tables`: memory and lookups of int8
tables.

`--cpu-time` counts CPU seconds on one thread instead of wall time, for machines on which other programs run.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score
from torch import Tensor
from train import PARAMETERS, PlainRanker, production_values, write_production

from recap.config.file.load import config_of, load_config
from recap.config.training import InferencePrecision
from recap.data.batch import Batch
from recap.data.formats.location import Location
from recap.data.simulate import simulate
from recap.inference.files import predict_files
from recap.inference.predictor import Predictions, Predictor
from recap.model.inputs.tables import LocalTables, TableSpec
from recap.model.precision import Int8Tables, resolve_precision
from recap.native.allocator import tune_process
from recap.native.torch_private import int_product
from recap.reporting import Reporter
from recap.runs import find_model_directory
from recap.runtime import cpu_has_int8, restored_threads
from recap.training.trainer import train

BATCH = 1024
SIDE = 2048
"""Rows and columns of the product that sets a limit."""
PRECISIONS: list[InferencePrecision] = ["float32", "bf16", "int8"] if cpu_has_int8() else ["float32", "bf16"]
Calls = Mapping[str, Callable[[], object]]


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--held-out", type=int, default=100_000)
    options = parser.parse_args()
    if options.cpu_time:
        options.threads = 1
    tune_process()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, {'CPU' if options.cpu_time else 'wall'} time; auto is {_auto()}")
    with tempfile.TemporaryDirectory() as made:
        for name, part in PARTS.items():
            if options.part in (None, name):
                part(Path(made), options)


def _auto() -> InferencePrecision:
    return resolve_precision("auto", torch.device("cpu"))


def seconds_by_round(calls: Calls, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The seconds of each call in each round, [rounds]; the calls of a round follow each other."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds + 1):
        for name, call in calls.items():
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


# The production shape.


def production_model(folder: Path) -> Path:
    """A model directory of the production shape after one step, and `production/` with its rows."""
    if not (folder / "production").exists():
        write_production(folder / "production")
        values = production_values(folder, BATCH, 1)
        values["training"]["save_dir"] = str(folder / "run")
        with restored_threads():
            train(config_of(values), Reporter())
    return find_model_directory(folder / "run")


def production_batch(folder: Path, predictor: Predictor) -> Batch:
    """The rows of the production shape, encoded."""
    return predictor.encoder.encode(pq.read_table(folder / "production" / "rows.parquet"), Location("rows"))


def speed(folder: Path, options: argparse.Namespace) -> None:
    """The scorer and plain PyTorch beside the limits of the machine."""
    model = production_model(folder)
    predictors = {precision: Predictor.open(model, precision=precision) for precision in PRECISIONS}
    batch = production_batch(folder, predictors["float32"]).rows(slice(0, BATCH))
    plain = PlainRanker().eval()
    inputs = (batch.continuous, batch.binary.float(), [batch.vectors[f"vector{number}"] for number in range(3)])
    calls: dict[str, Callable[[], object]] = {
        **{f"limit {precision}": _product(precision) for precision in PRECISIONS},
        "plain": torch.inference_mode()(lambda: plain(*inputs)),
        **{precision: partial(one.score, batch) for precision, one in predictors.items()},
    }
    seconds = seconds_by_round(calls, options)
    flops = 2 * PARAMETERS * BATCH
    print(f"production shape, batch {BATCH}, median of {options.rounds} rounds:")
    limits = {precision: 2 * SIDE**3 / seconds[f"limit {precision}"] for precision in PRECISIONS}
    for precision, limit in limits.items():
        print(f"  product of {SIDE}³, {precision:<8} {np.median(limit) / 1e9:>6,.0f} GFLOP/s", end="")
        print(f" = {np.median(limit / limits['float32']):.2f} × float32")
    print(f"  plain PyTorch, float32     {BATCH / np.median(seconds['plain']):>8,.0f} rows/s", end="")
    print(f", {np.median(flops / seconds['plain'] / limits['float32']):.0%} of its limit")
    for precision in PRECISIONS:
        rows = BATCH / np.median(seconds[precision])
        own, bf16 = (np.median(flops / seconds[precision] / limits[name]) for name in (precision, "bf16"))
        ratio = np.median(seconds["plain"] / seconds[precision])
        wanted = np.median(limits[precision] / limits["float32"])
        print(
            f"  recap, {precision:<19} {rows:>8,.0f} rows/s, {own:.0%} of its limit, {bf16:.0%} of that of bf16", end=""
        )
        print(f"; {ratio:.2f} × plain (ratio of the limits: {wanted:.2f})")


def _product(precision: str) -> Callable[[], object]:
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    match precision:
        case "bf16":
            left, right = left.bfloat16(), right.bfloat16()
        case "int8":
            left, right = ((matrix * 30).clamp(-127, 127).to(torch.int8) for matrix in (left, right))
            return lambda: int_product(left, right)
    return lambda: left @ right


def files(folder: Path, options: argparse.Namespace) -> None:
    """All of `recap predict`: reading, encoding, the model and writing."""
    model = production_model(folder)
    inputs = [str(file) for file in sorted((folder / "production" / "packed").iterdir())]
    rows = sum(pq.read_metadata(file).num_rows for file in inputs)
    predictors = {precision: Predictor.open(model, precision=precision) for precision in PRECISIONS}
    output = folder / "scored"
    calls: dict[str, Callable[[], object]] = {
        name: partial(predict_files, one, inputs, output, overwrite=True) for name, one in predictors.items()
    }
    batch = production_batch(folder, predictors["float32"])
    calls |= {f"model {name}": partial(one.score, batch) for name, one in predictors.items()}
    seconds = seconds_by_round(calls, options)
    print(f"recap predict, {rows:,} rows of the production shape, packed Parquet:")
    for name in predictors:
        share = np.median(seconds[f"model {name}"] * rows / len(batch) / seconds[name])
        print(
            f"  {name:<10} {rows / np.median(seconds[name]):>8,.0f} rows/s, {share:.0%} of the speed of the model alone"
        )


# The simulated MaskNet.


def recipe_model(folder: Path, options: argparse.Namespace) -> tuple[Path, pa.Table]:
    """A model of the simulated MaskNet, and its validation rows."""
    recipe = Path(__file__).parents[1] / "recipes" / "simulated" / "mask_net.yaml"
    feed, run = folder / "feed", folder / "simulated"
    if not feed.exists():
        simulate(feed, rows=options.rows, validation_rows=options.held_out)
        config = load_config(
            recipe,
            [
                f"training.save_dir={run}",
                f"training.num_train_steps={options.steps}",
                f"training.checkpoint_every_n={options.steps}",
                "training.eval_log_every_n=null",
                f"features.discrete.language.vocabulary={feed}/languages.parquet",
                f"train_data.source.inputs={feed}/train/*.parquet",
                f"validation_data.validation.source.inputs={feed}/validation/*.parquet",
                *(f"optimizer.{part}.final_num_steps={options.steps}" for part in ("backbone", "towers.default")),
            ],
        )
        with restored_threads():
            train(config, Reporter())
    return find_model_directory(run), pq.read_table(feed / "validation")


def small(folder: Path, options: argparse.Namespace) -> None:
    """The scorer of a small model."""
    model, table = recipe_model(folder, options)
    predictors = {precision: Predictor.open(model, precision=precision) for precision in PRECISIONS}
    batch = predictors["float32"].encoder.encode(table.slice(0, 8 * BATCH), Location("rows"))
    seconds = seconds_by_round({name: partial(one.score, batch) for name, one in predictors.items()}, options)
    print(f"simulated MaskNet, {len(batch):,} rows at once:")
    for name, values in seconds.items():
        ratio = np.median(seconds["float32"] / values)
        print(f"  {name:<10} {len(batch) / np.median(values):>10,.0f} rows/s = {ratio:.2f} × float32")


def quality(folder: Path, options: argparse.Namespace) -> None:
    """Rank correlations with float32, and differences in AUC."""
    model, table = recipe_model(folder, options)
    results: dict[str, Predictions] = {}
    for precision in PRECISIONS:
        predictor = Predictor.open(model, precision=precision)
        results[precision] = predictor.predict(table, Location("validation"))
    tasks, exact = predictor.config.tasks, results["float32"]
    labels = {task: table[task].to_numpy() for task in tasks}
    print(f"simulated MaskNet, {options.steps} steps, {table.num_rows:,} rows; 1 − rank correlation, ΔAUC:")
    for precision in PRECISIONS[1:]:
        rounded = results[precision]
        print(f"  {precision:<24} score {1 - _correlation(exact.scores, rounded.scores):.1e}")
        for index, task in enumerate(tasks):
            pair = [one.probabilities[:, index] for one in (exact, rounded)]
            aucs = [roc_auc_score(labels[task], values.numpy()) for values in pair]
            print(f"    {task:<22} {1 - _correlation(*pair):.1e}  {aucs[1] - aucs[0]:+.1e}", end="")
            print(f"  ({labels[task].sum():,} positives)")


def _correlation(left: Tensor, right: Tensor) -> float:
    return float(spearmanr(left.numpy(), right.numpy()).statistic)


# Embedding tables.


def tables(folder: Path, options: argparse.Namespace) -> None:
    """Memory of int8 tables, their largest error, and lookups/s."""
    rows = 1_000_000
    print(f"tables of {rows:,} rows, lookups of 8,192 random codes:")
    for width in (8, 16, 64, 128):
        exact = LocalTables([TableSpec("post", rows, width, ("post",))])
        rounded = Int8Tables(exact)
        codes = {"post": torch.randint(0, rows, (8 * BATCH, 1, 1))}
        with torch.inference_mode():
            seconds = seconds_by_round({"exact": partial(exact, codes), "rounded": partial(rounded, codes)}, options)
            error = (rounded(codes)["post"] - exact(codes)["post"]).abs().max() / exact(codes)["post"].abs().max()
        size = [weight.nbytes for weight in exact.parameters()], [part.nbytes for part in rounded.stored()]
        before, after = (sum(part) / 1e6 for part in size)
        ratio = np.median(seconds["rounded"] / seconds["exact"])
        print(f"  width {width:>3}: {before:,.0f} MB → {after:,.0f} MB ({after / before:.0%})", end="")
        print(f", a lookup takes {ratio:.1f} × as long, error ≤ {error:.1e} of the largest number")


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "speed": speed,
    "files": files,
    "small": small,
    "quality": quality,
    "tables": tables,
}

if __name__ == "__main__":
    main()
