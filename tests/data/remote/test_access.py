"""Tokens, TLS and mTLS between data servers and their clients: who gets rows, and what the others are told."""

import gc
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from data.remote.serving import config_with, readers_of, stream_of
from serving.certificates import Authority, Pair

from recap.config.data import ServiceConfig
from recap.data.open import open_sources
from recap.data.remote.access import Access, Identity
from recap.data.remote.server import DataServer
from recap.data.stream.source import Source
from recap.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def sets(feed: Path) -> dict[str, Source]:
    return open_sources(config_with(feed))


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> list[Authority]:
    folder = tmp_path_factory.mktemp("certificates")
    return [Authority(folder / name) for name in ("ours", "others")]


def token_file(path: Path, token: str) -> str:
    path.write_text(token)
    path.chmod(0o600)
    return str(path)


def pair_of(pair: Pair) -> dict[str, str]:
    return {"certificate": str(pair.certificate), "private_key": str(pair.key)}


def rows_of(feed: Path, server: DataServer, **readers: Any) -> int:
    return len(next(iter(stream_of(config_with(feed, readers_of([server], **readers))))))


@pytest.fixture
def servers() -> Iterator[list[DataServer]]:
    started: list[DataServer] = []
    yield started
    for server in started:
        server.shutdown()


def test_only_the_token_opens_a_server_and_it_can_be_replaced(
    feed: Path, tmp_path: Path, sets: dict[str, Source], servers: list[DataServer]
) -> None:
    messages: list[str] = []
    ours = token_file(tmp_path / "ours", "0123456789abcdef\n")
    servers.append(DataServer(sets, Access(token_file=ours), say=messages.append))
    other = token_file(tmp_path / "other", "fedcba9876543210")
    assert rows_of(feed, servers[0], token_file=ours) == 64
    address = f"127.0.0.1:{servers[0].port}"
    with pytest.raises(InputError, match=f"readers: {address} needs a token; set readers.token_file"):
        rows_of(feed, servers[0])
    with pytest.raises(InputError, match=f"readers: {address} has another token than {re.escape(other)}") as caught:
        rows_of(feed, servers[0], token_file=other)
    assert caught.value.exit_code == 2
    assert "fedcba" not in str(caught.value)
    os.replace(other, ours)
    assert rows_of(feed, servers[0], token_file=ours) == 64
    os.replace(token_file(tmp_path / "short", "short"), ours)  # at once, or a reader may find it empty
    with pytest.raises(InputError, match="found 5 characters, expected at least 16"):
        rows_of(feed, servers[0], token_file=ours)
    good = token_file(tmp_path / "good", "fedcba9876543210")
    assert rows_of(feed, servers[0], token_file=good) == 64
    assert messages  # two requests may find the change at the same time
    assert all(message.endswith("the token before stays valid") for message in messages)


def test_tls_needs_the_same_authorities_at_both_ends(
    feed: Path, sets: dict[str, Source], authorities: list[Authority], servers: list[DataServer]
) -> None:
    ours, others = authorities
    server, client, stranger = (pair_of(pair) for pair in (ours.pair("s"), ours.pair("c"), others.pair("x")))
    ca, other_ca = str(ours.certificate), str(others.certificate)
    plain, tls, mutual = (
        DataServer(sets, access) for access in (Access(), Access(**server), Access(**server, client_ca=ca))
    )
    servers += [plain, tls, mutual]
    assert rows_of(feed, tls, server_ca=ca) == rows_of(feed, mutual, server_ca=ca, **client) == 64
    for served, readers, problem in (
        (tls, {}, "it speaks TLS; set readers.server_ca to the authority of its certificate"),
        (mutual, {}, "it speaks TLS; set readers.server_ca"),
        (plain, {"server_ca": ca}, "it does not speak TLS; remove readers.server_ca, or start it with --certificate"),
        (tls, {"server_ca": other_ca}, r"its certificate is not trusted \(unable to get local issuer certificate\)"),
        (mutual, {"server_ca": ca}, "it needs a certificate of this run; set readers.certificate"),
        (mutual, {"server_ca": ca, **stranger}, r"it does not trust .*x\.pem \(readers\.certificate\)"),
    ):
        with pytest.raises(InputError, match=f"cannot connect to 127.0.0.1:{served.port}: {problem}") as caught:
            rows_of(feed, served, **readers)
        assert caught.value.exit_code == 2


def test_a_server_that_resets_every_connection_says_nothing_about_tls_and_leaves_no_socket_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        identity = Identity(ServiceConfig(kind="service", address=[address]))

        def reset(times: int) -> None:
            for _ in range(times):
                connected = server.accept()[0]
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connected.close()

        tries = 200  # a reset just after the connection is one in a hundred
        resets = Thread(target=reset, args=(tries,))
        resets.start()
        assert {identity.tls_problem(address) for _ in range(tries)} == {None}
        resets.join()
    gc.collect()  # an open socket warns when it is freed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--host: 0.0.0.0 can be reached from other machines; restrict access with --token-file"),
        ({"certificate": "c"}, "--certificate: TLS needs both; give --private-key too"),
        ({"private_key": "k"}, "--private-key: TLS needs both; give --certificate too"),
        ({"client_ca": "a"}, "--client-ca: certificates of clients need TLS; give --certificate"),
        (
            {"token_file": "missing"},
            r"missing: token of the server \(--token-file\): cannot be read \(No such file or directory\); "
            r"give the file that holds it, or write one with: \(umask 077; openssl rand -hex 32 > missing\)$",
        ),
        (
            {"token_file": "/"},
            r"cannot be read \(Is a directory\); give a file that the user of this process may read$",
        ),
        (
            {"certificate": "missing", "private_key": "k"},
            "--certificate: cannot read missing: No such .*; give a file in",
        ),
    ],
)
def test_options_of_a_server_that_cannot_be_used_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataServer({}, Access(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "anyone who can connect can read these rows; connections are not encrypted"),
        (
            {"host": "0.0.0.0", "token_file": "t"},
            "clients with the token can read these rows; connections are not encrypted: "
            "others can read the token along the way",
        ),
        (
            {"token_file": "t", "certificate": "c", "client_ca": "a"},
            "clients with the token and a certificate can read these rows; connections are encrypted",
        ),
    ],
)
def test_a_server_says_who_can_read(options: dict[str, str], text: str) -> None:
    assert Access(**options).describe() == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("readers", "message"),
    [
        ({"certificate": "c", "server_ca": "a"}, "a certificate needs its key; set private_key too"),
        ({"private_key": "k", "server_ca": "a"}, "a certificate needs its key; set certificate too"),
        ({"certificate": "c", "private_key": "k"}, "certificates need TLS; set server_ca too"),
    ],
)
def test_half_a_certificate_is_refused(readers: dict[str, str], message: str, feed: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config_with(feed, {"kind": "service", "address": "a:1", **readers})


def test_a_token_on_its_way_to_another_machine_is_warned_of(feed: Path, tmp_path: Path) -> None:
    token = token_file(tmp_path / "token", "0123456789abcdef")
    messages: list[str] = []
    readers = {"kind": "service", "address": "nowhere.invalid:1", "token_file": token, "wait_seconds": 0}
    with pytest.raises(Exception, match="no data server is left"):
        stream_of(config_with(feed, readers), say=messages.append)
    assert messages[0].startswith("readers: the token travels unencrypted; set readers.server_ca")
