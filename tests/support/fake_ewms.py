"""EWMS in memory, behind the bridge's own port: its rules about workflows, its races, and faults on demand.

It is there for histories that HTTP would make slow: thousands of steps with a fault at any of them. What travels over HTTP is
tested against the strict sandbox and against `unruly_ewms`.
"""

import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.ewms_types import Json, QueueProfile, TaskDirective, Taskforce, Workflow, WorkflowSpec
from skydriver_ewms_bridge.ports import (
    EwmsNotFound,
    EwmsRejected,
    EwmsRejectedForNow,
    OnUnreadable,
    OutcomeUnknown,
    WorkflowEnded,
)

T = TypeVar("T")

AWAY = "away"
"""The call does nothing and says so."""
LOST = "lost"
"""The call does its work; the answer is lost."""
LATE = "late"
"""The answer is lost, and the work is done later: at `come_true`."""
NOTHING = "nothing"
"""The answer is lost, and nothing was done."""
CRASH_BEFORE = "crash-before"
"""The caller's process ends before the call."""
CRASH_AFTER = "crash-after"
"""The call does its work; the caller's process ends before it hears of it."""


class Crash(BaseException):
    """The end of a process as its own code sees it: nothing catches it."""


@dataclass
class FakeEwms:
    """The port `Ewms`.

    Put words of the above into `faults` to strike the next calls (None: no fault), or into `struck` to strike the next call of
    one kind. unreadable: uuids of taskforces that are not what the contract promises.
    """

    instance: str = "test"
    faults: deque[str | None] = field(default_factory=deque)
    struck: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    workflows: dict[str, Workflow] = field(default_factory=dict)
    specs: dict[str, WorkflowSpec] = field(default_factory=dict)
    directives: dict[str, list[TaskDirective]] = field(default_factory=dict)
    taskforces: dict[str, list[Taskforce]] = field(default_factory=dict)
    activated: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    refuses: str = ""
    refuses_for_now: str = ""
    pending: list[Callable[[], object]] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def come_true(self) -> None:
        """Do the work of requests whose answers were lost "late"."""
        pending, self.pending = self.pending, []
        for work in pending:
            work()

    def live(self) -> list[str]:
        """Ids of workflows that are not stopped."""
        return [w.workflow_id for w in self.workflows.values() if w.deactivated is None]

    def report(self, workflow_id: str, **changes: Any) -> None:
        """Let the workflow's first taskforce report something else."""
        self.taskforces[workflow_id][0] = replace(self.taskforces[workflow_id][0], **changes)

    async def ping(self) -> None:
        self._strike("ping")

    async def find_workflows_of(self, scan_id: ScanId, since: float) -> tuple[Workflow, ...]:
        self._strike("find")
        return tuple(w for w in self.workflows.values() if self._scan_of(w) == scan_id and w.timestamp >= since)

    async def create_workflow(self, spec: WorkflowSpec) -> Workflow:
        return self._make("create", "create workflow", lambda: self._create(spec))

    async def get_workflow(self, workflow_id: str) -> Workflow:
        self._strike("get")
        return self._known(workflow_id)

    async def get_workflows(
        self, workflow_ids: Collection[str], *, on_unreadable: OnUnreadable | None = None
    ) -> tuple[Workflow, ...]:
        self._strike("get-many")
        return tuple(self.workflows[w] for w in workflow_ids if w in self.workflows)

    async def queue_profiles(self, workflow_id: str) -> tuple[QueueProfile, ...]:
        self._strike("profiles")
        if workflow_id not in self.workflows:
            return ()
        is_on = workflow_id in self.activated
        rest = ("queue-password", "rabbitmq", "user@127.0.0.1:5672") if is_on else (None, None, None)
        aliases = ("from-client-queue", "to-client-queue")
        return tuple(QueueProfile(f"a{workflow_id}{alias}", alias, is_on, *rest) for alias in aliases)

    async def waiting_for_queues(self) -> tuple[Taskforce, ...]:
        self._strike("waiting")
        return tuple(t for ts in self.taskforces.values() for t in ts if t.phase == "pre-mq-activation")

    async def abort(self, workflow_id: str) -> None:
        self._stop("abort", workflow_id, "ABORTED")

    async def finish(self, workflow_id: str) -> None:
        self._stop("finish", workflow_id, "FINISHED")

    async def find_taskforces(
        self, workflow_ids: Collection[str], *, on_unreadable: OnUnreadable | None = None
    ) -> AsyncIterator[Sequence[Taskforce]]:
        self._strike("taskforces")
        for workflow_id in workflow_ids:
            readable = [t for t in self.taskforces.get(workflow_id, []) if t.taskforce_uuid not in self.unreadable]
            for _ in range(len(self.taskforces.get(workflow_id, [])) - len(readable)):
                if on_unreadable is None:
                    raise TryLater("EWMS sent a response that cannot be parsed")
                on_unreadable(workflow_id)
            yield readable

    async def raw_taskforces(self, workflow_id: str) -> AsyncIterator[Sequence[dict[str, Json]]]:
        self._strike("raw")
        yield [{"taskforce_uuid": t.taskforce_uuid, "n_workers": t.n_workers} for t in self.taskforces.get(workflow_id, [])]

    async def task_directives(self, workflow_id: str) -> tuple[TaskDirective, ...]:
        self._strike("directives")
        return tuple(self.directives.get(workflow_id, []))

    async def add_workers(self, task_id: str, cluster_location: str, n_workers: int) -> Taskforce:
        return self._make("add", "add workers", lambda: self._add(task_id, n_workers))

    def _create(self, spec: WorkflowSpec) -> Workflow:
        if self.refuses:
            raise EwmsRejected(self.refuses)
        if self.refuses_for_now:
            raise EwmsRejectedForNow(self.refuses_for_now)
        workflow_id, now = f"WF-{next(self._numbers):04d}", time.time()
        workflow = Workflow(workflow_id, now)
        self.workflows[workflow_id] = workflow
        self.specs[workflow_id] = spec
        self.directives[workflow_id], self.taskforces[workflow_id] = [], []
        tasks = spec["tasks"]
        assert isinstance(tasks, list)
        for number, task in enumerate(tasks):
            assert isinstance(task, dict)
            locations, n_workers = task["cluster_locations"], task["n_workers"]
            assert isinstance(locations, list)
            assert isinstance(n_workers, int)
            task_id = f"TK-{workflow_id}-{number}"
            self.directives[workflow_id].append(TaskDirective(task_id, workflow_id, now, tuple(map(str, locations))))
            self._new_taskforce(workflow_id, task_id, n_workers)
        return workflow

    def _add(self, task_id: str, n_workers: int) -> Taskforce:
        for workflow_id, directives in self.directives.items():
            if task_id in (d.task_id for d in directives):
                if self.workflows[workflow_id].deactivated is not None:
                    raise WorkflowEnded
                if self.refuses:
                    raise EwmsRejected(self.refuses)
                return self._new_taskforce(workflow_id, task_id, n_workers)
        raise EwmsNotFound

    def _new_taskforce(self, workflow_id: str, task_id: str, n_workers: int) -> Taskforce:
        uuid = f"TF-{next(self._numbers):04d}"
        taskforce = Taskforce(uuid, task_id, workflow_id, time.time(), n_workers, "pre-mq-activation")
        self.taskforces[workflow_id].append(taskforce)
        return taskforce

    def _stop(self, call: str, workflow_id: str, label: str) -> None:
        fault = self._strike(call)
        workflow = self._known(workflow_id)
        if workflow.deactivated is not None:
            raise EwmsNotFound
        if fault != NOTHING:
            self.workflows[workflow_id] = replace(workflow, deactivated=label)
            self.taskforces[workflow_id] = [replace(t, phase="pending-stopper") for t in self.taskforces[workflow_id]]
        if fault == CRASH_AFTER:
            raise Crash
        if fault in (LOST, LATE, NOTHING):
            raise TryLater("EWMS did not respond")

    def _make(self, call: str, what: str, work: Callable[[], T]) -> T:
        fault = self._strike(call)
        if fault == LATE:
            self.pending.append(work)
        elif fault != NOTHING:
            made = work()
            if fault == CRASH_AFTER:
                raise Crash
            if fault is None:
                return made
        raise OutcomeUnknown(what)

    def _strike(self, call: str) -> str | None:
        self.calls.append(call)
        fault = self.struck.pop(call, None) or (self.faults.popleft() if self.faults else None)
        if fault == CRASH_BEFORE or (fault == CRASH_AFTER and call not in ("create", "add", "abort", "finish")):
            raise Crash
        if fault == AWAY or (fault is not None and call not in ("create", "add", "abort", "finish")):
            raise TryLater("EWMS is not reachable")
        return fault

    def _known(self, workflow_id: str) -> Workflow:
        if workflow_id not in self.workflows:
            raise EwmsNotFound
        return self.workflows[workflow_id]

    def _scan_of(self, workflow: Workflow) -> object:
        tasks = self.specs[workflow.workflow_id]["tasks"]
        assert isinstance(tasks, list)
        assert isinstance(tasks[0], dict)
        env = tasks[0]["task_env"]
        assert isinstance(env, dict)
        return env["SKYDRIVER_SCAN_ID"] if env["SKYDRIVER_INSTANCE"] == self.instance else None
