"""`Traces`: OpenTelemetry spans of requests and their stages, sent to a collector by a thread of the SDK."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread

from recap.errors import InputError

_TIMEOUT_SECONDS = 3
"""Of one export, which is repeated a few times by the SDK; spans that do not fit its queue meanwhile are dropped."""
_CLOSE_SECONDS = 3.0


class Traces:
    """A span for each request, and a child for each of its stages.

    The environment variables of OpenTelemetry apply, such as `OTEL_TRACES_SAMPLER` and `OTEL_SERVICE_NAME`.
    """

    def __init__(self, endpoint: str) -> None:
        """Raises InputError without the extra `traces`. Does not connect yet."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise InputError(
                "traces: needs the OpenTelemetry SDK and its OTLP exporter; install them with: pip install "
                "'recap-ranker[traces]'"
            ) from None
        named = "OTEL_SERVICE_NAME" in os.environ
        resource = Resource.create({} if named else {"service.name": "recap"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_TIMEOUT_SECONDS)))
        self._tracer = self._provider.get_tracer("recap.serving")

    @contextmanager
    def request(self, protocol: str, headers: Mapping[str, str]) -> Iterator[None]:
        """The span of a request, below the one of `traceparent` in `headers`."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(
            "request",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": protocol},
            record_exception=False,  # its stack would tell internals
        ):
            yield

    def stage(self, name: str, seconds: float, ended: float | None) -> None:
        """A child of the current span; `ended`: of `time.monotonic()`, by default now."""
        from opentelemetry.trace import get_current_span

        if not get_current_span().is_recording():
            return
        end = time.time_ns() - (0 if ended is None else int((time.monotonic() - ended) * 1e9))
        self._tracer.start_span(name, start_time=end - int(seconds * 1e9)).end(end)

    def close(self) -> None:
        """Send what waits, for at most some seconds: the collector may be gone."""
        thread = Thread(target=self._provider.shutdown, name="recap-traces", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)
