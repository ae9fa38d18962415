"""The compute pool: jobs as local processes, at most so many at a time. Source: EWMS contract 9, 10, 11.

Like HTCondor it starts a job again that was killed or evicted, and like EWMS it never replaces one that ended by itself.
Slots go to the workflow with the fewest running workers. When all are taken and a workflow has none, one is freed: a
worker without work, or one of a workflow that has several.
"""

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skydriver_sandbox.ewms.errors import AUTHENTICATION_FAILED, RestError
from skydriver_sandbox.ewms.faults import Faults
from skydriver_sandbox.ewms.phases import Notifier
from skydriver_sandbox.ewms.settings import Delays
from skydriver_sandbox.ewms.store import Store, Tx
from skydriver_sandbox.processes import end_leftover, write_identity
from skydriver_sandbox.worker.job import JITTER_VARIABLE, JOB_VARIABLE, MEAN_VARIABLE, PREFETCH_VARIABLE

log = logging.getLogger("sandbox.ewms")
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_SETTINGS_PASSED_ON = (MEAN_VARIABLE, JITTER_VARIABLE, PREFETCH_VARIABLE)
_LOOK_EVERY_S = 0.5
_GRACE_S = 3.0
_MAX_RESTART_PAUSE_S = 10.0
_SATED_S = 30.0
_KEPT_LOGS = 200
PILOT_STATUSES = frozenset(
    {"Started", "RunningInitCommand", "AwaitingFirstMessage", "Tasking", "PendingRemainingTasks", "FatalError", "Done"}
)


@dataclass
class Worker:
    """A running process. busy_at: when it last finished a task (or started), monotonic seconds."""

    job_id: str
    workflow_id: str
    token: str
    process: asyncio.subprocess.Process
    identity: Path
    status: str = "null"
    done: int = 0
    busy_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.monotonic)
    is_ending: bool = False


@dataclass(frozen=True)
class _Waiting:
    job_id: str
    taskforce_uuid: str
    workflow_id: str


