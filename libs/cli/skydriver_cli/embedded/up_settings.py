"""Which variables of the environment ``skydriver up`` gives to which service, and which it sets itself.

Nothing is ignored silently: a variable reaches every service that reads it, or is an error that names it, or a warning when no
part of the system knows it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from skydriver_cli.errors import CliError
from skydriver_cli.services import setting_names
from skydriver_common.runtime.settings import CLIENT_NAMES, KNOWN_NAMES, OLD_NAMES, PREFIX, contradictions, warnings_about

_KEYS = "`up` creates keys and tokens itself, in DATA_DIR/keys"
_PROCESSES = "`up` starts scanners as processes on this machine"
_LOOPBACK = "`up` serves on 127.0.0.1"
_PORTS = "`up` chooses the ports"
_SET_BY_UP: dict[str, tuple[str, str]] = {
    "HTTP_HOST": ("127.0.0.1", _LOOPBACK),
    "HTTP_PORT": ("", "use --http-port"),
    "HEALTH_HOST": ("127.0.0.1", _LOOPBACK),
    "HEALTH_PORT": ("", _PORTS),
    "PUBLIC_URL": ("", "it is the address of the gateway that `up` starts; choose the port with --http-port"),
    "REPLICA": ("", "`up` names its processes; use --replicas"),
    "WORK_DIR": ("", "it is DATA_DIR/work; use --data-dir"),
    "LAUNCHER": ("local", _PROCESSES),
    "CREDENTIAL_DELIVERY": ("files", _PROCESSES),
    "AUTH_ISSUER": ("skydriver-local", _KEYS),
    "AUTH_AUDIENCE": ("skydriver", _KEYS),
    "AUTH_JWKS_FILE": ("", _KEYS),
    "AUTH_USER_CLAIM": ("", _KEYS),
    "AUTH_SYSTEM_CLAIM": ("", _KEYS),
    "SCAN_TOKEN_ISSUER": ("", _KEYS),
    "SCAN_TOKEN_JWKS_FILE": ("", _KEYS),
    "SCAN_TOKEN_KEY_FILE": ("", _KEYS),
}
"""Name to the only value that may be set, if any, and what to do instead."""

_PARTNER_SETTINGS = ("EWMS_ISSUER", "EWMS_CLIENT_ID", "EWMS_CLIENT_SECRET", "S3_URL", "S3_KEY_ID", "S3_SECRET")
"""What a real EWMS and its object store require in addition to ``EWMS_URL``."""
_STAND_IN_SETTINGS = (*_PARTNER_SETTINGS, "S3_BUCKET", "S3_REGION")


@dataclass(frozen=True, slots=True)
class Given:
    """What the environment sets. by_service: service to variables with their values. warnings: lines for the user."""

    by_service: Mapping[str, Mapping[str, str]]
    warnings: tuple[str, ...]

    def get(self, name: str) -> str | None:
        """Return the value of a setting, by its name without the prefix, or None when it is not set."""
        values = (variables.get(PREFIX + name) for variables in self.by_service.values())
        return next((value for value in values if value is not None), None)


def given_settings(environ: Mapping[str, str], *, has_sandbox: bool) -> Given:
    """Sort the variables of ``up`` by the services that read them.

    An empty variable counts as not set, as in the services. Raises CliError that names every variable that can't be used, and every
    missing one.
    """
    given = {name.upper(): value for name, value in environ.items() if name.upper().startswith(PREFIX) and value}
    found = {OLD_NAMES.get(name, name): value for name, value in given.items()}
    readers = setting_names()
    problems = [
        *contradictions(given, KNOWN_NAMES),
        *_set_by_up(found),
        *_without_reader(found, frozenset().union(*readers.values())),
        *_partners(found, has_sandbox=has_sandbox),
    ]
    if problems:
        raise CliError("; ".join(problems), "`skydriver settings` lists all settings")
    return Given(
        {service: {name: found[name] for name in sorted(names & found.keys())} for service, names in readers.items()},
        tuple(warnings_about(environ, KNOWN_NAMES)),
    )


def _set_by_up(found: Mapping[str, str]) -> Iterable[str]:
    for name, (allowed, instead) in _SET_BY_UP.items():
        if found.get(PREFIX + name, allowed) != allowed:
            yield f"{PREFIX}{name}: can't be set for `up`: {instead}"


def _without_reader(found: Mapping[str, str], read: frozenset[str]) -> Iterable[str]:
    for name in sorted((found.keys() & KNOWN_NAMES) - read - CLIENT_NAMES):
        yield f"{name}: not read by any service that `up` starts"


def _partners(found: Mapping[str, str], *, has_sandbox: bool) -> Iterable[str]:
    has_url = f"{PREFIX}EWMS_URL" in found
    if has_url and not has_sandbox:
        missing = [name for name in _PARTNER_SETTINGS if PREFIX + name not in found]
        yield from (f"{PREFIX}{name}: required with {PREFIX}EWMS_URL, but not set" for name in missing)
    elif not has_url:
        unused = [name for name in _STAND_IN_SETTINGS if PREFIX + name in found]
        why = "`up` sets it for the EWMS stand-in; for a real EWMS also set" if has_sandbox else "has no effect without"
        option = " and give --no-sandbox" if has_sandbox else ""
        yield from (f"{PREFIX}{name}: {why} {PREFIX}EWMS_URL{option}" for name in unused)


def without_credentials(url: str) -> str:
    """Return an address that may be printed: without user, password and query."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")
