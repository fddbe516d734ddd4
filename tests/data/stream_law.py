"""The law of every stream: restored at any position, it continues exactly as it would have."""

import json
from collections.abc import Callable

import torch

from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream


def assert_same(left: Batch, right: Batch) -> None:
    others = right.tensors()
    assert left.tensors().keys() == others.keys()
    for name, tensor in left.tensors().items():
        assert torch.equal(tensor.nan_to_num(), others[name].nan_to_num()), name


def assert_resumes_everywhere(make: Callable[[], BatchStream], batches: int) -> None:
    """Restore at each of the first `batches` positions, through JSON, and compare all that follows."""
    stream, states, seen = make(), [], []
    states.append(json.dumps(stream.state_dict()))
    for _, batch in zip(range(batches), stream, strict=False):
        seen.append(batch)
        states.append(json.dumps(stream.state_dict()))
    for position, state in enumerate(states):
        restored = make()
        restored.load_state_dict(json.loads(state))
        rest = iter(restored)
        for left, next_state in zip(seen[position:], states[position + 1 :], strict=True):
            assert_same(left, next(rest))
            assert restored.state_dict() == json.loads(next_state)
        rest.close()
