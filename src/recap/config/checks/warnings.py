"""Warnings: what a configuration may say, but most likely does not mean. `RecapConfig.warnings` lists them.

Like checks, they take the sections that they compare, and yield the path of a value and a message.
"""

from recap.config.base import Problems
from recap.config.checks.common import DataSets


def split_warnings(data_sets: DataSets) -> Problems:
    """A validation set reads the files of the training data; one that is named after it does so on purpose."""
    (_, train), *splits = data_sets
    for path, data in splits:
        name = str(path[-1])
        if data.source.inputs == train.source.inputs and not is_training_split(name):
            yield (
                (*path, "source", "inputs"),
                f"{name} reads the files of train_data, so it measures how well the model remembers; hold rows out",
            )


def is_training_split(name: str) -> bool:
    """Whether the name of a validation set says that it evaluates the training data."""
    return name.lower().startswith("train")
