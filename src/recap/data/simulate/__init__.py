"""A simulated feed: impressions with labels whose true probabilities are known."""

from recap.data.simulate.world import TASKS
from recap.data.simulate.writer import simulate

__all__ = ["TASKS", "simulate"]
