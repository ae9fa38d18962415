"""Settings of the dispatcher."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from skydriver_common.model import scanner_variables as variables
from skydriver_common.model.launch_limits import MAX_INTERVAL_S
from skydriver_common.model.steering_variables import UserVariables
from skydriver_common.runtime.settings import PREFIX, AmqpUrl, ServiceSettings

TOKEN_LIFE_S = 30 * 86_400
"""Of a scanner's token, which is fixed for the scan and must outlive it (scanner contract 1)."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HTTP = re.compile(r"https?://[^/\s]+\S*")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*(@sha256:[0-9a-f]{64})?", re.IGNORECASE)


def _form(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(f"must be {what}")
        return value

    return AfterValidator(check)


Label = Annotated[str, _form(_LABEL, "fit for a Kubernetes label: letters, digits, - _ . inside, at most 63")]
LabelKey = Annotated[str, _form(_LABEL_KEY, "the key of a Kubernetes label")]
HttpUrl = Annotated[str, _form(_HTTP, "a URL that begins with http:// or https://")]
DnsLabel = Annotated[str, _form(_DNS_LABEL, "a Kubernetes name: a-z, 0-9, - inside, at most 63")]
Image = Annotated[str, _form(_IMAGE, "the name of a container image")]


def _level(value: str) -> str:
    if (refusal := variables.refusal(variables.LOG, value)) is not None:
        raise ValueError(refusal)
    return value.upper()


ScannerLevel = Annotated[str, AfterValidator(_level)]


class DispatcherSettings(ServiceSettings):
    """Where scans run, and how fast they are launched."""

    launcher: Literal["local", "kubernetes"] = "local"
    """Where scanner servers run: ``local`` processes of this machine, or Jobs of ``kubernetes``."""
    work_dir: Path | None = None
    """Folder that holds one folder per scan (launcher ``local``)."""
    scanner_command: str = ""
    """Command line that starts a scanner server (launcher ``local``). Default: the sandbox's scanner."""
    user_env_allow: str | None = None
    """Variables that a request may set for its scanner server: names with ``*`` for any characters, separated by commas. Unset:
    ``SKYSCAN_*`` for the launcher ``local``, whose scanners are processes of this machine, else ``*``. Variables that steer an
    interpreter, loader, shell, TLS, proxy or SkyDriver itself are never among them. The gateway reads the same variable."""
    public_url: HttpUrl
    """Base URL at which scanners reach the REST API."""
    scan_token_key_file: Path
    """PEM private key that signs scan tokens; the gateway knows its public half."""
    auth_issuer: str = "skydriver-local"
    """Issuer (``iss``) of the scan tokens that the dispatcher signs."""
    auth_audience: str = "skydriver"
    """Audience (``aud``) of these tokens."""
    launch_interval_s: float = Field(default=300.0, ge=0, le=MAX_INTERVAL_S)
    """Seconds between two launches of scans with a priority below 100 (REST contract 9.6); 0: no throttle. `skydriver throttle`
    changes it at run time."""
    max_running_scans: int | None = Field(default=None, ge=0)
    """Maximum number of running scans; scans below priority 100 wait while it is reached. Unset: no limit. `skydriver
    throttle` overrides it."""
    max_concurrent_launches: int = Field(default=4, ge=1, le=64)
    """Concurrent launches per replica."""
    max_launch_attempts: int = Field(default=3, ge=1)
    """Failed launches after which a scan is abandoned."""
    scanner_bus_url: AmqpUrl | None = None
    """Broker URL for scanners. Unset: they report over REST. Without user and password in it the scan's token is the login, which needs
    the broker's OAuth 2 plugin (``docs/reference/scanner-protocol.md``). The launcher ``kubernetes`` accepts none in it, since Jobs are
    readable."""
    scanner_progress_interval_s: int | None = Field(default=None, ge=1)
    """Seconds between two progress reports of a scanner server. Unset: the scanner's default (60 s)."""
    scanner_result_interval_s: int | None = Field(default=None, ge=1)
    """Seconds between two partial results of a scanner server. Unset: the scanner's default (120 s)."""
    scanner_kill_switch_interval_s: int | None = Field(default=None, ge=1)
    """Seconds between two checks of a scanner server whether its scan was stopped. Unset: the scanner's default (300 s)."""
    scanner_mq_timeout_s: int | None = Field(default=None, ge=1)
    """Seconds without a message from workers after which a scanner gives up. Unset: the scanner's default (7200 s)."""
    scanner_log: ScannerLevel | None = None
    """Log level of scanner servers. Unset: the scanner's default."""
    scanner_log_third_party: ScannerLevel | None = None
    """Log level of the libraries in scanner servers. Unset: the scanner's default."""

    instance: Label | None = None
    """Name of this installation, in the labels of its Kubernetes objects; no two in one namespace may have the same."""
    kubernetes_namespace: DnsLabel | None = None
    """Namespace in which Jobs and Secrets are created. The cluster is that of KUBECONFIG, else the one this process is a pod of."""
    kubernetes_timeout_s: float = Field(default=15.0, gt=0, le=50)
    """Timeout of one call to the Kubernetes API."""
    kubernetes_lease_s: float = Field(default=15.0, ge=1, le=300)
    """Lease duration: another replica takes over watching the cluster this long after the active one died."""
    scanner_image: Image = "icecube/skymap_scanner"
    """Repository of the scanner image; the tag comes from the request."""
    upload_image: Image | None = None
    """SkyDriver's own image, with tag: runs the upload of ``startup.json`` beside the scanner."""
    scanner_service_account: DnsLabel | None = None
    """Service account of the scanners' pods. Unset: the namespace's default."""
    scanner_user_id: int = Field(default=1000, ge=1, le=2**31 - 1)
    """User and group id of the scanner's processes; never root."""
    scanner_priority_class: DnsLabel | None = None
    """PriorityClass of the scanners' pods. Unset: the cluster's default."""
    scanner_urgent_priority_class: DnsLabel | None = None
    """PriorityClass of the pods of urgent scans (priority 100 or higher). Unset: SKYDRIVER_SCANNER_PRIORITY_CLASS."""
    scanner_topology_key: LabelKey | None = None
    """Node label over whose values pods are spread, such as ``kubernetes.io/hostname``."""
    scanner_node_selector: dict[LabelKey, Label] = Field(default_factory=dict)
    """JSON object: labels that a node must have."""
    scanner_max_runtime_s: int = Field(default=172_800, ge=60, le=TOKEN_LIFE_S)
    """Maximum run time of a scan, in seconds (REST contract 9.1); at most the lifetime of its token, 30 days."""
    scanner_job_ttl_s: int = Field(default=600, ge=60)
    """Seconds for which a finished Job is kept (REST contract 9.1). Not too short: the dispatcher reads from it how the scan ended."""
    scanner_start_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds after which a scan fails when its image cannot be pulled, or its pod or container cannot be created. Waiting for capacity
    does not count."""
    final_result_grace_s: float = Field(default=20.0, ge=0)
    """Seconds to wait for the final result after a scanner server exited with 0."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems = list(self._missing())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _missing(self) -> Iterator[str]:
        if (
            self.launcher == "kubernetes"
            and self.scanner_bus_url
            and urlsplit(self.scanner_bus_url.get_secret_value()).username
        ):
            yield (
                f"{PREFIX}SCANNER_BUS_URL: must not contain user and password when {PREFIX}LAUNCHER is kubernetes, since anyone who "
                "may read Jobs would see them"
            )
        needed = {"local": ("work_dir",), "kubernetes": ("instance", "kubernetes_namespace", "upload_image")}[self.launcher]
        for name in needed:
            if getattr(self, name) is None:
                yield f"{PREFIX}{name.upper()}: is not set ({PREFIX}LAUNCHER is {self.launcher})"

    @field_validator("scanner_command")
    @classmethod
    def _can_be_split(cls, text: str) -> str:
        shlex.split(text)
        return text

    @field_validator("user_env_allow")
    @classmethod
    def _has_patterns(cls, text: str | None) -> str | None:
        UserVariables.parse(text or "")
        return text

    @property
    def user_variables(self) -> UserVariables:
        """What a request may set."""
        default = "SKYSCAN_*" if self.launcher == "local" else "*"
        return UserVariables.parse(default if self.user_env_allow is None else self.user_env_allow)

    @property
    def scanner_words(self) -> tuple[str, ...]:
        """The command as words; none: the launcher's own."""
        return tuple(shlex.split(self.scanner_command))

    @property
    def forwarded(self) -> dict[str, str | int | None]:
        """What scanner servers get: variable to value, None: the scanner's own default."""
        return {
            variables.PROGRESS_INTERVAL: self.scanner_progress_interval_s,
            variables.RESULT_INTERVAL: self.scanner_result_interval_s,
            variables.KILL_SWITCH_INTERVAL: self.scanner_kill_switch_interval_s,
            variables.MQ_TIMEOUT: self.scanner_mq_timeout_s,
            variables.LOG: self.scanner_log,
            variables.LOG_THIRD_PARTY: self.scanner_log_third_party,
        }
