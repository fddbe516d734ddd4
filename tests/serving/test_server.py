"""`recap serve` as a process, and the server from start to end."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from serving.certificates import Authority, Pair
from serving.running import running, small_model
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.serving.server import ServerConfig
from recap.errors import CheckpointError, InputError
from recap.serving import server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`recap serve` of the model, and its port."""
    command = [sys.executable, "-m", "recap", "serve", f"feed={folder}", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        try:
            lines = iter(served.stderr.readline, "")
            line = next(line for line in lines if line.startswith("serving on http://127.0.0.1:"))
            yield served, int(line.split(";")[0].rpartition(":")[2])
        finally:
            served.kill()


def rank(port: int) -> int:
    """The status of a good request."""
    rows = [{"age": 1.0, "in_network": True, "hour": hour, "vector": [0.5] * 4} for hour in (3, 4)]
    body = json.dumps({"user": {"followers": 2.0, "language": "en"}, "candidates": rows}).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/rank", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return int(answer.status)


def stuck(port: int) -> socket.socket:
    """A client that never sends the rest of its request."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = "POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    client.sendall(head.encode())
    return client


@pytest.mark.slow
def test_sigterm_ends_the_server_with_0_even_with_a_stuck_client(folder: Path) -> None:
    with process(folder, "--set", "grace_seconds=2") as (served, port):
        assert rank(port) == 200
        with stuck(port):
            served.send_signal(signal.SIGTERM)
            assert served.wait(20) == 0
        assert served.stderr is not None
        assert "Traceback" not in served.stderr.read()


@pytest.mark.slow
def test_a_second_signal_ends_the_server_at_once(folder: Path) -> None:
    with process(folder, "--set", "grace_seconds=1000") as (served, port), stuck(port):
        served.send_signal(signal.SIGTERM)
        assert served.stderr is not None
        assert served.stderr.readline().startswith("stopping")
        served.send_signal(signal.SIGINT)
        assert served.wait(20) == 128 + signal.SIGINT


def test_a_port_in_use_is_refused_before_models_are_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = rf"address.http_port: 127\.0\.0\.1:{port}: cannot listen \(Address already in use\); choose another"
        with pytest.raises(InputError, match=message), running(tmp_path / "missing", address={"http_port": port}):
            pass


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    address = {"host": "192.0.2.1", "insecure": True}
    with pytest.raises(InputError, match=r"192\.0\.2\.1"), running(tmp_path, address=address):
        pass


def test_a_model_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"), running(tmp_path / "missing"):
        pass


def test_a_certificate_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate")
    address = {"certificate": str(tmp_path / "c.pem"), "private_key": str(tmp_path / "c.pem")}
    with pytest.raises(InputError, match=r"address\.certificate: .*c\.pem"), running(folder, address=address):
        pass


@pytest.mark.parametrize(
    ("field", "message"),
    [("token_file", "found 5 characters"), ("certificate", r"address\.certificate: .* cannot be used")],
)
def test_token_and_certificates_are_checked_before_models_are_loaded(field: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("short")
    (tmp_path / "file").chmod(0o600)
    address = {field: str(tmp_path / "file")}
    if field == "certificate":
        address["private_key"] = address[field]
    with pytest.raises(InputError, match=message), running(tmp_path / "missing", address=address):
        pass


def test_a_check_loads_everything_and_prints_what_would_be_served(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"models: {{feed: {{path: {folder}}}}}\naddress: {{grpc_port: 8081}}\n")
    done = CliRunner().invoke(app, ["serve", "--config", str(file), "--check"])
    assert (done.exit_code, done.stdout) == (
        0,
        f"no problems. Would serve feed ({folder.name}) on http://127.0.0.1:8080, gRPC on 127.0.0.1:8081\n",
    )
    missing = CliRunner().invoke(app, ["serve", str(tmp_path / "missing"), "--check"])
    assert isinstance(missing.exception, CheckpointError)
    other = CliRunner().invoke(app, ["config", "check", str(file)])
    assert f"{file}: looks like a file of a server; check it with: recap serve" in str(other.exception)


@pytest.mark.slow
def test_a_new_version_is_taken_while_the_server_runs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "v1").symlink_to(folder)
    with running(tmp_path, reload={"every_seconds": 0.05}) as addresses:
        for number in range(2, 5):
            (tmp_path / f"v{number}").symlink_to(folder)
            while version(addresses.http) != f"v{number}":
                assert rank(int(addresses.http.rpartition(":")[2])) == 200


def version(address: str) -> str:
    with urlopen(f"{address}/v2/models/feed", timeout=20) as answer:
        return str(json.load(answer)["versions"][-1])


def test_a_signal_while_models_are_loaded_ends_the_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, released = asyncio.Event(), Event()
    monkeypatch.setattr(server, "_load", lambda *_: released.wait(20))
    config = ServerConfig.model_validate({"models": {"feed": {"path": str(folder)}}, "address": {"http_port": 0}})

    async def job() -> bool:
        asyncio.get_running_loop().call_later(0.01, stop.set)
        ended = await server.serve(config, stop)
        released.set()
        return ended

    assert asyncio.run(job()) is False


def test_with_mtls_only_clients_of_the_authority_are_answered(folder: Path, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    pair, client, stranger = ours.pair("server"), ours.pair("client"), others.pair("client")
    address = {"certificate": str(pair.certificate), "private_key": str(pair.key), "client_ca": str(ours.certificate)}
    with running(folder, address=address) as addresses:
        assert addresses.http.startswith("https://")

        def ready(identity: Pair | None) -> int:
            context = ssl.create_default_context(cafile=str(ours.certificate))
            if identity is not None:
                context.load_cert_chain(identity.certificate, identity.key)
            with urlopen(f"{addresses.http}/v2/health/ready", timeout=20, context=context) as answer:
                return int(answer.status)

        assert ready(client) == 200
        for identity in (None, stranger):
            with pytest.raises((ssl.SSLError, URLError, ConnectionError)):
                ready(identity)
