"""How far a scan's launch and its scanner server are, as events and views store it."""

from enum import StrEnum
from typing import Self


class StoredText(StrEnum):
    """A text that is stored. One that only a newer release knows keeps its spelling, as a member outside the enumeration.

    So replicas of two releases read and write the same rows. Such a member equals none of those below.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = "OTHER", value
        return member


class LaunchState(StoredText):
    """How far the launch is."""

    QUEUED = "queued"
    """Not launched yet; it may have been tried."""
    LAUNCHED = "launched"
    ABANDONED = "abandoned"
    """Never launched; no further attempts are made."""
    FAILED = "failed"
    """The scanner server ended without a final result and is not started again."""


class ScannerStage(StoredText):
    """How far a launched scanner server is on its way to running."""

    UNKNOWN = ""
    """Nothing was observed of it yet, or it is a process of the launcher `local`."""
    PENDING = "pending"
    """It waits for a node of the Kubernetes cluster."""
    SCHEDULED = "scheduled"
    """It has a node; its container does not run yet."""
    RUNNING = "running"
