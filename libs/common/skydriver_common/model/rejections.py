"""What a decision answers when it says no, and the reply that goes back to the one who asked."""

from dataclasses import dataclass
from enum import StrEnum

from skydriver_common.faults import TryLater


class Code(StrEnum):
    """Why a command was refused: says what is so, not what failed. Stored and sent; never renamed."""

    SCAN_UNKNOWN = "scan-unknown"
    REQUEST_UNKNOWN = "request-unknown"
    EVENT_UNKNOWN = "event-unknown"
    METADATA_IS_SET = "metadata-is-set"
    SCAN_IS_COMPLETE = "scan-is-complete"
    SCAN_HAS_FINAL_RESULT = "scan-has-final-result"
    SCAN_IS_DELETED = "scan-is-deleted"
    WORKFLOW_IS_MISSING = "workflow-is-missing"
    WORKFLOW_IS_SET = "workflow-is-set"
    WORKFLOW_NOT_WANTED = "workflow-not-wanted"
    WORKFLOW_HAS_ENDED = "workflow-has-ended"
    TOO_MANY_WORKERS = "too-many-workers"
    TOO_MANY_DEBUG_WORKERS = "too-many-debug-workers"
    CLUSTER_REFUSED = "cluster-refused"
    EWMS_FAILED = "ewms-failed"
    KEY_WAS_USED = "idempotency-key-was-used"


def code_of(text: object) -> Code | None:
    """The code that was stored or sent, None for none. Raises TryLater for one of a newer release: a replica of that can tell it."""
    if not text:
        return None
    try:
        return Code(str(text))
    except ValueError as error:
        raise TryLater("a newer release refused this for a reason that this one does not know", 5.0) from error


@dataclass(frozen=True, slots=True)
class Rejection:
    """A decision's no: a code for machines, a reason for people, the fields it is about (dotted paths)."""

    code: Code
    reason: str
    fields: tuple[str, ...] = ()


def scan_not_found(scan_id: str) -> Rejection:
    """The rejection of a command for an unknown scan."""
    return Rejection(Code.SCAN_UNKNOWN, f"scan {scan_id} not found")


@dataclass(frozen=True, slots=True)
class Reply:
    """The recorded answer to a command: either done with a JSON body, or refused with a code and a reason.

    body: JSON bytes for the caller, exactly as HTTP will send them; empty when refused.
    """

    body: bytes = b"{}"
    code: Code | None = None
    reason: str = ""

    @classmethod
    def refused(cls, rejection: Rejection) -> "Reply":
        return cls(body=b"", code=rejection.code, reason=rejection.reason)

    @property
    def is_done(self) -> bool:
        return self.code is None
