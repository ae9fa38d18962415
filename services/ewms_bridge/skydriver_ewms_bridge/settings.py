"""Settings of the EWMS bridge."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from skydriver_common.model.worker_limits import MAX_WORKERS_PER_SCAN, WorkerLimits
from skydriver_common.runtime.settings import PREFIX, ServiceSettings


class BridgeSettings(ServiceSettings):
    """Where EWMS and the object store are, and how long to wait for them."""

    credential_delivery: Literal["files", "secrets"] = "files"
    """How queue credentials are delivered to a scanner: ``files`` for the launcher ``local``, ``secrets`` for ``kubernetes``."""
    work_dir: Path | None = None
    """Holds one folder per scan, into which queue credentials are written (delivery by files)."""
    kubernetes_namespace: str | None = None
    """Where scans have their Jobs and Secrets (delivery by Secrets); the cluster is that of KUBECONFIG, else this pod's."""
    kubernetes_timeout_s: float = Field(default=15.0, gt=0, le=50)
    """Timeout of one call to the Kubernetes API, in seconds."""
    ewms_url: str
    """Base address of EWMS, without ``/v1``; also what scans show as their ``ewms_address``."""
    ewms_issuer: str
    """Issuer of EWMS's tokens; its ``/.well-known/openid-configuration`` is read."""
    ewms_client_id: str
    """OAuth 2 client id of this installation at EWMS."""
    ewms_client_secret: SecretStr
    """Secret that belongs to it."""
    instance: str = Field(min_length=1)
    """Name of this installation. Workflows are marked with it: EWMS is shared, so no two installations may have the same."""
    s3_url: str
    """Base address of the object store, without the bucket."""
    s3_key_id: str
    """Access key id for the object store."""
    s3_secret: SecretStr
    """Secret key that belongs to it."""
    s3_bucket: str
    """Bucket that holds ``startup.json`` of each scan."""
    s3_region: str = "us-east-1"
    """Region that signatures of requests to the object store name."""
    worker_image_catalog: str = "/cvmfs/icecube.opensciencegrid.org/containers/realtime"
    """Folder of unpacked worker images as the workers see it (REST contract 8.2)."""
    worker_idle_timeout_s: int = Field(default=3600, ge=1)
    """How long a worker waits for its next pixel; must outlast the pauses between two rounds of pixels."""
    teardown_delay_s: float = Field(default=60.0, ge=0)
    """Seconds from the final result to the end of the workflow (REST contract 8.8)."""
    workforce_interval_s: float = Field(default=60.0, gt=0)
    """Interval at which worker counts are refreshed, in seconds."""
    workforce_fast_interval_s: float = Field(default=10.0, gt=0)
    """The same during a workflow's first five minutes and while somebody views the scan."""
    queue_activation_poll_s: float = Field(default=10.0, gt=0)
    """Interval at which queues that are not active yet are polled, in seconds; the first polls follow faster."""
    queue_activation_timeout_s: float = Field(default=21_600.0, gt=0)
    """Seconds after which a workflow without active queues is given up."""
    startup_file_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds without an upload of ``startup.json`` after which the status shows ``startup-file-missing`` (REST contract 9.5)."""
    ewms_probe_max_interval_s: float = Field(default=60.0, gt=0)
    """Maximum interval between probes while the circuit breaker is open, in seconds."""
    max_workers_per_scan: int = Field(default=MAX_WORKERS_PER_SCAN, ge=1, le=2**31 - 1)
    """Maximum number of workers of one scan, on all clusters and with all additions; a request that exceeds the sum is 422. Workers that
    are replaced (``replace_workers``) do not count. The gateway has the same setting."""
    max_workers_per_cluster: dict[str, int] = Field(default={})
    """JSON object: cluster name to the maximum number of workers of one scan there, where that is less."""
    replace_workers: bool = False
    """Replace workers that ended while pixels remain; EWMS never does that by itself."""
    replace_workers_max_batches: int = Field(default=3, ge=0)
    """Maximum number of replacement batches per scan."""
    replace_workers_pause_s: float = Field(default=600.0, ge=0)
    """Minimum pause between two batches, in seconds."""
    ewms_unknown_outcome_wait_s: float = Field(default=1_000.0, gt=0, allow_inf_nan=False)
    """Seconds during which EWMS may still execute a request whose response was lost; it is not retried before (EWMS contract 12), and
    that long after the last request the bridge looks for a second workflow."""
    ewms_refusal_retry_s: float = Field(default=1_800.0, ge=0, allow_inf_nan=False)
    """Seconds during which a workflow is requested again that EWMS rejects for a reason that may pass, such as an image that is not
    uploaded yet; then the scan is refused. Complaints about the request itself are final at once."""

    @model_validator(mode="after")
    def _can_deliver(self) -> Self:
        needed = {"files": "work_dir", "secrets": "kubernetes_namespace"}[self.credential_delivery]
        if getattr(self, needed) is None:
            raise ValueError(
                f"{PREFIX}{needed.upper()}: is not set ({PREFIX}CREDENTIAL_DELIVERY is {self.credential_delivery})"
            )
        return self

    @property
    def worker_limits(self) -> WorkerLimits:
        return WorkerLimits(per_scan=self.max_workers_per_scan, per_cluster=self.max_workers_per_cluster)

    @property
    def teardown_delay(self) -> timedelta:
        return timedelta(seconds=self.teardown_delay_s)

    @property
    def startup_limit(self) -> timedelta:
        return timedelta(seconds=self.startup_file_timeout_s)

    @property
    def refusal_retry(self) -> timedelta:
        return timedelta(seconds=self.ewms_refusal_retry_s)

    @property
    def unclear_wait(self) -> timedelta:
        return timedelta(seconds=self.ewms_unknown_outcome_wait_s)
