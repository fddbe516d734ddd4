"""Spans of requests reach a collector; one that is gone changes nothing."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from pydantic import ValidationError

from recap.config.serving.server import ServerConfig
from recap.errors import InputError
from recap.serving.watch.watch import Watch

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it receives."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - its name in the protocol
        self.spans += [span for part in request.resource_spans for scope in part.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server, kept = grpc.server(ThreadPoolExecutor(1)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def test_stages_are_children_of_the_request_whose_parent_the_client_names(collector: tuple[Collector, str]) -> None:
    kept, address = collector
    with Watch(ServerConfig(traces=address)) as watch:
        with watch.trace("rest", {"traceparent": f"00-{TRACE}-{PARENT}-01"}):
            for stage in ("decode", "queue", "model"):
                watch.stage(stage, 0.25)  # type: ignore[arg-type]
        watch.stage("model", 1.0)
    spans = {span.name: span for span in kept.spans}
    assert sorted(spans) == ["decode", "model", "queue", "request"]
    assert spans["request"].trace_id.hex() == TRACE
    assert spans["request"].parent_span_id.hex() == PARENT
    for name in ("decode", "queue", "model"):
        assert spans[name].parent_span_id == spans["request"].span_id
        assert spans[name].end_time_unix_nano - spans[name].start_time_unix_nano == 250_000_000


def test_a_dead_collector_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recap.serving.watch.traces._CLOSE_SECONDS", 0.1)
    with Watch(ServerConfig(traces="http://127.0.0.1:1")) as watch, watch.trace("grpc", {"traceparent": "nonsense"}):
        watch.stage("model", 0.1)
    assert b'recap_latency_seconds_count{stage="model"} 1.0' in watch.exposition()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match=r"pip install 'recap-ranker\[traces\]'"):
        Watch(ServerConfig(traces="http://localhost:4317"))


@pytest.mark.parametrize("address", ["localhost:4317", "http://", "ftp://x:1", "http://a b"])
def test_an_address_without_scheme_or_host_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="traces"):
        ServerConfig.model_validate({"traces": address})
