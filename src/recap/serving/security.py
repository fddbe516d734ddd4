"""The token of a server, `Authorization: Bearer TOKEN` in REST and gRPC, and the check of its certificates."""

import hmac
from pathlib import Path

from recap.config.file.credentials import read_authority, read_chain, read_token
from recap.config.serving.server import AddressConfig
from recap.serving.contract import Reason, RequestError


def check_secrets(address: AddressConfig) -> None:
    """Raise InputError for a token, certificates or a key that cannot be used."""
    if address.token_file is not None:
        Token.read(address.token_file)
    if address.certificate is not None:
        check_tls(address)


def check_tls(address: AddressConfig) -> None:
    """Raise InputError for certificates or a key that cannot be read or used; it says which, and why."""
    assert address.certificate is not None
    read_chain(address.certificate, address.private_key, ("address.certificate", "address.private_key"))
    if address.client_ca is not None:
        read_authority(address.client_ca, "address.client_ca")


class Token:
    """The secret that requests must name."""

    def __init__(self, secret: str) -> None:
        self._expected = f"Bearer {secret}".encode()

    @classmethod
    def read(cls, path: str | Path) -> "Token":
        """The token in a file. Raises InputError as `read_token`."""
        return cls(read_token(path, "address.token_file"))

    def check(self, authorization: str | None) -> None:
        """Raise RequestError unless the header `authorization` names the token; compared in constant time."""
        if authorization is None:
            raise RequestError(Reason.UNAUTHENTICATED, "this server needs the header Authorization: Bearer TOKEN")
        scheme, _, secret = authorization.partition(" ")
        given = f"{scheme.capitalize()} {secret.strip()}".encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._expected):
            raise RequestError(Reason.UNAUTHENTICATED, "the header Authorization holds another token")
