"""Whether workers that have ended are replaced, which EWMS never does by itself. Source: EWMS contract 9.

Careful by design: workers cost money, and what killed the first ones kills the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementPolicy:
    """is_wanted: else nothing happens. most_times: batches per scan. pause_s: after one batch before the next."""

    is_wanted: bool = False
    most_times: int = 3
    pause_s: float = 600.0


def may_need_replacement(workforce: Workforce, policy: ReplacementPolicy) -> bool:
    """Whether it is worth a closer look: some workers have ended, and the installation wants them replaced."""
    return policy.is_wanted and bool(workforce.n_over)


def may_replace_workers(scan: Scan, workforce: Workforce, policy: ReplacementPolicy, *, now: float) -> bool:
    """Whether more workers may help this scan at all. now: Unix seconds."""
    ewms = scan.ewms
    return (
        policy.is_wanted
        and is_working(scan)
        and bool(workforce.statuses)
        and workforce.is_complete
        and not any(problem.code in _NOT_WORTH_REPLACING for problem in workforce.problems)
        and not (ewms.tokens_end_at is not None and ewms.tokens_end_at <= now)  # they could not connect
        and ewms.n_top_ups < policy.most_times
        and now - ewms.topped_up_at >= policy.pause_s
    )


def missing_workers(
    scan: Scan, workforce: Workforce, directives: Sequence[TaskDirective], policy: ReplacementPolicy
) -> list[tuple[str, int]]:
    """Return (cluster, workers to add) for each cluster with too few left of those that the scan's request named.

    Never more of them than batches are left to this scan.
    """
    task_of = {location: d.task_id for d in directives for location in d.cluster_locations}
    found = []
    for cluster, wanted in merged_clusters((name, n) for name, n in scan.request["request_clusters"]):
        left = workforce.at_hand.get(task_of.get(cluster, ""), 0)
        if wanted > 0 and left < MIN_REMAINING_SHARE * wanted:
            found.append((cluster, wanted - left))
    return found[: policy.most_times - scan.ewms.n_top_ups]
