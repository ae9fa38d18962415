"""Settings of the REST gateway."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from skydriver_common.auth import Role, RoleRule
from skydriver_common.model import scan_tokens
from skydriver_common.model.steering_variables import UserVariables
from skydriver_common.model.worker_limits import MAX_WORKERS_PER_SCAN, WorkerLimits
from skydriver_common.runtime.settings import ServiceSettings

Networks = tuple[IPv4Network | IPv6Network, ...]


def networks_of(text: str) -> Networks:
    """Read networks, separated by commas. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


class ApiSettings(ServiceSettings):
    """Where to listen, which tokens to trust, what may be requested."""

    http_host: str = "127.0.0.1"
    """Address on which the REST API listens."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port on which the REST API listens. 0: any free port."""
    auth_issuer: str = "skydriver-local"
    """Issuer (``iss``) of accepted tokens. Without SKYDRIVER_AUTH_JWKS_FILE it is also the base URL of OIDC discovery."""
    auth_audience: str = "skydriver"
    """Audience (``aud``) that tokens must have."""
    auth_jwks_file: Path | None = None
    """Public keys (JWKS file) of the issuer. Unset: OIDC discovery."""
    auth_key_hosts: str = ""
    """Hosts beside the issuer's own from which OIDC discovery may take public keys, by commas (`keys.example.org,10.0.0.3:8443`)."""
    auth_user_claim: str = "resource_access/skydriver-external/roles=users"
    """Claim path and value that grant the API role *user* (REST contract 1.2)."""
    auth_system_claim: str = "resource_access/skydriver-internal/roles=system"
    """Claim path and value that grant the API role *system*."""
    scan_token_issuer: str = ""
    """Issuer (``iss``) of the tokens of single scans, if the dispatcher signs them and another issuer signs users' tokens."""
    scan_token_jwks_file: Path | None = None
    """Public keys (JWKS file) of SKYDRIVER_SCAN_TOKEN_ISSUER, which is trusted with tokens of single scans only."""
    scan_token_grace_s: float = Field(default=scan_tokens.GRACE_S, ge=0)
    """Seconds after a scan's end during which its token stays valid, for the last report after the final result."""
    image_catalog: str = "embedded"
    """Where scanner images are looked up: ``embedded``, ``directory:/PATH`` (such as CVMFS), ``registry:URL`` (Docker Hub's tag list), or
    the last two separated by a comma."""
    minimum_image: str = "v4.0.0"
    """Oldest scanner image that may be requested."""
    clusters: dict[str, int | None] = Field(default={"osg": 100, "sub-2": 100, "local": 5})
    """JSON object: known clusters, each with the maximum number of workers while `debug_mode` contains ``client-logs``; null: no limit
    (REST contract 8.4)."""
    max_workers_per_scan: int = Field(default=MAX_WORKERS_PER_SCAN, ge=1, le=2**31 - 1)
    """Maximum number of workers of one scan, in all clusters and with all additions; a request for more gets 400. The EWMS bridge reads the
    same variable."""
    max_workers_per_cluster: dict[str, int] = Field(default={})
    """JSON object: clusters whose limit per scan is lower, each with its maximum number of workers."""
    user_env_allow: str = "*"
    """Variables that a request may set for its scanner server: names with ``*`` for any characters, separated by commas; others get 400.
    Variables that steer an interpreter, loader, shell, TLS, proxy or SkyDriver itself always do. `skydriver up` sets ``SKYSCAN_*``. The
    dispatcher reads the same variable."""
    logs_dashboard_url: str = ""
    """Grafana dashboard to which links to a scanner server's log point. Unset: no links."""
    kubernetes_namespace: str = ""
    """Namespace of the scanner servers, as links to logs name it."""
    prometheus_url: str = ""
    """Prometheus URL, used to find when a scanner server's log ends. Unset: log links have no end time."""
    http_max_connections: int = Field(default=10_000, ge=1)
    """Connections at once; further ones are answered 503. Less where the limit of descriptors is lower (it is raised to the hard
    limit at the start)."""
    http_max_connections_per_address: int = Field(default=5_000, ge=1)
    """Of one client address. A proxy in front of the gateway is one address, unless it is trusted."""
    http_trusted_proxies: str = ""
    """Networks of the proxies in front of the gateway, separated by commas (`10.0.0.0/8,fd00::/8`). Their connections have no limit per
    address; the requests that they forward are limited by the client that `X-Forwarded-For` names, to as many."""
    http_idle_timeout_s: float = Field(default=75.0, gt=0, le=3600, allow_inf_nan=False)
    """A connection without a request for so long is closed; longer than a proxy in front keeps its own."""
    max_streams: int = Field(default=8_000, ge=1)
    """Live streams of events at once; further ones get 503."""
    max_streams_per_token: int = Field(default=4_000, ge=1)
    """Of one token."""
    command_timeout_s: float = Field(default=10.0, gt=0)
    """Deadline of a command: after this many seconds it is not processed any more and the client gets 503."""

    @property
    def user_variables(self) -> UserVariables:
        return UserVariables.parse(self.user_env_allow)

    @field_validator("user_env_allow")
    @classmethod
    def _has_patterns(cls, text: str) -> str:
        UserVariables.parse(text)
        return text

    @property
    def key_hosts(self) -> tuple[str, ...]:
        return tuple(host.strip() for host in self.auth_key_hosts.split(",") if host.strip())

    @property
    def proxy_networks(self) -> Networks:
        return networks_of(self.http_trusted_proxies)

    @property
    def worker_limits(self) -> WorkerLimits:
        return WorkerLimits(per_scan=self.max_workers_per_scan, per_cluster=self.max_workers_per_cluster)

    @field_validator("http_trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks_of(text)
        return text

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
