"""The scanner server's environment. Source: REST contract 9.3, ours last: a user can't override it."""

from skydriver_common.model import scanner_variables as variables
from skydriver_common.model.scan import Scan
from skydriver_common.model.steering_variables import UserVariables

_ANY = UserVariables()


def scanner_environment(
    scan: Scan,
    *,
    address: str,
    profile_path: str,
    working_dir: str,
    bus: dict[str, str],
    forwarded: dict[str, str | int | None],
    base: dict[str, str] | None = None,
    allowed: UserVariables = _ANY,
) -> dict[str, str]:
    """Variables of one scanner server, all but its token.

    profile_path: where ``ewms.json`` will be. working_dir: writable, of this scan alone; the process starts in it. bus: from
    ``bus_environment``. base: what any process here needs (PATH …). forwarded: from the service's settings, None = the scanner's
    default. allowed: what a user may set here; checked again, since the request may be older than the setting.
    """
    wanted = scan.request["scanner_server_env_from_user"]
    return (
        (base or {})
        | {variables.PILOT_LOG: "WARNING", variables.MQ_LOG: "WARNING"}
        | {name: str(value) for name, value in forwarded.items() if value is not None}
        | {
            name: variables.text_of(value)
            for name, value in wanted.items()
            if value is not None and name not in variables.RESERVED and allowed.allows(name)
        }
        | variables.directories(working_dir)
        | {variables.PROFILE: profile_path, variables.ADDRESS: address, variables.SCAN_ID: scan.scan_id}
        | bus
    )
