"""torch-rechub (<https://github.com/datawhalechina/torch-rechub>) as a rival of `recap board`.

pip install torch-rechub; then in a board, which is run with --run-commands:

rows:
  torch-rechub MMOE:
    config: ranker.yaml
    rival: {kind: command, command: [python, recipes/rivals/rechub.py, --model, MMOE]}

One of its multi-task models learns all tasks at once, with Adam and the weight decay of its own trainer. What it reads
is in rival.py. AITM takes the tasks as a chain, in the order of the configuration.
"""

import sys
from argparse import Namespace
from importlib import import_module
from typing import Any

from rival import Columns, Predict, count, options, rows_of, run, train
from torch.optim import Adam

from recap.config.recap import RecapConfig
from recap.errors import InputError

MODELS = ("MMOE", "SharedBottom", "PLE", "AITM")


def fit(asked: Namespace, config: RecapConfig) -> Predict:
    """Train a model of torch-rechub. Raises InputError."""
    if asked.model == "AITM" and config.regressions:
        raise InputError("AITM predicts probabilities alone; choose another --model")
    training = rows_of(config)
    columns = Columns(config, training)
    model = build(asked, columns, config)
    optimizer = Adam(model.parameters(), lr=asked.rate, weight_decay=asked.decay)
    train(lambda batch: model(columns.of(batch)), optimizer, config, training, asked.epochs)
    model.eval()
    return lambda batch: model(columns.of(batch))


def build(asked: Namespace, columns: Columns, config: RecapConfig) -> Any:
    """A model with a tower for each task."""
    features = import_module("torch_rechub.basic.features")
    read = [features.SparseFeature(name, size, asked.embedding) for name, size in columns.sizes.items()]
    if columns.numbers:
        read.append(features.DenseFeature("numbers", columns.numbers))
    read += [features.DenseFeature(name, width) for name, width in columns.widths.items()]
    types = ["regression" if task in config.regressions else "classification" for task in config.tasks]
    bottom, towers = {"dims": asked.widths}, [{"dims": asked.tower} for _ in types]
    kind = getattr(import_module("torch_rechub.models.multi_task"), asked.model)
    match asked.model:
        case "MMOE":
            return kind(read, types, max(2, len(types)), bottom, towers)
        case "SharedBottom":
            return kind(read, types, bottom, towers)
        case "PLE":
            return kind(read, types, 1, 1, 2, bottom, towers)
        case _:
            return kind(read, len(types), bottom, towers)


def main() -> int:
    """Run the command and return its exit code."""
    parser = options("A multi-task model of torch-rechub as a rival of recap board.", MODELS, 8, (256, 128))
    parser.add_argument("--tower", type=count, nargs="+", default=[32], help="widths of the layers of towers")
    parser.add_argument("--decay", type=float, default=1e-5, help="weight decay of Adam")
    return run("torch-rechub", "torch_rechub.models.multi_task", parser, fit)


if __name__ == "__main__":
    sys.exit(main())
