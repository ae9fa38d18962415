"""What the bridge has written down of its own requests, as values: `store` reads and writes them, `decide` judges them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from skydriver_common.model.ids import ScanId


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The last request for a workflow whose outcome is open.

    longer_s: so much later than others it may come true. open_for_s: for so long it may, by the database's clock; below 0: it is over.
    """

    attempted_at: datetime
    longer_s: float
    open_for_s: float

    @property
    def may_take_effect(self) -> bool:
        """Whether EWMS may still make the workflow."""
        return self.open_for_s > 0

    @property
    def open_for(self) -> timedelta:
        """For how long it may still come true; not negative."""
        return timedelta(seconds=max(0.0, self.open_for_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A live workflow. digest: of its workers as reported last ("": nothing yet). viewed_until: somebody views the scan."""

    scan_id: ScanId
    workflow_id: str
    since: datetime
    digest: str
    viewed_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A request for more workers that nobody has got the response of.

    held_until: until then a replica processes it. task_id, before, attempted_at: the call to EWMS, if there was one, and the
    uuids that existed before it. taskforce_uuid, got_n_workers: what came of it, if that is known. is_automatic: the bridge's own.
    """

    addition_id: int
    scan_id: ScanId
    workflow_id: str
    cluster_location: str
    n_workers: int
    asked_at: datetime
    held_until: datetime
    task_id: str | None = None
    before: tuple[str, ...] = ()
    attempted_at: datetime | None = None
    taskforce_uuid: str | None = None
    got_n_workers: int | None = None
    is_automatic: bool = False
