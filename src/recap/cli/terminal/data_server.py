"""A data server in a terminal: what it prints, and the signals that end it."""

import os
import sys
import time
from pathlib import Path
from signal import Signals

from recap.config.file.environment import hide
from recap.config.recap import RecapConfig
from recap.data.remote.access import Access
from recap.signals import Terminated

_SECONDS = 1.0
"""Longest time until a signal is noticed."""


def serve_data(config: RecapConfig, file: Path, access: Access, max_requests: int) -> None:
    """Serve the data of `config`, which `file` holds, until SIGTERM or Ctrl-C. Raises InputError."""
    server = None
    try:
        _say(f"reading the files of {file} …")

        from recap.data.open import open_sources  # imports torch, which takes long
        from recap.data.remote.server import DataServer
        from recap.training.teachers import teacher_encoders

        server = DataServer(open_sources(config, [*teacher_encoders(config).values()]), access, max_requests, _say)
        _say(f"serving {', '.join(server.sets)} at {access.host}:{server.port}")
        _say(access.describe())
        while True:  # a signal that comes just before a wait does not end it
            time.sleep(_SECONDS)
    except Terminated as stop:
        if server is None:
            print(f"stopped by {Signals(stop.number).name} before it served", file=sys.stderr, flush=True)
            os._exit(128 + stop.number)
        _say("stopping: requests in work are finished first")
    if not server.stop():  # clients that do not read hold threads, which Python would wait for
        sys.stdout.flush()
        os._exit(0)


def _say(text: str) -> None:
    """Not by rich, which may print a line twice that a signal interrupts."""
    print(hide(text), flush=True)
