"""How many pod updates a second the watch of one replica takes: part of ``benchmarks/dispatch.py``."""

import asyncio
import contextlib
import json
import multiprocessing
import time
import uuid
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web
from kubernetes_asyncio.client import ApiClient, Configuration
from rich.table import Table

from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_common.kubernetes import names
from skydriver_dispatcher.adapters.kubernetes.job_informer import JobInformer
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from skydriver_dispatcher.jobspec import JobSettings
from skydriver_dispatcher.pending_events import PendingEvents

NAMESPACE = "bench"


async def measure_watch(table: Table, *, pods: int = 1000, seconds: float = 4.0) -> None:
    """Pod updates a second that one replica reads, understands and puts on its pending, from a server that never waits for it."""
    port = choose(["watch"], {})["watch"]
    server = multiprocessing.get_context("spawn").Process(target=_stream_server, args=(port, pods), daemon=True)
    server.start()
    base = f"http://{LOOPBACK}:{port}"
    async with aiohttp.ClientSession(base) as session:
        for _ in range(100):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get("/ready"):
                    break
            await asyncio.sleep(0.1)
        raw, ends = 0, time.perf_counter() + seconds
        async with session.get(f"/api/v1/namespaces/{NAMESPACE}/pods", params={"watch": "true"}) as stream:
            rest = b""
            async for chunk in stream.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    orjson.loads(line)
                raw += len(lines)
                if time.perf_counter() > ends:
                    break
    configuration = Configuration()
    configuration.host = base
    async with ApiClient(configuration) as client:
        settings = JobSettings(namespace=NAMESPACE, instance="tests", upload_image="skydriver")
        leadership = Leadership(client, namespace=NAMESPACE, name="bench", holder="bench")
        pending, stopping, seen = PendingEvents(), asyncio.Event(), 0
        watch = JobInformer(client, settings, leadership, pending, on_listed=lambda: None)
        see = watch._see

        def count(kind: str, change: str, item: dict[str, object]) -> None:
            nonlocal seen
            seen += 1
            see(kind, change, item)

        watch._see = count  # type: ignore[method-assign]
        running = asyncio.create_task(watch.run(stopping))
        while not seen:
            await asyncio.sleep(0.01)
        began, first, news = time.perf_counter(), seen, 0
        while time.perf_counter() - began < seconds:
            while pending.take() is not None:
                news += 1
            await asyncio.sleep(0.01)
        rate = (seen - first) / (time.perf_counter() - began)
        stopping.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    server.terminate()
    server.join(5)
    bound = raw / seconds
    table.add_row("lines of a watch read as JSON, nothing more", f"{bound:.0f}/s", "")
    table.add_row("pod updates watched by one replica", f"{rate:.0f}/s, {rate / bound:.0%} of reading", ">= 1000/s")


def _stream_server(port: int, pods: int) -> None:
    """As much of an API server as a watch needs; its pods change for ever, as fast as they are read."""
    lease: dict[str, Any] = {}

    async def serve() -> None:
        lines = [
            json.dumps({"type": "MODIFIED", "object": _pod(number, stage)}).encode() + b"\n"
            for stage in ("pending", "scheduled", "running")
            for number in range(pods)
        ]

        async def objects(asked: web.Request) -> web.StreamResponse:
            if "watch" not in asked.query:
                return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
            response = web.StreamResponse()
            await response.prepare(asked)
            if not asked.path.endswith("pods"):
                await asyncio.Event().wait()
            with contextlib.suppress(ConnectionError):
                while True:
                    for start in range(0, len(lines), 20):
                        await response.write(b"".join(lines[start : start + 20]))
            return response

        async def leases(asked: web.Request) -> web.Response:
            if asked.method == "GET" and not lease:
                return web.json_response({"kind": "Status", "reason": "NotFound", "code": 404}, status=404)
            if asked.method != "GET":
                lease.update(await asked.json())
                lease["metadata"]["resourceVersion"] = uuid.uuid4().hex
            return web.json_response(lease)

        app = web.Application()
        app.router.add_get("/ready", lambda _: _answer())
        app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/pods", objects)
        app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/events", objects)
        app.router.add_get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", objects)
        app.router.add_route("*", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases{{rest:.*}}", leases)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        await asyncio.Event().wait()

    uvloop.run(serve())


async def _answer() -> web.Response:
    return web.Response()


def _pod(number: int, stage: str) -> dict[str, Any]:
    """About 6 kB, as a scanner server's pod is with what the API server adds."""
    scan_id = f"{number:024x}"
    labels = {
        names.SCAN_ID_LABEL: scan_id, names.INSTANCE_LABEL: "tests", names.MANAGED_BY_LABEL: names.MANAGED_BY, "app": names.APP,
    }  # fmt: skip
    state = (
        {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        if stage == "running"
        else {"waiting": {"reason": "ContainerCreating"}}
    )
    statuses = [] if stage == "pending" else [{"name": names.scanner_container(scan_id), "state": state}]
    conditions = [{"type": "PodScheduled", "status": "False" if stage == "pending" else "True"}]
    return {
        "metadata": {
            "name": f"skyscan-{scan_id}-abcde", "uid": f"pod-{number}", "resourceVersion": str(number), "labels": labels,
            "ownerReferences": [{"kind": "Job", "uid": f"job-{number}", "name": names.job_name(scan_id)}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {f"f:field-{n}": {"f:inner": {}} for n in range(60)}}],
        },
        "spec": {"containers": [{"name": "c", "env": [{"name": f"NAME_{n}", "value": "x" * 40} for n in range(30)]}]},
        "status": {"phase": "Running" if stage == "running" else "Pending", "containerStatuses": statuses, "conditions": conditions},
    }  # fmt: skip
