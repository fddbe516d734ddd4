"""Whether recap works on a GPU, exactly and fast: one command, under five minutes, nothing to download.

    python benchmarks/gpu.py [--quick] [--output gpu.json] [PART …]

Each part runs in a process of its own, so that none can end the others, and is stopped when its share of the five
minutes is over; what it measured until then counts. Seconds that a part leaves go to those after it.

- `tests`: the tests of the device, `tests/device`.
- `production`, `small`: training steps of the production shape (48,115,108 parameters) and of small tables, in each
  precision: examples/s, and FLOPs of the matrix products as a share of a large product in the same precision.
- `resume`: a run that stops and resumes has the weights of one that does not, bit for bit.
- `tables`: a step with a table of 10 million rows, by the way the table is updated.
- `data`: the share of time that training waits for its data.
- `small_compiled`, `production_compiled`: as above, with `training.compile`.

`--quick` makes everything small and measures nothing, for a machine without a GPU. Exits with 1 if a part fails.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 285.0
"""For all parts together."""
PATIENCE = 10
"""Times as many for `--quick`, whose machine may be busy: it is no measurement."""
PRECISIONS = ("float32", "tf32", "bf16", "float16")
PRODUCT = 8192
"""Rows and columns of the matrices whose product is the fastest that a step is compared with."""
Line = dict[str, Any]
"""A line of results: name → text, number or whether it holds."""


class Part(NamedTuple):
    """A part of the benchmark."""

    function: Callable[[bool], Iterator[Line]]
    seconds: float


def main() -> int:
    """Run the parts and print their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the results")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS)}")
    import recap.training.trainer  # noqa: F401 - once for all parts, which start as copies of this process

    results: dict[str, Any] = {}
    started = time.monotonic()
    allowed = 0.0
    patience = PATIENCE if options.quick else 1
    for name in options.parts or PARTS:
        allowed += PARTS[name].seconds
        left = min(allowed, SECONDS) * patience - (time.monotonic() - started)
        print(f"{name}, at most {left:.0f} s:", flush=True)
        results[name] = run_part(name, left, quick=options.quick)
    failed = [name for name, result in results.items() if result["error"]]
    print(f"{time.monotonic() - started:.0f} s; " + (f"FAILED: {', '.join(failed)}" if failed else "all parts hold"))
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


def run_part(name: str, seconds: float, *, quick: bool) -> Line:
    """Run a part in a process of its own, print its lines, and return them and how it ended."""
    context = multiprocessing.get_context("fork")  # this process never uses the GPU, so its children may
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, sender, quick))
    started = time.monotonic()
    process.start()
    sender.close()
    result: Line = {"lines": [], "error": None, "stopped": False}
    try:
        while (left := started + seconds - time.monotonic()) > 0 and receiver.poll(left):
            line = receiver.recv()
            if "error" in line:
                result["error"] = line["error"]
            else:
                result["lines"].append(line)
                print(f"  {_shown(line)}", flush=True)
        result["stopped"] = True
    except EOFError:
        process.join(10)
        if process.exitcode and result["error"] is None:
            result["error"] = f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # a compiler has processes of its own
        process.join()
    if result["stopped"]:
        print("  stopped: its time is over; the rest is skipped", flush=True)
    if result["error"] is None and not result["lines"]:
        result["error"] = "no result in its time"
    if result["error"] is not None:
        print(f"  FAILED: {result['error']}", flush=True)
    return result | {"seconds": round(time.monotonic() - started, 1)}


def _child(name: str, sender: Connection, quick: bool) -> None:
    os.setsid()
    try:
        for line in PARTS[name].function(quick):
            sender.send(line)
    except BaseException as error:
        traceback.print_exc()
        sender.send({"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"})
    sender.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no threads of readers or compilers keep it


def _shown(line: Line) -> str:
    """The line as text."""
    return "  ".join(
        f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in line.items()
    )


