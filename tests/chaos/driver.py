"""Users and scanners: they ask at a steady rate, repeat what was not answered, and write down what was."""

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aiohttp

from skydriver_common.model.ids import ScanId
from skydriver_scanner import AsyncScannerSession, NotDelivered, SessionSettings
from tests.chaos.environment import ChaosEnvironment
from tests.chaos.ledger import Ledger, ScanRecord
from tests.support.waiting import pause

_CALL_LIMIT_S = 20.0
_PATIENCE_S = 150.0
_START_LIMIT_S = 150.0
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """status 0: there was none."""

    status: int
    body: bytes = b""


class Driver:
    """Drives scans from their request to their end, each in a task of its own."""

    def __init__(self, field: ChaosEnvironment, ledger: Ledger, session: aiohttp.ClientSession, *, seed: str) -> None:
        self._field = field
        self._ledger = ledger
        self._session = session
        self._seed = seed
        self._signer = field.signer()
        self._last_start = -math.inf

    async def drive(self, scans: int, per_second: float) -> None:
        """Request so many scans at random moments, on average so many a second; returns when all have come to their end."""
        rng = random.Random(f"{self._seed}/moments")
        began, at = time.monotonic(), 0.0
        async with asyncio.TaskGroup() as group:
            for number in range(scans):
                at += rng.expovariate(per_second)
                await pause(max(0.0, began + at - time.monotonic()))
                group.create_task(self._scan(f"{self._seed}-{number}", random.Random(f"{self._seed}/scan/{number}")))

    async def probe(self) -> bool:
        """Whether a write is taken now: a scan that does not exist cannot be deleted, says whoever would do it."""
        answer = await self._call("probe", "PATCH", "/scan/nothing/manifest", {"progress": None}, role="system", limit_s=4)
        return answer.status == 404

    async def extra_scan(self) -> str:
        """Request a scan that no user has asked for and that no scanner reports on; its id, "" when there was no answer."""
        key = f"{self._seed}-extra-{time.monotonic_ns()}"
        rng = random.Random(key)
        body = _request(ScanRecord(key, json.dumps({"chaos": key}).encode()), priority=0)
        answer = await self._until_answered("request", rng, lambda: self._post("/scan", body, key, rng))
        return str(json.loads(answer.body)["scan_id"]) if answer.status == 200 else ""

    async def _scan(self, key: str, rng: random.Random) -> None:
        record = ScanRecord(key, json.dumps({"chaos": key, "noise": rng.random()}).encode())
        self._ledger.scans.append(record)
        if rng.random() < 0.15:
            await self._refused_request(key, rng)
        body = _request(record, priority=rng.choice([0, 0, 50, 100]))
        answer = await self._until_answered("request", rng, lambda: self._post("/scan", body, key, rng))
        if answer.status != 200:
            if answer.status:
                self._ledger.complain(f"a good request was answered {answer.status}: {answer.body[:200]!r}")
            return
        record.scan_id = str(json.loads(answer.body)["scan_id"])
        if rng.random() < 0.3:
            await self._same_again(record, body, answer, rng)
        if rng.random() < 0.1:
            await self._key_with_another_body(record, rng)
        if rng.random() < 0.12:
            await pause(rng.uniform(0, 2))
            record.is_deleted = await self._deleted(record.scan_id, rng)
            return
        record.on_the_bus = rng.random() < 0.4
        if await self._started(record):
            await (self._work_on_the_bus if record.on_the_bus else self._work)(record, rng)
        if rng.random() < 0.1:
            await self._rescan(record, rng)

    async def _work(self, record: ScanRecord, rng: random.Random) -> None:
        """What a scanner tells of its scan, with the scan's own token."""
        assert record.scan_id is not None
        token = self._signer.scan_token(ScanId(record.scan_id), datetime.now(UTC) + timedelta(hours=1))
        where = f"/scan/{record.scan_id}/manifest"
        last = rng.randint(3, 6)
        for number in range(1, last + 1):
            mark = f"{record.key}/{number}"
            report = _report(record, mark, is_last=False)
            answer = await self._until_answered(
                "report", rng, partial(self._call, "report", "PATCH", where, report, token=token)
            )
            if answer.status == 200:
                record.reports.append(mark)
                await self._reads_its_write(record, mark, rng)
            elif answer.status:
                self._ledger.complain(f"a good report was answered {answer.status}: {answer.body[:200]!r}")
            if number == last // 2:
                await self._contradict(record, token, rng)
            if rng.random() < 0.4:
                await self._put_result(record, token, f"{mark}/partial", rng, is_final=False)
            await pause(rng.uniform(0.2, 1.0))
        if rng.random() < 0.1:
            record.is_deleted = await self._deleted(record.scan_id, rng)
            return
        await self._put_result(record, token, f"{record.key}/final", rng, is_final=True)
        mark = f"{record.key}/end"
        report = _report(record, mark, is_last=True)
        answer = await self._until_answered("report", rng, lambda: self._call("report", "PATCH", where, report, token=token))
        if answer.status == 200:
            record.reports.append(mark)
        self.end_scanner(record.scan_id)

    async def _work_on_the_bus(self, record: ScanRecord, rng: random.Random) -> None:
        """The same through the scanners' client library, which keeps what it was given until it is delivered."""
        assert record.scan_id is not None
        settings = SessionSettings(
            scan_id=record.scan_id,
            address=rng.choice(self._field.urls),
            token=self._signer.scan_token(ScanId(record.scan_id), datetime.now(UTC) + timedelta(hours=1)),
            bus_url=self._field.scanner_bus_url,
            spool_dir=self._field.data_dir / "spool",
            bus_patience_s=5,
        )
        session = await asyncio.to_thread(AsyncScannerSession, settings)
        for number in range(1, rng.randint(3, 6) + 1):
            await self._report_on_the_bus(session, record, f"{record.key}/{number}", is_last=False)
            if rng.random() < 0.4:
                await session.put_result(skymap(f"{record.key}/{number}/partial"), is_final=False)
            await pause(rng.uniform(0.2, 1.0))
        final, end = f"{record.key}/final", f"{record.key}/end"
        await session.put_result(skymap(final), is_final=True)
        await self._report_on_the_bus(session, record, end, is_last=True)
        try:
            await session.close(_PATIENCE_S)
        except NotDelivered as problem:
            self._ledger.answers["bus session", "not delivered"] += 1
            self._ledger.complain(f"a scanner's messages were not delivered within {_PATIENCE_S:g} s: {problem}")
        else:
            self._ledger.answers["bus session", "delivered"] += 1
            record.final = final
            record.reports.append(end)
        self.end_scanner(record.scan_id)

    async def _report_on_the_bus(self, session: AsyncScannerSession, record: ScanRecord, mark: str, *, is_last: bool) -> None:
        self._ledger.answers["bus report", "handed over"] += 1
        await session.report_progress(**_report(record, mark, is_last=is_last))

    async def _put_result(self, record: ScanRecord, token: str, mark: str, rng: random.Random, *, is_final: bool) -> None:
        body = {"skyscan_result": skymap(mark), "is_final": is_final}
        answer = await self._until_answered(
            "result", rng, lambda: self._call("result", "PUT", f"/scan/{record.scan_id}/result", body, token=token)
        )
        if answer.status == 200:
            if is_final:
                record.final = mark
            else:
                record.results.append(mark)
        elif answer.status:
            self._ledger.complain(f"a good result was answered {answer.status}: {answer.body[:200]!r}")

    async def _contradict(self, record: ScanRecord, token: str, rng: random.Random) -> None:
        """Other metadata than before, with a report: all of it must be refused."""
        mark = f"{record.key}/refused"
        report = _report(record, mark, is_last=False)
        report["event_metadata"]["run_id"] += 1
        answer = await self._until_answered(
            "contradiction", rng,
            lambda: self._call("contradiction", "PATCH", f"/scan/{record.scan_id}/manifest", report, token=token),
        )  # fmt: skip
        if answer.status == 200 and not record.reports:  # none before it was taken: it contradicts nothing
            record.reports.append(mark)
            return
        record.refused_reports.append(mark)
        if answer.status not in (400, 0):
            self._ledger.complain(f"a contradiction was answered {answer.status}")

    async def _reads_its_write(self, record: ScanRecord, mark: str, rng: random.Random) -> None:
        answer = await self._call("read", "GET", f"/scan/{record.scan_id}/manifest", None, role="user", rng=rng)
        if answer.status == 200:
            found = json.loads(answer.body)["progress"]["summary"]
            if found != mark:
                self._ledger.complain(f"after {mark} was taken, {found} was read")
        elif answer.status not in (0, 503):
            self._ledger.complain(f"a reader was answered {answer.status}")

    async def _same_again(self, record: ScanRecord, body: dict[str, Any], first: Answer, rng: random.Random) -> None:
        answer = await self._until_answered("repeat", rng, lambda: self._post("/scan", body, record.key, rng, kind="repeat"))
        if answer.status and (answer.status, answer.body) != (200, first.body):
            self._ledger.complain(f"the repeat of {record.key} was answered {answer.status}, or another body")

    async def _key_with_another_body(self, record: ScanRecord, rng: random.Random) -> None:
        body = _request(record, priority=7)
        answer = await self._until_answered(
            "reused key", rng, lambda: self._post("/scan", body, record.key, rng, kind="reused key")
        )
        if answer.status not in (422, 0):
            self._ledger.complain(f"the used key {record.key} with another body was answered {answer.status}")

    async def _refused_request(self, key: str, rng: random.Random) -> None:
        refused = f"{key}-refused"
        self._ledger.refused_keys.append(refused)
        body = _request(ScanRecord(refused, b'{"chaos": "refused"}'), priority=0) | {"max_pixel_reco_time": 0}
        answer = await self._until_answered(
            "bad request", rng, lambda: self._post("/scan", body, refused, rng, kind="bad request")
        )
        if answer.status not in (400, 0):
            self._ledger.complain(f"a bad request was answered {answer.status}")

    async def _deleted(self, scan_id: str | None, rng: random.Random) -> bool:
        """Delete the scan; whether that was acknowledged."""
        body = {"delete_completed_scan": True}
        answer = await self._until_answered(
            "delete", rng, lambda: self._call("delete", "DELETE", f"/scan/{scan_id}", body, role="user", rng=rng)
        )
        if answer.status not in (200, 0):
            self._ledger.complain(f"a deletion was answered {answer.status}: {answer.body[:200]!r}")
        return answer.status == 200

    async def _rescan(self, record: ScanRecord, rng: random.Random) -> None:
        key = f"{record.key}-rescan"
        path = f"/scan/{record.scan_id}/actions/rescan"
        answer = await self._until_answered("rescan", rng, lambda: self._post(path, {}, key, rng, kind="rescan"))
        if answer.status == 200:
            record.rescan_id = str(json.loads(answer.body)["scan_id"])
            record.rescan_is_deleted = await self._deleted(record.rescan_id, rng)
        elif answer.status:
            self._ledger.complain(f"a rescan was answered {answer.status}: {answer.body[:200]!r}")

    async def _started(self, record: ScanRecord) -> bool:
        """Wait until the dispatcher has started the scan's scanner server. A queue that moves may be long: the machine decides that."""
        starts = self._field.work_dir / str(record.scan_id) / "starts"
        began = self._time_with_servers()
        while not starts.exists():
            if self._time_with_servers() - max(began, self._last_start) > _START_LIMIT_S:
                self._ledger.complain(f"scan {record.scan_id} was not started though none was for {_START_LIMIT_S:g} s")
                return False
            await pause(0.2)
        self._last_start = self._time_with_servers()
        return True

    def end_scanner(self, scan_id: str) -> None:
        """Let the scan's scanner process end by itself."""
        try:
            os.close(os.open(self._field.work_dir / scan_id / "end", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return  # it runs not; whoever starts it again will be told by the watchdog

    def _time_with_servers(self) -> float:
        """Time that counts against the system: not while its database or its broker was taken away."""
        return time.monotonic() - self._field.outages.elapsed_s

    async def _until_answered(self, kind: str, rng: random.Random, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Repeat while there is no answer, or a 503. The last Answer when patience ends."""
        pause_s, began = 0.2, self._time_with_servers()
        while True:
            answer = await call()
            if answer.status not in (0, 503):
                return answer
            if self._time_with_servers() - began > _PATIENCE_S:
                self._ledger.complain(f"a {kind} was not answered for {_PATIENCE_S:g} s")
                return Answer(0)
            await pause(pause_s * rng.uniform(0.5, 1))
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.7)

    async def _post(self, path: str, body: Any, key: str, rng: random.Random, *, kind: str = "request") -> Answer:
        return await self._call(kind, "POST", path, body, role="user", headers={"Idempotency-Key": key}, rng=rng)

    async def _call(
        self, kind: str, method: str, path: str, body: Any, *, role: str = "", token: str = "",
        headers: dict[str, str] | None = None, limit_s: float = _CALL_LIMIT_S, rng: random.Random | None = None,
    ) -> Answer:  # fmt: skip
        """One request to one of the gateway's replicas; every answer is counted."""
        bearer = token or self._field.connection[f"{role}_token"]
        url = (rng or random).choice(self._field.urls) + path
        began = time.monotonic()
        try:
            async with self._session.request(
                method, url, data=None if body is None else json.dumps(body), allow_redirects=False,
                headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json", **(headers or {})},
                timeout=aiohttp.ClientTimeout(total=limit_s),
            ) as response:  # fmt: skip
                answer = Answer(response.status, await response.read())
                retry_after = response.headers.get("Retry-After", "")
        except TimeoutError:
            self._ledger.answers[kind, "no answer in time"] += 1
            return Answer(0)
        except (aiohttp.ClientError, OSError):
            self._ledger.answers[kind, "connection lost"] += 1
            return Answer(0)
        self._ledger.answers[kind, str(answer.status)] += 1
        if answer.status == 503:
            self._ledger.slowest_503_s = max(self._ledger.slowest_503_s, time.monotonic() - began)
            if not retry_after.isdigit():
                self._ledger.complain(f"a 503 to a {kind} came without Retry-After")
        elif answer.status >= 500:
            self._ledger.complain(f"a {kind} was answered {answer.status}: {answer.body[:200]!r}")
        return answer


def _request(record: ScanRecord, *, priority: int) -> dict[str, Any]:
    return {
        "docker_tag": "latest",
        "reco_algo": "dummy",
        "nsides": {"8": 0},
        "real_or_simulated_event": "simulated",
        "max_pixel_reco_time": 60,
        "request_clusters": {"osg": 1},
        "classifiers": {"chaos": record.key},
        "priority": priority,
        "event_i3live_json": record.event.decode(),
    }


def _report(record: ScanRecord, mark: str, *, is_last: bool) -> dict[str, Any]:
    stats: dict[str, Any] = {"start": {"scanner start": "now"}, "runtime": {"elapsed": "0:00:01"}}
    if is_last:
        stats |= {"rate": {"pixels": 1}, "end": "now", "finished": True}
    return {
        "progress": {
            "summary": mark, "epilogue": "", "tallies": {}, "processing_stats": stats, "predictive_scanning_threshold": 1.0,
            "last_updated": "now", "start": 1, "end": None,
        },
        "event_metadata": {"run_id": 1, "event_id": 2, "event_type": None, "mjd": 60000.5, "is_real_event": False},
        "scan_metadata": {"scan_id": record.scan_id, "nside_progression": {"8": 0}, "position_variations": 7},
    }  # fmt: skip


def skymap(mark: str) -> dict[str, Any]:
    """A result that says whose it is."""
    metadata = {"nside": 8, "mark": mark}
    return {"nside-8": {"columns": ["index", "llh", "E_in", "E_tot"], "metadata": metadata, "data": [[0, 1.5, 2.5, 3.5]]}}
