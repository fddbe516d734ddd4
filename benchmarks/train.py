"""Examples/s of training, compared with plain PyTorch and with the limit of the machine, measured alternately.

python benchmarks/train.py [production|small] [--rounds 3] [--rechub PYTHON]

For `production`: [--precision float32 bf16] [--clock wall|cpu]; `cpu`, with one thread, for a machine with other load.

`production`: the published production shape, 48,115,108 parameters, at batches of 128 and 1024, from packed Parquet;
in float32 and, where the CPU has bf16 instructions or `--precision bf16` asks for it, in bf16; compared with its
roofline (`roofline.py`), with the same network in plain PyTorch (float32, plain Adam), and in bf16 with recap without
copies of weights. `small`: ten categorical columns, DCN-v2, batches of 4096, from Parquet; compared with plain loops
over tensors in memory, in float32 and in bf16, and with torch-rechub if `--rechub` names an interpreter that has it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from roofline import NOW, Seconds, measure_roofline, seconds
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recap.config.file.load import config_of
from recap.data.encoding.assets import load_assets
from recap.data.tools.convert import convert_files
from recap.evaluation.run import evaluate_run
from recap.model.directory import new_ranker
from recap.native.allocator import tune_process
from recap.reporting import Reporter
from recap.runtime import cpu_has_bf16
from recap.training.trainer import train

TASKS = [f"task{number}" for number in range(10)]
CONTINUOUS, BINARY, VECTOR = 2117, 59, 200
PARAMETERS = 48_115_108
ROWS = 4096
"""Rows of the file of the production shape."""

FIELDS, CODES, WIDTH = 10, 10_000, 10
SMALL_ROWS, HELD_OUT, SMALL_BATCH, EPOCHS = 200_000, 50_000, 4096, 4
RATE = 1e-3


def main() -> None:
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", choices=["production", "small"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rechub", metavar="PYTHON")
    precisions = ["float32", *(["bf16"] if cpu_has_bf16() else [])]
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], default=precisions)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, folder, *arguments = options.child
        print(json.dumps(CHILDREN[kind](Path(folder), *map(json.loads, arguments))))
        return
    with tempfile.TemporaryDirectory() as made:
        if options.shape != "small":
            _production(Path(made), options.rounds, options.precision, options.clock)
        if options.shape != "production":
            _small(Path(made), options.rounds, options.rechub)


def _production(folder: Path, rounds: int, precisions: Sequence[str], clock: Seconds) -> None:
    write_production(folder / "production")
    for precision in precisions:
        kinds = ["ours", "baseline"] if precision == "float32" else ["ours", "baseline", "cast_each_step"]
        for batch in (128, 1024):
            results = _alternating(["roofline", *kinds], rounds, folder, batch, precision, clock)
            products, memory, bandwidth = np.median(results["roofline"], axis=0)
            print(f"production shape, batch {batch}, {precision}, {clock} time, median of {rounds}:")
            print(f"  products alone          {products * 1e3:>8,.1f} ms")
            print(f"  the optimizer's memory  {memory * 1e3:>8,.1f} ms at {bandwidth / 1e9:.1f} GB/s")
            for kind in kinds:
                step = float(np.median(results[kind]))
                text = f"{NAMES[kind]:<23} {step * 1e3:>8,.1f} ms, {batch / step:>6,.0f} examples/s"
                print(f"  {text}, {(products + memory) / step:.0%} of the roofline")
            print(
                f"  recap is {np.median(results['baseline']) / np.median(results['ours']):.2f} × plain float32", end=""
            )
            print(" (target: 80% of the roofline)", flush=True)


NAMES = {"ours": "recap", "baseline": "plain PyTorch, float32", "cast_each_step": "recap without copies"}


def _small(folder: Path, rounds: int, rechub: str | None) -> None:
    write_small(folder / "small")
    kinds = ("plain_float32", "plain_bf16", "small") + (("rechub",) if rechub else ())
    results = _alternating(kinds, rounds, folder, interpreter=rechub)
    speeds = {kind: np.median([speed for speed, _ in results[kind]]) for kind in kinds}
    print(f"small tables, batch {SMALL_BATCH}, examples/s, median of {rounds}, and AUC of held-out rows:")
    for kind in kinds:
        auc = np.median([auc for _, auc in results[kind]])
        print(f"  {kind.replace('small', 'recap'):<14} {speeds[kind]:>8,.0f}   {auc:.4f}")
    print(f"  recap is {speeds['small'] / speeds['plain_bf16']:.0%} of the plain bf16 loop (target: 90%)", end="")
    print(f", {speeds['small'] / speeds['rechub']:.2f} × torch-rechub (target: 3)" if rechub else "")


def _alternating(
    kinds: Sequence[str], rounds: int, folder: Path, *arguments: object, interpreter: str | None = None
) -> dict[str, list[Any]]:
    """Kind → its results from separate processes, alternating so that other load on the machine affects all kinds."""
    results: dict[str, list[Any]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            command = [sys.executable, __file__, "--child", kind, str(folder), *map(json.dumps, arguments)]
            if kind == "rechub":
                command = [str(interpreter), "-c", _RECHUB, str(folder / "small")]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[kind].append(json.loads(output.strip().splitlines()[-1]))
    return results


class Clock(Reporter):
    """A reporter that measures the speed after the first `warm_up` steps."""

    def __init__(self, warm_up: int, kind: Seconds = "wall") -> None:
        self.warm_up, self.examples, self.now = warm_up, 0, NOW[kind]

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """Count the rows of a step."""
        if step == self.warm_up:
            self.started = self.now()
        elif step > self.warm_up:
            self.examples += examples
        self.ended = self.now()

    @property
    def speed(self) -> float:
        """Examples/s."""
        return self.examples / (self.ended - self.started)


# The production shape.


def write_production(folder: Path, rows: int = ROWS) -> None:
    """Write rows with the columns that the production configuration reads, packed."""
    random = np.random.default_rng(0)

    def lists(width: int) -> pa.Array:
        values = random.normal(size=rows * width).astype(np.float32) * 100
        return pa.FixedSizeListArray.from_arrays(pa.array(values), width)

    columns: dict[str, Any] = {"continuous": lists(CONTINUOUS)}
    bits = pa.array(random.integers(0, 2, rows * BINARY))
    columns["binary"] = pa.FixedSizeListArray.from_arrays(bits, BINARY)
    columns |= {f"vector{number}": lists(VECTOR) for number in range(3)}
    columns |= {task: (random.random(rows) < 0.2).astype(np.int8) for task in TASKS}
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=1024)
    convert_files([str(folder / "rows.parquet")], folder / "packed", "parquet", packed=True)


def ours(folder: Path, batch: int, precision: str, kind: Seconds) -> float:
    """Seconds of a step of `recap train`."""
    steps, warm_up = (60, 15) if batch < 1000 else (20, 5)
    clock = Clock(warm_up, kind)
    tune_process()
    values = production_values(folder, batch, steps)
    values["training"]["precision"] = precision
    train(config_of(values), clock)
    return batch / clock.speed


def cast_each_step(folder: Path, batch: int, precision: str, kind: Seconds) -> float:
    """Seconds of a step of `recap train` that rounds its weights at each step."""
    with patch("recap.training.optimizer.rounded_weights.usable", return_value=False):
        return ours(folder, batch, precision, kind)


def roofline(folder: Path, batch: int, precision: str, kind: Seconds) -> tuple[float, float, float]:
    """Seconds of products, seconds of the optimizer, bytes/s of memory."""
    config = config_of(production_values(folder, batch, 1))
    ranker = new_ranker(config, load_assets(config.features))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tune_process()
    result = measure_roofline(ranker, batch, dtype, kind, 20 if batch < 1000 else 5)
    return result.products, result.optimizer, result.bandwidth


def production_values(folder: Path, batch: int, steps: int) -> dict[str, Any]:
    """The configuration of the production shape; its rows are those of `write_production(folder / "production")`."""
    tower = {"kind": "mlp", "layer_sizes": [256, 128], "batch_norm": {"affine": False}}
    block = {"output_size": 1024, "aggregation_size": 1024}
    return {
        "training": {"save_dir": str(folder / f"run-{time.time_ns()}"), "num_train_steps": steps},
        "features": {
            "continuous": [{"name": "continuous", "length": CONTINUOUS}],
            "binary": [{"name": "binary", "length": BINARY}],
            "vectors": {f"vector{number}": VECTOR for number in range(3)},
        },
        "model": {
            "featurization": {"kind": "double_norm_log"},
            "backbone": {
                "kind": "mask_net",
                "use_parallel": True,
                "mask_blocks": [block] * 4,
                "mlp": {"layer_sizes": [2048], "final_layer_activation": True},
            },
            "sharing": {"kind": "share_all"},
            "tasks": {task: {"tower": tower} for task in TASKS},
        },
        "train_data": {
            "source": {"kind": "parquet", "inputs": str(folder / "production" / "packed" / "*")},
            "global_batch_size": batch,
            "shuffle_window_rows": 1024,
            "tasks": {task: {} for task in TASKS},
        },
        "optimizer": {
            "backbone": {"kind": "linear_ramp_to_constant", "learning_rate": 1e-4, "num_ramp_steps": 1000},
            "towers": {"default": {"kind": "constant", "learning_rate": RATE}},
        },
    }


class PlainRanker(nn.Module):
    """The same network in straightforward PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        width = CONTINUOUS + BINARY + 3 * VECTOR
        self.batch_norm, self.layer_norm = nn.BatchNorm1d(CONTINUOUS), nn.LayerNorm(CONTINUOUS + BINARY)
        self.vector_norms = nn.ModuleList(nn.LayerNorm(VECTOR) for _ in range(3))
        self.masks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 1024), nn.ReLU(), nn.Linear(1024, width)) for _ in range(4)
        )
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(width, 1024), nn.LayerNorm(1024)) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(4096, 2048), nn.ReLU())
        self.towers = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(2048, 256), nn.BatchNorm1d(256, affine=False), nn.ReLU()),
                *(nn.Linear(256, 128), nn.BatchNorm1d(128, affine=False), nn.ReLU(), nn.Linear(128, 1)),
            )
            for _ in TASKS
        )

    def forward(self, continuous: Tensor, binary: Tensor, vectors: list[Tensor]) -> Tensor:
        """[B, …] each → [B, T]."""
        logs = continuous.sign() * torch.nan_to_num(continuous, posinf=0.0, neginf=0.0).abs().log1p()
        numbers = self.layer_norm(torch.cat([self.batch_norm(logs).clamp(-5, 5), binary], dim=1))
        normed = [norm(vector) for norm, vector in zip(self.vector_norms, vectors, strict=True)]
        inputs = torch.cat([numbers, *normed], dim=1)
        blocks = [hidden(inputs * mask(inputs)) for mask, hidden in zip(self.masks, self.hidden, strict=True)]
        shared = self.mlp(torch.cat(blocks, dim=1))
        return torch.cat([tower(shared) for tower in self.towers], dim=1)


