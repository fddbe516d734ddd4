"""The token of a server: `Authorization: Bearer TOKEN`, in REST and gRPC."""

import hmac
import stat
from pathlib import Path

from recap.errors import InputError
from recap.serving.contract import Reason, RequestError

_MIN_CHARACTERS = 16
_MAX_BYTES = 4096


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
        if mode & stat.S_IRWXO:
            raise InputError(
                f"{where}: every user of this machine may open it; run: chmod 600 {path} (in Kubernetes: "
                "defaultMode: 0400 or 0440)"
            )
        secret = content.decode("ascii", "replace").strip()
        if len(content) > _MAX_BYTES or not all("!" <= character <= "~" for character in secret):
            raise InputError(f"{where}: expected one line of printable ASCII characters without spaces")
        if len(secret) < _MIN_CHARACTERS:
            raise InputError(
                f"{where}: found {len(secret)} characters, expected at least {_MIN_CHARACTERS}; "
                f"write one with: openssl rand -hex 32 > {path}"
            )
        return cls(secret)

    def check(self, authorization: str | None) -> None:
        """Raise RequestError unless the header `authorization` names the token; compared in constant time."""
        if authorization is None:
            raise RequestError(Reason.UNAUTHENTICATED, "this server needs the header Authorization: Bearer TOKEN")
        scheme, _, secret = authorization.partition(" ")
        given = f"{scheme.capitalize()} {secret.strip()}".encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._expected):
            raise RequestError(Reason.UNAUTHENTICATED, "the header Authorization holds another token")
