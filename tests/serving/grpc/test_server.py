"""gRPC: what calls of the Open Inference Protocol answer, and which status failures have."""

import asyncio
import gzip
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import open_inference.grpc.protocol as published
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from serving.certificates import Authority, Pair

from recap.config.serving.server import AddressConfig, LimitsConfig, ServerConfig
from recap.errors import InputError
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError, Signature
from recap.serving.grpc.codec import decode_request, parse_infer
from recap.serving.grpc.messages import SERVICE, message_class
from recap.serving.grpc.server import build_server
from recap.serving.watch.watch import Watch

InferRequest = message_class("ModelInferRequest")


class ArithmeticEngine:
    """An engine whose probability of `like` is age × 0.01 + hour; NaN where that exceeds 1."""

    def __init__(self) -> None:
        self.is_ready = True
        self.requests: list[RankRequest] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        self.cancelled = asyncio.Event()

    def models(self) -> Sequence[str]:
        return ["feed"]

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        if model is not None:
            self.signature(model, version)
        return self.is_ready

    def signature(self, model: str, version: str | None = None) -> Signature:
        if model != "feed" or version not in (None, "7"):
            raise RequestError(Reason.NOT_FOUND, "unknown model or version")
        columns = {"age": pa.float32(), "hour": pa.int32(), "language": pa.string(), "vector": pa.list_(pa.float32())}
        return Signature("feed", ["7"], columns, ["like"], [], None)

    async def rank(self, request: RankRequest) -> RankResponse:
        self.requests.append(request)
        try:
            if self.before is not None:
                await self.before()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        rows = request.candidates.num_rows
        merged = {
            name: table[name].to_numpy()
            for table in (request.user, request.candidates)
            for name in table.column_names
            if name in ("age", "hour")
        }
        like = np.broadcast_to(merged["age"] * 0.01 + merged["hour"], rows).astype(np.float32)
        like = np.where(like > 1, np.float32("nan"), like)
        return RankResponse(
            "feed", "7", ["like"], like[:, None], like.astype(float) * 2, rows, np.flatnonzero(np.isnan(like)),
            request.id,
        )  # fmt: skip


class Client:
    """Calls by name, in the messages that the server itself has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def call(self, method: str, message: Any, **options: Any) -> Any:
        name = SERVICE + "/" + method
        answer = message_class(f"{method}Response").FromString
        encode = bytes if isinstance(message, bytes) else type(message).SerializeToString
        return self.channel.unary_unary(f"/{name}", encode, answer)(message, **options)

    async def failure(self, message: Any, method: str = "ModelInfer", **options: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.call(method, message, **options)
        return error.value


@asynccontextmanager
async def serving(
    engine: ArithmeticEngine, config: ServerConfig | None = None, watch: Watch | None = None, **channel: Any
) -> AsyncIterator[Client]:
    config = config or ServerConfig(address=AddressConfig(grpc_port=0))
    server = build_server(engine, config, watch or Watch(config))
    await server.start()
    try:
        target = f"127.0.0.1:{server.port}"
        credentials = channel.pop("credentials", None)
        if credentials is not None:
            opened = grpc.aio.secure_channel(target, credentials, **channel)
        else:
            opened = grpc.aio.insecure_channel(target, **channel)
        async with opened as open_channel:
            yield Client(open_channel)
    finally:
        await server.stop(0)


def infer(test: Callable[[ArithmeticEngine, Client], Awaitable[None]], config: ServerConfig | None = None) -> None:
    """Run `test` against a server."""

    async def run() -> None:
        engine = ArithmeticEngine()
        async with serving(engine, config) as client:
            await asyncio.wait_for(test(engine, client), 20)

    asyncio.run(run())


def raw_request(**changes: Any) -> Any:
    """Three candidates; the hour is the user's."""
    message = InferRequest(model_name="feed", id="r1")
    for name, datatype, shape, data in (
        ("age", "FP32", [3], np.array([10, 50, 30], np.float32).tobytes()),
        ("hour", "INT32", [1], np.array([0], np.int32).tobytes()),
        ("language", "BYTES", [3], b"\x02\0\0\0en\x02\0\0\0ja\0\0\0\0"),
        ("vector", "FP32", [3, 2], np.zeros(6, np.float32).tobytes()),
    ):
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(data)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def typed_request() -> Any:
    message = raw_request()
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend([10, 50, 30])
    message.inputs[1].contents.int_contents.append(0)
    message.inputs[2].contents.bytes_contents.extend([b"en", b"ja", b""])
    message.inputs[3].contents.fp32_contents.extend([0] * 6)
    return message


