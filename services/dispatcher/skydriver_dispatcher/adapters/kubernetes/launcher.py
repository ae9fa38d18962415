"""Creates and deletes a scan's Job and Secret; see ``ports.Launcher``.

Each call may be repeated: names are functions of the scan id, and an object of this installation that exists is a success. The Job comes
first, since it owns the Secret; its pod waits for the Secret.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import structlog
from kubernetes_asyncio.client import ApiClient, BatchV1Api, CoreV1Api, V1Job, V1Secret

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes import names
from skydriver_common.kubernetes.client import (
    AlreadyExists,
    Forbidden,
    KubernetesRejected,
    NotFound,
    QuotaExceeded,
    ResourceVersionExpired,
    kubernetes_faults,
)
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import KUBERNETES, Scan
from skydriver_dispatcher.adapters.kubernetes.list_watch import ListCall, Page, list_pages
from skydriver_dispatcher.adapters.kubernetes.tracker import POD_GRACE_S, Tracker
from skydriver_dispatcher.jobspec import JobSettings, job_of, secret_of
from skydriver_dispatcher.launcher_events import CapacityFreed, LauncherEvent, ScannerExit, ScannerStatus
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.pod_status import is_finished, scan_id_of
from skydriver_dispatcher.ports import CapacityExceeded, LaunchRejected

logger = structlog.get_logger(__name__)


class KubernetesLauncher:
    """A scanner server is a Job of this namespace.

    environment: of the scanner container, without its token. token: of one scan. timeout_s: for each call.
    """

    name = KUBERNETES
    can_restart_in_place = False

    def __init__(
        self,
        client: ApiClient,
        settings: JobSettings,
        *,
        environment: Callable[[Scan], dict[str, str]],
        token: Callable[[ScanId], str],
        events: PendingEvents,
        timeout_s: float = 15.0,
    ) -> None:
        self._jobs = BatchV1Api(client)
        self._core = CoreV1Api(client)
        self._settings = settings
        self._environment = environment
        self._token = token
        self.events = events
        self._timeout_s = timeout_s

    async def launch(self, scan: Scan) -> str:
        """Create Job and Secret unless they exist. Raises TryLater (CapacityExceeded), LaunchRejected."""
        job = job_of(scan, self._settings, self._environment(scan))
        try:
            uid = await self._create_job(scan.scan_id, job)
            secret = secret_of(scan, self._settings, job_uid=uid, token=self._token(scan.scan_id))
            await self._create_secret(scan.scan_id, secret, uid)
        except QuotaExceeded as fault:
            raise CapacityExceeded(fault.what, fault.after_s) from fault
        except KubernetesRejected as refusal:
            # an API server that has just started forbids everything until it has read its Roles
            raise LaunchRejected(refusal.reason, is_final=not isinstance(refusal, Forbidden)) from refusal
        except NotFound as fault:  # it existed a moment ago, or this is the wrong server
            raise TryLater(f"Kubernetes: {fault}", 2.0) from fault
        return names.job_name(scan.scan_id)

    async def stop(self, scan_id: ScanId) -> None:
        """Delete the scan's Job with its pods, and its Secret, if they exist. Raises TryLater.

        They are selected by labels: an object of somebody else with the same name stays.
        """
        selector = names.selector(self._settings.instance, scan_id)
        try:
            with suppress(NotFound), kubernetes_faults("delete the Job of a scan"):
                await self._jobs.delete_collection_namespaced_job(
                    self._settings.namespace, label_selector=selector, propagation_policy="Foreground",
                    _request_timeout=self._timeout_s,
                )  # fmt: skip
            with suppress(NotFound), kubernetes_faults("delete the Secret of a scan"):
                await self._core.delete_collection_namespaced_secret(
                    self._settings.namespace, label_selector=selector, _request_timeout=self._timeout_s
                )
        except KubernetesRejected as refusal:
            logger.error("kubernetes.delete-rejected", scan_id=scan_id, reason=refusal.reason)
            raise TryLater(f"cannot delete the Job: {refusal.reason}", 30.0) from refusal

    async def running_scans(self) -> dict[ScanId, bool]:
        """Return the scans with a Job that is not being deleted, and whether it has not finished. Raises TryLater."""
        running_scans: dict[ScanId, bool] = {}
        async for page in self._pages(self._jobs.list_namespaced_job):
            for job in page.items:
                scan_id = scan_id_of(job)
                if scan_id and "deletionTimestamp" not in job["metadata"]:
                    running_scans[scan_id] = not is_finished(job)
        return running_scans

    async def missing_prerequisite(self, scan_id: ScanId) -> str:
        """See ``ports.Launcher``: a pod whose Secret is gone never starts, and the cluster does not say why. Raises TryLater."""
        try:
            with kubernetes_faults("look at the Secret of a scan"):
                await self._core.read_namespaced_secret(
                    names.secret_name(scan_id), self._settings.namespace, _request_timeout=self._timeout_s
                )
        except NotFound:
            return "its Secret was deleted by someone else"
        except KubernetesRejected as refusal:
            raise TryLater(f"cannot read the scan's Secret: {refusal.reason}", 30.0) from refusal
        return ""

    async def survey(self) -> list[ScannerExit | ScannerStatus]:
        """See ``ports.Launcher``: Jobs and pods as they are now, judged as those of the watch are. Raises TryLater."""
        found: dict[str, ScannerExit | ScannerStatus] = {}
        now = 0.0

        def collect(event: LauncherEvent) -> None:
            if not isinstance(event, CapacityFreed):
                found[event.scan_id] = event

        tracker = Tracker(collect, clock=lambda: now)
        async for page in self._pages(self._jobs.list_namespaced_job):
            for job in page.items:
                tracker.observe_job(job)
        async for page in self._pages(self._core.list_namespaced_pod):
            for pod in page.items:
                tracker.observe_pod(pod)
        now = 2 * POD_GRACE_S  # whichever pods exist have been observed
        tracker.emit_overdue()
        return list(found.values())

    async def _pages(self, call: ListCall) -> AsyncIterator[Page]:
        try:
            async for page in list_pages(call, self._settings, timeout_s=self._timeout_s):
                yield page
                await asyncio.sleep(0)
        except (KubernetesRejected, ResourceVersionExpired, NotFound) as fault:
            raise TryLater(f"cannot list the Jobs and pods of this installation: {fault}", 5.0) from fault

    async def _create_job(self, scan_id: ScanId, job: V1Job) -> str:
        """Create the Job, or find the one that exists; return its uid."""
        try:
            with kubernetes_faults("create the Job of a scan"):
                created = await self._jobs.create_namespaced_job(
                    self._settings.namespace, job, field_validation="Strict", _request_timeout=self._timeout_s
                )
        except AlreadyExists:
            with kubernetes_faults("look at the Job of a scan"):
                created = await self._jobs.read_namespaced_job(
                    names.job_name(scan_id), self._settings.namespace, _request_timeout=self._timeout_s
                )
            self._check_owner(created, scan_id, "Job")
            if created.metadata.deletion_timestamp is not None:
                raise TryLater("the scan's former Job is still being deleted", 5.0) from None
        return str(created.metadata.uid)

    async def _create_secret(self, scan_id: ScanId, secret: V1Secret, job_uid: str) -> None:
        try:
            with kubernetes_faults("create the Secret of a scan"):
                await self._core.create_namespaced_secret(
                    self._settings.namespace, secret, field_validation="Strict", _request_timeout=self._timeout_s
                )
        except AlreadyExists:
            with kubernetes_faults("look at the Secret of a scan"):
                found = await self._core.read_namespaced_secret(
                    names.secret_name(scan_id), self._settings.namespace, _request_timeout=self._timeout_s
                )
            self._check_owner(found, scan_id, "Secret")
            if any(owner.uid == job_uid for owner in found.metadata.owner_references or ()):
                return
            # of a previous Job of this scan: the garbage collector would delete it although the new Job needs it
            with kubernetes_faults("delete the Secret of a scan"):
                await self._core.delete_namespaced_secret(
                    names.secret_name(scan_id), self._settings.namespace, _request_timeout=self._timeout_s
                )
            raise TryLater("the scan's former Secret had to go first", 1.0) from None

    def _check_owner(self, found: V1Job | V1Secret, scan_id: ScanId, kind: str) -> None:
        labels = found.metadata.labels or {}
        if labels.get(names.SCAN_ID_LABEL) != scan_id or labels.get(names.INSTANCE_LABEL) != self._settings.instance:
            raise LaunchRejected(f"there is a {kind} {found.metadata.name} which is not ours")
