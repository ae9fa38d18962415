"""EWMS's background work: activation, launch, submission, removal, status reports. Source: EWMS contract 8, 9, 10.

Each loop does one small step, sleeps its delay, and waits for a notification when there is nothing to do, so that an idle
stand-in costs nothing.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from skydriver_sandbox.ewms import workflows
from skydriver_sandbox.ewms.broker import Access, Broker, BrokerRefusedError
from skydriver_sandbox.ewms.faults import Faults
from skydriver_sandbox.ewms.settings import Delays
from skydriver_sandbox.ewms.store import Store, Tx
from skydriver_sandbox.ewms.tokens import Issuer
from skydriver_sandbox.ewms.workflows import change_phase

log = logging.getLogger("sandbox.ewms")
_SUBMIT_TRIES = 3
_JOBS_AT_A_TIME = 1000
_TOP_ERRORS = 10


class Notifier:
    """Wakes loops that wait for something to do; a notification before the wait counts."""

    def __init__(self) -> None:
        self._events: list[asyncio.Event] = []

    def listener(self) -> asyncio.Event:
        event = asyncio.Event()
        self._events.append(event)
        return event

    def notify(self) -> None:
        for event in self._events:
            event.set()


class Phases:
    """Walks taskforces through their phases."""

    def __init__(
        self, store: Store, broker: Broker, issuer: Issuer, delays: Delays, faults: Faults, notifier: Notifier
    ) -> None:
        self._issuer = issuer
        self._ending: set[asyncio.Task[None]] = set()
        self._store = store
        self._broker = broker
        self._delays = delays
        self._faults = faults
        self._notifier = notifier

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forever("activation", self._activate, self._delays.activation_s))
            group.create_task(self._forever("launch", self._launch, self._delays.launch_s))
            group.create_task(self._forever("submission", self._submit, self._delays.submit_s))
            group.create_task(self._forever("status", self._report, self._delays.status_s))

    async def _forever(self, name: str, step: Callable[[], Awaitable[bool]], delay_s: float) -> None:
        event = self._notifier.listener()
        while True:
            await asyncio.sleep(delay_s)
            event.clear()
            try:
                is_busy = await step()
            except BrokerRefusedError as error:
                # Like upstream: this workflow stays first in line and all others wait behind it.
                log.warning("%s: %s", name, error)
                is_busy = True
            if is_busy:
                self._notifier.notify()
            else:
                await event.wait()

    async def _activate(self) -> bool:
        """One workflow: its queues handed out, its taskforces to `pre-launch`."""
        if self._faults.activation_stuck:
            # Nobody rings when the switch is put back; look again after the usual delay.
            return True
        race = self._faults.activation_race
        workflow_id = await self._store.run(lambda tx: workflows.next_to_activate(tx, also_stopped=race))
        if workflow_id is None:
            return False
        profiles = await self._store.run(lambda tx: tx.profiles(workflow_id))
        # Workers added later get the tokens that are out already (EWMS contract 7).
        is_new = not all(profile["is_activated"] for profile in profiles)
        access = await self._grant(workflow_id, [profile["mqid"] for profile in profiles]) if is_new else None
        await self._store.run(lambda tx: workflows.activate(tx, workflow_id, access, whatever_phase=race))
        return True

    async def _grant(self, workflow_id: str, mqids: list[str]) -> Access:
        lifetime_s = self._faults.queue_token_lifetime_s
        if lifetime_s is None:
            return await self._broker.grant(workflow_id, mqids)
        access = await self._broker.grant(
            workflow_id, mqids, password=self._issuer.queue_token(workflow_id, mqids, lifetime_s)
        )  # fmt: skip
        ending = asyncio.create_task(self._end_access(workflow_id, mqids, lifetime_s))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return access

    async def _end_access(self, workflow_id: str, mqids: list[str], after_s: float) -> None:
        """Who connects later is refused; who is connected stays, as with RabbitMQ's tokens until they are renewed."""
        await asyncio.sleep(after_s)
        try:
            await self._broker.grant(workflow_id, mqids)
        except BrokerRefusedError as error:
            log.warning("access to the queues of %s could not be ended: %s", workflow_id, error)

    async def _launch(self) -> bool:
        """One taskforce: `pre-launch` to `pending-starter`."""

        def step(tx: Tx) -> bool:
            waiting = tx.taskforces(phases=("pre-launch",))
            if waiting:
                change_phase(waiting[0], "pending-starter", "WMS", "launched")
                tx.save_taskforce(waiting[0])
            return bool(waiting)

        return await self._store.run(step)

    async def _submit(self) -> bool:
        """What a submitter does per look: submit all that wait, remove all that must stop, close what has ended."""

        def step(tx: Tx) -> bool:
            changed = False
            for taskforce in tx.taskforces(phases=("pending-starter",)):
                changed |= self._submit_one(tx, taskforce)
            for taskforce in tx.taskforces(phases=("pending-stopper",)):
                # Never submitted: it stays as it is for ever, as with EWMS.
                if taskforce["cluster_id"] is not None:
                    change_phase(taskforce, "condor-rm", "TMS", "removed on request")
                    tx.execute(
                        "UPDATE jobs SET status = 'REMOVED' WHERE taskforce_uuid = ? AND status IN ('IDLE', 'RUNNING')",
                        taskforce["taskforce_uuid"],
                    )
                    tx.save_taskforce(taskforce)
                    changed = True
            for taskforce in tx.taskforces(phases=("condor-submit",)):
                changed |= make_jobs(tx, taskforce)
            for taskforce in tx.taskforces(phases=("condor-submit", "condor-rm")):
                changed |= _close_ended(tx, taskforce)
            return changed

        return await self._store.run(step)

    def _submit_one(self, tx: Tx, taskforce: dict[str, Any]) -> bool:
        tried = sum(
            1
            for entry in taskforce["phase_change_log"]
            if entry["target_phase"] == "condor-submit" and not entry["was_successful"]
        )
        if tried >= _SUBMIT_TRIES:
            return False
        if tried or self._faults.take("submissions_fail"):
            context = "ERROR: the sandbox was told to let this submission fail"
            change_phase(taskforce, "condor-submit", "TMS", context, was_successful=False)
            tx.save_taskforce(taskforce)
            return True
        uuid, wanted = taskforce["taskforce_uuid"], max(0, taskforce["n_workers"] or 0)
        # From the row's own number: documents may hold NaN, which SQLite's JSON functions refuse.
        cluster_id = tx.execute("SELECT seq + 1000 FROM taskforces WHERE taskforce_uuid = ?", uuid).fetchone()[0]
        taskforce |= {
            "cluster_id": cluster_id,
            "n_workers": wanted,
            "submit_dict": {"universe": "local process", "queue": str(wanted)},
            "job_event_log_fpath": f"sandbox/{uuid}.log",
        }
        change_phase(taskforce, "condor-submit", "TMS", "submitted")
        tx.save_taskforce(taskforce)
        make_jobs(tx, taskforce)
        return True

    async def _report(self) -> bool:
        """Write the jobs' statuses into their taskforces, where they have changed."""

        def step(tx: Tx) -> bool:
            for taskforce in tx.taskforces(phases=("condor-submit", "condor-rm")):
                statuses, errors = counts(tx, taskforce)
                if (statuses, errors) != (taskforce["compound_statuses"], taskforce["top_task_errors"]):
                    taskforce |= {"compound_statuses": statuses, "top_task_errors": errors}
                    tx.save_taskforce(taskforce)
            return False

        return await self._store.run(step)


