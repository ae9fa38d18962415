"""Watches the Jobs and Pods of this installation while this replica leads, and passes on what changes as events.

Each kind is listed once and then watched from the list's version on. A watch that ends is resumed where it was; only when the API
has forgotten that version (410) is everything listed again. What a list does not show any more counts as deleted.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing

import structlog
from kubernetes_asyncio.client import ApiClient, BatchV1Api, CoreV1Api

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes.client import KubernetesRejected, NotFound, ResourceVersionExpired
from skydriver_common.runtime.loops import wait_or_timeout
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from skydriver_dispatcher.adapters.kubernetes.list_watch import (
    FAILED_CREATIONS,
    SILENCE_S,
    ListCall,
    changes,
    installation_selector,
    list_pages,
)
from skydriver_dispatcher.adapters.kubernetes.tracker import Tracker
from skydriver_dispatcher.jobspec import JobSettings
from skydriver_dispatcher.pending_events import PendingEvents

logger = structlog.get_logger(__name__)

_MAX_PAUSE_S = 10.0
_OVERDUE_PERIOD_S = 1.0


class JobInformer:
    """``run`` it as a root task. pending: gets the events. on_listed: called when all is listed again, to compare database and Jobs."""

    def __init__(
        self,
        client: ApiClient,
        settings: JobSettings,
        leadership: Leadership,
        pending: PendingEvents,
        *,
        on_listed: Callable[[], None],
        timeout_s: float = 15.0,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._settings = settings
        self._leadership = leadership
        self._pending = pending
        self._on_listed = on_listed
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._jobs: ListCall = BatchV1Api(client).list_namespaced_job
        self._pods: ListCall = CoreV1Api(client).list_namespaced_pod
        self._events: ListCall = CoreV1Api(client).list_namespaced_event
        self.tracker = Tracker(pending.put)

    async def run(self, stopping: asyncio.Event) -> None:
        """Lead when possible and watch while leading, until the stop; then release the lease.

        A leader whose renewal is late for a while keeps its watches: nothing is missed while nobody else has led.
        """
        watching: list[asyncio.Task[None]] = []
        term = self._leadership.term
        try:
            while not stopping.is_set():
                pause_s = await self._renew()
                if watching and (self._leadership.is_elsewhere or self._leadership.term != term):
                    watching = await self._stop_watching(watching)
                if self._leadership.leads and not watching:
                    term, watching = self._leadership.term, self._start()
                for task in watching:
                    if task.done():
                        task.result()  # a bug: it ends the service
                await wait_or_timeout(stopping, pause_s)
        finally:
            await self._stop_watching(watching)
            await self._leadership.release()

    async def _renew(self) -> float:
        try:
            return await self._leadership.renew()
        except TryLater as fault:
            logger.warning("lease.unavailable", what=fault.what, leads=self._leadership.leads)
            return max(1.0, fault.after_s)

    def _start(self) -> list[asyncio.Task[None]]:
        self.tracker = Tracker(self._pending.put)
        return [
            asyncio.create_task(self._follow("jobs", self._jobs)),
            asyncio.create_task(self._follow("pods", self._pods)),
            asyncio.create_task(self._follow("rejections", self._events)),
            asyncio.create_task(self._emit_overdue()),
        ]

    async def _stop_watching(self, watching: list[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        if watching:
            self._pending.clear()
        return []

    async def _follow(self, kind: str, call: ListCall) -> None:
        """List, watch and resume, for ever. Errors are logged, and tried again after a pause."""
        version: str | None = None
        failures = 0
        while True:
            try:
                if version is None:
                    version = await self._list(kind, call)
                async with aclosing(
                    changes(
                        call,
                        self._settings,
                        version,
                        timeout_s=self._timeout_s,
                        silence_s=self._silence_s,
                        selection=self._selection(kind),
                    )
                ) as stream:
                    async for change in stream:
                        failures = 0
                        version = change.resource_version
                        self._observe(kind, change.type, change.item)
                failures, pause_s = 0, random.uniform(0.0, 0.5)  # noqa: S311  (spreads reconnects, no secret)
            except ResourceVersionExpired:
                failures += 1  # a list that is too old at once must not be followed by the next one at once
                version, pause_s = None, _pause_s(failures)
                logger.info("watch.expired", kind=kind, again_in_s=round(pause_s, 2))
            except (TryLater, KubernetesRejected, NotFound) as fault:
                failures += 1
                pause_s = max(_pause_s(failures), fault.after_s if isinstance(fault, TryLater) else 0.0)
                logger.warning("watch.interrupted", kind=kind, what=str(fault), again_in_s=round(pause_s, 2))
            await asyncio.sleep(pause_s)

    async def _list(self, kind: str, call: ListCall) -> str:
        version = ""
        found: list[str] = []
        async for page in list_pages(call, self._settings, timeout_s=self._timeout_s, selection=self._selection(kind)):
            version = page.resource_version
            for item in page.items:
                found.append(item["metadata"]["uid"])
                self._observe(kind, "LISTED", item)
            await asyncio.sleep(0)
        self.tracker.observe_list(kind, set(found))
        logger.info("watch.listed", kind=kind, objects=len(found))
        if kind == "jobs":
            self._on_listed()
        return version

    def _selection(self, kind: str) -> dict[str, str]:
        return FAILED_CREATIONS if kind == "rejections" else installation_selector(self._settings)

    def _observe(self, kind: str, change: str, item: dict[str, object]) -> None:
        if change == "BOOKMARK":
            return
        if kind == "jobs":
            self.tracker.observe_job(item, is_gone=change == "DELETED")
        elif kind == "rejections":
            self.tracker.observe_rejection(item, is_gone=change == "DELETED")
        else:
            self.tracker.observe_pod(item, is_gone=change == "DELETED")

    async def _emit_overdue(self) -> None:
        while True:
            await asyncio.sleep(_OVERDUE_PERIOD_S)
            self.tracker.emit_overdue()


def _pause_s(failures: int) -> float:
    """Return the jittered pause after so many failures without a success."""
    return min(_MAX_PAUSE_S, 0.25 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  (jitter, no secret)
