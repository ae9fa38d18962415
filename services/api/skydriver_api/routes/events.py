"""A scan's events, from the event log: a page of its history, or server-sent events that continue live."""

import asyncio
import time

import orjson
from aiohttp import web

from skydriver_api.deps import DEPS, Deps
from skydriver_api.http.access import PRINCIPAL
from skydriver_api.http.chunked import READ_TIMEOUT, ChunkedResponse, streaming
from skydriver_api.http.delivery import hold_memory
from skydriver_api.http.query_params import parse_integer
from skydriver_api.live.live_events import Watcher
from skydriver_api.payloads.parameters import DEFAULT_EVENTS, MAX_EVENTS
from skydriver_api.reads.view_queries import HISTORY_PAGE_BYTES, LIVE_PAGE_BYTES
from skydriver_api.routes.responses import json_response
from skydriver_api.routes.scan_lookup import not_found, scan_id_of
from skydriver_common.faults import TryLater
from skydriver_common.model.events import ScanDeleted
from skydriver_common.model.ids import ScanId

HEARTBEAT_S = 15.0
MAX_STREAM_S = 3600.0
"""Then the client connects again, with a token that is still good."""

_HEARTBEAT = b":\n\n"
_END = b'event: stream.ended\ndata: {"reason":"%b","text":"%b"}\n\n'
"""The last event of a stream that there is no use in resuming; it is not in the log and has no id."""
_BEGIN_TIMEOUT_S = 60.0
"""For a stream whose first query waits behind those of many others; the query itself has less."""
_PIECE_BYTES = 16 * 1024
_LOG_RETRY_S = 1.0
_EVENT_STREAM = "text/event-stream"


async def get_events(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/events``: a page of events after the version ``after``; as ``text/event-stream`` a live stream.

    Never redirected: the history is that of the scan in the path, deleted ones included.
    """
    deps = request.app[DEPS]
    scan_id = scan_id_of(request)
    after = parse_integer(request.query.get("after", ""), "after", default=0)
    limit = parse_integer(request.query.get("limit", ""), "limit", default=DEFAULT_EVENTS, minimum=1, maximum=MAX_EVENTS)
    wants_stream = _EVENT_STREAM in request.headers.get("Accept", "")
    if wants_stream and "Last-Event-ID" in request.headers:
        after = parse_integer(request.headers["Last-Event-ID"], "Last-Event-ID", default=0)
    if not wants_stream:
        await _must_exist(deps, scan_id)
        return await _page(request, deps, scan_id, after, limit)
    with deps.live.admit(request.headers.get("Authorization", "")):
        if (read_timeout := request.get(READ_TIMEOUT)) is not None:
            read_timeout.reschedule(asyncio.get_running_loop().time() + _BEGIN_TIMEOUT_S)
        await _must_exist(deps, scan_id)
        return await _stream(request, deps, scan_id, after)


async def _must_exist(deps: Deps, scan_id: ScanId) -> None:
    if await deps.reads.status(scan_id) is None:
        raise not_found(scan_id)


async def _page(request: web.Request, deps: Deps, scan_id: ScanId, after: int, limit: int) -> web.Response:
    permit = await hold_memory(request, 2 * HISTORY_PAGE_BYTES)
    page = await deps.reads.events_page(scan_id, after, limit)
    following = orjson.dumps(page.events[-1].version if page.more else None)
    body = b'{"events":[%b],"next":%b}' % (b",".join(event.as_json() for event in page.events), following)
    permit.shrink_to(len(body))
    return json_response(body)


async def _stream(request: web.Request, deps: Deps, scan_id: ScanId, after: int) -> web.StreamResponse:
    headers = {"Content-Type": _EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    async with deps.live.watching(scan_id) as watcher, streaming(request, headers) as stream:
        await stream.begin()
        stream.bound_buffer()
        cursor = _HistoryCursor(stream, deps, scan_id, watcher, after)
        clock = asyncio.get_running_loop().time
        ends_at = clock() + MAX_STREAM_S
        expires_at = clock() + request[PRINCIPAL].expires_at - time.time()
        while not watcher.is_closed and clock() < ends_at:
            try:
                await cursor.write_new()
            except TryLater as fault:  # the log cannot be read at the moment: an open stream is kept
                watcher.fall_behind()
                await stream.write(_HEARTBEAT)
                await asyncio.sleep(max(_LOG_RETRY_S, fault.after_s))
                continue
            if cursor.is_deleted:
                await stream.write(_END % (b"scan-deleted", b"the scan was deleted"))
                break
            if clock() >= expires_at:
                await stream.write(_END % (b"token-expired", b"the token has expired; connect again with a new one"))
                break
            if not await watcher.wait(max(0.0, min(HEARTBEAT_S, expires_at - clock()))):
                await stream.write(_HEARTBEAT)
                await deps.viewer_hints.note_watching(scan_id)
        await stream.end()
    return stream.response


class _HistoryCursor:
    """One open stream and the version it has reached. is_deleted: the scan's deletion was sent."""

    def __init__(self, stream: ChunkedResponse, deps: Deps, scan_id: ScanId, watcher: Watcher, version: int) -> None:
        self.is_deleted = False
        self._stream = stream
        self._deps = deps
        self._scan_id = scan_id
        self._watcher = watcher
        watcher.version = version

    async def write_new(self) -> None:
        """Write the watcher's new events and those it has missed, in order, each version once. Raises TryLater."""
        if self._watcher.catch_up():
            await self._write_from_log()
        while (event := self._watcher.take()) is not None:
            if event.version > self._watcher.version + 1:
                await self._write_from_log()
            if event.version == self._watcher.version + 1:
                await self._write_event(event.version, event.type, event.body)

    async def _write_from_log(self) -> None:
        is_last = False
        while not is_last:
            # a page at a time: while the client takes its time, memory is held but no database connection
            async with self._deps.event_pages.hold(LIVE_PAGE_BYTES):
                page, is_last = await self._deps.reads.events_after(self._scan_id, self._watcher.version)
                for event in page:
                    await self._write_event(event.version, event.type, event.as_json())

    async def _write_event(self, version: int, type_: str, body: bytes) -> None:
        head = b"id: %d\nevent: %b\ndata: " % (version, type_.encode())
        if len(body) < _PIECE_BYTES:
            await self._stream.write(b"".join((head, body, b"\n\n")))
        else:
            await self._stream.write(head)
            await self._stream.write_all(body, portion_bytes=_PIECE_BYTES)
            await self._stream.write(b"\n\n")
        self._watcher.version = version
        self.is_deleted |= type_ == ScanDeleted.type
