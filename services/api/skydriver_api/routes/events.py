"""A scan's events: a page of its history, or a stream of server-sent events that goes on live. The source is the event log."""

import asyncio
import time

import orjson
from aiohttp import web

from skydriver_api.http.delivery import hold_memory
from skydriver_api.http.deps import DEPS, Deps
from skydriver_api.http.middleware import PRINCIPAL
from skydriver_api.http.query_params import parse_integer
from skydriver_api.live.live_events import Watcher
from skydriver_api.reads.view_queries import EVENT_BYTES_AT_ONCE, EVENT_PAGE_BYTES
from skydriver_api.routes.chunked import READ_LIMIT, ChunkedResponse, streaming
from skydriver_api.routes.responses import json_response
from skydriver_api.routes.scan_lookup import not_found, scan_id_of
from skydriver_common.faults import TryLater
from skydriver_common.model.events import ScanDeleted
from skydriver_common.model.ids import ScanId

MOST_EVENTS = 1000
DEFAULT_EVENTS = 100
HEARTBEAT_S = 15.0
LONGEST_STREAM_S = 3600.0
"""Then the client connects again, with a token that is still good."""

_HEARTBEAT = b":\n\n"
_END = b'event: stream.ended\ndata: {"reason":"%b","text":"%b"}\n\n'
"""The last event of a stream that would only end again if it were taken up; it is none of the log, and has no id."""
_BEGIN_LIMIT_S = 60.0
"""Of a stream whose look-up waits behind those of many others; a query by itself has less."""
_SMALL_BYTES = 16 * 1024
_LOG_AGAIN_S = 1.0
_EVENT_STREAM = "text/event-stream"


async def get_events(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/events``: a page of events after the version ``after``; as ``text/event-stream`` a live stream.

    Never redirected: the history is that of the scan in the path, deleted ones included.
    """
    deps = request.app[DEPS]
    scan_id = scan_id_of(request)
    after = parse_integer(request.query.get("after", ""), "after", default=0)
    limit = parse_integer(request.query.get("limit", ""), "limit", default=DEFAULT_EVENTS, least=1, most=MOST_EVENTS)
    wants_stream = _EVENT_STREAM in request.headers.get("Accept", "")
    if wants_stream and "Last-Event-ID" in request.headers:
        after = parse_integer(request.headers["Last-Event-ID"], "Last-Event-ID", default=0)
    if not wants_stream:
        await _check(deps, scan_id)
        return await _page(request, deps, scan_id, after, limit)
    with deps.live.admitting(request.headers.get("Authorization", "")):
        if (read_limit := request.get(READ_LIMIT)) is not None:
            read_limit.reschedule(asyncio.get_running_loop().time() + _BEGIN_LIMIT_S)
        await _check(deps, scan_id)
        return await _stream(request, deps, scan_id, after)


async def _check(deps: Deps, scan_id: ScanId) -> None:
    if await deps.reads.status(scan_id) is None:
        raise not_found(scan_id)


async def _page(request: web.Request, deps: Deps, scan_id: ScanId, after: int, limit: int) -> web.Response:
    share = await hold_memory(request, 2 * EVENT_BYTES_AT_ONCE)
    page = await deps.reads.events_page(scan_id, after, limit)
    following = orjson.dumps(page.events[-1].version if page.more else None)
    body = b'{"events":[%b],"next":%b}' % (b",".join(event.as_json() for event in page.events), following)
    share.shrink_to(len(body))
    return json_response(body)


async def _stream(request: web.Request, deps: Deps, scan_id: ScanId, after: int) -> web.StreamResponse:
    headers = {"Content-Type": _EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    async with deps.live.watching(scan_id) as watcher, streaming(request, headers) as answer:
        await answer.begin()
        answer.bound_buffer()
        told = _HistoryCursor(answer, deps, scan_id, watcher, after)
        clock = asyncio.get_running_loop().time
        ends_at = clock() + LONGEST_STREAM_S
        expires_at = clock() + request[PRINCIPAL].expires_at - time.time()
        while not watcher.is_closed and clock() < ends_at:
            try:
                await told.tell()
            except TryLater as fault:  # the log can't be read just now: a stream that lives is kept
                watcher.fall_behind()
                await answer.write(_HEARTBEAT)
                await asyncio.sleep(max(_LOG_AGAIN_S, fault.after_s))
                continue
            if told.is_deleted:
                await answer.write(_END % (b"scan-deleted", b"the scan was deleted"))
                break
            if clock() >= expires_at:
                await answer.write(_END % (b"token-expired", b"the token has expired; connect again with a new one"))
                break
            if not await watcher.wait(max(0.0, min(HEARTBEAT_S, expires_at - clock()))):
                await answer.write(_HEARTBEAT)
                await deps.eyes.stay_on(scan_id)
        await answer.end()
    return answer.response


class _HistoryCursor:
    """One open stream, and the version it has come to. is_deleted: the deletion of the scan was told."""

    def __init__(self, answer: ChunkedResponse, deps: Deps, scan_id: ScanId, watcher: Watcher, version: int) -> None:
        self.is_deleted = False
        self._answer = answer
        self._deps = deps
        self._scan_id = scan_id
        self._watcher = watcher
        watcher.version = version

    async def tell(self) -> None:
        """Write what the watcher has, and what it has missed, in order and each version once. Raises TryLater."""
        if self._watcher.catch_up():
            await self._from_the_log()
        while (event := self._watcher.take()) is not None:
            if event.version > self._watcher.version + 1:
                await self._from_the_log()
            if event.version == self._watcher.version + 1:
                await self._event(event.version, event.type, event.body)

    async def _from_the_log(self) -> None:
        is_last = False
        while not is_last:
            # a page at a time: no connection of the pool is held while the client takes its time, but memory is
            async with self._deps.page_bytes.taking(EVENT_PAGE_BYTES):
                page, is_last = await self._deps.reads.events_after(self._scan_id, self._watcher.version)
                for event in page:
                    await self._event(event.version, event.type, event.as_json())

    async def _event(self, version: int, type_: str, body: bytes) -> None:
        head = b"id: %d\nevent: %b\ndata: " % (version, type_.encode())
        if len(body) < _SMALL_BYTES:
            await self._answer.write(b"".join((head, body, b"\n\n")))
        else:
            await self._answer.write(head)
            await self._answer.write_all(body, portion=_SMALL_BYTES)
            await self._answer.write(b"\n\n")
        self._watcher.version = version
        self.is_deleted |= type_ == ScanDeleted.type
