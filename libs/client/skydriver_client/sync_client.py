"""``SkyDriver``: the client for blocking code. ``async_client`` has the same methods."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import httpx2

from skydriver_client import calls, http
from skydriver_client.calls import Call, ListWords
from skydriver_client.errors import ConnectionFailed, NotFound, SkyDriverError, Unauthorized
from skydriver_client.retries import pause_before
from skydriver_client.servers import TokenSource, find_server
from skydriver_client.streams import Follower
from skydriver_client.values import AddedWorkers, BacklogEntry, Event, Json, Manifest, Page, Result, ScanSummary, Status
from skydriver_client.waiting import Deadline, Update, Watching, checked_condition, outcome

T = TypeVar("T")
NO_LIST = "this server has no list of scans: it is older than this library. scans.find works"


class Pages(Generic[T]):
    """A list that is read as far as it is looked at: iterate over its items, or over its pages."""

    def __init__(self, read: Callable[[str | None], Page[T]], after: str | None) -> None:
        self._read = read
        self._after = after

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.items

    def pages(self) -> Iterator[Page[T]]:
        """Yield one page at a time."""
        after = self._after
        while True:
            page = self._read(after)
            yield page
            if (after := page.next) is None:
                return


class SkyDriver:
    """A SkyDriver server. Use it as a context manager, or call ``close``.

    url, token: else those of ``context`` in the profile file, of SKYDRIVER_URL and SKYDRIVER_TOKEN, of the profile's own choice, or
    of the embedded system in ``data_dir``. token: a text, or a function that returns one and is asked again when it has expired.
    max_retries: of requests that may be repeated. transport: of httpx2, for tests and proxies.
    Raises NoCredentials, BadProfile; every method raises SkyDriverError.
    """

    def __init__(
        self, url: str | None = None, *, token: TokenSource | None = None, context: str | None = None,
        data_dir: Path | str | None = None, max_retries: int = 4, transport: httpx2.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        server = find_server(url, has_token=token is not None, context=context, data_dir=data_dir)
        self.url = server.url
        self.scans = Scans(self)
        self._token: TokenSource = token if token is not None else server.token or ""
        self._max_retries = max_retries
        self._http = httpx2.Client(**http.client_options(transport))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def scan(self, scan_id: str) -> "Scan":
        """A scan by its id; nothing is asked of the server."""
        return Scan(self, scan_id)

    def backlog(self, *, limit: int = 500, after: str | None = None) -> Pages[BacklogEntry]:
        """Scans that wait to be launched, oldest first. limit: of a page."""
        return Pages(lambda cursor: self._send(calls.backlog(limit=limit, after=cursor)), after)

    def _send(self, call: Call[T]) -> T:
        attempt = 0
        is_renewed = False
        while True:
            try:
                return self._once(call)
            except Unauthorized:
                if is_renewed or isinstance(self._token, str):
                    raise
                is_renewed = True
            except SkyDriverError as error:
                attempt += 1
                pause_s = pause_before(attempt, error, may_repeat=call.may_repeat, max_retries=self._max_retries)
                if pause_s is None:
                    raise
                time.sleep(pause_s)

    def _once(self, call: Call[T]) -> T:
        try:
            response = self._http.request(**http.request_options(call, self.url, self._bearer()))
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise http.failure(self.url, error) from error
        return http.value_of(call, response)

    def _bearer(self) -> str:
        return self._token if isinstance(self._token, str) else self._token()

    def _stream(self, scan_id: str, follower: Follower, deadline: Deadline) -> Iterator[Event | None]:
        """Yield events through all connections, None for a sign of life. Ends when the server says that nothing follows."""
        path = calls.events(scan_id, after=0, limit=1).path
        while not follower.is_ended:
            error: SkyDriverError | None = None
            try:
                follower.opened()
                options = http.stream_options(path, follower.version, self.url, self._bearer(), deadline.remaining_s)
                with self._http.stream(**options) as response:
                    if response.status_code != 200:
                        http.check(response, response.read())
                    yield None
                    for piece in response.iter_bytes():
                        yield from follower.read(piece)
                        yield None
            except httpx2.RequestError as cause:
                error = http.failure(self.url, cause)
            except SkyDriverError as cause:
                error = cause
            if not follower.is_ended:
                yield None
                time.sleep(deadline.cut(follower.pause_after(error)))
                yield None


class Scans:
    """All scans of a server."""

    def __init__(self, client: SkyDriver) -> None:
        self._client = client

    def list(
        self, *, state: str | Sequence[str] = (), run_id: int | None = None, event_id: int | None = None,
        i3_event_id: str | None = None, ewms_workflow_id: str | None = None,
        classifiers: Mapping[str, str | int | float | bool] | None = None, since: datetime | float | None = None,
        until: datetime | float | None = None, min_priority: int | None = None, max_priority: int | None = None,
        include_deleted: bool = False, order: str = "newest", limit: int = 50, after: str | None = None,
    ) -> Pages[ScanSummary]:  # fmt: skip
        """Summaries, the newest first; see the page on listing scans for the words. limit: of a page."""
        words = ListWords(
            state=state, run_id=run_id, event_id=event_id, i3_event_id=i3_event_id, ewms_workflow_id=ewms_workflow_id,
            classifiers=classifiers or {}, since=since, until=until, min_priority=min_priority, max_priority=max_priority,
            include_deleted=include_deleted, order=order,
        )  # fmt: skip

        def read(cursor: str | None) -> Page[ScanSummary]:
            try:
                return self._client._send(calls.list_scans(words, limit=limit, after=cursor))
            except NotFound as error:
                raise SkyDriverError(NO_LIST) from error

        return Pages(read, after)

    def find(
        self, filter_: Json, *, fields: Sequence[str] | None = None, include_deleted: bool = False, limit: int = 200,
        after: str | None = None,
    ) -> Pages[Manifest]:  # fmt: skip
        """Manifests that match a filter in MongoDB's language, by ascending scan id. fields: of the manifest, None: all."""

        def read(cursor: str | None) -> Page[Manifest]:
            return self._client._send(
                calls.find_scans(filter_, fields=fields, include_deleted=include_deleted, limit=limit, after=cursor)
            )

        return Pages(read, after)

    def get(self, scan_id: str, *, include_deleted: bool = False) -> "Scan":
        """A scan with its manifest, or the one that replaced it. Raises NotFound."""
        return self._made(self._client._send(calls.manifest(scan_id, include_deleted=include_deleted)))

    def create(self, request: Json, *, idempotency_key: str | None = None) -> "Scan":
        """Request a scan. request: the body of ``POST /scan``. However many responses are lost, one scan is made."""
        return self._made(self._client._send(calls.request_scan(request, idempotency_key or calls.new_key())))

    def rescan(self, scan_id: str, *, abort_first: bool = False, replace: bool = False) -> "Scan":
        """Scan again with the same request. abort_first: stop the old one. replace: readers of the old one get the new one."""
        return self._made(self._client._send(calls.rescan(scan_id, calls.new_key(), abort_first=abort_first, replace=replace)))

    def request(self, scan_id: str) -> Json:
        """The request that a scan was made from."""
        return self._client._send(calls.scan_request(scan_id))

    def remix(self, scan_id: str, changes: Json) -> "Scan":
        """Request a scan with another one's request and some fields changed; None takes a field away."""
        return self.create(calls.remixed(self.request(scan_id), changes))

    def stop(self, scan_id: str, *, even_if_complete: bool = False) -> Manifest:
        """Stop a scan and hide it. even_if_complete: also one that has its final result."""
        return self._client._send(calls.stop(scan_id, even_if_complete=even_if_complete))

    def add_workers(self, scan_id: str, n_workers: int, *, cluster: str) -> AddedWorkers:
        """Add workers on a cluster to a running scan."""
        return self._client._send(calls.add_workers(scan_id, calls.new_key(), n_workers=n_workers, cluster=cluster))

    def _made(self, manifest: Manifest) -> "Scan":
        return Scan(self._client, manifest.scan_id, manifest)


