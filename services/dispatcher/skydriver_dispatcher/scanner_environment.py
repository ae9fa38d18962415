"""The scanner server's environment. Source: REST contract 9.3, ours last: a user can't override it."""

from typing import Any

from skydriver_common.model.scan import Scan
from skydriver_dispatcher.bus_environment import BUS_NAME, SPOOL_NAME

TOKEN_NAME = "SKYSCAN_SKYDRIVER_AUTH"  # noqa: S105  (the variable, not its value)
ADDRESS_NAME, SCAN_ID_NAME, PROFILE_NAME = "SKYSCAN_SKYDRIVER_ADDRESS", "SKYSCAN_SKYDRIVER_SCAN_ID", "SKYSCAN_EWMS_JSON"
RESERVED = frozenset({TOKEN_NAME, ADDRESS_NAME, SCAN_ID_NAME, PROFILE_NAME, BUS_NAME, SPOOL_NAME})


def scanner_environment(
    scan: Scan,
    *,
    address: str,
    profile_path: str,
    bus: dict[str, str],
    forwarded: dict[str, str | float | None],
    base: dict[str, str] | None = None,
) -> dict[str, str]:
    """Variables of one scanner server, all but its token.

    profile_path: where ``ewms.json`` will be. bus: from ``bus_environment``. base: what any process here needs (PATH …).
    forwarded: from the service's settings, seconds as numbers, None = the scanner's default.
    """
    wanted = scan.request["scanner_server_env_from_user"]
    return (
        (base or {})
        | {"SKYSCAN_EWMS_PILOT_LOG": "WARNING", "SKYSCAN_MQ_CLIENT_LOG": "WARNING"}
        | {name: value if isinstance(value, str) else f"{value:g}" for name, value in forwarded.items() if value is not None}
        | {name: _text(value) for name, value in wanted.items() if value is not None and name not in RESERVED}
        | {PROFILE_NAME: profile_path, ADDRESS_NAME: address, SCAN_ID_NAME: scan.scan_id}
        | bus
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
