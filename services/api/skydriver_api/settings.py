"""Settings of the REST gateway."""

from pathlib import Path

from pydantic import Field

from skydriver_common.runtime.settings import ServiceSettings


class ApiSettings(ServiceSettings):
    """Where to listen, whom to believe, what may be asked for."""

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    auth_issuer: str = "skydriver-local"
    """The ``iss`` of accepted tokens; with an empty ``auth_jwks_file`` also where OIDC discovery begins."""
    auth_audience: str = "skydriver"
    auth_jwks_file: Path | None = None
    """Public keys of the issuer; unset: OIDC discovery."""
    image_catalog: str = "embedded"
    """``embedded``, ``directory:PATH`` or ``registry:URL``."""
    minimum_image: str = "v4.0.0"
    clusters: dict[str, int | None] = Field(default={"osg": 100, "sub-2": 100, "local": 5})
    """Cluster name to its most workers with ``client-logs``; null: no cap (REST contract 8.4)."""
    logs_dashboard_url: str = ""
    kubernetes_namespace: str = ""
    prometheus_url: str = ""
    command_deadline_s: float = Field(default=10.0, gt=0)
    """How long a command may wait before it must not take effect any more."""