def test_the_messages_have_the_fields_of_the_published_definition() -> None:
    def fields(message: Any, path: str = "") -> dict[str, object]:
        found: dict[str, object] = {
            f"{path}{field.name}": (field.number, field.type, field.label, field.type_name, field.proto3_optional,
                                    message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "")
            for field in message.field
        }  # fmt: skip
        for nested in message.nested_type:
            found |= fields(nested, f"{path}{nested.name}.")
        return found

    expected, found = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
    published.DESCRIPTOR.CopyToProto(expected)
    InferRequest.DESCRIPTOR.file.CopyToProto(found)
    published_fields = {message.name: fields(message) for message in expected.message_type}
    metadata = published_fields["ModelMetadataResponse"]
    del metadata["properties"], metadata["PropertiesEntry.key"], metadata["PropertiesEntry.value"]  # of one server
    assert {message.name: fields(message) for message in found.message_type} == published_fields


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_raw_and_typed_requests_get_the_same_scores_in_their_own_form(compression: Any) -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        raw = await client.call("ModelInfer", raw_request(), compression=compression)
        typed = await client.call("ModelInfer", typed_request(), compression=compression)
        for answer in (raw, typed):
            assert (answer.model_name, answer.model_version, answer.id) == ("feed", "7", "r1")
            assert [(out.name, out.datatype, list(out.shape)) for out in answer.outputs] == [
                ("like", "FP32", [3]),
                ("score", "FP64", [3]),
            ]
        like = np.array([0.1, 0.5, 0.3], np.float32)
        assert np.frombuffer(raw.raw_output_contents[0], np.float32).tolist() == pytest.approx(like)
        assert np.frombuffer(raw.raw_output_contents[1], np.float64).tolist() == pytest.approx(like * 2)
        assert not typed.raw_output_contents
        assert list(typed.outputs[0].contents.fp32_contents) == pytest.approx(like)
        assert list(typed.outputs[1].contents.fp64_contents) == pytest.approx(like * 2)
        for request in engine.requests:
            assert request.user.column_names == ["hour"]
            assert request.candidates.column_names == ["age", "language", "vector"]
            assert (request.protocol, request.key) == ("grpc", "r1")
        message = raw_request()
        message.id = ""
        answer = await client.call("ModelInfer", message)
        assert answer.id == engine.requests[-1].key, "one that the server makes"

    infer(test)


def test_outputs_are_those_asked_for_and_failed_candidates_are_named() -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        message = raw_request(model_version="7")
        message.raw_input_contents[0] = np.array([10, 1e9, 30], np.float32).tobytes()
        message.outputs.add(name="score")
        answer = await client.call("ModelInfer", message)
        assert [output.name for output in answer.outputs] == ["score"]
        assert answer.parameters["failed"].string_param == "1"
        assert np.isfinite(np.frombuffer(answer.raw_output_contents[0], np.float64)).all()
        message.outputs.add(name="lick")
        error = await client.failure(message)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "'lick'" in str(error.details())
        assert len(engine.requests) == 1, "refused before the model ran"

    infer(test)


def test_metadata_names_inputs_and_outputs_and_probes_answer() -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        assert (await client.call("ServerLive", message_class("ServerLiveRequest")())).live
        assert (await client.call("ServerMetadata", message_class("ServerMetadataRequest")())).name == "recap"
        found = await client.call("ModelMetadata", message_class("ModelMetadataRequest")(name="feed", version=""))
        assert (found.name, list(found.versions)) == ("feed", ["7"])
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.inputs] == [
            ("age", "FP32", [-1]), ("hour", "INT64", [-1]), ("language", "BYTES", [-1]), ("vector", "FP32", [-1, -1]),
        ]  # fmt: skip
        assert [tensor.name for tensor in found.outputs] == ["like", "score"]
        ready, model_ready = message_class("ServerReadyRequest")(), message_class("ModelReadyRequest")(name="feed")
        for expected in (True, False):
            engine.is_ready = expected
            assert (await client.call("ServerReady", ready)).ready is expected
            assert (await client.call("ModelReady", model_ready)).ready is expected
        for method in ("ModelReady", "ModelMetadata"):
            error = await client.failure(message_class(f"{method}Request")(name="other"), method)
            assert error.code() is grpc.StatusCode.NOT_FOUND

    infer(test)


