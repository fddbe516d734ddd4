"""`build_app`: the routes of REST. Every answer that is not 200 is `{"error": "…"}`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from importlib.metadata import version as version_of
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from recap.config.serving.server import ServerConfig
from recap.serving.contract import Engine, RankRequest, RankResponse, Reason, RequestError
from recap.serving.rest.answers import Guard, answer_error, answered, json_answer
from recap.serving.rest.body import compressed, parse_json, read_body
from recap.serving.rest.infer import HEADER_LENGTH, decode_infer, describe_model, encode_infer
from recap.serving.rest.openapi import describe_api
from recap.serving.rest.page import page_answer
from recap.serving.rest.rank import decode_rank, describe_signature, encode_rank
from recap.serving.security import Token
from recap.serving.watch.watch import CONTENT_TYPE, Watch
from recap.text import shorten

DEADLINE = "x-request-deadline-ms"
"""Header: the milliseconds, counted from the arrival of the request, after which the client no longer waits."""
_THREAD_BYTES = 2**20
"""Size of a body from which it is decoded in a thread, so that other requests go on."""
_NO_PAGE = "the page is off; page: true in the server's configuration (--set page=true) turns it on"
_TENSOR_TYPES = ("application/json", "application/octet-stream")

Decoded = TypeVar("Decoded")


def build_app(engine: Engine, config: ServerConfig, watch: Watch) -> Starlette:
    """The REST application. Raises InputError if the token cannot be used."""
    token = Token.read(config.address.token_file) if config.address.token_file is not None else None
    api = _Api(engine, config, watch)
    model = "/v2/models/{model}"
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/v2", api.server),
        ("GET", "/v2/health/live", api.live),
        ("GET", "/v2/health/ready", api.ready),
        *(
            entry
            for path in (model, f"{model}/versions/{{version}}")
            for entry in (
                ("GET", path, api.model),
                ("GET", f"{path}/ready", api.ready),
                ("POST", f"{path}/infer", api.infer),
            )
        ),
        ("GET", "/v1/models", api.models),
        ("POST", "/v1/rank", api.rank),
        ("POST", "/v1/models/{model}/rank", api.rank),
        ("GET", "/openapi.json", api.openapi),
        ("GET", "/metrics", api.metrics),
    ]
    if config.page:
        routes.append(("GET", "/", page_answer))
    app = Starlette(
        routes=[Route(path, answered(handler), methods=[method]) for method, path, handler in routes],
        exception_handlers={HTTPException: _no_route},
    )
    app.router.redirect_slashes = False
    app.add_middleware(Guard, token=token)
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == Reason.METHOD.http_status:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        problem = RequestError(Reason.METHOD, f"this path takes {allowed}, not {shorten(request.method, 20)}")
        return answer_error(problem, {"Allow": allowed})
    text = _NO_PAGE if request.url.path == "/" else "no such path; /openapi.json lists them"
    return answer_error(RequestError(Reason.NOT_FOUND, text))


class _Api:
    """The handlers of the routes."""

    def __init__(self, engine: Engine, config: ServerConfig, watch: Watch) -> None:
        self._engine, self._limits, self._watch = engine, config.limits, watch
        self._config = config

    async def server(self, request: Request) -> Response:
        return json_answer(
            {"name": "recap", "version": version_of("recap-ranker"), "extensions": ["binary_tensor_data"]}
        )

    async def live(self, request: Request) -> Response:
        return json_answer({"live": True})

    async def ready(self, request: Request) -> Response:
        model, version = request.path_params.get("model"), request.path_params.get("version")
        if model is not None:
            self._engine.signature(model, version)  # an unknown one is not found
        if not self._engine.ready(model, version):
            raise RequestError(Reason.NOT_READY, "not ready", retry_after=1)
        return json_answer({"ready": True} if model is None else {"name": model, "ready": True})

    async def model(self, request: Request) -> Response:
        return json_answer(describe_model(self._engine.signature(*_model_of(request))))

    async def models(self, request: Request) -> Response:
        signatures = [self._engine.signature(name) for name in self._engine.models()]
        return json_answer({"models": [describe_signature(signature) for signature in signatures]})

    async def openapi(self, request: Request) -> Response:
        signatures = [self._engine.signature(name) for name in self._engine.models()]
        return json_answer(describe_api(signatures, self._config))

    async def metrics(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(self._watch.exposition), media_type=CONTENT_TYPE)

    async def infer(self, request: Request) -> Response:
        """`POST …/infer`: JSON, or JSON with binary data behind it."""
        model, version = _model_of(request)

        async def answer(seen: "_Seen") -> Response:
            _check_media_type(request, _TENSOR_TYPES, required=False)
            signature = self._engine.signature(model, version)
            body = await self._body(request, seen)
            length = request.headers.get(HEADER_LENGTH)
            ranked, wanted, timeout = await _decode(
                body, lambda: decode_infer(body, length, signature, self._limits, version)
            )
            response = await self._rank(request, ranked, timeout, seen)
            content, header = encode_infer(response, wanted)
            return self._packed(request, content, seen, header)

        return await self._watched(request, answer, model, version)

    async def rank(self, request: Request) -> Response:
        """`POST /v1/rank`."""
        model: str | None = request.path_params.get("model")

        async def answer(seen: "_Seen") -> Response:
            _check_media_type(request, ("application/json",), required=True)
            if model is not None:
                self._engine.signature(model)  # an unknown one is told before the body is read
            body = await self._body(request, seen)
            ranked = await _decode(
                body, lambda: decode_rank(parse_json(body, self._limits), self._engine, self._limits, model)
            )
            response = await self._rank(request, ranked, None, seen)
            carried = self._engine.signature(ranked.model).carried
            return self._packed(request, encode_rank(ranked, response, carried), seen)

        return await self._watched(request, answer, model, None)

    async def _watched(
        self,
        request: Request,
        answer: Callable[["_Seen"], Awaitable[Response]],
        model: str | None,
        version: str | None,
    ) -> Response:
        """The answer, counted with its reason and its time."""
        seen = _Seen(model, version)
        reason: Reason | None = Reason.INTERNAL
        try:
            with self._watch.trace("rest", _lower(request.headers)):
                response = await answer(seen)
                reason = None
                return response
        except RequestError as error:
            reason = error.reason
            raise
        except asyncio.CancelledError:
            reason = Reason.CANCELLED
            raise
        finally:
            self._watch.request("rest", seen.model, seen.version, reason, time.monotonic() - seen.start)

    async def _body(self, request: Request, seen: "_Seen") -> memoryview:
        body = await read_body(request, self._limits)
        seen.received = time.monotonic()
        return body

    async def _rank(self, request: Request, ranked: RankRequest, timeout: float | None, seen: "_Seen") -> RankResponse:
        """Raises RequestError; CANCELLED if the client left."""
        seen.model, seen.version = ranked.model, ranked.version
        limits = [self._limits.deadline_ms / 1000, _header_deadline(request.headers.get(DEADLINE)), timeout]
        deadline = seen.start + min(limit for limit in limits if limit is not None)
        self._watch.stage("decode", time.monotonic() - seen.received)
        ranked = replace(ranked, deadline=deadline, key=request.scope["request_id"])
        response = await _unless_left(request, self._engine.rank(ranked))
        seen.version, seen.ranked = response.version, time.monotonic()
        return response

    def _packed(self, request: Request, content: bytes, seen: "_Seen", header: int | None = None) -> Response:
        """The response, compressed if the client wants it. `header`: the bytes of JSON before binary data."""
        content, encoding = compressed(content, request.headers.get("accept-encoding"))
        headers = {"Vary": "Accept-Encoding"}
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        if header is not None:
            headers["Inference-Header-Content-Length"] = str(header)
        kind = "application/json" if header is None else "application/octet-stream"
        self._watch.stage("respond", time.monotonic() - seen.ranked)
        return Response(content, headers=headers, media_type=kind)


class _Seen:
    """What is known of a request so far."""

    def __init__(self, model: str | None, version: str | None) -> None:
        self.model, self.version = model, version
        self.start = self.received = self.ranked = time.monotonic()


def _model_of(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _check_media_type(request: Request, accepted: tuple[str, ...], *, required: bool) -> None:
    """Raise RequestError for another Content-Type: those of forms and text may come from any page in a browser."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted and (kind or required):
        raise RequestError(
            Reason.MEDIA_TYPE,
            f"Content-Type: found {shorten(repr(kind)) if kind else 'none'}, expected {' or '.join(accepted)}",
        )


def _header_deadline(text: str | None) -> float | None:
    """The header `X-Request-Deadline-Ms` in seconds."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise RequestError(
            Reason.INVALID, f"X-Request-Deadline-Ms: found {shorten(repr(text))}, expected milliseconds above 0"
        )
    return value / 1000


async def _decode(body: memoryview, decode: Callable[[], Decoded]) -> Decoded:
    return decode() if len(body) < _THREAD_BYTES else await asyncio.to_thread(decode)


async def _unless_left(request: Request, ranking: Awaitable[RankResponse]) -> RankResponse:
    """The response, unless the client leaves before: then the ranking is cancelled. Raises RequestError."""
    task = asyncio.ensure_future(ranking)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestError(Reason.CANCELLED, "the client left")
        return task.result()
    finally:
        for waiting in (task, left):
            waiting.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
