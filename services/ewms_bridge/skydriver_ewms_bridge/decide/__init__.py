"""The decisions of the bridge: what to ask for, what to keep, what the workers' state means.

Admission rule: pure functions of values. No await, no clock, no chance except where handed in, no import of ours but the
model and this service's values.
"""

from skydriver_ewms_bridge.decide.queues import all_activated, place_in_line, queue_profile, tokens_end_at
from skydriver_ewms_bridge.decide.refusals import is_final_refusal
from skydriver_ewms_bridge.decide.scan import (
    cluster_refused,
    decide_add_workers,
    decide_assign,
    decide_deactivated,
    decide_refused_for_now,
    ewms_failed,
    is_working,
    may_order_workflow,
    may_race_with_activation,
    refusal,
    stop_label,
    unknown,
    wants_queues,
    wants_workflow,
    workflow_ended,
    workflow_order_for,
)
from skydriver_ewms_bridge.decide.urgency import urgency_of
from skydriver_ewms_bridge.decide.worker_replacement import may_replace_workers, missing_workers
from skydriver_ewms_bridge.decide.workflow import (
    CLOCK_SKEW_S,
    WorkflowChoice,
    added_taskforce,
    choose_workflow,
    merged_clusters,
    startup_object_key,
    task_for_cluster,
    workflow_spec,
)
from skydriver_ewms_bridge.decide.workforce import Workforce, WorkforceFold, aggregate
from skydriver_ewms_bridge.decide.workforce_problems import Problem, is_ended, is_submission_given_up

__all__ = [
    "CLOCK_SKEW_S",
    "Problem",
    "WorkflowChoice",
    "Workforce",
    "WorkforceFold",
    "added_taskforce",
    "aggregate",
    "all_activated",
    "choose_workflow",
    "cluster_refused",
    "decide_add_workers",
    "decide_assign",
    "decide_deactivated",
    "decide_refused_for_now",
    "ewms_failed",
    "is_ended",
    "is_final_refusal",
    "is_submission_given_up",
    "is_working",
    "may_order_workflow",
    "may_race_with_activation",
    "may_replace_workers",
    "merged_clusters",
    "missing_workers",
    "place_in_line",
    "queue_profile",
    "refusal",
    "startup_object_key",
    "stop_label",
    "task_for_cluster",
    "tokens_end_at",
    "unknown",
    "urgency_of",
    "wants_queues",
    "wants_workflow",
    "workflow_ended",
    "workflow_order_for",
    "workflow_spec",
]
