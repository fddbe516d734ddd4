"""TensorBoard event files."""

import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from recap.reporting import Record
from recap.storage import _Appended
from recap.tracking.record import named_values


class TensorBoard:
    """TensorBoard events: a scalar for each value, named as in `named_values`; written through at once.

    Its own writer works in a thread, which tells of a full disk by a traceback.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Continue after `step`: what a killed run wrote for later steps is purged from view."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        head = _event(step + 1, file_version="brain.Event:2") + _event(step + 1, session_log=start)
        self._file = _Appended(folder / name, head)

    def log(self, record: Record) -> None:
        """Write the numbers of the record."""
        values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in named_values(record)]
        self._file.append(_event(int(record["step"] or 0), summary=summary_pb2.Summary(value=values)))

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._file.close()


def _event(step: int, **content: Any) -> bytes:
    """An event as a record of an event file."""
    written = BytesIO()
    RecordWriter(written).write(event_pb2.Event(wall_time=time.time(), step=step, **content).SerializeToString())
    return written.getvalue()
