"""GRPCInferenceService: a message in, a message out, and every failure a status with a plain message."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from importlib.metadata import version as version_of
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from recap.config.serving.server import ServerConfig
from recap.serving.contract import Engine, RankRequest, Reason, RequestError, Signature
from recap.serving.engine.batches import ENDING
from recap.serving.grpc.codec import InferCall, decode_request, encode_response, parse_infer
from recap.serving.grpc.messages import SERVICE, message_class
from recap.serving.security import Token
from recap.serving.tensors import describe_inputs, describe_outputs
from recap.serving.watch.watch import Watch

_LOG = logging.getLogger(__name__)
_THREAD_BYTES = 2**20
"""Size of the values to convert from which a request is decoded in a thread, so that other requests go on."""
_QUIET_SECONDS = 0.1
"""Without a new call for as long, none is on its way."""
_INTERNAL = "the server failed; its log says why"

Method = Callable[[Any, Any], Awaitable[Any]]


class InferenceService:
    """The methods of the service. A message of a request is parsed here, so that a broken one is the client's error."""

    def __init__(self, engine: Engine, config: ServerConfig, watch: Watch) -> None:
        self._engine, self._limits, self._watch = engine, config.limits, watch
        self._open = self._calls = 0
        self._refusing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def finished(self) -> None:
        """Wait until no call is open: all responses have been sent."""
        await self._idle.wait()

    @property
    def is_idle(self) -> bool:
        """Whether no call is open."""
        return self._idle.is_set()

    async def refuse(self, seconds: float) -> None:
        """Refuse new calls from now on, and wait until none comes, at most `seconds`.

        gRPC cancels calls that are on their way when it stops; a client takes UNAVAILABLE for what it is.
        """
        self._refusing, before, ends = True, -1, time.monotonic() + seconds
        while self._calls != before and time.monotonic() < ends:
            before = self._calls
            await asyncio.sleep(_QUIET_SECONDS)

    def _opened(self, context: Any) -> None:
        self._open += 1
        self._calls += 1
        self._idle.clear()
        context.add_done_callback(self._closed)

    def _closed(self, context: Any) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()

    def handlers(self, token: Token | None) -> Any:
        """What a grpc.aio server needs to call the methods. `token`: what calls must name."""
        methods: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        parsers = {"ModelInfer": parse_infer}
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._answering(message_class(f"{name}Request"), parsers.get(name), method, token),
                    response_serializer=message_class(f"{name}Response").SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    async def _server_live(self, message: Any, context: Any) -> Any:
        return message_class("ServerLiveResponse")(live=True)

    async def _server_ready(self, message: Any, context: Any) -> Any:
        return message_class("ServerReadyResponse")(ready=self._engine.ready())

    async def _model_ready(self, message: Any, context: Any) -> Any:
        ready = self._engine.ready(message.name, message.version or None)
        return message_class("ModelReadyResponse")(ready=ready)

    async def _server_metadata(self, message: Any, context: Any) -> Any:
        return message_class("ServerMetadataResponse")(name="recap", version=version_of("recap-ranker"))

    async def _model_metadata(self, message: Any, context: Any) -> Any:
        signature = self._engine.signature(message.name, message.version or None)
        answer = message_class("ModelMetadataResponse")(
            name=signature.model, versions=signature.versions, platform="recap"
        )
        for field, tensors in (
            (answer.inputs, describe_inputs(signature)),
            (answer.outputs, describe_outputs(signature)),
        ):
            for name, datatype, shape in tensors:
                field.add(name=name, datatype=datatype, shape=shape)
        return answer

    async def _model_infer(self, call: InferCall, context: Any) -> Any:
        start, reason = time.monotonic(), None
        model, version = call.message.model_name, call.message.model_version or None
        try:
            with self._watch.trace("grpc", _headers(context)):
                signature = self._engine.signature(model, version)
                request, timeout = await self._decode(call, signature)
                request = replace(request, deadline=_deadline(start, context.time_remaining(), timeout))
                decoded = time.monotonic()
                self._watch.stage("decode", decoded - start)
                response = await self._engine.rank(request)
                ranked = time.monotonic()
                answer = encode_response(response, call, request.key)
                self._watch.stage("respond", time.monotonic() - ranked)
                model, version = response.model, response.version
                return answer
        except RequestError as error:
            reason = error.reason
            raise
        except asyncio.CancelledError:  # by gRPC: the client left, or its deadline passed
            reason = Reason.DEADLINE if context.time_remaining() == 0 else Reason.CANCELLED
            raise
        except Exception:
            reason = Reason.INTERNAL
            raise
        finally:
            self._watch.request("grpc", model, version, reason, time.monotonic() - start)

    async def _decode(self, call: InferCall, signature: Signature) -> tuple[RankRequest, float | None]:
        if call.to_convert < _THREAD_BYTES:
            return decode_request(call, signature, self._limits)
        return await asyncio.to_thread(decode_request, call, signature, self._limits)

    def _answering(
        self, kind: Any, parse: Callable[[bytes], Any] | None, method: Method, token: Token | None
    ) -> Method:
        """`method` on the bytes of a request, with failures as statuses. `parse`: by default that of `kind`."""
        parse = parse or kind.FromString

        async def answer(data: bytes, context: Any) -> Any:
            try:
                self._opened(context)
                if self._refusing:
                    raise RequestError(Reason.NOT_READY, ENDING)
                if token is not None:
                    token.check(_headers(context).get("authorization"))
                try:
                    message = parse(data)
                except DecodeError:
                    raise RequestError(Reason.INVALID, f"the message is not a {kind.DESCRIPTOR.name}") from None
                return await method(message, context)
            except RequestError as error:
                await abort(context, error)
            except Exception:
                _LOG.exception("%s failed", kind.DESCRIPTOR.name)
                await abort(context, RequestError(Reason.INTERNAL, _INTERNAL))

        return answer


async def abort(context: Any, error: RequestError) -> NoReturn:
    """End a call with the status of `error`; clients with retries wait as long as it says."""
    trailers: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        trailers = (
            ("retry-after", str(error.retry_after)),
            ("grpc-retry-pushback-ms", str(error.retry_after * 1000)),
        )
    await context.abort(getattr(grpc.StatusCode, error.reason.grpc_code), str(error), trailers)
    raise AssertionError  # abort raises


def _headers(context: Any) -> Mapping[str, str]:
    return {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}


def _deadline(start: float, *seconds: float | None) -> float | None:
    """`time.monotonic()` when the first of `seconds` have passed; None without any."""
    return min((start + limit for limit in seconds if limit is not None), default=None)
