"""In which order EWMS is asked when much is due at once, as after an outage."""

from skydriver_common.model.priorities import URGENT_PRIORITY


def urgency_of(*, starts_a_scan: bool, stops_workers: bool, counts_workers: bool, priority: int) -> tuple[int, int]:
    """(class, minus priority), the smaller first.

    0: an alert that waits for its workers, or a user who waits for an answer. 1: workers that cost money for nothing. 2: other
    scans that wait for workers. 3: how the workers do. 4: what is only looked after.
    """
    if starts_a_scan:
        return (0 if priority >= URGENT_PRIORITY else 2), -priority
    if stops_workers:
        return 1, -priority
    return (3 if counts_workers else 4), -priority
