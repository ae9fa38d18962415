"""A message of the scanners' exchange on its way through this service: as it was received, opened, parsed, accepted or rejected."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from skydriver_common.model.commands import Context, PatchManifest
from skydriver_common.model.ids import ScanId
from skydriver_common.model.progress_report import ProgressReport, is_finished
from skydriver_progress.messages import Envelope, Skymap, parse
from skydriver_progress.reports import ReportRejection, ScannerReport
from skydriver_scanner.protocol import PROGRESS

_FINISHED_KEY, _ESCAPE = b'"finished"', b"\\u00"
_FINISHED = re.compile(_FINISHED_KEY + rb"\s*:\s*true")


@dataclass(slots=True, eq=False)
class ReceivedMessage:
    """A message as the broker delivered it.

    size: bytes of its body as sent; a body that is too large is cut at once. failed_at: when a message that was redriven from the
    dead letters failed first, in Unix seconds (0.0: unknown); None: it was not redriven.
    """

    key: str
    headers: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    content_encoding: str | None
    message_id: str | None
    correlation_id: str | None
    size: int
    tag: int
    failed_at: float | None = None

    @property
    def is_redriven(self) -> bool:
        """Whether an operator has sent it back from the dead letters."""
        return self.failed_at is not None


@dataclass(slots=True, eq=False)
class IncomingReport:
    """A message that is being handled. It gets an envelope and a report, or a rejection.

    envelope: set once its headers are accepted. report: set once its body is parsed, which may be after the decision began.
    trace: the traceback, when handling it met a bug. skymap: its content, in case that it has to be stored again.
    """

    message: ReceivedMessage
    kind: str
    scan_id: ScanId | None
    envelope: Envelope | None = None
    report: ScannerReport | None = None
    context: Context | None = None
    rejection: ReportRejection | None = None
    trace: str = ""
    skymap: bytes | None = field(default=None, repr=False)

    @property
    def producer(self) -> str:
        """The process that sent it; empty when its headers were rejected."""
        return self.envelope.producer if self.envelope is not None else ""

    @property
    def sequence(self) -> int:
        """Its number among the messages of its producer; -1 when its headers were rejected."""
        return self.envelope.sequence if self.envelope is not None else -1

    def parsed_report(self) -> ScannerReport | None:
        """Return the report, parsing it now if it was not needed before. None: it is rejected, or has no content."""
        if self.report is None and self.rejection is None and self.envelope is not None and self.kind == PROGRESS:
            parsed = parse(self.envelope)
            if isinstance(parsed, ReportRejection):
                self.rejection = parsed
            elif not isinstance(parsed, Skymap):
                self.report = parsed
        return None if self.rejection is not None else self.report

    def is_finished(self) -> bool:
        """Whether it is a progress report that says finished. It is parsed only if its bytes may say so."""
        if self.kind != PROGRESS or self.envelope is None or not _may_say_finished(self.envelope.plain):
            return False
        report = self.parsed_report()
        return isinstance(report, PatchManifest) and is_finished(cast(ProgressReport | None, report.progress))


def _may_say_finished(plain: bytes) -> bool:
    """Whether a report with these bytes may say finished. A search by regex alone is 15 times slower."""
    if _ESCAPE in plain:  # the key may be written with escapes
        return True
    position = plain.find(_FINISHED_KEY)
    while position >= 0:
        if _FINISHED.match(plain, position):
            return True
        position = plain.find(_FINISHED_KEY, position + 1)
    return False
