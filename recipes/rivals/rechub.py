"""torch-rechub (<https://github.com/datawhalechina/torch-rechub>) as a rival of `recap board`.

pip install torch-rechub; then in a board, which is run with --run-commands:

rows:
  torch-rechub MMOE:
    config: ranker.yaml
    rival: {kind: command, command: [python, recipes/rivals/rechub.py, --model, MMOE]}

One of its multi-task models is trained with Adam on the features, labels and weights of the configuration, without
histories. Numbers pass through sign(x)·log(1 + |x|) and are scaled to deviation 1; missing ones are 0.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional

from recap.config.file.load import load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch, assemble
from recap.data.encoding.assets import discrete_columns, discrete_sizes, load_assets
from recap.data.open import open_stream
from recap.errors import InputError

MODELS = ("SharedBottom", "MMOE", "PLE", "AITM")
_BLOCK = 4096
"""Rows that are predicted at once."""


def rows_of(config: RecapConfig, split: str | None) -> Batch:
    """All rows of `split`, or of the training data, in the order of the files."""
    stream = open_stream(config, load_assets(config.features), JobMode.EVALUATE, split)
    return assemble([(batch.clone(), slice(None)) for batch in stream])


class Columns:
    """The columns of a batch as torch-rechub names them: `numbers`, a vector each, and a code each."""

    def __init__(self, config: RecapConfig, training: Batch, width: int) -> None:
        features = import_module("torch_rechub.basic.features")
        sizes = discrete_sizes(config.features, load_assets(config.features))
        tables = {name: config.features.table_of(name, it) for name, it in config.features.discrete.items()}
        self._codes: dict[str, int] = {}
        self.features: list[Any] = []
        for name, columns in discrete_columns(config.features).items():
            for number, column in enumerate(range(columns.start, columns.stop)):
                self._codes[f"{name}_{number}"] = column
                self.features.append(features.SparseFeature(f"{name}_{number}", sizes[tables[name]] + 1, width))
        numbers = _logarithm(training)
        self._mean, self._deviation = numbers.mean(dim=0), numbers.std(dim=0).clamp(min=1e-6)
        if numbers.shape[1]:
            self.features.append(features.DenseFeature("numbers", numbers.shape[1]))
        for name, vector in training.vectors.items():
            self.features.append(features.DenseFeature(name, vector.shape[1]))

    def of(self, batch: Batch) -> dict[str, Tensor]:
        """The inputs of a model."""
        numbers = {"numbers": (_logarithm(batch) - self._mean) / self._deviation}
        vectors = {name: vector.float() for name, vector in batch.vectors.items()}
        return {name: batch.discrete[:, column] for name, column in self._codes.items()} | numbers | vectors


def _logarithm(batch: Batch) -> Tensor:
    values = torch.cat([batch.continuous.float(), batch.binary.float()], dim=1).nan_to_num(0.0, 0.0, 0.0)
    return values.sign() * values.abs().log1p()


def build(name: str, columns: Columns, config: RecapConfig, widths: list[int], tower: list[int]) -> Any:
    """A model of torch-rechub, with a tower for each task."""
    kind = getattr(import_module("torch_rechub.models.multi_task"), name)
    bottom, count = {"dims": widths}, len(config.tasks)
    towers = [{"dims": tower} for _ in config.tasks]
    types = ["regression" if task in config.regressions else "classification" for task in config.tasks]
    match name:
        case "SharedBottom":
            return kind(columns.features, types, bottom, towers)
        case "MMOE":
            return kind(columns.features, types, max(2, count), bottom, towers)
        case "PLE":
            return kind(columns.features, types, 1, 1, 2, bottom, towers)
        case _:
            return kind(columns.features, count, bottom, towers)


def train(model: Any, columns: Columns, config: RecapConfig, training: Batch, epochs: int, rate: float) -> None:
    """Train `model` with the weighted mean of the losses of all tasks, in batches of the configuration."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=1e-5)
    regressions = torch.tensor([task in config.regressions for task in config.tasks])
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in _shuffled(training, config.train_data.global_batch_size):
            assert batch.labels is not None
            assert batch.weights is not None
            predicted = model(columns.of(batch))
            loss = functional.binary_cross_entropy(predicted.clamp(0, 1), batch.labels.clamp(0, 1), reduction="none")
            loss = torch.where(regressions, (predicted - batch.labels) ** 2, loss)
            mean = (loss * batch.weights).sum() / batch.weights.sum().clamp(min=1e-6)
            optimizer.zero_grad()
            torch.autograd.backward([mean])
            optimizer.step()
            total += mean.item() * len(batch)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(training):.5f}", flush=True)


def _shuffled(rows: Batch, size: int) -> Iterator[Batch]:
    order = torch.randperm(len(rows))
    yield from (rows.rows(order[start : start + size]) for start in range(0, len(rows) - size + 1, size))


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="A multi-task model of torch-rechub as a rival of recap board.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", choices=MODELS, default="MMOE")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--embedding", type=int, default=8, help="width of embeddings")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128], help="layers of bottom and experts")
    parser.add_argument("--tower", type=int, nargs="+", default=[32], help="layers of towers")
    asked = parser.parse_args()
    if find_spec("torch_rechub") is None:
        print("torch-rechub is not installed: pip install torch-rechub", file=sys.stderr)
        return 2
    try:
        config = load_config(asked.config)
        if asked.model == "AITM" and config.regressions:
            raise InputError("AITM predicts probabilities alone; choose another --model")
        torch.manual_seed(config.training.seed)
        training, tested = rows_of(config, None), rows_of(config, asked.split)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    columns = Columns(config, training, asked.embedding)
    model = build(asked.model, columns, config, asked.widths, asked.tower)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    train(model, columns, config, training, asked.epochs, asked.rate)
    model.eval()
    with torch.inference_mode():
        predicted = torch.cat([model(columns.of(block)) for block in tested.blocks(_BLOCK)]).numpy()
    pq.write_table(pa.table({task: predicted[:, index] for index, task in enumerate(config.tasks)}), asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
