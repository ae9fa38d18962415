"""The kinds of due work of the EWMS bridge, as rows of ``due_work`` store them: never renamed."""

from enum import StrEnum


class DueKind(StrEnum):
    """Each is done by consumers of its own, see ``main.py``."""

    ASSIGN = "ewms-assign"
    """Make, or find, the workflow of a launched scan."""
    DUPLICATES = "ewms-duplicates"
    """Check again whether a request whose response was lost has made a second workflow."""
    QUEUES = "ewms-queues"
    """Wait for the queues and deliver their credentials."""
    STOP = "ewms-stop"
    """Stop the workflow, until EWMS shows it stopped."""
    STOP_VERIFICATION = "ewms-aftermath"
    """Check again whether workers of a stopped workflow have come back."""
    ADDITIONS = "ewms-additions"
    """Find out what became of requests for workers whose response was lost."""
    STARTUP = "ewms-startup"
    """See whether the scanner has uploaded what its workers need to begin."""
    TOKENS = "ewms-tokens"
    """Report in time that the queues' tokens expire."""
    REPLACEMENT = "ewms-top-up"
    """Replace workers that have ended, where that is wanted."""


NEEDS_NO_EWMS = frozenset({DueKind.STARTUP, DueKind.TOKENS})
"""Done also while EWMS is unavailable."""
WORKFORCE = "ewms-workforce"
"""No kind of due work: the name under which the loop that refreshes worker counts is woken."""
