"""TensorBoard event files.

They are written with the protocol buffers of the tensorboard package, not with its writers. Those (the EventFileWriter
of `torch.utils.tensorboard.SummaryWriter` and `tensorboard.summary.Writer`) write in a thread, which a full disk ends
with a printed traceback and the loss of its events. `AppendOnlyFile` raises instead, and `Guarded` retries. The package
is imported where it is used, by the one process that writes.
"""

import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from recap.reporting import Record
from recap.storage import AppendOnlyFile
from recap.tracking.record import named_values


class TensorBoard:
    """TensorBoard events: a scalar for each value, named as by `named_values`; unbuffered."""

    def __init__(self, folder: Path, step: int) -> None:
        """Continue after `step`; TensorBoard hides later steps, which a killed run wrote."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        start = SessionLog(status=SessionLog.START)
        header = _event(step + 1, file_version="brain.Event:2") + _event(step + 1, session_log=start)
        self._file = AppendOnlyFile(folder / name, header)

    def log(self, record: Record) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in named_values(record)]
        self._file.append(_event(int(record["step"] or 0), summary=Summary(value=values)))

    def close(self, *, finished: bool) -> None:
        self._file.close()


def _event(step: int, **content: Any) -> bytes:
    """An event, encoded as a record of an event file."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    encoded = BytesIO()
    RecordWriter(encoded).write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
    return encoded.getvalue()
