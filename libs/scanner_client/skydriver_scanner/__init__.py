"""What a scanner server needs to talk to SkyDriver, and nothing else: importable without any other package of ours.

``protocol`` alone needs the standard library only, so the session is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skydriver_scanner.errors import (
        CallFailed,
        NotDelivered,
        ScannerError,
        ScanStopped,
        SettingsError,
        SpoolFull,
        UndeliveredMessage,
    )
    from skydriver_scanner.protocol import MessageRejected
    from skydriver_scanner.session import AsyncScannerSession, ScannerSession
    from skydriver_scanner.settings import SessionSettings
    from skydriver_scanner.stop_signals import StopSignal

_MODULES = {
    "AsyncScannerSession": "session",
    "CallFailed": "errors",
    "UndeliveredMessage": "errors",
    "MessageRejected": "protocol",
    "NotDelivered": "errors",
    "ScanStopped": "errors",
    "ScannerError": "errors",
    "ScannerSession": "session",
    "SessionSettings": "settings",
    "SettingsError": "errors",
    "SpoolFull": "errors",
    "StopSignal": "stop_signals",
}
_ALIASES = {
    "LeftMessage": "UndeliveredMessage",
    "MessageRefused": "MessageRejected",
    "ScannerProblem": "ScannerError",
    "SettingsProblem": "SettingsError",
    "Stop": "StopSignal",
}
"""Old public names. They stay importable from here: scanners outside use them."""

__all__ = [
    "AsyncScannerSession",
    "CallFailed",
    "MessageRejected",
    "NotDelivered",
    "ScanStopped",
    "ScannerError",
    "ScannerSession",
    "SessionSettings",
    "SettingsError",
    "SpoolFull",
    "StopSignal",
    "UndeliveredMessage",
]


def __getattr__(name: str) -> Any:
    name = _ALIASES.get(name, name)
    if name in _MODULES:
        return getattr(import_module(f"skydriver_scanner.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
