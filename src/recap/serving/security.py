"""The token of a server, `Authorization: Bearer TOKEN` in REST and gRPC, and the check of its certificates."""

import hmac
import ssl
import stat
from pathlib import Path

from recap.config.serving.server import AddressConfig
from recap.errors import InputError
from recap.serving.contract import Reason, RequestError

_MIN_CHARACTERS = 16
_MAX_BYTES = 4096


def check_secrets(address: AddressConfig) -> None:
    """Raise InputError for a token, certificates or a key that cannot be used."""
    if address.token_file is not None:
        Token.read(address.token_file)
    if address.certificate is not None:
        check_tls(address)


def check_tls(address: AddressConfig) -> None:
    """Raise InputError for certificates or a key that cannot be read or used; it says which, and why."""
    for field in ("certificate", "private_key", "client_ca"):
        path = getattr(address, field)
        try:
            if path is not None:
                Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"address.{field}: cannot read {path}: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(str(address.certificate), address.private_key, password="")  # asks nobody
    except ssl.SSLError as error:
        raise InputError(
            f"address.certificate: {address.certificate} with {address.private_key} cannot be used "
            f"({error.reason or error}); give a chain and its key, without a password, both in PEM"
        ) from None
    try:
        if address.client_ca is not None:
            context.load_verify_locations(address.client_ca)
    except ssl.SSLError as error:
        raise InputError(
            f"address.client_ca: {address.client_ca} cannot be used ({error.reason or error}); give certificates in PEM"
        ) from None


class Token:
    """The secret that requests must name."""

    def __init__(self, secret: str) -> None:
        self._expected = f"Bearer {secret}".encode()

    @classmethod
    def read(cls, path: str | Path) -> "Token":
        """The token in a file, without the spaces and line ends around it.

        Raises InputError if it cannot be read, is shorter than 16 characters, holds others than printable ASCII without
        spaces, or if the file may be read or changed by every user of the machine.
        """
        where = f"{path}: token of the server (address.token_file)"
        try:
            with Path(path).open("rb") as file:
                mode = Path(path).stat().st_mode
                content = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror})") from None
        problems = []
        if mode & stat.S_IRWXO:
            problems.append(
                f"every user of this machine may open it; run: chmod 600 {path} (in Kubernetes: defaultMode: 0400 or "
                "0440)"
            )
        secret = content.decode("ascii", "replace").strip()
        if len(content) > _MAX_BYTES or not all("!" <= character <= "~" for character in secret):
            problems.append("expected one line of printable ASCII characters without spaces")
        elif len(secret) < _MIN_CHARACTERS:
            problems.append(
                f"found {len(secret)} characters, expected at least {_MIN_CHARACTERS}; write one with: "
                f"openssl rand -hex 32 > {path}"
            )
        if problems:
            raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
        return cls(secret)

    def check(self, authorization: str | None) -> None:
        """Raise RequestError unless the header `authorization` names the token; compared in constant time."""
        if authorization is None:
            raise RequestError(Reason.UNAUTHENTICATED, "this server needs the header Authorization: Bearer TOKEN")
        scheme, _, secret = authorization.partition(" ")
        given = f"{scheme.capitalize()} {secret.strip()}".encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._expected):
            raise RequestError(Reason.UNAUTHENTICATED, "the header Authorization holds another token")
