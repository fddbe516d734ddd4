"""FuxiCTR (<https://github.com/reczoo/FuxiCTR>) as a rival of `recap board`.

pip install fuxictr; it needs Ray (80 MB), which it imports. Then in a board, which is run with --run-commands:

rows:
  FuxiCTR DCNv2:
    config: ranker.yaml
    rival: {kind: command, command: [python, recipes/rivals/fuxi.py, --model, DCNv2]}

The package ships few models: this program has the two that need no history, DCNv2 and FinalMLP, of `model_zoo.LongCTR`.
There they also read a history of items, which stays empty here: its mean is 0, and so adds nothing. The FinalMLP of the
package builds its feature selection, and does not use it.

Each task has a model, trained by itself with Adam and gradients up to a norm of 10, as in FuxiCTR's `fit`. FuxiCTR
would stop, and lower the rate, by the AUC on a validation set; here the number of epochs is fixed, for that set is the
one to be predicted. What the models read is in rival.py. Each number has an embedding, as FuxiCTR has it.
"""

import sys
from argparse import Namespace
from importlib import import_module
from typing import Any

import torch
from rival import Columns, Predict, options, rows_of, run, train
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.batch import Batch

MODELS = ("DCNv2", "FinalMLP")
_MAX_NORM = 10.0


class Model:
    """A model of FuxiCTR for one task."""

    def __init__(self, asked: Namespace, columns: Columns, task: str, regression: bool) -> None:
        features: dict[str, dict[str, Any]] = {}
        features |= {name: {"type": "categorical", "vocab_size": size} for name, size in columns.sizes.items()}
        features |= {f"number_{column}": {"type": "numeric"} for column in range(columns.numbers)}
        features |= {name: {"type": "embedding", "pretrain_dim": width} for name, width in columns.widths.items()}
        self._columns, self._item = columns, next(iter(features))
        features[self._item]["source"] = "item"  # that of which there would be a history
        chart = import_module("fuxictr.features").FeatureMap("recap", "")
        chart.features, chart.labels, chart.default_emb_dim = features, [task], asked.embedding
        layers = {"parallel_dnn_hidden_units": asked.widths, "net_dropout": asked.dropout}
        if asked.model == "FinalMLP":
            layers = {f"mlp{number}_hidden_units": asked.widths for number in (1, 2)}
            layers |= {f"mlp{number}_dropout": asked.dropout for number in (1, 2)}
        self.network = getattr(import_module("model_zoo.LongCTR"), asked.model)(
            chart,
            task="regression" if regression else "binary_classification",
            loss="mse_loss" if regression else "binary_crossentropy",
            optimizer="adam",
            learning_rate=asked.rate,
            embedding_dim=asked.embedding,
            embedding_regularizer=asked.regularizer,
            metrics=[],
            model_root="",
            verbose=0,
            **layers,
        )

    def __call__(self, batch: Batch) -> Tensor:
        """[N, 1]: its predictions."""
        inputs = self._columns.of(batch)
        inputs |= {f"number_{column}": values for column, values in enumerate(inputs.pop("numbers").unbind(dim=1))}
        item = {self._item: inputs.pop(self._item)}
        predicted: Tensor = self.network((inputs, item, torch.zeros(len(batch), 0)))["y_pred"]
        return predicted


def fit(asked: Namespace, config: RecapConfig) -> Predict:
    """Train a model for each task. Raises InputError."""
    training = rows_of(config)
    columns = Columns(config, training)
    models = [Model(asked, columns, task, task in config.regressions) for task in config.tasks]
    for task, model in zip(config.tasks, models, strict=True):
        train(
            model,
            model.network.optimizer,
            config,
            training,
            asked.epochs,
            tasks=[task],
            penalty=model.network.regularization_loss,
            max_norm=_MAX_NORM,
        )
        model.network.eval()
    return lambda batch: torch.cat([model(batch) for model in models], dim=1)


def main() -> int:
    """Run the command and return its exit code."""
    parser = options("A model of FuxiCTR for each task, as a rival of recap board.", MODELS, 10, (500, 500, 500))
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the layers")
    parser.add_argument("--regularizer", type=float, default=0.0, help="weight of L2 on embeddings")
    return run("fuxictr", "model_zoo.LongCTR", parser, fit)


if __name__ == "__main__":
    sys.exit(main())
