"""What the bridge needs from the outside, and how it learns that something went wrong.

Besides the exceptions below every method may raise `skydriver_common.faults.TryLater`: the other side is unavailable or busy,
and nothing was changed.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from skydriver_common.faults import Fault, TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.ewms_types import Json, QueueProfile, StartupUpload, TaskDirective, Taskforce, Workflow, WorkflowSpec

OnUnreadable = Callable[[str], None]
"""Called with the workflow id ("" if that is unreadable, too) of a document in a response that breaks the contract."""

__all__ = [
    "CredentialSink",
    "Ewms",
    "EwmsFault",
    "EwmsNotFound",
    "EwmsRejected",
    "EwmsRejectedForNow",
    "Guard",
    "ObjectStore",
    "OnUnreadable",
    "OutcomeUnknown",
    "ScanNotReady",
    "WorkflowEnded",
]


class EwmsFault(Fault):
    """The base of EWMS's responses that are no success; never raised itself.

    `str()` is fit for users: it has no token, no address and no text of EWMS's.
    """


class OutcomeUnknown(EwmsFault):
    """The request was sent and its effect is unknown: it may exist already, or come to exist minutes later.

    Only calls that make something raise it. Look before asking again. Source: EWMS contract 12.
    longer_by_s: seconds for which EWMS says that it is busy (Retry-After): the effect may come so much later.
    """

    def __init__(self, what: str, *, longer_by_s: float = 0.0) -> None:
        super().__init__(f"the outcome of a request to EWMS is unknown ({what})")
        self.longer_by_s = longer_by_s


class EwmsRejected(EwmsFault):
    """EWMS says the request itself is wrong. Final: the same request is refused again.

    reason: EWMS's own words, one line, without addresses; for operators and logs. It names the offending field.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("EWMS rejected the request")
        self.reason = reason


class EwmsRejectedForNow(EwmsFault):
    """EWMS says no and has done nothing, but the same request may be taken later: an image that is not uploaded yet, a lock.

    reason: as of `EwmsRejected`. after_s: seconds to wait before the next try, 0.0: EWMS names none.
    """

    def __init__(self, reason: str, *, after_s: float = 0.0) -> None:
        super().__init__("EWMS rejected the request for now")
        self.reason = reason
        self.after_s = after_s


class WorkflowEnded(EwmsFault):
    """The workflow is deactivated, so it gets no more workers (422)."""

    def __init__(self) -> None:
        super().__init__("the workflow has ended at EWMS")


class EwmsNotFound(EwmsFault):
    """EWMS has no such id, or, for a stop, the workflow is already stopped (404). Only a look at the workflow tells which."""

    def __init__(self) -> None:
        super().__init__("EWMS has no such id")


class ScanNotReady(TryLater):
    """This scan alone has to wait, such as for its folder or Secret; nothing is unavailable for the others."""


class Guard(Protocol):
    """What every call to EWMS passes through."""

    def call(self) -> AbstractAsyncContextManager[None]:
        """Around one call; learns from how it ends. Raises TryLater without the call while the circuit is open."""


class Ewms(Protocol):
    """The workflow service. Reads may be repeated at will; `create_workflow` and `add_workers` are never repeated blindly."""

    async def ping(self) -> None:
        """Raise TryLater unless EWMS responds; past the guard."""

    async def find_workflows_of(self, scan_id: ScanId, since: float) -> tuple[Workflow, ...]:
        """All workflows marked with this scan and this installation, stopped ones too, created at or after `since`.

        since: Unix seconds; leave 300 s for the difference of clocks. Source: EWMS contract 12.
        """

    async def create_workflow(self, spec: WorkflowSpec) -> Workflow:
        """Make a workflow, once. Raises EwmsRejected, EwmsRejectedForNow, OutcomeUnknown."""

    async def get_workflow(self, workflow_id: str) -> Workflow:
        """Raises EwmsNotFound."""

    async def get_workflows(
        self, workflow_ids: Collection[str], *, on_unreadable: OnUnreadable | None = None
    ) -> tuple[Workflow, ...]:
        """Those of them that EWMS knows, in no particular order. on_unreadable: see `find_taskforces`."""

    async def queue_profiles(self, workflow_id: str) -> tuple[QueueProfile, ...]:
        """The public queues of a workflow; empty for an unknown one. Source: EWMS contract 8."""

    async def waiting_for_queues(self) -> tuple[Taskforce, ...]:
        """The taskforces of all tenants that wait for their queues to be activated (for the place in line).

        Those that cannot be read are left out.
        """

    async def abort(self, workflow_id: str) -> None:
        """Stop it with the label ABORTED. Raises EwmsNotFound, also when it is already stopped."""

    async def finish(self, workflow_id: str) -> None:
        """Stop it with the label FINISHED. Raises EwmsNotFound, also when it is already stopped."""

    def find_taskforces(
        self, workflow_ids: Collection[str], *, on_unreadable: OnUnreadable | None = None
    ) -> AsyncIterator[Sequence[Taskforce]]:
        """The taskforces of many workflows at once, page by page, in order of creation.

        on_unreadable: a caller that asks for many scans skips one that cannot be read; without it TryLater is raised for all of them.
        """

    def raw_taskforces(self, workflow_id: str) -> AsyncIterator[Sequence[dict[str, Json]]]:
        """All taskforces of one workflow with all their fields, untouched, page by page."""

    async def task_directives(self, workflow_id: str) -> tuple[TaskDirective, ...]:
        """The tasks of a workflow, in order of creation."""

    async def add_workers(self, task_id: str, cluster_location: str, n_workers: int) -> Taskforce:
        """Ask for one more batch, once. Raises EwmsRejected, EwmsRejectedForNow, WorkflowEnded, EwmsNotFound, OutcomeUnknown."""


class ObjectStore(Protocol):
    """Where `startup.json` passes from the scanner to its workers. Presigning needs no network."""

    def presigned_get(self, key: str) -> str:
        """A URL that reads the object, for anyone who has it."""

    def presigned_put(self, key: str) -> str:
        """A URL that writes the object, for anyone who has it."""

    async def exists(self, key: str) -> bool:
        """Whether the object has been written."""


class CredentialSink(Protocol):
    """Delivers a scan's credentials to its scanner. Each method may be repeated and replaces what was there as a whole."""

    async def put_upload(self, scan_id: ScanId, upload: StartupUpload) -> None:
        """Where the scanner puts `startup.json`; useful as soon as it is known."""

    async def put_profile(self, scan_id: ScanId, profile: dict[str, Json]) -> None:
        """The content of `ewms.json`, see `decide.queue_profile`."""

    async def remove(self, scan_id: ScanId) -> None:
        """Remove both; it is fine if there is nothing."""
