"""What protocols and the engine exchange: requests, responses, and why a request fails.

A protocol (`rest/`, `grpc/`) decodes a `RankRequest`, awaits `Engine.rank`, and encodes the `RankResponse`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.errors import RecapError

_KEY = re.compile(r"[!-~]{1,128}")


def request_key(given: str | None) -> str:
    """The id of a request: that of the client if it is 1 to 128 visible characters of ASCII, else a new one."""
    return given if given is not None and _KEY.fullmatch(given) else uuid4().hex


class Reason(Enum):
    """Why a request fails: its name in metrics, its HTTP status, and its gRPC status code."""

    INVALID = ("invalid", 400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = ("unauthenticated", 401, "UNAUTHENTICATED")
    FORBIDDEN = ("forbidden", 403, "PERMISSION_DENIED")
    NOT_FOUND = ("not_found", 404, "NOT_FOUND")
    METHOD = ("method", 405, "UNIMPLEMENTED")
    TIMEOUT = ("timeout", 408, "DEADLINE_EXCEEDED")
    TOO_LARGE = ("too_large", 413, "RESOURCE_EXHAUSTED")
    MEDIA_TYPE = ("media_type", 415, "INVALID_ARGUMENT")
    OVERLOADED = ("overloaded", 503, "RESOURCE_EXHAUSTED")
    NOT_READY = ("not_ready", 503, "UNAVAILABLE")
    DEADLINE = ("deadline", 504, "DEADLINE_EXCEEDED")
    CANCELLED = ("cancelled", 499, "CANCELLED")
    INTERNAL = ("internal", 500, "INTERNAL")

    def __init__(self, label: str, http_status: int, grpc_code: str) -> None:
        self.label, self.http_status, self.grpc_code = label, http_status, grpc_code


class RequestError(RecapError):
    """A request that is not answered with scores. The message goes to the client: no paths, no internals."""

    def __init__(self, reason: Reason, message: str, retry_after: int | None = None) -> None:
        """`retry_after`: seconds after which the client may try again."""
        super().__init__(message)
        self.reason, self.retry_after = reason, retry_after


@dataclass(frozen=True)
class RankRequest:
    """A user and N candidates. A column is in `user` or in `candidates`, never in both."""

    model: str
    user: pa.Table
    """One row: the columns that are equal for all candidates. May have no columns."""
    candidates: pa.Table
    """N ≥ 1 rows: all other columns."""
    version: str | None = None
    """The version to answer; None: the one that the server chooses."""
    id: str | None = None
    """Chosen by the client, and repeated in the response."""
    deadline: float | None = None
    """`time.monotonic()` at which the client stops waiting; None: the server's limit."""
    weights: Mapping[str, float] | None = None
    """Task → weight of the score, in place of those of the model."""
    protocol: str = "rest"
    """`rest` or `grpc`, for metrics."""
    key: str = field(default_factory=lambda: request_key(None))
    """The id that the response names: `X-Request-Id` of REST, the `id` of gRPC. It names the request in the log, and
    decides whether it is logged."""


@dataclass(frozen=True)
class RankResponse:
    """The scores of the first M of N candidates, tasks in the order of `tasks`; M < N only if the server sheds."""

    model: str
    version: str
    tasks: Sequence[str]
    probabilities: npt.NDArray[np.float32]  # [M, T] calibrated; NaN in rows of `failed`
    scores: npt.NDArray[np.float64]  # [M]; NaN in rows of `failed` without a fallback
    candidates: int
    """N."""
    failed: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Candidates whose prediction is not finite."""
    id: str | None = None


@dataclass(frozen=True)
class Signature:
    """The columns that a version reads and the tasks it predicts."""

    model: str
    versions: Sequence[str]
    """Those that are ready, newest last."""
    columns: Mapping[str, pa.DataType]
    """Column → its Arrow type; a list type for columns of several values."""
    tasks: Sequence[str]
    regressions: Sequence[str]
    user: str | None
    """The column of the user, by which versions are split; optional in requests."""
    carried: Sequence[str] = ()
    """Columns that requests may hold besides, such as ids, and that `POST /v1/rank` repeats."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Task → weight of the score, of the newest version."""
    weights_from_requests: bool = False
    """Whether requests may bring their own weights."""


class Engine(Protocol):
    """The models of a server, behind queue and batching. All methods run on the event loop and never block it."""

    def models(self) -> Sequence[str]:
        """The names of the models."""
        ...

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or one model or version, answers requests. Raises RequestError for an unknown one."""
        ...

    def signature(self, model: str, version: str | None = None) -> Signature:
        """Raises RequestError if the model or the version is unknown."""
        ...

    async def rank(self, request: RankRequest) -> RankResponse:
        """Raises RequestError. Cancelling it (the client left) drops the request if it still waits."""
        ...
