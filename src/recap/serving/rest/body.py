"""Bodies of requests within their limits: bytes, time, decompressed bytes, nesting of JSON."""

import asyncio
import re
import zlib
from typing import Any

import numpy as np
import orjson
from isal import isal_zlib
from starlette.requests import ClientDisconnect, Request

from recap.config.serving.server import LimitsConfig
from recap.serving.contract import Reason, RequestError

_MIB = 2**20
_THREAD_BYTES = 64 * 1024
"""Compressed bytes from which a body is inflated in a thread, off the event loop."""
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content-Encoding → the `wbits` of zlib."""
_DAMAGED: tuple[type[Exception], ...] = (isal_zlib.error, zlib.error)  # type: ignore[assignment]
_MAX_MEMBERS = 10_000
"""Streams of gzip in a body."""
_SLICE_BYTES = 16 * 1024
"""What a second stream is inflated in pieces of: what follows a stream is copied at its end."""
_MIN_COMPRESSED_BYTES = 4096
"""Size from which a response is compressed."""
_KEEP = b'[]{}"'
_DROP = bytes(set(range(256)) - set(_KEEP))
_DEPTH = np.zeros(256, np.int8)
_DEPTH[list(b"[{")], _DEPTH[list(b"]}")] = 1, -1


async def read_body(request: Request, limits: LimitsConfig) -> memoryview:
    """The body, decompressed. Raises RequestError: TOO_LARGE, TIMEOUT, MEDIA_TYPE, INVALID."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in _WINDOW_BITS and encoding != "identity":
        raise RequestError(Reason.MEDIA_TYPE, "Content-Encoding: expected gzip, deflate or none")
    limit = limits.body_mib * _MIB
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18:
        raise RequestError(Reason.INVALID, "Content-Length: expected a whole number")
    if int(length) > limit:
        raise _too_large(limits)
    body: bytes | bytearray = b""
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limits)
                if not body:
                    body = chunk  # often all of it, which is then not copied
                elif isinstance(body, bytearray):
                    body += chunk
                else:
                    body = bytearray(body) + chunk
    except TimeoutError:
        raise RequestError(
            Reason.TIMEOUT, f"the body did not arrive within {limits.body_seconds:g} seconds, the limit"
        ) from None
    except ClientDisconnect:
        raise RequestError(Reason.INVALID, "the body ends too early, or its chunks are malformed") from None
    if encoding == "identity":
        return memoryview(body)
    if len(body) < _THREAD_BYTES:
        return memoryview(inflate(body, encoding, limits))
    return memoryview(await asyncio.to_thread(inflate, body, encoding, limits))


def inflate(body: bytes | bytearray, encoding: str, limits: LimitsConfig) -> bytes:
    """The content of a body in `gzip`, of up to 10,000 members, or `deflate`, up to the limit. Raises RequestError."""
    limit = limits.decompressed_mib * _MIB
    parts: list[bytes] = []
    size = start = members = 0
    view, step = memoryview(body), len(body)
    try:
        while start < len(view) or not members:
            inflater = isal_zlib.decompressobj(_WINDOW_BITS[encoding])
            while not inflater.eof:
                given = view[start : start + step]
                if not given:
                    raise RequestError(Reason.INVALID, f"the body ends before its {encoding} data does")
                parts.append(inflater.decompress(given, limit + 1 - size))
                size += len(parts[-1])
                if size > limit:
                    raise RequestError(
                        Reason.TOO_LARGE,
                        f"the body inflates to more than {limits.decompressed_mib} MiB, the limit",
                    )
                start += len(given) - len(inflater.unused_data)
            members += 1
            if start < len(view) and encoding == "deflate":
                raise RequestError(Reason.INVALID, "the body goes on after its deflate data")
            if members > _MAX_MEMBERS:
                raise RequestError(Reason.INVALID, f"the body has more than {_MAX_MEMBERS:,} members of gzip")
            step = _SLICE_BYTES
    except _DAMAGED:
        raise RequestError(Reason.INVALID, f"Content-Encoding is {encoding}, but the body is not") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(body: memoryview, limits: LimitsConfig) -> Any:
    """The value of a JSON text. Raises RequestError: too deep, not JSON, numbers beyond float64."""
    if nesting(body) > limits.json_depth:
        raise RequestError(Reason.INVALID, f"the JSON is nested more than {limits.json_depth} levels deep, the limit")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "; write null where there is no value" if re.search(rb"\b(NaN|Infinity)\b", body) else ""
        raise RequestError(Reason.INVALID, f"the body is not JSON: {error}{hint}") from None


def nesting(text: memoryview) -> int:
    """The depth of the lists and objects of a JSON text, without parsing it; at least that of valid JSON."""
    whole = isinstance(text.obj, bytes | bytearray) and len(text.obj) == len(text)
    data = bytes(text.obj) if whole else text.tobytes()
    if b"\\" in data:
        data = re.sub(rb"\\.", b"", data, flags=re.DOTALL)
    brackets = data.translate(None, _DROP)
    while b'""' in brackets:  # a pair of quotes does not change what stands within strings
        brackets = brackets.replace(b'""', b"")
    codes = np.frombuffer(brackets, np.uint8)
    steps = _DEPTH[codes]
    if b'"' in brackets:
        steps[(np.cumsum(codes == ord('"')) & 1).astype(bool)] = 0
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def compressed(body: bytes, accepted: str | None) -> tuple[bytes, str | None]:
    """A response in the encoding that `Accept-Encoding` prefers, gzip or deflate, and its name; small ones as is."""
    if not accepted or len(body) < _MIN_COMPRESSED_BYTES:
        return body, None
    for entry in accepted.lower().split(","):
        name, _, quality = entry.partition(";")
        if (name := name.strip()) in ("gzip", "deflate") and not re.fullmatch(r"\s*q=0(\.0*)?\s*", quality):
            return isal_zlib.compress(body, 1, wbits=_WINDOW_BITS[name]), name
    return body, None


def _too_large(limits: LimitsConfig) -> RequestError:
    return RequestError(Reason.TOO_LARGE, f"the body is larger than {limits.body_mib} MiB, the limit")
