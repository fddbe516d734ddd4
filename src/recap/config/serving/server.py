"""`ServerConfig`: the file of `recap serve --config`; every section has defaults that work."""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import (
    BaseConfig,
    Check,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Problems,
    Rate,
    RootConfig,
)
from recap.config.training import InferencePrecision
from recap.text import shorten

MODEL_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""The pattern of names of models, and of their versions, since clients write them into paths."""
ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
"""The name of a model in paths: letters, digits, `.`, `_` and `-`."""
Port = Annotated[int, Field(ge=0, le=65535)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class AddressConfig(BaseConfig):
    """Where the server listens, and who may ask."""

    host: Name = "127.0.0.1"
    """Address to listen on. One that is not loopback needs `token_file`, `client_ca`, or `insecure`."""
    http_port: Port = 8080
    """Port of REST; 0 takes a free one."""
    grpc_port: Port | None = None
    """Port of gRPC; 0 takes a free one. Optional; off by default."""
    token_file: Name | None = None
    """File with a token, at least 16 characters; requests need the header `Authorization: Bearer TOKEN`. Optional."""
    certificate: Name | None = None
    """PEM file of the server's certificate chain; with `private_key`, the server speaks TLS. Optional."""
    private_key: Name | None = None
    """PEM file of the key of `certificate`. Optional."""
    client_ca: Name | None = None
    """PEM file of the authority that signs the certificates of clients: mTLS. Optional."""
    insecure: bool = False
    """Listen on an address that is not loopback without `token_file` or `client_ca`."""

    def checks(self) -> tuple[Check, ...]:
        return self._is_private, self._has_both_halves_of_tls, self._has_two_ports

    def _is_private(self) -> Problems:
        if not (is_loopback(self.host) or self.token_file or self.client_ca or self.insecure):
            yield (
                ("host",),
                f"{shorten(self.host)} can be reached from other machines; set address.token_file or "
                "address.client_ca to restrict access, or address.insecure=true (--insecure) where something else "
                "protects the server",
            )

    def _has_both_halves_of_tls(self) -> Problems:
        if (self.certificate is None) != (self.private_key is None):
            name, other = ("private_key", "certificate") if self.certificate is None else ("certificate", "private_key")
            yield (name,), f"TLS needs both; set address.{other} too"
        elif self.client_ca is not None and self.certificate is None:
            yield ("client_ca",), "certificates of clients need TLS; set address.certificate and address.private_key"

    def _has_two_ports(self) -> Problems:
        if self.http_port and self.http_port == self.grpc_port:
            yield ("grpc_port",), f"{self.grpc_port} is the port of REST too; choose another"


class BatchingConfig(BaseConfig):
    """How requests that wait share a forward pass. Batching never changes a score."""

    max_candidates: PositiveInt = 4096
    """Candidates per forward pass; a larger request runs alone."""
    window_ms: NonNegativeFloat = 2.0
    """Longest time that a request waits for others, which are being decoded, while the model is idle, in
    milliseconds."""
    max_queue: PositiveInt = 256
    """Requests that may wait; another is refused with 503 and Retry-After."""
    threads: PositiveInt | None = None
    """Threads that run the model. Optional; default: the CPUs of the process."""


class SheddingConfig(BaseConfig):
    """Fewer candidates when the server is too slow; the response names how many were scored."""

    target_ms: PositiveFloat
    """Shedding starts when the 95th percentile of latency exceeds this, in milliseconds."""
    min_candidates: PositiveInt = 50
    """Candidates that are always scored: the first of the request."""


class LimitsConfig(BaseConfig):
    """The largest request that is accepted."""

    body_mib: PositiveInt = 64
    """Size of a body, in MiB."""
    decompressed_mib: PositiveInt = 128
    """Size of a body after gzip, in MiB."""
    candidates: PositiveInt = 10_000
    """Candidates per request."""
    values: PositiveInt = 50_000_000
    """Values of all tensors of a request."""
    json_depth: PositiveInt = 32
    """Nesting of JSON."""
    header_seconds: PositiveFloat = 10.0
    """Time for the head of a request."""
    body_seconds: PositiveFloat = 30.0
    """Time for the body of a request."""
    connections: PositiveInt = 1024
    """Open connections."""
    deadline_ms: PositiveFloat = 10_000.0
    """Deadline of a request that names none, in milliseconds; also the longest accepted one."""