class Scan:
    """One scan. manifest: as it was when this value was made, None when it was made of an id alone."""

    def __init__(self, client: SkyDriver, scan_id: str, manifest: Manifest | None = None) -> None:
        self.scan_id = scan_id
        self.manifest = manifest
        self._client = client

    def __repr__(self) -> str:
        return f"Scan({self.scan_id!r})"

    def status(self) -> Status:
        """State, problems, workers."""
        return self._client._send(calls.status(self.scan_id))

    def result(self, *, include_deleted: bool = False) -> Result | None:
        """The skymap, final or partial; None while there is none."""
        return self._client._send(calls.result(self.scan_id, include_deleted=include_deleted))

    def logs(self) -> str | None:
        """Where the scanner server's log can be seen."""
        return self._client._send(calls.logs(self.scan_id))

    def events(self, *, after: int = 0, follow: bool = False, limit: int = 500) -> Iterator[Event]:
        """The scan's history after a version. follow: go on with live events until the scan is deleted; resumes by itself."""
        version = after
        while True:
            page = self._client._send(calls.events(self.scan_id, after=version, limit=limit))
            yield from page.items
            version = page.items[-1].version if page.items else version
            if page.next is None:
                break
        if follow:
            for event in self._client._stream(self.scan_id, Follower(version), Deadline(None)):
                if event is not None:
                    yield event

    def watch(self, *, timeout_s: float | None = None) -> Iterator[Update]:
        """Follow the scan until it is over: first what there is, then an update with each event. Raises WaitTimedOut."""
        deadline, watching, follower = Deadline(timeout_s), Watching(), Follower()
        history = list(self.events())
        follower.version = history[-1].version if history else 0
        update = watching.update(self.status(), history)
        yield update
        if update.status.is_over:
            return
        for event in self._client._stream(self.scan_id, follower, deadline):
            deadline.check(self.scan_id)
            if event is None:
                continue
            update = watching.update(self.status(), [event])
            yield update
            if update.status.is_over:
                return
        raise ConnectionFailed(f"the stream of scan {self.scan_id} has ended")

    def wait(self, *, until: str = "finished", timeout_s: float | None = None) -> Status:
        """Wait for the final result, or with ``until="any-result"`` for any. Raises ScanFailed, WaitTimedOut."""
        checked_condition(until)
        watching, status = Watching(), None
        for update in self.watch(timeout_s=timeout_s):
            watching.has_result |= update.has_new_result
            status = update.status
            if watching.is_reached(update, until):
                return status
        assert status is not None, "watch yields at least once"
        return outcome(self.scan_id, status)
