"""The sandbox's processes for tests, and a SkyDriver small enough to read: what a scan needs and nothing more."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.waiting import until

CLIENT_ID = "skydriver"
CLIENT_SECRET = "a client secret"
S3_KEY_ID = "a key id"
S3_SECRET = "an s3 secret"
ADMIN_TOKEN = "an admin token"
SCAN_ID = "18e0f1a2b3cx4f5e6d7c8b9a0d1e2f3a"


def presigned(base: str, method: str, key: str, *, bucket: str = "scans", expires_s: int = 600) -> str:
    """An address signed by botocore, so that the stand-in's check is not judged by itself."""
    request = AWSRequest(method=method, url=f"{base}/{bucket}/{quote(key)}")
    S3SigV4QueryAuth(Credentials(S3_KEY_ID, S3_SECRET), "s3", "us-east-1", expires=expires_s).add_auth(request)
    return str(request.url)


@dataclass
class Ewms:
    """A running stand-in and a client with role user."""

    url: str
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process
    data_dir: Path
    token: str = ""

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        async with self.session.request(method, self.url + path, json=body, headers=headers, **more) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    async def login(self) -> None:
        async with self.session.get(f"{self.url}/.well-known/openid-configuration") as answer:
            endpoint = (await answer.json())["token_endpoint"]
        form = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": "offline_access",
        }
        async with self.session.post(endpoint, data=form) as answer:
            assert answer.status == 200
            self.token = (await answer.json())["access_token"]

    async def faults(self, **faults: Any) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with self.session.post(f"{self.url}/sandbox/faults", json=faults, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def taskforces(self, workflow_id: str) -> list[dict[str, Any]]:
        status, answer = await self.call("POST", "/v1/query/taskforces", {"query": {"workflow_id": workflow_id}})
        assert status == 200
        return list(answer["taskforces"])

    async def n_running(self, workflow_id: str) -> int:
        return sum(
            count
            for taskforce in await self.taskforces(workflow_id)
            for pilot, count in taskforce["compound_statuses"].get("RUNNING", {}).items()
            if pilot not in {"FatalError", "Done"}
        )

    async def profiles(self, workflow_id: str) -> list[dict[str, Any]]:
        status, answer = await self.call("GET", f"/v1/mqs/workflows/{workflow_id}/mq-profiles/public")
        assert status == 200
        return list(answer["mqprofiles"])

    async def active_profiles(self, workflow_id: str) -> list[dict[str, Any]]:
        async def look() -> list[dict[str, Any]]:
            found = await self.profiles(workflow_id)
            return found if all(profile["is_activated"] for profile in found) else []

        return list(await until(look))


@contextlib.asynccontextmanager
async def running_ewms(
    data_dir: Path, amqp_url: str, *, workers: int = 2, port: int = 0, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Ewms]:
    """The stand-in as a process of its own; ended with SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skydriver_sandbox.ewms", "--port", str(port), "--data-dir", str(data_dir),
        "--max-local-workers", str(workers),
        env={
            **os.environ, "SANDBOX_AMQP_URL": amqp_url, "SANDBOX_CLIENT_SECRET": CLIENT_SECRET, "SANDBOX_S3_KEY_ID": S3_KEY_ID,
            "SANDBOX_S3_SECRET": S3_SECRET, "SANDBOX_ADMIN_TOKEN": ADMIN_TOKEN, "SANDBOX_STATUS_INTERVAL_S": "0.2", **(environment or {}),
        },
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    log: list[str] = []
    try:
        assert process.stderr is not None
        url = ""
        async with asyncio.timeout(120):
            while not url:
                line = (await process.stderr.readline()).decode()
                assert line, "".join(log)
                log.append(line)
                if "serving on " in line:
                    url = line.rsplit(" ", 1)[1].strip()
        draining = asyncio.create_task(_drain(process.stderr, log))
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            ewms = Ewms(url, session, process, data_dir)
            await ewms.login()
            yield ewms
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(120):
                await process.wait()
        await draining
    assert process.returncode in {0, -signal.SIGKILL}, "".join(log)
    assert "Traceback" not in "".join(log), "".join(log)


async def _drain(stream: asyncio.StreamReader, log: list[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode())


def workflow_request(startup_url: str, *, n_workers: int = 2, cluster: str = "osg", **pilot: str) -> dict[str, Any]:
    """A valid body of POST /v1/workflows, as SkyDriver sends it."""
    return {
        "public_queue_aliases": ["to-client-queue", "from-client-queue"],
        "tasks": [
            {
                "cluster_locations": [cluster],
                "input_queue_aliases": ["to-client-queue"],
                "output_queue_aliases": ["from-client-queue"],
                "task_image": "skymap_scanner:4.1.2",
                "task_args": "python -m skymap_scanner.client --infile {{INFILE}} --outfile {{OUTFILE}}",
                "task_env": {"SKYDRIVER_SCAN_ID": SCAN_ID},
                "init_image": "skymap_scanner:4.1.2",
                "init_args": f"curl --fail --output {{{{DATA_HUB}}}}/startup.json '{startup_url}'",
                "n_workers": n_workers,
                "pilot_config": {
                    "tag": "latest",
                    "image_source": "auto",
                    "input_files": [],
                    "environment": {"EWMS_PILOT_TIMEOUT_QUEUE_INCOMING": "60", **pilot},
                },
                "worker_config": {
                    "do_transfer_worker_stdouterr": True,
                    "max_worker_runtime": 86400,
                    "n_cores": 1,
                    "priority": 50,
                    "worker_disk": "1GB",
                    "worker_memory": 8_000_000_000,
                    "condor_requirements": "",
                },
            }
        ],
    }


@dataclass
class FakeSkyDriver:
    """Answers a scanner's five calls and keeps what it reports. workforce: asked for `n_running`."""

    event: Any
    workforce: Callable[[], Awaitable[int]]
    url: str = ""
    token: str = "scan token"
    is_deleted: bool = False
    progress: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)
    """Producer and sequence of each report."""
    refuse: dict[str, list[int]] = field(default_factory=dict)
    """`METHOD what` → statuses to answer with before the good one."""

    def _note(self, request: web.Request, what: str) -> None:
        assert request.headers["Authorization"] == f"Bearer {self.token}"
        call = f"{request.method} {what}"
        self.calls.append(call)
        if "X-Scanner-Producer" in request.headers:
            self.places.append((request.headers["X-Scanner-Producer"], request.headers["X-Scanner-Sequence"]))
        if self.refuse.get(call):
            status = self.refuse[call].pop(0)
            raise _refusal(status)

    async def manifest(self, request: web.Request) -> web.Response:
        self._note(request, "manifest")
        if request.method == "PATCH":
            self.progress.append(await request.json())
            return web.json_response({})
        return web.json_response({"scan_id": SCAN_ID, "event_i3live_json_dict": self.event})

    async def result(self, request: web.Request) -> web.Response:
        self._note(request, "result")
        self.results.append(await request.json())
        return web.json_response({})

    async def ewms_workforce(self, request: web.Request) -> web.Response:
        self._note(request, "workforce")
        return web.json_response({"n_running": await self.workforce(), "statuses": {}})

    async def status(self, request: web.Request) -> web.Response:
        self._note(request, "status")
        return web.json_response({"is_deleted": self.is_deleted, "ewms_deactivated": None})


