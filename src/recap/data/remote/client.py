"""`ServiceClient`: loads chunks from data servers, which share the work."""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.flight as flight

from recap.config.data import ServiceConfig
from recap.data.formats.format import Chunk
from recap.data.formats.object_stores import reason
from recap.data.remote.wire import PROTOCOL, SCHEMA, RowCodec, fingerprint, one_line, parse_description, parse_header
from recap.data.stream.source import BadData, ChunkRows, Source, join
from recap.errors import DataError, RunError
from recap.reporting import Say

_CONNECT_TIMEOUT, _READ_TIMEOUT = 20.0, 600.0
"""Seconds after which a server that does not answer counts as lost."""
_MAX_NAMES = 20
"""Names shown in a message."""
_LOST = (flight.FlightError, pa.ArrowException, OSError)


class ServiceClient:
    """Loads the chunks of one data set. Thread-safe."""

    def __init__(self, config: ServiceConfig, source: Source, name: str, say: Say) -> None:
        """`name`: the data set, as servers know it.

        Raises RunError if no server answers, DataError if one has another configuration or other data.
        """
        self._name, self._source, self._say, self._compression = name, source, say, config.compression
        self._fingerprint = fingerprint(source)
        self._codec = RowCodec(source.encoder)
        self._numbers = {chunk: number for number, chunk in enumerate(source.chunks)}
        self._files = {name: file for file, name in source.names.items()}
        self._lock, self._turns = Lock(), count()
        options = [("grpc.max_receive_message_length", self._codec.max_received)]
        self._servers = {
            address: flight.FlightClient(f"grpc://{address}", generic_options=options) for address in config.address
        }
        for address in list(self._servers):
            self._check(address)

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, RunError if no server is left."""
        while True:
            address, server = self._next()
            try:
                return self._request(server, chunks)
            except _LOST as error:
                self._drop(address, error)
            except ValueError as error:
                raise RunError(f"{address}: sent an unexpected response ({one_line(reason(error))})") from None

    def _check(self, address: str) -> None:
        """Raise DataError unless the server at `address` serves this data set."""
        options = flight.FlightCallOptions(timeout=_CONNECT_TIMEOUT)
        try:
            answer = next(iter(self._servers[address].do_action(flight.Action("describe", b""), options)), None)
        except _LOST as error:
            self._drop(address, error)
            return
        try:
            description = parse_description(b"" if answer is None else answer.body.to_pybytes())
        except ValueError:
            raise DataError(f"readers: {address} is not a 'recap data serve' server") from None
        if description.protocol != PROTOCOL:
            raise DataError(f"readers: {address} runs another version of recap; install the same at both ends")
        served = description.data_sets.get(self._name)
        if served is None:
            names = one_line(", ".join(list(description.data_sets)[:_MAX_NAMES]))
            raise DataError(f"readers: {address} does not serve {self._name!r}. Served: {names}; {_ADVICE}")
        if served.rows != self._fingerprint["rows"]:
            difference = "its features, tasks, rates or vocabularies differ"
            raise DataError(
                f"readers: {address} serves {self._name!r} of another configuration: {difference}; {_ADVICE}"
            )
        if served.files != self._fingerprint["files"]:
            difference = "names, sizes or chunks of its files differ from those on this host"
            raise DataError(f"readers: {address} serves other data as {self._name!r}: {difference}; {_ADVICE}")

    def _next(self) -> tuple[str, Any]:
        """The next server, in turn."""
        with self._lock:
            addresses = list(self._servers)
            address = addresses[next(self._turns) % len(addresses)]
            return address, self._servers[address]

    def _drop(self, address: str, error: BaseException) -> None:
        """Continue without a server. Raises RunError if it was the last one."""
        cause = one_line(reason(error).partition(". gRPC client debug context")[0])
        with self._lock:
            if len(self._servers) == 1 and address in self._servers:
                raise RunError(
                    f"readers: no data server is left for {self._name!r}. Lost the last, {address}: {cause}\n"
                    "Start one with 'recap data serve CONFIG', or set readers: {kind: threads}"
                ) from None
            dropped = self._servers.pop(address, None)
        if dropped is not None:
            self._say(f"lost the data server {address} of {self._name!r}, {len(self._servers)} left: {cause}")

    def _request(self, server: Any, chunks: Sequence[Chunk]) -> ChunkRows:
        request = {
            "data_set": self._name,
            "fingerprint": self._fingerprint,
            "chunks": [self._numbers[chunk] for chunk in chunks],
            "compression": self._compression,
        }
        options = flight.FlightCallOptions(timeout=_READ_TIMEOUT)
        response = server.do_get(flight.Ticket(json.dumps(request).encode()), options)
        try:
            if response.schema != SCHEMA:
                raise ValueError("columns of another schema")
            messages = iter(response)
            parts = [self._chunk(chunk, messages) for chunk in chunks]
            if next(messages, None) is not None:
                raise ValueError("more than the requested rows")
        except BaseException:
            response.cancel()  # or it would go on sending
            raise
        return join(parts)

    def _chunk(self, chunk: Chunk, messages: Iterator[Any]) -> ChunkRows:
        """The rows of the next chunk of a response. Raises ValueError unless it has all of them and nothing else."""
        first = next(messages, None)
        if first is None or first.app_metadata is None:
            raise ValueError("a chunk without its header")
        header = parse_header(first.app_metadata.to_pybytes(), chunk.rows)
        if header.error is not None:
            raise DataError(one_line(header.error))
        rows = chunk.rows - len(header.bad_rows)
        contents: list[npt.NDArray[np.uint8]] = []
        for message_rows in self._codec.rows_of_messages(rows):
            message = next(messages, None)
            if message is None or message.app_metadata is None:
                raise ValueError(f"another number of rows for a chunk of {chunk.rows}")
            contents.append(self._codec.received(message.app_metadata, message_rows, self._compression))
        batch = self._codec.decode(contents, rows)
        if not header.bad_rows:
            return ChunkRows([batch])
        mask = np.ones(chunk.rows, bool)
        mask[header.bad_rows] = False
        if any(name not in self._files for name, _, _ in header.bad_data):
            raise ValueError("an error of an unknown file")
        bad_data = tuple(
            BadData(self._files[name], one_line(part), one_line(text)) for name, part, text in header.bad_data
        )
        return ChunkRows([batch], mask, bad_data)


_ADVICE = "start it with the configuration of this run"
