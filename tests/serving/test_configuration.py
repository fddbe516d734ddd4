"""The arguments and the file of `recap serve`: what they become, and the origin of every mistake."""

from pathlib import Path

import pytest

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
    assert f"--host: address.host: {host} can be reached from other machines; set" in problems("a=/x", host=host)
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
