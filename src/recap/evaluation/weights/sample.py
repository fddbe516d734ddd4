"""`sample_lists`: the lists of a validation set on which other weights are tried."""

from pathlib import Path

from recap.config.recap import RecapConfig
from recap.data.open import open_split
from recap.errors import InputError
from recap.evaluation.asked import validated
from recap.evaluation.evaluate import evaluate
from recap.evaluation.observers.score import SampledLists
from recap.evaluation.run import chosen_split, evaluation_config, max_batches
from recap.evaluation.weights.lists import MIN_ROWS, ListSample
from recap.model.directory import open_model
from recap.reporting import Say, say_to_stderr
from recap.runs import Step, find_model_directory
from recap.runtime import start_runtime


def sample_lists(
    config: RecapConfig, run: Path, split: str | None = None, step: Step | None = None, say: Say = say_to_stderr
) -> ListSample:
    """Score a validation set of `config`, by default the first, with a checkpoint of `run`, and sample its lists.

    The current weights are those of `config`.

    Raises InputError if it has no list that is long enough, ConfigError for an unknown split, CheckpointError for a
    missing step.
    """
    name = chosen_split(config, split)
    folder = find_model_directory(run, step)
    model = open_model(folder)
    combined = evaluation_config(config, model.config, folder)
    scoring = combined.scoring.model_dump() | {"weights": config.scoring.weights}
    combined = validated(combined.model_dump() | {"scoring": scoring}, folder)
    runtime = start_runtime()
    scorer = model.scorer(combined, runtime.device)
    stream = open_split(combined, model.assets, name, say)
    observer = SampledLists(combined, runtime.ranks)
    evaluate(scorer, stream, [observer], max_batches(combined))
    sample = observer.result()
    if sample is None:
        has_lists = combined.features.user is not None or combined.features.request is not None
        raise InputError(
            f"{name}: no list has {MIN_ROWS} rows or more, so there is nothing to rank; choose another --split"
            if has_lists
            else f"{name}: has no lists to rank, because neither features.user nor features.request is set; set one"
        )
    return sample
