"""Exactly one workflow per scan, and its queues in the scanner's hands."""

import time
from pathlib import Path

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.model import events as ev
from skydriver_common.model.commands import AddWorkers, AssignWorkflow
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_common.model.rejections import Code
from skydriver_common.model.stages import ScannerStage
from skydriver_ewms_bridge.adapters.profile_files import ProfileFiles
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ewms_types import StartupUpload, Taskforce, Workflow, WorkflowSpec
from skydriver_ewms_bridge.ports import EwmsRejectedForNow, ScanNotReady
from tests.support.bridge import Bridge, a_bridge, a_context
from tests.support.fake_ewms import AWAY, LATE, LOST, NOTHING, FakeEwms


async def test_a_launched_scan_gets_one_workflow_with_its_queues_handed_over(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)

    (workflow_id,) = ewms.live()
    assert (await bridge.scan(scan_id)).ewms_workflow_id == workflow_id
    assert (await bridge.scan(scan_id)).ewms_address == "http://ewms.example"
    upload = {"method": "PUT", "url": f"https://s3.example/put/{scan_id}-s3-object"}
    assert bridge.handed_over(scan_id) == {"startup-upload.json": upload}

    await bridge.work(DueKind.QUEUES)
    assert "ewms.json" not in bridge.handed_over(scan_id), "not before all queues are activated"
    ewms.activated.add(workflow_id)
    await bridge.work(DueKind.QUEUES, until_s=60)

    assert bridge.handed_over(scan_id)["ewms.json"]["toclient"]["name"] == f"a{workflow_id}to-client-queue"
    assert await bridge.types(scan_id) == ["scan.workflow-assigned", "scan.queues-activated"]
    assert "queue-password" not in str((await bridge.scan(scan_id)).ewms)
    assert await bridge.due(DueKind.ASSIGN) == await bridge.due(DueKind.QUEUES) == []


async def test_the_event_arriving_twice_makes_no_second_workflow(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.usecases.scan_launched(scan_id)
    await bridge.work(DueKind.ASSIGN)
    await bridge.usecases.scan_launched(scan_id)
    await bridge.work(DueKind.ASSIGN)

    assert len(ewms.workflows) == 1
    assert (await bridge.types(scan_id)).count("scan.workflow-assigned") == 1


async def test_ewms_away_is_waited_out(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([AWAY, None, AWAY])

    assert await bridge.work(DueKind.ASSIGN) == ["EWMS is not reachable"]
    assert await bridge.work(DueKind.ASSIGN, until_s=60) == ["EWMS is not reachable"], "the create call itself"
    assert await bridge.work(DueKind.ASSIGN, until_s=60) == []
    assert (await bridge.scan(scan_id)).ewms_workflow_id == ewms.live()[0]


async def test_a_workflow_made_by_a_call_without_an_answer_is_adopted(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, LOST])
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.ASSIGN, until_s=2)

    assert len(ewms.workflows) == 1
    assert (await bridge.scan(scan_id)).ewms_workflow_id == ewms.live()[0]


async def test_after_an_unclear_outcome_nothing_is_created_until_it_cannot_come_true_any_more(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, NOTHING])
    await bridge.work(DueKind.ASSIGN)
    for _ in range(5):
        await bridge.work(DueKind.ASSIGN, until_s=100)
    assert ewms.calls.count("create") == 1

    await bridge.work(DueKind.ASSIGN, until_s=600)
    assert ewms.calls.count("create") == 2
    assert (await bridge.scan(scan_id)).ewms_workflow_id == ewms.live()[0]


async def test_a_request_that_comes_true_very_late_leaves_one_workflow(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, LATE])
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.ASSIGN, until_s=1100)
    assert ewms.calls.count("create") == 2
    ewms.come_true()
    assert len(ewms.live()) == 2

    await bridge.work(DueKind.DUPLICATES, until_s=2000)

    assert ewms.live() == [(await bridge.scan(scan_id)).ewms_workflow_id]


