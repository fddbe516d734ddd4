"""REST: what each route answers, what is refused and how, against a real server with a small model."""

import gzip
import json
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
import tritonclient.http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving.running import running, small_model
from support import feed_table

import recap
from recap.config.serving.server import LimitsConfig
from recap.errors import InputError
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError
from recap.serving.rest.body import compressed, inflate, nesting, parse_json
from recap.serving.rest.infer import Wanted, encode_infer
from recap.serving.rest.rank import encode_rank
from recap.serving.security import Token

COLUMNS = ["age", "followers", "in_network", "hour", "language", "vector"]
TOKEN = "correct-horse-battery"
LIMITS = {"body_mib": 1, "decompressed_mib": 2, "candidates": 60, "values": 2000, "json_depth": 8, "body_seconds": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[httpx.Client]:
    """Of a server with small limits and weights from requests."""
    served = {"weights_from_requests": True}
    with running(model, model=served, limits=LIMITS) as addresses, httpx.Client(base_url=addresses.http) as client:
        yield client


def candidates(count: int = 5) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = feed_table(count).select([*COLUMNS, "post_id"]).to_pylist()
    return rows


def tensors(count: int = 5) -> dict[str, Any]:
    """The same candidates as a request of the Open Inference Protocol."""
    rows = candidates(count)
    kinds = {"hour": "INT64", "language": "BYTES", "in_network": "BOOL"}
    inputs = [
        {
            "name": name,
            "datatype": kinds.get(name, "FP32"),
            "shape": [count, 4] if name == "vector" else [count],
            "data": [row[name] for row in rows],
        }
        for name in COLUMNS
    ]
    return {"inputs": inputs}


def refused(response: httpx.Response, status: int) -> str:
    """The message of a failure, which has the form of all."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert list(content) == ["error"]
    return str(content["error"])


def test_rank_infer_and_the_scorer_give_the_same_scores(client: httpx.Client, model: Path) -> None:
    expected = recap.Scorer.open(model)(feed_table(5).select(COLUMNS))
    ranked = client.post("/v1/rank", json={"id": "a", "user": {"user_id": 7}, "candidates": candidates()}).json()
    assert ranked["id"] == "a"
    assert ranked["scores"] == expected["score"].to_pylist()
    assert ranked["order"] == np.argsort(-expected["score"].to_numpy()).tolist()
    assert ranked["ids"] == {"post_id": list(range(5))}
    assert (ranked["errors"], ranked["shed"]) == ([], 0)
    for task in ("like", "share"):
        assert np.array_equal(np.float32(ranked["probabilities"][task]), expected[task].to_numpy())
    inferred = client.post("/v2/models/feed/infer", json=tensors() | {"id": "b"}).json()
    assert (inferred["model_name"], inferred["id"]) == ("feed", "b")
    assert [output["name"] for output in inferred["outputs"]] == ["like", "share", "score"]
    assert inferred["outputs"][2]["data"] == ranked["scores"]


def test_columns_of_the_user_are_given_once(client: httpx.Client) -> None:
    rows = candidates()
    user = {name: rows[0][name] for name in ("language", "vector")}
    repeated = [row | user for row in rows]
    once = [{name: value for name, value in row.items() if name not in user} for row in rows]
    scores = [
        client.post("/v1/models/feed/rank", json=content).json()["scores"]
        for content in ({"candidates": repeated}, {"user": user, "candidates": once})
    ]
    assert scores[0] == scores[1]


def test_requests_bring_their_own_weights_if_they_may(client: httpx.Client) -> None:
    content = {"candidates": candidates(), "weights": {"like": 2.0}}
    ranked = client.post("/v1/rank", json=content).json()
    assert ranked["scores"] == [pytest.approx(2 * value + 0.001, rel=1e-7) for value in ranked["probabilities"]["like"]]
    text = refused(client.post("/v1/rank", json=content | {"weights": {"liked": 1}}), 400)
    assert "unknown task 'liked'" in text


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_the_client_of_triton_is_answered(client: httpx.Client, binary: bool, encoding: str | None) -> None:
    triton = tritonclient.http.InferenceServerClient(client.base_url.netloc.decode())
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("feed")
    (version,) = triton.get_model_metadata("feed")["versions"]
    inputs = []
    for column in triton.get_model_metadata("feed")["inputs"]:
        kind = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}[column["datatype"]]
        values = np.array([0.5 if row[column["name"]] is None else row[column["name"]] for row in candidates(40)], kind)
        inputs.append(tritonclient.http.InferInput(column["name"], values.shape, column["datatype"]))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    compression = {"request_compression_algorithm": encoding, "response_compression_algorithm": encoding}
    all_outputs = triton.infer("feed", inputs, version, request_id="x", timeout=5_000_000, **compression)
    assert all_outputs.get_response()["id"] == "x"
    assert all_outputs.as_numpy("like").dtype == np.float32
    wanted = [tritonclient.http.InferRequestedOutput("score", binary_data=not binary)]
    chosen = triton.infer("feed", inputs, outputs=wanted)
    assert np.array_equal(chosen.as_numpy("score"), all_outputs.as_numpy("score"))
    assert chosen.as_numpy("like") is None
    with pytest.raises(tritonclient.http.InferenceServerException, match="Did you mean 'score'"):
        triton.infer("feed", inputs, outputs=[tritonclient.http.InferRequestedOutput("scores")])


def test_models_describe_themselves(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/feed").json()
    assert metadata["inputs"][0] == {"name": "age", "datatype": "FP32", "shape": [-1]}
    assert metadata["inputs"][-1] == {"name": "vector", "datatype": "FP32", "shape": [-1, 4]}
    (described,) = client.get("/v1/models").json()["models"]
    assert described["columns"] == dict(
        zip(COLUMNS, ["number", "number", "number", "integer", "text", "numbers"], strict=True)
    )
    assert described["weights"] == {"like": 1.0, "share": 5.0}
    assert described["user"] == "user_id"
    (version,) = metadata["versions"]
    assert client.get(f"/v2/models/feed/versions/{version}/ready").json() == {"name": "feed", "ready": True}
    paths = client.get("/openapi.json").json()["paths"]
    example = paths["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert len(client.post("/v1/rank", json=example).json()["scores"]) == 2
    assert client.get("/metrics").text.startswith("# HELP")


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/nothing", 404, "no such path"),
        ("GET", "/", 404, "the page is off; page: true in the server's configuration (--set page=true) turns it on"),
        ("GET", "/v2/models/fed", 404, "unknown model 'fed'. Known: feed. Did you mean 'feed'"),
        ("GET", "/v2/models/feed/versions/9/ready", 404, "version '9' is not loaded"),
        ("POST", "/v2/models/%ff%00/infer", 404, "unknown model"),
        ("POST", "/v2/models/feed/versions/..%2f..%2fetc/infer", 404, "no such path"),
        ("DELETE", "/v1/rank", 405, "this path takes POST, not DELETE"),
        ("POST", "/v2", 405, "this path takes GET, HEAD, not POST"),
    ],
)
def test_unknown_paths_and_methods_are_told(
    method: str, path: str, status: int, text: str, client: httpx.Client
) -> None:
    response = client.request(method, path)
    assert text in refused(response, status)
    assert (status == 405) == ("allow" in response.headers)


def change(index: int, **values: Any) -> dict[str, Any]:
    rows = candidates()
    rows[index] = rows[index] | values
    return {"candidates": rows}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "expected a JSON object with `user` and `candidates`"),
        ({"candidate": []}, "unknown field 'candidate'.*Did you mean 'candidates'"),
        ({}, "candidates: expected a list"),
        ({"candidates": []}, "no candidates"),
        ({"candidates": [1]}, "candidate 0: found 1, expected an object"),
        ({"candidates": candidates(61)}, "found 61 candidates, expected at most 60"),
        ({"candidates": candidates(), "user": 3}, "user: expected an object"),
        ({"candidates": candidates(), "id": 3}, "id: found 3, expected text"),
        ({"candidates": candidates(), "model": "fed"}, "unknown model 'fed'"),
        ({"candidates": candidates(), "user": {"age": 1}}, "column 'age': appears twice"),
        ({"candidates": [{"age": 1}]}, "column 'followers': is missing, and so are 4 others. Found: age"),
        ({"candidates": [dict.fromkeys([*COLUMNS, "agee"])]}, "column 'agee': .*leave it out.*Did you mean 'age'"),
        (change(3, extra=1), "candidate 3: has a column 'extra', which candidate 0 has not"),
        ({"candidates": [*candidates(), {"age": 1}]}, "candidate 5: expected a column '.*', as candidate 0 has"),
        (change(3, age="x"), "candidate 3: column 'age': found 'x', expected a number"),
        (change(3, age=[1]), r"candidate 3: column 'age': found \[1\], expected one value"),
        (change(3, vector=1), "candidate 3: column 'vector': found 1, expected a list"),
        (change(3, vector=[1, "x", 2, 3]), "candidate 3: column 'vector': found 'x', expected a number"),
        (change(3, vector=[1]), "column 'vector', row 3: holds a list of length 1, expected 4"),
        (change(3, language=1.5), "candidate 3: column 'language': found 1.5, expected text"),
        (
            {"candidates": [row | {"language": 1.5} for row in candidates()]},
            "found 1.5, expected text or a whole number",
        ),
        (change(3, hour=0.5), "column 'hour', row 3: found 0.5, expected a whole number"),
        (change(3, vector=[0] * 3000), "expected at most 2,000 in a request"),
        (change(3, age=[[[[[[[1]]]]]]]), "nested more than 8 levels"),
    ],
)
def test_a_ranking_that_cannot_be_made_names_candidate_and_column(
    content: Any, text: str, client: httpx.Client
) -> None:
    response = client.post("/v1/rank", json=content)
    assert response.is_client_error
    assert re.search(text, refused(response, response.status_code))


def test_values_of_one_column_may_have_several_types(client: httpx.Client) -> None:
    def scores(**values: Any) -> Any:
        return client.post("/v1/rank", json=change(0, **values)).json()["scores"][0]

    assert scores(in_network=True) == scores(in_network=1) == scores(in_network=1.0)
    assert scores(hour="7") == scores(hour=7) == scores(hour=7.0)
    assert scores(language=7) == scores(language="7")
    assert scores(hour=2**63) == scores(hour=None)
    assert scores(vector=None) == scores(vector=[0, 0.0, None, False])


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (b"{}", {"content-type": "text/plain"}, 415, "found 'text/plain', expected application/json"),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        (b"{}", {"content-encoding": "br"}, 415, "expected gzip, deflate or none"),
        (b"{}" * 20, {"content-encoding": "gzip"}, 400, "Content-Encoding is gzip, but the body is not"),
        (gzip.compress(b"[]", mtime=0)[:-9], {"content-encoding": "gzip"}, 400, "ends before its gzip data"),
        (gzip.compress(bytes(3 << 20)), {"content-encoding": "gzip"}, 413, "inflates to more than 2 MiB"),
        (zlib.compress(bytes(3 << 20)), {"content-encoding": "deflate"}, 413, "inflates to more than 2 MiB"),
        (bytes(2 << 20), {}, 413, "larger than 1 MiB"),
        (b"[" * 100_000, {}, 400, "nested more than 8 levels"),
        (b'{"inputs": NaN}', {}, 400, "not JSON.*write null where there is no value"),
        (b"\xff\xfe", {}, 400, "not JSON"),
        (b"", {}, 400, "not JSON"),
        (b"[]", {}, 400, "found a list, expected a JSON object with `inputs`"),
        (b"{}", {}, 400, "inputs: found nothing, expected a list of tensors"),
        (b'{"inputs": [], "id": 5}', {}, 400, "id: found a number, expected text"),
        (b"{}", {"inference-header-content-length": "3"}, 400, "at the start of a body of 2 bytes"),
        (b"{}", {"inference-header-content-length": "-1"}, 400, "Inference-Header-Content-Length"),
        (b'{"inputs": [1]}', {}, 400, "tensor 0 is not an object"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    body: bytes, headers: dict[str, str], status: int, text: str, client: httpx.Client
) -> None:
    for content in (body, iter([body[:7], body[7:]])):  # with a length, and in chunks without
        response = client.post("/v2/models/feed/infer", content=content, headers=headers)
        assert re.search(text, refused(response, status))
    assert client.post("/v2/models/feed/infer", json=tensors()).status_code == 200


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": [2**62, 4]}, "has more than 2,000 values"),
        ({"shape": [-1]}, "expected whole numbers"),
        ({"datatype": "FP99"}, "found datatype 'FP99'"),
        ({"datatype": None}, "found datatype None"),
        ({"name": None}, "is not an object with a `name`"),
        ({"data": "x"}, "expected a list of values"),
        ({"data": [1, 2]}, "found 2 values, expected 5"),
        ({"parameters": {"binary_data_size": 20}}, "either `data` or the parameter binary_data_size"),
        ({"parameters": {"shared_memory_region": "x"}}, "shared_memory_region is not supported"),
        ({"parameters": 3}, "parameters is a number, expected an object"),
    ],
)
def test_an_input_that_does_not_fit_is_named(changes: dict[str, Any], text: str, client: httpx.Client) -> None:
    content = tensors()
    content["inputs"][0] |= changes
    response = client.post("/v2/models/feed/infer", json=content)
    assert text in refused(response, 400)


def test_binary_data_must_be_that_of_the_inputs(client: httpx.Client) -> None:
    content = tensors(1)
    del content["inputs"][0]["data"]
    content["inputs"][0]["parameters"] = {"binary_data_size": 4}
    header = orjson.dumps(content)
    url, headers = "/v2/models/feed/infer", {"Inference-Header-Content-Length": str(len(header))}
    assert client.post(url, content=header + bytes(4), headers=headers).status_code == 200
    assert "0 bytes of binary data are left" in refused(client.post(url, content=header, headers=headers), 400)
    too_long = client.post(url, content=header + bytes(5), headers=headers)
    assert "1 byte of binary data belong to no input" in refused(too_long, 400)


def test_a_request_past_its_deadline_is_dropped(client: httpx.Client) -> None:
    late = {"X-Request-Deadline-Ms": "0.0001"}
    assert "deadline" in refused(client.post("/v1/rank", json={"candidates": candidates()}, headers=late), 504)
    timeout = tensors() | {"parameters": {"timeout": 1}}
    assert "deadline" in refused(client.post("/v2/models/feed/infer", json=timeout), 504)
    for text in ("x", "-1", "nan", "inf"):
        response = client.post("/v1/rank", json={"candidates": candidates()}, headers={"X-Request-Deadline-Ms": text})
        assert "expected milliseconds above 0" in refused(response, 400)


def test_a_body_that_comes_too_slowly_is_not_waited_for(client: httpx.Client) -> None:
    def slow() -> Iterator[bytes]:
        yield b"{"
        time.sleep(1.0)
        yield b"}"

    response = client.post("/v1/rank", content=slow(), headers={"content-type": "application/json"})
    assert "did not arrive within 0.5 seconds" in refused(response, 408)


def test_ids_of_requests_are_repeated(client: httpx.Client) -> None:
    assert client.get("/v2", headers={"X-Request-Id": "abc"}).headers["x-request-id"] == "abc"
    assert len(client.get("/v2", headers={"X-Request-Id": "a b"}).headers["x-request-id"]) == 32
    assert client.get("/nothing", headers={"X-Request-Id": "abc"}).headers["x-request-id"] == "abc"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(COLUMNS),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                [*COLUMNS, "user", "candidates", "inputs", "shape", "data", "datatype", "name", "parameters"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_body_makes_the_server_fail(client: httpx.Client, data: st.DataObject) -> None:
    """Parts of a good request are replaced by anything."""
    url, content = data.draw(
        st.sampled_from(
            [("/v1/rank", {"user": {}, "candidates": candidates(2)}), ("/v2/models/feed/infer", tensors(2))]
        )
    )
    content = json.loads(json.dumps(content))
    owner: Any = content
    while data.draw(st.booleans()) and isinstance(owner, dict | list) and owner:
        key = data.draw(st.sampled_from(list(owner) if isinstance(owner, dict) else list(range(len(owner)))))
        if isinstance(owner[key], dict | list) and data.draw(st.booleans()):
            owner = owner[key]
        else:
            owner[key] = data.draw(JSON)
    body = json.dumps(content).encode()
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.integers(0, 9)) == 0 else body
    headers = {"content-type": "application/json"}
    if data.draw(st.booleans()):
        headers["inference-header-content-length"] = str(data.draw(st.integers(-1, len(body) + 1)))
    response = client.post(url, content=body, headers=headers)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert "Traceback" not in refused(response, response.status_code)


def test_a_token_is_needed_but_for_probes_metrics_and_the_page(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    with running(model, page=True, address={"token_file": str(file)}) as at, httpx.Client(base_url=at.http) as client:
        for path in ("/", "/metrics", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for header in (None, "Bearer wrong-horse-battery", f"Basic {TOKEN}", TOKEN, "Bearer \xff"):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            for path in ("/v2", "/v1/models", "/openapi.json", "/nothing"):
                response = client.get(path, headers=headers)
                assert "Authorization" in refused(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/v2", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (None, 0, "cannot be read"),
        ("short", 0o600, "found 5 characters, expected at least 16"),
        ("correct horse battery staple", 0o600, "without spaces"),
        ("ü" * 20, 0o600, "printable ASCII"),
        (TOKEN, 0o604, "chmod 600"),
        ("short", 0o604, r"(?s)chmod 600.*found 5 characters"),
    ],
)
def test_a_token_that_protects_nothing_is_refused(content: str | None, mode: int, text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(InputError, match=text) as caught:
        Token.read(file)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("fallback", [None, 0.0])
def test_numbers_that_are_not_finite_never_leave(fallback: float | None) -> None:
    request = RankRequest("feed", pa.table({}), pa.table({"post_id": [7, 8, 9]}))
    probabilities = np.array([[0.5], [np.nan], [0.75]], np.float32)
    scores = np.array([1.5, np.nan if fallback is None else fallback, 1.75])
    response = RankResponse("feed", "1", ["like"], probabilities, scores, 3, np.array([1]))
    ranked = orjson.loads(encode_rank(request, response, ["post_id"]))
    assert ranked["scores"] == [1.5, fallback, 1.75]
    assert ranked["probabilities"] == {"like": [0.5, None, 0.75]}
    assert ranked["order"] == ([2, 0] if fallback is None else [2, 0, 1])
    assert ranked["errors"] == [{"candidate": 1, "error": "its prediction is not finite"}]
    body, header = encode_infer(response, Wanted(None, {"like": False}, all_binary=True))
    inferred = orjson.loads(body[:header])
    assert inferred["parameters"] == {"failed": "1"}
    assert inferred["outputs"][0]["data"] == [0.5, -1.0, 0.75]
    assert np.frombuffer(body[header:]).tolist() == [1.5, -1.0 if fallback is None else fallback, 1.75]


@settings(max_examples=50)
@given(st.recursive(st.text(alphabet='[]{}"\\a') | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_nesting_is_the_depth_of_json_whatever_its_texts_hold(value: Any) -> None:
    def depth(value: Any) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert nesting(memoryview(orjson.dumps(value))) == depth(value)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.sampled_from(["gzip", "deflate"]))
def test_bodies_inflate_to_what_was_compressed(parts: list[bytes], encoding: str) -> None:
    limits = LimitsConfig()
    if encoding == "gzip":
        assert inflate(b"".join(map(gzip.compress, parts)), encoding, limits) == b"".join(parts)
    else:
        assert inflate(zlib.compress(parts[0]), encoding, limits) == parts[0]
    large = b"".join(parts) + bytes(5000)
    body, name = compressed(large, f"br, {encoding};q=0.5")
    assert name == encoding
    assert inflate(body, encoding, limits) == large
    assert compressed(large, f"{encoding};q=0") == (large, None)


def test_json_with_numbers_beyond_float64_is_refused() -> None:
    with pytest.raises(RequestError, match="infinity") as caught:
        parse_json(memoryview(b"[1e400]"), LimitsConfig())
    assert caught.value.reason is Reason.INVALID
