"""Two hundred scans while the API server and the dispatchers are killed at random: in the end nothing is lost, nothing ran
twice, and nothing is left over.

The plan follows from a seed, which is printed; ``SKYDRIVER_TEST_SEED`` repeats one (timing is the machine's).
"""

import asyncio
import os
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.kube.api import Api, ApiError, eventually
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.installation import SCAN_ID_LABEL, Installation, request

SCANS, KILLS = 200, 20
DELETED, TAKEN = 0.1, 0.1
"""Shares of scans that are deleted at some moment, and whose scanner server is killed once."""
LIMIT_S = 420.0


@pytest.mark.timeout(540)
async def test_kills_lose_nothing(
    tmp_path: Path, api: Api, control_plane: ControlPlane, namespace: str, dispatcher_kubeconfig: Path, database: str, clean_bus: str
) -> None:  # fmt: skip
    seed = int(os.environ.get("SKYDRIVER_TEST_SEED") or random.randrange(2**32))
    print(f"SKYDRIVER_TEST_SEED={seed}")
    system = Installation(
        tmp_path, api=api, namespace=namespace, kubeconfig=dispatcher_kubeconfig, database_url=database, amqp_url=clean_bus,
        dispatchers=2,
    )  # fmt: skip
    await system.start()
    run = _Run(system, control_plane, random.Random(seed))
    try:
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            players = [group.create_task(run.play_scanner_servers()), group.create_task(run.count_pods())]
            work = [group.create_task(run.submit_all()), group.create_task(run.kill_now_and_then())]
            await asyncio.gather(*work)
            await run.until_all_have_ended()
            for player in players:
                player.cancel()
        await run.judge()
    finally:
        await system.stop()


