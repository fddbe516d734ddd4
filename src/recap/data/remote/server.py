"""`DataServer`: reads and encodes chunks of the data sets of its configuration for any client."""

import json
from collections.abc import Iterator, Mapping
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from recap.data.batch import assemble
from recap.data.formats.format import Chunk
from recap.data.remote.wire import MAX_HEADER_BYTES, PROTOCOL, SCHEMA, RowCodec, fingerprint, message
from recap.data.stream.source import Source
from recap.errors import InputError, RecapError

STOP_SECONDS = 5.0
"""Time for responses to end when the server stops."""
_COMPRESSIONS = ("none", "lz4", "zstd")


class DataServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves rows of its data sets, to anyone, from its creation until `shutdown`. `port`: the port it listens on."""

    def __init__(self, sets: Mapping[str, Source], host: str, port: int) -> None:
        """`port` 0: any free port. Raises InputError if it cannot listen."""
        self.sets = dict(sets)
        self.codecs = {name: RowCodec(source.encoder) for name, source in sets.items()}
        self.fingerprints = {name: fingerprint(source) for name, source in sets.items()}
        try:
            super().__init__(f"grpc://{host}:{port}")
        except (OSError, pa.ArrowException, flight.FlightError) as error:
            raise InputError(f"{host}:{port}: cannot listen ({error}); choose another --host or --port") from None

    def stop(self) -> None:
        """Stop serving, at the latest after `STOP_SECONDS`: `shutdown` would wait for clients that do not read."""
        stopping = Thread(target=self.shutdown, daemon=True, name="recap-server-stop")
        stopping.start()
        stopping.join(STOP_SECONDS)

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
        return flight.GeneratorStream(SCHEMA, map(message, _respond(source, codec, chunks, compression)))


def _index(number: Any, count: int) -> int:
    if type(number) is not int or not 0 <= number < count:
        raise ValueError
    return number


def _respond(source: Source, codec: RowCodec, chunks: list[Chunk], compression: str) -> Iterator[bytes | pa.Buffer]:
    """The messages of a response: one chunk after the other, so that memory holds only one.

    It ends at the first chunk that cannot be read.
    """
    for chunk in chunks:
        try:
            rows = source.loader.load([chunk])
        except RecapError as error:
            yield json.dumps({"error": str(error)}).encode()
            return
        bad_rows = [] if rows.mask is None else np.flatnonzero(~rows.mask).tolist()
        bad_data = [(source.names[bad.file], bad.part, bad.text) for bad in rows.bad_data]
        metadata = json.dumps({"bad_rows": bad_rows, "bad_data": bad_data}).encode()
        if len(metadata) > MAX_HEADER_BYTES:
            text = f"{chunk.file}: part {chunk.number} has {len(bad_rows):,} bad rows, too many to report"
            yield json.dumps({"error": text}).encode()
            return
        yield metadata
        yield from codec.encode(assemble([(batch, slice(None)) for batch in rows.batches]), compression)
