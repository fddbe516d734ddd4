"""Tensors of the Open Inference Protocol become columns, and predictions become tensors."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.config.serving.server import LimitsConfig
from recap.serving.contract import RankResponse, Reason, RequestError, Signature
from recap.serving.tensors import (
    DATATYPES,
    InferTensor,
    bytes_of,
    checked_shape,
    request_tables,
    response_parameters,
    response_tensors,
    tensor_of_bytes,
    tensor_of_values,
)

LIMITS = LimitsConfig(candidates=1000, values=100_000)
SIGNATURE = Signature(
    model="feed",
    versions=["1"],
    columns={
        "age": pa.float64(),
        "hour": pa.int64(),
        "language": pa.string(),
        "vector": pa.list_(pa.float64()),
        "watched": pa.list_(pa.int64()),
    },
    tasks=["like", "share"],
    regressions=[],
    user="user_id",
    carried=["post_id", "hour"],
)


def tensor(name: str, datatype: str, data: Any, shape: list[int] | None = None) -> InferTensor:
    shape = [len(data)] if shape is None else shape
    return tensor_of_values(name, datatype, checked_shape(name, datatype, shape, LIMITS), data)


def request(**changes: InferTensor | None) -> list[InferTensor]:
    """Two candidates and the history of their user."""
    tensors: dict[str, InferTensor | None] = {
        "age": tensor("age", "FP32", [1, None]),
        "hour": tensor("hour", "INT32", [5, 6]),
        "language": tensor("language", "BYTES", ["en"]),
        "vector": tensor("vector", "FP64", [[1.0, 2.0], [3.0, 4.0]], [2, 2]),
        "watched": tensor("watched", "UINT64", [7, 8, 9], [1, 3]),
    }
    return [item for item in (tensors | changes).values() if item is not None]


def test_inputs_of_one_row_are_the_user_and_the_others_candidates() -> None:
    user, candidates = request_tables(request(post_id=tensor("post_id", "BYTES", ["a", "b"])), SIGNATURE, LIMITS)
    assert user.to_pylist() == [{"language": b"en", "watched": [7, 8, 9]}]
    assert candidates.to_pylist() == [
        {"age": 1.0, "hour": 5, "vector": [1.0, 2.0], "post_id": b"a"},
        {"age": None, "hour": 6, "vector": [3.0, 4.0], "post_id": b"b"},
    ]


def test_inputs_of_a_single_candidate_are_all_its_own() -> None:
    user, candidates = request_tables(
        request(
            age=tensor("age", "FP16", [1.5], [1, 1]),
            hour=tensor("hour", "BOOL", [True]),
            vector=tensor("vector", "INT8", [1, 2], [1, 2]),
            watched=tensor("watched", "INT64", [], [1, 0]),
        ),
        SIGNATURE,
        LIMITS,
    )
    assert user.num_columns == 0
    assert candidates.to_pylist() == [
        {"age": 1.5, "hour": True, "language": b"en", "vector": [1, 2], "watched": []},
    ]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda: request(age=tensor("age", "FP32", [1, 2, 3])), "its first dimension is 2, expected 3"),
        (lambda: request(age=tensor("age", "BYTES", ["x", "y"])), "input 'age': found BYTES, expected numbers"),
        (lambda: request(age=tensor("age", "FP32", [1, 2, 3, 4], [2, 2])), r"expected \[N\] or \[N, 1\]"),
        (lambda: request(vector=tensor("vector", "FP32", [1, 2])), r"input 'vector': found shape \[2\].*\[N, L\]"),
        (lambda: request(age=None), "input 'age': is missing. Found: hour, language, vector, watched"),
        (lambda: request(x=tensor("agee", "FP32", [1, 2])), "input 'agee': .*leave it out.*Did you mean 'age'"),
        (lambda: request(x=tensor("zzz", "FP32", [1])), r"Known: age, hour, language, vector, watched, post_id\.?$"),
        (lambda: request(x=tensor("hour", "FP32", [1, 2])), "input 'hour': appears twice"),
        (list, "input 'age': is missing, and so are 4 others. Found: none"),
        (lambda: [tensor("age", "FP32", list(range(1001))), *request(age=None)], "at most 1,000; send fewer"),
        (lambda: tensor("age", "FP32", ["x"]), "found 'x', expected FP32"),
        (lambda: tensor("age", "FP32", [True]), "found True, expected FP32"),
        (lambda: tensor("age", "FP32", [[1.0]]), r"found \[1.0\], expected FP32"),
        (lambda: tensor("age", "FP32", {"a": 1}), "expected a list of values"),
        (lambda: tensor("hour", "INT8", [1.5]), "found 1.5, expected INT8"),
        (lambda: tensor("hour", "INT8", [300]), "outside the range of INT8"),
        (lambda: tensor("hour", "INT64", [2**63]), "outside the range of INT64"),
        (lambda: tensor("vector", "FP32", [1, 2, 3], [2, 2]), "found 3 values, expected 4"),
        (lambda: tensor("vector", "FP32", [[1, 2], [3]], [2, 2]), "list 1 has 1 value, expected 2"),
        (lambda: tensor("vector", "FP32", [[1, 2], 3], [2, 2]), "its lists do not have the shape"),
        (lambda: tensor("age", "FLOAT", [1]), "found datatype 'FLOAT', expected one of BOOL, INT8"),
        (lambda: tensor("age", "FP32", [1], [-1]), r"found shape \[-1\], expected whole numbers"),
        (lambda: tensor("age", "FP32", [1], [1.0]), r"found shape \[1.0\], expected whole numbers"),
        (lambda: tensor("age", "FP32", [1], []), r"found shape \[\], expected \[N\]"),
        (lambda: tensor("age", "FP32", [1], [2**62, 4]), "has more than 100,000 values"),
        (lambda: tensor("age", "FP32", [1], [1] * 9), r"expected \[N\]"),
    ],
)
def test_an_error_names_the_input_and_what_is_expected(tensors: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request_tables(tensors(), SIGNATURE, LIMITS)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", (2,), b"1234567", "found 7 bytes of data, expected 8"),
        ("BYTES", (2,), b"\0\0\0\0", "too few for BYTES"),
        ("BYTES", (1,), b"\xff\xff\xff\xff", "ends within element 0"),
        ("BYTES", (1,), b"\0\0\0\0xy", "found 2 bytes after the last of 1 element"),
    ],
)
def test_binary_data_must_have_the_size_of_its_shape(
    datatype: str, shape: tuple[int, ...], data: bytes, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        tensor_of_bytes("x", datatype, shape, memoryview(data))
    assert caught.value.reason is Reason.INVALID


@given(st.sampled_from([name for name in DATATYPES if name != "BYTES"]), st.binary(max_size=64), st.integers(0, 3))
def test_binary_numbers_hold_the_same_bits_at_any_offset(datatype: str, data: bytes, offset: int) -> None:
    kind = np.dtype(DATATYPES[datatype][1])
    count = len(data) // kind.itemsize
    body = memoryview(bytes(offset) + data[: count * kind.itemsize])[offset:]
    values = tensor_of_bytes("x", datatype, (count,), body).values
    if datatype == "BOOL":
        assert values.to_pylist() == [byte != 0 for byte in body]
    else:
        assert values.to_numpy().tobytes() == body.tobytes()


@given(st.lists(st.binary(max_size=5)))
def test_binary_texts_are_split_by_their_lengths(texts: list[bytes]) -> None:
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    assert tensor_of_bytes("x", "BYTES", (len(texts),), memoryview(data)).values.to_pylist() == texts


def test_binary_numbers_are_not_copied() -> None:
    body = np.arange(10, dtype=np.float32)
    values = tensor_of_bytes("x", "FP32", (10,), memoryview(body).cast("B")).values
    assert values.buffers()[1].address == body.ctypes.data
    assert bytes_of(InferTensor("x", "FP32", (10,), values)).obj.ctypes.data == body.ctypes.data  # type: ignore[attr-defined]


def test_outputs_are_a_tensor_for_each_task_and_the_score() -> None:
    probabilities = np.array([[0.5, 0.25], [np.nan, 0.75]], np.float32)
    response = RankResponse(
        "feed", "1", ["like", "share"], probabilities, np.array([2.0, np.nan]), candidates=3, failed=np.array([1])
    )
    tensors = {item.name: item for item in response_tensors(response)}
    assert {name: (item.datatype, item.shape) for name, item in tensors.items()} == {
        "like": ("FP32", (2,)),
        "share": ("FP32", (2,)),
        "score": ("FP64", (2,)),
    }
    assert tensors["like"].values.to_pylist() == [0.5, -1.0]
    assert tensors["score"].values.to_pylist() == [2.0, -1.0]
    assert response_parameters(response) == {"shed": 1, "failed": "1"}
    assert [item.name for item in response_tensors(response, ["score"])] == ["score"]
    with pytest.raises(RequestError, match=r"output 'liked': unknown.*Did you mean 'like'"):
        response_tensors(response, ["liked"])
