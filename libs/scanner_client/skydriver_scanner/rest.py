"""SkyDriver's REST routes as a scanner uses them, with their retry policies."""

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

logger = logging.getLogger("skydriver_scanner")

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_OBEYS_RETRY_AFTER = frozenset({413, 429, 503})
"""413 is retried only if the response says when."""
_MAX_PAUSE_S = 120.0
_PIECE_BYTES = 64 * 1024
_CHECKS_PER_TIMEOUT = 60
_ROUTES = {PROGRESS: ("PATCH", "manifest"), RESULT: ("PUT", "result")}


@dataclass(frozen=True)
class RetryPolicy:
    """How a call is retried. retries: after the first attempt. backoff_s: factor of the doubling pause.

    timeout_s: of an attempt. is_large: the timeout is for a time in which no byte moves, as 100 MB take long on a slow line.
    """

    timeout_s: float
    retries: int
    backoff_s: float = 0.3
    is_large: bool = False

    def pause_s(self, failures: int) -> float:
        """Return the seconds to wait: 0 before the first retry, then factor·2, factor·4 …, at most 120."""
        return 0.0 if failures < 2 else min(_MAX_PAUSE_S, self.backoff_s * 2.0 ** (failures - 1))


PERSISTENT = RetryPolicy(timeout_s=60.0, retries=24)
"""For calls without which the scan fails. Source: scanner contract 2."""
NO_RETRY = RetryPolicy(timeout_s=120.0, retries=0, is_large=True)
FAST = RetryPolicy(timeout_s=10.0, retries=0)


class _Activity:
    """When a byte was last sent or received. at: ``time.monotonic``."""

    def __init__(self) -> None:
        self.at = 0.0
        self.note()

    def note(self) -> None:
        self.at = time.monotonic()


class _Body(io.BytesIO):
    """A request body, read in pieces: a skymap must not hold up the loop. Each piece counts as activity."""

    def __init__(self, content: bytes, activity: _Activity) -> None:
        super().__init__(content)
        self._activity = activity

    def read(self, size: int | None = -1, /) -> bytes:
        self._activity.note()
        return super().read(size)


@dataclass(frozen=True)
class Status:
    """The parts of a scan's status that a scanner reads."""

    is_deleted: bool
    ewms_deactivated: str | None


class Rest:
    """The REST calls of a scanner. To be created, used and closed in one event loop."""

    def __init__(self, address: str, token: str, scan_id: str) -> None:
        self._base = f"{address.rstrip('/')}/scan/{scan_id}"
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"} if token else {})

    async def close(self) -> None:
        await self._session.close()

    async def event(self) -> dict[str, Any]:
        """Return the i3 event. Raises CallFailed."""
        manifest = await self.call("GET", "manifest", None, PERSISTENT)
        event = manifest.get("event_i3live_json_dict") if isinstance(manifest, dict) else None
        if not isinstance(event, dict):
            raise CallFailed("GET manifest: the response contains no event", None)
        return event

    async def n_running(self) -> int:
        """Return how many workers run now. Raises CallFailed."""
        workforce = await self.call("GET", "ewms/workforce", None, FAST)
        value = workforce.get("n_running") if isinstance(workforce, dict) else None
        return value if isinstance(value, int) else 0

    async def status(self) -> Status:
        """Return the scan's status. Raises CallFailed."""
        status = await self.call("GET", "status", None, FAST)
        if not isinstance(status, dict):
            raise CallFailed("GET status: the response is not a JSON object", None)
        label = status.get("ewms_deactivated")
        return Status(bool(status.get("is_deleted")), str(label) if label else None)

    async def send(self, kind: str, plain: bytes, *, producer: str, sequence: int) -> None:
        """Send a message by the route of its kind, in one attempt; the response body is ignored. Raises CallFailed."""
        if kind not in _ROUTES:
            raise CallFailed(f"a {kind} report cannot be sent over REST", None)
        method, what = _ROUTES[kind]
        headers = {PRODUCER_HEADER: producer, SEQUENCE_HEADER: str(sequence), "Prefer": "return=minimal"}
        await self.call(method, what, plain, NO_RETRY, headers)

    async def call(
        self, method: str, what: str, body: bytes | None, policy: RetryPolicy, headers: Mapping[str, str] | None = None
    ) -> object:
        """Call a route of the scan; return its JSON, None for an empty response. Raises CallFailed when the policy allows no retry."""
        failures = 0
        while True:
            status, wait_s, is_final = None, 0.0, False
            try:
                status, when, text = await self._attempt(method, what, body, policy, headers or {})
                if 200 <= status < 300:
                    return None if policy.is_large else _parse(method, what, text)
                problem = f"HTTP {status}"
                when = when if status in _OBEYS_RETRY_AFTER else None
                wait_s = _seconds(when)
                is_final = 400 <= status < 500 and status not in _RETRIED and when is None
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                problem = type(error).__name__
            failures += 1
            is_retried = status is None or status in _RETRIED or (status == 413 and not is_final)
            if failures > policy.retries or not is_retried:
                raise CallFailed(f"{method} {what}: {problem}", status, is_final=is_final, wait_s=wait_s)
            logger.info("%s %s: %s; retrying", method, what, problem)
            await asyncio.sleep(max(wait_s, policy.pause_s(failures)))

    async def _attempt(
        self, method: str, what: str, body: bytes | None, policy: RetryPolicy, headers: Mapping[str, str]
    ) -> tuple[int, str | None, bytes]:
        """Return status, Retry-After and body of a response, the body only of small ones. Raises what aiohttp raises, TimeoutError."""
        activity = _Activity()
        responding = asyncio.ensure_future(self._request(method, what, body, policy, headers, activity))
        try:
            while not responding.done():
                await asyncio.wait({responding}, timeout=policy.timeout_s / _CHECKS_PER_TIMEOUT)
                if policy.is_large and time.monotonic() - activity.at > policy.timeout_s:
                    raise asyncio.TimeoutError
            return responding.result()
        finally:
            responding.cancel()

    async def _request(
        self, method: str, what: str, body: bytes | None, policy: RetryPolicy, headers: Mapping[str, str], activity: _Activity
    ) -> tuple[int, str | None, bytes]:
        data = None if body is None else _Body(body, activity)
        sent_headers = {"Content-Type": "application/json", **headers} if body is not None else None
        timeout = aiohttp.ClientTimeout(total=None if policy.is_large else policy.timeout_s)
        async with self._session.request(
            method, f"{self._base}/{what}", data=data, headers=sent_headers, timeout=timeout, allow_redirects=False
        ) as response:
            text = b""
            if policy.is_large:  # a whole skymap, where SkyDriver does not know ``Prefer: return=minimal``
                async for _ in response.content.iter_chunked(_PIECE_BYTES):
                    activity.note()
            else:
                text = await response.read()
            return response.status, response.headers.get("Retry-After"), text


def _parse(method: str, what: str, text: bytes) -> object:
    if not text.strip():
        return None
    try:
        response: object = json.loads(text)
    except ValueError as error:
        raise CallFailed(f"{method} {what}: the response is not valid JSON", None) from error
    return response


def _seconds(text: str | None) -> float:
    return min(_MAX_PAUSE_S, float(text)) if text is not None and text.strip().isdigit() else 0.0
