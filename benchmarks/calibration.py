"""The calibration of a recipe's tasks out of the box: mean prediction / mean label on training and validation rows.

    python benchmarks/calibration.py recipes/simulated/ranker.yaml [section.key=value …] [--seeds 3]

The data of the recipe must exist (`make run`, `make recipe-kuairand`, `make recipe-census`). Each seed trains once,
with a moving average of the weights; both the averages and the raw weights are measured, in up to three modes:
`evaluation`, as saved; `batch`, where BatchNorm uses the rows of the batch instead of its running statistics; and
`training`, with dropout too. The differences are what running statistics and dropout add. Batches are those of the
files, so they are like those of training only if the rows of the files are in no order. By chance alone a calibration
differs from 1 by about 1 / √positives.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from recap.config.file.load import load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.open import open_stream
from recap.model.directory import SavedModel, open_model
from recap.model.layers import Dropout, row_norms
from recap.model.scorer import Scorer
from recap.reporting import Reporter
from recap.runs import find_model_directory
from recap.training.trainer import train


def main() -> None:
    """Train with every seed, and print a row per task and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append the measurements to this file, one object a line")
    options = parser.parse_args()
    print(f"{'seed':>4} {'weights':<8} {'mode':<10} {'task':<22} {'positives':>9} {'train':>7} {'validation':>10}")
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            model, raw = trained(options.recipe, options.overrides, seed, Path(folder) / "run")
        for weights, mode, calibrations in measured(model, raw):
            for task, (positives, on_train, on_validation) in calibrations.items():
                row = [seed, weights, mode, task, positives, on_train, on_validation]
                print(
                    f"{seed:>4} {weights:<8} {mode:<10} {task:<22} {positives:>9,.0f} {on_train:>7.3f} "
                    f"{on_validation:>10.3f}",
                    flush=True,
                )
                if options.json is not None:
                    with options.json.open("a") as file:
                        file.write(json.dumps([str(options.recipe), options.overrides, *row]) + "\n")


def trained(recipe: Path, overrides: Sequence[str], seed: int, run: Path) -> tuple[SavedModel, dict[str, Tensor]]:
    """The model of a run with the averages of its weights, and the raw weights."""
    steps = load_config(recipe, list(overrides)).training.num_train_steps
    changes = [
        f"training.save_dir={run}",
        f"training.seed={seed}",
        "training.eval_log_every_n=null",
        f"training.ema={{decay: {1 - 10 / steps:.4f}}}",
    ]
    train(load_config(recipe, [*overrides, *changes]), Reporter())
    folder = find_model_directory(run)
    return open_model(folder), load_file(folder / "raw_weights.safetensors")


Calibrations = dict[str, tuple[float, float, float]]
"""Task → positives in validation, calibration on training rows, calibration on validation rows."""


def measured(model: SavedModel, raw: dict[str, Tensor]) -> list[tuple[str, str, Calibrations]]:
    """(weights, mode, calibrations) of each variant. Changes the weights of `model`."""
    results = []
    for weights in ("averaged", "raw"):
        if weights == "raw":
            model.ranker.load_state_dict(raw, strict=False)
        norms = row_norms(model.ranker)
        for norm in norms:
            norm.momentum = 0.0  # leaves the running statistics as they are
        drops = any(isinstance(module, Dropout) and module.p for module in model.ranker.modules())
        for mode in ("evaluation", "batch", *(("training",) if drops else ())):
            model.ranker.train(mode == "training")
            for norm in norms:
                norm.train(mode != "evaluation")
            results.append((weights, mode, calibrations(model.config, model)))
    return results


@torch.inference_mode()
def calibrations(config: RecapConfig, model: SavedModel) -> Calibrations:
    """The calibration of every binary task, over all training rows and all rows of the first validation set."""
    on_train = config.model_copy(update={"validation_data": {"train": config.train_data.model_copy()}})
    split = next(iter(config.validation_data))
    (trained_on, train_labels, _), (predicted, labels, positives) = (
        totals(on_train, model, "train"),
        totals(config, model, split),
    )
    return {
        task: (
            positives[index].item(),
            (trained_on[index] / train_labels[index]).item(),
            (predicted[index] / labels[index]).item(),
        )
        for index, task in enumerate(config.tasks)
        if task not in config.regressions
    }


def totals(config: RecapConfig, model: SavedModel, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Σ weight · prediction, Σ weight · label and the number of positives over a split, [T] float64 each."""
    scorer = Scorer.of(config, model.ranker)
    predicted, labels, positives = (torch.zeros(len(config.tasks), dtype=torch.float64) for _ in range(3))
    for batch in open_stream(config, model.assets, JobMode.EVALUATE, split):
        assert batch.labels is not None
        assert batch.weights is not None
        probabilities = scorer(batch).calibrated_probabilities.double()
        predicted += (probabilities * batch.weights).sum(dim=0)
        labels += (batch.labels.double() * batch.weights).sum(dim=0)
        positives += ((batch.labels == 1) & (batch.weights > 0)).sum(dim=0)
    return predicted, labels, positives


if __name__ == "__main__":
    main()