class _Run:
    def __init__(self, system: Installation, plane: ControlPlane, dice: random.Random) -> None:
        self.system = system
        self.plane = plane
        self.dice = dice
        self.scans: list[str] = []
        self.deleted: set[str] = set()
        self.taken: set[str] = set()
        self.jobs: dict[str, set[str]] = {}
        self.pods: set[str] = set()
        self.ends: dict[str, str] = {}
        self.kills: Counter[str] = Counter()

    async def submit_all(self) -> None:
        """Request scans, some of which are deleted soon after."""
        deletions = []
        for _ in range(SCANS):
            scan_id = await self._insist(self._submit_once, str(uuid.uuid4()))
            self.scans.append(scan_id)
            if self.dice.random() < DELETED:
                deletions.append(asyncio.create_task(self._delete(scan_id, self.dice.uniform(0, 5))))
            await asyncio.sleep(self.dice.uniform(0, 0.3))
        await asyncio.gather(*deletions)

    async def _submit_once(self, key: str) -> str:
        # a key per scan: a request whose answer got lost is repeated, not doubled
        status, answer = await self.system.call("POST", "/scan", body=request(), headers={"Idempotency-Key": key})
        if status != 200:
            raise OSError(f"POST /scan: {status} {answer}")
        return str(answer["scan_id"])

    async def _delete(self, scan_id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.deleted.add(scan_id)

        async def once() -> str:
            await self.system.delete(scan_id)
            return "done"

        await self._insist(once)

    async def _insist(self, question: Any, *arguments: Any) -> Any:
        for _ in range(60):
            try:
                return await question(*arguments)
            except (aiohttp.ClientError, OSError, TimeoutError, AssertionError):
                await asyncio.sleep(0.5)
        return await question(*arguments)

    async def kill_now_and_then(self) -> None:
        """Kill the API server or a dispatcher, and start it again a little later."""
        for _ in range(KILLS):
            await asyncio.sleep(self.dice.uniform(0.5, 4))
            victim = self.dice.choice(["kube-apiserver", "dispatcher-0", "dispatcher-1"])
            self.kills[victim] += 1
            pause_s = self.dice.uniform(0, 2)
            if victim == "kube-apiserver":
                await self.plane.kill_api_server()
                await asyncio.sleep(pause_s)
                await self.plane.start_api_server()
            else:
                await self.system.kill(victim)
                await asyncio.sleep(pause_s)
                await self.system.start_service(victim)
                await self.system.until_ready(victim)
        print(f"killed: {dict(self.kills)}")

    async def play_scanner_servers(self) -> None:
        """Each running pod sends its final result and ends well, or is killed."""
        ended: set[str] = set()
        while True:
            for pod in await self._pods():
                uid, scan_id = pod["metadata"]["uid"], pod["metadata"]["labels"][SCAN_ID_LABEL]
                if uid in ended or pod["status"].get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
                    continue
                try:
                    if scan_id in self.scans and self.dice.random() < TAKEN:
                        self.taken.add(scan_id)
                        fate = {"tests/exit-code": "137", "tests/exit-reason": "OOMKilled"}
                    else:
                        await self.system.put_final_result(scan_id)
                        fate = {"tests/exit-code": "0"}
                    name = pod["metadata"]["name"]
                    await self.system.api.patch("Pod", self.system.namespace, name, {"metadata": {"annotations": fate}})
                    ended.add(uid)
                except (aiohttp.ClientError, OSError, TimeoutError, AssertionError):
                    continue  # the API server is away, or the scan was just deleted: its pod is gone at the next look
            await asyncio.sleep(0.2)

    async def count_pods(self) -> None:
        """Every pod that ever was; by scan, the Jobs that made them.

        A Job may make two pods when the API server dies between pod and answer, and deletes one of them; that is Kubernetes' own.
        """
        while True:
            for pod in await self._pods():
                self.pods.add(pod["metadata"]["uid"])
                made_by = {owner["uid"] for owner in pod["metadata"].get("ownerReferences", ())}
                self.jobs.setdefault(pod["metadata"]["labels"][SCAN_ID_LABEL], set()).update(made_by)
            await asyncio.sleep(0.1)

    async def _pods(self) -> list[dict[str, Any]]:
        try:
            return await self.system.api.list("Pod", self.system.namespace, SCAN_ID_LABEL)
        except (aiohttp.ClientError, OSError, TimeoutError, ApiError):
            return []

    async def until_all_have_ended(self) -> None:
        """Wait until each scan, or the one that took its place, has its result or was deleted by us."""

        async def none_left() -> bool:
            for scan_id in self.scans:
                if self.ends.get(scan_id) not in ("complete", "deleted"):
                    self.ends[scan_id] = await self._end_of(scan_id)
            return all(end in ("complete", "deleted") for end in self.ends.values())

        try:
            await eventually(none_left, "all scans have ended", limit_s=180, every_s=1.0)
        except AssertionError as error:
            left = {scan_id: end for scan_id, end in self.ends.items() if end not in ("complete", "deleted")}
            raise AssertionError(f"{error}: {left}") from error

    async def _end_of(self, scan_id: str) -> str:
        kinds: list[str] = []
        for _ in range(10):
            events = await self.system.events(scan_id)
            kinds = [event["type"] for event in events]
            following = next((event["data"]["by_scan_id"] for event in events if event["type"] == "scan.replaced"), None)
            if scan_id in self.deleted and "scan.deleted" in kinds:
                return "deleted"
            if any(event["type"] == "scan.result-received" and event["data"]["is_final"] for event in events):
                return "complete"
            if following is None:
                break
            scan_id = following
        return f"{scan_id}: {', '.join(kinds)}"

    async def judge(self) -> None:
        """Nothing lost (seen before), nothing double, nothing left over."""
        assert len(self.scans) == SCANS
        assert sum(self.kills.values()) == KILLS
        doubles = {scan_id: uids for scan_id, uids in self.jobs.items() if len(uids) > 1}
        assert not doubles, f"more than one Job: {doubles}"
        made = Counter(
            call.name for call in self.plane.calls(self.system.namespace)
            if (call.verb, call.resource, call.status) == ("create", "jobs", 201)
        )  # fmt: skip
        assert not [name for name, times in made.items() if times > 1], "a Job was made twice"

        async def nothing_left_over() -> bool:
            self.orphans = await self._orphans()
            return not self.orphans

        try:
            await eventually(nothing_left_over, "nothing is left over", limit_s=90, every_s=1.0)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.orphans}") from error
        print(f"{len(self.scans)} scans, {len(self.pods)} pods, {len(self.deleted)} deleted, {len(self.taken)} taken away")

    async def _orphans(self) -> list[str]:
        """Jobs that are neither finished nor those of a living scan, and Secrets without a Job."""
        api, namespace = self.system.api, self.system.namespace
        jobs = {job["metadata"]["uid"]: job for job in await api.list("Job", namespace)}
        found = []
        for job in jobs.values():
            conditions = job["status"].get("conditions", [])
            if not any(each["type"] == "Complete" and each["status"] == "True" for each in conditions):
                found.append(f"Job {job['metadata']['name']} {[each['type'] for each in conditions]}")
        for secret in await api.list("Secret", namespace, SCAN_ID_LABEL):
            if not any(owner["uid"] in jobs for owner in secret["metadata"].get("ownerReferences", ())):
                found.append(f"Secret {secret['metadata']['name']}")
        return found
