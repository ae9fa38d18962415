"""The kinds of due work of progress, as rows of ``due_work`` store them: never renamed."""

from enum import StrEnum


class DueKind(StrEnum):
    """Each is done by a consumer of its own, see ``main.py``."""

    COMPACT = "progress.compact"
    """Remove the content of a scan's superseded reports and partial skymaps."""
    SILENCE = "progress.silence"
    """See whether a scan's scanner server has not reported for too long."""
    HOUSEKEEPING = "progress.housekeeping"
    """Once a day: delete old recorded replies and blobs that nothing refers to."""
    SHORT_REPLIES = "progress.short-replies"
    """Every few minutes: delete recorded replies that nobody can ask for again."""
