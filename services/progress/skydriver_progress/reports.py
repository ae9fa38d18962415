"""What a scanner says, as this service carries it: the reports, and why one was rejected. Values only."""

from dataclasses import dataclass
from enum import StrEnum

from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailure:
    """A scanner reports that it failed; on the bus only. log_tail: the last lines it wrote."""

    scan_id: ScanId
    reason: str
    log_tail: str = ""
    producer: str = ""
    sequence: int = 0


ScannerReport = PatchManifest | PutResult | ReportFailure


class ReportCode(StrEnum):
    """Why a message on the bus was rejected before anything was decided, or without a decision. Stored and sent; never renamed."""

    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    TOKEN_INVALID = "token-invalid"  # noqa: S105  (a code)
    TOKEN_FOREIGN = "token-foreign"  # noqa: S105  (a code)
    TOKEN_ENDED = "token-ended"  # noqa: S105  (a code)
    SCAN_UNKNOWN = "scan-unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ReportRejection:
    """Why a message on the bus is not accepted. code: for programs; reason: for people, without values of the message."""

    code: ReportCode | Code
    reason: str
