"""The server: reads, decodes and encodes chunks of its configuration's data sets for whoever asks."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from recap.data.formats.open import Chunk
from recap.data.remote.wire import PROTOCOL, RowCodec, fingerprint
from recap.data.stream.source import Source
from recap.errors import InputError, RecapError

_COMPRESSIONS = {"none": None, "lz4": "lz4", "zstd": "zstd"}


class DataServer(flight.FlightServerBase):  # type: ignore[misc]
    """Answers from the moment it is made until `shutdown`. Gives nothing but rows of its data sets, to anyone.

    `port` is the one it listens on.
    """

    def __init__(self, sets: Mapping[str, Source], host: str, port: int) -> None:
        """Port 0: any that is free. Raises InputError where it cannot listen."""
        self.sets = dict(sets)
        self.codecs = {name: RowCodec(source.loader.encoder) for name, source in sets.items()}
        self.fingerprints = {name: fingerprint(source) for name, source in sets.items()}
        try:
            super().__init__(f"grpc://{host}:{port}")
        except (OSError, pa.ArrowException, flight.FlightError) as error:
            raise InputError(
                f"{host}:{port}: cannot be listened on ({error}); choose another --host or --port"
            ) from None

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[bytes]:
        """What is served here, whatever the action is called."""
        yield json.dumps({"protocol": PROTOCOL, "data_sets": self.fingerprints}).encode()

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.GeneratorStream:
        """The rows of the chunks that a ticket asks for."""
        try:
            asked = json.loads(ticket.ticket)
            name, compression = asked["data_set"], _COMPRESSIONS[asked["compression"]]
            source, codec = self.sets[name], self.codecs[name]
            if asked["fingerprint"] != self.fingerprints[name]:
                raise flight.FlightServerError("this server was started anew, with other data or another configuration")
            chunks = [source.chunks[_index(number, len(source.chunks))] for number in asked["chunks"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise flight.FlightServerError("what was asked for is not served here") from None
        options = pa.ipc.IpcWriteOptions(compression=compression)
        return flight.GeneratorStream(codec.schema, _answer(source, codec, chunks), options=options)


def _index(number: Any, count: int) -> int:
    if type(number) is not int or not 0 <= number < count:
        raise ValueError
    return number


def _answer(source: Source, codec: RowCodec, chunks: list[Chunk]) -> Iterator[Any]:
    """One chunk after the other, so that memory holds one; it ends at the first that cannot be read."""
    for chunk in chunks:
        try:
            loaded = source.loader.load([chunk])
        except RecapError as error:
            yield codec.nothing(), json.dumps({"error": str(error)}).encode()
            return
        missing = [] if loaded.kept is None else np.flatnonzero(~loaded.kept).tolist()
        faults = [(source.names[fault.file], fault.part, fault.text) for fault in loaded.faults]
        yield codec.nothing(), json.dumps({"missing": missing, "faults": faults}).encode()
        for part in loaded.parts:
            yield from codec.encode(part)