class Pool:
    """Runs until cancelled; then all its processes are ended and their jobs wait for the next life."""

    def __init__(
        self, store: Store, folder: Path, max_workers: int, delays: Delays, faults: Faults, notifier: Notifier, report_base: str
    ) -> None:
        self._store = store
        self._folder = folder
        self._max_workers = max_workers
        self._delays = delays
        self._faults = faults
        self._notifier = notifier
        self._report_base = report_base
        self._workers: dict[str, Worker] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._restarts: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._sated_until: dict[str, float] = {}

    async def recover(self) -> None:
        """After a crash of this process: end workers that outlived it, let their jobs wait again."""
        for path in await asyncio.to_thread(lambda: sorted(self._folder.glob("*.pid.json"))):
            if await asyncio.to_thread(end_leftover, path):
                log.warning("ended a worker left by an earlier life: %s", path.name)
        await self._store.run(lambda tx: tx.execute("UPDATE jobs SET status = 'IDLE' WHERE status = 'RUNNING'"))

    async def run(self) -> None:
        event = self._notifier.listener()
        try:
            while True:
                event.clear()
                starving = await self._step()
                try:
                    # With someone starving, time itself may bring a change: a worker runs out of work.
                    async with asyncio.timeout(_LOOK_EVERY_S if starving else None):
                        await event.wait()
                except TimeoutError:
                    continue
        finally:
            await self._stop()

    async def _step(self) -> bool:
        """End what was removed, start what waits; True while a job waits that could not be started."""
        removed, waiting = await self._store.run(lambda tx: _removed_and_waiting(tx, self._max_workers))
        for worker in self._workers.values():
            if worker.job_id in removed:
                self._end(worker)
        now = time.monotonic()
        ready = [job for job in waiting if job.job_id not in self._workers and self._not_before.get(job.job_id, 0.0) <= now]
        while ready and len(self._workers) < self._max_workers:
            # Stable: among equals the most urgent taskforce's oldest job, as the store lists them. One whose worker was just
            # taken for want of work comes after those who want one, else it would get the same place back.
            job = min(ready, key=lambda job: (self._is_sated(job.workflow_id, now), self._running_of(job.workflow_id)))
            ready.remove(job)
            await self._start(job)
        self._make_place({job.workflow_id for job in ready})
        return bool(waiting)

    def _is_sated(self, workflow_id: str, now: float) -> bool:
        return self._sated_until.get(workflow_id, 0.0) > now

    def _running_of(self, workflow_id: str) -> int:
        return sum(1 for worker in self._workers.values() if worker.workflow_id == workflow_id)

    def _make_place(self, wanting: set[str]) -> None:
        """Evict one worker if a workflow has none: one that has had no work for a while, else one of several."""
        now = time.monotonic()
        starving = {
            workflow_id for workflow_id in wanting if not self._running_of(workflow_id) and not self._is_sated(workflow_id, now)
        }
        is_under_way = any(worker.is_ending for worker in self._workers.values())
        if not starving or is_under_way:
            return
        before = now - self._delays.eviction_s
        idle = [worker for worker in self._workers.values() if worker.busy_at < before]
        spare = [
            worker
            for worker in self._workers.values()
            if worker.started_at < before and self._running_of(worker.workflow_id) > 1
        ]
        if not idle and not spare:
            return
        victim = min(idle or spare, key=lambda worker: worker.busy_at)
        if idle:
            # It had nothing to do: let it not fight its way back at once.
            self._sated_until[victim.workflow_id] = now + _SATED_S
        log.info("evicting %s: another workflow has no worker", victim.job_id)
        self._end(victim)

    async def _start(self, job: _Waiting) -> None:
        order = await self._store.run(lambda tx: _order(tx, job))
        token = secrets.token_urlsafe(16)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {name: os.environ[name] for name in (*_PASSED_ON, *_SETTINGS_PASSED_ON) if name in os.environ}
        environment[JOB_VARIABLE] = json.dumps(
            {
                **order,
                "report_url": f"{self._report_base}/{job.job_id}/report",
                "report_token": token,
                "parent_pid": os.getpid(),
                "faults": self._faults.as_json()["worker"],
            }
        )
        await asyncio.to_thread(_forget_old_logs, self._folder)
        with (self._folder / f"{job.job_id}.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "skydriver_sandbox.worker",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        identity = self._folder / f"{job.job_id}.pid.json"
        write_identity(identity, process.pid)
        worker = Worker(job.job_id, job.workflow_id, token, process, identity)
        self._workers[job.job_id] = worker
        await self._store.run(lambda tx: _set_status(tx, job.job_id, "RUNNING"))
        watcher = asyncio.create_task(self._watch(worker))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        self._notifier.notify()

    def _end(self, worker: Worker) -> None:
        """Ask a process to go, and make it go if it does not."""
        if worker.is_ending or worker.process.returncode is not None:
            return
        worker.is_ending = True
        worker.process.terminate()
        asyncio.get_running_loop().call_later(_GRACE_S, _kill, worker.process)

    async def _watch(self, worker: Worker) -> None:
        code = await worker.process.wait()
        worker.identity.unlink(missing_ok=True)
        was_taken_away = worker.is_ending or code < 0 or code == 128 + signal.SIGTERM
        if was_taken_away:
            restarts = self._restarts[worker.job_id] = self._restarts.get(worker.job_id, -1) + 1
            pause_s = min(_MAX_RESTART_PAUSE_S, 0.5 * 2**restarts) if not worker.is_ending else 0.0
            self._not_before[worker.job_id] = time.monotonic() + pause_s
        await self._store.run(lambda tx: _ended(tx, worker.job_id, code, was_taken_away=was_taken_away))
        self._workers.pop(worker.job_id, None)
        self._notifier.notify()

    async def report(self, job_id: str, token: str, status: str, error: str | None, done: int) -> None:
        """Enter what a worker says of itself. Raises RestError 403 for anyone else."""
        worker = self._workers.get(job_id)
        if worker is None or not secrets.compare_digest(worker.token.encode(), token.encode()):
            raise RestError(403, AUTHENTICATION_FAILED)
        if done > worker.done:
            worker.done, worker.busy_at = done, time.monotonic()
            self._restarts.pop(job_id, None)
        if status != worker.status or error is not None:
            worker.status = status
            await self._store.run(lambda tx: _set_pilot(tx, job_id, status, error))
            self._notifier.notify()

    async def _stop(self) -> None:
        for worker in self._workers.values():
            self._end(worker)
        if self._watchers:
            await asyncio.wait(set(self._watchers), timeout=_GRACE_S + 2)


def _forget_old_logs(folder: Path) -> None:
    """Keep the newest logs only: an installation may run for months."""
    logs = list(folder.glob("*.log"))
    if len(logs) > _KEPT_LOGS:
        for path in sorted(logs, key=lambda path: path.stat().st_mtime)[:-_KEPT_LOGS]:
            path.unlink(missing_ok=True)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _removed_and_waiting(tx: Tx, limit: int) -> tuple[set[str], list[_Waiting]]:
    """Ids of jobs that must not run (any more), and jobs that may start: the most urgent taskforces first."""
    removed: set[str] = set()
    for taskforce in tx.taskforces(phases=("condor-rm",)):
        rows = tx.execute("SELECT job_id FROM jobs WHERE taskforce_uuid = ?", taskforce["taskforce_uuid"])
        removed.update(row["job_id"] for row in rows)
    waiting: list[_Waiting] = []
    for taskforce in tx.taskforces(phases=("condor-submit",)):
        uuid = taskforce["taskforce_uuid"]
        rows = tx.execute(
            "SELECT job_id FROM jobs WHERE taskforce_uuid = ? AND status = 'IDLE' ORDER BY seq LIMIT ?", uuid, limit
        )
        waiting += [_Waiting(row["job_id"], uuid, taskforce["workflow_id"]) for row in rows]
    return removed, waiting


def _order(tx: Tx, job: _Waiting) -> dict[str, Any]:
    """What a worker must know of its task: queues, download, pilot settings."""
    taskforce, profiles = tx.taskforce(job.taskforce_uuid), tx.profiles(job.workflow_id)
    directive = tx.directive(taskforce["task_id"]) if taskforce else None
    if taskforce is None or directive is None:
        raise LookupError(f"job {job.job_id} has no taskforce or directive")

    def profile(mqids: list[str]) -> dict[str, Any] | None:
        found = next((entry for entry in profiles if entry["mqid"] in mqids), None)
        fields = ("auth_token", "broker_type", "broker_address")
        return None if found is None else {"name": found["mqid"], **{name: found[name] for name in fields}}

    return {
        "init_args": directive["init_args"],
        "task_env": directive["task_env"],
        "pilot_env": taskforce["pilot_config"]["environment"],
        "queue_in": profile(directive["input_queues"]),
        "queue_out": profile(directive["output_queues"]),
    }


def _set_status(tx: Tx, job_id: str, status: str) -> None:
    tx.execute("UPDATE jobs SET status = ? WHERE job_id = ? AND status <> 'REMOVED'", status, job_id)


def _set_pilot(tx: Tx, job_id: str, status: str, error: str | None) -> None:
    tx.execute("UPDATE jobs SET pilot_status = ?, error = coalesce(?, error) WHERE job_id = ?", status, error, job_id)


def _ended(tx: Tx, job_id: str, code: int, *, was_taken_away: bool) -> None:
    """A job whose process was evicted waits again; one that ended is complete, with an error unless it exited with 0."""
    if was_taken_away:
        _set_status(tx, job_id, "IDLE")
        return
    _set_status(tx, job_id, "COMPLETED")
    if code != 0:
        tx.execute(
            "UPDATE jobs SET pilot_status = 'FatalError', error = coalesce(error, ?) WHERE job_id = ?",
            f"the worker ended with exit code {code}",
            job_id,
        )
