"""SkyDriver's REST routes as a scanner uses them, with its patience."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from skydriver_scanner.errors import CallFailed
from skydriver_scanner.protocol import PRODUCER_HEADER, PROGRESS, RESULT, SEQUENCE_HEADER

log = logging.getLogger("skydriver_scanner")

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_OBEYS_RETRY_AFTER = frozenset({413, 429, 503})
"""413 is tried again only if it says when."""
_MAX_PAUSE_S = 120.0
_PIECE_BYTES = 64 * 1024
_LOOKS_PER_TIMEOUT = 60
_ROUTES = {PROGRESS: ("PATCH", "manifest"), RESULT: ("PUT", "result")}


@dataclass(frozen=True)
class RetryPolicy:
    """retries after the first attempt; backoff_s: factor of the doubling pause.

    timeout_s: of an attempt; where is_large, of a stretch of it in which nothing moves, as 100 MB take their time on a slow line.
    """

    timeout_s: float
    retries: int
    backoff_s: float = 0.3
    is_large: bool = False

    def pause_s(self, failures: int) -> float:
        """0 before the first retry, then factor·2, factor·4 …, at most 120."""
        return 0.0 if failures < 2 else min(_MAX_PAUSE_S, self.backoff_s * 2.0 ** (failures - 1))


URGENT = RetryPolicy(timeout_s=60.0, retries=24)
"""Of calls that decide over the scan. Source: scanner contract 2."""
NO_RETRY = RetryPolicy(timeout_s=120.0, retries=0, is_large=True)
FAST = RetryPolicy(timeout_s=10.0, retries=0)


class _Moved:
    """When something was last sent or received. at: ``time.monotonic``."""

    def __init__(self) -> None:
        self.at = 0.0
        self.note()

    def note(self) -> None:
        self.at = time.monotonic()


class _Body(io.BytesIO):
    """What is sent, in pieces: a skymap must not hold up the loop. Each piece that is taken is noted."""

    def __init__(self, content: bytes, moved: _Moved) -> None:
        super().__init__(content)
        self._moved = moved

    def read(self, size: int | None = -1, /) -> bytes:
        self._moved.note()
        return super().read(size)


@dataclass(frozen=True)
class Status:
    """What a scanner reads of its scan's status."""

    is_deleted: bool
    ewms_deactivated: str | None


class Rest:
    """The calls of a scanner. To be made and used in one event loop; ``close`` it there."""

    def __init__(self, address: str, token: str, scan_id: str) -> None:
        self._base = f"{address.rstrip('/')}/scan/{scan_id}"
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"} if token else {})

    async def close(self) -> None:
        await self._session.close()

    async def event(self) -> dict[str, Any]:
        """The i3 event. Raises CallFailed."""
        manifest = await self.call("GET", "manifest", None, URGENT)
        event = manifest.get("event_i3live_json_dict") if isinstance(manifest, dict) else None
        if not isinstance(event, dict):
            raise CallFailed("GET manifest: the answer holds no event", None)
        return event

    async def n_running(self) -> int:
        """Workers that run now. Raises CallFailed."""
        workforce = await self.call("GET", "ewms/workforce", None, FAST)
        value = workforce.get("n_running") if isinstance(workforce, dict) else None
        return value if isinstance(value, int) else 0

    async def status(self) -> Status:
        """Raises CallFailed."""
        status = await self.call("GET", "status", None, FAST)
        if not isinstance(status, dict):
            raise CallFailed("GET status: the answer is no object", None)
        label = status.get("ewms_deactivated")
        return Status(bool(status.get("is_deleted")), str(label) if label else None)

    async def send(self, kind: str, plain: bytes, *, producer: str, sequence: int) -> None:
        """A message's body by the route of its kind, one attempt; what the answer says is dropped. Raises CallFailed."""
        if kind not in _ROUTES:
            raise CallFailed(f"a {kind} report can't be sent over REST", None)
        method, what = _ROUTES[kind]
        place = {PRODUCER_HEADER: producer, SEQUENCE_HEADER: str(sequence), "Prefer": "return=minimal"}
        await self.call(method, what, plain, NO_RETRY, place)

    async def call(
        self, method: str, what: str, body: bytes | None, patience: RetryPolicy, place: Mapping[str, str] | None = None
    ) -> object:
        """One call below the scan's address, as JSON; None for an empty answer. Raises CallFailed when patience is at its end."""
        failures = 0
        while True:
            status, wait_s, is_final = None, 0.0, False
            try:
                status, when, text = await self._attempt(method, what, body, patience, place or {})
                if 200 <= status < 300:
                    return None if patience.is_large else _parse(method, what, text)
                problem = f"HTTP {status}"
                when = when if status in _OBEYS_RETRY_AFTER else None
                wait_s = _seconds(when)
                is_final = 400 <= status < 500 and status not in _RETRIED and when is None
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                problem = type(error).__name__
            failures += 1
            is_retried = status is None or status in _RETRIED or (status == 413 and not is_final)
            if failures > patience.retries or not is_retried:
                raise CallFailed(f"{method} {what}: {problem}", status, is_final=is_final, wait_s=wait_s)
            log.info("%s %s: %s, trying again", method, what, problem)
            await asyncio.sleep(max(wait_s, patience.pause_s(failures)))

    async def _attempt(
        self, method: str, what: str, body: bytes | None, patience: RetryPolicy, place: Mapping[str, str]
    ) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and text of an answer, the text only of small ones. Raises what aiohttp raises, TimeoutError."""
        moved = _Moved()
        answering = asyncio.ensure_future(self._answer(method, what, body, patience, place, moved))
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=patience.timeout_s / _LOOKS_PER_TIMEOUT)
                if patience.is_large and time.monotonic() - moved.at > patience.timeout_s:
                    raise asyncio.TimeoutError
            return answering.result()
        finally:
            answering.cancel()

    async def _answer(
        self, method: str, what: str, body: bytes | None, patience: RetryPolicy, place: Mapping[str, str], moved: _Moved
    ) -> tuple[int, str | None, bytes]:
        data = None if body is None else _Body(body, moved)
        headers = {"Content-Type": "application/json", **place} if body is not None else None
        timeout = aiohttp.ClientTimeout(total=None if patience.is_large else patience.timeout_s)
        async with self._session.request(
            method, f"{self._base}/{what}", data=data, headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            text = b""
            if patience.is_large:  # a whole skymap, where SkyDriver does not know that less was asked for
                async for _ in answer.content.iter_chunked(_PIECE_BYTES):
                    moved.note()
            else:
                text = await answer.read()
            return answer.status, answer.headers.get("Retry-After"), text


def _parse(method: str, what: str, text: bytes) -> object:
    if not text.strip():
        return None
    try:
        answer: object = json.loads(text)
    except ValueError as error:
        raise CallFailed(f"{method} {what}: the answer is no JSON", None) from error
    return answer


def _seconds(text: str | None) -> float:
    return min(_MAX_PAUSE_S, float(text)) if text is not None and text.strip().isdigit() else 0.0
