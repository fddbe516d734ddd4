"""`Program`: a scorer over plain tensors, and its trace, from which every format is written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from recap.config.checks.common import SCORE
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, discrete_columns
from recap.export.inputs import ROWS, Input, batch_of, inputs_of
from recap.model.inputs.featurization import finite
from recap.model.scorer import Scorer

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A loaded program: values of all inputs → outputs, both by name."""
_ROWS_TRACED, _EVENTS_TRACED = 7, 3
"""Sizes of the example; no program depends on them."""


class Program(nn.Module):
    """The values of all `inputs`, in their order → outputs by name: each task [rows] float32, `score` [rows] float64.

    torch would mix up the inputs of a dict in another order. Any value of the right dtype and shape is accepted: a code
    outside its table is 0, the unknown value; a number of events is limited to those there are; numbers of vectors and
    binary features that are not finite are 0.
    """

    def __init__(self, scorer: Scorer, config: RecapConfig, assets: Assets) -> None:
        super().__init__()
        self.scorer, self.tasks = scorer.eval().requires_grad_(False), config.tasks
        self.inputs = inputs_of(config, assets)
        self.discrete = max((columns.stop for columns in discrete_columns(config.features).values()), default=0)
        self.max_events = {
            f"events of {name}": history.max_length for name, history in config.features.histories.items()
        }

    def forward(self, *values: Tensor) -> dict[str, Tensor]:
        scores = self.scorer(self.batch(dict(zip(self.names, values, strict=True))))
        probabilities = scores.calibrated_probabilities.unbind(dim=1)
        return {**dict(zip(self.tasks, probabilities, strict=True)), SCORE: scores.score}

    def batch(self, values: Mapping[str, Tensor]) -> Batch:
        """The rows that the scorer reads."""
        accepted = {each.name: _accepted(each, values[each.name]) for each in self.inputs}
        for each in self.inputs:
            if each.source["kind"] == "events":
                ids = accepted[each.name.removesuffix("length") + "ids"]
                accepted[each.name] = accepted[each.name].clamp(min=0, max=ids.shape[1])
        return batch_of(accepted, self.inputs, self.discrete)

    def values(self, batch: Batch) -> dict[str, Tensor]:
        """The input values of an encoded batch."""
        return {each.name: each.of_batch(batch) for each in self.inputs}

    @property
    def names(self) -> list[str]:
        """The names of the inputs."""
        return [each.name for each in self.inputs]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [*self.tasks, SCORE]


def trace(program: Program) -> ExportedProgram:
    """The program as one graph, for any number of rows and events."""
    sizes = {ROWS: _ROWS_TRACED} | {name: min(most, _EVENTS_TRACED) for name, most in program.max_events.items()}
    dimensions: dict[str, Any] = {ROWS: Dim("rows", min=1)}
    for number, (name, most) in enumerate(program.max_events.items()):
        dimensions[name] = Dim(f"events_{number}", min=1, max=most) if most > 1 else Dim.STATIC
    example, shapes = [], []
    for each in program.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in each.shape]
        example.append(torch.zeros(shape, dtype=each.dtype))
        shapes.append({index: dimensions[name] for index, name in each.dimensions.items()})
    return torch.export.export(program, tuple(example), dynamic_shapes=(tuple(shapes),))


def _accepted(each: Input, values: Tensor) -> Tensor:
    if each.source["kind"] in ("codes", "event codes"):
        assert each.largest is not None
        return torch.where((values >= 0) & (values <= each.largest), values, 0)
    return finite(values) if each.source["kind"] in ("vector", "binary") else values
