"""Recognises what goes wrong with a scan's workers, from what EWMS reports of them.

EWMS never restarts or tops up workers, so these are the signs that a scan cannot finish. Source: EWMS contract 9, 10.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from skydriver_common.model.problem_codes import ProblemCode
from skydriver_ewms_bridge.ewms_types import Statuses, Taskforce

SUBMISSION_TRIES = 3
SUBMITTED = "condor-submit"
WAITS_FOR_SUBMISSION = "pending-starter"
COMPLETE = "condor-complete"
STOPPING = frozenset({"pending-stopper", "condor-rm"})
OVER = frozenset({"COMPLETED", "REMOVED"})
HELD = "HELD"
NO_PILOT_YET = "null"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a scan's workers. text: one line for users, without EWMS's internals."""

    code: ProblemCode
    text: str


def is_ended(taskforce: Taskforce) -> bool:
    """Whether none of its workers will run any more.

    A taskforce stopped before it was submitted keeps its stopping phase forever: waiting for "complete" would never end.
    """
    return taskforce.phase == COMPLETE or (taskforce.phase in STOPPING and taskforce.cluster_id is None)


def is_submission_given_up(taskforce: Taskforce) -> bool:
    """Whether EWMS has tried three times to submit it and will not again; its phase alone does not show it."""
    if taskforce.phase != WAITS_FOR_SUBMISSION:
        return False
    failed = sum(1 for c in taskforce.phase_changes if c.target_phase == SUBMITTED and not c.was_successful)
    return failed >= SUBMISSION_TRIES


def problems_of(
    statuses: Statuses,
    top_errors: Mapping[str, int],
    *,
    n_given_up: int,
    has_ended: bool,
    n_unsubmitted: int,
    n_unreadable: int = 0,
) -> tuple[Problem, ...]:
    """What is wrong with one scan's workers, in the order of `ProblemCode`; empty while all is well.

    statuses, top_errors: summed over its taskforces. n_given_up: workers whose submission EWMS gave up. has_ended: every
    taskforce is over. n_unsubmitted: workers still on their way to a pool, which may yet do the work. n_unreadable: documents about
    its workers that could not be read; nothing is said of all workers then.
    Whether pixels remain is not known here: for a scan with its final result "all ended" is no problem.
    """
    found = []
    total = sum(sum(counts.values()) for counts in statuses.values())
    n_held = sum(sum(counts.values()) for status, counts in statuses.items() if status.startswith(HELD))
    n_over = sum(sum(counts.values()) for status, counts in statuses.items() if status in OVER)
    n_alive = total - n_held - n_over
    n_coming = n_unsubmitted - n_given_up
    if n_given_up:
        text = (
            f"EWMS failed to submit {n_given_up} workers {SUBMISSION_TRIES} times and will not retry. Add workers on another cluster, or "
            "rescan with less memory"
        )
        found.append(Problem(ProblemCode.SUBMISSION_FAILED, text))
    if n_unreadable:
        text = "what EWMS reports of some workers cannot be read; they are missing from the counts"
        return (*found, Problem(ProblemCode.WORKFORCE_UNREADABLE, text))
    if n_held and not n_alive and not n_coming:
        found.append(Problem(ProblemCode.ALL_WORKERS_HELD, f"all {n_held} workers are on hold in their pool"))
    if has_ended or (total and n_over == total and not n_coming):
        text = f"all workers have ended ({n_over} jobs) and EWMS does not replace them; add workers to continue"
        found.append(Problem(ProblemCode.ALL_WORKERS_ENDED, text))
    if (n_same := _same_error(statuses, top_errors)) is not None:
        text = f"all {n_same} workers that started reported the same error; adding workers will not help"
        found.append(Problem(ProblemCode.SAME_ERROR_EVERYWHERE, text))
    return tuple(found)


def _same_error(statuses: Statuses, top_errors: Mapping[str, int]) -> int | None:
    # EWMS counts jobs by their latest error, so a count that reaches the jobs that ever started means "everywhere".
    n_started = sum(n for counts in statuses.values() for pilot, n in counts.items() if pilot != NO_PILOT_YET)
    n_most = max(top_errors.values(), default=0)
    return n_most if n_started and n_most >= n_started else None
