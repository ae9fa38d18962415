"""Every request that the clients send, once for both: what is sent, whether it may be repeated, how the response is read."""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from skydriver_client.values import (
    AddedWorkers,
    BacklogEntry,
    Event,
    Json,
    Manifest,
    Page,
    Result,
    ScanSummary,
    Status,
)  # fmt: skip

T = TypeVar("T")
Query = Sequence[tuple[str, str]]
_NOT_IN_A_NEW_REQUEST = ("scan_id", "rescan_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """A request. read: makes a value of the response. is_read: a POST that changes nothing.

    body: as JSON. key: an Idempotency-Key; a POST without one is sent once.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    query: Query = ()
    body: Any = None
    key: str | None = None
    is_read: bool = False

    @property
    def may_repeat(self) -> bool:
        """Whether the request can be sent again when its response is lost, without anything happening twice."""
        return self.method != "POST" or self.key is not None or self.is_read

    @property
    def content(self) -> bytes | None:
        """The body as it is sent."""
        return None if self.body is None else json.dumps(self.body).encode()

    @property
    def headers(self) -> dict[str, str]:
        """Beside the token."""
        headers = {} if self.body is None else {"Content-Type": "application/json"}
        return headers if self.key is None else headers | {"Idempotency-Key": self.key}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListWords:
    """The words of ``GET /scans``. since, until: times of the request; a time without a zone is the computer's own."""

    state: str | Iterable[str] = ()
    run_id: int | None = None
    event_id: int | None = None
    i3_event_id: str | None = None
    ewms_workflow_id: str | None = None
    classifiers: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    since: datetime | float | None = None
    until: datetime | float | None = None
    min_priority: int | None = None
    max_priority: int | None = None
    include_deleted: bool = False
    order: str = "newest"

    def query(self, *, limit: int, after: str | None) -> Query:
        """The query string of one page."""
        states = [self.state] if isinstance(self.state, str) else list(self.state)
        words: list[tuple[str, object]] = [
            ("state", ",".join(states) or None), ("run_id", self.run_id), ("event_id", self.event_id), ("i3_event_id", self.i3_event_id),
            ("ewms_workflow_id", self.ewms_workflow_id), ("since", _seconds(self.since)), ("until", _seconds(self.until)),
            ("min_priority", self.min_priority), ("max_priority", self.max_priority),
            ("include_deleted", "true" if self.include_deleted else None), ("order", self.order), ("limit", limit), ("after", after),
            *(("classifier", f"{name}:{_literal(value)}") for name, value in self.classifiers.items()),
        ]  # fmt: skip
        return [(name, str(value)) for name, value in words if value is not None]


def new_key() -> str:
    """An Idempotency-Key of one request, the same for all attempts at it."""
    return str(uuid.uuid4())


def list_scans(words: ListWords, *, limit: int, after: str | None) -> Call[Page[ScanSummary]]:
    """``GET /scans``."""
    return Call(method="GET", read=read_summaries, path="/scans", query=words.query(limit=limit, after=after))


def find_scans(
    filter_: Json, *, fields: Sequence[str] | None, include_deleted: bool, limit: int, after: str | None
) -> Call[Page[Manifest]]:
    """``POST /scans/find``, a page of it."""
    body: dict[str, Any] = {"filter": dict(filter_), "include_deleted": include_deleted, "limit": limit}
    if fields is not None:
        body["manifest_projection"] = list(dict.fromkeys(["scan_id", *fields]))
    if after is not None:
        body["after"] = after
    return Call(method="POST", read=lambda content: read_found(content, limit), path="/scans/find", body=body, is_read=True)


def request_scan(request: Json, key: str) -> Call[Manifest]:
    """``POST /scan``."""
    return Call(method="POST", read=_one(Manifest.from_json), path="/scan", body=dict(request), key=key)


def rescan(scan_id: str, key: str, *, abort_first: bool, replace: bool) -> Call[Manifest]:
    """``POST /scan/{id}/actions/rescan``."""
    body = {"abort_first": abort_first, "replace_scan": replace}
    return Call(method="POST", read=_one(Manifest.from_json), path=f"{_scan(scan_id)}/actions/rescan", body=body, key=key)


def add_workers(scan_id: str, key: str, *, n_workers: int, cluster: str) -> Call[AddedWorkers]:
    """``POST /scan/{id}/actions/add-workers``."""
    body = {"n_workers": n_workers, "cluster_location": cluster}
    return Call(
        method="POST", read=_one(AddedWorkers.from_json), path=f"{_scan(scan_id)}/actions/add-workers", body=body, key=key
    )


def stop(scan_id: str, *, even_if_complete: bool) -> Call[Manifest]:
    """``DELETE /scan/{id}``."""
    return Call(method="DELETE", read=read_stopped, path=_scan(scan_id), body={"delete_completed_scan": even_if_complete})


def scan_request(scan_id: str) -> Call[Json]:
    """``GET /scan-request/{id}``."""
    return Call(method="GET", read=read_object, path=f"/scan-request/{quote(scan_id, safe='')}")


def manifest(scan_id: str, *, include_deleted: bool) -> Call[Manifest]:
    """``GET /scan/{id}/manifest``."""
    return Call(method="GET", read=_one(Manifest.from_json), path=f"{_scan(scan_id)}/manifest", query=_deleted(include_deleted))


def status(scan_id: str) -> Call[Status]:
    """``GET /scan/{id}/status``."""
    return Call(method="GET", read=_one(Status.from_json), path=f"{_scan(scan_id)}/status")


def result(scan_id: str, *, include_deleted: bool) -> Call[Result | None]:
    """``GET /scan/{id}/result``."""
    return Call(method="GET", read=Result.from_content, path=f"{_scan(scan_id)}/result", query=_deleted(include_deleted))


def logs(scan_id: str) -> Call[str | None]:
    """``GET /scan/{id}/logs``."""
    return Call(method="GET", read=read_log_link, path=f"{_scan(scan_id)}/logs")


def events(scan_id: str, *, after: int, limit: int) -> Call[Page[Event]]:
    """``GET /scan/{id}/events``, a page."""
    return Call(
        method="GET", read=read_events, path=f"{_scan(scan_id)}/events", query=[("after", str(after)), ("limit", str(limit))]
    )


def backlog(*, limit: int, after: str | None) -> Call[Page[BacklogEntry]]:
    """``GET /scans/backlog``, a page."""
    return Call(
        method="GET",
        read=lambda content: read_backlog(content, limit),
        path="/scans/backlog",
        query=[("limit", str(limit)), *([("after", after)] if after else [])],
    )


def _one(from_json: Callable[[Json], T]) -> Callable[[bytes], T]:
    return lambda content: from_json(json.loads(content))


def read_object(content: bytes) -> Json:
    """A response that is shown as it is."""
    raw: Json = json.loads(content)
    return raw


def read_stopped(content: bytes) -> Manifest:
    """The manifest of the scan that was stopped."""
    return Manifest.from_json(json.loads(content)["manifest"])


def read_summaries(content: bytes) -> Page[ScanSummary]:
    """The page of a list."""
    raw = json.loads(content)
    return Page(tuple(map(ScanSummary.from_json, raw["scans"])), raw["next"])


def read_found(content: bytes, limit: int) -> Page[Manifest]:
    """The page of a search: a full one may have a next."""
    found = tuple(map(Manifest.from_json, json.loads(content)["manifests"]))
    return Page(found, found[-1].scan_id if len(found) >= limit else None)


def read_backlog(content: bytes, limit: int) -> Page[BacklogEntry]:
    """The page of a backlog. A server of before answers with all of it."""
    entries = tuple(map(BacklogEntry.from_json, json.loads(content)["entries"]))
    return Page(entries, entries[-1].scan_id if len(entries) == limit else None)


def read_events(content: bytes) -> Page[Event]:
    """The page of a history."""
    raw = json.loads(content)
    return Page(tuple(map(Event.from_json, raw["events"])), None if raw["next"] is None else str(raw["next"]))


def read_log_link(content: bytes) -> str | None:
    """Where the scanner server's log can be seen."""
    link = json.loads(content)["scanner_server"]
    url: str | None = link.get("url") if isinstance(link, dict) else None
    return url


def remixed(request: Json, changes: Json) -> dict[str, Any]:
    """The body of a new request: that of a scan, with changes. A change to None takes the field away."""
    merged = {name: value for name, value in request.items() if name not in _NOT_IN_A_NEW_REQUEST} | dict(changes)
    return {name: value for name, value in merged.items() if value is not None}


def _scan(scan_id: str) -> str:
    return f"/scan/{quote(scan_id, safe='')}"


def _deleted(include_deleted: bool) -> Query:
    return [("include_deleted", "true")] if include_deleted else []


def _seconds(moment: datetime | float | None) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else moment


def _literal(value: str | int | float | bool) -> str:
    return value if isinstance(value, str) else json.dumps(value)
