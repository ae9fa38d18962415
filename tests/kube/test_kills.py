"""Scans by the hundred while the API server and the dispatchers are killed at random: in the end nothing is lost, nothing ran
twice, and nothing is left over.

The plan follows from a seed, which is printed; ``SKYDRIVER_TEST_SEED`` repeats one (timing is the machine's).
``SKYDRIVER_TEST_SCANS`` and ``SKYDRIVER_TEST_KILLS`` give another size (``make kube-chaos``: this fight alone).
"""

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from skydriver_common.model.ids import ScanId
from tests.support.kube.api import Api, ApiError, eventually
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.installation import SCAN_ID_LABEL, Installation, request
from tests.support.waiting import pause

SCANS = int(os.environ.get("SKYDRIVER_TEST_SCANS") or 200)
KILLS = int(os.environ.get("SKYDRIVER_TEST_KILLS") or 20)
DELETED, TAKEN = 0.1, 0.1
"""Shares of scans that are deleted at some moment, and whose scanner server is killed once."""
LIMIT_S = 510.0
NUDGE_AFTER_S = 3.0
"""A pod whose change was confirmed and has not come about by then is touched again: KWOK may miss one around a kill; a kubelet does not."""


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
    run = _Run(system, control_plane, seed)
    try:
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            players = [group.create_task(run.play_scanner_servers()), group.create_task(run.count_pods())]
            work = [group.create_task(run.submit_all()), group.create_task(run.kill_now_and_then())]
            await asyncio.gather(*work)
            await run.until_all_have_ended()
            # the players play on: the last pods have sent their results, and not ended yet
            await run.judge()
            for player in players:
                player.cancel()
    finally:
        await system.stop()


