"""What is recorded of queues, startup file and workers: changes, once each, and only of scans that they matter to."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.progress_report import ProgressReport
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.queues import decide_queues_activated, decide_queues_awaited, not_activated_in_time
from skydriver_ewms_bridge.decide.reconciliation import KINDS, due_in, missing_work, over_since
from skydriver_ewms_bridge.decide.start_checks import decide_startup_file, decide_tokens_ending, token_warning_in
from skydriver_ewms_bridge.decide.worker_replacement import (
    ReplacementPolicy,
    may_need_replacement,
    may_replace_workers,
    missing_workers,
)
from skydriver_ewms_bridge.decide.workforce import Workforce
from skydriver_ewms_bridge.decide.workforce_changes import (
    decide_workforce_changed,
    digest_of,
    is_over,
    refresh_interval,
    reported_problems,
)
from skydriver_ewms_bridge.decide.workforce_problems import Problem
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ewms_types import TaskDirective
from skydriver_ewms_bridge.records import Watched
from skydriver_ewms_bridge.retry_policy import FAST_REFRESH_PERIOD, TOKEN_WARNING
from tests.support.bridge_scans import a_launched_scan, a_working_scan, deleted, finished

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUEUES = {"to-client-queue": "q1", "from-client-queue": "q2"}
RUNNING = Workforce(statuses={"RUNNING": {"Tasking": 2}}, n_running=2, n_alive=2)
BROKEN = replace(RUNNING, problems=(Problem(ProblemCode.SAME_ERROR_EVERYWHERE, "all"),))


def test_the_place_in_line_is_recorded_when_it_changes() -> None:
    assert decide_queues_awaited(a_working_scan(), 4) == [ev.QueuesAwaited(place_in_line=4)]
    assert decide_queues_awaited(a_working_scan(place_in_line=4), 4) == []
    assert decide_queues_awaited(deleted(a_working_scan()), 4) == []
    assert decide_queues_awaited(None, 4) == []


def test_the_queues_are_recorded_once() -> None:
    assert decide_queues_activated(a_working_scan(), QUEUES, 5.0) == [ev.QueuesActivated(queues=QUEUES, tokens_end_at=5.0)]
    assert decide_queues_activated(a_working_scan(queues=QUEUES), QUEUES, 5.0) == []
    assert decide_queues_activated(finished(a_working_scan()), QUEUES, 5.0) == []


@pytest.mark.parametrize(
    ("limit_s", "words"),
    [(21_600.0, "6 h"), (130.0, "2 min 10 s"), (60.0, "1 min"), (5.0, "5 s"), (0.5, "0.5 s"), (3_725.0, "1 h 2 min 5 s")],
)
def test_queues_that_are_not_activated_in_time_are_reported_in_units_people_use(limit_s: float, words: str) -> None:
    assert not_activated_in_time(limit_s) == f"EWMS did not activate the queues within {words}"


def test_the_startup_file_is_reported_missing_and_found_again() -> None:
    assert decide_startup_file(a_working_scan(), is_there=False, waited_s=9.0) == [ev.StartupFileMissing(waited_s=9.0)]
    assert decide_startup_file(a_working_scan(), is_there=True, waited_s=9.0) == []
    missing = a_working_scan(is_startup_file_missing=True)
    assert decide_startup_file(missing, is_there=False, waited_s=9.0) == []
    assert decide_startup_file(missing, is_there=True, waited_s=9.0) == [ev.StartupFileFound()]
    assert decide_startup_file(finished(missing), is_there=True, waited_s=9.0) == []


def test_tokens_that_expire_are_reported_once_and_in_time() -> None:
    ends_at = (NOW + timedelta(hours=5)).timestamp()
    assert decide_tokens_ending(a_working_scan(tokens_end_at=ends_at)) == [ev.QueueTokensEnding(ends_at=ends_at)]
    assert decide_tokens_ending(a_working_scan(tokens_end_at=ends_at, are_tokens_ending=True)) == []
    assert decide_tokens_ending(a_working_scan()) == []
    assert decide_tokens_ending(deleted(a_working_scan(tokens_end_at=ends_at))) == []
    assert token_warning_in(ends_at, now=NOW) == timedelta(hours=5) - TOKEN_WARNING


def test_the_workers_are_recorded_when_they_have_changed() -> None:
    (event,) = decide_workforce_changed(a_working_scan(), RUNNING)
    assert (event.statuses, event.n_running, event.problems) == ({"RUNNING": {"Tasking": 2}}, 2, [])
    known = a_working_scan(statuses={"RUNNING": {"Tasking": 2}}, n_running=2)
    assert decide_workforce_changed(known, RUNNING) == []
    (event,) = decide_workforce_changed(known, BROKEN)
    assert [problem["code"] for problem in event.problems] == ["same-error-everywhere"]


def test_workers_of_a_scan_without_work_left_have_no_problems() -> None:
    assert reported_problems(a_working_scan(), BROKEN) == [{"code": "same-error-everywhere", "text": "all"}]
    assert reported_problems(finished(a_working_scan()), BROKEN) == []


def test_the_digest_changes_with_what_is_recorded() -> None:
    assert digest_of(RUNNING) == digest_of(replace(RUNNING, n_requested=7))
    assert len({digest_of(each) for each in (RUNNING, BROKEN, replace(RUNNING, n_running=1), Workforce())}) == 4


@pytest.mark.parametrize(
    ("workforce", "is_stopped", "over"),
    [
        (Workforce(has_ended=True), False, False), (Workforce(has_ended=True), True, True), (Workforce(), True, True),
        (Workforce(is_complete=False), True, False), (RUNNING, True, False),
    ],
    ids=["live", "ended", "none left", "not all counted", "some run"],
)  # fmt: skip
def test_a_stopped_workflow_is_counted_until_its_workers_are_gone(workforce: Workforce, is_stopped: bool, over: bool) -> None:
    assert is_over(workforce, is_stopped=is_stopped) is over


def test_workers_are_counted_more_often_at_first_and_while_somebody_views_the_scan() -> None:
    def after(age: timedelta, viewed_for: timedelta | None = None) -> timedelta:
        until = None if viewed_for is None else NOW + viewed_for
        watched = Watched(scan_id=a_launched_scan().scan_id, workflow_id="WF-1", since=NOW - age, digest="", viewed_until=until)
        return refresh_interval(watched, now=NOW, interval=60 * SECOND, fast_interval=10 * SECOND)

    assert after(SECOND) == 10 * SECOND
    assert after(FAST_REFRESH_PERIOD) == 60 * SECOND
    assert after(FAST_REFRESH_PERIOD, viewed_for=SECOND) == 10 * SECOND
    assert after(FAST_REFRESH_PERIOD, viewed_for=-SECOND) == 60 * SECOND


@pytest.mark.parametrize(
    ("scan", "kinds"),
    [
        (a_launched_scan(), [DueKind.ASSIGN]), (a_working_scan(), [DueKind.QUEUES]),
        (a_working_scan(queues=QUEUES), [DueKind.STARTUP]),
        (a_working_scan(queues=QUEUES, tokens_end_at=5.0), [DueKind.STARTUP, DueKind.TOKENS]),
        (a_working_scan(queues=QUEUES, tokens_end_at=5.0, are_tokens_ending=True), [DueKind.STARTUP]),
        (deleted(a_working_scan()), [DueKind.STOP]), (deleted(a_launched_scan()), []), (deleted(a_working_scan(deactivated="ABORTED")), []),
    ],
    ids=["launched", "assigned", "queues", "tokens", "tokens reported", "deleted", "deleted early", "stopped"],
)  # fmt: skip
def test_the_state_of_a_scan_says_which_work_is_missing(scan: Scan, kinds: list[DueKind]) -> None:
    assert missing_work(scan, frozenset()) == kinds
    assert missing_work(scan, frozenset(KINDS)) == []


def test_a_scan_that_has_reconstructed_needs_no_check_of_its_startup_file() -> None:
    progress = cast(ProgressReport, {"summary": "", "processing_stats": {"rate": {"average": "1"}}})
    assert missing_work(replace(a_working_scan(queues=QUEUES), progress=progress), frozenset()) == []


def test_lost_work_is_due_when_it_would_have_been() -> None:
    limit, ends_at = timedelta(minutes=15), (NOW + timedelta(hours=3)).timestamp()
    scan = a_working_scan(tokens_end_at=ends_at)
    assert due_in(DueKind.QUEUES, scan, now=NOW, startup_limit=limit) == timedelta(0)
    assert due_in(DueKind.STARTUP, scan, now=NOW, startup_limit=limit) == limit
    assert due_in(DueKind.TOKENS, scan, now=NOW, startup_limit=limit) == timedelta(hours=3) - TOKEN_WARNING
    with pytest.raises(ValueError, match="ewms-aftermath"):
        due_in(DueKind("ewms-aftermath"), scan, now=NOW, startup_limit=limit)


def test_a_scan_was_over_when_its_scanner_ended_else_now() -> None:
    scan = a_working_scan()
    assert over_since(scan, now=NOW) == NOW
    assert over_since(replace(scan, scanner=replace(scan.scanner, ended_at=NOW.timestamp() - 5)), now=NOW) == NOW - 5 * SECOND


def test_workers_are_replaced_only_where_that_is_wanted_and_may_help() -> None:
    policy = ReplacementPolicy(is_wanted=True, most_times=2, pause_s=60.0)
    losses = Workforce(statuses={"COMPLETED": {"Done": 3}}, n_over=3)
    now = NOW.timestamp()
    assert may_need_replacement(losses, policy)
    assert not may_need_replacement(losses, ReplacementPolicy())
    assert not may_need_replacement(RUNNING, policy)
    assert may_replace_workers(a_working_scan(), losses, policy, now=now)
    assert not may_replace_workers(a_working_scan(), losses, ReplacementPolicy(), now=now)
    assert not may_replace_workers(a_working_scan(), replace(losses, problems=BROKEN.problems), policy, now=now)
    assert not may_replace_workers(a_working_scan(), replace(losses, is_complete=False), policy, now=now)
    assert not may_replace_workers(finished(a_working_scan()), losses, policy, now=now)
    assert not may_replace_workers(a_working_scan(n_top_ups=2), losses, policy, now=now)
    assert not may_replace_workers(a_working_scan(n_top_ups=1, topped_up_at=now - 59), losses, policy, now=now)
    assert may_replace_workers(a_working_scan(n_top_ups=1, topped_up_at=now - 60), losses, policy, now=now)
    assert not may_replace_workers(a_working_scan(tokens_end_at=now), losses, policy, now=now)


def test_clusters_with_less_than_half_of_their_workers_get_the_missing_ones_as_far_as_batches_are_left() -> None:
    clusters = [["osg", 10], ["npx", 4], ["gcp", 2]]
    directives = [
        TaskDirective(task_id=f"TD-{name}", workflow_id="WF-1", timestamp=1.0, cluster_locations=(name,))
        for name in ("osg", "npx", "gcp")
    ]
    workforce = Workforce(at_hand={"TD-osg": 4, "TD-npx": 2, "TD-gcp": 0})
    policy = ReplacementPolicy(is_wanted=True, most_times=2)
    scan = a_working_scan(request={"request_clusters": clusters})
    assert missing_workers(scan, workforce, directives, policy) == [("osg", 6), ("gcp", 2)]
    once = a_working_scan(request={"request_clusters": clusters}, n_top_ups=1)
    assert missing_workers(once, workforce, directives, policy) == [("osg", 6)]
