"""What the programs here share: their command line, the data of a configuration, and the loop that trains.

They learn from the features, labels and weights of the configuration, without histories, in batches of its size.
Numbers pass through sign(x)·log(1 + |x|) and are scaled to deviation 1; missing ones are 0. Every code has a table of
its own.
"""

import math
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from recap.config.file.load import load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch, assemble
from recap.data.encoding.assets import discrete_columns, discrete_sizes, load_assets
from recap.data.open import open_stream
from recap.errors import InputError
from recap.text import suggest

Predict = Callable[[Batch], Tensor]
"""[N, tasks] of a batch of N rows: probabilities, or values of regressions."""
_BLOCK = 4096
"""Rows that are predicted at once."""


def options(description: str, models: Sequence[str], embedding: int, widths: Sequence[int]) -> ArgumentParser:
    """The arguments that `recap board` gives, and those of all programs. The first of `models` is the default."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--config", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", choices=models, default=models[0])
    parser.add_argument("--epochs", type=count, default=2)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--embedding", type=count, default=embedding, help="width of embeddings")
    parser.add_argument("--widths", type=count, nargs="+", default=list(widths), help="widths of the layers")
    return parser


def count(text: str) -> int:
    """A whole number of at least 1, as a type of arguments."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def run(package: str, module: str, parser: ArgumentParser, fit: Callable[[Namespace, RecapConfig], Predict]) -> int:
    """Parse the arguments, let `fit` train, write what it predicts, and return the exit code.

    `package`: what pip installs. `module`: a module of it that `fit` needs.
    """
    asked = parser.parse_args()
    try:
        import_module(module)
    except ImportError as error:
        print(f"{package} cannot be imported ({error}): pip install {package}", file=sys.stderr)
        return 2
    try:
        config = load_config(asked.config)
        tested = rows_of(config, asked.split)
        torch.manual_seed(config.training.seed)
        predict = fit(asked, config)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    with torch.inference_mode():
        predicted = torch.cat([predict(block) for block in tested.blocks(_BLOCK)]).numpy()
    pq.write_table(pa.table({task: predicted[:, index] for index, task in enumerate(config.tasks)}), asked.output)
    return 0


def rows_of(config: RecapConfig, split: str | None = None) -> Batch:
    """All rows of `split`, or of the training data, in the order of the files. Raises InputError."""
    if split is not None and split not in config.validation_data:
        raise InputError(f"--split {split}: no such validation set. {suggest(split, list(config.validation_data))}")
    stream = open_stream(config, load_assets(config.features), JobMode.EVALUATE, split)
    return assemble([(batch.clone(), slice(None)) for batch in stream])


class Columns:
    """Codes [N], numbers [N, count] and vectors [N, width] of batches, by name. Raises InputError if there are none."""

    def __init__(self, config: RecapConfig, training: Batch) -> None:
        rows, discrete = discrete_sizes(config.features, load_assets(config.features)), config.features.discrete
        self.sizes: dict[str, int] = {}
        """A code → the rows of its table."""
        for name, columns in discrete_columns(config.features).items():
            size = rows[config.features.table_of(name, discrete[name])] + 1  # with the unknown bucket
            self.sizes |= {f"code_{column}": size for column in range(columns.start, columns.stop)}
        numbers = _logarithm(training)
        self.numbers = numbers.shape[1]
        self._mean = numbers.mean(dim=0)
        self._deviation = (numbers - self._mean).square().mean(dim=0).sqrt().clamp(min=1e-6)
        self.widths = {f"vector_{index}": vector.shape[1] for index, vector in enumerate(training.vectors.values())}
        """A vector → its width."""
        if not (self.sizes or self.numbers or self.widths):
            raise InputError("features: there are only histories, which this program does not read")

    def of(self, batch: Batch) -> dict[str, Tensor]:
        """All columns; those of numbers under `numbers`."""
        codes = dict(zip(self.sizes, batch.discrete.unbind(dim=1), strict=True))
        vectors = {name: vector.float() for name, vector in zip(self.widths, batch.vectors.values(), strict=True)}
        return codes | {"numbers": (_logarithm(batch) - self._mean) / self._deviation} | vectors


def _logarithm(batch: Batch) -> Tensor:
    values = torch.cat([batch.continuous.float(), batch.binary.float()], dim=1).nan_to_num(0.0, 0.0, 0.0)
    return values.sign() * values.abs().log1p()


def train(
    predict: Predict,
    optimizer: Optimizer,
    config: RecapConfig,
    training: Batch,
    epochs: int,
    *,
    tasks: Sequence[str] | None = None,
    penalty: Callable[[], Tensor | float] = lambda: 0.0,
    max_norm: float = math.inf,
) -> None:
    """Minimize the weighted mean of the losses of `tasks` (default: all), which `predict` predicts, plus a penalty.

    `max_norm`: that of the gradient.
    """
    names = config.tasks if tasks is None else tasks
    columns = torch.tensor([config.tasks.index(task) for task in names])
    regressions = torch.tensor([task in config.regressions for task in names])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    print(f"{', '.join(names)}: {sum(parameter.numel() for parameter in parameters):,} parameters", flush=True)
    for epoch in range(epochs):
        total = 0.0
        for batch in _shuffled(training, config.train_data.global_batch_size):
            assert batch.labels is not None
            assert batch.weights is not None
            labels, weights, predicted = batch.labels[:, columns], batch.weights[:, columns], predict(batch)
            loss = functional.binary_cross_entropy(predicted.clamp(0, 1), labels.clamp(0, 1), reduction="none")
            loss = torch.where(regressions, (predicted - labels) ** 2, loss)
            mean = (loss * weights).sum() / weights.sum().clamp(min=1e-6)
            optimizer.zero_grad()
            torch.autograd.backward([mean + penalty()])
            clip_grad_norm_(parameters, max_norm)
            optimizer.step()
            total += mean.item() * len(batch)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(training):.5f}", flush=True)


def _shuffled(rows: Batch, size: int) -> Iterator[Batch]:
    """Batches of `size` rows; the last rows that fill none are left out."""
    order, size = torch.randperm(len(rows)), min(size, len(rows))
    yield from (rows.rows(order[start : start + size]) for start in range(0, len(rows) - size + 1, size))
