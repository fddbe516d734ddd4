"""Files of secrets that a configuration or a command names: tokens and certificates. What they hold is never shown."""

import ssl
import stat
from pathlib import Path

from recap.errors import InputError

_MIN_CHARACTERS = 16
_MAX_BYTES = 4096


def read_token(path: str | Path, field: str) -> str:
    """The token in a file, without the spaces and line ends around it. `field`: what named the file, for messages.

    Raises InputError if it cannot be read, is shorter than 16 characters, holds others than printable ASCII without
    spaces, or if the file may be read or changed by every user of the machine.
    """
    where = f"{path}: token of the server ({field})"
    try:
        with Path(path).open("rb") as file:
            mode = Path(path).stat().st_mode
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        advice = (
            f"give the file that holds it, or write one with: (umask 077; openssl rand -hex 32 > {path})"
            if isinstance(error, FileNotFoundError)
            else "give a file that the user of this process may read"
        )
        raise InputError(f"{where}: cannot be read ({error.strerror}); {advice}") from None
    problems = []
    if mode & stat.S_IRWXO:
        problems.append(
            f"every user of this machine may open it; run: chmod 600 {path} (in Kubernetes: defaultMode: 0400 or 0440)"
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
    return secret


def read_chain(certificate: str, private_key: str | None, fields: tuple[str, str]) -> tuple[bytes, bytes]:
    """A certificate chain and its key, in PEM. `fields`: what named the two files.

    Raises InputError if they cannot be read or used together.
    """
    chain = _read(certificate, fields[0]), _read(str(private_key), fields[1])
    try:
        # The password keeps OpenSSL from asking for one.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, private_key, password="")
    except ssl.SSLError as error:
        raise InputError(
            f"{fields[0]}: {certificate} with {private_key} cannot be used ({error.reason or error}); give a chain and "
            "its key, without a password, both in PEM"
        ) from None
    return chain


def read_authority(path: str, field: str) -> bytes:
    """Certificates of an authority, in PEM. `field`: what named the file. Raises InputError if they cannot be used."""
    content = _read(path, field)
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise InputError(
            f"{field}: {path} cannot be used ({error.reason or error}); give certificates in PEM"
        ) from None
    return content


def _read(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{field}: cannot read {path}: {error.strerror}; give a file in PEM") from None