def test_health_follows_the_engine() -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        stub, status = health_pb2_grpc.HealthStub(client.channel), health_pb2.HealthCheckResponse
        states = stub.Watch(health_pb2.HealthCheckRequest(service="feed"))
        for ready, expected in ((True, status.SERVING), (False, status.NOT_SERVING)):
            engine.is_ready = ready
            for service in ("", "feed", SERVICE):
                assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == expected
            assert (await states.read()).status == expected
        states.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"))
        assert (await unknown.read()).status == status.SERVICE_UNKNOWN
        unknown.cancel()

    infer(test)


def broken(change: Callable[[Any], None]) -> Any:
    message = raw_request()
    change(message)
    return message


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (raw_request(model_name="other"), "NOT_FOUND", "unknown"),
        (raw_request(model_version="8"), "NOT_FOUND", "unknown"),
        (b"\x1f\x8b", "INVALID_ARGUMENT", "the message is not a ModelInferRequest"),
        (broken(lambda m: m.raw_input_contents.pop()), "INVALID_ARGUMENT", "3 elements of raw_input_contents"),
        (broken(lambda m: m.inputs[0].contents.fp32_contents.append(1)), "INVALID_ARGUMENT", "'age': has contents"),
        (broken(lambda m: setattr(m.inputs[0], "datatype", "FP8")), "INVALID_ARGUMENT", "'FP8'"),
        (broken(lambda m: m.inputs[0].shape.append(2**40)), "INVALID_ARGUMENT", "'age': shape [3, 1099511627776]"),
        (broken(lambda m: setattr(m.inputs[0], "name", "agee")), "INVALID_ARGUMENT", "'agee'"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_used_says_why(message: Any, code: str, text: str) -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        error = await client.failure(message)
        assert error.code().name == code
        assert text in str(error.details())
        assert not engine.requests
        await client.call("ModelInfer", raw_request())

    infer(test)


def test_typed_values_stand_in_the_field_of_their_datatype() -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        message = typed_request()
        message.inputs[1].contents.int64_contents.append(0)
        error = await client.failure(message)
        assert error.details() == "input 'hour': found int64_contents, expected int_contents for INT32"
        message = typed_request()
        message.inputs[0].datatype = "FP16"
        error = await client.failure(message)
        assert error.details() == "input 'age': FP16 has no contents; use raw_input_contents"

    infer(test)


def test_the_deadline_of_a_call_is_that_of_its_request_and_a_client_that_leaves_cancels_it() -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        await client.call("ModelInfer", raw_request())
        assert engine.requests[-1].deadline is None
        await client.call("ModelInfer", raw_request(), timeout=5)
        deadline = engine.requests[-1].deadline
        assert deadline is not None
        assert 0 < deadline - time.monotonic() < 6

        started = asyncio.Event()

        async def forever() -> None:
            started.set()
            await asyncio.Event().wait()

        engine.before = forever
        call = client.call("ModelInfer", raw_request())
        await started.wait()
        call.cancel()
        await engine.cancelled.wait()
        engine.cancelled.clear()
        error = await client.failure(raw_request(), timeout=0.2)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await engine.cancelled.wait()

    infer(test)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_status(reason: Reason) -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        async def fail() -> None:
            raise RequestError(reason, "why", retry_after=2)

        engine.before = fail
        error = await client.failure(raw_request())
        assert (error.code().name, error.details()) == (reason.grpc_code, "why")
        trailers = dict(error.trailing_metadata())
        assert (trailers["retry-after"], trailers["grpc-retry-pushback-ms"]) == ("2", "2000")

    infer(test)


def test_a_failure_of_the_server_shows_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def test(engine: ArithmeticEngine, client: Client) -> None:
        async def fail() -> None:
            raise ValueError("/secret/path")

        engine.before = fail
        with caplog.at_level(logging.CRITICAL + 1):
            error = await client.failure(raw_request())
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the server failed; its log says why")
        engine.before = None
        await client.call("ModelInfer", raw_request())

    infer(test)


def test_messages_beyond_the_limit_are_refused_before_and_after_gzip() -> None:
    config = ServerConfig(address=AddressConfig(grpc_port=0), limits=LimitsConfig(body_mib=1))

    async def test(engine: ArithmeticEngine, client: Client) -> None:
        message = raw_request()
        message.raw_input_contents.append(bytes(2**20))
        assert len(gzip.compress(message.SerializeToString())) < 2**20 / 100
        for compression in (None, grpc.Compression.Gzip):
            error = await client.failure(message, compression=compression)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = await client.failure(raw_request(), metadata=[("x-long", "x" * 2**15)])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.call("ModelInfer", raw_request())

    infer(test, config)


def test_connections_beyond_the_limit_are_refused() -> None:
    async def run() -> None:
        config = ServerConfig(address=AddressConfig(grpc_port=0), limits=LimitsConfig(connections=1))
        engine = ArithmeticEngine()
        server = build_server(engine, config, Watch(config))
        await server.start()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as first,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as second,
        ):
            await Client(first).call("ModelInfer", raw_request())
            error = await Client(second).failure(raw_request())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            await Client(first).call("ModelInfer", raw_request())
        await server.stop(0)

    asyncio.run(run())


