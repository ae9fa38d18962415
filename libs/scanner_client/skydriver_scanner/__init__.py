"""What a scanner server needs to talk to SkyDriver, and nothing else: importable without any other package of ours.

``wire`` alone needs the standard library only, so the session is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skydriver_scanner.errors import (
        CallFailed,
        LeftMessage,
        NotDelivered,
        ScannerProblem,
        ScanStopped,
        SettingsProblem,
        SpoolFull,
    )
    from skydriver_scanner.session import AsyncScannerSession, ScannerSession
    from skydriver_scanner.settings import SessionSettings
    from skydriver_scanner.stops import Stop
    from skydriver_scanner.wire import MessageRefused

_PLACES = {
    "AsyncScannerSession": "session",
    "CallFailed": "errors",
    "LeftMessage": "errors",
    "MessageRefused": "wire",
    "NotDelivered": "errors",
    "ScanStopped": "errors",
    "ScannerProblem": "errors",
    "ScannerSession": "session",
    "SessionSettings": "settings",
    "SettingsProblem": "errors",
    "SpoolFull": "errors",
    "Stop": "stops",
}
__all__ = [
    "AsyncScannerSession",
    "CallFailed",
    "LeftMessage",
    "MessageRefused",
    "NotDelivered",
    "ScanStopped",
    "ScannerProblem",
    "ScannerSession",
    "SessionSettings",
    "SettingsProblem",
    "SpoolFull",
    "Stop",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"skydriver_scanner.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
