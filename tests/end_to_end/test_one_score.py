"""One score: the same rows have the same predictions on every path, from evaluation to a request over gRPC."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest
import torch
from export.models import all_features, write
from serving.running import running
from support import history_table, write_feed
from typer.testing import CliRunner

import recap
from recap.cli.main import app
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.open import open_split
from recap.evaluation.evaluate import evaluate
from recap.export.exported import Exported
from recap.model.directory import open_model
from recap.model.scorer import Scores
from recap.serving.grpc.messages import SERVICE, message_class
from recap.serving.server import Addresses

OUTPUTS = ("like", "share", "score")
CANDIDATES = 40
USERS = 4
OF_USER = ("age", "hour", "words", "watched", "watched_action", "watched_language", "watched_gap")
Columns = dict[str, npt.NDArray[Any]]
Tensor = tuple[str, list[int], list[Any]]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
"""Of exported models, whose operations another compiler orders, and of requests whose user has a history that the
transformer encodes once. All other paths agree to the bit."""


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """The candidates of users, who have histories of different lengths, one of them none."""
    table = history_table(USERS * CANDIDATES, seed=11)
    table = table.append_column("words", pa.array([[f"word {row}"] for row in range(table.num_rows)]))
    lengths = pc.list_value_length(table["watched"]).to_numpy()
    users = [int(np.flatnonzero(lengths == length)[0]) for length in (0, 1, 4, 7)]
    of_user = pa.array(np.repeat(users, CANDIDATES))
    for name in OF_USER:
        table = table.set_column(table.column_names.index(name), name, table[name].take(of_user))
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rows: pa.Table) -> Path:
    """`model/`, a model with every kind of feature, and `rows/`."""
    folder = tmp_path_factory.mktemp("one_score")
    (folder / "rows").mkdir()
    pq.write_table(rows, folder / "rows" / "rows.parquet", row_group_size=37)
    write(reading(folder), folder / "model")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path, rows: pa.Table) -> Columns:
    """What recap.Scorer predicts."""
    return columns_of(recap.Scorer.open(folder / "model")(rows))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Addresses]:
    with running(folder / "model", address={"grpc_port": 0}) as addresses:
        yield addresses


def reading(folder: Path) -> RecapConfig:
    """The configuration of the model, whose validation split is `rows/`."""
    config = all_features(write_feed(folder / "feed", histories=True))
    values = config.model_dump(mode="json")
    values["validation_data"]["validation"]["source"]["inputs"] = [str(folder / "rows" / "*.parquet")]
    return RecapConfig.model_validate(values)


def columns_of(table: pa.Table) -> Columns:
    return {name: table[name].to_numpy() for name in OUTPUTS}


def same(found: Mapping[str, Any], expected: Columns, *, to_the_bit: bool = True) -> None:
    for name in OUTPUTS:
        values = np.asarray(found[name]).astype(expected[name].dtype)
        if to_the_bit:
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
        else:
            np.testing.assert_allclose(values, expected[name], **TOLERANCE, err_msg=name)


@pytest.mark.slow
def test_evaluate(folder: Path, expected: Columns) -> None:
    model = open_model(folder / "model")
    scorer = model.scorer(model.config, torch.device("cpu"))
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Collect:
        def update(self, batch: Batch, scores: Scores) -> None:
            parts.append((scores.calibrated_probabilities, scores.score))

    evaluate(scorer, open_split(model.config, model.assets, "validation", print), [Collect()])
    probabilities = torch.cat([part for part, _ in parts]).numpy()
    score = torch.cat([part for _, part in parts]).numpy()
    same({"like": probabilities[:, 0], "share": probabilities[:, 1], "score": score}, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl"])
def test_predict(folder: Path, expected: Columns, kind: str, tmp_path: Path) -> None:
    arguments = [str(folder / "model"), str(folder / "rows" / "*.parquet"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["predict", *arguments, "--format", kind])
    assert done.exit_code == 0, done.output
    same(columns_of(read(tmp_path / "out" / f"rows.{kind}", kind)), expected)


def read(file: Path, kind: str) -> pa.Table:
    if kind == "parquet":
        return pq.read_table(file)
    if kind == "arrow":
        return pa.ipc.open_file(file).read_all()
    return (pa.csv.read_csv if kind == "csv" else pa.json.read_json)(file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_exports(folder: Path, rows: pa.Table, expected: Columns, kind: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(folder / "model"), "--format", kind, "--output", str(tmp_path / "x")])
    assert done.exit_code == 0, done.output
    same(columns_of(Exported.open(tmp_path / "x")(rows)), expected, to_the_bit=False)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["rank", "json", "binary", "grpc"])
@pytest.mark.parametrize("as_user", [True, False], ids=["columns of the user", "all columns of candidates"])
def test_serve(rows: pa.Table, server: Addresses, expected: Columns, way: str, as_user: bool) -> None:
    read = httpx.get(f"{server.http}/v2/models/feed").json()["inputs"]
    rows = rows.select([tensor["name"] for tensor in read])
    found: dict[str, list[Any]] = {name: [] for name in OUTPUTS}
    for start in range(0, rows.num_rows, CANDIDATES):
        part = rows.slice(start, CANDIDATES)
        of_user = part.select([name for name in OF_USER if as_user]).slice(0, 1)
        of_candidates = part.drop_columns(of_user.column_names)
        answer = WAYS[way](server, of_user, of_candidates)
        for name in OUTPUTS:
            found[name].extend(answer[name])
    same(found, expected, to_the_bit=not as_user)


def rank(server: Addresses, user: pa.Table, candidates: pa.Table) -> dict[str, Any]:
    (user_values,) = user.to_pylist() or [{}]
    body = {"user": user_values, "candidates": candidates.to_pylist()}
    answer = httpx.post(f"{server.http}/v1/models/feed/rank", content=dumped(body), headers=JSON)
    assert answer.status_code == 200, answer.text
    scored = answer.json()
    return {**scored["probabilities"], "score": scored["scores"]}


JSON = {"Content-Type": "application/json"}


def dumped(body: Any) -> str:
    """JSON, in which NaN is null."""
    return json.dumps(json.loads(json.dumps(body), parse_constant=lambda _: None))


def tensors(user: pa.Table, candidates: pa.Table) -> dict[str, Tensor]:
    """Input → datatype, shape, flat values."""
    found: dict[str, Tensor] = {}
    for table in (user, candidates):
        for name in table.column_names:
            column, shape = table[name].combine_chunks(), [table.num_rows]
            if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
                lengths = {len(value) for value in column.to_pylist()}
                shape.append(*lengths)
                column = column.flatten()
            datatype = next(text for is_kind, text in DATATYPES if is_kind(column.type))
            found[name] = (datatype, shape, column.to_pylist())
    return found


DATATYPES = [
    (pa.types.is_boolean, "BOOL"), (pa.types.is_float64, "FP64"), (pa.types.is_floating, "FP32"),
    (pa.types.is_int32, "INT32"), (pa.types.is_integer, "INT64"), (pa.types.is_string, "BYTES"),
]  # fmt: skip
NUMPY = {"BOOL": "?", "FP64": "<f8", "FP32": "<f4", "INT32": "<i4", "INT64": "<i8"}


def packed(tensor: Tensor) -> bytes:
    datatype, _, values = tensor
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)
    return np.array([np.nan if value is None else value for value in values], NUMPY[datatype]).tobytes()


def as_json(server: Addresses, user: pa.Table, candidates: pa.Table) -> dict[str, Any]:
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "data": values}
        for name, (datatype, shape, values) in tensors(user, candidates).items()
    ]
    answer = httpx.post(f"{server.http}/v2/models/feed/infer", content=dumped({"inputs": inputs}), headers=JSON)
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def as_binary(server: Addresses, user: pa.Table, candidates: pa.Table) -> dict[str, Any]:
    inputs, binary = [], []
    for name, tensor in tensors(user, candidates).items():
        binary.append(packed(tensor))
        parameters = {"binary_data_size": len(binary[-1])}
        inputs.append({"name": name, "datatype": tensor[0], "shape": tensor[1], "parameters": parameters})
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    answer = httpx.post(f"{server.http}/v2/models/feed/infer", content=b"".join([head, *binary]), headers=headers)
    assert answer.status_code == 200, answer.text
    start, found = int(answer.headers["Inference-Header-Content-Length"]), {}
    for output in json.loads(answer.content[:start])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(answer.content[start : start + size], NUMPY[output["datatype"]])
        start += size
    return found


def over_grpc(server: Addresses, user: pa.Table, candidates: pa.Table) -> dict[str, Any]:
    message = message_class("ModelInferRequest")(model_name="feed")
    for name, tensor in tensors(user, candidates).items():
        message.inputs.add(name=name, datatype=tensor[0], shape=tensor[1])
        message.raw_input_contents.append(packed(tensor))
    assert server.grpc is not None
    with grpc.insecure_channel(server.grpc) as channel:
        decode = message_class("ModelInferResponse").FromString
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer", type(message).SerializeToString, decode)
        answer = call(message, timeout=60)
    raw = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: np.frombuffer(data, NUMPY[output.datatype]) for output, data in raw}


WAYS = {"rank": rank, "json": as_json, "binary": as_binary, "grpc": over_grpc}