async def test_a_crash_between_the_intent_and_the_record_makes_no_second_workflow(
    bridge: Bridge, ewms: FakeEwms, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await bridge.launched_scan()

    async def killed(*_: object) -> bool:
        raise KeyboardInterrupt  # as far as the code after it is concerned, the process is gone

    monkeypatch.setattr(bridge.usecases, "assign_own", killed)
    with pytest.raises(KeyboardInterrupt):
        await bridge.work(DueKind.ASSIGN)
    assert len(ewms.live()) == 1

    async with a_bridge(database, tmp_path, ewms) as successor:
        await successor.work(DueKind.ASSIGN, until_s=61)
        assert (await successor.scan(scan_id)).ewms_workflow_id == ewms.live()[0]
    assert len(ewms.workflows) == 1


async def test_a_replica_whose_lease_has_ended_does_not_create_besides_another(
    bridge: Bridge, ewms: FakeEwms, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bridge.launched_scan()
    create = ewms.create_workflow
    async with a_bridge(database, tmp_path, ewms) as twin:

        async def slow_create(spec: WorkflowSpec) -> Workflow:
            await twin.work(DueKind.ASSIGN, until_s=61)  # the lease ends while EWMS takes its time
            return await create(spec)

        monkeypatch.setattr(ewms, "create_workflow", slow_create)
        await bridge.work(DueKind.ASSIGN)
    assert ewms.calls.count("create") == 1


async def test_of_two_live_workflows_all_replicas_keep_the_older(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, LOST])
    await bridge.work(DueKind.ASSIGN)
    spec = ewms.specs[ewms.live()[0]]
    await ewms.create_workflow(spec)
    await bridge.work(DueKind.ASSIGN, until_s=60)

    assert ewms.live() == ["WF-0001"]
    assert (await bridge.scan(scan_id)).ewms_workflow_id == "WF-0001"


async def test_workers_are_ordered_when_the_pod_of_the_scanner_server_has_its_node_and_not_before(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scan_id = await bridge.new_scan()
    await bridge.append("dispatcher", scan_id, ev.ScanLaunched(launcher="kubernetes", job=scan_id))
    await bridge.usecases.scan_launched(scan_id)
    pending = ev.ScannerStageChanged(stage=ScannerStage.PENDING, code="scanner-unschedulable", text="no node has room")
    await bridge.append("dispatcher", scan_id, pending)
    await bridge.usecases.scan_launched(scan_id)
    await bridge.work(DueKind.ASSIGN, until_s=7200)
    assert (ewms.calls, await bridge.due(DueKind.ASSIGN)) == ([], []), "no worker waits for a scanner server without a node"

    for stage in (ScannerStage.SCHEDULED, ScannerStage.RUNNING):
        await bridge.append("dispatcher", scan_id, ev.ScannerStageChanged(stage=stage))
        await bridge.usecases.scan_launched(scan_id)
        await bridge.work(DueKind.ASSIGN)
    assert ewms.calls.count("create") == 1
    assert (await bridge.scan(scan_id)).ewms_workflow_id == ewms.live()[0]


async def test_the_time_of_waiting_for_a_node_does_not_count_as_waiting_for_queues(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.new_scan()
    await bridge.append("dispatcher", scan_id, ev.ScanLaunched(launcher="kubernetes", job=scan_id))
    await bridge.usecases.scan_launched(scan_id)
    for kind in (DueKind.ASSIGN, DueKind.QUEUES):
        await bridge.pass_time(kind, 22_000)
    await bridge.append("dispatcher", scan_id, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED))
    await bridge.usecases.scan_launched(scan_id)
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.QUEUES)

    assert not (await bridge.scan(scan_id)).ewms.refused
    assert await bridge.due(DueKind.QUEUES) == [scan_id]


async def test_what_was_ordered_while_the_pod_had_a_node_is_adopted_though_it_lost_the_node(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scan_id = await bridge.new_scan()
    launched = ev.ScanLaunched(launcher="kubernetes", job=scan_id)
    await bridge.append("dispatcher", scan_id, launched, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED))
    await bridge.usecases.scan_launched(scan_id)
    ewms.faults.extend([None, LOST])
    await bridge.work(DueKind.ASSIGN)
    await bridge.append("dispatcher", scan_id, ev.ScannerStageChanged(stage=ScannerStage.PENDING))
    await bridge.work(DueKind.ASSIGN, until_s=60)

    assert [(await bridge.scan(scan_id)).ewms_workflow_id] == ewms.live()


async def test_a_superfluous_workflow_that_could_not_be_aborted_is_found_again(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await bridge.launched_scan()
    create = ewms.create_workflow

    async def create_two(spec: WorkflowSpec) -> Workflow:
        await create(spec)  # a second creator, or EWMS's own repetition
        return await create(spec)

    monkeypatch.setattr(ewms, "create_workflow", create_two)
    ewms.struck["abort"] = AWAY
    await bridge.work(DueKind.ASSIGN)
    assert len(ewms.live()) == 2
    await bridge.work(DueKind.ASSIGN, until_s=60)

    assert ewms.live() == [(await bridge.scan(scan_id)).ewms_workflow_id]


@pytest.mark.parametrize("fault", [ScanNotReady("the scan has no Secret", 5.0), OSError("no such folder")], ids=str)
async def test_a_scan_that_cannot_go_on_does_not_slow_the_others(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    waiting = await bridge.launched_scan(priority=100)
    others = [await bridge.launched_scan() for _ in range(3)]
    put_upload = ProfileFiles.put_upload

    async def put_others(sink: ProfileFiles, scan_id: ScanId, upload: StartupUpload) -> None:
        if scan_id == waiting:
            raise fault
        await put_upload(sink, scan_id, upload)

    monkeypatch.setattr(ProfileFiles, "put_upload", put_others)
    steps = []
    while not all([(await bridge.scan(scan_id)).has_workflow for scan_id in others]):
        steps.append(await bridge.steps[DueKind.ASSIGN]())
    assert set(steps) == {True}, "the loop makes no pause"
    monkeypatch.undo()
    await bridge.pass_time(DueKind.ASSIGN, 31)
    await bridge.steps[DueKind.ASSIGN]()
    assert (await bridge.scan(waiting)).has_workflow


async def test_the_loop_makes_a_pause_when_several_scans_in_a_row_fail(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await bridge.launched_scan()

    async def put_nothing(sink: ProfileFiles, scan_id: ScanId, upload: StartupUpload) -> None:
        raise TryLater("the API server is away")

    monkeypatch.setattr(ProfileFiles, "put_upload", put_nothing)
    assert [await bridge.steps[DueKind.ASSIGN]() for _ in range(2)] == [True, True]
    for _ in range(3):
        with pytest.raises(TryLater):
            await bridge.steps[DueKind.ASSIGN]()
    monkeypatch.undo()
    await bridge.pass_time(DueKind.ASSIGN, 31)
    for _ in range(5):
        assert await bridge.steps[DueKind.ASSIGN]() is True
    assert len(ewms.live()) == 5


async def test_a_refusal_is_final_and_visible(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.refuses = "'tasks.0.cluster_locations': unknown"
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.ASSIGN, until_s=3600)

    scan = await bridge.scan(scan_id)
    assert ewms.calls.count("create") == 1
    assert scan.ewms.refused == "EWMS rejected the workflow: 'tasks.0.cluster_locations': unknown"
    assert scan.state == "STOPPED__PRESTARTUP"
    assert await bridge.due(DueKind.ASSIGN) == []


NO_IMAGE = "Image tag not found: v4.1.2 (it may not have finished uploading)"


async def test_a_refusal_that_passes_is_waited_out_and_says_why(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.refuses_for_now = NO_IMAGE
    for _ in range(3):  # three minutes
        await bridge.work(DueKind.ASSIGN, until_s=60)

    scan = await bridge.scan(scan_id)
    (problem,) = problems_of(scan)
    assert problem["code"] == "waiting-for-workflow"
    assert NO_IMAGE in problem["text"]
    assert scan.state == "PENDING__PRESTARTUP"
    assert await bridge.types(scan_id) == ["scan.workflow-awaited"], "told once"

    ewms.refuses_for_now = ""
    await bridge.work(DueKind.ASSIGN, until_s=61)

    assert [(await bridge.scan(scan_id)).ewms_workflow_id] == ewms.live()
    assert "waiting-for-workflow" not in [p["code"] for p in problems_of(await bridge.scan(scan_id))]
    assert await bridge.pool.fetchval("SELECT count(*) FROM ewms_attempts") == 0


async def test_a_refusal_that_does_not_pass_ends_the_scan_after_the_time_for_asking_again(
    database: str, tmp_path: Path, ewms: FakeEwms
) -> None:
    async with a_bridge(database, tmp_path, ewms, ewms_refusal_retry_s=0.0) as bridge:
        scan_id = await bridge.launched_scan()
        ewms.refuses_for_now = NO_IMAGE
        await bridge.work(DueKind.ASSIGN)

        scan = await bridge.scan(scan_id)
        assert scan.ewms.refused == f"EWMS rejected the workflow: {NO_IMAGE}"
        assert scan.state == "STOPPED__PRESTARTUP"
        assert await bridge.due(DueKind.ASSIGN) == []


async def test_workers_that_are_refused_for_now_may_be_asked_for_again(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await bridge.running()
    command = AddWorkers(scan_id=scan_id, n_workers=7, cluster_location="osg")

    async def refuse(*_: object) -> Taskforce:
        raise EwmsRejectedForNow("a lock")

    monkeypatch.setattr(ewms, "add_workers", refuse)
    assert (await bridge.additions.add_workers(command, a_context(deadline=time.time() + 20))).code == Code.EWMS_FAILED
    monkeypatch.undo()
    assert (await bridge.additions.add_workers(command, a_context(deadline=time.time() + 20))).is_done
    assert [t.n_workers for t in ewms.taskforces[ewms.live()[0]]].count(7) == 1


async def test_a_second_workflow_that_comes_to_light_after_the_last_attempt_is_stopped(
    database: str, tmp_path: Path, ewms: FakeEwms
) -> None:
    async with a_bridge(database, tmp_path, ewms, ewms_unknown_outcome_wait_s=60.0) as bridge:
        scan_id = await bridge.launched_scan()
        ewms.faults.extend([None, LATE])
        await bridge.work(DueKind.ASSIGN)
        await bridge.work(DueKind.ASSIGN, until_s=60.5)  # the second attempt has its answer
        assert ewms.calls.count("create") == 2
        await bridge.work(DueKind.DUPLICATES, until_s=29.5)
        ewms.come_true()  # 90 s after the first attempt
        await bridge.work(DueKind.DUPLICATES, until_s=31)

        assert len(ewms.workflows) == 2
        assert ewms.live() == [(await bridge.scan(scan_id)).ewms_workflow_id]


async def test_a_second_workflow_that_comes_to_light_later_still_is_stopped_with_the_first(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, LATE])
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.ASSIGN, until_s=1001)
    await bridge.work(DueKind.DUPLICATES, until_s=1001)
    ewms.come_true()
    assert len(ewms.live()) == 2
    await bridge.complete(scan_id)
    await bridge.work(DueKind.STOP, until_s=61)

    assert ewms.live() == []


async def test_an_attempt_that_surely_made_nothing_does_not_hide_the_one_before_it(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, LATE])
    await bridge.work(DueKind.ASSIGN)
    ewms.struck["create"] = AWAY
    await bridge.work(DueKind.ASSIGN, until_s=1001)
    await bridge.work(DueKind.ASSIGN, until_s=31)
    assert ewms.calls.count("create") == 3
    ewms.come_true()
    await bridge.work(DueKind.DUPLICATES, until_s=1001)

    assert ewms.live() == [(await bridge.scan(scan_id)).ewms_workflow_id]


async def test_a_scan_deleted_before_its_turn_gets_no_workflow(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.ASSIGN)

    assert ewms.workflows == {}


async def test_a_scan_deleted_while_its_workflow_is_made_leaves_none_alive(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await bridge.launched_scan()
    create = ewms.create_workflow

    async def create_meanwhile(spec: WorkflowSpec) -> Workflow:
        await bridge.deleted(scan_id)
        return await create(spec)

    monkeypatch.setattr(ewms, "create_workflow", create_meanwhile)
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.STOP)

    assert len(ewms.workflows) == 1
    assert ewms.live() == []
    assert (await bridge.scan(scan_id)).state == "ABORTED__PRESTARTUP"


async def test_a_scan_deleted_after_an_unclear_create_is_cleaned_up_even_when_that_comes_true_late(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, LATE])
    await bridge.work(DueKind.ASSIGN)
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)
    await bridge.work(DueKind.ASSIGN, until_s=30)
    ewms.come_true()
    await bridge.work(DueKind.ASSIGN, until_s=30)
    assert ewms.live() == []

    await bridge.work(DueKind.ASSIGN, until_s=1000)
    assert await bridge.due(DueKind.ASSIGN) == []


async def test_a_workflow_stopped_before_its_turn_ends_the_wait(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)
    await ewms.abort(ewms.live()[0])
    await bridge.work(DueKind.QUEUES, until_s=60)

    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"
    assert await bridge.due(DueKind.QUEUES) == []


async def test_queues_that_are_never_activated_end_the_scan_visibly(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)
    await bridge.work(DueKind.QUEUES, until_s=22_000)
    await bridge.work(DueKind.STOP)

    scan = await bridge.scan(scan_id)
    assert "did not activate the queues" in scan.ewms.refused
    assert scan.state == "ABORTED__WAITING_ON_SCANNER_SERVER_STARTUP"
    assert ewms.live() == []


async def test_a_workflow_id_is_set_once_by_command(bridge: Bridge) -> None:
    scan_id = await bridge.new_scan()
    command = AssignWorkflow(scan_id=scan_id, workflow_id="WF-x", ewms_address="http://e")

    first = await bridge.usecases.assign_workflow(command, a_context())
    again = await bridge.usecases.assign_workflow(command, a_context())
    other = AssignWorkflow(scan_id=scan_id, workflow_id="WF-y", ewms_address="http://e")
    refused = await bridge.usecases.assign_workflow(other, a_context())
    unknown = AssignWorkflow(scan_id=ScanId("18e0f1a2b3cx4f5e6d7c8b9a01234567"), workflow_id="WF-y", ewms_address="http://e")

    assert first.is_done
    assert b'"ewms_workflow_id":"WF-x"' in first.body
    assert again.body == first.body
    assert refused.code == Code.WORKFLOW_IS_SET
    assert (await bridge.usecases.assign_workflow(unknown, a_context())).code == Code.SCAN_UNKNOWN


async def test_a_deleted_scan_takes_no_workflow_by_command(bridge: Bridge) -> None:
    scan_id = await bridge.new_scan()
    await bridge.append("dispatcher", scan_id, ev.ScanDeleted())
    command = AssignWorkflow(scan_id=scan_id, workflow_id="WF-x", ewms_address="http://e")

    assert (await bridge.usecases.assign_workflow(command, a_context())).code == Code.WORKFLOW_NOT_WANTED
