"""`ServiceClient`: loads chunks from data servers, which share the work."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.flight as flight

from recap.config.data import ServiceConfig
from recap.data.formats.format import Chunk
from recap.data.formats.object_stores import reason
from recap.data.remote.access import Identity
from recap.data.remote.servers import LOST, Servers
from recap.data.remote.wire import (
    HEARTBEAT,
    PROTOCOL,
    SCHEMA,
    RowCodec,
    fingerprint,
    one_line,
    parse_description,
    parse_header,
)
from recap.data.stream.source import BadData, ChunkRows, Source, join
from recap.errors import DataError, InputError, RunError
from recap.reporting import Say

_CONNECT_SECONDS, _READ_SECONDS = 20.0, 600.0
"""Time after which a server that does not answer counts as lost."""
_CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),  # or a new client would wait for the attempts of the one before
    # Without signs of life, a server whose machine is gone is lost; TCP alone would not notice.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
_MAX_NAMES = 20
"""Names shown in a message."""
_ADVICE = "start it with the configuration of this run"


class ServiceClient:
    """Loads the chunks of one data set. Thread-safe."""

    def __init__(self, config: ServiceConfig, source: Source, name: str, say: Say) -> None:
        """`name`: the data set, as servers know it.

        Raises RunError if no server answers, InputError if a file of `config` cannot be used or a server refuses its
        token or certificate, DataError if a server has another configuration or other data.
        """
        self._config, self._name, self._source = config, name, source
        self._fingerprint = fingerprint(source)
        self._codec = RowCodec(source.encoder)
        self._numbers = {chunk: number for number, chunk in enumerate(source.chunks)}
        self._files = {name: file for file, name in source.names.items()}
        warning = Identity(config).warning()
        if warning is not None:
            say(warning)
        self._servers = Servers(config.address, self._connect, name, config.wait_seconds, say)

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, RunError if no server is left."""

        def request(address: str, client: _Client) -> ChunkRows:
            try:
                return self._request(client, chunks)
            except LOST:
                raise
            except ValueError as error:
                raise RunError(f"{address}: sent an unexpected response ({one_line(reason(error))})") from None

        return self._servers.call(request)

    def _connect(self, address: str) -> "_Client":
        """A client of the server at `address`, which serves this data set.

        Raises InputError if the server must not be used, or one of `LOST`. Reads tokens and certificates again.
        """
        identity = Identity(self._config)
        options = [*_CHANNEL, ("grpc.max_receive_message_length", self._codec.max_received)]
        connected = flight.FlightClient(identity.location(address), generic_options=options, **identity.tls)
        client = _Client(connected, identity.headers)
        try:
            answer = client.describe()
        except flight.FlightUnauthenticatedError:
            raise identity.refused(address) from None
        except LOST:
            problem = identity.tls_problem(address)
            if problem is None:
                raise
            raise InputError(f"readers: cannot connect to {address}: {problem}") from None
        self._check(address, answer)
        return client

    def _check(self, address: str, answer: bytes) -> None:
        """Raise DataError unless a server that describes itself by `answer` serves this data set."""
        try:
            description = parse_description(answer)
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

    def _request(self, client: "_Client", chunks: Sequence[Chunk]) -> ChunkRows:
        request = {
            "data_set": self._name,
            "fingerprint": self._fingerprint,
            "chunks": [self._numbers[chunk] for chunk in chunks],
            "compression": self._config.compression,
        }
        response = client.get(json.dumps(request).encode())
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
        while first is not None and first.app_metadata is not None and first.app_metadata == HEARTBEAT:
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
            contents.append(self._codec.received(message.app_metadata, message_rows, self._config.compression))
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


class _Client:
    """A Flight client that shows its token in every call."""

    def __init__(self, client: Any, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._client, self._headers = client, list(headers)

    def describe(self) -> bytes:
        """What the server says of itself."""
        answer = next(self._client.do_action(flight.Action("describe", b""), self._options(_CONNECT_SECONDS)), None)
        return b"" if answer is None else bytes(answer.body.to_pybytes())

    def get(self, ticket: bytes) -> Any:
        """The response to a request."""
        return self._client.do_get(flight.Ticket(ticket), self._options(_READ_SECONDS))

    def _options(self, seconds: float) -> Any:
        return flight.FlightCallOptions(timeout=seconds, headers=self._headers)
