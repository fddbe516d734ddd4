"""Learning rates of the published form."""

from recap.published.form.section import PublishedSection


class Ramp(PublishedSection):
    """A linear ramp to a constant rate."""

    learning_rate: float
    num_ramp_steps: int


class Cosine(PublishedSection):
    """A linear ramp to a rate, and a cosine down to a final one."""

    learning_rate: float
    final_learning_rate: float
    num_ramp_steps: int
    final_num_steps: int


class Pieces(PublishedSection):
    """Constant rates between boundaries."""

    learning_rate_boundaries: list[int]
    learning_rate_values: list[float]


class LearningRate(PublishedSection):
    """A learning rate and its schedule."""

    one_of = (("constant", "linear_ramp_to_constant", "linear_ramp_to_cosine", "piecewise_constant"),)
    constant: float | None = None
    linear_ramp_to_constant: Ramp | None = None
    linear_ramp_to_cosine: Cosine | None = None
    piecewise_constant: Pieces | None = None