def test_a_port_in_use_is_refused() -> None:
    async def run() -> None:
        engine, config = ArithmeticEngine(), ServerConfig(address=AddressConfig(grpc_port=0))
        server = build_server(engine, config, Watch(config))
        with pytest.raises(InputError, match=rf"address.grpc_port: cannot listen on 127.0.0.1:{server.port}"):
            build_server(engine, ServerConfig(address=AddressConfig(grpc_port=server.port)), Watch(config))
        await server.stop(0)

    asyncio.run(run())


def test_requests_are_counted_by_reason() -> None:
    async def run() -> str:
        watch, engine = Watch(ServerConfig()), ArithmeticEngine()
        watch._models.add("feed")
        async with serving(engine, watch=watch) as client:
            await client.call("ModelInfer", raw_request())
            await client.failure(raw_request(model_version="8"))
            await client.failure(raw_request(model_name="other"))
        return watch.exposition().decode()

    text = asyncio.run(run())
    assert 'reason="not_found"' in text
    assert 'protocol="grpc"' in text
    assert "other" not in text


def test_calls_name_the_token_and_probes_need_none(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o600)

    async def test(engine: ArithmeticEngine, client: Client) -> None:
        for metadata in (None, [("authorization", "Bearer 0123456789abcdeF")]):
            for method, message in (
                ("ModelInfer", raw_request()),
                ("ServerLive", message_class("ServerLiveRequest")()),
            ):
                error = await client.failure(message, method, metadata=metadata)
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert not engine.requests
        await client.call("ModelInfer", raw_request(), metadata=[("authorization", "Bearer 0123456789abcdef")])
        health = await health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING

    infer(test, ServerConfig(address=AddressConfig(grpc_port=0, token_file=str(file))))


