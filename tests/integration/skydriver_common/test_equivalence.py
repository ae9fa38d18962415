"""Whatever is asked, in any order and repeated: the views are what the log says, and the log is whole."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule, run_state_machine_as_test

from skydriver_common.db.schedule import Schedule
from skydriver_common.log import blobs
from skydriver_common.log.read import history
from skydriver_common.log.state_at import state_at
from skydriver_common.model import events as ev
from skydriver_common.model.commands import (
    AssignWorkflow,
    Command,
    Context,
    DeleteScan,
    PatchManifest,
    PutResult,
    RequestScan,
    RescanScan,
)
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.rejections import Reply
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.decide.exits import decide_exit
from skydriver_dispatcher.decide.launches import decide_attempt, decide_deferred_launch, decide_failed_launch, decide_launched
from skydriver_dispatcher.decide.stages import decide_stage
from skydriver_dispatcher.usecases import UseCases
from skydriver_ewms_bridge.usecases import UseCases as BridgeUseCases
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from skydriver_progress import usecases as progress
from skydriver_progress.retention import Retention
from tests.support.histories import Store, a_context, a_report, a_request, a_store

_FLAG = st.booleans()
_Handler = Callable[[Any, Context], Awaitable[Reply]]


class _Machine(RuleBasedStateMachine):
    """Drives the use cases of all services on one store. Set up by the test."""

    scans = Bundle("scans")
    runner: asyncio.Runner
    store: Store

    @initialize()
    def begin(self) -> None:
        store = self.store
        schedule = Schedule(store.pool, store.notifier, holder="test")
        self.dispatcher = dispatcher = UseCases(store.pool, store.uows["dispatcher"])
        bridge = BridgeUseCases(
            store.uows["ewms_bridge"], schedule, teardown_delay=timedelta(0), startup_limit=timedelta(minutes=1)
        )
        retention = Retention(store.uows["progress"], schedule, keep=timedelta(days=1))
        self.handlers: dict[type[Command], _Handler] = {
            RequestScan: dispatcher.request_scan, RescanScan: dispatcher.rescan_scan, DeleteScan: dispatcher.delete_scan,
            AssignWorkflow: bridge.assign_workflow,
            PatchManifest: lambda command, context: progress.patch_manifest(command, context, store.uows["progress"], retention),
            PutResult: lambda command, context: progress.put_result(command, context, store.uows["progress"], retention),
        }  # fmt: skip
        self.recorded: list[tuple[Command, Context, Reply]] = []

    def ask(self, command: Command) -> Reply:
        context = a_context()
        reply = self.runner.run(self._handle(command, context))
        self.recorded.append((command, context, reply))
        return reply

    async def _handle(self, command: Command, context: Context) -> Reply:
        return await self.handlers[type(command)](command, context)

    def decide(self, writer: str, scan_id: ScanId, decision: Callable[[Scan], list[ev.Event]]) -> None:
        """What a background loop does: look, decide, append."""

        async def work() -> None:
            async with self.store.uows[writer].on_scans(a_context(), [scan_id]) as tx:
                scan = tx.scan(scan_id)
                assert scan is not None
                tx.append(scan_id, decision(scan))

        self.runner.run(work())

    @rule(target=scans, priority=st.integers(0, 200), knows_event=_FLAG)
    def request(self, priority: int, knows_event: bool) -> Any:
        scan_id = new_scan_id()
        request = a_request(scan_id, priority=priority).request
        digest = self.runner.run(blobs.put(self.store.pool, uuid.uuid4().bytes)) if knows_event else None
        reply = self.ask(RequestScan(scan_id=scan_id, request=request, event_digest=digest))
        return scan_id if reply.is_done else multiple()

    @rule(target=scans, scan=scans, abort=_FLAG, replace=_FLAG)
    def rescan(self, scan: ScanId, abort: bool, replace: bool) -> Any:
        new = new_scan_id()
        reply = self.ask(RescanScan(scan_id=scan, new_scan_id=new, abort_first=abort, replace_scan=replace))
        return new if reply.is_done else multiple()

    @rule(scan=scans, consent=_FLAG)
    def delete(self, scan: ScanId, consent: bool) -> None:
        self.ask(DeleteScan(scan_id=scan, delete_completed_scan=consent))

    @rule(scan=scans, sequence=st.integers(1, 4), producer=st.sampled_from(["", "p", "q"]), finished=_FLAG)
    def report(self, scan: ScanId, sequence: int, producer: str, finished: bool) -> None:
        report = a_report(sequence, finished=finished).progress
        self.ask(PatchManifest(scan_id=scan, progress=report, producer=producer, sequence=sequence))

    @rule(scan=scans, run=st.integers(1, 2), rest=st.sampled_from([{}, {"a": 1}, {"a": 2}]))
    def metadata(self, scan: ScanId, run: int, rest: dict[str, Any]) -> None:
        self.ask(PatchManifest(scan_id=scan, event_metadata={"run_id": run}, scan_metadata=rest))

    @rule(scan=scans, skymap=st.sampled_from([b"1", b"2"]), final=_FLAG)
    def result(self, scan: ScanId, skymap: bytes, final: bool) -> None:
        digest = self.runner.run(blobs.put(self.store.pool, skymap))
        self.ask(PutResult(scan_id=scan, digest=digest, size_bytes=1, is_final=final))

    @rule(scan=scans, workflow=st.sampled_from(["w1", "w2"]))
    def assign(self, scan: ScanId, workflow: str) -> None:
        self.ask(AssignWorkflow(scan_id=scan, workflow_id=workflow, ewms_address="http://ewms"))

    @rule(scan=scans, goes=st.sampled_from(["well", "wrong", "nowhere"]))
    def launch(self, scan: ScanId, goes: str) -> None:
        self.decide("dispatcher", scan, decide_attempt)
        if goes == "nowhere":
            self.decide("dispatcher", scan, lambda it: decide_deferred_launch(it, "no room"))
        elif goes == "well":
            self.decide("dispatcher", scan, lambda it: decide_launched(it, launcher="local", job="j"))
        else:
            self.decide("dispatcher", scan, lambda it: decide_failed_launch(it, "no", is_final=False, max_attempts=2))

    @rule(scan=scans, exit_code=st.sampled_from([None, 1, 2]))
    def scanner_ends(self, scan: ScanId, exit_code: int | None) -> None:
        self.decide("dispatcher", scan, lambda it: decide_exit(it, exit_code=exit_code, log_tail=""))

    @rule(
        scan=scans, stage=st.sampled_from([ScannerStage.PENDING, ScannerStage.RUNNING]), code=st.sampled_from(["", "a-trouble"])
    )
    def scanner_comes_to(self, scan: ScanId, stage: ScannerStage, code: str) -> None:
        self.decide("dispatcher", scan, lambda it: decide_stage(it, stage=stage, code=code, text=code))

    @rule(target=scans, scan=scans)
    def scanner_is_lost(self, scan: ScanId) -> Any:
        new = self.runner.run(self.dispatcher.replace_scan(scan, "evicted", 137, "", a_context()))
        return new if new is not None else multiple()

    @rule(scan=scans, running=st.integers(0, 2))
    def workers(self, scan: ScanId, running: int) -> None:
        statuses = {"RUNNING": {"osg": running}} if running else {}
        self.decide("ewms_bridge", scan, lambda _: [ev.WorkforceChanged(statuses=statuses, n_running=running)])

    @rule()
    def system_fact(self) -> None:
        assert self.runner.run(self.store.a_system_fact())

    @rule(which=st.randoms(use_true_random=False))
    def repeat(self, which: Any) -> None:
        if self.recorded:
            command, context, reply = which.choice(self.recorded)
            assert self.runner.run(self._handle(command, context)) == reply

    @invariant()
    def the_log_is_whole_and_the_views_are_its_fold(self) -> None:
        self.runner.run(self._whole())

    async def _whole(self) -> None:
        async with self.store.pool.acquire() as connection:
            assert (await verify(connection)).breaks == []
            assert (await rebuild.check(connection)).differences == []

    @invariant()
    def the_lifecycle_holds(self) -> None:
        touched = {getattr(command, name) for command, _, _ in getattr(self, "recorded", ()) for name in ("scan_id", "new_scan_id")
                   if hasattr(command, name)}  # fmt: skip
        for scan_id in touched:
            self.runner.run(self._lifecycle(scan_id))

    async def _lifecycle(self, scan_id: ScanId) -> None:
        events = [(logged.version, logged.event) async for logged in history(self.store.pool, scan_id)]
        assert [version for version, _ in events] == list(range(1, len(events) + 1))
        count = Counter(event.type for _, event in events)
        assert count["scan.event-metadata-set"] <= 1
        assert count["scan.scan-metadata-set"] <= 1
        assert count["scan.workflow-assigned"] <= 1
        is_deleted, has_final, final = False, False, ""
        for _, event in events:
            assert not (is_deleted and isinstance(event, ev.LaunchAttempted | ev.ScanLaunched)), "launched after it was deleted"
            if isinstance(event, ev.ResultReceived):
                assert event.is_final or not has_final, "a partial result after the final one"
                assert not has_final or event.digest != final, "the same final result twice"
                final = event.digest if event.is_final else final
            is_deleted |= isinstance(event, ev.ScanDeleted)
            has_final |= isinstance(event, ev.ResultReceived) and event.is_final
        await self._ends_once(scan_id, events, final)

    async def _ends_once(self, scan_id: ScanId, events: list[tuple[int, ev.Event]], final: str) -> None:
        """At most one final result is in force, the newest; and a scan that has ended has ended then, whatever comes later."""
        stored = await self.store.pool.fetch("SELECT digest, is_final FROM results WHERE scan_id = $1", scan_id)
        assert [row["digest"] for row in stored if row["is_final"]] == ([final] if final else [])
        ends = [version for version, event in events if isinstance(event, ev.ResultReceived) and event.is_final]
        if ends:
            first, now = [await state_at(self.store.pool, scan_id, version=version) for version in (ends[0], len(events))]
            assert first is not None
            assert now is not None
            assert now.has_final_result
            assert now.scanner.ended_at == first.scanner.ended_at is not None


def test_views_are_the_fold_of_the_log_after_every_command(database: str) -> None:
    with asyncio.Runner() as runner:
        opened = a_store(database)
        store = runner.run(opened.__aenter__())
        try:
            machine = type("Machine", (_Machine,), {"runner": runner, "store": store})
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )  # fmt: skip
        finally:
            runner.run(opened.__aexit__(None, None, None))