class ReloadConfig(BaseConfig):
    """New versions of a model: each is verified, warmed and compared with its golden scores before it serves."""

    every_seconds: PositiveFloat = 10.0
    """How often the folders of models are checked."""
    golden: Literal["required", "if_present", "off"] = "if_present"
    """Whether a version must reproduce its own `golden.json`."""


class ShadowConfig(BaseConfig):
    """A version that scores what another answers: it is logged and counted, and never returned."""

    kind: Literal["shadow"]
    version: Name
    """The version to try: the name of its folder."""


class SplitConfig(BaseConfig):
    """A version that answers a share of the users, always the same ones."""

    kind: Literal["split"]
    version: Name
    """The version to try: the name of its folder."""
    share: Rate
    """Share of the users, by a hash of the user. Requests without a user get the other version."""


RolloutConfig = Annotated[ShadowConfig | SplitConfig, Field(discriminator="kind")]
"""Two versions of a model side by side."""


class ServedModelConfig(BaseConfig):
    """A model to serve."""

    path: Name
    """A model directory, a run, or a folder of model directories, each of which is a version."""
    version: Name | None = None
    """The version to serve: the name of its folder, or `best`: the checkpoint of a run at which the metric of
    `training.watch` was best. Optional; default: the newest."""
    rollout: RolloutConfig | None = None
    """A second version beside it. Optional; off by default."""
    overrides: list[str] = []
    """Overrides of the model's configuration, such as scoring.weights.is_clicked=2."""
    precision: InferencePrecision = "float32"
    """Arithmetic of the model: `float32` agrees with `recap evaluate` exactly; `bf16` and `int8` are faster for large
    models; `auto` is bf16 where the hardware has it."""
    weights_from_requests: bool = False
    """Whether requests may bring their own weights of the score."""
    fallback: float | None = None
    """Score of a candidate whose score is not finite. Optional; default: the candidate has an error, and no score."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_two_versions,)

    def _has_two_versions(self) -> Problems:
        if self.rollout is not None and self.rollout.version == self.version:
            yield ("rollout", "version"), f"{shorten(self.rollout.version)} is the version that is served already"


class RequestLogConfig(BaseConfig):
    """A log of requests and responses in Parquet, in the layout that training reads."""

    folder: Name
    """Folder of the log."""
    share: Rate = 0.01
    """Share of the requests to log, by a hash of the request."""
    file_mib: PositiveInt = 64
    """Size at which a file ends, in MiB."""
    file_minutes: PositiveFloat = 10.0
    """Age at which a file ends, in minutes. Files can be read once they have ended."""
    max_gib: PositiveFloat = 10.0
    """Size of the folder at which the oldest files are deleted, in GiB."""
    leave_out: list[Name] = []
    """Columns that are not logged, such as ids of people. Without a column that the model reads, the log cannot be
    scored again."""


class ServerConfig(RootConfig):
    """A complete configuration of a server."""

    models: dict[ModelName, ServedModelConfig] = {}
    """The models by name; those of the command line are added."""
    address: AddressConfig = AddressConfig()
    """Where the server listens, and who may ask."""
    batching: BatchingConfig = BatchingConfig()
    """How requests share a forward pass."""
    shedding: SheddingConfig | None = None
    """Fewer candidates when the server is too slow. Optional; off by default."""
    limits: LimitsConfig = LimitsConfig()
    """The largest request that is accepted."""
    reload: ReloadConfig = ReloadConfig()
    """When new versions are taken."""
    history_cache_mib: PositiveInt | None = 256
    """Memory for encoded histories of users between requests, in MiB; null turns the cache off."""
    request_log: RequestLogConfig | None = None
    """A log of requests and responses. Optional; off by default."""
    traces: Annotated[str, Field(pattern=r"^https?://[^/\s]+$")] | None = None
    """Address of an OpenTelemetry collector (OTLP over gRPC), such as http://localhost:4317. Optional."""
    page: bool = False
    """Whether `/` is a page on which candidates are scored by hand."""
    grace_seconds: PositiveFloat = 30.0
    """Time to finish open requests after SIGTERM."""
