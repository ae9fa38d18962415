"""What a scanner server is told about the bus. Put it last into its environment: a user must not send the token elsewhere."""

from pydantic import SecretStr

from skydriver_common.model import scanner_variables


def bus_environment(bus_url: SecretStr | None, spool_dir: str) -> dict[str, str]:
    """Variables that `skydriver_scanner` reads beside the scan's id, address and token.

    bus_url: None = there is no bus for scanners; the variable is then empty, so that no other value reaches the scanner.
    A secret when it names a login, so only for processes of this machine.
    spool_dir: a folder that outlives a restart of the scanner; made when missing.
    """
    return {
        scanner_variables.BUS_URL: bus_url.get_secret_value() if bus_url is not None else "",
        scanner_variables.SPOOL_DIR: spool_dir,
    }
