"""The existing Skymap Scanner on the bus, with three lines changed.

The scanner makes one REST client and hands it to its reporter, its kill switch and its wait for workers. They use it for five
calls. ``SkyDriverClient`` takes those calls and has them done by the client library: reports go over the bus and survive an
outage of ours, the kill switch is told at once instead of asking every five minutes, no call stalls the collecting loop::

    - skydriver_rc = RestClient(cfg.ENV.SKYSCAN_SKYDRIVER_ADDRESS, token=cfg.ENV.SKYSCAN_SKYDRIVER_AUTH, timeout=60, retries=24)
    + skydriver_rc = SkyDriverClient.from_env()
    ...
    + await skydriver_rc.close()        # at the end; raises NotDelivered unless the final result has arrived

Without ``SKYSCAN_SKYDRIVER_BUS_URL`` the library uses the same REST routes as before, with the same patience.
"""

from __future__ import annotations

from typing import Any

from skydriver_scanner import AsyncScannerSession, NotDelivered

_FINAL_PATIENCE_S = 3600.0


class SkyDriverClient:
    """Has ``request`` as the scanner's RestClient has, for the calls that a scanner makes."""

    def __init__(self, session: AsyncScannerSession) -> None:
        self._session = session
        self._has_final_result = False

    @classmethod
    def from_env(cls) -> SkyDriverClient:
        """As the launcher says. Raises SettingsError."""
        return cls(AsyncScannerSession.from_env())

    async def request(self, method: str, path: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """One of the five calls; the answer holds what the scanner reads of it. Raises what the library raises, ValueError."""
        what = path.strip("/").partition("/")[2].partition("/")[2]
        if (method, what) == ("GET", "manifest"):
            return {"event_i3live_json_dict": await self._session.event()}
        if (method, what) == ("GET", "ewms/workforce"):
            return {"n_running": await self._session.wait_for_workers()}  # waits by itself
        if (method, what) == ("GET", "status"):
            reason = self._session.stop.reason if self._session.stop is not None else None
            return {"is_deleted": reason == "deleted", "ewms_deactivated": reason if reason != "deleted" else None}
        if (method, what) == ("PATCH", "manifest"):
            await self._session.report_progress(**(args or {}))
        elif (method, what) == ("PUT", "result"):
            await self._session.put_result(**(args or {}))
            self._has_final_result |= bool((args or {})["is_final"])
        else:
            raise ValueError(f"no scanner calls {method} {what}")
        if self._has_final_result and not await self._session.flush(_FINAL_PATIENCE_S):
            await self._session.close(0)  # the end of a scan is urgent: it must arrive, or the scanner must say that it did not
        return {}

    async def close(self) -> None:
        """Deliver what waits. Raises NotDelivered."""
        await self._session.close()


__all__ = ["NotDelivered", "SkyDriverClient"]