def baseline(folder: Path, batch: int, precision: str, kind: Seconds) -> float:
    """Seconds of a step of plain PyTorch, float32, plain Adam, over one batch in memory."""
    torch.manual_seed(0)
    ranker = PlainRanker()
    assert sum(parameter.numel() for parameter in ranker.parameters()) == PARAMETERS
    optimizer = torch.optim.Adam(ranker.parameters(), lr=1e-4)
    inputs = (torch.randn(batch, CONTINUOUS) * 100, torch.rand(batch, BINARY).round(), list(torch.randn(3, batch, 200)))
    labels = (torch.rand(batch, len(TASKS)) < 0.2).float()

    def step() -> None:
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(ranker(*inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return seconds(step, 12 if batch < 1000 else 4, kind)


# Small tables.


def write_small(folder: Path) -> None:
    """Write categorical columns and a label that depends on them, as `train` and `held_out`."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(FIELDS, CODES)) * 0.7
    folder.mkdir()
    for split, rows in (("train", SMALL_ROWS), ("held_out", HELD_OUT)):
        codes = np.minimum(random.zipf(1.3, (FIELDS, rows)) - 1, CODES - 1)
        logits = np.take_along_axis(weights, codes, axis=1).sum(axis=0) - 1
        columns: dict[str, Any] = {f"field{number}": codes[number].astype(np.int32) for number in range(FIELDS)}
        columns["click"] = (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8)
        pq.write_table(pa.table(columns), folder / f"{split}.parquet", row_group_size=50_000)


def small(folder: Path) -> tuple[float, float]:
    """Examples/s of `recap train` from Parquet, without start-up and the first steps; AUC of the held-out rows."""
    deep = {"layer_sizes": [400] * 3, "batch_norm": {}, "dropout": {"rate": 0.1}, "final_layer_activation": True}
    steps = EPOCHS * SMALL_ROWS // SMALL_BATCH
    run = folder / f"run-{time.time_ns()}"
    values = {
        "training": {"save_dir": str(run), "num_train_steps": steps, "eval_log_every_n": None, "num_eval_steps": -1},
        "features": {"discrete": {f"field{number}": {"size": CODES} for number in range(FIELDS)}},
        "model": {
            "embeddings": {"default": WIDTH},
            "backbone": {"kind": "dcn", "poly_degree": 3, "parallel_mlp": deep},
            "sharing": {"kind": "share_all"},
            "tasks": {"click": {"tower": {"kind": "mlp"}}},
        },
        "train_data": {
            "source": {"inputs": str(folder / "small" / "train.parquet")},
            "global_batch_size": SMALL_BATCH,
            "shuffle_window_rows": SMALL_ROWS,
            "tasks": {"click": {}},
        },
        "validation_data": {"held_out": {"source": {"inputs": str(folder / "small" / "held_out.parquet")}}},
        "optimizer": {
            "backbone": {"kind": "constant", "learning_rate": RATE},
            "towers": {"default": {"kind": "constant", "learning_rate": RATE}},
        },
    }
    config, clock = config_of(values), Clock(5)
    tune_process()
    train(config, clock)
    return clock.speed, evaluate_run(config, run).splits["held_out"].metrics["click"]["auc"]


class PlainDcn(nn.Module):
    """The same network in straightforward PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        width = FIELDS * WIDTH
        self.tables = nn.ModuleList(nn.Embedding(CODES, WIDTH) for _ in range(FIELDS))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)  # type: ignore[arg-type]
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        layers: list[nn.Module] = []
        for size_in, size_out in zip((width, 400, 400), (400, 400, 400), strict=True):
            layers += [nn.Linear(size_in, size_out), nn.BatchNorm1d(size_out), nn.ReLU(), nn.Dropout(0.1)]
        self.deep, self.head = nn.Sequential(*layers), nn.Linear(width + 400, 1)

    def forward(self, codes: Tensor) -> Tensor:
        """[B, FIELDS] → [B]."""
        inputs = torch.cat([table(codes[:, index]) for index, table in enumerate(self.tables)], dim=1)
        crossed = inputs
        for cross in self.crosses:
            crossed = inputs * cross(crossed) + crossed
        logits: Tensor = self.head(torch.cat([crossed, self.deep(inputs)], dim=1))
        return logits.squeeze(1).float()


def plain(folder: Path, *, bf16: bool) -> tuple[float, float]:
    """Examples/s of a loop over tensors in memory; AUC of the held-out rows."""
    torch.manual_seed(0)
    train_codes, train_labels = _tensors(folder / "small" / "train.parquet")
    model = PlainDcn()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    started, examples = 0.0, -5 * SMALL_BATCH
    for chosen in _batches(len(train_labels)):
        if examples == 0:
            started = time.perf_counter()
        codes, labels = train_codes[chosen], train_labels[chosen]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(codes)
        loss = binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        examples += SMALL_BATCH
    speed = examples / (time.perf_counter() - started)
    model.eval()
    codes, labels = _tensors(folder / "small" / "held_out.parquet")
    with torch.inference_mode():
        return speed, float(roc_auc_score(labels.numpy(), model(codes).numpy()))


def _tensors(file: Path) -> tuple[Tensor, Tensor]:
    table = pq.read_table(file)
    codes = np.stack([table[f"field{number}"].to_numpy() for number in range(FIELDS)], axis=1).astype(np.int64)
    return torch.from_numpy(codes), torch.from_numpy(table["click"].to_numpy().astype(np.float32))


def _batches(rows: int) -> Iterator[Tensor]:
    for _ in range(EPOCHS):
        yield from torch.split(torch.randperm(rows)[: rows // SMALL_BATCH * SMALL_BATCH], SMALL_BATCH)


_RECHUB = f"""
import json, sys, tempfile, time
import pandas as pd
from sklearn.metrics import roc_auc_score
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.ranking import DCNv2
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator
fields = [f"field{{number}}" for number in range({FIELDS})]
made = {{split: pd.read_parquet(f"{{sys.argv[1]}}/{{split}}.parquet") for split in ("train", "held_out")}}
x, y = ({{split: part(table) for split, table in made.items()}} for part in (
    lambda table: {{name: table[name].to_numpy() for name in fields}}, lambda table: table["click"].to_numpy()))
generator = DataGenerator(x["train"], y["train"])
loader, held_out, _ = generator.generate_dataloader(
    x_val=x["held_out"], y_val=y["held_out"], x_test=x["held_out"], y_test=y["held_out"], batch_size={SMALL_BATCH})
model = DCNv2([SparseFeature(name, {CODES}, {WIDTH}) for name in fields], 3,
    {{"dims": [400, 400, 400], "dropout": 0.1, "activation": "relu"}}, use_low_rank_mixture=False)
trainer = CTRTrainer(model, optimizer_params={{"lr": {RATE}, "weight_decay": 0.0}}, n_epoch={EPOCHS},
    model_path=tempfile.mkdtemp())
started = time.perf_counter()
trainer.fit(loader)
speed = {EPOCHS} * len(y["train"]) / (time.perf_counter() - started)
print()
print(json.dumps([speed, float(roc_auc_score(y["held_out"], trainer.predict(model, held_out)))]))
"""

CHILDREN: dict[str, Callable[..., Any]] = {
    "roofline": roofline,
    "baseline": baseline,
    "cast_each_step": cast_each_step,
    "ours": ours,
    "small": small,
    "plain_float32": lambda folder: plain(folder, bf16=False),
    "plain_bf16": lambda folder: plain(folder, bf16=True),
}

if __name__ == "__main__":
    main()
