"""SkyDriver over HTTP, with the patience the scanner is known for. Source: scanner contract 2.

Urgent calls decide over the scan (60 s each, 24 retries); the others may fail (10 s each, one retry).
"""

import asyncio
import json
import logging
from typing import Any

from skydriver_scanner.errors import CallFailed
from skydriver_scanner.rest import PERSISTENT, Rest, RetryPolicy

__all__ = ["NON_URGENT", "PERSISTENT", "CallFailed", "RestClient", "RetryPolicy"]

log = logging.getLogger("sandbox.scanner")

NON_URGENT = RetryPolicy(timeout_s=10.0, retries=1, backoff_s=0.0)


class RestClient:
    """The five calls of a scanner, see ``SkyDriverClient``. Use as an async context manager. The token is fixed for the scan's life."""

    def __init__(self, address: str, token: str, scan_id: str) -> None:
        self._address = address
        self._scan_id = scan_id
        self._token = token

    async def __aenter__(self) -> "RestClient":
        self._rest = Rest(self._address, self._token, self._scan_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._rest.close()

    async def event(self) -> object:
        """The event inside the manifest. Raises CallFailed."""
        manifest = await self._call("GET", "manifest", None, PERSISTENT)
        return manifest.get("event_i3live_json_dict") if isinstance(manifest, dict) else None

    async def wait_for_workers(self, poll_s: float) -> None:
        """Until one runs, for ever. Unlike upstream, a failed look does not end the scan."""
        while True:
            try:
                if await self._n_running():
                    return
            except CallFailed as error:
                log.warning("workforce unknown: %s", error)
            await asyncio.sleep(poll_s)

    async def _n_running(self) -> int:
        workforce = await self._call("GET", "ewms/workforce", None, NON_URGENT)
        value = workforce.get("n_running") if isinstance(workforce, dict) else None
        return value if isinstance(value, int) else 0

    async def until_stopped(self, poll_s: float) -> str:
        """Returns when the scan was deleted or its workflow has ended. Unlike upstream, a failed look is not the last one."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                if await self._must_stop():
                    return "the scan was deleted or its workflow ended"
            except CallFailed as error:
                log.warning("status unknown: %s", error)

    async def report_failure(self, reason: str) -> None:
        """Do nothing: there is no call for it, and SkyDriver sees the process end."""

    async def _must_stop(self) -> bool:
        status = await self._call("GET", "status", None, NON_URGENT)
        return isinstance(status, dict) and bool(status.get("is_deleted") or status.get("ewms_deactivated"))

    async def report_progress(self, body: dict[str, Any], patience: RetryPolicy) -> None:
        """Raises CallFailed."""
        await self._call("PATCH", "manifest", body, patience)

    async def send_result(self, result: dict[str, Any], *, is_final: bool, patience: RetryPolicy) -> None:
        """Raises CallFailed."""
        await self._call("PUT", "result", {"skyscan_result": result, "is_final": is_final}, patience)

    async def _call(self, method: str, what: str, body: dict[str, Any] | None, patience: RetryPolicy) -> object:
        return await self._rest.call(
            method, what, None if body is None else json.dumps(body, allow_nan=False).encode(), patience
        )
