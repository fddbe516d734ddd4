"""`ServiceClient`: loads chunks from data servers, which share the work."""

import json
from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from recap.config.data import ServiceConfig
from recap.data.formats.format import Chunk
from recap.data.formats.object_stores import reason
from recap.data.remote.wire import PROTOCOL, Fingerprint, RowCodec, fingerprint
from recap.data.stream.source import BadData, ChunkRows, Source, join
from recap.errors import DataError, RunError
from recap.reporting import Say

_CONNECT_TIMEOUT, _READ_TIMEOUT = 20.0, 600.0
"""Seconds after which a server that does not answer counts as lost."""
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
        self._servers = {address: flight.FlightClient(f"grpc://{address}") for address in config.address}
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
            except (ValueError, LookupError, TypeError) as error:
                raise RunError(f"{address}: sent an unexpected response ({reason(error)})") from None

    def _check(self, address: str) -> None:
        """Raise DataError unless the server at `address` serves this data set."""
        options = flight.FlightCallOptions(timeout=_CONNECT_TIMEOUT)
        try:
            answers = list(self._servers[address].do_action(flight.Action("describe", b""), options))
        except _LOST as error:
            self._drop(address, error)
            return
        try:
            description = json.loads(answers[0].body.to_pybytes())
            protocol, sets = description["protocol"], dict(description["data_sets"])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise DataError(f"readers: {address} is not a 'recap data serve' server") from None
        if protocol != PROTOCOL:
            raise DataError(f"readers: {address} runs another version of recap; install the same at both ends")
        served: Fingerprint | None = sets.get(self._name)
        if served is None:
            served_names = ", ".join(sets)
            raise DataError(f"readers: {address} does not serve {self._name!r}. Served: {served_names}; {_ADVICE}")
        if served.get("rows") != self._fingerprint["rows"]:
            difference = "its features, tasks, rates or vocabularies differ"
            raise DataError(
                f"readers: {address} serves {self._name!r} of another configuration: {difference}; {_ADVICE}"
            )
        if served != self._fingerprint:
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
        cause = reason(error).partition(". gRPC client debug context")[0]
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
        headers: list[dict[str, Any]] = []
        rows: list[list[pa.RecordBatch]] = []
        for message in response:
            if message.app_metadata is not None:
                headers.append(json.loads(message.app_metadata.to_pybytes()))
                rows.append([])
                if "error" in headers[-1]:
                    raise DataError(headers[-1]["error"])
            elif message.data.num_rows:
                rows[-1].append(message.data)
        return join([self._decode(*part) for part in zip(chunks, headers, rows, strict=True)])

    def _decode(self, chunk: Chunk, header: dict[str, Any], messages: Sequence[pa.RecordBatch]) -> ChunkRows:
        """The rows of one chunk. Raises ValueError if the response does not have all rows of the chunk."""
        batch, bad_rows = self._codec.decode(messages), [int(row) for row in header["bad_rows"]]
        if len(batch) + len(bad_rows) != chunk.rows:
            raise ValueError(f"{len(batch) + len(bad_rows)} rows for a chunk of {chunk.rows}")
        if not bad_rows:
            return ChunkRows([batch])
        mask = np.ones(chunk.rows, bool)
        mask[bad_rows] = False
        bad_data = tuple(BadData(self._files[file], part, text) for file, part, text in header["bad_data"])
        return ChunkRows([batch], mask, bad_data)


_ADVICE = "start it with the configuration of this run"
