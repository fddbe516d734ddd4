"""The state with which a run resumes bit for bit: named parts, each of which saves and loads its own state.

The tensors of a part go to `NAME.safetensors` in a checkpoint, its other values to `state.json`. To add a part, give it
`state_dict` and `load_state_dict` and list it in `Trainer`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from torch import Tensor

from recap.data.stream.batch_stream import BatchStream
from recap.errors import CheckpointError
from recap.model.ranker import Ranker
from recap.model.shapes import weight_mismatches
from recap.training.saved_weights import SavedWeights
from recap.training.sharded_tables.checkpoints import is_sharded


class Stateful(Protocol):
    """A part of the state of a run: tensors, or plain JSON values, by name.

    A `ShardedTensor` is a tensor of which each rank holds a part. It has the name of the whole tensor, so checkpoints
    do not depend on the ranks.
    """

    def state_dict(self) -> Mapping[str, Any]:
        """The current state; tensors are not copied."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. A `ShardedTensor` is the live one, whose values are restored already."""


@dataclass
class Progress:
    """The progress of a run, as steps and counts. Only the `Trainer` changes it."""

    step: int = 0
    """Finished optimizer steps."""
    evaluated_step: int = 0
    """The last step that was evaluated."""
    skipped_steps: int = 0
    """Non-finite steps, which did not change the weights."""
    rolled_back: list[list[int]] = field(default_factory=list)
    """[start, end) of each batch that made the run roll back, in rows over all epochs; these batches are skipped."""
    best_step: int | None = None
    """The step at which the watched metric was best; its checkpoint is never deleted."""
    finished: bool = False
    """Whether no step or evaluation is left; `recap evaluate --follow` then ends."""

    def state_dict(self) -> Mapping[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for field_ in fields(self):
            if field_.name in state:
                setattr(self, field_.name, state[field_.name])


class ModelWeights:
    """The weights of a model directory."""

    def __init__(self, ranker: Ranker, saved: SavedWeights) -> None:
        self._ranker, self._saved = ranker, saved

    def state_dict(self) -> Mapping[str, Tensor]:
        with self._saved.applied():
            state: dict[str, Tensor] = self._ranker.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load into the ranker. Raises CheckpointError, which lists the weights that do not fit."""
        whole = {name: weight for name, weight in state.items() if not is_sharded(weight)}
        expected = {
            name: weight for name, weight in self._ranker.state_dict().items() if not is_sharded(state.get(name))
        }
        if problems := weight_mismatches(whole, expected):
            raise CheckpointError(f"the weights belong to another model:\n  {problems}")
        self._ranker.load_state_dict(state)


class StreamPosition:
    """The position in the training data after the last finished step; the stream may be one batch ahead."""

    def __init__(self, stream: BatchStream, *, accept_changes: bool = False) -> None:
        """`accept_changes`: resume even if the files changed since the checkpoint."""
        self._stream, self._accept_changes = stream, accept_changes
        self._state = stream.state_dict()

    def advance(self) -> None:
        """A step over the last batch is finished."""
        self._state = self._stream.state_dict()

    def state_dict(self) -> Mapping[str, Any]:
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move the stream to the position. Raises DataError if its files changed, unless that is accepted."""
        self._stream.load_state_dict(dict(state), accept_changes=self._accept_changes)
        self._state = self._stream.state_dict()


@dataclass(frozen=True)
class TrainState:
    """The named parts of a run's state, restored in this order."""

    progress: Progress
    parts: Mapping[str, Stateful]
    """Name → part, `progress` among them."""

    @classmethod
    def of(cls, progress: Progress, **parts: Stateful) -> "TrainState":
        """`progress` and further parts by name."""
        return cls(progress, {"progress": progress, **parts})

    def state_dict(self) -> dict[str, Mapping[str, Any]]:
        """Name → the state of each part."""
        return {name: part.state_dict() for name, part in self.parts.items()}
