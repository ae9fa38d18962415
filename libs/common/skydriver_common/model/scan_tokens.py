"""How long the token of one scan is good, over REST and on the bus alike: pure."""

from skydriver_common.model.progress_report import is_finished
from skydriver_common.model.scan import Scan

GRACE_S = 3900.0
"""How long after a scan's end its token stays good, unless set: a scanner tries its last report, which follows the final result,
for up to an hour. Source: REST contract 2.2."""


def is_long_ago(ended_at: float | None, now: float, grace_s: float) -> bool:
    """Whether a scan that ended then has ended for its token too; None: it has not ended. Unix seconds."""
    return ended_at is not None and now > ended_at + grace_s


def token_has_ended(scan: Scan, now: float, grace_s: float) -> bool:
    """Whether the scan's token is good no more: the scan ended (final result, deletion, failure) longer than this ago.

    The time between is for the last report after the final result, and for scanners that are just being stopped.
    """
    return is_long_ago(scan.scanner.ended_at, now, grace_s)


def is_last_word(scan: Scan, producer: str, sequence: int) -> bool:
    """Whether a progress report is still expected after the final result: the sender's own next one, until the scan shows as finished.

    It was sent in time, and has waited for us. A replay can't have such a number.
    """
    if scan.result is None or not scan.has_final_result or scan.is_deleted or _is_finished(scan):
        return False
    known = [
        last
        for who, last in ((scan.producer, scan.sequence), (scan.result.producer, scan.result.sequence))
        if producer and who == producer
    ]
    return bool(known) and sequence > max(known)


def _is_finished(scan: Scan) -> bool:
    return is_finished(scan.progress)
