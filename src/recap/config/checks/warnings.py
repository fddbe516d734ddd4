"""Warnings: what a configuration may say, but most likely does not mean. `RecapConfig.warnings` lists them.

Like checks, they take the sections that they compare, and yield the path of a value and a message.
"""

from recap.config.base import Problems
from recap.config.checks.common import DataSets
from recap.config.features import FeaturesConfig
from recap.config.featurization import BINARY, DoubleNormLogConfig, FeaturizationConfig

FEW_VALUES = 4
"""A LayerNorm over fewer values loses most of what they say."""


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


def norm_warnings(features: FeaturesConfig, featurization: FeaturizationConfig) -> Problems:
    """A LayerNorm of numbers has at least `FEW_VALUES` of them."""
    lengths = {name: vector.length for name, vector in features.vectors.items()}
    for name, length in lengths.items():
        if name not in featurization.join and length < FEW_VALUES:
            advice = f"list it under features.continuous instead, as {{name: {name}, length: {length}}}"
            yield ("features", "vectors", name), f"{_lost(length)}; {advice}"
    if isinstance(featurization, DoubleNormLogConfig) and featurization.layer_norm is not None:
        joined = [sum(column.read for column in features.binary)] if BINARY in featurization.join else []
        joined += [length for name, length in lengths.items() if name in featurization.join]
        values = sum(column.read for column in features.continuous) + sum(joined)
        if 0 < values < FEW_VALUES:
            yield ("model", "featurization", "layer_norm"), f"{_lost(values)}; set layer_norm: null"


def _lost(values: int) -> str:
    """What a LayerNorm over a few values does to them."""
    if values == 1:
        return "LayerNorm over 1 value always gives 0, so the value is lost"
    return f"LayerNorm over {values} values removes their mean and scale, and with them most of their meaning"
