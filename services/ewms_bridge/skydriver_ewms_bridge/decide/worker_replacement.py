"""Whether workers that have ended are replaced, which EWMS never does by itself. Source: EWMS contract 9.

Careful by design: workers cost money, and what killed the first ones kills the next.
"""

from collections.abc import Sequence

from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import is_working
from skydriver_ewms_bridge.decide.workflow import merged_clusters
from skydriver_ewms_bridge.decide.workforce import Workforce
from skydriver_ewms_bridge.ewms_types import TaskDirective

MIN_REMAINING_SHARE = 0.5
"""Workers are replaced when fewer than this part of a cluster's are left, so that a few losses do not make many batches."""
_NOT_WORTH_REPLACING = frozenset(
    {ProblemCode.SAME_ERROR_EVERYWHERE, ProblemCode.SUBMISSION_FAILED, ProblemCode.ALL_WORKERS_HELD}
)


def may_replace_workers(scan: Scan, workforce: Workforce, *, most_times: int, pause_s: float, now: float) -> bool:
    """Whether more workers may help this scan at all. most_times: batches per scan. now: Unix seconds."""
    ewms = scan.ewms
    return (
        is_working(scan)
        and bool(workforce.statuses)
        and workforce.is_complete
        and not any(problem.code in _NOT_WORTH_REPLACING for problem in workforce.problems)
        and not (ewms.tokens_end_at is not None and ewms.tokens_end_at <= now)  # they could not connect
        and ewms.n_top_ups < most_times
        and now - ewms.topped_up_at >= pause_s
    )


def missing_workers(
    scan: Scan, workforce: Workforce, directives: Sequence[TaskDirective], *, most_batches: int
) -> list[tuple[str, int]]:
    """(cluster, workers to add) for each cluster with too few left of those that the scan's request named."""
    task_of = {location: d.task_id for d in directives for location in d.cluster_locations}
    found = []
    for cluster, wanted in merged_clusters((name, n) for name, n in scan.request["request_clusters"]):
        left = workforce.at_hand.get(task_of.get(cluster, ""), 0)
        if wanted > 0 and left < MIN_REMAINING_SHARE * wanted:
            found.append((cluster, wanted - left))
    return found[:most_batches]
