"""Settings of the REST gateway."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from skydriver_common.auth import Role, RoleRule
from skydriver_common.model import scan_tokens
from skydriver_common.model.worker_limits import MAX_WORKERS_PER_SCAN, WorkerLimits
from skydriver_common.runtime.settings import ServiceSettings


class ApiSettings(ServiceSettings):
    """Where to listen, which tokens to trust, what may be requested."""

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    auth_issuer: str = "skydriver-local"
    """The ``iss`` of accepted tokens; with an empty ``auth_jwks_file`` also where OIDC discovery begins."""
    auth_audience: str = "skydriver"
    auth_jwks_file: Path | None = None
    """Public keys of the issuer; unset: OIDC discovery."""
    auth_user_claim: str = "resource_access/skydriver-external/roles=users"
    """Claim path and value that make a token one of role *user* (REST contract 1.2)."""
    auth_system_claim: str = "resource_access/skydriver-internal/roles=system"
    """The same for role *system*."""
    scan_token_issuer: str = ""
    """The ``iss`` of tokens for single scans, when the dispatcher signs them and people's tokens come from elsewhere."""
    scan_token_jwks_file: Path | None = None
    """Public keys of that issuer; it is trusted with tokens for single scans only."""
    scan_token_grace_s: float = Field(default=scan_tokens.GRACE_S, ge=0)
    """How long after a scan's end its token is still good: for the last report after the final result."""
    image_catalog: str = "embedded"
    """``embedded``, ``directory:/PATH`` (as on CVMFS), ``registry:URL`` (its list of tags), or the last two by a comma."""
    minimum_image: str = "v4.0.0"
    clusters: dict[str, int | None] = Field(default={"osg": 100, "sub-2": 100, "local": 5})
    """Cluster name to its most workers with ``client-logs``; null: no cap (REST contract 8.4)."""
    max_workers_per_scan: int = Field(default=MAX_WORKERS_PER_SCAN, ge=1, le=2**31 - 1)
    """Most workers of one scan, in all clusters and with all additions together; more in one request is 400. The bridge has the same."""
    max_workers_per_cluster: dict[str, int] = Field(default={})
    """Cluster name to the most workers of one scan there, where that is less."""
    logs_dashboard_url: str = ""
    kubernetes_namespace: str = ""
    prometheus_url: str = ""
    """Knows when a scanner server's log ends; empty: links to logs have no time window."""
    http_max_connections: int = Field(default=10_000, ge=1)
    """Connections at once; further ones are answered 503. Less where the limit of descriptors is lower (it is raised to the hard
    limit at the start)."""
    http_max_connections_per_address: int = Field(default=5_000, ge=1)
    """Of one client address. A proxy in front of the gateway is one address."""
    http_idle_timeout_s: float = Field(default=75.0, gt=0, le=3600, allow_inf_nan=False)
    """A connection without a request for so long is closed; longer than a proxy in front keeps its own."""
    max_streams: int = Field(default=8_000, ge=1)
    """Live streams of events at once; further ones get 503."""
    max_streams_per_token: int = Field(default=4_000, ge=1)
    """Of one token."""
    command_timeout_s: float = Field(default=10.0, gt=0)
    """How long a command may wait before it must not take effect any more."""

    @property
    def worker_limits(self) -> WorkerLimits:
        return WorkerLimits(per_scan=self.max_workers_per_scan, per_cluster=self.max_workers_per_cluster)

    @field_validator("auth_user_claim", "auth_system_claim")
    @classmethod
    def _is_a_claim(cls, text: str) -> str:
        RoleRule.parse(Role.USER, text)
        return text

    @model_validator(mode="after")
    def _scan_tokens_are_whole(self) -> Self:
        if bool(self.scan_token_issuer) != bool(self.scan_token_jwks_file):
            raise ValueError("SKYDRIVER_SCAN_TOKEN_ISSUER and SKYDRIVER_SCAN_TOKEN_JWKS_FILE: set both or neither")
        if self.scan_token_issuer == self.auth_issuer:
            raise ValueError("SKYDRIVER_SCAN_TOKEN_ISSUER: must differ from SKYDRIVER_AUTH_ISSUER")
        return self
