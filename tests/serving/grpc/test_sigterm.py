"""A whole server with gRPC, from start to SIGTERM."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving.running import small_model

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.mark.slow
def test_sigterm_is_seen_by_health_and_ends_the_server_with_0_even_with_idle_clients(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recap", "serve", f"feed={small_model(tmp_path)}", "--port", "0"]
    status = health_pb2.HealthCheckResponse
    with subprocess.Popen([*command, "--grpc-port", "0"], stderr=subprocess.PIPE, text=True) as served:
        try:
            assert served.stderr is not None
            lines = iter(served.stderr.readline, "")
            address = next(found[1] for line in lines if (found := re.search(r"gRPC on (\S+);", line)))
            host, port = address.split(":")
            with grpc.insecure_channel(address) as channel, socket.create_connection((host, int(port))) as idle:
                idle.sendall(PREFACE)
                states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="feed"))
                assert next(states).status == status.SERVING
                served.send_signal(signal.SIGTERM)
                assert [state.status for state in states] == [status.NOT_SERVING]
                assert served.wait(60) == 0
            assert "Traceback" not in served.stderr.read()
        finally:
            served.kill()
