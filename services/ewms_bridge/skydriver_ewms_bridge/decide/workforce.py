"""What a scan's workers are doing, from its taskforces. Source: REST contract 8.6, EWMS contract 10."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from skydriver_ewms_bridge.decide.workforce_problems import HELD, OVER, Problem, is_ended, is_submission_given_up, problems_of
from skydriver_ewms_bridge.ewms_types import Taskforce

RUNNING = "RUNNING"
IDLE = "IDLE"
MOST_ERRORS = 500
"""Different error texts that are kept: each taskforce has ten, and each may be a traceback that names its own machine."""
MOST_STATUSES = 200
OTHER_REASONS = "HELD: other reasons"
NOT_RUNNING = frozenset({"FatalError", "Done"})
"""Pilot states of a job that runs without working: sleeping in quarantine, or about to leave."""


@dataclass(frozen=True, slots=True)
class Workforce:
    """The workers of one scan, summed over its taskforces.

    statuses, n_running, top_errors: exactly as REST contract 8.6 defines them. The others are for the scan's status:
    n_requested: workers asked for. n_unsubmitted: those of them no pool has taken yet. n_idle: waiting in a pool. n_alive: jobs
    that have not ended, running, waiting or held. n_over: jobs that have.
    has_ended: every taskforce is over, so none of them will ever run again. is_complete: all that EWMS reported could be read.
    at_hand: task id to its workers that run, wait, are held or are on their way to a pool.
    """

    statuses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    n_running: int = 0
    top_errors: Mapping[str, int] = field(default_factory=dict)
    n_requested: int = 0
    n_unsubmitted: int = 0
    n_idle: int = 0
    n_alive: int = 0
    n_over: int = 0
    n_taskforces: int = 0
    has_ended: bool = False
    is_complete: bool = True
    at_hand: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


class WorkforceFold:
    """Sums taskforces one by one, so that a page can be forgotten once it is folded.

    Its size does not depend on the number of taskforces: of very many different texts the rarer errors are dropped, and the reasons
    of held jobs are summed up.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, dict[str, int]] = {}
        self._top_errors: dict[str, int] = {}
        self._at_hand: dict[str, int] = {}
        self._n_requested = self._n_unsubmitted = self._n_given_up = self._n_taskforces = self._n_ended = 0
        self._n_unreadable = 0

    def add_unreadable(self) -> None:
        """Something about this workflow's workers could not be read, so they are not all counted."""
        self._n_unreadable += 1

    def add(self, taskforce: Taskforce) -> None:
        """Count one taskforce in."""
        for status, counts in taskforce.statuses.items():
            if status.startswith(HELD) and status not in self._statuses and len(self._statuses) >= MOST_STATUSES:
                status = OTHER_REASONS
            into = self._statuses.setdefault(status, {})
            for pilot_status, n in counts.items():
                into[pilot_status] = into.get(pilot_status, 0) + n
        for text, n in taskforce.top_errors.items():
            self._top_errors[text] = self._top_errors.get(text, 0) + n
        if len(self._top_errors) > 2 * MOST_ERRORS:
            self._top_errors = _most_common(self._top_errors)
        ended, is_given_up = is_ended(taskforce), is_submission_given_up(taskforce)
        self._n_taskforces += 1
        self._n_ended += ended
        self._n_requested += taskforce.n_workers
        if not taskforce.statuses and not ended:
            self._n_unsubmitted += taskforce.n_workers
        if is_given_up:
            self._n_given_up += taskforce.n_workers
        at_hand = sum(sum(counts.values()) for status, counts in taskforce.statuses.items() if status not in OVER)
        if not taskforce.statuses and not is_given_up:
            at_hand = taskforce.n_workers
        self._at_hand[taskforce.task_id] = self._at_hand.get(taskforce.task_id, 0) + (0 if ended else at_hand)

    def result(self) -> Workforce:
        """The sum so far."""
        running = self._statuses.get(RUNNING, {})
        n_running = sum(n for pilot_status, n in running.items() if pilot_status not in NOT_RUNNING)
        has_ended = self._n_taskforces > 0 and self._n_ended == self._n_taskforces and not self._n_unreadable
        return Workforce(
            statuses={status: dict(counts) for status, counts in self._statuses.items()},
            n_running=n_running,
            top_errors=_most_common(self._top_errors),
            n_requested=self._n_requested,
            n_unsubmitted=self._n_unsubmitted,
            n_idle=sum(self._statuses.get(IDLE, {}).values()),
            n_alive=sum(sum(counts.values()) for status, counts in self._statuses.items() if status not in OVER),
            n_over=sum(sum(counts.values()) for status, counts in self._statuses.items() if status in OVER),
            n_taskforces=self._n_taskforces,
            is_complete=not self._n_unreadable,
            has_ended=has_ended,
            at_hand=dict(self._at_hand),
            problems=problems_of(
                self._statuses,
                self._top_errors,
                n_given_up=self._n_given_up,
                has_ended=has_ended,
                n_unsubmitted=self._n_unsubmitted,
                n_unreadable=self._n_unreadable,
            ),
        )


def _most_common(errors: dict[str, int]) -> dict[str, int]:
    if len(errors) <= MOST_ERRORS:
        return dict(errors)
    return dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:MOST_ERRORS])


def aggregate(taskforces: Iterable[Taskforce]) -> Workforce:
    """The workforce of one workflow from its taskforces."""
    fold = WorkforceFold()
    for taskforce in taskforces:
        fold.add(taskforce)
    return fold.result()
