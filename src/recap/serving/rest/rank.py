"""`POST /v1/rank`: a user and candidates as JSON objects; the order, scores and probabilities as JSON lists."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from recap.config.serving.server import LimitsConfig
from recap.data.encoding.kinds import is_list
from recap.serving.contract import Engine, RankRequest, RankResponse, Reason, RequestError, Signature
from recap.serving.tensors import check_count, check_names
from recap.text import shorten, suggest

FIELDS = ("model", "version", "id", "user", "candidates", "weights")
_NOT_FINITE = "its prediction is not finite"


def decode_rank(parsed: Any, engine: Engine, limits: LimitsConfig, model: str | None = None) -> RankRequest:
    """The request in parsed JSON. Raises RequestError.

    `model`: that of the path; None: the field `model`, which may be left out if the server has one model.
    """
    if not isinstance(parsed, dict):
        raise _invalid("expected a JSON object with `user` and `candidates`")
    if unknown := [name for name in parsed if name not in FIELDS]:
        raise _invalid(f"unknown field {shorten(repr(unknown[0]))}. {suggest(unknown[0], list(FIELDS))}")
    texts = {name: parsed.get(name) for name in ("model", "version", "id")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise _invalid(f"{name}: found {shorten(repr(value))}, expected text")
    if None not in (model, texts["model"]) and model != texts["model"]:
        raise _invalid("model: another than that of the path; leave it out")
    signature = engine.signature(_model(model or texts["model"], engine), texts["version"])
    user, candidates = _tables(parsed.get("user"), parsed.get("candidates"), signature, limits)
    weights = parsed.get("weights")  # the engine checks tasks and numbers
    if weights is not None and not isinstance(weights, dict):
        raise _invalid(f"weights: found {shorten(repr(weights))}, expected an object of task and weight")
    return RankRequest(signature.model, user, candidates, texts["version"], texts["id"], weights=weights)


def _model(name: str | None, engine: Engine) -> str:
    models = engine.models()
    if name is None and len(models) != 1:
        raise _invalid(f"model: is missing, and the server has several: {', '.join(models) or 'none yet'}")
    return models[0] if name is None else name


def _tables(user: Any, rows: Any, signature: Signature, limits: LimitsConfig) -> tuple[pa.Table, pa.Table]:
    user = {} if user is None else user
    if not isinstance(user, dict):
        raise _invalid("user: expected an object of column and value")
    if not isinstance(rows, list):
        raise _invalid("candidates: expected a list of objects of column and value")
    check_count(len(rows), 0, limits)
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise _invalid(f"candidate {wrong}: found {shorten(repr(rows[wrong]))}, expected an object of column and value")
    names = list(rows[0])
    check_names([*user, *names], signature, "column")
    for index, row in enumerate(rows):
        if len(row) != len(names):
            odd = next(iter(row.keys() ^ rows[0].keys()))
            raise _unlike(index, odd, odd in row)
    columns: dict[str, pa.Array] = {}
    try:
        for name in names:
            columns[name] = _column(name, [row[name] for row in rows], signature, "candidate {}")
    except KeyError:
        index = next(index for index, row in enumerate(rows) if name not in row)
        raise _unlike(index, name, present=False) from None
    users = {name: _column(name, [value], signature, "user") for name, value in user.items()}
    check_count(len(rows), sum(_size(column) for column in (*columns.values(), *users.values())), limits)
    return pa.table(users), pa.table(columns)


def _unlike(index: int, name: str, present: bool) -> RequestError:
    text = "which candidate 0 has not" if present else "as candidate 0 has; null where there is no value"
    has = "has" if present else "expected"
    return _invalid(f"candidate {index}: {has} a column {shorten(repr(name))}, {text}")


def _size(column: pa.Array) -> int:
    return len(column) + (len(column.values) if is_list(column.type) else 0)


def _column(name: str, values: list[Any], signature: Signature, owner: str) -> pa.Array:
    """Values of JSON as an array; None is null. Raises RequestError that names the first that does not fit."""
    kind, kinds = signature.columns.get(name), set(map(type, values))
    if kind is None or not is_list(kind):
        if kinds & {list, dict}:
            wrong = next(row for row, value in enumerate(values) if isinstance(value, list | dict))
            raise _misfit(name, owner.format(wrong), values[wrong], "one value")
        return _array(name, values, kind, lambda index: owner.format(index))
    if not kinds <= {list, type(None)}:
        wrong = next(row for row, value in enumerate(values) if value is not None and not isinstance(value, list))
        raise _misfit(name, owner.format(wrong), values[wrong], "a list")
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([0 if value is None else len(value) for value in values], out=offsets[1:])
    flat = list(chain.from_iterable(value for value in values if value is not None))
    elements = _array(
        name, flat, kind.value_type, lambda index: owner.format(int(np.searchsorted(offsets, index, "right")) - 1)
    )
    missing = np.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array(missing) if missing.any() else None)


def _array(name: str, values: list[Any], kind: pa.DataType | None, owner: Any) -> pa.Array:
    """`kind`: the type that the model reads; `owner`: index → the words for its candidate or user."""
    kinds = set(map(type, values)) - {type(None)}
    numbers = kind is not None and pa.types.is_floating(kind)
    allowed = {bool, int, float} if numbers else {bool, int, float, str}
    if not kinds <= allowed or (str in kinds and not kinds <= {str, int}):
        fits = {str, int} if str in kinds and not numbers else {bool, int, float}
        index = next(index for index, value in enumerate(values) if value is not None and type(value) not in fits)
        expected = "a number" if numbers else "text or a whole number, as in the other candidates"
        raise _misfit(name, owner(index), values[index], expected)
    if not kinds:
        return pa.nulls(len(values), pa.string() if kind is None else kind)
    if str in kinds:
        if int in kinds:
            values = [str(value) if isinstance(value, int) else value for value in values]
        return pa.array(values, pa.string())
    if numbers or float in kinds:
        if kinds != {float}:
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    whole = [None if value is None else int(value) for value in values]
    try:
        return pa.array(whole, pa.int64())
    except OverflowError:
        return _large(name, whole, owner)


def _large(name: str, values: list[int | None], owner: Any) -> pa.Array:
    """Integers of which some are beyond int64."""
    negative = next((index for index, value in enumerate(values) if value is not None and value < 0), None)
    if negative is not None:
        raise _misfit(name, owner(negative), values[negative], "at least 0, as other candidates are beyond int64")
    return pa.array(values, pa.uint64())


def encode_rank(request: RankRequest, response: RankResponse, carried: Sequence[str]) -> bytes:
    """The body of a response: lists over the candidates that were scored, in the order of the request.

    Numbers that are not finite are null; their candidates are in `errors`, and not in `order` if they have no score.
    """
    scores = response.scores
    finite = np.isfinite(scores)
    order = np.argsort(np.where(finite, -scores, np.inf), kind="stable")[: int(finite.sum())]
    content: dict[str, Any] = {"model": response.model, "version": response.version}
    if response.id is not None:
        content["id"] = response.id
    ids = {name: request.candidates[name].to_pylist()[: len(scores)] for name in carried if name in _names(request)}
    content |= {
        "order": order,
        "scores": scores,
        "probabilities": {
            task: np.ascontiguousarray(response.probabilities[:, index]) for index, task in enumerate(response.tasks)
        },
        "ids": ids,
        "errors": [{"candidate": index, "error": _NOT_FINITE} for index in response.failed.tolist()],
        "shed": response.candidates - len(scores),
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _names(request: RankRequest) -> Sequence[str]:
    names: Sequence[str] = request.candidates.column_names
    return names


def describe_signature(signature: Signature) -> dict[str, Any]:
    """A model in `GET /v1/models`."""
    return {
        "model": signature.model,
        "versions": list(signature.versions),
        "columns": {name: kind_of(kind) for name, kind in signature.columns.items()},
        "carried": list(dict.fromkeys([*signature.carried, *([signature.user] if signature.user else [])])),
        "user": signature.user,
        "tasks": list(signature.tasks),
        "regressions": list(signature.regressions),
        "weights": dict(signature.weights),
        "weights_from_requests": signature.weights_from_requests,
    }


def kind_of(kind: pa.DataType) -> str:
    """`number`, `integer` or `text`, or a list of them, such as `numbers`."""
    element = kind.value_type if is_list(kind) else kind
    word = "number" if pa.types.is_floating(element) else "integer" if pa.types.is_integer(element) else "text"
    return {"number": "numbers", "integer": "integers", "text": "texts"}[word] if is_list(kind) else word


def _misfit(name: str, owner: str, value: Any, expected: str) -> RequestError:
    return _invalid(f"{owner}: column {name!r}: found {shorten(repr(value))}, expected {expected}")


def _invalid(message: str) -> RequestError:
    return RequestError(Reason.INVALID, message)
