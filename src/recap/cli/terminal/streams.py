"""Standard streams that may go away while a command runs: a closed pipe or terminal, or a full disk behind a file."""

import os
import sys
from typing import Any, TextIO


class LastingStream:
    """A text stream whose failures do not stop the command: what cannot be written is lost, and the error is kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """The first error."""

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if self.error is None:
            self.error = error
            if self._stream is not sys.__stderr__ and not isinstance(error, BrokenPipeError):
                print(f"standard output cannot be written ({error.strerror}); going on without it", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO) -> TextIO:
    """`stream` as a `LastingStream`, typed as what it stands for."""
    return stream if isinstance(stream, LastingStream) else LastingStream(stream)  # type: ignore[return-value]


def protect_streams() -> LastingStream:
    """Make standard output and error last, and able to print every character; return standard output."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # closed by the caller: without this, the next file opened would have its number
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # a character that the terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, lasting(stream))
    output = sys.stdout
    assert isinstance(output, LastingStream)
    return output
