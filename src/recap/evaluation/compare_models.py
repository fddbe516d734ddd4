"""`recap compare`: evaluates models on the same rows and compares each with the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recap.config.evaluation.gate import GateConfig
from recap.errors import InputError
from recap.evaluation.asked import OTHER_DATA, Asked, with_other_data
from recap.evaluation.compare import Comparison, compare
from recap.evaluation.gate import check_rules, score_metrics
from recap.evaluation.run import chosen_split
from recap.evaluation.sides import Side, common_tasks, evaluated, is_run, side_config
from recap.reporting import Say
from recap.runs import Step
from recap.runtime import start_runtime


@dataclass(frozen=True)
class Compared:
    """Models against a baseline."""

    baseline: str
    split: str
    comparisons: Mapping[str, Comparison]
    """The name of each model → its comparison."""


def compare_models(
    baseline: Path,
    models: Sequence[Path],
    split: str | None,
    data: Sequence[str],
    say: Say,
    *,
    step: Step | None = None,
    gate: GateConfig | None = None,
) -> Compared:
    """Evaluate `baseline` and `models` on a validation set of the baseline, or on the files `data`.

    `step`: the checkpoint of those that are runs. Each model reads the rows with its own features; labels, rates and
    users are those of the baseline. Raises ConfigError for an unknown split, or a task or metric of `gate` that the
    comparison lacks, CheckpointError for a missing model or step, InputError for a step where nothing is a run,
    DataError for files that lack a column of a model.
    """
    if step is not None and not any(is_run(path) for path in (baseline, *models)):
        raise InputError("--step: none of the models is a run, so none has steps; remove --step")
    first, runtime = Side.open_as_is(baseline, step), start_runtime()
    config = first.config
    if data:
        config, split = with_other_data(config, Asked(tuple(data)), split), OTHER_DATA
    name = chosen_split(config, split)
    sides = [Side.open_as_is(path, step) for path in models]
    names = [side.name for side in (first, *sides)]
    if len({*names}) < len(names):  # folders of one name in different places
        names = [f"{side.path}, {side.folder.name}" if side.is_run else str(side.path) for side in (first, *sides)]
    if len({*names}) < len(names):
        raise InputError("a model is given twice; name each once")
    results, left_out = {}, {}
    configs = [side_config(side, config, name, common_tasks(side, first)) for side in (first, *sides)]
    if gate is not None:
        for side, own in zip(sides, configs[1:], strict=True):
            check_rules(gate, common_tasks(side, first), score_metrics(configs[0], own))
    for side, label, own in zip((first, *sides), names, configs, strict=True):
        left_out[label] = tuple(sorted({*first.model.config.tasks} ^ {*side.model.config.tasks}))
        say(f"evaluating {label} on {name}")
        results[label] = evaluated(side, own, name, runtime, say)
    of_baseline = results.pop(names[0])
    comparisons = {
        label: replace(compare(of_baseline, result), left_out=left_out[label]) for label, result in results.items()
    }
    return Compared(names[0], name, comparisons)
