"""How much each probability counts in the final score."""

from recap.config.base import BaseConfig, Name


class ScoringConfig(BaseConfig):
    """The section `scoring`."""

    weights: dict[Name, float] = {}
    """Weight of each task's calibrated probability, or of the value of a regression; tasks not named do not count."""