class _Run:
    def __init__(self, system: Installation, plane: ControlPlane, seed: int) -> None:
        self.system = system
        self.plane = plane
        # dice for each: who throws first depends on the machine
        self.dice, self.killers_dice, self.scanners_dice = (
            random.Random(f"{seed} {whose}") for whose in ("requests", "kills", "scanners")
        )
        self.scans: list[str] = []
        self.deleted: set[str] = set()
        self.taken: set[str] = set()
        self.jobs: dict[str, set[str]] = {}
        self.pods_of: dict[str, set[str]] = {}
        self.pods: set[str] = set()
        self.fates: dict[str, dict[str, str]] = {}
        self.sent: set[str] = set()
        self.nudges: dict[str, float] = {}
        self.nudged = 0
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
            await pause(self.dice.uniform(0, 0.3))
        await asyncio.gather(*deletions)

    async def _submit_once(self, key: str) -> str:
        # a key per scan: a request whose answer got lost is repeated, not doubled
        status, answer = await self.system.call("POST", "/scan", body=request(), headers={"Idempotency-Key": key})
        if status != 200:
            raise OSError(f"POST /scan: {status} {answer}")
        return str(answer["scan_id"])

    async def _delete(self, scan_id: ScanId, after_s: float) -> None:
        await pause(after_s)
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
                await pause(0.5)
        return await question(*arguments)

    async def kill_now_and_then(self) -> None:
        """Kill the API server or a dispatcher, and start it again a little later."""
        victims = ["kube-apiserver", "dispatcher-0", "dispatcher-1"]
        for number in range(KILLS):
            if number % len(victims) == 0:  # each in turn, in an order of its own in each round
                self.killers_dice.shuffle(victims)
            await pause(self.killers_dice.uniform(0.5, 4))
            victim = victims[number % len(victims)]
            self.kills[victim] += 1
            pause_s = self.killers_dice.uniform(0, 2)
            if victim == "kube-apiserver":
                await self.plane.kill_api_server()
                await pause(pause_s)
                await self.plane.start_api_server()
            else:
                await self.system.kill(victim)
                await pause(pause_s)
                await self.system.start_service(victim)
                await self.system.until_ready(victim)
        print(f"killed: {dict(self.kills)}")

    async def play_scanner_servers(self) -> None:
        """Each running pod sends its final result and ends well, or is killed; what of it an API server did not confirm is repeated."""
        while True:
            for pod in await self._pods():
                try:
                    await self._play(pod)
                except (aiohttp.ClientError, OSError, TimeoutError, AssertionError):
                    continue  # the API server is away, or the scan was just deleted: its pod is gone at the next look
            await pause(0.2)

    async def _play(self, pod: dict[str, Any]) -> None:
        meta, phase = pod["metadata"], pod["status"].get("phase")
        uid, scan_id, is_going = meta["uid"], meta["labels"][SCAN_ID_LABEL], "deletionTimestamp" in meta
        is_starting = phase == "Pending" and "nodeName" in pod["spec"]
        if not (is_going or is_starting or phase == "Running"):
            return
        is_kwoks = is_going or is_starting
        due_at = self.nudges.setdefault(f"{uid} {phase} {is_going}", time.monotonic() + NUDGE_AFTER_S if is_kwoks else 0.0)
        if time.monotonic() < due_at:
            return
        change = {"tests/nudge": str(due_at)} if due_at else {}
        if not is_kwoks:
            if uid not in self.fates:  # decided once: a scanner server that has sent its result is not killed after it
                is_taken = scan_id in self.scans and self.scanners_dice.random() < TAKEN
                self.fates[uid] = (
                    {"tests/exit-code": "137", "tests/exit-reason": "OOMKilled"} if is_taken else {"tests/exit-code": "0"}
                )
            if self.fates[uid]["tests/exit-code"] == "0" and uid not in self.sent:
                await self.system.put_final_result(scan_id)
                self.sent.add(uid)
            elif self.fates[uid]["tests/exit-code"] != "0":
                self.taken.add(scan_id)
            change |= self.fates[uid]
        await self.system.api.patch("Pod", self.system.namespace, meta["name"], {"metadata": {"annotations": change}})
        self.nudged += bool(due_at)
        self.nudges[f"{uid} {phase} {is_going}"] = time.monotonic() + NUDGE_AFTER_S

    async def count_pods(self) -> None:
        """Every pod that ever was; by scan, the Jobs that made them.

        A Job may make two pods when the API server dies between pod and answer, and deletes one of them; that is Kubernetes' own.
        """
        while True:
            for pod in await self._pods():
                self.pods.add(pod["metadata"]["uid"])
                made_by = {owner["uid"] for owner in pod["metadata"].get("ownerReferences", ())}
                scan_id = pod["metadata"]["labels"][SCAN_ID_LABEL]
                self.jobs.setdefault(scan_id, set()).update(made_by)
                self.pods_of.setdefault(scan_id, set()).add(pod["metadata"]["uid"])
            await pause(0.1)

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
                    self.ends[scan_id] = await self._end_of(ScanId(scan_id))
            return all(end in ("complete", "deleted") for end in self.ends.values())

        try:
            await eventually(none_left, "all scans have ended", limit_s=180, every_s=1.0)
        except AssertionError as error:
            left = {scan_id: end for scan_id, end in self.ends.items() if end not in ("complete", "deleted")}
            raise AssertionError(f"{error}: {left}") from error

    async def _end_of(self, scan_id: ScanId) -> str:
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
            told = [await self._story(what, ScanId(scan_id)) for what, scan_id in self.orphans]
            raise AssertionError("\n".join([str(error), *told])) from error
        print(
            f"{len(self.scans)} scans, {len(self.pods)} pods, {len(self.deleted)} deleted, {len(self.taken)} taken away; "
            f"{self.nudged} changes repeated for KWOK, {sum(len(uids) > 1 for uids in self.pods_of.values())} Jobs with two pods"
        )

    async def _orphans(self) -> list[tuple[str, str]]:
        """Jobs that run, or whose scan is deleted or was replaced, and Secrets without a Job; each with its scan.

        A finished Job of a scan that has ended stays for a while to be looked at.
        """
        api, namespace = self.system.api, self.system.namespace
        jobs = {job["metadata"]["uid"]: job for job in await api.list("Job", namespace)}
        found = []
        for job in jobs.values():
            scan_id = job["metadata"]["labels"][SCAN_ID_LABEL]
            true = {each["type"] for each in job["status"].get("conditions", []) if each["status"] == "True"}
            if not true & {"Complete", "Failed"}:
                found.append(("a Job without an end", scan_id))
            elif "Complete" not in true and not await self._is_over(scan_id):
                found.append(("a failed Job of a scan that goes on, or whose Job had to be deleted", scan_id))
        for secret in await api.list("Secret", namespace, SCAN_ID_LABEL):
            if not any(owner["uid"] in jobs for owner in secret["metadata"].get("ownerReferences", ())):
                found.append(("a Secret without its Job", secret["metadata"]["labels"][SCAN_ID_LABEL]))
        return found

    async def _is_over(self, scan_id: ScanId) -> bool:
        events = await self.system.events(scan_id)
        kinds = {event["type"] for event in events}
        has_result = any(event["type"] == "scan.result-received" and event["data"]["is_final"] for event in events)
        return "scan.deleted" not in kinds and (has_result or "scan.scanner-failed" in kinds)

    async def _story(self, what: str, scan_id: ScanId) -> str:
        """All that is known of a scan of which something is left."""
        lines = [f"{what}: {scan_id}{' (deleted by us)' if scan_id in self.deleted else ''}"]
        _, manifest = await self.system.call("GET", f"/scan/{scan_id}/manifest?include_deleted=true&no_redirect=true")
        lines.append(f"  manifest: { {key: manifest.get(key) for key in ('is_deleted', 'progress', 'replaced_by_scan_id')} }")
        _, status = await self.system.call("GET", f"/scan/{scan_id}/status?no_redirect=true")
        lines.append(f"  status: {str(status)[:600]}")
        for event in await self.system.events(scan_id):
            lines.append(f"  {event['recorded_at']} {event['type']} {str(event['data'])[:160]}")
        for kind in ("Job", "Pod", "Secret"):
            for each in await self.system.api.list(kind, self.system.namespace, f"{SCAN_ID_LABEL}={scan_id}"):
                meta, state = each["metadata"], each.get("status", {})
                known = {key: meta.get(key) for key in ("creationTimestamp", "deletionTimestamp", "finalizers", "annotations")}
                owners = [owner["uid"] for owner in meta.get("ownerReferences", ())]
                conditions = [(each["type"], each["status"], each.get("reason")) for each in state.get("conditions", [])]
                counts = {key: state.get(key) for key in ("phase", "active", "succeeded", "failed", "uncountedTerminatedPods")}
                lines.append(f"  {kind} {meta['name']} {meta['uid']} of {owners}: {known} {counts} {conditions}")
        for replica in ("dispatcher-0", "dispatcher-1"):
            lines += [f"  {replica}: {line[:300]}" for line in self.system.log(replica).splitlines() if scan_id in line][-8:]
        return "\n".join(lines)
