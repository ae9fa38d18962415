"""Settings from the environment: one frozen class per service, checked as a whole before anything starts.

The settings library ignores a misspelt name, so a value that was meant is silently the default. Here an unknown `SKYDRIVER_*`
name is a warning at the start, with near matches; it does not stop the start, since a rollback and Kubernetes' links to services
bring some. Services usually share one environment, hence names of the others are known: `KNOWN_NAMES` is the one table of all.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from skydriver_common.trust import check_bundle

__all__ = [
    "CLIENT_NAMES", "KNOWN_NAMES", "OLD_NAMES", "PREFIX", "AmqpUrl", "BadSettings", "PostgresUrl", "ServiceSettings",
    "contradictions", "unknown_names", "warnings_about",
]  # fmt: skip

PREFIX = "SKYDRIVER_"
EXIT_BAD_SETTINGS = 2
MAX_DURATION_S = 10 * 365 * 86_400.0
"""Ten years: no setting is a longer time."""
LARGEST = 2**31 - 1
"""Of all other numbers."""

_COMMON = "DATABASE_URL AMQP_URL REPLICA HEALTH_HOST HEALTH_PORT LOG_FORMAT LOG_LEVEL SHUTDOWN_GRACE_S CA_FILE"
_API = """HTTP_HOST HTTP_PORT AUTH_ISSUER AUTH_AUDIENCE AUTH_JWKS_FILE AUTH_KEY_HOSTS AUTH_USER_CLAIM AUTH_SYSTEM_CLAIM SCAN_TOKEN_ISSUER
    SCAN_TOKEN_JWKS_FILE IMAGE_CATALOG MINIMUM_IMAGE CLUSTERS LOGS_DASHBOARD_URL PROMETHEUS_URL KUBERNETES_NAMESPACE
    COMMAND_TIMEOUT_S HTTP_MAX_CONNECTIONS HTTP_MAX_CONNECTIONS_PER_ADDRESS HTTP_TRUSTED_PROXIES HTTP_IDLE_TIMEOUT_S MAX_STREAMS
    MAX_STREAMS_PER_TOKEN MAX_WORKERS_PER_SCAN MAX_WORKERS_PER_CLUSTER"""
_DISPATCHER = """LAUNCHER WORK_DIR SCANNER_COMMAND USER_ENV_ALLOW PUBLIC_URL SCAN_TOKEN_KEY_FILE AUTH_ISSUER AUTH_AUDIENCE LAUNCH_INTERVAL_S
    MAX_LAUNCH_ATTEMPTS SCANNER_BUS_URL SCANNER_PROGRESS_INTERVAL_S SCANNER_RESULT_INTERVAL_S SCANNER_KILL_SWITCH_INTERVAL_S
    SCANNER_MQ_TIMEOUT_S SCANNER_LOG SCANNER_LOG_THIRD_PARTY MAX_RUNNING_SCANS MAX_CONCURRENT_LAUNCHES INSTANCE
    KUBERNETES_NAMESPACE KUBERNETES_TIMEOUT_S KUBERNETES_LEASE_S SCANNER_IMAGE UPLOAD_IMAGE SCANNER_SERVICE_ACCOUNT
    SCANNER_USER_ID SCANNER_PRIORITY_CLASS SCANNER_URGENT_PRIORITY_CLASS SCANNER_TOPOLOGY_KEY SCANNER_NODE_SELECTOR
    SCANNER_MAX_RUNTIME_S SCANNER_JOB_TTL_S SCANNER_START_TIMEOUT_S FINAL_RESULT_GRACE_S"""
_EWMS_BRIDGE = """WORK_DIR CREDENTIAL_DELIVERY EWMS_URL EWMS_ISSUER EWMS_CLIENT_ID EWMS_CLIENT_SECRET INSTANCE TEARDOWN_DELAY_S
    WORKFORCE_INTERVAL_S WORKFORCE_FAST_INTERVAL_S QUEUE_ACTIVATION_POLL_S QUEUE_ACTIVATION_TIMEOUT_S STARTUP_FILE_TIMEOUT_S
    EWMS_UNKNOWN_OUTCOME_WAIT_S EWMS_REFUSAL_RETRY_S WORKER_IDLE_TIMEOUT_S WORKER_IMAGE_CATALOG EWMS_PROBE_MAX_INTERVAL_S
    REPLACE_WORKERS REPLACE_WORKERS_MAX_BATCHES REPLACE_WORKERS_PAUSE_S S3_URL S3_KEY_ID S3_SECRET S3_BUCKET S3_REGION"""
_PROGRESS = """SCAN_TOKEN_GRACE_S COALESCE_PROGRESS INGEST_PREFETCH SCANNER_SILENCE_TIMEOUT_S PROGRESS_RETENTION_DAYS
    REPLY_RETENTION_DAYS"""
_CLIENTS = "URL TOKEN DATA_DIR RABBITMQ_SERVER"
KNOWN_NAMES: frozenset[str] = frozenset(
    PREFIX + name for group in (_COMMON, _API, _DISPATCHER, _EWMS_BRIDGE, _PROGRESS, _CLIENTS) for name in group.split()
)
"""Every name that some part of the system reads, with its prefix. A service's own fields are known without being listed, but
only the table keeps the *other* services from refusing them."""

OLD_NAMES: Mapping[str, str] = {
    PREFIX + "LAUNCH_HANDS": PREFIX + "MAX_CONCURRENT_LAUNCHES",
    PREFIX + "MAX_ATTEMPTS": PREFIX + "MAX_LAUNCH_ATTEMPTS",
    PREFIX + "MAX_RUNNING": PREFIX + "MAX_RUNNING_SCANS",
    PREFIX + "LOW_PRIORITY_INTERVAL_S": PREFIX + "LAUNCH_INTERVAL_S",
    PREFIX + "SCANNER_TROUBLE_LIMIT_S": PREFIX + "SCANNER_START_TIMEOUT_S",
    PREFIX + "SCANNER_KEEP_FINISHED_S": PREFIX + "SCANNER_JOB_TTL_S",
    PREFIX + "SCANNER_DEADLINE_S": PREFIX + "SCANNER_MAX_RUNTIME_S",
    PREFIX + "SCANNER_SPREAD_OVER": PREFIX + "SCANNER_TOPOLOGY_KEY",
    PREFIX + "RESULT_GRACE_S": PREFIX + "FINAL_RESULT_GRACE_S",
    PREFIX + "TOP_UP": PREFIX + "REPLACE_WORKERS",
    PREFIX + "TOP_UP_MOST_TIMES": PREFIX + "REPLACE_WORKERS_MAX_BATCHES",
    PREFIX + "TOP_UP_PAUSE_S": PREFIX + "REPLACE_WORKERS_PAUSE_S",
    PREFIX + "UNCLEAR_WAIT_S": PREFIX + "EWMS_UNKNOWN_OUTCOME_WAIT_S",
    PREFIX + "EWMS_LONGEST_PAUSE_S": PREFIX + "EWMS_PROBE_MAX_INTERVAL_S",
    PREFIX + "QUEUE_IDLE_S": PREFIX + "WORKER_IDLE_TIMEOUT_S",
    PREFIX + "STARTUP_LIMIT_S": PREFIX + "STARTUP_FILE_TIMEOUT_S",
    PREFIX + "ACTIVATION_LIMIT_S": PREFIX + "QUEUE_ACTIVATION_TIMEOUT_S",
    PREFIX + "ACTIVATION_POLL_S": PREFIX + "QUEUE_ACTIVATION_POLL_S",
    PREFIX + "SILENCE_LIMIT_S": PREFIX + "SCANNER_SILENCE_TIMEOUT_S",
    PREFIX + "HOUSEKEEPING_DAYS": PREFIX + "REPLY_RETENTION_DAYS",
    PREFIX + "STOP_GRACE_S": PREFIX + "SHUTDOWN_GRACE_S",
    PREFIX + "COMMAND_DEADLINE_S": PREFIX + "COMMAND_TIMEOUT_S",
    PREFIX + "HAND_OVER": PREFIX + "CREDENTIAL_DELIVERY",
}
"""Names of earlier releases to those of today. An old name works, and is named once in a warning."""

CLIENT_NAMES: frozenset[str] = frozenset(PREFIX + name for name in _CLIENTS.split())
"""Names that the command line and clients read, and no service."""

TEST_PREFIX = PREFIX + "TEST_"
"""Names of the test suite; no part of the system reads them."""


class BadSettings(Exception):
    """The environment cannot be used.

    Attributes:
        problems: one line each, the variable's name first, never a value.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def _url_of(*schemes: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        # Only the scheme is looked at, and the value is not repeated: it holds a password.
        if url.get_secret_value().partition("://")[0] not in schemes or "://" not in url.get_secret_value():
            raise ValueError("must be a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes))
        return url

    return AfterValidator(check)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


PostgresUrl = Annotated[SecretStr, _url_of("postgresql", "postgres")]
AmqpUrl = Annotated[SecretStr, _url_of("amqp", "amqps")]


class _Environment(EnvSettingsSource):
    """The environment with old names read as new ones, leaving broken JSON to the validation, which reports all problems together."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        for old, new in OLD_NAMES.items():
            value = variables.pop(old.lower(), None)
            if value:
                variables[new.lower()] = variables.get(new.lower()) or value
        return variables

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class ServiceSettings(BaseSettings):
    """What every service needs to know; each service adds its own fields in a subclass.

    A field `max_launch_attempts` is read from `SKYDRIVER_MAX_LAUNCH_ATTEMPTS`; an empty variable counts as not set. Fields of collection
    types are JSON. Give units in the names or types, and secrets as `SecretStr`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    database_url: PostgresUrl
    """Postgres, with user and password. Of several hosts (``one:5432,two:5432``) the one that takes writes is used."""
    amqp_url: AmqpUrl
    """RabbitMQ, with user, password and vhost."""
    replica: str = ""
    """Stable name of this replica; lets it resume its own leases after a restart. Default: host name and process id."""
    health_host: str = "127.0.0.1"
    """Address for /healthz, /readyz and /metrics. Use 0.0.0.0 if probes come from outside, as in Kubernetes."""
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port for /healthz, /readyz and /metrics. 0: any free port; the log line `service.starting` names it."""
    log_format: Annotated[Literal["json", "console"], BeforeValidator(_lower)] = "json"
    """``json``: one JSON object per line. ``console``: for people."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """Lowest level that is logged: ``debug``, ``info``, ``warning`` or ``error``."""
    shutdown_grace_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 6.0
    """Seconds to finish work in progress after SIGTERM. Must be shorter than the supervisor's kill timeout."""

    ca_file: Path | None = None
    """PEM file of certificate authorities to trust beside the system's: for the identity provider, EWMS, the object store, RabbitMQ
    (``amqps``), Postgres (``sslmode=verify-full``) and a kubeconfig without an authority of its own."""

    @field_validator("ca_file")
    @classmethod
    def _holds_certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            check_bundle(value)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _is_in_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        """No number may be infinite or NaN, no length of time beyond what a database or a timer can hold."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        unit = (info.field_name or "").rpartition("_")[2]
        most = {"s": MAX_DURATION_S, "days": MAX_DURATION_S / 86_400}.get(unit, LARGEST)
        if not abs(value) <= most:  # in this form: NaN is in no order
            raise ValueError(f"must be a finite number of at most {most:,.0f}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments (tests), then the environment; no files that nobody looks for."""
        return init_settings, _Environment(settings_cls)

    @classmethod
    def load(cls) -> Self:
        """The settings of this process, or the end of it: one line per problem on stderr, exit code 2. Warnings go there too."""
        for warning in warnings_about(os.environ, cls.names()):
            print(warning, file=sys.stderr)
        try:
            return cls.read()
        except BadSettings as bad:
            for problem in bad.problems:
                print(problem, file=sys.stderr)
            raise SystemExit(EXIT_BAD_SETTINGS) from None

    @classmethod
    def read(cls) -> Self:
        """The settings of this process. Raises BadSettings with every problem at once."""
        problems = list(contradictions(os.environ, cls.names()))
        try:
            settings = cls.model_validate({})
        except ValidationError as error:
            problems += _problems(error)
        else:
            if not problems:
                return settings
        raise BadSettings(problems) from None

    @classmethod
    def names(cls) -> frozenset[str]:
        """The variables this class reads."""
        return frozenset(PREFIX + field.upper() for field in cls.model_fields)


def _problems(error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_input=False, include_context=False, include_url=False):
        field, *inside = problem["loc"] or ("",)
        if problem["type"] == "missing" and not inside:
            yield f"{PREFIX}{str(field).upper()}: required but not set"
            continue
        where = "".join(f" at {part}:" for part in inside)
        text = problem["msg"].removeprefix("Value error, ")
        # A check over several fields has no variable of its own: its author names them in the text.
        yield from (f"{PREFIX}{str(field).upper()}:{where} {text}",) if field else text.splitlines()


def contradictions(environ: Mapping[str, str], own: frozenset[str]) -> Iterable[str]:
    """Return a line for each variable of ``own`` that has one value under its name and another one under its old name."""
    for old, new in OLD_NAMES.items():
        if new in own and environ.get(old) and environ.get(new) and environ[old] != environ[new]:
            yield f"{old}: the old name of {new}, which has another value; unset one of them"


def warnings_about(environ: Mapping[str, str], own: frozenset[str] = frozenset()) -> Iterable[str]:
    """Return a line for each unknown ``SKYDRIVER_*`` variable, and for each old name of one that the caller reads."""
    for name, hint in unknown_names(environ, own):
        yield f"{name}: unknown setting, ignored{hint}"
    for old, new in OLD_NAMES.items():
        if new in own and environ.get(old):
            yield f"{old}: the old name of {new}; it works until the release after next"


def unknown_names(environ: Mapping[str, str], own: frozenset[str] = frozenset()) -> Iterable[tuple[str, str]]:
    """Return the ``SKYDRIVER_*`` variables that no part of the system reads, each with the nearest known name as a hint, or ``""``.

    own: names that the caller knows beside `KNOWN_NAMES`.
    """
    known = KNOWN_NAMES | OLD_NAMES.keys() | own
    links = _service_links(environ)
    for name in sorted(environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or upper.startswith(TEST_PREFIX) or links.match(upper):
            continue
        # Compared without the prefix, which makes any two names look alike.
        close = difflib.get_close_matches(
            upper.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known - OLD_NAMES.keys()], n=1, cutoff=0.7
        )
        hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
        yield name, hint


def _service_links(environ: Mapping[str, str]) -> re.Pattern[str]:
    """Names that Kubernetes adds by itself for a Service called skydriver-…: NAME_SERVICE_HOST, NAME_PORT_80_TCP, and so on."""
    suffix = "_SERVICE_HOST"
    services = [
        re.escape(name.removesuffix(suffix)) for name in environ if name.startswith(PREFIX[:-1]) and name.endswith(suffix)
    ]
    return re.compile(rf"(?:{'|'.join(services)})_(?:SERVICE_(?:HOST|PORT)|PORT)(?:_|$)" if services else r"(?!)")
