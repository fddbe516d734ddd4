"""What all routes share: the token, the id of a request, and errors as `{"error": "…"}`."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recap.serving.contract import Reason, RequestError, request_key
from recap.serving.security import Token

_LOG = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: the page holds nothing of the models, and probes and Prometheus have no secrets."""
_UNAVAILABLE = 503

Handler = Callable[[Request], Awaitable[Response]]


class Guard:
    """ASGI middleware: refuses requests without the token; answers with `X-Request-Id`, the client's or a new one."""

    def __init__(self, app: ASGIApp, token: Token | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["request_id"] = request_key(headers.get("x-request-id"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["X-Request-Id"] = scope["request_id"]
                added["X-Content-Type-Options"] = "nosniff"
                added["Server"] = "recap"  # not the name of the library
            await send(message)

        try:
            if self._token is not None and scope["path"] not in OPEN_PATHS:
                self._token.check(headers.get("authorization"))
        except RequestError as error:
            await answer_error(error)(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)


def answered(handler: Handler) -> Handler:
    """`handler` with failures as answers: what is not a RequestError is logged with the id of the request."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestError as error:
            return answer_error(error, _closing(request, error))
        except Exception:
            id_ = request.scope["request_id"]
            _LOG.exception("request %s failed", id_)
            return answer_error(RequestError(Reason.INTERNAL, f"the server failed; its log says why (request {id_})"))

    return answer


def answer_error(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that failed."""
    added = dict(headers or {})
    if error.reason.http_status == _UNAVAILABLE:
        added["Retry-After"] = str(error.retry_after or 1)
    if error.reason is Reason.UNAUTHENTICATED:
        added["WWW-Authenticate"] = "Bearer"
    if error.reason is Reason.MEDIA_TYPE:
        added["Accept-Encoding"] = "gzip, deflate"
    return json_answer({"error": str(error)}, error.reason.http_status, added)


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as an answer; text that is not UTF-8 is replaced."""
    try:
        body = orjson.dumps(content)
    except TypeError:  # lone surrogates, from percent-encoded paths
        body = orjson.dumps({name: str(value).encode("utf-8", "replace").decode() for name, value in content.items()})
    return Response(body, status, headers, "application/json")


def _closing(request: Request, error: RequestError) -> Mapping[str, str]:
    """`Connection: close` where the rest of a body would follow that nobody reads."""
    unread = error.reason in (Reason.TOO_LARGE, Reason.TIMEOUT, Reason.MEDIA_TYPE)
    return {"Connection": "close"} if unread and request.scope.get("http_version", "1.1") < "2" else {}