def tests(quick: bool) -> Iterator[Line]:
    """The tests of the device."""
    import pytest
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, the CPU plays one"
    yield {"gpu": name, "torch": torch.__version__}
    folder = Path(__file__).parents[1] / "tests" / "device"
    target = folder / "test_played_gpu.py" if quick else folder
    code = pytest.main(
        [str(target), "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(folder.parents[1])]
    )
    if code:
        raise AssertionError(f"tests failed: pytest exits with {int(code)}")
    yield {"tests": "passed"}


def steps(shape: str, quick: bool, *, is_compiled: bool = False) -> Iterator[Line]:
    """Training steps over rows in memory, the copy to the device included, in each precision."""
    if quick and is_compiled:
        yield {"skipped": "--quick compiles nothing"}
        return
    for precision in QUICK[shape] if quick else PRECISIONS:
        values = SHAPES[shape](quick)
        values["training"] |= {"precision": precision, "compile": is_compiled}
        for rows in (64,) if quick else ROWS[shape]:
            values["train_data"]["global_batch_size"] = rows
            yield {"precision": precision, "rows": rows, **measured(values, 0.2 if quick else 2.0, quick)}


def measured(values: dict[str, Any], seconds: float, quick: bool) -> Line:
    """Examples/s of steps of a configuration, and its share of the device's matrix products."""
    import torch

    from recap.config.file.load import config_of
    from recap.model.directory import new_ranker
    from recap.model.summary import forward_flops
    from recap.runtime import seed_torch, start_runtime
    from recap.training.balancing.build import build_balancing
    from recap.training.loss_scale import LossScale
    from recap.training.optimizer.scheduled import ScheduledOptimizer
    from recap.training.step import TrainStep

    config = config_of(values)
    runtime, rows = start_runtime(precision=config.training.precision), config.train_data.global_batch_size
    seed_torch(0, 0)
    ranker = new_ranker(config, {}).to(runtime.device)
    flops = 3 * forward_flops(ranker, config, {}) * rows  # backward takes twice as many
    ranker.train()
    balancing = build_balancing(config, ranker.parameters(), runtime.device)
    optimizer = ScheduledOptimizer(config, ranker, balancing.parameters())
    scale = LossScale(enabled=runtime.precision == "float16")
    step = TrainStep(config, ranker, balancing, optimizer, runtime, loss_scale=scale)
    batches, times, begun = [random_batch(config, rows, seed) for seed in range(4)], list[float](), time.monotonic()
    first = 0.0
    warm_up, least = (1, 2) if quick else (3, 5)
    while len(times) < least or sum(times) < seconds:
        started = time.perf_counter()
        step(batches[len(times) % len(batches)], len(times) + 1)  # returns when the losses are on the CPU
        _synchronize()
        times.append(time.perf_counter() - started)
        if len(times) == warm_up and not first:  # the first steps compile and warm up
            first, times = time.monotonic() - begun, []
    took = sorted(times)[len(times) // 2]
    peak = product_flops(config.training.precision, quick)
    line: Line = {
        "ms/step": 1e3 * took,
        "examples/s": rows / took,
        "of matrix peak": flops / took / peak,
        "start s": first,
    }
    if torch.cuda.is_available():
        line["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return line


def random_batch(config: Any, rows: int, seed: int) -> Any:
    """Rows of random numbers, codes and labels."""
    import torch

    from recap.data.encoding.assets import discrete_sizes
    from recap.model.summary import synthetic_batch

    batch, generator = synthetic_batch(config, {}, rows), torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in batch.tensors().items()
    }
    sizes = list(discrete_sizes(config.features, {}).values())
    codes = [torch.randint(size, (rows,), generator=generator) for size in sizes]
    if codes:
        tensors["discrete"] = torch.stack(codes, dim=1)
    labels = (torch.rand(rows, len(config.tasks), generator=generator) < 0.2).float()
    return replace(batch.with_tensors(tensors), labels=labels, weights=torch.ones_like(labels))


def product_flops(precision: str, quick: bool) -> float:
    """FLOPs/s of the product of two large matrices in a precision, on the device."""
    import torch

    from recap.runtime import start_runtime

    device = start_runtime(precision=precision).device  # type: ignore[arg-type]
    dtype = {"bf16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)
    size = 256 if quick else PRODUCT
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(3 if quick else 8):
        _synchronize()
        started = time.perf_counter()
        left @ right
        _synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def production(quick: bool) -> dict[str, Any]:
    """The configuration of the production shape."""
    from train import production_values

    values = production_values(Path("none"), 128, 1)
    if quick:
        block = {"output_size": 16, "aggregation_size": 16}
        values["model"]["backbone"] |= {"mask_blocks": [block], "mlp": {"layer_sizes": [16]}}
    return values


def small(quick: bool) -> dict[str, Any]:
    """The configuration of small tables."""
    from train import CODES, FIELDS, WIDTH

    deep = {"layer_sizes": [400] * 3, "batch_norm": {}, "dropout": {"rate": 0.1}, "final_layer_activation": True}
    rate = {"kind": "constant", "learning_rate": 1e-3}
    return {
        "training": {},
        "features": {"discrete": {f"field{number}": {"size": CODES} for number in range(FIELDS)}},
        "model": {
            "embeddings": {"default": WIDTH},
            "backbone": {"kind": "dcn", "poly_degree": 3, "parallel_mlp": deep},
            "sharing": {"kind": "share_all"},
            "tasks": {"click": {"tower": {"kind": "mlp"}}},
        },
        "train_data": {"source": {"inputs": "none"}, "global_batch_size": 4096, "tasks": {"click": {}}},
        "optimizer": {"backbone": rate, "towers": {"default": rate}},
    }


SHAPES: dict[str, Callable[[bool], dict[str, Any]]] = {"production": production, "small": small}
QUICK = {"production": ("float32",), "small": ("bf16",)}
"""Precisions of `--quick`."""
ROWS = {"production": (128, 1024, 8192), "small": (4096, 65536)}
"""Rows of a step."""


def resume(quick: bool) -> Iterator[Line]:
    """Whether a run that stops and resumes has the weights and moments of one that does not, bit for bit."""
    import torch
    from safetensors.torch import load_file

    from recap.config.file.load import config_of
    from recap.data.simulate import simulate
    from recap.reporting import Reporter
    from recap.runs import Run
    from recap.training.trainer import train

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        simulate(folder / "feed", rows=5_000, validation_rows=500)
        for precision in ("float32",) if quick else PRECISIONS:
            runs = {"whole": [20], "resumed": [10, 20]}
            for name, ends in runs.items():
                for end in ends:
                    train(config_of(_feed_values(folder, f"{precision}-{name}", precision, end)), Reporter())
            differences: dict[str, float] = {}
            whole, resumed = (Run(folder / f"{precision}-{name}").checkpoint_path(20) for name in runs)
            for file in sorted(whole.glob("*.safetensors")):
                one, other = load_file(file), load_file(resumed / file.name)
                for key, value in one.items():
                    if not torch.equal(value, other[key]):
                        differences[f"{file.stem}/{key}"] = float((value - other[key]).abs().max())
            yield {"precision": precision, "tensors that differ": len(differences), **differences}
            if differences:
                raise AssertionError(f"in {precision} a resumed run is not the run")


def _feed_values(folder: Path, name: str, precision: str, end: int) -> dict[str, Any]:
    """The recipe of the simulated feed, with a sparse table, for `end` steps."""
    import yaml

    recipe = Path(__file__).parents[1] / "recipes" / "simulated" / "ranker.yaml"
    values: dict[str, Any] = yaml.safe_load(recipe.read_text())
    feed = folder / "feed"
    values["training"] |= {"save_dir": str(folder / name), "num_train_steps": end, "precision": precision}
    values["training"] |= {"checkpoint_every_n": 100, "eval_log_every_n": None}
    values["features"]["discrete"]["language"]["vocabulary"] = str(feed / "languages.parquet")
    values["train_data"]["source"]["inputs"] = str(feed / "train" / "*.parquet")
    values["train_data"]["global_batch_size"] = 256
    values["validation_data"]["validation"]["source"]["inputs"] = str(feed / "validation" / "*.parquet")
    rate = {"kind": "constant", "learning_rate": 0.05}
    values["optimizer"]["tables"] = {"algorithm": {"kind": "adagrad"}, "learning_rate": rate, "sparse": True}
    return values


def tables(quick: bool) -> Iterator[Line]:
    """A step with a large table, by the way it is updated."""
    from tables import WAYS, make_config

    rows = 10_000 if quick else 10_000_000
    for name, way in WAYS.items():
        if quick and (way is None or not way.get("sparse")):
            continue
        values = make_config(rows, 16, 1024, way).model_dump(mode="json")
        yield {"table": name, "table rows": rows, **measured(values, 0.05 if quick else 1.0, quick)}


def data(quick: bool) -> Iterator[Line]:
    """The share of time that training waits for its data, read from packed Parquet."""
    from train import production_values, write_production

    from recap.config.file.load import config_of
    from recap.reporting import Reporter
    from recap.runs import Run
    from recap.training.trainer import train

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_production(folder / "production", 256 if quick else 4096)
        for rows in (128,) if quick else (128, 1024):
            count = 2 if quick else 200
            values = production_values(folder, rows, count)
            values["model"] |= production(quick)["model"]
            values["training"] |= {"train_log_every_n": count // 2, "eval_log_every_n": None, "precision": "auto"}
            train(config_of(values), Reporter())
            record = [line for line in Run(Path(values["training"]["save_dir"])).metrics if line["split"] == "train"][
                -1
            ]
            yield {"rows": rows, "examples/s": record["examples_per_second"], "data wait": record["data_wait"]}


PARTS = {
    "tests": Part(tests, 75),
    "production": Part(lambda quick: steps("production", quick), 45),
    "small": Part(lambda quick: steps("small", quick), 30),
    "resume": Part(resume, 25),
    "tables": Part(tables, 25),
    "data": Part(data, 25),
    "small_compiled": Part(lambda quick: steps("small", quick, is_compiled=True), 25),
    "production_compiled": Part(lambda quick: steps("production", quick, is_compiled=True), 35),
}

if __name__ == "__main__":
    sys.exit(main())