def _refusal(status: int) -> web.HTTPException:
    refusal = web.HTTPBadRequest() if status < 500 else web.HTTPServiceUnavailable()
    refusal.set_status(status)
    return refusal


@contextlib.asynccontextmanager
async def serving(skydriver: FakeSkyDriver) -> AsyncIterator[FakeSkyDriver]:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    base = f"/scan/{SCAN_ID}"
    app.add_routes(
        [
            web.get(f"{base}/manifest", skydriver.manifest),
            web.patch(f"{base}/manifest", skydriver.manifest),
            web.put(f"{base}/result", skydriver.result),
            web.get(f"{base}/ewms/workforce", skydriver.ewms_workforce),
            web.get(f"{base}/status", skydriver.status),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    skydriver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield skydriver
    finally:
        await runner.cleanup()


@dataclass
class Scanner:
    """A scanner server in a folder of its own; can be started again there."""

    folder: Path
    address: str
    nsides: list[str] = field(default_factory=lambda: ["8:0", "64:12", "512:24"])
    words: list[str] = field(default_factory=lambda: ["--reco-algo", "millipede_wilks", "--real-event"])
    environment: dict[str, str] = field(default_factory=dict)

    async def start(self) -> asyncio.subprocess.Process:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "scanner.log").open("ab") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "skydriver_sandbox.scanner", *self.words, "--nsides", *self.nsides,
                "--cache-dir", str(self.folder), "--client-startup-json", str(self.folder / "startup.json"),
                stdout=output, stderr=output,
                env={
                    **os.environ, "SKYSCAN_SKYDRIVER_ADDRESS": self.address, "SKYSCAN_SKYDRIVER_AUTH": "scan token",
                    "SKYSCAN_SKYDRIVER_SCAN_ID": SCAN_ID, "SKYSCAN_EWMS_JSON": str(self.folder / "ewms.json"),
                    "SKYSCAN_STARTUP_UPLOAD_JSON": str(self.folder / "startup-upload.json"), **self.environment,
                },
            )  # fmt: skip

    def log(self) -> str:
        return (self.folder / "scanner.log").read_text()


@dataclass
class Bridge:
    """What SkyDriver's bridge does for one scan: workflow, files for the scanner, workforce."""

    ewms: Ewms
    folder: Path
    workflow_id: str = ""
    key: str = field(default_factory=lambda: hashlib.sha256(str(time.time()).encode()).hexdigest())

    async def request(self, **options: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        body = workflow_request(presigned(self.ewms.url, "GET", self.key), **options)
        status, created = await self.ewms.call("POST", "/v1/workflows", body)
        assert status == 200, created
        self.workflow_id = created["workflow"]["workflow_id"]

    async def hand_over(self) -> None:
        upload = {"method": "PUT", "url": presigned(self.ewms.url, "PUT", self.key)}
        (self.folder / "startup-upload.json").write_text(json.dumps(upload))
        by_alias = {profile["alias"]: profile for profile in await self.ewms.active_profiles(self.workflow_id)}
        profiles = {
            ours: {
                "name": by_alias[theirs]["mqid"],
                **{name: by_alias[theirs][name] for name in ("auth_token", "broker_type", "broker_address")},
            }
            for ours, theirs in (("toclient", "to-client-queue"), ("fromclient", "from-client-queue"))
        }
        scratch = self.folder / "ewms.json.part"
        scratch.write_text(json.dumps(profiles))
        scratch.rename(self.folder / "ewms.json")

    async def n_running(self) -> int:
        return await self.ewms.n_running(self.workflow_id) if self.workflow_id else 0
