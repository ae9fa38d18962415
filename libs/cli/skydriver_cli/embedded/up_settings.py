"""Which variables of the environment ``skydriver up`` gives to which service, and which it sets itself.

Nothing is ignored silently: a variable reaches every service that reads it, or is an error that names it, or a warning when no
part of the system knows it. Reads the settings classes for their names; starts nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from skydriver_cli.errors import Problem
from skydriver_cli.settings_page import names_by_service
from skydriver_common.runtime.settings import CLIENT_NAMES, KNOWN_NAMES, OLD_NAMES, PREFIX, contradictions, warnings_about

_KEYS = "`up` makes keys and tokens itself, in DATA_DIR/keys"
_PROCESSES = "`up` starts scanners as processes of this machine"
_LOOPBACK = "`up` serves on 127.0.0.1"
_PORTS = "`up` chooses the ports"
_SET_BY_UP: dict[str, tuple[str, str]] = {
    "HTTP_HOST": ("127.0.0.1", _LOOPBACK),
    "HTTP_PORT": ("", "use --http-port"),
    "HEALTH_HOST": ("127.0.0.1", _LOOPBACK),
    "HEALTH_PORT": ("", _PORTS),
    "PUBLIC_URL": ("", "it is the address of the gateway that `up` starts; use --http-port for its port"),
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
"""Name to the only value that may be given, if any, and what to do instead."""

_PARTNER = ("EWMS_ISSUER", "EWMS_CLIENT_ID", "EWMS_CLIENT_SECRET", "S3_URL", "S3_KEY_ID", "S3_SECRET")
"""What a real EWMS and its object store need beside ``EWMS_URL``."""
_OF_THE_STAND_IN = (*_PARTNER, "S3_BUCKET", "S3_REGION")


@dataclass(frozen=True, slots=True)
class Given:
    """What the environment gives to the services. by_service: service to variables with their values. warnings: for a person."""

    by_service: Mapping[str, Mapping[str, str]]
    warnings: tuple[str, ...]

    def get(self, name: str) -> str | None:
        """Return the value of a setting, by its name without the prefix, or None when it is not set."""
        values = (variables.get(PREFIX + name) for variables in self.by_service.values())
        return next((value for value in values if value is not None), None)


def given_settings(environ: Mapping[str, str], *, has_sandbox: bool) -> Given:
    """Sort the variables of ``up`` by the services that read them.

    An empty variable counts as not set, as in the services. Raises Problem that names every variable that cannot be used, and every
    one that is missing.
    """
    given = {name.upper(): value for name, value in environ.items() if name.upper().startswith(PREFIX) and value}
    found = {OLD_NAMES.get(name, name): value for name, value in given.items()}
    readers = names_by_service()
    problems = [
        *contradictions(given, KNOWN_NAMES),
        *_set_by_up(found),
        *_without_reader(found, frozenset().union(*readers.values())),
        *_partners(found, has_sandbox=has_sandbox),
    ]
    if problems:
        raise Problem("; ".join(problems), "`skydriver settings` lists what can be set")
    return Given(
        {service: {name: found[name] for name in sorted(names & found.keys())} for service, names in readers.items()},
        tuple(warnings_about(environ, KNOWN_NAMES)),
    )


def _set_by_up(found: Mapping[str, str]) -> Iterable[str]:
    for name, (allowed, instead) in _SET_BY_UP.items():
        if found.get(PREFIX + name, allowed) != allowed:
            yield f"{PREFIX}{name}: cannot be given to `up`: {instead}"


def _without_reader(found: Mapping[str, str], read: frozenset[str]) -> Iterable[str]:
    for name in sorted((found.keys() & KNOWN_NAMES) - read - CLIENT_NAMES):
        yield f"{name}: is read by none of the services that `up` starts"


def _partners(found: Mapping[str, str], *, has_sandbox: bool) -> Iterable[str]:
    has_address = f"{PREFIX}EWMS_URL" in found
    if has_address and not has_sandbox:
        missing = [name for name in _PARTNER if PREFIX + name not in found]
        yield from (f"{PREFIX}{name}: is not set ({PREFIX}EWMS_URL names an EWMS)" for name in missing)
    elif not has_address:
        needless = [name for name in _OF_THE_STAND_IN if PREFIX + name in found]
        why = "`up` sets it for its stand-in EWMS; to use a real one give" if has_sandbox else "is of no use without"
        more = " and --no-sandbox" if has_sandbox else ""
        yield from (f"{PREFIX}{name}: {why} {PREFIX}EWMS_URL{more}" for name in needless)


def place(url: str) -> str:
    """Return an address without user, password and query, fit to be printed."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")
