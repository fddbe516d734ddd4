"""The arguments and the file of `recap serve`: what they become, and the origin of every mistake."""

import gzip
import json
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from serving.certificates import Authority
from serving.running import running, small_model
from serving.watch.requests import make_request

from recap.config.base import BaseConfig
from recap.config.file.json_schema import models
from recap.config.serving.server import ServerConfig
from recap.errors import ConfigError
from recap.serving.configuration import load_server_config


def problems(
    *arguments: str, file: str | None = None, host: str | None = None, overrides: list[str] | None = None
) -> str:
    options = {} if host is None else {"address.host": ("--host", host)}
    with pytest.raises(ConfigError) as raised:
        load_server_config(file, arguments, options, overrides or [])
    return str(raised.value)


def test_models_are_named_as_their_folder_or_by_name(tmp_path: Path) -> None:
    config = load_server_config(None, [str(tmp_path / "feed"), "ads=/models/v7", f"{tmp_path}/x/../b.2"])
    assert {name: model.path for name, model in config.models.items()} == {
        "feed": str(tmp_path / "feed"),
        "ads": "/models/v7",
        "b.2": f"{tmp_path}/x/../b.2",
    }


def test_a_folder_whose_name_has_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "date=1").mkdir()
    assert "named 'date=1'" in problems(str(tmp_path / "date=1"))


def test_the_file_options_and_overrides_are_merged_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models: {feed: {path: /models/feed}}\naddress: {host: '::1', http_port: 1}\ngrace_seconds: 5\n")
    options = {"address.http_port": ("--port", 2), "address.grpc_port": ("--grpc-port", 4)}
    config = load_server_config(
        str(file), ["ads=/models/ads"], options, ["address.grpc_port=5", "models.feed.fallback=0.5"]
    )
    assert list(config.models) == ["feed", "ads"]
    assert (config.address.host, config.address.http_port, config.address.grpc_port) == ("::1", 2, 5)
    assert (config.grace_seconds, config.models["feed"].fallback) == (5, 0.5)


def test_a_mistake_in_the_file_has_its_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models:\n  a b: {path: x}\nbatching:\n  window: 3\nlimits:\n  candidates: many\n")
    lines = problems(file=str(file)).splitlines()
    assert lines[0].startswith(f"{file}:2:")
    assert f"{file}:4:3: batching.window: 'window' is unknown" in lines[1]
    assert f"{file}:6:15: limits.candidates" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no models to serve; give model directories as arguments, or add models to the file"),
        (["a=/x", "a=/y"], "argument 'a=/y': is a second model a, besides argument 'a=/x'; name this one: NAME=/y"),
        (["/x/a b"], "argument '/x/a b': the model would be named 'a b'; names have letters"),
        (["..=/x"], "the model would be named '..'"),
    ],
)
def test_a_mistake_in_the_models_names_the_argument(arguments: list[str], message: str) -> None:
    assert message in problems(*arguments)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_an_address_that_others_reach_needs_protection(host: str) -> None:
    assert f"--host: {host} can be reached from other machines; set" in problems("a=/x", host=host)
    for overrides in (["address.insecure=true"], ["address.token_file=t"]):
        assert load_server_config(None, ["a=/x"], {"address.host": ("--host", host)}, overrides).address.host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_needs_no_protection(host: str) -> None:
    assert load_server_config(None, ["a=/x"], {"address.host": ("--host", host)}).address.host == host


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["address.certificate=c"], "address.certificate: TLS needs both; set address.private_key too"),
        (["address.private_key=k"], "address.private_key: TLS needs both; set address.certificate too"),
        (["address.client_ca=a"], "address.client_ca: certificates of clients need TLS"),
        (["address.grpc_port=8080"], "address.grpc_port: 8080 is the port of REST too"),
        (
            ["models.a.version=v1", "models.a.rollout={kind: shadow, version: v1}"],
            "models.a.rollout.version: v1 is the version",
        ),
        (["limits.candidate=1"], "'candidate' is unknown"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], message: str) -> None:
    assert message in problems("a=/x", overrides=overrides)


def test_every_field_is_read_by_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: set[tuple[str, str]] = set()

    def record(self: BaseConfig, name: str) -> Any:
        module = str(sys._getframe(1).f_globals["__name__"])
        if module.startswith("recap.") and not module.startswith("recap.config"):
            reads.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    model, versions = small_model(tmp_path / "model"), tmp_path / "versions"
    versions.mkdir()
    for version in ("v1", "v2"):
        (versions / version).symlink_to(model)
    token, authority = tmp_path / "token", Authority(tmp_path / "certificates")
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    server, client = authority.pair("server"), authority.pair("client")
    monkeypatch.setattr(BaseConfig, "__getattribute__", record)
    monkeypatch.setattr("recap.serving.watch.worker._TICK_SECONDS", 0.01)
    tls = {"certificate": str(server.certificate), "private_key": str(server.key)}
    rollouts = {
        "one": {"kind": "shadow", "version": "v1"},
        "two": {"kind": "split", "version": "v1", "share": 0.5},
    }
    with running(
        model,
        address={"grpc_port": 0, "token_file": str(token), "client_ca": str(authority.certificate), **tls},
        shedding={"target_ms": 1000.0},
        request_log={"folder": str(tmp_path / "log"), "share": 1.0},
        models={name: {"path": str(versions), "rollout": rollout} for name, rollout in rollouts.items()},
    ) as addresses:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.load_cert_chain(client.certificate, client.key)
        request = make_request(3)
        user = {name: request.user[name][0].as_py() for name in request.user.column_names}
        body = {"user": user, "candidates": request.candidates.to_pylist()}
        for name in rollouts:
            content = gzip.compress(json.dumps({"model": name, **body}).replace("NaN", "null").encode())
            headers = {"Content-Encoding": "gzip", "Authorization": f"Bearer {token.read_text()}"}
            asked = Request(f"{addresses.http}/v1/rank", content, {"Content-Type": "application/json", **headers})
            with urlopen(asked, timeout=20, context=context) as answer:
                assert answer.status == 200
    fields = {(name, field) for name, section in models(ServerConfig).items() for field in section.model_fields}
    unread = {field for field in fields - reads if field[1] != "kind"}  # of kinds, the class is read
    in_checks = {("AddressConfig", "insecure")}
    in_time = {("SheddingConfig", "target_ms")}  # tests/serving/engine/test_shedding.py
    assert unread == in_checks | in_time
