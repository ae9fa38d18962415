"""The dispatcher's parts on a test's store and cluster, step by step instead of in loops."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from kubernetes_asyncio.client import ApiClient

from skydriver_common.db.schedule import Schedule
from skydriver_common.log import blobs
from skydriver_common.log.read import history
from skydriver_common.log.stored_state import scan_of_row
from skydriver_common.model import events as ev
from skydriver_common.model.commands import DeleteScan, RequestScan
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.problems import problems_of
from skydriver_common.model.scan import Scan
from skydriver_common.runtime.loops import Step
from skydriver_dispatcher import store as statements
from skydriver_dispatcher.adapters.kubernetes.job_informer import JobInformer
from skydriver_dispatcher.adapters.kubernetes.launcher import KubernetesLauncher
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from skydriver_dispatcher.launch_steps import LaunchSteps
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.usecases import UseCases
from skydriver_dispatcher.watchdog import Watchdog
from tests.support.histories import Store, a_context, a_request
from tests.support.kmock_cluster import NAMESPACE, Cluster
from tests.support.launchers import JOBS, NEEDED, kubernetes_launcher
from tests.support.waiting import until

PATIENCE_S = 120.0


@dataclass(slots=True)
class Dispatcher:
    """One replica. ``settle_down`` takes steps until nothing is left to do."""

    store: Store
    cluster: Cluster
    client: ApiClient
    schedule: Schedule
    pending: PendingEvents
    launcher: KubernetesLauncher
    usecases: UseCases
    launch_steps: LaunchSteps
    launch: Step
    """Of its one hand."""
    watchdog: Watchdog
    leadership: Leadership
    watch: JobInformer

    async def request(self, **request: Any) -> ScanId:
        """Ask for a scan as a user does; its id."""
        scan_id = new_scan_id()
        body = a_request(scan_id, **NEEDED | request).request
        digest = await blobs.put(self.store.pool, b"an event")
        await self.usecases.request_scan(RequestScan(scan_id=scan_id, request=body, event_digest=digest), a_context())
        return scan_id

    async def delete(self, scan_id: ScanId) -> None:
        """Delete a scan as a user does."""
        await self.usecases.delete_scan(DeleteScan(scan_id=scan_id), a_context())

    async def launched(self, **request: Any) -> ScanId:
        """A scan that was started."""
        scan_id = await self.request(**{"priority": 100, **request})
        await self.settle_down()
        assert (await self.scan(scan_id)).launch.state == "launched"
        return scan_id

    async def settle_down(self) -> None:
        """Take every step that is due now."""
        steps: tuple[Callable[[], Awaitable[bool | float]], ...] = (
            self.launch, self.launch_steps.stop_next, self.watchdog.handle_event, self.watchdog.judge_exit, self.watchdog.check_stuck,
        )  # fmt: skip
        while any([await step() is True for step in steps]):
            pass

    async def hasten(self) -> None:
        """Let everything that waits for its time be due."""
        await self.store.pool.execute("UPDATE due_work SET due_at = now() - interval '1 second'")
        await self.store.pool.execute(
            "UPDATE launch_throttle SET held_until = '-infinity', no_room_until = '-infinity', next_at = '-infinity'"
        )
        await self.settle_down()

    async def scan(self, scan_id: ScanId) -> Scan:
        """The scan as it is."""
        row = await self.store.pool.fetchrow("SELECT scan_id, version, body, rest FROM manifests WHERE scan_id = $1", scan_id)
        assert row is not None
        return scan_of_row(row)

    async def codes(self, scan_id: ScanId) -> list[str]:
        """The codes of its problems, as its status shows them."""
        return [problem["code"] for problem in problems_of(await self.scan(scan_id))]

    async def events(self, scan_id: ScanId) -> list[ev.Event]:
        """What happened to it."""
        return [logged.event async for logged in history(self.store.pool, scan_id)]

    def has_job(self, scan_id: ScanId) -> bool:
        """Whether there is a Job or a Secret of this scan."""
        name = f"skyscan-{scan_id}"
        return any((kind, NAMESPACE, name) in self.cluster.objects for kind in ("jobs", "secrets"))

    async def until(self, what: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition, taking due steps meanwhile."""

        async def is_so() -> bool:
            if await what():
                return True
            await self.settle_down()
            return False

        await until(is_so, f"{what.__qualname__}", PATIENCE_S, poll_s=0.01)


def a_dispatcher(
    store: Store, cluster: Cluster, client: ApiClient, name: str = "one", instance: str = JOBS.instance, *,
    call_timeout_s: float = 15.0, **watchdog: Any,
) -> Dispatcher:  # fmt: skip
    """A replica of this name. call_timeout_s: how long its launcher waits for each answer of Kubernetes."""
    jobs = replace(JOBS, instance=instance)
    pool, uow = store.pool, store.uows["dispatcher"]
    schedule = Schedule(pool, store.notifier, holder=name)
    pending = PendingEvents()
    launcher = kubernetes_launcher(client, pending, jobs, timeout_s=call_timeout_s)
    usecases = UseCases(pool, uow)
    launch_steps = LaunchSteps(pool, uow, schedule, launcher, max_attempts=3)
    leadership = Leadership(client, namespace=NAMESPACE, name="skydriver", holder=name, lease_s=1.5, timeout_s=0.5)
    return Dispatcher(
        store=store, cluster=cluster, client=client, schedule=schedule, pending=pending, launcher=launcher, usecases=usecases,
        launch_steps=launch_steps, launch=launch_steps.new_worker(),
        watchdog=Watchdog(pool, uow, schedule, launcher, usecases, **{"result_grace": timedelta(0), **watchdog}),
        leadership=leadership,
        watch=JobInformer(client, jobs, leadership, pending, on_listed=lambda: None, timeout_s=2.0),
    )  # fmt: skip


async def set_throttle(store: Store, *, interval_s: float = 0.0, max_running: int | None = None) -> None:
    """What the settings say."""
    await statements.set_throttle_defaults(store.pool, interval_s=interval_s, max_running=max_running)
