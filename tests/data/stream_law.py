"""The law of every stream: restored at any place, it goes on exactly as it would have."""

import json
from collections.abc import Callable
from dataclasses import fields

import torch

from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream


def assert_same(left: Batch, right: Batch) -> None:
    for field in fields(left):
        first, second = getattr(left, field.name), getattr(right, field.name)
        if isinstance(first, torch.Tensor):
            assert torch.equal(first.nan_to_num(), second.nan_to_num()), field.name
    for name, vector in left.vectors.items():
        assert torch.equal(vector, right.vectors[name]), name
    assert left.histories.keys() == right.histories.keys()
    for name, events in left.histories.items():
        assert torch.equal(events.nan_to_num(), right.histories[name].nan_to_num()), name


def assert_resumes_everywhere(make: Callable[[], BatchStream], batches: int) -> None:
    """Restore at each of the first `batches` places, through JSON, and compare all that follows."""
    stream, states, seen = make(), [], []
    states.append(json.dumps(stream.state_dict()))
    for _, batch in zip(range(batches), stream, strict=False):
        seen.append(batch)
        states.append(json.dumps(stream.state_dict()))
    for place, state in enumerate(states):
        restored = make()
        restored.load_state_dict(json.loads(state))
        rest = iter(restored)
        for left, state_behind in zip(seen[place:], states[place + 1 :], strict=True):
            assert_same(left, next(rest))
            assert restored.state_dict() == json.loads(state_behind)
        rest.close()
