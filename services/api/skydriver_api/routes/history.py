"""A scan's events: a page of its history, or a stream of server-sent events that goes on live. The source is the event log."""

import asyncio

import orjson
from aiohttp import web

from skydriver_api.deps import DEPS, Deps
from skydriver_api.live import Watcher
from skydriver_api.queries import whole_number
from skydriver_api.reads import EVENTS_AT_ONCE
from skydriver_api.routes.answers import json_response
from skydriver_api.routes.lookup import not_found, scan_id_of
from skydriver_api.routes.streaming import Stream, streaming
from skydriver_common.faults import TryLater
from skydriver_common.log import read

MOST_EVENTS = 1000
DEFAULT_EVENTS = 100
HEARTBEAT_S = 15.0
LONGEST_STREAM_S = 3600.0
"""Then the client connects again, with a token that is still good."""

_HEARTBEAT = b":\n\n"
_LOG_AGAIN_S = 1.0
_EVENT_STREAM = "text/event-stream"


async def get_events(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/events``: a page of events after the version ``after``; as ``text/event-stream`` a live stream.

    Never redirected: the history is that of the scan in the path, deleted ones included.
    """
    deps = request.app[DEPS]
    scan_id = scan_id_of(request)
    after = whole_number(request.query.get("after", ""), "after", default=0)
    limit = whole_number(request.query.get("limit", ""), "limit", default=DEFAULT_EVENTS, least=1, most=MOST_EVENTS)
    wants_stream = _EVENT_STREAM in request.headers.get("Accept", "")
    if wants_stream and "Last-Event-ID" in request.headers:
        after = whole_number(request.headers["Last-Event-ID"], "Last-Event-ID", default=0)
    if await deps.reads.status(scan_id) is None:
        raise not_found(scan_id)
    return await _stream(request, deps, scan_id, after) if wants_stream else await _page(deps, scan_id, after, limit)


async def _page(deps: Deps, scan_id: str, after: int, limit: int) -> web.Response:
    events = [event async for event in read.history(deps.reads.pool, scan_id, after=after, most=limit)]
    following = orjson.dumps(events[-1].version if len(events) == limit else None)
    return json_response(b'{"events":[%b],"next":%b}' % (b",".join(event.as_json() for event in events), following))


async def _stream(request: web.Request, deps: Deps, scan_id: str, after: int) -> web.StreamResponse:
    headers = {"Content-Type": _EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    async with deps.live.watching(scan_id) as watcher, streaming(request, headers) as answer:
        await answer.begin()
        told = _Told(answer, deps, scan_id, after)
        ends_at = asyncio.get_running_loop().time() + LONGEST_STREAM_S
        while not watcher.is_closed and asyncio.get_running_loop().time() < ends_at:
            try:
                await told.tell(watcher)
            except TryLater as fault:  # the log can't be read just now: a stream that lives is kept
                watcher.fall_behind()
                await answer.write(_HEARTBEAT)
                await asyncio.sleep(max(_LOG_AGAIN_S, fault.after_s))
                continue
            if not await watcher.wait(HEARTBEAT_S):
                await answer.write(_HEARTBEAT)
                await deps.eyes.stay_on(scan_id)
        await answer.end()
    return answer.response


class _Told:
    """One open stream, and the version it has come to."""

    def __init__(self, answer: Stream, deps: Deps, scan_id: str, version: int) -> None:
        self._answer = answer
        self._deps = deps
        self._scan_id = scan_id
        self._version = version

    async def tell(self, watcher: Watcher) -> None:
        """Write what the watcher has, and what it has missed, in order and each version once."""
        if watcher.catch_up():
            await self._from_the_log()
        for event in watcher.take():
            if event.version > self._version + 1:
                await self._from_the_log()
            if event.version == self._version + 1:
                await self._event(event.version, event.type, event.body)

    async def _from_the_log(self) -> None:
        while True:
            # a page at a time: no connection of the pool is held while the client takes its time
            page = await self._deps.reads.events_after(self._scan_id, self._version)
            for event in page:
                await self._event(event.version, event.type, event.as_json())
            if len(page) < EVENTS_AT_ONCE:
                return

    async def _event(self, version: int, type_: str, body: bytes) -> None:
        await self._answer.write(b"id: %d\nevent: %b\ndata: %b\n\n" % (version, type_.encode(), body))
        self._version = version
