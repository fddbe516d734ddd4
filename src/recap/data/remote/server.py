"""`DataServer`: reads and encodes chunks of the data sets of its configuration for its clients."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from threading import BoundedSemaphore, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from recap.data.batch import assemble
from recap.data.formats.format import Chunk
from recap.data.remote.access import Access
from recap.data.remote.wire import FULL, HEARTBEAT, MAX_HEADER_BYTES, PROTOCOL, SCHEMA, RowCodec, fingerprint, message
from recap.data.stream.source import ChunkRows, Source
from recap.errors import InputError, RecapError
from recap.reporting import Say, say_to_stderr

STOP_SECONDS = 25.0
"""Time for responses to end when the server stops; Kubernetes kills it after 30."""
HEARTBEAT_SECONDS = 15.0
"""Time between two signs of life while a chunk is being read."""
_COMPRESSIONS = ("none", "lz4", "zstd")


class DataServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves rows of its data sets from its creation until `shutdown`. `port`: the port it listens on.

    Memory holds one chunk of each response: the next is read when the client has taken it.
    """

    def __init__(
        self, sets: Mapping[str, Source], access: Access, max_requests: int = 16, say: Say = say_to_stderr
    ) -> None:
        """`max_requests`: responses at a time; the server refuses more, and clients try again.

        Raises InputError if it cannot listen, or a file of `access` cannot be used.
        """
        self.sets = dict(sets)
        self.codecs = {name: RowCodec(source.encoder) for name, source in sets.items()}
        self.fingerprints = {name: fingerprint(source) for name, source in sets.items()}
        self._free = BoundedSemaphore(max_requests)
        self._readers = ThreadPoolExecutor(max_requests, thread_name_prefix="recap-server-reader")
        location, settings = access.settings(say)
        try:
            super().__init__(location, **settings)
        except (OSError, pa.ArrowException, flight.FlightError) as error:
            where = f"{access.host}:{access.port}"
            raise InputError(f"{where}: cannot listen ({error}); choose another --host or --port") from None

    def stop(self) -> bool:
        """Refuse new requests, and finish those in work within `STOP_SECONDS`. Returns whether all are finished.

        `shutdown` would wait for clients that do not read.
        """
        stopping = Thread(target=self.shutdown, daemon=True, name="recap-server-stop")
        stopping.start()
        stopping.join(STOP_SECONDS)
        self._readers.shutdown(wait=False, cancel_futures=True)
        return not stopping.is_alive()

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[bytes]:
        """The protocol and the fingerprints of the data sets, whatever the action."""
        yield json.dumps({"protocol": PROTOCOL, "data_sets": self.fingerprints}).encode()

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.GeneratorStream:
        """The rows of the chunks in a ticket."""
        try:
            request = json.loads(ticket.ticket)
            name = request["data_set"]
            compression = _COMPRESSIONS[_COMPRESSIONS.index(request["compression"])]
            source, codec = self.sets[name], self.codecs[name]
            if request["fingerprint"] != self.fingerprints[name]:
                raise flight.FlightServerError("this server has restarted with other data or another configuration")
            chunks = [source.chunks[_index(number, len(source.chunks))] for number in request["chunks"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise flight.FlightServerError("the request is malformed, or names data that is not served here") from None
        return flight.GeneratorStream(SCHEMA, map(message, self._respond(source, codec, chunks, compression)))

    def _respond(
        self, source: Source, codec: RowCodec, chunks: list[Chunk], compression: str
    ) -> Iterator[bytes | pa.Buffer]:
        """The messages of a response. It ends at the first chunk that cannot be read."""
        if not self._free.acquire(blocking=False):
            raise flight.FlightUnavailableError("this server is busy with other requests", extra_info=FULL)
        try:
            for chunk in chunks:
                reading = self._readers.submit(source.loader.load, [chunk])
                while not wait([reading], HEARTBEAT_SECONDS).done:
                    yield HEARTBEAT
                try:
                    rows = reading.result()
                except RecapError as error:
                    yield json.dumps({"error": str(error)}).encode()
                    return
                del reading  # or memory would hold its rows until the next chunk is read
                yield from _messages(source, codec, chunk, rows, compression)
        finally:
            self._free.release()


def _index(number: Any, count: int) -> int:
    if type(number) is not int or not 0 <= number < count:
        raise ValueError
    return number


def _messages(
    source: Source, codec: RowCodec, chunk: Chunk, rows: ChunkRows, compression: str
) -> Iterator[bytes | pa.Buffer]:
    """The messages with the rows of a chunk."""
    bad_rows = [] if rows.mask is None else np.flatnonzero(~rows.mask).tolist()
    bad_data = [(source.names[bad.file], bad.part, bad.text) for bad in rows.bad_data]
    metadata = json.dumps({"bad_rows": bad_rows, "bad_data": bad_data}).encode()
    if len(metadata) > MAX_HEADER_BYTES:
        text = f"{chunk.file}: part {chunk.number} has {len(bad_rows):,} bad rows, too many to report"
        yield json.dumps({"error": text}).encode()
        return
    yield metadata
    yield from codec.encode(assemble([(batch, slice(None)) for batch in rows.batches]), compression)
