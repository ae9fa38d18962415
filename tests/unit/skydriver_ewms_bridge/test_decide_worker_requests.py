"""Requests for more workers, and what becomes of those without a response."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skydriver_common.model.commands import AddWorkers
from skydriver_common.model.rejections import Code
from skydriver_common.model.scan import Scan
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_ewms_bridge.decide.worker_requests import (
    OpenRequestStep,
    RequestStep,
    decide_add_workers,
    may_take_effect,
    open_request_step,
    request_step,
)
from skydriver_ewms_bridge.records import Addition
from skydriver_ewms_bridge.retry_policy import UNCLAIMED_WORKERS_TTL
from tests.support.bridge_scans import a_launched_scan, a_taskforce, a_working_scan, deleted, finished

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
WAIT = timedelta(seconds=1000)


def a_command(n_workers: int = 3, debug_cap: int | None = None) -> AddWorkers:
    return AddWorkers(scan_id=a_launched_scan().scan_id, n_workers=n_workers, cluster_location="osg", debug_cap=debug_cap)


def an_addition(**values: Any) -> Addition:
    addition = Addition(
        addition_id=1, scan_id=a_launched_scan().scan_id, workflow_id="WF-1", cluster_location="osg", n_workers=3, asked_at=NOW,
        held_until=NOW - SECOND,
    )  # fmt: skip
    return replace(addition, **values)


@pytest.mark.parametrize(
    ("scan", "code"),
    [
        (None, Code.SCAN_UNKNOWN), (deleted(a_working_scan()), Code.SCAN_IS_DELETED), (a_launched_scan(), Code.WORKFLOW_IS_MISSING),
        (finished(a_working_scan()), Code.SCAN_HAS_FINAL_RESULT), (a_working_scan(deactivated="ABORTED"), Code.WORKFLOW_HAS_ENDED),
    ],
    ids=["unknown", "deleted", "no workflow", "finished", "stopped"],
)  # fmt: skip
def test_a_scan_that_needs_no_workers_takes_none(scan: Scan | None, code: Code) -> None:
    rejection = decide_add_workers(scan, a_command())
    assert rejection is not None
    assert rejection.code == code


def test_a_working_scan_takes_workers_up_to_its_limits() -> None:
    scan, limits = a_working_scan(request={"request_clusters": [["osg", 5]]}), WorkerLimits(per_scan=10)
    assert decide_add_workers(scan, a_command(3), added=[("osg", 2)], limits=limits) is None
    rejection = decide_add_workers(scan, a_command(4), added=[("osg", 2)], limits=limits)
    assert rejection is not None
    assert (rejection.code, rejection.fields) == (Code.TOO_MANY_WORKERS, ("n_workers",))


def test_with_client_logs_a_cluster_has_a_cap() -> None:
    scan = a_working_scan(request={"debug_mode": ["client-logs"]})
    assert decide_add_workers(scan, a_command(3, debug_cap=3)) is None
    rejection = decide_add_workers(scan, a_command(4, debug_cap=3))
    assert rejection is not None
    assert rejection.code == Code.TOO_MANY_DEBUG_WORKERS
    assert decide_add_workers(a_working_scan(), a_command(4, debug_cap=3)) is None


def test_a_first_request_is_asked_of_ewms() -> None:
    assert request_step(None, now=NOW) is RequestStep.ASK


def test_workers_that_were_found_are_the_response_to_the_next_request_for_a_while() -> None:
    found = an_addition(taskforce_uuid="TF-1", got_n_workers=3)
    assert request_step(found, now=NOW) is RequestStep.REPLY
    assert request_step(found, now=NOW + UNCLAIMED_WORKERS_TTL - SECOND) is RequestStep.REPLY
    assert request_step(found, now=NOW + UNCLAIMED_WORKERS_TTL) is RequestStep.ASK_AFRESH


def test_a_request_in_progress_is_waited_for_and_an_abandoned_one_is_taken_up() -> None:
    assert request_step(an_addition(held_until=NOW + SECOND), now=NOW) is RequestStep.WAIT
    assert request_step(an_addition(held_until=NOW), now=NOW) is RequestStep.TAKE_UP


def test_a_call_without_a_response_may_take_effect_until_its_time_is_over() -> None:
    asked = an_addition(attempted_at=NOW)
    assert may_take_effect(asked, now=NOW + WAIT, unclear_wait=WAIT)
    assert not may_take_effect(asked, now=NOW + WAIT + SECOND, unclear_wait=WAIT)
    assert not may_take_effect(an_addition(), now=NOW, unclear_wait=WAIT), "it was never sent"


def test_workers_that_are_found_are_recorded_however_late_and_others_are_given_up_in_the_end() -> None:
    asked = an_addition(attempted_at=NOW)
    late = NOW + WAIT + SECOND
    assert open_request_step(asked, a_taskforce(), now=late, unclear_wait=WAIT) is OpenRequestStep.RECORD
    assert open_request_step(asked, None, now=NOW + WAIT, unclear_wait=WAIT) is OpenRequestStep.LOOK_AGAIN
    assert open_request_step(asked, None, now=late, unclear_wait=WAIT) is OpenRequestStep.DROP