def test_with_mtls_only_clients_of_the_authority_are_answered(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    own, theirs, server = authority.pair("client"), other.pair("client"), authority.pair("server")
    address = AddressConfig(
        grpc_port=0,
        certificate=str(server.certificate),
        private_key=str(server.key),
        client_ca=str(authority.certificate),
    )

    def credentials(pair: Pair | None) -> grpc.ChannelCredentials:
        root = authority.certificate.read_bytes()
        if pair is None:
            return grpc.ssl_channel_credentials(root)
        return grpc.ssl_channel_credentials(root, pair.key.read_bytes(), pair.certificate.read_bytes())

    async def run() -> None:
        engine = ArithmeticEngine()
        for pair in (None, theirs):
            async with serving(engine, ServerConfig(address=address), credentials=credentials(pair)) as client:
                assert (await client.failure(raw_request())).code() is grpc.StatusCode.UNAVAILABLE
        assert not engine.requests
        async with serving(engine, ServerConfig(address=address), credentials=credentials(own)) as client:
            await client.call("ModelInfer", raw_request())

    asyncio.run(run())


@pytest.mark.parametrize("field", ["certificate", "client_ca"])
@pytest.mark.parametrize(("content", "text"), [(None, "cannot read .*No such file"), ("no PEM", "cannot be used")])
def test_a_certificate_that_cannot_be_used_is_refused(
    tmp_path: Path, field: str, content: str | None, text: str
) -> None:
    file, pair = tmp_path / "server.pem", Authority(tmp_path / "ours").pair("server")
    if content is not None:
        file.write_text(content)
    address = AddressConfig(grpc_port=0, certificate=str(pair.certificate), private_key=str(pair.key))

    async def run() -> None:
        with pytest.raises(InputError, match=f"address.{field}: .*{text}"):
            build_server(
                ArithmeticEngine(), ServerConfig(address=address.model_copy(update={field: str(file)})), Watch()
            )

    asyncio.run(run())


def test_a_stopping_server_ends_the_streams_of_health_and_finishes_calls() -> None:
    async def run() -> None:
        config, engine = ServerConfig(address=AddressConfig(grpc_port=0)), ArithmeticEngine()
        started, release = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            started.set()
            await release.wait()

        engine.before = slow
        server = build_server(engine, config, Watch())
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
            call = Client(channel).call("ModelInfer", raw_request())
            await started.wait()
            stopping = asyncio.create_task(server.stop(20))
            assert (await states.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await states.read() is grpc.aio.EOF
            release.set()
            assert (await call).id == "r1"
            await asyncio.wait_for(stopping, 10)

    asyncio.run(run())


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}


@st.composite
def any_request(draw: st.DrawFn) -> Any:
    """A message that is well formed, and seldom a request."""
    message = InferRequest(model_name="feed", id=draw(st.text(max_size=3)))
    names = st.sampled_from(["age", "hour", "language", "vector", "other", ""])
    for name in draw(st.lists(names, max_size=6)):
        datatype = draw(st.sampled_from(["BOOL", "INT8", "INT64", "UINT64", "FP16", "FP32", "FP64", "BYTES", "x"]))
        shape = draw(st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**62]), max_size=3))
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        for field in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2)):
            getattr(tensor.contents, field).extend(draw(st.lists(VALUES[field], max_size=6)))
    if draw(st.booleans()):
        sizes = st.lists(st.binary(max_size=24), min_size=len(message.inputs), max_size=len(message.inputs) + 1)
        message.raw_input_contents.extend(draw(sizes))
    for parameter in draw(st.lists(st.sampled_from(["timeout", "classification", "priority"]), max_size=2)):
        message.parameters[parameter].int64_param = draw(st.integers(-1, 10))
    return message


@given(any_request())
def test_any_message_is_a_request_or_refused(message: Any) -> None:
    engine = ArithmeticEngine()
    try:
        request, _ = decode_request(parse_infer(message.SerializeToString()), engine.signature("feed"), LimitsConfig())
    except RequestError as error:
        assert error.reason in (Reason.INVALID, Reason.TOO_LARGE)
    else:
        assert sorted(request.user.column_names + request.candidates.column_names) == sorted(
            engine.signature("feed").columns
        )


@given(any_request())
def test_raw_contents_are_cut_out_of_any_message(message: Any) -> None:
    data = message.SerializeToString()
    call = parse_infer(data)
    assert [bytes(raw) for raw in call.raw] == list(message.raw_input_contents)
    del message.raw_input_contents[:]
    assert call.message == message
    for raw in call.raw:
        assert raw.obj is data


@given(st.one_of(st.binary(max_size=40), any_request().map(lambda message: message.SerializeToString()[:-1])))
def test_bytes_that_are_no_message_are_refused_as_protobuf_refuses_them(data: bytes) -> None:
    try:
        expected = InferRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            parse_infer(data)
    else:
        try:
            call = parse_infer(data)
        except DecodeError:
            return  # groups, which the protocol does not have
        assert [bytes(raw) for raw in call.raw] == list(expected.raw_input_contents)
