"""What each process of the embedded system is started with: its command line and its environment."""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.ports import LOOPBACK
from skydriver_cli.embedded.secret_files import load_or_create_secret
from skydriver_cli.embedded.supervision import STOP_LIMIT_S, Component, Server, StatusCallback, System
from skydriver_cli.embedded.up_settings import Given, without_credentials
from skydriver_cli.services import SERVICES
from skydriver_common.auth import TokenSigner
from skydriver_common.auth.signing import JWKS_NAME

ISSUER, AUDIENCE, BUCKET = "skydriver-local", "skydriver", "skydriver"
INHERITED_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


@dataclass(frozen=True, slots=True)
class ServerAddresses:
    """Where Postgres and RabbitMQ are, with secrets. scanner_bus_url: a broker that accepts a scan's token as login, or None.

    database_urls: service to its own login, with the privileges of its role; empty if the database is not embedded.
    embedded: the servers that were started here.
    """

    database_url: str
    database_urls: dict[str, str]
    amqp_url: str
    scanner_bus_url: str | None
    embedded: list[Server]


def describe_system(
    options: Options,
    ports: dict[str, int],
    servers: ServerAddresses,
    signer: TokenSigner,
    given: Given,
    print_status: StatusCallback,
    scanner_command: str | None = None,
) -> System:
    """Return the processes with their environments; creates tokens and secrets.

    A service gets the defaults of an embedded system, then what the environment sets, then what cannot be chosen here.
    scanner_command: how the dispatcher starts scanner servers, None: as the environment says.
    """
    data_dir = options.data_dir
    url = f"http://{LOOPBACK}:{ports['http']}"
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    client_secret = load_or_create_secret(data_dir / "keys" / "ewms_client")
    s3_secret = load_or_create_secret(data_dir / "keys" / "object_store")
    defaults = _default_settings(options, ports, servers, given, client_secret, s3_secret)
    fixed = _fixed_settings(data_dir, ports, url)
    if scanner_command is not None:
        fixed["dispatcher"]["SKYDRIVER_SCANNER_COMMAND"] = scanner_command
    scanner = {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_SCAN")}
    components = [
        Component(
            name,
            [sys.executable, "-m", SERVICES[service]],
            inherited | defaults.get(service, {}) | dict(given.by_service[service]) | fixed[service]
            | {"SKYDRIVER_DATABASE_URL": servers.database_urls.get(service, servers.database_url), "SKYDRIVER_AMQP_URL": servers.amqp_url}
            | (scanner if service == "dispatcher" else {})
            | {"SKYDRIVER_HEALTH_PORT": str(ports[f"health_{name}"]), "SKYDRIVER_REPLICA": name}
            | ({"SKYDRIVER_HTTP_PORT": str(ports[f"http_{number}"])} if service == "api" and number > 1 else {}),
            f"http://{LOOPBACK}:{ports[f'health_{name}']}/readyz",
        )
        for service in SERVICES
        for number, name in enumerate(process_names(service, options), start=1)
    ]  # fmt: skip
    if options.sandbox:
        components.insert(0, _sandbox_component(options, ports, inherited, servers.amqp_url, client_secret, s3_secret))
    addresses = {"REST API": url, "data directory": str(data_dir)} | _partner_addresses(
        options, servers, given, defaults["ewms_bridge"]
    )
    connection = {
        "url": url,
        "user_token": signer.user_token(),
        "system_token": signer.system_token(),
        "database_url": servers.database_url,
        "amqp_url": servers.amqp_url,
    }
    if options.sandbox:
        connection["sandbox_url"] = f"http://{LOOPBACK}:{ports['ewms']}"
        connection["sandbox_token"] = load_or_create_secret(data_dir / "keys" / "sandbox_admin")
    for number in range(2, options.replicas.get("api", 1) + 1):
        addresses[f"REST API {number}"] = connection[f"url_{number}"] = f"http://{LOOPBACK}:{ports[f'http_{number}']}"
    return System(
        data_dir, url, servers.embedded, components, addresses, connection, print_status, stop_limit_s=_stop_limit_s(given)
    )


def _default_settings(
    options: Options, ports: Mapping[str, int], servers: ServerAddresses, given: Given, client_secret: str, s3_secret: str
) -> dict[str, dict[str, str]]:
    """Return service to the settings whose defaults differ in an embedded system; the environment overrides them."""
    ewms_url = given.get("EWMS_URL") or f"http://{LOOPBACK}:{ports['ewms']}"
    bridge = {
        "SKYDRIVER_EWMS_URL": ewms_url,
        "SKYDRIVER_EWMS_ISSUER": ewms_url,
        "SKYDRIVER_EWMS_CLIENT_ID": "skydriver",
        "SKYDRIVER_EWMS_CLIENT_SECRET": client_secret,
        "SKYDRIVER_S3_URL": ewms_url,
        "SKYDRIVER_S3_KEY_ID": "skydriver",
        "SKYDRIVER_S3_SECRET": s3_secret,
        "SKYDRIVER_S3_BUCKET": BUCKET,
    }
    if options.sandbox:
        # the stand-in is fast and serves this system alone; a real EWMS is polled at the pace of the bridge's defaults
        bridge |= {
            "SKYDRIVER_INSTANCE": "local",
            "SKYDRIVER_WORKFORCE_INTERVAL_S": "5",
            "SKYDRIVER_WORKFORCE_FAST_INTERVAL_S": "1",
            "SKYDRIVER_QUEUE_ACTIVATION_POLL_S": "0.5",
            "SKYDRIVER_EWMS_UNKNOWN_OUTCOME_WAIT_S": "20",
        }
    else:
        # EWMS is shared, and no two installations may have the same name
        bridge["SKYDRIVER_INSTANCE"] = f"local-{hashlib.sha256(client_secret.encode()).hexdigest()[:12]}"
    return {
        "api": {"SKYDRIVER_USER_ENV_ALLOW": "SKYSCAN_*"},  # scanners are processes of this machine
        "dispatcher": {
            "SKYDRIVER_LAUNCH_INTERVAL_S": "0",
            "SKYDRIVER_SCANNER_PROGRESS_INTERVAL_S": "1",
            "SKYDRIVER_SCANNER_RESULT_INTERVAL_S": "5",
            "SKYDRIVER_SCANNER_KILL_SWITCH_INTERVAL_S": "10",
            **({"SKYDRIVER_SCANNER_BUS_URL": servers.scanner_bus_url} if servers.scanner_bus_url else {}),
        },
        "ewms_bridge": bridge,
    }


def _fixed_settings(data_dir: Path, ports: Mapping[str, int], url: str) -> dict[str, dict[str, str]]:
    """Return service to the settings that cannot be chosen: they follow from keys, ports and directories created here."""
    signing_key = key_file(data_dir)
    jwks = {"SKYDRIVER_AUTH_JWKS_FILE": str(signing_key.with_name(JWKS_NAME))}
    auth = {"SKYDRIVER_AUTH_ISSUER": ISSUER, "SKYDRIVER_AUTH_AUDIENCE": AUDIENCE}
    work = {"SKYDRIVER_WORK_DIR": str(data_dir / "work")}
    return {
        "api": auth | jwks | {"SKYDRIVER_HTTP_HOST": LOOPBACK, "SKYDRIVER_HTTP_PORT": str(ports["http"])},
        "dispatcher": auth | work | {"SKYDRIVER_PUBLIC_URL": url, "SKYDRIVER_SCAN_TOKEN_KEY_FILE": str(signing_key)},
        "progress": auth | jwks,
        "ewms_bridge": work,
    }


def _partner_addresses(options: Options, servers: ServerAddresses, given: Given, bridge: Mapping[str, str]) -> dict[str, str]:
    """Return the systems that this one works with, to their address without credentials and where it comes from."""

    def source_of(setting: str, embedded: str = "embedded") -> str:
        return embedded if given.get(setting) is None else f"SKYDRIVER_{setting}"

    addresses = {
        "database": f"{without_credentials(servers.database_url)} ({source_of('DATABASE_URL')})",
        "broker": f"{without_credentials(servers.amqp_url)} ({source_of('AMQP_URL')})",
    }
    if not options.sandbox and given.get("EWMS_URL") is None:
        return addresses | {"EWMS": "none: SKYDRIVER_EWMS_URL is not set, and scans get no workers"}
    return addresses | {
        "EWMS": f"{without_credentials(bridge['SKYDRIVER_EWMS_URL'])} ({source_of('EWMS_URL', 'stand-in')})",
        "object store": f"{without_credentials(given.get('S3_URL') or bridge['SKYDRIVER_S3_URL'])} ({source_of('S3_URL', 'stand-in')})",
    }


def _stop_limit_s(given: Given) -> float:
    """Return how long services may take to stop: at least as long as they wait for running work."""
    try:
        return max(STOP_LIMIT_S, float(given.get("SHUTDOWN_GRACE_S") or 0))
    except ValueError:  # the services reject the value and name it
        return STOP_LIMIT_S


def process_names(service: str, options: Options) -> list[str]:
    """Return the names of a service's processes: ``progress``, ``progress-2`` …"""
    return [service, *(f"{service}-{number}" for number in range(2, options.replicas.get(service, 1) + 1))]


def _sandbox_component(
    options: Options, ports: dict[str, int], inherited: Mapping[str, str], amqp_url: str, client_secret: str, s3_secret: str
) -> Component:
    base = f"http://{LOOPBACK}:{ports['ewms']}"
    environment = dict(inherited) | {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_")}
    return Component(
        "sandbox",
        [
            sys.executable, "-m", "skydriver_sandbox.ewms", "--port", str(ports["ewms"]),
            "--data-dir", str(options.data_dir / "sandbox"), "--max-local-workers", str(options.workers),
        ],
        environment
        | {
            "SANDBOX_AMQP_URL": amqp_url,
            "SANDBOX_CLIENT_ID": "skydriver",
            "SANDBOX_CLIENT_SECRET": client_secret,
            "SANDBOX_S3_KEY_ID": "skydriver",
            "SANDBOX_S3_SECRET": s3_secret,
            "SANDBOX_ADMIN_TOKEN": load_or_create_secret(options.data_dir / "keys" / "sandbox_admin"),
        },
        f"{base}/healthz",
    )  # fmt: skip


def key_file(data_dir: Path) -> Path:
    """Return the private key that signs this system's tokens."""
    return data_dir / "keys" / "key.pem"
