"""The client: has chunks read by servers that share the work, for any number of threads that ask at once."""

import json
from collections.abc import Callable, Sequence
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from recap.config.data import ServiceConfig
from recap.data.formats.filesystem import reason
from recap.data.formats.open import Chunk
from recap.data.remote.wire import PROTOCOL, Fingerprint, RowCodec, fingerprint
from recap.data.stream.source import Fault, LoadedChunks, Source, join
from recap.errors import DataError, RunError

Say = Callable[[str], None]
"""Tells a person something."""
_TO_CONNECT, _TO_READ = 20.0, 600.0
"""Seconds after which a server that does not answer has gone away."""
_GONE = (flight.FlightError, pa.ArrowException, OSError)


class ServiceClient:
    """Loads the chunks of one data set."""

    def __init__(self, config: ServiceConfig, source: Source, name: str, say: Say) -> None:
        """`name`: the data set, as servers call it.

        Raises RunError where nobody listens, DataError where one serves another configuration or other data.
        """
        self._name, self._source, self._say, self._compression = name, source, say, config.compression
        self._fingerprint = fingerprint(source)
        self._codec = RowCodec(source.loader.encoder)
        self._numbers = {chunk: number for number, chunk in enumerate(source.chunks)}
        self._files = {called: file for file, called in source.names.items()}
        self._lock, self._turns = Lock(), count()
        self._servers = {address: flight.FlightClient(f"grpc://{address}") for address in config.address}
        for address in list(self._servers):
            self._meet(address)

    def load(self, chunks: Sequence[Chunk]) -> LoadedChunks:
        """The rows of some chunks, end to end. Raises DataError for bad data, RunError where no server is left."""
        while True:
            address, server = self._next()
            try:
                return self._ask(server, chunks)
            except _GONE as error:
                self._pass_over(address, error)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{address}: answered what it was not asked for ({reason(error)})") from None

    def _meet(self, address: str) -> None:
        """See who listens there."""
        options = flight.FlightCallOptions(timeout=_TO_CONNECT)
        try:
            answers = list(self._servers[address].do_action(flight.Action("describe", b""), options))
        except _GONE as error:
            self._pass_over(address, error)
            return
        try:
            said = json.loads(answers[0].body.to_pybytes())
            protocol, sets = said["protocol"], dict(said["data_sets"])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise DataError(f"readers: {address} is no server of 'recap data serve'") from None
        if protocol != PROTOCOL:
            raise DataError(f"readers: {address} runs another version of recap; install the same at both ends")
        found: Fingerprint | None = sets.get(self._name)
        if found is None:
            raise DataError(f"readers: {address} serves no {self._name!r}, but {', '.join(sets)}; {_ADVICE}")
        if found.get("rows") != self._fingerprint["rows"]:
            what = "reads or encodes rows in another way: features, tasks, rates or a vocabulary differ"
            raise DataError(f"readers: {address} serves {self._name!r} of another configuration; it {what}; {_ADVICE}")
        if found != self._fingerprint:
            what = "names, sizes or row groups of its files are not those that this process sees"
            raise DataError(f"readers: {address} serves other data as {self._name!r}: {what}; {_ADVICE}")

    def _next(self) -> tuple[str, Any]:
        """The servers in turn."""
        with self._lock:
            addresses = list(self._servers)
            address = addresses[next(self._turns) % len(addresses)]
            return address, self._servers[address]

    def _pass_over(self, address: str, error: BaseException) -> None:
        """Do without a server. Raises RunError if it was the last."""
        why = reason(error).partition(". gRPC client debug context")[0]
        with self._lock:
            if len(self._servers) == 1 and address in self._servers:
                raise RunError(
                    f"readers: no data server is left for {self._name!r}. The last, {address}, is gone: {why}\n"
                    "Start one with 'recap data serve CONFIG', or take readers: {kind: threads}"
                ) from None
            gone = self._servers.pop(address, None)
        if gone is not None:
            self._say(f"passed over the data server {address} of {self._name!r}, {len(self._servers)} left: {why}")

    def _ask(self, server: Any, chunks: Sequence[Chunk]) -> LoadedChunks:
        asked = {
            "data_set": self._name,
            "fingerprint": self._fingerprint,
            "chunks": [self._numbers[chunk] for chunk in chunks],
            "compression": self._compression,
        }
        options = flight.FlightCallOptions(timeout=_TO_READ)
        answer = server.do_get(flight.Ticket(json.dumps(asked).encode()), options)
        heads: list[dict[str, Any]] = []
        rows: list[list[pa.RecordBatch]] = []
        for message in answer:
            if message.app_metadata is not None:
                heads.append(json.loads(message.app_metadata.to_pybytes()))
                rows.append([])
                if "error" in heads[-1]:
                    raise DataError(heads[-1]["error"])
            elif message.data.num_rows:
                rows[-1].append(message.data)
        return join([self._loaded(*part) for part in zip(chunks, heads, rows, strict=True)])

    def _loaded(self, chunk: Chunk, head: dict[str, Any], messages: Sequence[pa.RecordBatch]) -> LoadedChunks:
        """Raises ValueError for an answer that holds other rows than the chunk has."""
        batch, missing = self._codec.decode(messages), [int(row) for row in head["missing"]]
        if len(batch) + len(missing) != chunk.rows:
            raise ValueError(f"{len(batch) + len(missing)} rows of a chunk of {chunk.rows}")
        if not missing:
            return LoadedChunks([batch])
        kept = np.ones(chunk.rows, bool)
        kept[missing] = False
        faults = tuple(Fault(self._files[file], part, text) for file, part, text in head["faults"])
        return LoadedChunks([batch], kept, faults)


_ADVICE = "start it with the configuration of this run"