def _close_ended(tx: Tx, taskforce: dict[str, Any]) -> bool:
    """`condor-complete` for a taskforce with no job left to run."""
    left = tx.execute(
        "SELECT count(*) FROM jobs WHERE taskforce_uuid = ? AND status IN ('IDLE', 'RUNNING')", taskforce["taskforce_uuid"]
    ).fetchone()[0]
    if left or (taskforce["phase"] == "condor-submit" and _unmade(tx, taskforce)):
        return False
    # The last counts stay; nobody looks at this taskforce's jobs again.
    statuses, errors = counts(tx, taskforce)
    change_phase(taskforce, "condor-complete", "TMS", "no jobs left", source_event_time=time.time())
    taskforce |= {"compound_statuses": statuses, "top_task_errors": errors}
    tx.save_taskforce(taskforce)
    return True


def _unmade(tx: Tx, taskforce: dict[str, Any]) -> int:
    """How many of its jobs have no row yet."""
    made = tx.execute("SELECT count(*) FROM jobs WHERE taskforce_uuid = ?", taskforce["taskforce_uuid"]).fetchone()[0]
    return max(0, int(taskforce["n_workers"] or 0) - int(made))


def make_jobs(tx: Tx, taskforce: dict[str, Any]) -> bool:
    """Rows for the next jobs, when few of the last ones still wait: a request for 10⁹ workers does not write 10⁹ rows."""
    uuid = taskforce["taskforce_uuid"]
    waiting = tx.execute("SELECT count(*) FROM jobs WHERE taskforce_uuid = ? AND status = 'IDLE'", uuid).fetchone()[0]
    left = _unmade(tx, taskforce)
    if not left or waiting > _JOBS_AT_A_TIME // 2:
        return False
    first = int(taskforce["n_workers"]) - left
    tx.executemany(
        "INSERT INTO jobs (job_id, taskforce_uuid, status) VALUES (?, ?, 'IDLE')",
        [(f"{uuid}.{number}", uuid) for number in range(first, first + min(left, _JOBS_AT_A_TIME))],
    )
    return True


def counts(tx: Tx, taskforce: dict[str, Any]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """(compound_statuses, top_task_errors) of a submitted taskforce, from its jobs. Source: EWMS contract 10.

    Jobs without a row wait like those that have one, or are removed with them.
    """
    uuid = taskforce["taskforce_uuid"]
    statuses: dict[str, dict[str, int]] = {}
    rows = tx.execute(
        "SELECT status, pilot_status, count(*) AS n FROM jobs WHERE taskforce_uuid = ? GROUP BY status, pilot_status", uuid
    )
    for row in rows:
        statuses.setdefault(row["status"], {})[row["pilot_status"]] = row["n"]
    if unmade := _unmade(tx, taskforce):
        among = statuses.setdefault("IDLE" if taskforce["phase"] == "condor-submit" else "REMOVED", {})
        among["null"] = among.get("null", 0) + unmade
    errors = tx.execute(
        "SELECT error, count(*) AS n FROM jobs WHERE taskforce_uuid = ? AND error IS NOT NULL"
        " GROUP BY error ORDER BY n DESC, error LIMIT ?",
        uuid,
        _TOP_ERRORS,
    )
    return statuses, {row["error"]: row["n"] for row in errors}
