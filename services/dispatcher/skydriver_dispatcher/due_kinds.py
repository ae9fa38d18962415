"""The kinds of due work of the dispatcher, as rows of ``due_work`` store them: never renamed."""

from enum import StrEnum


class DueKind(StrEnum):
    """Each is done by consumers of its own, see ``main.py``."""

    LAUNCH = "launch"
    """Start a waiting scan's scanner server. The statements of the throttle know it by this name."""
    STOP = "stop"
    """End the scanner server of a scan that must not run."""
    RELAUNCH = "relaunch"
    """Start a scanner server again that was taken away."""
    END = "scanner-end"
    """Judge the end of a scanner server, some time after it."""
    CHECK = "scanner-check"
    """Give a scan up unless what held its scanner server up is over by now."""
