"""The services, which this package starts and never imports: it asks their processes what they read and consume."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

from skydriver_cli.errors import CliError

SERVICES = {
    "api": "skydriver_api",
    "dispatcher": "skydriver_dispatcher",
    "progress": "skydriver_progress",
    "ewms_bridge": "skydriver_ewms_bridge",
}
"""Service to the package that ``python -m`` runs."""
REPLICABLE_SERVICES = ("api", "progress", "ewms_bridge")
"""Services that may run as several processes on one machine. The local launcher of the dispatcher needs a work directory of its own."""
CONSUMING_SERVICES = ("dispatcher", "ewms_bridge", "progress")
"""Services that consume messages of the bus."""

_TIMEOUT_S = 60.0


def service_settings() -> dict[str, dict[str, Any]]:
    """Return service to what its ``settings`` command prints: ``settings`` and ``names``. Raises CliError."""
    return _ask(tuple(SERVICES), "settings")


def service_consumers() -> dict[str, dict[str, Any]]:
    """Return service to the AsyncAPI document of what it consumes. Raises CliError."""
    return _ask(CONSUMING_SERVICES, "asyncapi")


def setting_names() -> dict[str, frozenset[str]]:
    """Return service to the variables it reads, those that all services read included. Raises CliError."""
    return {service: frozenset(listing["names"]) for service, listing in service_settings().items()}


@cache
def _ask(services: tuple[str, ...], what: str) -> dict[str, Any]:
    """Run ``python -m PACKAGE what`` for all services at once; service to the JSON that it printed."""
    processes = {
        service: subprocess.Popen(
            [sys.executable, "-m", SERVICES[service], what], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for service in services
    }  # fmt: skip
    try:
        return {service: _answer(service, process, what) for service, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def _answer(service: str, process: "subprocess.Popen[str]", what: str) -> Any:
    package = SERVICES[service]
    try:
        printed, errors = process.communicate(timeout=_TIMEOUT_S)
        if process.returncode == 0:
            return json.loads(printed)
        reason = next(iter(errors.strip().splitlines()[-1:]), f"exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        reason = f"no response within {_TIMEOUT_S:g} s"
    except ValueError:
        reason = "its output is not JSON"
    raise CliError(f"can't list the {what} of {service}: {reason}", f"Try `python -m {package} {what}`")
