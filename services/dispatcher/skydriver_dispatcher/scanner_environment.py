"""The scanner server's environment. Source: REST contract 9.3, ours last: a user can't override it."""

from pathlib import Path
from typing import Any

from skydriver_common.model.scan import Scan


def scanner_environment(
    scan: Scan, folder: Path, *, base: dict[str, str], address: str, token: str, intervals: dict[str, float | None]
) -> dict[str, str]:
    """Variables of one scanner server.

    base: what any process here needs (PATH …). folder: where ``ewms.json`` and the upload address will be put.
    intervals: variable name to seconds, None = the scanner's default.
    """
    return (
        base
        | {"SKYSCAN_EWMS_PILOT_LOG": "WARNING", "SKYSCAN_MQ_CLIENT_LOG": "WARNING"}
        | {name: f"{seconds:g}" for name, seconds in intervals.items() if seconds is not None}
        | {name: _text(value) for name, value in scan.request["scanner_server_env_from_user"].items() if value is not None}
        | {
            "SKYSCAN_EWMS_JSON": str(folder / "ewms.json"),
            "SKYSCAN_STARTUP_UPLOAD_JSON": str(folder / "startup-upload.json"),
            "SKYSCAN_SKYDRIVER_ADDRESS": address,
            "SKYSCAN_SKYDRIVER_AUTH": token,
            "SKYSCAN_SKYDRIVER_SCAN_ID": scan.scan_id,
        }
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
